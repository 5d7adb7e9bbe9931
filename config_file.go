package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"attendant/imagebuilder"
)

// configFile is a configuration file's content with the lines of its keys.
type configFile struct {
	name   string
	values map[string]any
	lines  map[string]int // "listen", "branch.0.name"
	order  []string       // top-level keys as they come
}

func (f *configFile) origin(key string) Origin {
	return Origin{Kind: FromFile, Name: f.name, Line: f.lines[key]}
}

// parseConfigFile reads TOML. The error is a configErrors: the file breaks the
// rules of TOML.
func parseConfigFile(name string, data []byte) (*configFile, error) {
	f := &configFile{name: name, values: map[string]any{}, lines: map[string]int{}}
	if err := toml.Unmarshal(data, &f.values); err != nil {
		e := configError{Origin: Origin{Kind: FromFile, Name: name}, Message: fmt.Sprintf("the file is no TOML: %v.", err)}
		var where *toml.DecodeError
		if errors.As(err, &where) {
			e.Origin.Line, _ = where.Position()
			e.Message = fmt.Sprintf("the file is no TOML here: %s.", strings.TrimPrefix(where.Error(), "toml: "))
		}
		return nil, configErrors{e}
	}
	var p unstable.Parser
	p.Reset(data)
	table := ""
	entries := map[string]int{} // how many an array of tables has had so far
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.KeyValue:
			f.noteKeyValue(&p, table, e)
		case unstable.Table, unstable.ArrayTable:
			path, line := headerPath(&p, e, entries)
			f.noteOrder(path)
			if e.Kind == unstable.ArrayTable {
				f.noteLine(path, line)
				n := entries[path]
				entries[path]++
				path += "." + strconv.Itoa(n)
			}
			f.noteLine(path, line)
			table = path
		}
	}
	return f, nil
}

// noteLine remembers the first line of a key and of the tables that it is in.
func (f *configFile) noteLine(path string, line int) {
	for i := range len(path) + 1 {
		if i == len(path) || path[i] == '.' {
			if f.lines[path[:i]] == 0 {
				f.lines[path[:i]] = line
			}
		}
	}
}

func (f *configFile) noteOrder(path string) {
	top, _, _ := strings.Cut(path, ".")
	if !slices.Contains(f.order, top) {
		f.order = append(f.order, top)
	}
}

func (f *configFile) noteKeyValue(p *unstable.Parser, table string, e *unstable.Node) {
	path, line := keyPath(p, table, e)
	f.noteOrder(path)
	f.noteLine(path, line)
	f.noteValue(p, path, e.Value(), line)
}

// noteValue notes the keys inside inline tables.
func (f *configFile) noteValue(p *unstable.Parser, path string, value *unstable.Node, line int) {
	switch value.Kind {
	case unstable.InlineTable:
		f.noteLine(path, line)
		for it := value.Children(); it.Next(); {
			f.noteKeyValue(p, path, it.Node())
		}
	case unstable.Array:
		i := 0
		for it := value.Children(); it.Next(); i++ {
			f.noteValue(p, path+"."+strconv.Itoa(i), it.Node(), line)
		}
	}
}

// headerPath returns the path of a table's header. Below an array of tables it
// leads through the last entry.
func headerPath(p *unstable.Parser, e *unstable.Node, entries map[string]int) (path string, line int) {
	for it := e.Key(); it.Next(); {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		if n := entries[path]; n > 0 {
			path += "." + strconv.Itoa(n-1)
		}
		if path != "" {
			path += "."
		}
		path += string(it.Node().Data)
	}
	return path, line
}

func keyPath(p *unstable.Parser, table string, e *unstable.Node) (path string, line int) {
	parts := []string{}
	if table != "" {
		parts = append(parts, table)
	}
	for it := e.Key(); it.Next(); {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), line
}

// The tables of the file that have no flag and no variable.
const (
	tableBranch       = "branch"
	tableImageBuilder = "imagebuilder"
)

// takeFile takes a file's values into the configuration.
func (l *configLoader) takeFile(f *configFile) {
	tables := map[string]func(*tableReader){
		tableBranch:       func(t *tableReader) { l.takeBranchInto(t, &l.config.Branches) },
		tableImageBuilder: l.takeImageBuilder,
		tableDistribution: l.takeDistribution,
		tablePolicy:       l.takePolicy,
	}
	known := slices.Sorted(maps.Keys(tables))
	for i := range settings {
		known = append(known, settings[i].key)
	}
	for _, key := range f.order {
		value, o := f.values[key], f.origin(key)
		if take := tables[key]; take != nil {
			l.takeTables(f, key, value, take)
			l.config.origins[key] = o
			continue
		}
		s := findSetting(key)
		if s == nil {
			what := "key"
			if _, table := value.(map[string]any); table {
				what = "section"
			}
			l.errorf(o, key, "there is no such %s.%s", what, suggestion(strings.ReplaceAll(key, "-", "_"), known))
			continue
		}
		text, err := textOf(s.kind, value)
		if err != nil {
			l.refuse(s, o, err)
			continue
		}
		l.setText(key, text, o)
	}
}

// textOf brings a TOML value into text form, if it is of the right kind.
func textOf(kind valueKind, value any) (string, error) {
	switch v := value.(type) {
	case string:
		if kind == textValue || kind == numberValue {
			return v, nil
		}
		if kind == listValue {
			return "", errors.New("it is a single text; write a list, as [\"a\", \"b\"]")
		}
	case int64:
		if kind == numberValue {
			return strconv.FormatInt(v, 10), nil
		}
	case bool:
		if kind == switchValue {
			return strconv.FormatBool(v), nil
		}
	case []any:
		if kind != listValue {
			break
		}
		items := make([]string, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return "", fmt.Errorf("entry %d of the list is %s", i+1, describeTOML(item))
			}
			if strings.Contains(text, ",") {
				return "", fmt.Errorf("entry %d of the list holds a comma; make it two entries", i+1)
			}
			items[i] = text
		}
		return strings.Join(items, ","), nil
	}
	return "", fmt.Errorf("it is %s", describeTOML(value))
}

func describeTOML(value any) string {
	switch value.(type) {
	case string:
		return "a text in quotes"
	case int64:
		return "a number; write it in quotes, with its unit"
	case float64:
		return "a number with a fraction; write it in quotes"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// tableReader takes one table apart and remembers which keys it was asked for.
type tableReader struct {
	l      *configLoader
	f      *configFile
	path   string // "branch.0"
	values map[string]any
	known  []string
}

func (l *configLoader) takeTables(f *configFile, key string, value any, take func(*tableReader)) {
	list, ok := value.([]any)
	if !ok {
		l.errorf(f.origin(key), key, "it is %s. Write it as [[%s]], once for each.", describeTOML(value), key)
		return
	}
	for i, entry := range list {
		path := key + "." + strconv.Itoa(i)
		values, ok := entry.(map[string]any)
		if !ok {
			l.errorf(f.origin(key), key, "entry %d is %s. Write it as [[%s]].", i+1, describeTOML(entry), key)
			continue
		}
		t := &tableReader{l: l, f: f, path: path, values: values}
		take(t)
		t.refuseRest()
	}
}

func (t *tableReader) errorf(key, format string, args ...any) {
	path := t.path
	if key != "" {
		path += "." + key
	}
	o := t.f.origin(path)
	if o.Line == 0 {
		o = t.f.origin(t.path)
	}
	table, _, _ := strings.Cut(t.path, ".")
	name := "[[" + table + "]]"
	if key != "" {
		name += " " + key
	}
	t.l.errorf(o, name, format, args...)
}

// text reads a text; required ones must be there. valid and allowed belong
// together.
func (t *tableReader) text(key string, required bool, valid func(string) bool, allowed string) string {
	t.known = append(t.known, key)
	value, there := t.values[key]
	if !there {
		if required {
			t.errorf("", "%s is missing. It is %s.", key, allowed)
		}
		return ""
	}
	text, ok := value.(string)
	if !ok {
		t.errorf(key, "it is %s. Allowed is %s.", describeTOML(value), allowed)
		return ""
	}
	if !valid(text) {
		t.errorf(key, "%.100q is not possible. Allowed is %s.", text, allowed)
		return ""
	}
	return text
}

// list reads a list of texts.
func (t *tableReader) list(key string, valid func(string) bool, allowed string) []string {
	t.known = append(t.known, key)
	value, there := t.values[key]
	if !there {
		return nil
	}
	entries, ok := value.([]any)
	if !ok {
		t.errorf(key, "it is %s. Allowed is a list: %s.", describeTOML(value), allowed)
		return nil
	}
	var texts []string
	for i, entry := range entries {
		text, ok := entry.(string)
		if !ok || !valid(text) {
			t.errorf(key, "entry %d is not possible. Allowed is a list: %s.", i+1, allowed)
			continue
		}
		texts = append(texts, text)
	}
	return texts
}

func (t *tableReader) flag(key string) *bool {
	t.known = append(t.known, key)
	value, there := t.values[key]
	if !there {
		return nil
	}
	b, ok := value.(bool)
	if !ok {
		t.errorf(key, "it is %s. Allowed is true or false.", describeTOML(value))
		return nil
	}
	return &b
}

func (t *tableReader) number(key string) *int {
	t.known = append(t.known, key)
	value, there := t.values[key]
	if !there {
		return nil
	}
	n, ok := value.(int64)
	if !ok || n < 0 || n > 1<<30 {
		t.errorf(key, "it is not possible. Allowed is a whole number from 0.")
		return nil
	}
	i := int(n)
	return &i
}

func (t *tableReader) refuseRest() {
	var unknown []string
	for key := range t.values {
		if !slices.Contains(t.known, key) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		t.errorf(key, "there is no such key.%s", suggestion(key, t.known))
	}
}

func (l *configLoader) takeBranchInto(t *tableReader, branches *[]Branch) {
	b := Branch{
		Name:         t.text("name", true, imagebuilder.ValidVersion, `a branch's name, as "24.10" or "SNAPSHOT"`),
		Enabled:      t.flag("enabled"),
		Snapshot:     t.flag("snapshot"),
		Path:         t.text("path", false, validBranchPath, `a path below the upstream, as "releases/{version}" or "snapshots"`),
		BranchOffRev: t.number("branch_off_rev"),
		Versions:     t.list("versions", imagebuilder.ValidVersion, `releases, as "24.10.4"`),
	}
	t.known = append(t.known, "package_changes")
	if changes, there := t.values["package_changes"]; there {
		l.takeTables(t.f, t.path+".package_changes", changes, func(t *tableReader) {
			valid := `a package's name, as "luci"`
			change := imagebuilder.PackageChange{
				Source: t.text("source", false, imagebuilder.ValidPackageName, valid),
				Target: t.text("target", false, imagebuilder.ValidPackageName, valid),
			}
			if n := t.number("revision"); n != nil {
				change.Revision = *n
			}
			if m := t.flag("mandatory"); m != nil {
				change.Mandatory = *m
			}
			if change.Source == "" && change.Target == "" {
				t.errorf("", "a package change needs a source or a target.")
			}
			b.PackageChanges = append(b.PackageChanges, change)
		})
	}
	if b.Name == "" {
		return
	}
	for _, other := range *branches {
		if other.Name == b.Name {
			t.errorf("name", "the branch %q is there twice.", b.Name)
			return
		}
	}
	*branches = append(*branches, b)
}

func validBranchPath(s string) bool {
	if s == "" || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") {
		return false
	}
	for part := range strings.SplitSeq(strings.ReplaceAll(s, "{version}", "v"), "/") {
		if !imagebuilder.ValidVersion(part) {
			return false
		}
	}
	return true
}

func (l *configLoader) takeImageBuilder(t *tableReader) {
	b := ImageBuilder{
		Version: t.text("version", true, imagebuilder.ValidVersion, `a release's name, as "24.10.4"`),
		Target:  t.text("target", true, imagebuilder.ValidTarget, `a target with its subtarget, as "ath79/generic"`),
		Path: t.text("path", true, func(s string) bool {
			return strings.HasSuffix(s, ".tar.zst") || strings.HasSuffix(s, ".tar.xz")
		}, "the path of an ImageBuilder's archive, .tar.zst or .tar.xz"),
	}
	if b.Version == "" || b.Target == "" || b.Path == "" {
		return
	}
	for _, other := range l.config.ImageBuilders {
		if other.Version == b.Version && other.Target == b.Target {
			t.errorf("", "there is another one for %s %s.", b.Version, b.Target)
			return
		}
	}
	l.config.ImageBuilders = append(l.config.ImageBuilders, b)
}

// suggestion returns a sentence that names the nearest of the known names, or
// nothing if none is near.
func suggestion(name string, known []string) string {
	best, bestDistance := "", max(2, len(name)/4)+1
	for _, k := range known {
		if d := editDistance(name, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}

// editDistance counts the insertions, deletions and substitutions that turn a
// into b.
func editDistance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

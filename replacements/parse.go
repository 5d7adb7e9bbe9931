package replacements

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"attendant/imagebuilder"
)

// Bounds of a table's file.
const (
	maxFileSize   = 1 << 20 // bytes
	maxLineLength = 4096    // bytes
	maxDepth      = 32      // of "[" and "{" in one another
)

// Problem is something wrong in a table.
type Problem struct {
	File    string
	Line    int    // from 1; 0 when it is about the whole file
	Text    string // the line
	Message string // a sentence
}

// String is "file:line: sentence", and the line below it.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	s += ": " + printable(p.Message)
	if text := strings.TrimSpace(p.Text); text != "" {
		s += "\n    " + printable(text)
	}
	return s
}

// printable keeps what a file holds from driving a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// file reads one table.
type file struct {
	name     string
	release  string
	lines    []string
	problems []Problem

	branchOff int
	rules     []*rule
}

func (f *file) complain(line int, format string, args ...any) {
	f.problems = append(f.problems, Problem{File: f.name, Line: line, Text: f.text(line), Message: fmt.Sprintf(format, args...)})
}

func (f *file) text(line int) string {
	if line < 1 || line > len(f.lines) {
		return ""
	}
	return f.lines[line-1]
}

// parse reads a table's text. What is wrong with it is in problems; the rules
// of a file that has any are of no use.
func parse(name, release string, text []byte) *file {
	f := &file{name: name, release: release}
	if len(text) > maxFileSize {
		f.complain(0, "The file has %d bytes; at most %d are read.", len(text), maxFileSize)
		return f
	}
	f.lines = strings.Split(string(text), "\n")
	if !f.bounded() {
		return f
	}
	tree, err := readYAML(text)
	if err != nil {
		line, message := 0, err.Error()
		var told yaml.Error
		if errors.As(err, &told) {
			message = told.GetMessage()
			if t := told.GetToken(); t != nil && t.Position != nil {
				line = t.Position.Line
			}
		}
		f.complain(line, "The YAML is wrong: %s.", strings.TrimSuffix(message, "."))
		return f
	}
	for i, doc := range tree.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			f.complain(lineOf(doc.Body), "The file holds a second document; a table is one.")
			break
		}
		if doc.Body.Type() == ast.CommentType {
			continue
		}
		f.readTable(doc.Body)
	}
	return f
}

// bounded keeps the parser, which goes down the tree by calling itself, from
// going down without end.
func (f *file) bounded() bool {
	depth := 0
	for i, line := range f.lines {
		if len(line) > maxLineLength {
			f.complain(i+1, "The line has %d bytes; at most %d are read.", len(line), maxLineLength)
			f.problems[len(f.problems)-1].Text = ""
			return false
		}
		if strings.Count(line, "- -") > maxDepth || len(line)-len(strings.TrimLeft(line, " \t")) > 4*maxDepth {
			f.complain(i+1, "Lists or mappings lie too deep in one another.")
			return false
		}
		for _, c := range []byte(line) {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(depth-1, 0)
			}
			if depth > maxDepth {
				f.complain(i+1, "Lists or mappings lie too deep in one another.")
				return false
			}
		}
	}
	return true
}

// readYAML is the parser, which meets some broken texts with a panic.
func readYAML(text []byte) (tree *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			tree, err = nil, fmt.Errorf("the parser gave up (%v)", r)
		}
	}()
	return parser.ParseBytes(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), 0)
}

func lineOf(n ast.Node) int {
	if n == nil {
		return 0
	}
	switch n := n.(type) {
	case *ast.MappingValueNode:
		return lineOf(n.Key)
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return lineOf(n.Values[0])
		}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// pair is a key of a mapping with its value.
type pair struct {
	key   string
	line  int
	value ast.Node
}

// mapping returns the pairs of a mapping. It refuses what tables have no use
// for: anchors, aliases, merges, tags.
func (f *file) mapping(n ast.Node) (pairs []pair, ok bool) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return nil, false
	}
	seen := make(map[string]int)
	for _, v := range values {
		if v.Key == nil {
			continue
		}
		key, isText := scalar(v.Key)
		if !isText || v.Key.IsMergeKey() {
			f.complain(lineOf(v), "The key is not plain text.")
			continue
		}
		if first, twice := seen[key]; twice {
			f.complain(lineOf(v), "%q stands here for the second time; the first is on line %d.", key, first)
			continue
		}
		seen[key] = lineOf(v)
		pairs = append(pairs, pair{key, lineOf(v), v.Value})
	}
	return pairs, true
}

func isMapping(n ast.Node) bool {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// scalar returns the text of a plain value as it is written: 24.10 is no
// number here.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", false
		}
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return t.Value, true
		}
	}
	return "", false
}

func (f *file) readTable(body ast.Node) {
	entries, ok := f.mapping(body)
	if !ok {
		f.complain(lineOf(body), "A table is a mapping from old packages to what became of them.")
		return
	}
	for _, e := range entries {
		switch {
		case e.key == "add" && !isMapping(e.value):
			f.readAdditions(e)
		case e.key == "branch_off" && !isMapping(e.value):
			f.branchOff = f.number(e)
		case !validPattern(e.key):
			f.complain(e.line, "%q is not a package's name, nor one with one \"*\" in it.", e.key)
		default:
			f.readEntry(e)
		}
	}
}

// readEntry reads what became of one old package: a mapping, or a list of
// them of which the first whose conditions hold counts.
func (f *file) readEntry(e pair) {
	if list, ok := e.value.(*ast.SequenceNode); ok && list.Values != nil {
		for _, alternative := range list.Values {
			f.readRule(e.key, lineOf(alternative), alternative)
		}
		return
	}
	f.readRule(e.key, e.line, e.value)
}

func (f *file) newRule(old string, line int) *rule {
	return &rule{Rule: Rule{Release: f.release, File: f.name, Line: line}, text: f.text(line), old: old}
}

func (f *file) readRule(old string, line int, n ast.Node) {
	pairs, ok := f.mapping(n)
	if !ok {
		f.complain(line, "What became of %s is not told by a mapping. A package that is gone has {}.", old)
		return
	}
	r := f.newRule(old, line)
	for _, p := range pairs {
		if isMapping(p.value) {
			f.readOption(r, p)
			continue
		}
		switch p.key {
		case "all":
			r.all = f.names(p, old)
			if len(r.all) == 0 {
				f.complain(p.line, "all: at least one package is needed.")
			}
		case "mandatory":
			r.mandatory = f.truth(p)
		case "package_changes":
			r.published = f.truth(p)
		case "unconditional":
			r.unconditional = f.truth(p)
		default:
			f.readCommon(r, p, "all, mandatory, package_changes, unconditional")
		}
	}
	if len(r.all) > 0 && len(r.options) > 0 {
		f.complain(line, "%s cannot both become all of some packages and have a choice of others.", old)
	}
	defaults := 0
	for _, o := range r.options {
		if o.byDefault {
			defaults++
		}
	}
	if defaults > 1 {
		f.complain(line, "%s has %d defaults; it can have one.", old, defaults)
	}
	if r.published && r.revision == 0 {
		f.complain(line, "package_changes: clients need the revision at which it happened (revision: 12345).")
	}
	if r.published && (len(r.all) > 0 || strings.Contains(old, "*")) {
		f.complain(line, "package_changes: clients know neither splits nor patterns.")
	}
	f.checkSpan(r)
	f.rules = append(f.rules, r)
}

func (f *file) readOption(r *rule, p pair) {
	if !validPattern(p.key) {
		f.complain(p.line, "%q is not a package's name.", p.key)
		return
	}
	f.checkStar(r.old, p.key, p.line)
	o := option{name: p.key, line: p.line}
	words, _ := f.mapping(p.value)
	for _, w := range words {
		switch {
		case isMapping(w.value):
			f.complain(w.line, "%q: an option has default, installed and comment.", w.key)
		case w.key == "default":
			o.byDefault = f.truth(w)
		case w.key == "installed":
			o.installed = f.names(w, "")
		case w.key == "comment":
			o.comment = f.string(w)
		default:
			f.complain(w.line, "%q is unknown here: an option has default, installed and comment.", w.key)
		}
	}
	if p.key == r.old && len(o.installed) > 0 {
		f.complain(p.line, "%s itself can be the default or a free choice, but not chosen by what is installed.", p.key)
	}
	r.options = append(r.options, o)
}

// checkStar wants a "*" in a new name to have its like in the old one.
func (f *file) checkStar(old, name string, line int) {
	if strings.Contains(name, "*") && !strings.Contains(old, "*") {
		f.complain(line, "The \"*\" of %s stands for what the old name's stood for, and %s has none.", name, old)
	}
}

// readCommon reads the words that entries and additions share.
func (f *file) readCommon(r *rule, p pair, others string) {
	switch p.key {
	case "targets":
		r.targets = f.list(p)
		for _, t := range r.targets {
			if !imagebuilder.ValidTarget(strings.ReplaceAll(t, "*", "x")) || strings.Count(t, "*") > 1 {
				f.complain(p.line, "%q is not a target with its subtarget, as \"ath79/generic\" or \"ath79/*\".", t)
			}
		}
	case "profiles":
		r.profiles = f.list(p)
		for _, t := range r.profiles {
			if !imagebuilder.ValidProfileID(strings.ReplaceAll(t, "*", "x")) || strings.Count(t, "*") > 1 {
				f.complain(p.line, "%q is not a profile's id, as \"tplink_archer-c7-v5\".", t)
			}
		}
	case "from":
		r.from = f.bound(p)
	case "to":
		r.to = f.bound(p)
	case "revision":
		r.revision = f.number(p)
	case "comment":
		r.Comment = f.string(p)
	case "source":
		r.Source = f.string(p)
	default:
		if r.old != "" && imagebuilder.ValidPackageName(p.key) {
			f.complain(p.line, "%q is unknown here. A new package has a mapping, if an empty one: %s: {default: true}. The words are %s, targets, profiles, from, to, revision, comment and source.", p.key, p.key, others)
		} else {
			f.complain(p.line, "%q is unknown here. The words are %s, targets, profiles, from, to, revision, comment and source.", p.key, others)
		}
	}
}

func (f *file) readAdditions(e pair) {
	list, ok := e.value.(*ast.SequenceNode)
	if !ok {
		f.complain(e.line, "add: a list is needed, each item with packages and whom they are for.")
		return
	}
	for _, item := range list.Values {
		line := lineOf(item)
		pairs, ok := f.mapping(item)
		if !ok {
			f.complain(line, "add: each item is a mapping with packages and whom they are for.")
			continue
		}
		r := f.newRule("", line)
		for _, p := range pairs {
			switch {
			case p.key == "packages":
				r.all = f.names(p, "")
			case p.key == "package_changes" && !isMapping(p.value):
				f.complain(p.line, "package_changes: clients know no additions for some devices.")
			default:
				f.readCommon(r, p, "packages")
			}
		}
		if len(r.all) == 0 {
			f.complain(line, "add: packages: at least one package is needed.")
		}
		f.checkSpan(r)
		f.rules = append(f.rules, r)
	}
}

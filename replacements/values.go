package replacements

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"attendant/imagebuilder"
)

// validPattern tells whether s is a package's name with at most one "*".
func validPattern(s string) bool {
	return strings.Count(s, "*") <= 1 && s != "*" && imagebuilder.ValidPackageName(strings.Replace(s, "*", "x", 1))
}

func (f *file) string(p pair) string {
	s, ok := scalar(p.value)
	if !ok {
		f.complain(p.line, "%s: a text is needed.", p.key)
	}
	return printable(strings.Join(strings.Fields(s), " "))
}

func (f *file) truth(p pair) bool {
	if b, ok := p.value.(*ast.BoolNode); ok {
		return b.Value
	}
	f.complain(p.line, "%s: true or false is needed.", p.key)
	return false
}

func (f *file) number(p pair) int {
	s, _ := scalar(p.value)
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n <= 0 {
		f.complain(p.line, "%s: the number of a revision is needed, as 18611.", p.key)
		return 0
	}
	return int(n)
}

func (f *file) list(p pair) []string {
	list, ok := p.value.(*ast.SequenceNode)
	if !ok {
		f.complain(p.line, "%s: a list is needed, as [a, b].", p.key)
		return nil
	}
	var values []string
	for _, n := range list.Values {
		s, ok := scalar(n)
		if !ok {
			f.complain(max(lineOf(n), p.line), "%s: the list holds something that is not plain text.", p.key)
			continue
		}
		if slices.Contains(values, s) {
			f.complain(max(lineOf(n), p.line), "%s: %s is in the list twice.", p.key, s)
			continue
		}
		values = append(values, s)
	}
	return values
}

// names reads a list of packages. Their "*" needs one in the old name.
func (f *file) names(p pair, old string) []string {
	names := f.list(p)
	for _, name := range names {
		if !validPattern(name) {
			f.complain(p.line, "%s: %q is not a package's name.", p.key, name)
			continue
		}
		f.checkStar(old, name, p.line)
	}
	return names
}

// bound reads a version, or a revision as "r18611".
func (f *file) bound(p pair) bound {
	s, ok := scalar(p.value)
	if !ok || !imagebuilder.ValidVersion(s) {
		f.complain(p.line, "%s: a version as 24.10.1 or a revision as r18611 is needed.", p.key)
		return bound{}
	}
	if n := RevisionNumber(s); n > 0 {
		return bound{text: s, revision: n}
	}
	return bound{text: s, version: parseVersion(s)}
}

// checkSpan refuses spans that nothing can lie in.
func (f *file) checkSpan(r *rule) {
	release := parseVersion(f.release)
	if r.from.set() && r.from.revision == 0 && !r.from.version.within(release) {
		f.complain(r.Line, "from: %s is not a version of %s, which this table is about.", r.from.text, f.release)
	}
	if r.to.set() && r.to.revision == 0 && r.to.version.compare(release) < 0 {
		f.complain(r.Line, "to: %s is older than %s, which this table is about.", r.to.text, f.release)
	}
	switch {
	case !r.from.set() || !r.to.set():
	case (r.from.revision == 0) != (r.to.revision == 0):
		f.complain(r.Line, "from and to: one is a version and the other a revision.")
	case r.from.revision > 0 && r.from.revision > r.to.revision,
		r.from.revision == 0 && r.from.version.compare(r.to.version) > 0 && !r.from.version.within(r.to.version):
		f.complain(r.Line, "from: %s is newer than to: %s.", r.from.text, r.to.text)
	}
}

package replacements

import (
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Rule tells where a rule stands and why it exists.
type Rule struct {
	Release string // of the table, as "24.10"
	File    string // as "openwrt/24.10.yaml" for an embedded one, else its path
	Line    int
	Comment string // may be empty
	Source  string // where the change is documented; may be empty in an operator's table
}

// Set is all tables of all distributions. It does not change once loaded.
type Set struct {
	distros map[string][]*table // ordered by release
}

// table is what happened in one release of one distribution.
type table struct {
	release   string
	version   version
	branchOff int // revision at which the release left the main branch; 0 unknown
	exact     map[string][]*rule
	patterns  []*rule // the more literal text, the earlier
	additions []*rule
}

// rule is one entry of a table, or one of an entry's alternatives.
type rule struct {
	Rule
	text     string // the line
	old      string // name or pattern; empty for an addition
	options  []option
	all      []string // split: all of these are needed; of an addition, what it adds
	targets  []string
	profiles []string
	from, to bound
	revision int // of the main branch at which it happened; 0 unknown

	mandatory     bool // the old package must go even where it still exists
	unconditional bool // holds whatever the request comes from
	published     bool // in package_changes
}

// option is one of the packages that can take an old one's place.
type option struct {
	name      string
	line      int
	byDefault bool
	installed []string
	comment   string
}

// bound is one end of a rule's span: a version or a revision.
type bound struct {
	text     string
	version  version
	revision int
}

func (b bound) set() bool { return b.text != "" }

func (r *rule) dropped() bool { return len(r.options) == 0 && len(r.all) == 0 }

// contextual tells whether what is installed decides the rule's outcome.
func (r *rule) contextual() bool {
	return slices.ContainsFunc(r.options, func(o option) bool { return len(o.installed) > 0 })
}

// outputs are the names that a rule can bring about, as written.
func (r *rule) outputs() []string {
	if len(r.options) == 0 {
		return r.all
	}
	names := make([]string, len(r.options))
	for i, o := range r.options {
		names[i] = o.name
	}
	return names
}

// isFor tells whether the rule's conditions on the device hold. A rule for
// certain devices does not hold for one that the request does not name.
func (r *rule) isFor(target, profile string) bool {
	return (len(r.targets) == 0 || matchesAny(r.targets, target)) &&
		(len(r.profiles) == 0 || matchesAny(r.profiles, profile))
}

func matchesAny(patterns []string, name string) bool {
	return name != "" && slices.ContainsFunc(patterns, func(p string) bool {
		_, ok := match(p, name)
		return ok
	})
}

// match tells whether name is what pattern means and returns what its "*",
// which stands for one byte or more, stood for.
func match(pattern, name string) (star string, ok bool) {
	before, after, wild := strings.Cut(pattern, "*")
	if !wild {
		return "", pattern == name
	}
	if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return "", false
	}
	return name[len(before) : len(name)-len(after)], true
}

// canMeet tells whether some name matches both patterns. It may say so of two
// that share none.
func canMeet(a, b string) bool {
	beforeA, afterA, wildA := strings.Cut(a, "*")
	beforeB, afterB, wildB := strings.Cut(b, "*")
	switch {
	case !wildA && !wildB:
		return a == b
	case !wildA:
		_, ok := match(b, a)
		return ok
	case !wildB:
		_, ok := match(a, b)
		return ok
	}
	return (strings.HasPrefix(beforeA, beforeB) || strings.HasPrefix(beforeB, beforeA)) &&
		(strings.HasSuffix(afterA, afterB) || strings.HasSuffix(afterB, afterA))
}

// candidates are the rules for a name, the one to be tried first first.
func (t *table) candidates(name string) []*rule {
	rules := t.exact[name]
	for _, r := range t.patterns {
		if _, ok := match(r.old, name); ok {
			rules = append(slices.Clip(rules), r)
		}
	}
	return rules
}

func (t *table) rules() []*rule {
	var rules []*rule
	for _, alternatives := range t.exact {
		rules = append(rules, alternatives...)
	}
	rules = append(append(rules, t.patterns...), t.additions...)
	slices.SortFunc(rules, func(a, b *rule) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return rules
}

func (t *table) any(f func(*rule) bool) bool {
	for _, alternatives := range t.exact {
		if slices.ContainsFunc(alternatives, f) {
			return true
		}
	}
	return slices.ContainsFunc(t.patterns, f) || slices.ContainsFunc(t.additions, f)
}

// add puts rules in their places, instead of what a table read before says of
// the same old names.
func (t *table) add(rules []*rule) {
	renewed := make(map[string]bool)
	for _, r := range rules {
		if r.old == "" {
			t.additions = append(t.additions, r)
			continue
		}
		if !renewed[r.old] {
			renewed[r.old] = true
			delete(t.exact, r.old)
			t.patterns = slices.DeleteFunc(t.patterns, func(p *rule) bool { return p.old == r.old })
		}
		if strings.Contains(r.old, "*") {
			t.patterns = append(t.patterns, r)
		} else {
			t.exact[r.old] = append(t.exact[r.old], r)
		}
	}
	slices.SortStableFunc(t.patterns, func(a, b *rule) int {
		if c := len(b.old) - len(a.old); c != 0 {
			return c
		}
		return strings.Compare(a.old, b.old)
	})
}

// distroName is the folder of a distribution's tables. LEDE's one release is
// among OpenWrt's, as it became one.
func distroName(distro string) string {
	distro = strings.ToLower(distro)
	if distro == "" || distro == "lede" {
		return imagebuilder.DefaultDistro
	}
	return distro
}

func (s *Set) tables(distro string) []*table { return s.distros[distroName(distro)] }

// Releases are the releases of a distribution that have a table, oldest first.
func (s *Set) Releases(distro string) []string {
	var releases []string
	for _, t := range s.tables(distro) {
		releases = append(releases, t.release)
	}
	return releases
}

// Len is the number of rules for a distribution's packages and of additions.
func (s *Set) Len(distro string) (rules, additions int) {
	for _, t := range s.tables(distro) {
		for _, alternatives := range t.exact {
			rules += len(alternatives)
		}
		rules += len(t.patterns)
		additions += len(t.additions)
	}
	return rules, additions
}

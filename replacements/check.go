package replacements

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Check looks for everything that may be wrong in tables: what keeps them from
// being loaded, and what can be loaded but hardly be meant. It reads the
// embedded tables, over them those in dirs, and over these the files, each in
// a place as <distribution>/<release>.yaml. targets are all that exist in any
// index; empty, OpenWrt's own are known and no others are checked. Where files
// are named, doubts about other files are left out.
func Check(files, dirs, targets []string) ([]Problem, error) {
	l := newLoader()
	if err := l.readDirs(dirs); err != nil {
		return nil, err
	}
	for _, path := range files {
		if err := l.readFile(path); err != nil {
			return nil, err
		}
	}
	set, problems := l.finish()
	var doubtful []Problem
	for _, distro := range sortedKeys(set.distros) {
		known := targets
		if len(known) == 0 && distro == imagebuilder.DefaultDistro {
			known = knownTargets()
		}
		doubtful = append(doubtful, doubts(set.distros[distro], known)...)
	}
	if len(files) > 0 {
		doubtful = slices.DeleteFunc(doubtful, func(p Problem) bool { return !slices.Contains(files, p.File) })
	}
	problems = append(problems, doubtful...)
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return slices.Compact(problems), nil
}

// knownTargets are the targets of all OpenWrt releases from LEDE 17.01 on, and
// of the main branch in June 2026: target/linux/*/Makefile, SUBTARGETS.
func knownTargets() []string {
	text, err := embedded.ReadFile("openwrt/targets.txt")
	if err != nil {
		panic(err) // it is in the program
	}
	return strings.Fields(string(text))
}

func (r *rule) problem(format string, args ...any) Problem {
	return Problem{File: r.File, Line: r.Line, Text: r.text, Message: fmt.Sprintf(format, args...)}
}

// contradictions are what makes tables unusable together: names that lead
// back to where they came from, and names that come back after an earlier
// release gave them up, so that nobody could tell the old package from the
// new one.
func contradictions(tables []*table) []Problem {
	var rules []*rule
	age := make(map[*rule]int)
	for i, t := range tables {
		for _, r := range t.rules() {
			rules = append(rules, r)
			age[r] = i
		}
	}
	byName := make(map[string][]*rule)
	var patterns []*rule
	for _, r := range rules {
		switch {
		case r.old == "":
		case strings.Contains(r.old, "*"):
			patterns = append(patterns, r)
		default:
			byName[r.old] = append(byName[r.old], r)
		}
	}
	// next are the rules that what r brings about can meet.
	next := func(r *rule) []*rule {
		var found []*rule
		for _, name := range r.outputs() {
			if name == r.old {
				continue
			}
			if strings.Contains(name, "*") {
				for _, old := range sortedKeys(byName) {
					if canMeet(name, old) {
						found = append(found, byName[old]...)
					}
				}
			} else {
				found = append(found, byName[name]...)
			}
			for _, p := range patterns {
				if canMeet(name, p.old) {
					found = append(found, p)
				}
			}
		}
		return found
	}
	problems := cycles(rules, next)
	for _, r := range rules {
		for _, n := range next(r) {
			if age[n] < age[r] && comesBack(r, n) {
				problems = append(problems, r.problem("%s comes back here, but %s gave it up in %s (%s:%d): nobody can tell the old one from the new one.",
					strings.Join(r.outputs(), ", "), n.old, n.Release, n.File, n.Line))
			}
		}
	}
	for _, r := range rules {
		if r.old != "" {
			continue
		}
		if c := leadsToChoice(r, next, make(map[*rule]bool)); c != nil {
			problems = append(problems, r.problem("What is added has a choice that depends on what is installed (%s, %s:%d): add the package that is meant.", c.old, c.File, c.Line))
		}
	}
	return problems
}

// leadsToChoice returns a rule that decides by what is installed what becomes
// of a package that r brings about.
func leadsToChoice(r *rule, next func(*rule) []*rule, seen map[*rule]bool) *rule {
	for _, n := range next(r) {
		if n.contextual() {
			return n
		}
		if !seen[n] {
			seen[n] = true
			if c := leadsToChoice(n, next, seen); c != nil {
				return c
			}
		}
	}
	return nil
}

// comesBack tells whether r can make a name that n, of an earlier release, is
// for, out of one that n is not for.
func comesBack(r, n *rule) bool {
	before, after, _ := strings.Cut(n.old, "*")
	stars := []string{"x"}
	for i := range after {
		stars = append(stars, after[i:], "x"+after[i:])
	}
	for i := range before {
		stars = append(stars, before[:i+1], before[:i+1]+"x"+after)
	}
	for _, name := range r.outputs() {
		if name == r.old {
			continue
		}
		for _, star := range stars {
			if _, made := match(n.old, strings.Replace(name, "*", star, 1)); !made {
				continue
			}
			if _, meant := match(n.old, strings.Replace(r.old, "*", star, 1)); r.old == "" || !meant {
				return true
			}
		}
	}
	return false
}

// cycles finds the rules that lead back to themselves.
func cycles(rules []*rule, next func(*rule) []*rule) []Problem {
	const (
		entered = iota + 1
		left
	)
	var (
		problems []Problem
		path     []*rule
		state    = make(map[*rule]int)
		visit    func(r *rule)
	)
	visit = func(r *rule) {
		state[r] = entered
		path = append(path, r)
		for _, n := range next(r) {
			switch state[n] {
			case entered:
				way := path[slices.Index(path, n):]
				names := make([]string, 0, len(way)+1)
				for _, w := range way {
					names = append(names, w.old)
				}
				names = append(names, n.old)
				problems = append(problems, r.problem("The names go in a circle: %s.", strings.Join(names, " → ")))
			case left:
			default:
				visit(n)
			}
		}
		path = path[:len(path)-1]
		state[r] = left
	}
	for _, r := range rules {
		if state[r] == 0 {
			visit(r)
		}
	}
	return problems
}

// doubts are what can be loaded but hardly be meant.
func doubts(tables []*table, targets []string) []Problem {
	var problems []Problem
	previous := 0 // revision at which the release before left the main branch
	for _, t := range tables {
		for _, r := range t.rules() {
			if r.Source == "" {
				problems = append(problems, r.problem("There is no source: where is this change documented?"))
			}
			if len(r.options) > 0 && !slices.ContainsFunc(r.options, func(o option) bool { return o.byDefault || o.name == r.old }) {
				problems = append(problems, r.problem("%s has no default: it stays as it is until somebody chooses.", r.old))
			}
			backported := r.from.set() && r.from.revision == 0
			if r.revision > 0 && (r.revision <= previous || t.branchOff > 0 && r.revision > t.branchOff && !backported) {
				problems = append(problems, r.problem("Revision %d is not between the release before (%d) and %s (%d).", r.revision, previous, t.release, t.branchOff))
			}
			for _, target := range r.targets {
				if len(targets) > 0 && !slices.ContainsFunc(targets, func(known string) bool { _, ok := match(target, known); return ok }) {
					problems = append(problems, r.problem("No index has the target %s.", target))
				}
			}
			if len(r.profiles) > 0 && len(r.targets) == 0 {
				problems = append(problems, r.problem("It names profiles but no target: profiles of several targets share names."))
			}
		}
		previous = max(previous, t.branchOff)
	}
	return problems
}

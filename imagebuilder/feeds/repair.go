package feeds

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Bounds of the search for repairs.
const (
	maxRepairs      = 6
	maxTries        = 12  // wishes solved
	maxTriesOfLarge = 3   // for a wish with more than largeWish packages
	largeWish       = 400 //
	maxEdits        = 8   // ways to solve one problem
)

// edit is a change to what is requested that may solve one problem.
type edit struct {
	detail string // without the full stop
	from   string // the requested name that goes, "" for none
	to     string // what comes in its place, "" for nothing
}

// Repairs returns changes to the requested packages that make a wish possible
// which s, its solution, has problems with. All were tried. suggest returns
// what came in a package's place in this release; it may be nil. If there are
// several problems a repair solves them all. The likeliest is the first.
func (u *Universe) Repairs(w Wish, s *Solution, suggest func(name string) []string) []imagebuilder.Repair {
	if len(s.Problems) == 0 {
		return nil
	}
	r := repairer{Universe: u, wish: w, suggest: suggest, tries: maxTries, requested: set(w.Requested), own: set(w.Default, w.Device)}
	if len(w.Requested) > largeWish {
		r.tries = maxTriesOfLarge
	}
	edits := make([][]edit, 0, len(s.Problems))
	for i, p := range s.Problems {
		roots := p.Chain[:min(1, len(p.Chain))]
		if i < len(s.roots) {
			roots = s.roots[i]
		} else if len(roots) == 0 {
			roots = []string{p.Package}
		}
		options := r.edits(p, roots)
		if len(options) == 0 {
			return nil
		}
		edits = append(edits, options)
	}
	// The best way for each problem; then another way for one of them at a
	// time; then the last way for each, which is to do without.
	best := make([]edit, len(edits))
	last := make([]edit, len(edits))
	for i, options := range edits {
		best[i], last[i] = options[0], options[len(options)-1]
	}
	r.try(best)
	for i, options := range edits {
		if r.tries == 0 || len(r.found) == maxRepairs {
			break
		}
		for _, other := range options[1:] {
			if len(edits) > 1 && other == last[i] {
				continue
			}
			changed := slices.Clone(best)
			changed[i] = other
			r.try(changed)
		}
	}
	r.try(last)
	return r.found
}

// Lighten returns changes to the requested packages after which small accepts
// the wish, whose solution s is too big: single ones that suffice, else the
// fewest together. All were tried.
func (u *Universe) Lighten(w Wish, s *Solution, small func(Wish, *Solution) bool) []imagebuilder.Repair {
	if len(w.Requested) > largeWish {
		return nil
	}
	r := repairer{Universe: u, wish: w, tries: maxTries, small: small}
	var edits []edit
	for _, p := range s.spare(w) {
		if len(edits) == maxEdits {
			break
		}
		edits = append(edits, edit{"Leave out " + p.name, p.name, ""})
	}
	const alone = 4 // that are tried by themselves
	for _, e := range edits[:min(alone, len(edits))] {
		r.try([]edit{e})
	}
	for n := 2; n <= len(edits) && len(r.found) == 0; n++ {
		r.try(edits[:n])
	}
	return r.found
}

type repairer struct {
	*Universe
	wish    Wish
	suggest func(string) []string
	small   func(Wish, *Solution) bool // nil: whatever is possible will do
	tries   int
	tried   []string // the lists tried
	found   []imagebuilder.Repair

	requested, own map[string]bool // the names in the wish: the user's, and those there by default
}

func set(lists ...[]string) map[string]bool {
	s := map[string]bool{}
	for _, list := range lists {
		for _, name := range list {
			s[name] = true
		}
	}
	return s
}

// edits returns the ways to solve a problem, the likeliest first. roots are
// the names in the wish that lead to it.
func (r *repairer) edits(p imagebuilder.Problem, roots []string) []edit {
	var options []edit
	for _, root := range r.droppable(roots) {
		if p.Kind != imagebuilder.ProblemConflict && r.requested[root] {
			for _, to := range r.substitutes(root, p.Nearest) {
				options = append(options, edit{fmt.Sprintf("Ask for %s instead of %s", to, root), root, to})
			}
		}
		if len(options) >= maxEdits {
			break
		}
		if r.requested[root] {
			options = append(options, edit{"Leave out " + root, root, ""})
		} else {
			options = append(options, edit{fmt.Sprintf("Take out %s, which is there by default", root), "", "-" + root})
		}
	}
	return options
}

// droppable sorts the roots of a problem: what is there by default before what
// was asked for, without doubles.
func (r *repairer) droppable(roots []string) []string {
	var own, requested []string
	for _, root := range roots {
		switch {
		case slices.Contains(own, root) || slices.Contains(requested, root):
		case r.requested[root]:
			requested = append(requested, root)
		case r.own[root]:
			own = append(own, root)
		}
	}
	if len(own) > 0 && len(requested) > 0 {
		return append(own, requested...)
	}
	return append(requested, own...)
}

// substitutes returns what to ask for instead of a name.
func (r *repairer) substitutes(name string, nearest []string) []string {
	var found []string
	add := func(to string) {
		if to != name && to != "" && r.Has(to) && !slices.Contains(found, to) && len(found) < maxEdits-1 {
			found = append(found, to)
		}
	}
	if r.suggest != nil {
		for _, to := range r.suggest(name) {
			add(to)
		}
	}
	for _, to := range nearest {
		add(to)
	}
	return found
}

// try solves the wish with edits made, and notes the repair if it is possible.
func (r *repairer) try(edits []edit) {
	if r.tries == 0 || len(r.found) == maxRepairs {
		return
	}
	repair := imagebuilder.Repair{Packages: []string{}}
	from := map[string]string{}
	var details []string
	made := map[edit]bool{}
	for _, e := range edits {
		if made[e] {
			continue
		}
		made[e] = true
		details = append(details, e.detail+".")
		if e.from != "" {
			from[e.from] = e.to
			repair.Remove = append(repair.Remove, e.from)
			if e.to != "" {
				repair.Add = append(repair.Add, e.to)
			}
		} else {
			repair.Remove = append(repair.Remove, e.to)
		}
	}
	there := map[string]bool{}
	for _, name := range r.wish.Requested {
		to, changed := from[name]
		if !changed {
			to = name
		}
		if to != "" && (!changed || !there[to]) {
			repair.Packages = append(repair.Packages, to)
			there[to] = true
		}
	}
	for _, name := range repair.Remove {
		if strings.HasPrefix(name, "-") {
			repair.Packages = append(repair.Packages, name)
		}
	}
	if list := strings.Join(repair.Packages, " "); slices.Contains(r.tried, list) {
		return
	} else {
		r.tried = append(r.tried, list)
	}
	r.tries--
	wish := r.wish
	wish.Requested = repair.Packages
	if s := r.Solve(wish); len(s.Problems) > 0 || r.small != nil && !r.small(wish, s) {
		return
	}
	const maxDetails = 4
	if len(details) > maxDetails {
		details = append(details[:maxDetails], fmt.Sprintf("And %d changes more.", len(details)-maxDetails))
	}
	repair.Detail = strings.Join(details, " ")
	r.found = append(r.found, repair)
}

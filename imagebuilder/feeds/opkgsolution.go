package feeds

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Packages returns the names in the order in which the ImageBuilder's Makefile
// gives them to opkg: the user's, then the target's and the profile's sorted,
// without those that a "-name" takes out.
func (w Wish) Packages() []string {
	own := slices.Concat(w.Default, w.Device, []string{"kernel"})
	slices.Sort(own)
	own = filterOut(slices.Compact(own))
	return filterOut(slices.Concat(w.Requested, own))
}

// filterOut drops each "-name", and with it every name.
func filterOut(names []string) []string {
	out := map[string]bool{}
	for _, name := range names {
		if without, ok := strings.CutPrefix(name, "-"); ok {
			out[without] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return name == "" || name[0] == '-' || out[name]
	})
}

// solveOpkg tells what the three runs of opkg in package_install do.
func (u *Universe) solveOpkg(w Wish) *Solution {
	t := u.tables()
	image := &opkgImage{
		status: make([]opkgStatus, len(u.listed)), wanted: make([]bool, len(u.listed)),
		in: make([]bool, len(u.nodes)), needer: make([]int32, len(u.listed)),
	}
	for i := range image.needer {
		image.needer[i] = -1
	}
	e := &opkgExplanation{Universe: u, opkgTables: t, image: image, solution: &Solution{Certain: true}, asked: map[int32]string{}, told: map[string]bool{}}
	for _, builtin := range []int32{t.libc, t.kernel} {
		run := u.newOpkgRun(t, image, []string{u.listed[builtin].Name})
		if run.unresolvable(builtin) || !run.install(builtin) {
			e.failed = append(e.failed, opkgFailure{u.listed[builtin].Name, -1, run.conflicts})
		}
		run.finish()
		e.asked[builtin] = u.listed[builtin].Name
		e.observe(run)
	}
	names := w.Packages()
	if len(names) == 0 {
		e.proven++
		e.problem(imagebuilder.Problem{
			Kind: imagebuilder.ProblemOther, Package: "kernel",
			Detail: "No package is left to install, and opkg wants at least one.",
		}, "-kernel")
	}
	run := u.newOpkgRun(t, image, names)
	for _, name := range names {
		if !plainName(name) {
			e.doubt("%s is no package's name, so what opkg makes of it is not foreseen.", name)
			continue
		}
		conflicts := len(run.conflicts)
		chosen, ok := run.ask(name)
		if chosen >= 0 && e.asked[chosen] == "" {
			e.asked[chosen] = name
		}
		if !ok {
			e.failed = append(e.failed, opkgFailure{name, chosen, run.conflicts[conflicts:]})
		}
	}
	run.finish()
	e.observe(run)
	e.conclude()
	return e.solution
}

// plainName tells whether opkg takes a word for a package's name, not for a
// file or an address.
func plainName(name string) bool {
	if !imagebuilder.ValidPackageName(name) {
		return false
	}
	for _, suffix := range []string{".ipk", ".opk", ".deb"} {
		if strings.HasSuffix(name, suffix) {
			return false
		}
	}
	return true
}

// opkgExplanation turns what happened into a solution.
type opkgExplanation struct {
	*Universe
	*opkgTables
	image    *opkgImage
	solution *Solution
	asked    map[int32]string // packages that were asked for, by which name
	failed   []opkgFailure
	gaveUp   bool
	nearest  int  // problems that have names nearby
	guessed  int  // problems that are likely but not certain
	proven   int  // problems that are certain whatever else is not
	unsure   bool // opkg came across a package that is impossible
	told     map[string]bool
}

// opkgFailure is a name that could not be installed.
type opkgFailure struct {
	name      string
	chosen    int32 // the package that opkg took for it, -1 for none
	conflicts []conflictPair
}

// doubt notes why the solution is not certain. Doubts are bounded.
func (e *opkgExplanation) doubt(format string, args ...any) {
	const maxDoubts = 20
	s := e.solution
	s.Certain = false
	if text := fmt.Sprintf(format, args...); len(s.Doubts) < maxDoubts && !slices.Contains(s.Doubts, text) {
		s.Doubts = append(s.Doubts, text)
	}
}

// observe notes what a run of opkg came across that makes it uncertain.
func (e *opkgExplanation) observe(r *opkgRun) {
	if r.gaveUp && !e.gaveUp {
		e.gaveUp = true
		e.doubt("The packages need one another in more ways than are followed.")
	}
	for _, i := range r.replaced {
		e.doubt("%s is replaced by another version of itself while the image is made.", e.listed[i].Name)
	}
	for _, p := range r.replacers {
		e.doubt("%s takes the place of other packages.", p.Name)
	}
	for _, i := range r.seen {
		p := e.listed[i]
		e.unsure = e.unsure || !e.complete || e.impossible[i] != nil
		if p.Unclear {
			e.doubt("What the feed says of %s is written in a way that is not fully understood.", p.Name)
		}
		if len(p.Replaces) > 0 && len(p.Conflicts) > 0 {
			e.doubt("%s takes the place of other packages.", p.Name)
		}
		if e.crowded[p.Name] {
			e.doubt("There are too many versions of %s to look at them all.", p.Name)
		}
	}
	for _, f := range e.feeds {
		if f.Index != nil && f.Index.NamesOnly {
			e.doubt("Of the feed %s only names and versions are known.", f.Name)
		}
	}
}

// conclude fills in the selection and the problems.
func (e *opkgExplanation) conclude() {
	s := e.solution
	for i, status := range e.image.status {
		if status == notInstalled {
			continue
		}
		selected := e.selected(int32(i))
		if needer := e.image.needer[i]; e.asked[int32(i)] == "" && needer >= 0 {
			selected.Reason = e.listed[needer].BaseName()
		}
		s.Selected = append(s.Selected, selected)
	}
	slices.SortStableFunc(s.Selected, func(a, b Selected) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(s.Selected); i++ {
		if s.Selected[i].Name == s.Selected[i-1].Name {
			e.doubt("Two versions of %s are installed over one another.", s.Selected[i].Name)
		}
	}
	if !e.gaveUp {
		for _, f := range e.failed {
			e.explain(f)
		}
	}
	e.exclude()
	e.standIns()
	switch {
	case e.proven > 0:
	case e.unsure:
		e.doubt("Some package that opkg looks at can never be installed, and what it then does depends on the order in which it reads its lists.")
	case e.guessed > 0 && e.guessed >= len(s.Problems):
		e.doubt("Whether opkg refuses this cannot be told from the package indexes alone.")
	}
}

// problem adds a problem and the names in the wish that lead to it.
func (e *opkgExplanation) problem(p imagebuilder.Problem, roots ...string) {
	key := string(p.Kind) + " " + p.Package + " " + strings.Join(roots, " ")
	if e.told[key] {
		return
	}
	e.told[key] = true
	e.solution.Problems = append(e.solution.Problems, p)
	e.solution.roots = append(e.solution.roots, roots)
}

// root returns the name in the wish for which a package came, with the
// packages between: each needs the next.
func (e *opkgExplanation) root(i int32) (name string, chain []string) {
	for steps := 0; steps <= len(e.listed); steps++ {
		chain = append(chain, e.listed[i].BaseName())
		if name := e.asked[i]; name != "" {
			slices.Reverse(chain)
			return name, chain
		}
		if e.image.needer[i] < 0 {
			break
		}
		i = e.image.needer[i]
	}
	slices.Reverse(chain)
	return chain[0], chain
}

package feeds

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// solveAPK tells what apk-tools v3 will make of a wish, as the ImageBuilder's
// Makefile puts it to apk (openwrt/openwrt target/imagebuilder/files/Makefile).
// What apk refuses is Certain only if it is impossible whatever is chosen.
//
// Two packages that have the same file, which apk refuses while it installs,
// are not seen: no index says which files there are.
func (u *Universe) solveAPK(w Wish) *Solution {
	t := u.apk()
	s := &Solution{Certain: true}
	s.doubt(t.doubts...)
	wishes := t.withBuilders(s, s.plain(w.Packages()))
	wanted, changed := t.withSuffixes(wishes)
	try := t.try(wanted)
	if changed {
		try = t.tryPlain(s, try, wishes, w)
	}
	switch {
	case try.lost:
		s.doubt("The packages need one another in more ways than are followed.")
	case try.accepted && len(try.proof.problems) > 0:
		s.doubt("Apk finds a selection that should be impossible.")
	case !try.accepted && len(try.proof.problems) == 0:
		s.doubt("Apk finds no selection, though there may be one.")
		try.proof = t.guess(try)
	}
	if try.accepted {
		s.Selected = t.selection(u, try)
		return s
	}
	s.Problems, s.roots = try.proof.problems, try.proof.roots
	for i := range s.Problems {
		if p := &s.Problems[i]; p.Kind == imagebuilder.ProblemMissing && len(p.Nearest) == 0 && i < maxNearest {
			p.Nearest = u.Nearest(p.Package, 3)
		}
	}
	return s
}

// plain returns the words that are packages' names. Of others apk makes
// something of its own: a version to insist on, a tag, a file.
func (s *Solution) plain(words []string) []string {
	return slices.DeleteFunc(words, func(word string) bool {
		if imagebuilder.ValidPackageName(word) && !strings.HasSuffix(word, ".apk") {
			return false
		}
		s.doubt(fmt.Sprintf("%s is no package's name, so what apk makes of it is not foreseen.", word))
		return true
	})
}

// doubt notes why a solution is not certain.
func (s *Solution) doubt(reasons ...string) {
	if len(reasons) > 0 {
		s.Certain = false
		s.Doubts = append(s.Doubts, reasons...)
	}
}

// withBuilders adds what the ImageBuilder asks for whatever the wish is, each
// in the version that it was made with.
func (t *apkTables) withBuilders(s *Solution, wishes []string) []string {
	for _, name := range []string{"base-files", "libc", "kernel"} {
		n, ok := t.byName[name]
		if !ok || !t.names[n].called {
			s.doubt(fmt.Sprintf("The ImageBuilder brings %s with it, which is in no feed that is known.", name))
			wishes = slices.DeleteFunc(wishes, func(wish string) bool { return wish == name })
			continue
		}
		if t.severalVersions(n) {
			s.doubt(fmt.Sprintf("The ImageBuilder insists on its own version of %s, and there are several.", name))
		}
		wishes = append(wishes, name)
	}
	return wishes
}

// tryPlain asks as ImageBuilders before 2026 do, without suffixes, and decides
// which answer counts.
func (t *apkTables) tryPlain(s *Solution, try *apkTry, wishes []string, w Wish) *apkTry {
	plain := t.try(plainly(wishes))
	differ := try.accepted != plain.accepted || try.accepted && !slices.Equal(try.sorted(), plain.sorted())
	if differ || !try.accepted {
		switch suffixed, plainly := t.defaultsAccepted(w); {
		case suffixed && !plainly:
			return try
		case plainly && !suffixed:
			return plain
		}
	}
	switch {
	case differ:
		s.doubt("Older and newer ImageBuilders ask apk for packages with an ABI version in different ways.")
		if try.accepted {
			return try
		}
		return plain
	case try.lost, len(try.proof.problems) == 0:
		return try
	}
	return plain // its problems are told in the names that were asked for, and may be none
}

func plainly(wishes []string) []apkWanted {
	wanted := make([]apkWanted, len(wishes))
	for i, name := range wishes {
		wanted[i] = apkWanted{name, name}
	}
	return wanted
}

// defaultsAccepted tells in which of the two ways a device's own packages can be
// asked for. ImageBuilder and packages are made from the same sources: one that
// could not build the device's default image is not the one that there is.
func (t *apkTables) defaultsAccepted(w Wish) (suffixed, plain bool) {
	wishes := t.withBuilders(&Solution{}, Wish{Default: w.Default, Device: w.Device}.Packages())
	wanted, _ := t.withSuffixes(wishes)
	return t.try(wanted).accepted, t.try(plainly(wishes)).accepted
}

// apkTry is one question to apk with its answer.
type apkTry struct {
	world    *apkWorld
	solver   *apkSolver
	accepted bool
	lost     bool
	proof    *apkProof // if it was not accepted
}

func (t *apkTables) try(wanted []apkWanted) *apkTry {
	world := t.world(wanted)
	s := newAPKSolver(t, world.deps)
	try := &apkTry{world: world, solver: s, proof: &apkProof{}}
	try.accepted = s.solve(world.deps) && len(world.absent) == 0
	try.lost = s.lost
	if !try.accepted {
		try.proof = t.prove(world)
	}
	return try
}

// sorted returns what was selected, in one order.
func (a *apkTry) sorted() []int32 {
	return slices.Sorted(slices.Values(a.solver.selected))
}

// severalVersions tells whether packages called so have several versions.
func (t *apkTables) severalVersions(n int32) bool {
	version := ""
	for _, p := range t.names[n].providers {
		if t.pkgs[p.pkg].name != n || t.pkgs[p.pkg].foreign {
			continue
		}
		if version != "" && p.version != version {
			return true
		}
		version = p.version
	}
	return false
}

// guess says what went wrong where it could not be proven.
func (t *apkTables) guess(a *apkTry) *apkProof {
	p := &apkProof{apkTables: t, world: a.world, told: map[string]bool{}}
	reasons := t.reasons(a)
	for _, n := range a.solver.unmet {
		if n.from < 0 {
			continue
		}
		var chain []string
		for pkg, known := n.from, true; known && pkg >= 0 && len(chain) < maxProofProblems; {
			chain = append(chain, t.pkgs[pkg].BaseName())
			pkg, known = reasons[pkg]
		}
		slices.Reverse(chain)
		relation := Relation{Name: t.names[n.dep.name].name, Op: n.dep.match.operator(), Version: n.dep.version}
		problem := imagebuilder.Problem{Kind: imagebuilder.ProblemConflict, Package: chain[len(chain)-1], Chain: chain}
		switch {
		case n.dep.conflict:
			problem.Detail = fmt.Sprintf("%s excludes %s, which another package brings.", withNeeder(chain), relation)
		case len(t.names[n.dep.name].providers) == 0:
			problem = t.missing(chain, n, nil)
		default:
			problem.Detail = fmt.Sprintf("%s %s; nothing that provides it seems to go with the other packages.", needs(chain, "needs"), relation)
		}
		p.tell(problem, chain[0])
	}
	for _, n := range a.solver.broken {
		name := t.names[n].name
		p.tell(imagebuilder.Problem{
			Kind: imagebuilder.ProblemConflict, Package: name,
			Detail: fmt.Sprintf("Nothing that provides %s seems to go with the other packages.", name),
		}, name)
	}
	return p
}

// reasons leads from every package that was selected to one that needs it,
// -1 for what was asked for.
func (t *apkTables) reasons(a *apkTry) map[int32]int32 {
	s := a.solver
	reasons := make(map[int32]int32, len(s.selected))
	var queue []int32
	reach := func(n, reason int32) {
		state := &s.state[n]
		if !state.locked || state.chosen.pkg < 0 || !s.pkg[state.chosen.pkg].taken {
			return
		}
		if _, known := reasons[state.chosen.pkg]; !known {
			reasons[state.chosen.pkg] = reason
			queue = append(queue, state.chosen.pkg)
		}
	}
	for i := range a.world.deps {
		reach(a.world.deps[i].name, -1)
	}
	follow := func() {
		for len(queue) > 0 {
			from := queue[0]
			queue = queue[1:]
			for i := range t.pkgs[from].depends {
				if d := &t.pkgs[from].depends[i]; !d.conflict {
					reach(d.name, from)
				}
			}
		}
	}
	follow()
	for _, n := range s.selected { // its InstallIf was met
		if _, known := reasons[n]; !known {
			reason := int32(-1)
			for i := range t.pkgs[n].installIf {
				if by := s.state[t.pkgs[n].installIf[i].name].chosen.pkg; by >= 0 && by != n {
					reason = by
				}
			}
			reasons[n] = reason
			queue = append(queue, n)
			follow()
		}
	}
	return reasons
}

// selection lists what was selected, with a reason for each.
func (t *apkTables) selection(u *Universe, a *apkTry) []Selected {
	reasons := t.reasons(a)
	list := make([]Selected, 0, len(a.solver.selected))
	for _, n := range a.solver.selected {
		selected := Selected{Package: t.pkgs[n].Package, Feed: &u.feeds[t.pkgs[n].feed]}
		if reason := reasons[n]; reason >= 0 {
			selected.Reason = t.pkgs[reason].Name
		}
		list = append(list, selected)
	}
	slices.SortFunc(list, func(x, y Selected) int { return strings.Compare(x.Name, y.Name) })
	return list
}

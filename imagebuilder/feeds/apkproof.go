package feeds

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Bounds of a proof.
const (
	maxProofSteps    = 4_000_000
	maxProofProblems = 20
	maxChain         = 32
)

// apkProof looks for what makes a world impossible whatever apk chooses: it
// follows only what must be. A package must be if it alone can meet what must
// be met; it rules out what it conflicts with and what else provides its
// names. What is found is true of every way of choosing, so that a request
// may be refused for it.
type apkProof struct {
	*apkTables
	world    *apkWorld
	possible []bool // packages that some choice may bring
	needed   []bool // names that the world or a possible package needs
	must     []apkNeed
	mustAt   []int32 // of each package, where it is in must, from 1 on
	ruledOut map[int32]apkRuling
	open     []apkNeed // what several can meet
	told     map[string]bool
	steps    int

	problems []imagebuilder.Problem
	roots    [][]string // of each problem: the names in the wish that lead to it
}

// apkNeed is a dependency that must be met, and for what.
type apkNeed struct {
	dep   apkDep
	from  int32 // a package that must be; -1 for the world
	world int   // the place in the world that it comes from
	pkg   int32 // in must: what meets it
}

// apkRuling says why a package cannot be.
type apkRuling struct {
	by   int32  // a package that must be
	name string // "" for a conflict, or the name that both provide
}

// prove looks for problems that make a world impossible. It may find none.
// Names that no package has anything to do with come first.
func (t *apkTables) prove(w *apkWorld) *apkProof {
	p := &apkProof{
		apkTables: t, world: w, possible: make([]bool, len(t.pkgs)), needed: make([]bool, len(t.names)),
		mustAt: make([]int32, len(t.pkgs)), ruledOut: map[int32]apkRuling{}, told: map[string]bool{},
	}
	for _, x := range w.absent {
		p.tell(imagebuilder.Problem{Kind: imagebuilder.ProblemMissing, Package: x.asked, Detail: x.asked + " is in no feed."}, x.asked)
	}
	if !p.explore() {
		return p
	}
	for i := range w.deps {
		p.need(apkNeed{dep: w.deps[i], from: -1, world: i})
	}
	for again := true; again && p.steps < maxProofSteps; {
		open := p.open
		p.open = nil
		for _, n := range open {
			p.need(n)
		}
		again = len(p.open) < len(open)
	}
	return p
}

// explore finds what is possible at all. It tells whether it could finish.
func (p *apkProof) explore() bool {
	var names []int32
	need := func(n int32) {
		if !p.needed[n] {
			p.needed[n] = true
			names = append(names, n)
		}
	}
	add := func(pkg int32) {
		if !p.possible[pkg] && !p.pkgs[pkg].foreign {
			p.possible[pkg] = true
			for _, d := range p.pkgs[pkg].depends {
				if p.steps++; !d.conflict {
					need(d.name)
				}
			}
		}
	}
	for i := range p.world.deps {
		need(p.world.deps[i].name)
	}
	for _, pkg := range p.conditional {
		add(pkg)
	}
	for len(names) > 0 && p.steps < maxProofSteps {
		n := names[0]
		names = names[1:]
		for _, q := range p.names[n].providers {
			p.steps++
			add(q.pkg)
		}
	}
	return len(names) == 0
}

// obtainable tells whether some choice may take a package for a name. Without
// a version or a priority apk takes it only if something needs it by a name
// that is its own.
func (p *apkProof) obtainable(n int32, q apkProvider) bool {
	pkg := &p.pkgs[q.pkg]
	if pkg.foreign {
		return false
	}
	if q.version != "" || pkg.ProviderPriority != 0 || len(pkg.installIf) > 0 || p.needed[pkg.name] {
		return true
	}
	return slices.ContainsFunc(pkg.provides, func(d apkDep) bool { return d.version != "" && d.name != n && p.needed[d.name] })
}

// need follows a dependency that must be met.
func (p *apkProof) need(n apkNeed) {
	if len(p.problems) >= maxProofProblems || p.steps >= maxProofSteps {
		return
	}
	var candidates, wrong []apkProvider
	for _, q := range p.names[n.dep.name].providers {
		p.steps += 1 + len(p.pkgs[q.pkg].depends)
		switch {
		case !p.obtainable(n.dep.name, q):
		case !n.dep.match.met(q.version, n.dep.version) || !p.allowed(q.pkg):
			wrong = append(wrong, q)
		default:
			candidates = append(candidates, q)
		}
	}
	switch len(candidates) {
	case 0:
		p.unmet(n, wrong)
	case 1:
		n.pkg = candidates[0].pkg
		p.take(n)
	default:
		p.open = append(p.open, n)
	}
}

// allowed tells whether a package may be beside those that must be.
func (p *apkProof) allowed(pkg int32) bool {
	if p.mustAt[pkg] > 0 {
		return true
	}
	if _, out := p.ruledOut[pkg]; out {
		return false
	}
	for i := range p.pkgs[pkg].depends {
		d := &p.pkgs[pkg].depends[i]
		if !d.conflict {
			continue
		}
		for _, q := range p.names[d.name].providers {
			if p.steps++; q.pkg != pkg && p.mustAt[q.pkg] > 0 && !d.provided(q, pkg) {
				p.ruledOut[pkg] = apkRuling{by: q.pkg}
				return false
			}
		}
	}
	return true
}

// take notes that a package must be.
func (p *apkProof) take(n apkNeed) {
	if p.mustAt[n.pkg] > 0 {
		return
	}
	p.must = append(p.must, n)
	p.mustAt[n.pkg] = int32(len(p.must))
	pkg := &p.pkgs[n.pkg]
	own := append([]apkDep{{name: pkg.name, version: pkg.Version}}, pkg.provides...)
	for i := range own {
		for _, q := range p.names[own[i].name].providers {
			if p.steps++; q.pkg != n.pkg && (q.version != "" || own[i].version != "") {
				p.ruleOut(q.pkg, apkRuling{by: n.pkg, name: p.names[own[i].name].name})
			}
		}
	}
	for i := range pkg.depends {
		d := &pkg.depends[i]
		if !d.conflict {
			continue
		}
		for _, q := range p.names[d.name].providers {
			if p.steps++; !d.provided(q, n.pkg) {
				p.ruleOut(q.pkg, apkRuling{by: n.pkg})
			}
		}
	}
	for _, d := range pkg.depends {
		if !d.conflict {
			p.need(apkNeed{dep: d, from: n.pkg, world: n.world})
		}
	}
}

// ruleOut notes that a package cannot be. If it must be, that is the proof.
func (p *apkProof) ruleOut(pkg int32, why apkRuling) {
	if _, out := p.ruledOut[pkg]; out {
		return
	}
	p.ruledOut[pkg] = why
	if p.mustAt[pkg] > 0 {
		p.clash(p.chain(pkg, -1), pkg, why)
	}
}

// tell adds a problem once. roots are the names in the wish that lead to it.
func (p *apkProof) tell(problem imagebuilder.Problem, roots ...string) {
	if len(p.problems) < maxProofProblems && !p.told[problem.Detail] {
		p.told[problem.Detail] = true
		p.problems = append(p.problems, problem)
		p.roots = append(p.roots, roots)
	}
}

// chain leads from what was asked for to a package that must be, or with -1 to
// what the world has at that place.
func (p *apkProof) chain(pkg int32, world int) []string {
	var names []string
	for pkg >= 0 && p.mustAt[pkg] > 0 {
		if len(names) < maxChain { // of a longer one the middle is left out
			names = append(names, p.pkgs[pkg].BaseName())
		}
		n := &p.must[p.mustAt[pkg]-1]
		pkg, world = n.from, n.world
	}
	if world >= 0 && (len(names) == 0 || names[len(names)-1] != p.world.asked[world]) {
		names = append(names, p.world.asked[world])
	}
	slices.Reverse(names)
	return names
}

// unmet tells why nothing can meet a need. wrong are packages that provide the
// name, but in another version or not beside what must be.
func (p *apkProof) unmet(n apkNeed, wrong []apkProvider) {
	chain := p.chain(n.from, n.world)
	root := chain[0]
	var right []apkProvider
	for _, q := range wrong {
		if n.dep.match.met(q.version, n.dep.version) {
			right = append(right, q)
		}
	}
	if len(right) > 0 {
		if n.from >= 0 {
			chain = append(chain, p.pkgs[right[0].pkg].BaseName())
		}
		p.clash(chain, right[0].pkg, p.ruledOut[right[0].pkg])
		return
	}
	p.tell(p.missing(chain, n, wrong), root)
}

// missing describes a need that no package of any feed meets. chain leads to
// what has it.
func (t *apkTables) missing(chain []string, n apkNeed, wrong []apkProvider) imagebuilder.Problem {
	name := t.names[n.dep.name].name
	relation := Relation{Name: name, Op: n.dep.match.operator(), Version: n.dep.version}
	problem := imagebuilder.Problem{Kind: imagebuilder.ProblemMissing, Package: name}
	sentence := relation.String()
	if n.from >= 0 {
		problem.Chain = append(slices.Clone(chain), name)
		sentence = fmt.Sprintf("%s %s", needs(chain, "needs"), relation)
	}
	providers := t.names[n.dep.name].providers
	installable := slices.DeleteFunc(slices.Clone(providers), func(q apkProvider) bool { return t.pkgs[q.pkg].foreign })
	switch {
	case len(providers) == 0 && n.from < 0:
		problem.Detail = sentence + " is in no feed."
	case len(providers) == 0:
		problem.Detail = sentence + ", which is in no feed."
	case len(wrong) > 0 && name == "kernel":
		problem.Kind = imagebuilder.ProblemVersion
		problem.Detail = fmt.Sprintf("%s made for another kernel (%s) than this image has (%s).", needs(chain, "is"), n.dep.version, wrong[0].version)
	case len(wrong) > 0:
		problem.Kind = imagebuilder.ProblemVersion
		problem.Detail = fmt.Sprintf("%s; the feeds have %s.", sentence, t.offers(wrong))
	case len(installable) > 0:
		problem.Kind = imagebuilder.ProblemOther
		for _, q := range installable[:min(5, len(installable))] {
			problem.Nearest = append(problem.Nearest, t.pkgs[q.pkg].BaseName())
		}
		problem.Detail = fmt.Sprintf("%s, which is no package but what several stand for: ask for one of them (%s).", sentence, strings.Join(problem.Nearest, ", "))
		if n.from < 0 {
			problem.Detail = fmt.Sprintf("%s is no package, but what others stand for: ask for one of them (%s).", name, strings.Join(problem.Nearest, ", "))
		}
	default:
		problem.Detail = fmt.Sprintf("%s, which there is only for another architecture (%s).", sentence, t.pkgs[providers[0].pkg].Architecture)
	}
	return problem
}

// clash tells that the package at the end of a chain cannot be beside another.
func (p *apkProof) clash(chain []string, pkg int32, why apkRuling) {
	other := p.chain(why.by, -1)
	a, b := withNeeder(chain), withNeeder(other)
	problem := imagebuilder.Problem{Kind: imagebuilder.ProblemConflict, Package: p.pkgs[pkg].BaseName()}
	if len(chain) > 1 {
		problem.Chain = chain
	}
	switch {
	case why.name == "":
		problem.Detail = fmt.Sprintf("%s and %s exclude one another: leave one of them out.", a, b)
	case p.pkgs[pkg].Name == p.pkgs[why.by].Name:
		problem.Kind = imagebuilder.ProblemVersion
		problem.Detail = fmt.Sprintf("%s must be there in two versions, %s and %s.", a, p.pkgs[pkg].Version, p.pkgs[why.by].Version)
	default:
		problem.Detail = fmt.Sprintf("%s and %s both provide %s: leave one of them out.", a, b, why.name)
	}
	p.tell(problem, chain[0], other[0])
}

// offers lists some of what there is.
func (t *apkTables) offers(providers []apkProvider) string {
	var list []string
	for i, q := range providers {
		if i == 3 {
			list = append(list, "others")
			break
		}
		list = append(list, t.pkgs[q.pkg].Name+" "+t.pkgs[q.pkg].Version)
	}
	return strings.Join(list, ", ")
}

package feeds

import (
	"cmp"
	"slices"
	"strings"
)

// This is what opkg does with a list of packages to install, followed step by
// step in memory: its choices depend on the order in which it looks and on
// what it has looked at before, so that no other way of solving would come to
// the same image or the same refusal (openwrt/opkg-lede libopkg/pkg_hash.c,
// pkg_depends.c, opkg_install.c, opkg_cmd.c). Nothing is fetched or unpacked,
// so two things are out of sight: files that two packages both hold, and
// scripts that fail.

// maxOpkgSteps bounds the candidates that are looked at for one wish. A wish
// for all 4,500 packages of a release looks at about 200,000.
const maxOpkgSteps = 4_000_000

// maxOpkgDepth bounds how deep packages that need one another are followed;
// opkg itself runs out of stack somewhere beyond.
const maxOpkgDepth = 5_000

// opkgTables is what opkg's resolver needs beside the universe.
type opkgTables struct {
	rank   []int32 // of the listed packages, in opkg's order: name, version, architecture
	libc   int32   // the package that the builder installs first, -1 if there is none
	kernel int32
	// impossible are the packages that can never be installed, and why;
	// complete tells that they are known.
	impossible map[int32][]Relation
	complete   bool
}

func (u *Universe) newOpkgTables() *opkgTables {
	t := &opkgTables{rank: make([]int32, len(u.listed)), libc: u.newest("libc"), kernel: u.newest("kernel")}
	t.impossible, t.complete = u.findImpossible()
	order := make([]int32, len(u.listed))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		p, q := u.listed[a], u.listed[b]
		if c := cmp.Or(strings.Compare(p.Name, q.Name), CompareOpkg(p.Version, q.Version)); c != 0 {
			return c
		}
		return u.archPriority(p.Package) - u.archPriority(q.Package)
	})
	for rank, i := range order {
		t.rank[i] = int32(rank)
	}
	return t
}

// newest returns the newest package called name, -1 if there is none.
func (u *Universe) newest(name string) int32 {
	best := int32(-1)
	n, ok := u.names[name]
	if !ok {
		return best
	}
	for _, i := range u.nodes[n].called {
		if best < 0 || CompareOpkg(u.listed[i].Version, u.listed[best].Version) > 0 {
			best = i
		}
	}
	return best
}

// archPriority ranks a package's architecture as the builder tells opkg to
// (openwrt/openwrt include/rootfs.mk).
func (u *Universe) archPriority(p *Package) int {
	if p.Architecture == "all" {
		return 100
	}
	return 200
}

type opkgStatus uint8

const (
	notInstalled opkgStatus = iota
	unpacked                // in this run of opkg
	installed               // by an earlier run, or at the end of this one
)

// opkgImage is what is installed in the image, over opkg's runs.
type opkgImage struct {
	status []opkgStatus // of the listed packages
	wanted []bool       // of the listed packages: marked for installation, done or not
	in     []bool       // of the nodes: a package called so is installed
	needer []int32      // of the listed packages: the one for which it came, -1 for none
}

// opkgRun is one run of "opkg install".
type opkgRun struct {
	*Universe
	*opkgTables
	*opkgImage
	arguments map[int32]bool // nodes named on the command line
	tested    []bool         // nodes whose dependencies were looked at, to tell whether they can be met
	followed  []bool         // nodes whose dependencies were looked at, to meet them
	steps     int
	depth     int
	gaveUp    bool
	conflicts []conflictPair // that stopped an installation
	replaced  []int32        // packages that gave way to a newer version
	replacers []*Package     // packages that take the place of one that was looked at
	seen      []int32        // packages that were looked at, each once
	looked    []bool         // of the listed packages: is in seen
}

// conflictPair is a package and one that it cannot be beside.
type conflictPair struct{ pkg, other int32 }

func (u *Universe) newOpkgRun(t *opkgTables, image *opkgImage, arguments []string) *opkgRun {
	r := &opkgRun{
		Universe: u, opkgTables: t, opkgImage: image, arguments: make(map[int32]bool, len(arguments)),
		tested: make([]bool, len(u.nodes)), followed: make([]bool, len(u.nodes)), looked: make([]bool, len(u.listed)),
	}
	for _, name := range arguments {
		if n, ok := u.names[name]; ok {
			r.arguments[n] = true
		}
	}
	return r
}

// finish is what opkg does at its end: what was unpacked is configured.
func (r *opkgRun) finish() {
	for i, s := range r.status {
		if s == unpacked {
			r.status[i] = installed
		}
	}
}

// Which packages are asked for when the best candidate for a name is sought.
type opkgPurpose int

const (
	byName    opkgPurpose = iota // those called so: a name on the command line
	installOf                    // those that are installed and meet the relation
	anyOf                        // those that meet the relation
)

func (r *opkgRun) suits(i int32, purpose opkgPurpose, name string, rel *Relation) bool {
	switch purpose {
	case byName:
		return r.listed[i].Name == name
	case installOf:
		return r.status[i] != notInstalled && r.admits(rel, i)
	}
	return r.admits(rel, i)
}

// admits tells whether a package meets the relation's bound. That of the
// builder's own libc is not known, and taken to do.
func (u *Universe) admits(rel *Relation, i int32) bool {
	return rel.Op == "" || u.listed[i].Version == "" || rel.opkgAdmits(u.listed[i].Version)
}

// best returns the package that opkg takes for a name, -1 for none. It may
// well return one that does not meet the relation.
func (r *opkgRun) best(n int32, purpose opkgPurpose, rel *Relation) int32 {
	var few [4]int32
	matching := few[:0]
	for _, provider := range r.nodes[n].providers {
		if p := r.nodes[provider].replacer; p != nil && !slices.Contains(r.replacers, p) {
			r.replacers = append(r.replacers, p)
		}
		for _, i := range r.nodes[provider].called {
			if r.steps++; r.steps > maxOpkgSteps {
				r.gaveUp = true
				return -1
			}
			if !r.unresolvable(i) {
				matching = append(matching, i)
			}
		}
	}
	if len(matching) > 1 {
		slices.SortFunc(matching, func(a, b int32) int { return cmp.Compare(r.rank[a], r.rank[b]) })
	}
	good, goodScore := int32(-1), 0
	for _, i := range matching {
		name := r.names[r.listed[i].Name]
		if purpose == byName && name != n || purpose != byName && !r.suits(i, purpose, "", rel) {
			continue
		}
		score := 1
		if name == n {
			score++
		}
		if r.arguments[name] {
			score++
		}
		if score >= goodScore {
			good, goodScore = i, score
		}
	}
	if good >= 0 {
		return good
	}
	held, present := int32(-1), int32(-1)
	for _, i := range matching {
		if r.in[r.names[r.listed[i].Name]] {
			present = i
		}
		if r.listed[i].Held {
			held = i
		}
	}
	switch {
	case held >= 0:
		return held
	case present >= 0:
		return present
	case len(matching) > 1 && purpose == byName:
		first := matching[0]
		for _, i := range matching[1:] {
			if r.archPriority(r.listed[i].Package) > r.archPriority(r.listed[first].Package) {
				first = i
			}
		}
		return first
	case len(matching) == 1:
		return matching[0]
	}
	return -1
}

// look notes that a package was looked at.
func (r *opkgRun) look(i int32) {
	if !r.looked[i] {
		r.looked[i] = true
		r.seen = append(r.seen, i)
	}
}

// unresolvable tells whether a package needs what cannot be had. Asked a
// second time about the same name, opkg takes it to be fine.
func (r *opkgRun) unresolvable(i int32) bool {
	r.look(i)
	if r.tested[r.names[r.listed[i].Name]] {
		return false
	}
	var missing packageList
	return !r.gather(i, &missing, r.tested)
}

// gather lists what must be installed before package i can be, what those need
// first. It is false if something that is needed cannot be had. checked marks
// the names that were gathered for already: they are taken to be met.
func (r *opkgRun) gather(i int32, missing *packageList, checked []bool) bool {
	name := r.names[r.listed[i].Name]
	if checked[name] {
		return true
	}
	checked[name] = true
	if r.depth >= maxOpkgDepth {
		r.gaveUp = true
		return true
	}
	r.depth++
	defer func() { r.depth-- }()
	ok := true
	depends := r.listed[i].Depends
	for len(depends) > 0 {
		options := firstOptions(depends)
		depends = depends[len(options):]
		if r.choose(options, installOf) >= 0 {
			continue
		}
		chosen := r.choose(options, anyOf)
		if chosen < 0 {
			ok = false
		} else if chosen != i && !missing.has(chosen) {
			if !r.gather(chosen, missing, checked) {
				ok = false
			}
			missing.add(chosen, i)
		}
	}
	return ok
}

// choose returns the package by which one of the options is met, -1 for none.
func (r *opkgRun) choose(options []Relation, purpose opkgPurpose) int32 {
	for k := range options {
		n, ok := r.names[options[k].Name]
		if !ok {
			continue
		}
		if i := r.best(n, purpose, &options[k]); i >= 0 && r.suits(i, purpose, "", &options[k]) {
			return i
		}
	}
	return -1
}

// packageList is a list in which no package is twice, each with the one that
// needs it.
type packageList struct {
	packages, needers []int32
	set               map[int32]bool
}

func (l *packageList) has(i int32) bool {
	if l.set != nil {
		return l.set[i]
	}
	return slices.Contains(l.packages, i)
}

func (l *packageList) add(i, needer int32) {
	l.packages = append(l.packages, i)
	l.needers = append(l.needers, needer)
	switch {
	case l.set != nil:
		l.set[i] = true
	case len(l.packages) == 64:
		l.set = make(map[int32]bool, 256)
		for _, p := range l.packages {
			l.set[p] = true
		}
	}
}

// ask installs what a name on the command line stands for, and returns the
// package that this is; false if opkg cannot.
func (r *opkgRun) ask(name string) (int32, bool) {
	n, ok := r.names[name]
	if !ok {
		return -1, false
	}
	old := r.installedFor(n)
	chosen := r.best(n, byName, nil)
	if chosen < 0 {
		return -1, false
	}
	if old >= 0 {
		if CompareOpkg(r.listed[old].Version, r.listed[chosen].Version) >= 0 {
			return old, true
		}
		r.wanted[old] = false
	}
	return chosen, r.install(chosen)
}

// installedFor returns the installed package of a name, or for a name that no
// package has, of the first that provides it; -1 for none.
func (r *opkgRun) installedFor(n int32) int32 {
	packages := r.nodes[n].called
	if packages == nil && !r.nodes[n].barred && len(r.nodes[n].providers) > 0 {
		packages = r.nodes[r.nodes[n].providers[0]].called
	}
	for _, i := range packages {
		if r.status[i] != notInstalled {
			return i
		}
	}
	return -1
}

// install installs a package after all that it needs; false if opkg cannot.
func (r *opkgRun) install(i int32) bool {
	if r.gaveUp {
		return false
	}
	if r.status[i] == installed {
		return r.satisfy(i)
	}
	name := r.names[r.listed[i].Name]
	old := r.installedFor(name)
	if old >= 0 {
		if CompareOpkg(r.listed[old].Version, r.listed[i].Version) >= 0 {
			return false
		}
		r.wanted[old] = false
	}
	r.wanted[i] = true
	if other := r.conflicting(i); other >= 0 {
		r.conflicts = append(r.conflicts, conflictPair{i, other})
		return false
	}
	if r.depth >= maxOpkgDepth {
		r.gaveUp = true
		return false
	}
	r.depth++
	ok := r.satisfy(i)
	r.depth--
	if !ok {
		return false
	}
	if r.status[i] == unpacked { // by one that it needs and that needs it
		return true
	}
	r.status[i] = unpacked
	r.in[name] = true
	if old >= 0 {
		r.status[old] = notInstalled
		r.replaced = append(r.replaced, old)
	}
	return true
}

// satisfy installs what a package needs.
func (r *opkgRun) satisfy(i int32) bool {
	var missing packageList
	if !r.gather(i, &missing, r.followed) {
		return false
	}
	for k, p := range missing.packages {
		r.wanted[p] = true
		if r.status[p] == notInstalled {
			// Of packages that need one another, the last is the one that leads
			// to them from outside.
			r.needer[p] = missing.needers[k]
		}
	}
	for _, p := range missing.packages {
		if r.status[p] == notInstalled && !r.install(p) {
			return false
		}
	}
	return true
}

// conflicting returns a package, installed or marked for it, that package i
// declares to be in conflict with; -1 for none. opkg looks for packages of
// that very name only, and not at what the installed ones declare.
func (r *opkgRun) conflicting(i int32) int32 {
	for k := range r.listed[i].Conflicts {
		rel := &r.listed[i].Conflicts[k]
		n, ok := r.names[rel.Name]
		if !ok {
			continue
		}
		for _, other := range r.nodes[n].called {
			if r.listed[other].Unclear {
				r.look(other)
			}
			if (r.status[other] == installed || r.wanted[other]) && r.admits(rel, other) &&
				!slices.ContainsFunc(r.listed[i].Replaces, func(x Relation) bool { return x.Name == rel.Name }) {
				return other
			}
		}
	}
	return -1
}

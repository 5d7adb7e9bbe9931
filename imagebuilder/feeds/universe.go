package feeds

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"attendant/imagebuilder"
)

// Manager is the package manager whose rules decide what is installed.
type Manager string

// The package managers of the two generations of ImageBuilders.
const (
	Opkg Manager = "opkg" // openwrt/opkg-lede, up to 24.10
	APK  Manager = "apk"  // apk-tools v3, from 25.12 on
)

// Feed is an index at its place in the order in which the package manager
// reads its feeds.
type Feed struct {
	Name  string // as in the builder's list of feeds: "openwrt_base"
	Path  string // upstream path of the folder that holds the index and the packages, "" for one elsewhere
	Index *Index
}

// Universe is all packages that an ImageBuilder can install: the feeds of one
// generation, in order. It is never changed and may be used by several at a time.
type Universe struct {
	manager Manager
	arch    string // package architecture
	feeds   []Feed

	listed []listed         // all that the manager may install, in the feeds' order
	names  map[string]int32 // everything that is called or provided, to nodes
	nodes  []node
	bases  map[string]int32 // names without ABI suffix that are no name as well, to listed

	// crowded are names with more versions or providers than are looked at.
	crowded map[string]bool

	versions func() map[string]string
	tables   func() *opkgTables
	apk      func() *apkTables
}

// maxVersions bounds the packages of one name that are looked at, for the
// sake of hostile feeds.
const maxVersions = 64

// listed is a package with its feed.
type listed struct {
	*Package
	feed int32 // index into feeds; -1 for one that the builder brings with it
}

// node is a name.
type node struct {
	called    []int32  // the packages that are called so, in the feeds' order
	providers []int32  // nodes of the packages that provide it, itself among them if something is called so
	barred    bool     // a package called so is for another architecture, and provides or replaces something
	replacer  *Package // one that opkg takes in its place
}

// NewUniverse joins feeds, which may not be changed afterwards. arch is the
// target's package architecture; packages for another are left out. Of opkg's
// packages that are the same but for their feed, the last feed counts.
func NewUniverse(m Manager, arch string, feeds []Feed) *Universe {
	u := &Universe{manager: m, arch: arch, feeds: feeds}
	total := 0
	for _, f := range feeds {
		if f.Index != nil {
			total += len(f.Index.Packages)
		}
	}
	u.listed = make([]listed, 0, total+2)
	u.names = make(map[string]int32, total+total/8)
	u.nodes = make([]node, 0, total+total/8)
	u.crowded = map[string]bool{}
	for f := range feeds {
		if feeds[f].Index == nil {
			continue
		}
		for i := range feeds[f].Index.Packages {
			p := &feeds[f].Index.Packages[i]
			if u.installable(p, feeds[f].Index) {
				u.add(p, int32(f))
			} else {
				u.bar(p)
			}
		}
	}
	if m == Opkg {
		u.addOpkgBuiltins()
		u.markReplaced()
	}
	u.bases = map[string]int32{}
	for i, p := range u.listed {
		if base := p.BaseName(); base != p.Name {
			if _, taken := u.names[base]; !taken {
				u.bases[base] = int32(i)
			}
		}
	}
	u.versions = sync.OnceValue(u.collectVersions)
	u.tables = sync.OnceValue(u.newOpkgTables)
	u.apk = sync.OnceValue(func() *apkTables { return newAPKTables(arch, feeds) })
	return u
}

// add lists a package and all that it stands for.
func (u *Universe) add(p *Package, feed int32) {
	name := u.node(p.Name)
	if same := u.same(name, p); same >= 0 {
		u.listed[same] = listed{p, feed}
	} else if len(u.nodes[name].called) >= maxVersions {
		u.crowded[p.Name] = true
		return
	} else {
		u.listed = append(u.listed, listed{p, feed})
		u.nodes[name].called = append(u.nodes[name].called, int32(len(u.listed)-1))
	}
	u.provide(name, name)
	for _, r := range p.Provides {
		u.provide(u.node(r.Name), name)
	}
}

// bar notes a package that cannot be installed: opkg has it among those that
// provide something all the same, and asks only the first of them whether it
// is installed. Of one that neither provides nor replaces anything it knows
// nothing.
func (u *Universe) bar(p *Package) {
	if len(p.Provides) == 0 && len(p.Replaces) == 0 {
		return
	}
	name := u.node(p.Name)
	u.nodes[name].barred = true
	for _, r := range p.Provides {
		u.provide(u.node(r.Name), name)
	}
}

// markReplaced notes the names in whose place opkg takes another package: one
// that both replaces them and is in conflict with them, be it for another
// architecture or never asked for.
func (u *Universe) markReplaced() {
	for _, f := range u.feeds {
		if f.Index == nil {
			continue
		}
		for i := range f.Index.Packages {
			p := &f.Index.Packages[i]
			for _, r := range p.Replaces {
				n, ok := u.names[r.Name]
				if ok && slices.ContainsFunc(p.Conflicts, func(c Relation) bool { return c.Name == r.Name }) {
					u.nodes[n].replacer = p
				}
			}
		}
	}
}

// provide notes that the packages called name provide virtual.
func (u *Universe) provide(virtual, name int32) {
	list := u.nodes[virtual].providers
	if n := len(list); n > 0 && list[n-1] == name {
		return
	}
	// Only a name that was seen before can be further up in the list.
	if (len(u.nodes[name].called) > 1 || u.nodes[name].barred) && slices.Contains(list, name) {
		return
	}
	u.nodes[virtual].providers = append(list, name)
}

// installable tells whether the manager takes the package at all.
func (u *Universe) installable(p *Package, x *Index) bool {
	return u.manager != Opkg || x.NamesOnly || u.arch == "" || p.Architecture == "all" || p.Architecture == u.arch
}

// node returns the node of a name, made if there is none.
func (u *Universe) node(name string) int32 {
	n, ok := u.names[name]
	if !ok {
		n = int32(len(u.nodes))
		u.nodes = append(u.nodes, node{})
		u.names[name] = n
	}
	return n
}

// same returns the package that opkg takes for the same as p: of the same
// name, version and architecture. It is -1 if there is none.
func (u *Universe) same(name int32, p *Package) int32 {
	if u.manager != Opkg {
		return -1
	}
	for _, i := range u.nodes[name].called {
		if q := u.listed[i]; q.Architecture == p.Architecture && CompareOpkg(q.Version, p.Version) == 0 {
			return i
		}
	}
	return -1
}

// Manager returns the package manager whose rules Solve follows.
func (u *Universe) Manager() Manager { return u.manager }

// Arch returns the target's package architecture.
func (u *Universe) Arch() string { return u.arch }

// Feeds returns the feeds in order. They may not be changed.
func (u *Universe) Feeds() []Feed { return u.feeds }

// Memory estimates what the universe keeps besides its indexes, in bytes.
func (u *Universe) Memory() int64 {
	const perName, perAPK = 140, 630 // measured; the tables of apk's solver are made by the first Solve
	n := int64(len(u.names)) * perName
	if u.manager == APK {
		n += int64(len(u.listed)) * perAPK
	}
	return n
}

// Has tells whether name stands for something that can be installed: a
// package, by its full or ABI-free name, or what a package provides.
func (u *Universe) Has(name string) bool {
	if n, ok := u.names[name]; ok {
		return slices.ContainsFunc(u.nodes[n].providers, func(p int32) bool { return len(u.nodes[p].called) > 0 })
	}
	_, ok := u.bases[name]
	return ok
}

// Find returns the packages that name stands for: those called so with or
// without ABI suffix, the newest first, then those that provide it, by name.
func (u *Universe) Find(name string) []*Package {
	var found []*Package
	for _, i := range u.find(name) {
		found = append(found, u.listed[i].Package)
	}
	return found
}

func (u *Universe) find(name string) []int32 {
	n, ok := u.names[name]
	if !ok {
		if i, ok := u.bases[name]; ok {
			return []int32{i}
		}
		return nil
	}
	called := slices.Clone(u.nodes[n].called)
	var others []int32
	for _, provider := range u.nodes[n].providers {
		if provider != n {
			others = append(others, u.nodes[provider].called...)
		}
	}
	for _, list := range [][]int32{called, others} {
		slices.SortStableFunc(list, func(a, b int32) int {
			return cmp.Or(strings.Compare(u.listed[a].Name, u.listed[b].Name), -u.compareVersions(u.listed[a].Version, u.listed[b].Version))
		})
	}
	return append(called, others...)
}

// Selected returns a package with its feed.
func (u *Universe) selected(i int32) Selected {
	s := Selected{Package: u.listed[i].Package}
	if f := u.listed[i].feed; f >= 0 {
		s.Feed = &u.feeds[f]
	}
	return s
}

// compareVersions compares as the universe's manager does.
func (u *Universe) compareVersions(a, b string) int {
	if u.manager == APK {
		return CompareAPK(a, b)
	}
	return CompareOpkg(a, b)
}

// Versions returns the version of every package by its base name, as the
// index files have it that clients read. Of packages that share one, the
// newest counts. The map is shared: it may not be changed.
func (u *Universe) Versions() map[string]string { return u.versions() }

func (u *Universe) collectVersions() map[string]string {
	versions := make(map[string]string, len(u.listed))
	for _, p := range u.listed {
		if p.feed < 0 {
			continue
		}
		base := p.BaseName()
		if old, ok := versions[base]; !ok || u.compareVersions(p.Version, old) > 0 {
			versions[base] = p.Version
		}
	}
	return versions
}

// RequiredBy returns the names, without ABI suffix, of up to n packages that
// depend on name or on what a package of that name provides, sorted.
func (u *Universe) RequiredBy(name string, n int) []string {
	meant := map[string]bool{name: true}
	for _, i := range u.find(name) {
		p := u.listed[i]
		if p.Name == name || p.BaseName() == name {
			meant[p.Name] = true
			for _, r := range p.Provides {
				meant[r.Name] = true
			}
		}
	}
	found := map[string]bool{}
	for _, p := range u.listed {
		for _, r := range p.Depends {
			if meant[r.Name] {
				found[p.BaseName()] = true
				break
			}
		}
	}
	delete(found, name)
	names := slices.Sorted(maps.Keys(found))
	return names[:min(n, len(names))]
}

// Wish is what an image shall hold, as the ImageBuilder's Makefile puts it
// together (openwrt/openwrt target/imagebuilder/files/Makefile, BUILD_PACKAGES).
type Wish struct {
	Default   []string // the target's default packages
	Device    []string // the profile's; "-name" takes a default one away
	Requested []string // the user's; "-name" removes
}

// Selected is a package that will be in the image.
type Selected struct {
	*Package
	// Feed is nil for what is in no feed because the builder brings it with
	// it: opkg's libc, whose version is then "", and kernel.
	Feed   *Feed
	Reason string // a package that needs it; "" for one that was asked for or is a default
}

// Solution is what the package manager will make of a Wish.
type Solution struct {
	Selected []Selected // sorted by name
	Problems []imagebuilder.Problem
	// Certain tells that the ImageBuilder installs exactly Selected, or
	// fails for Problems, as far as package indexes tell: they know nothing of
	// files that two packages both hold, nor of scripts that fail. Where it is
	// false Doubts say why, a sentence each, and Selected and Problems are the
	// best guess.
	Certain bool
	Doubts  []string

	// roots are, of each problem, the names in the wish that lead to it.
	roots [][]string
}

// Solve tells what the package manager will make of a wish. It takes bounded
// time and always gives the same answer to the same question.
func (u *Universe) Solve(w Wish) *Solution {
	if u.manager == APK {
		return u.solveAPK(w)
	}
	return u.solveOpkg(w)
}

// Manifest returns the versions of what is selected by base names, as the
// manifest that the ImageBuilder writes. Packages that the builder brings with
// it and whose version is not known are left out.
func (s *Solution) Manifest() imagebuilder.Manifest {
	m := make(imagebuilder.Manifest, len(s.Selected))
	for _, p := range s.Selected {
		if p.Version != "" {
			m[p.BaseName()] = p.Version
		}
	}
	return m
}

// Download returns the size of all selected packages' files, in bytes.
func (s *Solution) Download() int64 {
	var total int64
	for _, p := range s.Selected {
		total += p.Size
	}
	return total
}

// Installed returns the size of all selected packages when installed, before
// any compression, in bytes.
func (s *Solution) Installed() int64 {
	var total int64
	for _, p := range s.Selected {
		total += p.InstalledSize
	}
	return total
}

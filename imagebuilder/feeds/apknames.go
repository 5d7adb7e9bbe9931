package feeds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxAPKFeeds is how many repositories apk takes.
const maxAPKFeeds = 32

// apkTables are a universe's packages as apk keeps them: by name, with all
// that provide a name and all that look at it. Orders are apk's, since what it
// chooses depends on them. Facts from alpinelinux/apk-tools src/database.c.
type apkTables struct {
	names  []apkName
	byName map[string]int32
	pkgs   []apkPackage
	// conditional are the packages that have an InstallIf.
	conditional []int32
	doubts      []string
}

// apkName is a name that packages have, provide or depend on.
type apkName struct {
	name      string
	providers []apkProvider
	// The names of packages that depend on it or conflict with it, and of
	// those that have it in their InstallIf; what they provide, too.
	dependents, conditional []int32
	called                  bool // there is a package called so
}

// apkProvider is a package that provides a name, in a version or ("") in none.
type apkProvider struct {
	pkg     int32 // -1 for nothing
	version string
}

type apkPackage struct {
	*Package
	feed      int32 // the first that has it
	name      int32
	foreign   bool     // for another architecture
	depends   []apkDep // and conflicts, in the order of names
	provides  []apkDep
	installIf []apkDep
}

// apkDep is a relation between a package and a name.
type apkDep struct {
	version  string
	name     int32
	match    apkMatch
	conflict bool
}

// newAPKTables reads the indexes in order, as apk does.
func newAPKTables(arch string, feeds []Feed) *apkTables {
	total := 0
	for _, f := range feeds {
		if f.Index != nil {
			total += len(f.Index.Packages)
		}
	}
	t := &apkTables{byName: make(map[string]int32, 2*total), names: make([]apkName, 0, 2*total), pkgs: make([]apkPackage, 0, total)}
	known := make(map[string]bool, total)
	for i, f := range feeds {
		if f.Index == nil {
			continue
		}
		if f.Index.NamesOnly {
			t.doubts = append(t.doubts, fmt.Sprintf("Of the feed %s only names and versions are known.", f.Name))
		}
		if f.Index.Skipped > 0 {
			t.doubts = append(t.doubts, fmt.Sprintf("The feed %s has %d entries that cannot be read.", f.Name, f.Index.Skipped))
		}
		for j := range f.Index.Packages {
			p := &f.Index.Packages[j]
			identity := p.Identity[:min(len(p.Identity), 20)] // apk tells packages apart by so much
			if identity == "" {
				identity = fmt.Sprint(i, " ", j)
			}
			if !known[identity] {
				known[identity] = true
				t.add(int32(i), p, arch)
			}
		}
	}
	if len(feeds) > maxAPKFeeds {
		t.doubts = append(t.doubts, fmt.Sprintf("There are more than the %d feeds that apk takes.", maxAPKFeeds))
	}
	t.link()
	return t
}

// id returns the number of a name, made if there is none.
func (t *apkTables) id(name string) int32 {
	n, ok := t.byName[name]
	if !ok {
		n = int32(len(t.names))
		t.names = append(t.names, apkName{name: name})
		t.byName[name] = n
	}
	return n
}

func (t *apkTables) add(feed int32, p *Package, arch string) {
	q := apkPackage{Package: p, feed: feed, name: t.id(p.Name)}
	q.foreign = arch != "" && p.Architecture != "" && p.Architecture != "all" && p.Architecture != arch
	q.depends = t.deps(p.Depends, p.Conflicts)
	q.provides = t.deps(p.Provides, nil)
	q.installIf = t.deps(p.InstallIf, nil)
	for _, r := range p.Recommends {
		t.id(r.Name) // it is only known by name
	}
	n := int32(len(t.pkgs))
	t.pkgs = append(t.pkgs, q)
	name := &t.names[q.name]
	name.called = true
	name.providers = append(name.providers, apkProvider{n, p.Version})
	for _, d := range q.provides {
		t.names[d.name].providers = append(t.names[d.name].providers, apkProvider{n, d.version})
	}
	if len(q.installIf) > 0 {
		t.conditional = append(t.conditional, n)
	}
}

// deps joins what is wanted and what must not be in the order of names, which
// is the order that an index has them in.
func (t *apkTables) deps(wanted, conflicts []Relation) []apkDep {
	if len(wanted)+len(conflicts) == 0 {
		return nil
	}
	list := make([]apkDep, 0, len(wanted)+len(conflicts))
	for len(wanted)+len(conflicts) > 0 {
		conflict := len(wanted) == 0 || len(conflicts) > 0 && conflicts[0].Name < wanted[0].Name
		from := &wanted
		if conflict {
			from = &conflicts
		}
		r := (*from)[0]
		*from = (*from)[1:]
		op, negated := strings.CutPrefix(r.Op, "!")
		list = append(list, apkDep{name: t.id(r.Name), match: newAPKMatch(op), version: r.Version, conflict: conflict || negated})
	}
	return list
}

// link notes for every name who looks at it. Apk does so in the order of its
// table of names, which the order of its choices follows from.
func (t *apkTables) link() {
	depended, conditioned := make([]int32, len(t.names)), make([]int32, len(t.names))
	for _, n := range t.hashed() {
		stamp := n + 1
		for _, p := range t.names[n].providers {
			for _, d := range t.pkgs[p.pkg].depends {
				if depended[d.name] != stamp {
					depended[d.name] = stamp
					t.names[d.name].dependents = append(t.names[d.name].dependents, n)
				}
			}
			for _, d := range t.pkgs[p.pkg].installIf {
				if conditioned[d.name] != stamp {
					conditioned[d.name] = stamp
					t.names[d.name].conditional = append(t.names[d.name].conditional, n)
				}
			}
		}
	}
}

// hashed returns the names in the order of apk's hash table, which has 20,000
// buckets, the last comer first in each.
func (t *apkTables) hashed() []int32 {
	const buckets = 20_000
	bucket := make([]uint32, len(t.names))
	order := make([]int32, len(t.names))
	for i := range t.names {
		bucket[i] = murmur3(t.names[i].name, 5381) % buckets
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Or(cmp.Compare(bucket[a], bucket[b]), cmp.Compare(b, a)) })
	return order
}

// murmur3 is MurmurHash3's x86_32.
func murmur3(s string, seed uint32) uint32 {
	mix := func(k uint32) uint32 {
		k *= 0xcc9e2d51
		return (k<<15 | k>>17) * 0x1b873593
	}
	h, rest := seed, s
	for ; len(rest) >= 4; rest = rest[4:] {
		h ^= mix(uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16 | uint32(rest[3])<<24)
		h = (h<<13|h>>19)*5 + 0xe6546b64
	}
	var tail uint32
	for i := len(rest) - 1; i >= 0; i-- {
		tail = tail<<8 | uint32(rest[i])
	}
	h ^= mix(tail) ^ uint32(len(s))
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// provided tells whether a package that provides a name meets what another
// says of the name. To nothing (-1) only conflicts are met, and by itself a
// package is never disturbed.
func (d *apkDep) provided(by apkProvider, asking int32) bool {
	if by.pkg < 0 {
		return d.conflict
	}
	if d.conflict {
		return asking == by.pkg || !d.match.met(by.version, d.version)
	}
	return d.match.met(by.version, d.version)
}

// displayOrder is the order in which apk lists names.
func displayOrder(a, b string) int {
	return cmp.Or(compareFolded(a, b), strings.Compare(a, b))
}

func compareFolded(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := folded(a[i]), folded(b[i]); x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

func folded(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

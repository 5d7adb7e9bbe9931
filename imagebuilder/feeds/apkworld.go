package feeds

import (
	"slices"
	"strings"
)

// apkWanted is one package on apk's command line.
type apkWanted struct {
	asked string // the name in the wish
	name  string // what apk is asked for
}

// withSuffixes adds to names what the Makefile adds since 2026 (FormatPackages,
// GetABISuffix): the ABI suffixes of all packages that provide the name and
// have one. Of several, those after the first become names of their own: the
// fault is the Makefile's.
func (t *apkTables) withSuffixes(wishes []string) (wanted []apkWanted, changed bool) {
	for _, name := range wishes {
		words := []string{name}
		if suffixes := t.suffixes(name); len(suffixes) > 0 {
			words = append([]string{name + suffixes[0]}, suffixes[1:]...)
			changed = true
		}
		for _, word := range words {
			wanted = append(wanted, apkWanted{asked: name, name: word})
		}
	}
	return wanted, changed
}

// suffixes returns the ABI suffixes of the packages that provide a name other
// than their own; of packages of one name the newest counts.
func (t *apkTables) suffixes(name string) []string {
	n, ok := t.byName[name]
	if !ok {
		return nil
	}
	newest := map[int32]int32{} // by name
	for _, p := range t.names[n].providers {
		pkg := &t.pkgs[p.pkg]
		if !slices.ContainsFunc(pkg.provides, func(d apkDep) bool { return d.name == n }) {
			continue
		}
		if other, ok := newest[pkg.name]; !ok || compareAPK(pkg.Version, t.pkgs[other].Version, false) > 0 {
			newest[pkg.name] = p.pkg
		}
	}
	var pkgs []int32
	for _, pkg := range newest {
		pkgs = append(pkgs, pkg)
	}
	slices.SortFunc(pkgs, func(a, b int32) int { return displayOrder(t.pkgs[a].Name, t.pkgs[b].Name) })
	var suffixes []string
	for _, pkg := range pkgs {
		for _, tag := range t.pkgs[pkg].Tags {
			if suffix, ok := strings.CutPrefix(tag, tagABI); ok {
				suffix, _, _ = strings.Cut(suffix, "=")
				suffixes = append(suffixes, suffix)
			}
		}
	}
	return suffixes
}

// apkWorld is what apk is asked for, in the order in which it looks at it.
type apkWorld struct {
	deps   []apkDep
	asked  []string    // of each: the name in the wish
	absent []apkWanted // names that nothing is called, provides or depends on
}

// world turns names into dependencies.
func (t *apkTables) world(wanted []apkWanted) *apkWorld {
	w := &apkWorld{}
	seen := map[int32]bool{}
	type entry struct {
		dep   apkDep
		asked string
	}
	var entries []entry
	for _, x := range wanted {
		n, ok := t.byName[x.name]
		if !ok {
			w.absent = append(w.absent, x)
			continue
		}
		if !seen[n] {
			seen[n] = true
			entries = append(entries, entry{apkDep{name: n, match: matchAny}, x.asked})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return displayOrder(t.names[a.dep.name].name, t.names[b.dep.name].name)
	})
	for _, e := range entries {
		w.deps = append(w.deps, e.dep)
		w.asked = append(w.asked, e.asked)
	}
	return w
}

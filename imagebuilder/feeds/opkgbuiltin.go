package feeds

import (
	"strings"

	"attendant/imagebuilder"
)

// addOpkgBuiltins lists the libc and kernel packages if no feed has them:
// release builders keep those two files to themselves and install them before
// all else. The kernel's version is the one that most packages are bound to.
func (u *Universe) addOpkgBuiltins() {
	if u.newest("libc") < 0 {
		p := &Package{Name: "libc", Architecture: u.arch}
		if u.Has("libgcc") {
			p.Depends = []Relation{{Name: "libgcc"}}
		}
		u.add(p, -1)
	}
	if u.newest("kernel") < 0 {
		bound := map[string]int{}
		version := ""
		for _, p := range u.listed {
			for _, r := range p.Depends {
				if r.Name != "kernel" || r.Op != "=" {
					continue
				}
				if bound[r.Version]++; bound[r.Version] > bound[version] {
					version = r.Version
				}
			}
		}
		u.add(&Package{Name: "kernel", Version: version, Architecture: u.arch}, -1)
	}
}

// PackageOfFile reads what the name of a package's file tells, as in
// "libc_1.2.4-4_mips_24kc.ipk": with it the two packages that a release builder
// keeps to itself can be added to a universe as a feed of their own, so that
// their versions are known.
func PackageOfFile(file string) (Package, bool) {
	name, rest, ok := strings.Cut(strings.TrimSuffix(file, ".ipk"), "_")
	version, architecture, both := strings.Cut(rest, "_")
	if !ok || !both || !strings.HasSuffix(file, ".ipk") || !imagebuilder.ValidPackageName(name) ||
		version == "" || !imagebuilder.ValidPackageVersion(version) || !imagebuilder.ValidArch(architecture) {
		return Package{}, false
	}
	return Package{Name: name, Version: version, Architecture: architecture, Filename: file}, true
}

package feeds

import (
	"cmp"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Weight is how much a selection of packages holds.
type Weight struct {
	// Download is the sum of the packages' Size in bytes, without those that
	// the builder brings with it (libc, kernel, base-files): they weigh the
	// same in every image, and not every feed has them. InstalledSize would
	// not do: opkg's indexes have there what the package takes compressed,
	// apk's what it takes unpacked.
	Download int64
	// Packages is their number, and Unknown how many of them have no size.
	Packages, Unknown int
	// Hollow is how many bytes more the packages would take that unpack to
	// more than eight times their size: what becomes of such content depends
	// on how the file system packs it.
	Hollow int64
	// Optional are those that only the user's wishes bring, the largest first.
	Optional []Sized
}

// Sized is a package with the space it takes.
type Sized struct {
	Name          string `json:"name"`
	InstalledSize int64  `json:"installed_size"` // bytes, as in the index
}

// Weigh sums up a solution. Optional are the packages that neither the
// target's nor the device's default ones need.
func (s *Solution) Weigh(w Wish) Weight {
	weight := weigh(s.Selected)
	needed := s.neededBy(slices.Concat(w.Default, w.Device))
	for _, p := range s.Selected {
		if !needed[p.Package] && p.InstalledSize > 0 {
			weight.Optional = append(weight.Optional, Sized{p.BaseName(), p.InstalledSize})
		}
	}
	slices.SortStableFunc(weight.Optional, func(a, b Sized) int {
		return cmp.Or(cmp.Compare(b.InstalledSize, a.InstalledSize), strings.Compare(a.Name, b.Name))
	})
	return weight
}

// neededBy returns the selected packages that those named need, with what is
// in every image; "-name" names none.
func (s *Solution) neededBy(names []string) map[*Package]bool {
	byName := map[string]*Package{}
	// Those called so come before those that provide it.
	for _, p := range s.Selected {
		for _, r := range p.Provides {
			byName[r.Name] = p.Package
		}
	}
	for _, p := range s.Selected {
		byName[p.BaseName()] = p.Package
	}
	for _, p := range s.Selected {
		byName[p.Name] = p.Package
	}
	needed := map[*Package]bool{}
	var open []*Package
	need := func(name string) {
		if p := byName[name]; p != nil && !needed[p] {
			needed[p] = true
			open = append(open, p)
		}
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "-") {
			need(name)
		}
	}
	// These are in every image, whoever needs them.
	need("libc")
	need("kernel")
	need("base-files")
	for len(open) > 0 {
		p := open[len(open)-1]
		open = open[:len(open)-1]
		for _, r := range p.Depends {
			need(r.Name)
		}
	}
	return needed
}

// spare is how many bytes of package files would go with each requested
// package, the most first; those that save nothing are left out.
func (s *Solution) spare(w Wish) []spared {
	own := set(w.Default, w.Device)
	var list []spared
	for i, name := range w.Requested {
		if strings.HasPrefix(name, "-") || own[name] {
			continue
		}
		needed := s.neededBy(slices.Concat(w.Default, w.Device, w.Requested[:i], w.Requested[i+1:]))
		var bytes int64
		for _, p := range s.Selected {
			if !needed[p.Package] {
				bytes += p.Size
			}
		}
		if bytes > 0 {
			list = append(list, spared{name, bytes})
		}
	}
	slices.SortStableFunc(list, func(a, b spared) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), strings.Compare(a.name, b.name))
	})
	return list
}

type spared struct {
	name  string
	bytes int64
}

func weigh(selected []Selected) Weight {
	var weight Weight
	for _, p := range selected {
		weight.Packages++
		switch {
		case ofTheBuilder(p.Name):
		case p.Size <= 0:
			weight.Unknown++
		default:
			weight.Download += p.Size
			if p.InstalledSize/8 > p.Size {
				weight.Hollow += p.InstalledSize - p.Size
			}
		}
	}
	return weight
}

func ofTheBuilder(name string) bool {
	return name == "libc" || name == "kernel" || name == "base-files"
}

// WeighManifest sums up the packages of a finished image, by what the feeds
// that it was built from say of them.
func WeighManifest(m imagebuilder.Manifest, feeds []Feed) Weight {
	type version struct{ name, version string }
	known := map[version]*Package{}
	for _, f := range feeds {
		if f.Index == nil {
			continue
		}
		for i := range f.Index.Packages {
			p := &f.Index.Packages[i]
			if m[p.BaseName()] == p.Version {
				known[version{p.BaseName(), p.Version}] = p
			} else if m[p.Name] == p.Version {
				known[version{p.Name, p.Version}] = p
			}
		}
	}
	selected := make([]Selected, 0, len(m))
	for name, v := range m {
		p := known[version{name, v}]
		if p == nil {
			p = &Package{Name: name}
		}
		selected = append(selected, Selected{Package: p})
	}
	return weigh(selected)
}

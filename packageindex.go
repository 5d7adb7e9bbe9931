package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/upstream"
)

// packageIndex is the packages that an image of one target can hold.
type packageIndex struct {
	versions map[string]string // by names without ABI suffix; not to be changed
	// universe is nil where upstream has names and versions only. Then a name
	// that the index lacks may still be one that a package provides.
	universe *feeds.Universe
}

// indexes keeps the indexes used last.
type indexes struct {
	byGeneration *lru.Cache[string, *packageIndex]
}

func newIndexes() *indexes {
	c, err := lru.New[string, *packageIndex](8)
	if err != nil {
		panic(err) // of a size that is not positive
	}
	return &indexes{c}
}

// packages returns the packages for a target. Its error is that of upstream.
func (c *catalogue) packages(ctx context.Context, t *upstream.Target) (*packageIndex, error) {
	if u := whole(t); u != nil {
		if len(c.feeds) > 0 { // whose packages are not among these
			return &packageIndex{versions: u.Versions()}, nil
		}
		return &packageIndex{u.Versions(), u}, nil
	}
	if x, ok := c.indexes.byGeneration.Get(t.Generation.Digest); ok {
		return x, nil
	}
	arch, err := c.upstream.ArchIndex(ctx, t.Path, t.Arch)
	if err != nil {
		return nil, err
	}
	own, err := c.upstream.TargetIndex(ctx, t.Path, t.Name)
	if err != nil {
		return nil, err
	}
	x := &packageIndex{versions: map[string]string{}}
	var target struct {
		Packages map[string]string `json:"packages"`
	}
	if err := json.Unmarshal(arch, &x.versions); err != nil {
		return nil, fmt.Errorf("read the index of %s: %w", t.Arch, err)
	}
	if err := json.Unmarshal(own, &target); err != nil {
		return nil, fmt.Errorf("read the index of %s: %w", t.Name, err)
	}
	for name, version := range target.Packages { // these win, as for clients
		x.versions[name] = version
	}
	c.indexes.byGeneration.Add(t.Generation.Digest, x)
	return x, nil
}

// find returns a package's name without ABI suffix and its version. A name
// that a package provides has the version of that package.
func (x *packageIndex) find(name string) (base, version string, ok bool) {
	if x.universe != nil {
		found := x.universe.Find(name)
		if len(found) == 0 {
			return "", "", false
		}
		if p := found[0]; p.Name == name {
			return p.BaseName(), p.Version, true
		}
		return name, found[0].Version, true
	}
	if v, ok := x.versions[name]; ok {
		return name, v, true
	}
	// A suffix is what the package's shared library is versioned by:
	// "libubox20240329", "libgadget2-0", "libstdcpp6".
	base = strings.TrimRight(name, "0123456789.")
	if base = strings.TrimSuffix(base, "-"); base == name || base == "" {
		return "", "", false
	}
	v, ok := x.versions[base]
	return base, v, ok
}

func (x *packageIndex) has(name string) bool {
	_, _, ok := x.find(name)
	return ok
}

// exists tells replacements what is in the index, where that is certain.
func (x *packageIndex) exists() func(string) bool {
	if x.universe == nil {
		return nil
	}
	return x.has
}

// newer tells whether an offered version is newer than the installed one, as
// far as that can be told.
func (x *packageIndex) newer(offered, installed string) bool {
	if x.universe == nil {
		return offered != installed
	}
	return x.universe.CompareVersions(offered, installed) > 0
}

// nearest returns up to n names of packages that look like name, the likeliest
// first.
func (x *packageIndex) nearest(name string, n int) []string {
	if x.universe != nil {
		return x.universe.Nearest(name, n)
	}
	known := make([]string, 0, len(x.versions))
	for k := range x.versions {
		known = append(known, k)
	}
	return nearest(name, known, n)
}

// nearest returns up to n of the known names that look like name, the likeliest
// first: those that begin or end with it, or are few edits away.
func nearest(name string, known []string, n int) []string {
	type near struct {
		name     string
		distance int
	}
	limit := max(2, len(name)/4)
	var found []near
	for _, k := range known {
		d := limit + 1
		switch {
		case len(name) >= 4 && (strings.HasPrefix(k, name) || strings.HasSuffix(k, name)):
			d = 1
		case len(k) >= 4 && strings.HasPrefix(name, k+"-"):
			d = 2
		case max(len(k)-len(name), len(name)-len(k)) <= limit:
			d = editDistance(name, k)
		}
		if d <= limit {
			found = append(found, near{k, d})
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	names := make([]string, 0, n)
	for _, f := range found[:min(n, len(found))] {
		names = append(names, f.name)
	}
	return names
}

// nearestShown is how many similar names a person is shown.
const nearestShown = 3

// didYouMean returns a sentence with the names, or nothing.
func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " Did you mean " + orWords(names) + "?"
}

func orWords(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// withNearest adds to e's sentence and to its list the known names that look
// like the unknown one.
func withNearest(e *imagebuilder.Error, name string, known []string) *imagebuilder.Error {
	told := *e
	told.Nearest = nearest(name, known, nearestShown)
	told.Detail += didYouMean(told.Nearest)
	return &told
}

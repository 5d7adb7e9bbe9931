package runner

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"slices"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// maxList bounds one feed's list of packages, unpacked, in bytes.
const maxList = 64 << 20

// checkConflicts refuses a selection in which two packages exclude one another.
// opkg sees a conflict only when the package that declares it comes after the
// other, so without this the order of a request would decide whether there is
// an image, and requests that differ in order share one. apk sees conflicts by
// itself. Conflicts that are bound to versions are left to opkg.
func (a *attempt) checkConflicts(manifest imagebuilder.Manifest) error {
	conf, err := a.read(opkgFeeds)
	if err != nil || conf == "" {
		return err
	}
	var chosen []feeds.Package
	for line := range strings.Lines(conf) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "src/gz" {
			continue
		}
		list, err := a.feedList("dl/" + fields[1])
		if err != nil {
			return err
		}
		for i := range list {
			p := &list[i]
			if manifest[p.BaseName()] == p.Version && (len(p.Conflicts) > 0 || len(p.Provides) > 0) {
				chosen = append(chosen, *p)
			}
		}
	}
	if e := conflictError(manifest, chosen); e != nil {
		return e
	}
	return nil
}

func conflictError(manifest imagebuilder.Manifest, chosen []feeds.Package) *imagebuilder.Error {
	pair := conflict(manifest, chosen)
	if pair == nil {
		return nil
	}
	return imagebuilder.Errorf(imagebuilder.CodePackageConflict,
		"Error: Impossible package selection: conflicts (%s). They exclude one another: leave one of them out.", strings.Join(pair, ", "))
}

// conflict returns the names of two chosen packages that exclude one another,
// sorted, or nil. chosen are those of the manifest that declare something.
func conflict(manifest imagebuilder.Manifest, chosen []feeds.Package) []string {
	for _, p := range chosen {
		for _, against := range p.Conflicts {
			if against.Op != "" {
				continue
			}
			other := ""
			if manifest[against.Name] != "" {
				other = against.Name
			}
			for _, q := range chosen {
				provides := slices.ContainsFunc(q.Provides, func(r feeds.Relation) bool { return r.Name == against.Name })
				if q.Name == against.Name || provides && q.BaseName() != p.BaseName() {
					other = q.BaseName()
				}
			}
			if other != "" && other != p.BaseName() {
				pair := []string{p.BaseName(), other}
				slices.Sort(pair)
				return pair
			}
		}
	}
	return nil
}

// feedList reads a feed's list as opkg has kept it: as it came, so compressed.
// One that is not there, because it could not be had, has no conflicts.
func (a *attempt) feedList(name string) ([]feeds.Package, error) {
	text, err := a.read(name)
	if err != nil || text == "" {
		return nil, err
	}
	data := []byte(text)
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("unpacking the list %s: %w", name, err)
		}
		if data, err = io.ReadAll(io.LimitReader(z, maxList)); err != nil {
			return nil, fmt.Errorf("unpacking the list %s: %w", name, err)
		}
	}
	index, err := feeds.ParsePackages(data)
	if err != nil {
		return nil, fmt.Errorf("reading the list %s: %w", name, err)
	}
	return index.Packages, nil
}

package replacements

import (
	"cmp"
	"slices"

	"attendant/imagebuilder"
)

// PackageChanges returns the changes for clients that apply them on their
// own, by revision: those in force in a branch that left the main one at
// revision branchOff, or all for 0, the main branch itself. Never nil.
func (s *Set) PackageChanges(distro string, branchOff int) []imagebuilder.PackageChange {
	changes := []imagebuilder.PackageChange{}
	for _, t := range s.tables(distro) {
		for _, r := range t.rules() {
			if !r.published || branchOff > 0 && r.revision > branchOff {
				continue
			}
			c := imagebuilder.PackageChange{Source: r.old, Revision: r.revision, Mandatory: r.mandatory}
			for _, o := range r.options {
				if o.byDefault {
					c.Target = o.name
				}
			}
			if c.Target == r.old || c.Target == "" && len(r.options) > 0 {
				continue // nothing that a client could do by itself
			}
			changes = append(changes, c)
		}
	}
	slices.SortFunc(changes, func(a, b imagebuilder.PackageChange) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Source, b.Source))
	})
	return changes
}

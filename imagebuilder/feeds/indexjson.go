package feeds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// ParseIndexJSON reads an index.json: {"version":2,"architecture":…,
// "packages":{name:version}} (openwrt/openwrt scripts/make-index-json.py).
// From version 2 on names are without ABI suffix; version 1, which has no
// version member, keeps the suffixes and nothing tells how long they are.
// Entries without a usable name or version are counted and skipped.
func ParseIndexJSON(data []byte) (*Index, error) {
	var doc struct {
		Version      json.Number                `json:"version"`
		Architecture string                     `json:"architecture"`
		Packages     map[string]json.RawMessage `json:"packages"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotIndex, err)
	}
	if doc.Packages == nil {
		return nil, fmt.Errorf("no packages in it: %w", ErrNotIndex)
	}
	if len(doc.Packages) > MaxPackages {
		return nil, fmt.Errorf("more than %d packages in one index", MaxPackages)
	}
	version, _ := doc.Version.Int64()
	x := &Index{ABIFree: version >= 2, NamesOnly: true, Packages: make([]Package, 0, len(doc.Packages))}
	if imagebuilder.ValidArch(doc.Architecture) {
		x.Architecture = doc.Architecture
	}
	for name, raw := range doc.Packages {
		var v string
		if json.Unmarshal(raw, &v) != nil || v == "" ||
			!imagebuilder.ValidPackageName(name) || !imagebuilder.ValidPackageVersion(v) {
			x.Skipped++
			continue
		}
		x.Packages = append(x.Packages, Package{Name: name, Version: v})
	}
	slices.SortFunc(x.Packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return x, nil
}

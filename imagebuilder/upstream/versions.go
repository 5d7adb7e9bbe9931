package upstream

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

const (
	versionsPath = ".versions.json"
	maxVersions  = 2000
	maxTargets   = 2000
)

// versionList is upstream's .versions.json.
type versionList struct {
	stable, oldstable, upcoming string
	all                         []string
	absent                      bool // upstream has no such file
}

// parseVersions reads a .versions.json. What is no version in it is dropped.
func parseVersions(data []byte) (*versionList, error) {
	var doc struct {
		Stable    json.RawMessage   `json:"stable_version"`
		Oldstable json.RawMessage   `json:"oldstable_version"`
		Upcoming  json.RawMessage   `json:"upcoming_version"`
		List      []json.RawMessage `json:"versions_list"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading %s: %w", versionsPath, err)
	}
	version := func(raw json.RawMessage) string {
		var s string
		if json.Unmarshal(raw, &s) != nil || !imagebuilder.ValidVersion(s) {
			return ""
		}
		return s
	}
	l := &versionList{stable: version(doc.Stable), oldstable: version(doc.Oldstable), upcoming: version(doc.Upcoming)}
	if len(doc.List) > maxVersions {
		return nil, fmt.Errorf("reading %s: it lists more than %d versions", versionsPath, maxVersions)
	}
	add := func(v string) {
		if v != "" && !slices.Contains(l.all, v) {
			l.all = append(l.all, v)
		}
	}
	add(l.upcoming)
	add(l.stable)
	add(l.oldstable)
	for _, raw := range doc.List {
		add(version(raw))
	}
	if len(l.all) == 0 {
		return nil, fmt.Errorf("reading %s: there is no version in it", versionsPath)
	}
	return l, nil
}

func (u *Upstream) buildVersions(s *session) (*versionList, error) {
	data, err := s.get(versionsPath, maxListSize)
	if errors.Is(err, errAbsent) {
		if s.old.file(versionsPath) != nil {
			return nil, err // it was there: upstream is being rearranged
		}
		return &versionList{absent: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return parseVersions(data)
}

// targetList is upstream's .targets.json: target to package architecture.
type targetList map[string]string

// parseTargets reads a .targets.json. Entries that are no target are dropped.
func parseTargets(data []byte) (targetList, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading .targets.json: %w", err)
	}
	list := targetList{}
	for target, raw := range doc {
		var arch string
		if json.Unmarshal(raw, &arch) != nil || !imagebuilder.ValidTarget(target) || !imagebuilder.ValidArch(arch) {
			continue
		}
		list[target] = arch
	}
	if len(list) > maxTargets {
		return nil, fmt.Errorf("reading .targets.json: it lists more than %d targets", maxTargets)
	}
	if len(list) == 0 {
		return nil, errors.New("reading .targets.json: there is no target in it")
	}
	return list, nil
}

func (u *Upstream) buildTargets(path string) func(s *session) (*targetList, error) {
	return func(s *session) (*targetList, error) {
		data, err := s.get(path+"/.targets.json", maxListSize)
		if err != nil {
			return nil, err
		}
		list, err := parseTargets(data)
		if err != nil {
			return nil, err
		}
		return &list, nil
	}
}

// branchOf is the branch's name of a version that no table knows: "24.10" of
// "24.10.4", "24.10.0-rc1" and "24.10-SNAPSHOT".
func branchOf(version string) string {
	if version == snapshotName {
		return snapshotName
	}
	if base, ok := strings.CutSuffix(version, "-"+snapshotName); ok {
		return base
	}
	if i := strings.LastIndexByte(version, '.'); i > 0 {
		return version[:i]
	}
	return version
}

// CompareVersions orders versions oldest first: numbers as numbers, a release
// candidate before its release, a branch's snapshot before its releases (it is
// what nobody upgrades to by itself), and SNAPSHOT after everything.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	if a == snapshotName || b == snapshotName {
		return cmp.Compare(btoi(a == snapshotName), btoi(b == snapshotName))
	}
	if c := compareDotted(branchOf(a), branchOf(b)); c != 0 {
		return c
	}
	snapA, snapB := strings.HasSuffix(a, "-"+snapshotName), strings.HasSuffix(b, "-"+snapshotName)
	if snapA != snapB {
		return btoi(snapB) - btoi(snapA)
	}
	baseA, rcA, isA := strings.Cut(a, "-")
	baseB, rcB, isB := strings.Cut(b, "-")
	if c := compareDotted(baseA, baseB); c != 0 {
		return c
	}
	if isA != isB {
		return btoi(isB) - btoi(isA)
	}
	if c := compareDotted(strings.TrimPrefix(rcA, "rc"), strings.TrimPrefix(rcB, "rc")); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func compareDotted(a, b string) int {
	partsA, partsB := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(partsA), len(partsB)) {
		numA, errA := strconv.ParseUint(partsA[i], 10, 64)
		numB, errB := strconv.ParseUint(partsB[i], 10, 64)
		c := strings.Compare(partsA[i], partsB[i])
		switch {
		case errA == nil && errB == nil:
			c = cmp.Compare(numA, numB)
		case errA == nil: // a number is newer than a word
			c = 1
		case errB == nil:
			c = -1
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(partsA), len(partsB))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func newestFirst(versions []string) {
	slices.SortFunc(versions, func(a, b string) int { return CompareVersions(b, a) })
}

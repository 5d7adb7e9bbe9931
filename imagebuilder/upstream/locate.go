package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"attendant/imagebuilder"
)

// Location is where a device is in a release.
type Location struct {
	Version string
	Target  string // as "ath79/generic"
	Profile string // its id; "" where the question names no device
	Titles  []imagebuilder.Title
	Moved   bool // it is another target than the one asked for
}

// renamedPlatforms are platforms whose devices are found under other names in
// later releases (openwrt/openwrt: ar71xx removed in 2019-12 in favour of
// ath79, brcm2708 renamed bcm27xx in 2020-02, brcm47xx bcm47xx and brcm63xx
// bcm63xx in 2020-04, imx6 imx in 2022-08, armvirt armsr in 2023-05, bcm63xx
// left for bmips in 2024, ipq807x renamed qualcommax in 2023-09).
var renamedPlatforms = map[string][]string{
	"ar71xx":   {"ath79"},
	"brcm2708": {"bcm27xx"},
	"brcm47xx": {"bcm47xx"},
	"brcm63xx": {"bcm63xx", "bmips"},
	"bcm63xx":  {"bmips"},
	"imx6":     {"imx"},
	"armvirt":  {"armsr"},
	"ipq807x":  {"qualcommax"},
}

// renamedTargets are those that kept their devices under another subtarget.
var renamedTargets = map[string]string{
	"armvirt/32":      "armsr/armv7",
	"armvirt/64":      "armsr/armv8",
	"imx6/generic":    "imx/cortexa9",
	"ipq807x/generic": "qualcommax/ipq807x",
	"layerscape/32b":  "layerscape/armv7",
	"layerscape/64b":  "layerscape/armv8_64b",
	"mediatek/32":     "mediatek/mt7623",
	"mvebu/generic":   "mvebu/cortexa9",
	"oxnas/generic":   "oxnas/ox820",
	"ramips/mt7628":   "ramips/mt76x8",
}

// Locate finds a device in a release, where older releases may have called its
// target otherwise: first in the target itself, then in what that target has
// become, then in the others of its platform. names are what the device is
// called (profile id, board name, model), the surest first: if several devices
// answer to one, the next decides among them. Without names it finds the
// target alone. The errors are CodeUnsupportedVersion, CodeUnsupportedTarget,
// CodeUnsupportedProfile, CodeUpstreamUnavailable and CodeAmbiguousProfile:
// nothing is guessed, the sentence lists those to choose from.
func (u *Upstream) Locate(ctx context.Context, version, target string, names ...string) (*Location, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	list, _, err := u.targetsOf(ctx, version)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	rings := rings(target, list)
	if len(rings) == 0 {
		_, _, _, err := u.coreFor(ctx, version, target) // says it as always
		return nil, err
	}
	if len(names) == 0 {
		to, err := soleTarget(version, target, rings[0])
		if err != nil {
			return nil, err
		}
		return &Location{Version: version, Target: to, Moved: to != target}, nil
	}
	var seen []*ProfilesJSON
	for _, ring := range rings {
		profiles, err := u.profilesOf(ctx, version, ring)
		if err != nil {
			return nil, err
		}
		found, err := resolveAmong(profiles, names, len(ring) == 1)
		if err != nil {
			return nil, err
		}
		if found != nil {
			return &Location{
				Version: version, Target: found.target, Profile: found.profile.ID, Titles: found.profile.Titles, Moved: found.target != target,
			}, nil
		}
		seen = append(seen, profiles...)
	}
	if near := nearly(seen, names); len(near) > 0 {
		return nil, ambiguous(names[0], near)
	}
	return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedProfile,
		"Unsupported profile: %s. %s has no such device in %s. The requested profile was either dropped or never existed. Please check the forums for more information.",
		strings.Join(names, ", "), version, targetNames(seen))
}

func targetNames(profiles []*ProfilesJSON) string {
	var names []string
	for _, p := range profiles {
		names = append(names, p.Target)
	}
	return strings.Join(names, ", ")
}

// rings are the targets in which a device of target may be, nearest first.
func rings(target string, list targetList) [][]string {
	var rings [][]string
	used := map[string]bool{}
	add := func(targets ...string) {
		targets = slices.DeleteFunc(targets, func(t string) bool { _, offered := list[t]; return !offered || used[t] })
		for _, t := range targets {
			used[t] = true
		}
		if len(targets) > 0 {
			slices.Sort(targets)
			rings = append(rings, targets)
		}
	}
	add(target)
	add(renamedTargets[target])
	platform, subtarget, _ := strings.Cut(target, "/")
	successors := renamedPlatforms[platform]
	if platform != "ar71xx" { // ath79 sorts its devices otherwise
		for _, successor := range successors {
			add(successor + "/" + subtarget)
		}
	}
	var rest []string
	for t := range list {
		p, _, _ := strings.Cut(t, "/")
		if p == platform || slices.Contains(successors, p) {
			rest = append(rest, t)
		}
	}
	add(rest...)
	return rings
}

// soleTarget chooses where nothing is known of the device: the target itself,
// its only successor, or the one of the same name.
func soleTarget(version, target string, ring []string) (string, error) {
	if len(ring) == 1 {
		return ring[0], nil
	}
	_, subtarget, _ := strings.Cut(target, "/")
	for _, t := range ring {
		if strings.HasSuffix(t, "/"+subtarget) {
			return t, nil
		}
	}
	return "", imagebuilder.Errorf(imagebuilder.CodeUnsupportedTarget,
		"Unsupported target: %s. In %s its devices are in %s. Please name yours, or ask for one of these targets.", target, version, strings.Join(ring, ", "))
}

// profilesOf gets the profiles of several targets.
func (u *Upstream) profilesOf(ctx context.Context, version string, targets []string) ([]*ProfilesJSON, error) {
	profiles := make([]*ProfilesJSON, len(targets))
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, target := range targets {
		wg.Go(func() { profiles[i], errs[i] = u.Profiles(ctx, version, target) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("looking for a device in %s: %w", targets[i], err)
		}
	}
	return profiles, nil
}

// candidate is a profile of one of several targets.
type candidate struct {
	target  string
	profile *Profile
}

// resolveAmong finds the one profile that answers to the names. It is nil if
// none does. alone says that the targets are one: then a target with nothing
// but "generic" takes every name.
func resolveAmong(targets []*ProfilesJSON, names []string, alone bool) (*candidate, error) {
	var left []candidate
	by := ""
	for _, name := range names {
		answering := answersTo(targets, name)
		switch {
		case len(answering) == 0:
			continue
		case left == nil:
			left, by = answering, name
		default:
			both := slices.DeleteFunc(slices.Clone(left), func(c candidate) bool { return !slices.Contains(answering, c) })
			if len(both) == 0 {
				continue // the surer name counts
			}
			left = both
		}
		if len(left) == 1 {
			return &left[0], nil
		}
	}
	if len(left) > 0 {
		return nil, ambiguous(by, left)
	}
	if alone {
		if generic := targets[0].Profiles["generic"]; generic != nil && len(targets[0].Profiles) == 1 {
			return &candidate{targets[0].Target, generic}, nil
		}
	}
	return nil, nil
}

// ambiguous lists what answers to a name; several releases' ids of one target
// each are told with their target.
func ambiguous(name string, candidates []candidate) error {
	single := !slices.ContainsFunc(candidates, func(c candidate) bool { return c.target != candidates[0].target })
	lines := make([]string, 0, len(candidates))
	for _, c := range candidates[:min(len(candidates), maxDeviceNames)] {
		d := Device{Profile: c.profile.ID, Titles: c.profile.Titles}
		line := c.profile.ID
		if title := d.Title(); title != line {
			line += " (" + title + ")"
		}
		if !single {
			line = c.target + " " + line
		}
		lines = append(lines, line)
	}
	what := "Several devices may be meant: %s."
	if len(candidates) == 1 {
		what = "It may be %s, which is not certain."
	}
	return imagebuilder.Errorf(imagebuilder.CodeAmbiguousProfile,
		"Ambiguous profile: %s. "+what+" Please ask for the one that it is.", name, strings.Join(lines, ", "))
}

// answersTo lists the profiles that a name certainly means, the surest way
// first: the id, or the id as a board name; a supported device or the name in
// image files; the id as releases before 2019 had it, without the vendor; a
// title, in any spelling; a title without the brand. A title like
// "CPE510/520" means either.
func answersTo(targets []*ProfilesJSON, name string) []candidate {
	ways := []func(p *ProfilesJSON) []string{
		func(p *ProfilesJSON) []string {
			if _, ok := p.Profiles[fold(name)]; ok {
				return []string{fold(name)}
			}
			return nil
		},
		func(p *ProfilesJSON) []string { return p.names[fold(name)] },
		func(p *ProfilesJSON) []string { return p.names[loosely(name)] },
		func(p *ProfilesJSON) []string { return p.matching(name, idWithoutVendor) },
		func(p *ProfilesJSON) []string { return p.matching(name, fullTitles) },
		func(p *ProfilesJSON) []string { return p.matching(name, titlesWithoutVendor) },
	}
	for _, way := range ways {
		var found []candidate
		for _, p := range targets {
			for _, id := range way(p) {
				found = append(found, candidate{p.Target, p.Profiles[id]})
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

func idWithoutVendor(p *Profile) []string {
	if _, rest, ok := strings.Cut(p.ID, "_"); ok {
		return []string{rest}
	}
	return nil
}

func fullTitles(p *Profile) []string {
	titles := make([]string, len(p.Titles))
	for i, t := range p.Titles {
		titles[i] = t.String()
	}
	return titles
}

func titlesWithoutVendor(p *Profile) []string {
	var titles []string
	for _, t := range p.Titles {
		if t.Vendor != "" {
			t.Vendor = ""
			titles = append(titles, t.String())
		}
	}
	return titles
}

// matching lists, sorted, the ids of profiles one of whose names is name in
// another spelling.
func (p *ProfilesJSON) matching(name string, names func(*Profile) []string) []string {
	wanted := alternatives(name)
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(p.Profiles)) {
		for _, own := range names(p.Profiles[id]) {
			if own = compact(own); own != "" && slices.Contains(wanted, own) {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}

// alternatives are the spellings of a name without anything but letters and
// digits: of "CPE510/520 v1" cpe510v1 and cpe520v1 as well.
func alternatives(name string) []string {
	list := []string{compact(name)}
	words := strings.Fields(name)
	for i, word := range words {
		first, second, ok := strings.Cut(word, "/")
		if !ok || first == "" || second == "" {
			continue
		}
		if len(second) < len(first) && !slices.ContainsFunc([]byte(second), func(c byte) bool { return c < '0' || c > '9' }) {
			second = first[:len(first)-len(second)] + second
		}
		for _, one := range []string{first, second} {
			list = append(list, compact(strings.Join(slices.Concat(words[:i], []string{one}, words[i+1:]), " ")))
		}
		break
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// nearly lists the profiles that a name may mean: those whose title is the
// name with a version behind it, or the name without its version.
func nearly(targets []*ProfilesJSON, names []string) []candidate {
	for _, name := range names {
		wanted := alternatives(name)
		for i, w := range wanted {
			wanted[i] = withoutVersion(w)
		}
		var found []candidate
		for _, p := range targets {
			for _, id := range slices.Sorted(maps.Keys(p.Profiles)) {
				profile := p.Profiles[id]
				own := slices.Concat(fullTitles(profile), titlesWithoutVendor(profile), idWithoutVendor(profile))
				if slices.ContainsFunc(own, func(title string) bool {
					plain := withoutVersion(compact(title))
					return len(plain) > 3 && slices.Contains(wanted, plain)
				}) {
					found = append(found, candidate{p.Target, profile})
				}
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// withoutVersion cuts a hardware version off a compact name: cpe510v1.
func withoutVersion(name string) string {
	end := len(name)
	for end > 0 && name[end-1] >= '0' && name[end-1] <= '9' {
		end--
	}
	if end > 1 && end < len(name) && name[end-1] == 'v' {
		return name[:end-1]
	}
	return name
}

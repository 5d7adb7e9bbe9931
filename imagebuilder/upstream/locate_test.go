package upstream

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

// movedTree is an upstream whose release has some of the targets that older
// ones called otherwise. ath79/generic is an excerpt of the real one.
func movedTree(t testing.TB) tree {
	t.Helper()
	const base = "releases/24.10.1/"
	generic := func(title string) string {
		return `"generic":{"supported_devices":[],"titles":[{"title":"` + title + `"}]}`
	}
	profiles := map[string]string{
		"ath79/generic": string(read(t, "profiles-24.10.0-ath79-generic.json")),
		"ath79/tiny": `{"profiles":{"tplink_tl-wr841-v9":{"supported_devices":["tplink,tl-wr841-v9","tl-wr841n-v9"],"titles":[{"vendor":"TP-Link","model":"TL-WR841ND","variant":"v9"}]},
			"tplink_tl-wr841-v8":{"supported_devices":["tplink,tl-wr841-v8","tl-wr841n-v8"],"titles":[{"vendor":"TP-Link","model":"TL-WR841N/ND","variant":"v8"}]}}}`,
		"bcm27xx/bcm2709": `{"profiles":{"rpi-2":{"supported_devices":["rpi-2-b","2-model-b","raspberrypi,2-model-b"],"titles":[{"vendor":"Raspberry Pi","model":"2B"}]}}}`,
		"bcm27xx/bcm2710": `{"profiles":{"rpi-3":{"supported_devices":["rpi-3-b","3-model-b","raspberrypi,3-model-b"],"titles":[{"vendor":"Raspberry Pi","model":"3B/3B+/CM3"}]}}}`,
		"armsr/armv7":     `{"profiles":{` + generic("Generic armv7") + `}}`,
		"armsr/armv8":     `{"profiles":{` + generic("Generic armv8") + `}}`,
		"x86/64":          `{"profiles":{` + generic("Generic x86/64") + `}}`,
		"ramips/mt7621":   `{"profiles":{"zbt_we1326":{"titles":[{"vendor":"Zbtlink","model":"ZBT-WE1326"}],"supported_devices":["zbtlink,zbt-we1326"]}}}`,
		"ramips/mt76x8":   `{"profiles":{"onion_omega2":{"titles":[{"vendor":"Onion","model":"Omega2"}],"supported_devices":["onion,omega2","omega2"]}}}`,
	}
	files := tree{
		".versions.json":        `{"stable_version":"24.10.1","oldstable_version":"","upcoming_version":"","versions_list":["24.10.1"]}`,
		base + ".targets.json":  "",
		base + ".overview.json": "",
	}
	var list []string
	for target, content := range profiles {
		list = append(list, fmt.Sprintf("%q:%q", target, testArch))
		folder := base + "targets/" + target + "/"
		files[folder+"profiles.json"] = content
		files[folder+"packages/Packages"] = "Package: base-files\nVersion: 1\n"
		files[folder+"sha256sums"] = fmt.Sprintf("%s *packages/Packages\n%s *profiles.json\n", hexSum([]byte(files[folder+"packages/Packages"])), hexSum([]byte(content)))
	}
	files[base+".targets.json"] = "{" + strings.Join(list, ",") + "}"
	return files
}

func TestLocate(t *testing.T) {
	u := openTest(t, Options{URL: newFake(t, movedTree(t)).URL})
	for _, tt := range []struct {
		target string
		names  []string
		want   string // target and profile
	}{
		{"ath79/generic", []string{"tplink_archer-c7-v5"}, "ath79/generic tplink_archer-c7-v5"},
		{"ath79/generic", []string{"tplink,archer-c7-v5"}, "ath79/generic tplink_archer-c7-v5"},
		// Board names of ar71xx, alone and with the model to decide.
		{"ar71xx/generic", []string{"archer-c7-v5"}, "ath79/generic tplink_archer-c7-v5"},
		{"ar71xx/generic", []string{"cpe510"}, "ath79/generic tplink_cpe510-v1"},
		{"ar71xx/generic", []string{"archer-c7", "TP-Link Archer C7 v2"}, "ath79/generic tplink_archer-c7-v2"},
		{"ar71xx/generic", []string{"tl-wdr4300", "TP-LINK TL-WDR4300 v1"}, "ath79/generic tplink_tl-wdr4300-v1"},
		{"ar71xx/generic", []string{"nanostation-m-xw", "Ubiquiti Nanostation M XW"}, "ath79/generic ubnt_nanostation-m-xw"},
		// Ids of releases before 2019, and titles.
		{"ar71xx/generic", []string{"tl-wdr4300-v1"}, "ath79/generic tplink_tl-wdr4300-v1"},
		{"ar71xx/generic", []string{"", "TP-Link Archer C7 v5"}, "ath79/generic tplink_archer-c7-v5"},
		{"ar71xx/generic", []string{"TP-LINK CPE510/520 v1"}, "ath79/generic tplink_cpe510-v1"},
		{"ar71xx/generic", []string{"Archer C7 v4"}, "ath79/generic tplink_archer-c7-v4"},
		{"ar71xx/generic", []string{"nothing known", "tplink archer-c7 V1"}, "ath79/generic tplink_archer-c7-v1"},
		// Another subtarget of the platform, or of what it has become.
		{"ar71xx/generic", []string{"tl-wr841n-v9"}, "ath79/tiny tplink_tl-wr841-v9"},
		{"ath79/generic", []string{"tplink,tl-wr841-v9"}, "ath79/tiny tplink_tl-wr841-v9"},
		{"brcm2708/bcm2710", []string{"raspberrypi,3-model-b", "Raspberry Pi 3 Model B Rev 1.2"}, "bcm27xx/bcm2710 rpi-3"},
		{"brcm2708/bcm2708", []string{"3-model-b"}, "bcm27xx/bcm2710 rpi-3"},
		{"ramips/mt7628", []string{"omega2"}, "ramips/mt76x8 onion_omega2"},
		{"ramips/mt7688", []string{"omega2"}, "ramips/mt76x8 onion_omega2"},
		// Machines without names of their own.
		{"x86/64", []string{"foobar"}, "x86/64 generic"},
		{"x86/64", []string{"Default string", "To be filled by O.E.M."}, "x86/64 generic"},
		{"armvirt/64", []string{"QEMU Virtual Machine"}, "armsr/armv8 generic"},
		// The target alone.
		{"ath79/generic", nil, "ath79/generic "},
		{"ar71xx/generic", []string{"", ""}, "ath79/generic "},
		{"armvirt/32", nil, "armsr/armv7 "},
	} {
		got, err := u.Locate(t.Context(), testVersion, tt.target, tt.names...)
		if err != nil {
			t.Errorf("%s %q: %v", tt.target, tt.names, err)
			continue
		}
		if place := got.Target + " " + got.Profile; place != tt.want || got.Moved != (got.Target != tt.target) || got.Version != testVersion {
			t.Errorf("%s %q: %+v, want %s", tt.target, tt.names, got, tt.want)
		}
		if got.Profile != "" && len(got.Titles) == 0 {
			t.Errorf("%s %q: no title", tt.target, tt.names)
		}
	}
}

func TestLocateNeverGuesses(t *testing.T) {
	u := openTest(t, Options{URL: newFake(t, movedTree(t)).URL})
	for _, tt := range []struct {
		target   string
		names    []string
		code     imagebuilder.Code
		sentence string
	}{
		{"ar71xx/generic", []string{"TP-LINK CPE510/520"}, imagebuilder.CodeAmbiguousProfile,
			"tplink_cpe510-v1 (TP-Link CPE510 v1), tplink_cpe510-v2 (TP-Link CPE510 v2), tplink_cpe510-v3 (TP-Link CPE510 v3)"},
		{"ar71xx/generic", []string{"archer-c7"}, imagebuilder.CodeAmbiguousProfile, "tplink_archer-c7-v1 (TP-Link Archer C7 v1), tplink_archer-c7-v2"},
		{"ar71xx/generic", []string{"archer-c7", "TP-Link Archer C7 v9"}, imagebuilder.CodeAmbiguousProfile, "archer-c7"},
		{"ar71xx/generic", []string{"TP-Link Archer C7 v3"}, imagebuilder.CodeAmbiguousProfile, "tplink_archer-c7-v5"},
		{"ar71xx/generic", []string{"TP-Link TL-WR841ND"}, imagebuilder.CodeAmbiguousProfile, "It may be tplink_tl-wr841-v9 (TP-Link TL-WR841ND v9), which is not certain."},
		{"ar71xx/generic", []string{"toaster"}, imagebuilder.CodeUnsupportedProfile, "Unsupported profile: toaster. 24.10.1 has no such device in ath79/generic, ath79/tiny."},
		{"ath79/generic", []string{"toaster", "Toaster 3000"}, imagebuilder.CodeUnsupportedProfile, "toaster, Toaster 3000"},
		{"ath79/generic", []string{"onion,omega2"}, imagebuilder.CodeUnsupportedProfile, "ath79"}, // of another platform
		{"cns3xxx/generic", []string{"whatever"}, imagebuilder.CodeUnsupportedTarget, "Unsupported target: cns3xxx/generic"},
		{"brcm2708/bcm2708", nil, imagebuilder.CodeUnsupportedTarget, "bcm27xx/bcm2709, bcm27xx/bcm2710"},
	} {
		_, err := u.Locate(t.Context(), testVersion, tt.target, tt.names...)
		wantCode(t, err, tt.code, tt.sentence)
	}
	_, err := u.Locate(t.Context(), "9.9", "ath79/generic", "x")
	wantCode(t, err, imagebuilder.CodeUnsupportedVersion, "9.9")
}

// TestLocateWithoutOneOfTheTargets: what is not known cannot be excluded.
func TestLocateWithoutOneOfTheTargets(t *testing.T) {
	f := newFake(t, movedTree(t).with(tree{"releases/24.10.1/targets/ath79/tiny/sha256sums": ""}))
	u := openTest(t, Options{URL: f.URL})
	_, err := u.Locate(t.Context(), testVersion, "ar71xx/generic", "archer-c7-v5")
	wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "ath79/tiny")
	if got, err := u.Locate(t.Context(), testVersion, "ath79/generic", "tplink_archer-c7-v5"); err != nil || got.Moved {
		t.Errorf("%+v, %v: the target itself is there", got, err)
	}
}

// TestLocateProperties: whatever a device is called by in one spelling, it is
// found by in the others, and nothing that is found is called otherwise.
func TestLocateProperties(t *testing.T) {
	p, err := ParseProfiles(read(t, "profiles-24.10.0-ath79-generic.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := []*ProfilesJSON{p}
	ids := sortedKeys(p.Profiles)
	rapid.Check(t, func(t *rapid.T) {
		profile := p.Profiles[rapid.SampledFrom(ids).Draw(t, "id")]
		title := profile.Titles[0].String()
		spelling := rapid.SampledFrom([]string{
			profile.ID, strings.Replace(profile.ID, "_", ",", 1), title, strings.ToUpper(title), strings.ReplaceAll(title, " ", "-"), "  " + title,
		}).Draw(t, "spelling")
		found, err := resolveAmong(all, []string{spelling}, true)
		if err != nil || found == nil || found.profile != profile {
			t.Fatalf("%q: %+v, %v", spelling, found, err)
		}
		name := rapid.StringMatching(`[a-zA-Z0-9 ,/_-]{0,20}`).Draw(t, "name")
		found, err = resolveAmong(all, []string{name, title}, true)
		if err != nil || found == nil {
			t.Fatalf("%q, %q: %+v, %v", name, title, found, err)
		}
		if found.profile != profile && !slices.ContainsFunc(answersTo(all, name), func(c candidate) bool { return c.profile == found.profile }) {
			t.Fatalf("%q, %q found %s", name, title, found.profile.ID)
		}
		nearly(all, []string{name})
	})
}

package upstream

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

func TestUsignAsOpenWrtSigns(t *testing.T) {
	key, err := ParsePublicKey(read(t, "release-24.10.0.pub"))
	if err != nil {
		t.Fatal(err)
	}
	custom, err := ParsePublicKey(read(t, "custom.pub"))
	if err != nil {
		t.Fatal(err)
	}
	sums, sig := read(t, "sha256sums"), read(t, "sha256sums.sig")
	ring := keyring{key.ID: key.Key, custom.ID: custom.Key}
	if id, err := ring.verify(sums, sig); err != nil || id != key.ID {
		t.Errorf("signed by %q, %v; want %q", id, err, key.ID)
	}
	if id, err := ring.verify(append(slices.Clone(sums), '\n'), sig); !errors.Is(err, ErrBadSignature) || id != "" {
		t.Errorf("of changed sums: signed by %q, %v", id, err)
	}
	if id, err := (keyring{custom.ID: custom.Key}).verify(sums, sig); err != nil || id != "" {
		t.Errorf("with another key only: signed by %q, %v; want nothing said", id, err)
	}
	if id, err := (keyring{key.ID: custom.Key}).verify(sums, sig); !errors.Is(err, ErrBadSignature) || id != "" {
		t.Errorf("with another key under its id: signed by %q, %v", id, err)
	}
}

func TestKeysFolder(t *testing.T) {
	key := newSigner(1)
	fingerprint := "0101010101010101"
	tests := []struct {
		name, file, content string
		want                int
		ok                  bool
	}{
		{"by fingerprint", fingerprint, string(key.public()), 1, true},
		{"by .pub", "mesh.pub", string(key.public()), 1, true},
		{"without comment", "mesh.pub", strings.SplitN(string(key.public()), "\n", 2)[1], 1, true},
		{"something else", "README", "keys go here", 0, true},
		{"a PEM key", "mesh.pub", "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n", 0, false},
		{"under another's fingerprint", "0202020202020202", string(key.public()), 0, false},
		{"a signature", "mesh.pub", key.sign("x"), 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			ring, err := loadKeys(dir, nil)
			if (err == nil) != tt.ok || len(ring) != tt.want {
				t.Errorf("%d keys, %v", len(ring), err)
			}
		})
	}
	if ring, err := loadKeys(filepath.Join(t.TempDir(), "none"), nil); err != nil || len(ring) != 0 {
		t.Errorf("a missing folder: %v, %v", ring, err)
	}
}

func TestSums(t *testing.T) {
	sums, err := ParseSums(read(t, "sha256sums"))
	if err != nil {
		t.Fatal(err)
	}
	if got := sums["profiles.json"]; got != hexSum(read(t, "profiles-24.10.0-x86-64.json")) {
		t.Errorf("sum of profiles.json: %q", got)
	}
	if name, sum := sums.builder("x86_64"); name != "openwrt-imagebuilder-24.10.0-x86-64.Linux-x86_64.tar.zst" || sum != sums[name] {
		t.Errorf("builder %q %q", name, sum)
	}
	hex := strings.Repeat("ab", 32)
	for _, text := range []string{"", "\n", "<html>", hex, hex + " *", hex + " *../x", hex + " */etc/passwd", hex + " *a/../../b",
		strings.Repeat("x", 64) + " *a", hex + " *a\n" + strings.Repeat("cd", 32) + " *a", hex + "  a\nhalf a li"} {
		if sums, err := ParseSums([]byte(text)); err == nil {
			t.Errorf("%q reads as %v", text, sums)
		}
	}
}

func TestBuilderForThisMachine(t *testing.T) {
	archive := func(arch, ext string) string {
		return "openwrt-imagebuilder-24.10.0-x86-64.Linux-" + arch + ".tar." + ext
	}
	tests := []struct {
		have []string
		arch string
		want string
	}{
		{[]string{archive("x86_64", "xz")}, "x86_64", archive("x86_64", "xz")},
		{[]string{archive("x86_64", "xz"), archive("x86_64", "zst")}, "x86_64", archive("x86_64", "zst")},
		{[]string{archive("x86_64", "zst"), archive("aarch64", "xz")}, "aarch64", archive("aarch64", "xz")},
		{[]string{archive("x86_64", "zst"), archive("aarch64", "zst")}, "armv7l", archive("x86_64", "zst")},
		{[]string{archive("aarch64", "zst")}, "x86_64", ""},
		{[]string{"sub/" + archive("x86_64", "zst"), "openwrt-sdk-24.10.0.Linux-x86_64.tar.zst", "x-imagebuilder-y z.Linux-x86_64.tar.zst"}, "x86_64", ""},
	}
	for _, tt := range tests {
		sums := Sums{}
		for _, name := range tt.have {
			sums[name] = strings.Repeat("00", 32)
		}
		if got, _ := sums.builder(tt.arch); got != tt.want {
			t.Errorf("%v on %s: %q, want %q", tt.have, tt.arch, got, tt.want)
		}
	}
}

func TestProfilesAsPublished(t *testing.T) {
	p, err := ParseProfiles(read(t, "profiles-23.05.5-ath79-generic.json"))
	if err != nil {
		t.Fatal(err)
	}
	if p.ArchPackages != "mips_24kc" || p.VersionCode != "r24106-10cc5fcd00" || p.VersionNumber != "23.05.5" ||
		p.MetadataVersion != 1 || p.SourceDateEpoch != 1727094886 || len(p.DefaultPackages) != 32 || p.LinuxKernel.Version != "" {
		t.Errorf("profiles.json: %+v", p)
	}
	want := &Profile{ID: "8dev_carambola2", Titles: []imagebuilder.Title{{Vendor: "8devices", Model: "Carambola2"}},
		DevicePackages: []string{"kmod-usb-chipidea2"}, SupportedDevices: []string{"8dev,carambola2", "carambola2"},
		ImagePrefix: "openwrt-23.05.5-ath79-generic-8dev_carambola2"}
	got := *p.Profiles["8dev_carambola2"]
	if len(got.Images) != 2 || got.Images[0].Type != "sysupgrade" || got.Images[0].Filesystem != "squashfs" {
		t.Errorf("images %+v", got.Images)
	}
	got.Images, got.members = nil, nil
	if diff := cmp.Diff(*want, got, cmp.AllowUnexported(Profile{})); diff != "" {
		t.Errorf("profile (-want +got):\n%s", diff)
	}
	reply, ok := p.JSON("8dev_carambola2")
	if !ok || reply[len(reply)-1] != '}' {
		t.Fatalf("reply %s, %v", reply, ok)
	}
	fields := decode[map[string]any](t, reply)
	for name, want := range map[string]any{"id": "8dev_carambola2", "build_at": "2024-09-23T12:34:46.000000Z", "metadata_version": 1.0,
		"arch_packages": "mips_24kc", "target": "ath79/generic", "version_code": "r24106-10cc5fcd00", "profiles": nil} {
		if fields[name] != want {
			t.Errorf("%s is %v, want %v", name, fields[name], want)
		}
	}
	if images, ok := fields["images"].([]any); !ok || len(images) != 2 {
		t.Errorf("images are %v", fields["images"])
	}
	if _, ok := p.JSON("nope"); ok {
		t.Error("an unknown profile has a reply")
	}
}

func TestResolve(t *testing.T) {
	ath79, err := ParseProfiles([]byte(profilesJSON(testTarget, "r1")))
	if err != nil {
		t.Fatal(err)
	}
	x86, err := ParseProfiles(read(t, "profiles-24.10.0-x86-64.json"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		in   *ProfilesJSON
		want string
		code imagebuilder.Code
	}{
		{"tplink_archer-c7-v5", ath79, "tplink_archer-c7-v5", ""},
		{"tplink,archer-c7-v5", ath79, "tplink_archer-c7-v5", ""},
		{"carambola2", ath79, "8dev_carambola2", ""},
		{"8dev,carambola2", ath79, "8dev_carambola2", ""},
		{"openwrt-24.10.1-ath79-generic-tplink_archer-c7-v5", ath79, "tplink_archer-c7-v5", ""},
		{"TPLink_Archer-C7-v5", ath79, "tplink_archer-c7-v5", ""},
		{"TP-Link  Archer C7 v5", ath79, "tplink_archer-c7-v5", ""},
		{"8devices carambola2", ath79, "8dev_carambola2", ""},
		{"shared,name", ath79, "", imagebuilder.CodeAmbiguousProfile},
		{"shared_name", ath79, "", imagebuilder.CodeAmbiguousProfile},
		{"generic", ath79, "", imagebuilder.CodeUnsupportedProfile},
		{"Default string", ath79, "", imagebuilder.CodeUnsupportedProfile},
		{"", ath79, "", imagebuilder.CodeUnsupportedProfile},
		{"generic", x86, "generic", ""},
		{"To be filled by O.E.M. (x)", x86, "generic", ""},
		{"qemu_standard-pc-i440fx-piix-1996", x86, "generic", ""},
	}
	for _, tt := range tests {
		target := &Target{Profiles: tt.in}
		id, p, err := target.Profile(tt.name)
		switch {
		case tt.code != "":
			if e := imagebuilder.AsError(err); err == nil || e.Code != tt.code {
				t.Errorf("%q: %q, %v; want %s", tt.name, id, err, tt.code)
			} else if tt.code == imagebuilder.CodeAmbiguousProfile && !strings.Contains(e.Detail, "8dev_carambola2, tplink_archer-c7-v5") {
				t.Errorf("%q: the sentence does not list the ids: %s", tt.name, e.Detail)
			}
		case err != nil || id != tt.want || p.ID != id:
			t.Errorf("%q: %q, %v; want %q", tt.name, id, err, tt.want)
		}
	}
}

func TestOddProfiles(t *testing.T) {
	p, err := ParseProfiles([]byte(`{"profiles":{"a":{},"b":{"titles":"x","supported_devices":[1],"images":{}},"c":7,"../d":{},"$(e)":{}},
		"version_code":"$(id)","arch_packages":"../..","linux_kernel":{"version":"6.6","release":1,"vermagic":"x"},"source_date_epoch":1e300,"default_packages":["ok","--force","a b"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Profiles) != 2 || p.VersionCode != "" || p.ArchPackages != "" || p.LinuxKernel.Release != "1" || !slices.Equal(p.DefaultPackages, []string{"ok"}) {
		t.Errorf("%+v", p)
	}
	for _, text := range []string{"", "[]", "{}", `{"profiles":[]}`, `{"profiles":{}}`, `{"profiles":{"../x":{}}}`, "<html>"} {
		if _, err := ParseProfiles([]byte(text)); err == nil {
			t.Errorf("%q is taken for a profiles.json", text)
		}
	}
}

func TestVersionsNewestFirst(t *testing.T) {
	want := []string{"SNAPSHOT", "26.03.0-rc2", "26.03.0-rc1", "26.03-SNAPSHOT", "24.10.10", "24.10.9", "24.10.9-rc1", "24.10.0", "24.10.0-rc10", "24.10.0-rc9", "24.10-SNAPSHOT", "9.1.0"}
	rapid.Check(t, func(t *rapid.T) {
		got := rapid.Permutation(want).Draw(t, "versions")
		newestFirst(got)
		if !slices.Equal(got, want) {
			t.Fatalf("sorted %v, want %v", got, want)
		}
	})
}

func TestCompareVersionsIsAnOrder(t *testing.T) {
	version := rapid.StringMatching(`[0-9]{1,2}(\.[0-9]{1,2}){0,2}(-rc[0-9]{1,2}|-SNAPSHOT|-[a-z]+)?|SNAPSHOT|[a-z]{1,3}(\.[0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		if CompareVersions(a, b) != -CompareVersions(b, a) || (CompareVersions(a, b) == 0) != (a == b) {
			t.Fatalf("compare(%q, %q) is %d, the other way %d", a, b, CompareVersions(a, b), CompareVersions(b, a))
		}
		if CompareVersions(a, b) < 0 && CompareVersions(b, c) < 0 && CompareVersions(a, c) >= 0 {
			t.Fatalf("%q < %q < %q, but compare(a, c) is %d", a, b, c, CompareVersions(a, c))
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := Open(Options{URL: "ftp://x", Dir: "/with space", BuilderBudget: -1, Refresh: -1,
		LocalBuilders: []LocalBuilder{{Version: "1", Target: "x", Path: "/a.tar"}}, Branches: []BranchConfig{{Name: "-"}, {Name: "a", Path: "../{version}"}}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"ftp://x", "white space", "BuilderBudget", "Refresh", "not a version and a target", ".tar.zst", "branch 1", "branch a"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not told of in: %v", part, err)
		}
	}
}

func FuzzUsign(f *testing.F) {
	f.Add(read(f, "release-24.10.0.pub"))
	f.Add(read(f, "sha256sums.sig"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := ParsePublicKey(data); err == nil && (len(key.ID) != 16 || len(key.Key) != 32) {
			t.Fatalf("key %+v", key)
		}
		if sig, err := ParseSignature(data); err == nil && (len(sig.ID) != 16 || len(sig.Sig) != 64) {
			t.Fatalf("signature %+v", sig)
		}
	})
}

func FuzzSums(f *testing.F) {
	f.Add(read(f, "sha256sums")[:2000])
	f.Add([]byte(strings.Repeat("ab", 32) + " *a/b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sums, err := ParseSums(data)
		if err != nil {
			return
		}
		for name, sum := range sums {
			if !filepath.IsLocal(name) || !imagebuilder.ValidHash(sum) {
				t.Fatalf("%q %q", name, sum)
			}
		}
		if name, _ := sums.builder("x86_64"); name != "" && !validPath("x/"+name) {
			t.Fatalf("builder %q", name)
		}
	})
}

func FuzzProfiles(f *testing.F) {
	f.Add(read(f, "profiles-23.05.5-ath79-generic.json"), "carambola2")
	f.Add([]byte(profilesJSON(testTarget, "r1")), "shared,name")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		p, err := ParseProfiles(data)
		if err != nil {
			return
		}
		if profile, err := p.Resolve(name); err == nil && !imagebuilder.ValidProfileID(profile.ID) {
			t.Fatalf("%q resolves to %q", name, profile.ID)
		}
		for id := range p.Profiles {
			if got, err := p.Resolve(id); err != nil || got.ID != id {
				t.Fatalf("%q resolves to %+v, %v", id, got, err)
			}
			// Members that nobody here reads go on as they are, as numbers beyond what machines count with.
			if reply, ok := p.JSON(id); !ok || decode[struct{ ID string }](t, reply).ID != id {
				t.Fatalf("reply of %q: %s", id, reply)
			}
		}
	})
}

func FuzzLists(f *testing.F) {
	f.Add(read(f, "versions.json"))
	f.Add([]byte(`{"ath79/generic":"mips_24kc"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := parseVersions(data); err == nil {
			for _, v := range l.all {
				if !imagebuilder.ValidVersion(v) {
					t.Fatalf("version %q", v)
				}
			}
			newestFirst(l.all)
		}
		if l, err := parseTargets(data); err == nil {
			for target, arch := range l {
				if !imagebuilder.ValidTarget(target) || !imagebuilder.ValidArch(arch) {
					t.Fatalf("target %q %q", target, arch)
				}
			}
		}
		for _, name := range parseFeedsConf(data) {
			if !validPath("packages/" + name) {
				t.Fatalf("feed %q", name)
			}
		}
	})
}

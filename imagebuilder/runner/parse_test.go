package runner

import (
	"bytes"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

func TestParseInfo(t *testing.T) {
	for _, r := range recordings(t) {
		if !strings.HasSuffix(r.command, " info") && r.command != "make info" {
			continue
		}
		info, err := ParseInfo(r.stdout)
		switch r.name {
		case "24.10/ro_info":
			if !errors.Is(err, errNoProfiles) {
				t.Errorf("%s: got %v, want errNoProfiles", r.name, err)
			}
		case "24.10/space_info":
			if err == nil {
				t.Errorf("%s: nothing is an info", r.name)
			}
		case "23.05/info":
			if err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			if info.Target != "ath79/generic" || info.Architecture != "mips" || info.Revision != "r23809-234f1a2efa" || len(info.Profiles) != 357 || info.DefaultPackages[0] != "base-files" {
				t.Errorf("%s: %s %s %s, %d profiles, defaults %q", r.name, info.Target, info.Architecture, info.Revision, len(info.Profiles), info.DefaultPackages)
			}
			want := InfoProfile{Title: "8devices Carambola2", Packages: []string{"kmod-usb-chipidea2"}, HasImageMetadata: true, SupportedDevices: []string{"8dev,carambola2", "carambola2"}}
			if diff := cmp.Diff(want, info.Profiles["8dev_carambola2"]); diff != "" {
				t.Error(diff)
			}
		default:
			if err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			if p, ok := info.Profiles["generic"]; !ok || p.Title != "Generic x86/64" || p.HasImageMetadata || len(p.Packages) < 10 {
				t.Errorf("%s: profiles %+v", r.name, info.Profiles)
			}
		}
	}
	// Title and devices absent, packages empty, removals among them.
	info, err := ParseInfo("Current Revision: \"r1\"\nDefault Packages:\nAvailable Profiles:\n\na:\n    Packages:\n    hasImageMetadata: 0\nb:\n    Packages: x -y\n")
	want := map[string]InfoProfile{"a": {Packages: []string{}}, "b": {Packages: []string{"x", "-y"}}}
	if err != nil || cmp.Diff(want, info.Profiles) != "" {
		t.Errorf("got %+v, %v", info, err)
	}
}

func TestParseManifest(t *testing.T) {
	for _, r := range recordings(t) {
		if !strings.Contains(r.command, "make manifest") || !r.ok {
			continue
		}
		m, err := ParseManifest(r.stdout)
		if err != nil || len(m) < 80 || m["base-files"] == "" || len(m) != strings.Count(r.stdout, "\n") {
			t.Errorf("%s: %d packages of %d lines, %v", r.name, len(m), strings.Count(r.stdout, "\n"), err)
		}
		if strings.Contains(r.command, "STRIP_ABI") && m["libubox"] == "" {
			t.Errorf("%s: no libubox", r.name)
		}
	}
	tests := map[string]imagebuilder.Manifest{
		"a - 1\nb-c - 2-r1\n": {"a": "1", "b-c": "2-r1"},
		"a 1\nb-c 2-r1":       {"a": "1", "b-c": "2-r1"},
		"make[1]: Entering directory 'x'\na - 1\nb 2": {"a": "1"},
		"":           nil,
		"a":          nil,
		"$(x) - 1\n": nil,
	}
	for text, want := range tests {
		got, err := ParseManifest(text)
		if (err != nil) != (want == nil) || !maps.Equal(got, want) {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
}

// Stripped and unstripped manifests of one image are the same one.
func TestSameManifest(t *testing.T) {
	read := func(name string) imagebuilder.Manifest {
		for _, r := range recordings(t) {
			if r.name == name {
				m, err := ParseManifest(r.stdout)
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
		}
		t.Fatalf("no recording %s", name)
		return nil
	}
	for _, generation := range []string{"24.10", "25.12"} {
		stripped, full := read(generation+"/manifest_strip"), read(generation+"/manifest_default")
		for name := range stripped {
			if _, ok := findPackage(imagebuilder.Manifest{name: ""}, name); !ok {
				t.Errorf("%s is not found by its own name", name)
			}
		}
		for _, extra := range []string{"widget-tool", "gadget-tool", "libwidget", "libgadget2", "libgadget"} {
			delete(stripped, extra)
		}
		if d := sameManifest(stripped, full); d != "" {
			t.Errorf("%s: %s", generation, d)
		}
		full["more"] = "1"
		if d := sameManifest(stripped, full); d != "more 1 is in the image only" {
			t.Errorf("%s: got %q", generation, d)
		}
		delete(full, "more")
		stripped["less"] = "1"
		if d := sameManifest(stripped, full); d != "less 1 is not in the image" {
			t.Errorf("%s: got %q", generation, d)
		}
		delete(stripped, "less")
		stripped["libubox"] = "1"
		if d := sameManifest(stripped, full); !strings.HasPrefix(d, "libubox was 1 and became ") {
			t.Errorf("%s: got %q", generation, d)
		}
	}
}

func TestCheckVersions(t *testing.T) {
	m := imagebuilder.Manifest{"test1": "1.0", "libubox": "2024.03.29-r1", "libgadget2": "3", "kernel": "6.6.1", "python3": "3.11", "libwolfssl": "5.6.4-r1"}
	tests := []struct {
		name, version, want string
	}{
		{"test1", "1.0", ""},
		{"test1-1", "1.0", ""},
		{"libubox20240329", "2024.03.29-r1", ""},
		{"libwolfssl5.6.4.e624513f", "5.6.4-r1", ""},
		{"libgadget2-0", "3", ""},
		{"kernel", "6.6.1", ""},
		{"-gone", "1", ""},
		{"test1", "", ""},
		{"test1", "0.0", "Error: Impossible package selection: test1 version not as requested: 0.0 vs. 1.0"},
		{"test1-1", "0.0", "Error: Impossible package selection: test1-1 version not as requested: 0.0 vs. 1.0"},
		{"test2", "1.0", "Error: Impossible package selection: test2 not in manifest"},
		{"python3-light", "3.11", "Error: Impossible package selection: python3-light not in manifest"},
	}
	for _, tt := range tests {
		got := ""
		if e := checkVersions(m, imagebuilder.Pairs{{Name: tt.name, Value: tt.version}}, []string{tt.name}); e != nil {
			got = e.Detail
		}
		if got != tt.want {
			t.Errorf("%s=%s: got %q, want %q", tt.name, tt.version, got, tt.want)
		}
	}
}

func TestCommandPackages(t *testing.T) {
	info := &Info{DefaultPackages: []string{"base-files", "wpad-basic", "odd-"}}
	profile := InfoProfile{Packages: []string{"kmod-a", "-wpad-basic", "wpad-full"}}
	tests := map[string]struct {
		requested []string
		diff      bool
		want      []string
	}{
		"as asked":                         {[]string{"b", "-c", "a"}, false, []string{"b", "-c", "a"}},
		"the rest is removed":              {[]string{"luci", "base-files"}, true, []string{"-kmod-a", "-odd-", "-wpad-basic", "-wpad-full", "luci", "base-files"}},
		"a name that the profile drops":    {[]string{"wpad-basic"}, true, []string{"-base-files", "-kmod-a", "-odd-", "-wpad-full", "wpad-basic"}},
		"what is removed is said once":     {[]string{"-wpad-full", "odd-", "base-files"}, true, []string{"-kmod-a", "-wpad-basic", "-wpad-full", "odd-", "base-files"}},
		"nothing asked leaves nothing but": {nil, true, []string{"-base-files", "-kmod-a", "-odd-", "-wpad-basic", "-wpad-full"}},
	}
	for name, tt := range tests {
		if got := commandPackages(tt.requested, tt.diff, info, profile); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func TestRestrictFilesystem(t *testing.T) {
	const config = "CONFIG_A=y\nCONFIG_TARGET_ROOTFS_EXT4FS=y\nCONFIG_TARGET_ROOTFS_SQUASHFS=y\n# CONFIG_TARGET_ROOTFS_UBIFS is not set\nCONFIG_TARGET_ROOTFS_PARTSIZE=104\n"
	got, err := restrictFilesystem(config, "ext4")
	want := strings.Replace(config, "CONFIG_TARGET_ROOTFS_SQUASHFS=y", "# CONFIG_TARGET_ROOTFS_SQUASHFS is not set", 1)
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	var e *imagebuilder.Error
	if _, err := restrictFilesystem(config, "ubifs"); !errors.As(err, &e) || e.Code != imagebuilder.CodeFilesystem {
		t.Errorf("one that is off: %v", err)
	}
}

func TestUpstreamBases(t *testing.T) {
	tests := map[string]string{
		`CONFIG_VERSION_REPO="https://downloads.openwrt.org/releases/24.10.0"`:       "https://downloads.openwrt.org",
		`CONFIG_VERSION_REPO="https://downloads.openwrt.org/snapshots"`:              "https://downloads.openwrt.org",
		`CONFIG_VERSION_REPO="http://127.0.0.1:8099/releases/24.10-SNAPSHOT/"`:       "http://127.0.0.1:8099",
		`CONFIG_VERSION_REPO="https://mirror.example/pub/openwrt/releases/23.05.3/"`: "https://mirror.example/pub/openwrt",
		`# CONFIG_VERSION_REPO is not set`:                                           officialUpstream,
		`CONFIG_VERSION_REPO=""`:                                                     officialUpstream,
	}
	for config, want := range tests {
		if got := upstreamBases("CONFIG_X=y\n" + config + "\n"); got[0] != want {
			t.Errorf("%s: got %q, want %q first", config, got, want)
		}
	}
	const feeds = "# http://a.example/x\nsrc/gz core http://a.example/releases/1/p\nsrc/gz evil http://a.example.evil/p\nhttp://a.example/y/packages.adb\n"
	want := strings.NewReplacer("core http://a.example/", "core https://m.example/", "\nhttp://a.example/y", "\nhttps://m.example/y").Replace(feeds)
	if got := rewriteFeeds(feeds, []string{"http://a.example"}, "https://m.example/"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMergeFeeds(t *testing.T) {
	req := imagebuilder.Request{RepositoriesMode: imagebuilder.RepositoriesAppend, Repositories: imagebuilder.Pairs{
		{Name: "z", Value: "http://feed.example/z/"}, {Name: "a", Value: "http://feed.example/a/packages.adb"},
	}}
	got, e := mergeFeeds("# comment\nhttp://up.example/packages.adb\n", req, true)
	if want := "http://up.example/packages.adb\nhttp://feed.example/z/packages.adb\nhttp://feed.example/a/packages.adb\n"; e != nil || got != want {
		t.Errorf("apk, append: got %q, %v", got, e)
	}
	req.RepositoriesMode = imagebuilder.RepositoriesReplace
	got, e = mergeFeeds("http://up.example/packages.adb\n", req, true)
	if want := "http://feed.example/z/packages.adb\nhttp://feed.example/a/packages.adb\n"; e != nil || got != want {
		t.Errorf("apk, replace: got %q, %v", got, e)
	}
	for _, name := range []string{"core", "imagebuilder"} {
		req := imagebuilder.Request{RepositoriesMode: imagebuilder.RepositoriesAppend, Repositories: imagebuilder.Pairs{{Name: name, Value: "http://feed.example/"}}}
		if _, e := mergeFeeds("src/gz core http://up.example/core\n", req, false); e == nil || e.Code != imagebuilder.CodeMalformed {
			t.Errorf("a second feed called %s: %v", name, e)
		}
	}
}

func TestKeyFile(t *testing.T) {
	usign := base64.StdEncoding.EncodeToString(append([]byte("Ed\x01\x23\x45\x67\x89\xab\xcd\xef"), make([]byte, 32)...))
	pem := "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
	tests := map[string]struct{ name, content string }{
		usign: {"keys/0123456789abcdef", "untrusted comment: 0123456789abcdef\n" + usign + "\n"},
		"untrusted comment: x\r\n" + usign + "\r\n": {"keys/0123456789abcdef", "untrusted comment: 0123456789abcdef\n" + usign + "\n"},
		pem:              {"keys/custom-3.pem", pem},
		"":               {},
		"hello":          {},
		usign + usign:    {},
		pem + "\n" + pem: {},
		strings.ReplaceAll(pem, "PUBLIC", "PRIVATE"):         {},
		"-----BEGIN PUBLIC KEY-----\nshort":                  {},
		base64.StdEncoding.EncodeToString([]byte("../../x")): {},
	}
	for key, want := range tests {
		name, content, e := keyFile(3, key)
		if (e != nil) != (want.name == "") || name != want.name || !bytes.Equal(content, []byte(want.content)) {
			t.Errorf("%q: got %q %q, %v; want %+v", key, name, content, e, want)
		}
	}
}

// Head and tail are kept, in bounds, whatever comes.
func TestTranscript(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.StringMatching(`[a-z]{0,900}`), 0, 120).Draw(t, "lines")
		most := rapid.SampledFrom([]int{successLog, failureLog}).Draw(t, "most")
		var tr transcript
		for _, line := range lines {
			tr.line(line)
		}
		got := tr.ends(most)
		all := strings.Join(lines, "\n")
		if len(lines) > 0 {
			all += "\n"
		}
		if len(got) > most {
			t.Fatalf("%d bytes, at most %d", len(got), most)
		}
		if len(all) <= most-headLog-64 && got != all {
			t.Fatalf("a short output was cut: %d of %d bytes", len(got), len(all))
		}
		if len(lines) > 0 && !strings.HasSuffix(got, lines[len(lines)-1]+"\n") {
			t.Fatalf("the last line is missing")
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	for _, r := range recordings(f) {
		if strings.Contains(r.command, "info") && len(r.stdout) < 4000 {
			f.Add(r.stdout)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		info, err := ParseInfo(text)
		if err != nil {
			return
		}
		if info.Revision == "" || len(info.Profiles) == 0 {
			t.Errorf("an info without %+v", info)
		}
		for id := range info.Profiles {
			if !imagebuilder.ValidProfileID(id) {
				t.Errorf("profile %q", id)
			}
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add("base-files - 1637~f919e7899d\nlibubox - 2024.03.29-r1\n")
	f.Add("base-files 1637\nlibubox 2024.03.29-r1\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseManifest(text)
		if err != nil {
			return
		}
		var b strings.Builder
		for name, version := range m {
			if !imagebuilder.ValidPackageName(name) || !imagebuilder.ValidPackageVersion(version) {
				t.Errorf("entry %q %q", name, version)
			}
			b.WriteString(name + " - " + version + "\n")
		}
		again, err := ParseManifest(b.String())
		if err != nil || !maps.Equal(m, again) || sameManifest(m, again) != "" {
			t.Errorf("%v became %v, %v", m, again, err)
		}
	})
}

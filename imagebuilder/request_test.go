package imagebuilder

import (
	"encoding/json"
	"math/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var testLimits = Limits{MaxRootfsSizeMB: 1024, MaxDefaultsLength: 20480}

func plainRequest() Request {
	return Request{Version: "24.10.4", Target: "ath79/generic", Profile: "tplink_archer-c7-v5"}
}

func ptr[T any](v T) *T { return &v }

func TestNormalizeFillsDefaultsAsTheReferenceEchoesThem(t *testing.T) {
	got, err := json.Marshal(plainRequest().Normalize())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"distro":"openwrt","version":"24.10.4","version_code":"","target":"ath79/generic",` +
		`"profile":"tplink_archer-c7-v5","packages":[],"packages_versions":{},"diff_packages":false,` +
		`"defaults":null,"rootfs_size_mb":null,"filesystem":null,"repositories":{},` +
		`"repositories_mode":"replace","repository_keys":[],"client":null}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNormalizePackages(t *testing.T) {
	tests := []struct {
		name     string
		packages []string
		versions Pairs
		want     []string
	}{
		{"order is kept", []string{"zzz", "test1", "aaa"}, nil, []string{"zzz", "test1", "aaa"}},
		{"plus and repetitions go", []string{"+luci", "luci", "", "tmux"}, nil, []string{"luci", "tmux"}},
		{"removals stay", []string{"-ppp", "ppp"}, nil, []string{"-ppp", "ppp"}},
		{"versions win", []string{"vim"}, Pairs{{"tmux", "3.4-r1"}, {"+nano", "8.0"}}, []string{"tmux", "nano"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := plainRequest()
			r.Packages, r.PackagesVersions = tt.packages, tt.versions
			if diff := cmp.Diff(tt.want, r.Normalize().Packages); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidateNamesTheField(t *testing.T) {
	tests := []struct {
		field  string
		break_ func(*Request)
	}{
		{"distro", func(r *Request) { r.Distro = "open wrt" }},
		{"version", func(r *Request) { r.Version = "" }},
		{"version", func(r *Request) { r.Version = "../24.10" }},
		{"version_code", func(r *Request) { r.VersionCode = "r1 or so" }},
		{"target", func(r *Request) { r.Target = "" }},
		{"target", func(r *Request) { r.Target = "ath79" }},
		{"target", func(r *Request) { r.Target = "ath79/generic/x" }},
		{"target", func(r *Request) { r.Target = "../generic" }},
		{"profile", func(r *Request) { r.Profile = "" }},
		{"profile", func(r *Request) { r.Profile = "a\nb" }},
		{"packages", func(r *Request) { r.Packages = []string{"$(reboot)"} }},
		{"packages", func(r *Request) { r.Packages = []string{"--force-depends"} }},
		{"packages", func(r *Request) { r.Packages = []string{"http://x/y.ipk"} }},
		{"packages", func(r *Request) { r.Packages = []string{"a/b.ipk"} }},
		{"packages", func(r *Request) { r.Packages = []string{"a b"} }},
		{"packages", func(r *Request) { r.Packages = []string{"-"} }},
		{"packages", func(r *Request) { r.Packages = []string{"cowsay=3.04-r1"} }},
		{"packages", func(r *Request) { r.Packages = []string{"luci\n"} }},
		{"packages", func(r *Request) { r.Packages = []string{strings.Repeat("a", MaxNameLength+1)} }},
		{"packages", func(r *Request) {
			for i := range MaxPackages + 1 {
				r.Packages = append(r.Packages, "p"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+json.Number(strings.Repeat("1", i%90)).String()+"-"+itoa(i))
			}
		}},
		{"packages_versions", func(r *Request) { r.PackagesVersions = Pairs{{"vim", "1 2"}} }},
		{"packages_versions", func(r *Request) { r.PackagesVersions = Pairs{{"v;m", "1"}} }},
		{"defaults", func(r *Request) { r.Defaults = ptr(strings.Repeat("x", 20481)) }},
		{"defaults", func(r *Request) { r.Defaults = ptr("a\x00b") }},
		{"rootfs_size_mb", func(r *Request) { r.RootfsSizeMB = ptr(0) }},
		{"rootfs_size_mb", func(r *Request) { r.RootfsSizeMB = ptr(1025) }},
		{"filesystem", func(r *Request) { r.Filesystem = ptr("bogusfs") }},
		{"repositories_mode", func(r *Request) { r.RepositoriesMode = "add" }},
		{"repositories", func(r *Request) { r.Repositories = Pairs{{"a\nsrc/gz b", "http://x/"}} }},
		{"repositories", func(r *Request) { r.Repositories = Pairs{{"a", "ftp://x/"}} }},
		{"repositories", func(r *Request) { r.Repositories = Pairs{{"a", "http://x/ y"}} }},
		{"repositories", func(r *Request) { r.Repositories = Pairs{{"a", "http://good.example@evil.example/"}} }},
		{"repositories", func(r *Request) { r.Repositories = Pairs{{"a", "file:///etc/passwd"}} }},
		{"repository_keys", func(r *Request) { r.RepositoryKeys = []string{"a\x00"} }},
		{"repository_keys", func(r *Request) { r.RepositoryKeys = []string{strings.Repeat("x", MaxKeyLength+1)} }},
		{"client", func(r *Request) { r.Client = ptr(strings.Repeat("x", MaxClientLength+1)) }},
	}
	for _, tt := range tests {
		r := plainRequest()
		tt.break_(&r)
		err := r.Normalize().Validate(testLimits)
		if err == nil {
			t.Errorf("%s: %+v was accepted", tt.field, r)
			continue
		}
		if err.Code != CodeMalformed || !strings.HasPrefix(err.Detail, tt.field+":") {
			t.Errorf("%s: got %v", tt.field, err)
		}
		if len(err.Detail) > 600 {
			t.Errorf("%s: the sentence has %d bytes", tt.field, len(err.Detail))
		}
	}
}

func itoa(i int) string { b, _ := json.Marshal(i); return string(b) }

func TestValidateAcceptsWhatClientsSend(t *testing.T) {
	tests := map[string]func(*Request){
		"luci board name":   func(r *Request) { r.Profile = "tplink,archer-c7-v5" },
		"x86 vendor string": func(r *Request) { r.Profile = "To be filled by O.E.M. (X10SLL-F)/1"; r.Target = "x86/64" },
		"odd package names": func(r *Request) {
			r.Packages = []string{"libstdc++6", "-kmod-usb2", "GeoIP_lib", "luci-i18n-base-pt-br", "libubox20240329", "6relayd"}
		},
		"selector's empty defaults": func(r *Request) {
			r.Defaults, r.Repositories, r.RepositoryKeys = ptr(""), Pairs{}, []string{}
		},
		"owut": func(r *Request) {
			r.Filesystem, r.VersionCode = ptr("squashfs"), "r28427-6df0e3d02a"
			r.PackagesVersions = Pairs{{"uhttpd", "2023.06.25~34a8a74d-r4"}, {"kmod-ath9k", "6.6.68.6.12-r1"}}
		},
		"a feed": func(r *Request) {
			r.Repositories = Pairs{{"libremesh", "http://feed.libremesh.org/master/openwrt-24.10/x86_64?x=1"}}
			r.RepositoryKeys = []string{"untrusted comment: x\nRWS4JZo9PaxOG7GcUlVYcww3Yii4Z4hcBO1eQ8NSvnvGBadXcvC1JbDd\n"}
		},
	}
	for name, change := range tests {
		r := plainRequest()
		change(&r)
		if err := r.Normalize().Validate(testLimits); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every field that can change the image changes the hash, and no two fields
// can be confused with one another.
func TestHashCoversEachPart(t *testing.T) {
	base := func() Request {
		r := plainRequest()
		r.Packages = []string{"luci", "tmux"}
		return r
	}
	changes := map[string]func(*Request){
		"distro":                 func(r *Request) { r.Distro = "lede" },
		"version":                func(r *Request) { r.Version = "24.10.3" },
		"version_code":           func(r *Request) { r.VersionCode = "r1" },
		"target":                 func(r *Request) { r.Target = "x86/64" },
		"profile":                func(r *Request) { r.Profile = "generic" },
		"packages":               func(r *Request) { r.Packages = []string{"luci", "vim"} },
		"packages joined":        func(r *Request) { r.Packages = []string{"lucitmux"} },
		"packages fewer":         func(r *Request) { r.Packages = []string{"luci"} },
		"packages removed":       func(r *Request) { r.Packages = []string{"luci", "-tmux"} },
		"packages_versions":      func(r *Request) { r.PackagesVersions = Pairs{{"luci", "1"}, {"tmux", "2"}} },
		"packages_versions swap": func(r *Request) { r.PackagesVersions = Pairs{{"luci", "2"}, {"tmux", "1"}} },
		"diff_packages":          func(r *Request) { r.DiffPackages = true },
		"defaults":               func(r *Request) { r.Defaults = ptr("x") },
		"rootfs_size_mb":         func(r *Request) { r.RootfsSizeMB = ptr(100) },
		"filesystem":             func(r *Request) { r.Filesystem = ptr("ext4") },
		"defaults like fs":       func(r *Request) { r.Defaults = ptr("ext4") },
		"repositories":           func(r *Request) { r.Repositories = Pairs{{"a", "http://x/"}} },
		"repositories_mode": func(r *Request) {
			r.Repositories, r.RepositoriesMode = Pairs{{"a", "http://x/"}}, RepositoriesAppend
		},
		"repository_keys": func(r *Request) { r.RepositoryKeys = []string{"k"} },
	}
	seen := map[string]string{base().Normalize().Hash("g"): "base", base().Normalize().Hash("h"): "generation"}
	for name, change := range changes {
		r := base()
		change(&r)
		h := r.Normalize().Hash("g")
		if other, dup := seen[h]; dup {
			t.Errorf("%s has the hash of %s", name, other)
		}
		if !ValidHash(h) {
			t.Errorf("%s: %q is no hash", name, h)
		}
		seen[h] = name
	}
	same := map[string]func(*Request){
		"client":                  func(r *Request) { r.Client = ptr("luci/1") },
		"empty defaults":          func(r *Request) { r.Defaults = ptr("") },
		"mode without feeds":      func(r *Request) { r.RepositoriesMode = RepositoriesAppend },
		"plus":                    func(r *Request) { r.Packages = []string{"+luci", "tmux", "luci"} },
		"explicit default":        func(r *Request) { r.Distro = DefaultDistro },
		"packages under versions": func(r *Request) {},
	}
	for name, change := range same {
		r := base()
		change(&r)
		if r.Normalize().Hash("g") != base().Normalize().Hash("g") {
			t.Errorf("%s changes the hash", name)
		}
	}
}

// A hash names images on disk and in people's links: it may change only
// together with hashVersion.
func TestHashIsPinned(t *testing.T) {
	r := plainRequest()
	r.Packages = []string{"luci", "-ppp"}
	r.Filesystem = ptr("squashfs")
	const want = "259f5e290bf2ea5da85574e800777b71f692f14e80aeac6775267a7eb511aead"
	if got := r.Normalize().Hash("generation"); got != want {
		t.Errorf("got %s", got)
	}
}

func TestNormalizeAndHashProperties(t *testing.T) {
	name := rapid.StringMatching(`[+-]?[a-z0-9][a-z0-9+._-]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		r := plainRequest()
		r.Packages = rapid.SliceOf(name).Draw(t, "packages")
		for _, n := range rapid.SliceOfDistinct(name, rapid.ID[string]).Draw(t, "versions") {
			r.PackagesVersions = append(r.PackagesVersions, Pair{n, "1"})
		}
		once := r.Normalize()
		if diff := cmp.Diff(once, once.Normalize()); diff != "" {
			t.Fatalf("normalizing twice: %s", diff)
		}
		shuffled := once
		shuffled.Packages = append([]string(nil), once.Packages...)
		rng := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		rng.Shuffle(len(shuffled.Packages), func(i, j int) {
			shuffled.Packages[i], shuffled.Packages[j] = shuffled.Packages[j], shuffled.Packages[i]
		})
		if once.Hash("g") != shuffled.Hash("g") {
			t.Fatalf("order changes the hash of %q", once.Packages)
		}
	})
}

func TestBranch(t *testing.T) {
	for version, want := range map[string]string{
		"24.10.4": "24.10", "24.10.0-rc2": "24.10", "24.10-SNAPSHOT": "24.10", "24.10": "24.10",
		"SNAPSHOT": "SNAPSHOT", "": "", ".": ".",
	} {
		if got := Branch(version); got != want {
			t.Errorf("%q is of %q, want %q", version, got, want)
		}
	}
}

func TestRepositoryNamesAreFileNames(t *testing.T) {
	for name, want := range map[string]bool{"mesh": true, "a.b_c-d": true, ".": false, "..": false, "-x": false, ".x": false, "": false, "a/b": false} {
		if ValidRepositoryName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestPairsKeepOrder(t *testing.T) {
	var p Pairs
	if err := json.Unmarshal([]byte(`{"z":"1","a":"2","z":"3"}`), &p); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != `{"z":"3","a":"2"}` {
		t.Errorf("got %s", out)
	}
	for _, bad := range []string{`[]`, `{"a":1}`, `{"a":null}`, `"x"`, `{"a":{}}`} {
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func FuzzPairs(f *testing.F) {
	f.Add([]byte(`{"a":"b"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Pairs
		if json.Unmarshal(data, &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again Pairs
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if len(p) != len(again) {
			t.Fatalf("%d pairs became %d", len(p), len(again))
		}
	})
}

// What is in the image makes its content, not the words it was asked for in.
func TestContentHash(t *testing.T) {
	manifest := Manifest{"luci": "1", "tmux": "2"}
	base := plainRequest().Normalize()
	base.Packages = []string{"luci"}
	content := base.ContentHash("g", manifest)
	if !ValidHash(content) || content == base.Hash("g") {
		t.Errorf("content %q", content)
	}
	same := map[string]func(*Request){
		"order":             func(r *Request) { r.Packages = []string{"tmux", "luci"} },
		"diff_packages":     func(r *Request) { r.DiffPackages = true },
		"packages_versions": func(r *Request) { r.PackagesVersions = Pairs{{"luci", "1"}} },
		"version_code":      func(r *Request) { r.VersionCode = "r1" },
		"client":            func(r *Request) { r.Client = ptr("luci/1") },
		"from":              func(r *Request) { r.FromVersion = "23.05.3" },
	}
	for name, change := range same {
		r := base
		change(&r)
		if r.ContentHash("g", manifest) != content {
			t.Errorf("%s changes the content", name)
		}
	}
	seen := map[string]string{
		content: "base", base.ContentHash("h", manifest): "generation",
		base.ContentHash("g", Manifest{"luci": "1"}): "a package less", base.ContentHash("g", Manifest{"luci": "2", "tmux": "1"}): "other versions",
	}
	if len(seen) != 4 {
		t.Errorf("generation or manifest do not count: %v", seen)
	}
	other := map[string]func(*Request){
		"distro":            func(r *Request) { r.Distro = "lede" },
		"version":           func(r *Request) { r.Version = "24.10.3" },
		"target":            func(r *Request) { r.Target = "x86/64" },
		"profile":           func(r *Request) { r.Profile = "generic" },
		"defaults":          func(r *Request) { r.Defaults = ptr("x") },
		"rootfs_size_mb":    func(r *Request) { r.RootfsSizeMB = ptr(100) },
		"filesystem":        func(r *Request) { r.Filesystem = ptr("ext4") },
		"repositories":      func(r *Request) { r.Repositories = Pairs{{"a", "http://x/"}} },
		"repositories_mode": func(r *Request) { r.Repositories, r.RepositoriesMode = Pairs{{"a", "http://x/"}}, RepositoriesAppend },
		"repository_keys":   func(r *Request) { r.RepositoryKeys = []string{"k"} },
	}
	for name, change := range other {
		r := base
		change(&r)
		h := r.ContentHash("g", manifest)
		if before, dup := seen[h]; dup {
			t.Errorf("%s has the content of %s", name, before)
		}
		seen[h] = name
	}
}

package upstream

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

func TestTargetIsOneVerifiedGeneration(t *testing.T) {
	key := newSigner(1)
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 10), key))
	u := openTest(t, Options{URL: f.URL, TrustedKeys: [][]byte{key.public()}})
	target := mustTarget(t, u)
	if !target.Signed || target.Stale || target.Arch != testArch || target.Path != "releases/24.10.1" {
		t.Errorf("signed %v, stale %v, arch %q, path %q", target.Signed, target.Stale, target.Arch, target.Path)
	}
	g := target.Generation
	if g.Revision != "r1-aaa" || g.Builder != builderFile(testTarget) || g.BuilderSHA256 != hexSum([]byte(builderArchive(t, 10))) || !imagebuilder.ValidHash(g.Digest) {
		t.Errorf("generation %+v", g)
	}
	index, err := u.TargetIndex(t.Context(), "releases/24.10.1", testTarget)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"architecture":"mips_24kc","packages":{"base-files":"r1-aaa","kmod-ath9k":"6.6.68-r1","libubox":"1-r1"}}`
	if string(index) != want {
		t.Errorf("target index\n%s\nwant\n%s", index, want)
	}
	arch, err := u.ArchIndex(t.Context(), "releases/24.10.1", testArch)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"luci":"26.1","tmux":"3.4-r1"}`; string(arch) != want {
		t.Errorf("arch index %s, want %s", arch, want)
	}
	// Everything is asked for once, and what has a sum never again.
	before := f.requests()
	mustTarget(t, u)
	if n := f.requests() - before; n != 0 {
		t.Errorf("a second look made %d requests", n)
	}
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{testBase + "profiles.json", ".versions.json", "releases/24.10.1/packages/mips_24kc/base/Packages"} {
		kept, err := os.ReadFile(filepath.Join(u.o.Dir, "mirror", path))
		if err != nil || string(kept) != f.files[path] {
			t.Errorf("mirror of %s: %q, %v", path, kept, err)
		}
	}
	for _, name := range []string{"profiles.json", "packages/Packages", "sha256sums"} {
		if n := f.count(testBase + name); n != 1 {
			t.Errorf("%s was sent %d times", name, n)
		}
	}
}

func TestGenerationChangesWithTheFeeds(t *testing.T) {
	files := sampleTree("r1-aaa", "x", nil)
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL})
	first := mustTarget(t, u).Generation
	f.set(files.with(tree{"releases/24.10.1/packages/mips_24kc/base/Packages": "Package: tmux\nVersion: 3.5-r1\n"}))
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	second := mustTarget(t, u).Generation
	if first.Digest == second.Digest || first.BuilderSHA256 != second.BuilderSHA256 {
		t.Errorf("generations %+v and %+v", first, second)
	}
}

func TestOverview(t *testing.T) {
	files := sampleTree("r1-aaa", "x", nil).with(tree{
		".versions.json": `{"stable_version":"24.10.1","oldstable_version":"23.05.5","upcoming_version":"26.03.0-rc2",
			"versions_list":["23.05.5","23.05.6","24.10.0","24.10.0-rc1","24.10.1","24.10.10","26.03.0-rc2","19.07.10","9.9.9","../../x",7]}`,
		"releases/24.10.10/.targets.json":       `{"ath79/generic":"mips_24kc","x86/64":"x86_64","../x":"y","z":5}`,
		"releases/24.10-SNAPSHOT/.targets.json": `{"ath79/generic":"mips_24kc"}`,
		"releases/23.05.5/.targets.json":        `{"ath79/generic":"mips_24kc"}`, // 23.05.6 is announced, not there yet
		"releases/26.03.0-rc2/.targets.json":    `{"ath79/generic":"mips_24kc"}`,
		"releases/19.07.10/.targets.json":       `{"ath79/generic":"mips_24kc"}`,
		"snapshots/.targets.json":               `{"x86/64":"x86_64"}`,
		"own/1.2/.targets.json":                 `{"x86/64":"x86_64"}`,
	})
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL, Branches: []BranchConfig{{Name: "mesh", Path: "own/{version}", Versions: []string{"1.2"},
		PackageChanges: []imagebuilder.PackageChange{{Source: "old", Target: "new", Revision: 7}}}}})
	o, err := u.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Name, Path string
		Versions   []string
		Targets    map[string]string
		Off, Moves int
	}
	var got []line
	for _, b := range o.Branches {
		got = append(got, line{b.Name, b.Path, b.Versions, b.Targets, b.BranchOffRev, len(b.PackageChanges)})
	}
	ath79, x86 := map[string]string{"ath79/generic": "mips_24kc"}, map[string]string{"x86/64": "x86_64"}
	want := []line{
		{"SNAPSHOT", "snapshots", []string{"SNAPSHOT"}, x86, 0, 0},
		{"26.03", "releases/{version}", []string{"26.03.0-rc2"}, ath79, 0, 0},
		{"24.10", "releases/{version}", []string{"24.10.10", "24.10.1", "24.10.0", "24.10.0-rc1", "24.10-SNAPSHOT"},
			map[string]string{"ath79/generic": "mips_24kc", "x86/64": "x86_64"}, 27990, 0},
		{"23.05", "releases/{version}", []string{"23.05.5"}, ath79, 23069, 0},
		{"mesh", "own/{version}", []string{"1.2"}, x86, 0, 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("branches (-want +got):\n%s", diff)
	}
	if want := []string{"26.03.0-rc2", "24.10.1", "23.05.5"}; !slices.Equal(o.Latest, want) {
		t.Errorf("latest %v, want %v", o.Latest, want)
	}
	for path, want := range map[string]string{"snapshots": "SNAPSHOT", "releases/24.10-SNAPSHOT": "24.10-SNAPSHOT", "own/1.2": "1.2", "releases/9.9.9": "", "": ""} {
		if v, ok := u.VersionForPath(path); v != want || ok != (want != "") {
			t.Errorf("version for %q: %q, %v", path, v, ok)
		}
	}
}

func TestOnlyWhatIsListedIsAskedFor(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	u := openTest(t, Options{URL: f.URL})
	mustTarget(t, u)
	before := f.requests()
	for range 20 {
		_, err := u.Target(t.Context(), "10.10.10", testTarget)
		wantCode(t, err, imagebuilder.CodeUnsupportedVersion, "Unsupported branch: 10.10.10")
		_, err = u.Target(t.Context(), testVersion, "no/such")
		wantCode(t, err, imagebuilder.CodeUnsupportedTarget, "Unsupported target: no/such. The requested target was either dropped, is still being built")
		_, err = u.ArchIndex(t.Context(), "releases/24.10.1", "no_arch")
		wantCode(t, err, imagebuilder.CodeNotFound, "no_arch")
		_, err = u.TargetIndex(t.Context(), "releases/../..", testTarget)
		wantCode(t, err, imagebuilder.CodeNotFound, "no release")
	}
	if n := f.requests() - before; n != 0 {
		t.Errorf("odd names drove %d requests", n)
	}
}

// ways are how an upstream fails.
var ways = map[string]func(w http.ResponseWriter, r *http.Request, content string) bool{
	"500":  func(w http.ResponseWriter, r *http.Request, _ string) bool { http.Error(w, "no", 500); return true },
	"gone": func(w http.ResponseWriter, r *http.Request, _ string) bool { http.NotFound(w, r); return true },
	"a web page": func(w http.ResponseWriter, r *http.Request, _ string) bool {
		w.Write([]byte("<!DOCTYPE html><html>captive portal</html>"))
		return true
	},
	"truncated": func(w http.ResponseWriter, r *http.Request, content string) bool {
		w.Header().Set("Content-Length", "100000")
		w.Write([]byte(content[:len(content)/2]))
		return true
	},
	"cut short without a trace": func(w http.ResponseWriter, r *http.Request, content string) bool {
		w.Write([]byte(content[:len(content)*2/3]))
		return true
	},
	"connection dropped": func(http.ResponseWriter, *http.Request, string) bool { panic(http.ErrAbortHandler) },
	"endless": func(w http.ResponseWriter, r *http.Request, _ string) bool {
		block := []byte(strings.Repeat("x", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				break
			}
		}
		return true
	},
	"redirect to a file": func(w http.ResponseWriter, r *http.Request, _ string) bool {
		w.Header().Set("Location", "file:///etc/passwd")
		w.WriteHeader(302)
		return true
	},
	"redirect in a circle": func(w http.ResponseWriter, r *http.Request, _ string) bool {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	},
	"silence": func(w http.ResponseWriter, r *http.Request, _ string) bool { <-r.Context().Done(); return true },
	"half, then silence": func(w http.ResponseWriter, r *http.Request, content string) bool {
		w.Header().Set("Content-Length", "100000")
		w.Write([]byte(content[:len(content)/2]))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	},
}

func TestTheLastGoodCopyOutlivesUpstream(t *testing.T) {
	for name, wrong := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := newClock()
			key := newSigner(1)
			f := newFake(t, sampleTree("r1-aaa", "x", key))
			o := Options{URL: f.URL, Dir: t.TempDir(), Now: now.Now, TrustedKeys: [][]byte{key.public()}}
			u := openTest(t, o)
			good := mustTarget(t, u)
			overview, err := u.Overview(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			u.Close()

			f.misbehave(wrong)
			impatient := o
			impatient.Stall = 200 * time.Millisecond
			u = openTest(t, impatient)
			now.add(3 * time.Hour)
			if err := renewTarget(t, u); err == nil {
				t.Error("the renewal went well")
			}
			if _, _, err := u.overview.fresh(t.Context(), true); err != nil {
				t.Error(err)
			}
			start := time.Now()
			kept := mustTarget(t, u)
			if took := time.Since(start); took > time.Second {
				t.Errorf("an answer took %v", took)
			}
			if kept.Generation != good.Generation || !kept.Stale || !kept.Checked.Equal(good.Checked) || !kept.Signed {
				t.Errorf("kept %+v, stale %v, checked %v; had %+v, checked %v", kept.Generation, kept.Stale, kept.Checked, good.Generation, good.Checked)
			}
			after, err := u.Overview(t.Context())
			if err != nil || after.Digest != overview.Digest || !after.Stale {
				t.Errorf("overview: same %v, stale %v, %v", after != nil && after.Digest == overview.Digest, after != nil && after.Stale, err)
			}
			u.Close()

			u = openTest(t, impatient)
			start = time.Now()
			if again := mustTarget(t, u); again.Generation != good.Generation || !again.Signed {
				t.Errorf("after a restart %+v, had %+v", again.Generation, good.Generation)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("the first answer after a restart took %v", took)
			}

			u.Close()

			f.misbehave(nil)
			now.add(time.Hour)
			u = openTest(t, o)
			if err := renewTarget(t, u); err != nil {
				t.Fatal(err)
			}
			if back := mustTarget(t, u); back.Stale {
				t.Error("still stale after upstream came back")
			}
		})
	}
}

func TestNothingKnownIsSaidSoInTime(t *testing.T) {
	for name, wrong := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, sampleTree("r1-aaa", "x", nil))
			f.misbehave(wrong)
			u := openTest(t, Options{URL: f.URL, RequestWait: 300 * time.Millisecond, Stall: 5 * time.Second})
			start := time.Now()
			_, err := u.Target(t.Context(), testVersion, testTarget)
			wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "Please try again in a minute.")
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("the refusal took %v", took)
			}
		})
	}
}

func TestSlowUpstreamIsFetchedInTheBackground(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	open := make(chan struct{})
	f.misbehave(func(http.ResponseWriter, *http.Request, string) bool { <-open; return false })
	u := openTest(t, Options{URL: f.URL, RequestWait: 50 * time.Millisecond})
	_, err := u.Target(t.Context(), testVersion, testTarget)
	wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "still being fetched")
	close(open)
	u.o.RequestWait = 20 * time.Second
	mustTarget(t, u)
}

func TestHalfPublishedTargetsAreNeverMixed(t *testing.T) {
	one, two := sampleTree("r1-aaa", "one", nil), sampleTree("r2-bbb", "two", nil)
	f := newFake(t, one)
	u := openTest(t, Options{URL: f.URL})
	first := mustTarget(t, u).Generation
	for _, name := range []string{"sha256sums", "profiles.json", "packages/Packages"} {
		f.set(one.with(tree{testBase + name: two[testBase+name]}))
		err := renewTarget(t, u)
		if name == "sha256sums" && err == nil {
			t.Errorf("new sums over old files went well")
		}
		if g := mustTarget(t, u).Generation; g != first {
			t.Errorf("with a new %s alone: %+v, had %+v", name, g, first)
		}
	}
	f.set(two)
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	if g := mustTarget(t, u).Generation; g.Revision != "r2-bbb" || g.BuilderSHA256 != hexSum([]byte("two")) || g.Digest == first.Digest {
		t.Errorf("whole new generation: %+v", g)
	}
}

func TestFlippingUpstream(t *testing.T) {
	one, two := sampleTree("r1-aaa", "one", nil), sampleTree("r2-bbb", "two", nil)
	f := newFake(t, one)
	u := openTest(t, Options{URL: f.URL})
	n := 0
	f.misbehave(func(http.ResponseWriter, *http.Request, string) bool { // behind a balancer with two machines
		f.mu.Lock()
		defer f.mu.Unlock()
		if n++; n%11 == 0 {
			f.files = two
		} else if n%11 == 6 {
			f.files = one
		}
		return false
	})
	seen := map[imagebuilder.Generation]bool{}
	for range 60 {
		target, err := u.Target(t.Context(), testVersion, testTarget)
		if err != nil {
			wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "")
			u.refreshTarget(t.Context(), testVersion, testTarget) //nolint:errcheck // it may fail
			continue
		}
		seen[target.Generation] = true
		g := target.Generation
		if (g.Revision == "r1-aaa") != (g.BuilderSHA256 == hexSum([]byte("one"))) || target.Profiles.VersionCode != g.Revision {
			t.Fatalf("a mix: %+v", g)
		}
		renewTarget(t, u) //nolint:errcheck // it may fail
	}
	if len(seen) == 0 || len(seen) > 2 {
		t.Errorf("%d generations seen of two", len(seen))
	}
}

func TestSignatures(t *testing.T) {
	trusted, other := newSigner(1), newSigner(2)
	imposter := &signer{id: trusted.id, priv: other.priv}
	damaged := strings.Replace(trusted.sign("x"), "signed", "signed\n", 1)
	tests := []struct {
		name     string
		sig      func(sums string) string // nil: none
		keys     [][]byte
		require  bool
		signed   bool
		sentence string // "": accepted
	}{
		{"good", trusted.sign, [][]byte{trusted.public()}, false, true, ""},
		{"good, required", trusted.sign, [][]byte{trusted.public()}, true, true, ""},
		{"no key here", trusted.sign, nil, false, false, ""},
		{"no signature there", nil, [][]byte{trusted.public()}, false, false, ""},
		{"by another key", other.sign, [][]byte{trusted.public()}, false, false, ""},
		{"by another key, required", other.sign, [][]byte{trusted.public()}, true, false, "not signed by a key that this server trusts"},
		{"none, required", nil, [][]byte{trusted.public()}, true, false, "not signed by a key"},
		{"no key here, required", trusted.sign, nil, true, false, "not signed by a key"},
		{"by an imposter", imposter.sign, [][]byte{trusted.public()}, false, false, "wrong signature"},
		{"of other sums", func(string) string { return trusted.sign("other") }, [][]byte{trusted.public()}, false, false, "wrong signature"},
		{"damaged", func(string) string { return damaged }, [][]byte{trusted.public()}, false, false, "try again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := sampleTree("r1-aaa", "x", nil)
			if tt.sig != nil {
				files[testBase+"sha256sums.sig"] = tt.sig(files[testBase+"sha256sums"])
			}
			f := newFake(t, files)
			u := openTest(t, Options{URL: f.URL, TrustedKeys: tt.keys, RequireSignatures: tt.require})
			target, err := u.Target(t.Context(), testVersion, testTarget)
			if tt.sentence != "" {
				wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, tt.sentence)
				return
			}
			if err != nil || target.Signed != tt.signed {
				t.Errorf("target %+v, error %v; want signed %v", target, err, tt.signed)
			}
		})
	}
}

func TestWhatWasSignedStaysSigned(t *testing.T) {
	key, other := newSigner(1), newSigner(2)
	f := newFake(t, sampleTree("r1-aaa", "one", key))
	u := openTest(t, Options{URL: f.URL, TrustedKeys: [][]byte{key.public()}})
	good := mustTarget(t, u)
	for name, files := range map[string]tree{"unsigned": sampleTree("r2-bbb", "two", nil), "by an unknown key": sampleTree("r2-bbb", "two", other)} {
		f.set(files)
		if err := renewTarget(t, u); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if kept := mustTarget(t, u); kept.Generation != good.Generation || !kept.Signed {
			t.Errorf("%s: %+v, signed %v", name, kept.Generation, kept.Signed)
		}
	}
	f.set(sampleTree("r2-bbb", "two", key))
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	if g := mustTarget(t, u).Generation; g.Revision != "r2-bbb" {
		t.Errorf("the next signed generation is not taken: %+v", g)
	}
}

func TestUnverifiableTargetIsRefused(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "x", nil).with(tree{testBase + "sha256sums": ""}))
	u := openTest(t, Options{URL: f.URL})
	_, err := u.Target(t.Context(), testVersion, testTarget)
	wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "publishes no sha256sums")
}

func TestSnapshotsWithoutListOfVersions(t *testing.T) {
	f := newFake(t, tree{"snapshots/.targets.json": `{"x86/64":"x86_64"}`})
	u := openTest(t, Options{URL: f.URL})
	o, err := u.Overview(t.Context())
	if err != nil || len(o.Branches) != 1 || !slices.Equal(o.Branches[0].Versions, []string{"SNAPSHOT"}) || len(o.Latest) != 0 {
		t.Errorf("overview %+v, %v", o, err)
	}
}

func TestFeedNames(t *testing.T) {
	base := "releases/24.10.1/packages/mips_24kc/"
	none := tree{base + "feeds.conf": "", base + "base/Packages": "", base + "luci/index.json": ""}
	pkg := func(name string) string { return "Package: " + name + "\nVersion: 1\n" }
	tests := []struct {
		name    string
		changes tree
		want    string
	}{
		{"feeds.conf", tree{base + "own/Packages": pkg("own"), base + "feeds.conf": "src-link own x\nsrc/gz ../x y\n<html> bad\n"}, `{"own":"1"}`},
		{"sha256sums", tree{base + "own/Packages": pkg("own"), base + "sha256sums": hexSum([]byte(pkg("own"))) + "  ./own/Packages\n"}, `{"own":"1"}`},
		{"feeds.buildinfo", tree{base + "mesh/Packages": pkg("mesh"), base + "base/Packages": pkg("b"), base + "luci/Packages": pkg("l"),
			testBase + "feeds.buildinfo": "src-git mesh https://example/mesh.git^abc\n#src-git luci x\n"}, `{"b":"1","mesh":"1"}`},
		{"the common ones", tree{base + "telephony/Packages": pkg("t"), base + "base/Packages": pkg("b")}, `{"b":"1","t":"1"}`},
		{"none at all", tree{}, `{}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, sampleTree("r1-aaa", "x", nil).with(none).with(tt.changes))
			u := openTest(t, Options{URL: f.URL})
			got, err := u.ArchIndex(t.Context(), "releases/24.10.1", testArch)
			if err != nil || string(got) != tt.want {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
			u.Close()
			f.Close()
			offline := openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
			if again, err := offline.ArchIndex(t.Context(), "releases/24.10.1", testArch); err != nil || string(again) != tt.want {
				t.Errorf("after a restart without upstream: %s, %v; want %s", again, err, tt.want)
			}
		})
	}
}

func TestRunRenewsInTheBackground(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "one", nil))
	u := openTest(t, Options{URL: f.URL, Refresh: 20 * time.Millisecond, SnapshotRefresh: 20 * time.Millisecond})
	mustTarget(t, u)
	done := make(chan error, 1)
	go func() { done <- u.Run(t.Context()) }()
	f.set(sampleTree("r2-bbb", "two", nil))
	deadline := time.Now().Add(10 * time.Second)
	for {
		d, _, _, err := u.coreFor(t.Context(), testVersion, testTarget)
		if err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		revision := d.value.profiles.VersionCode
		d.mu.Unlock()
		if revision == "r2-bbb" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new generation was not taken")
		}
		time.Sleep(5 * time.Millisecond)
	}
	u.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, err := u.Target(t.Context(), testVersion, "x86/64")
	wantCode(t, err, imagebuilder.CodeUnsupportedTarget, "")
}

func TestClocksJump(t *testing.T) {
	now := newClock()
	f := newFake(t, sampleTree("r1-aaa", "one", nil))
	u := openTest(t, Options{URL: f.URL, Now: now.Now})
	good := mustTarget(t, u).Generation
	f.misbehave(ways["500"])
	renewTarget(t, u) //nolint:errcheck // so that a back-off is running
	f.misbehave(nil)
	f.set(sampleTree("r2-bbb", "two", nil))
	now.add(-50 * 365 * 24 * time.Hour) // a Pi boots
	target := mustTarget(t, u)
	if target.Generation != good || !target.Stale {
		t.Errorf("%+v, stale %v", target.Generation, target.Stale)
	}
	d, _, _, err := u.coreFor(t.Context(), testVersion, testTarget)
	if err != nil {
		t.Fatal(err)
	}
	c, s, err := d.fresh(t.Context(), false) // due, although neither times nor back-off say so
	if err != nil || c.profiles.VersionCode != "r2-bbb" || s.stale {
		t.Errorf("after the jump: %s, %+v, %v", c.profiles.VersionCode, s, err)
	}
}

func TestManyTargetsDoNotFillTheMemory(t *testing.T) {
	files := sampleTree("r1-aaa", "x", nil)
	list := `{"ath79/generic":"mips_24kc"`
	for i := range documentsInMemory + 10 {
		target := "t/" + string(rune('a'+i/10)) + string(rune('0'+i%10))
		list += `,"` + target + `":"mips_24kc"`
		profiles := profilesJSON(target, "r1")
		files["releases/24.10.1/targets/"+target+"/profiles.json"] = profiles
		files["releases/24.10.1/targets/"+target+"/sha256sums"] = hexSum([]byte(profiles)) + " *profiles.json\n"
	}
	files["releases/24.10.1/.targets.json"] = list + "}"
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL})
	targets, _, err := u.targetsOf(t.Context(), testVersion)
	if err != nil {
		t.Fatal(err)
	}
	for target := range targets {
		if _, err := u.Target(t.Context(), testVersion, target); err != nil {
			t.Fatal(err)
		}
	}
	loaded := 0
	for _, d := range u.cores {
		d.mu.Lock()
		flight := d.flight
		d.mu.Unlock()
		if flight != nil { // it is only being put on disk
			<-flight
		}
	}
	for _, d := range u.cores {
		d.mu.Lock()
		if d.value != nil {
			loaded++
		}
		d.mu.Unlock()
	}
	if loaded > documentsInMemory {
		t.Errorf("%d targets are in memory", loaded)
	}
	before := f.requests()
	for target := range targets {
		if _, err := u.Target(t.Context(), testVersion, target); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.requests() - before; n != 0 {
		t.Errorf("reading them again from disk made %d requests", n)
	}
}

func BenchmarkTarget(b *testing.B) {
	f := newFake(b, sampleTree("r1-aaa", "x", nil))
	u := openTest(b, Options{URL: f.URL})
	mustTarget(b, u)
	for b.Loop() {
		t, err := u.Target(b.Context(), testVersion, testTarget)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := t.Profile("tplink,archer-c7-v5"); err != nil {
			b.Fatal(err)
		}
	}
}

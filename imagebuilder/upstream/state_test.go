package upstream

import (
	"cmp"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

const (
	testArchPath = "releases/24.10.1/packages/" + testArch + "/"
	basePackages = testArchPath + "base/Packages"
)

// settle waits until the test's target and its feeds are on disk.
func settle(t testing.TB, u *Upstream) (*document[core], *document[archIndex]) {
	t.Helper()
	d, _, _, err := u.coreFor(t.Context(), testVersion, testTarget)
	if err != nil {
		t.Fatal(err)
	}
	feeds := u.archDocument(testVersion, "releases/24.10.1", testArch)
	for _, err := range []error{second(d.fresh(t.Context(), false)), second(feeds.fresh(t.Context(), false))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return d, feeds
}

func second[T any](_ *T, _ seen, err error) error { return err }

// checkState wants every record's files among the blobs and in the mirror, each
// counted as often as it is named, and nothing else. It closes u.
func checkState(t testing.TB, u *Upstream) (keys []string) {
	t.Helper()
	u.Close()
	refs, names := map[string]int{}, map[string]int{}
	for _, record := range below(t, u.state.records) {
		r, err := readRecord(filepath.Join(u.state.records, record))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, r.Key)
		for _, f := range r.Files {
			refs[f.SHA256]++
			names[f.Path]++
			if data, err := os.ReadFile(filepath.Join(u.state.blobs, f.SHA256)); err != nil || hexSum(data) != f.SHA256 {
				t.Errorf("blob of %s: %v", f.Path, err)
			}
			if data, err := os.ReadFile(filepath.Join(u.state.mirror, f.Path)); err != nil || hexSum(data) != f.SHA256 {
				t.Errorf("mirror of %s: %v", f.Path, err)
			}
		}
	}
	if diff := gocmp.Diff(refs, u.state.refs); diff != "" {
		t.Errorf("counts of blobs (-named +counted):\n%s", diff)
	}
	if diff := gocmp.Diff(sortedKeys(refs), below(t, u.state.blobs)); diff != "" {
		t.Errorf("blobs (-named +there):\n%s", diff)
	}
	if diff := gocmp.Diff(sortedKeys(names), below(t, u.state.mirror)); diff != "" {
		t.Errorf("mirror (-named +there):\n%s", diff)
	}
	slices.Sort(keys)
	return keys
}

// below lists the files below a folder.
func below(t testing.TB, dir string) []string {
	t.Helper()
	names := []string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func TestFullDiskCostsOnlyThePersistence(t *testing.T) {
	full := false
	d := realDisk()
	d.write = func(f *os.File, p []byte) (int, error) {
		if full {
			return 0, &os.PathError{Op: "write", Path: f.Name(), Err: errNoSpaceForTest}
		}
		return f.Write(p)
	}
	one, two := sampleTree("r1-aaa", "one", nil), sampleTree("r2-bbb", "two", nil)
	f := newFake(t, one)
	u := openTest(t, Options{URL: f.URL}, d)
	old := mustTarget(t, u).Generation
	u.Close()
	u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir}, d)
	mustTarget(t, u)
	full = true
	f.set(two)
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	if g := mustTarget(t, u).Generation; g.Revision != "r2-bbb" {
		t.Errorf("with a full disk: %+v", g)
	}
	u.Close()
	f.Close()
	u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
	if g := mustTarget(t, u).Generation; g != old {
		t.Errorf("after a restart: %+v, want the old one whole", g)
	}
}

func TestDamagedBlobIsFetchedAgain(t *testing.T) {
	for name, damage := range map[string]func(blob string) error{
		"lost bits": func(blob string) error { return os.WriteFile(blob, []byte("lost bits"), 0o644) },
		"lost":      os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, sampleTree("r1-aaa", "x", nil))
			u := openTest(t, Options{URL: f.URL})
			good := mustTarget(t, u).Generation
			sum := hexSum([]byte(f.files[testBase+"profiles.json"]))
			u.Close()
			if err := damage(filepath.Join(u.o.Dir, "mirror-state", "blobs", sum)); err != nil {
				t.Fatal(err)
			}
			u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
			if g := mustTarget(t, u).Generation; g != good {
				t.Errorf("%+v, want %+v", g, good)
			}
			if n := f.count(testBase + "profiles.json"); n != 2 {
				t.Errorf("profiles.json was sent %d times", n)
			}
			checkState(t, u) // it is whole again
			f.Close()
			u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
			if g := mustTarget(t, u).Generation; g != good {
				t.Errorf("after a restart without upstream: %+v, want %+v", g, good)
			}
		})
	}
}

func TestMirrorTroubleDoesNotCountTwice(t *testing.T) {
	files := sampleTree("r1-aaa", "x", nil)
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL})
	mustTarget(t, u)
	settle(t, u)
	inTheWay := filepath.Join(u.state.mirror, basePackages)
	if err := errors.Join(os.Remove(inTheWay), os.MkdirAll(filepath.Join(inTheWay, "folder"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"3.5", "3.6"} {
		f.set(files.with(tree{basePackages: "Package: tmux\nVersion: " + version + "\n"}))
		if err := renewTarget(t, u); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	f.set(files.with(tree{basePackages: "Package: tmux\nVersion: 3.7\n"}))
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	checkState(t, u)
}

func TestAnotherUpstreamStartsAfresh(t *testing.T) {
	one, two := newFake(t, sampleTree("r1-aaa", "x", nil)), newFake(t, tree{"snapshots/.targets.json": `{"x86/64":"x86_64"}`})
	u := openTest(t, Options{URL: one.URL})
	mustTarget(t, u)
	checkState(t, u)
	u = openTest(t, Options{URL: two.URL, Dir: u.o.Dir})
	if names := below(t, u.state.mirror); len(names) != 0 {
		t.Errorf("the mirror still has %v", names)
	}
	if _, err := u.Overview(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkState(t, u)
}

func TestLeftoversInTheMirrorAreSwept(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	u := openTest(t, Options{URL: f.URL})
	mustTarget(t, u)
	keys := checkState(t, u)
	for _, name := range []string{"mirror/releases/1.0/old", "mirror/" + testArchPath + ".attendant-feeds.conf", "mirror-state/.attendant-123", "mirror-state/blobs/.attendant-123", "mirror-state/records/.attendant-123"} {
		full := filepath.Join(u.o.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
	if diff := gocmp.Diff(keys, checkState(t, u)); diff != "" {
		t.Errorf("records (-before +after):\n%s", diff)
	}
	for _, name := range []string{"mirror-state/.attendant-123", "mirror/releases/1.0"} {
		if _, err := os.Lstat(filepath.Join(u.o.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestTidy(t *testing.T) {
	const targetKey, archKey = `target {"Version":"24.10.1","Path":"releases/24.10.1","Target":"ath79/generic","Arch":"mips_24kc"}`,
		`packages {"Version":"24.10.1","Path":"releases/24.10.1","Arch":"mips_24kc"}`
	lists := []string{"targets releases/24.10.1", "versions"}
	fail := func(w http.ResponseWriter, _ *http.Request, _ string) bool { http.Error(w, "no", 500); return true }
	tests := []struct {
		name    string
		wait    time.Duration
		use     bool // the target, not its feeds, after the wait
		offline bool
		bound   int64 // 0: the usual one; -1: what the target takes
		want    []string
	}{
		{"in use", dropAfter - time.Hour, false, false, 0, []string{archKey, targetKey}},
		{"unused", dropAfter + time.Hour, false, false, 0, nil},
		{"one unused", dropAfter + time.Hour, true, false, 0, []string{targetKey}},
		{"unused, upstream gone", dropAfter + time.Hour, false, true, 0, []string{archKey, targetKey}},
		{"too much, the older goes", 2 * time.Hour, true, false, -1, []string{targetKey}},
		{"too much, all goes", time.Minute, true, false, 1, nil},
	}
	for _, tt := range tests {
		for _, restart := range []bool{false, true} {
			name := tt.name
			if restart {
				name += ", after a restart"
			}
			t.Run(name, func(t *testing.T) {
				now := newClock()
				f := newFake(t, sampleTree("r1-aaa", "x", nil))
				o := Options{URL: f.URL, Dir: t.TempDir(), Now: now.Now}
				u := openTest(t, o)
				good := mustTarget(t, u).Generation
				core, _ := settle(t, u)
				_, size := core.lastUse()
				now.add(tt.wait)
				if tt.use {
					if _, err := u.Profiles(t.Context(), testVersion, testTarget); err != nil {
						t.Fatal(err)
					}
					d, _, _, err := u.coreFor(t.Context(), testVersion, testTarget)
					if err == nil {
						_, _, err = d.fresh(t.Context(), true)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if restart {
					u.Close()
					u = openTest(t, o)
				}
				if tt.offline {
					f.misbehave(fail)
				}
				u.overview.fresh(t.Context(), true) //nolint:errcheck // without upstream it fails
				if u.maxKept = cmp.Or(tt.bound, u.maxKept); tt.bound < 0 {
					u.maxKept = size
				}
				u.mu.Lock()
				for key := range u.kept {
					u.adopt(key)
				}
				u.mu.Unlock()
				u.tidy(now.Now())
				if diff := gocmp.Diff(append(slices.Clone(tt.want), lists...), checkState(t, u)); diff != "" {
					t.Errorf("records (-want +got):\n%s", diff)
				}
				f.misbehave(nil)
				u = openTest(t, o)
				if g := mustTarget(t, u).Generation; g != good {
					t.Errorf("had again: %+v, want %+v", g, good)
				}
				checkState(t, u)
			})
		}
	}
}

// TestTidiedDocumentsComeBack asks for what has been dropped from memory and
// disk in the same run.
func TestTidiedDocumentsComeBack(t *testing.T) {
	now := newClock()
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	u := openTest(t, Options{URL: f.URL, Now: now.Now})
	good := mustTarget(t, u).Generation
	core, feeds := settle(t, u)
	core.shed()
	feeds.shed()
	if used, size := core.lastUse(); size != 0 || !used.IsZero() {
		t.Errorf("shed, and yet %d bytes, used %v", size, used)
	}
	before := f.requests()
	u.renew(now.Now())
	if n := f.requests() - before; n != 0 {
		t.Errorf("what was dropped is renewed by %d requests", n)
	}
	if g := mustTarget(t, u).Generation; g != good {
		t.Errorf("had again: %+v, want %+v", g, good)
	}
	checkState(t, u)
}

func TestVanishedFeedsAreNotBelieved(t *testing.T) {
	page := "<html>captive portal</html>"
	tests := []struct {
		name    string
		changes tree
		wait    time.Duration
		want    string // "": what it was, stale
	}{
		{"a feed", tree{basePackages: ""}, 0, ""},
		{"a feed, a page", tree{basePackages: page}, 0, ""},
		{"a feed of the other kind", tree{testArchPath + "luci/index.json": ""}, 0, ""},
		{"feeds.conf", tree{testArchPath + "feeds.conf": ""}, 0, ""},
		{"feeds.conf, a page", tree{testArchPath + "feeds.conf": page}, 0, ""},
		{"named no more", tree{testArchPath + "feeds.conf": "src-git luci x\n", basePackages: ""}, 0, `{"luci":"26.1"}`},
		{"for long", tree{basePackages: ""}, goneAfter + time.Hour, `{"luci":"26.1"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := newClock()
			files := sampleTree("r1-aaa", "x", nil)
			f := newFake(t, files)
			u := openTest(t, Options{URL: f.URL, Now: now.Now})
			good := mustTarget(t, u)
			want, err := u.ArchIndex(t.Context(), "releases/24.10.1", testArch)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, u)
			now.add(tt.wait)
			f.set(files.with(tt.changes))
			if err := renewTarget(t, u); err != nil {
				t.Fatal(err)
			}
			got, err := u.ArchIndex(t.Context(), "releases/24.10.1", testArch)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want != "" {
				if string(got) != tt.want {
					t.Errorf("index %s, want %s", got, tt.want)
				}
				return
			}
			if after := mustTarget(t, u); string(got) != string(want) || after.Generation != good.Generation || !after.Stale {
				t.Errorf("index %s, generation %+v, stale %v; had %s, %+v", got, after.Generation, after.Stale, want, good.Generation)
			}
			f.set(files)
			if err := renewTarget(t, u); err != nil {
				t.Fatal(err)
			}
			if mustTarget(t, u).Stale {
				t.Error("still stale when it was there again")
			}
		})
	}
}

// Of what is only on disk a damaged list is asked for again, although it is
// not due.
func TestDamagedListsAreFetchedAgain(t *testing.T) {
	for _, name := range []string{".versions.json", "releases/24.10.1/.targets.json"} {
		for _, there := range []bool{true, false} {
			f := newFake(t, sampleTree("r1-aaa", "x", nil))
			u := openTest(t, Options{URL: f.URL})
			overview, err := u.Overview(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			u.Close()
			if err := os.WriteFile(filepath.Join(u.state.blobs, hexSum([]byte(f.files[name]))), []byte("lost bits"), 0o644); err != nil {
				t.Fatal(err)
			}
			if !there {
				f.Close()
			}
			u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
			again, err := u.Overview(t.Context())
			if !there {
				wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "")
				continue
			}
			if err != nil || again.Digest != overview.Digest {
				t.Errorf("%s: %+v, %v", name, again, err)
			}
			checkState(t, u)
		}
	}
}

func TestFreshNeverReturnsNothing(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	u := openTest(t, Options{URL: f.URL})
	mustTarget(t, u)
	d, _ := settle(t, u)
	d.drop() // many others are in use
	before := f.requests()
	if c, _, err := d.fresh(t.Context(), false); err != nil || c == nil {
		t.Errorf("%v, %v", c, err)
	}
	if n := f.requests() - before; n != 0 {
		t.Errorf("reading it from disk made %d requests", n)
	}
}

func TestNewReleaseIsSeenWhenAskedFor(t *testing.T) {
	now := newClock()
	files := sampleTree("r1-aaa", "x", nil)
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL, Now: now.Now})
	mustTarget(t, u)
	f.set(files.with(tree{
		".versions.json":                 `{"stable_version":"24.10.2","versions_list":["24.10.1","24.10.2"]}`,
		"releases/24.10.2/.targets.json": files["releases/24.10.1/.targets.json"],
	}))
	ask := func(version string) (requests int) {
		t.Helper()
		before := f.requests()
		_, err := u.Target(t.Context(), version, testTarget)
		wantCode(t, err, imagebuilder.CodeUnsupportedVersion, "")
		if _, _, err := u.overview.fresh(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		return f.requests() - before
	}
	if n := ask("24.10.2"); n != 0 { // it has only just been looked at
		t.Errorf("%d requests within a minute", n)
	}
	now.add(2 * time.Minute)
	ask("24.10.2")
	if v, _ := u.VersionForPath("releases/24.10.2"); v != "24.10.2" {
		t.Error("the new release is not known")
	}
	if n := ask("24.10.3"); n != 0 {
		t.Errorf("%d requests within a minute", n)
	}
}

func TestHasten(t *testing.T) {
	now := newClock()
	f := newFake(t, sampleTree("r1-aaa", "one", nil))
	u := openTest(t, Options{URL: f.URL, Now: now.Now})
	first := mustTarget(t, u).Generation
	settle(t, u)
	f.set(sampleTree("r2-bbb", "two", nil).with(tree{basePackages: "Package: tmux\nVersion: 3.5-r1\n"}))
	hasten := func() (requests int) {
		before := f.requests()
		u.Hasten(testVersion, testTarget)
		u.Hasten(testVersion, "no/such")
		settle(t, u)
		return f.requests() - before
	}
	if n := hasten(); n != 0 || mustTarget(t, u).Generation != first {
		t.Errorf("%d requests within a minute", n)
	}
	now.add(2 * time.Minute)
	hasten()
	if g := mustTarget(t, u).Generation; g.Revision != "r2-bbb" {
		t.Errorf("the target was not looked at: %+v", g)
	}
	if index, err := u.ArchIndex(t.Context(), "releases/24.10.1", testArch); err != nil || string(index) != `{"luci":"26.1","tmux":"3.5-r1"}` {
		t.Errorf("the feeds were not looked at: %s, %v", index, err)
	}
	if n := hasten(); n != 0 {
		t.Errorf("%d requests within a minute", n)
	}
	openTest(t, Options{URL: "http://127.0.0.1:1"}).Hasten(testVersion, testTarget) // nothing is known yet
}

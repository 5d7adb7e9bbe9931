package upstream

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/sample"
)

// samples is the folder of the sample distribution, written once for all
// tests, which change nothing in it; "" until then. TestMain removes it.
var samples string

var writeSample = sync.OnceValue(func() (err error) {
	if samples, err = os.MkdirTemp("", "upstream-test-sample-"); err != nil {
		return err
	}
	return sample.Write(samples, sample.Options{})
})

// sampleDistribution is an upstream that serves our own distribution.
func sampleDistribution(t *testing.T, o Options) (*Upstream, *httptest.Server) {
	t.Helper()
	if err := writeSample(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(samples)))
	t.Cleanup(server.Close)
	_, key := sample.TrustedKey()
	o.URL, o.TrustedKeys = server.URL, [][]byte{key}
	return openTest(t, o), server
}

func targetOf(t *testing.T, u *Upstream, version, name string) *Target {
	t.Helper()
	target, err := u.Target(t.Context(), version, name)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestUniverseIsAllFeedsInTheBuildersOrder(t *testing.T) {
	u, server := sampleDistribution(t, Options{})
	for version, manager := range map[string]feeds.Manager{"24.10.4": feeds.Opkg, "24.10.3": feeds.Opkg, "SNAPSHOT": feeds.APK} {
		target := targetOf(t, u, version, "x86/64")
		var names []string
		for _, f := range target.Feeds() {
			names = append(names, f.Name)
			list, err := target.FeedList(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(list.File); err != nil || (list.Signature != "") != (manager == feeds.Opkg) {
				t.Errorf("%s %s: %+v, %v", version, f.Name, list, err)
			}
		}
		if got := strings.Join(names, " "); got != "core base kmods luci packages routing telephony" {
			t.Errorf("%s: feeds %s", version, got)
		}
		universe := target.Universe()
		if universe == nil || universe.Manager() != manager || len(universe.Feeds()) != 7 || !universe.Has("luci") || !universe.Has("kmod-e1000e") {
			t.Fatalf("%s: universe %v", version, universe)
		}
		if again := targetOf(t, u, version, "x86/64").Universe(); again != universe {
			t.Errorf("%s: parsed again", version)
		}
	}
	// From the disk it is the same.
	server.Close()
	u.Close()
	again := openTest(t, Options{URL: u.o.URL, Dir: u.o.Dir, TrustedKeys: u.o.TrustedKeys})
	if universe := targetOf(t, again, "24.10.4", "x86/64").Universe(); universe == nil || !universe.Has("luci") {
		t.Error("no universe after a restart without upstream")
	}
}

func TestListsAreParsedOnceForAll(t *testing.T) {
	u, _ := sampleDistribution(t, Options{})
	target := targetOf(t, u, "24.10.4", "x86/64")
	var all sync.WaitGroup
	found := make([]*feeds.Universe, 20)
	for i := range found {
		all.Go(func() { found[i] = target.Universe() })
	}
	all.Wait()
	for _, universe := range found {
		if universe == nil || universe.Feeds()[0].Index != found[0].Feeds()[0].Index {
			t.Fatal("a list was parsed twice")
		}
	}
}

func TestParsedListsAreBounded(t *testing.T) {
	u, _ := sampleDistribution(t, Options{IndexMemory: 1})
	for _, version := range []string{"24.10.4", "24.10.3", "SNAPSHOT"} {
		for _, name := range []string{"x86/64", "ath79/generic"} {
			if targetOf(t, u, version, name).Universe() == nil {
				t.Errorf("%s %s: no universe", version, name)
			}
			if n := u.universes.lru.Len(); n > 1 {
				t.Errorf("%d are kept in 1 byte", n)
			}
		}
	}
	roomy, _ := sampleDistribution(t, Options{})
	for _, name := range []string{"x86/64", "ath79/generic"} {
		targetOf(t, roomy, "24.10.4", name).Universe()
	}
	if x := roomy.universes; x.cost <= 0 || x.cost > x.limit || x.lru.Len() < 10 {
		t.Errorf("%d bytes of %d in %d", x.cost, x.limit, x.lru.Len())
	}
	// When an index goes, universes that hold it go, too.
	x := roomy.universes
	x.mu.Lock()
	x.limit = x.cost - 1
	x.add("one more", &parsed{index: &feeds.Index{}, cost: 1})
	for _, key := range x.lru.Keys() {
		if p, _ := x.lru.Peek(key); p.universe != nil {
			for _, sum := range p.of {
				if !x.lru.Contains(sum) {
					t.Errorf("a universe holds an index that is not counted")
				}
			}
		}
	}
	x.mu.Unlock()
}

func TestNoUniverseWithoutAllLists(t *testing.T) {
	whole := sampleTree("r1-aaa", builderArchive(t, 1000), nil).with(tree{
		"releases/24.10.1/packages/mips_24kc/luci/Packages": "Package: luci\nVersion: 26.1\nArchitecture: all\n",
	})
	for name, change := range map[string]tree{
		"a feed with index.json only":   {"releases/24.10.1/packages/mips_24kc/luci/Packages": ""},
		"lists of two package managers": {"releases/24.10.1/packages/mips_24kc/luci/Packages": "", "releases/24.10.1/packages/mips_24kc/luci/packages.adb": "ADB.not really"},
	} {
		f := newFake(t, whole.with(change))
		u := openTest(t, Options{URL: f.URL})
		if mustTarget(t, u).Universe() != nil {
			t.Errorf("%s: there is a universe", name)
		}
	}
	f := newFake(t, whole)
	u := openTest(t, Options{URL: f.URL})
	target := mustTarget(t, u)
	if universe := target.Universe(); universe == nil || !universe.Has("luci") || !universe.Has("tmux") {
		t.Fatalf("universe %v", universe)
	}
	if universe, _ := target.UniverseOf([]Feed{{Name: "elsewhere", Path: "releases/24.10.1/packages/mips_24kc/video"}}); universe != nil {
		t.Error("there is a universe of a feed that is not there")
	}
}

// The digest covers the lists, also where index.json stays the same.
func TestGenerationChangesWithTheLists(t *testing.T) {
	const list = "releases/24.10.1/packages/mips_24kc/luci/Packages"
	files := sampleTree("r1-aaa", builderArchive(t, 1000), nil).with(tree{list: "Package: luci\nVersion: 26.1\nArchitecture: all\n"})
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL})
	before := mustTarget(t, u)
	first := before.Universe()
	f.set(files.with(tree{list: "Package: luci\nVersion: 26.1\nArchitecture: all\nDepends: tmux\n"}))
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	after := mustTarget(t, u)
	if after.Generation.Digest == before.Generation.Digest || after.Universe() == first {
		t.Error("the generation is the same although a list has changed")
	}
}

// What the disk has spoilt is no universe, and no reason to stop.
func TestSpoiltList(t *testing.T) {
	u, _ := sampleDistribution(t, Options{})
	target := targetOf(t, u, "24.10.4", "x86/64")
	folder := target.Feeds()[0].Path
	list, err := target.FeedList(folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list.File, []byte("spoilt"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := target.FeedList(folder); err == nil {
		t.Error("the spoilt list is handed out")
	}
	if target.Universe() != nil {
		t.Error("there is a universe")
	}
	if _, err := os.Stat(filepath.Clean(list.File)); !os.IsNotExist(err) {
		t.Errorf("the spoilt file is still there: %v", err)
	}
}

// Where sha256sums lists apk's packages these sums hold, too.
func TestSumsOfPackages(t *testing.T) {
	u, _ := sampleDistribution(t, Options{})
	for _, version := range []string{"24.10.4", "SNAPSHOT"} {
		target := targetOf(t, u, version, "ath79/generic")
		var files []PackageFile
		for _, f := range target.Universe().Feeds() {
			for i := range min(3, len(f.Index.Packages)) {
				file := target.PackageFile(f.Path, &f.Index.Packages[i])
				if version == "SNAPSHOT" && file.SHA256 == "" {
					t.Errorf("%s has no sum", file.URL)
				}
				files = append(files, file)
			}
		}
		set, err := u.FetchPackages(t.Context(), files, nil)
		if err != nil {
			t.Fatal(err)
		}
		set.Release()
	}
}

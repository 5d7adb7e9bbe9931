package runner

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// seer is a Planner that is told what to say.
type seer struct {
	mu        sync.Mutex
	questions []Question
	fetched   int
	released  int
	damaged   int

	manifest imagebuilder.Manifest // certain of it; nil for nothing
	selected []*feeds.Package
	noPlan   error
	fail     error // of Fetch
	kept     string
}

// Plan implements Planner.
func (s *seer) Plan(_ context.Context, q Question) (*Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.questions = append(s.questions, q)
	if s.noPlan != nil {
		return nil, s.noPlan
	}
	p := &Plan{Fetch: s.fetch, Why: "it is a test."}
	if s.manifest != nil && !q.Doubt {
		p.Certain, p.Manifest, p.Selected = true, s.manifest, s.selected
	}
	return p, nil
}

func (s *seer) fetch(_ context.Context, rep imagebuilder.Reporter) (*Fetched, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched++
	if s.fail != nil {
		return nil, s.fail
	}
	rep.Stage(imagebuilder.StagePackages)
	count := func(n *int) func() { return func() { s.mu.Lock(); defer s.mu.Unlock(); *n++ } }
	return &Fetched{
		Feeds: []FetchedFeed{
			{Files: map[string]string{"cowsay_1.0_all.ipk": s.kept}, Data: map[string][]byte{"Packages": []byte("Package: cowsay\n"), "Packages.sig": []byte("signed")}},
			{Data: map[string][]byte{"Packages.gz": []byte("packed")}},
			{Data: map[string][]byte{"Packages.gz": []byte("other")}},
		},
		Release: count(&s.released), Damaged: count(&s.damaged),
	}, nil
}

// planning is a runner with a seer and the fake ImageBuilder.
func planning(t *testing.T, s *seer) (*Runner, *bytes.Buffer) {
	t.Helper()
	s.kept = filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(s.kept, []byte("a cow"), 0o444); err != nil {
		t.Fatal(err)
	}
	prepare := newRunner(t, Options{Builders: theBuilder("")}).Prepare
	var log bytes.Buffer
	return newRunner(t, Options{
		Builders: theBuilder(fakeBuilder(t, prepare)), Planner: s, Log: slog.New(slog.NewTextHandler(&log, nil)),
		WorkDir: filepath.Join(t.TempDir(), "work"), UpstreamURL: "https://mirror.example",
	}), &log
}

var cowsayManifest = imagebuilder.Manifest{"base-files": "1637", "libubox": "2024.03.29-r1", "cowsay": "1.0"}

func makeCalls(w *witness) int {
	n := 0
	for _, line := range w.lines {
		if strings.HasPrefix(line, "pwd ") {
			n++
		}
	}
	return n
}

func TestCertainPlanIsOneMakeCall(t *testing.T) {
	s := &seer{manifest: cowsayManifest}
	r, log := planning(t, s)
	w := newWitness()
	built, err := r.Build(t.Context(), job(request("good", "cowsay")), w)
	if err != nil {
		t.Fatal(err)
	}
	if n := makeCalls(w); n != 1 {
		t.Errorf("%d make calls", n)
	}
	want := []imagebuilder.Stage{imagebuilder.StageInit, imagebuilder.StageRevision, imagebuilder.StagePackages, imagebuilder.StageImage, imagebuilder.StageCommit}
	if !slices.Equal(w.stages, want) {
		t.Errorf("stages %v", w.stages)
	}
	if diff := cmp.Diff(cowsayManifest, built.Set.Manifest); diff != "" {
		t.Error(diff)
	}
	if s.released != 1 || s.damaged != 0 || log.Len() > 0 {
		t.Errorf("released %d, damaged %d: %s", s.released, s.damaged, log)
	}
	q := s.questions[0]
	wantLines := []FeedLine{
		{"openwrt_core", "https://mirror.example/releases/1.2.3/targets/fake/generic/packages", "releases/1.2.3/targets/fake/generic/packages"},
		{"openwrt_base", "https://mirror.example/releases/1.2.3/packages/mips_24kc/base", "releases/1.2.3/packages/mips_24kc/base"},
		{"other", "https://other.example/releases/1.2.3/feed", ""},
	}
	if diff := cmp.Diff(wantLines, q.Feeds); diff != "" {
		t.Error(diff)
	}
	wish := feeds.Wish{Default: []string{"base-files", "busybox", "dropbear", "libc", "-kmod-off"}, Device: []string{"kmod-fake", "-busybox"}, Requested: []string{"cowsay"}}
	if diff := cmp.Diff(wish, q.Wish); diff != "" || q.Manager != feeds.Opkg || q.Doubt {
		t.Errorf("%+v: %s", q, diff)
	}
}

// The ImageBuilder's word counts: what was foreseen wrongly is told, and built
// as it comes.
func TestPlanThatWasWrong(t *testing.T) {
	for name, manifest := range map[string]imagebuilder.Manifest{
		"a package more":  {"base-files": "1637", "libubox": "2024.03.29-r1"},
		"a package less":  {"base-files": "1637", "libubox": "2024.03.29-r1", "cowsay": "1.0", "tmux": "3"},
		"another version": {"base-files": "1637", "libubox": "2024.03.29-r1", "cowsay": "1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &seer{manifest: manifest}
			r, log := planning(t, s)
			w := newWitness()
			req := request("good", "cowsay")
			req.Defaults = ptr("echo hunter2\n")
			built, err := r.Build(t.Context(), job(req), w)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(cowsayManifest, built.Set.Manifest); diff != "" {
				t.Error(diff)
			}
			if len(s.questions) != 2 || !s.questions[1].Doubt || s.released != 2 || makeCalls(w) != 3 {
				t.Errorf("%d questions, %d released, %d make calls", len(s.questions), s.released, makeCalls(w))
			}
			for _, part := range []string{"counterexample", `request="{`, `solution="{`, `manifest="{`} {
				if !strings.Contains(log.String(), part) {
					t.Errorf("no %s in %s", part, log)
				}
			}
			if strings.Contains(log.String(), "hunter2") {
				t.Error("the defaults are in the log")
			}
		})
	}
}

// A build whose packages were not all foreseen fetches for itself in the end.
func TestBuildThatLacksPackages(t *testing.T) {
	for _, certain := range []imagebuilder.Manifest{nil, cowsayManifest} {
		s := &seer{manifest: certain}
		r, _ := planning(t, s)
		w := newWitness()
		if _, err := r.Build(t.Context(), job(request("lacks", "cowsay")), w); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(w.lines, func(line string) bool { return strings.Contains(line, "it fetches for itself now") }) {
			t.Errorf("nobody is told: %q", w.lines)
		}
		if s.released != len(s.questions) {
			t.Errorf("%d questions, %d released", len(s.questions), s.released)
		}
	}
}

func TestKeptPackageThatIsSpoilt(t *testing.T) {
	s := &seer{manifest: cowsayManifest}
	r, _ := planning(t, s)
	if _, err := r.Build(t.Context(), job(request("spoilt", "cowsay")), newWitness()); err != nil {
		t.Fatal(err)
	}
	if s.damaged != 1 || s.fetched != 2 {
		t.Errorf("damaged %d, fetched %d", s.damaged, s.fetched)
	}
}

// What is certain is checked before anything is fetched, and what cannot be
// fetched ends a build.
func TestPlannedBuildsThatFail(t *testing.T) {
	conflicting := []*feeds.Package{{Name: "cowsay", Version: "1.0", Conflicts: []feeds.Relation{{Name: "libubox"}}}}
	tests := []struct {
		name    string
		seer    *seer
		change  func(*imagebuilder.Request)
		code    imagebuilder.Code
		fetched int
	}{
		{"another version", &seer{manifest: cowsayManifest}, func(r *imagebuilder.Request) { r.PackagesVersions = imagebuilder.Pairs{{Name: "cowsay", Value: "2"}} }, imagebuilder.CodePackageVersion, 0},
		{"a conflict", &seer{manifest: cowsayManifest, selected: conflicting}, func(*imagebuilder.Request) {}, imagebuilder.CodePackageConflict, 0},
		{"no room", &seer{fail: imagebuilder.Errorf(imagebuilder.CodeNoSpace, "No room.")}, func(*imagebuilder.Request) {}, imagebuilder.CodeNoSpace, 1},
		{"no network", &seer{fail: imagebuilder.Errorf(imagebuilder.CodeNoNetwork, "No network.")}, func(*imagebuilder.Request) {}, imagebuilder.CodeNoNetwork, 1},
		{"a plan that fails", &seer{noPlan: imagebuilder.Errorf(imagebuilder.CodeNoNetwork, "No feed.")}, func(*imagebuilder.Request) {}, imagebuilder.CodeNoNetwork, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := planning(t, tt.seer)
			req := request("good", "cowsay")
			tt.change(&req)
			w := newWitness()
			_, err := r.Build(t.Context(), job(req), w)
			if e := asError(t, err); e.Code != tt.code || tt.seer.fetched != tt.fetched || makeCalls(w) != 0 {
				t.Errorf("%v; fetched %d times, %d make calls", e, tt.seer.fetched, makeCalls(w))
			}
		})
	}
}

func TestNothingPlanned(t *testing.T) {
	s := &seer{noPlan: fmt.Errorf("%w: the lists are not at hand", ErrNoPlan)}
	r, _ := planning(t, s)
	w := newWitness()
	if _, err := r.Build(t.Context(), job(request("feeds", "cowsay")), w); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"attendant: the build fetches its packages for itself: the lists are not at hand",
		"feed: src/gz openwrt_base https://mirror.example/releases/1.2.3/packages/mips_24kc/base",
	} {
		if !slices.Contains(w.lines, line) {
			t.Errorf("no %q in %q", line, w.lines)
		}
	}
}

// A planned build sees its own feeds, cannot change them, and no network.
func TestFeedsOfAPlannedBuild(t *testing.T) {
	s := &seer{manifest: cowsayManifest}
	r, _ := planning(t, s)
	w := newWitness()
	if _, err := r.Build(t.Context(), job(request("feeds", "cowsay")), w); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range w.lines {
		if strings.HasPrefix(line, "feed: ") || strings.Contains(line, "-o") || strings.HasPrefix(line, "interface: ") {
			got = append(got, line)
		}
	}
	want := []string{ // without the folder of the build, which is left out of every line
		"feed: src/gz openwrt_core file://feeds/0-openwrt_core",
		"feed: src/gz openwrt_base file://feeds/1-openwrt_base",
		"feed: src/gz other file://feeds/2-other",
		"feed: src imagebuilder file:packages", "feed: option check_signature",
		"0-openwrt_core/Packages.sig: signed", "0-openwrt_core/cowsay_1.0_all.ipk: a cow",
		"1-openwrt_base/Packages.gz: packed", "2-other/Packages.gz: other",
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, strings.Join(got, "\n"))
		}
	}
	interfaces := slices.DeleteFunc(slices.Clone(got), func(line string) bool { return !strings.HasPrefix(line, "interface: ") })
	if r.abilities.NoNetwork && !slices.Equal(interfaces, []string{"interface: lo"}) {
		t.Errorf("the build sees %q", interfaces)
	}
	if data, err := os.ReadFile(s.kept); err != nil || r.abilities.Namespaces && string(data) != "a cow" {
		t.Errorf("the build changed what is kept: %q, %v", data, err)
	}
}

func TestLayMakesAListThatOpkgAsksFor(t *testing.T) {
	dir := t.TempDir()
	folders, err := lay(dir, []FeedLine{{Name: "core"}, {URL: "https://x.example/a/.hidden"}}, []FetchedFeed{
		{Data: map[string][]byte{"Packages": []byte("Package: a\n")}}, {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join(dir, "0-core"), filepath.Join(dir, "1-feed")}; !slices.Equal(folders, want) {
		t.Errorf("folders %q", folders)
	}
	f, err := os.Open(filepath.Join(folders[0], "Packages.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != "Package: a\n" {
		t.Errorf("%q, %v", text, err)
	}
	for _, bad := range []FetchedFeed{{Data: map[string][]byte{"../x": nil}}, {Files: map[string]string{"a/b": "/dev/null"}}} {
		if _, err := lay(t.TempDir(), []FeedLine{{Name: "core"}}, []FetchedFeed{bad}); err == nil {
			t.Errorf("%v was laid out", bad)
		}
	}
	if _, err := lay(t.TempDir(), nil, []FetchedFeed{{}}); err == nil {
		t.Error("a feed too many was laid out")
	}
}

// A feed whose list calls a package "Packages.gz" must not have the list
// written through the link into what is kept for all builds.
func TestLayNeverWritesIntoWhatIsKept(t *testing.T) {
	for _, feed := range []struct {
		file string
		data map[string][]byte
	}{
		{"Packages.gz", map[string][]byte{"Packages.gz": []byte("list")}},
		{"Packages", map[string][]byte{"Packages": []byte("list")}},
		{"Packages.sig", map[string][]byte{"Packages": []byte("list"), "Packages.sig": []byte("signature")}},
		{"packages.adb", map[string][]byte{"packages.adb": []byte("list")}},
	} {
		kept := filepath.Join(t.TempDir(), "kept")
		if err := os.WriteFile(kept, []byte("a package"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := lay(t.TempDir(), []FeedLine{{Name: "evil"}}, []FetchedFeed{{Files: map[string]string{feed.file: kept}, Data: feed.data}})
		if err == nil || !strings.Contains(err.Error(), "two files named") {
			t.Errorf("%s: got %v", feed.file, err)
		}
		if data, err := os.ReadFile(kept); err != nil || string(data) != "a package" {
			t.Errorf("%s: what is kept became %q, %v", feed.file, data, err)
		}
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Link(kept, link); err != nil {
			t.Fatal(err)
		}
		if err := writeNew(link, []byte("list")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("written over a link: %v", err)
		}
	}
}

func TestValidPackageFileName(t *testing.T) {
	for name, want := range map[string]bool{
		"a_1_all.ipk": true, "a-1.apk": true, "..a.ipk": true,
		"": false, ".": false, "..": false, "sub/a.ipk": false, "/a.ipk": false, "a\x00.ipk": false,
		"Packages": false, "Packages.gz": false, "Packages.sig": false, "packages.adb": false,
	} {
		if got := ValidPackageFileName(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

func TestLocalFeedsOfAPK(t *testing.T) {
	list := "# feeds\nhttps://a.example/x/packages.adb # core\n\nfile:///srv/own/packages.adb\n/abs/packages.adb\n"
	lines := feedLines(list, true, []string{"https://a.example/"})
	if diff := cmp.Diff([]FeedLine{{URL: "https://a.example/x", Path: "x"}, {URL: "file:///srv/own"}}, lines); diff != "" {
		t.Error(diff)
	}
	got := localFeeds(list, true, []string{"/w/0", "/w/1"})
	if want := "# feeds\n/w/0/packages.adb\n\n/w/1/packages.adb\n/abs/packages.adb\n"; got != want {
		t.Errorf("got %q", got)
	}
}

// In a closure is all that could be chosen, and nothing that nobody needs.
func TestClosure(t *testing.T) {
	pkg := func(name string, depends ...string) feeds.Package {
		p := feeds.Package{Name: name, Version: "1"}
		for _, d := range depends {
			p.Depends = append(p.Depends, feeds.Relation{Name: d})
		}
		return p
	}
	provider := pkg("wpad-full", "ssl")
	provider.Provides = []feeds.Relation{{Name: "wpad"}}
	library := pkg("ssl3", "wpad-basic") // a circle
	library.ABIVersion = "3"
	basic := pkg("wpad-basic")
	basic.Provides = []feeds.Relation{{Name: "wpad"}}
	language := pkg("i18n")
	language.InstallIf = []feeds.Relation{{Name: "luci"}, {Name: "ssl3"}}
	other := pkg("i18n-other")
	other.InstallIf = []feeds.Relation{{Name: "luci"}, {Name: "absent"}}
	list := []feeds.Feed{
		{Index: &feeds.Index{Packages: []feeds.Package{pkg("luci", "wpad"), provider, language, other, pkg("unneeded", "luci"), pkg("kernel")}}},
		{Index: &feeds.Index{Packages: []feeds.Package{basic, library, pkg("luci", "extra"), pkg("extra", "nowhere"), pkg("gone")}}},
	}
	var got []string
	for i, packages := range Closure(list, feeds.Wish{Default: []string{"luci", "no-such"}, Device: []string{"-gone"}}) {
		for _, p := range packages {
			got = append(got, fmt.Sprint(i, " ", p.Name))
		}
	}
	slices.Sort(got)
	want := []string{"0 i18n", "0 kernel", "0 luci", "0 wpad-full", "1 extra", "1 luci", "1 ssl3", "1 wpad-basic"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever depends on whatever: a closure is closed, and asking for more never
// makes it smaller.
func TestClosureIsClosed(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})
	rapid.Check(t, func(t *rapid.T) {
		var x feeds.Index
		for range rapid.IntRange(0, 12).Draw(t, "packages") {
			p := feeds.Package{Name: name.Draw(t, "name"), Version: "1"}
			for _, d := range rapid.SliceOfN(name, 0, 3).Draw(t, "depends") {
				p.Depends = append(p.Depends, feeds.Relation{Name: d})
			}
			for _, d := range rapid.SliceOfN(name, 0, 2).Draw(t, "provides") {
				p.Provides = append(p.Provides, feeds.Relation{Name: d})
			}
			x.Packages = append(x.Packages, p)
		}
		list := []feeds.Feed{{Index: &x}}
		wish := feeds.Wish{Requested: rapid.SliceOfN(name, 1, 3).Draw(t, "wish")}
		chosen := map[*feeds.Package]bool{}
		for _, p := range Closure(list, wish)[0] {
			chosen[p] = true
		}
		asked := map[string]bool{}
		for _, n := range wish.Requested {
			asked[n] = true
		}
		for p := range chosen {
			for _, d := range p.Depends {
				asked[d.Name] = true
			}
		}
		for i := range x.Packages {
			p := &x.Packages[i]
			answers := asked[p.Name] || slices.ContainsFunc(p.Provides, func(r feeds.Relation) bool { return asked[r.Name] })
			if answers != chosen[p] {
				t.Fatalf("%s answers: %t, chosen: %t", p.Name, answers, chosen[p])
			}
		}
		wish.Requested = append(wish.Requested, name.Draw(t, "more"))
		if more := Closure(list, wish)[0]; len(more) < len(chosen) {
			t.Fatalf("%d became %d", len(chosen), len(more))
		}
	})
}

// One key signs all images of a server, whichever builder it was made in.
func TestBuildersShareOneKey(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "data", "build-keys")
	dir, _ := sampleUpstream(t)
	r := newRunner(t, Options{Builders: theBuilder(""), KeysDir: keys})
	var first string
	for _, target := range []string{"releases/24.10.4/targets/x86/64", "releases/24.10.4/targets/ath79/generic", "snapshots/targets/x86/64"} {
		builder := unpack(t, filepath.Join(dir, target))
		if err := r.Prepare(t.Context(), builder); err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(filepath.Join(builder, buildKey))
		if strings.HasPrefix(target, "snapshots") {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("apk's builder has a key: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(key)
		} else if string(key) != first {
			t.Errorf("%s has a key of its own", target)
		}
	}
	if info, err := os.Stat(keys); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(keys), ".keys-*")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

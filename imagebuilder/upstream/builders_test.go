package upstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attendant/imagebuilder"
)

// listener notes what a Reporter hears.
type listener struct {
	mu     sync.Mutex
	stages []imagebuilder.Stage
	last   [2]int64
}

func (l *listener) Stage(s imagebuilder.Stage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stages = append(l.stages, s)
}

func (l *listener) Progress(done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = [2]int64{done, total}
}

func (l *listener) Line(string) {}

const archivePath = testBase + "openwrt-imagebuilder-24.10.1-ath79-generic.Linux-x86_64.tar.zst"

func mustBuilder(t testing.TB, u *Upstream, g imagebuilder.Generation, rep imagebuilder.Reporter) (*Builder, func()) {
	t.Helper()
	b, release, err := u.Builder(t.Context(), testVersion, testTarget, g, rep)
	if err != nil {
		t.Fatal(err)
	}
	return b, release
}

// leftovers are what lies in the folder of builders beside whole ones.
func leftovers(t testing.TB, u *Upstream) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{"builders", "builders/" + partsDir} {
		entries, err := os.ReadDir(filepath.Join(u.o.Dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if !imagebuilder.ValidHash(entry.Name()) && entry.Name() != partsDir {
				names = append(names, entry.Name())
			}
		}
	}
	return names
}

func TestBuilderIsUnpackedPreparedAndSealed(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 1000), nil))
	prepared := 0
	u := openTest(t, Options{URL: f.URL, Prepare: func(_ context.Context, dir string) error {
		prepared++
		return errors.Join(os.WriteFile(filepath.Join(dir, ".profiles.mk"), []byte("made"), 0o644),
			os.WriteFile(filepath.Join(filepath.Dir(dir), "info"), []byte("Current Target"), 0o644))
	}})
	target := mustTarget(t, u)
	heard := &listener{}
	b, release := mustBuilder(t, u, target.Generation, heard)
	defer release()
	if want := filepath.Join(u.o.Dir, "builders", target.Generation.BuilderSHA256, topName); b.Dir != want {
		t.Errorf("it lies at %s, want %s", b.Dir, want)
	}
	if b.Generation != target.Generation || b.Size < 1000 || prepared != 1 {
		t.Errorf("builder %+v, prepared %d times", b, prepared)
	}
	for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o555, "scripts": fs.ModeDir | 0o555, "Makefile": 0o644, "scripts/run.sh": 0o755, ".profiles.mk": 0o644, "copy": 0o644} {
		if info, err := os.Lstat(filepath.Join(b.Dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%q: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if link, err := os.Readlink(filepath.Join(b.Dir, "staging_dir/host/bin/awk")); err != nil || link != "/usr/bin/awk" {
		t.Errorf("link to a host tool: %q, %v", link, err)
	}
	if data, err := os.ReadFile(filepath.Join(filepath.Dir(b.Dir), "info")); err != nil || string(data) != "Current Target" {
		t.Errorf("what was kept beside it: %q, %v", data, err)
	}
	if !slices.Equal(heard.stages, []imagebuilder.Stage{imagebuilder.StageDownload, imagebuilder.StageUnpack}) || heard.last[0] == 0 || heard.last[0] != heard.last[1] {
		t.Errorf("heard %v, last progress %v", heard.stages, heard.last)
	}
	if left := leftovers(t, u); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	u.Close()
	f.Close() // from here on there is no upstream
	again := openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
	silentOne := &listener{}
	kept, release2 := mustBuilder(t, again, target.Generation, silentOne)
	defer release2()
	if kept.Dir != b.Dir || len(silentOne.stages) != 0 {
		t.Errorf("after a restart: %+v, heard %v", kept, silentOne.stages)
	}
}

func TestFiftyCallersOneDownloadOneUnpack(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 200_000), nil))
	var prepared atomic.Int32
	u := openTest(t, Options{URL: f.URL, Prepare: func(context.Context, string) error { prepared.Add(1); return nil }})
	g := mustTarget(t, u).Generation
	arrived := make(chan struct{}, 100)
	f.misbehave(func(w http.ResponseWriter, r *http.Request, content string) bool {
		if strings.HasSuffix(r.URL.Path, ".zst") {
			for range 50 { // every caller is there, but for the one that leaves
				<-arrived
			}
		}
		return false
	})
	var wg sync.WaitGroup
	first, leave := context.WithCancel(t.Context())
	defer leave()
	wg.Go(func() { // the first caller does not stay
		arrived <- struct{}{}
		if _, _, err := u.Builder(first, testVersion, testTarget, g, nil); imagebuilder.AsError(err).Code != imagebuilder.CodeCanceled {
			t.Errorf("who left heard %v", err)
		}
	})
	dirs := make([]string, 50)
	heard := make([]listener, 50)
	for i := range 50 {
		wg.Go(func() {
			if i == 49 {
				leave()
			}
			arrived <- struct{}{}
			b, release, err := u.Builder(t.Context(), testVersion, testTarget, g, &heard[i])
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			dirs[i] = b.Dir
		})
	}
	wg.Wait()
	if n := f.count(archivePath); n != 1 || prepared.Load() != 1 {
		t.Errorf("%d downloads, %d preparations", n, prepared.Load())
	}
	for i := range dirs {
		if dirs[i] != dirs[0] || !slices.Contains(heard[i].stages, imagebuilder.StageUnpack) && len(heard[i].stages) != 0 {
			t.Errorf("caller %d: %q, heard %v", i, dirs[i], heard[i].stages)
		}
	}
	if n := u.builders.held[g.BuilderSHA256].pins; n != 0 {
		t.Errorf("%d pins are left", n)
	}
}

func TestDownloadEndsWhenNobodyWaits(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 100_000), nil))
	u := openTest(t, Options{URL: f.URL})
	g := mustTarget(t, u).Generation
	started, ended := make(chan struct{}), make(chan struct{})
	f.misbehave(func(w http.ResponseWriter, r *http.Request, content string) bool {
		if !strings.HasSuffix(r.URL.Path, ".zst") {
			return false
		}
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write([]byte(content[:50_000]))
		w.(http.Flusher).Flush()
		close(started)
		<-r.Context().Done()
		close(ended)
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	_, _, err := u.Builder(ctx, testVersion, testTarget, g, nil)
	wantCode(t, err, imagebuilder.CodeCanceled, "")
	<-ended
	f.misbehave(nil)
	_, release := mustBuilder(t, u, g, nil) // and whoever comes next gets it
	release()
}

func TestBrokenDownloadsAreResumedOrThrownAway(t *testing.T) {
	archive := builderArchive(t, 300_000)
	cut := len(archive) / 2
	tests := []struct {
		name string
		// second answers the second request for the archive.
		second     func(t *testing.T, w http.ResponseWriter, r *http.Request)
		etag       string
		whole      int // 200 replies by the well-behaved upstream
		wantRanges bool
	}{
		{"resumed", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != fmt.Sprintf("bytes=%d-", cut) || r.Header.Get("If-Range") != `"good"` {
				t.Errorf("asked with Range %q, If-Range %q", r.Header.Get("Range"), r.Header.Get("If-Range"))
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", cut, len(archive)-1, len(archive)))
			w.WriteHeader(206)
			w.Write([]byte(archive[cut:]))
		}, `"good"`, 0, true},
		{"resumed with other bytes", func(_ *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", cut, len(archive)-1, len(archive)))
			w.WriteHeader(206)
			w.Write(make([]byte, len(archive)-cut))
		}, `"good"`, 1, true},
		{"another range", func(_ *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(archive)-1, len(archive)))
			w.WriteHeader(206)
			w.Write([]byte(archive))
		}, `"good"`, 1, true},
		{"changed meanwhile", func(_ *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"new"`)
			w.Write([]byte(archive))
		}, `"good"`, 0, true},
		{"nothing left", func(_ *testing.T, w http.ResponseWriter, r *http.Request) { w.WriteHeader(416) }, `"good"`, 1, true},
		{"only a weak validator", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				t.Error("asked for a range")
			}
			w.Write([]byte(archive))
		}, `W/"weak"`, 0, false},
	}
	for _, tt := range tests {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", tt.name, restart), func(t *testing.T) {
				f := newFake(t, sampleTree("r1-aaa", archive, nil))
				u := openTest(t, Options{URL: f.URL})
				g := mustTarget(t, u).Generation
				n := 0
				half := make(chan struct{})
				f.misbehave(func(w http.ResponseWriter, r *http.Request, _ string) bool {
					if !strings.HasSuffix(r.URL.Path, ".zst") {
						return false
					}
					n++
					switch n {
					case 1:
						w.Header().Set("ETag", tt.etag)
						w.Header().Set("Content-Length", fmt.Sprint(len(archive)))
						w.Write([]byte(archive[:cut]))
						w.(http.Flusher).Flush()
						if restart {
							for u.builders.partSize(source{sum: g.BuilderSHA256}) < int64(cut) {
								time.Sleep(time.Millisecond)
							}
							close(half)
							<-r.Context().Done()
						}
						panic(http.ErrAbortHandler)
					case 2:
						tt.second(t, w, r)
						return true
					}
					return false
				})
				if restart {
					errs := make(chan error, 1)
					go func() {
						_, _, err := u.Builder(context.Background(), testVersion, testTarget, g, nil)
						errs <- err
					}()
					<-half
					u.Close()
					wantCode(t, <-errs, imagebuilder.CodeStopping, "stopping")
					u = openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
				}
				var b *Builder
				var release func()
				var err error
				for range 3 { // a lying upstream may cost a job, but never gives a wrong builder
					if b, release, err = u.Builder(t.Context(), testVersion, testTarget, g, nil); err == nil {
						break
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				defer release()
				if data, err := os.ReadFile(filepath.Join(b.Dir, "Makefile")); err != nil || !strings.HasPrefix(string(data), "info:") {
					t.Errorf("Makefile %q, %v", data, err)
				}
				if got := f.count(archivePath); got != tt.whole {
					t.Errorf("%d whole downloads after it, want %d", got, tt.whole)
				}
				if left := leftovers(t, u); len(left) != 0 {
					t.Errorf("left over: %v", left)
				}
			})
		}
	}
}

func TestBuildersThatCannotBeHad(t *testing.T) {
	good := builderArchive(t, 1000)
	noDevices := string(zst(t, tarOf(t, entry{name: "ib/", kind: '5'}, entry{name: "ib/null", kind: '3'})))
	tests := []struct {
		name     string
		listed   string // what sha256sums is about
		served   func(w http.ResponseWriter, r *http.Request)
		prepare  error
		code     imagebuilder.Code
		sentence string
	}{
		{"another sum", good, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(good + "more")) }, nil, imagebuilder.CodeBadBuilder, "does not have the sum"},
		{"a web page", good, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, nil, imagebuilder.CodeBadBuilder, "does not have the sum"},
		{"not there", good, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, nil, imagebuilder.CodeNoBuilder, "is not on the download server"},
		{"errors", good, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }, nil, imagebuilder.CodeNoBuilder, "could not be downloaded"},
		{"always cut", good, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			w.Write([]byte(good[:100]))
		}, nil, imagebuilder.CodeNoBuilder, "could not be downloaded"},
		{"a device in it", noDevices, nil, nil, imagebuilder.CodeBadBuilder, "cannot be unpacked"},
		{"no archive", "hello", nil, nil, imagebuilder.CodeBadBuilder, "cannot be unpacked"},
		{"not preparable", good, nil, errors.New("make: not found"), imagebuilder.CodeBadBuilder, "does not run on this server"},
		{"not preparable, told", good, nil, imagebuilder.Errorf(imagebuilder.CodeHost, "Install make."), imagebuilder.CodeHost, "Install make."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, sampleTree("r1-aaa", tt.listed, nil))
			u := openTest(t, Options{URL: f.URL, Prepare: func(context.Context, string) error { return tt.prepare }})
			g := mustTarget(t, u).Generation
			f.misbehave(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				if tt.served == nil || !strings.HasSuffix(r.URL.Path, ".zst") {
					return false
				}
				tt.served(w, r)
				return true
			})
			_, _, err := u.Builder(t.Context(), testVersion, testTarget, g, nil)
			wantCode(t, err, tt.code, tt.sentence)
			if len(u.builders.held) != 0 {
				t.Errorf("held: %v", u.builders.held)
			}
			if left := slices.DeleteFunc(leftovers(t, u), func(s string) bool { return strings.Contains(s, ".part") }); len(left) != 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

func TestTargetWithoutBuilder(t *testing.T) {
	files := sampleTree("r1-aaa", "x", nil)
	var kept []string
	for line := range strings.Lines(files[testBase+"sha256sums"]) {
		if !strings.Contains(line, "imagebuilder") {
			kept = append(kept, line)
		}
	}
	f := newFake(t, files.with(tree{testBase + "sha256sums": strings.Join(kept, "")}))
	u := openTest(t, Options{URL: f.URL})
	_, _, err := u.Builder(t.Context(), testVersion, testTarget, mustTarget(t, u).Generation, nil)
	wantCode(t, err, imagebuilder.CodeNoBuilder, "no ImageBuilder for ath79/generic of 24.10.1")
}

func TestUpstreamMovedOn(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known %v", known), func(t *testing.T) {
			f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 10), nil))
			u := openTest(t, Options{URL: f.URL})
			old := mustTarget(t, u).Generation
			f.set(sampleTree("r2-bbb", builderArchive(t, 20), nil))
			if known {
				if err := renewTarget(t, u); err != nil {
					t.Fatal(err)
				}
			}
			b, release := mustBuilder(t, u, old, nil)
			defer release()
			if b.Generation.Revision != "r2-bbb" || b.Generation.BuilderSHA256 != hexSum([]byte(builderArchive(t, 20))) {
				t.Errorf("builder of %+v", b.Generation)
			}
		})
	}
}

func TestBudgetEvictsTheLeastRecentlyUsed(t *testing.T) {
	now := newClock()
	f := newFake(t, sampleTree("r0-aaa", builderArchive(t, 0), nil))
	u := openTest(t, Options{URL: f.URL, Now: now.Now, BuilderBudget: 1_300_000})
	var gens []imagebuilder.Generation
	use := func(i int) (*Builder, func()) {
		t.Helper()
		now.add(time.Minute)
		f.set(sampleTree(fmt.Sprintf("r%d-aaa", i), builderArchive(t, 400_000+i), nil))
		if err := renewTarget(t, u); err != nil {
			t.Fatal(err)
		}
		g := mustTarget(t, u).Generation
		if i >= len(gens) {
			gens = append(gens, g)
		}
		return mustBuilder(t, u, g, nil)
	}
	there := func(i int) bool {
		_, err := os.Stat(filepath.Join(u.o.Dir, "builders", gens[i].BuilderSHA256, markerName))
		return err == nil
	}
	_, keep := use(0)
	_, release := use(1)
	release()
	_, release = use(2)
	release()
	now.add(time.Minute)
	_, release = mustBuilder(t, u, gens[1], nil)
	release()
	_, release = use(3)
	release()
	if !there(0) || there(2) || !there(3) {
		t.Errorf("there: %v %v %v %v; want the pinned first and the new one, not the third", there(0), there(1), there(2), there(3))
	}
	if n := u.builders.usage(); n > u.o.BuilderBudget {
		t.Errorf("%d bytes are used", n)
	}
	// With everything pinned there is no room: that is said, and nothing breaks.
	_, keep3 := mustBuilder(t, u, gens[3], nil)
	releases := []func(){keep, keep3}
	var err error
	for i := 4; i < 8 && err == nil; i++ {
		now.add(time.Minute)
		f.set(sampleTree(fmt.Sprintf("r%d-aaa", i), builderArchive(t, 400_000+i), nil))
		if err := renewTarget(t, u); err != nil {
			t.Fatal(err)
		}
		var r func()
		if _, r, err = u.Builder(t.Context(), testVersion, testTarget, mustTarget(t, u).Generation, nil); err == nil {
			releases = append(releases, r)
		}
	}
	wantCode(t, err, imagebuilder.CodeNoSpace, "budget for ImageBuilders")
	for _, r := range releases {
		r()
		r() // twice does no harm
	}
	if !there(0) || !there(3) {
		t.Error("a pinned one is gone")
	}
	if u.builders.growing != 0 {
		t.Errorf("%d promised bytes are left", u.builders.growing)
	}
}

func TestFullDisk(t *testing.T) {
	// The quota lets that many bytes through; the archive is stored almost as
	// it is, so that every limit strikes elsewhere: noting the download, in
	// its middle, at its end, while unpacking.
	archive := builderArchive(t, 500_000)
	struck := map[string]int{}
	for limit := int64(0); limit < 1_200_000; limit += 90_000 {
		var written atomic.Int64
		var armed atomic.Bool
		d := realDisk()
		d.write = func(f *os.File, p []byte) (int, error) {
			if armed.Load() && written.Add(int64(len(p))) > limit {
				return 0, &os.PathError{Op: "write", Path: f.Name(), Err: errNoSpaceForTest}
			}
			return f.Write(p)
		}
		f := newFake(t, sampleTree("r1-aaa", archive, nil))
		u := openTest(t, Options{URL: f.URL}, d)
		g := mustTarget(t, u).Generation
		armed.Store(true)
		heard := &listener{}
		_, release, err := u.Builder(t.Context(), testVersion, testTarget, g, heard)
		if err == nil {
			release()
			struck["nowhere"]++
			continue
		}
		wantCode(t, err, imagebuilder.CodeNoSpace, "disk is full")
		struck[string(heard.stages[len(heard.stages)-1])]++
		armed.Store(false)
		b, release := mustBuilder(t, u, g, nil)
		if info, err := os.Stat(filepath.Join(b.Dir, "pad")); err != nil || info.Size() != 500_000 {
			t.Errorf("limit %d: after room was made: %v", limit, err)
		}
		release()
		if left := leftovers(t, u); len(left) != 0 {
			t.Errorf("limit %d: left over: %v", limit, left)
		}
		u.Close()
		f.Close()
	}
	for _, where := range []string{string(imagebuilder.StageDownload), string(imagebuilder.StageUnpack), "nowhere"} {
		if struck[where] == 0 {
			t.Errorf("no limit struck in %s: %v", where, struck)
		}
	}
}

func TestTooLittleSpaceIsSeenBefore(t *testing.T) {
	d := realDisk()
	d.free = func(string) (int64, error) { return reserve + 1000, nil }
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 100_000), nil))
	u := openTest(t, Options{URL: f.URL}, d)
	_, _, err := u.Builder(t.Context(), testVersion, testTarget, mustTarget(t, u).Generation, nil)
	wantCode(t, err, imagebuilder.CodeNoSpace, "disk has 68 MB free")
	if n := u.builders.partSize(source{sum: hexSum([]byte(builderArchive(t, 100_000)))}); n != 0 {
		t.Errorf("%d bytes were written", n)
	}
}

func TestLocalBuilder(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 10), nil))
	path := filepath.Join(t.TempDir(), "own-imagebuilder.tar.zst")
	if err := os.WriteFile(path, []byte(builderArchive(t, 99)), 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{URL: f.URL, LocalBuilders: []LocalBuilder{{Version: testVersion, Target: testTarget, Path: path}}}
	u := openTest(t, o)
	g := mustTarget(t, u).Generation
	if g.BuilderSHA256 != hexSum([]byte(builderArchive(t, 99))) || g.Builder != "own-imagebuilder.tar.zst" {
		t.Errorf("generation %+v", g)
	}
	b, release := mustBuilder(t, u, g, nil)
	defer release()
	if info, err := os.Stat(filepath.Join(b.Dir, "pad")); err != nil || info.Size() != 99 {
		t.Errorf("not the operator's own: %v, %v", info, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the operator's archive: %v", err)
	}
	if n := f.count(archivePath); n != 0 {
		t.Errorf("upstream's was downloaded %d times", n)
	}
	u.Close()
	o.LocalBuilders, o.Dir = nil, u.o.Dir
	u = openTest(t, o)
	if g := mustTarget(t, u).Generation; g.BuilderSHA256 != hexSum([]byte(builderArchive(t, 10))) {
		t.Errorf("without it: %+v", g)
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	dir := t.TempDir()
	b := filepath.Join(dir, "builders")
	sum := strings.Repeat("ab", 32)
	for _, name := range []string{unpackPrefix + "1/ib/deep/file", gonePrefix + "2/ib/file", sum + "/ib/file", partsDir + "/" + sum + ".part", partsDir + "/old.part"} {
		full := filepath.Join(b, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-keepPart - time.Hour)
	if err := os.Chtimes(filepath.Join(b, partsDir, "old.part"), long, long); err != nil {
		t.Fatal(err)
	}
	u := openTest(t, Options{URL: "http://127.0.0.1:1", Dir: dir})
	if left := leftovers(t, u); !slices.Equal(left, []string{sum + ".part"}) {
		t.Errorf("left: %v; only the fresh download should be", left)
	}
	if _, err := os.Stat(filepath.Join(b, sum)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a builder without its marker: %v", err)
	}
}

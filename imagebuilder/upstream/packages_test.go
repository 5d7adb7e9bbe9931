package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// packageNamed is a package of so many bytes, as an index has it, and its
// content.
func packageNamed(name string, size int) (*feeds.Package, string) {
	content := strings.Repeat(name+"\n", size/(len(name)+1)+1)[:size]
	sum := sha256.Sum256([]byte(content))
	return &feeds.Package{Name: name, Version: "1", Filename: name + "_1_all.ipk", Size: int64(size), SHA256: hex.EncodeToString(sum[:])}, content
}

// packageFeed is an upstream with packages of so many bytes each.
func packageFeed(t testing.TB, size int, names ...string) (*fake, []PackageFile) {
	t.Helper()
	files := tree{}
	f := newFake(t, files)
	var wanted []PackageFile
	for _, name := range names {
		p, content := packageNamed(name, size)
		files["feed/"+p.Filename] = content
		wanted = append(wanted, PackageFile{URL: f.URL + "/feed/" + p.Filename, Package: p})
	}
	return f, wanted
}

func mustFetch(t testing.TB, u *Upstream, files []PackageFile, rep imagebuilder.Reporter) *PackageSet {
	t.Helper()
	set, err := u.FetchPackages(t.Context(), files, rep)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// partsOf are the downloads that lie about.
func partsOf(t testing.TB, u *Upstream) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(u.o.Dir, "packages", partsDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPackagesAreFetchedOnceAndKept(t *testing.T) {
	f, files := packageFeed(t, 5000, "a", "b", "c", "d", "e", "f")
	u := openTest(t, Options{URL: f.URL})
	heard := &listener{}
	set := mustFetch(t, u, files, heard)
	if len(heard.stages) != 1 || heard.stages[0] != imagebuilder.StagePackages || heard.last != [2]int64{30000, 30000} {
		t.Errorf("heard %v, last progress %v", heard.stages, heard.last)
	}
	for i, path := range set.Paths {
		data, err := os.ReadFile(path)
		if err != nil || hexSum(data) != files[i].Package.SHA256 {
			t.Errorf("%s: %v", path, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o444 || filepath.Base(path) != files[i].Package.SHA256 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	set.Release()
	set.Release()
	silentOne := &listener{}
	mustFetch(t, u, files, silentOne).Release()
	u.Close()
	again := openTest(t, Options{URL: f.URL, Dir: u.o.Dir})
	mustFetch(t, again, files, silentOne).Release()
	if len(silentOne.stages) != 0 || f.requests() != len(files) {
		t.Errorf("heard %v, %d requests for %d packages", silentOne.stages, f.requests(), len(files))
	}
	if usage := again.packages.Usage(); usage.Packages != 6 || usage.Used != 6*8192 {
		t.Errorf("usage %+v", usage)
	}
}

func TestFiftyBuildsOneDownloadOfEachPackage(t *testing.T) {
	f, files := packageFeed(t, 100_000, "a", "b", "c", "d", "e")
	var most, now atomic.Int32
	f.misbehave(func(http.ResponseWriter, *http.Request, string) bool {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(5 * time.Millisecond) // so that they overlap
		now.Add(-1)
		return false
	})
	u := openTest(t, Options{URL: f.URL})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			set, err := u.FetchPackages(t.Context(), files[i%2:], nil)
			if err != nil {
				t.Error(err)
				return
			}
			set.Release()
		})
	}
	all.Wait()
	if f.requests() != 5 || most.Load() > packageSlots {
		t.Errorf("%d requests, %d at once; want 5, at most %d", f.requests(), most.Load(), packageSlots)
	}
}

func TestPackageThatBreaksOffIsResumed(t *testing.T) {
	f, files := packageFeed(t, 1_000_000, "a")
	var ranges []string
	f.misbehave(func(w http.ResponseWriter, r *http.Request, content string) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write([]byte(content[:400_000]))
		panic(http.ErrAbortHandler)
	})
	u := openTest(t, Options{URL: f.URL})
	mustFetch(t, u, files, nil).Release()
	if len(ranges) != 2 || ranges[0] != "" || ranges[1] != "bytes=400000-" {
		t.Errorf("asked for %q", ranges)
	}
	if parts := partsOf(t, u); len(parts) != 0 {
		t.Errorf("left over: %v", parts)
	}
}

// A download that the end of the server cut goes on after the next start; of a
// crash nothing has its final name before it is whole.
func TestPackageIsResumedAfterARestart(t *testing.T) {
	f, files := packageFeed(t, 1_000_000, "a")
	dir := t.TempDir()
	parts := filepath.Join(dir, "packages", partsDir)
	if err := os.MkdirAll(parts, 0o755); err != nil {
		t.Fatal(err)
	}
	_, content := packageNamed("a", 1_000_000)
	old := time.Now().Add(-2 * keepPart)
	for name, data := range map[string]string{files[0].key(): content[:300_000], strings.Repeat("0", 64): "old", "odd": "x"} {
		name = filepath.Join(parts, name)
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		if data == "old" {
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	asked := ""
	f.misbehave(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		asked = r.Header.Get("Range")
		return false
	})
	u := openTest(t, Options{URL: f.URL, Dir: dir})
	if left := partsOf(t, u); len(left) != 1 {
		t.Errorf("after the start: %v", left)
	}
	mustFetch(t, u, files, nil).Release()
	if asked != "bytes=300000-" {
		t.Errorf("asked for %q", asked)
	}
}

// A power cut may leave a whole download that has not its final name, closed
// to writing, or one that has it and is not closed yet.
func TestPackageThatAPowerCutLeft(t *testing.T) {
	f, files := packageFeed(t, 300_000, "a", "b")
	dir := t.TempDir()
	store := filepath.Join(dir, "packages")
	part, placed := filepath.Join(store, partsDir, files[0].key()), filepath.Join(store, files[1].key())
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{part: 0o444, placed: 0o644} {
		_, content := packageNamed(map[string]string{part: "a", placed: "b"}[name], 300_000)
		if err := os.WriteFile(name, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	u := openTest(t, Options{URL: f.URL, Dir: dir})
	for name, want := range map[string]os.FileMode{part: 0o644, placed: 0o444} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s after the start: %v, %v; want mode %o", name, info, err, want)
		}
	}
	set := mustFetch(t, u, files, nil)
	defer set.Release()
	for i, path := range set.Paths {
		data, err := os.ReadFile(path)
		if err != nil || hexSum(data) != files[i].Package.SHA256 {
			t.Errorf("%s: %v", path, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if f.requests() != 0 {
		t.Errorf("%d requests for what was whole", f.requests())
	}
	if parts := partsOf(t, u); len(parts) != 0 {
		t.Errorf("left over: %v", parts)
	}
}

// Until it has its final name a download stays one that can be written.
func TestDownloadStaysWritable(t *testing.T) {
	f, files := packageFeed(t, 300_000, "a")
	u := openTest(t, Options{URL: f.URL})
	part := filepath.Join(u.o.Dir, "packages", partsDir, files[0].key())
	if _, err := u.packages.download(t.Context(), u, part, &files[0], &packageFlight{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(part); err != nil || info.Mode().Perm() != 0o644 || info.Size() != 300_000 {
		t.Errorf("%v, %v", info, err)
	}
	mustFetch(t, u, files, nil).Release()
	if f.requests() != 1 {
		t.Errorf("%d requests", f.requests())
	}
}

func TestPackagesThatAreNotWhatTheListSays(t *testing.T) {
	tests := []struct {
		name     string
		change   func(f *fake, files []PackageFile, path string)
		code     imagebuilder.Code
		sentence string
	}{
		{"damaged", func(f *fake, _ []PackageFile, path string) { f.files[path] = strings.ToUpper(f.files[path]) }, imagebuilder.CodePackageDamaged, "package b is not the one that its feed lists"},
		{"longer", func(f *fake, _ []PackageFile, path string) { f.files[path] += "more" }, imagebuilder.CodePackageDamaged, "not the one that its feed lists"},
		{"shorter", func(f *fake, _ []PackageFile, path string) { f.files[path] = f.files[path][:100] }, imagebuilder.CodePackageDamaged, "not the one that its feed lists"},
		{"missing", func(f *fake, _ []PackageFile, path string) { delete(f.files, path) }, imagebuilder.CodePackageDamaged, "not on the download server"},
		{"without a sum", func(_ *fake, files []PackageFile, _ string) { files[1].Package.SHA256 = "" }, imagebuilder.CodePackageDamaged, "not the one that its feed lists"},
		{"of absurd size", func(_ *fake, files []PackageFile, _ string) { files[1].Package.Size = 1 << 40 }, imagebuilder.CodePackageDamaged, "not the one that its feed lists"},
		{"unreachable", func(f *fake, _ []PackageFile, path string) {
			f.misbehave(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				if !strings.HasSuffix(r.URL.Path, path[5:]) {
					return false
				}
				http.Error(w, "not now", http.StatusBadGateway)
				return true
			})
		}, imagebuilder.CodeNoNetwork, "could not be downloaded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, files := packageFeed(t, 5000, "a", "b", "c")
			tt.change(f, files, "feed/b_1_all.ipk")
			u := openTest(t, Options{URL: f.URL})
			_, err := u.FetchPackages(t.Context(), files, nil)
			wantCode(t, err, tt.code, tt.sentence)
			u.Close() // the other downloads end meanwhile
			if parts := partsOf(t, u); len(parts) != 0 {
				t.Errorf("left over: %v", parts)
			}
			for _, h := range u.packages.held {
				if h.pins != 0 {
					t.Errorf("%s is still pinned", h.key)
				}
			}
		})
	}
}

func TestDamagedPackageOnDiskIsFetchedAgain(t *testing.T) {
	f, files := packageFeed(t, 5000, "a")
	u := openTest(t, Options{URL: f.URL})
	set := mustFetch(t, u, files, nil)
	set.Damaged() // as after a build that found fault
	set.Release()
	if err := os.Chmod(set.Paths[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(set.Paths[0], []byte(strings.Repeat("x", 5000)), 0o644); err != nil {
		t.Fatal(err)
	}
	mustFetch(t, u, files, nil).Release()
	if data, err := os.ReadFile(set.Paths[0]); err != nil || hexSum(data) != files[0].Package.SHA256 || f.requests() != 2 {
		t.Errorf("%v, %d requests", err, f.requests())
	}
}

func TestPackageBudget(t *testing.T) {
	f, files := packageFeed(t, 4000, "a", "b", "c", "d")
	clock := newClock()
	u := openTest(t, Options{URL: f.URL, PackageBudget: 3 * 4096, Now: clock.Now})
	ab := mustFetch(t, u, files[:2], nil)
	ab.Release()
	a := mustFetch(t, u, files[:1], nil) // used after b
	cd := mustFetch(t, u, files[2:], nil)
	if keys := strings.Join(u.packages.keys(), " "); strings.Contains(keys, files[1].key()) || !strings.Contains(keys, files[0].key()) {
		t.Errorf("b should have gone, of %s", keys)
	}
	_, err := u.FetchPackages(t.Context(), files[1:2], nil)
	wantCode(t, err, imagebuilder.CodeNoSpace, "package_budget")
	a.Release()
	mustFetch(t, u, files[1:2], nil).Release()
	cd.Release()
	if usage := u.packages.Usage(); usage.Used > usage.Budget || u.packages.growing != 0 {
		t.Errorf("usage %+v, %d growing", usage, u.packages.growing)
	}
	u.Close()
	small := openTest(t, Options{URL: f.URL, Dir: u.o.Dir, PackageBudget: 4096})
	if usage := small.packages.Usage(); usage.Packages != 1 {
		t.Errorf("after a smaller budget: %+v", usage)
	}
}

func TestPackagesOnAFullDisk(t *testing.T) {
	f, files := packageFeed(t, 100_000, "a")
	d := realDisk()
	d.write = func(file *os.File, p []byte) (int, error) {
		if strings.Contains(file.Name(), partsDir) {
			return 0, &os.PathError{Op: "write", Path: file.Name(), Err: errNoSpaceForTest}
		}
		return file.Write(p)
	}
	u := openTest(t, Options{URL: f.URL}, d)
	_, err := u.FetchPackages(t.Context(), files, nil)
	wantCode(t, err, imagebuilder.CodeNoSpace, "disk is full")

	d = realDisk()
	d.free = func(string) (int64, error) { return reserve, nil }
	u = openTest(t, Options{URL: f.URL}, d)
	_, err = u.FetchPackages(t.Context(), files, nil)
	wantCode(t, err, imagebuilder.CodeNoSpace, "free")
}

func TestLeavingAPackageEndsItsDownload(t *testing.T) {
	f, files := packageFeed(t, 100_000, "a")
	began, ended := make(chan struct{}), make(chan struct{})
	f.misbehave(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		w.Header().Set("Content-Length", "100000")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
		close(ended)
		return true
	})
	u := openTest(t, Options{URL: f.URL})
	ctx, cancel := contextWithCause(t)
	done := make(chan error, 1)
	go func() {
		_, err := u.FetchPackages(ctx, files, nil)
		done <- err
	}()
	<-began
	reason := imagebuilder.Errorf(imagebuilder.CodeCanceled, "The server's operator ended this build.")
	cancel(reason)
	if err := <-done; !errors.Is(err, error(reason)) {
		t.Errorf("got %v", err)
	}
	<-ended
}

func contextWithCause(t *testing.T) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, cancel
}

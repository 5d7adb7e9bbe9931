package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"attendant/imagebuilder"
)

// twoBuilders makes an upstream whose second generation is in force, and has
// the ImageBuilders of both unpacked. None is in use.
func twoBuilders(t *testing.T, o Options, d disk) (u *Upstream, f *fake, sums [2]string) {
	t.Helper()
	f = newFake(t, tree{})
	o.URL = f.URL
	u = openTest(t, o, d)
	for i := range sums {
		f.set(sampleTree(fmt.Sprintf("r%d-aaa", i), builderArchive(t, 400_000+i), nil))
		if i > 0 {
			if err := renewTarget(t, u); err != nil {
				t.Fatal(err)
			}
		}
		g := mustTarget(t, u).Generation
		_, release := mustBuilder(t, u, g, nil)
		release()
		sums[i] = g.BuilderSHA256
	}
	return u, f, sums
}

// nextBuilder publishes a third generation and asks for its ImageBuilder.
func nextBuilder(t *testing.T, u *Upstream, f *fake, size int) error {
	t.Helper()
	f.set(sampleTree("r9-aaa", builderArchive(t, size), nil))
	if err := renewTarget(t, u); err != nil {
		t.Fatal(err)
	}
	_, release, err := u.Builder(t.Context(), testVersion, testTarget, mustTarget(t, u).Generation, nil)
	if err == nil {
		release()
	}
	return err
}

func there(u *Upstream, sum string) bool {
	_, err := os.Stat(filepath.Join(u.builders.dir, sum, markerName))
	return err == nil
}

func TestNothingIsEvictedInVain(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 40)
	d := realDisk()
	d.free = func(string) (int64, error) { return free.Load(), nil }
	t.Run("disk", func(t *testing.T) {
		u, f, sums := twoBuilders(t, Options{}, d)
		free.Store(reserve + 1_000_000)
		defer free.Store(1 << 40)
		wantCode(t, nextBuilder(t, u, f, 400_002), imagebuilder.CodeNoSpace, "this server's disk has")
		if !there(u, sums[0]) || !there(u, sums[1]) {
			t.Error("evicted, and yet there was no room")
		}
	})
	t.Run("budget", func(t *testing.T) {
		u, f, sums := twoBuilders(t, Options{BuilderBudget: 1_000_000}, d)
		for range 2 {
			wantCode(t, nextBuilder(t, u, f, 1_100_000), imagebuilder.CodeNoSpace, "(builder_budget)")
		}
		wantCode(t, u.builders.fit(1_000_001, 0, "x"), imagebuilder.CodeNoSpace, "(builder_budget)")
		if !there(u, sums[0]) || !there(u, sums[1]) {
			t.Error("evicted, and yet there was no room")
		}
		if n := f.count(archivePath); n != 3 {
			t.Errorf("the archives were downloaded %d times; want each once", n)
		}
		if err := u.builders.fit(u.builders.usage()/2, 0, "x"); err != nil || there(u, sums[0]) || !there(u, sums[1]) {
			t.Errorf("where one is enough: %v; there: %v %v", err, there(u, sums[0]), there(u, sums[1]))
		}
	})
}

func TestOrderOfUseOutlivesClocks(t *testing.T) {
	now := newClock()
	u, f, sums := twoBuilders(t, Options{Now: now.Now, BuilderBudget: 1_000_000}, realDisk())
	u.Close()
	now.add(-50 * 365 * 24 * time.Hour) // a Pi boots, and knows no time
	o := Options{URL: f.URL, Dir: u.o.Dir, Now: now.Now, BuilderBudget: 1_000_000}
	u = openTest(t, o)
	b, release := u.builders.ready(imagebuilder.Generation{BuilderSHA256: sums[0]})
	if b == nil {
		t.Fatal("it is not there")
	}
	release()
	u.Close()
	u = openTest(t, o)
	if err := nextBuilder(t, u, f, 400_002); err != nil {
		t.Fatal(err)
	}
	if !there(u, sums[0]) || there(u, sums[1]) {
		t.Errorf("there: %v %v; want the one that was used last", there(u, sums[0]), there(u, sums[1]))
	}
}

func TestArchiveOfUnknownSize(t *testing.T) {
	const room = 20 << 20
	var u *Upstream
	d := realDisk()
	d.free = func(string) (int64, error) {
		return reserve + room - u.builders.partSize(source{sum: hexSum([]byte("x"))}), nil
	}
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	u = openTest(t, Options{URL: f.URL}, d)
	g := mustTarget(t, u).Generation
	f.misbehave(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if !strings.HasSuffix(r.URL.Path, ".zst") {
			return false
		}
		w.(http.Flusher).Flush() // without Content-Length
		block := make([]byte, 1<<20)
		for range 3 * room / len(block) {
			if _, err := w.Write(block); err != nil {
				break
			}
		}
		return true
	})
	_, _, err := u.Builder(t.Context(), testVersion, testTarget, g, nil)
	wantCode(t, err, imagebuilder.CodeNoSpace, "this server's disk has")
	if n := u.builders.partSize(source{sum: g.BuilderSHA256}); n > room {
		t.Errorf("%d bytes were written where there was room for %d", n, room)
	}
}

// drip answers each request for an archive with n further bytes of it.
func drip(n int, after func(r *http.Request)) func(w http.ResponseWriter, r *http.Request, content string) bool {
	return func(w http.ResponseWriter, r *http.Request, content string) bool {
		if !strings.HasSuffix(r.URL.Path, ".zst") {
			return false
		}
		start := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start) //nolint:errcheck // none is 0
		w.Header().Set("ETag", `"good"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-start))
		if start > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write([]byte(content[start:min(start+n, len(content))]))
		w.(http.Flusher).Flush()
		after(r)
		return true
	}
}

func TestDrippingDownloadsEnd(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", builderArchive(t, 300_000), nil))
	u := openTest(t, Options{URL: f.URL, BuilderLimit: time.Minute})
	g := mustTarget(t, u).Generation
	before := f.requests()
	f.misbehave(drip(10_000, func(*http.Request) { panic(http.ErrAbortHandler) }))
	_, _, err := u.Builder(t.Context(), testVersion, testTarget, g, nil)
	wantCode(t, err, imagebuilder.CodeNoBuilder, "could not be downloaded")
	if n := f.requests() - before; n > 4 {
		t.Errorf("%d tries", n)
	}
	// What each try brings is worth another one, but not without end.
	u.o.BuilderLimit = 300 * time.Millisecond
	f.misbehave(drip(2*progress, func(r *http.Request) { <-r.Context().Done() }))
	_, _, err = u.Builder(t.Context(), testVersion, testTarget, g, nil)
	wantCode(t, err, imagebuilder.CodeNoBuilder, "could not be downloaded")
	f.misbehave(nil)
	u.o.BuilderLimit = time.Minute
	_, release := mustBuilder(t, u, g, nil)
	release()
}

func TestLocalBuilderReplacedUnseen(t *testing.T) {
	f := newFake(t, sampleTree("r1-aaa", "x", nil))
	path := filepath.Join(t.TempDir(), "own-imagebuilder.tar.zst")
	write := func(archive string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	one, two := builderArchive(t, 99), builderArchive(t, 77)
	write(one)
	u := openTest(t, Options{URL: f.URL, LocalBuilders: []LocalBuilder{{Version: testVersion, Target: testTarget, Path: path}}})
	g := mustTarget(t, u).Generation
	write(two)
	b, release := mustBuilder(t, u, g, nil)
	defer release()
	if info, err := os.Stat(filepath.Join(b.Dir, "pad")); err != nil || info.Size() != 77 || b.Generation.BuilderSHA256 != hexSum([]byte(two)) || !strings.Contains(b.Dir, hexSum([]byte(two))) {
		t.Errorf("%s has %v, %v; generation %+v", b.Dir, info, err, b.Generation)
	}
	if there(u, g.BuilderSHA256) {
		t.Error("the new archive lies under the old one's sum")
	}
	// An archive that keeps changing is never taken for what it is not.
	x := &extraction{disk: realDisk(), maxBytes: 1 << 20, maxEntries: 100, sum: hexSum([]byte(one))}
	if _, err := x.run(context.Background(), path, t.TempDir()); !errors.Is(err, errMismatch) {
		t.Errorf("another sum: %v", err)
	}
}

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"attendant/imagebuilder"
	"attendant/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mb = 1 << 20

// fixture is a cache in a folder of its own, and what it takes to put sets
// into it as the queue does.
type fixture struct {
	testing.TB
	o   Options
	db  *store.DB
	c   *Cache
	seq uint64
	end func() // of Run
}

func newFixture(t testing.TB, o Options) *fixture {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Budget == 0 {
		o.Budget = 100 * mb
	}
	if o.Free == nil {
		o.Free = func(string) (int64, error) { return 1 << 40, nil }
	}
	f := &fixture{TB: t, o: o}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.Helper()
	var err error
	if f.db, err = store.Open(filepath.Join(f.o.Dir, "attendant.db"), store.Options{NoSync: true}); err != nil {
		f.Fatal(err)
	}
	f.o.DB = f.db
	if f.c, err = Open(f.o); err != nil {
		f.Fatal(err)
	}
	if f.seq, err = f.db.LastSeq(); err != nil {
		f.Fatal(err)
	}
}

// run starts the work in the background and waits until disk and records
// have been compared. Only in a bubble.
func (f *fixture) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	c := f.c
	go func() { defer close(ended); c.Run(ctx) }()
	f.end = func() { cancel(); <-ended }
	synctest.Wait()
}

func (f *fixture) close() {
	f.Helper()
	if f.c == nil {
		return
	}
	if f.end != nil {
		f.end()
		f.end = nil
	}
	if err := f.c.Close(); err != nil {
		f.Error(err)
	}
	f.check()
	if err := f.db.Close(); err != nil {
		f.Error(err)
	}
	f.c = nil
}

func (f *fixture) restart() {
	f.Helper()
	f.close()
	f.open()
}

func (f *fixture) check() {
	f.Helper()
	r, err := f.db.Check()
	if err != nil || len(r.Problems) > 0 {
		f.Fatalf("database: %v, %v", r, err)
	}
}

func hashOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// written makes a folder with a set of files of these sizes, as a build does.
func (f *fixture) written(sizes ...int64) (string, *imagebuilder.ImageSet) {
	f.Helper()
	dir, err := os.MkdirTemp(filepath.Join(f.o.Dir, "work"), "attempt-")
	if err != nil {
		f.Fatal(err)
	}
	set := &imagebuilder.ImageSet{}
	for i, size := range sizes {
		name := fmt.Sprintf("file-%d.bin", i)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			f.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			f.Fatal(err)
		}
		set.Files = append(set.Files, imagebuilder.File{Name: name, Size: size})
	}
	return dir, set
}

func (f *fixture) record(name string, set *imagebuilder.ImageSet) func(*store.ImageRecord) error {
	f.seq++
	job := &imagebuilder.Job{Hash: hashOf(name), Seq: f.seq, State: imagebuilder.Queued, Request: imagebuilder.Request{Target: "x86/64"}}
	if err := f.db.Enqueue(job); err != nil {
		f.Fatal(err)
	}
	return func(r *store.ImageRecord) error {
		done := *job
		done.State, done.Images = imagebuilder.Done, set
		return f.db.FinishJob(&done, r, time.Second)
	}
}

// put makes a set.
func (f *fixture) put(name string, secret bool, sizes ...int64) error {
	f.Helper()
	r, err := f.c.Reserve(hashOf(name), 1)
	if err != nil {
		return err
	}
	dir, set := f.written(sizes...)
	return r.Commit(dir, set, secret, f.record(name, set))
}

func (f *fixture) mustPut(name string, sizes ...int64) {
	f.Helper()
	if err := f.put(name, false, sizes...); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) has(names ...string) {
	f.Helper()
	for _, name := range names {
		if !f.c.Has(hashOf(name)) {
			f.Errorf("%s is gone", name)
		}
	}
}

func (f *fixture) hasNot(names ...string) {
	f.Helper()
	for _, name := range names {
		if f.c.Has(hashOf(name)) {
			f.Errorf("%s is there", name)
		}
	}
}

func (f *fixture) pin(name string) *Handle {
	f.Helper()
	h, err := f.c.Open(hashOf(name), "file-0.bin")
	if err != nil {
		f.Fatal(err)
	}
	return h
}

// left lists what is in a folder.
func (f *fixture) left(folder string) []string {
	f.Helper()
	entries, err := os.ReadDir(filepath.Join(f.o.Dir, folder))
	if err != nil {
		f.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func code(err error) imagebuilder.Code {
	if e, ok := errors.AsType[*imagebuilder.Error](err); ok {
		return e.Code
	}
	return ""
}

func TestASetIsServedAfterItsCommit(t *testing.T) {
	f := newFixture(t, Options{})
	f.hasNot("a")
	r, err := f.c.Reserve(hashOf("a"), 3*mb)
	if err != nil {
		t.Fatal(err)
	}
	if u := f.c.Usage(); u.Reserved != 3*mb || u.Used != 0 || u.Budget != 100*mb || u.Free != 1<<40 {
		t.Errorf("usage: %+v", u)
	}
	dir, set := f.written(mb, 1)
	content := bytes.Repeat([]byte("0123456789abcdef"), mb/16)
	if err := os.WriteFile(filepath.Join(dir, "file-0.bin"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	var record store.ImageRecord
	commit := f.record("a", set)
	if err := r.Commit(dir, set, false, func(r *store.ImageRecord) error { record = *r; return commit(r) }); err != nil {
		t.Fatal(err)
	}
	r.Release()
	f.has("a")
	const disk = mb + 2*store.BlockSize
	if record.Bytes != mb+1 || record.Disk != disk || record.Secret {
		t.Errorf("record: %+v", record)
	}
	if u := f.c.Usage(); u.Reserved != 0 || u.Used != disk || u.Sets != 1 {
		t.Errorf("usage: %+v", u)
	}

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h, err := f.c.Open(hashOf("a"), "file-0.bin")
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		http.ServeContent(w, req, "", h.Info.ModTime(), h.File)
	}))
	defer server.Close()
	req, err := http.NewRequest("GET", server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=17-40")
	client := server.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 206 || !bytes.Equal(body, content[17:41]) {
		t.Errorf("%d %q %v", resp.StatusCode, body, err)
	}
}

func TestOpenRefusesOtherNames(t *testing.T) {
	f := newFixture(t, Options{})
	f.mustPut("a", 10)
	if err := os.WriteFile(filepath.Join(f.o.Dir, "images", "secret"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(f.o.Dir, "images", hashOf("a"))
	if err := os.Mkdir(filepath.Join(place, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(place, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range [][2]string{
		{hashOf("a"), "none"}, {hashOf("a"), ""}, {hashOf("a"), "."}, {hashOf("a"), ".."}, {hashOf("a"), "../secret"},
		{hashOf("a"), "folder"}, {hashOf("a"), "/etc/passwd"}, {hashOf("a"), "file-0.bin/"}, {hashOf("a"), "file-0.bin\x00"},
		{hashOf("b"), "file-0.bin"}, {"..", "secret"}, {"", "secret"}, {".", "secret"}, {strings.ToUpper(hashOf("a")), "file-0.bin"},
	} {
		h, err := f.c.Open(path[0], path[1])
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v, %v", path, h, err)
		}
	}
	if h, err := f.c.Open(hashOf("a"), "link"); err == nil {
		t.Errorf("followed a link out of the folder to %s", h.File.Name())
	}
	// None of them has left a pin behind.
	i, _ := f.c.index.find(keyOf("a"))
	if readers := f.c.index.entries[i].readers; readers != 0 {
		t.Errorf("%d readers", readers)
	}
}

func keyOf(name string) store.Key {
	k, _ := store.ParseKey(hashOf(name))
	return k
}

func TestCommitRefusesWhatIsNotTheSet(t *testing.T) {
	write := func(name, content string) func(dir string, set *imagebuilder.ImageSet) error {
		return func(dir string, set *imagebuilder.ImageSet) error {
			return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)
		}
	}
	tests := map[string]func(dir string, set *imagebuilder.ImageSet) error{
		"another file":    write("extra.bin", "x"),
		"a hidden file":   write(".hidden", "x"),
		"a shorter file":  write("file-0.bin", "short"),
		"a file missing":  func(dir string, _ *imagebuilder.ImageSet) error { return os.Remove(filepath.Join(dir, "file-1.bin")) },
		"no folder":       func(dir string, _ *imagebuilder.ImageSet) error { return os.RemoveAll(dir) },
		"an empty set":    func(_ string, set *imagebuilder.ImageSet) error { set.Files = nil; return nil },
		"a name twice":    func(_ string, set *imagebuilder.ImageSet) error { set.Files[1] = set.Files[0]; return nil },
		"a name upwards":  func(_ string, set *imagebuilder.ImageSet) error { set.Files[1].Name = "../file-1.bin"; return nil },
		"a name with dot": func(_ string, set *imagebuilder.ImageSet) error { set.Files[1].Name = "./file-1.bin"; return nil },
		"a link": func(dir string, _ *imagebuilder.ImageSet) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file-1.bin")), os.Symlink("file-0.bin", filepath.Join(dir, "file-1.bin")))
		},
		"a folder for a file": func(dir string, _ *imagebuilder.ImageSet) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file-1.bin")), os.Mkdir(filepath.Join(dir, "file-1.bin"), 0o755))
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Options{})
			r, err := f.c.Reserve(hashOf("a"), mb)
			if err != nil {
				t.Fatal(err)
			}
			dir, set := f.written(100, 100)
			if err := spoil(dir, set); err != nil {
				t.Fatal(err)
			}
			err = r.Commit(dir, set, false, func(*store.ImageRecord) error {
				t.Error("it was recorded")
				return nil
			})
			if code(err) != imagebuilder.CodeInternal {
				t.Errorf("error: %v", err)
			}
			f.hasNot("a")
			if u := f.c.Usage(); u.Reserved != 0 || u.Used != 0 {
				t.Errorf("usage: %+v", u)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the folder is still there: %v", err)
			}
		})
	}
}

func TestASetThatCannotBeRecordedIsNotThere(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want imagebuilder.Code
	}{
		"a broken database": {errors.New("broken"), imagebuilder.CodeInternal},
		"a full disk":       {fmt.Errorf("recording: %w", enospc), imagebuilder.CodeNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Options{})
			r, err := f.c.Reserve(hashOf("a"), mb)
			if err != nil {
				t.Fatal(err)
			}
			dir, set := f.written(100)
			err = r.Commit(dir, set, false, func(*store.ImageRecord) error { return test.err })
			if code(err) != test.want || !errors.Is(err, test.err) {
				t.Errorf("error: %v", err)
			}
			f.hasNot("a")
			if left := f.left("images"); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			f.mustPut("a", 100)
			f.has("a")
		})
	}
}

func TestALeftoverIsReplaced(t *testing.T) {
	f := newFixture(t, Options{})
	place := filepath.Join(f.o.Dir, "images", hashOf("a"))
	if err := os.MkdirAll(filepath.Join(place, "rubbish"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.mustPut("a", 10)
	f.has("a")
	f.mustPut("a", 20, 30)
	h := f.pin("a")
	defer h.Close()
	if h.Info.Size() != 20 || f.c.Usage().Sets != 1 || f.c.Usage().Used != 3*store.BlockSize {
		t.Errorf("%d bytes, %+v", h.Info.Size(), f.c.Usage())
	}
}

func TestManyAtOnce(t *testing.T) {
	f := newFixture(t, Options{Budget: 40 * store.BlockSize, MinKeep: time.Nanosecond, Grace: time.Nanosecond})
	ctx, cancel := context.WithCancel(t.Context())
	var background, readers, writers sync.WaitGroup
	background.Go(func() { f.c.Run(ctx) })
	stop := make(chan struct{})
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for range 4 {
		readers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := names[n%len(names)]
				h, err := f.c.Open(hashOf(name), "file-0.bin")
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				content, err := io.ReadAll(h.File)
				if err != nil || string(content) != name+strings.Repeat("x", 5000) {
					t.Errorf("%s: %d bytes, %v", name, len(content), err)
				}
				// What is being read stays.
				if _, err := os.Lstat(filepath.Join(f.o.Dir, "images", hashOf(name), "file-0.bin")); err != nil {
					t.Errorf("%s went while it was read: %v", name, err)
				}
				h.Close()
			}
		})
	}
	var mu sync.Mutex
	for w := range 3 {
		writers.Go(func() {
			for n := range 60 {
				name := names[(n*3+w)%len(names)]
				r, err := f.c.Reserve(hashOf(name), 4*store.BlockSize)
				if code(err) == imagebuilder.CodeNoSpace {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if f.c.Has(hashOf(name)) {
					mu.Unlock()
					r.Release()
					continue
				}
				dir, set := f.written(5000 + int64(len(name)))
				if err := os.WriteFile(filepath.Join(dir, "file-0.bin"), []byte(name+strings.Repeat("x", 5000)), 0o644); err != nil {
					t.Error(err)
				}
				err = r.Commit(dir, set, false, f.record(name, set))
				mu.Unlock()
				if err != nil && code(err) != imagebuilder.CodeNoSpace {
					t.Error(err)
				}
				if u := f.c.Usage(); u.Used+u.Reserved > u.Budget {
					t.Errorf("over the budget: %+v", u)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	cancel()
	background.Wait()
}

func FuzzValidFileName(f *testing.F) {
	for _, name := range []string{"openwrt-24.10.4-ath79-generic-tplink_archer-c7-v5-squashfs-sysupgrade.bin", "..", ".", "", "a/b", "-rf", "a\nb", "sha256sums", "x.img.gz"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if ValidFileName(name) && (!fs.ValidPath(name) || filepath.Base(name) != name || name[0] == '.' || name[0] == '-' || strings.ContainsAny(name, " \\\x00\n\"'<>")) {
			t.Errorf("%q is let through", name)
		}
	})
}

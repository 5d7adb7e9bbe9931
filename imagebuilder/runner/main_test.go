package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(samples); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// fakeBuilder is the ImageBuilder of testdata/builder, unpacked. A prepared
// one has been through Prepare; it is read-only in either case.
func fakeBuilder(t testing.TB, prepare func(ctx context.Context, dir string) error) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "openwrt-imagebuilder-1.2.3-fake-generic.Linux-x86_64")
	if err := sandbox.CopyTree(filepath.Join("testdata", "builder"), dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "dot.config"), filepath.Join(dir, ".config")); err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		if err := prepare(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	shareReadOnly(t, dir)
	return dir
}

// shareReadOnly takes all write permissions away, and gives them back at the
// end so that the folder can be removed.
func shareReadOnly(t testing.TB, dir string) {
	t.Helper()
	chmod := func(clear, set fs.FileMode) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type()&fs.ModeSymlink != 0 {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			return os.Chmod(path, fi.Mode().Perm()&^clear|set)
		})
		if err != nil {
			t.Error(err)
		}
	}
	chmod(0o222, 0)
	t.Cleanup(func() { chmod(0, 0o700) })
}

func theBuilder(dir string) Builders {
	return BuildersFunc(func(context.Context, imagebuilder.Request, imagebuilder.Generation, imagebuilder.Reporter) (*Builder, func(), error) {
		return &Builder{Dir: dir}, func() {}, nil
	})
}

func newRunner(t testing.TB, o Options) *Runner {
	t.Helper()
	if o.WorkDir == "" {
		o.WorkDir = filepath.Join(t.TempDir(), "work")
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// witness is a Reporter that remembers.
type witness struct {
	mu     sync.Mutex
	stages []imagebuilder.Stage
	lines  []string
	heard  chan string // each line too, where there is room
}

func newWitness() *witness { return &witness{heard: make(chan string, 1000)} }

func (w *witness) Stage(s imagebuilder.Stage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stages = append(w.stages, s)
}

func (w *witness) Progress(int64, int64) {}

func (w *witness) Line(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
	select {
	case w.heard <- line:
	default:
	}
}

func (w *witness) waitFor(t *testing.T, line string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-w.heard:
			if got == line {
				return
			}
		case <-timeout:
			t.Fatalf("never heard %q", line)
		}
	}
}

func request(profile string, packages ...string) imagebuilder.Request {
	return imagebuilder.Request{
		Version: "1.2.3", Target: "fake/generic", Profile: profile, Packages: packages,
	}.Normalize()
}

func job(req imagebuilder.Request) imagebuilder.Job {
	return imagebuilder.Job{Hash: req.Hash("test"), Request: req}
}

func asError(t *testing.T, err error) *imagebuilder.Error {
	t.Helper()
	var e *imagebuilder.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want an *imagebuilder.Error", err, err)
	}
	return e
}

func ptr[T any](v T) *T { return &v }

package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/sample"
	"attendant/imagebuilder/upstream"
)

// workshop is upstream and runner of the sample distribution, put together as
// an attendant does, with an eye on the network.
type workshop struct {
	testing.TB
	tree     string
	server   *httptest.Server
	asked    atomic.Int64 // requests
	sent     atomic.Int64 // bytes
	packages atomic.Int64 // requests for package files
	upstream *upstream.Upstream
	runner   *runner.Runner
	planner  *planner
	log      syncBuffer
}

// Write notes a line of the log.
func newWorkshop(t testing.TB, o upstream.Options) *workshop {
	t.Helper()
	w := &workshop{TB: t, tree: t.TempDir()}
	files := http.FileServer(http.Dir(w.tree))
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		if strings.HasSuffix(r.URL.Path, ".ipk") || strings.HasSuffix(r.URL.Path, ".apk") {
			w.packages.Add(1)
		}
		files.ServeHTTP(&countingWriter{rw, &w.sent}, r)
	}))
	t.Cleanup(w.server.Close)
	if err := sample.Write(w.tree, sample.Options{BaseURL: "https://downloads.sample.example"}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.planner = &planner{solve: (*feeds.Universe).Solve, upstream: func(imagebuilder.Request) *upstream.Upstream { return w.upstream }}
	data := t.TempDir()
	var err error
	w.runner, err = runner.New(runner.Options{
		Builders: runner.BuildersFunc(func(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*runner.Builder, func(), error) {
			b, release, err := w.upstream.Builder(ctx, req.Version, req.Target, g, rep)
			if err != nil {
				return nil, nil, err
			}
			return &runner.Builder{Dir: b.Dir, Generation: b.Generation, UpstreamURL: w.server.URL}, release, nil
		}),
		Planner: w.planner, WorkDir: filepath.Join(data, "work"), KeysDir: filepath.Join(data, "build-keys"), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.runner.Close() })
	_, key := sample.TrustedKey()
	o.URL, o.Dir, o.TrustedKeys, o.HostArch, o.Prepare, o.Log = w.server.URL, data, [][]byte{key}, "x86_64", w.runner.Prepare, log
	o.RequestWait = 30 * time.Second
	if w.upstream, err = upstream.Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.upstream.Close()
		filepath.WalkDir(filepath.Join(data, "builders"), func(name string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(name, 0o755)
			}
			return nil
		})
	})
	return w
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

// Write implements io.Writer.
func (c *countingWriter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// observer is a build's Reporter that notes what the network saw at the
// beginning of each stage.
type observer struct {
	w      *workshop
	mu     sync.Mutex
	stages []imagebuilder.Stage
	asked  map[imagebuilder.Stage]int64
	lines  []string
}

func (o *observer) Stage(s imagebuilder.Stage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stages = append(o.stages, s)
	o.asked[s] = o.w.asked.Load()
}
func (o *observer) Progress(int64, int64) {}
func (o *observer) Line(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, line)
}

// duringMake is how many requests there were since make was first asked for
// packages.
func (o *observer) duringMake() int64 {
	first := int64(-1)
	for _, s := range []imagebuilder.Stage{imagebuilder.StageManifest, imagebuilder.StageImage} {
		if n, ok := o.asked[s]; ok && (first < 0 || n < first) {
			first = n
		}
	}
	return o.w.asked.Load() - first
}

func (w *workshop) job(version, target, profile string, packages ...string) imagebuilder.Job {
	w.Helper()
	t, err := w.upstream.Target(context.Background(), version, target)
	if err != nil {
		w.Fatal(err)
	}
	req := imagebuilder.Request{Version: version, Target: target, Profile: profile, Packages: packages}.Normalize()
	return imagebuilder.Job{Hash: req.Hash(t.Generation.Digest), Request: req, Generation: t.Generation}
}

func (w *workshop) build(job imagebuilder.Job) (*imagebuilder.Built, *observer, error) {
	o := &observer{w: w, asked: map[imagebuilder.Stage]int64{}}
	built, err := w.runner.Build(context.Background(), job, o)
	return built, o, err
}

func (w *workshop) mustBuild(job imagebuilder.Job) (*imagebuilder.Built, *observer) {
	w.Helper()
	built, o, err := w.build(job)
	if err != nil {
		e := imagebuilder.AsError(err)
		w.Fatalf("%v\n%s\n%s\n%s", err, e.Stdout, e.Stderr, w.log.String())
	}
	return built, o
}

// foresees makes a resolver of what a build had: it says the same again.
func foresees(m imagebuilder.Manifest) func(*feeds.Universe, feeds.Wish) *feeds.Solution {
	return func(*feeds.Universe, feeds.Wish) *feeds.Solution { return nil }
}

var sampleTargets = []struct{ version, target, profile string }{
	{"24.10.4", "x86/64", "generic"},
	{"24.10.3", "ath79/generic", "tplink_archer-c7-v5"},
	{"SNAPSHOT", "x86/64", "generic"},
	{"SNAPSHOT", "ath79/generic", "tplink_archer-c7-v5"},
}

// Of a build make opens no connection: everything was fetched before.
func TestMakeOpensNoConnection(t *testing.T) {
	w := newWorkshop(t, upstream.Options{})
	for _, tt := range sampleTargets {
		t.Run(tt.version+" "+tt.target, func(t *testing.T) {
			built, o := w.mustBuild(w.job(tt.version, tt.target, tt.profile, "cowsay", "luci"))
			if n := o.duringMake(); n != 0 {
				t.Errorf("%d requests during make", n)
			}
			if !slices.Contains(o.stages, imagebuilder.StagePackages) || built.Set.Manifest["cowsay"] == "" || built.Set.Manifest["luci"] == "" {
				t.Errorf("stages %v, manifest %v", o.stages, built.Set.Manifest)
			}
			// The second time nothing at all is fetched.
			before := w.packages.Load()
			_, o = w.mustBuild(w.job(tt.version, tt.target, tt.profile, "luci", "cowsay"))
			if n := w.packages.Load() - before; n != 0 || slices.Contains(o.stages, imagebuilder.StagePackages) {
				t.Errorf("%d packages fetched again, stages %v", n, o.stages)
			}
			if strings.Contains(w.log.String(), "fetches its packages for itself") {
				t.Errorf("a build was not planned:\n%s", w.log.String())
			}
		})
	}
}

func TestDebugAPK(t *testing.T) {
	w := newWorkshop(t, upstream.Options{})
	_, o := w.mustBuild(w.job("SNAPSHOT", "x86/64", "generic", "cowsay", "luci"))
	t.Log(strings.Join(o.lines, "\n"))
	t.Log(w.log.String())
}

var _ = bytes.NewReader

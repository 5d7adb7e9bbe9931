package main

import (
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/sample"
	"attendant/imagebuilder/sandbox"
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
	data     string
	hold     atomic.Bool // package files do not come
	plain    atomic.Bool // nothing is planned
	log      syncBuffer
}

func newWorkshop(t testing.TB, o upstream.Options) *workshop {
	t.Helper()
	w := &workshop{TB: t, tree: filepath.Join(t.TempDir(), "tree")}
	if err := sandbox.CopyTree(sampleTree(t, sample.Options{BaseURL: "https://downloads.sample.example"}), w.tree); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(w.tree))
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		if strings.HasSuffix(r.URL.Path, ".ipk") || strings.HasSuffix(r.URL.Path, ".apk") {
			w.packages.Add(1)
			if w.hold.Load() {
				<-r.Context().Done()
				return
			}
		}
		files.ServeHTTP(&countingWriter{rw, &w.sent}, r)
	}))
	t.Cleanup(w.server.Close)
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.planner = &planner{solve: (*feeds.Universe).Solve, upstream: func(imagebuilder.Request) *upstream.Upstream { return w.upstream }}
	w.data = t.TempDir()
	data := w.data
	var err error
	w.runner, err = runner.New(runner.Options{
		Builders: runner.BuildersFunc(func(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*runner.Builder, func(), error) {
			b, release, err := w.upstream.Builder(ctx, req.Version, req.Target, g, rep)
			if err != nil {
				return nil, nil, err
			}
			return &runner.Builder{Dir: b.Dir, Generation: b.Generation, UpstreamURL: w.server.URL}, release, nil
		}),
		Planner: w, Hidden: []string{data}, WorkDir: filepath.Join(data, "work"), KeysDir: filepath.Join(data, "build-keys"), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.runner.Close() })
	w.reopen(o)
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

// Plan implements runner.Planner.
func (w *workshop) Plan(ctx context.Context, q runner.Question) (*runner.Plan, error) {
	if w.plain.Load() {
		return nil, noPlan("it is not wanted")
	}
	return w.planner.Plan(ctx, q)
}

// reopen opens upstream, again where it was open.
func (w *workshop) reopen(o upstream.Options) {
	w.Helper()
	if w.upstream != nil {
		w.upstream.Close()
	}
	_, key := sample.TrustedKey()
	o.URL, o.Dir, o.TrustedKeys, o.HostArch, o.Prepare = w.server.URL, w.data, [][]byte{key}, "x86_64", w.runner.Prepare
	o.Log = slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.RequestWait = 30 * time.Second
	var err error
	if w.upstream, err = upstream.Open(o); err != nil {
		w.Fatal(err)
	}
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
	on     func(imagebuilder.Stage) // may be nil
}

func (o *observer) Stage(s imagebuilder.Stage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stages = append(o.stages, s)
	o.asked[s] = o.w.asked.Load()
	if o.on != nil {
		o.on(s)
	}
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

var sampleTargets = []struct{ version, target, profile string }{
	{"24.10.4", "x86/64", "generic"},
	{"24.10.3", "ath79/generic", "tplink_archer-c7-v5"},
	{"SNAPSHOT", "x86/64", "generic"},
}

// foreseen tells whether the resolver is certain of a plain image.
func (w *workshop) foreseen(version, target, profile string) bool {
	w.Helper()
	job := w.job(version, target, profile, "cowsay", "luci")
	t, err := w.upstream.Target(context.Background(), version, target)
	if err != nil {
		w.Fatal(err)
	}
	return t.Universe().Solve(wish(job.Request, t)).Certain
}

// silent is the log of builds that went as they were planned.
func (w *workshop) silent() {
	w.Helper()
	for _, word := range []string{"counterexample", "fetches its packages for itself", "were not foreseen"} {
		if log := w.log.String(); strings.Contains(log, word) {
			w.Errorf("%s:\n%s", word, log)
		}
	}
}

// Of a build make opens no connection, and it is called once: everything was
// foreseen and fetched before.
func TestMakeOpensNoConnection(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	for _, tt := range sampleTargets {
		t.Run(tt.version+" "+tt.target, func(t *testing.T) {
			built, o := w.mustBuild(w.job(tt.version, tt.target, tt.profile, "cowsay", "luci"))
			if n := o.duringMake(); n != 0 {
				t.Errorf("%d requests during make", n)
			}
			if !slices.Contains(o.stages, imagebuilder.StagePackages) || slices.Contains(o.stages, imagebuilder.StageManifest) == w.foreseen(tt.version, tt.target, tt.profile) {
				t.Errorf("stages %v", o.stages)
			}
			manifest := built.Set.Manifest
			if manifest["cowsay"] == "" || manifest["luci"] == "" || manifest["libubox"] == "" || manifest["libc"] == "" || manifest["kernel"] == "" {
				t.Errorf("manifest %v", manifest)
			}

			// The next one fetches only what is new to it. In doubt more is
			// fetched, and make manifest asked, with the same outcome.
			solve := w.planner.solve
			w.planner.solve = nil
			again, o := w.mustBuild(w.job(tt.version, tt.target, tt.profile, "luci", "cowsay"))
			w.planner.solve = solve
			if n := o.duringMake(); n != 0 || !slices.Contains(o.stages, imagebuilder.StageManifest) {
				t.Errorf("%d requests during make, stages %v", n, o.stages)
			}
			if diff := cmp.Diff(manifest, again.Set.Manifest); diff != "" {
				t.Error(diff)
			}
			before := w.packages.Load()
			_, o = w.mustBuild(w.job(tt.version, tt.target, tt.profile, "cowsay", "luci"))
			if n := w.packages.Load() - before; n != 0 || slices.Contains(o.stages, imagebuilder.StagePackages) {
				t.Errorf("%d packages fetched again, stages %v", n, o.stages)
			}
		})
	}
	w.silent()
}

// The same request is the same image, byte for byte, also when its builder was
// unpacked anew.
func TestImagesAreTheSameAgain(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	sums := func() map[string]string {
		built, _ := w.mustBuild(w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5", "cowsay"))
		sums := map[string]string{}
		for _, f := range built.Set.Files {
			sums[f.Name] = f.SHA256
		}
		return sums
	}
	first := sums()
	other := newWorkshop(t, upstream.Options{})
	// Another data folder with the same key.
	if err := os.CopyFS(filepath.Join(other.data, "build-keys"), os.DirFS(filepath.Join(w.data, "build-keys"))); err != nil {
		t.Fatal(err)
	}
	w = other
	if diff := cmp.Diff(first, sums()); diff != "" {
		t.Error(diff)
	}
}

// A client that names a file system gets what is made of that one alone.
func TestOnlyTheWantedFileSystemIsBuilt(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	for _, version := range []string{"24.10.4", "SNAPSHOT"} {
		for _, wanted := range []string{"squashfs", "ext4"} {
			job := w.job(version, "x86/64", "generic", "cowsay")
			job.Request.Filesystem = &wanted
			built, _ := w.mustBuild(job)
			combined := false
			for _, image := range built.Set.Images {
				if image.Filesystem != wanted && image.Filesystem != "targz" {
					t.Errorf("%s: %s was built for %s", version, image.Name, wanted)
				}
				combined = combined || image.Type == "combined-efi"
			}
			kernel := slices.ContainsFunc(built.Set.Files, func(f imagebuilder.File) bool { return strings.HasSuffix(f.Name, "-kernel.bin") })
			if !combined || !kernel {
				t.Errorf("%s: files %v", version, built.Set.Files)
			}
		}
	}
	w.silent()
}

// Packages that upstream has not, or not as it says, end a build with a
// sentence, and nothing is left behind.
func TestPackagesThatUpstreamHasNot(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"missing": os.Remove,
		"damaged": func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return os.WriteFile(path, data, 0o644)
		},
		"cut": func(path string) error { return os.Truncate(path, 100) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorkshop(t, upstream.Options{})
			job := w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5", "cowsay")
			found, err := filepath.Glob(filepath.Join(w.tree, "releases/24.10.4/packages/mips_24kc/*/cowsay_*.ipk"))
			if err != nil || len(found) != 1 {
				t.Fatalf("%v, %v", found, err)
			}
			if err := spoil(found[0]); err != nil {
				t.Fatal(err)
			}
			_, o, err := w.build(job)
			if e := imagebuilder.AsError(err); e.Code != imagebuilder.CodePackageDamaged || !strings.Contains(e.Detail, "cowsay") || !e.Code.Transient() {
				t.Errorf("got %v", err)
			}
			if slices.Contains(o.stages, imagebuilder.StageImage) {
				t.Errorf("stages %v", o.stages)
			}
			// Without it there is an image.
			w.mustBuild(w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5"))
		})
	}
}

// Where the whole store is too small for one image that is said.
func TestPackageBudgetTooSmall(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{PackageBudget: 100_000})
	_, _, err := w.build(w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5"))
	if e := imagebuilder.AsError(err); e.Code != imagebuilder.CodeNoSpace || !strings.Contains(e.Detail, "package_budget") {
		t.Errorf("got %v", err)
	}
}

// A build that is canceled while it fetches ends at once.
func TestFetchingIsCanceled(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	job := w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5")
	_, release, err := w.upstream.Builder(t.Context(), "24.10.4", "ath79/generic", job.Generation, nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	ctx, cancel := context.WithCancelCause(t.Context())
	w.hold.Store(true) // packages do not come
	reason := imagebuilder.Errorf(imagebuilder.CodeCanceled, "The server's operator ended this build.")
	o := &observer{w: w, asked: map[imagebuilder.Stage]int64{}, on: func(s imagebuilder.Stage) {
		if s == imagebuilder.StagePackages {
			cancel(reason)
		}
	}}
	_, err = w.runner.Build(ctx, job, o)
	if e := imagebuilder.AsError(err); e != reason && e.Detail != reason.Detail {
		t.Errorf("got %v", err)
	}
	w.hold.Store(false)
	w.mustBuild(job)
}

// Feeds of a request's own go the same way: fetched, checked, and built from
// without a network.
func TestRepositoriesOfARequest(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	elsewhere := httptest.NewServer(http.FileServer(http.Dir(w.tree)))
	defer elsewhere.Close()
	_, key := sample.TrustedKey()
	for version, foreign := range map[string]string{"24.10.4": "releases/24.10.4/packages/x86_64/telephony", "SNAPSHOT": "snapshots/packages/x86_64/telephony"} {
		job := w.job(version, "x86/64", "generic", "cowsay")
		job.Request.Repositories = imagebuilder.Pairs{{Name: "mine", Value: elsewhere.URL + "/" + foreign + "/"}}
		job.Request.RepositoriesMode = imagebuilder.RepositoriesAppend
		if version != "SNAPSHOT" {
			job.Request.RepositoryKeys = []string{string(key)}
		}
		job.Request = job.Request.Normalize()
		_, o := w.mustBuild(job)
		if n := o.duringMake(); n != 0 {
			t.Errorf("%s: %d requests during make", version, n)
		}
		job.Request.Repositories[0].Value = w.server.URL + "/nowhere"
		_, _, err := w.build(job)
		if e := imagebuilder.AsError(err); e.Code != imagebuilder.CodeNoNetwork || !strings.Contains(e.Detail, "/nowhere") {
			t.Errorf("%s: got %v", version, err)
		}
	}
	w.silent()
}

// A feed that keeps its packages in folders, or calls one as lists are called,
// is left to opkg.
func TestFeedWithOddFileNamesIsNotPlanned(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	usign := func(data []byte) []byte { // usign's files, of keys and signatures alike
		return []byte("untrusted comment: x\n" + base64.StdEncoding.EncodeToString(append([]byte("Ed12345678"), data...)) + "\n")
	}
	var list []byte
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch filepath.Base(r.URL.Path) {
		case "Packages.gz":
			z := gzip.NewWriter(rw)
			z.Write(list)
			z.Close()
		case "Packages.sig":
			rw.Write(usign(ed25519.Sign(private, list)))
		default:
			http.NotFound(rw, r)
		}
	}))
	defer elsewhere.Close()
	for file, odd := range map[string]bool{"x_1_all.ipk": false, "./x_1_all.ipk": false, "sub/x_1_all.ipk": true, "../x_1_all.ipk": true, "Packages.gz": true} {
		list = fmt.Appendf(nil, "Package: x\nVersion: 1\nArchitecture: all\nFilename: %s\nSize: 3\nSHA256sum: %064d\n\n", file, 0)
		_, err := w.planner.Plan(t.Context(), runner.Question{
			Job: w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5", "x"), Manager: feeds.Opkg,
			Wish: feeds.Wish{Requested: []string{"x"}}, Feeds: []runner.FeedLine{{Name: "mine", URL: elsewhere.URL + "/feed"}}, Keys: [][]byte{usign(public)},
		})
		if odd != errors.Is(err, runner.ErrNoPlan) || !odd && err != nil || odd && !strings.Contains(err.Error(), strconv.Quote(file)) {
			t.Errorf("%s: got %v", file, err)
		}
	}
}

// What an ImageBuilder runs finds neither the server's key nor its database.
func TestBuildersDoNotSeeTheServer(t *testing.T) {
	cfg, err := demoConfig(t.TempDir(), "http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.AdminTokenFile = filepath.Join(t.TempDir(), "token")
	secrets := []string{filepath.Join(cfg.Data, "legacy-signing.key"), filepath.Join(cfg.Data, "attendant.db"), cfg.AdminTokenFile}
	for _, name := range secrets {
		if err := os.WriteFile(name, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := runner.New(runner.Options{Builders: runner.BuildersFunc(nil), WorkDir: filepath.Join(cfg.Data, "work"), Hidden: hiddenFromBuilds(cfg)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	builder := filepath.Join(cfg.Data, "builders", "one")
	if err := os.MkdirAll(builder, 0o755); err != nil {
		t.Fatal(err)
	}
	makefile := "info:\n\t@cat " + strings.Join(secrets, " ") + " >seen; exit 1\n"
	if err := os.WriteFile(filepath.Join(builder, "Makefile"), []byte(makefile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Prepare(t.Context(), builder); err == nil {
		t.Error("an ImageBuilder that fails was prepared")
	}
	want := ""
	if !r.Abilities().Namespaces {
		want = strings.Repeat("secret", len(secrets))
	}
	if seen, err := os.ReadFile(filepath.Join(builder, "seen")); err != nil || string(seen) != want {
		t.Errorf("the build sees %q, %v", seen, err)
	}
}

// BenchmarkPlannedBuild is a build with all stages, cold (nothing is there but the
// builder) and warm, beside the plain ImageBuilder that fetches for itself in
// the two make calls that there were before.
func BenchmarkPlannedBuild(b *testing.B) {
	for _, tt := range []struct{ version, target, profile string }{
		{"24.10.4", "ath79/generic", "tplink_archer-c7-v5"}, {"24.10.4", "x86/64", "generic"}, {"SNAPSHOT", "x86/64", "generic"},
	} {
		for _, way := range []string{"cold", "warm", "warm-squashfs", "plain"} {
			b.Run(tt.version+"-"+strings.ReplaceAll(tt.target, "/", "-")+"-"+way, func(b *testing.B) {
				w := newWorkshop(b, upstream.Options{})
				job := w.job(tt.version, tt.target, tt.profile, "cowsay", "luci")
				_, release, err := w.upstream.Builder(b.Context(), tt.version, tt.target, job.Generation, nil)
				if err != nil {
					b.Fatal(err)
				}
				release()
				w.plain.Store(way == "plain")
				if way == "warm-squashfs" {
					squashfs := "squashfs"
					job.Request.Filesystem = &squashfs
				}
				if strings.HasPrefix(way, "warm") {
					w.mustBuild(job)
				}
				b.ResetTimer()
				stages := map[imagebuilder.Stage]time.Duration{}
				var connections, bytes int64
				for b.Loop() {
					if way == "cold" {
						b.StopTimer()
						os.RemoveAll(filepath.Join(w.data, "packages"))
						w.reopen(upstream.Options{})
						b.StartTimer()
					}
					sent := w.sent.Load()
					built, o := w.mustBuild(job)
					connections, bytes = o.duringMake(), w.sent.Load()-sent
					for _, s := range built.Stages {
						stages[s.Stage] += s.Duration
					}
					os.RemoveAll(built.Dir)
				}
				for stage, took := range stages {
					b.ReportMetric(float64(took.Milliseconds())/float64(b.N), string(stage)+"-ms")
				}
				b.ReportMetric(float64(connections), "requests-during-make")
				b.ReportMetric(float64(bytes), "bytes-fetched")
				calls := 1.0
				if _, asked := stages[imagebuilder.StageManifest]; asked {
					calls = 2
				}
				b.ReportMetric(calls, "make-calls")
			})
		}
	}
}

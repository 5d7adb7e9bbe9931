package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"attendant/imagebuilder"
	"attendant/queue"
	"attendant/store"
	"attendant/store/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a running server with everything real but upstream and the
// ImageBuilder: those are stubs that a test can hold.
type testServer struct {
	t       testing.TB
	base    string
	addr    string
	server  *Server
	queue   *queue.Queue
	db      *store.DB
	builder *stubBuilder
	catalog *stubCatalogue
}

type stubStatistics struct {
	requests, hits, misses atomic.Int64
}

func (s *stubStatistics) CountRequest()          { s.requests.Add(1) }
func (s *stubStatistics) CountHit(time.Duration) { s.hits.Add(1) }
func (s *stubStatistics) CountMiss()             { s.misses.Add(1) }
func (s *stubStatistics) BuildsLastDay() int64   { return 7 }
func (s *stubStatistics) Days(n int) []DayCounts {
	days := make([]DayCounts, n)
	for i := range days {
		days[i] = DayCounts{Date: time.Date(2026, 1, 1+i, 0, 0, 0, 0, time.UTC), Requests: int64(i)}
	}
	return days
}
func (s *stubStatistics) WeeklyBuilds(n int) ([]time.Time, map[string][]int64) {
	starts := make([]time.Time, n)
	for i := range starts {
		starts[i] = time.Date(2026, 1, 1+7*i, 0, 0, 0, 0, time.UTC)
	}
	one := func(at int) []int64 { c := make([]int64, n); c[at] = 2; return c }
	return starts, map[string][]int64{"24.10.4": one(n - 1), "24.10.3": one(n - 1), "23.05.5": one(0), "SNAPSHOT": one(1)}
}
func (s *stubStatistics) TopPackages(branch string, n int) []PackageCount {
	return []PackageCount{{"luci", 3}, {"tmux", 1}}[:min(n, 2)]
}
func (s *stubStatistics) BuildErrors(n int) ([]string, error) {
	return []string{"2026-01-31 12:00:00 24.10.4:ath79/generic:x broke", "2026-01-30 12:00:00 24.10.4:ath79/generic:y broke"}[:min(n, 2)], nil
}

type stubDatabase struct{ *store.DB }

func (d stubDatabase) Answers() error {
	_, err := d.LastSeq()
	return err
}

func (d stubDatabase) Check() ([]string, error) {
	r, err := d.DB.Check()
	if err != nil {
		return nil, err
	}
	return r.Problems, nil
}

// stubCatalogue knows one device of one release.
type stubCatalogue struct {
	down atomic.Bool
}

var stubGeneration = imagebuilder.Generation{Digest: "generation", Revision: "r28959-29397011cc"}

func (c *stubCatalogue) err() error {
	if c.down.Load() {
		return imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable, "Nothing is known of upstream yet. Please try again in a minute.")
	}
	return nil
}

func (c *stubCatalogue) Overview(context.Context) (*Overview, error) {
	return &Overview{
		Branches: []Branch{{Name: "24.10", Path: "releases/{version}", Enabled: true, PathPackages: "DEPRECATED",
			PackageChanges: []imagebuilder.PackageChange{}, Versions: []string{"24.10.4"}, Targets: map[string]string{"ath79/generic": "mips_24kc"}}},
		Latest: []string{"24.10.4"}, UpstreamURL: "http://upstream.example/", Checked: time.Now(),
	}, c.err()
}

func (c *stubCatalogue) Resolve(_ context.Context, r imagebuilder.Request) (imagebuilder.Request, imagebuilder.Generation, error) {
	switch {
	case c.err() != nil:
		return r, imagebuilder.Generation{}, c.err()
	case r.Version != "24.10.4":
		return r, imagebuilder.Generation{}, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", r.Version)
	case r.Target != "ath79/generic":
		return r, imagebuilder.Generation{}, imagebuilder.Errorf(imagebuilder.CodeUnsupportedTarget, "Unsupported target: %s.", r.Target)
	}
	if r.Profile == "tplink,archer-c7-v5" {
		r.Profile = "tplink_archer-c7-v5"
	}
	if r.Profile != "tplink_archer-c7-v5" {
		return r, imagebuilder.Generation{}, imagebuilder.Errorf(imagebuilder.CodeUnsupportedProfile, "Unsupported profile: %s.", r.Profile)
	}
	return r, stubGeneration, nil
}

// Replace knows one renamed package.
func (c *stubCatalogue) Replace(_ context.Context, r imagebuilder.Request, _ imagebuilder.Generation) (imagebuilder.Request, error) {
	for i, name := range r.Packages {
		if name == "auc" {
			r.Packages = slices.Clone(r.Packages)
			r.Packages[i] = "owut"
			r.Changes = &imagebuilder.Changes{Replacements: map[string][]string{"auc": {"owut"}}, Added: []string{"fitblk"}}
		}
	}
	return r, nil
}

// Content is foreseen for requests that the test names.
func (c *stubCatalogue) Content(_ context.Context, r imagebuilder.Request, g imagebuilder.Generation) string {
	if slices.Contains(r.Packages, "same-content") {
		return r.ContentHash(g.Digest, imagebuilder.Manifest{"luci": "1"}) // what stubBuilder builds
	}
	return ""
}

// Impossible knows one package that is in no feed.
func (c *stubCatalogue) Impossible(_ context.Context, r imagebuilder.Request, _ imagebuilder.Generation) *imagebuilder.Error {
	if !slices.Contains(r.Packages, "nowhere") {
		return nil
	}
	e := imagebuilder.Errorf(imagebuilder.CodePackageMissing, "Error: Impossible package selection: missing (nowhere).")
	e.Unknown = []string{"nowhere"}
	e.Problems = []imagebuilder.Problem{{Kind: imagebuilder.ProblemMissing, Package: "nowhere", Detail: "nowhere is in no feed of 24.10.4."}}
	e.Repairs = []imagebuilder.Repair{{Detail: "Leave nowhere out.", Remove: []string{"nowhere"}, Packages: []string{}}}
	return e
}

func (c *stubCatalogue) Solve(_ context.Context, r imagebuilder.Request, _ imagebuilder.Generation) (*Solved, error) {
	return &Solved{Status: 200, Possible: true, Certain: true, Version: r.Version, Manifest: imagebuilder.Manifest{"luci": "1"},
		Doubts: []string{}, Packages: []SolvedPackage{}, Problems: []imagebuilder.Problem{}, Repairs: []imagebuilder.Repair{}}, c.err()
}

func (c *stubCatalogue) Search(_ context.Context, _, _, query string, offset, limit int) (*PackagePage, error) {
	return &PackagePage{Total: 1, Offset: offset, Packages: []PackageInfo{{Name: "luci", Version: "1", Description: query + strings.Repeat("!", limit)}}}, c.err()
}

func (c *stubCatalogue) Package(_ context.Context, _, _, name string) (*PackageDetails, error) {
	if name != "luci" {
		e := imagebuilder.Errorf(imagebuilder.CodeNotFound, "%s is in no feed.", name)
		e.Nearest = []string{"luci"}
		return nil, e
	}
	return &PackageDetails{PackageInfo: PackageInfo{Name: "luci", Version: "1"}, Depends: []string{"uhttpd"}}, c.err()
}

// Upgrade knows one newer release.
func (c *stubCatalogue) Upgrade(_ context.Context, q UpgradeQuestion) (*Upgrade, error) {
	if c.err() != nil || q.Version == "24.10.4" {
		return nil, c.err()
	}
	return &Upgrade{Status: 200, Version: "24.10.4", InstalledVersion: q.Version, Target: q.Target}, nil
}

func (c *stubCatalogue) Tables() any { return "tables" }

func (c *stubCatalogue) Revision(_ context.Context, version, target string) (string, error) {
	if version != "24.10.4" {
		return "", imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", version)
	}
	return stubGeneration.Revision, c.err()
}

func (c *stubCatalogue) Profile(_ context.Context, path, target, profile string) ([]byte, error) {
	if path != "releases/24.10.4" || target != "ath79/generic" {
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedTarget, "Unsupported target: %s", target)
	}
	if profile != "tplink_archer-c7-v5" {
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedProfile, "no such device")
	}
	return []byte(`{"id":"tplink_archer-c7-v5"}`), c.err()
}

func (c *stubCatalogue) TargetIndex(_ context.Context, path, target string) ([]byte, error) {
	if path != "releases/24.10.4" {
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported version")
	}
	return []byte(`{"architecture":"mips_24kc","packages":{"luci":"1"}}`), c.err()
}

func (c *stubCatalogue) ArchIndex(_ context.Context, path, arch string) ([]byte, error) {
	if arch != "mips_24kc" {
		return nil, imagebuilder.Errorf(imagebuilder.CodeNotFound, "no such architecture")
	}
	return []byte(`{"luci":"1"}`), c.err()
}

// stubBuilder writes an image of its own instead of running an ImageBuilder.
type stubBuilder struct {
	dir    string
	size   int
	builds atomic.Int64
	hold   chan struct{} // if set, builds wait for it
	fail   func(imagebuilder.Request) *imagebuilder.Error
	mu     sync.Mutex
}

func (b *stubBuilder) Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error) {
	n := b.builds.Add(1)
	rep.Stage(imagebuilder.StageInit)
	rep.Stage(imagebuilder.StageManifest)
	rep.Line("resolving\rpackages")
	rep.Stage(imagebuilder.StageImage)
	b.mu.Lock()
	hold, fail := b.hold, b.fail
	b.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, imagebuilder.Errorf(imagebuilder.CodeCanceled, "Error: canceled").WithCause(ctx.Err())
		}
	}
	if fail != nil {
		if err := fail(job.Request); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(b.dir, fmt.Sprint("build", n))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	content := bytes.Repeat([]byte(job.Hash[:16]), b.size/16)
	name := "openwrt-24.10.4-sysupgrade.bin"
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	hexSum := hex.EncodeToString(sum[:])
	return &imagebuilder.Built{Dir: dir, Set: imagebuilder.ImageSet{
		ID: job.Request.Profile, Titles: []imagebuilder.Title{{Vendor: "TP-Link", Model: "Archer C7", Variant: "v5"}},
		Target: job.Request.Target, VersionNumber: job.Request.Version, VersionCode: stubGeneration.Revision,
		ArchPackages: "mips_24kc", SourceDateEpoch: 1760891865, MetadataVersion: 1,
		Images:   []imagebuilder.Image{{Name: name, Type: "sysupgrade", Filesystem: "squashfs", SHA256: hexSum, SHA256Unsigned: hexSum, Size: int64(len(content))}},
		Files:    []imagebuilder.File{{Name: name, Size: int64(len(content)), SHA256: hexSum}},
		Manifest: imagebuilder.Manifest{"luci": "1"},
		BuildCmd: []string{"make", "image"}, BuildCmdPackages: job.Request.Packages, BuiltAt: time.Now(),
		Stdout: "Building images...", Stderr: "dd: 1+0 records",
	}}, nil
}

// start returns a server on a port of its own; it ends with the test.
func start(t testing.TB, change func(*Options)) *testServer {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(filepath.Join(dir, "attendant.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cache, err := images.Open(images.Options{Dir: dir, DB: db, Budget: 1 << 30, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	builder := &stubBuilder{dir: filepath.Join(dir, "work"), size: 64 << 10}
	q, err := queue.New(queue.Options{DB: db, Images: cache, Builder: builder, Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	catalog := &stubCatalogue{}
	o := Options{
		Catalogue: catalog, Queue: q, Images: cache, Statistics: &stubStatistics{}, Database: stubDatabase{db},
		Version: "test", AllowDefaults: true, RepositoryAllowList: []string{"https://feeds.example/allowed/"},
		Limits: imagebuilder.Limits{MaxRootfsSizeMB: 1024, MaxDefaultsLength: 20480},
	}
	if change != nil {
		change(&o)
	}
	s := New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Serve(ctx, l, time.Second); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	running.Go(func() { _ = q.Run(ctx) })
	running.Go(func() { cache.Run(ctx) })
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		running.Wait()
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &testServer{t: t, base: "http://" + l.Addr().String(), addr: l.Addr().String(), server: s, queue: q, db: db, builder: builder, catalog: catalog}
}

// holdBuilds makes builds wait until the returned function is called.
func (ts *testServer) holdBuilds() (release func()) {
	hold := make(chan struct{})
	ts.builder.mu.Lock()
	ts.builder.hold = hold
	ts.builder.mu.Unlock()
	var once sync.Once
	release = func() { once.Do(func() { close(hold) }) }
	ts.t.Cleanup(release)
	return release
}

type answer struct {
	status int
	header http.Header
	raw    []byte
	json   map[string]any
}

func (ts *testServer) do(method, path, body string) answer {
	ts.t.Helper()
	req, err := http.NewRequest(method, ts.base+path, strings.NewReader(body))
	if err != nil {
		ts.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		ts.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		ts.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, raw: raw}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && method != http.MethodHead {
		if err := json.Unmarshal(raw, &a.json); err != nil && raw[0] != '[' {
			ts.t.Fatalf("%s %s: %v in %.200s", method, path, err, raw)
		}
	}
	return a
}

func (ts *testServer) post(body string) answer { return ts.do(http.MethodPost, "/api/v1/build", body) }
func (ts *testServer) get(path string) answer  { return ts.do(http.MethodGet, path, "") }

// plainBody is a request that the stub catalogue knows.
func plainBody(packages ...string) string {
	list, _ := json.Marshal(packages)
	return `{"version":"24.10.4","target":"ath79/generic","profile":"tplink_archer-c7-v5","packages":` + string(list) + `}`
}

// await polls until the build has an outcome.
func (ts *testServer) await(hash string) answer {
	ts.t.Helper()
	for range 2000 {
		a := ts.get("/api/v1/build/" + hash)
		if a.status != http.StatusAccepted {
			return a
		}
		time.Sleep(5 * time.Millisecond)
	}
	ts.t.Fatal("the build does not end")
	return answer{}
}

func (a answer) hash() string { h, _ := a.json["request_hash"].(string); return h }

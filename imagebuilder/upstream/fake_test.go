package upstream

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"attendant/imagebuilder"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(samples); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// tree is an upstream's files by their paths.
type tree map[string]string

// fake is an upstream that can be made to misbehave.
type fake struct {
	*httptest.Server
	mu    sync.Mutex
	files tree
	hits  map[string]int // 200 and 206 replies by path
	asked int            // requests of any kind
	// wrong, if set, may answer instead: true if it did.
	wrong func(w http.ResponseWriter, r *http.Request, content string) bool
}

func newFake(t testing.TB, files tree) *fake {
	t.Helper()
	f := &fake{files: files, hits: map[string]int{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// ServeHTTP implements http.Handler.
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	f.mu.Lock()
	content, ok := f.files[path]
	wrong := f.wrong
	f.asked++
	f.mu.Unlock()
	if wrong != nil && wrong(w, r, content) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"`+hexSum([]byte(content))[:16]+`"`)
	counted := &statusWriter{ResponseWriter: w}
	http.ServeContent(counted, r, "", time.Time{}, strings.NewReader(content))
	if counted.status == http.StatusOK || counted.status == http.StatusPartialContent {
		f.mu.Lock()
		f.hits[path]++
		f.mu.Unlock()
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (f *fake) set(files tree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files = files
}

func (f *fake) misbehave(wrong func(w http.ResponseWriter, r *http.Request, content string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = wrong
}

func (f *fake) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits[path]
}

func (f *fake) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// signer is a usign key pair.
type signer struct {
	id   [8]byte
	priv ed25519.PrivateKey
}

func newSigner(n byte) *signer {
	s := &signer{priv: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))}
	copy(s.id[:], bytes.Repeat([]byte{n}, 8))
	return s
}

func (s *signer) line(payload []byte) string {
	return base64.StdEncoding.EncodeToString(slices.Concat([]byte("Ed"), s.id[:], payload)) + "\n"
}

func (s *signer) public() []byte {
	return []byte("untrusted comment: a test's key\n" + s.line(s.priv.Public().(ed25519.PublicKey)))
}

func (s *signer) sign(data string) string {
	return "untrusted comment: signed by a test's key\n" + s.line(ed25519.Sign(s.priv, []byte(data)))
}

const (
	testVersion = "24.10.1"
	testTarget  = "ath79/generic"
	testArch    = "mips_24kc"
	testBase    = "releases/24.10.1/targets/ath79/generic/"
)

func profilesJSON(target, revision string) string {
	return fmt.Sprintf(`{"arch_packages":"mips_24kc","default_packages":["base-files","kmod-ath9k"],"metadata_version":1,
"linux_kernel":{"version":"6.6.68","release":"1","vermagic":"abc123"},
"profiles":{"tplink_archer-c7-v5":{"device_packages":["kmod-usb2","-ppp"],"image_prefix":"openwrt-24.10.1-ath79-generic-tplink_archer-c7-v5",
"images":[],"supported_devices":["tplink,archer-c7-v5","shared,name"],"titles":[{"vendor":"TP-Link","model":"Archer C7","variant":"v5"}]},
"8dev_carambola2":{"supported_devices":["8dev,carambola2","carambola2","shared,name"],"titles":[{"title":"8devices Carambola2"}]}},
"source_date_epoch":1738624177,"target":%q,"version_code":%q,"version_number":"24.10.1"}`, target, revision)
}

// generationFiles are one target's folder, told apart from others by revision.
func generationFiles(revision string, archive string, key *signer) tree {
	const kmods = "kmods/6.6.68-1-abc123/"
	files := tree{
		"profiles.json":         profilesJSON(testTarget, revision),
		"packages/Packages":     "Package: base-files\nVersion: " + revision + "\nArchitecture: mips_24kc\n\nPackage: libubox7\nVersion: 1-r1\nABIVersion: 7\nArchitecture: mips_24kc\n",
		kmods + "Packages":      "Package: kmod-ath9k\nVersion: 6.6.68-r1\nArchitecture: mips_24kc\n",
		"version.buildinfo":     revision + "\n",
		builderFile(testTarget): archive,
	}
	var sums strings.Builder
	for _, name := range sortedKeys(files) {
		fmt.Fprintf(&sums, "%s *%s\n", hexSum([]byte(files[name])), name)
	}
	files["sha256sums"] = sums.String()
	if key != nil {
		files["sha256sums.sig"] = key.sign(sums.String())
	}
	return files
}

func builderFile(target string) string {
	return "openwrt-imagebuilder-24.10.1-" + strings.ReplaceAll(target, "/", "-") + ".Linux-x86_64.tar.zst"
}

// sampleTree is an upstream with one release of one target.
func sampleTree(revision, archive string, key *signer) tree {
	files := tree{
		".versions.json":                                      `{"stable_version":"24.10.1","oldstable_version":"","upcoming_version":"","versions_list":["24.10.1"]}`,
		"releases/24.10.1/.targets.json":                      `{"ath79/generic":"mips_24kc"}`,
		"releases/24.10.1/packages/mips_24kc/feeds.conf":      "src-git base x\nsrc-git luci https://example/luci;v\n# nothing\n",
		"releases/24.10.1/packages/mips_24kc/base/Packages":   "Package: tmux\nVersion: 3.4-r1\nArchitecture: mips_24kc\n",
		"releases/24.10.1/packages/mips_24kc/luci/index.json": `{"version":2,"architecture":"mips_24kc","packages":{"luci":"26.1"}}`,
	}
	for name, content := range generationFiles(revision, archive, key) {
		files[testBase+name] = content
	}
	return files
}

func (t tree) with(changes tree) tree {
	files := maps.Clone(t)
	for name, content := range changes {
		if content == "" {
			delete(files, name)
			continue
		}
		files[name] = content
	}
	return files
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// openTest opens an upstream that does not dawdle.
func openTest(t testing.TB, o Options, d ...disk) *Upstream {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.RequestWait == 0 {
		o.RequestWait = 20 * time.Second // of what is expected to come
	}
	o.HostArch = "x86_64"
	use := realDisk()
	if len(d) > 0 {
		use = d[0]
	}
	u, err := open(o, use)
	if err != nil {
		t.Fatal(err)
	}
	u.retryPause = time.Millisecond
	t.Cleanup(func() {
		u.Close()
		if err := removeTree(filepath.Join(o.Dir, "builders")); err != nil { // t.TempDir cannot remove what is sealed
			t.Error(err)
		}
	})
	return u
}

func mustTarget(t testing.TB, u *Upstream) *Target {
	t.Helper()
	target, err := u.Target(t.Context(), testVersion, testTarget)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// renewTarget asks upstream for the test's target and its feeds now.
func renewTarget(t testing.TB, u *Upstream) error {
	t.Helper()
	_, _, err := u.archDocument(testVersion, "releases/24.10.1", testArch).fresh(t.Context(), true)
	if err != nil {
		return err
	}
	if err := u.refreshTarget(t.Context(), testVersion, testTarget); err != nil {
		return err
	}
	d, _, _, err := u.coreFor(t.Context(), testVersion, testTarget)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func wantCode(t testing.TB, err error, code imagebuilder.Code, sentence string) {
	t.Helper()
	e := imagebuilder.AsError(err)
	if err == nil || e.Code != code || !strings.Contains(e.Detail, sentence) {
		t.Fatalf("error %v; want code %s with %q", err, code, sentence)
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode[T any](t testing.TB, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// entry is one entry of a tar archive.
type entry struct {
	name, body, link string
	kind             byte
	mode             int64
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, ModTime: time.Unix(1700000000, 0)}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(e.body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

const topName = "openwrt-imagebuilder-24.10.1-ath79-generic.Linux-x86_64"

// builderArchive is a small ImageBuilder, with size bytes of padding that do
// not compress.
func builderArchive(t testing.TB, size int) string {
	t.Helper()
	pad := make([]byte, size)
	x := uint32(1)
	for i := range pad {
		x = x*1664525 + 1013904223
		pad[i] = byte(x >> 24)
	}
	return string(zst(t, tarOf(t,
		entry{name: topName + "/", kind: tar.TypeDir, mode: 0o755},
		entry{name: topName + "/Makefile", body: "info:\n\techo hello\n"},
		entry{name: topName + "/repositories.conf", body: "src/gz base https://example\n"},
		entry{name: topName + "/scripts/", kind: tar.TypeDir, mode: 0o755},
		entry{name: topName + "/scripts/run.sh", body: "#!/bin/sh\n", mode: 0o4755},
		entry{name: topName + "/staging_dir/host/bin/awk", kind: tar.TypeSymlink, link: "/usr/bin/awk"},
		entry{name: topName + "/staging_dir/host/bin/sh", kind: tar.TypeSymlink, link: "../../../scripts/run.sh"},
		entry{name: topName + "/copy", kind: tar.TypeLink, link: topName + "/Makefile"},
		entry{name: topName + "/pad", body: string(pad)},
	)))
}

// errNoSpaceForTest is what a full disk says.
var errNoSpaceForTest = syscall.ENOSPC

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"attendant/imagebuilder/sample"
	"attendant/imagebuilder/sandbox"
)

// beAttendant makes the test's own binary behave as attendant: real processes
// for the tests that kill them, under the race detector like everything else.
const beAttendant = "BE_ATTENDANT"

func TestMain(m *testing.M) {
	sandbox.Init()
	if os.Getenv(beAttendant) != "" {
		os.Unsetenv(beAttendant)
		main()
	}
	code := m.Run()
	for _, dir := range samples.dirs {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// attendantProcess is a running server process.
type attendantProcess struct {
	cmd  *exec.Cmd
	base string
	out  *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// freeAddress returns an address that nobody listens on just now.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startProcess starts "attendant serve" and waits until it answers.
func startProcess(t testing.TB, addr, data string, args ...string) *attendantProcess {
	t.Helper()
	p := &attendantProcess{base: "http://" + addr, out: &syncBuffer{}}
	p.cmd = exec.Command("/proc/self/exe", append([]string{"serve", "--listen", addr, "--data", data}, args...)...)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), beAttendant + "=1", "TMPDIR=" + os.TempDir()}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		resp, err := http.Get(p.base + "/healthz")
		if err == nil {
			resp.Body.Close()
			return p
		}
		if p.cmd.ProcessState != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.kill()
	t.Fatalf("attendant does not answer:\n%s", p.out)
	return nil
}

// kill ends the process as a power cut does.
func (p *attendantProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// stop asks the process to end and returns its exit code.
func (p *attendantProcess) stop(t testing.TB) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

var samples struct {
	sync.Mutex
	dirs map[sample.Options]string
}

// sampleTree is the sample distribution, written once for all tests, which
// change nothing in it.
func sampleTree(t testing.TB, o sample.Options) string {
	t.Helper()
	samples.Lock()
	defer samples.Unlock()
	if dir := samples.dirs[o]; dir != "" {
		return dir
	}
	dir, err := os.MkdirTemp("", "attendant-test-sample-")
	if err != nil {
		t.Fatal(err)
	}
	if err := sample.Write(dir, o); err != nil {
		t.Fatal(err)
	}
	if samples.dirs == nil {
		samples.dirs = map[sample.Options]string{}
	}
	samples.dirs[o] = dir
	return dir
}

// sampleUpstream serves the sample distribution; it ends with the test.
func sampleUpstream(t testing.TB, slow time.Duration) string {
	t.Helper()
	srv := httptest.NewServer(http.FileServer(http.Dir(sampleTree(t, sample.Options{Slow: slow}))))
	t.Cleanup(srv.Close)
	return srv.URL
}

// apiImage is one image of a reply.
type apiImage struct {
	Name, Type, Filesystem, SHA256 string
	Size                           int64
}

type apiReply struct {
	HTTP        int
	Status      int               `json:"status"`
	Detail      string            `json:"detail"`
	Code        string            `json:"code"`
	Stage       string            `json:"stage"`
	RequestHash string            `json:"request_hash"`
	BinDir      string            `json:"bin_dir"`
	Images      []apiImage        `json:"images"`
	Manifest    map[string]string `json:"manifest"`
	BuildCmd    []string          `json:"build_cmd"`

	Replacements map[string][]string `json:"replacements"`
}

// ask calls the API once.
func ask(method, url, body string) (apiReply, error) {
	var reply apiReply
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return reply, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply, err
	}
	reply.HTTP = resp.StatusCode
	if err := json.Unmarshal(raw, &reply); err != nil {
		return reply, fmt.Errorf("%s %s: %d %.200s: %w", method, url, resp.StatusCode, raw, err)
	}
	return reply, nil
}

// awaitBuild polls until a build has an outcome.
func awaitBuild(t testing.TB, base, hash string) apiReply {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		reply, err := ask(http.MethodGet, base+"/api/v1/build/"+hash, "")
		if err != nil {
			t.Fatal(err)
		}
		if reply.HTTP != http.StatusAccepted {
			return reply
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the build does not end")
	return apiReply{}
}

func buildBody(version, target, profile string, packages ...string) string {
	list, _ := json.Marshal(packages)
	return fmt.Sprintf(`{"version":%q,"target":%q,"profile":%q,"packages":%s}`, version, target, profile, list)
}

// checkImages downloads every image and compares its sum and size.
func checkImages(t testing.TB, base string, reply apiReply) {
	t.Helper()
	if len(reply.Images) == 0 {
		t.Errorf("%s: no images", reply.RequestHash)
	}
	for _, image := range reply.Images {
		sum, size, err := fetchSum(context.Background(), base+"/store/"+reply.BinDir+"/"+image.Name)
		if err != nil || sum != image.SHA256 || size != image.Size {
			t.Errorf("%s: sum %s, size %d, %v; promised %s, %d", image.Name, sum, size, err, image.SHA256, image.Size)
		}
	}
}

// startApplication runs an attendant in this process; it ends with the test.
func startApplication(t testing.TB, upstream string, change func(*Config)) (base string, a *application) {
	t.Helper()
	cfg, err := demoConfig(t.TempDir(), strings.TrimSuffix(upstream, "/upstream"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Upstream = upstream
	if change != nil {
		change(cfg)
	}
	_, key := sample.TrustedKey()
	a, err = newApplication(cfg, newLogger(cfg, io.Discard), extras{trustedKeys: [][]byte{key}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, nil, l, nil) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := a.close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := removeScratch(cfg.Data); err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String(), a
}

func TestRequestBecomesAnImage(t *testing.T) {
	t.Parallel()
	base, _ := startApplication(t, sampleUpstream(t, 0), nil)
	tests := []struct {
		name, body string
		id         string // profile of the result
		types      string // of the images, space-separated, some of them
		has, not   string // packages
	}{
		{"board name with a comma", buildBody("24.10.4", "ath79/generic", "tplink,archer-c7-v5", "luci", "-ppp", "-ppp-mod-pppoe"), "tplink_archer-c7-v5", "sysupgrade factory", "luci", "ppp-mod-pppoe"},
		{"x86 vendor string", buildBody("24.10.4", "x86/64", "To be filled by O.E.M.", "htop"), "generic", "combined combined-efi", "htop", "tmux"},
		{"a library whose ABI suffix has letters", buildBody("24.10.4", "ath79/generic", "tplink_archer-c7-v5", "libustream-wolfssl", "-libustream-mbedtls"), "tplink_archer-c7-v5", "sysupgrade", "libwolfssl", "libustream-mbedtls"},
		{"older release", buildBody("24.10.3", "ath79/generic", "tplink_archer-c7-v5", "tmux"), "tplink_archer-c7-v5", "sysupgrade", "tmux", "luci"},
		{"snapshot by apk", buildBody("SNAPSHOT", "x86/64", "generic", "tmux"), "generic", "combined", "tmux", "luci"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, err := ask(http.MethodPost, base+"/api/v1/build", tt.body)
			if err != nil {
				t.Fatal(err)
			}
			if first.HTTP != 202 {
				t.Fatalf("got %+v", first)
			}
			reply := awaitBuild(t, base, first.RequestHash)
			if reply.HTTP != 200 {
				t.Fatalf("got %+v", reply)
			}
			checkImages(t, base, reply)
			have := map[string]bool{}
			for _, image := range reply.Images {
				have[image.Type] = true
			}
			for want := range strings.FieldsSeq(tt.types) {
				if !have[want] {
					t.Errorf("no %s image among %+v", want, reply.Images)
				}
			}
			if reply.Manifest[tt.has] == "" || reply.Manifest[tt.not] != "" {
				t.Errorf("the manifest: %v", reply.Manifest)
			}
			if want := "PROFILE=" + tt.id; len(reply.BuildCmd) < 3 || reply.BuildCmd[2] != want {
				t.Errorf("built by %q", reply.BuildCmd)
			}
			again, err := ask(http.MethodPost, base+"/api/v1/build", tt.body)
			if err != nil || again.HTTP != 200 || again.RequestHash != first.RequestHash {
				t.Errorf("again: %+v %v", again, err)
			}
		})
	}
}

// A package that was renamed before the release is built under its new name,
// and the client is told; the operator's tables count as well.
func TestRenamedPackagesAreReplaced(t *testing.T) {
	base, _ := startApplication(t, sampleUpstream(t, 0), func(cfg *Config) {
		dir := filepath.Join(cfg.Replacements, "openwrt")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		table := "our-editor: {nano: {default: true}, unconditional: true, source: https://community.example/}\n"
		if err := os.WriteFile(filepath.Join(dir, "24.10.yaml"), []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	first, err := ask(http.MethodPost, base+"/api/v1/build", buildBody("24.10.4", "ath79/generic", "tplink_archer-c7-v5", "auc", "our-editor", "luci-i18n-base-en"))
	if err != nil {
		t.Fatal(err)
	}
	reply := awaitBuild(t, base, first.RequestHash)
	if reply.HTTP != 200 || reply.Manifest["owut"] == "" || reply.Manifest["nano"] == "" {
		t.Fatalf("got %+v", reply)
	}
	want := map[string][]string{"auc": {"owut"}, "our-editor": {"nano"}, "luci-i18n-base-en": {}}
	if diff := cmp.Diff(want, reply.Replacements); diff != "" {
		t.Error(diff)
	}
}

// What clients apply by themselves comes from the replacement tables.
func TestOverviewTellsOfRenamedPackages(t *testing.T) {
	base, _ := startApplication(t, sampleUpstream(t, 0), nil)
	var o struct {
		Branches map[string]struct {
			Changes []struct {
				Source, Target string
				Revision       int
			} `json:"package_changes"`
		}
	}
	if err := json.Unmarshal([]byte(get(t, base+"/json/v1/overview.json")), &o); err != nil {
		t.Fatal(err)
	}
	release, snapshot := o.Branches["24.10"].Changes, o.Branches["SNAPSHOT"].Changes
	if len(release) != 8 || len(snapshot) != 9 || release[0].Source != "firewall" || release[0].Target != "firewall4" || release[0].Revision != 18611 {
		t.Errorf("24.10: %+v, snapshots: %+v", release, snapshot)
	}
}

func TestImpossibleRequestsSayWhy(t *testing.T) {
	base, _ := startApplication(t, sampleUpstream(t, 0), nil)
	with := func(more string) string {
		return `{"version":"24.10.4","target":"ath79/generic","profile":"tplink_archer-c7-v5",` + more + `}`
	}
	tests := []struct {
		name, body, code, detail string
	}{
		{"missing package", with(`"packages":["nosuchpackage"]`), "package_missing", "Error: Impossible package selection: missing (nosuchpackage)"},
		{"conflict", with(`"packages":["conflict-b","conflict-a"]`), "package_conflict", "Error: Impossible package selection: conflicts (conflict-a, conflict-b)"},
		{"conflict, the other way round", with(`"packages":["conflict-a","conflict-b","nano"]`), "package_conflict", "Error: Impossible package selection: conflicts (conflict-a, conflict-b)"},
		{"another version", with(`"packages_versions":{"tmux":"0.0"}`), "package_version", "Error: Impossible package selection: tmux version not as requested: 0.0 vs. "},
		{"another revision", with(`"version_code":"r1-abc"`), "wrong_revision", "Error: Received incorrect version r28959-29397011cc (requested r1-abc)"},
		{"too big", `{"version":"24.10.4","target":"ath79/generic","profile":"comfast_cf-e314n-v2","packages":["bigpkg"]}`, "image_too_big", "Error: Selected packages exceed device storage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, err := ask(http.MethodPost, base+"/api/v1/build", tt.body)
			if err != nil {
				t.Fatal(err)
			}
			reply := awaitBuild(t, base, first.RequestHash)
			if reply.HTTP != 500 || reply.Status != 500 || reply.Code != tt.code || !strings.HasPrefix(reply.Detail, tt.detail) || reply.RequestHash == "" {
				t.Errorf("got %+v", reply)
			}
			if strings.Contains(reply.Detail, os.TempDir()) {
				t.Errorf("the sentence names a path of the server: %s", reply.Detail)
			}
		})
	}
}

// A restart needs no upstream, and what was built before is there at once.
func TestRestartWithoutUpstream(t *testing.T) {
	t.Parallel()
	tree := httptest.NewServer(http.FileServer(http.Dir(sampleTree(t, sample.Options{}))))
	data, addr := t.TempDir(), freeAddress(t)
	t.Cleanup(func() { _ = removeScratch(data) })
	p := startProcess(t, addr, data, "--upstream", tree.URL)
	body := buildBody("24.10.4", "x86/64", "generic", "htop")
	first, err := ask(http.MethodPost, p.base+"/api/v1/build", body)
	if err != nil {
		t.Fatal(err)
	}
	if reply := awaitBuild(t, p.base, first.RequestHash); reply.HTTP != 200 {
		t.Fatalf("got %+v", reply)
	}
	if reply := await(t, p.base, buildBody("24.10.4", "x86/64", "generic", "tmux")); reply.HTTP != 200 {
		t.Fatalf("got %+v", reply)
	}
	before := get(t, p.base+"/json/v1/releases/24.10.4/packages/x86_64-index.json")
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	tree.Close()

	p = startProcess(t, addr, data, "--upstream", tree.URL)
	defer p.kill()
	again, err := ask(http.MethodPost, p.base+"/api/v1/build", body)
	if err != nil || again.HTTP != 200 || again.RequestHash != first.RequestHash {
		t.Fatalf("after the restart: %+v %v\n%s", again, err, p.out)
	}
	checkImages(t, p.base, again)
	if fresh := await(t, p.base, buildBody("24.10.4", "x86/64", "generic", "htop", "tmux")); fresh.HTTP != 200 {
		t.Errorf("a new image of packages that are kept: %+v\n%s", fresh, p.out)
	}
	if unknown := await(t, p.base, buildBody("24.10.4", "x86/64", "generic", "nano")); unknown.HTTP != 500 || unknown.Code != "no_network" {
		t.Errorf("an image with a package that is not kept: %+v", unknown)
	}
	if after := get(t, p.base+"/json/v1/releases/24.10.4/packages/x86_64-index.json"); after != before {
		t.Error("the index differs after a restart without upstream")
	}
	if o := get(t, p.base+"/json/v1/overview.json"); !strings.Contains(o, `"24.10.4"`) {
		t.Errorf("overview: %s", o)
	}
}

func get(t testing.TB, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s %s", url, resp.Status, body)
	}
	return string(body)
}

func TestDemoOnce(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := runAttendant(t, []string{"PATH=" + os.Getenv("PATH")}, "demo", "--once", "--listen", "127.0.0.1:0")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, want := range []string{"/store/", "SHA-256 verified", "building_image", "from request to image"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the demo does not show %q:\n%s", want, stdout)
		}
	}
}

func TestOperatorsCommands(t *testing.T) {
	t.Parallel()
	data, addr := t.TempDir(), freeAddress(t)
	t.Cleanup(func() { _ = removeScratch(data) })
	run := func(args ...string) (int, string) {
		code, stdout, stderr := runAttendant(t, []string{"PATH=" + os.Getenv("PATH")}, append(args, "--data", data)...)
		return code, stdout + stderr
	}
	if code, out := run("jobs"); code != 1 || !strings.Contains(out, "no attendant is running") {
		t.Errorf("without a server: %d %s", code, out)
	}
	p := startProcess(t, addr, data, "--upstream", sampleUpstream(t, slowBuild))
	first, err := ask(http.MethodPost, p.base+"/api/v1/build", buildBody("24.10.4", "x86/64", "generic", "nano"))
	if err != nil {
		t.Fatal(err)
	}
	if code, out := run("jobs"); code != 0 || !strings.Contains(out, first.RequestHash) {
		t.Errorf("jobs: %d %s", code, out)
	}
	if code, out := run("cancel", first.RequestHash); code != 0 || !strings.Contains(out, "being ended") {
		t.Errorf("cancel: %d %s", code, out)
	}
	if reply := awaitBuild(t, p.base, first.RequestHash); reply.Code != "canceled" {
		t.Errorf("got %+v", reply)
	}
	if code, out := run("db", "check"); code != 0 || !strings.Contains(out, "in order") {
		t.Errorf("db check while running: %d %s", code, out)
	}
	to := t.TempDir()
	if code, out := run("backup", to); code != 0 {
		t.Errorf("backup: %d %s", code, out)
	}
	if copies, _ := filepath.Glob(filepath.Join(to, "attendant-*.db")); len(copies) != 1 {
		t.Errorf("copies: %v", copies)
	}
	if code, out := runSecond(t, data, freeAddress(t)); code != 1 || !strings.Contains(out, "another attendant is using") {
		t.Errorf("a second server on the data: %d %s", code, out)
	}
	p.stop(t)
	if code, out := run("db", "check"); code != 0 || !strings.Contains(out, "in order") {
		t.Errorf("db check: %d %s", code, out)
	}
}

func runSecond(t *testing.T, data, addr string) (int, string) {
	t.Helper()
	code, stdout, stderr := runAttendant(t, []string{"PATH=" + os.Getenv("PATH")}, "serve", "--data", data, "--listen", addr)
	return code, stdout + stderr
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

var testHash = strings.Repeat("ab", 32)

// fakeServer answers as contract/clients.md has it, by a script: each request
// to the build API takes the next answer, the last one stays.
type fakeServer struct {
	*httptest.Server
	answers  []http.HandlerFunc
	store    http.HandlerFunc
	mu       sync.Mutex
	asked    []string // "POST /api/v1/build"
	posted   []string // bodies
	ranges   []string // of downloads
	waits    []time.Duration
	onAnswer func(n int)
}

func newFakeServer(t *testing.T, answers ...http.HandlerFunc) *fakeServer {
	s := &fakeServer{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *fakeServer) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	if strings.HasPrefix(r.URL.Path, "/store/") {
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		s.mu.Unlock()
		s.store(w, r)
		return
	}
	s.asked = append(s.asked, r.Method+" "+r.URL.Path)
	if r.Method == http.MethodPost {
		s.posted = append(s.posted, string(body))
	}
	n := len(s.asked)
	answer := s.answers[min(n, len(s.answers))-1]
	s.mu.Unlock()
	if s.onAnswer != nil {
		s.onAnswer(n)
	}
	answer(w, r)
}

// answer is a JSON reply; its status is the HTTP status.
func answer(code int, fields map[string]any, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		reply := map[string]any{"status": code, "request_hash": testHash}
		for k, v := range fields {
			reply[k] = v
		}
		data, err := json.Marshal(reply)
		if err != nil {
			panic(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.WriteHeader(code)
		w.Write(data)
	}
}

// plain is a reply of something that is not the server.
func plain(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, code) }
}

// hangUp ends the connection without an answer.
func hangUp(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

func queued(position int, wait float64) http.HandlerFunc {
	return answer(202, map[string]any{"detail": "queued", "queue_position": position, "expected_wait_seconds": wait})
}

func building(stage string) http.HandlerFunc {
	return answer(202, map[string]any{"detail": "started", "imagebuilder_status": stage})
}

const testImage = "openwrt-24.10.4-abababababab-ath79-generic-tplink_archer-c7-v5-squashfs-sysupgrade.bin"

var testContent = bytes.Repeat([]byte("firmware "), 40000)

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func done(images ...imagebuilder.Image) http.HandlerFunc {
	if len(images) == 0 {
		images = []imagebuilder.Image{
			{Name: "factory.bin", Type: "factory", Filesystem: "squashfs", SHA256: sumOf(nil)},
			{Name: testImage, Type: "sysupgrade", Filesystem: "squashfs", SHA256: sumOf(testContent), Size: int64(len(testContent))},
		}
	}
	return answer(200, map[string]any{"detail": "done", "bin_dir": testHash, "images": images, "version_code": "r1-abc"})
}

// serveContent serves data as any good file server does.
func serveContent(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(data))
	}
}

// fetchImage runs the build command against a server. Nothing really waits.
func (s *fakeServer) fetchImage(t *testing.T, ctx context.Context, terminal bool, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	line := newCommandLine()
	parser, err := kong.New(line)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"build"}, args...)); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	p := &program{ctx: ctx, stdout: &out, stderr: &errs}
	client := newImageClient(s.URL, &screen{out: &errs, terminal: terminal})
	client.http.Transport.(*http.Transport).DisableKeepAlives = true
	client.stall = 200 * time.Millisecond
	client.agent = "attendant/test"
	client.wait = func(ctx context.Context, d time.Duration) error {
		s.mu.Lock()
		s.waits = append(s.waits, d)
		s.mu.Unlock()
		return ctx.Err()
	}
	if err := line.Build.fetch(p, client); err != nil {
		code = p.fail(err)
	}
	return code, out.String(), errs.String()
}

var archer = []string{"--version", "24.10.4", "--target", "ath79/generic", "--profile", "tplink_archer-c7-v5"}

func with(args []string, more ...string) []string { return append(slices.Clone(args), more...) }

func TestBuildFromRequestToFile(t *testing.T) {
	s := newFakeServer(t, queued(3, 240), queued(3, 200), queued(1, 30), building("init"),
		answer(202, map[string]any{"imagebuilder_status": "building_image", "expected_wait_seconds": 75}), done())
	s.store = serveContent(testContent)
	dir := t.TempDir()
	code, out, errs := s.fetchImage(t, t.Context(), false, with(archer, "--packages", "luci -ppp", "-o", dir)...)
	if code != exitOK {
		t.Fatalf("code %d: %s", code, errs)
	}
	path := filepath.Join(dir, testImage)
	if want := fmt.Sprintf("%s  %d bytes  sha256 %s\n", path, len(testContent), sumOf(testContent)); out != want {
		t.Errorf("stdout %q, want %q", out, want)
	}
	want := `in the queue, position 3, expected wait 4 min
in the queue, position 1, expected wait 30 s
starting
building the image, about 75 s to go
downloading ` + testImage + ` (360 kB)
`
	if diff := cmp.Diff(want, errs); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, testContent) {
		t.Errorf("the file has %d bytes, %v", len(got), err)
	}
	onlyFile(t, dir, testImage)
	status := "GET /api/v1/build/" + testHash
	if diff := cmp.Diff([]string{"POST /api/v1/build", status, status, status, status, status}, s.asked); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if !slices.Equal(s.waits, slices.Repeat([]time.Duration{2 * time.Second}, 5)) {
		t.Errorf("it waited %v", s.waits)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(s.posted[0]), &body); err != nil {
		t.Fatal(err)
	}
	delete(body, "client")
	wantBody := map[string]any{
		"version": "24.10.4", "target": "ath79/generic", "profile": "tplink_archer-c7-v5", "packages": []any{"luci", "-ppp"}, "diff_packages": false,
	}
	if diff := cmp.Diff(wantBody, body); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	// Once more: the image is there, nothing is downloaded.
	code, out2, errs := s.fetchImage(t, t.Context(), false, with(archer, "-o", dir)...)
	if code != exitOK || out2 != out || len(s.ranges) != 1 || !strings.Contains(errs, "is here already") {
		t.Errorf("again: code %d, %d downloads, %s", code, len(s.ranges), errs)
	}
}

// onlyFile checks that a folder holds one file, or none if name is "".
func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if name == "" && len(got) == 0 || len(got) == 1 && got[0] == name {
		return
	}
	t.Errorf("the folder holds %q, want only %q", got, name)
}

func TestBuildWaitsTroubleOut(t *testing.T) {
	status := "GET /api/v1/build/" + testHash
	for _, tt := range []struct {
		name    string
		answers []http.HandlerFunc
		asked   []string
		waits   []time.Duration
		says    string
	}{
		{
			"a full queue",
			[]http.HandlerFunc{answer(503, map[string]any{"detail": "The queue is full.", "request_hash": ""}, "Retry-After", "7"), building("init"), done()},
			[]string{"POST /api/v1/build", "POST /api/v1/build", status},
			[]time.Duration{7 * time.Second, 2 * time.Second},
			"The queue is full. Trying again in 7s.",
		},
		{
			"a senseless Retry-After",
			[]http.HandlerFunc{answer(429, map[string]any{"request_hash": ""}, "Retry-After", "999999"), answer(503, nil, "Retry-After", "soon"), done()},
			[]string{"POST /api/v1/build", "POST /api/v1/build", status},
			[]time.Duration{300 * time.Second, 5 * time.Second},
			"The server is busy.",
		},
		{
			"a lost POST",
			[]http.HandlerFunc{hangUp, plain(502, "bad gateway"), done()},
			[]string{"POST /api/v1/build", "POST /api/v1/build", "POST /api/v1/build"},
			[]time.Duration{time.Second, 2 * time.Second},
			"no answer from the server, trying again",
		},
		{
			"a restart of the server",
			[]http.HandlerFunc{building("init"), hangUp, plain(502, "<html>"), plain(504, ""), queued(1, 0), building("building_image"), done()},
			[]string{"POST /api/v1/build", status, status, status, status, status, status},
			[]time.Duration{2 * time.Second, time.Second, 2 * time.Second, 4 * time.Second, 2 * time.Second, 2 * time.Second},
			"building the image",
		},
		{
			"a server that forgot",
			[]http.HandlerFunc{building("init"), answer(404, map[string]any{"detail": "not found"}), building("init"), done()},
			[]string{"POST /api/v1/build", status, "POST /api/v1/build", status},
			[]time.Duration{2 * time.Second, 2 * time.Second, 2 * time.Second},
			"sending it again",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, tt.answers...)
			s.store = serveContent(testContent)
			code, _, errs := s.fetchImage(t, t.Context(), false, with(archer, "-o", t.TempDir())...)
			if code != exitOK || !strings.Contains(errs, tt.says) {
				t.Errorf("code %d, stderr:\n%s", code, errs)
			}
			if diff := cmp.Diff(tt.asked, s.asked); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.waits, s.waits); diff != "" {
				t.Errorf("waits (-want +got):\n%s", diff)
			}
			for _, body := range s.posted {
				if body != s.posted[0] {
					t.Errorf("repeated differently: %s", body)
				}
			}
		})
	}
}

func TestBuildFailures(t *testing.T) {
	impossible := answer(500, map[string]any{
		"detail": "Error: Impossible package selection: missing (\x1b[31mnope)", "stderr": strings.Repeat("opkg line\n", 100) + "Unknown package 'nope'.\x1b[2J\n",
	})
	forgets := make([]http.HandlerFunc, 0)
	for range maxForgotten + 1 {
		forgets = append(forgets, building("init"), answer(404, map[string]any{"detail": "Build request not found."}))
	}
	for _, tt := range []struct {
		name    string
		answers []http.HandlerFunc
		args    []string
		says    []string
		asked   int
	}{
		{"at once", []http.HandlerFunc{impossible}, nil, []string{"attendant: Error: Impossible package selection: missing ([31mnope)\n", "(-v shows"}, 1},
		{"later, verbose", []http.HandlerFunc{building("init"), impossible}, []string{"-v"}, []string{"\n  …\n  opkg line", "  Unknown package 'nope'.[2J\n", "attendant: Error: Impossible"}, 2},
		{"refused", []http.HandlerFunc{answer(400, map[string]any{"detail": "Unsupported profile: x."})}, nil, []string{"attendant: Unsupported profile: x.\n"}, 1},
		{"no sentence", []http.HandlerFunc{answer(422, nil)}, nil, []string{"attendant: The server answered 422.\n"}, 1},
		{"another kind of server", []http.HandlerFunc{plain(404, "nginx")}, nil, []string{"The server answered 404 Not Found to POST /api/v1/build."}, 1},
		{"a page", []http.HandlerFunc{plain(200, "<html>")}, nil, []string{"is no attended-sysupgrade server"}, 1},
		{"no hash", []http.HandlerFunc{answer(202, map[string]any{"request_hash": ""})}, nil, []string{"without a request_hash"}, 1},
		{"forgets for ever", forgets, nil, []string{"Build request not found."}, 2*maxForgotten + 2},
		{"never there", []http.HandlerFunc{hangUp}, nil, []string{"gave up after 15s: no answer from the server: "}, 5},
		{"gone", []http.HandlerFunc{building("init"), hangUp}, nil, []string{"gave up after 15m: ", "--resume " + testHash}, 35},
		{"no sum", []http.HandlerFunc{done(imagebuilder.Image{Name: "a.bin", Type: "sysupgrade"})}, nil, []string{"no SHA-256"}, 1},
		{"no image", []http.HandlerFunc{done(imagebuilder.Image{Name: "a.bin", Type: "kernel", Filesystem: "ext4"})}, nil, []string{"a.bin (ext4 kernel)", "--all"}, 1},
		{"a name that is a path", []http.HandlerFunc{done(imagebuilder.Image{Name: "../a.bin", Type: "sysupgrade", SHA256: testHash})}, nil, []string{`"../a.bin", which is no file name`}, 1},
		{"a folder elsewhere", []http.HandlerFunc{answer(200, map[string]any{"bin_dir": "../x", "images": []any{map[string]any{"name": "a", "type": "sysupgrade", "sha256": testHash}}})}, nil, []string{"no folder of its store"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, tt.answers...)
			dir := t.TempDir()
			code, out, errs := s.fetchImage(t, t.Context(), false, with(with(archer, "-o", dir), tt.args...)...)
			if code != exitFailure || out != "" {
				t.Errorf("code %d, stdout %q", code, out)
			}
			for _, want := range tt.says {
				if !strings.Contains(errs, want) {
					t.Errorf("%q is not in:\n%s", want, errs)
				}
			}
			s.Close() // waits for its handlers
			if len(s.asked) != tt.asked {
				t.Errorf("%d requests, want %d", len(s.asked), tt.asked)
			}
			onlyFile(t, dir, "")
		})
	}
}

func TestBuildRedirects(t *testing.T) {
	s := newFakeServer(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example/api/v1/build", http.StatusMovedPermanently)
	})
	code, _, errs := s.fetchImage(t, t.Context(), false, archer...)
	if code != exitFailure || !strings.Contains(errs, "leads to https://elsewhere.example/api/v1/build, which loses the request; use that address") {
		t.Errorf("code %d: %s", code, errs)
	}
}

func TestDownloadResumesAndVerifies(t *testing.T) {
	half := len(testContent) / 2
	partial := testImage + "." + sumOf(testContent)[:8] + ".part"
	cutOff := func(w http.ResponseWriter, r *http.Request) { // sends a third of what is missing
		w.Header().Set("Content-Length", fmt.Sprint(len(testContent)))
		w.Write(testContent[:len(testContent)/3])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	stall := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(testContent)))
		w.Write(testContent[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	good, bad := serveContent(testContent), serveContent(bytes.Repeat([]byte("x"), len(testContent)))
	whole := func(w http.ResponseWriter, _ *http.Request) { w.Write(testContent) }
	third := fmt.Sprintf("bytes=%d-", len(testContent)/3)
	halfRange := fmt.Sprintf("bytes=%d-", half)
	for _, tt := range []struct {
		name    string
		partial []byte
		store   []http.HandlerFunc
		ranges  []string
		fails   string
		left    string
	}{
		{"whole", nil, []http.HandlerFunc{good}, []string{""}, "", ""},
		{"broken off", nil, []http.HandlerFunc{cutOff, good}, []string{"", third}, "", ""},
		{"stalled", nil, []http.HandlerFunc{stall, good}, []string{"", halfRange}, "", ""},
		{"server restarts", nil, []http.HandlerFunc{cutOff, hangUp, plain(502, ""), answer(503, nil), good}, []string{"", third, third, third, third}, "", ""},
		{"begun before", testContent[:half], []http.HandlerFunc{good}, []string{halfRange}, "", ""},
		{"whole but without its name", testContent, []http.HandlerFunc{good}, []string{fmt.Sprintf("bytes=%d-", len(testContent))}, "", ""},
		{"server without ranges", testContent[:half], []http.HandlerFunc{whole}, []string{halfRange}, "", ""},
		{"begun with something else", bytes.Repeat([]byte("y"), half), []http.HandlerFunc{good}, []string{halfRange, ""}, "", ""},
		{"damaged once", nil, []http.HandlerFunc{bad, good}, []string{"", ""}, "", ""},
		{"damaged always", nil, []http.HandlerFunc{bad}, []string{"", ""}, "wrong SHA-256: it is ", ""},
		{"another part than asked for", testContent[:half], []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 7-8/9")
			w.WriteHeader(http.StatusPartialContent)
		}, good}, []string{halfRange, ""}, "", ""},
		{"more than announced", nil, []http.HandlerFunc{serveContent(append(testContent, 'x'))}, []string{""}, "more of " + testImage + " than the ", ""},
		{"gone", testContent[:half], []http.HandlerFunc{answer(404, nil)}, []string{halfRange}, "any more", partial},
		{"forbidden", nil, []http.HandlerFunc{answer(403, nil)}, []string{""}, "403 Forbidden", partial},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, done())
			n := 0
			s.store = func(w http.ResponseWriter, r *http.Request) {
				s.mu.Lock()
				h := tt.store[min(n, len(tt.store)-1)]
				n++
				s.mu.Unlock()
				h(w, r)
			}
			dir := t.TempDir()
			if tt.partial != nil {
				if err := os.WriteFile(filepath.Join(dir, partial), tt.partial, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			code, out, errs := s.fetchImage(t, t.Context(), false, with(archer, "-o", dir)...)
			if !slices.Equal(s.ranges, tt.ranges) {
				t.Errorf("asked for the ranges %q, want %q", s.ranges, tt.ranges)
			}
			if tt.fails != "" {
				if code != exitFailure || !strings.Contains(errs, tt.fails) || out != "" {
					t.Errorf("code %d, stdout %q, stderr:\n%s", code, out, errs)
				}
				onlyFile(t, dir, tt.left)
				return
			}
			if code != exitOK {
				t.Fatalf("code %d:\n%s", code, errs)
			}
			onlyFile(t, dir, testImage)
			if got, err := os.ReadFile(filepath.Join(dir, testImage)); err != nil || !bytes.Equal(got, testContent) {
				t.Errorf("the file is not the image: %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestBuildInterruptedSaysHowToGoOn(t *testing.T) {
	s := newFakeServer(t, building("init"), building("building_image"), done())
	s.store = serveContent(testContent)
	ctx, cancel := context.WithCancel(t.Context())
	s.onAnswer = func(n int) {
		if n == 2 {
			cancel()
		}
	}
	dir := filepath.Join(t.TempDir(), "my images") // made by the command
	code, _, errs := s.fetchImage(t, ctx, false, with(archer, "-o", dir)...)
	want := "attendant build --server " + s.URL + " --resume " + testHash + " -o '" + dir + "'"
	if code != exitFailure || !strings.Contains(errs, "The server goes on.") || !strings.Contains(errs, want) {
		t.Fatalf("code %d, want %q in:\n%s", code, want, errs)
	}
	code, _, errs = s.fetchImage(t, t.Context(), false, "--resume", testHash, "-o", dir)
	if code != exitOK {
		t.Errorf("code %d:\n%s", code, errs)
	}
	onlyFile(t, dir, testImage)
	if len(s.posted) != 1 {
		t.Errorf("%d POSTs", len(s.posted))
	}
}

func TestBuildInterruptedBeforeItBegan(t *testing.T) {
	s := newFakeServer(t, building("init"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, _, errs := s.fetchImage(t, ctx, false, archer...); code != exitFailure || !strings.Contains(errs, "Stopped before the server had accepted the request.") {
		t.Errorf("code %d: %s", code, errs)
	}
}

func TestBuildOnATerminal(t *testing.T) {
	s := newFakeServer(t, queued(2, 0), building("odd_\x1bstage"), done())
	s.store = serveContent(testContent)
	code, _, errs := s.fetchImage(t, t.Context(), true, with(archer, "-o", t.TempDir())...)
	if code != exitOK {
		t.Fatalf("code %d:\n%s", code, errs)
	}
	for _, want := range []string{"\r\x1b[Kin the queue, position 2", "\r\x1b[Kodd stage", "downloading", "100%"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not in %q", want, errs)
		}
	}
}

func TestBuildJSON(t *testing.T) {
	s := newFakeServer(t, done())
	s.store = serveContent(testContent)
	dir := t.TempDir()
	code, out, errs := s.fetchImage(t, t.Context(), false, with(archer, "-o", dir, "--json")...)
	var got struct {
		Hash  string `json:"request_hash"`
		Files []downloaded
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitOK {
		t.Fatalf("code %d, %v: %s%s", code, err, out, errs)
	}
	want := []downloaded{{filepath.Join(dir, testImage), int64(len(testContent)), sumOf(testContent)}}
	if got.Hash != testHash || !slices.Equal(got.Files, want) {
		t.Errorf("got %+v", got)
	}
}

func TestBuildRequest(t *testing.T) {
	dir := t.TempDir()
	script, key := filepath.Join(dir, "script"), filepath.Join(dir, "key")
	for name, content := range map[string]string{script: "uci commit\n", key: "RWQ\n"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := newFakeServer(t, answer(400, nil))
	s.fetchImage(t, t.Context(), false, with(archer, "--packages", "-ppp,luci", "--packages", "curl", "--diff-packages", "--filesystem", "ext4", "--rootfs-size-mb", "256",
		"--defaults", script, "--version-code", "r1-abc", "--repository", "mesh=https://a.example/p", "--repository-mode", "append", "--repository-key", key, "-o", dir)...)
	s.fetchImage(t, t.Context(), false, with(archer, "--packages-versions", "luci=1.2 zlib=1.3.1-r1", "-o", dir)...)
	want := []string{
		`{"version":"24.10.4","version_code":"r1-abc","target":"ath79/generic","profile":"tplink_archer-c7-v5","packages":["-ppp","luci","curl"],"diff_packages":true,"defaults":"uci commit\n","rootfs_size_mb":256,"filesystem":"ext4","repositories":{"mesh":"https://a.example/p"},"repositories_mode":"append","repository_keys":["RWQ"],"client":"C"}`,
		`{"version":"24.10.4","target":"ath79/generic","profile":"tplink_archer-c7-v5","packages_versions":{"luci":"1.2","zlib":"1.3.1-r1"},"diff_packages":false,"client":"C"}`,
	}
	var got []string
	for _, body := range s.posted {
		got = append(got, strings.Replace(body, `"client":"attendant/`+readBuildInfo().Version+`"`, `"client":"C"`, 1))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestBuildUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "missing: --version, --target, --profile"},
		{with(archer, "--packages", "a;b"), exitUsage, `packages: "a;b" is not a package's name`},
		{with(archer, "--packages", "a", "--packages-versions", "a=1"), exitUsage, "exclude one another"},
		{with(archer, "--packages-versions", "a"), exitUsage, `--packages-versions: "a" has no "="`},
		{with(archer, "--filesystem", "btrfs"), exitUsage, `filesystem: "btrfs" is none of squashfs`},
		{with(archer, "--repository", "x=ftp://y"), exitUsage, "is not a plain http or https URL"},
		{with(archer, "--defaults", "/missing/x"), exitFailure, "read the script for the first start"},
		{[]string{"--resume", "../x"}, exitUsage, "--resume: \"../x\" is no request hash"},
		{with(archer, "--server", "ftp://x"), exitUsage, "--server: "},
		{with(archer, "--server", "http://127.0.0.1:1", "-o", "/dev/null"), exitFailure, "/dev/null is no folder"},
	} {
		code, _, errs := runAttendant(t, nil, append([]string{"build"}, tt.args...)...)
		if code != tt.code || !strings.Contains(errs, tt.says) {
			t.Errorf("%q: code %d, %s", tt.args, code, errs)
		}
	}
}

func TestBuildFindsItsServer(t *testing.T) {
	s := newFakeServer(t, done())
	s.store = serveContent(testContent)
	dir := t.TempDir()
	host := strings.TrimPrefix(s.URL, "http://")
	for _, tt := range []struct {
		environ []string
		args    []string
	}{
		{[]string{"ATTENDANT_SERVER=" + s.URL + "/"}, nil},
		{[]string{"ATTENDANT_SERVER=http://wrong.invalid"}, []string{"--server", host}},
	} {
		code, out, errs := runAttendant(t, tt.environ, append(with([]string{"build"}, with(archer, "-o", dir)...), tt.args...)...)
		if code != exitOK || !strings.Contains(out, testImage) {
			t.Errorf("%q %q: code %d, %s", tt.environ, tt.args, code, errs)
		}
	}
}

func TestChooseImages(t *testing.T) {
	image := func(filesystem, kind string) imagebuilder.Image {
		return imagebuilder.Image{Name: strings.TrimPrefix(filesystem+"-"+kind, "-"), Type: kind, Filesystem: filesystem}
	}
	router := []imagebuilder.Image{image("squashfs", "factory"), image("squashfs", "sysupgrade"), image("ext4", "sysupgrade"), image("", "kernel")}
	pc := []imagebuilder.Image{image("ext4", "combined"), image("ext4", "combined-efi"), image("squashfs", "combined"), image("squashfs", "combined-efi"), image("squashfs", "rootfs")}
	for _, tt := range []struct {
		name             string
		images           []imagebuilder.Image
		filesystem, kind string
		all              bool
		want             string
	}{
		{"sysupgrade, squashfs", router, "", "", false, "squashfs-sysupgrade"},
		{"the file system asked for", router, "ext4", "", false, "ext4-sysupgrade"},
		{"a file system that is not there", router, "ubifs", "", false, ""},
		{"the type asked for", router, "", "factory", false, "squashfs-factory"},
		{"all", router, "", "", true, "squashfs-factory squashfs-sysupgrade ext4-sysupgrade kernel"},
		{"all by type", router, "", "all", false, "squashfs-factory squashfs-sysupgrade ext4-sysupgrade kernel"},
		{"a PC", pc, "", "", false, "squashfs-combined squashfs-combined-efi"},
		{"a PC with ext4 and EFI", pc, "ext4", "combined-efi", false, "ext4-combined-efi"},
		{"no squashfs", []imagebuilder.Image{image("ext4", "sdcard"), image("ext4", "rootfs")}, "", "", false, "ext4-sdcard"},
		{"a type of its own", []imagebuilder.Image{image("squashfs", "factory.itb"), image("squashfs", "image")}, "", "", false, "squashfs-image"},
		{"two of these", []imagebuilder.Image{image("squashfs", "image"), image("squashfs", "disk")}, "", "", false, ""},
		{"nothing", nil, "", "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chosen, note, err := chooseImages(tt.images, tt.filesystem, tt.kind, tt.all)
			var names []string
			for _, i := range chosen {
				names = append(names, i.Name)
			}
			if got := strings.Join(names, " "); got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("chose %q, %v; want %q", got, err, tt.want)
			}
			if strings.Contains(note, "EFI") != (tt.name == "a PC") {
				t.Errorf("note %q", note)
			}
		})
	}
}

package sample_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"attendant/imagebuilder/sample"
)

// The tree that the tests share, and where it is served.
var (
	treeDir string
	treeURL string
)

func TestMain(m *testing.M) {
	syscall.Umask(0o022)
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sample")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		defer os.RemoveAll(dir + "-slow")
		server := httptest.NewServer(http.FileServer(http.Dir(dir)))
		defer server.Close()
		treeDir, treeURL = dir, server.URL
		if err := sample.Write(treeDir, sample.Options{BaseURL: treeURL}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// builders are the four that differ.
var builders = []struct {
	name    string
	folder  string // below the tree
	archive string
	apk     bool
}{
	{"opkg-x86", "releases/24.10.4/targets/x86/64", "openwrt-imagebuilder-24.10.4-x86-64.Linux-x86_64", false},
	{"opkg-ath79", "releases/24.10.4/targets/ath79/generic", "openwrt-imagebuilder-24.10.4-ath79-generic.Linux-x86_64", false},
	{"apk-x86", "snapshots/targets/x86/64", "openwrt-imagebuilder-x86-64.Linux-x86_64", true},
	{"apk-ath79", "snapshots/targets/ath79/generic", "openwrt-imagebuilder-ath79-generic.Linux-x86_64", true},
}

// unpack unpacks one of builders from a tree and returns its top folder.
func unpack(t *testing.T, tree, name string) string {
	t.Helper()
	for _, b := range builders {
		if b.name == name {
			return unpackArchive(t, filepath.Join(tree, b.folder, b.archive+".tar.zst"))
		}
	}
	t.Fatalf("no builder %s", name)
	return ""
}

func unpackArchive(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	into := t.TempDir()
	top := strings.TrimSuffix(filepath.Base(archive), ".tar.zst")
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(h.Name, top+"/") || strings.Contains(h.Name, "..") {
			t.Fatalf("%s holds %s", filepath.Base(archive), h.Name)
		}
		name := filepath.Join(into, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, data, os.FileMode(h.Mode))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(into, top)
}

// result is what a run of make left.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// runMake runs make in a builder as a server does: clean environment, own
// process group, file descriptor 8 a copy of stderr.
func runMake(t *testing.T, dir string, args ...string) result {
	t.Helper()
	return runMakeEnv(t, dir, []string{"PATH=" + os.Getenv("PATH")}, true, args...)
}

func runMakeEnv(t *testing.T, dir string, env []string, descriptor8 bool, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", append([]string{"-C", dir, "--no-print-directory"}, args...)...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	errors8, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer errors8.Close()
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, errors8
	if descriptor8 {
		cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, nil, errors8}
	}
	start := time.Now()
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	stderr, err := os.ReadFile(errors8.Name())
	if err != nil {
		t.Fatal(err)
	}
	return result{stdout.String(), string(stderr), cmd.ProcessState.ExitCode(), time.Since(start)}
}

// want fails the test unless the run ended with a code and said these words,
// each in the stream named before it: "out: …" or "err: …".
func (r result) want(t *testing.T, code int, words ...string) {
	t.Helper()
	ok := r.code == code
	for _, w := range words {
		stream, text, _ := strings.Cut(w, ": ")
		in := map[string]string{"out": r.stdout, "err": r.stderr}[stream]
		if !strings.Contains(in, text) {
			ok = false
			t.Errorf("not in std%s: %q", stream, text)
		}
	}
	if !ok {
		t.Fatalf("exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", r.code, code, tail(r.stdout), tail(r.stderr))
	}
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// profilesJSON is what tests read of profiles.json.
type profilesJSON struct {
	ArchPackages    string            `json:"arch_packages"`
	DefaultPackages []string          `json:"default_packages"`
	LinuxKernel     map[string]string `json:"linux_kernel"`
	MetadataVersion int               `json:"metadata_version"`
	SourceDateEpoch int64             `json:"source_date_epoch"`
	Target          string            `json:"target"`
	VersionCode     string            `json:"version_code"`
	VersionNumber   string            `json:"version_number"`
	Profiles        map[string]struct {
		DevicePackages   []string         `json:"device_packages"`
		ImagePrefix      string           `json:"image_prefix"`
		SupportedDevices []string         `json:"supported_devices"`
		FileSizeLimits   map[string]int64 `json:"file_size_limits"`
		Titles           []struct{ Vendor, Model string }
		Images           []struct {
			Name, Type, Filesystem, SHA256 string
			SHA256Unsigned                 string `json:"sha256_unsigned"`
			Size                           int64
		}
	}
}

func readProfiles(t *testing.T, folder string) profilesJSON {
	t.Helper()
	data := read(t, filepath.Join(folder, "profiles.json"))
	var p profilesJSON
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// manifestOf reads "name - version" lines.
func manifestOf(t *testing.T, text string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(text) {
		name, version, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		if !ok || strings.ContainsAny(name+version, " \t") {
			t.Fatalf("no manifest line: %q", line)
		}
		if _, twice := m[name]; twice {
			t.Fatalf("%s stands twice in the manifest", name)
		}
		m[name] = version
	}
	return m
}

package runner

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sample"
	"attendant/imagebuilder/sandbox"
)

// samples is the folder of the sample distribution, written once for all
// tests, which change nothing in it; "" until then. TestMain removes it.
var samples string

// sampleWritten names a folder that has the sample distribution already.
const sampleWritten = "RUNNER_TEST_SAMPLE"

var writeSample = sync.OnceValue(func() (err error) {
	if samples, err = os.MkdirTemp("", "runner-test-sample-"); err != nil {
		return err
	}
	return sample.Write(samples, sample.Options{BaseURL: "https://downloads.sample.example"})
})

// sampleUpstream serves the sample distribution.
func sampleUpstream(t testing.TB) (dir string, server *httptest.Server) {
	t.Helper()
	if dir = os.Getenv(sampleWritten); dir == "" {
		if err := writeSample(); err != nil {
			t.Fatal(err)
		}
		dir = samples
	}
	server = httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return dir, server
}

// unpack unpacks the ImageBuilder of a target's folder.
func unpack(t testing.TB, target string) string {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(target, "openwrt-imagebuilder-*.tar.zst"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("archives in %s: %v, %v", target, archives, err)
	}
	f, err := os.Open(archives[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	dir := t.TempDir()
	top := ""
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		top, _, _ = strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		case tar.TypeReg:
			if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				var data []byte
				if data, err = io.ReadAll(r); err == nil {
					err = os.WriteFile(path, data, h.FileInfo().Mode().Perm())
				}
			}
		}
		if err == nil && h.Typeflag == tar.TypeReg {
			err = os.Chtimes(path, h.ModTime, h.ModTime)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, top)
}

func TestSampleBuilders(t *testing.T) {
	dir, server := sampleUpstream(t)
	type failure struct {
		profile  string
		packages string
		size     int
		code     imagebuilder.Code
		detail   string
	}
	tests := []struct {
		path, profile string
		failures      []failure
	}{
		{"releases/24.10.4/targets/x86/64", "generic", []failure{
			{"generic", "failing-postinst", 0, imagebuilder.CodePackageScript, "Error: Error while building firmware. See stdout/stderr. The install script of failing-postinst failed"},
			{"generic", "bigpkg", 8, imagebuilder.CodeImageTooBig, "Error: Selected packages exceed device storage. They do not fit into the root partition"},
		}},
		{"releases/24.10.4/targets/ath79/generic", "tplink_archer-c7-v5", []failure{
			{"comfast_cf-e314n-v2", "bigpkg", 0, imagebuilder.CodeImageTooBig, "Error: Selected packages exceed device storage: the image has "},
		}},
		{"snapshots/targets/x86/64", "generic", []failure{
			{"generic", "no-such-package cowsay", 0, imagebuilder.CodePackageMissing, "Error: Impossible package selection: missing (no-such-package)"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			builder := unpack(t, filepath.Join(dir, tt.path))
			r := newRunner(t, Options{Builders: theBuilder(builder), UpstreamURL: server.URL})
			if err := r.Prepare(t.Context(), builder); err != nil {
				t.Fatal(err)
			}
			shareReadOnly(t, builder)
			req := request(tt.profile, "cowsay")
			req.Defaults = ptr("echo hello\n")
			built, err := r.Build(t.Context(), job(req), newWitness())
			if err != nil {
				e := asError(t, err)
				t.Fatalf("%v\n%s\n%s", e, e.Stdout, e.Stderr)
			}
			set := built.Set
			if len(set.Images) == 0 || len(set.Files) < len(set.Images)+2 || set.Manifest["cowsay"] == "" || set.Manifest["libubox"] == "" || set.ID != tt.profile {
				t.Errorf("image set %+v", set)
			}
			if out := set.Stdout + set.Stderr; out == "" || strings.Contains(out, r.o.WorkDir) {
				t.Errorf("people are shown where the server builds, or nothing:\n%s", out)
			}
			for _, f := range tt.failures {
				req := request(f.profile, strings.Fields(f.packages)...)
				if f.size > 0 {
					req.RootfsSizeMB = &f.size
				}
				_, err := r.Build(t.Context(), job(req), newWitness())
				if err == nil {
					t.Errorf("%s was built", f.packages)
					continue
				}
				if e := asError(t, err); e.Code != f.code || !strings.HasPrefix(e.Detail, f.detail) {
					t.Errorf("%s: got %s %q\nwant %s %q\n%s", f.packages, e.Code, e.Detail, f.code, f.detail, e.Stderr)
				} else if out := e.Stdout + e.Stderr; strings.Contains(out, r.o.WorkDir) {
					t.Errorf("%s: people are shown where the server builds:\n%s", f.packages, out)
				}
			}
			// The feeds are gone: that is no unknown package.
			gone := newRunner(t, Options{Builders: theBuilder(builder), UpstreamURL: "http://127.0.0.1:1"})
			_, err = gone.Build(t.Context(), job(request(tt.profile, "cowsay")), newWitness())
			if e := asError(t, err); e.Code != imagebuilder.CodeNoNetwork {
				t.Errorf("without a network: %v", e)
			}
		})
	}
}

// BenchmarkBuild is the overhead of Build over the same make commands, run by
// hand in a builder as fresh as the one that each build sees, with the copying
// of that left out of account.
func BenchmarkBuild(b *testing.B) {
	dir, server := sampleUpstream(b)
	builder := unpack(b, filepath.Join(dir, "releases/24.10.4/targets/ath79/generic"))
	work := filepath.Join(b.TempDir(), "work")
	r := newRunner(b, Options{Builders: theBuilder(builder), UpstreamURL: server.URL, WorkDir: work})
	if err := r.Prepare(b.Context(), builder); err != nil {
		b.Fatal(err)
	}
	feeds, err := os.ReadFile(filepath.Join(builder, "repositories.conf"))
	if err != nil {
		b.Fatal(err)
	}
	feeds = []byte(rewriteFeeds(string(feeds), []string{"https://downloads.sample.example"}, server.URL))
	var tree string
	freshTree := func() {
		tree = filepath.Join(b.TempDir(), "tree")
		if err := sandbox.CopyTree(builder, tree); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, "repositories.conf"), feeds, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	byHand := func(args ...string) {
		cmd := exec.CommandContext(context.Background(), "make", args...)
		cmd.Dir = tree
		cmd.Env = []string{"PATH=" + DefaultPath}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	const profile, packages = "PROFILE=tplink_archer-c7-v5", "PACKAGES=cowsay"
	var hand, ours []time.Duration
	runHand := func() {
		freshTree()
		images := b.TempDir()
		began := time.Now()
		byHand("manifest", profile, packages, "STRIP_ABI=1")
		byHand("image", profile, packages, "EXTRA_IMAGE_NAME=0123456789ab", "BIN_DIR="+images)
		hand = append(hand, time.Since(began))
		if err := os.RemoveAll(filepath.Dir(tree)); err != nil {
			b.Fatal(err)
		}
	}
	runOurs := func() {
		began := time.Now()
		built, err := r.Build(b.Context(), job(request("tplink_archer-c7-v5", "cowsay")), newWitness())
		if err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(began))
		if err := errors.Join(r.Close(), os.RemoveAll(built.Dir)); err != nil {
			b.Fatal(err)
		}
	}
	for first := true; b.Loop(); first = !first {
		if first {
			runHand()
			runOurs()
		} else {
			runOurs()
			runHand()
		}
	}
	// The best of each: other work on the machine only ever adds.
	h, o := slices.Min(hand), slices.Min(ours)
	b.ReportMetric(float64(h.Milliseconds()), "by-hand-ms")
	b.ReportMetric(float64(o.Milliseconds()), "build-ms")
	b.ReportMetric(float64((o - h).Milliseconds()), "overhead-ms")
	b.ReportMetric(float64(o)/float64(h), "ratio")
}

// Files of packages belong to root, which an ordinary user cannot give them
// to: TestAsAnotherUser runs this too.
func TestPackagesOfRoot(t *testing.T) {
	dir, server := sampleUpstream(t)
	for path, profile := range map[string]string{"releases/24.10.4/targets/ath79/generic": "tplink_archer-c7-v5", "snapshots/targets/x86/64": "generic"} {
		builder := unpack(t, filepath.Join(dir, path))
		r := newRunner(t, Options{Builders: theBuilder(builder), UpstreamURL: server.URL})
		if _, err := r.Build(t.Context(), job(request(profile, "cowsay")), newWitness()); err != nil {
			e := asError(t, err)
			t.Errorf("%s: %v\n%s\n%s", path, e, e.Stdout, e.Stderr)
		}
	}
}

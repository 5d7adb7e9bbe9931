package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

func methods(t *testing.T) []sandbox.Method {
	a, err := sandbox.Probe(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if a.Overlay {
		return []sandbox.Method{sandbox.Overlay, sandbox.Copy}
	}
	return []sandbox.Method{sandbox.Copy}
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func TestBuild(t *testing.T) {
	for _, method := range methods(t) {
		t.Run(string(method), func(t *testing.T) {
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			work := filepath.Join(t.TempDir(), "work")
			prepare := newRunner(t, Options{Builders: theBuilder("")}).Prepare
			r := newRunner(t, Options{Builders: theBuilder(fakeBuilder(t, prepare)), WorkDir: work, Method: method, Now: func() time.Time { return now }})
			req := request("good", "cowsay", "-ppp", "luci")
			req.Defaults = ptr("uci set secret=hunter2\n")
			req.RootfsSizeMB = ptr(64)
			req.Filesystem = ptr("squashfs")
			w := newWitness()
			built, err := r.Build(t.Context(), job(req), w)
			if err != nil {
				e := asError(t, err)
				t.Fatalf("%v\n%s\n%s", e, e.Stdout, e.Stderr)
			}
			extra := sum("base-files cowsay libubox luci")[:12]
			set := built.Set
			image := "openwrt-1.2.3-" + extra + "-fake-generic-good-squashfs-sysupgrade.bin"
			attempt := strings.TrimSuffix(built.Dir, "-images")
			want := imagebuilder.ImageSet{
				ID: "good", Titles: []imagebuilder.Title{{Title: "Fake"}}, Target: "fake/generic",
				VersionNumber: "1.2.3", VersionCode: "r100-0123456789", ArchPackages: "mips_24kc",
				ImagePrefix: "openwrt-1.2.3-" + extra + "-fake-generic-good", DefaultPackages: []string{"base-files"},
				DevicePackages: []string{"kmod-fake"}, SupportedDevices: []string{"fake,good"}, MetadataVersion: 1,
				SourceDateEpoch: 1700000000, LinuxKernel: []byte(`{"release":"1"}`),
				Images: []imagebuilder.Image{{
					Name: image, Type: "sysupgrade", Filesystem: "squashfs", SHA256: sum("cowsay -ppp luci\n"), Size: 17,
				}},
				Manifest: imagebuilder.Manifest{"base-files": "1637", "libubox": "2024.03.29-r1", "cowsay": "1.0", "luci": "1.0"},
				BuildCmd: []string{
					"make", "image", "PROFILE=good", "PACKAGES=cowsay -ppp luci", "EXTRA_IMAGE_NAME=" + extra,
					"BIN_DIR=" + attempt + "/images", "FILES=" + attempt + "/files", "ROOTFS_PARTSIZE=64", "ROOTFS_FILESYSTEM=squashfs",
				},
				BuildCmdPackages: []string{"cowsay", "-ppp", "luci"},
				BuiltAt:          now,
			}
			files, out := set.Files, set.Stdout+set.Stderr
			set.Files, set.Stdout, set.Stderr = nil, "", ""
			if diff := cmp.Diff(want, set); diff != "" {
				t.Errorf("image set (-want +got):\n%s", diff)
			}
			var names []string
			for _, f := range files {
				names = append(names, f.Name)
				data, err := os.ReadFile(filepath.Join(built.Dir, f.Name))
				if err != nil || int64(len(data)) != f.Size || sum(string(data)) != f.SHA256 {
					t.Errorf("%s is not what the set says: %v", f.Name, err)
				}
				if fi, err := os.Stat(filepath.Join(built.Dir, f.Name)); err != nil || fi.Mode() != 0o644 {
					t.Errorf("%s has mode %s, %v", f.Name, fi.Mode(), err)
				}
			}
			if wantNames := []string{image, strings.TrimSuffix(image, "-squashfs-sysupgrade.bin") + ".manifest", "profiles.json"}; !slices.Equal(names, wantNames) {
				t.Errorf("files %q, want %q", names, wantNames)
			}
			for _, part := range []string{"./etc/uci-defaults/99-asu-defaults", "-rw-r--r--", sum(*req.Defaults), "size=64 filesystem=squashfs"} {
				if !strings.Contains(out, part) {
					t.Errorf("%q is not in the output:\n%s", part, out)
				}
			}
			if strings.Contains(out+strings.Join(w.lines, "\n"), "hunter2") {
				t.Error("the secret is in the log")
			}
			// Manifest and image run at one path.
			if got := slices.DeleteFunc(slices.Clone(w.lines), func(s string) bool { return !strings.HasPrefix(s, "pwd ") }); len(got) != 2 || got[0] != got[1] {
				t.Errorf("the runs were at %q", got)
			}
			wantStages := []imagebuilder.Stage{imagebuilder.StageInit, imagebuilder.StageRevision, imagebuilder.StageManifest, imagebuilder.StageImage, imagebuilder.StageCommit}
			if !slices.Equal(w.stages, wantStages) {
				t.Errorf("stages %q", w.stages)
			}
			for i, s := range built.Stages {
				if s.Stage != wantStages[i] {
					t.Errorf("stage %d is %s", i, s.Stage)
				}
			}
			isEmptyBut(t, r, filepath.Base(built.Dir))
		})
	}
}

// isEmptyBut fails if a runner's work folder holds more than one name.
func isEmptyBut(t *testing.T, r *Runner, name string) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(r.o.WorkDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != name {
			t.Errorf("%s is left in the work folder", e.Name())
		}
	}
}

func TestBuildFailures(t *testing.T) {
	dir := fakeBuilder(t, nil)
	tests := []struct {
		profile string
		edit    func(req *imagebuilder.Request)
		code    imagebuilder.Code
		detail  string // its beginning
		unknown []string
	}{
		{profile: "missing", code: imagebuilder.CodePackageMissing, detail: "Error: Impossible package selection: missing (cowsay)", unknown: []string{"cowsay"}},
		{profile: "conflict", code: imagebuilder.CodePackageConflict, detail: "Error: Impossible package selection: conflicts (a, b)"},
		{profile: "offline", code: imagebuilder.CodeNoNetwork, detail: "Error: The package list http://feed.example/base/Packages.gz could not be downloaded"},
		{profile: "offline_missing", code: imagebuilder.CodeNoNetwork, detail: "Error: The package list http://feed.example/base/Packages.gz could not be downloaded"},
		{profile: "nospace", code: imagebuilder.CodeNoSpace, detail: "Error: This server's disk is full"},
		{profile: "disk", code: imagebuilder.CodeNoSpace, detail: "Error: This server's disk is full"},
		{profile: "toobig", code: imagebuilder.CodeImageTooBig, detail: "Error: Selected packages exceed device storage: the image has 10027012 bytes and the device takes 8126464, 1857 KiB too many."},
		{profile: "toobig_silent", code: imagebuilder.CodeImageTooBig, detail: "Error: Selected packages exceed device storage."},
		{profile: "factory_only", code: imagebuilder.CodeImageTooBig, detail: "Error: Selected packages exceed device storage: the image is 2051 KiB too big."},
		{profile: "noprofiles", code: imagebuilder.CodeNoImage, detail: "Error: No JSON file found."},
		{profile: "otherprofile", code: imagebuilder.CodeNoImage, detail: "Error: Profile not found in JSON file."},
		{profile: "wrongsum", code: imagebuilder.CodeNoImage, detail: "Error: The image openwrt-"},
		{profile: "moved", code: imagebuilder.CodePackageDamaged, detail: "Error: The package feeds changed while the image was built."},
		{profile: "crash", code: imagebuilder.CodeBuildFailed, detail: "Error: Error while building firmware. See stdout/stderr"},
		{profile: "unheard-of", code: imagebuilder.CodeUnsupportedProfile, detail: "Error: Unsupported profile: unheard-of. "},
		{profile: "good", edit: func(req *imagebuilder.Request) { req.VersionCode = "r1-0" }, code: imagebuilder.CodeWrongRevision,
			detail: "Error: Received incorrect version r100-0123456789 (requested r1-0)"},
		{profile: "good", edit: func(req *imagebuilder.Request) {
			req.PackagesVersions = imagebuilder.Pairs{{Name: "cowsay", Value: "0.0"}}
		}, code: imagebuilder.CodePackageVersion, detail: "Error: Impossible package selection: cowsay version not as requested: 0.0 vs. 1.0"},
		{profile: "good", edit: func(req *imagebuilder.Request) { req.Filesystem = ptr("ubifs") }, code: imagebuilder.CodeFilesystem,
			detail: `Error: Filesystem "ubifs" is not available for this device. Available: ext4, squashfs.`},
		{profile: "$(shell touch /tmp/injected)", code: imagebuilder.CodeMalformed, detail: "Error: "},
		{profile: "good", edit: func(req *imagebuilder.Request) {
			req.Repositories = imagebuilder.Pairs{{Name: "a\nb", Value: "http://feed.example/"}}
		}, code: imagebuilder.CodeMalformed, detail: "Error: repositories: "},
		{profile: "good", edit: func(req *imagebuilder.Request) { req.RepositoryKeys = []string{"not a key"} }, code: imagebuilder.CodeMalformed, detail: "Error: repository_keys: key 1 "},
	}
	work := filepath.Join(t.TempDir(), "work")
	r := newRunner(t, Options{Builders: theBuilder(dir), WorkDir: work})
	for i, tt := range tests {
		t.Run(fmt.Sprintf("%d-%.12s", i, tt.profile), func(t *testing.T) {
			req := request(tt.profile, "cowsay")
			if tt.edit != nil {
				tt.edit(&req)
				req = req.Normalize()
			}
			built, err := r.Build(t.Context(), job(req), newWitness())
			if err == nil {
				t.Fatalf("built %+v", built)
			}
			e := asError(t, err)
			if e.Code != tt.code || !strings.HasPrefix(e.Detail, tt.detail) || !slices.Equal(e.Unknown, tt.unknown) {
				t.Errorf("got %s %q %q\nwant %s %q %q\n%s", e.Code, e.Detail, e.Unknown, tt.code, tt.detail, tt.unknown, e.Stderr)
			}
			isEmptyBut(t, r, "")
		})
	}
	if _, err := os.Stat("/tmp/injected"); err == nil {
		t.Error("a value was executed")
	}
}

// What is code or an option to make, opkg or apk is refused before any of
// them sees it.
func TestNothingButNamesReachesMake(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "injected")
	r := newRunner(t, Options{Builders: BuildersFunc(func(context.Context, imagebuilder.Request, imagebuilder.Generation, imagebuilder.Reporter) (*Builder, func(), error) {
		t.Error("it got as far as the ImageBuilder")
		return nil, nil, errors.New("no")
	})})
	for _, name := range []string{
		"$(shell touch " + mark + ")", "`touch " + mark + "`", "$$(touch " + mark + ")", "a;b", `a"b`, "a'b", "a b", "a\nb", "a=1",
		"--force-depends", "/tmp/a.ipk", "http://x.example/a.ipk", "cows*", "", "-", "ä",
	} {
		for _, n := range []string{name, "-" + name} {
			req := request("good")
			req.Packages = []string{"luci", n}
			if _, err := r.Build(t.Context(), job(req), newWitness()); asError(t, err).Code != imagebuilder.CodeMalformed {
				t.Errorf("%q: %v", n, err)
			}
		}
	}
	long := make([]string, 2000)
	for i := range long {
		long[i] = fmt.Sprintf("a-name-that-is-rather-long-%060d", i)
	}
	if _, err := r.Build(t.Context(), job(request("good", long...)), newWitness()); asError(t, err).Code != imagebuilder.CodeMalformed {
		t.Errorf("too long for one argument: %v", err)
	}
}

func TestBuildSurvives(t *testing.T) {
	dir := fakeBuilder(t, nil)
	t.Setenv("PROFILE", "leaked")
	t.Setenv("FILES", "/leaked")
	tests := map[string]func(t *testing.T, built *imagebuilder.Built, w *witness){
		// One of two images is too big, not the one that clients take.
		"partial": func(t *testing.T, built *imagebuilder.Built, w *witness) {
			if len(built.Set.Images) != 1 || built.Set.Images[0].Type != "sysupgrade" {
				t.Errorf("images %+v", built.Set.Images)
			}
		},
		// Folders, links and pipes do not get into the store.
		"linked": func(t *testing.T, built *imagebuilder.Built, w *witness) {
			entries, err := os.ReadDir(built.Dir)
			if err != nil || len(entries) != len(built.Set.Files) || len(entries) != 3 {
				t.Errorf("left are %v, %v", entries, err)
			}
		},
		"apkform": func(t *testing.T, built *imagebuilder.Built, w *witness) {
			if built.Set.Manifest["libubox"] != "2024.03.29-r1" {
				t.Errorf("manifest %v", built.Set.Manifest)
			}
		},
		"environment": func(t *testing.T, built *imagebuilder.Built, w *witness) {
			for _, line := range w.lines {
				for _, bad := range []string{"leaked", "HOME", "TMPDIR", "USER"} {
					if strings.HasPrefix(line, "env: ") && strings.Contains(line, bad) {
						t.Errorf("%s is in the environment: %s", bad, line)
					}
				}
			}
			if !slices.Contains(w.lines, "env: PATH="+DefaultPath) {
				t.Error("PATH is not")
			}
		},
		"fd8": func(t *testing.T, built *imagebuilder.Built, w *witness) {
			if !slices.ContainsFunc(w.lines, func(s string) bool { return strings.Contains(s, " 8 -> pipe:") }) {
				t.Errorf("descriptor 8 is not open: %q", w.lines)
			}
		},
		"chatty": func(t *testing.T, built *imagebuilder.Built, w *witness) {
			if n := len(built.Set.Stderr); n > successLog {
				t.Errorf("%d bytes of log were kept", n)
			}
		},
	}
	for profile, check := range tests {
		t.Run(profile, func(t *testing.T) {
			r := newRunner(t, Options{Builders: theBuilder(dir)})
			w := newWitness()
			built, err := r.Build(t.Context(), job(request(profile, "cowsay")), w)
			if err != nil {
				e := asError(t, err)
				t.Fatalf("%v\n%s\n%s", e, e.Stdout, e.Stderr)
			}
			check(t, built, w)
		})
	}
}

func TestStalledStepIsTriedOnceMore(t *testing.T) {
	dir := fakeBuilder(t, nil)
	r := newRunner(t, Options{Builders: theBuilder(dir), StepIdle: 700 * time.Millisecond})
	w := newWitness()
	if _, err := r.Build(t.Context(), job(request("stallonce", "cowsay")), w); err != nil {
		t.Errorf("a build that stalled once: %v", err)
	}
	if !slices.ContainsFunc(w.lines, func(s string) bool { return strings.Contains(s, "Trying once more") }) {
		t.Errorf("nobody was told: %q", w.lines)
	}
	_, err := r.Build(t.Context(), job(request("stall", "cowsay")), newWitness())
	if e := asError(t, err); e.Code != imagebuilder.CodeStalled || !strings.Contains(e.Stderr, "waiting") || !strings.HasPrefix(e.Detail, "Error: The ImageBuilder printed nothing for 700ms") {
		t.Errorf("a build that stalls again: %v", err)
	}
}

func TestBuildEnds(t *testing.T) {
	dir := fakeBuilder(t, nil)
	work := filepath.Join(t.TempDir(), "work")
	t.Run("job limit", func(t *testing.T) {
		r := newRunner(t, Options{Builders: theBuilder(dir), WorkDir: work, JobLimit: 300 * time.Millisecond})
		_, err := r.Build(t.Context(), job(request("slow", "cowsay")), newWitness())
		if e := asError(t, err); e.Code != imagebuilder.CodeTimedOut {
			t.Errorf("got %v", err)
		}
	})
	own := imagebuilder.Errorf(imagebuilder.CodeStopping, "Error: stopping.")
	for name, tt := range map[string]struct {
		cause error
		code  imagebuilder.Code
	}{
		"canceled":    {nil, imagebuilder.CodeCanceled},
		"own verdict": {own, imagebuilder.CodeStopping},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t, Options{Builders: theBuilder(dir), WorkDir: work})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w := newWitness()
			done := make(chan error, 1)
			go func() {
				_, err := r.Build(ctx, job(request("slow", "cowsay")), w)
				done <- err
			}()
			w.waitFor(t, "tick 1")
			cancel(tt.cause)
			if e := asError(t, <-done); e.Code != tt.code {
				t.Errorf("got %v", e)
			}
			isEmptyBut(t, r, "")
		})
	}
	t.Run("builder", func(t *testing.T) {
		r := newRunner(t, Options{WorkDir: work, Builders: BuildersFunc(func(context.Context, imagebuilder.Request, imagebuilder.Generation, imagebuilder.Reporter) (*Builder, func(), error) {
			return nil, nil, imagebuilder.Errorf(imagebuilder.CodeNoBuilder, "none")
		})})
		_, err := r.Build(t.Context(), job(request("good")), newWitness())
		if e := asError(t, err); e.Code != imagebuilder.CodeNoBuilder {
			t.Errorf("got %v", e)
		}
	})
}

// A reporter that hangs does not hold up its build.
func TestStuckReporter(t *testing.T) {
	r := newRunner(t, Options{Builders: theBuilder(fakeBuilder(t, nil))})
	stuck := &stuckReporter{release: make(chan struct{})}
	defer close(stuck.release)
	if _, err := r.Build(t.Context(), job(request("chatty", "cowsay")), stuck); err != nil {
		t.Error(err)
	}
}

type stuckReporter struct{ release chan struct{} }

func (*stuckReporter) Stage(imagebuilder.Stage) {}
func (*stuckReporter) Progress(int64, int64)    {}
func (s *stuckReporter) Line(string)            { <-s.release }

func TestConcurrentBuildsShareABuilder(t *testing.T) {
	r := newRunner(t, Options{Builders: theBuilder(fakeBuilder(t, nil))})
	errs := make(chan error)
	for i := range 3 {
		go func() {
			_, err := r.Build(context.Background(), job(request("good", fmt.Sprintf("cowsay%d", i))), newWitness())
			errs <- err
		}()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestReadOnlyTreeIsNotTrusted(t *testing.T) {
	r := newRunner(t, Options{Builders: theBuilder("")})
	dir := fakeBuilder(t, nil)
	// As in a read-only tree: no profile, exit code 0.
	bad := filepath.Join(t.TempDir(), "bad")
	if err := sandbox.CopyTree(dir, bad); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bad, "profiles.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := r.Prepare(t.Context(), bad)
	if e := asError(t, err); e.Code != imagebuilder.CodeBadBuilder || !errors.Is(err, errNoProfiles) {
		t.Errorf("Prepare: %v", err)
	}
	if _, err := os.Stat(filepath.Join(bad, infoFile)); err == nil {
		t.Error("the empty list was kept")
	}
	// A builder nobody prepared is asked in the writable view.
	r = newRunner(t, Options{Builders: theBuilder(dir)})
	if _, err := r.Build(t.Context(), job(request("good", "cowsay")), newWitness()); err != nil {
		t.Errorf("with an unprepared builder: %v", err)
	}
}

func TestPathsWithSpacesAreRefused(t *testing.T) {
	if _, err := New(Options{Builders: theBuilder(""), WorkDir: filepath.Join(t.TempDir(), "my work")}); !errors.Is(err, sandbox.ErrPath) {
		t.Errorf("work folder: %v", err)
	}
	r := newRunner(t, Options{Builders: theBuilder(filepath.Join(t.TempDir(), "my builder"))})
	if _, err := r.Build(t.Context(), job(request("good")), newWitness()); asError(t, err).Code != imagebuilder.CodeHost {
		t.Errorf("builder: %v", err)
	}
	if err := r.Prepare(t.Context(), "/a b"); asError(t, err).Code != imagebuilder.CodeHost {
		t.Errorf("preparing: %v", err)
	}
}

func TestPrepareChecksTheHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "builder")
	if err := sandbox.CopyTree(filepath.Join("testdata", "builder"), dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "include"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "include", "prereq-build.mk"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	makefile, err := os.OpenFile(filepath.Join(dir, "Makefile"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = makefile.WriteString("\nstaging_dir/host/.prereq-build:\n\techo \"Checking 'unzip'... failed.\"; echo; echo \"Build dependency: Please install 'unzip'\"; test -e unzip\n")
	if err := errors.Join(err, makefile.Close()); err != nil {
		t.Fatal(err)
	}
	r := newRunner(t, Options{Builders: theBuilder(dir)})
	err = r.Prepare(t.Context(), dir)
	if e := asError(t, err); e.Code != imagebuilder.CodeHost || !strings.HasPrefix(e.Detail, "Error: This server lacks what ImageBuilders need: 'unzip'.") {
		t.Errorf("got %v", e)
	}
	if err := os.WriteFile(filepath.Join(dir, "unzip"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Prepare(t.Context(), dir); err != nil {
		t.Errorf("with it: %v", err)
	}
}

// An ordinary user builds the same, over a tree that is read-only for him.
func TestAsAnotherUser(t *testing.T) {
	const nobody = 65534
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := sandbox.CopyTree("testdata", filepath.Join(dir, "testdata")); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "tests")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^(TestBuild|TestFeedsAndKeysOfABuild|TestReadOnlyTreeIsNotTrusted|TestPackagesOfRoot)$", "-test.v")
	cmd.Dir = dir
	tree, _ := sampleUpstream(t)
	if err := os.Chmod(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, sampleWritten + "=" + tree}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS") < 5 {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestHostWithoutMake(t *testing.T) {
	r := newRunner(t, Options{Builders: theBuilder(fakeBuilder(t, nil)), Path: "/nonexistent"})
	_, err := r.Build(t.Context(), job(request("good")), newWitness())
	if e := asError(t, err); e.Code != imagebuilder.CodeHost || !strings.Contains(e.Detail, "make") {
		t.Errorf("got %v", err)
	}
}

func TestNewSweeps(t *testing.T) {
	work := t.TempDir()
	for _, name := range []string{"build-0123-1", "build-0123-2-images", "probe-1", "dropped-1"} {
		if err := os.MkdirAll(filepath.Join(work, name, "closed"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(work, name, "closed"), 0); err != nil {
			t.Fatal(err)
		}
	}
	isEmptyBut(t, newRunner(t, Options{Builders: theBuilder(""), WorkDir: work}), "dropped-1")
	if err := os.Chmod(filepath.Join(work, "dropped-1", "closed"), 0o700); err != nil {
		t.Errorf("what belongs to others is gone: %v", err)
	}
}

func TestFeedsAndKeysOfABuild(t *testing.T) {
	dir := fakeBuilder(t, nil)
	key := "untrusted comment: mine\nRWRkZWZnaGlqawAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	r := newRunner(t, Options{Builders: theBuilder(dir), UpstreamURL: "http://mirror.example/owrt/"})
	for mode, want := range map[string]string{
		imagebuilder.RepositoriesAppend: `src/gz openwrt_core http://mirror.example/owrt/releases/1.2.3/targets/fake/generic/packages
src/gz openwrt_base http://mirror.example/owrt/releases/1.2.3/packages/mips_24kc/base
src/gz other https://other.example/releases/1.2.3/feed
option check_signature
src/gz lime https://feed.example/lime
src imagebuilder file:packages`,
		imagebuilder.RepositoriesReplace: `option check_signature
src/gz lime https://feed.example/lime
src imagebuilder file:packages`,
	} {
		req := request("repositories", "cowsay")
		req.Repositories, req.RepositoriesMode = imagebuilder.Pairs{{Name: "lime", Value: "https://feed.example/lime/"}}, mode
		req.RepositoryKeys = []string{key}
		req.Filesystem = ptr("squashfs")
		w := newWitness()
		built, err := r.Build(t.Context(), job(req), w)
		if err != nil {
			t.Fatal(err)
		}
		want = "== repositories.conf\n" + want + "\n== keys/6465666768696a6b\nuntrusted comment: 6465666768696a6b\n" +
			strings.Split(key, "\n")[1] + "\n# CONFIG_TARGET_ROOTFS_EXT4FS is not set\nCONFIG_TARGET_ROOTFS_SQUASHFS=y\n"
		if !strings.Contains(built.Set.Stdout, want) {
			t.Errorf("%s:\n%s\nwant\n%s", mode, built.Set.Stdout, want)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "repositories.conf")); err != nil || strings.Contains(string(data), "lime") {
		t.Errorf("the shared builder was changed: %v", err)
	}
}

func TestPackagesHook(t *testing.T) {
	r := newRunner(t, Options{Builders: theBuilder(fakeBuilder(t, nil)), Packages: func(req imagebuilder.Request, info *Info) []string {
		return append([]string{"renamed"}, req.Packages[1:]...)
	}})
	req := request("good")
	req.PackagesVersions = imagebuilder.Pairs{{Name: "old", Value: "9"}, {Name: "cowsay", Value: "1.0"}}
	req.DiffPackages = true
	built, err := r.Build(t.Context(), job(req.Normalize()), newWitness())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"-base-files", "-busybox", "-dropbear", "-kmod-fake", "-kmod-off", "-libc", "renamed", "cowsay"}
	if !slices.Equal(built.Set.BuildCmdPackages, want) {
		t.Errorf("packages %q, want %q", built.Set.BuildCmdPackages, want)
	}
}

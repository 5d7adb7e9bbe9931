package sample_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files")

func TestInfo(t *testing.T) {
	t.Parallel()
	for _, b := range builders {
		r := runMake(t, unpack(t, treeDir, b.name), "info")
		r.want(t, 0)
		golden := filepath.Join("testdata", "info-"+b.name+".golden")
		if *update {
			if err := os.WriteFile(golden, []byte(r.stdout), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(read(t, golden)), r.stdout); diff != "" {
			t.Errorf("%s: %s", b.name, diff)
		}
	}
}

func TestInfoInReadOnlyTreeIsEmpty(t *testing.T) {
	t.Parallel()
	dir := unpack(t, treeDir, "opkg-ath79")
	if err := os.Mkdir(filepath.Join(dir, ".profiles.mk"), 0o755); err != nil { // nobody can write a file there
		t.Fatal(err)
	}
	r := runMake(t, dir, "info")
	r.want(t, 0, `out: Current Target: "ath79/generic"`)
	if strings.Contains(r.stdout, "archer") {
		t.Error("profiles are listed although .profiles.mk cannot be made")
	}
}

func TestHelpAndUnknownTarget(t *testing.T) {
	t.Parallel()
	dir := unpack(t, treeDir, "opkg-x86")
	runMake(t, dir).want(t, 0, "out: Available Commands:")
	runMake(t, dir, "nosuchtarget").want(t, 2, "err: make: *** No rule to make target 'nosuchtarget'.  Stop.")
	for _, b := range []struct {
		name string
		has  bool
	}{{"opkg-x86", false}, {"apk-x86", true}} {
		if r := runMake(t, unpack(t, treeDir, b.name), "help"); strings.Contains(r.stdout, "ROOTFS_FILESYSTEM") != b.has {
			t.Errorf("%s: ROOTFS_FILESYSTEM in help: want %v", b.name, b.has)
		}
	}
}

func TestManifest(t *testing.T) {
	t.Parallel()
	for _, b := range builders {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, treeDir, b.name)
			plain := runMake(t, dir, "manifest", "PACKAGES=luci libubox -ppp -ppp-mod-pppoe")
			plain.want(t, 0)
			stripped := runMake(t, dir, "manifest", "STRIP_ABI=1", "PACKAGES=luci libubox -ppp -ppp-mod-pppoe")
			stripped.want(t, 0)
			full, names := manifestOf(t, plain.stdout), manifestOf(t, stripped.stdout)
			if len(full) != len(names) || len(full) < 50 {
				t.Fatalf("%d packages, %d without ABI", len(full), len(names))
			}
			lines := strings.Split(strings.TrimSpace(plain.stdout), "\n")
			if !slices.IsSorted(lines) {
				t.Error("the manifest is not sorted")
			}
			for _, name := range []string{"libubox", "luci-base", "kernel", "nftables-json", "base-files"} {
				if names[name] == "" {
					t.Errorf("%s is missing", name)
				}
			}
			abi := "libubox20240329"
			if b.apk {
				abi = "libubox20260523"
			}
			if full[abi] != names["libubox"] {
				t.Errorf("%s has version %q", abi, full[abi])
			}
			for _, gone := range []string{"ppp", "ppp-mod-pppoe", "kmod-ppp"} {
				if names[gone] != "" {
					t.Errorf("%s was removed but is there", gone)
				}
			}
			if b.apk == (names["opkg"] != "") || b.apk != (names["apk-mbedtls"] != "") {
				t.Errorf("package manager: %v", names)
			}
		})
	}
}

// The same words that a manifest in upstream's folder has come from the builder.
func TestManifestIsUpstreams(t *testing.T) {
	t.Parallel()
	for _, b := range builders {
		if strings.HasSuffix(b.name, "ath79") {
			continue // upstream's is without device packages; the builder's has those of the first profile
		}
		prefix := strings.TrimSuffix(strings.Replace(b.archive, "imagebuilder-", "", 1), ".Linux-x86_64")
		upstreams := manifestOf(t, string(read(t, filepath.Join(treeDir, b.folder, prefix+".manifest"))))
		r := runMake(t, unpack(t, treeDir, b.name), "manifest", "PACKAGES=-kmod-e1000e -kmod-igb -kmod-r8169")
		r.want(t, 0)
		if diff := cmp.Diff(upstreams, manifestOf(t, r.stdout)); diff != "" {
			t.Errorf("%s: %s", b.name, diff)
		}
	}
}

func TestImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		builder, profile string
		files            []string // ends of names
		images           int
	}{
		{"opkg-x86", "generic", []string{"ext4-combined.img.gz", "squashfs-combined-efi.img.gz", "squashfs-rootfs.img.gz", "kernel.bin", "rootfs.tar.gz"}, 6},
		{"opkg-ath79", "openmesh_om2p-v2", []string{"squashfs-kernel.bin", "squashfs-factory.bin", "squashfs-sysupgrade.bin"}, 3},
		{"apk-x86", "generic", []string{"ext4-combined.img.gz", "targz-rootfs.tar.gz", "kernel.bin", "rootfs.tar.gz"}, 7},
		{"apk-ath79", "tplink_archer-c7-v5", []string{"squashfs-factory.bin", "squashfs-sysupgrade.bin"}, 2},
	} {
		t.Run(c.builder, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, treeDir, c.builder)
			files, bin := t.TempDir(), filepath.Join(t.TempDir(), "new", "bin")
			if err := os.MkdirAll(filepath.Join(files, "etc/uci-defaults"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(files, "etc/uci-defaults/99-asu"), []byte("echo hello\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			r := runMake(t, dir, "image", "PROFILE="+c.profile, "PACKAGES=luci hello-service -ppp", "FILES="+files, "BIN_DIR="+bin,
				"EXTRA_IMAGE_NAME=My_Node 1", "DISABLED_SERVICES=hello-service nosuch")
			r.want(t, 0, "out: Enabling dropbear", "out: Disabling hello-service")
			inOrder(t, r.stdout, "Checking '", "Building images for ", "Packages: luci hello-service ", "Installing packages...",
				"Finalizing root filesystem...", "Building images...", "Calculating checksums...")
			if perlComplaint.MatchString(r.stderr) {
				t.Errorf("perl complains: %s", r.stderr)
			}
			p := readProfiles(t, bin)
			upstreams := readProfiles(t, filepath.Join(treeDir, builderFolder(c.builder)))
			got, want := p.Profiles[c.profile], upstreams.Profiles[c.profile]
			if len(p.Profiles) != 1 || len(got.Images) != c.images {
				t.Fatalf("%d profiles, images %+v", len(p.Profiles), got.Images)
			}
			if !strings.Contains(got.ImagePrefix, "-my-node-1-") {
				t.Errorf("image_prefix %q", got.ImagePrefix)
			}
			apk := strings.HasPrefix(c.builder, "apk")
			for _, image := range got.Images {
				data := read(t, filepath.Join(bin, image.Name))
				if sum(data) != image.SHA256 {
					t.Errorf("sum of %s", image.Name)
				}
				if apk && (image.SHA256 != image.SHA256Unsigned || image.Size != int64(len(data))) {
					t.Errorf("an apk builder signs no images and tells sizes: %+v", image)
				}
				if !apk && image.Type == "sysupgrade" && image.SHA256 == image.SHA256Unsigned {
					t.Errorf("%s is not signed", image.Name)
				}
			}
			if diff := cmp.Diff(want.DevicePackages, got.DevicePackages); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want.SupportedDevices, got.SupportedDevices); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want.FileSizeLimits, got.FileSizeLimits); diff != "" {
				t.Error(diff)
			}
			p.Profiles, upstreams.Profiles = nil, nil
			if diff := cmp.Diff(upstreams, p); diff != "" {
				t.Errorf("profiles.json differs from upstream's: %s", diff)
			}
			checkSums(t, bin)
			for _, end := range append(c.files, ".manifest", ".bom.cdx.json") {
				if m, err := filepath.Glob(filepath.Join(bin, "*"+end)); err != nil || len(m) == 0 {
					t.Errorf("no file *%s (%v)", end, err)
				}
			}
			manifests, err := filepath.Glob(filepath.Join(bin, "*.manifest"))
			if err != nil || len(manifests) != 1 {
				t.Fatal(manifests, err)
			}
			if m := manifestOf(t, string(read(t, manifests[0]))); m["luci"] == "" || m["hello-service"] == "" || m["dropbear"] == "" {
				t.Errorf("manifest %v", m)
			}
			if strings.HasSuffix(c.builder, "x86") {
				root := rootFiles(t, filepath.Join(bin, got.ImagePrefix+"-rootfs.tar.gz"))
				if root["etc/uci-defaults/99-asu"] != "echo hello\n" {
					t.Error("FILES is not in the root file system")
				}
				if _, linked := root["etc/rc.d/S19dropbear"]; !linked {
					t.Error("dropbear is not enabled")
				}
				if _, linked := root["etc/rc.d/S90hello-service"]; linked {
					t.Error("hello-service is enabled")
				}
			}
		})
	}
}

func builderFolder(name string) string {
	for _, b := range builders {
		if b.name == name {
			return b.folder
		}
	}
	return ""
}

func inOrder(t *testing.T, text string, marks ...string) {
	t.Helper()
	for _, mark := range marks {
		_, after, ok := strings.Cut(text, mark)
		if !ok {
			t.Fatalf("%q does not come in its place", mark)
		}
		text = after
	}
}

// checkSums compares sha256sums with the folder.
func checkSums(t *testing.T, bin string) {
	t.Helper()
	listed := map[string]bool{"sha256sums": true}
	for line := range strings.Lines(string(read(t, filepath.Join(bin, "sha256sums")))) {
		want, name, ok := strings.Cut(strings.TrimSpace(line), " *")
		if !ok || sum(read(t, filepath.Join(bin, name))) != want {
			t.Errorf("sha256sums: %q", line)
		}
		listed[name] = true
	}
	entries, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !listed[e.Name()] {
			t.Errorf("%s is not in sha256sums", e.Name())
		}
	}
}

// rootFiles unpacks a tar.gz into memory.
func rootFiles(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "./")] = string(data)
	}
}

func TestRebuildIsTheSame(t *testing.T) {
	t.Parallel()
	one, two := unpack(t, treeDir, "opkg-ath79"), unpack(t, treeDir, "opkg-ath79")
	var first profilesJSON
	for i, dir := range []string{one, one, two} {
		bin := filepath.Join(t.TempDir(), "bin")
		runMake(t, dir, "image", "PROFILE=glinet_gl-ar150", "BIN_DIR="+bin).want(t, 0)
		p := readProfiles(t, bin)
		if i == 0 {
			first = p
			continue
		}
		a, b := first.Profiles["glinet_gl-ar150"].Images[0], p.Profiles["glinet_gl-ar150"].Images[0]
		if a.SHA256Unsigned != b.SHA256Unsigned {
			t.Errorf("run %d: another unsigned image", i)
		}
		if same := a.SHA256 == b.SHA256; same != (i == 1) {
			t.Errorf("run %d: signed the same: %v; each copy has its own key", i, same)
		}
	}
}

func TestProfilesAreMerged(t *testing.T) {
	t.Parallel()
	dir, bin := unpack(t, treeDir, "apk-ath79"), t.TempDir()
	runMake(t, dir, "image", "PROFILE=glinet_gl-ar150", "BIN_DIR="+bin).want(t, 0)
	runMake(t, dir, "image", "PROFILE=DEVICE_tplink_archer-c7-v2", "BIN_DIR="+bin).want(t, 0)
	if p := readProfiles(t, bin); len(p.Profiles) != 2 || len(p.Profiles["glinet_gl-ar150"].Images) != 1 {
		t.Errorf("profiles %+v", p.Profiles)
	}
	if err := os.WriteFile(filepath.Join(bin, "profiles.json"), []byte(`{"version_code":"r1-other","profiles":{"x":{}}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	runMake(t, dir, "image", "PROFILE=glinet_gl-ar150", "BIN_DIR="+bin).want(t, 0)
	if p := readProfiles(t, bin); len(p.Profiles) != 1 {
		t.Errorf("another revision was merged into: %+v", p.Profiles)
	}
}

func TestRelativeBinDir(t *testing.T) {
	t.Parallel()
	dir := unpack(t, treeDir, "opkg-ath79")
	runMake(t, dir, "image", "PROFILE=glinet_gl-ar150", "BIN_DIR=relout").want(t, 0)
	read(t, filepath.Join(dir, "relout", "profiles.json"))
	if m, _ := filepath.Glob(filepath.Join(dir, "target/linux/ath79/image/relout/*.bin")); len(m) != 1 {
		t.Errorf("images of a relative BIN_DIR: %v", m)
	}
	runMake(t, dir, "clean", "BIN_DIR="+filepath.Join(dir, "relout")).want(t, 0)
	for _, gone := range []string{"dl", "tmp", "relout", "build_dir/target-mips_24kc_musl/root-ath79"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); err == nil {
			t.Errorf("clean left %s", gone)
		}
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	dir := unpack(t, slowTree(t), "apk-ath79")
	r := runMake(t, dir, "image", "PROFILE=glinet_gl-ar150")
	r.want(t, 0, "out: Still building: 1.5 s to go.", "out: Still building: 0.5 s to go.")
	if r.took < 1500*time.Millisecond {
		t.Errorf("took %s", r.took)
	}
}

// Only what perl-base and coreutils have: no wget, no mksquashfs.
func TestWithoutOptionalPrograms(t *testing.T) {
	t.Parallel()
	bare := t.TempDir()
	for _, program := range strings.Fields("make perl sh tar gzip cp rm mv find sha256sum sha512sum") {
		at, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(at, filepath.Join(bare, program)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"opkg-ath79", "apk-ath79"} {
		dir, bin := unpack(t, treeDir, name), filepath.Join(t.TempDir(), "bin")
		env := []string{"PATH=" + bare}
		runMakeEnv(t, dir, env, true, "image", "PROFILE=glinet_gl-ar150", "PACKAGES=tmux", "BIN_DIR="+bin).want(t, 0)
		if p := readProfiles(t, bin); len(p.Profiles["glinet_gl-ar150"].Images) != 1 {
			t.Errorf("%s: %+v", name, p.Profiles)
		}
		r := runMakeEnv(t, dir, env, true, "image", "PROFILE=comfast_cf-e314n-v2", "PACKAGES=bigpkg", "BIN_DIR="+bin+"2")
		r.want(t, 0, "err:  is too big: ")
	}
}

var perlComplaint = regexp.MustCompile(`at \S+\.(pl|pm) line \d+`)

func TestEnvironment(t *testing.T) {
	t.Parallel()
	dir := unpack(t, treeDir, "opkg-ath79")
	env := []string{"PATH=" + os.Getenv("PATH"), "PACKAGES=no-such-package", "PROFILE=glinet_gl-ar150", "STRIP_ABI=1"}
	r := runMakeEnv(t, dir, env, true, "manifest")
	r.want(t, 0) // PACKAGES from the environment does not count
	m := manifestOf(t, r.stdout)
	if m["kmod-usb-chipidea2"] == "" || m["libubox"] == "" {
		t.Error("PROFILE and STRIP_ABI from the environment do count")
	}
	if perlComplaint.MatchString(r.stderr) {
		t.Errorf("perl complains: %s", r.stderr)
	}
	spaced := filepath.Join(t.TempDir(), "a b")
	if err := os.Rename(dir, spaced); err != nil {
		t.Fatal(err)
	}
	runMake(t, spaced, "info").want(t, 2)
}

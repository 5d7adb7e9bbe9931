package sample_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"attendant/imagebuilder/sample"
)

// A selection that cannot be had fails with the words of the real package
// managers; make's exit code is always 2.
func TestFailures(t *testing.T) {
	t.Parallel()
	type failure struct {
		args  string // separated by "; "
		words []string
	}
	for builder, failures := range map[string][]failure{
		"opkg-x86": {
			{"manifest; PROFILE=nope", []string{`out: Profile "nope" does not exist!`, `out: Use "make info" to get a list`}},
			{"manifest; PACKAGES=tmux no-such-package", []string{"err: Collected errors:", "err:  * opkg_install_cmd: Cannot install package no-such-package.",
				": package_install] Error 255", "err: make: *** [Makefile:"}},
			{"image; PACKAGES=no-such-package", []string{"out: Unknown package 'no-such-package'.", "err:  * opkg_install_cmd: Cannot install package no-such-package."}},
			{"manifest; PACKAGES=broken-chain", []string{"err:  * pkg_hash_check_unresolved: cannot find dependency no-such-library for broken-dep\n",
				"err:  * pkg_hash_fetch_best_installation_candidate: Packages for broken-dep found, but incompatible with the architectures configured",
				"err:  * satisfy_dependencies_for: Cannot satisfy the following dependencies for broken-chain:\n * \tno-such-library\n",
				"err:  * opkg_install_cmd: Cannot install package broken-chain."}},
			{"manifest; PACKAGES=kernel-pinned", []string{"err: cannot find dependency kernel (= 6.6.110~00000000000000000000000000000000-r1) for kernel-pinned"}},
			{"manifest; PACKAGES=conflict-b conflict-a", []string{"err:  * check_conflicts_for: The following packages conflict with conflict-a:\n * check_conflicts_for: \tconflict-b * \n",
				"err:  * opkg_install_cmd: Cannot install package conflict-a."}},
			{"manifest; PACKAGES=dnsmasq-full", []string{"err:  * check_data_file_clashes: Package dnsmasq wants to install file /", "err: \n\tBut that file is already provided by package  * dnsmasq-full"}},
			{"manifest; PACKAGES=fileclash-a fileclash-b", []string{"err: Package fileclash-b wants to install file /", "err: provided by package  * fileclash-a"}},
			{"manifest; PACKAGES=failing-postinst", []string{"err: postinst says no", `err:  * pkg_run_script: package "failing-postinst" postinst script returned status 3.`,
				"err:  * opkg_configure: failing-postinst.postinst returned 3."}},
			{"image; ROOTFS_PARTSIZE=8; PACKAGES=bigpkg", []string{"err: error: ext4_allocate_best_fit_partial: failed to allocate ", "err:  blocks, out of space?"}},
			{"image; ROOTFS_PARTSIZE=2", []string{"err: error: make_file: failed to allocate inode"}},
			{"image; ROOTFS_PARTSIZE=abc", []string{"err: Need size of filesystem"}},
			{"image; EXTRA_IMAGE_NAME=a/b", nil},
			{"package_depends", []string{"out: Variable `PACKAGE` is not set but required by `package_depends`"}},
		},
		"apk-x86": {
			{"manifest; PROFILE=nope", []string{`out: Profile "nope" does not exist!`}},
			{"manifest; PACKAGES=no-such-package", []string{"err: ERROR: unable to select packages:\n  no-such-package (no such package):\n    required by: world[no-such-package]\n"}},
			{"manifest; PACKAGES=broken-chain", []string{"err:   no-such-library (no such package):\n    required by: broken-dep-1.0-r1[no-such-library]\n"}},
			{"manifest; PACKAGES=kernel-pinned", []string{"err:     breaks: kernel-pinned-1.0-r1[kernel=6.18.35~00000000000000000000000000000000-r1]\n    satisfies: world[kernel="}},
			{"manifest; PACKAGES=conflict-a conflict-b", []string{"err:   conflict-b-1.0-r1:\n    breaks: conflict-a-1.0-r1[!conflict-b]\n    satisfies: world[conflict-b]\n"}},
			{"manifest; PACKAGES=conflict-b conflict-a", []string{"err:     breaks: conflict-a-1.0-r1[!conflict-b]"}},
			{"manifest; PACKAGES=fileclash-a fileclash-b", []string{"err: ERROR: fileclash-b-1.0-r1: trying to overwrite etc/clash.conf owned by fileclash-a-1.0-r1."}},
			{"image; PACKAGES=failing-postinst", []string{"err: postinst script ./lib/apk/db/failing-postinst-1.0-r1.X", "err: .post-install has failed with exit code 3"}},
			{"image; ROOTFS_FILESYSTEM=btrfs", []string{`out: Filesystem "btrfs" is not available!`, "out: Available filesystems: squashfs ext4 targz"}},
			{"image; ROOTFS_PARTSIZE=8; PACKAGES=bigpkg", []string{"err: ext4_allocate_best_fit_partial"}},
			{"package_depends; PACKAGE=nope", nil},
			{"package_list", nil},
		},
	} {
		t.Run(builder, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, treeDir, builder)
			for _, f := range failures {
				t.Run(f.args, func(t *testing.T) {
					r := runMake(t, dir, strings.Split(f.args, "; ")...)
					for i, w := range f.words {
						if strings.HasPrefix(w, ": ") {
							f.words[i] = "err" + w
						}
					}
					r.want(t, 2, f.words...)
					if perlComplaint.MatchString(r.stderr) {
						t.Errorf("perl complains: %s", r.stderr)
					}
				})
			}
		})
	}
}

// What looks like a failure and is none.
func TestNoFailures(t *testing.T) {
	t.Parallel()
	type run struct{ packages, in, out string }
	for builder, runs := range map[string][]run{
		"opkg-x86": {
			// The one that declares a conflict comes first; a package that
			// others need stays; one that is added and removed is removed.
			{"conflict-a conflict-b tmux -tmux -not-there -kmod-nft-core -libubox needs-mta", "conflict-a conflict-b kmod-nft-core libubox20240329 mta-small", "tmux mta-big"},
			{"dnsmasq-full -dnsmasq needs-mta mta-big libustream-openssl -libustream-mbedtls vim-full libncurses6 libnettle luci-app-opkg",
				"dnsmasq-full mta-big libustream-openssl20201210 libncurses6 libnettle8 luci-app-package-manager", "dnsmasq mta-small libustream-mbedtls20201210 vim-runtime"},
		},
		"apk-x86": {
			// dnsmasq-full stands in for dnsmasq; scripts run in image only.
			{"dnsmasq-full needs-mta mta-small failing-postinst libncurses", "dnsmasq-full mta-small failing-postinst libncurses6", "dnsmasq mta-big"},
		},
	} {
		t.Run(builder, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, treeDir, builder)
			for _, c := range runs {
				r := runMake(t, dir, "manifest", "PACKAGES="+c.packages)
				r.want(t, 0)
				m := manifestOf(t, r.stdout)
				for _, name := range strings.Fields(c.in) {
					if m[name] == "" {
						t.Errorf("%s: %s is missing", c.packages, name)
					}
				}
				for _, name := range strings.Fields(c.out) {
					if m[name] != "" {
						t.Errorf("%s: %s is there", c.packages, name)
					}
				}
			}
		})
	}
}

// Too big is no error: exit code 0, the image is gone, and file descriptor 8
// says why, if it is open.
func TestTooBig(t *testing.T) {
	t.Parallel()
	for _, builder := range []string{"opkg-ath79", "apk-ath79"} {
		t.Run(builder, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, treeDir, builder)
			env := []string{"PATH=" + os.Getenv("PATH")}
			for _, c := range []struct {
				profile string
				open    bool
				words   []string
			}{
				{"comfast_cf-e314n-v2", true, []string{"err:     WARNING: Image file /", "err:  is too big: ", "err:  > 8126464\n"}},
				{"comfast_cf-e314n-v2", false, []string{"err: 8: Bad file descriptor"}},
				{"tplink_tl-wr1043nd-v1", true, []string{"err: [mktplinkfw] *** error: images are too big by "}},
			} {
				bin := filepath.Join(t.TempDir(), "bin")
				r := runMakeEnv(t, dir, env, c.open, "image", "PROFILE="+c.profile, "PACKAGES=bigpkg", "BIN_DIR="+bin)
				r.want(t, 0, append(c.words, "out: Skip JSON creation for non existing file /",
					"out: JSON info file script could not find any JSON files for target", "out: Calculating checksums...")...)
				if _, err := os.Stat(filepath.Join(bin, "profiles.json")); err == nil {
					t.Errorf("%s: there is a profiles.json", c.profile)
				}
				if m, _ := filepath.Glob(filepath.Join(bin, "*.bin")); len(m) != 0 {
					t.Errorf("%s: images %v", c.profile, m)
				}
				checkSums(t, bin)
			}
			if builder == "apk-ath79" {
				return
			}
			// The flash of other devices is larger.
			bin := filepath.Join(t.TempDir(), "bin")
			runMake(t, dir, "image", "PROFILE=glinet_gl-ar150", "PACKAGES=bigpkg", "BIN_DIR="+bin).want(t, 0)
			if p := readProfiles(t, bin); len(p.Profiles["glinet_gl-ar150"].Images) != 1 {
				t.Errorf("profiles %+v", p.Profiles)
			}
		})
	}
}

// switchedServer serves the tree, with exceptions.
type switchedServer struct {
	*httptest.Server
	missing atomic.Value      // string: requests with this in their path find nothing
	instead map[string][]byte // content by path; not changed while it serves
}

func serveTree(t *testing.T, instead map[string][]byte) *switchedServer {
	t.Helper()
	s := &switchedServer{instead: instead}
	s.missing.Store("")
	files := http.FileServer(http.Dir(treeDir))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch data, is := s.instead[r.URL.Path]; {
		case s.missing.Load() != "" && strings.Contains(r.URL.Path, s.missing.Load().(string)):
			http.NotFound(w, r)
		case is:
			w.Write(data) //nolint:errcheck // the client sees it
		default:
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// unpackFor unpacks a builder and makes its feeds those of a server.
func (s *switchedServer) unpackFor(t *testing.T, name string) string {
	t.Helper()
	dir := unpack(t, treeDir, name)
	for _, conf := range []string{"repositories", "repositories.conf"} {
		conf = filepath.Join(dir, conf)
		if text, err := os.ReadFile(conf); err == nil {
			if err := os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), treeURL, s.URL)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestFeedsUnreachable(t *testing.T) {
	t.Parallel()
	server := serveTree(t, nil)
	opkg, apk := server.unpackFor(t, "opkg-x86"), server.unpackFor(t, "apk-x86")
	freshOpkg, freshApk := server.unpackFor(t, "opkg-x86"), server.unpackFor(t, "apk-x86")

	// One feed that answers 404.
	server.missing.Store("/luci/")
	url := server.URL + "/releases/24.10.4/packages/x86_64/luci/Packages.gz"
	runMake(t, opkg, "manifest", "PACKAGES=luci").want(t, 2, "err: *** Failed to download the package list from "+url,
		"err:  * opkg_download: Failed to download "+url+", wget returned 8.", "err:  * opkg_install_cmd: Cannot install package luci.")
	runMake(t, apk, "manifest", "PACKAGES=luci").want(t, 2, "err: ERROR: wget: exited with error 8",
		"err: WARNING: updating and opening "+server.URL+"/snapshots/packages/x86_64/luci/packages.adb: unexpected end of file",
		"err:   luci (no such package):")
	server.missing.Store("")
	runMake(t, opkg, "manifest").want(t, 0)
	runMake(t, apk, "manifest").want(t, 0)

	// Nothing there: the lists of before are used, and packages that are in dl.
	server.Close()
	r := runMake(t, opkg, "manifest")
	r.want(t, 0, "err: *** Failed to download the package list from ", "err: wget returned 4.", "err: Check your network settings and connectivity.")
	if m := manifestOf(t, r.stdout); m["dropbear"] == "" {
		t.Error("stale lists are not used")
	}
	runMake(t, opkg, "manifest", "PACKAGES=htop").want(t, 2, "err: opkg_install_pkg: Failed to download htop. Perhaps you need to run 'opkg update'?")
	runMake(t, apk, "manifest").want(t, 0) // asked less than four hours ago
	runMake(t, apk, "manifest", "PACKAGES=htop").want(t, 2, "err: ERROR: wget: exited with error 4", "err: unexpected end of file")
	runMake(t, freshOpkg, "manifest").want(t, 2, "err: wget returned 4.", "err:  * opkg_install_cmd: Cannot install package dropbear.")
	runMake(t, freshApk, "manifest").want(t, 2, "err: ERROR: wget: exited with error 4", "err: dropbear (no such package):")
}

func TestDamagedPackagesAndUnknownKeys(t *testing.T) {
	t.Parallel()
	damaged := map[string][]byte{}
	for _, pattern := range []string{"releases/24.10.4/packages/x86_64/packages/cowsay_*", "snapshots/packages/x86_64/packages/cowsay-*"} {
		names, err := filepath.Glob(filepath.Join(treeDir, pattern))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		data := read(t, names[0])
		data[len(data)/2] ^= 1
		data[150] ^= 1
		damaged[strings.TrimPrefix(names[0], treeDir)] = data
	}
	server := serveTree(t, damaged)
	opkg, apk := server.unpackFor(t, "opkg-x86"), server.unpackFor(t, "apk-x86")
	runMake(t, opkg, "manifest", "PACKAGES=cowsay").want(t, 2, "err: Checksum or size mismatch for package cowsay.")
	runMake(t, apk, "manifest", "PACKAGES=cowsay").want(t, 2, "err: ERROR: cowsay-3.04-r1: file format is invalid or inconsistent")

	fingerprint, _ := sample.TrustedKey()
	if err := os.Rename(filepath.Join(opkg, "keys", fingerprint), filepath.Join(opkg, "keys", "other")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(apk, "keys", "sample.pem")); err != nil {
		t.Fatal(err)
	}
	runMake(t, opkg, "manifest").want(t, 2, "err: Signature check failed.\nRemove wrong Signature file.")
	runMake(t, apk, "manifest").want(t, 2, "err: packages.adb: UNTRUSTED signature")
	conf := filepath.Join(opkg, "repositories.conf")
	text := strings.Replace(string(read(t, conf)), "option check_signature", "", 1)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	runMake(t, opkg, "manifest").want(t, 0)
}

// Feeds by file: and packages that are put into packages/.
func TestLocalPackages(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"opkg-ath79", "apk-ath79"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, treeDir, name)
			pattern := filepath.Join(treeDir, strings.Replace(builderFolder(name), "targets/ath79/generic", "packages/mips_24kc/packages/cowsay*", 1))
			names, err := filepath.Glob(pattern)
			if err != nil || len(names) != 1 {
				t.Fatal(names, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "packages", filepath.Base(names[0])), read(t, names[0]), 0o644); err != nil {
				t.Fatal(err)
			}
			// Every feed but "packages" stays, by file: address.
			conf := filepath.Join(dir, "repositories.conf")
			if name == "apk-ath79" {
				conf = filepath.Join(dir, "repositories")
			}
			var kept []string
			for line := range strings.Lines(string(read(t, conf))) {
				if !strings.Contains(line, "mips_24kc/packages") {
					kept = append(kept, strings.Replace(line, treeURL, "file://"+treeDir, 1))
				}
			}
			if err := os.WriteFile(conf, []byte(strings.Join(kept, "")), 0o644); err != nil {
				t.Fatal(err)
			}
			r := runMake(t, dir, "manifest", "PACKAGES=cowsay -nftables -firewall4")
			r.want(t, 0)
			if m := manifestOf(t, r.stdout); m["cowsay"] != "3.04-r1" {
				t.Errorf("manifest %v", m)
			}
		})
	}
}

package runner

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

var update = flag.Bool("update", false, "write golden files anew")

// recording is a recorded run of a real ImageBuilder.
type recording struct {
	name           string // as "24.10/manifest_missing"
	command        string
	ok             bool
	stdout, stderr string
}

func recordings(t testing.TB) []recording {
	t.Helper()
	paths, err := filepath.Glob("testdata/runs/*/*.rc")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	var all []recording
	for _, path := range paths {
		base := strings.TrimSuffix(path, ".rc")
		read := func(ext string) string {
			data, err := os.ReadFile(base + ext)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return string(data)
		}
		rc := strings.Fields(read(".rc"))
		all = append(all, recording{
			name:    strings.TrimPrefix(base, "testdata/runs/"),
			command: strings.Join(rc[:len(rc)-2], " "),
			ok:      slices.Contains(rc, "rc=0"),
			stdout:  read(".stdout"), stderr: read(".stderr"),
		})
	}
	return all
}

func (f *findings) read(stdout bool, text string) {
	for line := range strings.Lines(text) {
		f.line(stdout, strings.TrimRight(line, "\r\n"))
	}
}

// verdict is what the runner says of a run: of one that ended well only what
// was wrong with its lists or sizes.
func (r recording) verdict(stdoutFirst bool) *imagebuilder.Error {
	var f findings
	if stdoutFirst {
		f.read(true, r.stdout)
		f.read(false, r.stderr)
	} else {
		f.read(false, r.stderr)
		f.read(true, r.stdout)
	}
	switch {
	case !r.ok:
		return f.failure(nil)
	case f.tooBig || f.skipped > 0 || f.noImages:
		return f.tooBigFailure()
	}
	return f.incomplete(nil)
}

func TestVerdicts(t *testing.T) {
	var b strings.Builder
	for _, r := range recordings(t) {
		e := r.verdict(true)
		if other := r.verdict(false); (e == nil) != (other == nil) || e != nil && (e.Code != other.Code || e.Detail != other.Detail) {
			t.Errorf("%s: the verdict depends on which stream is read first:\n%v\n%v", r.name, e, other)
		}
		fmt.Fprintf(&b, "%s: %s\n", r.name, r.command)
		if e == nil {
			b.WriteString("\tgood\n")
			continue
		}
		fmt.Fprintf(&b, "\t%s\n\t%s\n", e.Code, e.Detail)
		if len(e.Unknown) > 0 {
			fmt.Fprintf(&b, "\tunknown: %s\n", strings.Join(e.Unknown, " "))
		}
	}
	const golden = "testdata/verdicts.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

// The words that clients of asu know.
func TestSentences(t *testing.T) {
	tests := map[string]struct {
		stderr string
		code   imagebuilder.Code
		detail string
	}{
		"opkg missing":          {" * opkg_install_cmd: Cannot install package X.\n", imagebuilder.CodePackageMissing, "Error: Impossible package selection: missing (X)"},
		"apk missing, required": {"ERROR: unable to select packages:\n  x (no such package):\n    required by: world[x]\n", imagebuilder.CodePackageMissing, "Error: Impossible package selection: missing (x)"},
		"apk needs reason": {"ERROR: unable to select packages:\n  x (no such package):\n    required by: a-1.0-r1[x]\n                 b-2-r2[x]\n", imagebuilder.CodePackageMissing,
			"Error: Impossible package selection: missing (x). x is needed by a, b."},
		"apk conflicts": {"ERROR: unable to select packages:\n  nft-a-1.1.6-r1:\n    conflicts: nft-b-1.1.6-r1[nft=1.1.6-r1]\n    satisfies: world[nft-a]\n               fw[nft]\n  nft-b-1.1.6-r1:\n    conflicts: nft-a-1.1.6-r1[nft=1.1.6-r1]\n    satisfies: world[nft-b]\n",
			imagebuilder.CodePackageConflict, "Error: Impossible package selection: conflicts (nft-a, nft-b)"},
		"opkg conflict": {"Collected errors:\n * check_conflicts_for: The following packages conflict with a:\n * check_conflicts_for: \tb * \n * opkg_install_cmd: Cannot install package a.\n",
			imagebuilder.CodePackageConflict, "Error: Impossible package selection: conflicts (a, b)"},
		"both": {" * opkg_install_cmd: Cannot install package m.\nERROR: c: trying to overwrite etc/f owned by d.\n", imagebuilder.CodePackageMissing,
			"Error: Impossible package selection: missing (m) conflicts (c, d)"},
		"cannot select, unknown why": {"ERROR: unable to select packages:\n", imagebuilder.CodePackageSelect, "Error: Impossible package selection"},
		"nothing known":              {"", imagebuilder.CodeBuildFailed, "Error: Error while building firmware. See stdout/stderr."},
		"disk full before all":       {" * opkg_install_cmd: Cannot install package X.\ntar: x: No space left on device\n", imagebuilder.CodeNoSpace, "Error: This server's disk is full, so the image could not be built. Please try again later; if it stays, tell the server's operator."},
		"program not found":          {"sh: 1: gawk: not found\n", imagebuilder.CodeBuildFailed, "Error: Error while building firmware. See stdout/stderr. A program was not found: gawk."},
		"script noise is no verdict": {"sh: 1: uci: not found\n * opkg_install_cmd: Cannot install package X.\n", imagebuilder.CodePackageMissing, "Error: Impossible package selection: missing (X)"},
		"other processor":            {"staging_dir/host/bin/opkg: cannot execute binary file: Exec format error\n", imagebuilder.CodeHost, "Error: This release's ImageBuilder is made for another processor than this server has. Its operator can install qemu-user-static with binfmt; `attendant doctor` says more."},
		"architecture":               {" * pkg_hash_fetch_best_installation_candidate: Packages for a found, but incompatible with the architectures configured\n * opkg_install_cmd: Cannot install package a.\n", imagebuilder.CodePackageSelect, "Error: Impossible package selection. a is made for another architecture, which this release has not."},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var f findings
			f.read(false, tt.stderr)
			if e := f.failure(nil); e.Code != tt.code || e.Detail != tt.detail {
				t.Errorf("got  %s %q\nwant %s %q", e.Code, e.Detail, tt.code, tt.detail)
			}
		})
	}
}

// A request's own feed is judged more strictly than the builder's.
func TestIncompleteLists(t *testing.T) {
	const own = "http://feed.example/lime/"
	tests := map[string]struct {
		stderr string
		code   imagebuilder.Code // "" lets it pass
	}{
		"good":                     {"Signature check passed.\n", ""},
		"404 of the builder's":     {" * opkg_download: Failed to download http://up.example/telephony/Packages.gz, wget returned 8.\n*** Failed to download the package list from http://up.example/telephony/Packages.gz\n", ""},
		"404 of the request's":     {" * opkg_download: Failed to download http://feed.example/lime/Packages.gz, wget returned 8.\n", imagebuilder.CodeNoNetwork},
		"no connection":            {" * opkg_download: Failed to download http://up.example/base/Packages.gz, wget returned 4.\n", imagebuilder.CodeNoNetwork},
		"apk, no connection":       {"ERROR: wget: exited with error 4\nWARNING: updating http://up.example/base/packages.adb: unexpected end of file\n", imagebuilder.CodeNoNetwork},
		"apk, 404":                 {"ERROR: wget: exited with error 8\nWARNING: updating and opening http://up.example/x/packages.adb: unexpected end of file\n", ""},
		"signature, builder's":     {"Downloading http://up.example/base/Packages.sig\nSignature check failed.\n", imagebuilder.CodePackageDamaged},
		"signature, request's":     {"Downloading http://feed.example/lime/Packages.sig\nSignature check failed.\n", imagebuilder.CodePackageSelect},
		"signature, apk":           {"WARNING: updating and opening http://feed.example/lime/packages.adb: UNTRUSTED signature\n", imagebuilder.CodePackageSelect},
		"signature, apk, cached":   {"WARNING: opening from cache http://feed.example/lime/packages.adb: UNTRUSTED signature\n", imagebuilder.CodePackageSelect},
		"signature, apk, folder":   {"WARNING: opening /w/4-packages/packages.adb: UNTRUSTED signature\n", imagebuilder.CodePackageDamaged},
		"apk, no packages of own":  {"WARNING: opening /b/packages/packages.adb: No such file or directory\n", ""},
		"signature, local folder":  {"Downloading file:packages/Packages.sig\nSignature check failed.\n", ""},
		"a package, not a list":    {" * opkg_download: Failed to download http://up.example/base/a_1.ipk, wget returned 4.\n", ""},
		"unknown code of a server": {"*** Failed to download the package list from http://up.example/base/Packages.gz\n", imagebuilder.CodeNoNetwork},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var f findings
			f.read(false, tt.stderr)
			e := f.incomplete([]string{own})
			if e == nil && tt.code != "" || e != nil && e.Code != tt.code {
				t.Errorf("got %v, want %q", e, tt.code)
			}
		})
	}
}

func FuzzFindings(f *testing.F) {
	for _, r := range recordings(f) {
		if len(r.stderr) < 4000 {
			f.Add(r.stderr, true)
			f.Add(r.stdout, false)
		}
	}
	f.Fuzz(func(t *testing.T, text string, stderr bool) {
		var found findings
		found.read(!stderr, text)
		for _, e := range []*imagebuilder.Error{found.failure([]string{"http://feed.example/"}), found.incomplete(nil), found.tooBigFailure()} {
			if e == nil {
				continue
			}
			if !strings.HasPrefix(e.Detail, "Error: ") || e.Code == "" || len(e.Detail) > 20<<10 || strings.ContainsAny(e.Detail, "\n") {
				t.Errorf("verdict %s %q", e.Code, e.Detail)
			}
		}
	})
}

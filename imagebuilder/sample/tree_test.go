package sample_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sample"
)

// walk returns every file of a tree: path, mode, time and sum.
func walk(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		files[filepath.ToSlash(rel)] = info.Mode().String() + " " + info.ModTime().UTC().Format(time.RFC3339Nano) + " " + sum(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// slowTree is a second tree, alike but for Options.Slow; written once.
var slowTree = func() func(t *testing.T) string {
	var once sync.Once
	return func(t *testing.T) string {
		t.Helper()
		dir := filepath.Join(treeDir, "..", filepath.Base(treeDir)+"-slow")
		once.Do(func() {
			if err := sample.Write(dir, sample.Options{BaseURL: treeURL + "/", Slow: 1500 * time.Millisecond}); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
}()

// Only what Slow is for differs between two trees: the builders and what
// names their sums.
func TestSameOptionsGiveSameBytes(t *testing.T) {
	t.Parallel()
	first, second := walk(t, treeDir), walk(t, slowTree(t))
	differs := func(name string) bool {
		base := filepath.Base(name)
		return strings.HasSuffix(name, ".tar.zst") || base == "config.buildinfo" || strings.Contains(name, "/targets/") && strings.HasPrefix(base, "sha256sums")
	}
	for name, facts := range first {
		if same := second[name] == facts; same == differs(name) {
			t.Errorf("%s: %s, %s", name, facts, second[name])
		}
	}
	if len(first) != len(second) {
		t.Errorf("%d files, then %d", len(first), len(second))
	}
	// A builder is the same when its release alone is written again.
	for _, b := range builders {
		name := b.folder + "/" + b.archive + ".tar.zst"
		again := sample.Rebuild(t, treeURL, name)
		if sum(again) != sum(read(t, filepath.Join(treeDir, name))) {
			t.Errorf("%s differs when it is made again", name)
		}
	}
}

func TestBadBaseURLIsRefused(t *testing.T) {
	t.Parallel()
	if err := sample.Write(t.TempDir(), sample.Options{BaseURL: "http://x/ \"y"}); err == nil {
		t.Error("a base URL with a space and a quote was taken")
	}
}

func TestEmbeddedSourcesAreSmall(t *testing.T) {
	t.Parallel()
	var size int64
	for _, root := range []string{"builder", "catalogue"} {
		err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			size += info.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if size > 300<<10 {
		t.Errorf("%d bytes are embedded, want at most 300 KiB", size)
	}
}

// usign reads a usign file: the key's number and the rest.
func usign(t *testing.T, data []byte) (number, rest []byte) {
	t.Helper()
	lines := strings.Split(string(data), "\n")
	if len(lines) < 2 || !strings.HasPrefix(lines[0], "untrusted comment: ") {
		t.Fatalf("no usign file: %q", data)
	}
	blob, err := base64.StdEncoding.DecodeString(lines[1])
	if err != nil || len(blob) < 10 || string(blob[:2]) != "Ed" {
		t.Fatalf("no usign blob: %q %v", lines[1], err)
	}
	return blob[2:10], blob[10:]
}

func TestSumsAndSignatures(t *testing.T) {
	t.Parallel()
	fingerprint, pub := sample.TrustedKey()
	if !bytes.Equal(read(t, filepath.Join(treeDir, "keys", fingerprint)), pub) {
		t.Error("keys/<fingerprint> is not the trusted key")
	}
	number, key := usign(t, pub)
	if hex.EncodeToString(number) != fingerprint || len(key) != ed25519.PublicKeySize {
		t.Fatalf("fingerprint %s, number %x, key of %d bytes", fingerprint, number, len(key))
	}
	checked := 0
	verify := func(file, sig string) {
		n, s := usign(t, read(t, sig))
		if !bytes.Equal(n, number) || !ed25519.Verify(key, read(t, file), s) {
			t.Errorf("%s is not signed by the key", file)
		}
		checked++
	}
	for name := range walk(t, treeDir) {
		full := filepath.Join(treeDir, name)
		switch filepath.Base(name) {
		case "sha256sums":
			verify(full, full+".sig")
			listed := map[string]bool{}
			for line := range strings.Lines(string(read(t, full))) {
				want, file, ok := strings.Cut(strings.TrimSpace(line), " *")
				if !ok || sum(read(t, filepath.Join(filepath.Dir(full), file))) != want {
					t.Errorf("%s: %s", name, line)
				}
				listed[file] = true
			}
			if strings.Contains(name, "/targets/") && (!listed["profiles.json"] || !listed["packages/index.json"]) {
				t.Errorf("%s lists %v", name, listed)
			}
		case "Packages":
			verify(full, full+".sig")
		}
	}
	if want := 12 + 2*(2*7); checked != want { // sums of 6 targets and 6 architectures; 7 feeds each of 4 targets
		t.Errorf("%d signatures checked, want %d", checked, want)
	}
}

func TestOpkgIndexes(t *testing.T) {
	t.Parallel()
	for _, release := range []string{"24.10.3", "24.10.4"} {
		base := filepath.Join(treeDir, "releases", release)
		feeds, err := filepath.Glob(filepath.Join(base, "packages/*/*/Packages"))
		if err != nil || len(feeds) != 10 {
			t.Fatalf("%d feeds: %v", len(feeds), err)
		}
		for _, feed := range feeds {
			text := read(t, feed)
			z, err := gzip.NewReader(bytes.NewReader(read(t, feed+".gz")))
			if err != nil {
				t.Fatal(err)
			}
			if unpacked, err := io.ReadAll(z); err != nil || !bytes.Equal(unpacked, text) {
				t.Errorf("%s.gz is another list (%v)", feed, err)
			}
			var index struct {
				Version      int
				Architecture string
				Packages     map[string]string
			}
			if err := json.Unmarshal(read(t, filepath.Join(filepath.Dir(feed), "index.json")), &index); err != nil {
				t.Fatal(err)
			}
			if wantVersion := map[string]int{"24.10.3": 0, "24.10.4": 2}[release]; index.Version != wantVersion {
				t.Errorf("%s: index.json version %d, want %d", feed, index.Version, wantVersion)
			}
			stanzas := strings.Split(strings.TrimSpace(string(text)), "\n\n")
			if len(stanzas) != len(index.Packages) {
				t.Errorf("%s: %d stanzas, %d in index.json", feed, len(stanzas), len(index.Packages))
			}
			for _, stanza := range stanzas {
				f := fields(stanza)
				ipk := read(t, filepath.Join(filepath.Dir(feed), f["Filename"]))
				if f["SHA256sum"] != sum(ipk) {
					t.Errorf("%s: sum of %s", feed, f["Package"])
				}
				name := f["Package"]
				if index.Version == 2 {
					name = strings.TrimSuffix(strings.TrimSuffix(name, f["ABIVersion"]), "-")
				}
				if index.Packages[name] != f["Version"] {
					t.Errorf("%s: index.json has %s %q, want %q", feed, name, index.Packages[name], f["Version"])
				}
				if !imagebuilder.ValidPackageName(f["Package"]) || !imagebuilder.ValidPackageVersion(f["Version"]) {
					t.Errorf("%s: %s %s breaks the grammar", feed, f["Package"], f["Version"])
				}
			}
		}
	}
}

func fields(stanza string) map[string]string {
	f := map[string]string{}
	for line := range strings.Lines(stanza) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); ok {
			f[name] = value
		}
	}
	return f
}

// adbBlocks unpacks an apk v3 file: schema and blocks by type.
func adbBlocks(t *testing.T, data []byte) (schema string, blocks map[uint32][][]byte) {
	t.Helper()
	if bytes.HasPrefix(data, []byte("ADBd")) {
		body, err := io.ReadAll(flate.NewReader(bytes.NewReader(data[4:])))
		if err != nil {
			t.Fatal(err)
		}
		data = body
	}
	if !bytes.HasPrefix(data, []byte("ADB.")) {
		t.Fatalf("magic %q", data[:4])
	}
	schema, blocks = string(data[4:8]), map[uint32][][]byte{}
	for rest := data[8:]; len(rest) > 0; {
		word := binary.LittleEndian.Uint32(rest)
		size := int(word & 0x3fffffff)
		blocks[word>>30] = append(blocks[word>>30], rest[4:size])
		rest = rest[(size+7)&^7:]
	}
	return schema, blocks
}

func TestApkIndexes(t *testing.T) {
	t.Parallel()
	builder := unpack(t, treeDir, "apk-x86")
	p, _ := pem.Decode(read(t, filepath.Join(builder, "keys/sample.pem")))
	parsed, err := x509.ParsePKIXPublicKey(p.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*ecdsa.PublicKey)
	point, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	id := sha512.Sum512(point)
	indexes, err := filepath.Glob(filepath.Join(treeDir, "snapshots/packages/*/*/packages.adb"))
	if err != nil || len(indexes) != 10 {
		t.Fatalf("%d indexes: %v", len(indexes), err)
	}
	for _, name := range indexes {
		schema, blocks := adbBlocks(t, read(t, name))
		if schema != "indx" || len(blocks[0]) != 1 || len(blocks[1]) != 1 {
			t.Fatalf("%s: schema %q, %d containers, %d signatures", name, schema, len(blocks[0]), len(blocks[1]))
		}
		sig := blocks[1][0]
		digest := sha512.Sum512(blocks[0][0])
		signed := sha512.New()
		signed.Write([]byte(schema))
		signed.Write(sig[:18])
		signed.Write(digest[:])
		if !bytes.Equal(sig[2:18], id[:16]) || !ecdsa.VerifyASN1(key, signed.Sum(nil), sig[18:]) {
			t.Errorf("%s is not signed by the key in the builder", name)
		}
		// Every package's container has the hash that the index holds.
		packages, err := filepath.Glob(filepath.Join(filepath.Dir(name), "*.apk"))
		if err != nil || len(packages) == 0 {
			t.Fatalf("%s: no packages (%v)", name, err)
		}
		for _, apk := range packages {
			schema, inner := adbBlocks(t, read(t, apk))
			hash, err := hex.DecodeString(sum(inner[0][0]))
			if err != nil || schema != "pckg" || !bytes.Contains(blocks[0][0], hash) {
				t.Errorf("%s: schema %q, not in the index", apk, schema)
			}
		}
	}
}

func TestTopFiles(t *testing.T) {
	t.Parallel()
	var versions struct {
		Stable string   `json:"stable_version"`
		List   []string `json:"versions_list"`
	}
	if err := json.Unmarshal(read(t, filepath.Join(treeDir, ".versions.json")), &versions); err != nil {
		t.Fatal(err)
	}
	if versions.Stable != "24.10.4" || !slices.Equal(versions.List, []string{"24.10.4", "24.10.3"}) {
		t.Errorf("versions %+v", versions)
	}
	for _, p := range []string{"releases/24.10.3", "releases/24.10.4", "snapshots"} {
		var archs map[string]string
		if err := json.Unmarshal(read(t, filepath.Join(treeDir, p, ".targets.json")), &archs); err != nil {
			t.Fatal(err)
		}
		if archs["x86/64"] != "x86_64" || archs["ath79/generic"] != "mips_24kc" || len(archs) != 2 {
			t.Errorf("%s: targets %v", p, archs)
		}
		var overview struct {
			Release  string
			ImageURL string `json:"image_url"`
			Profiles []struct{ ID, Target string }
		}
		if err := json.Unmarshal(read(t, filepath.Join(treeDir, p, ".overview.json")), &overview); err != nil {
			t.Fatal(err)
		}
		if len(overview.Profiles) != 9 || !strings.HasPrefix(overview.ImageURL, treeURL+"/") {
			t.Errorf("%s: overview %+v", p, overview)
		}
		for arch := range map[string]bool{"x86_64": true, "mips_24kc": true} {
			for line := range strings.Lines(string(read(t, filepath.Join(treeDir, p, "packages", arch, "feeds.conf")))) {
				words := strings.Fields(line)
				if len(words) != 3 || words[0] != "src-git" {
					t.Fatalf("feeds.conf: %q", line)
				}
				if _, err := os.Stat(filepath.Join(treeDir, p, "packages", arch, words[1], "index.json")); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func TestTargetFolders(t *testing.T) {
	t.Parallel()
	for _, b := range builders {
		folder := filepath.Join(treeDir, b.folder)
		p := readProfiles(t, folder)
		for id, profile := range p.Profiles {
			if !imagebuilder.ValidProfileID(id) || len(profile.Images) == 0 || len(profile.Titles) != 1 {
				t.Errorf("%s: %s: %+v", b.name, id, profile)
			}
			for _, image := range profile.Images {
				data := read(t, filepath.Join(folder, image.Name))
				if sum(data) != image.SHA256 {
					t.Errorf("%s: sum of %s", b.name, image.Name)
				}
			}
		}
		index := map[string]bool{}
		kmods := "kmods/" + p.LinuxKernel["version"] + "-" + p.LinuxKernel["release"] + "-" + p.LinuxKernel["vermagic"]
		for _, name := range []string{"packages", kmods} {
			var doc struct{ Packages map[string]string }
			if err := json.Unmarshal(read(t, filepath.Join(folder, name, "index.json")), &doc); err != nil {
				t.Fatal(err)
			}
			for pkg := range doc.Packages {
				index[pkg] = true
			}
		}
		if !index["kernel"] || !index["kmod-nft-core"] {
			t.Errorf("%s: kernel packages are missing in %v", b.name, index)
		}
		if got := string(read(t, filepath.Join(folder, "version.buildinfo"))); got != p.VersionCode+"\n" {
			t.Errorf("%s: version.buildinfo %q", b.name, got)
		}
	}
}

// The two things that the releases do to packages.
func TestRenamedAndSplitPackages(t *testing.T) {
	t.Parallel()
	packages := func(path string) map[string]string {
		all := map[string]string{}
		for _, feed := range []string{"base", "packages", "luci"} {
			var doc struct{ Packages map[string]string }
			if err := json.Unmarshal(read(t, filepath.Join(treeDir, path, "packages/x86_64", feed, "index.json")), &doc); err != nil {
				t.Fatal(err)
			}
			for name, version := range doc.Packages {
				all[name] = version
			}
		}
		return all
	}
	older, newer, snapshot := packages("releases/24.10.3"), packages("releases/24.10.4"), packages("snapshots")
	for _, c := range []struct {
		name string
		in   [3]bool
	}{
		{"auc", [3]bool{true, false, false}},
		{"owut", [3]bool{false, true, true}},
		{"vim-full", [3]bool{true, true, true}},
		{"vim-runtime", [3]bool{false, true, true}},
		{"opkg", [3]bool{true, true, false}},
		{"apk-mbedtls", [3]bool{false, false, true}},
	} {
		for i, index := range []map[string]string{older, newer, snapshot} {
			if _, is := index[c.name]; is != c.in[i] {
				t.Errorf("%s in release %d: %v", c.name, i, is)
			}
		}
	}
	if older["libubox20240329"] == "" || newer["libubox"] == "" {
		t.Error("index.json version 1 has ABI names, version 2 has none")
	}
}

package upstream

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"
)

// unpackTar unpacks an archive that is not compressed into a new folder below
// another one, and wants nothing outside it.
func unpackTar(t testing.TB, data []byte, x *extraction) (dir, top string, err error) {
	t.Helper()
	outer := t.TempDir()
	dir = filepath.Join(outer, "inner")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	x.disk = realDisk()
	if x.maxBytes == 0 {
		x.maxBytes = 1 << 20
	}
	if x.maxEntries == 0 {
		x.maxEntries = 1000
	}
	top, err = x.untar(bytes.NewReader(data), dir)
	checkConfined(t, outer, dir)
	return dir, top, err
}

// checkConfined wants nothing beside dir, and in it nothing but files, folders
// and links without set-id bits.
func checkConfined(t testing.TB, outer, dir string) {
	t.Helper()
	entries, err := os.ReadDir(outer)
	if err != nil || len(entries) != 1 {
		t.Fatalf("beside the folder lies %v, %v", entries, err)
	}
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostileArchives(t *testing.T) {
	top := entry{name: "ib/", kind: tar.TypeDir, mode: 0o755}
	file := entry{name: "ib/file", body: "x"}
	tests := []struct {
		name    string
		entries []entry
		want    string
	}{
		{"dot-dot", []entry{top, {name: "ib/../../evil", body: "x"}}, "leads outside"},
		{"dot-dot at once", []entry{{name: "../evil", body: "x"}}, "leads outside"},
		{"absolute", []entry{top, {name: "/tmp/evil", body: "x"}}, "leads outside"},
		{"link up", []entry{top, {name: "ib/l", kind: tar.TypeSymlink, link: "../../etc"}}, "leads outside"},
		{"link up by detour", []entry{top, {name: "ib/l", kind: tar.TypeSymlink, link: "a/b/../../../../x"}}, "leads outside"},
		{"through a link", []entry{top, {name: "ib/l", kind: tar.TypeSymlink, link: "/tmp"}, {name: "ib/l/evil", body: "x"}}, "no folder"},
		{"through an inner link", []entry{top, {name: "ib/d/", kind: tar.TypeDir}, {name: "ib/l", kind: tar.TypeSymlink, link: "d"}, {name: "ib/l/x", body: "x"}}, "no folder"},
		{"over a link", []entry{top, {name: "ib/l", kind: tar.TypeSymlink, link: "/etc/passwd"}, {name: "ib/l", body: "x"}}, "twice"},
		{"folder over a link", []entry{top, {name: "ib/l", kind: tar.TypeSymlink, link: "/etc"}, {name: "ib/l/", kind: tar.TypeDir}}, "twice"},
		{"a link to the link's place", []entry{{name: "ib", kind: tar.TypeSymlink, link: "/tmp"}, {name: "ib/x", body: "x"}}, "top folder"},
		{"below a file", []entry{top, file, {name: "ib/file/x", body: "x"}}, "no folder"},
		{"hard link out", []entry{top, {name: "ib/h", kind: tar.TypeLink, link: "../../etc/passwd"}}, "leads outside"},
		{"hard link to the host", []entry{top, {name: "ib/h", kind: tar.TypeLink, link: "/etc/passwd"}}, "leads outside"},
		{"hard link to nothing", []entry{top, {name: "ib/h", kind: tar.TypeLink, link: "ib/none"}}, "no file of the archive"},
		{"hard link to a link", []entry{top, {name: "ib/l", kind: tar.TypeSymlink, link: "/etc/passwd"}, {name: "ib/h", kind: tar.TypeLink, link: "ib/l"}}, "no file of the archive"},
		{"character device", []entry{top, {name: "ib/null", kind: tar.TypeChar}}, "neither file"},
		{"block device", []entry{top, {name: "ib/sda", kind: tar.TypeBlock}}, "neither file"},
		{"pipe", []entry{top, {name: "ib/pipe", kind: tar.TypeFifo}}, "neither file"},
		{"two tops", []entry{top, file, {name: "other/", kind: tar.TypeDir}}, "more than one top folder"},
		{"a file beside", []entry{top, {name: "beside", body: "x"}}, "more than one top folder"},
		{"the marker as top", []entry{{name: "builder.json/", kind: tar.TypeDir}}, "top folder is called"},
		{"a top with a space", []entry{{name: "i b/", kind: tar.TypeDir}}, "top folder is called"},
		{"a hidden top", []entry{{name: ".ib/", kind: tar.TypeDir}}, "top folder is called"},
		{"nothing", nil, "no top folder"},
		{"too big", []entry{top, {name: "ib/a", body: strings.Repeat("x", 600)}, {name: "ib/b", body: strings.Repeat("x", 600)}}, "more than 1000 bytes"},
		{"too many", []entry{top, file, {name: "ib/1"}, {name: "ib/2"}, {name: "ib/3"}, {name: "ib/4"}, {name: "ib/5"}, {name: "ib/6"}, {name: "ib/7"}}, "more than 8 entries"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := unpackTar(t, tarOf(t, tt.entries...), &extraction{maxBytes: 1000, maxEntries: 8})
			if !errors.Is(err, errArchive) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestDeepFoldersAreBounded(t *testing.T) {
	entries := []entry{{name: "ib/", kind: tar.TypeDir}}
	for i := range 7 {
		entries = append(entries, entry{name: fmt.Sprintf("ib/%d/%sx", i, strings.Repeat("d/", 100)), body: "x"})
	}
	_, _, err := unpackTar(t, tarOf(t, entries...), &extraction{maxEntries: 20})
	if !errors.Is(err, errArchive) {
		t.Errorf("error %v", err)
	}
}

// TestGoodArchive wants an ImageBuilder as make needs it: modes, links, times.
func TestGoodArchive(t *testing.T) {
	dir, top, err := unpackTar(t, tarOf(t,
		entry{name: "./", kind: tar.TypeDir, mode: 0o700},
		entry{name: "./ib/", kind: tar.TypeDir, mode: 0o2775},
		entry{name: "./ib/Makefile", body: "all:\n", mode: 0o600},
		entry{name: "./ib/run", body: "#!/bin/sh\n", mode: 0o6711},
		entry{name: "./ib/deep/er/file", body: "no folder came before"},
		entry{name: "./ib/abs", kind: tar.TypeSymlink, link: "/usr/bin/env"},
		entry{name: "./ib/rel", kind: tar.TypeSymlink, link: "deep/../Makefile"},
		entry{name: "./ib/hard", kind: tar.TypeLink, link: "./ib/Makefile"},
		entry{name: "./ib/", kind: tar.TypeDir, mode: 0o755},
	), &extraction{})
	if err != nil || top != "ib" {
		t.Fatalf("top %q, %v", top, err)
	}
	for name, want := range map[string]fs.FileMode{"ib/Makefile": 0o644, "ib/run": 0o755, "ib/hard": 0o644, "ib": fs.ModeDir | 0o755} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
		if !info.ModTime().Equal(time.Unix(1700000000, 0)) {
			t.Errorf("%s: time %v", name, info.ModTime())
		}
	}
	for name, want := range map[string]string{"ib/abs": "/usr/bin/env", "ib/rel": "deep/../Makefile"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v", name, got, err)
		}
	}
}

func xzOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := xz.NewWriter(&buf)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func runArchive(ctx context.Context, t testing.TB, data []byte) error {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	x := &extraction{disk: realDisk(), maxBytes: 1 << 20, maxEntries: 100}
	_, err := x.run(ctx, name, t.TempDir())
	return err
}

func TestCompression(t *testing.T) {
	plain := tarOf(t, entry{name: "ib/", kind: tar.TypeDir}, entry{name: "ib/a", body: strings.Repeat("some text ", 10_000)})
	bomb := tarOf(t, entry{name: "ib/", kind: tar.TypeDir}, entry{name: "ib/zeros", body: strings.Repeat("\x00", 2<<20)})
	tail := append(bytes.Clone(plain), make([]byte, 17<<20)...)
	big := xzOf(t, plain)
	big[12+4] = 40 // the dictionary: 4 GB
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		data []byte
		want error
	}{
		{"zst", t.Context(), zst(t, plain), nil},
		{"xz", t.Context(), xzOf(t, plain), nil},
		{"gzip", t.Context(), []byte("\x1f\x8b\x08 and so on and so forth"), errArchive},
		{"empty", t.Context(), nil, errArchive},
		{"zst cut short", t.Context(), zst(t, plain)[:len(zst(t, plain))-20], errArchive},
		{"xz cut short", t.Context(), xzOf(t, plain)[:len(xzOf(t, plain))-20], errArchive},
		{"zst of a tar cut short", t.Context(), zst(t, plain[:len(plain)/2]), errArchive},
		{"zst bomb", t.Context(), zst(t, bomb), errArchive},
		{"xz bomb", t.Context(), xzOf(t, bomb), errArchive},
		{"a long tail", t.Context(), zst(t, tail), errArchive},
		{"huge xz dictionary", t.Context(), big, errArchive},
		{"huge zst window", t.Context(), []byte("\x28\xb5\x2f\xfd\x00\xb0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), errArchive},
		{"ended", ended, zst(t, plain), context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := runArchive(tt.ctx, t, tt.data); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzUntar(f *testing.F) {
	f.Add(tarOf(f, entry{name: "ib/", kind: tar.TypeDir}, entry{name: "ib/a", body: "x", mode: 0o4755},
		entry{name: "ib/l", kind: tar.TypeSymlink, link: "/etc"}, entry{name: "ib/l/x", body: "x"}))
	f.Add(tarOf(f, entry{name: "ib/../../x", body: "x"}))
	f.Add(tarOf(f, entry{name: "ib/", kind: tar.TypeDir}, entry{name: "ib/h", kind: tar.TypeLink, link: "/etc/passwd"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, top, err := unpackTar(t, data, &extraction{})
		if err == nil && !validTop(top) {
			t.Fatalf("top folder %q", top)
		}
	})
}

func FuzzArchive(f *testing.F) {
	plain := tarOf(f, entry{name: "ib/", kind: tar.TypeDir}, entry{name: "ib/a", body: "x"})
	f.Add(zst(f, plain))
	f.Add(xzOf(f, plain))
	f.Fuzz(func(t *testing.T, data []byte) {
		if runArchive(t.Context(), t, data) == nil && len(data) < 20 {
			t.Fatal("an ImageBuilder in less than 20 bytes")
		}
	})
}

// BenchmarkUnpack unpacks 2,000 files of 16 kB, as an ImageBuilder has them,
// closes the folders and makes all of it durable.
func BenchmarkUnpack(b *testing.B) {
	entries := []entry{{name: "ib/", kind: tar.TypeDir}}
	for i := range 2000 {
		body := strings.Repeat(fmt.Sprintf("line %d of a script or a package list\n", i*7919), 400)
		entries = append(entries, entry{name: fmt.Sprintf("ib/%d/%d", i/50, i), body: body})
	}
	plain := tarOf(b, entries...)
	for _, c := range []struct {
		ext  string
		data []byte
	}{{"zst", zst(b, plain)}, {"xz", xzOf(b, plain)}} {
		b.Run(c.ext, func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "archive")
			if err := os.WriteFile(name, c.data, 0o644); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				dir := b.TempDir()
				x := &extraction{disk: realDisk(), maxBytes: 1 << 30, maxEntries: maxEntries}
				if _, err := x.run(b.Context(), name, dir); err != nil {
					b.Fatal(err)
				}
				if _, err := seal(dir); err != nil {
					b.Fatal(err)
				}
				if err := syncTree(dir); err != nil {
					b.Fatal(err)
				}
				if err := removeTree(dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Upstream's archives are made by several threads of xz, which writes both
// sizes into the block's header, before the filter.
func TestXZDictionaryBehindSizes(t *testing.T) {
	header := make([]byte, 12)
	size := bytes.Repeat([]byte{0x80}, 8)
	for name, block := range map[string][]byte{
		"no sizes":    {0x02, 0x00, 0x21, 0x01, 0x16},
		"short sizes": {0x03, 0xc0, 0x80, 0x01, 0x80, 0x80, 0x01, 0x21, 0x01, 0x16},
		"long sizes":  slices.Concat([]byte{0x07, 0xc0}, size, []byte{0x01}, size, []byte{0x01}, []byte{0x21, 0x01, 0x16}),
	} {
		if got, ok := xzDictionary(append(header[:12:12], block...)); !ok || got != 8<<20 {
			t.Errorf("%s: %d %v", name, got, ok)
		}
	}
}

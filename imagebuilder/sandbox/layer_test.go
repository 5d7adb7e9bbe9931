package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sharedTree is a read-only tree as an unpacked ImageBuilder is.
func sharedTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shared")
	write := func(name, content string, mode fs.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("Makefile", "all:\n", 0o444)
	write("packages/Packages", "old\n", 0o444)
	write("packages/removed", "old\n", 0o444)
	write("scripts/tool", "#!/bin/sh\necho tool\n", 0o555)
	if err := os.Symlink("../scripts/tool", filepath.Join(dir, "packages", "link")); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1_600_000_000, 123_456_789)
	if err := os.Chtimes(filepath.Join(dir, "Makefile"), old, old); err != nil {
		t.Fatal(err)
	}
	readOnly(t, dir)
	return dir
}

func readOnly(t testing.TB, dir string) {
	t.Helper()
	chmod := func(mode fs.FileMode) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, mode)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	chmod(0o555)
	t.Cleanup(func() { chmod(0o755) })
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		b.WriteString(rel + " " + d.Type().String())
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.Write(data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func methods(t *testing.T) []Method {
	a, err := Probe(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if !a.Overlay {
		t.Logf("no overlays here: %v", a.OverlayError)
		return []Method{Copy}
	}
	return []Method{Overlay, Copy}
}

func TestLayer(t *testing.T) {
	for _, method := range methods(t) {
		t.Run(string(method), func(t *testing.T) {
			lower := sharedTree(t)
			before := tree(t, lower)
			dir := filepath.Join(t.TempDir(), "layer")
			l, err := NewLayer(lower, dir, method)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.WriteFile("keys/0123", []byte("key")); err != nil {
				t.Fatal(err)
			}
			if err := l.WriteFile("packages/Packages", []byte("new\n")); err != nil {
				t.Fatal(err)
			}
			run := func(script string) []string {
				t.Helper()
				var h heard
				c := h.command("", "sh", "-ec", script)
				c.Layer = l
				result, err := c.Run(t.Context())
				if err != nil || result.ExitCode != 0 {
					t.Fatalf("%s: %+v, %v, %q", script, result, err, h.err)
				}
				return h.out
			}
			got := run(`pwd; cat packages/Packages keys/0123; echo; cat packages/removed; packages/link
				echo more >>Makefile; echo rewritten >packages/removed; rm packages/link; mkdir -p new/er; echo x >new/er/file; mv scripts/tool scripts/moved`)
			want := []string{l.Path(), "new", "key", "old", "tool"}
			if strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("first run\n got %q\nwant %q", got, want)
			}
			got = run(`pwd; cat Makefile packages/removed new/er/file; ls scripts; [ ! -e packages/link ]`)
			want = []string{l.Path(), "all:", "more", "rewritten", "x", "moved"}
			if strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("second run\n got %q\nwant %q", got, want)
			}
			if data, err := l.ReadFile("Makefile"); err != nil || string(data) != "all:\nmore\n" {
				t.Errorf("ReadFile of what was changed: %q, %v", data, err)
			}
			if data, err := l.ReadFile("packages/Packages"); err != nil || string(data) != "new\n" {
				t.Errorf("ReadFile of what was written: %q, %v", data, err)
			}
			if _, err := l.ReadFile("none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("ReadFile of nothing: %v", err)
			}
			if _, err := l.ReadFile("../../../etc/passwd"); err == nil {
				t.Error("ReadFile left the view")
			}
			if err := l.WriteFile("../outside", nil); err == nil {
				t.Error("WriteFile left the view")
			}
			if after := tree(t, lower); after != before {
				t.Errorf("the shared tree changed:\n%s\nwas\n%s", after, before)
			}
			if err := l.Remove(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the layer is still there: %v", err)
			}
		})
	}
}

func TestLayerRefusesPaths(t *testing.T) {
	lower := sharedTree(t)
	for _, dir := range []string{"/tmp/with space", "relative", "/tmp/a,b", "/tmp/a:b", "/tmp/$(x)", "/tmp/a\nb", `/tmp/a\b`} {
		if _, err := NewLayer(lower, dir, Overlay); !errors.Is(err, ErrPath) {
			t.Errorf("NewLayer in %q: %v", dir, err)
		}
		if _, err := NewLayer(dir, filepath.Join(t.TempDir(), "l"), Copy); !errors.Is(err, ErrPath) {
			t.Errorf("NewLayer over %q: %v", dir, err)
		}
	}
	if _, err := NewLayer(filepath.Join(lower, "Makefile"), filepath.Join(t.TempDir(), "l"), Copy); err == nil {
		t.Error("a layer over a file")
	}
	if _, err := NewLayer(lower, filepath.Join(t.TempDir(), "l"), "hardlinks"); err == nil {
		t.Error("an unknown method")
	}
}

func TestOverlayThatCannotBeMounted(t *testing.T) {
	l, err := NewLayer(sharedTree(t), filepath.Join(t.TempDir(), "layer"), Overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(l.dir, "work")); err != nil {
		t.Fatal(err)
	}
	c := Command{Args: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}, Layer: l}
	if _, err := c.Run(t.Context()); !errors.Is(err, ErrOverlay) {
		t.Errorf("got %v, want ErrOverlay", err)
	}
}

func TestCopyTree(t *testing.T) {
	from := sharedTree(t)
	to := filepath.Join(t.TempDir(), "copy")
	if err := CopyTree(from, to); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, to), tree(t, from); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, name := range []string{"", "Makefile", "packages", "scripts/tool"} {
		a, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		if !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%q: time %s became %s", name, a.ModTime(), b.ModTime())
		}
		if want := a.Mode() | 0o200; b.Mode()&^0o500 != want&^0o500 || b.Mode()&0o200 == 0 {
			t.Errorf("%q: mode %s became %s", name, a.Mode(), b.Mode())
		}
	}
	if link, err := os.Readlink(filepath.Join(to, "packages/link")); err != nil || link != "../scripts/tool" {
		t.Errorf("the link became %q, %v", link, err)
	}
}

func TestRemoveAllOfClosedFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	if err := os.MkdirAll(filepath.Join(dir, "b", "c", "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b/c/d", "b/c", "b"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
	if err := RemoveAll(dir); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
}

func TestRemoveAllAsAnotherUser(t *testing.T) {
	asNobody(t, "^TestRemoveAllOfClosedFolders$")
}

// BenchmarkLayer makes a view of a tree of 36 MB in 2,000 files, runs `true`
// in it and removes it.
func BenchmarkLayer(b *testing.B) {
	lower := filepath.Join(b.TempDir(), "shared")
	content := make([]byte, 18<<10)
	for i := range 2000 {
		dir := filepath.Join(lower, "folder", string(rune('a'+i%20)), string(rune('a'+i/20%20)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, time.Duration(i).String()), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, method := range []Method{Overlay, Copy} {
		b.Run(string(method), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "layer")
			for b.Loop() {
				l, err := NewLayer(lower, dir, method)
				if err != nil {
					b.Fatal(err)
				}
				c := Command{Args: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}, Layer: l}
				if _, err := c.Run(b.Context()); err != nil {
					b.Fatal(err)
				}
				if err := l.Remove(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package feeds_test

import (
	"bytes"
	"compress/flate"
	"crypto"
	"encoding/binary"
	"errors"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// container writes values of an ADB container.
type container struct{ bytes.Buffer }

func (c *container) text(s string) uint32 {
	at := uint32(c.Len())
	c.WriteByte(byte(len(s)))
	c.WriteString(s)
	return 0x80000000 | at
}

func (c *container) list(values ...uint32) uint32 {
	for c.Len()%4 != 0 {
		c.WriteByte(0)
	}
	at := uint32(c.Len())
	c.Write(words(uint32(len(values) + 1)))
	c.Write(words(values...))
	return 0xe0000000 | at
}

func words(values ...uint32) []byte {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, v)
	}
	return data
}

// index finishes the container as a plain index of that list of packages.
func (c *container) index(packages uint32) []byte {
	root := c.list(0, packages)
	data := c.Bytes()
	copy(data[4:], words(root))
	return append(append([]byte("ADB.indx"), words(uint32(len(data)+4))...), data...)
}

func newContainer() *container {
	c := &container{}
	c.Write(make([]byte, 8))
	return c
}

// entry is a package's description with one field set to a value.
func (c *container) entry(field int, value uint32) uint32 {
	values := make([]uint32, 21)
	values[0], values[1], values[2] = c.text("a"), c.text("1"), c.text(strings.Repeat("h", 32))
	values[field-1] = value
	return c.list(values...)
}

// bomb is what begins with data and unpacks to 200 MB of nothing more: one MB
// that is packed behind another reads the same behind each.
func bomb(t testing.TB, data []byte) []byte {
	t.Helper()
	out := bytes.NewBufferString("ADBd")
	w, err := flate.NewWriter(out, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	nothing := make([]byte, 1<<20)
	w.Write(append(data, nothing...))
	w.Flush()
	begin := out.Len()
	w.Write(nothing)
	w.Flush()
	again := bytes.Clone(out.Bytes()[begin:])
	for range 198 {
		out.Write(again)
	}
	w.Close()
	return out.Bytes()
}

func deflated(t testing.TB, data []byte) []byte {
	t.Helper()
	out := bytes.NewBufferString("ADBd")
	w, err := flate.NewWriter(out, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return out.Bytes()
}

// Packages of the index in TestADBHostile: field 15 are dependencies, 16 what
// it provides, 21 tags, 13 the file's size, 20 the layer.
func TestADBHostile(t *testing.T) {
	one := func(field int, value func(c *container) uint32) []byte {
		c := newContainer()
		return c.index(c.list(c.entry(field, value(c))))
	}
	at := func(v uint32) func(*container) uint32 { return func(*container) uint32 { return v } }
	overlapping := func() []byte {
		c := newContainer()
		begin := c.Len()
		for range 5000 {
			c.Write(words(4000)) // the length of a list, and an entry of those before
		}
		c.Write(make([]byte, 20_000))
		var packages []uint32
		for i := range 5000 {
			packages = append(packages, c.entry(21, 0xe0000000|uint32(begin+4*i)))
		}
		return c.index(c.list(packages...))
	}
	huge := func(kind string, size uint32) []byte {
		return append([]byte("ADB.indx"+kind), words(size, 0, 0, 0)...)
	}
	extended := append([]byte("ADB.indx"), append(words(3<<30, 0), binary.LittleEndian.AppendUint64(nil, 1<<60)...)...)
	tests := []struct {
		name string
		data []byte
		want string // of the error, a pattern
	}{
		{"nothing", nil, "not a package index"},
		{"a web page", []byte("<html>"), "not a package index"},
		{"an opkg index", []byte("Package: a\n"), "not a package index"},
		{"only the magic", []byte("ADB."), "at byte 4: the index is cut short"},
		{"a package", []byte("ADB.pckg"), "not a package index"},
		{"no blocks", []byte("ADB.indx"), "at byte 8: the index is cut short"},
		{"another compression", []byte("ADBc\x07\x00rest"), "at byte 4: unknown compression 7"},
		{"another kind of compression", []byte("ADBx"), `at byte 3: unknown compression 'x'`},
		{"cut in the compression header", []byte("ADBc\x02"), "at byte 4: the index is cut short"},
		{"deflated nonsense", []byte("ADBd\xff\xff\xff\xff"), "at byte 0: "},
		{"zstd nonsense", []byte("ADBc\x02\x00nonsense"), "at byte 0: "},
		{"compressed twice", deflated(t, deflated(t, []byte("ADB.indx"))), "no apk v3 file within"},
		{"200 MB declared", huge("", 200<<20), "at byte 8: a container of 209715196 bytes: the index is too large"},
		{"30 MB declared", huge("", 30<<20), "at byte 24: the index is cut short"},
		{"a block without room for its header", huge("", 2), "at byte 8: "},
		{"an exabyte declared", extended, "at byte 8: "},
		{"a bomb", bomb(t, append([]byte("ADB.indx"), words(200<<20)...)), "too large"},
		{"a signature first", huge("", 1<<30|16), "at byte 8: a block of kind 1 comes first"},
		{"another version", append([]byte("ADB.indx"), words(16, 1, 0, 0)...), "at byte 12: unknown version 1"},
		{"text for a list", func() []byte { c := newContainer(); return c.index(c.text("no list")) }(), "at byte 20: a value of type 0x8 instead of a list"},
		{"a list outside", func() []byte { return newContainer().index(0xe0ffffff) }(), "at byte 16777227: 4 bytes outside"},
		{"a list longer than the container", func() []byte { c := newContainer(); c.Write(words(100)); return c.index(0xe0000008) }(), "at byte 20: 400 bytes outside"},
		{"a billion packages", func() []byte { c := newContainer(); c.Write(words(1 << 30)); return c.index(0xe0000008) }(), "a list of 1073741823 values"},
		{"a list of length 0", func() []byte { c := newContainer(); c.Write(words(0)); return c.index(0xe0000008) }(), "a list of -1 values"},
		{"a name outside", one(1, at(0x80ffffff)), "package 1 of 1: at byte 16777227: 1 bytes outside"},
		{"a long text outside", one(4, func(c *container) uint32 {
			c.Write(words())
			at := c.Len()
			c.Write([]byte{0xff, 0xff, 0xff, 0xff})
			return 0xa0000000 | uint32(at)
		}), "4294967295 bytes outside"},
		{"a number for a name", one(1, at(0x10000001)), "instead of text"},
		{"text for a number", one(13, func(c *container) uint32 { return c.text("12") }), "instead of a number"},
		{"a number outside", one(13, at(0x30fffff0)), "8 bytes outside"},
		{"a cycle", one(15, func(c *container) uint32 {
			at := (c.Len() + 3) &^ 3
			return c.list(0xe0000000 | uint32(at))
		}), "instead of text"},
		{"lists that overlap", overlapping(), "more relations than there can be"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			x, err := feeds.ParseADB(tt.data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatalf("no error, but %d packages", len(x.Packages))
			}
			if ok, _ := regexp.MatchString(tt.want, err.Error()); !ok {
				t.Errorf("error %q, want %q in it", err, tt.want)
			}
			if strings.Contains(tt.want, "not a package index") && !errors.Is(err, feeds.ErrNotIndex) {
				t.Errorf("error %v, want ErrNotIndex", err)
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 8<<20 {
				t.Errorf("%d bytes of memory", spent)
			}
			if feeds.VerifyADB(tt.data, nil) == nil {
				t.Error("it is signed")
			}
		})
	}
}

func TestADBStrangeEntriesAreSkipped(t *testing.T) {
	relation := func(match uint32, name, version string) func(c *container) uint32 {
		return func(c *container) uint32 {
			return c.list(c.list(c.text(name), c.text(version), 0x10000000|match))
		}
	}
	tests := []struct {
		name  string
		field int
		value func(c *container) uint32
	}{
		{"no name", 1, func(*container) uint32 { return 0 }},
		{"an option for a name", 1, func(c *container) uint32 { return c.text("--root") }},
		{"a path for a name", 1, func(c *container) uint32 { return c.text("../a") }},
		{"no version", 2, func(*container) uint32 { return 0 }},
		{"a path for a version", 2, func(c *container) uint32 { return c.text("/etc") }},
		{"no hash", 3, func(*container) uint32 { return 0 }},
		{"a hash of another length", 3, func(c *container) uint32 { return c.text("short") }},
		{"an architecture with a slash", 5, func(c *container) uint32 { return c.text("a/b") }},
		{"another layer", 20, func(*container) uint32 { return 0x10000001 }},
		{"a dependency by hash", 15, relation(6, "b", "Q1abc")},
		{"an unknown operator", 15, relation(64, "b", "1")},
		{"a dependency with a space", 15, relation(1, "b c", "1")},
		{"a dependency's version with a space", 15, relation(1, "b", "1 2")},
		{"providing what must not be", 16, relation(17, "b", "1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newContainer()
			x, err := feeds.ParseADB(c.index(c.list(c.entry(tt.field, tt.value(c)))))
			if err != nil || len(x.Packages) != 0 || x.Skipped != 1 {
				t.Errorf("%+v, error %v; want one skipped", x, err)
			}
		})
	}
	c := newContainer()
	x, err := feeds.ParseADB(c.index(c.list(c.entry(15, 0))))
	if err != nil || len(x.Packages) != 1 || x.Skipped != 0 {
		t.Errorf("an entry with nothing strange: %+v, error %v", x, err)
	}
}

func FuzzADB(f *testing.F) {
	for _, name := range []string{"mossdef.adb", "odd-none.adb", "odd-zstd.adb", "odd-named.adb", "libodd3-1.2.3_rc4~abcdef-r5.apk", "gadget2-0-1.apk"} {
		f.Add(read(f, "adb/"+name))
	}
	c := newContainer()
	f.Add(c.index(c.list(c.entry(15, c.list(c.list(c.text("b"), c.text("1"), 0x10000011))))))
	key, err := feeds.ParseAPKKey(read(f, "adb/odd.pem"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		feeds.VerifyADB(data, []crypto.PublicKey{key})
		x, err := feeds.ParseADB(data)
		if err == nil {
			for _, p := range x.Packages {
				if p.BaseName() == "" || !imagebuilder.ValidPackageName(p.Name) || !imagebuilder.ValidPackageVersion(p.Version) || p.Size < 0 || p.InstalledSize < 0 {
					t.Fatalf("package %+v", p)
				}
				if p.Filename != "" && (!filepath.IsLocal(p.Filename) || path.Clean(p.Filename) != p.Filename || strings.ContainsAny(p.Filename, "\\\n ")) {
					t.Fatalf("file name %q", p.Filename)
				}
				for _, r := range slices.Concat(p.Depends, p.Conflicts, p.Provides, p.InstallIf) {
					if r.Name == "" || strings.ContainsAny(r.Name+r.Op+r.Version, " \n") || r.Op == "" && r.Version != "" {
						t.Fatalf("relation %+v", r)
					}
				}
				feeds.VerifyAPK(bytes.NewReader(data), &p)
			}
		}
		feeds.VerifyAPK(bytes.NewReader(data), &feeds.Package{Size: int64(len(data)), Identity: strings.Repeat("x", 32)})
	})
}

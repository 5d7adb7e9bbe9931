package feeds_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder/feeds"
)

func pack(t testing.TB, text io.Reader) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.Copy(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// huge is what unpacks to 200 MB of nothing: one MB, packed, two hundred times,
// as gzip allows.
var huge = sync.OnceValue(func() []byte {
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	z.Write(make([]byte, 1<<20))
	z.Close()
	return bytes.Repeat(packed.Bytes(), 200)
})

func TestABrokenIndexSaysWhere(t *testing.T) {
	whole := read(t, "Packages")
	packed := pack(t, bytes.NewReader(whole))
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 0x40
	many := "Package: a\nVersion: 1\nDepends: " + strings.Repeat("a,", feeds.MaxRelations) + "b\n"
	for _, tt := range []struct {
		name   string
		data   []byte
		err    error // nil for any
		offset int64 // -1 for any
	}{
		{"a web page", []byte("<!DOCTYPE html>\n"), feeds.ErrNotIndex, 0},
		{"a sentence after white space", []byte("\n\ntry again later\n"), feeds.ErrNotIndex, 2},
		{"cut short", packed[:len(packed)-20], feeds.ErrTruncated, -1},
		{"cut to its first bytes", packed[:5], feeds.ErrNotIndex, 0},
		{"a bit flipped", flipped, nil, -1},
		{"200 MB of nothing", huge(), feeds.ErrTooLarge, feeds.MaxIndex},
		{"too many relations", []byte(many), feeds.ErrTooLarge, 22},
		{"too many packages", bytes.Repeat([]byte("Package: a\nVersion: 1\n\n"), feeds.MaxPackages+1), feeds.ErrTooLarge, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, err := feeds.ReadPackages("base/Packages.gz", tt.data)
			var at *feeds.SyntaxError
			if x != nil || !errors.As(err, &at) || !errors.Is(err, tt.err) && tt.err != nil {
				t.Fatalf("%v, %v; want %v", x, err, tt.err)
			}
			if at.File != "base/Packages.gz" || at.Offset != tt.offset && tt.offset >= 0 {
				t.Errorf("in %q at byte %d, want %d", at.File, at.Offset, tt.offset)
			}
			if !strings.HasPrefix(err.Error(), "base/Packages.gz, at byte ") {
				t.Errorf("%q", err)
			}
		})
	}
}

func TestAHugeIndexTakesBoundedMemory(t *testing.T) {
	packed := huge()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := feeds.ReadPackages("", packed); err == nil {
		t.Fatal("200 MB of nothing is an index")
	}
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 2*feeds.MaxIndex {
		t.Errorf("took %d MB", taken>>20)
	}
}

func TestPackedAndPlainIndexesAreTheSame(t *testing.T) {
	whole := read(t, "Packages")
	plain, err := feeds.ReadPackages("", whole)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := feeds.ReadPackages("", pack(t, bytes.NewReader(whole)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain.Packages, packed.Packages); diff != "" {
		t.Errorf("(-plain +packed):\n%s", diff)
	}
}

func TestFieldsOfAPackage(t *testing.T) {
	x, err := feeds.ParsePackages([]byte(`Package: libfoo7
Version: 2:1.0~rc1-r2
Depends: libc, bar (>= 1) (<< 2), a | b (= 3)
Pre-Depends: early
Provides: libfoo, foo bar, versioned (= 1)
Conflicts: old-foo (<< 1), other
Replaces: old-foo
Alternatives: 300:/usr/bin/foo:/usr/bin/foo7, 200:/bin/foo:/usr/bin/foo7
Status: unknown hold not-installed
Essential: yes
ABIVersion: 7
Architecture: all
Installed-Size: 10
Size: -1

Package: a
Version: 1
Recommends: b

Package: b
Version: 1
Depends: c(>= 1)

Package: d
Version: 1
Depends: c *
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []feeds.Package{{
		Name: "libfoo7", Version: "2:1.0~rc1-r2", ABIVersion: "7", Architecture: "all",
		Depends:  []feeds.Relation{{Name: "libc"}, {Name: "bar", Op: ">=", Version: "1"}, {Name: "a"}, {Name: "b", Op: "=", Version: "3", Or: true}, {Name: "early"}},
		Provides: []feeds.Relation{{Name: "libfoo"}, {Name: "foo"}, {Name: "bar"}, {Name: "versioned", Op: "=", Version: "1"}},
		Conflicts: []feeds.Relation{
			{Name: "old-foo", Op: "<<", Version: "1"}, {Name: "other"},
		},
		Replaces:     []feeds.Relation{{Name: "old-foo"}},
		Alternatives: "300:/usr/bin/foo:/usr/bin/foo7, 200:/bin/foo:/usr/bin/foo7",
		Held:         true, Essential: true, InstalledSize: 10,
	},
		{Name: "a", Version: "1", Unclear: true},
		{Name: "b", Version: "1", Unclear: true, Depends: []feeds.Relation{{Name: "c", Op: ">=", Version: "1"}}},
		{Name: "d", Version: "1", Unclear: true},
	}
	if diff := cmp.Diff(want, x.Packages); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

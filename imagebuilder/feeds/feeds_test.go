package feeds_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder/feeds"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPackagesAsPublished(t *testing.T) {
	x, err := feeds.ParsePackages(read(t, "Packages"))
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Packages) != 15 || x.Skipped != 1 || x.ABIFree {
		t.Errorf("packages %d, skipped %d, ABI-free %v; want 15, 1 (the stray entry), false", len(x.Packages), x.Skipped, x.ABIFree)
	}
	if x.Architecture != "arm_cortex-a9_vfpv3-d16" {
		t.Errorf("architecture %q", x.Architecture)
	}
	want := feeds.Package{
		Name: "ack", Version: "3.7.0+perl5.28-1", Architecture: "arm_cortex-a9_vfpv3-d16",
		Depends:  []feeds.Relation{{Name: "libc"}, {Name: "perl"}, {Name: "perl-ack"}},
		Provides: []feeds.Relation{{Name: "ack-grep"}}, Section: "utils",
		Filename: "ack_3.7.0+perl5.28-1_arm_cortex-a9_vfpv3-d16.ipk", Size: 24086, InstalledSize: 23282,
		SHA256:      "07d1d2a18fb4cf801b08d4a0e64cbec9605b617deccc5c805585ae0031f07ee3",
		Description: "A grep-like source code search tool",
	}
	if diff := cmp.Diff(want, x.Packages[0]); diff != "" {
		t.Errorf("first package (-want +got):\n%s", diff)
	}
	for _, p := range x.Packages {
		if p.Name == "acl" && p.Description != "Access control list support\nThis package provides ACL manipulation utilities\n- chacl\n- getfacl\n- setfacl" {
			t.Errorf("description of acl: %q", p.Description)
		}
	}
}

func TestABISuffixIsNoPartOfTheBaseName(t *testing.T) {
	x, err := feeds.ParsePackages([]byte("Package: libubox20240329\nVersion: 1\nABIVersion: 20240329\n\n" +
		"Package: jansson4\nVersion: 2.14-3\nABIVersion: 4\n\nPackage: odd\nVersion: 2\nABIVersion: odd\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"libubox": "1", "jansson": "2.14-3", "odd": "2"}
	if diff := cmp.Diff(want, x.Versions()); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}

func TestPackagesOddities(t *testing.T) {
	tests := []struct {
		name, text        string
		packages, skipped int
		err               error
	}{
		{"empty", "", 0, 0, nil},
		{"only white space", "\n \n\n", 0, 0, nil},
		{"no newline at the end", "Package: a\nVersion: 1", 1, 0, nil},
		{"CRLF", "Package: a\r\nVersion: 1\r\n\r\nPackage: b\r\nVersion: 2\r\n", 2, 0, nil},
		{"many empty lines", "Package: a\nVersion: 1\n\n\n\nPackage: b\nVersion: 2\n", 2, 0, nil},
		{"no version", "Package: a\n", 0, 1, nil},
		{"a name that is an option", "Package: --force-depends\nVersion: 1\n", 0, 1, nil},
		{"a version with a space", "Package: a\nVersion: 1 2\n", 0, 1, nil},
		{"continuation before anything", " stray\nPackage: a\nVersion: 1\n", 1, 0, nil},
		{"a web page", "<!DOCTYPE html>\n<html><body>Not here</body></html>", 0, 0, feeds.ErrNotIndex},
		{"a sentence", "try again later\n", 0, 0, feeds.ErrNotIndex},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, err := feeds.ParsePackages([]byte(tt.text))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && (len(x.Packages) != tt.packages || x.Skipped != tt.skipped) {
				t.Errorf("packages %d, skipped %d; want %d, %d", len(x.Packages), x.Skipped, tt.packages, tt.skipped)
			}
		})
	}
}

func TestRelations(t *testing.T) {
	tests := []struct {
		text string
		want []feeds.Relation
	}{
		{"", nil},
		{"libc, kmod-foo", []feeds.Relation{{Name: "libc"}, {Name: "kmod-foo"}}},
		{"kernel (= 6.6.68~1b9b-r1), libc", []feeds.Relation{{Name: "kernel", Op: "=", Version: "6.6.68~1b9b-r1"}, {Name: "libc"}}},
		{"a (>=1.0),b(<< 2)", []feeds.Relation{{Name: "a", Op: ">=", Version: "1.0"}, {Name: "b", Op: "<<", Version: "2"}}},
		{"a | b, c", []feeds.Relation{{Name: "a"}, {Name: "b", Or: true}, {Name: "c"}}},
		{"a (nonsense), , b c, d", []feeds.Relation{{Name: "d"}}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, feeds.ParseRelations(tt.text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
	}
}

func TestIndexJSON(t *testing.T) {
	old, err := feeds.ParseIndexJSON(read(t, "index-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	if v := old.Versions(); old.ABIFree || old.Architecture != "arm_cortex-a9_vfpv3-d16" || v["libubox20230523"] == "" {
		t.Errorf("version 1: ABI-free %v, architecture %q, %v", old.ABIFree, old.Architecture, v)
	}
	x, err := feeds.ParseIndexJSON(read(t, "index-v2.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !x.ABIFree || x.Architecture != "x86_64" || len(x.Packages) < 20 || x.Skipped != 0 {
		t.Errorf("version 2: ABI-free %v, architecture %q, %d packages, %d skipped", x.ABIFree, x.Architecture, len(x.Packages), x.Skipped)
	}
	x, err = feeds.ParseIndexJSON([]byte(`{"version":2,"architecture":"../x","packages":{"":"1","a":1,"b":null,"c":"1","-d":"1"}}`))
	if err != nil || len(x.Packages) != 1 || x.Skipped != 4 || x.Architecture != "" {
		t.Errorf("with nonsense in it: %+v, %v", x, err)
	}
	for _, text := range []string{"", "null", "[]", "<html>", `{"architecture":"x"}`, `{"version":2,"packages":{}`} {
		if _, err := feeds.ParseIndexJSON([]byte(text)); !errors.Is(err, feeds.ErrNotIndex) {
			t.Errorf("%q: error %v, want ErrNotIndex", text, err)
		}
	}
}

func FuzzPackages(f *testing.F) {
	f.Add(read(f, "Packages"))
	f.Add([]byte("Package: a\nVersion: 1\nDepends: b (>= 1), c\n\n"))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := feeds.ParsePackages(data)
		if err == nil {
			checkIndex(t, x)
		}
	})
}

func FuzzIndexJSON(f *testing.F) {
	f.Add(read(f, "index-v1.json"))
	f.Add(read(f, "index-v2.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := feeds.ParseIndexJSON(data)
		if err == nil {
			checkIndex(t, x)
		}
	})
}

// checkIndex wants what others rely upon: names and versions that can stand in
// a command line, and relations that survive being written and read.
func checkIndex(t *testing.T, x *feeds.Index) {
	for _, p := range x.Packages {
		if p.Name == "" || p.BaseName() == "" || p.Version == "" || p.Name[0] == '-' || strings.ContainsAny(p.Name+p.Version, " \n$;`'\"") {
			t.Fatalf("package %q %q", p.Name, p.Version)
		}
		if p.Size < 0 || p.InstalledSize < 0 {
			t.Fatalf("sizes %d, %d", p.Size, p.InstalledSize)
		}
		for _, r := range p.Depends {
			again := feeds.ParseRelations(r.String())
			if len(again) != 1 || again[0].String() != r.String() {
				t.Fatalf("relation %+v reads as %+v when written", r, again)
			}
		}
	}
}

func BenchmarkPackages(b *testing.B) {
	data := []byte(strings.Repeat(string(read(b, "Packages")), 200))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := feeds.ParsePackages(data); err != nil {
			b.Fatal(err)
		}
	}
}

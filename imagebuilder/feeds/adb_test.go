package feeds_test

import (
	"bytes"
	"compress/flate"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"attendant/imagebuilder/feeds"
)

// dumped is a package as apk's adbdump prints it.
type dumped struct {
	Name, Version, Hashes, Description, Arch, Origin string
	InstalledSize                                    int64 `json:"installed-size"`
	FileSize                                         int64 `json:"file-size"`
	ProviderPriority                                 int   `json:"provider-priority"`
	Depends, Provides, Replaces, Recommends, Tags    []string
	InstallIf                                        []string `json:"install-if"`
}

func dump(t *testing.T, x *feeds.Index) []dumped {
	t.Helper()
	var all []dumped
	write := func(relations, conflicts []feeds.Relation) []string {
		var list []string
		for _, r := range relations {
			op, conflict := strings.CutPrefix(r.Op, "!")
			text := r.Name + op + r.Version
			if conflict {
				text = "!" + text
			}
			list = append(list, text)
		}
		for _, r := range conflicts {
			list = append(list, "!"+r.Name+r.Op+r.Version)
		}
		slices.Sort(list)
		return list
	}
	for _, p := range x.Packages {
		if p.Architecture == "all" {
			p.Architecture = "noarch"
		}
		all = append(all, dumped{
			Name: p.Name, Version: p.Version, Hashes: hex.EncodeToString([]byte(p.Identity)), Description: p.Description,
			Arch: p.Architecture, Origin: p.Origin, InstalledSize: p.InstalledSize, FileSize: p.Size, ProviderPriority: p.ProviderPriority,
			Depends: write(p.Depends, p.Conflicts), Provides: write(p.Provides, nil), Replaces: write(p.Replaces, nil),
			Recommends: write(p.Recommends, nil), InstallIf: write(p.InstallIf, nil), Tags: p.Tags,
		})
	}
	return all
}

func TestAPKInstallsNothingThatIsNamedAll(t *testing.T) {
	x, err := feeds.ParseADB(read(t, "adb/odd-all.adb"))
	if err != nil || len(x.Packages) != 2 || x.Skipped > 0 {
		t.Fatalf("%+v, %v", x, err)
	}
	u := feeds.NewUniverse(feeds.APK, "x86_64", []feeds.Feed{{Name: "f", Index: x}, {Name: "local", Index: &feeds.Index{Packages: []feeds.Package{
		{Name: "base-files", Version: "1"}, {Name: "kernel", Version: "1"}, {Name: "libc", Version: "1"},
	}}}})
	for _, name := range []string{"named-all", "needs-all"} {
		s := u.Solve(feeds.Wish{Requested: []string{name}})
		if !s.Certain || len(s.Problems) != 1 || s.Problems[0].Package != "named-all" || !strings.Contains(s.Problems[0].Detail, "another architecture") {
			t.Errorf("%s: certain %v, selected %v, problems %s", name, s.Certain, names(s.Selected), problems(s))
		}
	}
}

func TestADBIsWhatAPKReads(t *testing.T) {
	tests := []struct {
		index, dump, architecture string
		packages                  int
	}{
		{"mossdef.adb", "mossdef.json", "x86_64", 15},
		{"base.adb", "base.json", "x86_64", 107},
		{"odd-none.adb", "odd.json", "x86_64", 2},
		{"odd-deflate.adb", "odd.json", "x86_64", 2},
		{"odd-deflate9.adb", "odd.json", "x86_64", 2},
		{"odd-zstd.adb", "odd.json", "x86_64", 2},
		{"odd-zstd5.adb", "odd.json", "x86_64", 2},
	}
	for _, tt := range tests {
		t.Run(tt.index, func(t *testing.T) {
			x, err := feeds.ParseADB(read(t, "adb/"+tt.index))
			if err != nil {
				t.Fatal(err)
			}
			var want struct{ Packages []dumped }
			if err := json.Unmarshal(read(t, "adb/"+tt.dump), &want); err != nil {
				t.Fatal(err)
			}
			for i := range want.Packages {
				p := &want.Packages[i]
				for _, list := range [][]string{p.Depends, p.Provides, p.Replaces, p.Recommends, p.InstallIf} {
					slices.Sort(list)
				}
			}
			if diff := cmp.Diff(want.Packages, dump(t, x), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-adbdump +parsed):\n%s", diff)
			}
			if len(x.Packages) != tt.packages || x.Skipped != 0 || x.Architecture != tt.architecture {
				t.Errorf("%d packages, %d skipped, architecture %q", len(x.Packages), x.Skipped, x.Architecture)
			}
		})
	}
}

func TestADBNames(t *testing.T) {
	x, err := feeds.ParseADB(read(t, "adb/odd-none.adb"))
	if err != nil {
		t.Fatal(err)
	}
	gadget, odd := x.Packages[0], x.Packages[1]
	if gadget.BaseName() != "gadget2" || odd.BaseName() != "libodd" || odd.Section != "libs" {
		t.Errorf("base names %q, %q, section %q", gadget.BaseName(), odd.BaseName(), odd.Section)
	}
	if odd.Filename != "libodd3-1.2.3_rc4~abcdef-r5.apk" {
		t.Errorf("file name %q", odd.Filename)
	}
	x, err = feeds.ParseADB(read(t, "adb/odd-named.adb"))
	if err != nil {
		t.Fatal(err)
	}
	odd = x.Packages[1]
	if want := "noarch/libodd3_1.2.3_rc4~abcdef-r5." + hex.EncodeToString([]byte(odd.Identity))[:8] + ".apk"; odd.Filename != want || len(odd.Identity) != 20 {
		t.Errorf("file name %q, want %q; a hash of %d bytes", odd.Filename, want, len(odd.Identity))
	}
}

func TestVerifyADB(t *testing.T) {
	key := func(name string) crypto.PublicKey {
		t.Helper()
		k, err := feeds.ParseAPKKey(read(t, "adb/"+name))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	mossdef, base, custom, odd := key("mossdef.pem"), key("base.pem"), key("custom.pem"), key("odd.pem")
	tests := []struct {
		name, index string
		keys        []crypto.PublicKey
		want        error
	}{
		{"a community's feed", "mossdef.adb", []crypto.PublicKey{mossdef}, nil},
		{"a release's feed", "base.adb", []crypto.PublicKey{custom, base, mossdef}, nil},
		{"a third party's feed", "custom.adb", []crypto.PublicKey{base, custom}, nil},
		{"plain", "odd-none.adb", []crypto.PublicKey{odd}, nil},
		{"zstd", "odd-zstd.adb", []crypto.PublicKey{odd}, nil},
		{"no key", "odd-none.adb", nil, feeds.ErrUnknownKey},
		{"another key", "base.adb", []crypto.PublicKey{custom, odd}, feeds.ErrUnknownKey},
		{"not signed", "odd-named.adb", []crypto.PublicKey{odd}, feeds.ErrUnsigned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := feeds.VerifyADB(read(t, "adb/"+tt.index), tt.keys); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("each byte changed", func(t *testing.T) {
		data := read(t, "adb/odd-none.adb")
		for i := range data {
			changed := bytes.Clone(data)
			changed[i] ^= 1
			if feeds.VerifyADB(changed, []crypto.PublicKey{odd}) == nil && !inPadding(data, i) {
				t.Errorf("byte %d can be changed", i)
			}
		}
		changed := bytes.Clone(data)
		changed[100] ^= 1
		if err := feeds.VerifyADB(changed, []crypto.PublicKey{odd}); !errors.Is(err, feeds.ErrBadSignature) {
			t.Errorf("error %v, want ErrBadSignature", err)
		}
	})
	t.Run("a comment above the key", func(t *testing.T) {
		text := append([]byte("untrusted comment: Local build key\n"), read(t, "adb/odd.pem")...)
		k, err := feeds.ParseAPKKey(text)
		if err != nil || !k.Equal(odd) {
			t.Errorf("key %v, error %v", k, err)
		}
	})
	for _, text := range []string{"", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := feeds.ParseAPKKey([]byte(text)); err == nil {
			t.Errorf("%q: taken for a key", text)
		}
	}
}

// inPadding tells whether a byte of a plain ADB file fills up a block.
func inPadding(data []byte, i int) bool {
	for at := 8; at < len(data); {
		end := at + int(binary.LittleEndian.Uint32(data[at:])&0x3fffffff)
		at = (end + 7) &^ 7
		if i >= end && i < at {
			return true
		}
	}
	return false
}

func TestVerifyAPK(t *testing.T) {
	parse := func(name string) *feeds.Index {
		t.Helper()
		x, err := feeds.ParseADB(read(t, "adb/"+name))
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	odd, custom, short := parse("odd-none.adb"), parse("custom.adb"), parse("odd-named.adb")
	cowsay := custom.Packages[slices.IndexFunc(custom.Packages, func(p feeds.Package) bool { return p.Name == "cowsay" })]
	good := map[string]feeds.Package{
		"libodd3-1.2.3_rc4~abcdef-r5.apk": odd.Packages[1], "gadget2-0-1.apk": odd.Packages[0], "cowsay-3.04-r1.apk": cowsay,
	}
	for name, p := range good {
		data := read(t, "adb/"+name)
		if p.Filename != name {
			t.Errorf("file name %q, want %q", p.Filename, name)
		}
		if err := feeds.VerifyAPK(bytes.NewReader(data), &p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, other := range good {
			if other.Name != p.Name && feeds.VerifyAPK(bytes.NewReader(data), &other) == nil {
				t.Errorf("%s passes for %s", name, other.Name)
			}
		}
		for i := range data {
			if feeds.VerifyAPK(bytes.NewReader(data[:i]), &p) == nil {
				t.Errorf("%s: its first %d bytes of %d pass", name, i, len(data))
			}
		}
		if err := feeds.VerifyAPK(bytes.NewReader(append(data, 0)), &p); !errors.Is(err, feeds.ErrAPKMismatch) {
			t.Errorf("%s and a byte: error %v", name, err)
		}
		p.Size++
		if err := feeds.VerifyAPK(bytes.NewReader(append(data, 0)), &p); err != nil && !errors.Is(err, feeds.ErrAPKMismatch) {
			t.Errorf("%s and a byte, which the index knows of: error %v", name, err)
		}
	}
	if err := feeds.VerifyAPK(bytes.NewReader(read(t, "adb/libodd3-1.2.3_rc4~abcdef-r5.apk")), &short.Packages[1]); err != nil {
		t.Errorf("against a hash of 160 bits: %v", err)
	}
	t.Run("each byte of the content changed", func(t *testing.T) {
		p := odd.Packages[1]
		plain := inflated(t, read(t, "adb/"+p.Filename))
		p.Size = int64(len(plain))
		if err := feeds.VerifyAPK(bytes.NewReader(plain), &p); err != nil {
			t.Fatal(err)
		}
		for i := range plain {
			changed := bytes.Clone(plain)
			changed[i] ^= 1
			if feeds.VerifyAPK(bytes.NewReader(changed), &p) == nil && !inPadding(plain, i) {
				t.Errorf("byte %d of %d can be changed", i, len(plain))
			}
		}
	})
}

// inflated is the plain form of a deflated ADB file.
func inflated(t *testing.T, data []byte) []byte {
	t.Helper()
	rest, ok := bytes.CutPrefix(data, []byte("ADBd"))
	if !ok {
		t.Fatalf("it begins with %q", data[:4])
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(flate.NewReader(bytes.NewReader(rest))); err != nil {
		t.Fatal(err)
	}
	return plain.Bytes()
}

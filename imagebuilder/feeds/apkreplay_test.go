package feeds

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// apkCase is a question to apk with its answer.
type apkCase struct {
	Default, Requested []string
	OK                 bool
	Selected           []string // names, or names with versions
}

// apkCaseDefaults are the default packages of the cases that have some.
var apkCaseDefaults = strings.Fields("base-files ca-bundle dropbear firewall4 fstools kmod-nft-offload libc logd mtd netifd odhcp6c odhcpd-ipv6only " +
	"ppp ppp-mod-pppoe procd-seccomp procd-ujail uci uclient-fetch urandom-seed urngd kernel")

// replay reads a file of testdata/apk.
func replay[T any](t testing.TB, name string, each func(T)) {
	t.Helper()
	f, err := os.Open("testdata/apk/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for lines := json.NewDecoder(z); ; {
		var line T
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		each(line)
	}
}

// realUniverse reads the indexes of testdata/apk.
func realUniverse(t testing.TB) *Universe {
	t.Helper()
	var all []Feed
	for _, name := range []string{"local", "core", "base", "luci", "packages", "routing"} {
		data, err := os.ReadFile("testdata/apk/" + name + ".adb")
		if err != nil {
			t.Fatal(err)
		}
		x, err := ParseADB(data)
		if err != nil || x.Skipped > 0 {
			t.Fatalf("%s: %v, %d skipped", name, err, x.Skipped)
		}
		all = append(all, Feed{Name: name, Index: x})
	}
	return NewUniverse(APK, "test_arch", all)
}

// check holds the resolver against apk's answer, and tells whether it was
// certain of its own.
func (c *apkCase) check(t *testing.T, u *Universe) bool {
	t.Helper()
	w := Wish{Requested: c.Requested}
	if len(c.Default) > 0 {
		w.Default = apkCaseDefaults
	}
	tables := u.apk()
	wanted, _ := tables.withSuffixes(tables.withBuilders(&Solution{}, w.Packages()))
	try := tables.try(wanted)
	if try.accepted != c.OK {
		t.Errorf("%q: accepted %v, by apk %v", c.Requested, try.accepted, c.OK)
		return false
	}
	if c.OK {
		var names, full []string
		for _, n := range try.solver.selected {
			names = append(names, tables.pkgs[n].Name)
			full = append(full, tables.pkgs[n].Name+" "+tables.pkgs[n].Version)
		}
		slices.Sort(names)
		slices.Sort(full)
		if !slices.Equal(c.Selected, names) && !slices.Equal(c.Selected, full) {
			t.Errorf("%q: selected\n%q, by apk\n%q", c.Requested, full, c.Selected)
		}
	}
	s := u.Solve(w)
	if c.OK && s.Certain && len(s.Problems) > 0 {
		t.Errorf("%q: refused, but not by apk: %+v", c.Requested, s.Problems)
	}
	if !c.OK && s.Certain && len(s.Problems) == 0 {
		t.Errorf("%q: selected with certainty, but refused by apk", c.Requested)
	}
	if len(s.Problems) == 0 && len(s.Selected) == 0 && len(s.Doubts) == 0 {
		t.Errorf("%q: no answer", c.Requested)
	}
	return s.Certain
}

func TestSolveAPKAsAPKDoes(t *testing.T) {
	u := realUniverse(t)
	cases, accepted, certain := 0, 0, 0
	replay(t, "cases.gz", func(c apkCase) {
		cases++
		if c.OK {
			accepted++
		}
		if c.check(t, u) {
			certain++
		}
	})
	t.Logf("%d lists, %d accepted by apk, %d answers certain", cases, accepted, certain)
	if cases < 500 || accepted < 200 || cases-accepted < 200 || certain < cases*9/10 {
		t.Error("too few to tell")
	}
}

func TestSolveAPKInSmallUniverses(t *testing.T) {
	type universe struct {
		Feeds [][]struct {
			N, V, A    string
			P          int
			D, S, I, T []string
		}
		Cases []apkCase
	}
	cases, accepted := 0, 0
	replay(t, "small.gz", func(line universe) {
		var all []Feed
		for _, list := range line.Feeds {
			x := &Index{}
			for _, e := range list {
				p := Package{Name: e.N, Version: e.V, Architecture: e.A, ProviderPriority: e.P, Tags: e.T}
				for _, text := range e.D {
					if r, conflict := apkRelation(text); conflict {
						p.Conflicts = append(p.Conflicts, r)
					} else {
						p.Depends = append(p.Depends, r)
					}
				}
				for _, text := range e.S {
					r, _ := apkRelation(text)
					p.Provides = append(p.Provides, r)
				}
				for _, text := range e.I {
					r, conflict := apkRelation(text)
					if conflict {
						r.Op = "!" + r.Op
					}
					p.InstallIf = append(p.InstallIf, r)
				}
				x.Packages = append(x.Packages, p)
			}
			all = append(all, Feed{Index: x})
		}
		u := NewUniverse(APK, "test_arch", all)
		for _, c := range line.Cases {
			c.check(t, u)
			if cases++; c.OK {
				accepted++
			}
		}
	})
	t.Logf("%d lists, %d accepted by apk", cases, accepted)
	if accepted < 100 || cases-accepted < 200 {
		t.Error("too few to tell")
	}
}

func BenchmarkSolveAPK(b *testing.B) {
	u := realUniverse(b)
	names := make([]string, 0, len(u.listed))
	for i := range u.listed {
		names = append(names, u.listed[i].Name)
	}
	tests := []struct {
		name string
		wish Wish
	}{
		{"defaults", Wish{Default: apkCaseDefaults}},
		{"typical", Wish{Default: apkCaseDefaults, Requested: strings.Fields("luci luci-app-sqm luci-app-statistics nano curl batctl-full")}},
		{"missing", Wish{Default: apkCaseDefaults, Requested: []string{"tcpdumpp"}}},
		{"all", Wish{Requested: names}},
	}
	u.Solve(Wish{})
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				u.Solve(tt.wish)
			}
		})
	}
}

func BenchmarkParseADB(b *testing.B) {
	data, err := os.ReadFile("testdata/apk/packages.adb")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseADB(data); err != nil {
			b.Fatal(err)
		}
	}
}

package feeds

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

// apkRelation reads a relation as apk writes it: "!name>=1.0".
func apkRelation(text string) (r Relation, conflict bool) {
	text, conflict = strings.CutPrefix(text, "!")
	if i := strings.IndexAny(text, "<>=~"); i >= 0 {
		j := i
		for j < len(text) && strings.IndexByte("<>=~", text[j]) >= 0 {
			j++
		}
		return Relation{Name: text[:i], Op: text[i:j], Version: text[j:]}, conflict
	}
	return Relation{Name: text}, conflict
}

// apkUniverse reads feeds of packages, each a line:
//
//	name version [depends:a,!b>1] [provides:c,d=1] [if:e,!f] [priority:10] [abi:3] [arch:other]
//
// A line "---" begins the next feed. What every ImageBuilder asks for is added.
func apkUniverse(t testing.TB, text string) *Universe {
	t.Helper()
	all := []Feed{{Name: "first", Index: &Index{}}}
	for line := range strings.Lines("base-files 1\nkernel 6.6.68\nlibc 1.2\n" + text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if fields[0] == "---" {
			all = append(all, Feed{Name: "feed" + strconv.Itoa(len(all)), Index: &Index{}})
			continue
		}
		p := Package{Name: fields[0], Version: fields[1], Architecture: "all"}
		for _, f := range fields[2:] {
			kind, list, _ := strings.Cut(f, ":")
			for part := range strings.SplitSeq(list, ",") {
				r, conflict := apkRelation(part)
				switch {
				case kind == "depends" && conflict:
					p.Conflicts = append(p.Conflicts, r)
				case kind == "depends":
					p.Depends = append(p.Depends, r)
				case kind == "provides":
					p.Provides = append(p.Provides, r)
				case kind == "if":
					if conflict {
						r.Op = "!" + r.Op
					}
					p.InstallIf = append(p.InstallIf, r)
				case kind == "priority":
					p.ProviderPriority, _ = strconv.Atoi(part)
				case kind == "abi":
					p.ABIVersion, p.Tags = part, []string{tagABI + part}
				case kind == "arch":
					p.Architecture = part
				default:
					t.Fatalf("what is %q?", f)
				}
			}
		}
		x := all[len(all)-1].Index
		x.Packages = append(x.Packages, p)
	}
	return NewUniverse(APK, "mips_24kc", all)
}

// selectedNames lists what a solution has beside what every image has.
func selectedNames(s *Solution) string {
	var names []string
	for _, p := range s.Selected {
		if !slices.Contains([]string{"base-files", "kernel", "libc"}, p.Name) {
			names = append(names, p.Name+" "+p.Version)
		}
	}
	return strings.Join(names, ", ")
}

func TestSolveAPKSelects(t *testing.T) {
	tests := []struct {
		name, packages, asked, want string
	}{
		{"dependencies", "a 1 depends:b\nb 2 depends:c\nc 3\nd 4", "a", "a 1, b 2, c 3"},
		{"the newest", "a 1\na 3\na 2", "a", "a 3"},
		{"the newest that goes with the others", "a 1\na 3\na 2\nb 1 depends:a<3", "a b", "a 2, b 1"},
		{"the first feed that has it", "---\na 1 provides:x\n---\na 1 provides:y", "a", "a 1"},
		{"a newer one of a later feed", "a 1\n---\na 1.1", "a", "a 1.1"},
		{"a name that is provided with a version", "a 1 provides:v=2", "v", "a 1"},
		{"the highest version of a name", "a 1 provides:v=2\nb 1 provides:v=3", "v", "b 1"},
		{"the highest priority of a virtual name", "a 1 provides:v priority:10\nb 1 provides:v priority:100\nc 1 provides:v", "v", "b 1"},
		{"a virtual name is met by what is there anyway", "a 1 provides:v priority:100\nb 1 provides:v\nc 1 depends:v", "b c", "b 1, c 1"},
		{"two that provide a virtual name", "a 1 provides:v\nb 1 provides:v", "a b", "a 1, b 1"},
		{"a removal only drops the wish", "a 1 depends:b\nb 1\nc 1", "a c -c -b", "a 1, b 1"},
		{"a package that provides another's name takes its place", "dnsmasq 1\ndnsmasq-full 1 provides:dnsmasq=1", "dnsmasq-full", "dnsmasq-full 1"},
		{"even if the other was asked for", "dnsmasq 1\ndnsmasq-full 1 provides:dnsmasq=1", "dnsmasq dnsmasq-full", "dnsmasq-full 1"},
		{"by the name without ABI suffix", "libfoo3 1 provides:libfoo priority:10 abi:3", "libfoo", "libfoo3 1"},
		{"by the name with ABI suffix", "libfoo3 1 provides:libfoo priority:10 abi:3", "libfoo3", "libfoo3 1"},
		{"what an installed package brings", "a 1\nb 1\na-b 1 if:a,b", "a b", "a 1, a-b 1, b 1"},
		{"what needs another", "a 1\nb 1\na-b 1 if:a,b", "a", "a 1"},
		{"what an absence brings", "a 1\nb 1\na-only 1 if:a,!b", "a", "a 1, a-only 1"},
		{"a conflict rules a choice out", "a 1 depends:v\nx 1 provides:v priority:100\ny 1 provides:v priority:10\nb 1 depends:!x", "a b", "a 1, b 1, y 1"},
		{"a conflict with itself is none", "a 1 provides:v depends:!v", "a", "a 1"},
		{"a cycle", "a 1 depends:b\nb 1 depends:c\nc 1 depends:a", "b", "a 1, b 1, c 1"},
		{"another architecture's newer version", "a 1\na 2 arch:x86_64", "a", "a 1"},
		{"fuzzy", "a 1 depends:b~1.2\nb 1.2.7\nb 1.3", "a", "a 1, b 1.2.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := apkUniverse(t, tt.packages).Solve(Wish{Requested: strings.Fields(tt.asked)})
			if got := selectedNames(s); got != tt.want || len(s.Problems) > 0 {
				t.Errorf("selected %q, want %q; problems %+v", got, tt.want, s.Problems)
			}
			if !s.Certain {
				t.Errorf("not certain: %q", s.Doubts)
			}
		})
	}
}

func TestSolveAPKReasons(t *testing.T) {
	s := apkUniverse(t, "a 1 depends:b\nb 1\nc 1 if:b").Solve(Wish{Requested: []string{"a"}})
	got := map[string]string{}
	for _, p := range s.Selected {
		got[p.Name] = p.Reason
		if p.Feed == nil || p.Feed.Name != "first" {
			t.Errorf("%s is of the feed %+v", p.Name, p.Feed)
		}
	}
	want := map[string]string{"base-files": "", "kernel": "", "libc": "", "a": "", "b": "a", "c": "b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSolveAPKProblems(t *testing.T) {
	tests := []struct {
		name, packages, asked string
		want                  []imagebuilder.Problem
	}{
		{"missing", "tcpdump 1", "tcpdumpp", []imagebuilder.Problem{
			{Kind: "missing", Package: "tcpdumpp", Detail: "tcpdumpp is in no feed.", Nearest: []string{"tcpdump"}}}},
		{"several missing", "a 1", "x y", []imagebuilder.Problem{
			{Kind: "missing", Package: "x", Detail: "x is in no feed."}, {Kind: "missing", Package: "y", Detail: "y is in no feed."}}},
		{"missing behind others", "luci-app-x 1 depends:x\nx 1 depends:libgone", "luci-app-x", []imagebuilder.Problem{
			{Kind: "missing", Package: "libgone", Chain: []string{"luci-app-x", "x", "libgone"}, Detail: "luci-app-x needs x, which needs libgone, which is in no feed."}}},
		{"another version", "a 1 depends:b>=2\nb 1.5", "a", []imagebuilder.Problem{
			{Kind: "version", Package: "b", Chain: []string{"a", "b"}, Detail: "a needs b (>= 2); the feeds have b 1.5."}}},
		{"another kernel", "kmod-x 1 depends:kernel=6.6.60", "kmod-x", []imagebuilder.Problem{
			{Kind: "version", Package: "kernel", Chain: []string{"kmod-x", "kernel"}, Detail: "kmod-x is made for another kernel (6.6.60) than this image has (6.6.68)."}}},
		{"two that exclude one another", "a 1 depends:!b\nb 1", "a b", []imagebuilder.Problem{
			{Kind: "conflict", Package: "b", Detail: "b and a exclude one another: leave one of them out."}}},
		{"one that a needed one excludes", "a 1 depends:c\nb 1\nc 1 depends:!b", "a b", []imagebuilder.Problem{
			{Kind: "conflict", Package: "b", Detail: "b and c (which a needs) exclude one another: leave one of them out."}}},
		{"two with one name", "wget-ssl 1 provides:wget=1\nwget-nossl 1 provides:wget=1", "wget-ssl wget-nossl", []imagebuilder.Problem{
			{Kind: "conflict", Package: "wget-ssl", Detail: "wget-ssl and wget-nossl both provide wget: leave one of them out."}}},
		{"a virtual name", "a 1 provides:v\nb 1 provides:v", "v", []imagebuilder.Problem{
			{Kind: "other", Package: "v", Detail: "v is no package, but what others stand for: ask for one of them (a, b).", Nearest: []string{"a", "b"}}}},
		{"a needed virtual name", "c 1 depends:v\na 1 provides:v", "c", []imagebuilder.Problem{
			{Kind: "other", Package: "v", Chain: []string{"c", "v"}, Nearest: []string{"a"}, Detail: "c needs v, which is no package but what several stand for: ask for one of them (a)."}}},
		{"another architecture", "a 1 arch:x86_64", "a", []imagebuilder.Problem{
			{Kind: "missing", Package: "a", Detail: "a, which there is only for another architecture (x86_64)."}}},
		{"two versions", "a 1 depends:c=1\nb 1 depends:c=2\nc 1\nc 2", "a b", []imagebuilder.Problem{
			{Kind: "version", Package: "c", Chain: []string{"b", "c"}, Detail: "c (which b needs) must be there in two versions, 2 and 1."}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := apkUniverse(t, tt.packages).Solve(Wish{Requested: strings.Fields(tt.asked)})
			for i := range s.Problems {
				if len(s.Problems[i].Nearest) == 0 {
					s.Problems[i].Nearest = nil
				}
			}
			if diff := cmp.Diff(tt.want, s.Problems); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !s.Certain || len(s.Selected) > 0 || len(s.roots) != len(s.Problems) {
				t.Errorf("certain %v, selected %q, roots %q, doubts %q", s.Certain, selectedNames(s), s.roots, s.Doubts)
			}
		})
	}
}

func TestSolveAPKDoubts(t *testing.T) {
	t.Run("apk does not go back on a choice", func(t *testing.T) {
		// It takes the newest a, which needs what there is not.
		s := apkUniverse(t, "a 1\na 2 depends:b\nb 1 depends:c\nc 1 depends:gone").Solve(Wish{Requested: []string{"a"}})
		if s.Certain && len(s.Problems) > 0 {
			t.Errorf("a refusal that is certain: %+v", s.Problems)
		}
	})
	t.Run("several ABI versions", func(t *testing.T) {
		s := apkUniverse(t, "libfoo3 1 provides:libfoo priority:10 abi:3\nlibfoo5 2 provides:libfoo priority:10 abi:5").Solve(Wish{Requested: []string{"libfoo"}})
		if s.Certain || len(s.Problems) > 0 {
			t.Errorf("certain %v, problems %+v", s.Certain, s.Problems)
		}
	})
	t.Run("words that are no names", func(t *testing.T) {
		for _, word := range []string{"a@edge", "a=1", "a>0", "!a", "a.apk"} {
			s := apkUniverse(t, "a 1").Solve(Wish{Requested: []string{word, "a"}})
			if s.Certain || len(s.Problems) > 0 || len(s.Doubts) != 1 {
				t.Errorf("%s: certain %v, problems %+v, doubts %q", word, s.Certain, s.Problems, s.Doubts)
			}
		}
	})
	t.Run("the builder's own packages are unknown", func(t *testing.T) {
		u := NewUniverse(APK, "x86_64", []Feed{{Name: "f", Index: &Index{Packages: []Package{{Name: "a", Version: "1", Architecture: "all"}}}}})
		s := u.Solve(Wish{Default: []string{"base-files", "a"}})
		if s.Certain || len(s.Doubts) != 3 || selectedNames(s) != "a 1" || len(s.Problems) > 0 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("entries that cannot be read, names only, too many feeds", func(t *testing.T) {
		for _, change := range []func(feeds []Feed) []Feed{
			func(feeds []Feed) []Feed { feeds[0].Index.Skipped = 1; return feeds },
			func(feeds []Feed) []Feed { feeds[0].Index.NamesOnly = true; return feeds },
			func(feeds []Feed) []Feed { return append(feeds, make([]Feed, 40)...) },
		} {
			u := apkUniverse(t, "a 1")
			u = NewUniverse(APK, "mips_24kc", change(u.Feeds()))
			if s := u.Solve(Wish{Requested: []string{"a"}}); s.Certain || len(s.Doubts) != 1 || selectedNames(s) != "a 1" {
				t.Errorf("%+v", s)
			}
		}
	})
	t.Run("several versions of what the builder insists on", func(t *testing.T) {
		if s := apkUniverse(t, "base-files 2").Solve(Wish{}); s.Certain || len(s.Problems) > 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Universes that are made to take long.
func TestSolveAPKIsBounded(t *testing.T) {
	var wide, deep, crowd strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&wide, "a%d 1 provides:v depends:v%d\n", i, (i+1)%3000)
		fmt.Fprintf(&deep, "a%d 1 depends:a%d\n", i, i+1)
		fmt.Fprintf(&crowd, "a%d 1 provides:x=%d,y=%d,z=%d depends:x,y,z,!a%d\n", i, i, i, i, i+1)
	}
	for i := range 50_000 {
		fmt.Fprintf(&deep, "b%d 1 depends:b%d\n", i, i+1)
	}
	for name, packages := range map[string]string{"wide": wide.String(), "deep": deep.String(), "crowd": crowd.String()} {
		t.Run(name, func(t *testing.T) {
			u := apkUniverse(t, packages)
			for _, wish := range []string{"v", "a0", "b0", "x y z"} {
				if s := u.Solve(Wish{Requested: strings.Fields(wish)}); s.Certain && len(s.Problems) == 0 && len(s.Selected) < 4 {
					t.Errorf("%s: %+v", wish, s)
				}
			}
			var all []string
			for i := range 3000 {
				all = append(all, fmt.Sprintf("a%d", i))
			}
			begin := time.Now()
			u.Solve(Wish{Requested: all})
			t.Logf("all of them: %v", time.Since(begin))
		})
	}
}

// drawAPKUniverse draws a universe of some packages in the words of apkUniverse.
func drawAPKUniverse(t *rapid.T) (text string, names []string) {
	names = []string{"v", "w"}
	for i := range rapid.IntRange(2, 12).Draw(t, "names") {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	one := rapid.SampledFrom(names)
	version := rapid.SampledFrom([]string{"1", "1.1", "2_rc1", "2", "3-r1"})
	relation := rapid.Custom(func(t *rapid.T) string {
		op := rapid.SampledFrom([]string{"", "", "", "=", ">", "<", ">=", "<=", "~"}).Draw(t, "op")
		if op == "" {
			return one.Draw(t, "name")
		}
		return one.Draw(t, "name") + op + version.Draw(t, "version")
	})
	var b strings.Builder
	for range rapid.IntRange(2, 25).Draw(t, "packages") {
		fmt.Fprintf(&b, "%s %s", rapid.SampledFrom(names[2:]).Draw(t, "package"), version.Draw(t, "version"))
		for _, kind := range []string{"depends", "provides", "if"} {
			if list := rapid.SliceOfN(relation, 0, 2).Draw(t, kind); len(list) > 0 && (kind != "if" || rapid.Bool().Draw(t, "conditional")) {
				slices.Sort(list)
				fmt.Fprintf(&b, " %s:%s", kind, strings.Join(list, ","))
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "conflicts") == 0 {
			fmt.Fprintf(&b, " depends:!%s", relation.Draw(t, "conflict"))
		}
		if priority := rapid.SampledFrom([]int{0, 0, 10, 100}).Draw(t, "priority"); priority > 0 {
			fmt.Fprintf(&b, " priority:%d", priority)
		}
		b.WriteString("\n")
	}
	return b.String(), append(names, "missing")
}

func TestSolveAPKHolds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text, names := drawAPKUniverse(rt)
		u := apkUniverse(t, text)
		wish := Wish{Requested: rapid.SliceOfN(rapid.SampledFrom(names), 1, 4).Draw(rt, "requested")}
		s := u.Solve(wish)
		if again := u.Solve(wish); !reflect.DeepEqual(s, again) {
			rt.Fatalf("twice asked, two answers: %+v, %+v", s, again)
		}
		if (len(s.Problems) == 0) == (len(s.Selected) == 0) {
			rt.Fatalf("%d problems, %d selected", len(s.Problems), len(s.Selected))
		}
		tables := u.apk()
		try := tables.try(mustWanted(tables, wish))
		if try.accepted && len(tables.prove(try.world).problems) > 0 {
			rt.Fatalf("what is proven to be impossible is selected: %+v", try.proof.problems)
		}
		meets := func(p Selected, r Relation) bool {
			m := newAPKMatch(r.Op)
			if p.Name == r.Name && m.met(p.Version, r.Version) {
				return true
			}
			return slices.ContainsFunc(p.Provides, func(v Relation) bool { return v.Name == r.Name && m.met(v.Version, r.Version) })
		}
		for _, p := range s.Selected {
			for _, r := range p.Depends {
				if !slices.ContainsFunc(s.Selected, func(q Selected) bool { return meets(q, r) }) {
					rt.Fatalf("%s needs %s, which is not selected: %s", p.Name, r, selectedNames(s))
				}
			}
			for _, r := range p.Conflicts {
				for _, q := range s.Selected {
					if q.Name != p.Name && meets(q, r) {
						rt.Fatalf("%s excludes %s, but %s is selected", p.Name, r, q.Name)
					}
				}
			}
			for _, q := range s.Selected {
				if p.Name == q.Name && p.Package != q.Package {
					rt.Fatalf("two packages %s are selected", p.Name)
				}
			}
		}
	})
}

func mustWanted(t *apkTables, w Wish) []apkWanted {
	wanted, _ := t.withSuffixes(t.withBuilders(&Solution{}, w.Packages()))
	return wanted
}

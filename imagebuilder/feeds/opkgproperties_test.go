package feeds_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"attendant/imagebuilder/feeds"
)

// drawFeed draws a feed of a few packages that need one another. A plain one
// has one version of each and nothing that stands for something else, so that
// there is never a choice.
func drawFeed(t *rapid.T, plain bool) string {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})
	relation := rapid.Custom(func(t *rapid.T) string {
		n := name.Draw(t, "name")
		if rapid.IntRange(0, 5).Draw(t, "bound") > 0 {
			return n
		}
		return n + " (" + rapid.SampledFrom([]string{"=", ">=", "<=", "<<", ">>"}).Draw(t, "op") + " " + rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version") + ")"
	})
	var text strings.Builder
	for _, n := range rapid.SliceOfNDistinct(name, 3, 8, rapid.ID[string]).Draw(t, "packages") {
		fmt.Fprintf(&text, "Package: %s\nVersion: %s\nArchitecture: all\n", n, rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version"))
		if d := rapid.SliceOfN(relation, 0, 3).Draw(t, "depends"); len(d) > 0 {
			sep := ", "
			if !plain && rapid.IntRange(0, 5).Draw(t, "alternatives") == 0 {
				sep = " | "
			}
			text.WriteString("Depends: " + strings.Join(d, sep) + "\n")
		}
		if !plain {
			if rapid.IntRange(0, 2).Draw(t, "provides") == 0 {
				text.WriteString("Provides: " + rapid.SampledFrom([]string{"v", "w", "a"}).Draw(t, "virtual") + "\n")
			}
			if rapid.IntRange(0, 4).Draw(t, "conflicts") == 0 {
				text.WriteString("Conflicts: " + relation.Draw(t, "conflict") + "\n")
			}
		}
		text.WriteString("\n")
	}
	return text.String()
}

func universe(t interface{ Fatal(...any) }, texts ...string) *feeds.Universe {
	var list []feeds.Feed
	for _, text := range texts {
		x, err := feeds.ParsePackages([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, feeds.Feed{Name: "f", Index: x})
	}
	return feeds.NewUniverse(feeds.Opkg, arch, list)
}

var request = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "v", "w", "x", "-a", "-v"}), 1, 6)

func chosen(s *feeds.Solution) []string {
	var list []string
	for _, p := range s.Selected {
		list = append(list, p.Name+"="+p.Version)
	}
	return list
}

// provides tells whether a package stands for a name. What one package of a
// name provides opkg believes of all that are called so, whatever their version.
func provides(u *feeds.Universe, q feeds.Selected, name string) bool {
	for _, f := range u.Feeds() {
		for _, p := range f.Index.Packages {
			if p.Name == q.Name && slices.ContainsFunc(p.Provides, func(v feeds.Relation) bool { return v.Name == name }) {
				return true
			}
		}
	}
	return q.Name == name
}

// unmet returns what a selected package needs and the selection has not.
func unmet(u *feeds.Universe, s *feeds.Solution) string {
	meets := func(r feeds.Relation) bool {
		return slices.ContainsFunc(s.Selected, func(q feeds.Selected) bool {
			if !provides(u, q, r.Name) {
				return false
			}
			c := feeds.CompareOpkg(q.Version, r.Version)
			switch r.Op {
			case "":
				return true
			case "=":
				return c == 0
			case "<", "<=", "<<":
				return c <= 0
			}
			return c >= 0
		})
	}
	for _, p := range s.Selected {
		for i := 0; i < len(p.Depends); {
			met := meets(p.Depends[i])
			text := p.Name + " needs " + p.Depends[i].String()
			for i++; i < len(p.Depends) && p.Depends[i].Or; i++ {
				met = met || meets(p.Depends[i])
			}
			if !met {
				return text
			}
		}
	}
	return ""
}

func TestASelectionHasAllThatItNeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := universe(t, drawFeed(t, false), drawFeed(t, true))
		w := feeds.Wish{Requested: request.Draw(t, "request")}
		s := u.Solve(w)
		if s.Certain != (len(s.Doubts) == 0) {
			t.Fatalf("certain %v, doubts %q", s.Certain, s.Doubts)
		}
		if !slices.IsSorted(names(s.Selected)) {
			t.Fatalf("not sorted: %v", names(s.Selected))
		}
		if !s.Certain || len(s.Problems) > 0 {
			return
		}
		if text := unmet(u, s); text != "" {
			t.Fatal(text)
		}
		for _, name := range w.Packages() {
			if !slices.ContainsFunc(s.Selected, func(p feeds.Selected) bool { return provides(u, p, name) }) {
				t.Fatalf("%s was asked for and is not there", name)
			}
		}
	})
}

func TestAnUnrelatedPackageChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		feed := drawFeed(t, false)
		w := feeds.Wish{Requested: request.Draw(t, "request")}
		before := universe(t, feed).Solve(w)
		other := "Package: unrelated\nVersion: 3\nArchitecture: all\n\n"
		for _, u := range []*feeds.Universe{universe(t, other+feed), universe(t, feed+other), universe(t, feed, other)} {
			if diff := cmp.Diff(before, u.Solve(w), cmpopts.IgnoreUnexported(feeds.Solution{}), cmpopts.IgnoreFields(feeds.Selected{}, "Feed")); diff != "" {
				t.Fatalf("in the feed (-before +after):\n%s", diff)
			}
			with := w
			with.Requested = slices.Insert(slices.Clone(w.Requested), rapid.IntRange(0, len(w.Requested)).Draw(t, "at"), "unrelated")
			after := chosen(u.Solve(with))
			after = slices.DeleteFunc(after, func(n string) bool { return n == "unrelated=3" })
			if diff := cmp.Diff(chosen(before), after); diff != "" {
				t.Fatalf("asked for (-before +after):\n%s", diff)
			}
		}
	})
}

func TestOrderDoesNotMatterWhereThereIsNoChoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := universe(t, drawFeed(t, true))
		names := request.Draw(t, "request")
		a := u.Solve(feeds.Wish{Requested: names})
		b := u.Solve(feeds.Wish{Requested: rapid.Permutation(names).Draw(t, "other order")})
		if (len(a.Problems) == 0) != (len(b.Problems) == 0) {
			t.Fatalf("%s\nbut\n%s", problems(a), problems(b))
		}
		if len(a.Problems) > 0 {
			return
		}
		if diff := cmp.Diff(chosen(a), chosen(b)); diff != "" {
			t.Fatalf("(-one +other order):\n%s", diff)
		}
	})
}

func FuzzSolveOpkg(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nArchitecture: all\nDepends: b (>= 1) | c, v\n\nPackage: b\nVersion: 1\nArchitecture: all\nProvides: v\nConflicts: a\n", "a -b v")
	f.Add("Package: kernel\nVersion: 1\nArchitecture: all\n\nPackage: a\nVersion: 1\nArchitecture: all\nDepends: a, kernel (= 2)\nReplaces: b\nConflicts: b\n\nPackage: a\nVersion: 2\nArchitecture: all\n", "a b a.ipk --x")
	f.Fuzz(func(t *testing.T, feed, wish string) {
		if len(feed) > 10_000 || len(wish) > 1000 {
			return
		}
		x, err := feeds.ParsePackages([]byte(feed))
		if err != nil {
			return
		}
		u := feeds.NewUniverse(feeds.Opkg, arch, []feeds.Feed{{Name: "f", Index: x}})
		w := feeds.Wish{Requested: strings.Fields(wish)}
		s := u.Solve(w)
		if s.Certain != (len(s.Doubts) == 0) {
			t.Fatalf("certain %v, doubts %q", s.Certain, s.Doubts)
		}
		if diff := cmp.Diff(s, u.Solve(w), cmpopts.IgnoreUnexported(feeds.Solution{}), cmpopts.IgnoreFields(feeds.Selected{}, "Feed")); diff != "" {
			t.Fatalf("asked twice:\n%s", diff)
		}
		if s.Certain && len(s.Problems) == 0 {
			if text := unmet(u, s); text != "" && !strings.Contains(text, "libc") {
				t.Fatal(text)
			}
		}
		for _, r := range u.Repairs(w, s, nil) {
			again := w
			again.Requested = r.Packages
			if len(u.Solve(again).Problems) > 0 {
				t.Fatalf("%v does not help", r)
			}
		}
		for _, word := range append(strings.Fields(wish), "a") {
			u.Has(word)
			u.Find(word)
			u.Nearest(word, 3)
			u.RequiredBy(word, 3)
			u.Search(word, 0, 3)
		}
	})
}

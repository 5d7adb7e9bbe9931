package feeds_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"slices"
	"strings"
	"testing"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

func TestVersionsAsOpkgComparesThem(t *testing.T) {
	n := 0
	for line := range strings.Lines(string(read(t, "opkg-cases/versions.txt"))) {
		f := strings.Fields(line)
		want := map[string]int{"<": -1, "=": 0, ">": 1}[f[1]]
		if got := sign(feeds.CompareOpkg(f[0], f[2])); got != want {
			t.Errorf("%s %s: %d, want %s", f[0], f[2], got, f[1])
		}
		n++
	}
	if n < 500 {
		t.Errorf("only %d pairs", n)
	}
}

// TestCasesOfOpkg asks what opkg was asked, and wants its answers. A solution
// that is certain must be right. So must be one that is not, if opkg did what
// is the best guess in all but the oddest of feeds.
func TestCasesOfOpkg(t *testing.T) {
	z, err := gzip.NewReader(bytes.NewReader(read(t, "opkg-cases/cases.txt.gz")))
	if err != nil {
		t.Fatal(err)
	}
	var (
		r        = bufio.NewScanner(z)
		replayer = replayer{T: t, counts: map[string]int{}, image: map[string]bool{}}
		name     string
		texts    []string
		arches   string
		made     bool
	)
	r.Buffer(nil, 1<<20)
	for r.Scan() {
		line := r.Text()
		if text, ok := strings.CutPrefix(line, "|"); ok {
			texts[len(texts)-1] += text + "\n"
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "release":
			replayer.start("release", feeds.NewUniverse(feeds.Opkg, arch, release(t)))
		case "universe":
			name, arches, _ = strings.Cut(rest, " ")
			texts, made = nil, false
		case "feed":
			texts = append(texts, "")
		case "default":
			replayer.wish.Default = strings.Fields(rest)
		case "device":
			replayer.wish.Device = strings.Fields(rest)
		case "ask":
			if !made && texts != nil {
				var list []feeds.Feed
				for _, text := range texts {
					x, err := feeds.ParsePackages([]byte(text))
					if err != nil {
						t.Fatal(err)
					}
					list = append(list, feeds.Feed{Index: x})
				}
				replayer.start(name, feeds.NewUniverse(feeds.Opkg, arches, list))
				made = true
			}
			replayer.wish.Requested = strings.Fields(rest)
		case "opkg":
			replayer.installs = rest == "installs"
		case "image":
			replayer.check(strings.Fields(rest))
		default:
			t.Fatalf("line %.60q", line)
		}
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v", replayer.counts)
	if n := replayer.counts["cases"]; n < 1500 || replayer.counts["certain"] < n*3/4 {
		t.Errorf("only %v", replayer.counts)
	}
}

type replayer struct {
	*testing.T
	name     string
	universe *feeds.Universe
	wish     feeds.Wish
	installs bool
	image    map[string]bool
	counts   map[string]int
}

func (r *replayer) start(name string, u *feeds.Universe) {
	r.name, r.universe, r.wish = name, u, feeds.Wish{}
	clear(r.image)
}

// check compares what opkg did with what the universe says it does.
func (r *replayer) check(image []string) {
	odd := strings.HasPrefix(r.name, "random")
	if odd {
		clear(r.image)
	}
	for _, item := range image {
		switch {
		case odd:
			r.image[item] = true
		case item[0] == '+':
			r.image[item[1:]] = true
		default:
			delete(r.image, item[1:])
		}
	}
	s := r.universe.Solve(r.wish)
	got := map[string]bool{}
	for _, p := range s.Selected {
		if p.Name == "libc" || p.Name == "kernel" {
			continue
		}
		if odd {
			got[p.Name+"="+p.Version] = true
		} else {
			got[p.Name] = true
		}
	}
	diff := difference(r.image, got)
	// attendant refuses packages that exclude one another in whichever order
	// they come; opkg does in one.
	policy := len(s.Problems) > 0 && !slices.ContainsFunc(s.Problems, func(p imagebuilder.Problem) bool { return p.Kind != imagebuilder.ProblemConflict })
	r.counts["cases"]++
	if s.Certain {
		r.counts["certain"]++
	}
	if policy && r.installs {
		r.counts["policy"]++
	}
	fault := ""
	switch {
	case s.Certain && r.installs && len(s.Problems) > 0 && !policy:
		fault = "a false refusal"
	case s.Certain && !r.installs && len(s.Problems) == 0:
		fault = "opkg refuses"
	case r.installs && len(diff) > 0 && (s.Certain || !odd):
		fault = fmt.Sprintf("opkg's image differs: %v", diff)
	case !odd && !r.installs && len(s.Problems) == 0:
		fault = "opkg refuses"
	}
	if fault != "" {
		r.Errorf("%s, %+v: %s; certain %v, doubts %q, problems:\n%s", r.name, r.wish, fault, s.Certain, s.Doubts, problems(s))
	}
}

// difference lists what is only in want (-) and only in got (+).
func difference(want, got map[string]bool) []string {
	var diff []string
	for item := range want {
		if !got[item] {
			diff = append(diff, "-"+item)
		}
	}
	for item := range got {
		if !want[item] {
			diff = append(diff, "+"+item)
		}
	}
	slices.Sort(diff)
	return diff
}

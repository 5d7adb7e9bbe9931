package replacements

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is a set of tables with names that requests can draw from. Every name
// has at most one rule, in a table not before that of the rule that makes it,
// so that the tables are without contradictions.
type world struct {
	tables  map[string]string
	names   []string
	choices map[string][]string
}

var worldReleases = []string{"17.01", "18.06", "19.07"}

func drawWorld(t *rapid.T) world {
	w := world{tables: make(map[string]string), choices: make(map[string][]string)}
	const n = 12
	retired := make([]int, n) // index of the table that has the name's rule; 3 none
	for i := range retired {
		w.names = append(w.names, fmt.Sprintf("n%d", i))
		retired[i] = rapid.IntRange(0, len(worldReleases)).Draw(t, "retired")
	}
	text := make([]strings.Builder, len(worldReleases))
	for i, table := range retired {
		if table == len(worldReleases) {
			continue
		}
		var later []string
		for j := range retired {
			if retired[j] > table || retired[j] == table && j > i {
				later = append(later, w.names[j])
			}
		}
		b := &text[table]
		fmt.Fprintf(b, "%s:\n", w.names[i])
		words := ""
		switch rapid.IntRange(0, 5).Draw(t, "condition") {
		case 0:
			words += "  targets: [ath79/*]\n"
		case 1:
			words += "  unconditional: true\n"
		case 2:
			words += "  to: " + worldReleases[rapid.IntRange(table, 2).Draw(t, "to")] + "\n"
		}
		shape := rapid.SampledFrom([]string{"drop", "split", "choice", "choice", "rename"}).Draw(t, "shape")
		if len(later) == 0 {
			shape = "drop"
		}
		some := func(most int) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(later), 1, min(most, len(later)), rapid.ID[string]).Draw(t, "new")
		}
		switch shape {
		case "drop":
			words += fmt.Sprintf("  mandatory: %v\n", rapid.Bool().Draw(t, "mandatory"))
		case "split":
			words += "  all: [" + strings.Join(some(3), ", ") + "]\n"
		case "rename":
			words += "  " + some(1)[0] + ": {default: true}\n"
		case "choice":
			options := some(3)
			if rapid.Bool().Draw(t, "itself") {
				options = append(options, w.names[i])
			}
			byDefault := rapid.IntRange(-1, len(options)-1).Draw(t, "default")
			w.choices[w.names[i]] = options
			for k, o := range options {
				words += fmt.Sprintf("  %s: {default: %v", o, k == byDefault)
				if o != w.names[i] && rapid.Bool().Draw(t, "installed?") {
					words += ", installed: [" + strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom(w.names), 1, 2, rapid.ID[string]).Draw(t, "installed"), ", ") + "]"
				}
				words += "}\n"
			}
		}
		b.WriteString(words)
	}
	last := fmt.Sprintf("n%d", n) // has no rule
	w.names = append(w.names, last, "l-de", "l-en", "m-fr")
	fmt.Fprintf(&text[0], "l-*: {m-*: {default: true}}\n")
	fmt.Fprintf(&text[2], "m-*n: {}\nadd: [{packages: [%s], targets: [ath79/generic]}]\n", last)
	for i, release := range worldReleases {
		w.tables[release] = text[i].String()
	}
	return w
}

func (w world) drawRequest(t *rapid.T) Request {
	some := func(label string, from []string) []string {
		return rapid.SliceOfDistinct(rapid.SampledFrom(from), rapid.ID[string]).Draw(t, label)
	}
	asked := slices.Clone(w.names)
	for _, n := range w.names {
		asked = append(asked, "-"+n)
	}
	req := Request{
		Distro:    "mesh",
		From:      rapid.SampledFrom([]string{"", "15.05.1", "17.01.2", "18.06.0-rc1", "19.07.1", "SNAPSHOT"}).Draw(t, "from"),
		To:        rapid.SampledFrom([]string{"17.01.4", "18.06.4", "19.07.4", "SNAPSHOT"}).Draw(t, "to"),
		Target:    rapid.SampledFrom([]string{"", "ath79/generic", "x86/64"}).Draw(t, "target"),
		Packages:  some("packages", asked),
		Installed: some("installed", w.names),
		Choices:   make(map[string]string),
	}
	for _, old := range sortedKeys(w.choices) {
		if rapid.IntRange(0, 2).Draw(t, "choose") == 0 {
			req.Choices[old] = rapid.SampledFrom(w.choices[old]).Draw(t, "choice")
		}
	}
	if rapid.Bool().Draw(t, "index known") {
		req.Exists = indexOf(some("index", w.names)...)
	}
	return req
}

// resort brings what may depend on the order of the request into one order.
func resort(r *Result) *Result {
	c := *r
	c.Packages = slices.Sorted(slices.Values(r.Packages))
	return &c
}

func checkProperties(t interface {
	Helper()
	Errorf(string, ...any)
	Fatalf(string, ...any)
}, set *Set, req Request, shuffled []string) {
	t.Helper()
	res, err := set.Apply(req)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	other := req
	other.Packages = shuffled
	again, err := set.Apply(other)
	if err != nil {
		t.Fatalf("apply shuffled: %v", err)
	}
	if d := cmp.Diff(resort(res), resort(again)); d != "" {
		t.Errorf("the order of %q matters:\n%s", req.Packages, d)
	}

	other.Packages = res.Packages
	again, err = set.Apply(other)
	if err != nil {
		t.Fatalf("apply twice: %v", err)
	}
	if !slices.Equal(res.Packages, again.Packages) || len(again.Replaced()) > 0 || len(again.Dropped()) > 0 || len(again.Added) > 0 {
		t.Errorf("applied to %q the result is %q, once more it is %q (replaced %v, dropped %q)", req.Packages, res.Packages, again.Packages, again.Replaced(), again.Dropped())
	}

	outcomes := make(map[string]Outcome)
	for _, o := range res.Outcomes {
		outcomes[o.Requested] = o
	}
	accounted := make(map[string]bool)
	for _, p := range req.Packages {
		o, reported := outcomes[p]
		switch {
		case !reported && !slices.Contains(res.Packages, p):
			t.Errorf("%s vanished from %q and nobody says why", p, req.Packages)
		case !reported:
			accounted[p] = true
		case len(o.Steps) == 0 && o.Note == "":
			t.Errorf("%s became %q for no reason", p, o.New)
		}
		for _, n := range o.New {
			accounted[n] = true
			if !slices.Contains(res.Packages, n) {
				t.Errorf("%s is said to have become %s, which is not in %q", p, n, res.Packages)
			}
		}
	}
	for _, o := range res.Added {
		accounted[o.New[0]] = true
	}
	for _, p := range res.Packages {
		if !accounted[p] {
			t.Errorf("%s came from nowhere", p)
		}
	}
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		l := emptyLoader()
		for _, release := range worldReleases {
			l.read("mesh/"+release+".yaml", "mesh/"+release+".yaml", []byte(w.tables[release]))
		}
		set, problems := l.finish()
		if len(problems) > 0 {
			t.Fatalf("load: %v", &LoadError{problems})
		}
		req := w.drawRequest(t)
		checkProperties(t, set, req, rapid.Permutation(req.Packages).Draw(t, "shuffled"))
	})
}

func TestPropertiesOfTheEmbeddedTables(t *testing.T) {
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	w := embeddedWorld(set)
	rapid.Check(t, func(t *rapid.T) {
		req := w.drawRequest(t)
		req.Distro = "openwrt"
		req.To = rapid.SampledFrom([]string{"18.06.9", "21.02.7", "22.03.6", "24.10.4", "25.12.0", "SNAPSHOT"}).Draw(t, "to OpenWrt")
		checkProperties(t, set, req, rapid.Permutation(req.Packages).Draw(t, "shuffled"))
	})
}

func embeddedWorld(set *Set) world {
	w := world{choices: make(map[string][]string)}
	for _, table := range set.tables("openwrt") {
		for _, r := range table.rules() {
			for _, name := range append(r.outputs(), r.old) {
				if name = strings.Replace(name, "*", "de", 1); name != "" {
					w.names = append(w.names, name)
				}
			}
		}
	}
	slices.Sort(w.names)
	w.names = slices.Compact(w.names)
	return w
}

package replacements

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// mistakes are tables that are refused, each for what its name says. They are
// of different releases, so that each is alone with what is embedded.
var mistakes = []struct{ name, release, text string }{
	{"not YAML", "17.01", "foo: {bar: {default: true}\nbaz: {}\n"},
	{"a list", "17.01", "- foo\n- bar\n"},
	{"a text", "17.01", "foo\n"},
	{"two documents", "17.01", "foo: {}\n---\nbar: {}\n"},
	{"twice", "17.01", "foo: {}\nbar: {}\nfoo: {bar: {default: true}}\n"},
	{"an alias", "17.01", "foo: &x {}\nbar: *x\n"},
	{"a merge", "17.01", "foo: &x {source: s}\nbar:\n  <<: *x\n"},
	{"a tag", "17.01", "foo: !!map {}\n"},
	{"no value", "17.01", "foo:\nbar: {}\n"},
	{"an option without a mapping", "17.01", "foo:\n  bar: true\n"},
	{"an unknown word", "17.01", "foo:\n  bar: {default: true}\n  sources: here\n"},
	{"an unknown word of an option", "17.01", "foo:\n  bar:\n    defualt: true\n"},
	{"a mapping in an option", "17.01", "foo:\n  bar:\n    default: {}\n"},
	{"truth", "17.01", "foo:\n  bar: {default: yes}\n  mandatory: 1\n"},
	{"two defaults", "17.01", "foo:\n  bar: {default: true}\n  baz: {default: true}\n"},
	{"split and options", "17.01", "foo:\n  bar: {default: true}\n  all: [baz]\n"},
	{"split into nothing", "17.01", "foo: {all: []}\n"},
	{"a name", "17.01", "foo bar: {}\n\"*\": {}\na*b*: {}\nfoo: {\"b r\": {}}\n"},
	{"a star without one", "17.01", "foo: {bar-*: {default: true}}\nbaz: {all: [x-*]}\n"},
	{"installed and the name itself", "17.01", "foo:\n  foo: {installed: [bar]}\n"},
	{"a target", "17.01", "foo: {targets: [ath79]}\nbar: {targets: ath79/generic}\nbaz: {targets: [{}]}\n"},
	{"a profile", "17.01", "foo: {profiles: [a b]}\n"},
	{"a name twice", "17.01", "foo: {all: [a, b, a]}\n"},
	{"versions", "17.01", "foo: {from: 18.06.1}\nbar: {to: 15.05}\nbaz: {from: 17.01.4, to: 17.01.2}\nqux: {from: r5, to: r4}\nquux: {from: 17.01.1, to: r4}\nx: {from: [1]}\n"},
	{"revisions", "17.01", "foo: {revision: r5}\nbranch_off: -1\n"},
	{"published without a revision", "17.01", "foo: {package_changes: true}\nbar: {all: [a, b], revision: 1, package_changes: true}\n"},
	{"additions", "17.01", "add:\n  - foo\n  - {targets: [a/b]}\n  - {packages: [a], package_changes: true}\n  - {packages: [a], mandatory: true}\n"},
	{"an addition without a list", "17.01", "add: foo\n"},
	{"a release", "nightly", "foo: {}\n"},
	{"a candidate", "17.01.0-rc1", "foo: {}\n"},
	{"a circle", "17.01", "a: {b: {default: true}}\nb: {c: {default: true}}\nc: {x: {default: true}, a: {}}\n"},
	{"a circle by a split", "17.01", "a: {all: [b, c]}\nc: {a: {default: true}}\n"},
	{"a circle by a pattern", "17.01", "a-*: {a-x-*: {default: true}}\n"},
	{"an added choice", "17.01", "add: [{packages: [a]}]\na: {b: {default: true}}\nb: {c: {default: true}, d: {installed: [e]}}\n"},
	{"too deep", "17.01", strings.Repeat("[", 100)},
	{"a long line", "17.01", "a: {comment: " + strings.Repeat("x", maxLineLength) + "}\n"},
	{"bytes", "17.01", "a: \xff\xfe{}\n\x00"},
}

func TestMistakesAreToldWithTheirLine(t *testing.T) {
	var report strings.Builder
	for _, m := range mistakes {
		dir := folder(t, map[string]string{m.release: m.text})
		_, err := Load(dir)
		var bad *LoadError
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v", m.name, err)
			continue
		}
		report.WriteString("# " + m.name + "\n" + strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "") + "\n\n")
	}
	golden(t, "mistakes.golden", report.String())
}

func TestMistakesBetweenTables(t *testing.T) {
	var report strings.Builder
	for _, tables := range []map[string]string{
		{"18.06": "a: {b: {default: true}}\n", "19.07": "b: {a: {default: true}}\n"},
		{"18.06": "b: {}\n", "19.07": "\n\na: {b: {default: true}}\n"},
		{"18.06": "b-*: {}\n", "19.07": "add: [{packages: [b-x]}]\n"},
		{"18.06": "x-*-en: {}\n", "19.07": "x-old-*: {y-new-*: {default: true}}\n"}, // nothing wrong
		{"18.06": "x-*-en: {}\n", "19.07": "x-old-*: {x-new-*: {default: true}}\n"}, // nothing wrong: what ends in -en did so before
		{"18.06": "x-*-en: {}\n", "19.07": "y-old-*: {x-new-*: {default: true}}\n"},
	} {
		dir := folder(t, tables)
		if _, err := Load(dir); err != nil {
			report.WriteString(strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "") + "\n\n")
		} else {
			report.WriteString("in order\n\n")
		}
	}
	golden(t, "contradictions.golden", report.String())
}

func TestDoubts(t *testing.T) {
	dir := folder(t, map[string]string{
		"18.06": "branch_off: 100\na: {b: {}, source: s}\nc: {source: s, targets: [ath79/generic, no/such]}\nd: {}\n",
		"19.07": "branch_off: 200\ne: {revision: 50, source: s}\nf: {revision: 250, source: s}\ng: {revision: 250, from: 19.07.3, source: s}\nh: {profiles: [x], source: s}\n",
	})
	problems, err := Check(nil, []string{dir}, []string{"ath79/generic"})
	if err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	for _, p := range problems {
		if strings.HasPrefix(p.File, dir) { // the embedded tables name targets that are not among these
			report.WriteString(strings.TrimPrefix(p.String(), dir+string(filepath.Separator)) + "\n")
		}
	}
	golden(t, "doubts.golden", report.String())

	file := filepath.Join(dir, "mesh", "18.06.yaml")
	problems, err = Check([]string{file}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if p.File != file {
			t.Errorf("asked for %s, told %s", file, p)
		}
	}
	if len(problems) != 2 {
		t.Errorf("got %v; without known targets there are 2", problems)
	}
}

func TestOperatorsTablesLieOverTheEmbedded(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"openwrt/24.10.yaml":  "auc: {auc: {default: true}}\nmesh-app: {mesh-tool: {default: true}}\nluci-i18n-opkg-*: {}\n",
		"openwrt/24.10.2.yml": "mesh-tool: {mesh-tools: {default: true}}\n",
		"openwrt/README":      "not a table",
		".git/24.10.yaml":     "not: [a table\n",
		"stray.yaml":          "not: [a table\n",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set, err := Load(filepath.Join(dir, "none"), dir)
	if err != nil {
		t.Fatal(err)
	}
	req := Request{From: "23.05.5", Packages: words("auc mesh-app luci-app-opkg luci-i18n-opkg-de")}
	for to, want := range map[string]string{
		"24.10.1": "auc mesh-tool luci-app-package-manager",
		"24.10.4": "auc mesh-tools luci-app-package-manager",
	} {
		req.To = to
		if got := strings.Join(apply(t, set, req).Packages, " "); got != want {
			t.Errorf("to %s: got %q, want %q", to, got, want)
		}
	}
}

func TestHolderKeepsTheLastValidTables(t *testing.T) {
	dir := folder(t, map[string]string{"18.06": "a: {b: {default: true}}\n"})
	path := filepath.Join(dir, "mesh", "18.06.yaml")
	moment := time.Now()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		moment = moment.Add(time.Second)
		if err := os.Chtimes(path, moment, moment); err != nil {
			t.Fatal(err)
		}
	}
	h := Hold(dir)
	becomes := func(want string) {
		t.Helper()
		res := apply(t, h.Set(), Request{Distro: "mesh", From: "17.01.0", To: "18.06.0", Packages: []string{"a"}})
		if d := cmp.Diff([]string{want}, res.Packages); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
	reload := func(changed, wrong bool) {
		t.Helper()
		got, err := h.Reload()
		if got != changed || (err != nil) != wrong || (h.Err() != nil) != wrong {
			t.Errorf("changed %v (want %v), error %v (want one: %v)", got, changed, err, wrong)
		}
	}
	becomes("b")
	reload(false, false)
	write("a: {c: {default: true}}\n")
	reload(true, false)
	becomes("c")
	write("a: {c: {default: tru}}\n")
	reload(false, true)
	reload(false, true)
	becomes("c")
	write("a: {d: {default: true}}\n")
	reload(true, false)
	becomes("d")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	reload(true, false)
	becomes("a")

	h = Hold(folder(t, map[string]string{"18.06": "a: [\n"}))
	if h.Err() == nil || len(h.Set().Releases("openwrt")) == 0 {
		t.Errorf("with wrong tables from the start: %v, %v", h.Err(), h.Set().Releases("openwrt"))
	}
}

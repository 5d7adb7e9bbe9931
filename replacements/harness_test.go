package replacements

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

// folder writes tables of the distribution "mesh", by release.
func folder(t testing.TB, tables map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mesh"), 0o755); err != nil {
		t.Fatal(err)
	}
	for release, text := range tables {
		if err := os.WriteFile(filepath.Join(dir, "mesh", release+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func loaded(t testing.TB, tables map[string]string) *Set {
	t.Helper()
	set, err := Load(folder(t, tables))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func apply(t testing.TB, set *Set, req Request) *Result {
	t.Helper()
	res, err := set.Apply(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// indexOf is an Exists for an index of these packages.
func indexOf(names ...string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, name) }
}

func words(s string) []string { return strings.Fields(s) }

// emptyLoader has not read the embedded tables.
func emptyLoader() *loader {
	return &loader{set: &Set{distros: make(map[string][]*table)}}
}

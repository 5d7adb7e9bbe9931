package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The arrows between the parts, as the design draws them: what each package
// may import of the module. "imagebuilder" itself everyone may.
var arrows = map[string][]string{
	"attendant": {"imagebuilder/upstream", "imagebuilder/feeds", "imagebuilder/runner", "imagebuilder/sandbox", "imagebuilder/sample",
		"server", "queue", "store", "store/images", "replacements", "systemd"},
	"imagebuilder":          {},
	"imagebuilder/upstream": {"imagebuilder/feeds"},
	"imagebuilder/feeds":    {},
	"imagebuilder/runner":   {"imagebuilder/upstream", "imagebuilder/feeds", "imagebuilder/sandbox", "replacements"},
	"imagebuilder/sandbox":  {},
	"imagebuilder/sample":   {},
	"replacements":          {},
	"store":                 {},
	"store/images":          {"store"},
	"queue":                 {"store", "store/images"},
	"server":                {"queue", "store/images", "server/web"},
	"server/web":            {},
	"systemd":               {},
}

func TestArrowsPointOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatalf("listing packages: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], "attendant/")
		allowed, known := arrows[name]
		if !known {
			t.Errorf("package %s is not in the design", name)
			continue
		}
		may := map[string]bool{"imagebuilder": true}
		for _, a := range allowed {
			may[a] = true
		}
		for _, imported := range fields[1:] {
			if part, ok := strings.CutPrefix(imported, "attendant/"); ok && !may[part] {
				t.Errorf("%s imports %s", name, part)
			}
			if name == "imagebuilder" && strings.Contains(imported, ".") {
				t.Errorf("imagebuilder imports %s: it keeps to the standard library", imported)
			}
		}
	}
}

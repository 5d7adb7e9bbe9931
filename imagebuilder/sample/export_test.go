package sample

import (
	"strings"
	"testing"
)

// Rebuild makes one ImageBuilder's archive again.
func Rebuild(t *testing.T, baseURL, name string) []byte {
	t.Helper()
	w := &tree{options: Options{BaseURL: baseURL}}
	for _, r := range releases {
		for _, tg := range targets {
			if !strings.HasPrefix(name, r.path+"/targets/"+tg.name+"/") {
				continue
			}
			pkgs, err := packagesFor(r, tg)
			if err != nil {
				t.Fatal(err)
			}
			var core []*built
			for _, p := range pkgs {
				if p.feed != "core" {
					continue
				}
				build := buildIPK
				if r.apk {
					build = buildAPK
				}
				b, err := build(p, r, tg)
				if err != nil {
					t.Fatal(err)
				}
				core = append(core, b)
			}
			archive, err := w.builder(r, tg, core)
			if err != nil {
				t.Fatal(err)
			}
			return archive
		}
	}
	t.Fatalf("no release has %s", name)
	return nil
}

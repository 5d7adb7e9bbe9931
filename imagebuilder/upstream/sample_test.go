package upstream

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSampleDistribution takes everything that our own distribution offers,
// signed, and unpacks its ImageBuilders.
func TestSampleDistribution(t *testing.T) {
	u, _ := sampleDistribution(t, Options{RequireSignatures: true})
	o, err := u.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	apk, opkg := 0, 0
	for _, branch := range o.Branches {
		for _, version := range branch.Versions {
			targets, _, err := u.targetsOf(t.Context(), version)
			if err != nil {
				t.Fatal(err)
			}
			for name := range targets {
				target, err := u.Target(t.Context(), version, name)
				if err != nil {
					t.Fatal(err)
				}
				index, err := u.TargetIndex(t.Context(), target.Path, name)
				if err != nil {
					t.Fatal(err)
				}
				arch, err := u.ArchIndex(t.Context(), target.Path, target.Arch)
				if err != nil {
					t.Fatal(err)
				}
				own := decode[struct {
					Architecture string
					Packages     map[string]string
				}](t, index)
				versions := decode[map[string]string](t, arch)
				if !target.Signed || len(target.Profiles.Profiles) == 0 || own.Architecture != target.Arch || len(own.Packages) == 0 || len(versions) == 0 {
					t.Errorf("%s %s: signed %v, %d profiles, %d own packages of %q, %d packages", version, name,
						target.Signed, len(target.Profiles.Profiles), len(own.Packages), own.Architecture, len(versions))
				}
				for _, pkg := range target.Profiles.DefaultPackages {
					if pkg == "nftables" { // virtual: two packages provide it, and indexes do not tell
						continue
					}
					if own.Packages[pkg] == "" && versions[pkg] == "" {
						t.Errorf("%s %s: the default package %s is in no index", version, name, pkg)
					}
				}
				b, release, err := u.Builder(t.Context(), version, name, target.Generation, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(filepath.Join(b.Dir, "Makefile")); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(b.Dir, "repositories.conf")); err != nil {
					apk++
				} else {
					opkg++
				}
				release()
			}
		}
	}
	if apk == 0 || opkg == 0 {
		t.Errorf("%d apk and %d opkg ImageBuilders", apk, opkg)
	}
}

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attendant/imagebuilder/upstream"
)

// A planned image is the one that the ImageBuilder makes by itself, unpacked by
// tar and fetching from the network, byte for byte but for its signature.
func TestPlannedImagesAreTheImageBuildersOwn(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t, upstream.Options{})
	for _, tt := range sampleTargets {
		t.Run(tt.version+" "+tt.target, func(t *testing.T) {
			built, _ := w.mustBuild(w.job(tt.version, tt.target, tt.profile, "cowsay", "luci"))
			own := w.byHand(built.Set.BuildCmd, tt.version, tt.target, tt.profile)
			if len(own) == 0 || len(own) != len(built.Set.Images) {
				t.Fatalf("%d images by hand, %d planned", len(own), len(built.Set.Images))
			}
			for _, image := range built.Set.Images {
				if own[image.Name] != image.SHA256Unsigned {
					t.Errorf("%s is %s by hand, %s planned", image.Name, own[image.Name], image.SHA256Unsigned)
				}
			}
		})
	}
	w.silent()
}

// byHand runs a build's command in an ImageBuilder of its own, and returns the
// images' sums without signatures, by name.
func (w *workshop) byHand(command []string, version, target, profile string) map[string]string {
	w.Helper()
	folder := filepath.Join(w.tree, "releases", version, "targets", target)
	if version == "SNAPSHOT" {
		folder = filepath.Join(w.tree, "snapshots", "targets", target)
	}
	archives, err := filepath.Glob(filepath.Join(folder, "openwrt-imagebuilder-*.tar.*"))
	if err != nil || len(archives) != 1 {
		w.Fatalf("archives %v, %v", archives, err)
	}
	dir, images := w.TempDir(), w.TempDir()
	run := func(dir, name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH")}
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run(dir, "tar", "--strip-components=1", "-xf", archives[0])
	for _, name := range []string{"repositories", "repositories.conf"} {
		name = filepath.Join(dir, name)
		if list, err := os.ReadFile(name); err == nil {
			list = []byte(strings.ReplaceAll(string(list), "https://downloads.sample.example", w.server.URL))
			if err := os.WriteFile(name, list, 0o644); err != nil {
				w.Fatal(err)
			}
		}
	}
	args := slices.Clone(command[1:])
	for i, arg := range args {
		if strings.HasPrefix(arg, "BIN_DIR=") {
			args[i] = "BIN_DIR=" + images
		}
	}
	run(dir, command[0], args...)
	var made struct {
		Profiles map[string]struct {
			Images []struct {
				Name           string
				SHA256Unsigned string `json:"sha256_unsigned"`
			}
		}
	}
	data, err := os.ReadFile(filepath.Join(images, "profiles.json"))
	if err == nil {
		err = json.Unmarshal(data, &made)
	}
	if err != nil {
		w.Fatal(err)
	}
	sums := map[string]string{}
	for _, image := range made.Profiles[profile].Images {
		sums[image.Name] = image.SHA256Unsigned
	}
	return sums
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/runner"
	"attendant/server"
	"attendant/store"
)

// TestForecastOfTheSample: what is said of an image before it is built, and
// what comes of it.
func TestForecastOfTheSample(t *testing.T) {
	t.Parallel()
	p := startConfigured(t, "")
	request := func(profile, packages string) string {
		return `{"version":"24.10.4","target":"ath79/generic","profile":"` + profile + `","packages":` + packages + `}`
	}
	solve := func(request string) *server.FlashSize {
		t.Helper()
		_, body := post(t, p.base+"/api/v1/solve", request)
		var s server.Solved
		if err := json.Unmarshal([]byte(body), &s); err != nil || s.Sizes.Flash == nil {
			t.Fatalf("%v in %s", err, body)
		}
		return s.Sizes.Flash
	}
	const comfast, limit = "comfast_cf-e314n-v2", 8126464
	if f := solve(request(comfast, `["tmux"]`)); f.Verdict != "unknown" || f.Estimate != 0 {
		t.Errorf("before anything was built: %+v", f)
	}

	first := await(t, p.base, request(comfast, `["tmux"]`))
	if first.Status != 200 || len(first.Images) != 1 {
		t.Fatalf("build: %+v", first)
	}
	f := solve(request(comfast, `["tmux"]`))
	if size := first.Images[0].Size; f.Verdict != "fits" || f.Limit != limit || f.Low > size || f.High < size || f.Over != 0 {
		t.Errorf("of an image of %d bytes: %+v", size, f)
	}
	if len(f.Largest) == 0 || f.Largest[0].Name == "busybox" {
		t.Errorf("the largest optional packages: %+v", f.Largest)
	}

	second := await(t, p.base, request(comfast, `["luci","htop"]`))
	if size := second.Images[0].Size; second.Status == 200 {
		if f := solve(request(comfast, `["luci","htop"]`)); f.Low > size || f.High < size {
			t.Errorf("of an image of %d bytes: %+v", size, f)
		}
	}
	// A device that was never built for, from what its neighbours became.
	other := solve(request("openmesh_om2p-v2", `["luci"]`))
	if other.Limit != 7929856 || other.Verdict != "fits" || other.High-other.Low < f.High-f.Low {
		t.Errorf("of a new device: %+v", other)
	}

	big := solve(request(comfast, `["bigpkg"]`))
	// Nine megabytes of zeros may come to nothing, and do not in the sample.
	if big.Verdict != "tight" || big.High <= limit || big.Largest[0].Name != "bigpkg" {
		t.Errorf("of an image that is too big: %+v", big)
	}
	// The forecast alone refuses nothing.
	if failed := await(t, p.base, request(comfast, `["bigpkg"]`)); failed.Status != 500 || failed.Code != string(imagebuilder.CodeImageTooBig) {
		t.Errorf("it is not the build that tells: %+v", failed)
	}
	maps := solve(request(comfast, `["offline-maps"]`))
	if maps.Verdict != "too_big" || maps.Low <= limit || maps.Over <= 0 || maps.Largest[0].Name != "offline-maps" || !strings.Contains(maps.Detail, "it is too big by about") {
		t.Errorf("of what can only be too big: %+v", maps)
	}
	if failed := await(t, p.base, request(comfast, `["offline-maps"]`)); failed.Status != 500 || failed.Code != string(imagebuilder.CodeImageTooBig) {
		t.Errorf("it was to be too big: %+v", failed)
	}
}

// Upstream's own images tell the sizes of what was never built here.
func TestForecastFromReadyMadeImages(t *testing.T) {
	p := startConfigured(t, "")
	request := `{"version":"SNAPSHOT",` + archerC7 + `,"packages":["luci","htop"]}`
	_, body := post(t, p.base+"/api/v1/solve", request)
	var s server.Solved
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Sizes.Flash == nil {
		t.Fatalf("%v in %s", err, body)
	}
	built := await(t, p.base, request)
	at := slices.IndexFunc(built.Images, func(i apiImage) bool { return i.Type == "sysupgrade" })
	if at < 0 {
		t.Fatalf("%+v", built)
	}
	image := built.Images[at]
	if f := s.Sizes.Flash; f.Verdict != "fits" || f.Limit != 15794176 || f.Low > image.Size || f.High < image.Size {
		t.Errorf("%+v of %+v", f, image)
	}
}

// noBuilder ends every build as it is told.
type noBuilder struct {
	built *imagebuilder.Built
	err   error
}

func (b noBuilder) Build(context.Context, imagebuilder.Job, imagebuilder.Reporter) (*imagebuilder.Built, error) {
	return b.built, b.err
}

func TestForecastsLearnFromFailures(t *testing.T) {
	db, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f := &forecasts{db: db, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		universe: func(context.Context, imagebuilder.Request, imagebuilder.Generation) *feeds.Universe { return nil }}
	job := imagebuilder.Job{Hash: "x", Request: imagebuilder.Request{Distro: "openwrt", Version: "24.10.4", Target: "ath79/generic", Profile: "a"}}
	target := store.SizeTarget{Distro: "openwrt", Branch: "24.10", Target: "ath79/generic"}
	const stderr = "    WARNING: Image file /b/tmp/x-squashfs-sysupgrade.bin is too big: 10027012 > 8126464\n"
	for _, test := range []struct {
		name string
		err  error
		want map[string]int64
	}{
		{"another failure", &imagebuilder.Error{Code: imagebuilder.CodeBuildFailed, Stderr: stderr}, nil},
		{"without a number", &imagebuilder.Error{Code: imagebuilder.CodeImageTooBig}, nil},
		{"too big", &imagebuilder.Error{Code: imagebuilder.CodeImageTooBig, Stderr: stderr}, map[string]int64{"a": 8126464}},
	} {
		b := observed{noBuilder{err: test.err}, f}
		if _, err := b.Build(t.Context(), job, nil); !errors.Is(err, test.err) {
			t.Errorf("%s: the error became %v", test.name, err)
		}
		limits, err := db.Limits(target)
		if diff := cmp.Diff(test.want, limits.Learnt); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", test.name, err, diff)
		}
	}
	// A builder that is gone, and a build of which nothing can be learnt.
	f.builder(job.Request, &runner.Builder{Dir: filepath.Join(t.TempDir(), "gone")})
	b := observed{noBuilder{built: &imagebuilder.Built{Set: imagebuilder.ImageSet{Images: []imagebuilder.Image{{Type: "sysupgrade", Size: 5}}}}}, f}
	if built, err := b.Build(t.Context(), job, nil); err != nil || built == nil {
		t.Errorf("%v, %v", built, err)
	}
}

func TestUpgradeImage(t *testing.T) {
	image := func(kind, filesystem string) imagebuilder.Image {
		return imagebuilder.Image{Type: kind, Filesystem: filesystem, Size: 1}
	}
	ext4 := "ext4"
	for _, test := range []struct {
		name   string
		wanted *string
		images []imagebuilder.Image
		want   imagebuilder.Image
		ok     bool
	}{
		{"none", nil, nil, imagebuilder.Image{}, false},
		{"only others", nil, []imagebuilder.Image{image("factory", "squashfs"), image("kernel", "")}, imagebuilder.Image{}, false},
		{"sysupgrade", nil, []imagebuilder.Image{image("factory", "squashfs"), image("sysupgrade", "squashfs")}, image("sysupgrade", "squashfs"), true},
		{"squashfs", nil, []imagebuilder.Image{image("combined", "ext4"), image("combined", "squashfs")}, image("combined", "squashfs"), true},
		{"what was asked for", &ext4, []imagebuilder.Image{image("combined", "squashfs"), image("combined", "ext4")}, image("combined", "ext4"), true},
		{"an empty one", nil, []imagebuilder.Image{{Type: "sysupgrade"}}, imagebuilder.Image{}, false},
	} {
		got, ok := upgradeImage(imagebuilder.Request{Filesystem: test.wanted}, test.images)
		if got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %t", test.name, got, ok)
		}
	}
}

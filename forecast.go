package main

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/upstream"
	"attendant/queue"
	"attendant/server"
	"attendant/store"
)

// defaultFilesystem is what is forecast for requests that name none: what
// devices with little flash have.
const defaultFilesystem = "squashfs"

// forecasts learns from builds how large images become and what devices take,
// and tells it of images that are yet to be built. What it cannot read or
// write is logged and no more: no build and no answer depends on it.
type forecasts struct {
	db       *store.DB
	universe func(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) *feeds.Universe // nil if not known
	log      *slog.Logger

	mu       sync.Mutex
	builders map[store.SizeTarget]string // sums of those whose limits were read last
}

// universe is all packages of a request's generation, nil if that is past.
func (a *application) universe(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) *feeds.Universe {
	t, err := a.distro(r.Distro).current(ctx, r, g)
	if err != nil || t == nil {
		return nil
	}
	return t.Universe()
}

func sizeTarget(r imagebuilder.Request) store.SizeTarget {
	return store.SizeTarget{Distro: r.Distro, Branch: imagebuilder.Branch(r.Version), Target: r.Target}
}

// flash tells how large the image of a resolved request will be, with the
// selection that was found for it among t's packages.
func (f *forecasts) flash(r imagebuilder.Request, t *upstream.Target, s *feeds.Solution, w feeds.Wish) *server.FlashSize {
	target, filesystem := sizeTarget(r), defaultFilesystem
	if r.Filesystem != nil {
		filesystem = cmp.Or(*r.Filesystem, filesystem)
	}
	sizes, err := f.db.Sizes(target, filesystem)
	if err != nil {
		f.log.Warn("the sizes of earlier images cannot be read", "err", err)
	}
	limits, err := f.db.Limits(target)
	if err != nil {
		f.log.Warn("the devices' limits cannot be read", "err", err)
	}
	seen := make([]feeds.Observation, 0, len(sizes)+1)
	for _, s := range sizes {
		seen = append(seen, feeds.Observation{Profile: s.Profile, Filesystem: filesystem, Download: s.Download, Flash: s.Flash})
	}
	limit := limits.Of(r.Profile)
	if p := t.Profiles.Profiles[r.Profile]; p != nil {
		if o, ok := readyMade(r, p, t.Universe(), w); ok {
			seen = append(seen, o)
		}
		if limits.Builder == "" && limit == 0 {
			limit = p.ImageSize // until its ImageBuilder tells which are enforced
		}
	}
	weight := s.Weigh(w)
	if len(r.Repositories) > 0 || len(s.Problems) > 0 {
		// It is not the whole selection that was weighed.
		weight.Unknown++
	}
	told := feeds.NewForecast(weight, r.Profile, filesystem, limit, seen)
	size := &server.FlashSize{
		Verdict: string(told.Verdict), Estimate: told.Estimate, Low: told.Low, High: told.High, Limit: told.Limit, Over: told.Over,
		Detail: told.Detail, Largest: []server.LargePackage{},
	}
	for _, p := range told.Largest {
		size.Largest = append(size.Largest, server.LargePackage(p))
	}
	return size
}

// readyMade is what upstream's own image of a request's device shows, where
// profiles.json tells its size.
func readyMade(r imagebuilder.Request, p *upstream.Profile, u *feeds.Universe, w feeds.Wish) (feeds.Observation, bool) {
	image, ok := upgradeImage(r, p.Images)
	if !ok || u == nil {
		return feeds.Observation{}, false
	}
	own := feeds.Wish{Default: w.Default, Device: w.Device}
	s := u.Solve(own)
	weight := s.Weigh(own)
	if len(s.Problems) > 0 || weight.Unknown > 0 || weight.Hollow > 0 || weight.Download <= 0 {
		return feeds.Observation{}, false
	}
	return feeds.Observation{
		Profile: p.ID, Filesystem: cmp.Or(image.Filesystem, defaultFilesystem), Download: weight.Download, Flash: image.Size,
	}, true
}

// builder reads from an unpacked ImageBuilder what its devices take, unless it
// is the one that was read last.
func (f *forecasts) builder(r imagebuilder.Request, b *runner.Builder) {
	target, sum := sizeTarget(r), cmp.Or(b.Generation.BuilderSHA256, b.Dir)
	f.mu.Lock()
	known := f.builders[target] == sum
	f.mu.Unlock()
	if known {
		return
	}
	limits, err := runner.DeviceLimits(b.Dir)
	if err == nil {
		err = f.db.StateLimits(target, sum, limits)
	}
	if err != nil {
		f.log.Warn("what devices take cannot be learnt from the ImageBuilder", "target", r.Target, "version", r.Version, "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.builders == nil || len(f.builders) >= 256 {
		f.builders = map[store.SizeTarget]string{}
	}
	f.builders[target] = sum
}

// built learns from a finished build; it is recorded with its job.
func (f *forecasts) built(ctx context.Context, job imagebuilder.Job, built *imagebuilder.Built) {
	image, ok := upgradeImage(job.Request, built.Set.Images)
	if !ok {
		return
	}
	u := f.universe(ctx, job.Request, job.Generation)
	if u == nil {
		return
	}
	weight := feeds.WeighManifest(built.Set.Manifest, u.Feeds())
	if weight.Unknown > 0 || weight.Hollow > 0 || weight.Download <= 0 {
		return // it holds what is not in the feeds, or what is no example
	}
	err := f.db.NoteSize(job.Hash, sizeTarget(job.Request), cmp.Or(image.Filesystem, defaultFilesystem),
		store.Size{Profile: job.Request.Profile, Download: weight.Download, Flash: image.Size})
	if err != nil {
		f.log.Warn("an image's size cannot be recorded", "hash", job.Hash, "err", err)
	}
}

// failed learns what a device takes from a build whose image was too big.
func (f *forecasts) failed(job imagebuilder.Job, e *imagebuilder.Error) {
	if e.Code != imagebuilder.CodeImageTooBig {
		return
	}
	limit, _, ok := runner.LearntLimit(e.Stderr)
	if !ok {
		return
	}
	if err := f.db.LearnLimit(sizeTarget(job.Request), job.Request.Profile, limit); err != nil {
		f.log.Warn("what a device takes cannot be recorded", "profile", job.Request.Profile, "err", err)
	}
}

// upgradeImage is the image of a set that upgrades the device: of the file
// system that was asked for, else squashfs, else any.
func upgradeImage(r imagebuilder.Request, images []imagebuilder.Image) (imagebuilder.Image, bool) {
	wanted := defaultFilesystem
	if r.Filesystem != nil {
		wanted = cmp.Or(*r.Filesystem, wanted)
	}
	best, rank := imagebuilder.Image{}, 0
	for _, image := range images {
		points := 0
		switch image.Type {
		case "sysupgrade":
			points = 4
		case "combined":
			points = 2
		}
		if points > 0 && (image.Filesystem == wanted || image.Filesystem == "") {
			points++
		}
		if points > rank && image.Size > 0 {
			best, rank = image, points
		}
	}
	return best, rank > 0
}

// observed is a builder whose builds are learnt from.
type observed struct {
	queue.Builder
	forecasts *forecasts
}

func (o observed) Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error) {
	built, err := o.Builder.Build(ctx, job, rep)
	switch {
	case err != nil:
		o.forecasts.failed(job, imagebuilder.AsError(err))
	case built != nil:
		o.forecasts.built(ctx, job, built)
	}
	return built, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/upstream"
)

// maxDoubt bounds, in bytes, what is fetched for a build beyond what it will
// install: where the resolver is not certain everything is fetched that could
// be chosen.
const maxDoubt = 192 << 20

// planner plans builds with upstream's packages: it is the runner's Planner.
type planner struct {
	// upstream is where a request's distribution comes from.
	upstream func(req imagebuilder.Request) *upstream.Upstream
	// solve is the resolver; nil is certain of nothing.
	solve func(u *feeds.Universe, w feeds.Wish) *feeds.Solution
}

// planner plans the builds of all distributions.
func (a *application) planner() *planner {
	return &planner{
		upstream: func(req imagebuilder.Request) *upstream.Upstream { return a.distro(req.Distro).upstream },
		solve:    (*feeds.Universe).Solve,
	}
}

// noPlan says why a build has to fetch for itself.
func noPlan(format string, args ...any) error {
	return fmt.Errorf("%w: %s", runner.ErrNoPlan, fmt.Sprintf(format, args...))
}

// Plan implements runner.Planner.
func (p *planner) Plan(ctx context.Context, q runner.Question) (*runner.Plan, error) {
	req := q.Job.Request
	u := p.upstream(req)
	target, err := u.Target(ctx, req.Version, req.Target)
	if err != nil {
		return nil, noPlan("what the download server offers is not known (%v)", err)
	}
	b := &planned{u: u, target: target, q: q}
	universe, err := b.universe(ctx)
	if err != nil {
		return nil, err
	}
	plan := &runner.Plan{Fetch: b.fetch}
	switch {
	case p.solve == nil:
	case target.Generation.Digest != q.Job.Generation.Digest:
		plan.Why = "the packages have changed since the request."
	case target.Local():
		plan.Why = "the ImageBuilder is the operator's own."
	case q.Doubt:
		plan.Why = "the ImageBuilder made another choice than was foreseen."
	default:
		if why := b.settle(plan, p.solve(universe, q.Wish)); why != "" {
			plan.Why = why
		}
	}
	if plan.Certain {
		b.choose(plan.Selected)
	} else if err := b.chooseAll(); err != nil {
		return nil, err
	}
	if err := b.checkNames(); err != nil {
		return nil, err
	}
	return plan, nil
}

// checkNames finds packages that cannot lie beside their list in a folder of
// the build's own: opkg fetches those of a feed with folders all the same.
func (b *planned) checkNames() error {
	for i, packages := range b.wanted {
		for _, p := range packages {
			if !runner.ValidPackageFileName(b.fileName(p)) {
				return noPlan("the feed %s has its package %s at %q", b.q.Feeds[i].URL, p.Name, p.Filename)
			}
		}
	}
	return nil
}

// settle makes the plan certain if the solution is, and everything in it is of
// the build's feeds or comes with the builder; else it says why not.
func (b *planned) settle(plan *runner.Plan, s *feeds.Solution) (why string) {
	switch {
	case len(s.Problems) > 0:
		return s.Problems[0].Detail
	case !s.Certain && len(s.Doubts) > 0:
		return s.Doubts[0]
	case !s.Certain:
		return "the resolver is not certain."
	}
	manifest := make(imagebuilder.Manifest, len(s.Selected))
	selected := make([]*feeds.Package, 0, len(s.Selected))
	for _, chosen := range s.Selected {
		version := chosen.Version
		if chosen.Feed == nil {
			if version = b.localVersion(chosen.Name); version == "" {
				return chosen.Name + " is in no feed."
			}
		}
		manifest[chosen.BaseName()] = version
		selected = append(selected, chosen.Package)
	}
	plan.Certain, plan.Manifest, plan.Selected = true, manifest, selected
	return ""
}

// localVersion is the version of a package that the builder brings along, by
// its file's name: "libc_1.2.5-r4_mips_24kc.ipk", "libc-1.2.5-r4.apk".
func (b *planned) localVersion(name string) string {
	for _, file := range b.q.Local {
		if rest, ok := strings.CutPrefix(file, name+"-"); ok && b.q.Manager == feeds.APK && rest[0] >= '0' && rest[0] <= '9' {
			return strings.TrimSuffix(rest, ".apk")
		}
		if rest, ok := strings.CutPrefix(file, name+"_"); ok {
			version, _, _ := strings.Cut(rest, "_")
			return version
		}
	}
	return ""
}

// planned is one build's packages.
type planned struct {
	u      *upstream.Upstream
	target *upstream.Target
	q      runner.Question

	feeds        []feeds.Feed           // of q.Feeds, in their order
	repositories []*upstream.Repository // the same; nil for upstream's own
	wanted       [][]*feeds.Package     // of each feed, what is to be fetched
}

// universe joins the build's feeds: upstream's own as they are held, those of
// the request as they are now.
func (b *planned) universe(ctx context.Context) (*feeds.Universe, error) {
	var own []upstream.Feed
	b.repositories = make([]*upstream.Repository, len(b.q.Feeds))
	foreign := false
	for i, f := range b.q.Feeds {
		if f.Path != "" && (b.target.HasFeed(f.Path) || !b.asked(f)) {
			own = append(own, upstream.Feed{Name: f.Name, Path: f.Path})
			continue
		}
		foreign = true
		if !strings.HasPrefix(f.URL, "http://") && !strings.HasPrefix(f.URL, "https://") {
			return nil, noPlan("the ImageBuilder has a feed at %s", f.URL)
		}
		r, err := b.u.Repository(ctx, f.URL, b.q.Manager, b.q.Keys)
		if errors.Is(err, upstream.ErrUntrusted) {
			return nil, noPlan("the feed %s is not signed by a known key", f.URL)
		}
		if err != nil {
			return nil, err
		}
		b.repositories[i] = r
	}
	var universe *feeds.Universe
	var held []feeds.Feed
	if len(own) > 0 {
		if universe, held = b.target.UniverseOf(own); universe == nil {
			return nil, noPlan("the download server's lists of packages are not all at hand")
		}
	}
	for i, f := range b.q.Feeds {
		if r := b.repositories[i]; r != nil {
			b.feeds = append(b.feeds, feeds.Feed{Name: f.Name, Index: r.Index})
			continue
		}
		b.feeds, held = append(b.feeds, held[0]), held[1:]
	}
	if foreign {
		universe = feeds.NewUniverse(b.q.Manager, b.target.Arch, b.feeds)
	}
	b.wanted = make([][]*feeds.Package, len(b.feeds))
	return universe, nil
}

// asked tells whether a feed is one of the request's own.
func (b *planned) asked(f runner.FeedLine) bool {
	return slices.ContainsFunc(b.q.Job.Request.Repositories, func(repo imagebuilder.Pair) bool {
		return strings.TrimRight(strings.TrimSuffix(repo.Value, "/packages.adb"), "/") == f.URL
	})
}

func same(a, b *feeds.Package) bool {
	return a.Name == b.Name && a.Version == b.Version && a.Architecture == b.Architecture && a.SHA256 == b.SHA256 && a.Identity == b.Identity
}

// choose wants what is selected, in every feed that has it: which of them the
// package manager takes it from is its own affair. What the ImageBuilder
// brings along is wanted too, for it may be passed over.
func (b *planned) choose(list []*feeds.Package) {
	selected := map[string]*feeds.Package{}
	for _, chosen := range list {
		selected[chosen.Name] = chosen
	}
	for i, f := range b.feeds {
		for j := range f.Index.Packages {
			if p := &f.Index.Packages[j]; selected[p.Name] != nil && same(p, selected[p.Name]) {
				b.wanted[i] = append(b.wanted[i], p)
			}
		}
	}
}

// chooseAll wants everything that could be chosen, unless that is too much.
func (b *planned) chooseAll() error {
	var total int64
	for i, packages := range runner.Closure(b.feeds, b.q.Wish) {
		for _, p := range packages {
			total += p.Size
		}
		b.wanted[i] = packages
	}
	if total > maxDoubt {
		return noPlan("what might be installed has %d MB", total>>20)
	}
	return nil
}

// fileName is what a package is called in its feed's folder.
func (b *planned) fileName(p *feeds.Package) string {
	if p.Filename == "" && b.q.Manager == feeds.APK {
		return p.Name + "-" + p.Version + ".apk"
	}
	return strings.TrimPrefix(p.Filename, "./")
}

// fetch gets what is wanted and says where it lies.
func (b *planned) fetch(ctx context.Context, rep imagebuilder.Reporter) (*runner.Fetched, error) {
	out := &runner.Fetched{Feeds: make([]runner.FetchedFeed, len(b.feeds))}
	var files []upstream.PackageFile
	for i := range b.feeds {
		out.Feeds[i] = runner.FetchedFeed{Files: map[string]string{}}
		if r := b.repositories[i]; r != nil {
			out.Feeds[i].Data = map[string][]byte{r.ListName: r.List}
			if r.Signature != nil {
				out.Feeds[i].Data["Packages.sig"] = r.Signature
			}
		} else {
			list, err := b.target.FeedList(b.q.Feeds[i].Path)
			if err != nil {
				return nil, fmt.Errorf("the list of a feed: %w", err)
			}
			out.Feeds[i].Files[list.Name] = list.File
			if list.Signature != "" {
				out.Feeds[i].Files["Packages.sig"] = list.Signature
			}
		}
		for _, p := range b.wanted[i] {
			if r := b.repositories[i]; r != nil {
				files = append(files, r.PackageFile(p))
			} else {
				files = append(files, b.target.PackageFile(b.q.Feeds[i].Path, p))
			}
		}
	}
	set, err := b.u.FetchPackages(ctx, files, rep)
	if err != nil {
		return nil, err
	}
	out.Release, out.Damaged = set.Release, set.Damaged
	n := 0
	for i := range b.feeds {
		for _, p := range b.wanted[i] {
			out.Feeds[i].Files[b.fileName(p)] = set.Paths[n]
			n++
		}
	}
	return out, nil
}

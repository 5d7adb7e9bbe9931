package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/upstream"
	"attendant/replacements"
	"attendant/server"
	"attendant/store"
)

// catalogue shows a distribution's upstream and the replacement tables to the
// server.
type catalogue struct {
	name        string   // as "openwrt"
	aliases     []string // further names
	tableDistro string   // whose replacement tables apply
	upstream    *upstream.Upstream
	tables      *replacements.Holder
	policies    policies
	feeds       []DistributionFeed // that every image gets
	indexes     *indexes
	forecasts   *forecasts
}

func (c *catalogue) Overview(ctx context.Context) (*server.Overview, error) {
	o, err := c.upstream.Overview(ctx)
	if err != nil {
		return nil, err
	}
	policy := c.policies.of("")
	branches := make([]server.Branch, 0, len(o.Branches))
	for _, b := range o.Branches {
		var versions []string
		for _, v := range b.Versions {
			if policy.offers(v) {
				versions = append(versions, v)
			}
		}
		if len(versions) == 0 {
			continue
		}
		changes := b.PackageChanges // the operator's
		if len(changes) == 0 {
			changes = c.tables.Set().PackageChanges(c.tableDistro, b.BranchOffRev)
		}
		branches = append(branches, server.Branch{
			Name: b.Name, Path: b.Path, Enabled: b.Enabled, Snapshot: b.Snapshot, PathPackages: "DEPRECATED",
			BranchOffRev: b.BranchOffRev, PackageChanges: changes, Versions: versions, Targets: b.Targets,
		})
	}
	return &server.Overview{
		Branches: branches, Latest: c.latest(o, policy), UpstreamURL: o.UpstreamURL, Checked: o.Checked, Stale: o.Stale,
	}, nil
}

// latest is upstream's list of latest releases as the operator's policy leaves
// it: in the place of one that is not recommended stands the newest of its
// branch that is.
func (c *catalogue) latest(o *upstream.Overview, policy *Policy) []string {
	latest := make([]string, 0, len(o.Latest))
	for _, v := range o.Latest {
		if !policy.recommends(v) {
			v = newestRecommended(o, policy, imagebuilder.Branch(v))
		}
		if v != "" && !slices.Contains(latest, v) {
			latest = append(latest, v)
		}
	}
	return latest
}

func newestRecommended(o *upstream.Overview, policy *Policy, branch string) string {
	for _, b := range o.Branches {
		for _, v := range b.Versions {
			if imagebuilder.Branch(v) == branch && !isSnapshot(v) && policy.recommends(v) {
				return v
			}
		}
	}
	return ""
}

func (c *catalogue) Resolve(ctx context.Context, r imagebuilder.Request) (imagebuilder.Request, imagebuilder.Generation, error) {
	r.Distro = c.name
	if !c.policies.of("").offers(r.Version) {
		return r, imagebuilder.Generation{}, notOffered(r.Version)
	}
	target, err := c.upstream.Target(ctx, r.Version, r.Target)
	if err != nil {
		return r, imagebuilder.Generation{}, err
	}
	id, _, err := target.Profile(r.Profile)
	if err != nil {
		return r, imagebuilder.Generation{}, err
	}
	r.Profile = id
	return c.withFeeds(r, target), target.Generation, nil
}

// withFeeds adds the distribution's own feeds to a request, unless it names
// feeds to be used instead of all others.
func (c *catalogue) withFeeds(r imagebuilder.Request, t *upstream.Target) imagebuilder.Request {
	if len(c.feeds) == 0 || len(r.Repositories) > 0 && r.RepositoriesMode == imagebuilder.RepositoriesReplace {
		return r
	}
	place := strings.NewReplacer("{version}", r.Version, "{branch}", imagebuilder.Branch(r.Version), "{arch}", t.Arch, "{target}", t.Name)
	repositories := make(imagebuilder.Pairs, 0, len(c.feeds)+len(r.Repositories))
	keys := slices.Clone(r.RepositoryKeys)
	for _, f := range c.feeds {
		repositories = append(repositories, imagebuilder.Pair{Name: f.Name, Value: place.Replace(f.URL)})
		if f.Key != "" && !slices.Contains(keys, f.Key) {
			keys = append(keys, f.Key)
		}
	}
	for _, own := range r.Repositories {
		if !slices.ContainsFunc(repositories, func(p imagebuilder.Pair) bool { return p.Name == own.Name }) {
			repositories = append(repositories, own)
		}
	}
	r.Repositories, r.RepositoriesMode, r.RepositoryKeys = repositories, imagebuilder.RepositoriesAppend, keys
	return r
}

// Tables stands for the tables in force: a set is never changed.
func (c *catalogue) Tables() any { return c.tables.Set() }

// Replace applies what lies on the way from the release that the request comes
// from, or, where the client does not say, what holds whatever that is.
// Versions that were asked for an old name say nothing of the new one.
func (c *catalogue) Replace(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (imagebuilder.Request, error) {
	req := replacements.Request{
		Distro: c.tableDistro, From: r.FromVersion, FromRevision: r.FromRevision, To: r.Version, ToRevision: g.Revision,
		Target: r.Target, Profile: r.Profile, Packages: r.Packages, Installed: r.Installed, Choices: r.Choices,
	}
	if len(r.Repositories) == 0 { // else there may be more than the release's own packages
		exists, err := c.exists(ctx, r, g)
		if err != nil {
			return r, err
		}
		req.Exists = exists
	}
	result, err := c.tables.Set().Apply(req)
	if err != nil {
		return r, err
	}
	changes := &imagebuilder.Changes{Replacements: result.Replaced(), Choices: choicesOf(result)}
	if len(r.Choices) > 0 {
		t, u := c.foreseeable(ctx, r, g)
		replaced := r
		replaced.Packages = result.Packages
		result.Packages = makeRoom(u, t, replaced, r.Choices, result.Choices, changes.Replacements).Packages
	}
	if slices.Equal(result.Packages, r.Packages) {
		if len(changes.Choices) > 0 {
			r.Changes = changes
		}
		return c.ordered(ctx, r, g)
	}
	for _, name := range result.Dropped() {
		changes.Replacements[name] = []string{}
	}
	for _, added := range result.Added {
		changes.Added = append(changes.Added, added.New...)
	}
	versions := make(imagebuilder.Pairs, 0, len(r.PackagesVersions))
	for _, pv := range r.PackagesVersions {
		if slices.Contains(result.Packages, pv.Name) {
			versions = append(versions, pv)
		}
	}
	r.Packages, r.PackagesVersions, r.Changes = result.Packages, versions, changes
	return c.ordered(ctx, r, g)
}

func (c *catalogue) ordered(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (imagebuilder.Request, error) {
	t, err := c.current(ctx, r, g)
	if err != nil || t == nil {
		return r, err
	}
	r.Packages = inOneOrder(r, t)
	return r, nil
}

func (c *catalogue) Revision(ctx context.Context, version, target string) (string, error) {
	profiles, err := c.upstream.Profiles(ctx, version, target)
	if err != nil {
		return "", err
	}
	return profiles.VersionCode, nil
}

func (c *catalogue) Profile(ctx context.Context, path, target, profile string) ([]byte, error) {
	version, ok := c.upstream.VersionForPath(path)
	if !ok {
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "No release is kept at %s here.", path)
	}
	profiles, err := c.upstream.Profiles(ctx, version, target)
	if err != nil {
		return nil, err
	}
	if body, ok := profiles.JSON(profile); ok {
		return body, nil
	}
	return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedProfile, "%s has no device %s in %s.", version, profile, target)
}

func (c *catalogue) TargetIndex(ctx context.Context, path, target string) ([]byte, error) {
	return c.upstream.TargetIndex(ctx, path, target)
}

func (c *catalogue) ArchIndex(ctx context.Context, path, arch string) ([]byte, error) {
	return c.upstream.ArchIndex(ctx, path, arch)
}

// builds runs builds, and has upstream looked at again when one shows that what
// is held of it is behind the feeds that builds use.
type builds struct {
	runner *runner.Runner
	distro func(name string) *catalogue
}

func (b builds) Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error) {
	built, err := b.runner.Build(ctx, job, rep)
	if err != nil {
		switch imagebuilder.AsError(err).Code {
		case imagebuilder.CodePackageVersion, imagebuilder.CodePackageDamaged, imagebuilder.CodeWrongRevision:
			b.distro(job.Request.Distro).upstream.Hasten(job.Request.Version, job.Request.Target)
		}
	}
	return built, err
}

// statistics shows the store's counters to the server.
type statistics struct {
	*store.Statistics
}

func (s statistics) CountRequest()                { s.Count(store.Requests) }
func (s statistics) CountHit(saved time.Duration) { s.Hit(saved) }
func (s statistics) CountMiss()                   { s.Count(store.CacheMisses) }
func (s statistics) BuildsLastDay() int64         { return s.Successes24h() }

func (s statistics) Days(n int) []server.DayCounts {
	days := make([]server.DayCounts, 0, n)
	for _, d := range s.Statistics.Days(n) {
		days = append(days, server.DayCounts{
			Date: d.Date, Requests: d.Count(store.Requests), CacheHits: d.Count(store.CacheHits),
			Successes: d.Count(store.Successes), Failures: d.Count(store.Failures),
			Saved: time.Duration(d.Count(store.SavedMilliseconds)) * time.Millisecond,
		})
	}
	return days
}

func (s statistics) WeeklyBuilds(n int) ([]time.Time, map[string][]int64) { return s.Versions(n) }

func (s statistics) TopPackages(branch string, n int) []server.PackageCount {
	top := s.Statistics.TopPackages(branch, n)
	out := make([]server.PackageCount, len(top))
	for i, p := range top {
		out[i] = server.PackageCount(p)
	}
	return out
}

// database shows the store to the control socket.
type database struct {
	*store.DB
}

func (d database) Answers() error {
	_, err := d.LastSeq()
	return err
}

func (d database) Check() ([]string, error) {
	report, err := d.DB.Check()
	if err != nil {
		return nil, err
	}
	problems := report.Problems
	if report.More > 0 {
		problems = append(problems, fmt.Sprintf("… and %d more", report.More))
	}
	return problems, nil
}

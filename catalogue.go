package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/upstream"
	"attendant/replacements"
	"attendant/server"
	"attendant/store"
)

// catalogue shows upstream and the replacement tables to the server.
type catalogue struct {
	upstream *upstream.Upstream
	tables   *replacements.Holder
}

func (c catalogue) Overview(ctx context.Context) (*server.Overview, error) {
	o, err := c.upstream.Overview(ctx)
	if err != nil {
		return nil, err
	}
	branches := make([]server.Branch, len(o.Branches))
	for i, b := range o.Branches {
		changes := b.PackageChanges // the operator's
		if len(changes) == 0 {
			changes = c.tables.Set().PackageChanges(imagebuilder.DefaultDistro, b.BranchOffRev)
		}
		branches[i] = server.Branch{
			Name: b.Name, Path: b.Path, Enabled: b.Enabled, Snapshot: b.Snapshot, PathPackages: "DEPRECATED",
			BranchOffRev: b.BranchOffRev, PackageChanges: changes, Versions: b.Versions, Targets: b.Targets,
		}
	}
	return &server.Overview{
		Branches: branches, Latest: o.Latest, UpstreamURL: o.UpstreamURL, Checked: o.Checked, Stale: o.Stale,
	}, nil
}

func (c catalogue) Resolve(ctx context.Context, r imagebuilder.Request) (imagebuilder.Request, imagebuilder.Generation, error) {
	if r.Distro != imagebuilder.DefaultDistro {
		return r, imagebuilder.Generation{}, imagebuilder.Errorf(imagebuilder.CodeUnsupportedDistro, "Unsupported distro: %s", r.Distro)
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
	return r, target.Generation, nil
}

// Tables stands for the tables in force: a set is never changed.
func (c catalogue) Tables() any { return c.tables.Set() }

// Replace applies what holds whatever release the request comes from: clients
// of today do not say. Versions that were asked for an old name say nothing of
// the new one.
func (c catalogue) Replace(r imagebuilder.Request, g imagebuilder.Generation) imagebuilder.Request {
	result, err := c.tables.Set().Apply(replacements.Request{
		Distro: r.Distro, To: r.Version, ToRevision: g.Revision, Target: r.Target, Profile: r.Profile, Packages: r.Packages,
	})
	if err != nil || slices.Equal(result.Packages, r.Packages) {
		return r // an error is about choices, and there are none
	}
	changes := &imagebuilder.Changes{Replacements: result.Replaced()}
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
	return r
}

func (c catalogue) Revision(ctx context.Context, version, target string) (string, error) {
	profiles, err := c.upstream.Profiles(ctx, version, target)
	if err != nil {
		return "", err
	}
	return profiles.VersionCode, nil
}

func (c catalogue) Profile(ctx context.Context, path, target, profile string) ([]byte, error) {
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

func (c catalogue) TargetIndex(ctx context.Context, path, target string) ([]byte, error) {
	return c.upstream.TargetIndex(ctx, path, target)
}

func (c catalogue) ArchIndex(ctx context.Context, path, arch string) ([]byte, error) {
	return c.upstream.ArchIndex(ctx, path, arch)
}

// builders shows upstream's ImageBuilders to the runner.
func builders(u *upstream.Upstream) runner.Builders {
	return runner.BuildersFunc(func(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*runner.Builder, func(), error) {
		b, release, err := u.Builder(ctx, req.Version, req.Target, g, rep)
		if err != nil {
			return nil, nil, err
		}
		return &runner.Builder{Dir: b.Dir, Generation: b.Generation}, release, nil
	})
}

// builds runs builds, and has upstream looked at again when one shows that what
// is held of it is behind the feeds that builds use.
type builds struct {
	runner   *runner.Runner
	upstream *upstream.Upstream
}

func (b builds) Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error) {
	built, err := b.runner.Build(ctx, job, rep)
	if err != nil {
		switch imagebuilder.AsError(err).Code {
		case imagebuilder.CodePackageVersion, imagebuilder.CodePackageDamaged, imagebuilder.CodeWrongRevision:
			b.upstream.Hasten(job.Request.Version, job.Request.Target)
		}
	}
	return built, err
}

// statistics shows the store's counters to the server.
type statistics struct {
	*store.Statistics
}

func (s statistics) CountRequest()        { s.Count(store.Requests) }
func (s statistics) CountHit()            { s.Count(store.CacheHits) }
func (s statistics) CountMiss()           { s.Count(store.CacheMisses) }
func (s statistics) BuildsLastDay() int64 { return s.Successes24h() }

func (s statistics) Days(n int) []server.DayCounts {
	days := make([]server.DayCounts, 0, n)
	for _, d := range s.Statistics.Days(n) {
		days = append(days, server.DayCounts{
			Date: d.Date, Requests: d.Count(store.Requests), CacheHits: d.Count(store.CacheHits), Failures: d.Count(store.Failures),
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

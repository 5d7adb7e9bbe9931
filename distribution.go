package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"attendant/imagebuilder"
	"attendant/imagebuilder/runner"
	"attendant/imagebuilder/upstream"
	"attendant/server"
)

// openDistributions opens the upstream of every distribution. They share the
// disk that ImageBuilders may take, and the packages.
func (a *application) openDistributions(more extras, log *slog.Logger) error {
	cfg := a.cfg
	packages, err := upstream.OpenPackages(upstream.PackagesOptions{Dir: filepath.Join(cfg.Data, "packages"), Budget: cfg.PackageBudget, Log: log})
	if err != nil {
		return err
	}
	first := Distribution{
		Name: imagebuilder.DefaultDistro, Upstream: cfg.Upstream, Keys: cfg.Keys, RequireSignatures: cfg.RequireSignatures,
		Replacements: imagebuilder.DefaultDistro, Branches: cfg.Branches,
	}
	for i, d := range append([]Distribution{first}, cfg.Distributions...) {
		o := upstream.Options{
			URL: d.Upstream, Dir: cfg.Data, KeysDir: d.Keys, RequireSignatures: d.RequireSignatures,
			Refresh: cfg.Refresh, SnapshotRefresh: cfg.SnapshotRefresh, RequestWait: cfg.UpstreamWait,
			BuilderBudget: cfg.BuilderBudget / int64(1+len(cfg.Distributions)), Branches: upstreamBranches(d.Branches),
			Packages: packages, Prepare: a.runner.Prepare, Log: log,
		}
		feeds, err := readFeedKeys(d.Feeds)
		if err != nil {
			return fmt.Errorf("distribution %s: %w", d.Name, err)
		}
		c := &catalogue{
			name: d.Name, tableDistro: d.Replacements, tables: a.tables, policies: policiesFor(cfg.Policies, d.Name),
			feeds: feeds, indexes: newIndexes(), forecasts: a.forecasts,
		}
		if i == 0 {
			o.TrustedKeys, o.LocalBuilders = more.trustedKeys, localBuilders(cfg.ImageBuilders)
			c.aliases = []string{"lede"}
		} else {
			o.Dir, o.Log = distributionDir(cfg, d.Name), log.With("distribution", d.Name)
			if err := os.MkdirAll(o.Dir, 0o750); err != nil {
				return fmt.Errorf("make the folder of the distribution %s: %w", d.Name, err)
			}
		}
		if c.upstream, err = upstream.Open(o); err != nil {
			return fmt.Errorf("distribution %s: %w", d.Name, err)
		}
		a.distros = append(a.distros, c)
	}
	return nil
}

// readFeedKeys returns the feeds with their keys' text in the place of the
// keys' paths.
func readFeedKeys(feeds []DistributionFeed) ([]DistributionFeed, error) {
	feeds = slices.Clone(feeds)
	for i := range feeds {
		f := &feeds[i]
		if f.Key == "" {
			continue
		}
		key, err := os.ReadFile(f.Key)
		if err != nil {
			return nil, fmt.Errorf("read the key of the feed %s: %w", f.Name, err)
		}
		if len(key) > imagebuilder.MaxKeyLength {
			return nil, fmt.Errorf("read the key of the feed %s: %s has %d bytes; a public key has at most %d", f.Name, f.Key, len(key), imagebuilder.MaxKeyLength)
		}
		f.Key = string(key)
	}
	return feeds, nil
}

// distributions are all catalogues by the names that requests may use.
func (a *application) distributions() map[string]server.Catalogue {
	byName := map[string]server.Catalogue{}
	for _, c := range a.distros {
		byName[c.name] = c
		for _, alias := range c.aliases {
			byName[alias] = c
		}
	}
	return byName
}

// distro is the distribution of a resolved request.
func (a *application) distro(name string) *catalogue {
	for _, c := range a.distros {
		if c.name == name {
			return c
		}
	}
	return a.distros[0] // of a job from before the distribution was taken out of the configuration
}

// Builder hands the distribution's ImageBuilders to the runner.
func (c *catalogue) Builder(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*runner.Builder, func(), error) {
	if req.Distro != c.name {
		return nil, nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedDistro,
			"Error: The distribution %s is no longer offered here. Please ask the server's operator.", req.Distro)
	}
	b, release, err := c.upstream.Builder(ctx, req.Version, req.Target, g, rep)
	if err != nil {
		return nil, nil, err
	}
	return &runner.Builder{Dir: b.Dir, Generation: b.Generation, UpstreamURL: c.upstream.URL()}, release, nil
}

func upstreamBranches(configured []Branch) []upstream.BranchConfig {
	var out []upstream.BranchConfig
	for _, b := range configured {
		branch := upstream.BranchConfig{Name: b.Name, Path: b.Path, Disabled: b.Enabled != nil && !*b.Enabled}
		if b.Snapshot != nil {
			branch.Snapshot = *b.Snapshot
		}
		if b.BranchOffRev != nil {
			branch.BranchOffRev = *b.BranchOffRev
		}
		branch.PackageChanges = b.PackageChanges
		branch.Versions = b.Versions
		out = append(out, branch)
	}
	return out
}

func localBuilders(configured []ImageBuilder) []upstream.LocalBuilder {
	var out []upstream.LocalBuilder
	for _, b := range configured {
		out = append(out, upstream.LocalBuilder(b))
	}
	return out
}

package runner

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// tree is what a builder's configuration says.
type tree struct {
	config string   // .config
	apk    bool     // its package manager
	name   string   // of the list of feeds
	list   string   // the list as the builder has it
	feeds  string   // the list for this build: other addresses, the request's own feeds
	bases  []string // addresses below which upstream's feeds lie
}

// configuration reads the builder's and puts the request's feeds into it.
func (a *attempt) configuration() (*tree, error) {
	req := a.job.Request
	t := &tree{name: opkgFeeds}
	var err error
	if t.config, err = a.read(".config"); err != nil {
		return nil, err
	}
	if t.list, err = a.read(opkgFeeds); err != nil {
		return nil, err
	}
	if t.list == "" || strings.Contains(t.config, "CONFIG_USE_APK=y\n") {
		t.apk, t.name = true, apkFeeds
		if t.list, err = a.read(apkFeeds); err != nil {
			return nil, err
		}
	}
	t.feeds, t.bases = t.list, upstreamBases(t.config)
	if a.upstream != "" {
		t.feeds = rewriteFeeds(t.feeds, t.bases, a.upstream)
		t.bases = []string{a.upstream}
	}
	if len(req.Repositories) > 0 {
		var e *imagebuilder.Error
		if t.feeds, e = mergeFeeds(t.feeds, req, t.apk); e != nil {
			return nil, e
		}
		for _, repo := range req.Repositories {
			a.feeds = append(a.feeds, repo.Value)
		}
	}
	return t, nil
}

// configure puts feeds, keys and the file system's choice into the layer: feeds
// in the build's own folder where a plan has fetched them, else at their
// addresses.
func (a *attempt) configure(ctx context.Context, b *Builder, info *Info, profile InfoProfile, packages, requested []string) error {
	req := a.job.Request
	t, err := a.configuration()
	if err != nil {
		return err
	}
	if err := a.prepare(ctx, b, info, profile, packages, requested, t); err != nil {
		return err
	}
	if t.feeds != t.list {
		if err := a.layer.WriteFile(t.name, []byte(t.feeds)); err != nil {
			return fmt.Errorf("writing the feeds: %w", err)
		}
	}
	for i, key := range req.RepositoryKeys {
		name, content, e := keyFile(i, key)
		if e != nil {
			return e
		}
		if err := a.layer.WriteFile(name, content); err != nil {
			return fmt.Errorf("writing a feed's key: %w", err)
		}
	}
	if req.Filesystem == nil {
		return nil
	}
	if makefile, err := a.read("Makefile"); err != nil || t.apk && strings.Contains(makefile, "ROOTFS_FILESYSTEM") {
		return err
	}
	restricted, err := restrictFilesystem(t.config, *req.Filesystem)
	if err != nil {
		return err
	}
	if restricted != t.config {
		return a.layer.WriteFile(".config", []byte(restricted))
	}
	return nil
}

// prepare has the build's packages planned and fetched. What the plan is
// certain of is checked before.
func (a *attempt) prepare(ctx context.Context, b *Builder, info *Info, profile InfoProfile, packages, requested []string, t *tree) error {
	var err error
	if a.plan, err = a.ask(ctx, b, info, profile, packages, t); err != nil || a.plan == nil {
		return err
	}
	if a.certain() {
		if e := checkVersions(a.plan.Manifest, a.job.Request.PackagesVersions, requested); e != nil {
			return e
		}
		if !t.apk {
			chosen := make([]feeds.Package, len(a.plan.Selected))
			for i, p := range a.plan.Selected {
				chosen[i] = *p
			}
			if e := conflictError(a.plan.Manifest, chosen); e != nil {
				return e
			}
		}
	}
	if a.fetched, err = a.plan.Fetch(ctx, a.out); err != nil {
		return err
	}
	dir := filepath.Join(a.dir, "feeds")
	lines := feedLines(t.feeds, t.apk, nil)
	folders, err := lay(dir, lines, a.fetched.Feeds)
	if err != nil {
		return fmt.Errorf("laying out the build's feeds: %w", err)
	}
	a.local, a.folders = dir, map[string]string{}
	for i, folder := range folders {
		if !t.apk { // opkg names them as URLs
			folder = "file://" + folder
		}
		a.folders[folder] = lines[i].URL
	}
	t.feeds = localFeeds(t.feeds, t.apk, folders)
	return nil
}

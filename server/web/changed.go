package web

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// changed is what an image changes on a router.
type changed struct {
	From     string // installed release
	Updated  []pair // name, old and new version
	Replaced []pair // name, and what stands for it
	Dropped  []pair // name, and a sentence where there is one
	Added    []pair // name and version
	// Part tells that not everything that is installed was named, or not with
	// its version: there may be more.
	Part bool
}

// Nothing tells that no change was found.
func (c *changed) Nothing() bool {
	return len(c.Updated)+len(c.Replaced)+len(c.Dropped)+len(c.Added) == 0
}

// changed compares what was installed, words "name" or "name=version", with
// what is in the image. Where that was not told, it is what the server made of
// the request; nil is nothing.
func (s *Site) changed(r *http.Request, d *buildPage, have []string) *changed {
	if len(have) == 0 {
		return requested(&d.Job.Request)
	}
	manifest := plainNames(d.Job.Images.Manifest)
	installed := selection{Have: have}.installed()
	_, whole := installed["base-files"] // which nobody asks for, and every router has
	c := &changed{From: d.From, Part: !whole}
	gone := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(installed)) {
		plain, old := plainName(name), installed[name]
		version, kept := manifest[plain]
		switch {
		case !imagebuilder.ValidPackageName(name): // an address may say anything
		case !kept:
			gone[plain] = old
		case old == "":
			c.Part = true
		case old != version:
			c.Updated = append(c.Updated, pair{plain, old + " → " + version})
		}
	}
	stands := s.successors(r, d, gone, manifest, c)
	if whole {
		had := map[string]bool{}
		for name := range installed {
			had[plainName(name)] = true
		}
		for _, name := range slices.Sorted(maps.Keys(manifest)) {
			// Libraries are not told: they come with what needs them.
			if _, library := d.Job.Images.Manifest[name]; library && !had[name] && !stands[name] && !strings.HasPrefix(name, "lib") {
				c.Added = append(c.Added, pair{name, manifest[name]})
			}
		}
	}
	return c
}

// successors sorts the packages that are gone into those that others stand for
// and those that nothing does. It returns the others.
func (s *Site) successors(r *http.Request, d *buildPage, gone, manifest map[string]string, c *changed) map[string]bool {
	stands := map[string]bool{}
	if len(gone) == 0 {
		return stands
	}
	var answer upgradeReply
	if d.From != "" {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		request := d.Job.Request
		// Without an answer the tables are not known; what is gone is known all the same.
		_, _ = s.call(ctx, r, http.MethodPost, "/api/v1/upgrade-check", map[string]any{
			"distro": request.Distro, "version": d.From, "target": request.Target, "profile": request.Profile,
			"to_version": request.Version, "packages": gone,
		}, &answer)
	}
	made := map[string][]string{}
	if changes := d.Job.Request.Changes; changes != nil {
		made = changes.Replacements
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		options := slices.Concat(made[name], answer.Replacements[name])
		for _, option := range answer.Choices[name].Options {
			options = append(options, option.Name)
		}
		options = slices.DeleteFunc(unique(options), func(option string) bool {
			_, is := manifest[option]
			return !is
		})
		if len(options) == 0 {
			c.Dropped = append(c.Dropped, pair{name, answer.Dropped[name]})
			continue
		}
		for _, option := range options {
			stands[option] = true
		}
		c.Replaced = append(c.Replaced, pair{name, strings.Join(options, ", ")})
	}
	return stands
}

// requested is what the server made of a request.
func requested(request *imagebuilder.Request) *changed {
	made := request.Changes
	if made == nil || len(made.Replacements)+len(made.Added) == 0 {
		return nil
	}
	c := &changed{From: request.FromVersion}
	for _, old := range slices.Sorted(maps.Keys(made.Replacements)) {
		if to := made.Replacements[old]; len(to) > 0 {
			c.Replaced = append(c.Replaced, pair{old, strings.Join(to, ", ")})
		} else {
			c.Dropped = append(c.Dropped, pair{old, ""})
		}
	}
	for _, name := range made.Added {
		c.Added = append(c.Added, pair{name, ""})
	}
	return c
}

// plainName is the name of a package without a library's ABI version, which
// changes from release to release.
func plainName(name string) string {
	if m := librarySuffix.FindStringSubmatch(name); m != nil {
		return m[1] + m[2]
	}
	return name
}

func plainNames(manifest imagebuilder.Manifest) map[string]string {
	plain := make(map[string]string, len(manifest))
	for name, version := range manifest {
		plain[plainName(name)] = version
	}
	return plain
}

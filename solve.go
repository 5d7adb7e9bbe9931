package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/upstream"
	"attendant/replacements"
	"attendant/server"
)

// current returns a request's target if it is still of the generation that the
// request was resolved for, nil otherwise.
func (c *catalogue) current(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (*upstream.Target, error) {
	t, err := c.upstream.Target(ctx, r.Version, r.Target)
	if err != nil || t.Generation.Digest != g.Digest {
		return nil, err
	}
	return t, nil
}

// exists tells what is in the index of a request's generation; nil where that
// is not certain.
func (c *catalogue) exists(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (func(string) bool, error) {
	t, err := c.current(ctx, r, g)
	if err != nil || t == nil {
		return nil, err
	}
	if u := whole(t); u != nil {
		return u.Has, nil
	}
	return nil, nil
}

// whole is the packages of a target where these are all that its ImageBuilder
// knows, else nil.
func whole(t *upstream.Target) *feeds.Universe {
	if t.Local() {
		return nil
	}
	return t.Universe()
}

// inOneOrder returns the packages in the order that they were asked for, or
// sorted where opkg would choose otherwise for another order: one request hash
// stands for all orders, and for one image.
func inOneOrder(r imagebuilder.Request, t *upstream.Target) []string {
	u := whole(t)
	if u == nil || u.Manager() != feeds.Opkg || len(r.Repositories) > 0 {
		return r.Packages
	}
	sorted := r
	sorted.Packages = slices.Sorted(slices.Values(r.Packages))
	asked, canonical := u.Solve(wish(r, t)), u.Solve(wish(sorted, t))
	if asked.Certain == canonical.Certain && maps.Equal(asked.Manifest(), canonical.Manifest()) {
		return r.Packages
	}
	return sorted.Packages
}

// wish is what the image of a request shall hold.
func wish(r imagebuilder.Request, t *upstream.Target) feeds.Wish {
	w := feeds.Wish{Default: t.Profiles.DefaultPackages}
	if p := t.Profiles.Profiles[r.Profile]; p != nil {
		w.Device = p.DevicePackages
	}
	w.Requested = imagebuilder.CommandPackages(r.Packages, r.DiffPackages, w.Default, w.Device)
	return w
}

// makeRoom leaves out of a request the default packages that exclude what the
// user chose and are options for the same old package: who chooses one does not
// want the other. replaced gets them, and what each made room for. Nothing is
// left out that does not help; u may be nil.
func makeRoom(u *feeds.Universe, t *upstream.Target, r imagebuilder.Request, chosen map[string]string, choices []replacements.Choice, replaced map[string][]string) imagebuilder.Request {
	if u == nil {
		return r
	}
	for _, choice := range choices {
		if choice.Chosen == "" || chosen[choice.Old] != choice.Chosen {
			continue
		}
		w := wish(r, t)
		byDefault := named(w.Default, w.Device)
		for _, o := range choice.Options {
			if o.Name == choice.Chosen || !byDefault[o.Name] || slices.Contains(r.Packages, o.Name) || slices.Contains(r.Packages, "-"+o.Name) {
				continue
			}
			without := r
			without.Packages = append(slices.Clone(r.Packages), "-"+o.Name)
			if len(u.Solve(wish(without, t)).Problems) < len(u.Solve(wish(r, t)).Problems) {
				r, replaced[o.Name] = without, []string{choice.Chosen}
			}
		}
	}
	return r
}

// foreseeable returns a request's target and its packages where these are all
// that an image of it can hold; else the packages are nil.
func (c *catalogue) foreseeable(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (*upstream.Target, *feeds.Universe) {
	if len(r.Repositories) > 0 {
		return nil, nil
	}
	t, err := c.current(ctx, r, g)
	if err != nil || t == nil {
		return nil, nil
	}
	return t, whole(t)
}

// Impossible tells why no image can come of a request. Feeds of the request's
// own are not looked into: of such a request nothing is certain.
func (c *catalogue) Impossible(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) *imagebuilder.Error {
	t, u := c.foreseeable(ctx, r, g)
	if u == nil {
		return nil // the build will tell
	}
	w := wish(r, t)
	s := u.Solve(w)
	if !s.Certain {
		return nil
	}
	if len(s.Problems) > 0 {
		return impossible(s.Problems, c.repairs(u, w, s, r))
	}
	return otherVersions(u, s.Manifest(), r.PackagesVersions)
}

// Content is the content hash of a request's image where that is certain
// before the build: where the resolver is, and nothing else than the packages of
// the release has a say.
func (c *catalogue) Content(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) string {
	if r.VersionCode != "" && r.VersionCode != g.Revision {
		return ""
	}
	t, u := c.foreseeable(ctx, r, g)
	if u == nil {
		return ""
	}
	s := u.Solve(wish(r, t))
	if !s.Certain || len(s.Problems) > 0 {
		return ""
	}
	return r.ContentHash(g.Digest, s.Manifest())
}

// otherVersions tells which packages will be there in another version than was
// asked for.
func otherVersions(u *feeds.Universe, m imagebuilder.Manifest, asked imagebuilder.Pairs) *imagebuilder.Error {
	var problems []imagebuilder.Problem
	first := ""
	for _, pv := range asked {
		name := pv.Name
		version, ok := m[name]
		if !ok {
			if found := u.Find(name); len(found) > 0 && found[0].Name == name {
				name = found[0].BaseName()
				version, ok = m[name]
			}
		}
		if !ok || version == pv.Value || pv.Value == "" {
			continue
		}
		if first == "" {
			first = fmt.Sprintf("Error: Impossible package selection: %s version not as requested: %s vs. %s", pv.Name, pv.Value, version)
		}
		problems = append(problems, imagebuilder.Problem{
			Kind: imagebuilder.ProblemVersion, Package: name,
			Detail: fmt.Sprintf("%s was asked for in version %s; the feeds have %s.", name, pv.Value, version),
		})
	}
	if len(problems) == 0 {
		return nil
	}
	e := imagebuilder.Errorf(imagebuilder.CodePackageVersion, "%s", first)
	e.Problems = problems[:min(len(problems), maxProblems)]
	return e
}

// maxProblems bounds the problems that a reply tells.
const maxProblems = 50

// impossible is the error of a selection that cannot be met. Its sentence
// begins as that of the reference server, which other programs look for
// (openwrt/asu asu/util.py, check_package_errors).
func impossible(problems []imagebuilder.Problem, repairs []imagebuilder.Repair) *imagebuilder.Error {
	var missing, conflicts, why []string
	for _, p := range problems {
		switch p.Kind {
		case imagebuilder.ProblemMissing:
			missing = append(missing, p.Package)
		case imagebuilder.ProblemConflict:
			conflicts = append(conflicts, p.Package)
			if p.Other != "" {
				conflicts = append(conflicts, p.Other)
			}
		}
		if len(why) < 3 {
			why = append(why, p.Detail)
		}
	}
	code, head := imagebuilder.CodePackageSelect, "Error: Impossible package selection"
	if len(missing)+len(conflicts) > 0 {
		head += ":"
	}
	if len(conflicts) > 0 {
		code = imagebuilder.CodePackageConflict
	}
	if len(missing) > 0 {
		code = imagebuilder.CodePackageMissing
		head += " missing (" + enumerate(missing) + ")"
	}
	if len(conflicts) > 0 {
		head += " conflicts (" + enumerate(conflicts) + ")"
	}
	e := imagebuilder.Errorf(code, "%s. %s", head, strings.Join(why, " "))
	if len(repairs) > 0 {
		e.Detail += " What would work: " + repairs[0].Detail
	}
	e.Unknown = unique(missing)
	e.Problems, e.Repairs = problems[:min(len(problems), maxProblems)], repairs
	return e
}

func unique(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// enumerate lists names, sorted, each once, up to a number that a person reads.
func enumerate(names []string) string {
	const most = 30
	names = unique(names)
	if n := len(names); n > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// repairs are changes to a request that were tried and work. Packages are
// looked for in the replacement tables first.
func (c *catalogue) repairs(u *feeds.Universe, w feeds.Wish, s *feeds.Solution, r imagebuilder.Request) []imagebuilder.Repair {
	return u.Repairs(w, s, func(name string) []string {
		result, err := c.tables.Set().Apply(replacements.Request{
			Distro: c.tableDistro, To: r.Version, Target: r.Target, Profile: r.Profile, Packages: []string{name}, Exists: u.Has,
		})
		if err != nil {
			return nil
		}
		var names []string
		for _, choice := range result.Choices {
			for _, o := range choice.Options {
				names = append(names, o.Name)
			}
		}
		names = append(names, result.Replaced()[name]...)
		return unique(names)
	})
}

// Solve tells what the package manager will make of a request.
func (c *catalogue) Solve(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (*server.Solved, error) {
	t, err := c.current(ctx, r, g)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable, "The release's packages have just been renewed. Please ask again.")
	}
	u := t.Universe()
	if u == nil {
		return nil, noPackages(r.Version, r.Target)
	}
	w := wish(r, t)
	s := u.Solve(w)
	solved := &server.Solved{
		Status: 200, Possible: true, Certain: s.Certain, Doubts: nonNil(s.Doubts),
		Version: r.Version, Target: r.Target, Profile: r.Profile,
		Manifest: s.Manifest(), Packages: []server.SolvedPackage{},
		Sizes:    server.Sizes{Download: s.Download(), Installed: s.Installed()},
		Problems: nonNil(s.Problems), Repairs: []imagebuilder.Repair{},
	}
	if t.Local() {
		solved.Certain = false
		solved.Doubts = append(solved.Doubts, "The ImageBuilder is the operator's own and may bring packages of its own.")
	}
	if len(r.Repositories) > 0 {
		solved.Certain = false
		solved.Doubts = append(solved.Doubts, "The request names feeds of its own, whose packages are only seen when the image is built.")
	}
	if len(s.Problems) > 0 {
		solved.Repairs = nonNil(c.repairs(u, w, s, r))
	}
	if e := otherVersions(u, solved.Manifest, r.PackagesVersions); e != nil && len(s.Problems) == 0 {
		solved.Problems = append(solved.Problems, e.Problems...)
	}
	solved.Possible = len(solved.Problems) == 0 || !solved.Certain
	requested, byDefault := named(w.Requested), named(w.Default, w.Device)
	for _, p := range s.Selected {
		base := p.BaseName()
		solved.Packages = append(solved.Packages, server.SolvedPackage{
			Name: base, Version: p.Version, Size: p.Size, InstalledSize: p.InstalledSize, Reason: p.Reason,
			Requested: requested[p.Name] || requested[base], Default: byDefault[p.Name] || byDefault[base],
		})
	}
	solved.Sizes.Flash = c.forecasts.flash(r, t, s, w)
	if len(solved.Problems) == 0 && solved.Sizes.Flash.Verdict == string(feeds.TooBig) {
		solved.Repairs = nonNil(u.Lighten(w, s, func(w feeds.Wish, s *feeds.Solution) bool {
			return c.forecasts.flash(r, t, s, w).Verdict != string(feeds.TooBig)
		}))
	}
	solved.Detail = verdict(solved)
	return solved, nil
}

// named is the set of the names in lists that are not removals.
func named(lists ...[]string) map[string]bool {
	set := map[string]bool{}
	for _, list := range lists {
		for _, name := range list {
			if !strings.HasPrefix(name, "-") {
				set[name] = true
			}
		}
	}
	return set
}

// verdict says in a sentence or two what a selection comes to.
func verdict(s *server.Solved) string {
	var b strings.Builder
	switch {
	case len(s.Problems) > 0 && s.Certain:
		b.WriteString("This selection cannot be built. " + s.Problems[0].Detail)
	case len(s.Problems) > 0:
		b.WriteString("This selection can probably not be built; only the ImageBuilder knows for certain. " + s.Problems[0].Detail)
	case s.Sizes.Flash != nil && s.Sizes.Flash.Verdict == string(feeds.TooBig):
		fmt.Fprintf(&b, "These %d packages go together, but not into this device.", len(s.Packages))
	case s.Certain:
		fmt.Fprintf(&b, "This selection can be built: %d packages.", len(s.Packages))
	default:
		fmt.Fprintf(&b, "This selection can probably be built: %d packages.", len(s.Packages))
	}
	if f := s.Sizes.Flash; f != nil && len(s.Problems) == 0 && f.Estimate > 0 {
		b.WriteString(" " + f.Detail)
	}
	if len(s.Repairs) > 0 {
		b.WriteString(" What would work: " + s.Repairs[0].Detail)
	}
	return b.String()
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func noPackages(version, target string) *imagebuilder.Error {
	return imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable,
		"The packages of %s for %s are not known in detail: the download server has no lists of them. The image can be requested all the same.", version, target)
}

// universe returns the packages of a target. The errors are those of upstream's
// Target and CodeUpstreamUnavailable.
func (c *catalogue) universe(ctx context.Context, version, target string) (*feeds.Universe, error) {
	if !c.policies.of("").offers(version) {
		return nil, notOffered(version)
	}
	t, err := c.upstream.Target(ctx, version, target)
	if err != nil {
		return nil, err
	}
	u := t.Universe()
	if u == nil {
		return nil, noPackages(version, target)
	}
	return u, nil
}

// Search finds packages by name and description.
func (c *catalogue) Search(ctx context.Context, version, target, query string, offset, limit int) (*server.PackagePage, error) {
	u, err := c.universe(ctx, version, target)
	if err != nil {
		return nil, err
	}
	hits, total := u.Search(query, offset, limit)
	page := &server.PackagePage{Total: total, Offset: offset, Packages: []server.PackageInfo{}}
	for _, hit := range hits {
		page.Packages = append(page.Packages, packageInfo(hit.Package, hit.Feed))
	}
	return page, nil
}

func packageInfo(p *feeds.Package, feed *feeds.Feed) server.PackageInfo {
	info := server.PackageInfo{
		Name: p.BaseName(), Version: p.Version, Size: p.Size, InstalledSize: p.InstalledSize, Section: p.Section, Description: p.Description,
	}
	if feed != nil {
		info.Feed = feed.Name
	}
	return info
}

// maxRequiredBy bounds the packages that are told to need another.
const maxRequiredBy = 100

// Package tells all about one package.
func (c *catalogue) Package(ctx context.Context, version, target, name string) (*server.PackageDetails, error) {
	u, err := c.universe(ctx, version, target)
	if err != nil {
		return nil, err
	}
	found := u.Lookup(name)
	if len(found) == 0 {
		e := imagebuilder.Errorf(imagebuilder.CodeNotFound, "%s is in no feed of %s for %s.", name, version, target)
		e.Nearest = u.Nearest(name, nearestShown)
		e.Detail += didYouMean(e.Nearest)
		return nil, e
	}
	p := found[0]
	return &server.PackageDetails{
		PackageInfo: packageInfo(p.Package, p.Feed),
		Depends:     relations(p.Depends), Provides: relations(p.Provides), Conflicts: relations(p.Conflicts),
		RequiredBy: nonNil(u.RequiredBy(name, maxRequiredBy)),
	}, nil
}

func relations(list []feeds.Relation) []string {
	texts := make([]string, 0, len(list))
	for _, r := range list {
		texts = append(texts, r.String())
	}
	return texts
}

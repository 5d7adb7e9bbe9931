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

// maxCandidates bounds how many releases an upgrade check looks through for
// one that has the device.
const maxCandidates = 6

// candidate is a release that a router could be upgraded to.
type candidate struct {
	version string
	reason  server.UpgradeReason
	why     string // a sentence
}

// Upgrade answers an upgrade check; nil is nothing newer.
func (c *catalogue) Upgrade(ctx context.Context, q server.UpgradeQuestion) (*server.Upgrade, error) {
	o, err := c.upstream.Overview(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.knowsRelease(o, q.Version); err != nil {
		return nil, err
	}
	candidates, err := c.candidates(o, q)
	if err != nil {
		return nil, err
	}
	var refusal error
	for _, to := range candidates[:min(len(candidates), maxCandidates)] {
		place, err := c.place(ctx, to.version, q)
		if err != nil {
			if code := imagebuilder.AsError(err).Code; code != imagebuilder.CodeUnsupportedTarget && code != imagebuilder.CodeUnsupportedProfile {
				return nil, err
			}
			if refusal == nil {
				refusal = c.didYouMeanPlace(o, q, err)
			}
			continue
		}
		upgrade, err := c.upgradeTo(ctx, q, to, place)
		if err != nil || upgrade != nil || q.ToVersion != "" {
			return upgrade, err
		}
	}
	if refusal != nil && (q.ToVersion != "" || !c.existed(ctx, q)) {
		return nil, refusal
	}
	return nil, nil
}

// existed tells whether the installed release is known to have the device: then
// a later one without it is no mistake of the question.
func (c *catalogue) existed(ctx context.Context, q server.UpgradeQuestion) bool {
	_, err := c.place(ctx, q.Version, q)
	return err == nil
}

// knowsRelease refuses a question from a release that cannot be.
func (c *catalogue) knowsRelease(o *upstream.Overview, version string) error {
	branch := imagebuilder.Branch(version)
	known := c.tables.Set().Releases(c.tableDistro)
	for _, b := range o.Branches {
		known = append(append(known, b.Name), b.Versions...)
	}
	if slices.Contains(known, version) || slices.Contains(known, branch) {
		return nil
	}
	return withNearest(imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported version: %s. There is no such release.", version), version, known)
}

// candidates are the releases that a router could go to, the one to be
// recommended first. They end with the installed one, whose packages may have
// updates.
func (c *catalogue) candidates(o *upstream.Overview, q server.UpgradeQuestion) ([]candidate, error) {
	policy, general := c.policies.of(q.Community), c.policies.of("")
	var offered []string // newest first, without snapshots
	known := map[string]bool{}
	for _, b := range o.Branches {
		for _, v := range b.Versions {
			if !general.offers(v) || !policy.offers(v) {
				continue
			}
			known[v] = true
			if !isSnapshot(v) && !b.Snapshot {
				offered = append(offered, v)
			}
		}
	}
	if q.ToVersion != "" {
		if !known[q.ToVersion] {
			return nil, withNearest(imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported version: %s.", q.ToVersion),
				q.ToVersion, slices.Sorted(maps.Keys(known)))
		}
		return []candidate{{q.ToVersion, server.ReasonRequested, q.ToVersion + " was asked for."}}, nil
	}
	installed := candidate{q.Version, server.ReasonPackages, "Packages of " + q.Version + " have updates."}
	if isSnapshot(q.Version) {
		if !known[q.Version] {
			return nil, nil
		}
		installed.reason = server.ReasonSnapshot
		return []candidate{installed}, nil
	}
	testing := q.Channel == server.ChannelTesting
	offered = slices.DeleteFunc(offered, func(v string) bool {
		return upstream.CompareVersions(v, q.Version) <= 0 || !testing && (isCandidate(v) && !isCandidate(q.Version) || namesVersion(policy.HoldBack, v))
	})
	list := advance(q.Version, offered, maintained(o), policy.below(q.Version))
	if known[q.Version] {
		list = append(list, installed)
	}
	return list, nil
}

// advance orders the newer releases, which come newest first: the newest of
// the installed branch while that is maintained, then the newest of every
// newer branch.
func advance(installed string, newer []string, maintained map[string]bool, below bool) []candidate {
	branch := imagebuilder.Branch(installed)
	var own []candidate
	var others []candidate
	seen := map[string]bool{}
	for _, v := range newer {
		b := imagebuilder.Branch(v)
		if seen[b] {
			continue
		}
		seen[b] = true
		switch {
		case b == branch && maintained[branch]:
			own = append(own, candidate{v, server.ReasonStable, fmt.Sprintf("%s is the newest release of %s, the branch that is installed.", v, branch)})
		case b == branch:
			others = append(others, candidate{v, server.ReasonStable, fmt.Sprintf("%s is the last release of %s, which gets no more updates; no newer branch has this device.", v, branch)})
		case !maintained[branch]:
			others = append(others, candidate{v, server.ReasonEndOfLife, fmt.Sprintf("%s, which is installed, gets no more updates. %s is the newest release that has this device.", branch, v)})
		default:
			others = append(others, candidate{v, server.ReasonNextBranch, fmt.Sprintf("There is nothing newer than %s in its branch; %s is the newest release of the next one.", installed, v)})
		}
	}
	// A branch that is no longer maintained is worse than any that is.
	slices.SortStableFunc(others, func(a, b candidate) int {
		return rank(maintained[imagebuilder.Branch(a.version)]) - rank(maintained[imagebuilder.Branch(b.version)])
	})
	list := append(own, others...)
	if below {
		for i := range list {
			list[i].reason = server.ReasonMinimum
			list[i].why = fmt.Sprintf("%s is older than this server's operator wants routers to be. %s", installed, list[i].why)
		}
	}
	return list
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// maintained are the branches that get updates: those of upstream's latest
// releases, else the newest one.
func maintained(o *upstream.Overview) map[string]bool {
	branches := map[string]bool{}
	for _, v := range o.Latest {
		branches[imagebuilder.Branch(v)] = true
	}
	for _, b := range o.Branches {
		if len(branches) > 0 {
			break
		}
		if !b.Snapshot && b.Name != "SNAPSHOT" {
			branches[b.Name] = true
		}
	}
	return branches
}

func isSnapshot(version string) bool { return strings.HasSuffix(version, "SNAPSHOT") }

func isCandidate(version string) bool { return strings.Contains(version, "-rc") }

// place is where a device is in a release.
type place struct {
	target *upstream.Target
	upstream.Location
}

// place finds the question's device in a release, whatever its target is
// called there. The errors are those of upstream's Locate and Target.
func (c *catalogue) place(ctx context.Context, version string, q server.UpgradeQuestion) (place, error) {
	at, err := c.upstream.Locate(ctx, version, q.Target, q.Devices...)
	if err != nil {
		return place{}, err
	}
	if len(q.Devices) == 0 && at.Moved && platform(at.Target) == platform(q.Target) {
		at.Target = q.Target // a subtarget that there is not: without a device this is a guess
	}
	t, err := c.upstream.Target(ctx, version, at.Target)
	if err != nil {
		return place{}, err
	}
	return place{t, *at}, nil
}

// didYouMeanPlace adds to an error about a target or a device the names that
// look like it.
func (c *catalogue) didYouMeanPlace(o *upstream.Overview, q server.UpgradeQuestion, err error) error {
	e := imagebuilder.AsError(err)
	if e.Code != imagebuilder.CodeUnsupportedTarget {
		return e
	}
	var targets []string
	for _, b := range o.Branches {
		for t := range b.Targets {
			if !slices.Contains(targets, t) {
				targets = append(targets, t)
			}
		}
	}
	return withNearest(e, q.Target, targets)
}

func platform(target string) string {
	name, _, _ := strings.Cut(target, "/")
	return name
}

// upgradeTo tells what an upgrade to a release means; nil is that there is
// nothing to be had from it.
func (c *catalogue) upgradeTo(ctx context.Context, q server.UpgradeQuestion, to candidate, at place) (*server.Upgrade, error) {
	revision := at.target.Generation.Revision
	if to.reason == server.ReasonSnapshot {
		switch newer, known := revisionIsNewer(q.Revision, revision); {
		case newer:
			to.why = fmt.Sprintf("%s is the newest revision of %s; %s is installed.", revision, to.version, q.Revision)
		case known && revision != q.Revision:
			return nil, nil // the router is ahead
		default:
			to.reason, to.why = server.ReasonPackages, "Packages of "+to.version+" have updates."
		}
	}
	index, err := c.packages(ctx, at.target)
	if err != nil {
		return nil, err
	}
	req := replacements.Request{
		Distro: c.tableDistro, From: q.Version, FromRevision: q.Revision, To: to.version, ToRevision: revision,
		Target: at.Target, Profile: at.Profile,
		Packages: q.Names(), Installed: q.Installed.Names(), Choices: q.Choices, Exists: index.exists(),
	}
	result, err := c.tables.Set().Apply(req)
	if err != nil {
		return nil, err
	}
	u := &server.Upgrade{
		Status: 200, Version: to.version, VersionCode: revision, Reason: to.reason, ReasonDetail: to.why,
		InstalledVersion: q.Version, Distro: c.name, Target: at.Target, Profile: at.Profile, Titles: at.Titles, Notes: notes(q, at),
		Packages: map[string]string{}, Upgrades: map[string][2]string{}, Replacements: result.Replaced(),
		Dropped: map[string]string{}, Added: map[string]string{}, Choices: choicesOf(result),
		Missing: map[string][]string{}, Problems: []imagebuilder.Problem{}, Repairs: []imagebuilder.Repair{},
	}
	selection := c.describe(u, q, index, result)
	certain := false // that what is wrong with the request keeps it from being built
	if at.Profile != "" {
		request := imagebuilder.Request{
			Distro: c.name, Version: to.version, VersionCode: revision, Target: at.Target, Profile: at.Profile,
			Packages: selection, DiffPackages: q.DiffPackages, Filesystem: q.Filesystem, Client: q.Client,
		}
		request = makeRoom(index.universe, at.target, request, q.Choices, result.Choices, u.Replacements).Normalize()
		u.Request = &request
		certain = c.foresee(u, index.universe, at.target)
	}
	if to.reason == server.ReasonPackages {
		maps.DeleteFunc(u.Upgrades, func(_ string, v [2]string) bool { return !index.newer(v[1], v[0]) })
		if len(u.Upgrades) == 0 {
			return nil, nil
		}
	}
	u.Detail = headline(u, certain)
	return u, nil
}

// notes are what the user should read before upgrading.
func notes(q server.UpgradeQuestion, at place) []string {
	if !at.Moved {
		return nil
	}
	return []string{fmt.Sprintf("The device has moved from the target %s to %s. Its old configuration may not fit: "+
		"read the release's notes on it, and upgrade without keeping settings (sysupgrade -n) unless they say otherwise.", q.Target, at.Target)}
}

// describe fills in what becomes of the packages and returns the selection.
func (c *catalogue) describe(u *server.Upgrade, q server.UpgradeQuestion, index *packageIndex, result *replacements.Result) []string {
	old := map[string]string{}
	for _, pairs := range []imagebuilder.Pairs{q.Installed, q.Packages} {
		for _, p := range pairs {
			if p.Value != "" {
				old[p.Name] = p.Value
			}
		}
	}
	var selection []string
	for _, name := range result.Packages {
		if strings.HasPrefix(name, "-") {
			selection = append(selection, name)
			continue
		}
		base, version, ok := index.find(name)
		if !ok {
			selection = append(selection, name)
			if index.universe != nil {
				u.Missing[name] = []string{}
				if len(u.Missing) <= nearestFor {
					u.Missing[name] = index.nearest(name, nearestShown)
				}
			}
			continue
		}
		if base != name {
			u.Replacements[name] = []string{base}
		}
		selection = append(selection, base)
		u.Packages[base] = version
	}
	for name, was := range old {
		base, version, ok := index.find(name)
		if ok && version != was {
			u.Upgrades[base] = [2]string{was, version}
		}
	}
	for _, o := range result.Outcomes {
		if len(o.New) == 0 && !strings.HasPrefix(o.Requested, "-") {
			u.Dropped[o.Requested] = whyOf(o)
		}
	}
	for _, o := range result.Added {
		for _, name := range o.New {
			u.Added[name] = whyOf(o)
		}
	}
	return selection
}

// whyOf is the sentence of an outcome's last step.
func whyOf(o replacements.Outcome) string {
	if o.Note != "" {
		return o.Note
	}
	if n := len(o.Steps); n > 0 {
		return o.Steps[n-1].Why
	}
	return ""
}

// nearestFor is for how many unknown packages similar names are looked for.
const nearestFor = 20

// foresee tells what keeps the upgrade's request from being built, and whether
// that is certain, and leaves out of the new versions what will not be in the
// image.
func (c *catalogue) foresee(u *server.Upgrade, universe *feeds.Universe, t *upstream.Target) (certain bool) {
	if universe == nil {
		return false
	}
	w := wish(*u.Request, t)
	s := universe.Solve(w)
	if len(s.Problems) > 0 {
		u.Problems, u.Repairs = s.Problems[:min(len(s.Problems), maxProblems)], nonNil(c.repairs(universe, w, s, *u.Request))
	}
	if s.Certain && len(s.Problems) == 0 {
		manifest := s.Manifest()
		maps.DeleteFunc(u.Upgrades, func(name string, _ [2]string) bool { return manifest[name] == "" })
	}
	return s.Certain
}

func choicesOf(result *replacements.Result) imagebuilder.Choices {
	choices := make(imagebuilder.Choices, len(result.Choices))
	for _, c := range result.Choices {
		choice := imagebuilder.Choice{Default: c.Default, Chosen: c.Chosen}
		for _, o := range c.Options {
			choice.Options = append(choice.Options, imagebuilder.Option{Name: o.Name, Detail: o.Sentence})
		}
		choices[c.Old] = choice
	}
	return choices
}

// revisionIsNewer compares "r123-abc" revisions by their numbers; known tells
// whether both have one.
func revisionIsNewer(installed, offered string) (newer, known bool) {
	a, b := replacements.RevisionNumber(installed), replacements.RevisionNumber(offered)
	return a > 0 && b > a, a > 0 && b > 0
}

// headline says in a sentence or two what an upgrade brings.
func headline(u *server.Upgrade, certain bool) string {
	var b strings.Builder
	b.WriteString(u.ReasonDetail)
	count := func(n int, one, many string) {
		switch {
		case n == 1:
			b.WriteString(" " + one)
		case n > 1:
			fmt.Fprintf(&b, " "+many, n)
		}
	}
	count(len(u.Upgrades), "One package gets a new version.", "%d packages get new versions.")
	count(len(u.Replacements), "One is replaced by another.", "%d are replaced by others.")
	count(len(u.Dropped), "One no longer exists.", "%d no longer exist.")
	count(len(u.Missing), "One is in no feed: the image cannot be built with it.", "%d are in no feed: the image cannot be built with them.")
	for _, p := range u.Problems {
		if p.Kind != imagebuilder.ProblemMissing {
			if certain {
				b.WriteString(" It cannot be built as it stands: " + p.Detail)
			} else {
				b.WriteString(" It can perhaps not be built as it stands: " + p.Detail)
			}
			break
		}
	}
	open := 0
	for _, c := range u.Choices {
		if c.Chosen == "" {
			open++
		}
	}
	count(open, "There is a choice to make.", "There are %d choices to make.")
	return b.String()
}

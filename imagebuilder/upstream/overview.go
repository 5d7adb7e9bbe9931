package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"attendant/imagebuilder"
)

// Overview is what upstream offers. It is never changed once handed out.
type Overview struct {
	Branches []Branch // newest first, the main branch's snapshots before all; only those with targets
	// Latest are the versions to upgrade to, of the newest branch first: a
	// release candidate if there is one, the stable and the old stable release.
	Latest      []string
	UpstreamURL string
	Checked     time.Time // when upstream last confirmed the list of versions
	Stale       bool      // upstream has not confirmed it lately
	Digest      string    // SHA-256 in hex of all but Checked and Stale

	versions map[string]place // by version
	paths    map[string]string
}

// place is where a version belongs.
type place struct {
	branch int
	path   string
}

// Branch is a line of releases.
type Branch struct {
	Name           string                       `json:"name"` // as "24.10" or "SNAPSHOT"
	Enabled        bool                         `json:"enabled"`
	Snapshot       bool                         `json:"snapshot"`
	Path           string                       `json:"path"` // with "{version}" for the version
	BranchOffRev   int                          `json:"branch_off_rev"`
	PackageChanges []imagebuilder.PackageChange `json:"package_changes"`
	Versions       []string                     `json:"versions"` // newest first
	Targets        map[string]string            `json:"targets"`  // of the newest version that has any: target to package architecture
}

// VersionPath is the upstream path of one of the branch's versions.
func (b *Branch) VersionPath(version string) string {
	return strings.ReplaceAll(b.Path, "{version}", version)
}

// Overview returns what upstream offers, as last known. The error is
// CodeUpstreamUnavailable where nothing is known yet.
func (u *Upstream) Overview(ctx context.Context) (*Overview, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	o, _, err := u.overview.get(ctx)
	if err != nil {
		return nil, unavailable("the releases", err)
	}
	if age := u.o.Now().Sub(o.Checked); !o.Stale && (age > 2*u.o.Refresh || age < -time.Minute) {
		view := *o
		view.Stale = true
		return &view, nil
	}
	return o, nil
}

// branches is the table of branches, with the operator's words over it and
// with what upstream lists beside it.
func (u *Upstream) branches(listed []string) map[string]BranchConfig {
	table := map[string]BranchConfig{}
	for _, b := range knownBranches {
		table[b.Name] = b
	}
	for _, own := range u.o.Branches {
		b := table[own.Name]
		b.Name, b.Disabled = own.Name, own.Disabled
		b.Snapshot = b.Snapshot || own.Snapshot
		b.Versions = append(b.Versions, own.Versions...)
		if own.Path != "" {
			b.Path = own.Path
		}
		if own.BranchOffRev != 0 {
			b.BranchOffRev = own.BranchOffRev
		}
		if own.PackageChanges != nil {
			b.PackageChanges = own.PackageChanges
		}
		table[own.Name] = b
	}
	for _, version := range listed {
		name := branchOf(version)
		if _, exists := table[version]; exists {
			name = version
		}
		b := table[name]
		b.Name = name
		if !slices.Contains(b.Versions, version) {
			b.Versions = append(slices.Clip(b.Versions), version)
		}
		table[name] = b
	}
	for name, b := range table {
		if b.Path == "" {
			b.Path = releasePath
		}
		if b.Disabled {
			delete(table, name)
			continue
		}
		table[name] = b
	}
	return table
}

// compose makes an overview. targets tells a version's targets, errAbsent if
// there is no such version upstream, or another error if nothing is known. The
// second result is false if something could not be found out.
func (u *Upstream) compose(list *versionList, targets func(version, path string) (targetList, error)) (*Overview, bool) {
	table := u.branches(list.all)
	names := slices.SortedFunc(maps.Keys(table), func(a, b string) int { return CompareVersions(b, a) })
	branches := make([]*Branch, len(names))
	whole := make([]bool, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { branches[i], whole[i] = composeBranch(table[name], targets) })
	}
	wg.Wait()

	o := &Overview{UpstreamURL: u.o.URL, Branches: []Branch{}, Latest: []string{}, versions: map[string]place{}, paths: map[string]string{}}
	for _, b := range branches {
		if b == nil {
			continue
		}
		for _, v := range b.Versions {
			o.versions[v] = place{len(o.Branches), b.VersionPath(v)}
			o.paths[b.VersionPath(v)] = v
		}
		o.Branches = append(o.Branches, *b)
	}
	for _, v := range []string{list.upcoming, list.stable, list.oldstable} {
		if _, offered := o.versions[v]; offered && !slices.Contains(o.Latest, v) {
			o.Latest = append(o.Latest, v)
		}
	}
	slices.SortStableFunc(o.Latest, func(a, b string) int { return o.versions[a].branch - o.versions[b].branch })
	content, _ := json.Marshal([]any{o.Branches, o.Latest, o.UpstreamURL}) // of such types it cannot fail
	sum := sha256.Sum256(content)
	o.Digest = hex.EncodeToString(sum[:])
	return o, !slices.Contains(whole, false)
}

// targetTries bounds how many versions of a branch are looked through for one
// that has targets.
const targetTries = 4

func composeBranch(c BranchConfig, targets func(version, path string) (targetList, error)) (*Branch, bool) {
	b := &Branch{
		Name: c.Name, Enabled: true, Snapshot: c.Snapshot, Path: c.Path,
		BranchOffRev: c.BranchOffRev, PackageChanges: c.PackageChanges, Versions: slices.Clone(c.Versions),
	}
	snapshot := c.Name
	if c.Name != snapshotName {
		snapshot += "-" + snapshotName
	}
	b.Versions = slices.DeleteFunc(b.Versions, func(v string) bool { return v == snapshot })
	newestFirst(b.Versions)
	whole, tries := true, 0
	var missing []string
	for _, v := range b.Versions {
		if b.Targets != nil || tries == targetTries {
			break
		}
		tries++
		switch list, err := targets(v, b.VersionPath(v)); {
		case err == nil:
			b.Targets = list
		case errors.Is(err, errAbsent): // announced, not there yet
			missing = append(missing, v)
		default:
			whole = false
		}
	}
	b.Versions = slices.DeleteFunc(b.Versions, func(v string) bool { return slices.Contains(missing, v) })
	switch list, err := targets(snapshot, b.VersionPath(snapshot)); {
	case err == nil:
		b.Versions = append(b.Versions, snapshot)
		if b.Targets == nil {
			b.Targets = list
		}
	case !errors.Is(err, errAbsent):
		whole = false
	}
	if b.Targets == nil || len(b.Versions) == 0 {
		return nil, whole
	}
	return b, whole
}

// buildOverview renews the lists that an overview is made of, and makes it.
func (u *Upstream) buildOverview(s *session) (*Overview, error) {
	list, seen, err := u.versions.fresh(s.ctx, false)
	if err != nil {
		return nil, err
	}
	// What was asked for less than one round ago need not be asked for again;
	// documents themselves know.
	o, whole := u.compose(list, func(version, path string) (targetList, error) {
		targets, _, err := u.targetList(version, path).fresh(s.ctx, false)
		if err != nil {
			return nil, err
		}
		return *targets, nil
	})
	if len(o.Branches) == 0 {
		if whole {
			return nil, errAbsent
		}
		return nil, errors.New("no release's targets could be fetched")
	}
	s.partial = !whole
	o.Checked, o.Stale = seen.checked, seen.stale
	if old := u.overviewDigest.Swap(&o.Digest); old == nil || *old != o.Digest {
		u.o.Log.Info("releases known", "branches", len(o.Branches), "versions", len(o.versions), "latest", o.Latest)
	}
	return o, nil
}

// heldOverview makes an overview of what is on disk, so that a restart needs
// no upstream. It is nil if there is not enough.
func (u *Upstream) heldOverview() (*Overview, time.Time) {
	rec := u.versions.rec
	if rec == nil {
		return nil, time.Time{}
	}
	list, err := u.buildVersions(&session{ctx: u.ctx, u: u, old: rec, offline: true})
	if err != nil {
		return nil, time.Time{}
	}
	u.versions.value = list
	o, _ := u.compose(list, func(version, path string) (targetList, error) {
		d := u.targetList(version, path)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.rec == nil {
			return nil, errNotHeld
		}
		list, err := d.build(&session{ctx: u.ctx, u: u, old: d.rec, offline: true})
		if err != nil {
			return nil, err
		}
		d.value = list
		return *list, nil
	})
	if len(o.Branches) == 0 {
		return nil, time.Time{}
	}
	o.Checked = rec.Checked
	return o, rec.Checked
}

// targetList is the document of a version's targets. Callers pass only
// versions that upstream or the operator lists.
func (u *Upstream) targetList(version, path string) *document[targetList] {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := u.lists[path]
	if d == nil {
		d = &document[targetList]{u: u, key: "targets " + path, interval: u.interval(version), build: u.buildTargets(path)}
		u.adoptKept(d.key, d.adopt)
		u.lists[path] = d
	}
	return d
}

func (u *Upstream) interval(version string) time.Duration {
	if strings.HasSuffix(version, snapshotName) {
		return u.o.SnapshotRefresh
	}
	return u.o.Refresh
}

// VersionForPath returns the version whose files lie below path, as "24.10.4"
// for "releases/24.10.4" and "SNAPSHOT" for "snapshots".
func (u *Upstream) VersionForPath(path string) (version string, ok bool) {
	u.overview.mu.Lock()
	o := u.overview.value
	u.overview.mu.Unlock()
	if o != nil {
		version, ok = o.paths[path]
		return version, ok
	}
	// Nothing is known yet: what it could be.
	for _, b := range u.branches(nil) {
		before, after, several := strings.Cut(b.Path, "{version}")
		v, okBefore := strings.CutPrefix(path, before)
		v, okAfter := strings.CutSuffix(v, after)
		if !several && path == b.Path {
			return b.Name, true
		}
		if several && okBefore && okAfter && imagebuilder.ValidVersion(v) {
			return v, true
		}
	}
	return "", false
}

// place finds a version. The errors are CodeUpstreamUnavailable and
// CodeUnsupportedVersion.
func (u *Upstream) place(ctx context.Context, version string) (*Overview, place, error) {
	o, _, err := u.overview.get(ctx)
	if err != nil {
		return nil, place{}, unavailable("the releases", err)
	}
	if p, ok := o.versions[version]; ok {
		return o, p, nil
	}
	// A release may have come out just now. The overview waits for the versions.
	u.versions.hasten()
	u.overview.hasten()
	// The sentence is openwrt/asu's, for unknown branches and releases alike.
	return nil, place{}, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", version)
}

package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"attendant/imagebuilder"
)

// Bounds of the lists of devices.
const (
	maxDevicesSize = 8 << 20 // bytes of one release's .overview.json; real ones have about 0.4 MB
	maxDeviceNames = 32      // titles, and aliases, that are kept of one device
	// devicesEvery is how often a release's list is looked at again.
	devicesEvery = 6 * time.Hour
	// sweepEvery is how often it is looked whether any is due.
	sweepEvery = 15 * time.Minute
)

// Device is one profile of one target, and the releases that have it.
type Device struct {
	Profile  string // its id
	Target   string // as "ath79/generic"
	Titles   []imagebuilder.Title
	Aliases  []string // supported_devices, where a target's profiles.json is held
	Versions []string // newest first
}

// Title is how the device is called by people: its first title, or its id.
func (d *Device) Title() string {
	for _, t := range d.Titles {
		if s := t.String(); s != "" {
			return s
		}
	}
	return d.Profile
}

// deviceList is a release's .overview.json: all devices of all targets with
// their titles. It is in no sha256sums and signed by nobody, so it serves to
// find a device and for nothing else: a build takes its target's own
// profiles.json. (Files: /releases/VERSION/.overview.json and
// /snapshots/.overview.json; members release, profiles[] {id, titles, target};
// see openwrt/firmware-selector-openwrt-org misc/releases.)
type deviceList struct {
	devices []listedDevice
}

type listedDevice struct {
	profile, target string
	titles          []imagebuilder.Title
}

func parseDevices(data []byte) ([]listedDevice, error) {
	var doc struct {
		Profiles []json.RawMessage `json:"profiles"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading .overview.json: %w", err)
	}
	if len(doc.Profiles) > maxProfiles {
		return nil, fmt.Errorf("reading .overview.json: it has more than %d profiles", maxProfiles)
	}
	devices := make([]listedDevice, 0, len(doc.Profiles))
	seen := make(map[[2]string]bool, len(doc.Profiles))
	for _, raw := range doc.Profiles {
		var entry map[string]json.RawMessage
		if json.Unmarshal(raw, &entry) != nil {
			continue
		}
		var d listedDevice
		lenient(entry["id"], &d.profile)
		lenient(entry["target"], &d.target)
		lenient(entry["titles"], &d.titles)
		key := [2]string{d.target, d.profile}
		if seen[key] || !imagebuilder.ValidProfileID(d.profile) || !imagebuilder.ValidTarget(d.target) {
			continue
		}
		seen[key] = true
		d.titles = usableTitles(d.titles)
		devices = append(devices, d)
	}
	if len(devices) == 0 {
		return nil, errors.New("reading .overview.json: there is no device in it")
	}
	return devices, nil
}

// usableTitles drops what is too long to be a title.
func usableTitles(titles []imagebuilder.Title) []imagebuilder.Title {
	titles = slices.DeleteFunc(titles, func(t imagebuilder.Title) bool {
		n := len(t.Vendor) + len(t.Model) + len(t.Variant) + len(t.Title)
		return n == 0 || n > 2*imagebuilder.MaxNameLength
	})
	return titles[:min(len(titles), maxDeviceNames)]
}

// devicesOf lists a target's devices.
func devicesOf(target string, p *ProfilesJSON) []Device {
	devices := make([]Device, 0, len(p.Profiles))
	for _, id := range slices.Sorted(maps.Keys(p.Profiles)) {
		profile := p.Profiles[id]
		aliases := make([]string, 0, len(profile.SupportedDevices))
		for _, name := range profile.SupportedDevices {
			if imagebuilder.ValidProfileName(name) && len(aliases) < maxDeviceNames && fold(name) != id {
				aliases = append(aliases, name)
			}
		}
		devices = append(devices, Device{Profile: id, Target: target, Titles: usableTitles(slices.Clone(profile.Titles)), Aliases: aliases})
	}
	return devices
}

// deviceIndex keeps the devices of all releases together: what most releases
// share is held once.
type deviceIndex struct {
	u     *Upstream
	files map[string]*document[deviceList] // by path; guarded by u.mu

	mu       sync.Mutex
	releases map[string]releaseDevices // by version
	held     map[string]heldDevices    // by a target document's key
	table    *Devices                  // made of them, nil when they have changed
	offered  string                    // the digest of the overview that table is for
	sweeping bool
	swept    time.Time
}

// releaseDevices are the rows of a release's list. Their strings are shared
// with other releases' once they are merged.
type releaseDevices struct {
	sum     string // of the list
	devices []listedDevice
}

// heldDevices are the devices of one target, of the profiles.json that is held.
type heldDevices struct {
	sum     string
	version string
	target  string
	devices []Device
}

func newDeviceIndex(u *Upstream) *deviceIndex {
	return &deviceIndex{u: u, files: map[string]*document[deviceList]{}, releases: map[string]releaseDevices{}, held: map[string]heldDevices{}}
}

func (x *deviceIndex) document(path string) *document[deviceList] {
	x.u.mu.Lock()
	defer x.u.mu.Unlock()
	return x.documentLocked(path)
}

// devicesKey begins what a release's list is called on disk.
const devicesKey = "devices "

// documentLocked makes a release's document; u.mu is held.
func (x *deviceIndex) documentLocked(path string) *document[deviceList] {
	d := x.files[path]
	if d == nil {
		d = &document[deviceList]{u: x.u, key: devicesKey + path, interval: devicesEvery, used: x.u.o.Now()}
		d.build = func(s *session) (*deviceList, error) { return buildDevices(s, path) }
		x.u.adoptKept(d.key, d.adopt)
		x.files[path] = d
	}
	return d
}

// lists tells whether a release's list is known.
func (x *deviceIndex) lists(version string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, known := x.releases[version]
	return known
}

// buildDevices gets a release's list. One that upstream does not have is empty:
// then the targets that are held must do.
func buildDevices(s *session, path string) (*deviceList, error) {
	data, err := s.optional(path+"/.overview.json", maxDevicesSize)
	if err != nil || data == nil {
		return &deviceList{}, err
	}
	devices, err := parseDevices(data)
	if err != nil {
		return nil, err
	}
	return &deviceList{devices: devices}, nil
}

// Devices returns what is known of the devices of one release, or with
// version "" of all that are offered. It waits for a release's list only if
// nothing is held of it; the lists of other releases are fetched in the
// background, one at a time, and are there later. The errors are
// CodeUnsupportedVersion and CodeUpstreamUnavailable.
func (u *Upstream) Devices(ctx context.Context, version string) (*Devices, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	o, _, err := u.overview.get(ctx)
	if err != nil {
		return nil, unavailable("the releases", err)
	}
	wanted := version
	if version == "" {
		if wanted = o.newest(); wanted == "" {
			return &Devices{}, nil
		}
	} else if _, _, err := u.place(ctx, version); err != nil {
		return nil, err
	}
	x := u.devices
	var missing error
	if !x.lists(wanted) {
		d := x.document(o.versions[wanted].path)
		if list, _, err := d.get(ctx); err != nil {
			missing = err
		} else {
			x.take(wanted, d, list)
		}
	}
	table := x.current(o)
	if missing != nil && !slices.Contains(table.versions, wanted) && (version != "" || len(table.versions) == 0) {
		return nil, unavailable("the devices of "+wanted, missing)
	}
	x.sweepIfDue(o)
	if version != "" {
		return table.only(version), nil
	}
	return table, nil
}

// newest is the release that devices are looked up in first.
func (o *Overview) newest() string {
	if len(o.Latest) > 0 {
		return o.Latest[0]
	}
	for _, b := range o.Branches {
		if len(b.Versions) > 0 {
			return b.Versions[0]
		}
	}
	return ""
}

// offers lists the versions that are offered: releases newest first, then
// snapshots.
func (o *Overview) offers() []string {
	versions := slices.Collect(maps.Keys(o.versions))
	slices.SortFunc(versions, func(a, b string) int {
		if sa, sb := o.isSnapshot(a), o.isSnapshot(b); sa != sb {
			return btoi(sa) - btoi(sb)
		}
		return CompareVersions(b, a)
	})
	return versions
}

func (o *Overview) isSnapshot(version string) bool {
	return o.Branches[o.versions[version].branch].Snapshot || branchOf(version) != version && version == branchOf(version)+"-"+snapshotName
}

// load reads what is on disk of a release's list, without asking upstream.
func (x *deviceIndex) load(version string, d *document[deviceList]) {
	d.mu.Lock()
	rec := d.rec
	d.mu.Unlock()
	if rec == nil {
		return
	}
	list, err := d.build(&session{ctx: x.u.ctx, u: x.u, old: rec, offline: true})
	if err != nil {
		x.u.o.Log.Warn("what is held of upstream's data cannot be used", "document", d.key, "error", err)
		return
	}
	x.mu.Lock()
	x.set(version, listSum(rec), list)
	x.mu.Unlock()
}

// listSum tells one state of a list from another.
func listSum(r *record) string {
	if r == nil || len(r.Files) == 0 {
		return ""
	}
	return r.Files[0].SHA256
}

// take adds a release's list to the index. The document itself need not stay
// in memory.
func (x *deviceIndex) take(version string, d *document[deviceList], list *deviceList) {
	d.mu.Lock()
	sum := listSum(d.rec)
	d.mu.Unlock()
	x.mu.Lock()
	x.set(version, sum, list)
	x.mu.Unlock()
	d.drop()
}

// set notes a release's devices; x.mu is held.
func (x *deviceIndex) set(version, sum string, list *deviceList) {
	if known, ok := x.releases[version]; ok && known.sum == sum && sum != "" {
		return
	}
	x.releases[version] = releaseDevices{sum: sum, devices: list.devices}
	x.table = nil
}

// sweepIfDue looks, in the background, whether lists of offered releases are
// to be fetched or renewed.
func (x *deviceIndex) sweepIfDue(o *Overview) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.u.o.Now()
	since := now.Sub(x.swept)
	if x.sweeping || since >= 0 && since < sweepEvery && x.offered == o.Digest {
		return
	}
	x.sweeping = x.u.spawn(func() {
		x.sweep(o)
		x.mu.Lock()
		x.sweeping, x.swept = false, x.u.o.Now()
		x.mu.Unlock()
	})
}

// sweep reads what is on disk of all releases' lists, then fetches what is
// missing or due, one at a time, until upstream fails twice in a row.
func (x *deviceIndex) sweep(o *Overview) {
	offers := o.offers()
	failed := 0
	for _, version := range offers {
		if !x.lists(version) && x.u.ctx.Err() == nil {
			x.load(version, x.document(o.versions[version].path))
		}
	}
	for _, version := range offers {
		d := x.document(o.versions[version].path)
		d.mu.Lock()
		now := x.u.o.Now()
		d.used = now
		idle := d.rec != nil && !d.due(now)
		d.mu.Unlock()
		if idle && x.lists(version) {
			continue
		}
		list, seen, err := d.fresh(x.u.ctx, false)
		if err == nil {
			x.take(version, d, list)
		}
		if failed++; err == nil && !seen.stale {
			failed = 0
		}
		if failed == 2 {
			return
		}
	}
}

// current is the table of all that is known of the offered releases' devices.
func (x *deviceIndex) current(o *Overview) *Devices {
	x.mu.Lock()
	defer x.mu.Unlock()
	changed := x.lookAtTargets(o)
	if x.table == nil || changed || x.offered != o.Digest {
		for version := range x.releases {
			if _, offered := o.versions[version]; !offered {
				delete(x.releases, version)
			}
		}
		x.table, x.offered = x.merge(o), o.Digest
	}
	return x.table
}

// lookAtTargets takes over the devices of targets whose profiles.json is held
// and has changed; it tells whether any has. x.mu is held.
func (x *deviceIndex) lookAtTargets(o *Overview) bool {
	u := x.u
	u.mu.Lock()
	for key := range u.kept {
		u.adopt(key)
	}
	cores := maps.Clone(u.cores)
	u.mu.Unlock()
	changed := false
	for key, d := range cores {
		var k coreKey
		if json.Unmarshal(bytes.TrimPrefix([]byte(key), []byte("target ")), &k) != nil {
			continue
		}
		if p, offered := o.versions[k.Version]; !offered || p.path != k.Path {
			continue
		}
		d.mu.Lock()
		value, rec := d.value, d.rec
		d.mu.Unlock()
		f := rec.file(k.Path + "/targets/" + k.Target + "/profiles.json")
		var sum string
		switch {
		case f != nil:
			sum = f.SHA256
		case value != nil: // not on disk yet
			sum = value.digest
		}
		if sum == x.held[key].sum {
			continue
		}
		var profiles *ProfilesJSON
		if value != nil {
			profiles = value.profiles
		} else {
			data, err := u.state.blob(f.SHA256)
			if err != nil {
				continue
			}
			if profiles, err = ParseProfiles(data); err != nil {
				continue
			}
		}
		x.held[key] = heldDevices{sum: sum, version: k.Version, target: k.Target, devices: devicesOf(k.Target, profiles)}
		changed = true
	}
	for key := range x.held {
		if d := cores[key]; d == nil || !d.keeps() {
			delete(x.held, key)
			changed = true
		}
	}
	return changed
}

// keeps tells whether anything of the document is in memory or on disk.
func (d *document[T]) keeps() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rec != nil || d.value != nil
}

// merge makes the table: newest releases first, so that a device is called as
// the newest one calls it. A target's own profiles.json counts for more than
// the release's list. x.mu is held.
func (x *deviceIndex) merge(o *Overview) *Devices {
	own := map[[2]string]heldDevices{} // by version and target
	for _, h := range x.held {
		own[[2]string{h.version, h.target}] = h
	}
	t := &Devices{}
	at := map[[2]string]int{}
	text := map[string]string{}
	share := func(s string) string {
		if known, ok := text[s]; ok {
			return known
		}
		text[s] = s
		return s
	}
	add := func(version string, d *Device) {
		key := [2]string{d.Target, d.Profile}
		i, known := at[key]
		if !known {
			i = len(t.devices)
			at[key] = i
			t.devices = append(t.devices, Device{Profile: share(d.Profile), Target: share(d.Target), Titles: d.Titles})
		}
		row := &t.devices[i]
		row.Versions = append(row.Versions, version)
		if len(row.Titles) == 0 {
			row.Titles = d.Titles
		}
		for _, alias := range d.Aliases {
			if len(row.Aliases) < maxDeviceNames && !slices.Contains(row.Aliases, alias) {
				row.Aliases = append(row.Aliases, share(alias))
			}
		}
	}
	for _, version := range o.offers() {
		release, listed := x.releases[version]
		found := listed && len(release.devices) > 0
		for _, d := range release.devices {
			if _, better := own[[2]string{version, d.target}]; !better {
				add(version, &Device{Profile: d.profile, Target: d.target, Titles: d.titles})
			}
		}
		for _, key := range slices.SortedFunc(maps.Keys(own), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
			if key[0] != version {
				continue
			}
			found = true
			for i := range own[key].devices {
				add(version, &own[key].devices[i])
			}
		}
		if found || listed {
			t.versions = append(t.versions, version)
		}
	}
	// The rows of the releases' lists need not hold strings of their own.
	for _, release := range x.releases {
		for i := range release.devices {
			d := &release.devices[i]
			if j, ok := at[[2]string{d.target, d.profile}]; ok {
				d.target, d.profile = t.devices[j].Target, t.devices[j].Profile
				if slices.Equal(d.titles, t.devices[j].Titles) {
					d.titles = t.devices[j].Titles
				}
			}
		}
	}
	t.prepare()
	return t
}

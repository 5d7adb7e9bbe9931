package web

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// devicePage is the page of one device: release, packages, more, build.
type devicePage struct {
	selection
	Title    string
	Others   []string // further names
	Releases []release
	Ready    []readyImage // upstream's own images of the release
	Facts    *profileFacts
	Share    string // address of the selection

	Change     *change
	NoChange   string // why it is not known what changes
	Chips      []chip // asked for
	Defaults   []chip
	Removed    int      // of Defaults
	Unknown    []string // to leave out, but no default package
	Choices    []choiceMenu
	Verdict    *verdict
	Systems    []string // root file systems to choose from
	Partition  bool     // the size of the root partition can be chosen
	MaxRootfs  int
	Scripts    bool // a script of the first boot may be sent
	ScriptText string
	PackageURL string // where packages are searched
	Failure    *apiError
	Fixes      []fix // of the failure

	answer *upgradeAnswer
}

// LateRelease tells that the chosen release is among the older ones, which are
// folded away.
func (d *devicePage) LateRelease() bool {
	return slices.IndexFunc(d.Releases, func(r release) bool { return r.Current }) >= 3
}

type release struct {
	Version   string
	Key       string // of the text that says what it is
	Current   bool   // chosen
	Installed bool
}

type chip struct {
	Name string
	On   bool
	Risk string // key of the text that warns of leaving it out
	ID   string
}

// choiceMenu is an old package that several can stand for.
type choiceMenu struct {
	Old, Chosen string
	Options     []imagebuilder.Option
}

// fix is a repair as a button.
type fix struct {
	imagebuilder.Repair
	Value string // the list to be sent
}

// readyImage is one of upstream's own.
type readyImage struct {
	imagebuilder.Image
	URL string
}

// device is the page of one device, by address.
func (s *Site) device(w http.ResponseWriter, r *http.Request, _ string) {
	sel, err := readSelection(w, r)
	if err != nil {
		s.failed(w, r, "start", err)
		return
	}
	s.showDevice(w, r, http.StatusOK, sel, nil)
}

// check is the same for a form that was sent: what the selection comes to.
func (s *Site) check(w http.ResponseWriter, r *http.Request, _ string) {
	s.device(w, r, "")
}

// request asks for the image.
func (s *Site) request(w http.ResponseWriter, r *http.Request, _ string) {
	sel, err := readSelection(w, r)
	if err != nil {
		s.failed(w, r, "start", err)
		return
	}
	ctx, cancel := s.within(r)
	defer cancel()
	wire, err := sel.request(s.o.Version)
	var built buildReply
	if err == nil {
		_, err = s.call(ctx, r, http.MethodPost, "/api/v1/build", wire, &built)
	}
	if err != nil {
		e := detailOf(err)
		if !imagebuilder.ValidHash(e.RequestHash) || len(e.Problems) > 0 {
			s.showDevice(w, r, e.Status, sel, e)
			return
		}
		built.RequestHash = e.RequestHash // a build that has failed before: its page tells why
	}
	address := "/build/" + built.RequestHash
	if sel.From != "" {
		address = withQuery(address, "from", sel.From)
	}
	if have := strings.Join(sel.Have, " "); have != "" && len(url.QueryEscape(have)) <= maxHave {
		address = withQuery(address, "have", have) // for what has changed
	}
	if l, chosen := s.language(r); chosen {
		address = withQuery(address, "lang", l.Code)
	}
	http.Redirect(w, r, s.o.Prefix(r)+address, http.StatusSeeOther)
}

var deviceParts = []string{"editor", "verdict"}

func (s *Site) showDevice(w http.ResponseWriter, r *http.Request, status int, sel selection, failure *apiError) {
	ctx, cancel := s.within(r)
	defer cancel()
	part := r.Form.Get("part")
	if !slices.Contains(deviceParts, part) {
		part = ""
	}
	if !imagebuilder.ValidTarget(sel.Target) || !imagebuilder.ValidProfileName(sel.Profile) {
		s.failed(w, r, "start", &apiError{Status: http.StatusNotFound, Code: imagebuilder.CodeUnsupportedProfile,
			Detail: "The address names no device. Begin with the device's name."})
		return
	}
	var o overview
	if err := s.get(ctx, r, "/json/v1/overview.json", &o); err != nil {
		s.failed(w, r, "start", err)
		return
	}
	d := &devicePage{selection: sel, Failure: failure, Scripts: o.Server.AllowDefaults, MaxRootfs: o.Server.MaxRootfsMB, ScriptText: sel.Defaults}
	if d.From != "" && d.Version == "" {
		d.answer = s.askUpgrade(ctx, r, d)
		if d.answer.found {
			d.Version = d.answer.Version
		}
	}
	if err := s.chooseRelease(ctx, r, &o, d); err != nil {
		s.failed(w, r, "start", err)
		return
	}
	p := s.newPage(r, "start", d.address())
	p.Script, p.Data = "device.js", d
	p.notices(&o, s.o.Now())
	d.Title, d.Others = titles(d.Facts.Titles, d.Profile)
	p.Title = d.Title
	s.prepare(ctx, r, p, &o, d)
	d.Share = d.address()
	p.at(d.Share)
	s.show(w, r, status, "device", part, p)
}

// titles are what a device is called: the first, and the others.
func titles(all []imagebuilder.Title, profile string) (title string, others []string) {
	for _, t := range all {
		if name := t.String(); name != "" && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return profile, nil
	}
	return others[0], others[1:]
}

// chooseRelease finds the releases that have the device, and the chosen one's
// facts. A router calls its device otherwise than the profile: the facts have
// the id.
func (s *Site) chooseRelease(ctx context.Context, r *http.Request, o *overview, d *devicePage) error {
	have := map[string]bool{}
	named := d.Profile
	// Board names have a comma where profiles have an underscore.
	if plain := strings.ReplaceAll(d.Profile, ",", "_"); imagebuilder.ValidProfileID(plain) {
		d.Profile = plain
	}
	var list deviceList
	if s.get(ctx, r, "/api/v1/devices?"+url.Values{"q": {named}, "target": {d.Target}, "limit": {"20"}}.Encode(), &list) == nil {
		for _, f := range list.Devices {
			if f.Target == d.Target && (f.Profile == d.Profile || slices.Contains(f.Aliases, named)) {
				d.Profile = f.Profile
				for _, v := range f.Versions {
					have[v] = true
				}
			}
		}
	}
	var wrong error
	facts := func(version string) *profileFacts {
		var f profileFacts
		err := s.get(ctx, r, o.profileAddress(version, d.Target, d.Profile), &f)
		if err == nil && f.ID != "" {
			return &f
		}
		if e := detailOf(err); err != nil && e.Status != http.StatusNotFound {
			wrong = err
		}
		return nil
	}
	recommended := ""
	for _, b := range o.sorted() {
		if b.Targets[d.Target] == "" {
			continue
		}
		for _, v := range b.Versions {
			if len(have) > 0 && !have[v] {
				continue
			}
			key := "release.older"
			switch {
			case b.Snapshot:
				key = "release.snapshot"
			case strings.Contains(v, "-SNAPSHOT"):
				key = "release.branch-snapshot"
			case strings.Contains(v, "-rc"):
				key = "release.candidate"
			case slices.Contains(o.Latest, v) && recommended == "":
				key, recommended = "release.recommended", v
			case slices.Contains(o.Latest, v):
				key = "release.old-stable"
			}
			d.Releases = append(d.Releases, release{Version: v, Key: key, Installed: v == d.From})
		}
	}
	offered := func(v string) bool {
		return slices.ContainsFunc(d.Releases, func(r release) bool { return r.Version == v })
	}
	candidates := []string{recommended}
	if d.answer != nil && d.answer.err == nil && offered(d.From) {
		candidates = []string{d.From, recommended} // nothing is newer
	}
	if d.Version != "" && (offered(d.Version) || imagebuilder.ValidVersion(d.Version)) {
		candidates = []string{d.Version}
	} else {
		for _, rel := range d.Releases {
			candidates = append(candidates, rel.Version)
		}
	}
	for _, v := range candidates {
		if v == "" || d.Facts != nil {
			continue
		}
		if d.Facts = facts(v); d.Facts != nil {
			d.Version = v
		}
	}
	if d.Facts == nil {
		if wrong != nil {
			return wrong
		}
		return &apiError{Status: http.StatusNotFound, Code: imagebuilder.CodeUnsupportedProfile,
			Detail: "No release that is offered here has this device in this target."}
	}
	d.Profile = d.Facts.ID
	for i := range d.Releases {
		d.Releases[i].Current = d.Releases[i].Version == d.Version
	}
	for _, image := range d.Facts.Images {
		address := strings.TrimRight(o.UpstreamURL, "/") + "/" + o.path(d.Version) + "/targets/" + d.Target + "/" + url.PathEscape(image.Name)
		if u, err := url.Parse(address); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			d.Ready = append(d.Ready, readyImage{image, address})
		}
	}
	sortImages(d.Ready, func(i readyImage) imagebuilder.Image { return i.Image }, d.From != "")
	return nil
}

// path is the folder of a release.
func (o *overview) path(version string) string {
	for _, b := range o.Branches {
		if slices.Contains(b.Versions, version) {
			return strings.ReplaceAll(b.Path, "{version}", version)
		}
	}
	if version == "SNAPSHOT" {
		return "snapshots"
	}
	return "releases/" + version
}

// profileAddress is where the API has the facts of a device.
func (o *overview) profileAddress(version, target, profile string) string {
	return "/json/v1/" + o.path(version) + "/targets/" + target + "/" + url.PathEscape(profile) + ".json"
}

// sorted are the branches, newest first, snapshots last: they are not for
// everybody.
func (o *overview) sorted() []branch {
	var all []branch
	for _, b := range o.Branches {
		if b.Enabled {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b branch) int {
		if a.Snapshot != b.Snapshot {
			if a.Snapshot {
				return 1
			}
			return -1
		}
		return -strings.Compare(a.Name, b.Name)
	})
	return all
}

// prepare fills in all that depends on the release: what changes, packages,
// choices, and what the selection comes to.
func (s *Site) prepare(ctx context.Context, r *http.Request, p *page, o *overview, d *devicePage) {
	defaults := d.Facts.defaultPackages()
	if d.From != "" || len(d.Have) > 0 {
		s.upgrade(ctx, r, p, d, defaults)
	}
	s.solve(ctx, r, p, d)
	for _, name := range d.Packages {
		d.Chips = append(d.Chips, chip{Name: name, On: true, ID: "p-" + name})
	}
	isDefault := map[string]bool{}
	for _, name := range defaults {
		isDefault[name] = true
		on := !slices.Contains(d.Remove, name)
		if !on {
			d.Removed++
		}
		c := chip{Name: name, On: on, ID: "d-" + name}
		if on || !d.replaced(name) {
			c.Risk = risk(name)
		}
		d.Defaults = append(d.Defaults, c)
	}
	for _, name := range d.Remove {
		if !isDefault[name] {
			d.Unknown = append(d.Unknown, name)
		}
	}
	for _, image := range d.Facts.Images {
		if f := image.Filesystem; f != "" && !slices.Contains(d.Systems, f) {
			d.Systems = append(d.Systems, f)
		}
		switch image.Type {
		case "combined", "combined-efi", "sdcard", "rootfs":
			d.Partition = true
		}
	}
	if d.Failure != nil {
		d.Fixes = fixes(d.Failure.Repairs)
	}
	d.PackageURL = p.Link("/packages?" + url.Values{"version": {d.Version}, "target": {d.Target}}.Encode())
}

// replaced tells whether another option is chosen in place of a package.
func (d *devicePage) replaced(name string) bool {
	return slices.ContainsFunc(d.Choices, func(m choiceMenu) bool {
		return m.Chosen != name && slices.Contains(d.Packages, m.Chosen) &&
			slices.ContainsFunc(m.Options, func(o imagebuilder.Option) bool { return o.Name == name })
	})
}

// fixes are repairs as buttons send them.
func fixes(repairs []imagebuilder.Repair) []fix {
	var out []fix
	for _, repair := range repairs {
		out = append(out, fix{repair, strings.Join(repair.Packages, " ")})
	}
	return out
}

// change is what an upgrade changes.
type change struct {
	*upgradeReply
	Nothing  bool // nothing newer
	Reason   string
	Updated  []pair
	Replaced []pair
	Dropped  []pair
	Added    []pair
	Missing  []pair
	Kept     int
}

// pair is a package and what is said of it.
type pair struct{ Name, Text string }

// upgrade asks what changes on the way from the installed release.
func (s *Site) upgrade(ctx context.Context, r *http.Request, p *page, d *devicePage, defaults []string) {
	installed := d.installed()
	fallback := func() {
		// Nobody knows the old names: those that are no defaults are asked for.
		if d.For != d.Version {
			packages, _ := whole(slices.Sorted(maps.Keys(installed)), defaults)
			d.rebase(packages)
		}
	}
	if d.From == "" {
		d.NoChange = p.T("change.no-release")
		fallback()
		return
	}
	if d.answer == nil {
		d.answer = s.askUpgrade(ctx, r, d)
	}
	got, found, err := &d.answer.upgradeReply, d.answer.found, d.answer.err
	if err != nil {
		d.NoChange = p.T("change.unknown")
		if e := detailOf(err); e.Code != "" && e.Status < 500 && e.Status != http.StatusNotFound {
			d.NoChange = e.Detail
		}
		fallback()
		return
	}
	if !found {
		d.Change = &change{Nothing: true}
		fallback()
		return
	}
	c := &change{upgradeReply: got, Reason: p.Or("reason." + got.Reason)}
	if got.Reason == "requested" { // the person knows
		c.Reason = ""
	} else if c.Reason == "" {
		c.Reason = got.ReasonDetail
	}
	for _, name := range slices.Sorted(maps.Keys(got.Upgrades)) {
		c.Updated = append(c.Updated, pair{name, strings.Join(got.Upgrades[name], " → ")})
	}
	for _, name := range slices.Sorted(maps.Keys(got.Replacements)) {
		if to := got.Replacements[name]; len(to) > 0 {
			c.Replaced = append(c.Replaced, pair{name, strings.Join(to, ", ")})
		} else if _, told := got.Dropped[name]; !told {
			c.Dropped = append(c.Dropped, pair{name, ""})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got.Dropped)) {
		c.Dropped = append(c.Dropped, pair{name, got.Dropped[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(got.Added)) {
		c.Added = append(c.Added, pair{name, got.Added[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(got.Missing)) {
		c.Missing = append(c.Missing, pair{name, strings.Join(got.Missing[name], ", ")})
	}
	d.Change = c
	d.menus(got.Choices)
	if d.For != d.Version || r.Form.Get("recount") != "" {
		list := got.Request.Packages
		if len(list) == 0 {
			list = slices.Sorted(maps.Keys(got.Request.PackagesVersions))
		}
		packages, remove := list, []string(nil)
		if got.Request.DiffPackages {
			packages, remove = whole(list, defaults)
		} else {
			packages = slices.DeleteFunc(slices.Clone(list), func(name string) bool {
				plain, removed := strings.CutPrefix(name, "-")
				if removed {
					remove = append(remove, plain)
				}
				return removed || slices.Contains(defaults, name)
			})
		}
		if d.For == "" {
			d.Remove = unique(append(d.Remove, remove...))
		} else {
			d.makeRoom(got.Choices, remove)
		}
		d.rebase(packages)
	}
}

// upgradeAnswer is what the upgrade check said.
type upgradeAnswer struct {
	upgradeReply
	found bool // there is something newer
	err   error
}

// askUpgrade asks what there is for the router; where no release is chosen yet,
// which is recommended.
func (s *Site) askUpgrade(ctx context.Context, r *http.Request, d *devicePage) *upgradeAnswer {
	packages := d.installed()
	for _, name := range d.Remove {
		if d.For == "" {
			packages["-"+name] = ""
		}
	}
	a := &upgradeAnswer{}
	a.found, a.err = s.call(ctx, r, http.MethodPost, "/api/v1/upgrade-check", map[string]any{
		"version": d.From, "revision": d.Revision, "target": d.Target, "profile": d.Profile, "packages": packages,
		"to_version": d.Version, "choices": d.selection.Choices,
	}, &a.upgradeReply)
	return a
}

// menus shows the choices, the same old package once.
func (d *devicePage) menus(choices imagebuilder.Choices) {
	for _, old := range slices.Sorted(maps.Keys(choices)) {
		if slices.ContainsFunc(d.Choices, func(m choiceMenu) bool { return m.Old == old }) {
			continue
		}
		c := choices[old]
		m := choiceMenu{Old: old, Chosen: c.Chosen, Options: c.Options}
		if m.Chosen == "" {
			m.Chosen = c.Default
		}
		if len(m.Options) > 1 {
			d.Choices = append(d.Choices, m)
		}
	}
}

// verdict is what a selection comes to.
type verdict struct {
	*solveReply
	Unknown   bool // the resolver cannot be asked
	Refused   *apiError
	Fixes     []fix
	Pulled    []solvedPackage // those that come along with what was asked for
	FlashUsed int64           // bytes, no more than there are
	FlashHigh int64           // bytes from which on it is tight
}

// pulled are the packages that are there because of one that was asked for,
// directly or through others.
func pulled(all []solvedPackage) []solvedPackage {
	byName := make(map[string]*solvedPackage, len(all))
	for i := range all {
		byName[all[i].Name] = &all[i]
	}
	var out []solvedPackage
	for _, one := range all {
		if one.Default || one.Requested {
			continue
		}
		at := byName[one.Reason]
		for range all { // reasons could go in a circle
			if at == nil || at.Default || at.Requested {
				break
			}
			at = byName[at.Reason]
		}
		if at != nil && at.Requested {
			out = append(out, one)
		}
	}
	return out
}

// solve asks the resolver.
func (s *Site) solve(ctx context.Context, r *http.Request, p *page, d *devicePage) {
	wire, err := d.request(s.o.Version)
	var got solveReply
	if err == nil {
		_, err = s.call(ctx, r, http.MethodPost, "/api/v1/solve", wire, &got)
	}
	var e *apiError
	if errors.As(err, &e) && len(e.Problems) == 0 && (e.Status == http.StatusNotFound || e.Status >= 500) || err != nil && e == nil {
		d.Verdict = &verdict{Unknown: true}
		return
	}
	v := &verdict{}
	d.Verdict = v
	if err != nil {
		v.Refused = e
		v.solveReply = &solveReply{Problems: e.Problems, Repairs: e.Repairs}
		v.Fixes = fixes(e.Repairs)
		return
	}
	v.solveReply = &got
	v.Fixes = fixes(got.Repairs)
	v.Pulled = pulled(got.Packages)
	if l := got.Sizes.Flash.Limit; l > 0 {
		v.FlashUsed, v.FlashHigh = min(got.Sizes.Flash.Estimate, l), l*9/10
	}
	d.menus(got.Choices)
}

package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

// startPage is the first page: a device is found.
type startPage struct {
	Query     string
	Asked     bool // there is a query
	Found     []foundDevice
	Total     int
	More      string // address of the next devices
	NoSearch  bool   // the list of devices cannot be had
	Versions  []string
	Targets   []string
	Paste     string
	PasteFail string
	Latest    string
	Carried   []carried // what is known of the router, until its device is found
	Packages  int       // of the router that are known
	From      string    // its release
}

// carried is something that goes along through the search for the device.
type carried struct{ Name, Value string }

// carriedNames are what a router may have said without saying which it is.
var carriedNames = []string{"target", "from", "rev", "have"}

type foundDevice struct {
	Title    string
	Profile  string
	Target   string
	Versions []string
	Others   []string // further names
	URL      string
}

const devicesShown = 20

func (s *Site) start(w http.ResponseWriter, r *http.Request, _ string) {
	s.showStart(w, r, http.StatusOK, &startPage{})
}

func (s *Site) showStart(w http.ResponseWriter, r *http.Request, status int, data *startPage) {
	ctx, cancel := s.within(r)
	defer cancel()
	query := strings.TrimSpace(r.URL.Query().Get("q"))
	self := "/"
	if query != "" {
		self = withQuery("/", "q", query)
	}
	along := url.Values{}
	for _, name := range carriedNames {
		if value := r.URL.Query().Get(name); value != "" && len(value) <= maxHave {
			along.Set(name, value)
			self = withQuery(self, name, value)
			data.Carried = append(data.Carried, carried{name, value})
		}
	}
	data.Packages, data.From = len(splitNames(along.Get("have"))), along.Get("from")
	p := s.newPage(r, "start", self)
	p.Title, p.Script, p.Data = p.T("start.title"), "start.js", data
	part := r.URL.Query().Get("part")
	if part != "" && part != "devices" {
		part = ""
	}
	data.Query, data.Asked = query, query != ""
	if data.Asked || part == "" {
		s.findDevices(ctx, r, p, data, along)
	}
	if part == "" {
		var o overview
		if err := s.get(ctx, r, "/json/v1/overview.json", &o); err == nil {
			p.notices(&o, s.o.Now())
			data.Versions, data.Targets = o.versions(), o.targets()
			if len(o.Latest) > 0 {
				data.Latest = o.Latest[0]
			}
		} else {
			p.Notice = p.T("notice.nothing")
		}
	}
	s.show(w, r, status, "start", part, p)
}

// findDevices asks the API for devices by name; along goes with their
// addresses.
func (s *Site) findDevices(ctx context.Context, r *http.Request, p *page, data *startPage, along url.Values) {
	query := data.Query
	with := func(address string, values url.Values) string {
		for name := range along {
			if !values.Has(name) {
				values.Set(name, along.Get(name))
			}
		}
		return p.Link(address + "?" + values.Encode())
	}
	offset, err := strconv.Atoi(r.URL.Query().Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	if !data.Asked {
		// Whether there is a list at all; what is in it comes with a query.
		offset = 0
	}
	var found deviceList
	ask := url.Values{"q": {query}, "limit": {strconv.Itoa(devicesShown)}, "offset": {strconv.Itoa(offset)}}
	if target := along.Get("target"); imagebuilder.ValidTarget(target) {
		ask.Set("target", target)
	}
	err = s.get(ctx, r, "/api/v1/devices?"+ask.Encode(), &found)
	if err == nil && found.Total == 0 && ask.Has("target") { // which later releases may call otherwise
		ask.Del("target")
		err = s.get(ctx, r, "/api/v1/devices?"+ask.Encode(), &found)
	}
	if err != nil {
		data.NoSearch = true
		return
	}
	data.Total = found.Total
	if !data.Asked && found.Total > devicesShown {
		return // too many to be a list
	}
	for _, d := range found.Devices {
		title := d.Title
		if title == "" {
			title = d.Profile
		}
		one := foundDevice{Title: title, Profile: d.Profile, Target: d.Target, Versions: d.Versions,
			URL: with("/device", url.Values{"target": {d.Target}, "profile": {d.Profile}})}
		for _, t := range d.Titles {
			if name := t.String(); name != title && !slices.Contains(one.Others, name) {
				one.Others = append(one.Others, name)
			}
		}
		data.Found = append(data.Found, one)
	}
	if next := offset + len(found.Devices); data.Asked && len(found.Devices) > 0 && next < found.Total {
		data.More = with("/", url.Values{"q": {query}, "offset": {strconv.Itoa(next)}})
	}
}

// versions are the releases of all branches that are offered, newest branch
// first.
func (o *overview) versions() []string {
	var all []string
	for _, b := range o.sorted() {
		all = append(all, b.Versions...)
	}
	return all
}

func (o *overview) targets() []string {
	seen := map[string]bool{}
	var all []string
	for _, b := range o.Branches {
		for t := range b.Targets {
			if !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		}
	}
	slices.Sort(all)
	return all
}

// maxPaste bounds what may be pasted, in bytes: the package list of the
// largest router is a tenth of it.
const maxPaste = 256 << 10

// recognized takes what a router says of itself and goes on with its device.
// It takes text only: of files, which may be whole backups with keys and
// passwords, the page's script takes the text that is needed.
func (s *Site) recognized(w http.ResponseWriter, r *http.Request, _ string) {
	ctx, cancel := s.within(r)
	defer cancel()
	r.Body = http.MaxBytesReader(w, r.Body, 4*maxPaste) // signs take up to three bytes each
	if err := r.ParseForm(); err != nil {
		s.failed(w, r, "start", formIncomplete(err))
		return
	}
	text := r.PostForm.Get("said")
	if len(text) > maxPaste {
		text = text[:maxPaste]
	}
	p := s.newPage(r, "start", "/")
	var said Said
	_, err := s.call(ctx, r, http.MethodPost, "/api/v1/recognize", map[string]string{"text": text}, &said)
	if err != nil {
		s.showStart(w, r, detailOf(err).Status, &startPage{Paste: text, PasteFail: detailOf(err).Detail})
		return
	}
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("target", said.Target)
	set("profile", said.Profile)
	if said.Profile == "" {
		set("profile", said.BoardName)
	}
	set("from", said.Version)
	set("rev", said.Revision)
	set("have", haveText(said))
	set("remove", strings.Join(s.removed(ctx, r, said), " "))
	if q.Get("profile") == "" || q.Get("target") == "" {
		q.Del("profile") // of no use without a target
		q.Del("remove")
		if said.Profile == "" && said.BoardName != "" {
			q.Set("q", said.BoardName)
		}
		if said.Model != "" {
			q.Set("q", said.Model)
		}
		http.Redirect(w, r, p.Link("/?"+q.Encode()), http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, p.Link("/device?"+q.Encode()), http.StatusSeeOther)
}

// removed are the default packages of the installed release that the router
// does not have any more.
func (s *Site) removed(ctx context.Context, r *http.Request, said Said) []string {
	var o overview
	var facts profileFacts
	if !said.Whole || said.Version == "" || said.Profile == "" || s.get(ctx, r, "/json/v1/overview.json", &o) != nil {
		return nil
	}
	if s.get(ctx, r, o.profileAddress(said.Version, said.Target, said.Profile), &facts) != nil || facts.ID == "" {
		return nil
	}
	removed := said.Removed(facts.defaultPackages())
	if len(removed) > len(said.Installed)/2 { // a piece of a list, not the whole
		return nil
	}
	return removed
}

// maxHave bounds what of a package list goes into an address, in bytes:
// proxies refuse addresses of more than 8 KB.
const maxHave = 6000

// haveText writes the packages of a router into one word each, with versions
// where they are known and there is room.
func haveText(said Said) string {
	names := said.Packages
	var plain, full []string
	for _, name := range names {
		if !imagebuilder.ValidPackageName(name) {
			continue
		}
		plain = append(plain, name)
		if v := said.Installed[name]; v != "" {
			full = append(full, name+"="+v)
		} else {
			full = append(full, name)
		}
	}
	if text := strings.Join(full, " "); len(url.QueryEscape(text)) <= maxHave {
		return text
	}
	return strings.Join(plain, " ")
}

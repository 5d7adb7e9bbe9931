package web

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"attendant/imagebuilder"
)

//go:embed templates/*.html
var templateFiles embed.FS

// templates are the pages: each a set of its own around the frame, and the
// fragments that scripts put in place.
type templates struct {
	pages map[string]*template.Template
}

var pageNames = []string{"start", "device", "build", "packages", "status", "admin", "error"}

func loadTemplates(a *assets) *templates {
	functions := template.FuncMap{"asset": a.url, "icon": func() template.HTML { return logo }}
	frame := template.Must(template.New("frame").Funcs(functions).ParseFS(templateFiles, "templates/frame.html", "templates/parts.html"))
	t := &templates{pages: map[string]*template.Template{}}
	for _, name := range pageNames {
		t.pages[name] = template.Must(template.Must(frame.Clone()).ParseFS(templateFiles, "templates/"+name+".html"))
	}
	return t
}

// logo is a router with its waves.
const logo template.HTML = `<svg class="logo" viewBox="0 0 32 32" width="32" height="32" aria-hidden="true" focusable="false">` +
	`<path fill="none" stroke="currentColor" stroke-width="2.6" stroke-linecap="round" d="M16 18V13M11 10.5a7 7 0 0 1 10 0M7.2 6.8a12.4 12.4 0 0 1 17.6 0"/>` +
	`<rect x="4" y="18" width="24" height="9" rx="2.5" fill="currentColor"/></svg>`

// page is what every template is given.
type page struct {
	*language
	Title     string
	Script    string // module among the assets
	Refresh   int    // seconds until a browser without scripts loads the page again; 0 is never
	Languages []languageLink
	Chosen    bool // the address names the language
	Version   string
	Notice    string // above the content
	Contact   string
	Section   string // of the navigation
	Home      string // the site's address for routers
	Path      string // of this page, with its query but the language
	Base      string // begins the addresses of the distribution
	Admin     bool   // there is a page for the operator
	Data      any

	all []*language
}

type languageLink struct {
	*language
	URL     string
	Current bool
}

// T is a text of the page's language, and "…" a pair of name and value.
func (p *page) T(key string, pairs ...any) string { return p.text(key, pairs...) }

// Or is the text of the first key that there is.
func (p *page) Or(keys ...string) string {
	for _, key := range keys {
		if p.has(key) {
			return p.text(key)
		}
	}
	return ""
}

// Has tells whether there is a text.
func (p *page) Has(key string) bool { return p.has(key) }

// Size writes a number of bytes.
func (p *page) Size(n int64) string { return p.size(n) }

// Seconds writes a time span.
func (p *page) Seconds(n int64) string { return p.duration(time.Duration(n) * time.Second) }

// List writes names one after the other.
func (p *page) List(names []string) string {
	plain := make([]string, len(names))
	for i, name := range names {
		plain[i] = strings.TrimPrefix(name, "-") // a default package that is left out
	}
	return strings.Join(plain, ", ")
}

// forClients is how the sentence of a failed build begins, for clients that
// look for it. It tells people nothing: the log is on the page.
const forClients = "Error: Error while building firmware. See stdout/stderr. "

// Why is what the sentence of a failed build tells people.
func (p *page) Why(detail string) string { return strings.TrimPrefix(detail, forClients) }

// Lines are the sentences of a text, one a line.
func (p *page) Lines(key string) []string { return strings.Split(p.text(key), "\n") }

// with is a piece of a page and the page, for a template of its own.
type with struct {
	Page *page
	Item any
}

// With passes a piece of the page and the page to a template.
func (p *page) With(item any) with { return with{p, item} }

// Problems and Repair are the piece as what it is.
func (w with) Problems() []imagebuilder.Problem { return w.Item.([]imagebuilder.Problem) }
func (w with) Repair() imagebuilder.Repair      { return w.Item.(imagebuilder.Repair) }

// Link is an address of the site as the page refers to it: of the same
// distribution, in the chosen language.
func (p *page) Link(address string) string {
	if p.Chosen {
		address = withQuery(address, "lang", p.Code)
	}
	return p.Base + address
}

// withQuery sets one value of an address's query.
func withQuery(address, name, value string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// newPage begins a page; self is its address for those who come by a link.
func (s *Site) newPage(r *http.Request, section, self string) *page {
	l, chosen := s.language(r)
	p := &page{language: l, all: s.languageList(), Chosen: chosen, Version: s.o.Version, Base: s.o.Prefix(r), Section: section, Admin: s.o.Admin}
	p.Home = s.absolute(r, p.Base)
	p.at(self)
	return p
}

// at says where the page is to be found.
func (p *page) at(self string) {
	p.Path = p.Base + self
	p.Languages = p.Languages[:0]
	for _, l := range p.all {
		p.Languages = append(p.Languages, languageLink{l, withQuery(p.Path, "lang", l.Code), l.Code == p.Code})
	}
}

// show sends a page, or one named part of it.
func (s *Site) show(w http.ResponseWriter, r *http.Request, status int, name, part string, p *page) {
	block := "frame"
	if part != "" {
		block = part
	}
	var buf bytes.Buffer
	if err := s.templates.pages[name].ExecuteTemplate(&buf, block, p); err != nil {
		panic(err) // told by the server's middleware
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding, Accept-Language")
	body := buf.Bytes()
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = pack(body)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * time.Minute))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the browser may have gone
}

// failed shows an error as a page.
func (s *Site) failed(w http.ResponseWriter, r *http.Request, section string, err error) {
	p := s.newPage(r, section, "/")
	e := detailOf(err)
	p.Title = p.T("error.title")
	p.Data = e
	s.show(w, r, e.Status, "error", "", p)
}

// detailOf is what of an error a page can show.
func detailOf(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	own := imagebuilder.AsError(err)
	return &apiError{Status: http.StatusInternalServerError, Detail: own.Detail, Code: own.Code}
}

// notices puts above the content what everybody should know: that upstream
// cannot be reached.
func (p *page) notices(o *overview, now time.Time) {
	if o == nil {
		return
	}
	p.Contact = o.Server.Contact
	if o.Upstream.Stale {
		checked, err := time.Parse(time.RFC3339Nano, o.Upstream.Checked)
		if err != nil || checked.IsZero() {
			p.Notice = p.T("notice.offline")
			return
		}
		p.Notice = p.T("notice.offline-since", "time", p.duration(max(0, now.Sub(checked))))
	}
}

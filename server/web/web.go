// Package web is the web page: from "which router is this?" to the image.
//
// Every page is HTML made here, complete without JavaScript; the scripts among
// the assets only save steps: they send the same forms in the background and
// put the same fragments in place. What the pages show they ask the server's
// own API for, in the process, as any client does; where the API has no answer
// the page says so in a sentence and goes on.
package web

import (
	"context"
	"net/http"
	"time"

	"attendant/imagebuilder"
)

// Options are what a Site works with.
type Options struct {
	// API answers the addresses below /api/ and /json/.
	API http.Handler
	// Build finds a build by its request hash.
	Build func(hash string) (Build, bool)
	// Admin tells whether the operator can administer the server by the page.
	Admin bool
	// Version is attendant's.
	Version string
	// PublicURL is where people reach this server, without a final slash; ""
	// is unknown: then the address is taken that the browser used.
	PublicURL string
	// Prefix begins the addresses of the distribution that a request's address
	// names, as "/d/name"; nil or "" is the server's first.
	Prefix func(r *http.Request) string
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Build is a build as a page shows it.
type Build struct {
	Job         *imagebuilder.Job
	Position    int           // in the queue, from 1; 0 is building or ended
	Wait        time.Duration // until it is finished, probably; 0 is unknown
	Stage       imagebuilder.Stage
	Done, Total int64 // bytes of the stage; Total 0 is unknown
}

// Site has the pages as handlers. Make one with New; its methods may be called
// concurrently.
type Site struct {
	o         Options
	assets    *assets
	languages map[string]*language
	templates *templates
}

// New reads the embedded pages, texts and assets. It panics where they are
// wrong, which tests hold them not to be.
func New(o Options) *Site {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Prefix == nil {
		o.Prefix = func(*http.Request) string { return "" }
	}
	s := &Site{o: o, assets: loadAssets(), languages: loadLanguages()}
	s.templates = loadTemplates(s.assets)
	return s
}

// Routes are the addresses of the site, as httprouter has them; ":name" is a
// parameter. GET stands for HEAD as well.
func (s *Site) Routes() []Route {
	return []Route{
		{http.MethodGet, "/", s.start},
		{http.MethodPost, "/recognize", s.recognized},
		{http.MethodGet, "/device", s.device},
		{http.MethodPost, "/check", s.check},
		{http.MethodPost, "/build", s.request},
		{http.MethodGet, "/build/:hash", s.build},
		{http.MethodGet, "/packages", s.packages},
		{http.MethodGet, "/status", s.status},
		{http.MethodGet, "/admin", s.admin},
		{http.MethodGet, "/assets/:file", s.asset},
	}
}

// Route is one address of the site. Handle is given the value of the address's
// parameter, or "".
type Route struct {
	Method, Path string
	Handle       func(w http.ResponseWriter, r *http.Request, parameter string)
}

// policy lets a page use what comes from this server and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// pageTime bounds what a page may wait for the API.
const pageTime = 20 * time.Second

func (s *Site) within(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), pageTime)
}

// Package server is attendant's HTTP side: the API that LuCI, owut, auc and the
// firmware selector speak, the files of finished images, and the control
// socket of the operator's commands. One file per family; reply.go has the
// rules that all replies keep.
package server

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/julienschmidt/httprouter"
	"github.com/rs/zerolog"

	"attendant/imagebuilder"
	"attendant/queue"
	"attendant/store/images"
)

// Options are what a Server works with.
type Options struct {
	// Catalogue is that of the distribution which requests mean that name
	// none. Distributions are all, it included, by their lower-case names.
	Catalogue     Catalogue
	Distributions map[string]Catalogue

	Queue      *queue.Queue
	Images     *images.Cache
	Statistics Statistics
	Database   Database

	Surroundings Surroundings // nil tells nothing of them
	Operator     Operator     // nil sees and does nothing beside the server
	AdminToken   string       // "" switches administration over HTTP off

	Version             string
	Contact             string
	PublicURL           string // where clients reach this server; "" is unknown
	AllowDefaults       bool
	RepositoryAllowList []string // URL prefixes
	Limits              imagebuilder.Limits

	// UpstreamTree, if set, is handed out below upstreamTreePath, and routers
	// are told to fetch the release's files there.
	UpstreamTree http.Handler

	// SigningKey, if set, signs the sha256sums of images.
	SigningKey *SigningKey

	StallTimeout time.Duration // of downloads; default 2 minutes
	BodyStall    time.Duration // a pause inside a request's body; default 30 s
	Now          func() time.Time
	Log          zerolog.Logger
}

// upstreamTreePath is where Options.UpstreamTree is mounted.
const upstreamTreePath = "/upstream"

// maxStreams is how many event streams may be open at once. A page that finds
// none free polls instead.
const maxStreams = 128

// Server answers requests. Make one with New.
type Server struct {
	o       Options
	log     zerolog.Logger
	handler http.Handler
	openAPI []byte
	docs    []byte
	docsCSP string

	bodyLimit int64
	started   time.Time
	kept      *keptStatus
	guard     *guard // of the operator's addresses; nil: there are none

	known       *lru.Cache[[sha256.Size]byte, *asked]
	streams     chan struct{}
	largeBodies chan struct{}
	legacy      *legacyState
	stop        chan struct{} // closed when event streams shall end
	stopping    sync.Once
	hurry       chan struct{} // closed when downloads shall be cut
	hurrying    sync.Once
}

// New returns a server; it starts nothing.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = stallTimeout
	}
	if o.Distributions == nil {
		o.Distributions = map[string]Catalogue{imagebuilder.DefaultDistro: o.Catalogue}
	}
	if o.BodyStall == 0 {
		o.BodyStall = bodyStall
	}
	known, err := lru.New[[sha256.Size]byte, *asked](knownRequests)
	if err != nil {
		panic(err) // of a size that is not positive
	}
	s := &Server{
		known:       known,
		started:     o.Now(),
		kept:        newKeptStatus(),
		o:           o,
		log:         o.Log,
		openAPI:     openAPI(o.Version, o.PublicURL),
		bodyLimit:   minBodyLimit + 2*int64(o.Limits.MaxDefaultsLength),
		streams:     make(chan struct{}, maxStreams),
		largeBodies: make(chan struct{}, maxLargeBodies),
		legacy:      newLegacyState(),
		stop:        make(chan struct{}),
		hurry:       make(chan struct{}),
	}
	if o.AdminToken != "" {
		s.guard = newGuard(o.AdminToken)
	}
	s.docs, s.docsCSP = docsPage(s.openAPI)
	s.handler = s.wrap(s.routes())
	return s
}

// Handler is the public API.
func (s *Server) Handler() http.Handler { return s.handler }

// routes registers every public address. httprouter does not answer HEAD for
// GET, and cannot put a fixed name beside a parameter.
func (s *Server) routes() http.Handler {
	r := httprouter.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.HandleOPTIONS = false // answered in cors
	r.NotFound = http.HandlerFunc(s.notFound)
	r.MethodNotAllowed = http.HandlerFunc(s.methodNotAllowed)

	get := func(path string, h http.HandlerFunc) {
		r.HandlerFunc(http.MethodGet, path, h)
		r.HandlerFunc(http.MethodHead, path, h)
	}
	getParams := func(path string, h httprouter.Handle) {
		r.GET(path, h)
		r.HEAD(path, h)
	}

	r.HandlerFunc(http.MethodPost, "/api/v1/build", s.postBuild)
	r.HandlerFunc(http.MethodPost, "/api/v1/upgrade-check", s.upgradeCheck)
	r.HandlerFunc(http.MethodPost, "/api/v1/solve", s.solve)
	get("/api/v1/packages", s.packages)
	getParams("/api/v1/packages/:name", s.packageDetails)
	getParams("/api/v1/build/:hash", s.getBuild)
	r.GET("/api/v1/build/:hash/events", s.events)
	getParams("/api/v1/build/:hash/log", s.buildLog)
	getParams("/store/:hash/:file", s.storeFile)
	get("/api/v1/devices", s.devices)
	s.legacyRoutes(r, get, getParams)

	getParams("/json/v1/*path", s.jsonV1)
	getParams("/api/v1/revision/:version/:target/:subtarget", s.revision)
	get("/api/v1/overview", s.overview)
	get("/api/overview", s.overview)
	get("/overview", s.overview)
	get("/api/v1/latest", s.latest)

	get("/api/v1/status", s.status)
	get("/api/v1/stats", s.stats)
	get("/api/v1/stats/summary", s.statsSummary)
	get("/api/v1/builds-per-day", s.buildsPerDay)
	get("/api/v1/builds-by-version", s.buildsByVersion)
	get("/api/v1/top-packages", s.topPackages)
	get("/api/v1/build-errors", s.buildErrors)

	s.administer(r)

	get("/healthz", s.health)
	get("/api/v1/openapi.json", s.serveOpenAPI)
	get("/docs", s.serveDocs)
	s.pages(r, cleanPath(r))
	if s.o.UpstreamTree != nil {
		tree := http.StripPrefix(upstreamTreePath, s.o.UpstreamTree)
		r.Handler(http.MethodGet, upstreamTreePath+"/*path", tree)
		r.Handler(http.MethodHead, upstreamTreePath+"/*path", tree)
	}
	return r
}

package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// The API of 2017-2019: what LuCI and auc on LEDE 17.01, OpenWrt 18.06 and
// 19.07 speak. docs/legacy-api.md has the contract, its sources and who reads
// what; names in this file are its words. It is a translation: upgrade checks,
// builds and files are those of the API of today.

// form is how the replies of one period look.
type form int

const (
	form2017 form = iota // 201 and 206; url, checksum
	form2018             // 202 with headers; absolute addresses
	form2019             // 202 with headers; files and a bare name; 409
)

// mark2019 ends the request_hash that a client of 2019 is given: it comes back
// in polls that have nothing else to tell the form by.
const mark2019 = "-2019"

// legacyState is what the old API remembers.
type legacyState struct {
	sums    *lru.Cache[string, string]               // image to MD5
	summing sync.Mutex                               // one image is read at a time
	unready *lru.Cache[[sha256.Size]byte, time.Time] // what upstream's data were first missing for
}

func newLegacyState() *legacyState {
	sums, err := lru.New[string, string](256)
	if err != nil {
		panic(err) // of a size that is not positive
	}
	unready, err := lru.New[[sha256.Size]byte, time.Time](256)
	if err != nil {
		panic(err)
	}
	return &legacyState{sums: sums, unready: unready}
}

func (s *Server) legacyRoutes(r *httprouter.Router, get func(string, http.HandlerFunc), getParams func(string, httprouter.Handle)) {
	post := func(path string, h func(http.ResponseWriter, *http.Request)) {
		r.HandlerFunc(http.MethodPost, path, legacyHeaders(h))
	}
	check := func(f form) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { s.legacyCheck(w, r, f) }
	}
	build := func(f form, sysupgrade bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { s.legacyBuild(w, r, f, sysupgrade) }
	}
	poll := func(sysupgrade bool) httprouter.Handle {
		return func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
			legacyHeaders(func(w http.ResponseWriter, r *http.Request) { s.legacyPoll(w, r, ps.ByName("hash"), sysupgrade) })(w, r)
		}
	}
	post("/update-request", check(form2017))
	post("/image-request", build(form2017, true))
	post("/build-request", build(form2018, false))
	post("/api/upgrade-check", check(form2018))
	post("/api/upgrade-request", build(form2018, true))
	post("/api/build-request", build(form2018, false))
	getParams("/api/upgrade-check/:hash", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		s.legacyError(w, r, form2018, imagebuilder.Errorf(imagebuilder.CodeNotFound, "Upgrade checks are not kept. Please ask again by POST."))
	})
	getParams("/api/upgrade-request/:hash", poll(true))
	getParams("/api/build-request/:hash", poll(false))

	r.HandlerFunc(http.MethodPost, "/api/build", s.build2021)
	getParams("/api/build/:hash", s.getBuild)
	get("/api/latest", s.latest)
	get("/json/latest.json", s.latest)

	getParams("/store/:hash", s.legacyListing)
	get("/api/signing-key", s.legacyKey)
	getParams("/api/image/:hash", s.legacyImage)
	getParams("/api/manifest/:hash", s.legacyManifest)
	get("/api/distros", s.legacyDistros)
	get("/api/versions", s.legacyVersions)
	get("/api/models", s.legacyModels)
	get("/api/packages_image", s.legacyDefaultPackages)
	get("/api/default_packages", s.legacyDefaultPackages)
	get("/api/v1/stats/popular_packages", s.legacyPopularPackages)
	get("/api/v1/stats/popular_targets", s.legacyPopularTargets)
	get("/api/v1/stats/images", s.legacyImageStats)
	get("/api/v1/stats/image_stats", s.legacyImageStats)
	get("/api/v1/stats/images_count", s.legacyImageStats)
	get("/api/v1/stats/images_latest", s.legacyImagesLatest)
	get("/api/v1/stats/fails_latest", s.legacyFailsLatest)
}

// legacyHeaders lets LuCI's page read the headers that it looks at.
func legacyHeaders(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Expose-Headers", h.Get("Access-Control-Expose-Headers")+", X-Build-Queue-Position, X-Missing-Param")
		next(w, r)
	}
}

// legacyRequest is a body of any period.
type legacyRequest struct {
	distro, version, revision        string
	target, subtarget                string
	board, model, machine, profile   string
	packages, installed              legacyPackages
	wantsPackages                    bool // updates of the same release count
	defaults                         *string
	networkProfile, hash, oldVersion string

	form form
}

// notChosen are packages that every list of installed ones has, and no
// feed or no user can choose.
var notChosen = map[string]bool{"kernel": true, "libc": true, "libgcc": true, "libgcc1": true}

// legacyPackages are packages as an object, name to version, as a list, or as
// words in a string.
type legacyPackages imagebuilder.Pairs

// UnmarshalJSON reads any of the forms. Empty names, as LuCI's text field
// leaves them, are dropped.
func (p *legacyPackages) UnmarshalJSON(data []byte) error {
	data = bytes.TrimSpace(data)
	var pairs imagebuilder.Pairs
	var names []string
	var text string
	switch {
	case bytes.HasPrefix(data, []byte("{")):
		if err := pairs.UnmarshalJSON(data); err != nil {
			return err
		}
	case json.Unmarshal(data, &names) == nil:
	case json.Unmarshal(data, &text) == nil:
		names = []string{text}
	default:
		return errors.New("neither an object, a list nor a string")
	}
	for _, name := range names {
		for _, word := range strings.Fields(name) {
			pairs = append(pairs, imagebuilder.Pair{Name: word})
		}
	}
	*p = legacyPackages{}
	for _, pair := range pairs {
		if pair.Name != "" && !notChosen[pair.Name] {
			*p = append(*p, pair)
		}
	}
	return nil
}

// yes is a JSON value that may mean yes: auc sends 1, LuCI "1".
type yes bool

// UnmarshalJSON implements json.Unmarshaler.
func (y *yes) UnmarshalJSON(data []byte) error {
	switch strings.ToLower(strings.Trim(string(data), `"`)) {
	case "", "0", "false", "no", "off", "null":
		*y = false
	default:
		*y = true
	}
	return nil
}

// readLegacy reads a body. f is the form of its address; that of 2018 becomes
// 2019's where the target is written as then. The errors are CodeMalformed.
func (s *Server) readLegacy(w http.ResponseWriter, r *http.Request, f form) (*legacyRequest, error) {
	body, err := s.readBody(w, r)
	if err != nil {
		return &legacyRequest{form: f}, err
	}
	return decodeLegacy(body, f)
}

func decodeLegacy(body []byte, f form) (*legacyRequest, error) {
	q := &legacyRequest{form: f}
	var updates, upgrades yes
	const packages = "an object of strings, package to version, or a list of names"
	err := decodeObject(body, []field{
		{"distro", &q.distro, "a string"},
		{"version", &q.version, "a string"},
		{"revision", &q.revision, "a string"},
		{"target", &q.target, "a string"},
		{"subtarget", &q.subtarget, "a string"},
		{"board", &q.board, "a string"},
		{"model", &q.model, "a string"},
		{"machine", &q.machine, "a string"},
		{"profile", &q.profile, "a string"},
		{"packages", &q.packages, packages},
		{"installed", &q.installed, packages},
		{"update_packages", &updates, "a number"},
		{"upgrade_packages", &upgrades, "a number"},
		{"defaults", &q.defaults, "a string"},
		{"network_profile", &q.networkProfile, "a string"},
		{"request_hash", &q.hash, "a string"},
		{"current_version", &q.oldVersion, "a string"},
	})
	if err != nil {
		return q, err
	}
	q.wantsPackages = bool(updates || upgrades)
	if strings.Contains(q.target, "/") {
		if f == form2018 {
			q.form = form2019
		}
	} else if q.subtarget != "" {
		q.target += "/" + q.subtarget
	}
	q.distro = strings.ToLower(q.distro)
	q.version, q.oldVersion = legacyVersion(q.version), legacyVersion(q.oldVersion)
	return q, nil
}

// legacyVersion writes a version as today: names were compared in lower case,
// and snapshots were called by several.
func legacyVersion(v string) string {
	v = strings.ToLower(v)
	if v == "snapshots" {
		v = "snapshot"
	}
	if base, ok := strings.CutSuffix(v, "snapshot"); ok && (base == "" || strings.HasSuffix(base, "-")) {
		return base + "SNAPSHOT"
	}
	return v
}

// names are what the device is called, the surest first.
func (q *legacyRequest) names() []string {
	var names []string
	for _, name := range []string{q.profile, q.board, q.machine, q.model} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// missing names the first member that is not there.
func (q *legacyRequest) missing(names ...string) string {
	for _, name := range names {
		switch {
		case name == "distro" && q.distro == "", name == "version" && q.version == "", name == "target" && q.target == "",
			name == "subtarget" && q.target != "" && !strings.Contains(q.target, "/"),
			name == "board" && len(q.names()) == 0:
			return name
		}
	}
	return ""
}

// legacyFailure is an error as it was told then, and as it is told today.
type legacyFailure struct {
	Error string `json:"error"`
	Log   string `json:"log,omitempty"`
	errorReply
}

// legacyStatus is the status of a code in a period.
func legacyStatus(f form, code imagebuilder.Code) int {
	status := statusOf(code)
	switch code {
	case imagebuilder.CodeMalformed:
		status = http.StatusBadRequest
	case imagebuilder.CodeUnsupportedDistro, imagebuilder.CodeUnsupportedVersion, imagebuilder.CodeUnsupportedTarget,
		imagebuilder.CodeUnsupportedProfile, imagebuilder.CodeAmbiguousProfile:
		status = http.StatusPreconditionFailed
	case imagebuilder.CodePackageMissing:
		status = http.StatusUnprocessableEntity
	case imagebuilder.CodeImageTooBig:
		status = http.StatusRequestEntityTooLarge
	case imagebuilder.CodeNoImage:
		status = http.StatusNotImplemented
	case imagebuilder.CodePackageConflict, imagebuilder.CodePackageSelect, imagebuilder.CodePackageVersion:
		if f == form2019 {
			status = http.StatusConflict
		}
	}
	if f == form2017 && status > http.StatusNotFound && status < http.StatusInternalServerError {
		status = http.StatusBadRequest
	}
	if f == form2017 && status == http.StatusNotImplemented {
		status = http.StatusInternalServerError
	}
	return status
}

// legacyError answers what is refused before there is a build.
func (s *Server) legacyError(w http.ResponseWriter, r *http.Request, f form, err error) {
	e := imagebuilder.AsError(err)
	s.writeLegacyError(w, r, legacyStatus(f, e.Code), err)
}

func (s *Server) writeLegacyError(w http.ResponseWriter, r *http.Request, status int, err error) {
	e := imagebuilder.AsError(err)
	if r.Context().Err() != nil {
		return // nobody is there to be told
	}
	switch {
	case status == http.StatusInternalServerError:
		s.log.Error().Err(err).Str("path", r.URL.Path).Str("code", string(e.Code)).Msg("request failed")
	case e.Err != nil:
		s.log.Info().Err(err).Str("path", r.URL.Path).Str("code", string(e.Code)).Msg("request refused")
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "30")
	}
	if status == http.StatusUnprocessableEntity {
		setLegacyUnknown(w.Header(), e.Unknown, e.Detail)
	}
	writeJSON(w, status, jsonBody(legacyFailure{Error: e.Detail, errorReply: errorReply{
		Status: status, Detail: e.Detail, Code: e.Code, Unknown: e.Unknown, Nearest: e.Nearest, Problems: e.Problems, Repairs: e.Repairs,
	}}))
}

// setLegacyUnknown fills X-Unknown-Package as then. auc crashes without it.
func setLegacyUnknown(h http.Header, names []string, detail string) {
	setUnknownPackages(h, names)
	if list := h.Get("X-Unknown-Package"); list != "" {
		h.Set("X-Unknown-Package", strings.ReplaceAll(list, " ", ", "))
		return
	}
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, detail)
	h.Set("X-Unknown-Package", plain[:min(len(plain), maxUnknownHeader)])
}

// missingParam answers a body that lacks a member.
func (s *Server) missingParam(w http.ResponseWriter, r *http.Request, f form, name string) {
	status := http.StatusPreconditionFailed
	if f == form2017 {
		status = http.StatusBadRequest
	}
	w.Header().Set("X-Missing-Param", name)
	s.writeLegacyError(w, r, status, imagebuilder.Errorf(imagebuilder.CodeMalformed, "The request lacks %s.", name))
}

// readyWithin is how long a client is told that things are being made ready
// for it, before it is told that upstream is at fault.
const readyWithin = 2 * time.Minute

// legacyUnready answers, for a while, that what is needed of upstream is on its
// way: the clients of then wait for it. It is false for other errors, and when
// it has taken too long.
func (s *Server) legacyUnready(w http.ResponseWriter, q *legacyRequest, err error) bool {
	if imagebuilder.AsError(err).Code != imagebuilder.CodeUpstreamUnavailable {
		return false
	}
	key, now := sha256.Sum256([]byte(q.distro+" "+q.version+" "+q.target)), s.o.Now()
	since, waiting := s.legacy.unready.Get(key)
	if !waiting || now.Sub(since) > 10*readyWithin || now.Before(since) {
		since = now
		s.legacy.unready.Add(key, since)
	}
	if now.Sub(since) > readyWithin {
		return false
	}
	if q.form == form2017 {
		writeJSON(w, http.StatusCreated, []byte("{}"))
		return true
	}
	w.Header().Set("X-Imagebuilder-Status", "initialize")
	writeJSON(w, http.StatusAccepted, []byte("{}"))
	return true
}

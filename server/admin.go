package server

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
	"attendant/store/images"
)

// Operator is what the operator can see and do beside the server's own work.
type Operator interface {
	// Sync has upstream asked anew for all data in use, and the replacement
	// tables read. It returns how many of upstream's documents are asked for,
	// and does not wait for them.
	Sync() int
	// Distributions are those that this server offers, the first one first.
	Distributions() []DistributionState
	// Documents tells how old upstream's data is, part by part.
	Documents() []DocumentState
	// TableErrors are what is wrong with the operator's replacement tables.
	TableErrors() []TableError
	// Policies are the operator's, as the configuration writes them.
	Policies() any
}

// DistributionState is a distribution that is offered.
type DistributionState struct {
	Name         string   `json:"name"`
	Aliases      []string `json:"aliases,omitempty"`
	URL          string   `json:"url"`
	Replacements string   `json:"replacements"` // whose tables apply
	TrustedKeys  int      `json:"trusted_keys"`
	Feeds        []string `json:"feeds,omitempty"` // that every image gets, by name
	Latest       []string `json:"latest"`
}

// DocumentState is how one part of a distribution's upstream data is held.
type DocumentState struct {
	Distro     string    `json:"distro"`
	Name       string    `json:"name"`
	Checked    time.Time `json:"checked,omitzero"` // when upstream last confirmed it
	AgeSeconds int64     `json:"age_seconds"`      // since then; 0 where it never did
	Stale      bool      `json:"stale"`
	Absent     bool      `json:"absent,omitempty"` // upstream has no such document, and never had
	Used       time.Time `json:"used,omitzero"`    // when somebody last asked for it
	Bytes      int64     `json:"bytes"`            // on disk
	Detail     string    `json:"detail,omitempty"`
}

// TableError is something wrong with a replacement table.
type TableError struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"` // from 1; 0 is the whole file
	Text   string `json:"text,omitempty"` // the line
	Detail string `json:"detail"`
}

// Bounds of the operator's view.
const (
	maxAdminPinned    = 500
	maxAdminImages    = 200 // the last used ones
	maxAdminDocuments = 1000
	maxAdminErrors    = 200
	maxAdminDetail    = 500 // bytes
)

// adminPath begins the operator's addresses.
const adminPath = "/api/v1/admin/"

// isAdminPath tells whether a path, folded or not, leads to the operator's
// addresses or page.
func isAdminPath(path string) bool {
	return strings.Contains(path, "admin") && strings.Contains(foldSlashes(path)+"/", "/admin/")
}

type (
	adminDone struct {
		Status    int    `json:"status"`
		Detail    string `json:"detail"`
		Documents *int   `json:"documents,omitempty"`
		ImagesOf  string `json:"images_of,omitempty"` // whose images the order was about, if another's
	}
	adminImage struct {
		Hash        string    `json:"hash"`
		Version     string    `json:"version,omitempty"`
		Target      string    `json:"target,omitempty"`
		Profile     string    `json:"profile,omitempty"`
		Bytes       int64     `json:"bytes"`
		Finished    time.Time `json:"finished,omitzero"`
		AgeSeconds  int64     `json:"age_seconds"`
		IdleSeconds int64     `json:"idle_seconds"` // since the last use
		Pinned      bool      `json:"pinned"`
		Secret      bool      `json:"secret,omitempty"` // with a first-boot script: cannot be pinned
	}
	adminState struct {
		Status        int                 `json:"status"`
		Version       string              `json:"version"`
		Jobs          []ControlJob        `json:"jobs"`
		Images        []adminImage        `json:"images"` // the last used ones
		ImageCount    int                 `json:"image_count"`
		ImageBytes    int64               `json:"image_bytes"`
		Pinned        []adminImage        `json:"pinned"`
		PinnedBytes   int64               `json:"pinned_bytes"`
		ImageBudget   int64               `json:"image_budget"`
		Replacements  []TableError        `json:"replacements"` // what is wrong
		Policies      any                 `json:"policies"`
		Distributions []DistributionState `json:"distributions"`
		Documents     []DocumentState     `json:"documents"`
		Warnings      []Warning           `json:"warnings"`
	}
)

// administer registers the operator's addresses.
func (s *Server) administer(r *httprouter.Router) {
	post := func(path string, h httprouter.Handle) { r.POST(adminPath+path, s.operatorOnly(h)) }
	post("cancel/:hash", s.adminJob(s.cancelJob))
	post("pin/:hash", s.adminJob(s.pinImages))
	post("unpin/:hash", s.adminJob(s.unpinImages))
	post("evict/:hash", s.adminJob(s.evictImages))
	post("sync", s.adminSync)
	r.GET(adminPath+"state", s.operatorOnly(s.adminState))
}

// operatorOnly lets those through who have the operator's token, and nobody
// who comes from a page of another server.
func (s *Server) operatorOnly(next httprouter.Handle) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
		w.Header().Set("Cache-Control", "no-store")
		if s.guard == nil {
			s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeNotFound,
				"This server is not administered over HTTP. Its operator can switch that on with the setting admin_token_file."))
			return
		}
		if err := s.sameOrigin(r); err != nil {
			s.writeError(w, r, err)
			return
		}
		token, ok := bearerToken(r)
		if !ok {
			s.refuseToken(w, r, imagebuilder.Errorf(imagebuilder.CodeUnauthorized,
				"This is for the server's operator: send the header \"Authorization: Bearer TOKEN\" with the token of admin_token_file."))
			return
		}
		switch err := s.guard.check(r.Context(), token); {
		case err == nil:
			next(w, r, ps)
		case errors.Is(err, errTooManyTries):
			w.Header().Set("Retry-After", strconv.Itoa(int(tryPause/time.Second)))
			writeJSON(w, http.StatusTooManyRequests, jsonBody(errorReply{
				Status: http.StatusTooManyRequests, Code: imagebuilder.CodeBusy,
				Detail: "There were too many tries with a wrong token. Please try again in a few seconds, or use the commands on the server itself.",
			}))
		case errors.Is(err, errWrongToken):
			if n := s.guard.tries(); n == 1 || n%100 == 0 {
				s.log.Warn().Str("from", r.RemoteAddr).Int("tries", n).Msg("somebody tried to administer this server with a wrong token")
			}
			s.refuseToken(w, r, imagebuilder.Errorf(imagebuilder.CodeUnauthorized, "The token is not this server's. The right one is in the file that admin_token_file names."))
		}
	}
}

func (s *Server) refuseToken(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="attendant"`)
	s.writeError(w, r, err)
}

// bearerToken reads the Authorization header (RFC 6750, section 2.1).
func bearerToken(r *http.Request) (string, bool) {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, found && strings.EqualFold(scheme, "Bearer") && token != ""
}

// sameOrigin refuses what a browser sends for a page of another server. A
// client that is no browser says nothing of an origin.
func (s *Server) sameOrigin(r *http.Request) error {
	refused := imagebuilder.Errorf(imagebuilder.CodeForbidden,
		"The operator's addresses answer only to this server's own pages and to programs. If this is a page of this server, which stands behind a proxy: set public_url to the address in the browser.")
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return refused
	}
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return nil
	}
	origin, err := url.Parse(origins[0])
	if err != nil || len(origins) > 1 || origin.Host == "" {
		return refused // "null" is a page that hides where it is from
	}
	if strings.EqualFold(origin.Host, r.Host) {
		return nil
	}
	if public, err := url.Parse(s.o.PublicURL); err == nil && strings.EqualFold(origin.Host, public.Host) && origin.Scheme == public.Scheme {
		return nil
	}
	return refused
}

// adminJob does something with a request hash.
func (s *Server) adminJob(do order) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
		done, err := do(ps.ByName("hash"))
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, jsonBody(done))
	}
}

func (s *Server) adminSync(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
	n := 0
	if s.o.Operator != nil {
		n = s.o.Operator.Sync()
	}
	writeJSON(w, http.StatusAccepted, jsonBody(adminDone{
		Status: http.StatusAccepted, Documents: &n,
		Detail: "Upstream is being asked for its news. The state tells how old each document is.",
	}))
}

// images says of kept sets what they are for.
func (s *Server) images(sets []images.KeptSet) []adminImage {
	list := make([]adminImage, 0, len(sets))
	for _, set := range sets {
		one := adminImage{
			Hash: set.Hash, Bytes: set.Bytes, AgeSeconds: int64(set.Age / time.Second), IdleSeconds: int64(set.Idle / time.Second),
			Pinned: set.Pinned, Secret: set.Secret,
		}
		if past, ok := s.o.Queue.Summary(set.Hash); ok {
			one.Version, one.Target, one.Profile, one.Finished = past.Version, past.Target, past.Profile, past.FinishedAt
		}
		list = append(list, one)
	}
	return list
}

func (s *Server) adminState(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
	usage := s.o.Images.Usage()
	state := adminState{
		Status: http.StatusOK, Version: s.o.Version, Jobs: s.jobs(),
		Images: s.images(s.o.Images.Kept(maxAdminImages)), ImageCount: usage.Sets, ImageBytes: usage.Used,
		PinnedBytes: usage.Pinned, ImageBudget: usage.Budget,
		Replacements: []TableError{}, Policies: []any{}, Distributions: []DistributionState{}, Documents: []DocumentState{}, Warnings: []Warning{},
	}
	pinned := s.o.Images.Pinned()
	state.Pinned = s.images(pinned[:min(len(pinned), maxAdminPinned)])
	if around := s.o.Surroundings; around != nil {
		state.Warnings = nonNil(around.Warnings())
	}
	if op := s.o.Operator; op != nil {
		state.Policies, state.Distributions = op.Policies(), nonNil(op.Distributions())
		documents, wrong := op.Documents(), op.TableErrors()
		for _, d := range documents[:min(len(documents), maxAdminDocuments)] {
			if !d.Checked.IsZero() {
				d.AgeSeconds = max(0, int64(s.o.Now().Sub(d.Checked)/time.Second))
			}
			d.Detail = cut(d.Detail, maxAdminDetail)
			state.Documents = append(state.Documents, d)
		}
		for _, e := range wrong[:min(len(wrong), maxAdminErrors)] {
			e.Text, e.Detail = cut(e.Text, maxAdminDetail), cut(e.Detail, maxAdminDetail)
			state.Replacements = append(state.Replacements, e)
		}
	}
	writeJSON(w, http.StatusOK, jsonBody(state))
}

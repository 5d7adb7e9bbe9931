package server

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// overviewReply is /json/v1/overview.json; what reads which field:
// contract "What the clients need", section 3.1.
type overviewReply struct {
	Latest      []string          `json:"latest"`
	Branches    map[string]Branch `json:"branches"`
	UpstreamURL string            `json:"upstream_url"`
	Upstream    upstreamReply     `json:"upstream"`
	Server      serverReply       `json:"server"`
}

type upstreamReply struct {
	Checked    time.Time `json:"checked,omitzero"`
	AgeSeconds int64     `json:"age_seconds"`
	Stale      bool      `json:"stale"`
}

type serverReply struct {
	Version               string   `json:"version"`
	Contact               string   `json:"contact"`
	AllowDefaults         bool     `json:"allow_defaults"`
	RepositoryAllowList   []string `json:"repository_allow_list"`
	MaxCustomRootfsSizeMB int      `json:"max_custom_rootfs_size_mb"`
	MaxDefaultsLength     int      `json:"max_defaults_length"`
}

func (s *Server) overview(w http.ResponseWriter, r *http.Request) {
	o, err := s.catalogue(r).Overview(r.Context())
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	branches := make(map[string]Branch, len(o.Branches))
	for _, b := range o.Branches {
		branches[b.Name] = b
	}
	reply := overviewReply{
		Latest:      nonNil(o.Latest),
		Branches:    branches,
		UpstreamURL: s.upstreamURL(r, o),
		Upstream:    upstreamReply{Checked: o.Checked, Stale: o.Stale},
		Server: serverReply{
			Version:               s.o.Version,
			Contact:               s.o.Contact,
			AllowDefaults:         s.o.AllowDefaults,
			RepositoryAllowList:   nonNil(s.o.RepositoryAllowList),
			MaxCustomRootfsSizeMB: s.o.Limits.MaxRootfsSizeMB,
			MaxDefaultsLength:     s.o.Limits.MaxDefaultsLength,
		},
	}
	if !o.Checked.IsZero() {
		reply.Upstream.AgeSeconds = max(0, int64(s.o.Now().Sub(o.Checked)/time.Second))
	}
	writeJSON(w, http.StatusOK, jsonBody(reply))
}

var plainHost = regexp.MustCompile(`^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// upstreamURL is where the asking router finds the release's files. Where this
// server hands them out itself, that is the address the router already uses.
func (s *Server) upstreamURL(r *http.Request, o *Overview) string {
	if s.o.UpstreamTree == nil {
		return strings.TrimRight(o.UpstreamURL, "/")
	}
	if s.o.PublicURL != "" {
		return strings.TrimRight(s.o.PublicURL, "/") + upstreamTreePath
	}
	if plainHost.MatchString(r.Host) {
		return "http://" + r.Host + upstreamTreePath
	}
	return strings.TrimRight(o.UpstreamURL, "/")
}

func (s *Server) branches(w http.ResponseWriter, r *http.Request) {
	o, err := s.catalogue(r).Overview(r.Context())
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(nonNil(o.Branches)))
}

func (s *Server) latest(w http.ResponseWriter, r *http.Request) {
	o, err := s.catalogue(r).Overview(r.Context())
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(struct {
		Latest []string `json:"latest"`
	}{nonNil(o.Latest)}))
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// jsonV1 serves all below /json/v1/: the router cannot put overview.json beside
// a path of unknown depth.
func (s *Server) jsonV1(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	p := strings.TrimPrefix(ps.ByName("path"), "/")
	switch p {
	case "overview.json":
		s.overview(w, r)
		return
	case "branches.json":
		s.branches(w, r)
		return
	case "latest.json":
		s.latest(w, r)
		return
	}
	if path, target, file, ok := splitTargetPath(p); ok {
		s.targetDocument(w, r, path, target, file)
		return
	}
	if path, arch, ok := splitArchPath(p); ok {
		body, err := s.catalogue(r).ArchIndex(r.Context(), path, arch)
		if err != nil {
			s.writeMetadataError(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, body)
		return
	}
	s.notFound(w, r)
}

func (s *Server) targetDocument(w http.ResponseWriter, r *http.Request, path, target, file string) {
	var body []byte
	var err error
	if file == "index" {
		body, err = s.catalogue(r).TargetIndex(r.Context(), path, target)
	} else {
		body, err = s.catalogue(r).Profile(r.Context(), path, target, file)
		// auc asks every release of a branch for its device. One that does
		// not have it answers {}, as asu does: the release is not offered.
		if e := imagebuilder.AsError(err); err != nil && e.Code == imagebuilder.CodeUnsupportedProfile {
			body, err = []byte("{}"), nil
		}
	}
	if err != nil {
		s.writeMetadataError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, body)
}

// writeMetadataError answers for a document: what is not there is 404, where a
// build request would be told 400.
func (s *Server) writeMetadataError(w http.ResponseWriter, r *http.Request, err error) {
	e := *imagebuilder.AsError(err)
	if statusOf(e.Code) == http.StatusBadRequest {
		e.Code = imagebuilder.CodeNotFound
	}
	s.writeError(w, r, &e)
}

// splitTargetPath takes "releases/24.10.4/targets/ath79/generic/x.json" apart.
func splitTargetPath(p string) (path, target, file string, ok bool) {
	path, rest, found := strings.Cut(p, "/targets/")
	parts := strings.Split(rest, "/")
	if !found || len(parts) != 3 {
		return "", "", "", false
	}
	file, isJSON := strings.CutSuffix(parts[2], ".json")
	target = parts[0] + "/" + parts[1]
	if !isJSON || !validPath(path) || !imagebuilder.ValidTarget(target) || !imagebuilder.ValidProfileName(file) {
		return "", "", "", false
	}
	return path, target, file, true
}

// splitArchPath takes "releases/24.10.4/packages/mips_24kc-index.json" apart.
func splitArchPath(p string) (path, arch string, ok bool) {
	path, rest, found := strings.Cut(p, "/packages/")
	arch, isIndex := strings.CutSuffix(rest, "-index.json")
	if !found || !isIndex || !validPath(path) || !imagebuilder.ValidArch(arch) {
		return "", "", false
	}
	return path, arch, true
}

// validPath tells whether p can be a release's folder: "snapshots",
// "releases/24.10.4".
func validPath(p string) bool {
	segments := strings.Split(p, "/")
	if len(segments) > 4 {
		return false
	}
	for _, segment := range segments {
		if !imagebuilder.ValidVersion(segment) {
			return false
		}
	}
	return true
}

func (s *Server) revision(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	version, target := ps.ByName("version"), ps.ByName("target")+"/"+ps.ByName("subtarget")
	// LuCI asks for it before it asks for an image, takes the revision out of
	// whatever comes, and shows a script's error when there is none. With an
	// empty one it goes on to the request, whose answer it shows.
	unknown := errorReply{Revision: new(string)}
	if !imagebuilder.ValidVersion(version) || !imagebuilder.ValidTarget(target) {
		s.writeErrorReply(w, r, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported version: %.100s", version), unknown)
		return
	}
	revision, err := s.catalogue(r).Revision(r.Context(), version, target)
	if err != nil {
		e := *imagebuilder.AsError(err)
		if e.Code == imagebuilder.CodeUnsupportedVersion {
			e.Detail = "Unsupported version: " + version
		}
		s.writeErrorReply(w, r, &e, unknown)
		return
	}
	body, _ := json.Marshal(map[string]string{"revision": revision}) // strings always marshal
	writeJSON(w, http.StatusOK, body)
}

package server

import (
	"encoding/json"
	"net/http"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
	"attendant/server/web"
)

// pages registers the web page, which asks api for all that it shows.
func (s *Server) pages(r *httprouter.Router, api http.Handler) {
	site := web.New(web.Options{
		API:     api,
		Admin:   s.guard != nil,
		Version: s.o.Version, PublicURL: s.o.PublicURL, Now: s.o.Now,
		Prefix: func(r *http.Request) string {
			if name := distributionName(r); name != "" {
				return distributionPath + name
			}
			return ""
		},
		Build: func(hash string) (web.Build, bool) {
			status, ok := s.o.Queue.Lookup(hash)
			return web.Build{
				Job: status.Job, Position: status.Position, Wait: status.Wait,
				Stage: status.Stage, Done: status.Done, Total: status.Total,
			}, ok
		},
	})
	for _, route := range site.Routes() {
		handle := func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
			parameter := ""
			if len(ps) > 0 {
				parameter = ps[0].Value
			}
			route.Handle(w, r, parameter)
		}
		r.Handle(route.Method, route.Path, handle)
		if route.Method == http.MethodGet {
			r.HEAD(route.Path, handle)
		}
	}
	r.HandlerFunc(http.MethodPost, "/api/v1/recognize", s.recognize)
}

// recognize tells what a text says of a router: the output of `ubus call
// system board`, package lists and the like, as web.Recognize knows them. The
// body is {"text": …}.
func (s *Server) recognize(w http.ResponseWriter, r *http.Request) {
	body, err := s.readBody(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	var asked struct{ Text string }
	if err := json.Unmarshal(body, &asked); err != nil {
		s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeMalformed, `The request is not a JSON object with "text".`))
		return
	}
	said := web.Recognize(asked.Text)
	if said.Empty() {
		s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeMalformed,
			"Nothing in this text was recognised. Paste what the router prints for \"ubus call system board\", and below it what it prints for \"opkg list-installed\" or \"apk list -I\"."))
		return
	}
	said.Profile = s.profileOf(r, said)
	writeJSON(w, http.StatusOK, jsonBody(struct {
		Status int `json:"status"`
		web.Said
	}{http.StatusOK, said}))
}

// profileOf finds the id of the board's profile in the installed release or,
// where that is not offered, in a newer one.
func (s *Server) profileOf(r *http.Request, said web.Said) string {
	if said.BoardName == "" || said.Target == "" {
		return ""
	}
	versions := []string{said.Version}
	if o, err := s.catalogue(r).Overview(r.Context()); err == nil {
		versions = append(versions, o.Latest...)
	}
	for _, version := range versions {
		request := imagebuilder.Request{Distro: imagebuilder.DefaultDistro, Version: version, Target: said.Target, Profile: said.BoardName}
		if resolved, _, err := s.catalogue(r).Resolve(r.Context(), request); err == nil {
			return resolved.Profile
		}
	}
	return ""
}

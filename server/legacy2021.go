package server

import (
	"net/http"

	"attendant/imagebuilder"
)

// from2021 is what the packages of LuCI's app of 2021 come from: it asks for
// the upgrade of a router on 19.07, and on what was a candidate for 21.02.
const from2021 = "19.07.0"

// build2021 is postBuild for LuCI's app of 2021, which is in the feeds of 19.07
// to this day: a request of today from a router that may call its target and
// itself as they were called then.
func (s *Server) build2021(w http.ResponseWriter, r *http.Request) {
	s.o.Statistics.CountRequest()
	body, err := s.readBody(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	status, err := s.submit2021(r, body)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	s.writeStatus(w, r, status)
}

func (s *Server) submit2021(r *http.Request, body []byte) (queueStatus, error) {
	request, err := decodeRequest(body)
	if err != nil {
		return queueStatus{}, err
	}
	if request.Distro == "" {
		request.Distro = distributionName(r)
	}
	if request.FromVersion == "" && request.Distro == imagebuilder.DefaultDistro {
		request.FromVersion = from2021
	}
	a, err := s.askedFor(request)
	if err != nil {
		return queueStatus{}, err
	}
	status, err := s.submit(r, a)
	if err == nil {
		return status, nil
	}
	if code := imagebuilder.AsError(err).Code; code != imagebuilder.CodeUnsupportedTarget && code != imagebuilder.CodeUnsupportedProfile {
		return queueStatus{}, err
	}
	c, err := s.distribution(r, request.Distro)
	if err != nil {
		return queueStatus{}, err
	}
	at, err := c.Locate(r.Context(), a.request.Version, a.request.Target, request.Profile)
	if err != nil {
		return queueStatus{}, err
	}
	request.Target, request.Profile = at.Target, at.Profile
	if a, err = s.askedFor(request); err != nil {
		return queueStatus{}, err
	}
	return s.submit(r, a)
}

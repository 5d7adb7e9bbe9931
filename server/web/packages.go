package web

import (
	"net/http"
	"net/url"
	"strconv"

	"attendant/imagebuilder"
)

// packagesPage is the search among the packages of a release and target.
type packagesPage struct {
	Version, Target, Query string
	Found                  []packageFound
	Total                  int
	More                   string
	Unknown                bool // the list cannot be had
}

func (s *Site) packages(w http.ResponseWriter, r *http.Request, _ string) {
	ctx, cancel := s.within(r)
	defer cancel()
	q := r.URL.Query()
	d := &packagesPage{Version: q.Get("version"), Target: q.Get("target"), Query: q.Get("q")}
	if !imagebuilder.ValidVersion(d.Version) || !imagebuilder.ValidTarget(d.Target) {
		s.failed(w, r, "start", &apiError{Status: http.StatusNotFound, Code: imagebuilder.CodeUnsupportedTarget,
			Detail: "The address names no release and target. Begin with the device's name."})
		return
	}
	offset, err := strconv.Atoi(q.Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	ask := url.Values{"version": {d.Version}, "target": {d.Target}, "q": {d.Query}}
	p := s.newPage(r, "start", "/packages?"+ask.Encode())
	p.Title, p.Data = p.T("packages.title"), d
	limit := "50"
	part := q.Get("part")
	if part == "found" {
		limit = "12"
	} else {
		part = ""
	}
	ask.Set("limit", limit)
	ask.Set("offset", strconv.Itoa(offset))
	var list packageList
	if err := s.get(ctx, r, "/api/v1/packages?"+ask.Encode(), &list); err != nil {
		d.Unknown = true
	}
	d.Found, d.Total = list.Packages, list.Total
	if next := offset + len(list.Packages); len(list.Packages) > 0 && next < list.Total {
		ask.Del("limit")
		ask.Set("offset", strconv.Itoa(next))
		d.More = p.Link("/packages?" + ask.Encode())
	}
	s.show(w, r, http.StatusOK, "packages", part, p)
}

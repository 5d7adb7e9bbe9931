package server

import (
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

type healthReply struct {
	Status          int      `json:"status"`
	Detail          string   `json:"detail"`
	State           string   `json:"state"`
	Problems        []string `json:"problems"`
	Queued          int      `json:"queued"`
	Building        int      `json:"building"`
	UpstreamAge     int64    `json:"upstream_age_seconds"`
	UpstreamStale   bool     `json:"upstream_stale"`
	ImagesBytes     int64    `json:"images_bytes"`
	ImagesBudget    int64    `json:"images_budget_bytes"`
	DefaultsAllowed bool     `json:"allow_defaults"`
}

func (s *Server) queueLength() int {
	waiting, _ := s.o.Queue.Length()
	return waiting
}

// health tells a monitor, or a systemd unit, whether the server can do its
// work: it has something to offer and a working database.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	waiting, building := s.o.Queue.Length()
	usage := s.o.Images.Usage()
	reply := healthReply{
		Status: http.StatusOK, State: "ok", Detail: "All is well.", Problems: []string{},
		Queued: waiting, Building: building,
		ImagesBytes: usage.Used, ImagesBudget: usage.Budget,
		DefaultsAllowed: s.o.AllowDefaults,
	}
	o, err := s.catalogue(r).Overview(r.Context())
	switch {
	case err != nil:
		reply.Problems = append(reply.Problems, "Nothing is known of upstream yet: no image can be requested.")
	default:
		reply.UpstreamStale = o.Stale
		if !o.Checked.IsZero() {
			reply.UpstreamAge = max(0, int64(s.o.Now().Sub(o.Checked)/time.Second))
		}
	}
	if err := s.o.Database.Answers(); err != nil {
		s.log.Error().Err(err).Msg("the database does not answer")
		reply.Problems = append(reply.Problems, "The database does not answer: nothing can be accepted.")
	}
	if len(reply.Problems) > 0 {
		reply.Status, reply.State, reply.Detail = http.StatusServiceUnavailable, "failing", strings.Join(reply.Problems, " ")
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	writeJSON(w, reply.Status, jsonBody(reply))
}

var homeTemplate = template.Must(template.New("home").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>attendant</title>
<h1>attendant</h1>
<p>This server builds OpenWrt images with exactly the packages that a router has.
Point LuCI's <em>Attended Sysupgrade</em>, owut, auc or the firmware selector at this address.</p>
<p>{{if .Latest}}It offers {{.Latest}} and others.{{else}}It does not know yet what it can offer.{{end}}{{with .Contact}} Questions: {{.}}.{{end}}</p>
<ul><li><a href="/docs">The API</a><li><a href="/json/v1/overview.json">What can be built</a><li><a href="/healthz">How the server is</a></ul>
`))

func (s *Server) home(w http.ResponseWriter, r *http.Request) {
	data := struct{ Latest, Contact string }{Contact: s.o.Contact}
	if o, err := s.catalogue(r).Overview(r.Context()); err == nil {
		data.Latest = strings.Join(o.Latest, ", ")
	}
	var page strings.Builder
	if err := homeTemplate.Execute(&page, data); err != nil {
		s.writeError(w, r, err)
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	writeBody(w, http.StatusOK, "text/html; charset=utf-8", []byte(page.String()))
}

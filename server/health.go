package server

import (
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

package server

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"attendant/imagebuilder"
)

// Statistics is what was asked for and built. The replies have the form of
// openwrt/asu asu/routers/stats.py, which other programs draw.
type Statistics interface {
	// CountRequest counts a call of the build API, valid or not; CountHit one
	// that a finished build answered and the time that building anew would
	// have taken, CountMiss one that led to a new build.
	CountRequest()
	CountHit(saved time.Duration)
	CountMiss()
	// Days returns the last n days, oldest first, today last.
	Days(n int) []DayCounts
	// BuildsLastDay is the number of successful builds in the last 24 hours.
	BuildsLastDay() int64
	// WeeklyBuilds returns the builds of each version in the last n weeks,
	// oldest first, and the weeks' first days.
	WeeklyBuilds(n int) (starts []time.Time, byVersion map[string][]int64)
	// TopPackages returns the n packages built in most often, over all
	// branches or one.
	TopPackages(branch string, n int) []PackageCount
	// BuildErrors returns the last n failures, newest first, a line each.
	BuildErrors(n int) ([]string, error)
}

// DayCounts is one day (UTC) of builds.
type DayCounts struct {
	Date                                     time.Time
	Requests, CacheHits, Successes, Failures int64
	Saved                                    time.Duration // by cache hits
}

// PackageCount is how often a package was built in.
type PackageCount struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

type chartReply struct {
	Labels   []string  `json:"labels"`
	Datasets []dataset `json:"datasets"`
}

type dataset struct {
	Label string  `json:"label"`
	Data  []int64 `json:"data"`
	Color string  `json:"color,omitempty"`
}

// Spans that the statistics cover.
const (
	statDays       = 30
	statWeeks      = 26
	maxTopPackages = 100
	maxBuildErrors = 500
)

func dayLabel(t time.Time) string { return t.UTC().Format("2006-01-02") + "Z" }

func (s *Server) stats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, jsonBody(map[string]int{"queue_length": s.queueLength()}))
}

func (s *Server) statsSummary(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, jsonBody(map[string]int64{
		"queue_length": int64(s.queueLength()),
		"builds_24h":   s.o.Statistics.BuildsLastDay(),
	}))
}

func (s *Server) buildsPerDay(w http.ResponseWriter, _ *http.Request) {
	days := s.o.Statistics.Days(statDays)
	reply := chartReply{Labels: make([]string, len(days))}
	requests, hits, failures := make([]int64, len(days)), make([]int64, len(days)), make([]int64, len(days))
	for i, d := range days {
		reply.Labels[i] = dayLabel(d.Date)
		requests[i], hits[i], failures[i] = d.Requests, d.CacheHits, d.Failures
	}
	reply.Datasets = []dataset{
		{Label: "Requests", Data: requests, Color: "green"},
		{Label: "Cache-Hits", Data: hits, Color: "orange"},
		{Label: "Failures", Data: failures, Color: "red"},
	}
	writeJSON(w, http.StatusOK, jsonBody(reply))
}

func (s *Server) buildsByVersion(w http.ResponseWriter, r *http.Request) {
	branch := r.URL.Query().Get("branch")
	starts, byVersion := s.o.Statistics.WeeklyBuilds(statWeeks)
	sums := map[string][]int64{}
	for version, counts := range byVersion {
		label := version
		if branch != "" && imagebuilder.Branch(version) != branch {
			continue
		}
		if branch == "" {
			label = imagebuilder.Branch(version)
		}
		if sums[label] == nil {
			sums[label] = make([]int64, len(starts))
		}
		for i, n := range counts {
			sums[label][i] += n
		}
	}
	reply := chartReply{Labels: make([]string, len(starts)), Datasets: []dataset{}}
	for i, t := range starts {
		reply.Labels[i] = dayLabel(t)
	}
	for label, data := range sums {
		reply.Datasets = append(reply.Datasets, dataset{Label: label, Data: data})
	}
	slices.SortFunc(reply.Datasets, func(a, b dataset) int { return strings.Compare(a.Label, b.Label) })
	writeJSON(w, http.StatusOK, jsonBody(reply))
}

// count reads ?n=, between 1 and limit; anything else is byDefault.
func count(r *http.Request, byDefault, limit int) int {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 {
		return byDefault
	}
	return min(n, limit)
}

func (s *Server) topPackages(w http.ResponseWriter, r *http.Request) {
	var branch *string
	name := r.URL.Query().Get("branch")
	if name != "" {
		branch = &name
	}
	writeJSON(w, http.StatusOK, jsonBody(struct {
		Packages []PackageCount `json:"packages"`
		Branch   *string        `json:"branch"`
		Days     int            `json:"days"`
	}{nonNil(s.o.Statistics.TopPackages(name, count(r, 30, maxTopPackages))), branch, statDays}))
}

func (s *Server) buildErrors(w http.ResponseWriter, r *http.Request) {
	lines, err := s.o.Statistics.BuildErrors(count(r, 100, maxBuildErrors))
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	text := "No build errors recorded."
	if n := len(lines); n > 0 {
		text = fmt.Sprintf("Build Errors: %d entries\nTime range: %s to %s\n\nRecent errors:\n%s\n%s",
			n, stamp(lines[n-1]), stamp(lines[0]), strings.Repeat("-", 60), strings.Join(lines, "\n"))
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	writeBody(w, http.StatusOK, "text/plain; charset=utf-8", []byte(text))
}

// stamp is the date and time at the start of a line.
func stamp(line string) string {
	const form = "2006-01-02 15:04:05"
	return line[:min(len(form), len(line))]
}

package server

import (
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"attendant/imagebuilder"
	"attendant/queue"
	"attendant/store/images"
)

// Surroundings is what a server tells of the machine and of upstream beside
// its own work. Its methods answer from memory, at once.
type Surroundings interface {
	// Builders tells what the unpacked ImageBuilders take and may take, in
	// bytes.
	Builders() (used, budget int64)
	// DiskTotal is the size of the data folder's file system in bytes; 0 is
	// unknown.
	DiskTotal() int64
	// Upstreams tells how old the data of each distribution is.
	Upstreams() []UpstreamState
	// Warnings are what the operator should look after.
	Warnings() []Warning
}

// UpstreamState is how old the data of a distribution is.
type UpstreamState struct {
	Distro  string
	URL     string
	Checked time.Time // when upstream last confirmed its list of versions; zero for never
	Stale   bool      // that is too long ago
}

// Warning is something that the operator should look after.
type Warning struct {
	Code   string `json:"code"`   // one of the Warn constants
	Detail string `json:"detail"` // what is wrong and what to do
}

// The codes of warnings; pages have texts of their own for them.
const (
	WarnNoSandbox    = "no_sandbox"         // builds have no namespaces of their own
	WarnNoOverlay    = "no_overlay"         // builds must copy their ImageBuilder
	WarnClock        = "clock_wrong"        //
	WarnUplink       = "uplink_gone"        // upstream does not answer, so data is old
	WarnNoKey        = "key_missing"        // no trusted key: signatures are not checked
	WarnDisk         = "disk_nearly_full"   //
	WarnReplacements = "replacements_wrong" // an own replacement table is wrong
	WarnBuilder      = "builder_unusable"   // an ImageBuilder cannot run on this machine, or is not there
	WarnTools        = "tools_missing"      // programs that ImageBuilders need are not there
)

// Bounds of the status reply.
const (
	statusEvery   = time.Second // it is made anew at most so often
	statusJobs    = 50          // of the queue
	statusRecent  = 20
	statusDetail  = 300 // bytes of a sentence about a failed build
	maxWarnings   = 50
	maxWarnDetail = 1000 // bytes
)

type (
	statusReply struct {
		Status        int              `json:"status"`
		Version       string           `json:"version"`
		Started       time.Time        `json:"started"`
		UptimeSeconds int64            `json:"uptime_seconds"`
		Contact       string           `json:"contact"`
		Queue         statusQueue      `json:"queue"`
		Recent        []statusOutcome  `json:"recent"`
		Cache         statusCache      `json:"cache"`
		Builders      statusBudget     `json:"builders"`
		Disk          statusDisk       `json:"disk"`
		Upstream      []statusUpstream `json:"upstream"`
		Warnings      []Warning        `json:"warnings"`
		Days          []statusDay      `json:"days"`
	}
	statusQueue struct {
		Waiting  int         `json:"waiting"`
		Building int         `json:"building"`
		Limit    int         `json:"limit"`
		Workers  int         `json:"workers"`
		Jobs     []statusJob `json:"jobs"` // the first ones
	}
	statusJob struct {
		Hash         string             `json:"hash,omitempty"` // not of a job with a first-boot script
		State        imagebuilder.State `json:"state"`
		Stage        imagebuilder.Stage `json:"stage,omitempty"`
		Position     int                `json:"position,omitempty"`
		ExpectedWait int64              `json:"expected_wait_seconds,omitempty"`
		Version      string             `json:"version"`
		Target       string             `json:"target"`
		Profile      string             `json:"profile"`
	}
	statusOutcome struct {
		Version  string             `json:"version"`
		Target   string             `json:"target"`
		Profile  string             `json:"profile"`
		State    imagebuilder.State `json:"state"`
		Finished time.Time          `json:"finished"`
		Seconds  float64            `json:"seconds"` // from start to end
		Detail   string             `json:"detail,omitempty"`
	}
	statusCache struct {
		Images       int     `json:"images"`
		Used         int64   `json:"used"`   // bytes
		Pinned       int64   `json:"pinned"` // bytes, of used
		Budget       int64   `json:"budget"` // bytes
		Hits         int64   `json:"hits"`
		Requests     int64   `json:"requests"`
		HitRate      float64 `json:"hit_rate"` // hits of requests, 0 to 1
		SecondsSaved int64   `json:"seconds_saved"`
	}
	statusBudget struct {
		Used   int64 `json:"used"`
		Budget int64 `json:"budget"`
	}
	statusDisk struct {
		Free  int64 `json:"free"`  // bytes; -1 is unknown
		Total int64 `json:"total"` // bytes; 0 is unknown
		Floor int64 `json:"floor"` // bytes that builds leave free
	}
	statusUpstream struct {
		Distro     string     `json:"distro"`
		URL        string     `json:"url"`
		Checked    *time.Time `json:"checked"` // null: never
		AgeSeconds int64      `json:"age_seconds"`
		Stale      bool       `json:"stale"`
	}
	statusDay struct {
		Date     string `json:"date"` // UTC
		Requests int64  `json:"requests"`
		Hits     int64  `json:"hits"`
		Builds   int64  `json:"builds"`
		Failures int64  `json:"failures"`
	}
)

// standing is all that a status reply is made of.
type standing struct {
	now, started  time.Time
	queue         queue.Snapshot
	usage         images.Usage
	days          []DayCounts
	buildersUsed  int64
	buildersLimit int64
	diskTotal     int64
	upstreams     []UpstreamState
	warnings      []Warning
}

// reply is the standing as everybody may see it.
func (st *standing) reply() statusReply {
	r := statusReply{
		Status: http.StatusOK, Started: st.started.UTC().Truncate(time.Second), UptimeSeconds: max(0, int64(st.now.Sub(st.started)/time.Second)),
		Queue: statusQueue{
			Waiting: len(st.queue.Waiting), Building: len(st.queue.Building), Limit: st.queue.Limit, Workers: st.queue.Workers, Jobs: []statusJob{},
		},
		Recent:   []statusOutcome{},
		Cache:    statusCache{Images: st.usage.Sets, Used: st.usage.Used, Pinned: st.usage.Pinned, Budget: st.usage.Budget},
		Builders: statusBudget{st.buildersUsed, st.buildersLimit},
		Disk:     statusDisk{Free: st.usage.Free, Total: st.diskTotal, Floor: st.usage.MinFree},
		Upstream: []statusUpstream{}, Warnings: []Warning{}, Days: []statusDay{},
	}
	for _, list := range [][]queue.Status{st.queue.Building, st.queue.Waiting} {
		for _, job := range list[:min(len(list), statusJobs-len(r.Queue.Jobs))] {
			r.Queue.Jobs = append(r.Queue.Jobs, publicJob(job))
		}
	}
	for _, past := range st.queue.Recent[:min(len(st.queue.Recent), statusRecent)] {
		r.Recent = append(r.Recent, publicOutcome(past))
	}
	var saved time.Duration
	for _, d := range st.days {
		r.Days = append(r.Days, statusDay{
			Date: d.Date.UTC().Format(time.DateOnly), Requests: d.Requests, Hits: d.CacheHits, Builds: d.Successes, Failures: d.Failures,
		})
		r.Cache.Hits += d.CacheHits
		r.Cache.Requests += d.Requests
		saved += d.Saved
	}
	r.Cache.SecondsSaved = int64(saved / time.Second)
	if r.Cache.Requests > 0 {
		r.Cache.HitRate = min(1, float64(r.Cache.Hits*1000/r.Cache.Requests)/1000)
	}
	for _, u := range st.upstreams {
		one := statusUpstream{Distro: u.Distro, URL: u.URL, Stale: u.Stale}
		if !u.Checked.IsZero() {
			checked := u.Checked.UTC().Truncate(time.Second)
			one.Checked, one.AgeSeconds = &checked, max(0, int64(st.now.Sub(u.Checked)/time.Second))
		}
		r.Upstream = append(r.Upstream, one)
	}
	for _, w := range st.warnings[:min(len(st.warnings), maxWarnings)] {
		w.Detail = cut(w.Detail, maxWarnDetail)
		r.Warnings = append(r.Warnings, w)
	}
	return r
}

// publicJob leaves out the hash of a job with a first-boot script: who knows
// it can fetch the image, and read the passwords that may be in there.
func publicJob(status queue.Status) statusJob {
	r := status.Job.Request
	job := statusJob{
		State: status.Job.State, Stage: status.Stage, Position: status.Position,
		ExpectedWait: int64((status.Wait + time.Second - 1) / time.Second),
		Version:      r.Version, Target: r.Target, Profile: r.Profile,
	}
	if r.Defaults == nil {
		job.Hash = status.Job.Hash
	}
	return job
}

func publicOutcome(past queue.Summary) statusOutcome {
	o := statusOutcome{
		Version: past.Version, Target: past.Target, Profile: past.Profile, State: past.State,
		Finished: past.FinishedAt.UTC().Truncate(time.Second),
		Detail:   cut(withoutHashes.ReplaceAllLiteralString(past.Detail, "[hash]"), statusDetail),
	}
	if took := past.FinishedAt.Sub(past.StartedAt); !past.StartedAt.IsZero() && took > 0 {
		o.Seconds = took.Round(100 * time.Millisecond).Seconds()
	}
	return o
}

var withoutHashes = regexp.MustCompile(`[0-9a-f]{64,}`)

// cut shortens s to at most n bytes and an ellipsis.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// kept is a reply that all share who ask within statusEvery.
type kept struct {
	body []byte
	made time.Time // monotonic
}

// keptStatus is made by newKeptStatus.
type keptStatus struct {
	last   atomic.Pointer[kept]
	making chan struct{} // holds one while a reply is being made
}

func newKeptStatus() *keptStatus { return &keptStatus{making: make(chan struct{}, 1)} }

// get returns the kept reply, or one that render makes where that is too old.
// While one is being made, others get the old one and do not wait.
func (k *keptStatus) get(render func() []byte) []byte {
	if last := k.last.Load(); last != nil {
		if time.Since(last.made) < statusEvery {
			return last.body
		}
		select {
		case k.making <- struct{}{}:
		default:
			return last.body
		}
	} else {
		k.making <- struct{}{}
	}
	defer func() { <-k.making }()
	if last := k.last.Load(); last != nil && time.Since(last.made) < statusEvery {
		return last.body
	}
	body := render()
	k.last.Store(&kept{body, time.Now()})
	return body
}

// status tells how the server is, for its page and for everybody.
func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	writeJSON(w, http.StatusOK, s.kept.get(func() []byte {
		st := standing{
			now: s.o.Now(), started: s.started, queue: s.o.Queue.Snapshot(), usage: s.o.Images.Usage(), days: s.o.Statistics.Days(statDays),
		}
		if around := s.o.Surroundings; around != nil {
			st.buildersUsed, st.buildersLimit = around.Builders()
			st.diskTotal, st.upstreams, st.warnings = around.DiskTotal(), around.Upstreams(), around.Warnings()
		}
		reply := st.reply()
		reply.Version, reply.Contact = s.o.Version, s.o.Contact
		return jsonBody(reply)
	}))
}

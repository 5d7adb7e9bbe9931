package server

import (
	"context"
	"crypto/sha256"
	"net/http"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
	"attendant/queue"
)

type queueStatus = queue.Status

// postBuild takes a build request. The same request always finds the same
// build, so clients may repeat it as they like; the reply is at once.
func (s *Server) postBuild(w http.ResponseWriter, r *http.Request) {
	s.o.Statistics.CountRequest()
	asked, err := s.readAsked(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	status, err := s.submit(r, asked)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	s.writeStatus(w, r, status)
}

// readAsked reads and checks the build request that is a request's body.
func (s *Server) readAsked(w http.ResponseWriter, r *http.Request) (*asked, error) {
	body, err := s.readBody(w, r)
	if err != nil {
		return nil, err
	}
	return s.read(body, distributionName(r))
}

// submit resolves a request and finds or queues its build. A request that is
// certain to fail is answered as a failed build without being queued.
func (s *Server) submit(r *http.Request, a *asked) (queueStatus, error) {
	c, err := s.distribution(r, a.request.Distro)
	if err != nil {
		return queueStatus{}, err
	}
	resolved, generation, err := c.Resolve(r.Context(), a.request)
	if err != nil {
		return queueStatus{}, err
	}
	final, err := a.final(r.Context(), c, resolved, generation, s.o.Now())
	if err != nil {
		return queueStatus{}, err
	}
	if final.refusal != nil {
		if status, known := s.o.Queue.Lookup(final.hash); known {
			return final.told(status), nil
		}
		return s.o.Queue.Refuse(final.hash, final.request, generation, final.refusal), nil
	}
	content := func() string { return c.Content(r.Context(), final.request, generation) }
	status, err := s.o.Queue.SubmitAlike(r.Context(), final.hash, content, final.request, generation)
	if err != nil {
		return queueStatus{}, err
	}
	switch {
	case status.New:
		s.o.Statistics.CountMiss()
	case status.Job.State == imagebuilder.Done:
		s.o.Statistics.CountHit(s.saved(status.Job))
	}
	return final.told(status), nil
}

// ownBuild is within which time of a build's end a request for it probably
// comes from whom it was built for: clients repeat theirs every few seconds.
const ownBuild = 30 * time.Second

// saved is how much building time a hit on a done job saved.
func (s *Server) saved(job *imagebuilder.Job) time.Duration {
	if age := s.o.Now().Sub(job.FinishedAt); age >= 0 && age < ownBuild {
		return 0
	}
	return s.o.Queue.BuildTime(job)
}

// told is the status with what was done to this very request's packages:
// another one may have come to the same build by other names.
func (f *final) told(status queueStatus) queueStatus {
	if reflect.DeepEqual(status.Job.Request.Changes, f.request.Changes) {
		return status
	}
	job := *status.Job
	job.Request.Changes = f.request.Changes
	status.Job, status.Keep = &job, nil
	return status
}

// asked is a request that has passed every check that depends on the body and
// the configuration alone, with what it last came to.
type asked struct {
	request imagebuilder.Request
	last    atomic.Pointer[final]
}

// final is what is to be built and its hash, with all that it depends on
// besides the body.
type final struct {
	request imagebuilder.Request
	hash    string
	refusal *imagebuilder.Error // why it cannot be built; nil where it can, or may

	catalogue           Catalogue
	profile, generation string
	tables              any
}

// final returns what is to be built for the resolved request.
func (a *asked) final(ctx context.Context, c Catalogue, resolved imagebuilder.Request, g imagebuilder.Generation, now time.Time) (*final, error) {
	tables := c.Tables()
	generation := g.Digest
	if len(resolved.Repositories) > 0 {
		// These feeds are in no generation. What they hold is looked at anew
		// every day: an image with a package that has been mended since then
		// is not what is asked for.
		generation += now.UTC().Format(" feeds of 2006-01-02")
	}
	last := a.last.Load()
	if last != nil && last.catalogue == c && last.profile == resolved.Profile && last.generation == generation && last.tables == tables {
		return last, nil
	}
	request, err := c.Replace(ctx, resolved, g)
	if err != nil {
		return nil, err
	}
	f := &final{request: request, catalogue: c, profile: resolved.Profile, generation: generation, tables: tables}
	f.hash = f.request.Hash(generation)
	f.refusal = c.Impossible(ctx, f.request, g)
	a.last.Store(f)
	return f, nil
}

// Bounds of the memory of requests: clients repeat theirs byte for byte, LuCI
// every five seconds.
const (
	knownRequests    = 128
	knownRequestSize = 32 << 10 // bytes of a body
)

// read decodes and checks a request's body, or recognises one that it has
// checked before. A request that names no distribution means distro.
func (s *Server) read(body []byte, distro string) (*asked, error) {
	h := sha256.New()
	h.Write([]byte(distro))
	h.Write([]byte{0}) // in no name
	h.Write(body)
	key := [sha256.Size]byte(h.Sum(nil))
	if known, ok := s.known.Get(key); ok {
		return known, nil
	}
	request, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	if request.Distro == "" {
		request.Distro = distro
	}
	return s.check(request, key, len(body))
}

// check normalizes and checks a request, and remembers it by its key unless it
// is large.
func (s *Server) check(request imagebuilder.Request, key [sha256.Size]byte, size int) (*asked, error) {
	request = request.Normalize()
	if err := request.Validate(s.o.Limits); err != nil {
		return nil, err
	}
	if err := s.checkPolicy(request); err != nil {
		return nil, err
	}
	a := &asked{request: request}
	if size <= knownRequestSize {
		s.known.Add(key, a)
	}
	return a, nil
}

// getBuild tells how far a build is; HEAD in headers only.
func (s *Server) getBuild(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	status, ok := s.lookup(w, r, ps)
	if ok {
		s.writeStatus(w, r, status)
	}
}

// lookup finds the build of the request's hash, or answers 404.
func (s *Server) lookup(w http.ResponseWriter, r *http.Request, ps httprouter.Params) (queueStatus, bool) {
	hash := ps.ByName("hash")
	if imagebuilder.ValidHash(hash) {
		if status, ok := s.o.Queue.Lookup(hash); ok {
			return status, true
		}
	}
	s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeNotFound,
		"This server knows no build by that request hash: it may have made room for others. Please request the image again."))
	return queueStatus{}, false
}

// pendingReply is a build on its way. queue_position is there only while the
// job is queued, and imagebuilder_status only afterwards: LuCI goes by their
// presence.
type pendingReply struct {
	Status       int                `json:"status"`
	Detail       string             `json:"detail"`
	RequestHash  string             `json:"request_hash"`
	EnqueuedAt   time.Time          `json:"enqueued_at"`
	Position     int                `json:"queue_position,omitempty"`
	IBStatus     string             `json:"imagebuilder_status,omitempty"`
	Stage        imagebuilder.Stage `json:"stage,omitempty"`
	Progress     *progressReply     `json:"progress,omitempty"`
	ExpectedWait int64              `json:"expected_wait_seconds,omitempty"`
	*imagebuilder.Changes
}

type progressReply struct {
	Done  int64 `json:"done"`  // bytes
	Total int64 `json:"total"` // bytes
}

// doneReply is a finished build. What reads which field: contract "What the
// clients need", section 8.
type doneReply struct {
	Status       int                  `json:"status"`
	Detail       string               `json:"detail"`
	IBStatus     string               `json:"imagebuilder_status"`
	RequestHash  string               `json:"request_hash"`
	EnqueuedAt   time.Time            `json:"enqueued_at"`
	BinDir       string               `json:"bin_dir"`
	SharedWith   string               `json:"shared_with,omitempty"` // request hash of the build with the same manifest whose images these are
	BuildAt      string               `json:"build_at"`
	Request      imagebuilder.Request `json:"request"`
	StageSeconds []stageSeconds       `json:"stages"`
	*imagebuilder.Changes
	*imagebuilder.ImageSet
	BuiltAt any `json:"built_at,omitempty"` // hides ImageSet's
}

type stageSeconds struct {
	Stage   imagebuilder.Stage `json:"stage"`
	Seconds float64            `json:"seconds"`
}

// wireStage names a stage in a word that every client knows. LuCI's script
// stops at an unknown one; the oldest LuCI in use knows five.
func wireStage(s imagebuilder.Stage) string {
	switch s {
	case imagebuilder.StageDownload, imagebuilder.StageUnpack:
		return string(s)
	case imagebuilder.StageRevision, imagebuilder.StagePackages, imagebuilder.StageManifest:
		return "calculate_packages_hash"
	case imagebuilder.StageImage, imagebuilder.StageCommit:
		return "building_image"
	}
	return "init"
}

// Values of X-Imagebuilder-Status beside the stages.
const (
	wireQueued = "queued"
	wireDone   = "done"
	wireFailed = "failed"
)

func (s *Server) writeStatus(w http.ResponseWriter, r *http.Request, status queueStatus) {
	code, wire, body := s.renderStatus(status)
	h := w.Header()
	h.Set("X-Imagebuilder-Status", wire)
	h.Set("X-Queue-Position", strconv.Itoa(status.Position))
	if status.Job.Failure != nil {
		setUnknownPackages(h, status.Job.Failure.Unknown)
	}
	writeJSON(w, code, body)
}

// renderStatus returns a build's HTTP status, its word for the header and its
// body. Outcomes do not change, so their bodies are kept.
func (s *Server) renderStatus(status queueStatus) (code int, wire string, body []byte) {
	job := status.Job
	switch job.State {
	case imagebuilder.Done:
		return http.StatusOK, wireDone, outcomeBody(status, renderDone)
	case imagebuilder.Failed:
		return http.StatusInternalServerError, wireFailed, outcomeBody(status, renderFailed)
	}
	p := pendingReply{
		Status:       http.StatusAccepted,
		RequestHash:  job.Hash,
		EnqueuedAt:   job.EnqueuedAt.UTC(),
		ExpectedWait: int64((status.Wait + time.Second - 1) / time.Second),

		Changes: job.Request.Changes,
	}
	if job.State == imagebuilder.Queued {
		p.Detail, p.Position = "queued", status.Position
		return http.StatusAccepted, wireQueued, jsonBody(p)
	}
	p.Detail, p.IBStatus, p.Stage = "started", wireStage(status.Stage), status.Stage
	if status.Total > 0 {
		p.Progress = &progressReply{Done: status.Done, Total: status.Total}
	}
	return http.StatusAccepted, p.IBStatus, jsonBody(p)
}

func outcomeBody(status queueStatus, render func(*imagebuilder.Job) []byte) []byte {
	if status.Keep == nil {
		return render(status.Job)
	}
	if body, ok := status.Keep.Load().([]byte); ok {
		return body
	}
	body := render(status.Job)
	status.Keep.Store(body)
	return body
}

func renderDone(job *imagebuilder.Job) []byte {
	set := *job.Images
	reply := doneReply{
		Status:      http.StatusOK,
		Detail:      wireDone,
		IBStatus:    wireDone,
		RequestHash: job.Hash,
		EnqueuedAt:  job.EnqueuedAt.UTC(),
		BinDir:      job.ImagesHash(),
		SharedWith:  job.Shares,
		// asu's form; the date is that of the sources, not of this build.
		BuildAt:      time.Unix(set.SourceDateEpoch, 0).UTC().Format("2006-01-02T15:04:05.000000Z"),
		Request:      job.Request,
		StageSeconds: make([]stageSeconds, 0, len(job.Stages)),
		ImageSet:     &set,

		Changes: job.Request.Changes,
	}
	reply.Request.Changes = nil // they stand beside it
	for _, t := range job.Stages {
		reply.StageSeconds = append(reply.StageSeconds, stageSeconds{t.Stage, t.Duration.Seconds()})
	}
	set.Titles, set.Images, set.Files = nonNil(set.Titles), nonNil(set.Images), nonNil(set.Files)
	set.SupportedDevices, set.DevicePackages, set.DefaultPackages = nonNil(set.SupportedDevices), nonNil(set.DevicePackages), nonNil(set.DefaultPackages)
	return jsonBody(reply)
}

func renderFailed(job *imagebuilder.Job) []byte {
	f := job.Failure
	return jsonBody(errorReply{
		Status: http.StatusInternalServerError, Detail: f.Detail, Code: f.Code, Hash: job.Hash,
		IBState: wireFailed, Unknown: f.Unknown, Problems: f.Problems, Repairs: f.Repairs, Stdout: &f.Stdout, Stderr: &f.Stderr,
		Changes: job.Request.Changes,
	})
}

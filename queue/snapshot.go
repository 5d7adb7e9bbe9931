package queue

import (
	"time"

	"attendant/imagebuilder"
)

// maxRecent bounds Snapshot.Recent.
const maxRecent = 50

// Summary is an outcome in short. It holds the request hash: who sees it can
// fetch the images, so pages for everybody leave it out.
type Summary struct {
	Hash       string
	Shares     string // the hash of the job whose images these are, "" for its own
	Seq        uint64
	Distro     string
	Version    string
	Target     string
	Profile    string
	State      imagebuilder.State
	Code       imagebuilder.Code // of a failed job
	Detail     string            // of a failed job
	EnqueuedAt time.Time
	StartedAt  time.Time // zero when it never started
	FinishedAt time.Time
}

func summarize(job *imagebuilder.Job) Summary {
	s := Summary{
		Hash:       job.Hash,
		Shares:     job.Shares,
		Seq:        job.Seq,
		Distro:     job.Request.Distro,
		Version:    job.Request.Version,
		Target:     job.Request.Target,
		Profile:    job.Request.Profile,
		State:      job.State,
		EnqueuedAt: job.EnqueuedAt,
		StartedAt:  job.StartedAt,
		FinishedAt: job.FinishedAt,
	}
	if job.Failure != nil {
		s.Code, s.Detail = job.Failure.Code, job.Failure.Detail
	}
	return s
}

// Summary returns the outcome of a request hash in short, as the store has
// it. It is no use of its images.
func (q *Queue) Summary(hash string) (Summary, bool) {
	job, err := q.o.DB.Job(hash)
	if err != nil || job.State != imagebuilder.Done && job.State != imagebuilder.Failed {
		return Summary{}, false
	}
	return summarize(job), true
}

// BuildTime is how long it would take to build a done job again: what its
// build took, but for the ImageBuilder's download, which would be there; or,
// where that is not known, what builds of its target take; 0 is unknown.
func (q *Queue) BuildTime(job *imagebuilder.Job) time.Duration {
	var took time.Duration
	for _, s := range job.Stages {
		if s.Stage != imagebuilder.StageDownload && s.Stage != imagebuilder.StageUnpack {
			took += s.Duration
		}
	}
	if took > 0 {
		return took
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.history.expect(job.Request.Target)
}

// addRecent is called with q.mu held.
func (q *Queue) addRecent(s Summary) {
	q.recent = append([]Summary{s}, q.recent[:min(len(q.recent), maxRecent-1)]...)
}

// Snapshot is the queue at one moment.
type Snapshot struct {
	Building []Status  // in the order of their starts
	Waiting  []Status  // in the order in which they will start
	Recent   []Summary // the last outcomes, newest first, at most 50
	Limit    int       // of Waiting
	Workers  int
	Stopping bool
}

// Snapshot returns the queue as it is now.
func (q *Queue) Snapshot() Snapshot {
	q.loadRecent()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Snapshot{Limit: q.o.Limit, Workers: q.o.Workers, Stopping: q.stopping}
	for _, e := range q.building {
		s.Building = append(s.Building, q.status(e))
	}
	waits := q.waits()
	for i, e := range q.waiting {
		s.Waiting = append(s.Waiting, Status{Job: e.job, Position: i + 1, Wait: waits[i]})
	}
	s.Recent = append(s.Recent, q.recent...)
	return s
}

// Length returns how many jobs wait and how many are building.
func (q *Queue) Length() (waiting, building int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), len(q.building)
}

// loadRecent reads, the first time, the outcomes from before the last start.
func (q *Queue) loadRecent() {
	q.mu.Lock()
	loaded := q.recentLoaded
	q.recentLoaded = true
	q.mu.Unlock()
	if loaded {
		return
	}
	jobs, err := q.o.DB.Recent()
	if err != nil {
		q.o.Log.Error("recent jobs could not be read", "error", err)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	known := map[string]bool{}
	for _, s := range q.recent {
		known[s.Hash] = true
	}
	for _, job := range jobs {
		if len(q.recent) < maxRecent && !known[job.Hash] {
			q.recent = append(q.recent, summarize(job))
		}
	}
}

// Package queue is the persistent queue of builds and its workers.
//
// Jobs are built in the order in which they were accepted, which is the order
// of their sequence numbers and knows no clock. A job is in the store, synced,
// before Submit returns; an attempt is counted there before it begins. A job
// that was building when the process died is built again at its old place, a
// limited number of times. All requests of one hash share one job, whether it
// is queued, building, done or freshly failed.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
	"attendant/store/images"
)

// Builder builds one job. It must end soon after ctx does, and leave the set
// it built in a folder on the mount of the image cache.
type Builder interface {
	Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error)
}

// Options of New. DB, Images and Builder must be set.
type Options struct {
	DB      *store.DB
	Images  *images.Cache
	Builder Builder

	Workers     int           // builds at once; default 1
	Limit       int           // jobs waiting; default 200
	MaxAttempts int           // builds of one job that may die with the process; default 3
	FailureTTL  time.Duration // how long a failure is remembered; default 1 h
	RetryAfter  time.Duration // after which Submit queues a transiently failed job again; default 1 min
	SetSize     int64         // bytes reserved for a set when there is no history; default 64 MiB
	CacheSize   int64         // bytes of outcomes kept in memory, about; default 8 MiB

	Now func() time.Time // wall clock, for records; default time.Now
	Log *slog.Logger     // default discards
}

// maxFailures bounds the failures that are remembered at once; the oldest go
// first.
const maxFailures = 5000

// refusedSize bounds, in bytes, what is kept in memory of refused requests.
const refusedSize = 1 << 20

func (o *Options) setDefaults() {
	if o.Workers <= 0 {
		o.Workers = 1
	}
	if o.Limit <= 0 {
		o.Limit = 200
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 3
	}
	if o.FailureTTL <= 0 {
		o.FailureTTL = time.Hour
	}
	if o.RetryAfter <= 0 {
		o.RetryAfter = time.Minute
	}
	if o.SetSize <= 0 {
		o.SetSize = 64 << 20
	}
	if o.CacheSize <= 0 {
		o.CacheSize = 8 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Status is a job as it stands.
type Status struct {
	// Job is never changed; a later state is another Job. For an outcome
	// that stays in memory the pointer stays the same.
	Job *imagebuilder.Job
	// Position is 1 for the queued job that starts next; jobs that are
	// building do not count. 0 for a job that is not queued.
	Position int
	// Wait is how long it will probably take until the job is finished; 0
	// when nothing is known to tell it from, and for outcomes.
	Wait time.Duration
	// Stage is what a building job is doing; Done of Total tells how far
	// the stage is, in bytes, with Total 0 for unknown.
	Stage       imagebuilder.Stage
	Done, Total int64
	// New tells, from Submit, that this call queued the job.
	New bool
	// Keep is for the caller to keep something beside an outcome, such as
	// the rendered reply, for as long as the outcome is in memory. nil for
	// a job that is queued or building.
	Keep *atomic.Value
}

// Queue is the queue. Its methods may be called concurrently.
type Queue struct {
	o     Options
	stats *store.Statistics

	mu       sync.Mutex
	cond     sync.Cond         // a worker may find something to do, or must stop
	lastSeq  uint64            // given to a job
	active   map[string]*entry // queued and building, by hash
	waiting  []*entry          // queued, by seq
	building []*entry          // in the order of their starts
	changes  uint64            // counts what makes outcomes obsolete
	outcomes *outcomes
	refused  *outcomes // never stored
	failures map[string]*failure
	unstored map[string]*imagebuilder.Job // failures that the disk did not take
	history  *history

	recent       []Summary // newest first
	recentLoaded bool

	running  bool
	stopping bool
	stopped  chan struct{} // closed when stopping begins
	ended    chan struct{} // closed when Run ends
	cut      context.CancelCauseFunc
}

// entry is a job that is queued or building. All but live is guarded by
// Queue.mu, job's target is never changed.
type entry struct {
	hash string
	seq  uint64
	job  *imagebuilder.Job
	live *live

	stored   chan struct{} // closed when the store has the job, or refused it
	storeErr error         // why it refused; set before stored is closed
	durable  bool

	cancel   context.CancelCauseFunc // while building
	canceled bool
	began    time.Time // monotonic
	final    *Status   // when finished
}

var (
	errStopped  = errors.New("the server is stopping")
	errCanceled = errors.New("the job was canceled")
)

// New opens the queue as the store has it. Nothing is built until Run.
func New(o Options) (*Queue, error) {
	o.setDefaults()
	if o.DB == nil || o.Images == nil || o.Builder == nil {
		return nil, errors.New("opening the queue: database, image cache and builder must be given")
	}
	q := &Queue{
		o:        o,
		stats:    o.DB.Statistics(),
		active:   map[string]*entry{},
		outcomes: newOutcomes(o.CacheSize),
		refused:  newOutcomes(refusedSize),
		failures: map[string]*failure{},
		unstored: map[string]*imagebuilder.Job{},
		stopped:  make(chan struct{}),
		ended:    make(chan struct{}),
	}
	q.cond.L = &q.mu
	builds, err := o.DB.History()
	if err != nil {
		return nil, fmt.Errorf("opening the queue: %w", err)
	}
	q.history = newHistory(builds)
	if q.lastSeq, err = o.DB.LastSeq(); err != nil {
		return nil, fmt.Errorf("opening the queue: %w", err)
	}
	if err := q.loadFailures(); err != nil {
		return nil, fmt.Errorf("opening the queue: %w", err)
	}
	q.resume()
	return q, nil
}

// resume puts the stored jobs in their places. Those that were building when
// the process died are queued again, or given up.
func (q *Queue) resume() {
	jobs, err := q.o.DB.Active()
	if err != nil {
		// One unreadable record must not keep the server from starting.
		q.o.Log.Error("some queued jobs cannot be read", "error", err)
	}
	for _, job := range jobs {
		q.lastSeq = max(q.lastSeq, job.Seq)
		if job.State == imagebuilder.Building && job.Attempts >= q.o.MaxAttempts {
			failed := *job
			q.o.Log.Error("the server died in this build too often; it is given up", "seq", job.Seq, "attempts", job.Attempts)
			// What the disk does not take is logged and recorded later.
			_ = q.fail(&failed, nil, imagebuilder.Errorf(imagebuilder.CodeCrashed,
				"The server died %d times while it built this image, so it does not try again for now. Please tell the server's operator.", job.Attempts))
			continue
		}
		queued := *job
		queued.State = imagebuilder.Queued
		queued.StartedAt = time.Time{}
		e := newEntry(&queued)
		e.durable = true
		close(e.stored)
		q.active[e.hash] = e
		q.waiting = append(q.waiting, e)
	}
}

func newEntry(job *imagebuilder.Job) *entry {
	return &entry{hash: job.Hash, seq: job.Seq, job: job, live: newLive(), stored: make(chan struct{})}
}

// Submit asks for the build of a normalized request with the hash that it has
// for the generation. What is on its way or done already is joined; so is a
// failure that is remembered, unless it was transient and RetryAfter has
// passed. When the error is nil the job is durable. The error is an
// *imagebuilder.Error (CodeQueueFull, CodeStopping, CodeNoSpace,
// CodeInternal) or that of ctx.
func (q *Queue) Submit(ctx context.Context, hash string, req imagebuilder.Request, gen imagebuilder.Generation) (Status, error) {
	return q.SubmitAlike(ctx, hash, nil, req, gen)
}

// SubmitAlike is Submit for a request of which the content may be foreseen:
// images that have it already are the answer, without a build; Job.Shares tells
// whose they are. content returns the request's ContentHash, "" where it is not
// certain; it is asked only for a request that is not known by its hash.
func (q *Queue) SubmitAlike(ctx context.Context, hash string, content func() string, req imagebuilder.Request, gen imagebuilder.Generation) (Status, error) {
	foreseen := ""
	if !imagebuilder.ValidHash(hash) {
		return Status{}, imagebuilder.AsError(fmt.Errorf("%.80q is not a request hash", hash))
	}
	for {
		q.mu.Lock()
		if e := q.active[hash]; e != nil {
			q.mu.Unlock()
			return q.join(ctx, e)
		}
		changes := q.changes
		q.mu.Unlock()

		if status, found := q.outcome(hash, true); found {
			return status, nil
		}
		if content != nil {
			foreseen, content = content(), nil
		}
		if status, found := q.shareContent(hash, foreseen, req, gen); found {
			return status, nil
		}

		q.mu.Lock()
		if q.active[hash] != nil || q.changes != changes {
			q.mu.Unlock()
			continue
		}
		e, err := q.appendLocked(hash, foreseen, req, gen)
		q.mu.Unlock()
		if err != nil {
			return Status{}, err
		}
		return q.store(e)
	}
}

// appendLocked puts a new job at the end. It may not start before it is stored.
func (q *Queue) appendLocked(hash, content string, req imagebuilder.Request, gen imagebuilder.Generation) (*entry, error) {
	if q.stopping {
		return nil, imagebuilder.Errorf(imagebuilder.CodeStopping, "The server is being restarted. Please try again in a minute.")
	}
	if len(q.waiting) >= q.o.Limit {
		return nil, imagebuilder.Errorf(imagebuilder.CodeQueueFull,
			"The server has %d images waiting to be built and takes no more for now. Please try again later.", len(q.waiting))
	}
	q.lastSeq++
	e := newEntry(&imagebuilder.Job{
		Hash:       hash,
		Seq:        q.lastSeq,
		Request:    req,
		Generation: gen,
		Content:    content,
		State:      imagebuilder.Queued,
		EnqueuedAt: q.o.Now().UTC(),
	})
	q.active[hash] = e
	q.waiting = append(q.waiting, e)
	q.forgetOutcome(hash)
	return e, nil
}

// forgetOutcome forgets also those that share the images of the hash: what it
// gets anew may have other sums. The store has voided their records.
func (q *Queue) forgetOutcome(hash string) {
	q.changes++
	q.outcomes.remove(hash)
	q.outcomes.removeSharers(hash)
	q.refused.remove(hash)
	delete(q.failures, hash)
	delete(q.unstored, hash)
}

// store makes an appended job durable.
func (q *Queue) store(e *entry) (Status, error) {
	err := q.o.DB.Enqueue(e.job)
	q.mu.Lock()
	defer q.mu.Unlock()
	defer close(e.stored)
	if err != nil {
		q.o.Log.Error("a job could not be stored", "error", err)
		e.storeErr = storeError(err)
		q.removeWaiting(e)
		delete(q.active, e.hash)
		e.live.end()
		return Status{}, e.storeErr
	}
	e.durable = true
	q.cond.Broadcast()
	status := q.status(e)
	status.New = true
	return status, nil
}

func storeError(err error) error {
	if errors.Is(err, store.ErrFull) {
		return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
			"This server's disk is full, so it cannot take the request. Please try again later; if it stays, tell the server's operator.").WithCause(err)
	}
	return imagebuilder.AsError(err)
}

// join waits until the store has the job that another request brought.
func (q *Queue) join(ctx context.Context, e *entry) (Status, error) {
	select {
	case <-e.stored:
	case <-ctx.Done():
		return Status{}, context.Cause(ctx)
	}
	if e.storeErr != nil {
		return Status{}, e.storeErr
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.status(e), nil
}

// Lookup returns the job of a request hash: queued, building, failed within
// FailureTTL, or done with its images still there. A done one counts as used.
func (q *Queue) Lookup(hash string) (Status, bool) {
	q.mu.Lock()
	if e := q.active[hash]; e != nil && e.durable {
		defer q.mu.Unlock()
		return q.status(e), true
	}
	q.mu.Unlock()
	return q.outcome(hash, false)
}

// status is a job's status; q.mu is held.
func (q *Queue) status(e *entry) Status {
	if e.final != nil {
		return *e.final
	}
	s := Status{Job: e.job}
	if e.job.State == imagebuilder.Queued {
		i, _ := q.place(e)
		s.Position = i + 1
		s.Wait = q.wait(i)
		return s
	}
	s.Stage, s.Done, s.Total = e.live.progress()
	s.Wait = q.remaining(e)
	return s
}

// place finds a job among those waiting; q.mu is held.
func (q *Queue) place(e *entry) (int, bool) {
	return slices.BinarySearchFunc(q.waiting, e.seq, func(w *entry, seq uint64) int {
		switch {
		case w.seq < seq:
			return -1
		case w.seq > seq:
			return 1
		}
		return 0
	})
}

func (q *Queue) removeWaiting(e *entry) bool {
	i, found := q.place(e)
	if found {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		q.positionsChanged(i)
	}
	return found
}

// positionsChanged wakes those who follow a job whose position is not what it
// was; q.mu is held.
func (q *Queue) positionsChanged(from int) {
	for _, w := range q.waiting[from:] {
		w.live.wake()
	}
}

// Refuse remembers, for FailureTTL and in memory only, that a request cannot
// be built, so that its hash answers with the reason. Nothing is queued and
// nothing written. A job of this hash that is queued or building goes on.
func (q *Queue) Refuse(hash string, req imagebuilder.Request, gen imagebuilder.Generation, reason *imagebuilder.Error) Status {
	now := q.o.Now().UTC()
	job := &imagebuilder.Job{
		Hash: hash, Request: req, Generation: gen, State: imagebuilder.Failed,
		EnqueuedAt: now, FinishedAt: now, Failure: failureOf(reason),
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.active[hash]; e != nil {
		return q.status(e)
	}
	q.changes++
	q.stats.BuildFailed(req.Version, req.Target, req.Profile, reason.Detail)
	return q.refused.add(job, time.Now().Add(q.o.FailureTTL), time.Now().Add(q.retryAfter(reason.Code))).status()
}

func failureOf(e *imagebuilder.Error) *imagebuilder.Failure {
	return &imagebuilder.Failure{
		Code: e.Code, Detail: e.Detail, Unknown: e.Unknown, Problems: e.Problems, Repairs: e.Repairs, Stdout: e.Stdout, Stderr: e.Stderr,
	}
}

// retryAfter is when a failure may be tried again.
func (q *Queue) retryAfter(code imagebuilder.Code) time.Duration {
	if code.Transient() {
		return min(q.o.RetryAfter, q.o.FailureTTL)
	}
	return q.o.FailureTTL
}

// Cancel ends a job that is queued or building: it becomes Failed with
// CodeCanceled, a building one as soon as its build has ended. The error is an
// *imagebuilder.Error: CodeNotFound when there is no such job on its way.
func (q *Queue) Cancel(hash string) error {
	notFound := imagebuilder.Errorf(imagebuilder.CodeNotFound, "There is no job with this hash waiting or being built.")
	q.mu.Lock()
	e := q.active[hash]
	q.mu.Unlock()
	if e == nil {
		return notFound
	}
	<-e.stored

	q.mu.Lock()
	if q.active[hash] != e {
		q.mu.Unlock()
		return notFound
	}
	e.canceled = true
	if !q.removeWaiting(e) {
		if e.cancel != nil {
			e.cancel(errCanceled)
		}
		q.mu.Unlock()
		return nil
	}
	job := *e.job
	q.mu.Unlock()
	if err := q.fail(&job, e, canceledError()); err != nil {
		return storeError(err)
	}
	return nil
}

func canceledError() *imagebuilder.Error {
	return imagebuilder.Errorf(imagebuilder.CodeCanceled, "The server's operator ended this build.")
}

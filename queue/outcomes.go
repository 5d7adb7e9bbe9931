package queue

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"attendant/imagebuilder"
	"attendant/store"
)

// outcome is a job that is done or failed, in memory.
type outcome struct {
	job   *imagebuilder.Job
	until time.Time // forgotten then; monotonic; zero for done jobs
	retry time.Time // Submit queues it again then
	cost  int64
	keep  atomic.Value
}

func (o *outcome) status() Status { return Status{Job: o.job, Keep: &o.keep} }

// outcomes keeps those used last, up to a number of bytes. Queue.mu guards it.
type outcomes struct {
	lru     *simplelru.LRU[string, *outcome]
	sharers map[string]map[string]bool // by the hash whose images they share
	limit   int64
	cost    int64
}

func newOutcomes(limit int64) *outcomes {
	c := &outcomes{limit: limit, sharers: map[string]map[string]bool{}}
	lru, err := simplelru.NewLRU(math.MaxInt32, func(hash string, o *outcome) {
		c.cost -= o.cost
		if of := o.job.Shares; of != "" {
			if delete(c.sharers[of], hash); len(c.sharers[of]) == 0 {
				delete(c.sharers, of)
			}
		}
	})
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	c.lru = lru
	return c
}

func (c *outcomes) add(job *imagebuilder.Job, until, retry time.Time) *outcome {
	o := &outcome{job: job, until: until, retry: retry, cost: cost(job)}
	c.lru.Remove(job.Hash)
	c.lru.Add(job.Hash, o)
	c.cost += o.cost
	if of := job.Shares; of != "" {
		if c.sharers[of] == nil {
			c.sharers[of] = map[string]bool{}
		}
		c.sharers[of][job.Hash] = true
	}
	for c.cost > c.limit && c.lru.Len() > 1 {
		c.lru.RemoveOldest()
	}
	return o
}

func (c *outcomes) get(hash string) *outcome {
	o, _ := c.lru.Get(hash)
	return o
}

// peek is get without a use.
func (c *outcomes) peek(hash string) *outcome {
	o, _ := c.lru.Peek(hash)
	return o
}

func (c *outcomes) remove(hash string) { c.lru.Remove(hash) }

// removeSharers removes those that share the images of a hash.
func (c *outcomes) removeSharers(of string) {
	for hash := range c.sharers[of] {
		c.lru.Remove(hash)
	}
}

// cost estimates what an outcome takes in memory in bytes, with what the
// caller keeps beside it.
func cost(job *imagebuilder.Job) int64 {
	const perString = 16
	n := 2048
	list := func(values []string) {
		for _, s := range values {
			n += perString + len(s)
		}
	}
	list(job.Request.Packages)
	for _, p := range job.Request.PackagesVersions {
		n += 2*perString + len(p.Name) + len(p.Value)
	}
	list(job.Request.RepositoryKeys)
	if job.Request.Defaults != nil {
		n += len(*job.Request.Defaults)
	}
	if f := job.Failure; f != nil {
		n += len(f.Detail) + len(f.Stdout) + len(f.Stderr)
		list(f.Unknown)
	}
	if s := job.Images; s != nil {
		for name, version := range s.Manifest {
			n += 3*perString + len(name) + len(version)
		}
		list(s.DefaultPackages)
		list(s.DevicePackages)
		list(s.SupportedDevices)
		list(s.BuildCmd)
		list(s.BuildCmdPackages)
		n += len(s.Stdout) + len(s.Stderr) + len(s.LinuxKernel) + 300*len(s.Images) + 200*len(s.Files)
	}
	return 2 * int64(n)
}

// failure is a failed job that the store remembers.
type failure struct {
	record store.FailureRecord
	until  time.Time // monotonic
	retry  time.Time
}

// restartGrace is how long a failure from before a restart is remembered at
// least: its age is told by a clock that may have jumped.
const restartGrace = 5 * time.Minute

func (q *Queue) loadFailures() error {
	records, err := q.o.DB.Failures()
	if err != nil {
		return err
	}
	now, wall := time.Now(), q.o.Now()
	for _, r := range records {
		left := q.o.FailureTTL
		if age := wall.Sub(r.Finished); age >= 0 {
			left = max(left-age, min(restartGrace, q.o.FailureTTL))
		}
		// Which of them were transient only their records tell; see outcome.
		q.failures[r.Key.String()] = &failure{record: r, until: now.Add(left), retry: now}
	}
	return nil
}

// outcome finds an outcome that still holds. For a Submit those do not that
// may be tried again. Done ones count as used. One that cannot be read is as
// good as none: it is built anew.
func (q *Queue) outcome(hash string, submit bool) (Status, bool) {
	q.mu.Lock()
	o, changes := q.outcomes.get(hash), q.changes
	if o == nil {
		o = q.refused.get(hash)
	}
	if job, f := q.unstored[hash], q.failures[hash]; o == nil && job != nil && f != nil {
		o = q.outcomes.add(job, f.until, f.retry)
	}
	q.mu.Unlock()
	if o == nil {
		job, err := q.o.DB.Job(hash)
		if errors.Is(err, store.ErrNotFound) {
			job, err = q.o.DB.Shared(hash)
		}
		if err != nil {
			if !errors.Is(err, store.ErrNotFound) {
				q.o.Log.Error("a job cannot be read", "error", err)
			}
			return Status{}, false
		}
		if o = q.remember(job, changes); o == nil {
			return Status{}, false
		}
	}
	if o.job.State == imagebuilder.Done {
		// In this order: once touched, a set is not dropped for a while.
		images := o.job.ImagesHash()
		q.o.Images.Touch(images)
		if !q.o.Images.Has(images) {
			q.mu.Lock()
			if q.outcomes.get(hash) == o {
				q.outcomes.remove(hash)
			}
			q.outcomes.removeSharers(images)
			q.mu.Unlock()
			return Status{}, false
		}
		return o.status(), true
	}
	now := time.Now()
	if !now.Before(o.until) || submit && !now.Before(o.retry) {
		return Status{}, false
	}
	return o.status(), true
}

// remember takes an outcome from the store into memory, unless things have
// changed since it was looked for. It returns nil when the job is none or no
// longer counts.
func (q *Queue) remember(job *imagebuilder.Job, changes uint64) *outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o := q.outcomes.get(job.Hash); o != nil {
		return o
	}
	var until, retry time.Time
	switch job.State {
	case imagebuilder.Done:
	case imagebuilder.Failed:
		f := q.failures[job.Hash]
		if f == nil || f.record.Seq != job.Seq {
			return nil
		}
		until, retry = f.until, f.retry
		if job.Failure != nil && !job.Failure.Code.Transient() {
			retry = until
		}
	default:
		return nil
	}
	if q.changes != changes {
		return &outcome{job: job, until: until, retry: retry}
	}
	return q.outcomes.add(job, until, retry)
}

// fail records a job's failure, takes it off the queue and remembers it. e
// is its entry, nil while the queue is being opened. job is kept. The error is
// that of the disk: then the failure is told from memory and recorded later.
func (q *Queue) fail(job *imagebuilder.Job, e *entry, reason *imagebuilder.Error) error {
	job.State = imagebuilder.Failed
	job.FinishedAt = q.o.Now().UTC()
	job.Failure = failureOf(reason)
	if e != nil {
		job.Stages = e.live.stageTimes()
	}
	err := q.o.DB.FinishJob(job, nil, 0)
	if err != nil {
		q.o.Log.Error("a job's failure could not be recorded; it is kept in memory", "seq", job.Seq, "error", err)
	}
	q.stats.BuildFailed(job.Request.Version, job.Request.Target, job.Request.Profile, reason.Detail)

	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	key, _ := store.ParseKey(job.Hash)
	f := &failure{
		record: store.FailureRecord{Seq: job.Seq, Key: key, Finished: job.FinishedAt},
		until:  now.Add(q.o.FailureTTL),
		retry:  now.Add(q.retryAfter(reason.Code)),
	}
	q.failures[job.Hash] = f
	if err != nil {
		q.unstored[job.Hash] = job
	}
	q.finished(e, q.outcomes.add(job, f.until, f.retry))
	return err
}

// finished makes an outcome the answer for its hash; q.mu is held.
func (q *Queue) finished(e *entry, o *outcome) {
	q.changes++
	q.addRecent(summarize(o.job))
	if e == nil {
		return
	}
	status := o.status()
	e.final = &status
	if q.active[e.hash] == e {
		delete(q.active, e.hash)
	}
	q.building = slices.DeleteFunc(q.building, func(b *entry) bool { return b == e })
	e.live.end()
}

// sweep forgets failures whose time has come or that are too many, and
// records those that the disk did not take before.
func (q *Queue) sweep() {
	now := time.Now()
	q.mu.Lock()
	var forget []store.FailureRecord
	drop := func(hash string, f *failure) {
		forget = append(forget, f.record)
		delete(q.failures, hash)
		delete(q.unstored, hash)
		q.outcomes.remove(hash)
	}
	for hash, f := range q.failures {
		if !now.Before(f.until) {
			drop(hash, f)
		}
	}
	if extra := len(q.failures) - maxFailures; extra > 0 {
		hashes := make([]string, 0, len(q.failures))
		for hash := range q.failures {
			hashes = append(hashes, hash)
		}
		slices.SortFunc(hashes, func(a, b string) int {
			return cmp.Compare(q.failures[a].record.Seq, q.failures[b].record.Seq)
		})
		for _, hash := range hashes[:extra] {
			drop(hash, q.failures[hash])
		}
	}
	unstored := make([]*imagebuilder.Job, 0, len(q.unstored))
	for _, job := range q.unstored {
		unstored = append(unstored, job)
	}
	q.mu.Unlock()

	if err := q.o.DB.ForgetFailures(forget...); err != nil {
		q.o.Log.Error("old failures could not be forgotten; the next start does it", "error", err)
	}
	for _, job := range unstored {
		q.storeLate(job)
	}
}

func (q *Queue) storeLate(job *imagebuilder.Job) {
	q.mu.Lock()
	current := q.unstored[job.Hash] == job && q.active[job.Hash] == nil
	q.mu.Unlock()
	if !current {
		return
	}
	if err := q.o.DB.FinishJob(job, nil, 0); err != nil {
		q.o.Log.Error("a job's failure could still not be recorded", "seq", job.Seq, "error", err)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unstored[job.Hash] == job {
		delete(q.unstored, job.Hash)
	}
}

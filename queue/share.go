package queue

import (
	"errors"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

// alike finds the images that have a content: those of a done job that are
// still there, and count as used from now on.
func (q *Queue) alike(content string) (*imagebuilder.Job, bool) {
	if content == "" {
		return nil, false
	}
	hash, err := q.o.DB.Content(content)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			q.o.Log.Error("the images with a content cannot be looked for", "error", err)
		}
		return nil, false
	}
	status, found := q.outcome(hash, false)
	if !found || status.Job.State != imagebuilder.Done {
		return nil, false
	}
	return status.Job, true
}

// shared makes job one that has the images of original.
func (q *Queue) shared(job, original *imagebuilder.Job) {
	job.State = imagebuilder.Done
	job.FinishedAt = q.o.Now().UTC()
	job.Images, job.Shares, job.Content = original.Images, original.ImagesHash(), original.Content
}

// shareContent answers a request by images with its content, if there are any.
func (q *Queue) shareContent(hash, content string, req imagebuilder.Request, gen imagebuilder.Generation) (Status, bool) {
	q.mu.Lock()
	before := q.changes
	q.mu.Unlock()
	original, found := q.alike(content)
	if !found || original.ImagesHash() == hash {
		return Status{}, false
	}
	now := q.o.Now().UTC()
	job := &imagebuilder.Job{Hash: hash, Request: req, Generation: gen, EnqueuedAt: now}
	q.shared(job, original)

	q.mu.Lock()
	active := q.active[hash] != nil
	q.mu.Unlock()
	if active {
		return Status{}, false
	}
	if err := q.recordShare(job); err != nil {
		return Status{}, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active[hash] != nil {
		return Status{}, false // it was queued meanwhile, which has made the record void
	}
	changed := q.changes != before // so the images may by now be others
	q.forgetOutcome(hash)
	if changed {
		return (&outcome{job: job}).status(), true
	}
	return q.outcomes.add(job, time.Time{}, time.Time{}).status(), true
}

// recordShare records that a job shares images. Where the disk does not take
// it, or too many do already, it is known from memory for a while. The error
// is that the images are gone, or that the job is in the queue by now.
func (q *Queue) recordShare(job *imagebuilder.Job) error {
	err := q.o.DB.Share(job)
	switch {
	case err == nil, errors.Is(err, store.ErrTooMany):
		return nil
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrActive):
		return err
	}
	q.o.Log.Error("that images are shared could not be recorded", "error", err)
	return nil
}

// finishAlike ends a job whose turn it is, without a build, if images with its
// content have been built since it was queued.
func (q *Queue) finishAlike(e *entry, job *imagebuilder.Job) bool {
	original, found := q.alike(job.Content)
	if !found || original.ImagesHash() == job.Hash {
		return false
	}
	done := *job
	q.shared(&done, original)
	// Unlike a request's answer it was promised, so it has to be on disk.
	if err := q.o.DB.Share(&done); err != nil {
		if !errors.Is(err, store.ErrTooMany) && !errors.Is(err, store.ErrNotFound) {
			q.o.Log.Error("that images are shared could not be recorded; they are built", "error", err)
		}
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.failures, job.Hash)
	q.finished(e, q.outcomes.add(&done, time.Time{}, time.Time{}))
	return true
}

// ImagesOf returns the hash that a request's images lie under: another's where
// it shares those, else its own. It is no use of them.
func (q *Queue) ImagesOf(hash string) string {
	q.mu.Lock()
	o, active := q.outcomes.peek(hash), q.active[hash] != nil
	q.mu.Unlock()
	switch {
	case active:
		return hash
	case o != nil:
		return o.job.ImagesHash()
	}
	if job, err := q.o.DB.Shared(hash); err == nil {
		return job.ImagesHash()
	}
	return hash
}

// Sharers returns how many requests are known to share the images of a hash.
func (q *Queue) Sharers(hash string) int {
	recorded, err := q.o.DB.Sharers(hash)
	if err != nil {
		q.o.Log.Error("who shares images cannot be read", "error", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(recorded, len(q.outcomes.sharers[hash])) // either may know some that the other does not
}

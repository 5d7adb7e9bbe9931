package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

const (
	sweepEvery = time.Minute
	// cutWait bounds how long Stop waits for builds that were cut.
	cutWait = 20 * time.Second
	// Waits after the disk did not take an attempt.
	firstBackoff = time.Second
	lastBackoff  = time.Minute
)

// Run builds jobs until Stop, or until ctx ends: then running builds are cut
// and queued again. It returns when all of that is over. It can be called once.
func (q *Queue) Run(ctx context.Context) error {
	builds, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(errStopped)
	q.mu.Lock()
	if q.running {
		q.mu.Unlock()
		return errors.New("the queue is running already")
	}
	q.running = true
	q.cut = cut
	q.mu.Unlock()
	defer close(q.ended)

	defer context.AfterFunc(ctx, func() {
		q.beginStop()
		cut(errStopped)
	})()

	var workers sync.WaitGroup
	for range q.o.Workers {
		workers.Go(func() { q.work(builds) })
	}
	workers.Go(q.sweepNowAndThen)
	workers.Go(q.loadRecent) // so that no Snapshot waits for the disk
	workers.Wait()
	q.endFollowing()
	return nil
}

func (q *Queue) beginStop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopping {
		q.stopping = true
		close(q.stopped)
		q.cond.Broadcast()
	}
}

// endFollowing lets go of those who follow jobs that stay in the queue.
func (q *Queue) endFollowing() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.active {
		e.live.end()
	}
}

// Stop takes no new jobs, starts none, and waits for the running builds until
// ctx ends; then they are cut and queued again at their places, without an
// attempt spent. The error tells of builds that did not end when cut.
func (q *Queue) Stop(ctx context.Context) error {
	q.beginStop()
	q.mu.Lock()
	running, cut := q.running, q.cut
	q.mu.Unlock()
	if !running {
		q.endFollowing()
		return nil
	}
	select {
	case <-q.ended:
		return nil
	case <-ctx.Done():
	}
	cut(errStopped)
	timer := time.NewTimer(cutWait)
	defer timer.Stop()
	select {
	case <-q.ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("stopping the queue: builds did not end within %v of being cut", cutWait)
	}
}

func (q *Queue) sweepNowAndThen() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		q.sweep()
		select {
		case <-q.stopped:
			return
		case <-ticker.C:
		}
	}
}

func (q *Queue) work(builds context.Context) {
	backoff := firstBackoff
	for {
		e, ctx := q.next(builds)
		if e == nil {
			return
		}
		err := q.build(ctx, e)
		if err == nil {
			backoff = firstBackoff
			continue
		}
		q.o.Log.Error("a build could not be begun; it waits", "seq", e.seq, "for", backoff, "error", err)
		timer := time.NewTimer(backoff)
		select {
		case <-timer.C:
		case <-q.stopped:
			timer.Stop()
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// next waits for the first job in line and takes it; nil means stop.
func (q *Queue) next(builds context.Context) (*entry, context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopping {
		// The first in line may still be on its way to the disk; nobody
		// overtakes it.
		if len(q.waiting) > 0 && q.waiting[0].durable {
			e := q.waiting[0]
			q.waiting = slices.Delete(q.waiting, 0, 1)
			q.building = append(q.building, e)
			ctx, cancel := context.WithCancelCause(builds)
			e.cancel = cancel
			e.began = time.Now()
			job := *e.job
			job.State = imagebuilder.Building
			job.Attempts++
			job.StartedAt = q.o.Now().UTC()
			e.job = &job
			e.live.start()
			q.positionsChanged(0)
			return e, ctx
		}
		q.cond.Wait()
	}
	return nil, nil
}

// build makes one attempt. The error is that of a disk which could not even
// take the attempt; the job is back in line then.
func (q *Queue) build(ctx context.Context, e *entry) error {
	defer e.cancel(nil)
	q.mu.Lock()
	job := *e.job
	space := q.history.space(job.Request.Target, q.o.SetSize)
	q.mu.Unlock()
	if err := q.o.DB.SaveJob(&job); err != nil {
		if q.putBack(e) == nil {
			_ = q.fail(&job, e, canceledError())
		}
		return err
	}
	if q.finishAlike(e, &job) {
		q.o.Log.Info("images that were built for another request have the same content", "seq", e.seq)
		return nil
	}
	log := q.o.Log.With("seq", e.seq, "version", job.Request.Version, "target", job.Request.Target, "profile", job.Request.Profile)
	log.Info("build begins", "attempt", job.Attempts)

	took, err := q.attempt(ctx, e, job, space)
	switch cause := context.Cause(ctx); {
	case err == nil:
		log.Info("build done", "took", took)
	case cause == errStopped && q.giveBack(e):
		log.Info("build cut because the server stops; it is queued again")
	default:
		failure := imagebuilder.AsError(err)
		if cause == errCanceled || cause == errStopped {
			failure = canceledError().WithCause(err)
		}
		log.Warn("build failed", "code", failure.Code, "error", failure)
		// A disk that does not take it is told of, and tried again, by fail.
		_ = q.fail(&job, e, failure)
	}
	return nil
}

// attempt reserves space, builds, and puts the images in place.
func (q *Queue) attempt(ctx context.Context, e *entry, job imagebuilder.Job, space int64) (time.Duration, error) {
	reservation, err := q.o.Images.Reserve(e.hash, space)
	if err != nil {
		return 0, err
	}
	defer reservation.Release()
	built, err := q.safeBuild(ctx, job, e.live)
	if err != nil {
		return 0, err
	}
	if built == nil {
		return 0, errors.New("the builder returned neither images nor an error")
	}

	e.live.Stage(imagebuilder.StageCommit)
	var took time.Duration
	var disk int64
	secret := job.Request.Defaults != nil
	err = reservation.Commit(built.Dir, &built.Set, secret, func(record *store.ImageRecord) error {
		took = time.Since(e.began)
		disk = record.Disk
		job.State = imagebuilder.Done
		job.FinishedAt = q.o.Now().UTC()
		job.Images = &built.Set
		job.Content = job.Request.ContentHash(job.Generation.Digest, built.Set.Manifest)
		job.Stages = built.Stages
		if len(job.Stages) == 0 || job.Stages[len(job.Stages)-1].Stage != imagebuilder.StageCommit {
			job.Stages = append(slices.Clip(job.Stages), imagebuilder.StageTime{Stage: imagebuilder.StageCommit, Duration: e.live.inStage()})
		}
		return q.o.DB.FinishJob(&job, record, took)
	})
	if err != nil {
		return 0, err
	}
	q.stats.Built(job.Request.Version, job.Request.Packages)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.history.add(job.Request.Target, store.Build{Took: took, Disk: disk})
	delete(q.failures, job.Hash)
	q.outcomes.removeSharers(job.Hash) // of images that it had before
	q.finished(e, q.outcomes.add(&job, time.Time{}, time.Time{}))
	return took, nil
}

// safeBuild makes a panic in a build that build's failure.
func (q *Queue) safeBuild(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (built *imagebuilder.Built, err error) {
	defer func() {
		if r := recover(); r != nil {
			q.o.Log.Error("a build panicked", "seq", job.Seq, "panic", r, "stack", string(debug.Stack()))
			built, err = nil, fmt.Errorf("the build panicked: %v", r)
		}
	}()
	return q.o.Builder.Build(ctx, job, rep)
}

// giveBack queues a cut build again, its attempt not counted. It tells whether
// it did: not if the job was canceled.
func (q *Queue) giveBack(e *entry) bool {
	job := q.putBack(e)
	if job == nil {
		return false
	}
	if err := q.o.DB.SaveJob(job); err != nil {
		q.o.Log.Error("a cut build could not be recorded as queued; the next start queues it, with the attempt counted", "seq", e.seq, "error", err)
	}
	return true
}

// putBack puts a job that was taken out of line at its old place and returns
// it as it is now; nil if it was canceled, which ends it.
func (q *Queue) putBack(e *entry) *imagebuilder.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.canceled {
		return nil
	}
	job := *e.job
	job.State = imagebuilder.Queued
	job.Attempts--
	job.StartedAt = time.Time{}
	e.job = &job
	e.cancel = nil
	e.live.reset()
	q.building = slices.DeleteFunc(q.building, func(b *entry) bool { return b == e })
	i, _ := q.place(e)
	q.waiting = slices.Insert(q.waiting, i, e)
	q.positionsChanged(i)
	return e.job
}

package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Back-off after failures.
const (
	firstBackoff = 2 * time.Second
	maxBackoff   = 10 * time.Minute
	// unusedAfter is how long nobody has asked for a document that is no
	// longer looked after.
	unusedAfter = 7 * 24 * time.Hour
	// partialAgain is when a document that misses parts is made again.
	partialAgain = 20 * time.Second
	// noteEvery is how often a record is rewritten only for its times.
	noteEvery = time.Hour
	// hastenEvery is how often a document is looked at for a caller's sake.
	hastenEvery = time.Minute
)

// errPending: the first copy is still on its way.
var errPending = errors.New("it is still being fetched")

// document is something that is made of upstream's files: the last good one is
// kept, refreshed in the background by one flight at a time.
type document[T any] struct {
	u        *Upstream
	key      string
	interval time.Duration
	// build makes the document of files that it gets from the session. It is
	// the same for upstream's files and for those on disk.
	build func(s *session) (*T, error)
	// evictable documents leave memory when many others are in use.
	evictable bool

	mu      sync.Mutex
	value   *T
	rec     *record // on disk; nil if nothing is
	checked time.Time
	noted   time.Time
	used    time.Time
	err     error // of the last try; nil after a good one
	fails   int
	next    time.Time // no try before
	forced  bool      // ask upstream whatever the times say
	soon    time.Time // the value is good but not whole: ask again then

	// unusable: what rec names could not be loaded.
	unusable bool
	// dirty: value is newer than rec, as the disk did not take it.
	dirty bool
	// unwanted: the value is to leave memory as soon as it is on disk.
	unwanted bool

	flight chan struct{} // closed when the flight ends
	landed chan struct{} // closed when it has brought what it brings, which may not be on disk yet
}

// seen is what is known of a document besides its value.
type seen struct {
	checked time.Time
	stale   bool
}

// adopt takes over a record read at start.
func (d *document[T]) adopt(r *record) {
	d.rec, d.checked, d.noted, d.used = r, r.Checked, r.Checked, r.Used
}

// due tells whether upstream should be asked. Clocks jump: a time that lies
// in the future counts for nothing.
func (d *document[T]) due(now time.Time) bool {
	if d.forced {
		return true
	}
	if d.next.After(now) && d.next.Sub(now) <= 2*maxBackoff {
		return false
	}
	if !d.soon.IsZero() && !now.Before(d.soon) {
		return true
	}
	age := now.Sub(d.checked)
	return d.err != nil || d.checked.IsZero() || age < -time.Minute || age >= d.interval
}

// get returns the value at once if there is one, however old, and sees to its
// renewal. Else it waits until ctx ends for the first.
func (d *document[T]) get(ctx context.Context) (*T, seen, error) {
	d.mu.Lock()
	now := d.u.o.Now()
	d.used, d.unwanted = now, false
	for d.value == nil {
		if d.flight == nil {
			if d.lost() && !d.due(now) {
				err, pause := d.err, d.next.Sub(now)
				d.mu.Unlock()
				if !pauseWithin(ctx, pause) {
					return nil, seen{}, err
				}
				d.mu.Lock()
				now = d.u.o.Now()
				continue
			}
			if !d.start() {
				d.mu.Unlock()
				return nil, seen{}, errClosed
			}
		}
		landed := d.landed
		if landed == nil { // it brought nothing, and is about to end
			landed = d.flight
		}
		d.mu.Unlock()
		select {
		case <-landed:
		case <-ctx.Done():
			return nil, seen{}, errPending
		}
		d.mu.Lock()
		if d.value == nil && d.lost() {
			err := d.err
			d.mu.Unlock()
			return nil, seen{}, err
		}
	}
	if d.flight == nil && d.due(now) {
		d.start()
	}
	value, s := d.value, d.seen(now)
	d.mu.Unlock()
	if d.evictable {
		d.u.touch(d.key, d)
	}
	return value, s, nil
}

// pauseWithin waits for d, or returns false at once if ctx ends before.
func pauseWithin(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lost tells that there is nothing to hope for until the next try.
func (d *document[T]) lost() bool {
	return d.err != nil && (d.rec == nil || d.unusable)
}

func (d *document[T]) seen(now time.Time) seen {
	age := now.Sub(d.checked)
	return seen{checked: d.checked, stale: d.err != nil || age > 2*d.interval || age < -time.Minute}
}

// fresh is get for background work: it waits for a flight that is due, or that
// is forced, and falls back to what is held. Without an error there is a value.
func (d *document[T]) fresh(ctx context.Context, force bool) (*T, seen, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.u.o.Now()
	d.forced = d.forced || force
	// One flight may only load what is on disk: then another one is due. None
	// follows one that failed.
	for first := true; ; first = false {
		again := first || d.err == nil || d.forced
		if d.flight == nil && (again && d.due(now) || d.value == nil && !d.lost()) && !d.start() {
			return nil, seen{}, errClosed
		}
		if d.flight == nil {
			break
		}
		flight := d.flight
		d.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			d.mu.Lock()
			return nil, seen{}, context.Cause(ctx)
		}
		d.mu.Lock()
	}
	if d.value == nil {
		return nil, seen{}, d.err
	}
	return d.value, d.seen(now), nil
}

// start begins a flight; d.mu is held. It is false once the upstream is closed.
func (d *document[T]) start() bool {
	flight := make(chan struct{})
	if !d.u.spawn(func() {
		d.fly(d.u.ctx)
		d.mu.Lock()
		d.flight = nil
		d.land()
		d.forget()
		d.mu.Unlock()
		close(flight)
	}) {
		return false
	}
	d.flight, d.landed = flight, make(chan struct{})
	return true
}

// settle waits for the end of the flight under way, if there is one.
func (d *document[T]) settle() {
	d.mu.Lock()
	flight := d.flight
	d.mu.Unlock()
	if flight != nil {
		<-flight
	}
}

// land lets those go on who wait for the value; d.mu is held.
func (d *document[T]) land() {
	if d.landed != nil {
		close(d.landed)
		d.landed = nil
	}
}

// fly loads what is on disk if nothing is in memory, else asks upstream.
func (d *document[T]) fly(ctx context.Context) {
	d.mu.Lock()
	value, rec := d.value, d.rec
	d.mu.Unlock()
	if value == nil && rec != nil {
		s := &session{ctx: ctx, u: d.u, old: rec, offline: true}
		value, err := d.build(s)
		d.mu.Lock()
		if err == nil {
			d.value, d.unusable, d.unwanted = value, false, false
			d.mu.Unlock()
			if d.evictable {
				d.u.touch(d.key, d)
			}
			return
		}
		d.unusable = true
		d.mu.Unlock()
		d.u.o.Log.Warn("what is held of upstream's data cannot be used", "document", d.key, "error", err)
	}
	s := &session{ctx: ctx, u: d.u, old: rec}
	fresh, err := d.build(s)
	if ctx.Err() != nil {
		err = errClosed
	}
	if rec, changed := d.take(s, fresh, err); rec != nil {
		d.keep(s, rec, changed)
	}
}

// take puts the result of a flight to upstream in force. What it returns has
// to be kept on disk.
func (d *document[T]) take(s *session, fresh *T, err error) (rec *record, changed bool) {
	now := d.u.o.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.land()
	d.forced = false
	if err != nil {
		d.err = err
		d.fails++
		d.next = now.Add(backoff(d.fails))
		switch {
		case errors.Is(err, errClosed):
		case errors.Is(err, errAbsent) && d.value == nil:
			d.u.o.Log.Debug("upstream does not have it", "document", d.key)
		default:
			d.u.o.Log.Warn("upstream's data could not be renewed", "document", d.key, "failures", d.fails, "held", d.value != nil, "error", err)
		}
		return nil, false
	}
	d.err, d.fails, d.next, d.soon = nil, 0, time.Time{}, time.Time{}
	if s.partial {
		d.soon = now.Add(partialAgain)
	}
	d.checked = now
	d.value, d.unusable = fresh, false
	if len(s.files) == 0 && len(s.absent) == 0 {
		return nil, false // a document made of others
	}
	rec = s.record(d.key)
	rec.Checked, rec.Used = now, d.used
	return rec, d.rec == nil || s.changed()
}

// keep writes a record. Only flights call it, and there is one at a time:
// nobody waits for the disk.
func (d *document[T]) keep(s *session, rec *record, changed bool) {
	age := rec.Checked.Sub(d.noted)
	var err error
	switch {
	case changed:
		err = d.u.state.commit(s.old, rec)
	case age >= noteEvery || age < 0:
		err = d.u.state.note(rec)
	}
	if err != nil {
		d.u.o.Log.Error("upstream's data could not be kept on disk", "document", d.key, "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if changed {
		if d.dirty = err != nil; d.dirty {
			return
		}
	}
	if changed || age >= noteEvery || age < 0 {
		d.noted = rec.Checked
	}
	for _, f := range rec.Files {
		f.data = nil
	}
	d.rec = rec
}

// renew starts a flight if one is due and somebody cared lately. Of what is
// only on disk the first flight loads it and the next one renews it.
func (d *document[T]) renew(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.used) <= unusedAfter && d.flight == nil && d.due(now) {
		d.start()
	}
}

// hasten starts a flight although none is due, unless the last one failed or
// has only just been.
func (d *document[T]) hasten() {
	d.mu.Lock()
	defer d.mu.Unlock()
	age := d.u.o.Now().Sub(d.checked)
	if d.flight == nil && d.err == nil && (age < 0 || age >= hastenEvery) {
		d.forced = true
		d.start()
	}
}

// drop forgets the value if it can be loaded again.
func (d *document[T]) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unwanted = true
	d.forget()
}

// lastUse tells when somebody last asked for a document that is on disk, and
// the bytes it takes there.
func (d *document[T]) lastUse() (used time.Time, size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rec == nil {
		return d.used, 0
	}
	return d.used, d.rec.size()
}

// shed drops the document from memory and from disk, unless it is in flight.
func (d *document[T]) shed() {
	d.mu.Lock() // held to the end, so that no flight writes what is being removed
	defer d.mu.Unlock()
	if d.flight != nil || d.rec == nil {
		return
	}
	if err := d.u.state.drop(d.rec); err != nil {
		d.u.o.Log.Warn("upstream's data that nobody uses could not be removed", "document", d.key, "error", err)
		return
	}
	d.u.o.Log.Info("upstream's data that nobody uses dropped", "document", d.key, "used", d.used)
	d.value, d.rec = nil, nil
	d.checked, d.noted, d.used, d.soon = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	d.unusable, d.dirty = false, false
}

// forget drops an unwanted value that is on disk; d.mu is held.
func (d *document[T]) forget() {
	if d.unwanted && d.rec != nil && d.flight == nil && !d.dirty {
		d.value = nil
	}
}

// backoff grows with the number of failures in a row, with jitter so that
// documents do not come back all at once.
func backoff(fails int) time.Duration {
	wait := maxBackoff
	if fails < 10 {
		wait = min(firstBackoff<<(fails-1), maxBackoff)
	}
	return wait*3/4 + rand.N(wait/2)
}

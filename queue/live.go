package queue

import (
	"slices"
	"sync"
	"time"

	"attendant/imagebuilder"
)

// Bounds of what is kept of a running build's output for those who follow it.
const (
	liveLines   = 2000
	liveBytes   = 256 << 10
	liveLineMax = 8 << 10 // bytes of one line
)

// EventKind says what an Event tells.
type EventKind string

// The kinds of events.
const (
	EventState    EventKind = "state"    // Status: state or position have changed; the last one is the outcome
	EventStage    EventKind = "stage"    // Stage has begun
	EventProgress EventKind = "progress" // Status: Done and Total have changed
	EventLine     EventKind = "line"     // Line was printed
)

// Event is something that happened to a job.
type Event struct {
	Kind   EventKind
	Status Status             // of EventState and EventProgress
	Stage  imagebuilder.Stage // of EventStage
	Line   string             // of EventLine
	Missed int                // events that were dropped before this one: the build was faster than the follower, or they are too long ago
}

// item is a stage or a line in the log.
type item struct {
	stage imagebuilder.Stage
	line  string
}

func (i item) size() int { return len(i.line) + len(i.stage) + 32 }

// live is what a job says while it is on its way. It is the Reporter of the
// job's build, whom no follower can hold up.
type live struct {
	mu       sync.Mutex
	items    []item
	first    uint64 // number of items[0]
	bytes    int
	stage    imagebuilder.Stage
	done     int64
	total    int64
	told     int64 // done when followers were last woken for progress
	stages   []imagebuilder.StageTime
	since    time.Time // when the stage began; monotonic
	ended    bool
	follower map[chan struct{}]struct{}
}

func newLive() *live { return &live{follower: map[chan struct{}]struct{}{}} }

// wake rings for all followers.
func (l *live) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring()
}

func (l *live) ring() {
	for bell := range l.follower {
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}

func (l *live) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setStage(imagebuilder.StageInit)
}

// reset forgets how far a build came that was cut. The log stays.
func (l *live) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stage, l.done, l.total, l.told, l.stages = "", 0, 0, 0, nil
	l.ring()
}

// end tells followers that nothing more will come.
func (l *live) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.ring()
}

// Stage implements imagebuilder.Reporter.
func (l *live) Stage(s imagebuilder.Stage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s != l.stage {
		l.setStage(s)
	}
}

func (l *live) setStage(s imagebuilder.Stage) {
	l.stages = l.stagesUntilNow()
	l.stage, l.since = s, time.Now()
	l.done, l.total, l.told = 0, 0, 0
	l.append(item{stage: s})
}

func (l *live) stagesUntilNow() []imagebuilder.StageTime {
	if l.stage == "" {
		return l.stages
	}
	return append(slices.Clip(l.stages), imagebuilder.StageTime{Stage: l.stage, Duration: time.Since(l.since)})
}

// Progress implements imagebuilder.Reporter. Followers are woken for each
// hundredth of a known total and each MiB otherwise.
func (l *live) Progress(done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done, l.total = done, total
	step := total / 100
	if total <= 0 {
		step = 1 << 20
	}
	if done-l.told >= step || done < l.told || done == total {
		l.told = done
		l.ring()
	}
}

// Line implements imagebuilder.Reporter.
func (l *live) Line(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(item{line: line[:min(len(line), liveLineMax)]})
}

func (l *live) append(i item) {
	l.items = append(l.items, i)
	l.bytes += i.size()
	for len(l.items) > liveLines || l.bytes > liveBytes {
		l.bytes -= l.items[0].size()
		l.items[0] = item{}
		l.items = l.items[1:]
		l.first++
	}
	l.ring()
}

func (l *live) progress() (stage imagebuilder.Stage, done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stage, l.done, l.total
}

// stageTimes returns how long each stage took, the current one until now.
func (l *live) stageTimes() []imagebuilder.StageTime {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stagesUntilNow()
}

func (l *live) inStage() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.since)
}

// read returns up to 64 items from number next on, and how many before them
// are gone.
func (l *live) read(next uint64) (items []item, missed int, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next < l.first {
		missed = int(l.first - next)
		next = l.first
	}
	from := int(next - l.first)
	items = slices.Clone(l.items[from:min(from+64, len(l.items))])
	return items, missed, l.ended
}

func (l *live) follow() chan struct{} {
	bell := make(chan struct{}, 1)
	bell <- struct{}{}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.follower[bell] = struct{}{}
	return bell
}

func (l *live) unfollow(bell chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.follower, bell)
}

// Subscribe follows a job: first its state and what it said so far, then what
// happens, until its outcome, after which events is closed. For an outcome
// there is the one event. A follower who is slow misses lines and never holds
// up the build. stop must be called, and ends it. ok is false when there is
// no such job. When the queue stops, events is closed without an outcome.
func (q *Queue) Subscribe(hash string) (events <-chan Event, stop func(), ok bool) {
	q.mu.Lock()
	e := q.active[hash]
	q.mu.Unlock()
	ch := make(chan Event, 16)
	if e == nil {
		status, found := q.Lookup(hash)
		if !found {
			return nil, func() {}, false
		}
		ch <- Event{Kind: EventState, Status: status}
		close(ch)
		return ch, func() {}, true
	}
	stopped := make(chan struct{})
	ended := make(chan struct{})
	bell := e.live.follow()
	go func() {
		defer close(ended)
		defer close(ch)
		defer e.live.unfollow(bell)
		q.tell(e, ch, bell, stopped)
	}()
	return ch, sync.OnceFunc(func() { close(stopped); <-ended }), true
}

// tell sends a job's events until its outcome or until stopped is closed.
func (q *Queue) tell(e *entry, ch chan<- Event, bell, stopped <-chan struct{}) {
	send := func(event Event) bool {
		select {
		case ch <- event:
			return true
		case <-stopped:
			return false
		}
	}
	var next uint64
	var last Status
	for {
		select {
		case <-bell:
		case <-stopped:
			return
		}
		for {
			items, missed, ended := e.live.read(next)
			q.mu.Lock()
			status, final := q.status(e), e.final != nil
			q.mu.Unlock()
			if !final && (last.Job == nil || status.Job.State != last.Job.State || status.Position != last.Position) {
				if !send(Event{Kind: EventState, Status: status}) {
					return
				}
			} else if !final && status.Stage == last.Stage && (status.Done != last.Done || status.Total != last.Total) {
				if !send(Event{Kind: EventProgress, Status: status}) {
					return
				}
			}
			last = status
			next += uint64(missed + len(items))
			for _, i := range items {
				event := Event{Kind: EventLine, Line: i.line, Missed: missed}
				if i.stage != "" {
					event = Event{Kind: EventStage, Stage: i.stage, Missed: missed}
				}
				missed = 0
				if !send(event) {
					return
				}
			}
			if len(items) > 0 {
				continue
			}
			if ended {
				if final {
					send(Event{Kind: EventState, Status: status})
				}
				return
			}
			break
		}
	}
}

package queue

import (
	"slices"
	"time"

	"attendant/store"
)

// history tells from past builds how long the next will take and how much
// room its images need. Queue.mu guards it.
type history struct {
	builds  map[string][]store.Build // by target, oldest first
	took    map[string]time.Duration // medians
	overall time.Duration            // median over the targets; 0 for none
}

// historyLength is as many builds as the store keeps of a target.
const historyLength = 20

func newHistory(builds map[string][]store.Build) *history {
	h := &history{builds: builds, took: map[string]time.Duration{}}
	for target := range builds {
		h.update(target)
	}
	return h
}

func (h *history) add(target string, b store.Build) {
	builds := append(h.builds[target], b)
	h.builds[target] = builds[max(0, len(builds)-historyLength):]
	h.update(target)
}

func (h *history) update(target string) {
	var took []time.Duration
	for _, b := range h.builds[target] {
		took = append(took, b.Took)
	}
	h.took[target] = median(took)
	all := make([]time.Duration, 0, len(h.took))
	for _, d := range h.took {
		all = append(all, d)
	}
	h.overall = median(all)
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// expect returns how long a build of target will probably take; 0 is unknown.
func (h *history) expect(target string) time.Duration {
	if d := h.took[target]; d > 0 {
		return d
	}
	return h.overall
}

// space returns how many bytes to reserve for an image set of target: what
// the largest of the last ones took and a quarter more.
func (h *history) space(target string, otherwise int64) int64 {
	var largest int64
	for _, b := range h.builds[target] {
		largest = max(largest, b.Disk)
	}
	if largest == 0 {
		return otherwise
	}
	return largest + largest/4
}

// remaining estimates how long a building job will still take; q.mu is held.
func (q *Queue) remaining(e *entry) time.Duration {
	d := q.history.expect(e.job.Request.Target)
	// A build that takes longer than others did is soon over, one hopes.
	return max(d-time.Since(e.began), d/10)
}

// wait estimates how long it takes until the job at a place among those
// waiting is finished; q.mu is held.
func (q *Queue) wait(place int) time.Duration {
	if place >= len(q.waiting) {
		return 0
	}
	var last time.Duration
	q.simulate(q.waiting[:place+1], func(_ int, finished time.Duration) { last = finished })
	return last
}

// waits estimates it for all that wait; q.mu is held.
func (q *Queue) waits() []time.Duration {
	waits := make([]time.Duration, len(q.waiting))
	q.simulate(q.waiting, func(i int, finished time.Duration) { waits[i] = finished })
	return waits
}

// simulate lets the workers take the jobs of a line one after the other.
func (q *Queue) simulate(line []*entry, finished func(int, time.Duration)) {
	if q.history.overall == 0 {
		return
	}
	busy := make([]time.Duration, max(q.o.Workers, len(q.building)))
	for i, e := range q.building {
		busy[i] = q.remaining(e)
	}
	for at, e := range line {
		next := 0
		for i := range busy {
			if busy[i] < busy[next] {
				next = i
			}
		}
		busy[next] += q.history.expect(e.job.Request.Target)
		finished(at, busy[next])
	}
}

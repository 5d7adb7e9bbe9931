package queue

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

// modelJob is a job in the model of the queue.
type modelJob struct {
	name     string
	seq      uint64
	state    imagebuilder.State
	attempts int
	code     imagebuilder.Code
	failed   time.Time
	until    time.Time // forgotten then
	retry    time.Time // may be queued again then
}

// TestQueueAgainstAModel does random things to a queue with one worker and to
// a plain list, with restarts and crashes in between, and compares.
func TestQueueAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		inBubble(t, rt, checkAgainstModel)
	})
}

func checkAgainstModel(outer *testing.T, t *rapid.T) {
	const limit = 4
	f := newFixture(outer, Options{Limit: limit})
	outcome := make(chan imagebuilder.Code)
	f.b.set(func(r *running) (setSize, error) {
		select {
		case code := <-outcome:
			if code != "" {
				return 0, imagebuilder.Errorf(code, "It failed.")
			}
			return 100, nil
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	})
	f.open().run()

	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	name := rapid.SampledFrom(names)
	jobs := map[string]*modelJob{}
	var line []*modelJob // building first, then those that wait
	seq := uint64(0)
	begin := func() {
		if len(line) > 0 && line[0].state == imagebuilder.Queued {
			line[0].state = imagebuilder.Building
			line[0].attempts++
		}
	}
	waiting := func() int {
		if len(line) > 0 && line[0].state == imagebuilder.Building {
			return len(line) - 1
		}
		return len(line)
	}
	leave := func(j *modelJob) {
		line = slices.DeleteFunc(line, func(other *modelJob) bool { return other == j })
	}
	fail := func(j *modelJob, code imagebuilder.Code) {
		leave(j)
		j.state, j.code, j.failed = imagebuilder.Failed, code, time.Now()
		j.until, j.retry = j.failed.Add(time.Hour), j.failed.Add(time.Hour)
		if code.Transient() {
			j.retry = j.failed.Add(time.Minute)
		}
	}
	// restarted is what becomes of failures.
	restarted := func() {
		for _, j := range jobs {
			if j.state != imagebuilder.Failed {
				continue
			}
			if !time.Now().Before(j.until) {
				continue
			}
			j.until = time.Now().Add(max(time.Hour-time.Since(j.failed), 5*time.Minute))
			j.retry = j.until
			if j.code.Transient() {
				j.retry = time.Now()
			}
		}
	}
	expire := func() {
		for n, j := range jobs {
			if j.state == imagebuilder.Failed && !time.Now().Before(j.until) {
				delete(jobs, n)
			}
		}
	}

	t.Repeat(map[string]func(*rapid.T){
		"submit": func(t *rapid.T) {
			n := name.Draw(t, "name")
			j := jobs[n]
			fresh := j == nil || j.state == imagebuilder.Failed && !time.Now().Before(j.retry)
			s, err := f.submit(n)
			if fresh && waiting() >= limit {
				if code(err) != imagebuilder.CodeQueueFull {
					t.Fatalf("the queue is full: %v", err)
				}
				return
			}
			if err != nil || s.New != fresh {
				t.Fatalf("submitting %s: new %t, %v; want new %t", n, s.New, err, fresh)
			}
			if !fresh {
				return
			}
			seq++
			jobs[n] = &modelJob{name: n, seq: seq, state: imagebuilder.Queued}
			line = append(line, jobs[n])
			synctest.Wait()
			begin()
		},
		"done": func(t *rapid.T) {
			if len(line) == 0 {
				t.Skip("nothing is built")
			}
			outcome <- ""
			synctest.Wait()
			line[0].state = imagebuilder.Done
			line = line[1:]
			begin()
		},
		"fail": func(t *rapid.T) {
			if len(line) == 0 {
				t.Skip("nothing is built")
			}
			c := rapid.SampledFrom([]imagebuilder.Code{imagebuilder.CodeImageTooBig, imagebuilder.CodeNoNetwork}).Draw(t, "code")
			outcome <- c
			synctest.Wait()
			fail(line[0], c)
			begin()
		},
		"cancel": func(t *rapid.T) {
			n := name.Draw(t, "name")
			err := f.q.Cancel(hashOf(n))
			synctest.Wait()
			j := jobs[n]
			if on := slices.Contains(line, j); on != (err == nil) {
				t.Fatalf("canceling %s: %v; on its way: %t", n, err, on)
			}
			if err == nil {
				fail(j, imagebuilder.CodeCanceled)
				begin()
			}
		},
		"wait": func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.SampledFrom([]int{1, 2, 25, 61}).Draw(t, "minutes")) * time.Minute)
			synctest.Wait()
			expire()
		},
		"vanish": func(t *rapid.T) {
			j := jobs[name.Draw(t, "name")]
			if j == nil || j.state != imagebuilder.Done {
				t.Skip("no images")
			}
			if err := os.RemoveAll(filepath.Join(f.dir, "images", hashOf(j.name))); err != nil {
				t.Fatal(err)
			}
			delete(jobs, j.name)
		},
		"restart": func(t *rapid.T) {
			f.restart()
			f.run()
			synctest.Wait()
			if len(line) > 0 {
				line[0].state = imagebuilder.Queued
				line[0].attempts--
			}
			restarted()
			begin()
		},
		"crash": func(t *rapid.T) {
			f.crash()
			f.run()
			synctest.Wait()
			restarted()
			if len(line) > 0 {
				line[0].state = imagebuilder.Queued
				if line[0].attempts >= 3 {
					fail(line[0], imagebuilder.CodeCrashed)
				}
			}
			begin()
		},
		"": func(t *rapid.T) {
			var queued []string
			for _, j := range line {
				if j.state == imagebuilder.Queued {
					queued = append(queued, j.name)
				}
			}
			if got := f.waiting(); got != strings.Join(queued, " ") {
				t.Fatalf("%q wait, in the model %q", got, queued)
			}
			for _, n := range names {
				s, found := f.q.Lookup(hashOf(n))
				j := jobs[n]
				if found != (j != nil) {
					t.Fatalf("%s: %s; in the model %+v", n, describe(s), j)
				}
				if !found {
					continue
				}
				if s.Job.State != j.state || s.Job.Seq != j.seq || s.Job.Attempts != j.attempts {
					t.Fatalf("%s: %s, %+v; in the model %+v", n, describe(s), s.Job, j)
				}
				if j.state == imagebuilder.Failed && s.Job.Failure.Code != j.code {
					t.Fatalf("%s: %s; in the model %s", n, describe(s), j.code)
				}
				if position := slices.Index(queued, n) + 1; s.Position != position {
					t.Fatalf("%s: %s; in the model at %d", n, describe(s), position)
				}
			}
		},
	})
	f.check(f.db)
}

// inBubble runs one check of a property in a bubble of its own. rapid ends a
// check by a panic, which must not leave the bubble's goroutine.
func inBubble(outer *testing.T, t *rapid.T, check func(*testing.T, *rapid.T)) {
	var ended any
	synctest.Test(outer, func(inner *testing.T) {
		defer func() { ended = recover() }()
		check(inner, t)
	})
	if ended != nil {
		panic(ended)
	}
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

// bubble runs a test with a queue on its own clock.
func bubble(t *testing.T, o Options, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newFixture(t, o)) })
}

func TestARequestIsBuilt(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(takes(time.Minute))
		f.open()
		s, err := f.submit("a")
		if err != nil || !s.New || s.Position != 1 || s.Job.State != imagebuilder.Queued || s.Job.Seq != 1 || s.Keep != nil {
			f.Fatalf("%+v, %v", s, err)
		}
		f.run()
		synctest.Wait()
		s = f.is("a", imagebuilder.Building)
		if s.Job.Attempts != 1 || s.Stage != imagebuilder.StageInit || s.Position != 0 {
			f.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s = f.is("a", imagebuilder.Done)
		job := s.Job
		if job.Images.ID != "a" || job.FinishedAt.Sub(job.StartedAt) != time.Minute || len(job.Stages) != 2 || job.Stages[1].Stage != imagebuilder.StageCommit {
			f.Errorf("%+v", job)
		}
		h, err := f.cache.Open(hashOf("a"), "image.bin")
		if err != nil {
			f.Fatal(err)
		}
		h.Close()

		// The outcome is one object, and so is what is kept beside it.
		s.Keep.Store("rendered")
		again, err := f.submit("a")
		if err != nil || again.New || again.Job != job || again.Keep.Load() != "rendered" || f.b.order() != "a" {
			f.Errorf("%+v, %v", again, err)
		}
		f.restart()
		s = f.is("a", imagebuilder.Done)
		if s.Job.Images.ID != "a" {
			f.Errorf("%+v", s.Job)
		}
		if twice := f.is("a", imagebuilder.Done); twice.Job != s.Job {
			f.Error("read twice from the store")
		}
	})
}

func TestFiftyRequestsOneBuild(t *testing.T) {
	bubble(t, Options{Workers: 3}, func(f *fixture) {
		f.b.set(takes(time.Minute))
		f.open().run()
		all := func() (queued int) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range 50 {
				wg.Go(func() {
					s, err := f.submit("a")
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						f.Error(err)
					}
					if s.New {
						queued++
					}
				})
			}
			wg.Wait()
			return queued
		}
		if n := all(); n != 1 {
			f.Errorf("%d of them queued it", n)
		}
		synctest.Wait()
		f.is("a", imagebuilder.Building)
		if n := all(); n != 0 {
			f.Errorf("%d of them queued it while it was built", n)
		}
		time.Sleep(2 * time.Minute)
		if n := all(); n != 0 {
			f.Errorf("%d of them queued it when it was done", n)
		}
		if f.b.order() != "a" {
			f.Errorf("built: %s", f.b.order())
		}
	})
}

func TestFirstInFirstOutOverRestartsAndClocks(t *testing.T) {
	wall := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	bubble(t, Options{Now: func() time.Time { return wall }}, func(f *fixture) {
		f.open()
		f.mustSubmit("c", "a")
		f.restart()
		wall = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
		f.mustSubmit("d")
		f.mustSubmit("b")
		f.restart()
		wall = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
		f.mustSubmit("e", "a")
		if got := f.waiting(); got != "c a d b e" {
			f.Errorf("waiting: %s", got)
		}
		if s := f.is("b", imagebuilder.Queued); s.Position != 4 {
			f.Errorf("position %d", s.Position)
		}
		f.run()
		synctest.Wait()
		if got := f.b.order(); got != "c a d b e" {
			f.Errorf("built: %s", got)
		}
	})
}

func TestSequenceNumbersAreNotReused(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open()
		f.mustSubmit("a", "b")
		if err := f.q.Cancel(hashOf("b")); err != nil {
			f.Fatal(err)
		}
		f.restart()
		s, err := f.submit("c")
		if err != nil || s.Job.Seq != 3 {
			f.Errorf("%+v, %v", s.Job, err)
		}
	})
}

func TestTheQueueHasALimit(t *testing.T) {
	bubble(t, Options{Limit: 3}, func(f *fixture) {
		f.open()
		f.mustSubmit("a", "b", "c")
		if _, err := f.submit("d"); code(err) != imagebuilder.CodeQueueFull || !strings.Contains(err.Error(), "3 images waiting") {
			f.Errorf("error: %v", err)
		}
		f.mustSubmit("b")
		f.is("d", "")
		f.b.set(takes(time.Hour))
		f.run()
		synctest.Wait()
		f.mustSubmit("d")
		if _, err := f.q.Submit(context.Background(), "short", request("x"), imagebuilder.Generation{}); code(err) != imagebuilder.CodeInternal {
			f.Errorf("a hash that is none: %v", err)
		}
		if waiting, building := f.q.Length(); waiting != 3 || building != 1 {
			f.Errorf("%d waiting, %d building", waiting, building)
		}
	})
}

func TestFailuresAreRemembered(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarts=%t", restarts), func(t *testing.T) {
			bubble(t, Options{}, func(f *fixture) {
				f.b.set(fails(imagebuilder.CodeImageTooBig))
				f.open().run()
				f.mustSubmit("a")
				synctest.Wait()
				job := f.failedWith("a", imagebuilder.CodeImageTooBig)
				if job.Stages[0].Stage != imagebuilder.StageInit || job.Failure.Detail != "It failed." {
					f.Errorf("%+v", job)
				}
				time.Sleep(30 * time.Minute)
				if restarts {
					f.restart()
					f.run()
				}
				time.Sleep(25 * time.Minute)
				s, err := f.submit("a")
				if err != nil || s.New || s.Job.State != imagebuilder.Failed {
					f.Errorf("%s, %v", describe(s), err)
				}
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				f.is("a", "")
				if _, err := f.db.Job(hashOf("a")); !errors.Is(err, store.ErrNotFound) {
					f.Errorf("the failure is still stored: %v", err)
				}
				s, err = f.submit("a")
				if err != nil || !s.New {
					f.Errorf("%s, %v", describe(s), err)
				}
			})
		})
	}
}

func TestTransientFailuresMayBeTriedAgainSoon(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(fails(imagebuilder.CodeNoNetwork))
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		time.Sleep(50 * time.Second)
		if s, err := f.submit("a"); err != nil || s.New {
			f.Errorf("%s, %v", describe(s), err)
		}
		time.Sleep(15 * time.Second)
		f.failedWith("a", imagebuilder.CodeNoNetwork) // who polls still learns of it
		f.b.set(nil)
		s, err := f.submit("a")
		if err != nil || !s.New || s.Job.Seq != 2 || s.Job.Attempts != 0 {
			f.Errorf("%s, %v", describe(s), err)
		}
		synctest.Wait()
		f.is("a", imagebuilder.Done)
		time.Sleep(2 * time.Hour) // the old failure's end changes nothing
		f.is("a", imagebuilder.Done)
	})
}

func TestRememberedFailuresSurviveAClockJump(t *testing.T) {
	for _, year := range []int{1970, 2056} {
		t.Run(fmt.Sprint(year), func(t *testing.T) {
			wall := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			bubble(t, Options{Now: func() time.Time { return wall }}, func(f *fixture) {
				f.b.set(fails(imagebuilder.CodeImageTooBig))
				f.open().run()
				f.mustSubmit("a")
				synctest.Wait()
				wall = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
				time.Sleep(10 * time.Minute)
				f.failedWith("a", imagebuilder.CodeImageTooBig)
				f.restart()
				f.run()
				time.Sleep(4 * time.Minute)
				f.failedWith("a", imagebuilder.CodeImageTooBig)
				time.Sleep(time.Hour)
				f.is("a", "")
			})
		})
	}
}

func TestRememberedFailuresAreBounded(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(fails(imagebuilder.CodeImageTooBig))
		f.open()
		for i := range 20 {
			f.mustSubmit(fmt.Sprint(i))
		}
		f.run()
		synctest.Wait()
		f.q.mu.Lock()
		template := *f.q.failures[hashOf("0")]
		for i := range maxFailures - 10 {
			fake := template
			fake.record.Seq = uint64(1000 + i)
			f.q.failures[hashOf(fmt.Sprint("fake", i))] = &fake
		}
		f.q.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		f.is("9", "")
		f.failedWith("10", imagebuilder.CodeImageTooBig)
		f.q.mu.Lock()
		defer f.q.mu.Unlock()
		if len(f.q.failures) != maxFailures {
			f.Errorf("%d failures are remembered", len(f.q.failures))
		}
	})
}

func TestARefusedRequestIsRememberedWithoutAWrite(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		reason := imagebuilder.Errorf(imagebuilder.CodePackageMissing, "Impossible package selection: missing (x)")
		reason.Unknown = []string{"x"}
		s := f.q.Refuse(hashOf("a"), request("a"), imagebuilder.Generation{}, reason)
		if s.Job.State != imagebuilder.Failed || s.Keep == nil {
			f.Errorf("%+v", s)
		}
		job := f.failedWith("a", imagebuilder.CodePackageMissing)
		if len(job.Failure.Unknown) != 1 || job != s.Job {
			f.Errorf("%+v", job.Failure)
		}
		if s, err := f.submit("a"); err != nil || s.New || s.Job != job {
			f.Errorf("%s, %v", describe(s), err)
		}
		if _, err := f.db.Job(hashOf("a")); !errors.Is(err, store.ErrNotFound) {
			f.Errorf("it was stored: %v", err)
		}
		time.Sleep(61 * time.Minute)
		f.is("a", "")

		// A flood of them is bounded and takes nothing else out of memory.
		f.mustSubmit("b")
		synctest.Wait()
		done := f.is("b", imagebuilder.Done).Job
		for i := range 3000 {
			f.q.Refuse(hashOf(fmt.Sprint(i)), request("x"), imagebuilder.Generation{}, reason)
		}
		if n := f.q.refused.lru.Len(); n > refusedSize/2048 {
			f.Errorf("%d refused requests in memory", n)
		}
		if s := f.is("b", imagebuilder.Done); s.Job != done {
			f.Error("the flood displaced an outcome")
		}

		// What is on its way goes on.
		f.b.set(takes(time.Minute))
		f.mustSubmit("c")
		if s := f.q.Refuse(hashOf("c"), request("c"), imagebuilder.Generation{}, reason); s.Job.State == imagebuilder.Failed {
			f.Errorf("%s", describe(s))
		}
	})
}

func TestVanishedImagesAreBuiltAnew(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		f.mustSubmit("a", "b")
		synctest.Wait()
		f.is("a", imagebuilder.Done)
		if err := os.RemoveAll(filepath.Join(f.dir, "images", hashOf("a"))); err != nil {
			f.Fatal(err)
		}
		f.is("a", "")
		s, err := f.submit("a")
		if err != nil || !s.New {
			f.Errorf("%s, %v", describe(s), err)
		}
		if err := f.cache.Drop(hashOf("b")); err != nil {
			f.Fatal(err)
		}
		f.is("b", "")
		synctest.Wait()
		f.is("a", imagebuilder.Done)
		if got := f.b.order(); got != "a b a" {
			f.Errorf("built: %s", got)
		}
	})
}

func TestCancel(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(takes(time.Hour))
		f.open().run()
		f.mustSubmit("building", "first", "second", "third")
		synctest.Wait()
		if err := f.q.Cancel(hashOf("second")); err != nil {
			f.Fatal(err)
		}
		f.failedWith("second", imagebuilder.CodeCanceled)
		if got := f.waiting(); got != "first third" {
			f.Errorf("waiting: %s", got)
		}
		for _, name := range []string{"second", "never"} {
			if err := f.q.Cancel(hashOf(name)); code(err) != imagebuilder.CodeNotFound {
				f.Errorf("%s: %v", name, err)
			}
		}
		for range 2 {
			if err := f.q.Cancel(hashOf("building")); err != nil {
				f.Fatal(err)
			}
		}
		synctest.Wait()
		f.failedWith("building", imagebuilder.CodeCanceled)
		f.is("first", imagebuilder.Building)
		if u := f.cache.Usage(); u.Reserved == 0 {
			f.Errorf("usage: %+v", u)
		}
		f.restart()
		f.failedWith("second", imagebuilder.CodeCanceled)
		if got := f.waiting(); got != "first third" {
			f.Errorf("after a restart: %s", got)
		}
	})
}

func TestExpectedWaits(t *testing.T) {
	bubble(t, Options{Workers: 2}, func(f *fixture) {
		f.b.set(func(r *running) (setSize, error) {
			if strings.HasPrefix(r.name, "quick") {
				return takes(time.Minute)(r)
			}
			return takes(5 * time.Minute)(r)
		})
		f.open().run()
		submit := func(name, target string) {
			req := request(name)
			req.Target = target
			if _, err := f.q.Submit(context.Background(), hashOf(name), req, imagebuilder.Generation{}); err != nil {
				f.Fatal(err)
			}
		}
		submit("quick", "x86/64")
		submit("slow", "ath79/generic")
		synctest.Wait()
		if s := f.is("slow", imagebuilder.Building); s.Wait != 0 {
			f.Errorf("without a history: %v", s.Wait)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()

		submit("slow1", "ath79/generic") // both workers are busy
		submit("quick1", "x86/64")
		time.Sleep(30 * time.Second)
		submit("quick2", "x86/64")     // after quick1
		submit("slow2", "ath79/nand")  // unknown target: the overall median
		submit("quick3", "x86/64")     // after slow1
		submit("slow3", "ath79/nand2") // after quick3 on the one, slow2 on the other
		for name, want := range map[string]time.Duration{
			"slow1": 270 * time.Second, "quick1": 30 * time.Second, "quick2": 90 * time.Second,
			"slow2": 390 * time.Second, "quick3": 330 * time.Second, "slow3": 630 * time.Second,
		} {
			s, _ := f.q.Lookup(hashOf(name))
			if s.Wait != want {
				f.Errorf("%s: %v, want %v", name, s.Wait, want)
			}
		}
		snapshot := f.q.Snapshot()
		if len(snapshot.Building) != 2 || len(snapshot.Waiting) != 4 || snapshot.Waiting[3].Wait != 630*time.Second || len(snapshot.Recent) != 2 {
			f.Errorf("%+v", snapshot)
		}
		// History outlives a restart.
		f.restart()
		if s := f.is("slow1", imagebuilder.Queued); s.Wait != 5*time.Minute {
			f.Errorf("after a restart: %v", s.Wait)
		}
	})
}

func TestSnapshotRemembersOverARestart(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		for i := range 60 {
			f.mustSubmit(fmt.Sprint(i))
		}
		synctest.Wait()
		f.b.set(fails(imagebuilder.CodeNoImage))
		f.mustSubmit("last")
		synctest.Wait()
		f.restart()
		f.run()
		f.b.set(nil)
		f.mustSubmit("new")
		synctest.Wait()
		recent := f.q.Snapshot().Recent
		if len(recent) != 50 || recent[0].Profile != "new" || recent[1].Profile != "last" || recent[1].Code != imagebuilder.CodeNoImage || recent[2].Profile != "59" || recent[49].Profile != "12" {
			f.Errorf("%d recent: %+v", len(recent), recent)
		}
	})
}

func TestStatisticsAreCounted(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		f.b.set(fails(imagebuilder.CodeNoImage))
		f.mustSubmit("b")
		synctest.Wait()
		s := f.db.Statistics()
		today := s.Days(1)[0]
		if today.Count(store.Successes) != 1 || today.Count(store.Failures) != 1 {
			f.Errorf("%+v", today)
		}
		lines, err := s.BuildErrors(10)
		if err != nil || len(lines) != 1 || !strings.HasSuffix(lines[0], "24.10.4:ath79/generic:b It failed.") {
			f.Errorf("%q, %v", lines, err)
		}
		if top := s.TopPackages("24.10", 1); len(top) != 1 || top[0].Name != "luci" {
			f.Errorf("%v", top)
		}
	})
}

func TestOptionsMustBeWhole(t *testing.T) {
	if q, err := New(Options{}); err == nil {
		t.Errorf("opened %v", q)
	}
}

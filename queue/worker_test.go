package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"attendant/imagebuilder"
	"attendant/store"
)

func TestABuildThatDiesWithTheServerIsBuiltAgain(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(takes(time.Hour))
		f.open().run()
		f.mustSubmit("killer", "other")
		for attempt := 1; attempt <= 3; attempt++ {
			synctest.Wait()
			s := f.is("killer", imagebuilder.Building)
			if s.Job.Attempts != attempt {
				f.Fatalf("attempt %d, want %d", s.Job.Attempts, attempt)
			}
			f.is("other", imagebuilder.Queued)
			f.crash()
			if attempt < 3 {
				if s := f.is("killer", imagebuilder.Queued); s.Position != 1 {
					f.Errorf("position %d", s.Position)
				}
			}
			f.run()
		}
		synctest.Wait()
		job := f.failedWith("killer", imagebuilder.CodeCrashed)
		if job.Attempts != 3 {
			f.Errorf("%d attempts", job.Attempts)
		}
		f.is("other", imagebuilder.Building)
		if got := f.b.order(); got != "killer killer killer other" {
			f.Errorf("built: %s", got)
		}
		if s, err := f.submit("killer"); err != nil || s.New {
			f.Errorf("%s, %v", describe(s), err)
		}
	})
}

func TestStopLetsTheBuildFinish(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(takes(time.Minute))
		f.open().run()
		f.mustSubmit("a", "b")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		begin := time.Now()
		go func() {
			time.Sleep(time.Second)
			if _, err := f.submit("c"); code(err) != imagebuilder.CodeStopping {
				f.Errorf("error: %v", err)
			}
			// What is known can still be asked for.
			if s, err := f.submit("b"); err != nil || s.New || s.Position != 1 {
				f.Errorf("%s, %v", describe(s), err)
			}
		}()
		if err := f.q.Stop(ctx); err != nil {
			f.Error(err)
		}
		if d := time.Since(begin); d != time.Minute {
			f.Errorf("it took %v", d)
		}
		f.is("a", imagebuilder.Done)
		f.is("b", imagebuilder.Queued)
		if !f.q.Snapshot().Stopping {
			f.Error("it does not say that it stops")
		}
		f.restart()
		f.is("a", imagebuilder.Done)
		if got := f.waiting(); got != "b" {
			f.Errorf("waiting: %s", got)
		}
	})
}

func TestStopCutsWhatTakesTooLong(t *testing.T) {
	bubble(t, Options{Workers: 2}, func(f *fixture) {
		f.b.set(takes(time.Hour))
		f.open().run()
		f.mustSubmit("a", "b", "c")
		synctest.Wait()
		follow, stop, ok := f.q.Subscribe(hashOf("a"))
		if !ok {
			f.Fatal("cannot be followed")
		}
		defer stop()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := f.q.Stop(ctx); err != nil {
			f.Error(err)
		}
		for e := range follow { // ends
			if e.Kind == EventState && e.Status.Job.State == imagebuilder.Failed {
				f.Errorf("%+v", e.Status.Job.Failure)
			}
		}
		f.restart()
		if got := f.waiting(); got != "a b c" {
			f.Errorf("waiting: %s", got)
		}
		if s := f.is("a", imagebuilder.Queued); s.Job.Attempts != 0 {
			f.Errorf("%d attempts", s.Job.Attempts)
		}
	})
}

func TestStopTellsOfABuildThatDoesNotEnd(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		release := make(chan struct{})
		f.b.set(func(*running) (setSize, error) { <-release; return 100, nil })
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := f.q.Stop(ctx); err == nil {
			f.Error("no error")
		}
		close(release)
		synctest.Wait()
		// It was done after all, and is not thrown away.
		f.is("a", imagebuilder.Done)
	})
}

func TestACancelWhileStoppingIsKept(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(func(r *running) (setSize, error) {
			<-r.ctx.Done()
			time.Sleep(time.Second)
			return 0, context.Cause(r.ctx)
		})
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		f.cancel()
		synctest.Wait()
		if err := f.q.Cancel(hashOf("a")); err != nil {
			f.Error(err)
		}
		f.wait.Wait()
		f.failedWith("a", imagebuilder.CodeCanceled)
	})
}

func TestWhatABuildCanEndIn(t *testing.T) {
	tests := map[string]struct {
		behave func(*running) (setSize, error)
		want   imagebuilder.Code
	}{
		"a panic":  {func(*running) (setSize, error) { panic("boom") }, imagebuilder.CodeInternal},
		"nothing":  {func(*running) (setSize, error) { return -1, nil }, imagebuilder.CodeInternal},
		"an error": {func(*running) (setSize, error) { return 0, errors.New("boom") }, imagebuilder.CodeInternal},
		"a wrapped failure": {func(*running) (setSize, error) {
			return 0, fmt.Errorf("x: %w", imagebuilder.Errorf(imagebuilder.CodeStalled, "It stalled."))
		}, imagebuilder.CodeStalled},
		"more than there is room for": {func(*running) (setSize, error) { return 3 << 20, nil }, imagebuilder.CodeNoSpace},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{SetSize: 4096}, func(f *fixture) {
				f.images.Budget = 2 << 20
				f.b.set(test.behave)
				f.open().run()
				f.mustSubmit("a")
				synctest.Wait()
				f.failedWith("a", test.want)
				if left, err := os.ReadDir(filepath.Join(f.dir, "work")); err != nil || len(left) != 0 {
					f.Errorf("left: %v, %v", left, err)
				}
				// The worker goes on.
				f.b.set(nil)
				f.mustSubmit("b")
				synctest.Wait()
				f.is("b", imagebuilder.Done)
				if u := f.cache.Usage(); u.Reserved != 0 {
					f.Errorf("usage: %+v", u)
				}
			})
		})
	}
}

func TestABuildWithoutRoomFails(t *testing.T) {
	bubble(t, Options{SetSize: 1 << 20}, func(f *fixture) {
		f.images.Budget = 3 << 19
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		f.is("a", imagebuilder.Done)
		f.b.set(func(*running) (setSize, error) { return 1 << 20, nil })
		f.mustSubmit("b")
		synctest.Wait()
		f.is("b", imagebuilder.Done)
		// The history says that a set takes a MiB now, and all are fresh.
		f.mustSubmit("c")
		synctest.Wait()
		job := f.failedWith("c", imagebuilder.CodeNoSpace)
		if strings.Contains(f.b.order(), "c") || !strings.Contains(job.Failure.Detail, "no room") {
			f.Errorf("built: %s; %s", f.b.order(), job.Failure.Detail)
		}
		time.Sleep(2 * time.Hour)
		f.mustSubmit("c")
		synctest.Wait()
		f.is("c", imagebuilder.Done)
	})
}

func TestAFullDisk(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.store.MaxSize = 256 << 10
		f.b.set(takes(10 * time.Minute))
		f.open()
		// Fill the database until it takes no more jobs.
		var err error
		n := 0
		for ; err == nil; n++ {
			name := fmt.Sprint(n)
			req := request(name)
			for i := range 200 {
				req.Packages = append(req.Packages, hashOf(fmt.Sprint(name, i)))
			}
			_, err = f.q.Submit(context.Background(), hashOf(name), req, imagebuilder.Generation{})
		}
		if code(err) != imagebuilder.CodeNoSpace || !strings.Contains(err.Error(), "disk is full") {
			f.Fatalf("error: %v", err)
		}
		accepted := n - 1
		f.is(fmt.Sprint(accepted), "")
		if waiting, _ := f.q.Length(); waiting != accepted {
			f.Errorf("%d waiting, %d accepted", waiting, accepted)
		}
		// Whatever comes of the builds, each job is told of, and none is lost.
		f.run()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		for i := range accepted {
			if _, found := f.q.Lookup(hashOf(fmt.Sprint(i))); !found {
				if _, err := f.db.Job(hashOf(fmt.Sprint(i))); !errors.Is(err, store.ErrNotFound) {
					f.Errorf("job %d is in the store and not told of: %v", i, err)
				}
			}
		}
		f.close()
		f.store.MaxSize = 0
		f.open()
		f.mustSubmit("later")
	})
}

func TestRunEndsAtOnceWhenItsContextHas(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open()
		if err := f.q.Run(canceled()); err != nil {
			f.Error(err)
		}
		if err := f.q.Run(canceled()); err == nil {
			f.Error("it ran twice")
		}
		if err := f.q.Stop(canceled()); err != nil {
			f.Error(err)
		}
	})
}

func TestUnreadableRecordsAreBuiltAnew(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		f.mustSubmit("done")
		synctest.Wait()
		f.b.set(takes(time.Hour))
		f.mustSubmit("building", "queued")
		f.close()
		raw, err := bolt.Open(filepath.Join(f.dir, "attendant.db"), 0o600, nil)
		if err != nil {
			f.Fatal(err)
		}
		err = raw.Update(func(tx *bolt.Tx) error {
			jobs := tx.Bucket([]byte("jobs"))
			for _, name := range []string{"done", "building"} {
				key, _ := store.ParseKey(hashOf(name))
				if err := jobs.Put(key[:], []byte("rubbish")); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, raw.Close()); err != nil {
			f.Fatal(err)
		}
		f.open()
		if got := f.waiting(); got != "queued" {
			f.Errorf("waiting: %s", got)
		}
		f.is("done", "")
		f.is("building", "")
		f.mustSubmit("done", "building")
		f.b.set(nil)
		f.run()
		synctest.Wait()
		f.is("done", imagebuilder.Done)
		f.is("building", imagebuilder.Done)
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

// alike submits, by another hash, a request whose content is that of a.
func (f *fixture) alike(hash, a string) (Status, int) {
	f.Helper()
	gen := imagebuilder.Generation{Digest: hashOf("generation")}
	req := request(a)
	asked := 0
	s, err := f.q.SubmitAlike(context.Background(), hashOf(hash), func() string {
		asked++
		return req.ContentHash(gen.Digest, nil)
	}, req, gen)
	if err != nil {
		f.Fatal(err)
	}
	return s, asked
}

// sharing checks that a hash answers with the images of another.
func (f *fixture) sharing(hash, of string) {
	f.Helper()
	s, found := f.q.Lookup(hashOf(hash))
	if !found || s.Job.State != imagebuilder.Done || s.Job.Hash != hashOf(hash) || s.Job.ImagesHash() != hashOf(of) || s.Job.Images == nil || s.Job.Images.ID != of {
		f.Fatalf("%s: %t, %+v", hash, found, s.Job)
	}
}

func TestRequestsWithOneContentShareOneBuild(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		f.is("a", imagebuilder.Done)
		s, asked := f.alike("other form", "a")
		if s.New || s.Job.State != imagebuilder.Done || s.Job.Shares != hashOf("a") || asked != 1 || s.Keep == nil {
			f.Fatalf("%+v, asked %d times", s, asked)
		}
		again, asked := f.alike("other form", "a")
		if again.Job != s.Job || asked != 0 {
			f.Errorf("%+v, asked %d times", again, asked)
		}
		f.restart()
		f.sharing("other form", "a")
		if _, asked := f.alike("other form", "a"); asked != 0 {
			f.Error("the content was asked for although the hash is known")
		}
		f.crash()
		f.sharing("other form", "a")
		if f.b.order() != "a" {
			f.Errorf("built: %s", f.b.order())
		}
	})
}

func TestRequestWaitsAndSharesWhatIsBuiltMeanwhile(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(takes(time.Minute))
		f.open()
		f.mustSubmit("a", "b")
		s, _ := f.alike("other form", "a")
		if !s.New || s.Position != 3 {
			f.Fatalf("%+v", s)
		}
		f.restart() // what was foreseen outlasts it
		f.run()
		events, stop, ok := f.q.Subscribe(hashOf("other form"))
		if !ok {
			f.Fatal("it cannot be followed")
		}
		defer stop()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		f.sharing("other form", "a")
		if f.b.order() != "a b" {
			f.Errorf("built: %s", f.b.order())
		}
		var last Status
		for e := range events {
			if e.Kind == EventState {
				last = e.Status
			}
		}
		if last.Job == nil || last.Job.State != imagebuilder.Done {
			f.Errorf("the last event: %s", describe(last))
		}
		f.restart()
		f.sharing("other form", "a")
		if w := f.waiting(); w != "" {
			f.Errorf("still waiting: %s", w)
		}
	})
}

// When the images go, whoever shared them is built anew.
func TestSharedImagesThatAreDropped(t *testing.T) {
	for name, gone := range map[string]func(f *fixture){
		"dropped":               func(f *fixture) {},
		"dropped and restarted": (*fixture).restart,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(f *fixture) {
				f.open().run()
				f.mustSubmit("a")
				synctest.Wait()
				f.alike("other form", "a")
				if err := f.cache.Drop(hashOf("a")); err != nil {
					f.Fatal(err)
				}
				gone(f)
				if _, found := f.q.Lookup(hashOf("other form")); found {
					f.Fatal("it is there without images")
				}
				s, _ := f.alike("other form", "a")
				if !s.New {
					f.Fatalf("%+v", s)
				}
				if f.cancel == nil {
					f.run()
				}
				synctest.Wait()
				job := f.is("other form", imagebuilder.Done).Job
				if job.Shares != "" || f.b.order() != "a a" {
					f.Errorf("shares %q, built: %s", job.Shares, f.b.order())
				}
				// Now it is the other way round.
				if s, _ := f.alike("a", "a"); s.Job.Shares != hashOf("other form") {
					f.Errorf("%+v", s.Job)
				}
			})
		})
	}
}

// What is built again need not be the same to the byte: whoever shared the
// images before is not answered with the sums of those.
func TestSharedImagesThatAreBuiltAgain(t *testing.T) {
	for name, between := range map[string]func(f *fixture){
		"at once":         func(*fixture) {},
		"asked in vain":   func(f *fixture) { f.q.Lookup(hashOf("other form")) },
		"while it builds": func(f *fixture) { time.Sleep(time.Second); f.q.Lookup(hashOf("other form")) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(f *fixture) {
				size := setSize(100)
				f.b.set(func(*running) (setSize, error) {
					time.Sleep(time.Minute)
					size += 100
					return size, nil
				})
				f.open().run()
				f.mustSubmit("a")
				time.Sleep(2 * time.Minute)
				f.alike("other form", "a")
				f.alike("third form", "a")
				if err := f.cache.Drop(hashOf("a")); err != nil {
					f.Fatal(err)
				}
				f.mustSubmit("a")
				between(f)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				f.is("a", imagebuilder.Done)
				for _, form := range []string{"other form", "third form"} {
					if s, found := f.q.Lookup(hashOf(form)); found {
						f.Errorf("%s has images of %d bytes", form, s.Job.Images.Files[0].Size)
					}
					s, _ := f.alike(form, "a")
					if s.Job.Shares != hashOf("a") || s.Job.Images == nil || s.Job.Images.Files[0].Size != 300 {
						f.Errorf("%s: %+v", form, s.Job)
					}
				}
				f.restart()
				f.sharing("other form", "a")
				if s, _ := f.q.Lookup(hashOf("other form")); s.Job.Images.Files[0].Size != 300 {
					f.Errorf("after a restart: %+v", s.Job.Images)
				}
			})
		})
	}
}

func TestWhoseImagesThoseOfARequestAre(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		f.alike("other form", "a")
		check := func(when, of string, sharers int) {
			t.Helper()
			if got := f.q.ImagesOf(hashOf("other form")); got != hashOf(of) {
				t.Errorf("%s: %s", when, got)
			}
			if own, no := f.q.ImagesOf(hashOf("a")), f.q.ImagesOf("no hash"); own != hashOf("a") || no != "no hash" {
				t.Errorf("%s: %s and %s", when, own, no)
			}
			if n := f.q.Sharers(hashOf("a")); n != sharers {
				t.Errorf("%s: %d share", when, n)
			}
		}
		check("from memory", "a", 1)
		f.restart()
		check("from the store", "a", 1)
		if err := f.cache.Drop(hashOf("a")); err != nil {
			t.Fatal(err)
		}
		check("dropped", "other form", 0)
	})
}

// What is forgotten leaves nothing behind.
func TestSharersInMemoryAreBounded(t *testing.T) {
	c := newOutcomes(20_000)
	for i := range 100 {
		c.add(&imagebuilder.Job{Hash: fmt.Sprint(i), Shares: fmt.Sprint("of ", i%7)}, time.Time{}, time.Time{})
	}
	known := 0
	for of, hashes := range c.sharers {
		for hash := range hashes {
			known++
			if o := c.get(hash); o == nil || o.job.Shares != of {
				t.Errorf("%s is known to share %s: %+v", hash, of, o)
			}
		}
	}
	if known != c.lru.Len() || known == 100 {
		t.Errorf("%d sharers of %d outcomes", known, c.lru.Len())
	}
	for i := range 7 {
		c.removeSharers(fmt.Sprint("of ", i))
	}
	if len(c.sharers) != 0 || c.lru.Len() != 0 || c.cost != 0 {
		t.Errorf("left: %v, %d outcomes, cost %d", c.sharers, c.lru.Len(), c.cost)
	}
}

// There are endlessly many forms of a request: what is recorded of them ends.
func TestSharersAreBounded(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		for i := range store.MaxSharers + 20 {
			if s, _ := f.alike(fmt.Sprint("form ", i), "a"); s.Job.State != imagebuilder.Done || s.Job.Shares != hashOf("a") {
				f.Fatalf("%d: %+v", i, s)
			}
		}
		f.restart()
		known := 0
		for i := range store.MaxSharers + 20 {
			if _, found := f.q.Lookup(hashOf(fmt.Sprint("form ", i))); found {
				known++
			}
		}
		if known != store.MaxSharers {
			f.Errorf("%d are recorded", known)
		}
	})
}

// Whatever overtakes whatever, a request that was queued is not lost.
func TestSharingAndQueueingAtOnce(t *testing.T) {
	for round := range 20 {
		f := newFixture(t, Options{})
		f.open()
		f.mustSubmit("a")
		f.run()
		for deadline := time.Now().Add(10 * time.Second); ; {
			if s, found := f.q.Lookup(hashOf("a")); found && s.Job.State == imagebuilder.Done {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("a is not built")
			}
			time.Sleep(time.Millisecond)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if i%2 == 0 {
					f.alike("other form", "a")
					return
				}
				req := request("a")
				if _, err := f.q.Submit(context.Background(), hashOf("other form"), req, imagebuilder.Generation{Digest: hashOf("generation")}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if s, found := f.q.Lookup(hashOf("other form")); !found {
			t.Fatalf("round %d: it is lost: %+v", round, s)
		}
		f.close()
		f.open()
		if s, found := f.q.Lookup(hashOf("other form")); !found {
			t.Fatalf("round %d: it is lost over a restart: %+v", round, s)
		}
		f.close()
	}
}

package images

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

// modelSet is a set in the model of the cache.
type modelSet struct {
	name       string
	mb         int64
	done, used time.Time
	pins       []*Handle // of readers
	pinned     bool      // by the operator
}

// TestCacheAgainstAModel does random things to a cache and to a plain list in
// the order of last uses, with restarts in between, and compares.
func TestCacheAgainstAModel(t *testing.T) {
	const budget = 50
	rapid.Check(t, func(rt *rapid.T) {
		inBubble(t, rt, func(outer *testing.T, t *rapid.T) {
			dir, err := os.MkdirTemp("", "images")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			f := &fixture{TB: outer, o: Options{Dir: dir, Budget: budget * mb, Free: func(string) (int64, error) { return 1 << 40, nil }}}
			f.open()
			f.run()
			var model []*modelSet // least recently used first
			defer func() {
				for _, s := range model {
					for _, h := range s.pins {
						h.Close()
					}
				}
				f.close()
			}()
			find := func(name string) int {
				return slices.IndexFunc(model, func(s *modelSet) bool { return s.name == name })
			}
			use := func(i int) *modelSet {
				s := model[i]
				s.used = time.Now()
				model = append(slices.Delete(model, i, i+1), s)
				return s
			}
			// makeRoom tells whether a set of so many MB fits and removes from
			// the model what has to go for it.
			makeRoom := func(mb int64) bool {
				var used int64
				for _, s := range model {
					used += s.mb
				}
				var victims []*modelSet
				for _, sparing := range []bool{true, false} {
					for _, s := range model {
						if used+mb <= budget {
							break
						}
						if s.pinned || len(s.pins) > 0 || time.Since(s.used) < 10*time.Minute || sparing && time.Since(s.done) < time.Hour || slices.Contains(victims, s) {
							continue
						}
						victims = append(victims, s)
						used -= s.mb
					}
				}
				if used+mb > budget {
					return false
				}
				model = slices.DeleteFunc(model, func(s *modelSet) bool { return slices.Contains(victims, s) })
				return true
			}
			names := []string{"a", "b", "c", "d", "e", "f", "g"}
			name := rapid.SampledFrom(names)
			t.Repeat(map[string]func(*rapid.T){
				"build": func(t *rapid.T) {
					n := name.Draw(t, "name")
					if find(n) >= 0 {
						t.Skip("there")
					}
					want := rapid.Int64Range(1, 20).Draw(t, "MB")
					r, err := f.c.Reserve(hashOf(n), want*mb)
					if fits := makeRoom(want); fits != (err == nil) {
						t.Fatalf("reserving %d MB: %v, the model has room: %t", want, err, fits)
					}
					if err != nil {
						if code(err) != imagebuilder.CodeNoSpace {
							t.Fatal(err)
						}
						return
					}
					if rapid.Bool().Draw(t, "fails") {
						r.Release()
						return
					}
					dir, set := f.written(want*mb - 4096)
					if err := r.Commit(dir, set, false, f.record(n, set)); err != nil {
						t.Fatal(err)
					}
					model = append(model, &modelSet{name: n, mb: want, done: time.Now(), used: time.Now()})
				},
				"touch": func(t *rapid.T) {
					n := name.Draw(t, "name")
					f.c.Touch(hashOf(n))
					if i := find(n); i >= 0 {
						use(i)
					}
				},
				"read": func(t *rapid.T) {
					n := name.Draw(t, "name")
					h, err := f.c.Open(hashOf(n), "file-0.bin")
					i := find(n)
					if (err == nil) != (i >= 0) {
						t.Fatalf("opening %s: %v, in the model at %d", n, err, i)
					}
					if err == nil {
						s := use(i)
						s.pins = append(s.pins, h)
					}
				},
				"close": func(t *rapid.T) {
					if i := find(name.Draw(t, "name")); i >= 0 && len(model[i].pins) > 0 {
						model[i].pins[0].Close()
						model[i].pins = model[i].pins[1:]
					}
				},
				"pin": func(t *rapid.T) {
					n := name.Draw(t, "name")
					i, pinned := find(n), int64(0)
					for _, s := range model {
						if s.pinned {
							pinned += s.mb
						}
					}
					want := imagebuilder.Code("")
					switch {
					case i < 0:
						want = imagebuilder.CodeNotFound
					case !model[i].pinned && pinned+model[i].mb > budget*3/4:
						want = imagebuilder.CodePinned
					}
					err := f.c.Pin(hashOf(n))
					if got := code(err); got != want {
						t.Fatalf("pinning %s: %v, the model expects %q", n, err, want)
					}
					if err == nil {
						model[i].pinned = true
					}
				},
				"unpin": func(t *rapid.T) {
					n := name.Draw(t, "name")
					err := f.c.Unpin(hashOf(n))
					if i := find(n); (err == nil) != (i >= 0) {
						t.Fatalf("unpinning %s: %v, in the model at %d", n, err, i)
					} else if i >= 0 {
						model[i].pinned = false
					}
				},
				"drop": func(t *rapid.T) {
					n := name.Draw(t, "name")
					i := find(n)
					err := f.c.Drop(hashOf(n))
					if dropped := i >= 0 && !model[i].pinned && len(model[i].pins) == 0; dropped != (err == nil) {
						t.Fatalf("dropping %s: %v, in the model at %d", n, err, i)
					} else if dropped {
						model = slices.Delete(model, i, i+1)
					}
				},
				"wait": func(t *rapid.T) {
					time.Sleep(rapid.SampledFrom([]time.Duration{time.Minute, 11 * time.Minute, 2 * time.Hour}).Draw(t, "time"))
					synctest.Wait()
				},
				"vanish": func(t *rapid.T) {
					i := find(name.Draw(t, "name"))
					if i < 0 || len(model[i].pins) > 0 {
						t.Skip("not there, or read")
					}
					if err := os.RemoveAll(filepath.Join(dir, "images", hashOf(model[i].name))); err != nil {
						t.Fatal(err)
					}
					model = slices.Delete(model, i, i+1)
				},
				"restart": func(t *rapid.T) {
					for _, s := range model {
						for _, h := range s.pins {
							h.Close()
						}
						s.pins = nil
					}
					f.restart()
					f.run()
				},
				"": func(t *rapid.T) {
					var used int64
					for _, n := range names {
						i := find(n)
						if got := f.c.Has(hashOf(n)); got != (i >= 0) {
							t.Fatalf("%s is there: %t, in the model at %d", n, got, i)
						}
						if i >= 0 {
							used += model[i].mb
						}
					}
					var pinned []string
					var pinnedMB int64
					for _, s := range slices.Backward(model) {
						if s.pinned {
							pinned, pinnedMB = append(pinned, hashOf(s.name)), pinnedMB+s.mb
						}
					}
					var got []string
					for _, s := range f.c.Pinned() {
						got = append(got, s.Hash)
					}
					if u := f.c.Usage(); !slices.Equal(got, pinned) || u.Pinned != pinnedMB*mb {
						t.Fatalf("%d bytes pinned by %v, in the model %d MB by %v", u.Pinned, got, pinnedMB, pinned)
					}
					if u := f.c.Usage(); u.Used != used*mb || u.Reserved != 0 || u.Sets != len(model) || u.Used > u.Budget {
						t.Fatalf("usage %+v, the model has %d sets with %d MB", u, len(model), used)
					}
				},
			})
			synctest.Wait()
			if left := f.left("work"); len(left) != 0 {
				t.Fatalf("left in the work folder: %v", left)
			}
			if left := f.left("images"); len(left) != len(model) {
				t.Fatalf("%d image folders, %d in the model", len(left), len(model))
			}
		})
	})
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

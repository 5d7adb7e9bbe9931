package store

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

// TestStoreAgainstAModel does random things to a database and to a map of
// jobs, with restarts in between, and compares.
func TestStoreAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(tempDir(t), "db")
		open := func() *DB {
			db, err := Open(path, Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		db := open()
		defer func() { check(t, db); db.Close() }()
		model := map[string]*imagebuilder.Job{}
		seq := uint64(0)
		names := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		pick := func(t *rapid.T, states ...imagebuilder.State) *imagebuilder.Job {
			var fitting []*imagebuilder.Job
			for _, hash := range slices.Sorted(maps.Keys(model)) {
				if slices.Contains(states, model[hash].State) {
					fitting = append(fitting, model[hash])
				}
			}
			if len(fitting) == 0 {
				t.Skip("none")
			}
			return rapid.SampledFrom(fitting).Draw(t, "job")
		}
		ok := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"enqueue": func(t *rapid.T) {
				seq++
				j := job(seq, names.Draw(t, "name"))
				ok(db.Enqueue(j))
				model[j.Hash] = j
			},
			"attempt": func(t *rapid.T) {
				j := *pick(t, imagebuilder.Queued, imagebuilder.Building)
				j.State, j.Attempts = imagebuilder.Building, j.Attempts+1
				ok(db.SaveJob(&j))
				model[j.Hash] = &j
			},
			"done": func(t *rapid.T) {
				d, image := done(pick(t, imagebuilder.Building))
				ok(db.FinishJob(d, image, time.Second))
				model[d.Hash] = d
			},
			"failed": func(t *rapid.T) {
				f := failed(pick(t, imagebuilder.Queued, imagebuilder.Building))
				ok(db.FinishJob(f, nil, 0))
				model[f.Hash] = f
			},
			"evict": func(t *rapid.T) {
				j := pick(t, imagebuilder.Done)
				key, _ := ParseKey(j.Hash)
				other, _ := ParseKey(hashOf(names.Draw(t, "other")))
				if o := model[other.String()]; o != nil && o.State == imagebuilder.Done {
					other = key
				}
				ok(db.DeleteImages(key, other))
				delete(model, j.Hash)
			},
			"forget": func(t *rapid.T) {
				j := pick(t, imagebuilder.Failed)
				key, _ := ParseKey(j.Hash)
				ok(db.ForgetFailures(FailureRecord{Seq: j.Seq, Key: key}))
				delete(model, j.Hash)
			},
			"use": func(t *rapid.T) {
				j := pick(t, imagebuilder.Done)
				key, _ := ParseKey(j.Hash)
				ok(db.SaveUses([]Use{{Key: Key{1}, Tick: 5}, {Key: key, Tick: 7, Used: time.Unix(1000, 0)}}))
			},
			"restart": func(t *rapid.T) {
				check(t, db)
				ok(db.Close())
				db = open()
			},
			"": func(t *rapid.T) {
				var wantActive []uint64
				for hash, want := range model {
					got, err := db.Job(hash)
					ok(err)
					if got.Seq != want.Seq || got.State != want.State || got.Attempts != want.Attempts {
						t.Fatalf("got %+v, want %+v", got, want)
					}
					if want.State == imagebuilder.Queued || want.State == imagebuilder.Building {
						wantActive = append(wantActive, want.Seq)
					}
				}
				slices.Sort(wantActive)
				active, err := db.Active()
				ok(err)
				var gotActive []uint64
				for _, j := range active {
					gotActive = append(gotActive, j.Seq)
				}
				if !slices.Equal(wantActive, gotActive) {
					t.Fatalf("queue %v, want %v", gotActive, wantActive)
				}
				for _, name := range []string{"a", "f"} {
					if _, err := db.Job(hashOf(name)); model[hashOf(name)] == nil && !errors.Is(err, ErrNotFound) {
						t.Fatalf("%s should be gone: %v", name, err)
					}
				}
				if last, err := db.LastSeq(); err != nil || last != seq {
					t.Fatalf("last sequence number %d, want %d, %v", last, seq, err)
				}
			},
		})
	})
}

// tempDir is a folder for one run of a property.
func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestImageRecordsKeepTheirFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := ImageRecord{
			Bytes:  rapid.Int64Range(0, 1<<43).Draw(t, "bytes"),
			Disk:   rapid.Int64Range(0, 1<<31).Draw(t, "blocks") * BlockSize,
			Done:   time.Unix(rapid.Int64Range(0, 1<<32-1).Draw(t, "done"), 0),
			Used:   time.Unix(rapid.Int64Range(0, 1<<32-1).Draw(t, "used"), 0),
			Tick:   rapid.Uint64().Draw(t, "tick"),
			Secret: rapid.Bool().Draw(t, "secret"),
			Pinned: rapid.Bool().Draw(t, "pinned"),
		}
		got, err := decodeImageRecord(want.encode())
		if err != nil || got != want {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
	// Times that do not fit are brought to the nearest that does.
	r := ImageRecord{Done: time.Unix(-5, 0), Used: time.Unix(1<<40, 0)}
	got, err := decodeImageRecord(r.encode())
	if err != nil || got.Done.Unix() != 0 || got.Used.Unix() != 1<<32-1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTheSpaceSavingCounterKeepsTheFrequent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := map[string]int64{}
		for i := range rapid.IntRange(0, 2000).Draw(t, "noise") {
			addBounded(counts, fmt.Sprintf("noise-%d", i))
			if i%3 == 0 {
				addBounded(counts, "frequent")
			}
			if len(counts) > maxPackages {
				t.Fatalf("%d packages counted", len(counts))
			}
		}
		if n := counts["frequent"]; len(counts) > 2 && n == 0 {
			t.Fatal("the frequent one was displaced")
		}
	})
}

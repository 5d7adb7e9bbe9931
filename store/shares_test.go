package store

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

// sharer is a job that shares the images of another.
func sharer(name string, of *imagebuilder.Job) *imagebuilder.Job {
	j := job(0, name)
	j.State, j.FinishedAt = imagebuilder.Done, of.FinishedAt
	j.Images, j.Shares, j.Content = of.Images, of.Hash, of.Content
	return j
}

func TestShares(t *testing.T) {
	path := filepath.Join(t.TempDir(), "attendant.db")
	db := open(t, path)
	first := job(1, "first")
	must(t, db.Enqueue(first))
	d, image := done(first)
	d.Content = hashOf("content")
	if err := db.Share(sharer("early", d)); !errors.Is(err, ErrNotFound) {
		t.Errorf("images that are not there were shared: %v", err)
	}
	must(t, db.FinishJob(d, image, 0))
	if hash, err := db.Content(d.Content); err != nil || hash != d.Hash {
		t.Errorf("%s, %v", hash, err)
	}
	if _, err := db.Content(hashOf("another")); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	second := sharer("second", d)
	must(t, db.Share(second))
	must(t, db.Share(second))
	got, err := db.Shared(second.Hash)
	must(t, err)
	if diff := cmp.Diff(second, got); diff != "" {
		t.Error(diff)
	}

	for hash, want := range map[string]int{d.Hash: 1, second.Hash: 0, "no hash": 0} {
		if n, err := db.Sharers(hash); err != nil || n != want {
			t.Errorf("%d share %s: %v", n, hash, err)
		}
	}

	// One that is in the queue is not taken from it, but by itself.
	third := job(2, "third")
	must(t, db.Enqueue(third))
	if err := db.Share(sharer("third", d)); !errors.Is(err, ErrActive) {
		t.Errorf("got %v", err)
	}
	own := sharer("third", d)
	own.Seq = 2
	must(t, db.Share(own))
	if active, err := db.Active(); err != nil || len(active) != 0 {
		t.Errorf("active %v, %v", active, err)
	}
	check(t, db)

	// A build of its own ends it.
	fourth := job(3, "second")
	must(t, db.Enqueue(fourth))
	if _, err := db.Shared(second.Hash); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	must(t, db.FinishJob(failed(fourth), nil, 0))
	check(t, db)

	key, _ := ParseKey(d.Hash)
	must(t, db.DeleteImages(key))
	for _, hash := range []string{own.Hash, second.Hash} {
		if _, err := db.Shared(hash); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := db.Content(d.Content); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	check(t, db)
}

// Of two jobs with one content the later one has it, and the going of the
// earlier one changes nothing.
func TestContentBuiltTwice(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "attendant.db"))
	var keys []Key
	for i, name := range []string{"first", "second"} {
		j := job(uint64(i+1), name)
		must(t, db.Enqueue(j))
		d, image := done(j)
		d.Content = hashOf("content")
		must(t, db.FinishJob(d, image, 0))
		key, _ := ParseKey(j.Hash)
		keys = append(keys, key)
	}
	must(t, db.DeleteImages(keys[0]))
	if hash, err := db.Content(hashOf("content")); err != nil || hash != keys[1].String() {
		t.Errorf("%s, %v", hash, err)
	}
	must(t, db.DeleteImages(keys[1]))
	if _, err := db.Content(hashOf("content")); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

package store

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

func TestSizesAreWrittenWithTheirJob(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	size := Size{"tplink_archer-c7-v5", 4 << 20, 7 << 20}
	target := fixtureTarget
	finish := func(seq uint64, name string, ok bool) {
		j := job(seq, name)
		must(t, db.Enqueue(j))
		must(t, db.NoteSize(j.Hash, target, "squashfs", size))
		if got, err := db.Sizes(target, "ext4"); err != nil || got != nil {
			t.Fatalf("sizes of another file system: %v, %v", got, err)
		}
		before := writes(db)
		if ok {
			d, image := done(j)
			must(t, db.FinishJob(d, image, time.Second))
		} else {
			must(t, db.FinishJob(failed(j), nil, 0))
		}
		if n := writes(db) - before; n != 1 {
			t.Errorf("finishing a job took %d transactions", n)
		}
		if len(db.noted) != 0 {
			t.Errorf("%d sizes wait still", len(db.noted))
		}
	}
	finish(1, "failed", false)
	if got, err := db.Sizes(target, "squashfs"); err != nil || got != nil {
		t.Errorf("a failed build has a size: %v, %v", got, err)
	}
	finish(2, "done", true)
	size.Flash++
	finish(3, "another", true)
	size.Flash--
	finish(4, "the same again", true)
	must(t, db.Close())
	db = open(t, path)
	got, err := db.Sizes(target, "squashfs")
	must(t, err)
	if diff := cmp.Diff([]Size{{size.Profile, size.Download, size.Flash + 1}, size}, got); diff != "" {
		t.Error(diff)
	}
	for _, other := range []SizeTarget{{"other", "24.10", "ath79/generic"}, {"openwrt", "25.12", "ath79/generic"}, {"openwrt", "24.10", "ath79/nand"}} {
		if got, err := db.Sizes(other, "squashfs"); err != nil || got != nil {
			t.Errorf("%v has %v, %v", other, got, err)
		}
	}
}

// writes is the number of the last write transaction.
func writes(db *DB) (n int) {
	db.bolt.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil })
	return n
}

func TestSizesAreARing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range uint64(40) {
		j := job(i+1, fmt.Sprint(i))
		must(t, db.Enqueue(j))
		must(t, db.NoteSize(j.Hash, fixtureTarget, "squashfs", Size{strings.Repeat("p", maxProfileLength), int64(i) + 1, 1}))
		d, image := done(j)
		must(t, db.FinishJob(d, image, 0))
	}
	got, err := db.Sizes(fixtureTarget, "squashfs")
	must(t, err)
	if len(got) != sizesLength || got[0].Download != 17 || got[23].Download != 40 {
		t.Errorf("%d sizes, from %d to %d", len(got), got[0].Download, got[len(got)-1].Download)
	}
}

func TestNotedSizesAreBounded(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range 10 * maxNoted {
		must(t, db.NoteSize(hashOf(fmt.Sprint(i)), fixtureTarget, "squashfs", Size{"a", 1, 1}))
	}
	if len(db.noted) > maxNoted {
		t.Errorf("%d sizes wait", len(db.noted))
	}
	for _, s := range []Size{{"", 1, 1}, {"a", 0, 1}, {"a", 1, -1}, {strings.Repeat("a", 256), 1, 1}} {
		if db.NoteSize(hashOf("a"), fixtureTarget, "squashfs", s) == nil {
			t.Errorf("%v is noted", s)
		}
	}
	if db.NoteSize("x", fixtureTarget, "squashfs", Size{"a", 1, 1}) == nil || db.NoteSize(hashOf("a"), fixtureTarget, "a\x00b", Size{"a", 1, 1}) == nil {
		t.Error("what is no hash or target is noted")
	}
}

func TestLimits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	target := fixtureTarget
	step := func(wrote int, err error) {
		t.Helper()
		must(t, err)
		if n := writes(db); n != wrote {
			t.Fatalf("transaction %d, want %d", n, wrote)
		}
	}
	n := writes(db)
	if l, err := db.Limits(target); err != nil || l.Of("a") != 0 {
		t.Errorf("limits of nothing: %v, %v", l, err)
	}
	step(n+1, db.StateLimits(target, "one", map[string]int64{"a": 100, "b": 200}))
	step(n+1, db.StateLimits(target, "one", map[string]int64{"a": 100, "b": 200}))
	step(n+2, db.LearnLimit(target, "a", 90))
	step(n+2, db.LearnLimit(target, "a", 90))
	step(n+3, db.LearnLimit(target, "c", 300))
	if db.LearnLimit(target, "c", 0) == nil || db.LearnLimit(target, "", 1) == nil {
		t.Error("a limit that makes no sense is recorded")
	}
	must(t, db.Close())
	db = open(t, path)
	l, err := db.Limits(target)
	must(t, err)
	for profile, want := range map[string]int64{"a": 90, "b": 200, "c": 300, "d": 0} {
		if got := l.Of(profile); got != want {
			t.Errorf("%s takes %d, want %d", profile, got, want)
		}
	}
	must(t, db.StateLimits(target, "two", map[string]int64{"a": 110}))
	l, err = db.Limits(target)
	must(t, err)
	if diff := cmp.Diff(Limits{Builder: "two", Stated: map[string]int64{"a": 110}}, l); diff != "" {
		t.Errorf("what was learnt of another builder stays: %s", diff)
	}
}

func TestDamagedSizesAreLearntAnew(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	sizes, err := fixtureTarget.key("squashfs")
	must(t, err)
	limits, err := fixtureTarget.key()
	must(t, err)
	must(t, db.bolt.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketSizes).Put(sizes, []byte{9}); err != nil {
			return err
		}
		return tx.Bucket(bucketLimits).Put(limits, []byte("["))
	}))
	if _, err := db.Sizes(fixtureTarget, "squashfs"); err == nil {
		t.Error("damaged sizes are no error")
	}
	if _, err := db.Limits(fixtureTarget); err == nil {
		t.Error("damaged limits are no error")
	}
	j := job(1, "a")
	must(t, db.Enqueue(j))
	must(t, db.NoteSize(j.Hash, fixtureTarget, "squashfs", Size{"a", 1, 2}))
	d, image := done(j)
	must(t, db.FinishJob(d, image, 0))
	must(t, db.LearnLimit(fixtureTarget, "a", 5))
	if got, err := db.Sizes(fixtureTarget, "squashfs"); err != nil || len(got) != 1 {
		t.Errorf("sizes: %v, %v", got, err)
	}
	if got, err := db.Limits(fixtureTarget); err != nil || got.Of("a") != 5 {
		t.Errorf("limits: %v, %v", got, err)
	}
}

func TestSizesComeBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var v []byte
		sizes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Size {
			return Size{rapid.StringMatching(`[a-z0-9_-]{1,255}`).Draw(t, "profile"), rapid.Int64Min(1).Draw(t, "download"), rapid.Int64Min(1).Draw(t, "flash")}
		}), 1, sizesLength).Draw(t, "sizes")
		for _, s := range sizes {
			v = appendSize(v, s)
		}
		got, err := decodeSizes(v)
		if err != nil || !slices.Equal(got, sizes) {
			t.Fatalf("%v, %v", got, err)
		}
	})
}

func FuzzDecodeSizes(f *testing.F) {
	f.Add(appendSize(nil, Size{"a", 1, 2}))
	f.Add([]byte{255, 'a'})
	f.Fuzz(func(t *testing.T, v []byte) {
		sizes, err := decodeSizes(v)
		if err != nil {
			return
		}
		var again []byte
		for _, s := range sizes {
			again = appendSize(again, s)
		}
		if string(again) != string(v) {
			t.Errorf("%x became %x", v, again)
		}
	})
}

package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

const enospc = syscall.ENOSPC

// size is that of a file whose set takes 10 MB, with the folder's own block.
const size = 10*mb - store.BlockSize

func TestTheLeastRecentlyUsedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{Budget: 40 * mb})
		f.run()
		for _, name := range []string{"a", "b", "c", "d"} {
			f.mustPut(name, size)
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Hour)
		f.c.Touch(hashOf("a"))
		f.pin("b").Close()
		time.Sleep(11 * time.Minute)

		f.mustPut("e", size)
		f.has("a", "b", "d", "e")
		f.hasNot("c")
		f.mustPut("f", size)
		f.has("a", "b", "e", "f")
		f.hasNot("d")
		synctest.Wait()
		if left := f.left("work"); len(left) != 0 {
			t.Errorf("dropped sets are still there: %v", left)
		}
		if left := f.left("images"); len(left) != 4 {
			t.Errorf("images: %v", left)
		}
		if u := f.c.Usage(); u.Used != 40*mb || u.Dropped != 0 {
			t.Errorf("usage: %+v", u)
		}
	})
}

func TestWhatIsReadStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{Budget: 20 * mb})
		f.run()
		f.mustPut("a", size)
		f.mustPut("b", size)
		h, second := f.pin("a"), f.pin("a")
		time.Sleep(24 * time.Hour)
		f.mustPut("c", size)
		f.has("a", "c")
		f.hasNot("b")
		time.Sleep(24 * time.Hour)
		second.Close()
		second.Close()
		f.mustPut("d", size)
		f.has("a", "d")

		other := f.pin("d")
		time.Sleep(24 * time.Hour)
		err := f.put("e", false, size)
		if code(err) != imagebuilder.CodeNoSpace || !strings.Contains(err.Error(), "in use or too new") {
			t.Errorf("error: %v", err)
		}
		f.has("a", "d")
		if u := f.c.Usage(); u.Reserved != 0 {
			t.Errorf("usage: %+v", u)
		}
		if err := f.c.Drop(hashOf("a")); code(err) != imagebuilder.CodeNoSpace {
			t.Errorf("dropped while read: %v", err)
		}
		h.Close()
		other.Close()
		f.mustPut("e", size)
		f.has("d", "e")
		f.hasNot("a")
	})
}

func TestWhatIsFreshStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{Budget: 30 * mb})
		f.run()
		f.mustPut("old", size)
		time.Sleep(2 * time.Hour)
		f.mustPut("fresh", size)
		time.Sleep(20 * time.Minute)
		f.c.Touch(hashOf("old")) // used later than fresh, but long finished
		time.Sleep(15 * time.Minute)
		f.mustPut("c", size)
		f.mustPut("d", size)
		f.has("fresh", "c", "d")
		f.hasNot("old")

		// When all are within their hour, one of those goes.
		f.mustPut("e", size)
		f.has("c", "d", "e")
		f.hasNot("fresh")

		// But none within ten minutes: somebody was just told that it is there.
		if err := f.put("f", false, size); code(err) != imagebuilder.CodeNoSpace {
			t.Errorf("error: %v", err)
		}
		time.Sleep(9 * time.Minute)
		f.c.Touch(hashOf("c"))
		time.Sleep(2 * time.Minute)
		f.mustPut("f", size)
		f.has("c", "e", "f")
		f.hasNot("d")
	})
}

func TestTheBudgetIsCountedBeforeItIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{Budget: 20 * mb})
		r, err := f.c.Reserve(hashOf("a"), 15*mb)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.c.Reserve(hashOf("b"), 6*mb); code(err) != imagebuilder.CodeNoSpace {
			t.Errorf("error: %v", err)
		}
		if _, err := f.c.Reserve(hashOf("b"), 21*mb); code(err) != imagebuilder.CodeNoSpace || !strings.Contains(err.Error(), "more than this server keeps") {
			t.Errorf("error: %v", err)
		}
		r.Release()
		r.Release()
		if r, err = f.c.Reserve(hashOf("b"), 20*mb); err != nil {
			t.Fatal(err)
		}
		r.Release()
		if _, err := f.c.Reserve("no hash", mb); code(err) != imagebuilder.CodeInternal {
			t.Errorf("error: %v", err)
		}

		// A set that turns out larger than reserved makes room, or is refused.
		f.mustPut("old", size)
		time.Sleep(3 * time.Hour)
		f.mustPut("large", 15*mb)
		f.hasNot("old")
		err = f.put("second", false, 15*mb)
		if code(err) != imagebuilder.CodeNoSpace {
			t.Errorf("error: %v", err)
		}
		f.has("large")
		f.hasNot("second")
	})
}

func TestTheDisksFreeSpaceCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := int64(100 * mb)
		f := newFixture(t, Options{Budget: 1 << 40, MinFree: 50 * mb, Free: func(string) (int64, error) { return free, nil }})
		f.mustPut("a", size)
		free -= 10 * mb
		time.Sleep(2 * time.Hour)
		r, err := f.c.Reserve(hashOf("b"), 40*mb)
		if err != nil {
			t.Fatal(err)
		}
		f.has("a")
		// 90 MB are free, 50 must stay, 40 are reserved: the old set goes.
		second, err := f.c.Reserve(hashOf("c"), 5*mb)
		if err != nil {
			t.Fatal(err)
		}
		f.hasNot("a")
		second.Release()
		r.Release()

		// The dropped one counts as free although nobody removes it here.
		if u := f.c.Usage(); u.Dropped != 10*mb {
			t.Errorf("usage: %+v", u)
		}
		if _, err := f.c.Reserve(hashOf("d"), 51*mb); code(err) != imagebuilder.CodeNoSpace {
			t.Errorf("error: %v", err)
		}
		if r, err = f.c.Reserve(hashOf("d"), 50*mb); err != nil {
			t.Fatal(err)
		}
		r.Release()

		// A set that is written already needs nothing more from the disk.
		free = 60 * mb
		r, err = f.c.Reserve(hashOf("e"), mb)
		if err != nil {
			t.Fatal(err)
		}
		free = 0
		dir, set := f.written(size)
		if err := r.Commit(dir, set, false, f.record("e", set)); err != nil {
			t.Error(err)
		}

		// Where free space cannot be told, the budget alone decides.
		f.c.o.Free = func(string) (int64, error) { return 0, errors.New("no statfs") }
		if r, err = f.c.Reserve(hashOf("f"), 100*mb); err != nil {
			t.Fatal(err)
		}
		r.Release()
		if u := f.c.Usage(); u.Free != -1 {
			t.Errorf("usage: %+v", u)
		}
	})
}

func TestFreeSpaceIsThatOfTheDisk(t *testing.T) {
	free, err := freeSpace(t.TempDir())
	if err != nil || free <= 0 {
		t.Errorf("%d, %v", free, err)
	}
	if _, err := freeSpace("/does/not/exist"); err == nil {
		t.Error("no error")
	}
}

func TestSetsWithDefaultsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{})
		f.run()
		f.mustPut("plain", size)
		for _, name := range []string{"secret", "read"} {
			if err := f.put(name, true, size); err != nil {
				t.Fatal(err)
			}
		}
		h := f.pin("read")
		time.Sleep(time.Hour)
		f.restart()
		f.run()
		h.Close() // of the cache before: changes nothing
		h = f.pin("read")
		time.Sleep(50 * time.Minute)
		f.has("plain", "secret", "read")
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		f.has("plain", "read")
		f.hasNot("secret")
		h.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		f.has("plain")
		f.hasNot("read")
		if left := append(f.left("work"), f.left("images")...); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestTheOrderOfUsesOutlivesRestartsAndClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wall := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		f := newFixture(t, Options{Budget: 40 * mb, Now: func() time.Time { return wall }})
		f.mustPut("a", size)
		f.mustPut("b", size)
		// The Pi boots without a clock.
		wall = time.Date(1970, 1, 1, 0, 0, 30, 0, time.UTC)
		f.restart()
		f.mustPut("c", size)
		f.mustPut("d", size)
		f.c.Touch(hashOf("a"))
		f.restart()
		// Now it has the time.
		wall = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
		f.restart()
		for i, gone := range []string{"b", "c", "d", "a"} {
			f.mustPut(fmt.Sprint("new", i), size)
			f.hasNot(gone)
			if u := f.c.Usage(); u.Sets != 4 {
				t.Errorf("after %s went: %+v", gone, u)
			}
		}
	})
}

func TestAHitWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{})
		f.run()
		f.mustPut("a", size)
		time.Sleep(time.Hour)
		synctest.Wait()
		before := fingerprint(t, f.o.Dir)
		for range 100 {
			f.has("a")
			f.c.Touch(hashOf("a"))
			f.pin("a").Close()
		}
		if after := fingerprint(t, f.o.Dir); after != before {
			t.Errorf("the database was written: %s, %s", before, after)
		}
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		saved := fingerprint(t, f.o.Dir)
		if saved == before {
			t.Error("the uses were not saved")
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if after := fingerprint(t, f.o.Dir); after != saved {
			t.Error("the database was written without a use")
		}
	})
}

// fingerprint changes with every transaction that is written.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "attendant.db"))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	return fmt.Sprintf("%x %x", content[:200], content[page:page+200]) // the two meta pages
}

func TestDiskAndRecordsAreReconciled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{})
		for _, name := range []string{"good", "gone", "cut", "grown", "file", "empty"} {
			f.mustPut(name, 5000, 10)
		}
		f.close()
		images := filepath.Join(f.o.Dir, "images")
		in := func(name string) string { return filepath.Join(images, hashOf(name)) }
		unrecorded, leftover := in("unrecorded"), filepath.Join(f.o.Dir, "work", TrashPrefix+"1234")
		for _, err := range []error{
			os.RemoveAll(in("gone")),
			os.Truncate(filepath.Join(in("cut"), "file-0.bin"), 4999),
			os.WriteFile(filepath.Join(in("grown"), "more"), []byte("x"), 0o644),
			os.RemoveAll(in("file")), os.WriteFile(in("file"), []byte("x"), 0o644),
			os.RemoveAll(in("empty")), os.Mkdir(in("empty"), 0o755),
			os.Mkdir(unrecorded, 0o755), os.WriteFile(filepath.Join(unrecorded, "x"), []byte("x"), 0o644),
			os.MkdirAll(filepath.Join(leftover, "deep"), 0o755),
			os.Mkdir(filepath.Join(images, "lost+found"), 0o700),
			os.Mkdir(filepath.Join(f.o.Dir, "work", "attempt-of-a-build"), 0o755),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		f.open()
		f.run()
		synctest.Wait()
		f.has("good")
		f.hasNot("gone", "cut", "grown", "file", "empty", "unrecorded")
		if left := f.left("images"); strings.Join(left, " ") != hashOf("good")+" lost+found" {
			t.Errorf("images: %v", left)
		}
		if left := f.left("work"); strings.Join(left, " ") != "attempt-of-a-build" {
			t.Errorf("work: %v", left)
		}
		if u := f.c.Usage(); u.Used != 4*store.BlockSize || u.Dropped != 0 {
			t.Errorf("usage: %+v", u)
		}
		if r, err := f.db.Check(); err != nil || r.Images != 1 || r.Jobs != 1 {
			t.Errorf("report: %+v, %v", r, err)
		}
	})
}

func TestAVanishedSetIsAMissAtOnce(t *testing.T) {
	f := newFixture(t, Options{})
	f.mustPut("a", 100)
	if err := os.RemoveAll(filepath.Join(f.o.Dir, "images", hashOf("a"))); err != nil {
		t.Fatal(err)
	}
	f.hasNot("a")
	if _, err := f.db.Job(hashOf("a")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its job is still there: %v", err)
	}
	if u := f.c.Usage(); u.Used != 0 || u.Sets != 0 {
		t.Errorf("usage: %+v", u)
	}
	f.mustPut("a", 100)
	f.has("a")
}

func TestDropRemovesASet(t *testing.T) {
	f := newFixture(t, Options{})
	f.mustPut("a", 100)
	if err := f.c.Drop(hashOf("a")); err != nil {
		t.Error(err)
	}
	f.hasNot("a")
	for _, hash := range []string{hashOf("a"), "", "x"} {
		if err := f.c.Drop(hash); code(err) != imagebuilder.CodeNotFound {
			t.Errorf("%q: %v", hash, err)
		}
	}
}

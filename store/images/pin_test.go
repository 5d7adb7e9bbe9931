package images

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"attendant/imagebuilder"
)

func TestPinnedImagesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{Budget: 40 * mb})
		f.run()
		f.mustPut("kept", size)
		if err := f.c.Pin(hashOf("kept")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * 24 * time.Hour)
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			f.mustPut(name, size)
			time.Sleep(2 * time.Hour)
		}
		f.has("kept", "c", "d", "e")

		// Uses are saved beside the pin, and a restart changes nothing.
		f.c.Touch(hashOf("kept"))
		f.restart()
		f.run()
		if sets := f.c.Pinned(); len(sets) != 1 || sets[0].Hash != hashOf("kept") || sets[0].Bytes != 10*mb || sets[0].Age < 100*24*time.Hour || sets[0].Idle > time.Hour {
			t.Errorf("pinned: %+v", sets)
		}
		if sets := f.c.Kept(3); len(sets) != 3 || sets[0] != f.c.Pinned()[0] || sets[1].Hash != hashOf("e") || sets[1].Pinned || sets[1].Idle < time.Hour || sets[2].Hash != hashOf("d") {
			t.Errorf("kept: %+v", sets)
		}
		if sets := f.c.Kept(100); len(sets) != 4 || len(f.c.Kept(0)) != 0 {
			t.Errorf("all that are kept: %+v", sets)
		}
		if u := f.c.Usage(); u.Pinned != 10*mb {
			t.Errorf("usage: %+v", u)
		}
		time.Sleep(2 * time.Hour)
		for _, name := range []string{"f", "g", "h", "i"} {
			f.mustPut(name, size)
			time.Sleep(2 * time.Hour)
		}
		f.has("kept", "g", "h", "i")
		if err := f.c.Drop(hashOf("kept")); code(err) != imagebuilder.CodePinned || !strings.Contains(err.Error(), "Unpin it first") {
			t.Errorf("dropped though pinned: %v", err)
		}

		if err := f.c.Unpin(hashOf("kept")); err != nil {
			t.Fatal(err)
		}
		f.mustPut("j", size)
		f.hasNot("kept")
		if u := f.c.Usage(); u.Pinned != 0 || len(f.c.Pinned()) != 0 {
			t.Errorf("usage: %+v", u)
		}
	})
}

func TestPinsLeaveRoomForBuilds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{Budget: 40 * mb})
		f.run()
		for _, name := range []string{"a", "b", "c", "d"} {
			f.mustPut(name, size)
		}
		for _, name := range []string{"a", "b", "c", "c"} {
			if err := f.c.Pin(hashOf(name)); err != nil {
				t.Fatal(err)
			}
		}
		err := f.c.Pin(hashOf("d"))
		if code(err) != imagebuilder.CodePinned || !strings.Contains(err.Error(), "30 MiB. They take 30 MiB, and this one has 10 MiB more") {
			t.Errorf("error: %v", err)
		}
		if err := f.c.Unpin(hashOf("b")); err != nil {
			t.Fatal(err)
		}
		if err := f.c.Pin(hashOf("d")); err != nil {
			t.Error(err)
		}
		for _, hash := range []string{hashOf("nowhere"), "short", ""} {
			if err := f.c.Pin(hash); code(err) != imagebuilder.CodeNotFound {
				t.Errorf("%q: %v", hash, err)
			}
			if err := f.c.Unpin(hash); code(err) != imagebuilder.CodeNotFound {
				t.Errorf("%q: %v", hash, err)
			}
		}

		// With a smaller budget pinned ones stay, and the refusal says so.
		f.o.Budget = 20 * mb
		f.restart()
		f.run()
		time.Sleep(24 * time.Hour)
		if err := f.put("e", false, size); code(err) != imagebuilder.CodeNoSpace || !strings.Contains(err.Error(), "pinned, in use") {
			t.Errorf("error: %v", err)
		}
		f.has("a", "c", "d")
	})
}

func TestImagesWithScriptsCannotBePinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Options{})
		f.run()
		if err := f.put("secret", true, size); err != nil {
			t.Fatal(err)
		}
		if err := f.c.Pin(hashOf("secret")); code(err) != imagebuilder.CodePinned || !strings.Contains(err.Error(), "defaults_ttl") {
			t.Errorf("error: %v", err)
		}
		time.Sleep(3 * time.Hour)
		f.hasNot("secret")
	})
}

func TestPinsAndEvictionsAtTheSameTime(t *testing.T) {
	f := newFixture(t, Options{Budget: 40 * mb, MinKeep: time.Nanosecond, Grace: time.Nanosecond})
	names := []string{"a", "b", "c"}
	for _, name := range names {
		f.mustPut(name, size)
	}
	var running sync.WaitGroup
	for range 3 {
		for _, name := range names {
			running.Go(func() {
				for range 20 {
					_ = f.c.Pin(hashOf(name)) // there or not, it must agree with the record
					_ = f.c.Unpin(hashOf(name))
					f.c.Touch(hashOf(name))
					f.c.Pinned()
				}
				_ = f.c.Pin(hashOf(name))
			})
		}
	}
	running.Go(func() {
		for range 20 {
			r, err := f.c.Reserve(hashOf("new"), 25*mb)
			if err == nil {
				r.Release()
			}
		}
	})
	running.Wait()
	want := map[string]bool{}
	for _, s := range f.c.Pinned() {
		want[s.Hash] = true
	}
	f.restart()
	got := f.c.Pinned()
	if len(got) != len(want) {
		t.Fatalf("%d pinned after the restart, %d before", len(got), len(want))
	}
	for _, s := range got {
		if !want[s.Hash] {
			t.Errorf("%s is pinned after the restart alone", s.Hash)
		}
	}
}

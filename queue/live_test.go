package queue

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"attendant/imagebuilder"
)

func TestFollowers(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		step := make(chan struct{})
		f.b.set(func(r *running) (setSize, error) {
			r.rep.Stage(imagebuilder.StageDownload)
			r.rep.Progress(50, 100)
			r.rep.Line("one")
			<-step
			r.rep.Stage(imagebuilder.StageImage)
			r.rep.Stage(imagebuilder.StageImage)
			r.rep.Line("two")
			<-step
			return 100, nil
		})
		f.open()
		f.mustSubmit("a", "b")
		result := make(chan []string, 3)
		follow := func(name string) { go func() { result <- f.events(name, -1) }() }
		follow("b")
		synctest.Wait()
		f.run()
		synctest.Wait()
		follow("a") // late
		synctest.Wait()
		step <- struct{}{}
		synctest.Wait()
		follow("a") // later
		synctest.Wait()
		step <- struct{}{}
		want := []string{"building 0", "stage init", "stage download_imagebuilder", "line one", "stage building_image", "line two", "stage storing_image", "done 0"}
		for range 2 {
			got := slices.DeleteFunc(<-result, func(s string) bool { return strings.Contains(s, "/") })
			if !slices.Equal(got, want) {
				f.Errorf("got %q", got)
			}
		}
		step <- struct{}{}
		step <- struct{}{}
		got := <-result
		if !contains(got, append([]string{"queued 2", "queued 1"}, want...)...) || !contains(got, "stage download_imagebuilder", "line one") {
			f.Errorf("b: %q", got)
		}
		// An outcome is one event.
		if got := f.events("a", -1); !slices.Equal(got, []string{"done 0"}) {
			f.Errorf("afterwards: %q", got)
		}
		if _, stop, ok := f.q.Subscribe(hashOf("none")); ok {
			stop()
			f.Error("followed what is not there")
		}
	})
}

func TestASlowFollowerMissesLinesAndHoldsNothingUp(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		begin := make(chan struct{})
		f.b.set(func(r *running) (setSize, error) {
			<-begin
			for i := range 10 * liveLines {
				r.rep.Line(fmt.Sprint(i))
			}
			r.rep.Line(strings.Repeat("x", 3*liveLineMax))
			return 100, nil
		})
		f.open().run()
		f.mustSubmit("a")
		events, stop, ok := f.q.Subscribe(hashOf("a"))
		if !ok {
			f.Fatal("cannot be followed")
		}
		defer stop()
		synctest.Wait()
		close(begin)
		synctest.Wait()
		f.is("a", imagebuilder.Done) // though nobody has read a line

		lines, missed := 0, 0
		var last Event
		longest := 0
		for e := range events {
			missed += e.Missed
			if e.Kind == EventLine {
				lines++
				longest = max(longest, len(e.Line))
			}
			last = e
		}
		if missed == 0 || lines > liveLines+100 || lines < 100 || longest != liveLineMax {
			f.Errorf("%d lines, %d missed, the longest %d", lines, missed, longest)
		}
		if last.Kind != EventState || last.Status.Job.State != imagebuilder.Done {
			f.Errorf("the last is %+v", last)
		}
	})
}

func TestTheLogIsBounded(t *testing.T) {
	l := newLive()
	for range 100_000 {
		l.Line(strings.Repeat("x", 1000))
	}
	if l.bytes > liveBytes || len(l.items) > liveLines {
		t.Errorf("%d lines, %d bytes", len(l.items), l.bytes)
	}
	sum := 0
	for _, i := range l.items {
		sum += i.size()
	}
	if sum != l.bytes {
		t.Errorf("%d bytes counted, %d there", l.bytes, sum)
	}
}

func TestProgressWakesFollowersSparingly(t *testing.T) {
	l := newLive()
	bell := l.follow()
	defer l.unfollow(bell)
	<-bell
	rung := 0
	for i := range int64(100_000) {
		l.Progress(i, 100_000)
		select {
		case <-bell:
			rung++
		default:
		}
	}
	if rung < 90 || rung > 110 {
		t.Errorf("woken %d times", rung)
	}
}

func TestStoppingToFollow(t *testing.T) {
	bubble(t, Options{}, func(f *fixture) {
		f.b.set(takes(time.Hour))
		f.open().run()
		f.mustSubmit("a")
		synctest.Wait()
		for range 3 {
			events, stop, ok := f.q.Subscribe(hashOf("a"))
			if !ok {
				f.Fatal("cannot be followed")
			}
			<-events
			stop()
			stop()
		}
		f.q.mu.Lock()
		followers := len(f.q.active[hashOf("a")].live.follower)
		f.q.mu.Unlock()
		if followers != 0 {
			f.Errorf("%d followers remain", followers)
		}
	})
}

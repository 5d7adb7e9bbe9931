package queue

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

// doneFixture is a queue with one done job.
func doneFixture(b *testing.B) *fixture {
	f := newFixture(b, Options{})
	f.open().run()
	f.mustSubmit("a")
	for deadline := time.Now().Add(10 * time.Second); ; {
		if s, _ := f.q.Lookup(hashOf("a")); s.Job.State == imagebuilder.Done {
			return f
		}
		if time.Now().After(deadline) {
			b.Fatal("not built")
		}
		runtime.Gosched()
	}
}

func BenchmarkLookupDone(b *testing.B) {
	f := doneFixture(b)
	hash := hashOf("a")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, found := f.q.Lookup(hash); !found {
				b.Fatal("gone")
			}
		}
	})
}

func BenchmarkSubmitDone(b *testing.B) {
	f := doneFixture(b)
	hash, req := hashOf("a"), request("a")
	b.ReportAllocs()
	for b.Loop() {
		if s, err := f.q.Submit(context.Background(), hash, req, imagebuilder.Generation{}); err != nil || s.New {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookupQueued(b *testing.B) {
	f := newFixture(b, Options{})
	f.open()
	for i := range 200 {
		f.mustSubmit(fmt.Sprint(i))
	}
	f.q.history.add("ath79/generic", store.Build{Took: time.Minute})
	hash := hashOf("199")
	b.ReportAllocs()
	for b.Loop() {
		if s, _ := f.q.Lookup(hash); s.Position != 200 {
			b.Fatal(s.Position)
		}
	}
}

// BenchmarkSubmit is that of new requests, each durable when it returns.
func BenchmarkSubmit(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			f := newFixture(b, Options{Limit: 1 << 30})
			f.store.NoSync = false
			f.open()
			names := make(chan string)
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for name := range names {
						if _, err := f.submit(name); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := 0; b.Loop(); i++ {
				names <- fmt.Sprint(i)
			}
			close(names)
			wg.Wait()
		})
	}
}

// BenchmarkOpenWith100000Jobs is a start: database, image cache and queue.
func BenchmarkOpenWith100000Jobs(b *testing.B) {
	f := newFixture(b, Options{Limit: 1 << 30})
	f.open()
	work := make(chan int)
	var wg sync.WaitGroup
	for range 256 { // share transactions
		wg.Go(func() {
			for i := range work {
				name := fmt.Sprint(i)
				job := &imagebuilder.Job{Hash: hashOf(name), Seq: uint64(i + 1), Request: request(name), State: imagebuilder.Done, Images: &imagebuilder.ImageSet{Manifest: imagebuilder.Manifest{}}}
				for j := range 140 {
					job.Images.Manifest[fmt.Sprintf("package-%d", j)] = hashOf(fmt.Sprint(name, j/10))[:12]
				}
				if err := f.db.FinishJob(job, &store.ImageRecord{Bytes: 9 << 20, Disk: 10 << 20, Tick: uint64(i)}, time.Second); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range 100_000 {
		work <- i
	}
	close(work)
	wg.Wait()
	f.q.lastSeq = 100_000
	for i := range 200 {
		f.mustSubmit(fmt.Sprint("queued", i))
	}
	f.close()
	var before, after runtime.MemStats
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		f.open()
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		f.cache.Close()
		f.db.Close()
		f.q = nil
		b.StartTimer()
	}
	b.ReportMetric(float64(int64(after.HeapAlloc-before.HeapAlloc))/(1<<20), "heap-MB")
}

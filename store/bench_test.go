package store

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// manyJobs makes a database with n done jobs of real size.
func manyJobs(b *testing.B, path string, n int) {
	b.Helper()
	db, err := Open(path, Options{NoSync: true})
	must(b, err)
	for from := 0; from < n; from += 5000 {
		must(b, db.bolt.Update(func(tx *bolt.Tx) error {
			for i := from; i < min(from+5000, n); i++ {
				d, image := done(job(uint64(i+1), fmt.Sprint(i)))
				k, _ := ParseKey(d.Hash)
				record, err := db.encodeJob(d)
				if err != nil {
					return err
				}
				if err := tx.Bucket(bucketJobs).Put(k[:], record); err != nil {
					return err
				}
				if err := tx.Bucket(bucketImages).Put(k[:], image.encode()); err != nil {
					return err
				}
			}
			return tx.Bucket(bucketQueue).SetSequence(uint64(n))
		}))
	}
	must(b, db.Close())
}

func BenchmarkOpenWith100000DoneJobs(b *testing.B) {
	path := filepath.Join(b.TempDir(), "db")
	manyJobs(b, path, 100_000)
	var before, after runtime.MemStats
	var size int64
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		db, err := Open(path, Options{})
		must(b, err)
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		must(b, db.bolt.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil }))
		must(b, db.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/(1<<20), "heap-MB")
	b.ReportMetric(float64(size)/(1<<20), "file-MB")
}

func BenchmarkJob(b *testing.B) {
	db := open(b, filepath.Join(b.TempDir(), "db"))
	j := job(1, "x")
	must(b, db.Enqueue(j))
	d, image := done(j)
	must(b, db.FinishJob(d, image, time.Second))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.Job(d.Hash); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEnqueue is one synced transaction after the other; in parallel,
// waiting ones share a sync.
func BenchmarkEnqueue(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			db, err := Open(filepath.Join(b.TempDir(), "db"), Options{})
			must(b, err)
			defer db.Close()
			b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			seqs := make(chan uint64, 16)
			stop := make(chan struct{})
			go func() {
				for seq := uint64(1); ; seq++ {
					select {
					case seqs <- seq:
					case <-stop:
						return
					}
				}
			}()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					seq := <-seqs
					if err := db.Enqueue(job(seq, fmt.Sprint(seq))); err != nil {
						b.Error(err)
					}
				}
			})
			b.StopTimer()
			close(stop)
		})
	}
}

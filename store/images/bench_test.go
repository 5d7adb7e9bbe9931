package images

import (
	"crypto/sha256"
	"encoding/binary"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

func BenchmarkOpenWith100000Sets(b *testing.B) {
	dir := b.TempDir()
	db, err := store.Open(filepath.Join(dir, "db"), store.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	work := make(chan uint64)
	go func() {
		defer close(work)
		for seq := range uint64(100_000) {
			work <- seq + 1
		}
	}()
	ended := make(chan error)
	const writers = 256 // share transactions
	for range writers {
		go func() {
			for seq := range work {
				sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, seq))
				job := &imagebuilder.Job{Hash: store.Key(sum).String(), Seq: seq, State: imagebuilder.Done, Images: &imagebuilder.ImageSet{}}
				if err := db.FinishJob(job, &store.ImageRecord{Bytes: 9 * mb, Disk: 10 * mb, Tick: seq}, time.Second); err != nil {
					b.Error(err)
				}
			}
			ended <- nil
		}()
	}
	for range writers {
		<-ended
	}
	var before, after runtime.MemStats
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		c, err := Open(Options{Dir: dir, DB: db, Budget: 1 << 50})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if n := c.Usage().Sets; n != 100_000 {
			b.Fatalf("%d sets", n)
		}
		c.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "heap-MB")
}

// BenchmarkHit is what a cached answer costs here.
func BenchmarkHit(b *testing.B) {
	f := newFixture(b, Options{})
	f.mustPut("a", mb)
	hash := hashOf("a")
	b.ReportAllocs()
	for b.Loop() {
		if !f.c.Has(hash) {
			b.Fatal("gone")
		}
		f.c.Touch(hash)
	}
}

package store

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// The buckets. Numbers in keys and fixed records are big-endian.
var (
	bucketMeta     = []byte("meta")       // "schema" → uint64
	bucketJobs     = []byte("jobs")       // hash (32 bytes) → job as JSON, or that in a zstd frame
	bucketQueue    = []byte("queue")      // seq (8) → hash (32): the jobs queued and building; its sequence is the last seq given
	bucketFailures = []byte("failures")   // seq (8) → hash (32), finished (8, Unix seconds): the failed jobs
	bucketImages   = []byte("images")     // hash (32) → imageRecordSize bytes: the done jobs' image sets
	bucketHistory  = []byte("history")    // target → ring of historyLength builds
	bucketRecent   = []byte("recent")     // running number (8) → hash (32): the last recentLength outcomes
	bucketStats    = []byte("statistics") // "day/<n>", "packages/<period>/<branch>", "hours" → JSON
	bucketErrors   = []byte("errors")     // running number (8) → line: the last errorLines build errors
	bucketSizes    = []byte("sizes")      // distro 0 branch 0 target 0 file system → the last sizesLength images' sizes
	bucketLimits   = []byte("limits")     // distro 0 branch 0 target → Limits as JSON
)

// Buckets of images that several requests share; see shares.go.
var (
	bucketContents = []byte("contents") // content hash (32) → hash (32) of the done job that has it
	bucketShares   = []byte("shares")   // hash (32) of a request that was never built → hash (32) of the job that it shares the images of, then its own job as in bucketJobs
	bucketSharers  = []byte("sharers")  // hash (32) of a done job, hash (32) of a request that shares its images → nothing
)

var keySchema = []byte("schema")

// migrations bring the schema from version i to i+1. They are never changed
// once released, only added to; the schema's version is their number.
var migrations = []func(*bolt.Tx) error{
	func(tx *bolt.Tx) error {
		return makeBuckets(tx, bucketJobs, bucketQueue, bucketFailures, bucketImages, bucketHistory, bucketRecent, bucketStats, bucketErrors)
	},
	func(tx *bolt.Tx) error { return makeBuckets(tx, bucketContents, bucketShares, bucketSharers) },
	func(tx *bolt.Tx) error { return makeBuckets(tx, bucketSizes, bucketLimits) },
}

func makeBuckets(tx *bolt.Tx, names ...[]byte) error {
	for _, name := range names {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("making bucket %s: %w", name, err)
		}
	}
	return nil
}

// schemaVersion reads the schema's version; 0 is an empty file.
func schemaVersion(tx *bolt.Tx) (uint64, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return 0, nil
	}
	v := meta.Get(keySchema)
	if len(v) != 8 {
		return 0, fmt.Errorf("the schema's version is unreadable (%d bytes)", len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// migrate applies the steps that are missing, each in a transaction of its own.
func migrate(b *bolt.DB, steps []func(*bolt.Tx) error) error {
	known := uint64(len(steps))
	var have uint64
	if err := b.View(func(tx *bolt.Tx) (err error) {
		have, err = schemaVersion(tx)
		return err
	}); err != nil {
		return err
	}
	if have > known {
		return fmt.Errorf("%w: its schema is %d and this one knows %d; start the newer attendant again, or restore a backup from before the upgrade", ErrNewerSchema, have, known)
	}
	for ; have < known; have++ {
		err := b.Update(func(tx *bolt.Tx) error {
			meta, err := tx.CreateBucketIfNotExists(bucketMeta)
			if err != nil {
				return err
			}
			if err := steps[have](tx); err != nil {
				return err
			}
			return meta.Put(keySchema, binary.BigEndian.AppendUint64(nil, have+1))
		})
		if err != nil {
			return fmt.Errorf("bringing the schema from %d to %d: %w", have, have+1, err)
		}
	}
	return nil
}

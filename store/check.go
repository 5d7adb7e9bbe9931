package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	bolt "go.etcd.io/bbolt"

	"attendant/imagebuilder"
)

// maxProblems bounds a report.
const maxProblems = 100

// Report is what Check found.
type Report struct {
	Schema                         uint64
	Jobs, Active, Failures, Images int      // records
	Size                           int64    // bytes of the file
	Problems                       []string // sentences; empty when all is well; at most 100
	More                           int      // problems beyond those
}

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) >= maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Check reads the whole database: the file's own structure, every record, and
// whether queue, failures, images and jobs agree. The error is of reading;
// what is wrong with the content is in the report.
func (db *DB) Check() (*Report, error) {
	r := new(Report)
	err := db.bolt.View(func(tx *bolt.Tx) (err error) {
		r.Size = tx.Size()
		for err := range tx.Check() {
			r.problem("The file is damaged: %v.", err)
		}
		if len(r.Problems) > 0 {
			return nil
		}
		if r.Schema, err = schemaVersion(tx); err != nil {
			return err
		}
		db.checkJobs(tx, r)
		checkQueue(tx, r)
		checkFailures(tx, r)
		checkImages(tx, r)
		checkShares(tx, r)
		checkRest(tx, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checking database: %w", err)
	}
	return r, nil
}

// forEach calls fn for a bucket's records; fn returns what is wrong with one.
func forEach(tx *bolt.Tx, bucket []byte, r *Report, fn func(k, v []byte) error) int {
	b := tx.Bucket(bucket)
	if b == nil {
		r.problem("The bucket %s is missing.", bucket)
		return 0
	}
	n := 0
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		n++
		if err := fn(k, v); err != nil {
			r.problem("In bucket %s, %x: %v.", bucket, k, err)
		}
	}
	return n
}

func (db *DB) checkJobs(tx *bolt.Tx, r *Report) {
	queue, failures, images := tx.Bucket(bucketQueue), tx.Bucket(bucketFailures), tx.Bucket(bucketImages)
	r.Jobs = forEach(tx, bucketJobs, r, func(k, v []byte) error {
		if len(k) != len(Key{}) {
			return fmt.Errorf("the key is no hash")
		}
		job, err := db.decodeJob(Key(k), v)
		if err != nil {
			return err
		}
		if job.Hash != Key(k).String() {
			return fmt.Errorf("the job says it is %s", job.Hash)
		}
		if job.Seq == 0 || job.Seq > queue.Sequence() {
			return fmt.Errorf("its sequence number %d was never given", job.Seq)
		}
		seq := seqKey(job.Seq)
		queued := string(queue.Get(seq)) == string(k)
		failed := failures.Get(seq) != nil
		image := images.Get(k) != nil
		active := job.State == imagebuilder.Queued || job.State == imagebuilder.Building
		switch {
		case queued != active:
			return fmt.Errorf("its state is %s, in the queue: %t", job.State, queued)
		case failed != (job.State == imagebuilder.Failed) || failed != (job.Failure != nil):
			return fmt.Errorf("its state is %s, among the failures: %t, with a failure: %t", job.State, failed, job.Failure != nil)
		case image != (job.State == imagebuilder.Done) || image != (job.Images != nil):
			return fmt.Errorf("its state is %s, with an image record: %t, with images: %t", job.State, image, job.Images != nil)
		}
		return nil
	})
}

func checkQueue(tx *bolt.Tx, r *Report) {
	jobs := tx.Bucket(bucketJobs)
	r.Active = forEach(tx, bucketQueue, r, func(k, v []byte) error {
		if len(k) != 8 || len(v) != len(Key{}) {
			return fmt.Errorf("the entry has %d and %d bytes", len(k), len(v))
		}
		if jobs.Get(v) == nil {
			return fmt.Errorf("its job %x is missing", v)
		}
		return nil
	})
}

func checkFailures(tx *bolt.Tx, r *Report) {
	jobs := tx.Bucket(bucketJobs)
	r.Failures = forEach(tx, bucketFailures, r, func(k, v []byte) error {
		if len(k) != 8 || len(v) != len(Key{})+8 {
			return fmt.Errorf("the entry has %d and %d bytes", len(k), len(v))
		}
		if jobs.Get(v[:32]) == nil {
			return fmt.Errorf("its job %x is missing", v[:32])
		}
		return nil
	})
}

func checkImages(tx *bolt.Tx, r *Report) {
	jobs := tx.Bucket(bucketJobs)
	r.Images = forEach(tx, bucketImages, r, func(k, v []byte) error {
		record, err := decodeImageRecord(v)
		if err != nil {
			return err
		}
		if record.Bytes < 0 || record.Bytes > record.Disk {
			return fmt.Errorf("%d bytes cannot take %d on disk", record.Bytes, record.Disk)
		}
		if jobs.Get(k) == nil {
			return fmt.Errorf("its job is missing")
		}
		return nil
	})
}

func checkRest(tx *bolt.Tx, r *Report) {
	forEach(tx, bucketHistory, r, func(k, v []byte) error {
		if len(v)%buildSize != 0 || len(v) > historyLength*buildSize {
			return fmt.Errorf("a history of %d bytes", len(v))
		}
		return nil
	})
	forEach(tx, bucketRecent, r, func(k, v []byte) error {
		if len(k) != 8 || len(v) != len(Key{}) {
			return fmt.Errorf("the entry has %d and %d bytes", len(k), len(v))
		}
		return nil
	})
	forEach(tx, bucketStats, r, func(k, v []byte) error {
		if !json.Valid(v) {
			return fmt.Errorf("it is not JSON")
		}
		return nil
	})
	forEach(tx, bucketErrors, r, func(k, v []byte) error {
		if len(k) != 8 || !utf8.Valid(v) {
			return fmt.Errorf("the line %d is unreadable", binary.BigEndian.Uint64(append(make([]byte, 8), k...)[len(k):]))
		}
		return nil
	})
	forEach(tx, bucketSizes, r, func(k, v []byte) error {
		_, err := decodeSizes(v)
		return err
	})
	forEach(tx, bucketLimits, r, func(k, v []byte) error {
		_, err := limitsOf(tx, k)
		return err
	})
}

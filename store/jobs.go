package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"attendant/imagebuilder"
)

const (
	// maxRecord bounds a job's JSON in bytes, as a guard against a damaged
	// frame that claims to be huge.
	maxRecord = 64 << 20
	// compressFrom is the size in bytes from which a job is compressed.
	compressFrom = 512
	// recentLength is how many outcomes are kept in order.
	recentLength = 50
)

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func (db *DB) encodeJob(job *imagebuilder.Job) ([]byte, error) {
	data, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("the job's record has %d bytes", len(data))
	}
	if len(data) >= compressFrom {
		data = db.enc.EncodeAll(data, make([]byte, 0, len(data)/2))
	}
	return data, nil
}

// jobJSON returns a record's JSON. A zstd frame begins with 0x28.
func (db *DB) jobJSON(record []byte) ([]byte, error) {
	if len(record) > 0 && record[0] == '{' {
		return record, nil
	}
	return db.dec.DecodeAll(record, nil)
}

func (db *DB) decodeJob(k Key, record []byte) (*imagebuilder.Job, error) {
	data, err := db.jobJSON(record)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", k, err)
	}
	job := new(imagebuilder.Job)
	if err := json.Unmarshal(data, job); err != nil {
		return nil, fmt.Errorf("job %s: %w", k, err)
	}
	return job, nil
}

// Job returns the job of a request hash, or ErrNotFound.
func (db *DB) Job(hash string) (*imagebuilder.Job, error) {
	k, err := parseKey(hash)
	if err != nil {
		return nil, fmt.Errorf("reading job: %w: %w", ErrNotFound, err)
	}
	var job *imagebuilder.Job
	err = db.bolt.View(func(tx *bolt.Tx) (err error) {
		record := tx.Bucket(bucketJobs).Get(k[:])
		if record == nil {
			return ErrNotFound
		}
		job, err = db.decodeJob(k, record)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading job: %w", err)
	}
	return job, nil
}

// LastSeq is the highest sequence number that any job was given.
func (db *DB) LastSeq() (uint64, error) {
	var seq uint64
	err := db.bolt.View(func(tx *bolt.Tx) error {
		seq = tx.Bucket(bucketQueue).Sequence()
		return nil
	})
	return seq, err
}

// Enqueue records a job, in state Queued and with its Seq, at its place in the
// queue's order. An earlier outcome of the same hash is forgotten with all
// that belongs to it.
func (db *DB) Enqueue(job *imagebuilder.Job) error {
	k, err := parseKey(job.Hash)
	if err != nil {
		return fmt.Errorf("queueing job: %w", err)
	}
	record, err := db.encodeJob(job)
	if err != nil {
		return fmt.Errorf("queueing job %s: %w", k, err)
	}
	err = db.update(func(tx *bolt.Tx) error {
		if err := db.forget(tx, k); err != nil {
			return err
		}
		queue := tx.Bucket(bucketQueue)
		if queue.Sequence() < job.Seq {
			if err := queue.SetSequence(job.Seq); err != nil {
				return err
			}
		}
		if err := queue.Put(seqKey(job.Seq), k[:]); err != nil {
			return err
		}
		return tx.Bucket(bucketJobs).Put(k[:], record)
	})
	if err != nil {
		return fmt.Errorf("queueing job %s: %w", k, err)
	}
	return nil
}

// forget removes a hash's record and everything that refers to it.
func (db *DB) forget(tx *bolt.Tx, k Key) error {
	if err := tx.Bucket(bucketImages).Delete(k[:]); err != nil {
		return err
	}
	jobs := tx.Bucket(bucketJobs)
	record := jobs.Get(k[:])
	if err := db.unshare(tx, k, record); err != nil {
		return err
	}
	if record == nil {
		return nil
	}
	var old struct {
		Seq uint64 `json:"seq"`
	}
	data, err := db.jobJSON(record)
	if err == nil {
		err = json.Unmarshal(data, &old)
	}
	for _, bucket := range [][]byte{bucketQueue, bucketFailures} {
		if err != nil {
			// What cannot be read is replaced all the same.
			if err := forgetEntries(tx.Bucket(bucket), k); err != nil {
				return err
			}
		} else if err := tx.Bucket(bucket).Delete(seqKey(old.Seq)); err != nil {
			return err
		}
	}
	return jobs.Delete(k[:])
}

// forgetEntries removes the entries of a bucket whose values begin with a hash.
func forgetEntries(bucket *bolt.Bucket, k Key) error {
	var found [][]byte
	c := bucket.Cursor()
	for seq, v := c.First(); seq != nil; seq, v = c.Next() {
		if bytes.HasPrefix(v, k[:]) {
			found = append(found, seq)
		}
	}
	for _, seq := range found {
		if err := bucket.Delete(seq); err != nil {
			return err
		}
	}
	return nil
}

// SaveJob records the new state of a job that is queued or building.
func (db *DB) SaveJob(job *imagebuilder.Job) error {
	k, err := parseKey(job.Hash)
	if err != nil {
		return fmt.Errorf("saving job: %w", err)
	}
	record, err := db.encodeJob(job)
	if err != nil {
		return fmt.Errorf("saving job %s: %w", k, err)
	}
	err = db.update(func(tx *bolt.Tx) error {
		if string(tx.Bucket(bucketQueue).Get(seqKey(job.Seq))) != string(k[:]) {
			return fmt.Errorf("%w: job %d is not in the queue", ErrNotFound, job.Seq)
		}
		return tx.Bucket(bucketJobs).Put(k[:], record)
	})
	if err != nil {
		return fmt.Errorf("saving job %s: %w", k, err)
	}
	return nil
}

// FinishJob records a job's outcome, takes it off the queue, and records, for
// a job that is Done, its image set, how long the build took and the image's
// size if that was noted; all in one transaction.
func (db *DB) FinishJob(job *imagebuilder.Job, image *ImageRecord, took time.Duration) error {
	k, err := parseKey(job.Hash)
	if err != nil {
		return fmt.Errorf("finishing job: %w", err)
	}
	if (job.State == imagebuilder.Done) != (image != nil) {
		return fmt.Errorf("finishing job %s: state %s and image record do not agree", k, job.State)
	}
	record, err := db.encodeJob(job)
	if err != nil {
		return fmt.Errorf("finishing job %s: %w", k, err)
	}
	size, sized := db.notedSize(k)
	err = db.update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketQueue).Delete(seqKey(job.Seq)); err != nil {
			return err
		}
		// An outcome that is recorded late must not hide a newer job.
		known := tx.Bucket(bucketJobs).Get(k[:])
		if known != nil {
			if newer, err := db.decodeJob(k, known); err == nil && newer.Seq > job.Seq {
				return nil
			}
		}
		if err := db.unshare(tx, k, known); err != nil {
			return err
		}
		if err := tx.Bucket(bucketJobs).Put(k[:], record); err != nil {
			return err
		}
		if err := addRecent(tx, k); err != nil {
			return err
		}
		// A commit whose sync failed may have happened all the same, so the
		// other outcome's traces are removed too.
		failures, images := tx.Bucket(bucketFailures), tx.Bucket(bucketImages)
		if job.State == imagebuilder.Failed {
			if err := images.Delete(k[:]); err != nil {
				return err
			}
			return failures.Put(seqKey(job.Seq), failureValue(k, job.FinishedAt))
		}
		if err := failures.Delete(seqKey(job.Seq)); err != nil {
			return err
		}
		if content, ok := ParseKey(job.Content); ok {
			if err := tx.Bucket(bucketContents).Put(content[:], k[:]); err != nil {
				return err
			}
		}
		if err := addHistory(tx, job.Request.Target, Build{Took: took, Disk: image.Disk}); err != nil {
			return err
		}
		if sized {
			if err := addSize(tx, size.key, size.size); err != nil {
				return err
			}
		}
		return images.Put(k[:], image.encode())
	})
	if err != nil {
		return fmt.Errorf("finishing job %s: %w", k, err)
	}
	db.forgetNoted(k)
	return nil
}

func addRecent(tx *bolt.Tx, k Key) error {
	recent := tx.Bucket(bucketRecent)
	n, err := recent.NextSequence()
	if err != nil {
		return err
	}
	if err := recent.Put(seqKey(n), k[:]); err != nil {
		return err
	}
	if n <= recentLength {
		return nil
	}
	return recent.Delete(seqKey(n - recentLength))
}

// Recent returns the last outcomes that are still recorded, newest first, at
// most 50.
func (db *DB) Recent() ([]*imagebuilder.Job, error) {
	var jobs []*imagebuilder.Job
	err := db.bolt.View(func(tx *bolt.Tx) error {
		seen := map[Key]bool{}
		c := tx.Bucket(bucketRecent).Cursor()
		for n, v := c.Last(); n != nil; n, v = c.Prev() {
			if len(v) != len(Key{}) || seen[Key(v)] {
				continue
			}
			k := Key(v)
			seen[k] = true
			record := tx.Bucket(bucketJobs).Get(k[:])
			if record == nil {
				continue
			}
			job, err := db.decodeJob(k, record)
			if err != nil {
				return err
			}
			if job.State == imagebuilder.Done || job.State == imagebuilder.Failed {
				jobs = append(jobs, job)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading recent jobs: %w", err)
	}
	return jobs, nil
}

// Active returns the jobs that are queued or building, in their order. Those
// that can be read are returned beside an error for those that cannot.
func (db *DB) Active() ([]*imagebuilder.Job, error) {
	var jobs []*imagebuilder.Job
	var damaged []error
	err := db.bolt.View(func(tx *bolt.Tx) error {
		records := tx.Bucket(bucketJobs)
		return tx.Bucket(bucketQueue).ForEach(func(seq, v []byte) error {
			if len(seq) != 8 || len(v) != len(Key{}) {
				damaged = append(damaged, fmt.Errorf("the queue's entry %x is unreadable", seq))
				return nil
			}
			k := Key(v)
			record := records.Get(k[:])
			if record == nil {
				damaged = append(damaged, fmt.Errorf("job %s: %w", k, ErrNotFound))
				return nil
			}
			job, err := db.decodeJob(k, record)
			if err == nil && job.Seq != binary.BigEndian.Uint64(seq) {
				err = fmt.Errorf("job %s has number %d and stands in the queue as %x", k, job.Seq, seq)
			}
			if err != nil {
				damaged = append(damaged, err)
				return nil
			}
			jobs = append(jobs, job)
			return nil
		})
	})
	if err := errors.Join(append(damaged, err)...); err != nil {
		return jobs, fmt.Errorf("reading the queue: %w", err)
	}
	return jobs, nil
}

// FailureRecord is one remembered failure.
type FailureRecord struct {
	Seq      uint64
	Key      Key
	Finished time.Time // wall clock, to the second
}

func failureValue(k Key, finished time.Time) []byte {
	v := make([]byte, 0, len(k)+8)
	v = append(v, k[:]...)
	return binary.BigEndian.AppendUint64(v, uint64(finished.Unix()))
}

// Failures returns the failed jobs in the order of their sequence numbers.
func (db *DB) Failures() ([]FailureRecord, error) {
	var failures []FailureRecord
	err := db.bolt.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketFailures).ForEach(func(seq, v []byte) error {
			if len(seq) != 8 || len(v) != len(Key{})+8 {
				return fmt.Errorf("entry %x is unreadable", seq)
			}
			failures = append(failures, FailureRecord{
				Seq:      binary.BigEndian.Uint64(seq),
				Key:      Key(v[:32]),
				Finished: time.Unix(int64(binary.BigEndian.Uint64(v[32:])), 0),
			})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading failures: %w", err)
	}
	return failures, nil
}

// ForgetFailures removes failed jobs. Those that have been queued again since
// are left alone.
func (db *DB) ForgetFailures(failures ...FailureRecord) error {
	if len(failures) == 0 {
		return nil
	}
	err := db.update(func(tx *bolt.Tx) error {
		bucket, jobs := tx.Bucket(bucketFailures), tx.Bucket(bucketJobs)
		for _, f := range failures {
			seq := seqKey(f.Seq)
			if bucket.Get(seq) == nil {
				continue
			}
			if err := bucket.Delete(seq); err != nil {
				return err
			}
			if err := jobs.Delete(f.Key[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forgetting failures: %w", err)
	}
	return nil
}

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"attendant/imagebuilder"
)

// MaxSharers bounds the requests that are recorded to share one job's images:
// there are endlessly many forms of one request.
const MaxSharers = 200

// ErrTooMany is returned by Share when so many share the images already.
var ErrTooMany = errors.New("too many share these images")

// ErrActive is returned by Share for a request that is in the queue.
var ErrActive = errors.New("the job is queued or being built")

// Content returns the hash of the done job whose images have a content hash,
// or ErrNotFound.
func (db *DB) Content(content string) (string, error) {
	c, err := parseKey(content)
	if err != nil {
		return "", fmt.Errorf("looking for a content: %w: %w", ErrNotFound, err)
	}
	var hash string
	err = db.bolt.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketContents).Get(c[:])
		if len(v) != len(Key{}) {
			return ErrNotFound
		}
		hash = Key(v).String()
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("looking for a content: %w", err)
	}
	return hash, nil
}

// Share records that a job, whose Shares is set, has the images of another one
// that is done; if it is in the queue it is taken off. What the job holds of
// these images is not recorded. The errors include ErrNotFound when those
// images are gone, ErrTooMany, and ErrActive when another job of its hash is in
// the queue.
func (db *DB) Share(job *imagebuilder.Job) error {
	k, err := parseKey(job.Hash)
	if err != nil {
		return fmt.Errorf("sharing images: %w", err)
	}
	of, err := parseKey(job.Shares)
	if err != nil || of == k {
		return fmt.Errorf("sharing images of %.80q: %w", job.Shares, ErrNotFound)
	}
	own := *job
	own.Images, own.Stages = nil, nil
	record, err := db.encodeJob(&own)
	if err != nil {
		return fmt.Errorf("sharing images: %w", err)
	}
	err = db.update(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketImages).Get(of[:]) == nil {
			return ErrNotFound
		}
		if known := tx.Bucket(bucketJobs).Get(k[:]); known != nil {
			old, err := db.decodeJob(k, known)
			if err == nil && old.Seq != job.Seq && (old.State == imagebuilder.Queued || old.State == imagebuilder.Building) {
				return ErrActive
			}
		}
		if len(sharers(tx, of)) >= MaxSharers {
			return ErrTooMany
		}
		if err := db.forget(tx, k); err != nil {
			return err
		}
		if err := tx.Bucket(bucketShares).Put(k[:], append(of[:], record...)); err != nil {
			return err
		}
		return tx.Bucket(bucketSharers).Put(append(of[:], k[:]...), nil)
	})
	if err != nil {
		return fmt.Errorf("sharing images of %s: %w", of, err)
	}
	return nil
}

// Shared returns the job of a request that shares another job's images, with
// these, or ErrNotFound.
func (db *DB) Shared(hash string) (*imagebuilder.Job, error) {
	k, err := parseKey(hash)
	if err != nil {
		return nil, fmt.Errorf("reading a shared job: %w: %w", ErrNotFound, err)
	}
	var job *imagebuilder.Job
	err = db.bolt.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketShares).Get(k[:])
		if len(v) < len(Key{}) {
			return ErrNotFound
		}
		of := Key(v[:32])
		record := tx.Bucket(bucketJobs).Get(of[:])
		if record == nil {
			return ErrNotFound
		}
		original, err := db.decodeJob(of, record)
		if err != nil {
			return err
		}
		if job, err = db.decodeJob(k, v[32:]); err != nil {
			return err
		}
		if original.Images == nil || job.Shares != of.String() {
			return fmt.Errorf("job %s does not share images of %s: %w", k, of, ErrNotFound)
		}
		job.Images = original.Images
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading a shared job: %w", err)
	}
	return job, nil
}

// Sharers returns how many requests are recorded to share a job's images, at
// most MaxSharers.
func (db *DB) Sharers(hash string) (int, error) {
	k, err := parseKey(hash)
	if err != nil {
		return 0, nil
	}
	n := 0
	err = db.bolt.View(func(tx *bolt.Tx) error {
		n = len(sharers(tx, k))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("counting who shares images: %w", err)
	}
	return n, nil
}

// sharers returns the keys of bucketSharers for a job.
func sharers(tx *bolt.Tx, of Key) [][]byte {
	var found [][]byte
	c := tx.Bucket(bucketSharers).Cursor()
	for key, _ := c.Seek(of[:]); bytes.HasPrefix(key, of[:]); key, _ = c.Next() {
		found = append(found, bytes.Clone(key))
	}
	return found
}

// unshare removes what refers to the images of a job, whose record is given,
// and what it shares itself.
func (db *DB) unshare(tx *bolt.Tx, k Key, record []byte) error {
	shares, sharing := tx.Bucket(bucketShares), tx.Bucket(bucketSharers)
	for _, key := range sharers(tx, k) {
		if len(key) == 64 {
			if err := shares.Delete(key[32:]); err != nil {
				return err
			}
		}
		if err := sharing.Delete(key); err != nil {
			return err
		}
	}
	if v := shares.Get(k[:]); len(v) >= len(Key{}) {
		of := Key(v[:32])
		if err := sharing.Delete(append(of[:], k[:]...)); err != nil {
			return err
		}
		if err := shares.Delete(k[:]); err != nil {
			return err
		}
	}
	if record == nil {
		return nil
	}
	var old struct {
		Content string `json:"content"`
	}
	data, err := db.jobJSON(record)
	if err == nil {
		err = json.Unmarshal(data, &old)
	}
	contents := tx.Bucket(bucketContents)
	if err != nil { // what cannot be read is looked for
		c := contents.Cursor()
		for key, v := c.First(); key != nil; key, v = c.Next() {
			if bytes.Equal(v, k[:]) {
				return contents.Delete(bytes.Clone(key))
			}
		}
		return nil
	}
	if c, ok := ParseKey(old.Content); ok && bytes.Equal(contents.Get(c[:]), k[:]) {
		return contents.Delete(c[:])
	}
	return nil
}

// checkShares tells whether contents and shares refer to what is there.
func checkShares(tx *bolt.Tx, r *Report) {
	images, shares, sharing := tx.Bucket(bucketImages), tx.Bucket(bucketShares), tx.Bucket(bucketSharers)
	forEach(tx, bucketContents, r, func(k, v []byte) error {
		if len(k) != 32 || len(v) != 32 || images.Get(v) == nil {
			return fmt.Errorf("its images %x are missing", v)
		}
		return nil
	})
	forEach(tx, bucketShares, r, func(k, v []byte) error {
		if len(k) != 32 || len(v) < 32 || images.Get(v[:32]) == nil {
			return fmt.Errorf("the images that it shares are missing")
		}
		if sharing.Get(append(bytes.Clone(v[:32]), k...)) == nil {
			return fmt.Errorf("the job %x does not know that it is shared", v[:32])
		}
		return nil
	})
	forEach(tx, bucketSharers, r, func(k, _ []byte) error {
		if len(k) != 64 || !bytes.HasPrefix(shares.Get(k[32:]), k[:32]) {
			return fmt.Errorf("who shares it is missing")
		}
		return nil
	})
}

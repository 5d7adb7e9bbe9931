package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// BlockSize is the unit in which disk space is counted, in bytes.
const BlockSize = 4096

// ImageRecord is what is kept of an image set beside its job.
type ImageRecord struct {
	Bytes  int64     // sum of the files' sizes
	Disk   int64     // space on disk: every file, and the folder, in whole blocks
	Done   time.Time // when it was put in place; wall clock, to the second
	Used   time.Time // last use; wall clock, to the second
	Tick   uint64    // the order of last uses, which no clock can upset
	Secret bool      // its request had defaults, which may hold passwords
	Pinned bool      // the operator wants it kept
}

// imageRecordSize is flags (1), bytes (8), blocks (4), done (4), used (4), tick (8).
const imageRecordSize = 29

// The flags of an image record.
const (
	flagSecret = 1 << iota
	flagPinned
)

func seconds(t time.Time) uint32 {
	s := t.Unix()
	return uint32(min(max(s, 0), 1<<32-1))
}

func (r *ImageRecord) encode() []byte {
	v := make([]byte, 0, imageRecordSize)
	var flags byte
	if r.Secret {
		flags |= flagSecret
	}
	if r.Pinned {
		flags |= flagPinned
	}
	v = append(v, flags)
	v = binary.BigEndian.AppendUint64(v, uint64(r.Bytes))
	v = binary.BigEndian.AppendUint32(v, uint32((r.Disk+BlockSize-1)/BlockSize))
	v = binary.BigEndian.AppendUint32(v, seconds(r.Done))
	v = binary.BigEndian.AppendUint32(v, seconds(r.Used))
	return binary.BigEndian.AppendUint64(v, r.Tick)
}

func decodeImageRecord(v []byte) (ImageRecord, error) {
	if len(v) != imageRecordSize {
		return ImageRecord{}, fmt.Errorf("it has %d bytes, not %d", len(v), imageRecordSize)
	}
	return ImageRecord{
		Secret: v[0]&flagSecret != 0,
		Pinned: v[0]&flagPinned != 0,
		Bytes:  int64(binary.BigEndian.Uint64(v[1:])),
		Disk:   int64(binary.BigEndian.Uint32(v[9:])) * BlockSize,
		Done:   time.Unix(int64(binary.BigEndian.Uint32(v[13:])), 0),
		Used:   time.Unix(int64(binary.BigEndian.Uint32(v[17:])), 0),
		Tick:   binary.BigEndian.Uint64(v[21:]),
	}, nil
}

// Images calls fn for every image record, in the order of hashes. fn must not
// call the DB's writing methods.
func (db *DB) Images(fn func(Key, ImageRecord) error) error {
	err := db.bolt.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketImages).ForEach(func(key, v []byte) error {
			if len(key) != len(Key{}) {
				return fmt.Errorf("key %x is no hash", key)
			}
			r, err := decodeImageRecord(v)
			if err != nil {
				return fmt.Errorf("image %x: %w", key, err)
			}
			return fn(Key(key), r)
		})
	})
	if err != nil {
		return fmt.Errorf("reading image records: %w", err)
	}
	return nil
}

// DeleteImages removes image records with their jobs, in one transaction. A
// job that has been queued anew meanwhile has no image record and stays.
func (db *DB) DeleteImages(keys ...Key) error {
	if len(keys) == 0 {
		return nil
	}
	err := db.update(func(tx *bolt.Tx) error {
		images, jobs := tx.Bucket(bucketImages), tx.Bucket(bucketJobs)
		for _, k := range keys {
			if images.Get(k[:]) == nil {
				continue
			}
			if err := db.unshare(tx, k, jobs.Get(k[:])); err != nil {
				return err
			}
			if err := images.Delete(k[:]); err != nil {
				return err
			}
			if err := jobs.Delete(k[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing image records: %w", err)
	}
	return nil
}

// PinImages records whether an image set is pinned. The error is ErrNotFound
// for one that has no record.
func (db *DB) PinImages(k Key, pinned bool) error {
	err := db.update(func(tx *bolt.Tx) error {
		images := tx.Bucket(bucketImages)
		v := images.Get(k[:])
		if v == nil {
			return ErrNotFound
		}
		r, err := decodeImageRecord(v)
		if err != nil {
			return err
		}
		r.Pinned = pinned
		return images.Put(k[:], r.encode())
	})
	if err != nil {
		return fmt.Errorf("pinning image %s: %w", k, err)
	}
	return nil
}

// Use is when an image set was last used.
type Use struct {
	Key  Key
	Used time.Time
	Tick uint64
}

// SaveUses records last uses, in one transaction. Sets that are gone are
// passed over.
func (db *DB) SaveUses(uses []Use) error {
	if len(uses) == 0 {
		return nil
	}
	uses = slices.Clone(uses)
	slices.SortFunc(uses, func(a, b Use) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	err := db.update(func(tx *bolt.Tx) error {
		images := tx.Bucket(bucketImages)
		for _, u := range uses {
			v := images.Get(u.Key[:])
			if v == nil {
				continue
			}
			r, err := decodeImageRecord(v)
			if err != nil {
				return fmt.Errorf("image %s: %w", u.Key, err)
			}
			r.Used, r.Tick = u.Used, u.Tick
			if err := images.Put(u.Key[:], r.encode()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("saving last uses: %w", err)
	}
	return nil
}

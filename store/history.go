package store

import (
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// historyLength is how many builds are remembered of a target.
const historyLength = 20

// maxTargets bounds the number of targets with a history.
const maxTargets = 1000

// Build is what is remembered of a successful build.
type Build struct {
	Took time.Duration // to the millisecond
	Disk int64         // bytes on disk, whole blocks
}

// A history's value is its builds, oldest first: milliseconds (4), blocks (4).
const buildSize = 8

func decodeHistory(v []byte) []Build {
	builds := make([]Build, 0, len(v)/buildSize)
	for ; len(v) >= buildSize; v = v[buildSize:] {
		builds = append(builds, Build{
			Took: time.Duration(binary.BigEndian.Uint32(v)) * time.Millisecond,
			Disk: int64(binary.BigEndian.Uint32(v[4:])) * BlockSize,
		})
	}
	return builds
}

func addHistory(tx *bolt.Tx, target string, b Build) error {
	if target == "" {
		return nil
	}
	history := tx.Bucket(bucketHistory)
	old := history.Get([]byte(target))
	if old == nil && history.Inspect().KeyN >= maxTargets {
		return nil
	}
	if extra := len(old) - (historyLength-1)*buildSize; extra > 0 {
		old = old[extra:]
	}
	v := append(make([]byte, 0, len(old)+buildSize), old...)
	v = binary.BigEndian.AppendUint32(v, uint32(min(max(b.Took.Milliseconds(), 0), 1<<32-1)))
	v = binary.BigEndian.AppendUint32(v, uint32((b.Disk+BlockSize-1)/BlockSize))
	return history.Put([]byte(target), v)
}

// History returns the last builds of every target, oldest first, at most 20
// of each.
func (db *DB) History() (map[string][]Build, error) {
	histories := map[string][]Build{}
	err := db.bolt.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHistory).ForEach(func(target, v []byte) error {
			if len(v)%buildSize != 0 {
				return fmt.Errorf("the history of %q is unreadable", target)
			}
			histories[string(target)] = decodeHistory(v)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading build history: %w", err)
	}
	return histories, nil
}

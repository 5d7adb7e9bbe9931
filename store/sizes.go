package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

const (
	// sizesLength is how many image sizes are remembered of a target's branch
	// and file system.
	sizesLength = 24
	// maxSizeKeys bounds the number of those, and of targets with limits.
	maxSizeKeys = 2000
	// maxProfileLength is the length of the longest profile in bytes.
	maxProfileLength = 255
	// maxLimits bounds the profiles of one target with limits.
	maxLimits = 5000
)

// SizeTarget is a target in one branch of one distribution: what devices can
// take, and what kernels have, changes from branch to branch.
type SizeTarget struct {
	Distro string // "openwrt"
	Branch string // "24.10"
	Target string // "ath79/generic"
}

func (t SizeTarget) key(more ...string) ([]byte, error) {
	parts := append([]string{t.Distro, t.Branch, t.Target}, more...)
	for _, p := range parts {
		if len(p) > 200 || strings.Contains(p, "\x00") {
			return nil, fmt.Errorf("%.80q is no part of a target", p)
		}
	}
	return []byte(strings.Join(parts, "\x00")), nil
}

// Size is the image that came of a build.
type Size struct {
	Profile  string
	Download int64 // bytes of the packages' files
	Flash    int64 // bytes of the image that upgrades the device
}

// A target's sizes are, oldest first: length of the profile (1), profile,
// download (8), flash (8).
func appendSize(v []byte, s Size) []byte {
	v = append(v, byte(len(s.Profile)))
	v = append(v, s.Profile...)
	v = binary.BigEndian.AppendUint64(v, uint64(s.Download))
	return binary.BigEndian.AppendUint64(v, uint64(s.Flash))
}

func decodeSizes(v []byte) ([]Size, error) {
	var sizes []Size
	for len(v) > 0 {
		n := int(v[0])
		if len(v) < 1+n+16 {
			return nil, fmt.Errorf("the sizes end within an entry")
		}
		s := Size{
			Profile:  string(v[1 : 1+n]),
			Download: int64(binary.BigEndian.Uint64(v[1+n:])),
			Flash:    int64(binary.BigEndian.Uint64(v[1+n+8:])),
		}
		if s.Profile == "" || s.Download <= 0 || s.Flash <= 0 {
			return nil, fmt.Errorf("an image of %q with %d bytes of %d makes no sense", s.Profile, s.Flash, s.Download)
		}
		if sizes = append(sizes, s); len(sizes) > sizesLength {
			return nil, fmt.Errorf("there are more than %d sizes", sizesLength)
		}
		v = v[1+n+16:]
	}
	return sizes, nil
}

// addSize remembers the size of an image. Of an identical one nothing changes
// but its age.
func addSize(tx *bolt.Tx, key []byte, s Size) error {
	bucket := tx.Bucket(bucketSizes)
	old := bucket.Get(key)
	if old == nil && bucket.Inspect().KeyN >= maxSizeKeys {
		return nil
	}
	sizes, err := decodeSizes(old)
	if err != nil {
		sizes = nil // what cannot be read is learnt anew
	}
	sizes = slices.DeleteFunc(sizes, func(other Size) bool { return other == s })
	if extra := len(sizes) - (sizesLength - 1); extra > 0 {
		sizes = sizes[extra:]
	}
	var v []byte
	for _, s := range append(sizes, s) {
		v = appendSize(v, s)
	}
	return bucket.Put(key, v)
}

// noted is a size that waits for its job to be finished.
type noted struct {
	key  []byte
	size Size
}

// maxNoted bounds the sizes that wait.
const maxNoted = 64

// NoteSize keeps, in memory, the size of the image that a job has led to:
// FinishJob writes it with the job, if that is Done.
func (db *DB) NoteSize(hash string, t SizeTarget, filesystem string, s Size) error {
	k, err := parseKey(hash)
	if err != nil {
		return fmt.Errorf("noting a size: %w", err)
	}
	if s.Profile == "" || len(s.Profile) > maxProfileLength || s.Download <= 0 || s.Flash <= 0 {
		return fmt.Errorf("noting a size: an image of %.80q with %d bytes of %d makes no sense", s.Profile, s.Flash, s.Download)
	}
	key, err := t.key(filesystem)
	if err != nil {
		return fmt.Errorf("noting a size: %w", err)
	}
	db.sizesMu.Lock()
	defer db.sizesMu.Unlock()
	if db.noted == nil || len(db.noted) >= maxNoted {
		db.noted = map[Key]noted{}
	}
	db.noted[k] = noted{key, s}
	return nil
}

func (db *DB) notedSize(k Key) (noted, bool) {
	db.sizesMu.Lock()
	defer db.sizesMu.Unlock()
	n, ok := db.noted[k]
	return n, ok
}

func (db *DB) forgetNoted(k Key) {
	db.sizesMu.Lock()
	defer db.sizesMu.Unlock()
	delete(db.noted, k)
}

// Sizes returns the sizes of the target's last images with a file system,
// oldest first, at most 24.
func (db *DB) Sizes(t SizeTarget, filesystem string) ([]Size, error) {
	key, err := t.key(filesystem)
	if err != nil {
		return nil, fmt.Errorf("reading sizes: %w", err)
	}
	var sizes []Size
	err = db.bolt.View(func(tx *bolt.Tx) (err error) {
		sizes, err = decodeSizes(tx.Bucket(bucketSizes).Get(key))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the sizes of %s %s: %w", t.Branch, t.Target, err)
	}
	return sizes, nil
}

// Limits are what a target's devices take, in bytes by profile.
type Limits struct {
	Builder string           `json:"builder,omitempty"` // sum of the ImageBuilder that Stated is of
	Stated  map[string]int64 `json:"stated,omitempty"`  // by the ImageBuilder
	Learnt  map[string]int64 `json:"learnt,omitempty"`  // from builds that failed
}

// Of returns what a profile takes in bytes, 0 if that is not known. What the
// ImageBuilder did is believed before what it says.
func (l Limits) Of(profile string) int64 {
	if learnt := l.Learnt[profile]; learnt > 0 {
		return learnt
	}
	return l.Stated[profile]
}

func (l Limits) check() error {
	if len(l.Builder) > 200 || len(l.Stated) > maxLimits || len(l.Learnt) > maxLimits {
		return fmt.Errorf("there are too many limits")
	}
	for _, of := range []map[string]int64{l.Stated, l.Learnt} {
		for profile, limit := range of {
			if profile == "" || len(profile) > maxProfileLength || limit <= 0 {
				return fmt.Errorf("%.80q cannot take %d bytes", profile, limit)
			}
		}
	}
	return nil
}

// Limits returns what is known of the target's devices.
func (db *DB) Limits(t SizeTarget) (Limits, error) {
	var l Limits
	key, err := t.key()
	if err == nil {
		err = db.bolt.View(func(tx *bolt.Tx) (err error) {
			l, err = limitsOf(tx, key)
			return err
		})
	}
	if err != nil {
		return Limits{}, fmt.Errorf("reading the limits of %s %s: %w", t.Branch, t.Target, err)
	}
	return l, nil
}

func limitsOf(tx *bolt.Tx, key []byte) (Limits, error) {
	var l Limits
	v := tx.Bucket(bucketLimits).Get(key)
	if v == nil {
		return l, nil
	}
	if err := json.Unmarshal(v, &l); err != nil {
		return Limits{}, err
	}
	return l, l.check()
}

// StateLimits records what an ImageBuilder, named by its sum, says of its
// target's devices. What was learnt of another builder is forgotten: the
// devices' layout may have changed. Nothing is written if nothing is new.
func (db *DB) StateLimits(t SizeTarget, builder string, limits map[string]int64) error {
	return db.changeLimits(t, func(l *Limits) {
		if l.Builder != builder {
			l.Learnt = nil
		}
		l.Builder, l.Stated = builder, maps.Clone(limits)
	})
}

// LearnLimit records what a build that failed has shown of a device. Nothing
// is written if nothing is new.
func (db *DB) LearnLimit(t SizeTarget, profile string, limit int64) error {
	return db.changeLimits(t, func(l *Limits) {
		l.Learnt = maps.Clone(l.Learnt)
		if l.Learnt == nil {
			l.Learnt = map[string]int64{}
		}
		l.Learnt[profile] = limit
	})
}

func (db *DB) changeLimits(t SizeTarget, change func(*Limits)) error {
	key, err := t.key()
	if err != nil {
		return fmt.Errorf("recording limits: %w", err)
	}
	was, err := db.Limits(t)
	if err == nil {
		next := was
		change(&next)
		if err := next.check(); err != nil {
			return fmt.Errorf("recording the limits of %s %s: %w", t.Branch, t.Target, err)
		}
		if next.Builder == was.Builder && maps.Equal(next.Stated, was.Stated) && maps.Equal(next.Learnt, was.Learnt) {
			return nil
		}
	}
	err = db.update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketLimits)
		l, err := limitsOf(tx, key)
		if err != nil {
			l = Limits{} // what cannot be read is learnt anew
		}
		if bucket.Get(key) == nil && bucket.Inspect().KeyN >= maxSizeKeys {
			return nil
		}
		change(&l)
		if err := l.check(); err != nil {
			return err
		}
		v, err := json.Marshal(l)
		if err != nil {
			return err
		}
		return bucket.Put(key, v)
	})
	if err != nil {
		return fmt.Errorf("recording the limits of %s %s: %w", t.Branch, t.Target, err)
	}
	return nil
}

// Package store keeps attendant's records in one bbolt file: jobs, the queue's
// order, image records, build history and statistics. The schema and its
// migrations are in schema.go.
//
// One process owns the file; others ask that process. Every write is synced
// before the call returns, and writes that arrive while another is being
// synced share the next sync.
package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"attendant/imagebuilder"
)

// initialMmap is address space, not memory, in bytes: 1 GiB, or 64 MiB where
// addresses have 32 bits.
const initialMmap = 64 << 20 << (strconv.IntSize / 64 * 4)

var (
	// ErrInUse is returned by Open while another process has the file open.
	ErrInUse = errors.New("the database is in use by another process")
	// ErrNewerSchema is returned by Open for a file of a later attendant.
	ErrNewerSchema = errors.New("the database was written by a newer attendant")
	// ErrNotFound is returned for a record that does not exist.
	ErrNotFound = errors.New("no such record")
	// ErrFull is returned by writes for which the disk has no room.
	ErrFull = errors.New("the disk is full")
)

// Options of Open. The zero value is usable.
type Options struct {
	Timeout      time.Duration    // how long to wait for another process to let go; default 2 s
	SaveInterval time.Duration    // between two savings of statistics by Run; default 5 min
	Now          func() time.Time // wall clock, for statistics; default time.Now
	Log          *slog.Logger     // for background work; default discards
	MaxSize      int64            // bytes that the file may grow to; beyond, writes end in ErrFull; default no limit
	NoSync       bool             // for tests and fixtures only: a crash of the machine may lose writes
}

// DB is the open database. Its methods may be called concurrently.
type DB struct {
	bolt  *bolt.DB
	path  string
	o     Options
	stats *Statistics
	enc   *zstd.Encoder
	dec   *zstd.Decoder

	mu         sync.Mutex
	idle       sync.Cond // signalled when committing becomes false
	pending    []*write
	committing bool
	closed     bool

	sizesMu sync.Mutex
	noted   map[Key]noted
}

// Key is a request hash in binary form.
type Key [32]byte

// ParseKey reads a request hash, 64 lower-case hex digits.
func ParseKey(hash string) (Key, bool) {
	var k Key
	if !imagebuilder.ValidHash(hash) {
		return k, false
	}
	for i := range k {
		k[i] = nibble(hash[2*i])<<4 | nibble(hash[2*i+1])
	}
	return k, true
}

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}

// String returns the hash in hex.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

func parseKey(hash string) (Key, error) {
	k, ok := ParseKey(hash)
	if !ok {
		return k, fmt.Errorf("%.80q is not a request hash", hash)
	}
	return k, nil
}

// Open opens the database at path, making it and its folder where they do not
// exist, and brings an older schema up to date. The error is ErrInUse or
// ErrNewerSchema where these apply.
func Open(path string, o Options) (db *DB, err error) {
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Second
	}
	if o.SaveInterval <= 0 {
		o.SaveInterval = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		// bbolt panics on some damaged pages.
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("opening database %s: it is damaged (%v); restore a backup, or move it away to begin with an empty one", path, r)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	b, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout:      o.Timeout,
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
		NoSync:       o.NoSync,
		// Room to grow without mapping anew, which would wait for readers: a
		// backup to a slow client must not hold up the queue.
		InitialMmapSize: initialMmap,
		MaxSize:         int(min(o.MaxSize, math.MaxInt)),
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("opening database %s: %w: is attendant already running with this data folder? Stop it, or use another folder", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	db = &DB{bolt: b, path: path, o: o}
	db.idle.L = &db.mu
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if db.enc, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(128<<10)); err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	if db.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxRecord)); err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	if err := migrate(b, migrations); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	if !o.NoSync {
		// The file's name must outlast a crash as its content does.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("opening database: %w", err)
		}
	}
	if db.stats, err = loadStatistics(db); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	return db, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Path is the file's name.
func (db *DB) Path() string { return db.path }

// Close saves the statistics and closes the file. Calls after the first do
// nothing.
func (db *DB) Close() error {
	saveErr := db.stats.Save()
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	for db.committing {
		db.idle.Wait()
	}
	db.mu.Unlock()
	db.dec.Close()
	if err := errors.Join(saveErr, db.bolt.Close()); err != nil {
		return fmt.Errorf("closing database: %w", err)
	}
	return nil
}

// write is one caller's part of a transaction.
type write struct {
	fn  func(*bolt.Tx) error
	err chan error
}

// update runs fn in a write transaction and returns when that is synced.
// Calls that come in while a transaction is being synced are put into the
// next one together, so fn may be run again after a failure beside it and
// must not change anything but the transaction.
func (db *DB) update(fn func(*bolt.Tx) error) error {
	w := &write{fn: fn, err: make(chan error, 1)}
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return berrors.ErrDatabaseNotOpen
	}
	db.pending = append(db.pending, w)
	if db.committing {
		db.mu.Unlock()
		return <-w.err
	}
	db.committing = true
	db.mu.Unlock()
	db.commitPending()
	return <-w.err
}

// commitPending commits what waits. What came meanwhile is left to a
// goroutine, so that a caller returns as soon as its own write is durable.
func (db *DB) commitPending() {
	db.mu.Lock()
	batch := db.pending
	db.pending = nil
	db.mu.Unlock()

	db.commit(batch)

	db.mu.Lock()
	defer db.mu.Unlock()
	if len(db.pending) > 0 {
		go db.commitPending()
		return
	}
	db.committing = false
	db.idle.Broadcast()
}

func (db *DB) commit(batch []*write) {
	fnFailed := false
	err := db.transact(func(tx *bolt.Tx) error {
		for _, w := range batch {
			if err := w.fn(tx); err != nil {
				fnFailed = true
				return err
			}
		}
		return nil
	})
	if fnFailed && len(batch) > 1 {
		for _, w := range batch {
			w.err <- db.transact(w.fn)
		}
		return
	}
	for _, w := range batch {
		w.err <- err
	}
}

func (db *DB) transact(fn func(*bolt.Tx) error) (err error) {
	// bbolt panics on pages that make no sense. Those who wait for this
	// transaction, and all later ones, must hear of it.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the database is damaged: %v", p)
		}
	}()
	err = db.bolt.Update(fn)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, berrors.ErrMaxSizeReached) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// Backup writes a consistent copy of the database as it is now, while others
// go on, and returns its size in bytes. Statistics are saved first.
func (db *DB) Backup(w io.Writer) (int64, error) {
	if err := db.stats.Save(); err != nil {
		return 0, fmt.Errorf("backing up database: %w", err)
	}
	var n int64
	err := db.bolt.View(func(tx *bolt.Tx) (err error) {
		n, err = tx.WriteTo(w)
		return err
	})
	if err != nil {
		return n, fmt.Errorf("backing up database: %w", err)
	}
	return n, nil
}

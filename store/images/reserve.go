package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"attendant/imagebuilder"
	"attendant/store"
)

// freeSpace asks the file system how many bytes are free to us.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// Reservation is space set aside for one set until Commit or Release.
type Reservation struct {
	c     *Cache
	hash  string
	key   store.Key
	bytes int64 // counted in c.reserved; guarded by c.mu
	ended bool  // guarded by c.mu
}

// Reserve sets bytes of disk space aside for the set of a request hash and
// drops sets to make room. The error is an *imagebuilder.Error: CodeNoSpace
// when there is no room to be made.
func (c *Cache) Reserve(hash string, bytes int64) (*Reservation, error) {
	k, ok := store.ParseKey(hash)
	if !ok {
		return nil, imagebuilder.AsError(fmt.Errorf("reserving image space: %.80q is not a request hash", hash))
	}
	r := &Reservation{c: c, hash: hash, key: k}
	if err := r.resize(max(bytes, store.BlockSize), false); err != nil {
		return nil, err
	}
	return r, nil
}

// resize brings the reservation to a number of bytes. When these are written
// already, only the budget can refuse them.
func (r *Reservation) resize(bytes int64, written bool) error {
	c := r.c
	bytes = int64(blocks(bytes)) * store.BlockSize
	free, freeErr := c.o.Free(c.imagesDir)
	c.mu.Lock()
	if r.ended {
		c.mu.Unlock()
		return imagebuilder.AsError(errors.New("the reservation of image space has ended"))
	}
	more := bytes - r.bytes
	if more <= 0 {
		c.reserved += more
		r.bytes = bytes
		c.mu.Unlock()
		return nil
	}
	short := c.index.bytes() + c.reserved + more - c.o.Budget
	if freeErr == nil && !written {
		// What was dropped is as good as free.
		short = max(short, c.reserved+more+c.o.MinFree-free-c.trashBytes())
	}
	victims, enough := c.choose(short)
	if !enough {
		reserved, used, pinned := c.reserved, c.index.bytes(), ""
		if c.index.pinned > 0 {
			pinned = "pinned, "
		}
		c.mu.Unlock()
		cause := fmt.Errorf("%d bytes wanted, %d missing: budget %d, used %d, reserved %d, free on disk %d (%v)",
			more, short, c.o.Budget, used, reserved, free, freeErr)
		if bytes > c.o.Budget {
			return noSpace(cause, "The image needs %d MiB, more than this server keeps for images altogether (%d MiB). Please tell the server's operator to raise the image budget.", mib(bytes), mib(c.o.Budget))
		}
		return noSpace(cause, "This server has no room for another image now: the others are %sin use or too new to be dropped. Please try again in %d minutes; if it stays, tell the server's operator.", pinned, max(1, int(c.o.MinKeep.Minutes())))
	}
	c.reserved += more
	r.bytes = bytes
	moves := c.takeOut(victims)
	c.mu.Unlock()
	c.discard(moves)
	return nil
}

func mib(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

// Release gives the space back. It does nothing after Commit or Release.
func (r *Reservation) Release() {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.end()
}

func (r *Reservation) end() {
	if !r.ended {
		r.ended = true
		r.c.reserved -= r.bytes
		r.bytes = 0
	}
}

// Commit puts the files of dir in place as the set of the reservation's hash:
// it checks that dir holds exactly the files of set in their sizes, syncs
// them, renames dir, syncs the parent, calls record with the set's record,
// and only when that has succeeded the set is there. dir must be on the mount
// of the data folder, and nobody may write to it any more. The reservation
// ends; when Commit fails dir is removed. The error is an
// *imagebuilder.Error.
func (r *Reservation) Commit(dir string, set *imagebuilder.ImageSet, secret bool, record func(*store.ImageRecord) error) error {
	err := r.commit(dir, set, secret, record)
	r.Release()
	if err == nil {
		return nil
	}
	if _, statErr := os.Lstat(dir); statErr == nil {
		r.c.throwAway(dir, r.key, 0)
	}
	err = fmt.Errorf("storing image set %s: %w", r.hash, err)
	if e, ok := errors.AsType[*imagebuilder.Error](err); ok {
		return e
	}
	if errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return noSpace(err, "This server's disk is full, so the finished image could not be stored. Please try again later; if it stays, tell the server's operator.")
	}
	return imagebuilder.AsError(err)
}

func (r *Reservation) commit(dir string, set *imagebuilder.ImageSet, secret bool, record func(*store.ImageRecord) error) error {
	c := r.c
	bytes, disk, err := measure(dir, set)
	if err != nil {
		return err
	}
	if err := r.resize(disk, true); err != nil {
		return err
	}
	for _, f := range set.Files {
		if err := syncPath(filepath.Join(dir, f.Name)); err != nil {
			return err
		}
	}
	if err := syncPath(dir); err != nil {
		return err
	}

	done := c.claim(r.key)
	defer done()
	place := filepath.Join(c.imagesDir, r.hash)
	pinned := false
	if _, err := os.Lstat(place); err == nil {
		// A leftover, or a set that is built anew.
		c.mu.Lock()
		if i, known := c.index.find(r.key); known {
			pinned = c.index.entries[i].pinned
			c.index.remove(i)
		}
		c.mu.Unlock()
		c.throwAway(place, r.key, 0)
	}
	if err := os.Rename(dir, place); err != nil {
		return err
	}
	err = syncPath(c.imagesDir)
	now := c.o.Now()
	c.mu.Lock()
	c.index.tick++
	tick := c.index.tick
	c.mu.Unlock()
	if err == nil {
		err = record(&store.ImageRecord{Bytes: bytes, Disk: disk, Done: now, Used: now, Tick: tick, Secret: secret, Pinned: pinned})
	}
	if err != nil {
		c.throwAway(place, r.key, disk)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := newEntry(r.key, bytes, disk)
	e.done = c.clock()
	e.used, e.secret, e.pinned = e.done, secret, pinned
	c.index.add(e)
	r.end()
	return nil
}

// measure checks dir against set and returns the sum of the sizes and what
// they take on disk.
func measure(dir string, set *imagebuilder.ImageSet) (bytes, disk int64, err error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return 0, 0, err
	}
	if !info.IsDir() {
		return 0, 0, fmt.Errorf("%s is no folder", dir)
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	if len(set.Files) == 0 || len(found) != len(set.Files) {
		return 0, 0, fmt.Errorf("the folder holds %d files, the set names %d", len(found), len(set.Files))
	}
	seen := make(map[string]bool, len(set.Files))
	disk = store.BlockSize
	for _, f := range set.Files {
		if !ValidFileName(f.Name) || seen[f.Name] {
			return 0, 0, fmt.Errorf("the file name %.100q is not allowed", f.Name)
		}
		seen[f.Name] = true
		info, err := os.Lstat(filepath.Join(dir, f.Name))
		if err != nil {
			return 0, 0, err
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return 0, 0, fmt.Errorf("%s: expected a file of %d bytes, found %v of %d", f.Name, f.Size, info.Mode().Type(), info.Size())
		}
		bytes += f.Size
		disk += int64(blocks(f.Size)) * store.BlockSize
	}
	return bytes, disk, nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

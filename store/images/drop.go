package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

func (c *Cache) trashBytes() int64 {
	var n int64
	for _, bytes := range c.trash {
		n += bytes
	}
	return n
}

// choose picks sets to drop that free at least short bytes together, and
// tells whether there are enough of them. c.mu is held.
func (c *Cache) choose(short int64) (victims []int32, enough bool) {
	if short <= 0 {
		return nil, true
	}
	now := c.clock()
	grace, minKeep := int32(c.o.Grace/time.Second), int32(c.o.MinKeep/time.Second)
	chosen := map[int32]bool{}
	for _, sparing := range []bool{true, false} {
		for i := c.index.first; i != none; i = c.index.entries[i].next {
			e := &c.index.entries[i]
			young := now-max(e.done, e.used) < minKeep
			if chosen[i] || young || e.pinned || e.readers > 0 || sparing && now-e.done < grace || c.moving[e.key] != nil {
				continue
			}
			chosen[i] = true
			victims = append(victims, i)
			if short -= e.disk(); short <= 0 {
				return victims, true
			}
		}
	}
	return nil, false
}

// move is a set on its way out.
type move struct {
	key   store.Key
	bytes int64
	done  func()
}

// takeOut removes sets from the index and claims their folders. c.mu is held;
// discard must follow without it.
func (c *Cache) takeOut(victims []int32) []move {
	moves := make([]move, 0, len(victims))
	for _, i := range victims {
		e := c.index.entries[i]
		c.index.remove(i)
		moves = append(moves, move{
			key:   e.key,
			bytes: e.disk(),
			done:  c.claimLocked(e.key),
		})
	}
	return moves
}

// claim waits until nobody renames the set's folder and keeps others from
// doing so until the function it returns is called.
func (c *Cache) claim(k store.Key) (done func()) {
	c.mu.Lock()
	for c.moving[k] != nil {
		wait := c.moving[k]
		c.mu.Unlock()
		<-wait
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	return c.claimLocked(k)
}

func (c *Cache) claimLocked(k store.Key) (done func()) {
	ch := make(chan struct{})
	c.moving[k] = ch
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.moving, k)
		close(ch)
	}
}

// discard drops sets that were taken out: first their records, then their
// folders, which are renamed and left to the remover. When the records
// cannot be removed (a full disk) the folders go all the same: a record
// without a folder is a miss.
func (c *Cache) discard(moves []move) {
	if len(moves) == 0 {
		return
	}
	keys := make([]store.Key, len(moves))
	for i, m := range moves {
		keys[i] = m.key
	}
	if err := c.o.DB.DeleteImages(keys...); err != nil {
		c.o.Log.Error("records of dropped images could not be removed", "error", err)
	}
	for _, m := range moves {
		c.throwAway(filepath.Join(c.imagesDir, m.key.String()), m.key, m.bytes)
		m.done()
	}
}

// throwAway renames a folder to a trash name and rings for the remover.
func (c *Cache) throwAway(dir string, k store.Key, bytes int64) {
	c.mu.Lock()
	c.trashN++
	name := fmt.Sprintf("%s%s-%x-%d", TrashPrefix, k.String()[:16], c.start.UnixNano(), c.trashN)
	c.mu.Unlock()
	if err := os.Rename(dir, filepath.Join(c.workDir, name)); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.o.Log.Error("a dropped image set could not be moved away", "dir", dir, "error", err)
		}
		return
	}
	c.mu.Lock()
	c.trash[name] = bytes
	c.mu.Unlock()
	select {
	case c.bell <- struct{}{}:
	default:
	}
}

// removeTrash removes what was dropped, until ctx ends. What remains is found
// by the next start.
func (c *Cache) removeTrash(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.bell:
		}
		for ctx.Err() == nil {
			c.mu.Lock()
			name := ""
			for name = range c.trash {
				break
			}
			c.mu.Unlock()
			if name == "" {
				break
			}
			if err := os.RemoveAll(filepath.Join(c.workDir, name)); err != nil {
				c.o.Log.Error("a dropped image set could not be removed; the next start tries again", "name", name, "error", err)
			}
			c.mu.Lock()
			delete(c.trash, name)
			c.mu.Unlock()
		}
	}
}

// examine drops a set whose folder is gone or is not what was recorded.
func (c *Cache) examine(k store.Key) {
	done := c.claim(k)
	c.mu.Lock()
	i, known := c.index.find(k)
	if !known {
		c.mu.Unlock()
		done()
		return
	}
	bytes, disk := c.index.entries[i].bytes(), c.index.entries[i].disk()
	c.mu.Unlock()

	why := ""
	foundBytes, foundDisk, err := folderSize(filepath.Join(c.imagesDir, k.String()))
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		why = "its folder has vanished"
	case err != nil:
		c.o.Log.Error("an image set could not be examined", "hash", k.String(), "error", err)
	case foundBytes != bytes || foundDisk != disk:
		why = fmt.Sprintf("%d bytes in place of %d", foundBytes, bytes)
	}
	if why == "" {
		done()
		return
	}
	c.o.Log.Warn("image set dropped", "hash", k.String(), "why", why)
	c.mu.Lock()
	c.index.remove(i)
	c.mu.Unlock()
	c.discard([]move{{key: k, bytes: foundDisk, done: done}})
}

// folderSize returns the sum of the sizes of a set's files, and what they
// take on disk.
func folderSize(dir string) (bytes, disk int64, err error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	disk = store.BlockSize
	for _, f := range found {
		info, err := f.Info()
		if err != nil {
			return 0, 0, err
		}
		bytes += info.Size()
		disk += int64(blocks(info.Size())) * store.BlockSize
	}
	return bytes, disk, nil
}

// Drop removes the set of a request hash with its record and its job, though
// not while it is being read or pinned. The error is an *imagebuilder.Error.
func (c *Cache) Drop(hash string) error {
	k, ok := store.ParseKey(hash)
	c.mu.Lock()
	i, known := c.index.find(k)
	if !ok || !known {
		c.mu.Unlock()
		return imagebuilder.Errorf(imagebuilder.CodeNotFound, "There is no image with this hash.")
	}
	if c.index.entries[i].readers > 0 || c.moving[k] != nil {
		c.mu.Unlock()
		return imagebuilder.Errorf(imagebuilder.CodeNoSpace, "The image is being downloaded. Please try again when that is over.")
	}
	if c.index.entries[i].pinned {
		c.mu.Unlock()
		return imagebuilder.Errorf(imagebuilder.CodePinned, "The image is pinned, so it stays. Unpin it first to drop it.")
	}
	moves := c.takeOut([]int32{i})
	c.mu.Unlock()
	c.discard(moves)
	return nil
}

// dropExpired drops sets with defaults after their time.
func (c *Cache) dropExpired() {
	if c.o.DefaultsTTL < 0 {
		return
	}
	c.mu.Lock()
	now, ttl := c.clock(), int32(c.o.DefaultsTTL/time.Second)
	var victims []int32
	for i := range c.index.entries {
		e := &c.index.entries[i]
		if e.live && e.secret && e.readers == 0 && now-e.done >= ttl && c.moving[e.key] == nil {
			victims = append(victims, int32(i))
		}
	}
	moves := c.takeOut(victims)
	c.mu.Unlock()
	c.discard(moves)
}

// reconcile compares disk and records both ways and sweeps leftovers.
func (c *Cache) reconcile(ctx context.Context) {
	if err := c.sweepTrash(); err != nil {
		c.o.Log.Error("leftovers of dropped images could not be swept", "error", err)
	}
	if err := c.dropUnrecorded(ctx); err != nil {
		c.o.Log.Error("the image folder could not be compared with the records", "error", err)
	}
	c.dropDamaged(ctx)
	c.dropExpired()
}

func (c *Cache) sweepTrash() error {
	found, err := os.ReadDir(c.workDir)
	if err != nil {
		return err
	}
	c.mu.Lock()
	for _, f := range found {
		if _, known := c.trash[f.Name()]; !known && strings.HasPrefix(f.Name(), TrashPrefix) {
			c.trash[f.Name()] = 0
		}
	}
	c.mu.Unlock()
	select {
	case c.bell <- struct{}{}:
	default:
	}
	return nil
}

// dropUnrecorded removes set folders without a record: a crash came between
// the rename and the record, or between the record's removal and the
// folder's. What is not named like a set is none of ours and stays.
func (c *Cache) dropUnrecorded(ctx context.Context) error {
	dir, err := os.Open(c.imagesDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	for ctx.Err() == nil {
		names, err := dir.Readdirnames(256)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			k, ok := store.ParseKey(name)
			if !ok {
				c.o.Log.Warn("the image folder holds something that is no image set", "name", name)
				continue
			}
			c.mu.Lock()
			_, known := c.index.find(k)
			if known || c.moving[k] != nil {
				c.mu.Unlock()
				continue
			}
			done := c.claimLocked(k)
			c.mu.Unlock()
			c.o.Log.Warn("image set without a record removed", "hash", name)
			c.throwAway(filepath.Join(c.imagesDir, name), k, 0)
			done()
		}
	}
	return nil
}

// dropDamaged examines every set.
func (c *Cache) dropDamaged(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		c.mu.Lock()
		if i >= len(c.index.entries) {
			c.mu.Unlock()
			return
		}
		k, live := c.index.entries[i].key, c.index.entries[i].live
		c.mu.Unlock()
		if live {
			c.examine(k)
		}
	}
}

package images

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

// maxPinned is how many bytes of a budget pinned sets may take, three
// quarters: a server that can make no room any more builds nothing.
func maxPinned(budget int64) int64 { return budget / 4 * 3 }

// Pin keeps the set of a request hash from being dropped until it is unpinned;
// only damage to its files ends it. A pin is durable when Pin returns. A set
// that is pinned already stays so. The error is an *imagebuilder.Error:
// CodeNotFound where there is no such set, CodePinned where it may not be
// pinned.
func (c *Cache) Pin(hash string) error { return c.setPinned(hash, true) }

// Unpin lets the set of a request hash be dropped again. One that is not
// pinned stays so. The errors are those of Pin.
func (c *Cache) Unpin(hash string) error { return c.setPinned(hash, false) }

func (c *Cache) setPinned(hash string, pinned bool) error {
	c.pinning.Lock()
	defer c.pinning.Unlock()
	k, ok := store.ParseKey(hash)
	c.mu.Lock()
	i, known := c.index.find(k)
	if !ok || !known {
		c.mu.Unlock()
		return imagebuilder.Errorf(imagebuilder.CodeNotFound, "There is no image with this hash.")
	}
	e := c.index.entries[i]
	if e.pinned == pinned {
		c.mu.Unlock()
		return nil
	}
	if err := c.mayPin(&e); pinned && err != nil {
		c.mu.Unlock()
		return err
	}
	c.index.pin(i, pinned) // at once, so that it is not dropped while the record is written
	c.mu.Unlock()

	err := c.o.DB.PinImages(k, pinned)
	if err == nil {
		return nil
	}
	c.mu.Lock()
	if i, known := c.index.find(k); known && c.index.entries[i].id == e.id {
		c.index.pin(i, !pinned)
	}
	c.mu.Unlock()
	switch {
	case errors.Is(err, store.ErrNotFound):
		return imagebuilder.Errorf(imagebuilder.CodeNotFound, "The image has just been dropped.").WithCause(err)
	case errors.Is(err, store.ErrFull):
		return noSpace(err, "This server's disk is full, so the pin could not be recorded. Make room and try again.")
	}
	return imagebuilder.AsError(err)
}

// mayPin tells why a set may not be pinned; c.mu is held.
func (c *Cache) mayPin(e *entry) *imagebuilder.Error {
	if e.secret {
		return imagebuilder.Errorf(imagebuilder.CodePinned,
			"This image holds its requester's first-boot script (defaults), which may have passwords in it, so it goes after its time and cannot be pinned. To keep all such images longer, raise defaults_ttl.")
	}
	pinned := c.index.pinned * store.BlockSize
	if limit := maxPinned(c.o.Budget); pinned+e.disk() > limit {
		return imagebuilder.Errorf(imagebuilder.CodePinned,
			"Pinned images may take three quarters of the image budget, %d MiB. They take %d MiB, and this one has %d MiB more. Unpin another one, or raise image_budget.",
			limit>>20, mib(pinned), mib(e.disk())).WithCause(fmt.Errorf("budget %d, pinned %d, this one %d", c.o.Budget, pinned, e.disk()))
	}
	return nil
}

// KeptSet is a set as the operator sees it.
type KeptSet struct {
	Hash   string
	Bytes  int64         // on disk
	Age    time.Duration // since it was completed, to the second; from before a restart as the clock tells it
	Idle   time.Duration // since its last use
	Pinned bool
	Secret bool // with a first-boot script: it cannot be pinned
}

// Kept returns at most n sets, the most recently used first. Looking at them
// is no use of them.
func (c *Cache) Kept(n int) []KeptSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	sets := make([]KeptSet, 0, max(0, min(n, c.index.len())))
	for i := c.index.last; i != none && len(sets) < n; i = c.index.entries[i].prev {
		sets = append(sets, c.index.entries[i].kept(now))
	}
	return sets
}

func (e *entry) kept(now int32) KeptSet {
	return KeptSet{
		Hash: e.key.String(), Bytes: e.disk(), Pinned: e.pinned, Secret: e.secret,
		Age: time.Duration(now-e.done) * time.Second, Idle: time.Duration(now-e.used) * time.Second,
	}
}

// Pinned returns the pinned sets, the most recently used first.
func (c *Cache) Pinned() []KeptSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index.pinnedSets == 0 {
		return nil
	}
	now := c.clock()
	sets := make([]KeptSet, 0, c.index.pinnedSets)
	for i := c.index.first; i != none; i = c.index.entries[i].next {
		if e := &c.index.entries[i]; e.pinned {
			sets = append(sets, e.kept(now))
		}
	}
	slices.Reverse(sets)
	return sets
}

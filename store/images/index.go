package images

import (
	"cmp"
	"slices"

	"attendant/store"
)

// none ends a chain of entries.
const none = -1

// entry is one set. Times are seconds on the cache's own clock.
type entry struct {
	key        store.Key
	tick       uint64 // of the last use; higher is later
	blocks     uint32 // on disk
	unused     uint32 // bytes of the blocks that hold no content
	id         uint32 // tells a set from an earlier one of the same key
	done       int32
	used       int32
	readers    int32 // open handles
	prev, next int32 // by last use
	live       bool
	dirty      bool // the last use is not saved
	secret     bool
	pinned     bool // never dropped to make room
}

func newEntry(k store.Key, bytes, disk int64) entry {
	n := blocks(disk)
	return entry{key: k, blocks: n, unused: uint32(int64(n)*store.BlockSize - bytes)}
}

func (e *entry) disk() int64  { return int64(e.blocks) * store.BlockSize }
func (e *entry) bytes() int64 { return e.disk() - int64(e.unused) }

// index holds the sets by key and in the order of their last use. It is lean
// and without pointers: a hundred thousand sets take about 12 MB and cost the
// garbage collector nothing.
type index struct {
	entries     []entry
	byKey       map[store.Key]int32
	first, last int32 // least and most recently used
	free        int32 // chain of unused entries by next
	tick        uint64
	id          uint32
	total       int64 // blocks
	pinned      int64 // blocks of pinned sets
	pinnedSets  int
}

// fill makes the index of sets, whose order is that of their ticks.
func (x *index) fill(sets []entry) {
	slices.SortFunc(sets, func(a, b entry) int { return cmp.Compare(a.tick, b.tick) })
	*x = index{entries: sets, byKey: make(map[store.Key]int32, len(sets)), first: none, last: none, free: none}
	for i := range sets {
		x.byKey[sets[i].key] = int32(i)
		x.total += int64(sets[i].blocks)
		x.tick = max(x.tick, sets[i].tick)
		x.link(int32(i))
		x.countPin(&sets[i], 1)
	}
}

func (x *index) len() int     { return len(x.byKey) }
func (x *index) bytes() int64 { return x.total * store.BlockSize }

func (x *index) find(k store.Key) (int32, bool) {
	i, ok := x.byKey[k]
	return i, ok
}

// add puts a set at the end, as used just now, and returns its place.
func (x *index) add(e entry) int32 {
	x.tick++
	x.id++
	e.live, e.tick, e.id = true, x.tick, x.id
	i := x.free
	if i == none {
		i = int32(len(x.entries))
		x.entries = append(x.entries, e)
	} else {
		x.free = x.entries[i].next
		x.entries[i] = e
	}
	x.byKey[e.key] = i
	x.total += int64(e.blocks)
	x.link(i)
	x.countPin(&e, 1)
	return i
}

// pin marks a set as pinned or not.
func (x *index) pin(i int32, pinned bool) {
	e := &x.entries[i]
	x.countPin(e, -1)
	e.pinned = pinned
	x.countPin(e, 1)
}

func (x *index) countPin(e *entry, n int) {
	if e.pinned {
		x.pinned += int64(n) * int64(e.blocks)
		x.pinnedSets += n
	}
}

func (x *index) remove(i int32) {
	e := &x.entries[i]
	x.unlink(i)
	delete(x.byKey, e.key)
	x.total -= int64(e.blocks)
	x.countPin(e, -1)
	*e = entry{next: x.free}
	x.free = i
}

func (x *index) moveToEnd(i int32) {
	x.tick++
	x.entries[i].tick = x.tick
	if x.last != i {
		x.unlink(i)
		x.link(i)
	}
}

func (x *index) link(i int32) {
	e := &x.entries[i]
	e.prev, e.next = x.last, none
	if x.last == none {
		x.first = i
	} else {
		x.entries[x.last].next = i
	}
	x.last = i
}

func (x *index) unlink(i int32) {
	e := &x.entries[i]
	if e.prev == none {
		x.first = e.next
	} else {
		x.entries[e.prev].next = e.next
	}
	if e.next == none {
		x.last = e.prev
	} else {
		x.entries[e.next].prev = e.prev
	}
}

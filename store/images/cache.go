// Package images is the image cache: the image sets on disk under a budget of
// bytes, which of them to keep and which to drop.
//
// A set lies in <data>/images/<hash>, where it comes by one rename when all of
// its files are whole and synced; its record lies in the store. Space is
// reserved before a build and counted in blocks of 4 KiB. Room is made by
// dropping the sets that were used least recently, except
//
//   - those that are being read, and
//   - those completed or last used within MinKeep (10 minutes): somebody was
//     just told that the image is there, and
//   - those that the operator has pinned, which may take at most three
//     quarters of the budget.
//
// Sets completed within Grace (1 hour) go only when nothing older can: a
// user may click "download" long after the build is done. When this does not
// give enough room the reservation is refused.
//
// The order of last uses is kept in memory and saved now and then, so that a
// hit writes nothing; it is an order of events, not of clocks.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

// Options of Open. Dir, DB and Budget must be set.
type Options struct {
	Dir    string // the data folder; holds images/ and work/ on one mount
	DB     *store.DB
	Budget int64 // bytes that image sets may take on disk

	MinFree      int64         // bytes to leave free on the file system; default 256 MiB; negative: none
	Grace        time.Duration // see the package's comment; default 1 h
	MinKeep      time.Duration // see the package's comment; default 10 min
	DefaultsTTL  time.Duration // how long sets whose request has defaults are kept; default 2 h; negative: as others
	SaveInterval time.Duration // between two savings of last uses by Run; default 10 min

	Free func(dir string) (int64, error) // bytes free to us on dir's file system; default statfs
	Now  func() time.Time                // wall clock, for records; default time.Now
	Log  *slog.Logger                    // for background work; default discards
}

func (o *Options) setDefaults() {
	if o.MinFree == 0 {
		o.MinFree = 256 << 20
	}
	o.MinFree = max(o.MinFree, 0)
	if o.Grace <= 0 {
		o.Grace = time.Hour
	}
	if o.MinKeep <= 0 {
		o.MinKeep = 10 * time.Minute
	}
	if o.DefaultsTTL == 0 {
		o.DefaultsTTL = 2 * time.Hour
	}
	if o.SaveInterval <= 0 {
		o.SaveInterval = 10 * time.Minute
	}
	if o.Free == nil {
		o.Free = freeSpace
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// TrashPrefix begins the names of dropped sets in the work folder, which only
// this package removes.
const TrashPrefix = "dropped-"

// Cache is the image cache. Its methods may be called concurrently.
type Cache struct {
	o         Options
	imagesDir string
	workDir   string
	root      *os.Root // imagesDir
	start     time.Time

	pinning sync.Mutex // held while a pin is recorded; before mu

	mu       sync.Mutex
	index    index
	reserved int64                       // bytes of open reservations
	moving   map[store.Key]chan struct{} // sets being renamed into or out of place; closed when done
	dirty    []store.Key                 // with a last use that is not saved
	trash    map[string]int64            // dropped sets not yet removed, by name in workDir: bytes
	trashN   uint64
	bell     chan struct{} // rung when trash has come
}

// Open reads the records of the image sets. The disk is compared with them by
// Run, in the background.
func Open(o Options) (*Cache, error) {
	o.setDefaults()
	if o.DB == nil || o.Dir == "" || o.Budget <= 0 {
		return nil, errors.New("opening the image cache: folder, database and budget must be given")
	}
	c := &Cache{
		o:         o,
		imagesDir: filepath.Join(o.Dir, "images"),
		workDir:   filepath.Join(o.Dir, "work"),
		start:     time.Now(),
		moving:    map[store.Key]chan struct{}{},
		trash:     map[string]int64{},
		bell:      make(chan struct{}, 1),
	}
	for _, dir := range []string{c.imagesDir, c.workDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("opening the image cache: %w", err)
		}
	}
	var err error
	if c.root, err = os.OpenRoot(c.imagesDir); err != nil {
		return nil, fmt.Errorf("opening the image cache: %w", err)
	}
	if err := c.load(); err != nil {
		c.root.Close()
		return nil, fmt.Errorf("opening the image cache: %w", err)
	}
	return c, nil
}

// load fills the index. Ages come from the wall clock where they make sense:
// a set from the future (the clock was reset) counts as old, so that only the
// order of uses protects it, and one with defaults as just completed.
func (c *Cache) load() error {
	now := c.o.Now()
	var sets []entry
	err := c.o.DB.Images(func(k store.Key, r store.ImageRecord) error {
		e := newEntry(k, r.Bytes, r.Disk)
		e.tick, e.live, e.secret, e.pinned = r.Tick, true, r.Secret, r.Pinned
		e.done, e.used = secondsBefore(now, r.Done), secondsBefore(now, r.Used)
		if r.Secret && r.Done.After(now) {
			e.done = 0
		}
		sets = append(sets, e)
		return nil
	})
	if err != nil {
		return err
	}
	c.index.fill(sets)
	return nil
}

// longAgo is further back than any time that matters, in seconds.
const longAgo = -1 << 30

// secondsBefore returns t on the cache's clock, which is 0 now; longAgo for a
// time in the future.
func secondsBefore(now, t time.Time) int32 {
	d := int64(now.Sub(t) / time.Second)
	if d < 0 || d > -longAgo {
		return longAgo
	}
	return int32(-d)
}

// clock is the cache's own clock: seconds since Open, never set back.
func (c *Cache) clock() int32 { return int32(time.Since(c.start) / time.Second) }

func blocks(bytes int64) uint32 {
	return uint32((bytes + store.BlockSize - 1) / store.BlockSize)
}

// Close releases what Open took. Run must have ended, and Save is called.
func (c *Cache) Close() error {
	return errors.Join(c.Save(), c.root.Close())
}

// Has tells whether the set of a request hash is there, in the records and on
// disk. A set that has vanished from disk is forgotten.
func (c *Cache) Has(hash string) bool {
	k, ok := store.ParseKey(hash)
	if !ok {
		return false
	}
	c.mu.Lock()
	_, known := c.index.find(k)
	c.mu.Unlock()
	if !known {
		return false
	}
	info, err := c.root.Lstat(hash)
	if err == nil && info.IsDir() {
		return true
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		c.examine(k)
	}
	return false
}

// Touch notes that the set of a request hash was used just now. It writes
// nothing to disk.
func (c *Cache) Touch(hash string) {
	k, ok := store.ParseKey(hash)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, known := c.index.find(k); known {
		c.touch(i)
	}
}

func (c *Cache) touch(i int32) {
	e := &c.index.entries[i]
	e.used = c.clock()
	c.index.moveToEnd(i)
	if !e.dirty {
		e.dirty = true
		c.dirty = append(c.dirty, e.key)
	}
}

// Handle is an open file of a set, which is not dropped while the handle is
// open. File can be handed to http.ServeContent as it is, so that it reaches
// sendfile.
type Handle struct {
	File *os.File
	Info fs.FileInfo

	c    *Cache
	key  store.Key
	id   uint32
	once sync.Once
}

// Close closes the file and lets go of the set. Further calls do nothing.
func (h *Handle) Close() error {
	var err error
	h.once.Do(func() {
		err = h.File.Close()
		h.c.letGo(h.key, h.id)
	})
	return err
}

// Open opens a file of a set and counts as a use. The error is fs.ErrNotExist
// for a set or a file that is not there, and for names that no set can have.
func (c *Cache) Open(hash, name string) (*Handle, error) {
	k, ok := store.ParseKey(hash)
	if !ok || !ValidFileName(name) {
		return nil, fmt.Errorf("opening image file: %w", fs.ErrNotExist)
	}
	c.mu.Lock()
	i, known := c.index.find(k)
	if !known {
		c.mu.Unlock()
		return nil, fmt.Errorf("opening image file: %w", fs.ErrNotExist)
	}
	c.index.entries[i].readers++
	id := c.index.entries[i].id
	c.touch(i)
	c.mu.Unlock()

	f, err := c.root.Open(hash + "/" + name)
	if err != nil {
		c.letGo(k, id)
		return nil, fmt.Errorf("opening image file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s/%s is no file: %w", hash, name, fs.ErrNotExist)
	}
	if err != nil {
		f.Close()
		c.letGo(k, id)
		return nil, fmt.Errorf("opening image file: %w", err)
	}
	return &Handle{File: f, Info: info, c: c, key: k, id: id}, nil
}

func (c *Cache) letGo(k store.Key, id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, known := c.index.find(k); known && c.index.entries[i].id == id {
		c.index.entries[i].readers--
	}
}

// ValidFileName tells whether a file of a set may be called so: letters,
// digits and "+,._-~@=", not beginning with a dot or a dash, at most 255
// bytes.
func ValidFileName(name string) bool {
	if name == "" || len(name) > 255 || name[0] == '.' || name[0] == '-' {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '+', c == ',', c == '.', c == '_', c == '-', c == '~', c == '@', c == '=':
		default:
			return false
		}
	}
	return true
}

// Usage is what the cache takes, in bytes.
type Usage struct {
	Sets     int
	Budget   int64
	Used     int64 // by the sets in place
	Pinned   int64 // by those that are pinned, of Used
	Reserved int64 // for builds under way
	Dropped  int64 // by dropped sets that are still being removed
	Free     int64 // on the file system; -1 when it cannot be told
	MinFree  int64 // what builds leave free there
}

// Usage returns how much is used now.
func (c *Cache) Usage() Usage {
	free, err := c.o.Free(c.imagesDir)
	if err != nil {
		free = -1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Usage{
		Sets:     c.index.len(),
		Budget:   c.o.Budget,
		Used:     c.index.bytes(),
		Pinned:   c.index.pinned * store.BlockSize,
		Reserved: c.reserved,
		Dropped:  c.trashBytes(),
		Free:     free,
		MinFree:  c.o.MinFree,
	}
}

// Save records the last uses that have changed since the last saving.
func (c *Cache) Save() error {
	c.mu.Lock()
	now, clock := c.o.Now(), c.clock()
	uses := make([]store.Use, 0, len(c.dirty))
	for _, k := range c.dirty {
		i, known := c.index.find(k)
		if !known {
			continue
		}
		e := &c.index.entries[i]
		e.dirty = false
		uses = append(uses, store.Use{Key: k, Tick: e.tick, Used: now.Add(time.Duration(e.used-clock) * time.Second)})
	}
	dirty := c.dirty
	c.dirty = nil
	c.mu.Unlock()
	if err := c.o.DB.SaveUses(uses); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, k := range dirty {
			if i, known := c.index.find(k); known && !c.index.entries[i].dirty {
				c.index.entries[i].dirty = true
				c.dirty = append(c.dirty, k)
			}
		}
		return fmt.Errorf("saving the use of images: %w", err)
	}
	return nil
}

// Run does the work in the background until ctx ends: it compares disk and
// records once, removes what was dropped, lets sets with defaults expire, and
// saves last uses now and then and at the end.
func (c *Cache) Run(ctx context.Context) {
	var removing sync.WaitGroup
	removing.Go(func() { c.removeTrash(ctx) })
	defer removing.Wait()

	c.reconcile(ctx)
	// Every record has been read once, and few will be again soon.
	if err := c.o.DB.ReleaseMemory(); err != nil {
		c.o.Log.Warn("memory could not be released", "error", err)
	}
	debug.FreeOSMemory()

	save := time.NewTicker(c.o.SaveInterval)
	defer save.Stop()
	expire := time.NewTicker(time.Minute)
	defer expire.Stop()
	for {
		select {
		case <-ctx.Done():
			c.save()
			return
		case <-save.C:
			c.save()
		case <-expire.C:
			c.dropExpired()
		}
	}
}

func (c *Cache) save() {
	if err := c.Save(); err != nil {
		c.o.Log.Error("the use of images could not be saved; it is kept in memory", "error", err)
	}
}

// noSpace makes the error of a disk or budget that is full.
func noSpace(err error, format string, args ...any) *imagebuilder.Error {
	return imagebuilder.Errorf(imagebuilder.CodeNoSpace, format, args...).WithCause(err)
}

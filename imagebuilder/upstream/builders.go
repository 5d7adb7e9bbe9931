package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"attendant/imagebuilder"
)

const (
	markerName   = "builder.json"
	partsDir     = ".parts"
	unpackPrefix = ".unpack-"
	gonePrefix   = ".gone-"
	// expansion is by how much an archive grows at most when unpacked, and
	// guess by how much it probably does.
	expansion, guess = 6, 4
	// reserve is what must stay free on the disk, in bytes.
	reserve = 64 << 20
	// keepPart is how long a download that broke off is kept for resuming.
	keepPart = 7 * 24 * time.Hour
	// touchEvery bounds how often a builder's last use is written to disk.
	touchEvery = time.Hour
)

// builders are the unpacked ImageBuilders on disk.
type builders struct {
	u   *Upstream
	dir string

	mu      sync.Mutex
	held    map[string]*held // by archive's sum
	flights map[string]*flight
	growing int64     // bytes promised to what is being unpacked
	newest  time.Time // the latest use there has been; see stamp
}

// held is one unpacked ImageBuilder.
type held struct {
	marker
	sum     string
	pins    int
	used    time.Time // orders the builders by their last use
	touched time.Time // when used was written to disk, by the clock
}

// marker is the file in a builder's folder that says it is whole.
type marker struct {
	Archive string `json:"archive"`
	Top     string `json:"top"`  // name of the top folder
	Size    int64  `json:"size"` // bytes on disk
	Version int    `json:"version"`
}

// markerVersion tells how a builder was unpacked: 2 leaves its files' modes.
const markerVersion = 2

func openBuilders(u *Upstream) (*builders, error) {
	b := &builders{u: u, dir: filepath.Join(u.o.Dir, "builders"), held: map[string]*held{}, flights: map[string]*flight{}}
	if err := os.MkdirAll(filepath.Join(b.dir, partsDir), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of ImageBuilders: %w", err)
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the folder of ImageBuilders: %w", err)
	}
	for _, entry := range entries {
		name := filepath.Join(b.dir, entry.Name())
		switch {
		case entry.Name() == partsDir:
		case imagebuilder.ValidHash(entry.Name()):
			if h := readHeld(name); h != nil {
				b.held[entry.Name()] = h
				if h.used.After(b.newest) {
					b.newest = h.used
				}
				continue
			}
			fallthrough
		case strings.HasPrefix(entry.Name(), unpackPrefix), strings.HasPrefix(entry.Name(), gonePrefix):
			if err := removeTree(name); err != nil {
				u.o.Log.Warn("a leftover could not be swept", "path", name, "error", err)
			}
		}
	}
	b.sweepParts()
	return b, nil
}

func readHeld(dir string) *held {
	name := filepath.Join(dir, markerName)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil
	}
	h := &held{sum: filepath.Base(dir), used: info.ModTime(), touched: info.ModTime()}
	if json.Unmarshal(data, &h.marker) != nil || h.Version != markerVersion || !validTop(h.Top) || h.Size < 0 {
		return nil
	}
	if info, err := os.Lstat(filepath.Join(dir, h.Top)); err != nil || !info.IsDir() {
		return nil
	}
	return h
}

// sweepParts drops downloads that nobody has gone on with for long.
func (b *builders) sweepParts() {
	entries, err := os.ReadDir(filepath.Join(b.dir, partsDir))
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && b.u.o.Now().Sub(info.ModTime()) > keepPart {
			os.Remove(filepath.Join(b.dir, partsDir, entry.Name()))
		}
	}
}

// ready returns g's builder if it is there.
func (b *builders) ready(g imagebuilder.Generation) (*Builder, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.held[g.BuilderSHA256]
	if h == nil {
		return nil, nil
	}
	return b.pin(h, g)
}

// stamp is the time of a use that is later than all before it: now, unless the
// clock went back. b.mu is held.
func (b *builders) stamp() time.Time {
	if now := b.u.o.Now().Round(0); now.After(b.newest) {
		b.newest = now
	} else {
		b.newest = b.newest.Add(time.Nanosecond)
	}
	return b.newest
}

// pin hands a builder out; b.mu is held.
func (b *builders) pin(h *held, g imagebuilder.Generation) (*Builder, func()) {
	h.pins++
	h.used = b.stamp()
	now := b.u.o.Now()
	if since := now.Sub(h.touched); since >= touchEvery || since < 0 {
		h.touched = now
		os.Chtimes(filepath.Join(b.dir, h.sum, markerName), h.used, h.used) //nolint:errcheck // only the order of eviction after a restart
	}
	builder := &Builder{Dir: filepath.Join(b.dir, h.sum, h.Top), Generation: g, Size: h.Size}
	return builder, sync.OnceFunc(func() {
		b.mu.Lock()
		h.pins--
		b.mu.Unlock()
	})
}

// flight is one builder on its way, with all who wait for it.
type flight struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	ended  bool // err is that everybody had left

	mu         sync.Mutex
	waiting    int
	reporters  map[int]imagebuilder.Reporter
	next       int
	stage      imagebuilder.Stage
	progress   [2]int64
	lastReport time.Time
}

func (f *flight) join(rep imagebuilder.Reporter) (leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.next
	f.next++
	f.waiting++
	f.reporters[id] = rep
	if f.stage != "" {
		rep.Stage(f.stage)
		rep.Progress(f.progress[0], f.progress[1])
	}
	return func() {
		f.mu.Lock()
		delete(f.reporters, id)
		f.waiting--
		last := f.waiting == 0
		f.mu.Unlock()
		if last {
			f.cancel()
		}
	}
}

func (f *flight) enter(stage imagebuilder.Stage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stage, f.progress = stage, [2]int64{}
	for _, rep := range f.reporters {
		rep.Stage(stage)
	}
}

// report tells of progress, at most ten times a second but always of the end.
func (f *flight) report(done, total int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress = [2]int64{done, total}
	if now := time.Now(); now.Sub(f.lastReport) >= 100*time.Millisecond || done == total {
		f.lastReport = now
		for _, rep := range f.reporters {
			rep.Progress(done, total)
		}
	}
}

// get returns the builder of an archive, made ready first if need be. A flight
// ends when nobody waits for it any more.
func (b *builders) get(ctx context.Context, src source, g imagebuilder.Generation, rep imagebuilder.Reporter) (*Builder, func(), error) {
	for {
		b.mu.Lock()
		if h := b.held[src.sum]; h != nil {
			builder, release := b.pin(h, g)
			b.mu.Unlock()
			return builder, release, nil
		}
		f := b.flights[src.sum]
		if f == nil {
			var flightCtx context.Context
			f = &flight{done: make(chan struct{}), reporters: map[int]imagebuilder.Reporter{}}
			flightCtx, f.cancel = context.WithCancel(b.u.ctx)
			if !b.u.spawn(func() {
				f.err = b.makeReady(flightCtx, src, f)
				f.ended = f.err != nil && flightCtx.Err() != nil
				f.cancel()
				b.mu.Lock()
				delete(b.flights, src.sum)
				b.mu.Unlock()
				close(f.done)
			}) {
				f.cancel()
				b.mu.Unlock()
				return nil, nil, errClosed
			}
			b.flights[src.sum] = f
		}
		leave := f.join(rep)
		b.mu.Unlock()
		select {
		case <-f.done:
			leave()
		case <-ctx.Done():
			leave()
			return nil, nil, context.Cause(ctx)
		}
		if b.u.ctx.Err() != nil {
			return nil, nil, errClosed
		}
		if f.err != nil && !f.ended {
			return nil, nil, f.err
		}
		// Either it is there now, or a flight that everybody else had left
		// was ended: try again.
	}
}

// makeReady downloads, unpacks and prepares one archive.
func (b *builders) makeReady(ctx context.Context, src source, f *flight) (err error) {
	archive := src.path
	if archive == "" {
		f.enter(imagebuilder.StageDownload)
		if archive, err = b.download(ctx, src, f.report); err != nil {
			return err
		}
	}
	f.enter(imagebuilder.StageUnpack)
	if err := b.unpack(ctx, src, archive, f.report); err != nil {
		if errors.Is(err, errArchive) && !isTold(err) && src.path == "" {
			os.Remove(archive) // it has the right sum, and yet no use
		}
		return err
	}
	if src.path == "" {
		// Upstream has it, and unpacked it is what is used: the archive would
		// only take a fifth more space.
		os.Remove(archive)
		os.Remove(archive + ".json")
	}
	return nil
}

// unpack makes builders/<sum> of an archive with that sum.
func (b *builders) unpack(ctx context.Context, src source, archive string, report func(done, total int64)) (err error) {
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	promised := info.Size() * guess
	if err := b.makeRoom(info.Size()*expansion, promised, src.name); err != nil {
		return err
	}
	defer func() {
		b.mu.Lock()
		b.growing -= promised
		b.mu.Unlock()
	}()
	temp, err := os.MkdirTemp(b.dir, unpackPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if rm := removeTree(temp); rm != nil {
				b.u.o.Log.Warn("a leftover could not be swept", "path", temp, "error", rm)
			}
		}
	}()
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	x := &extraction{disk: b.u.disk, maxBytes: b.maxUnpacked(), maxEntries: maxEntries, report: report}
	if src.path != "" { // it may not be any more what localSum saw
		x.sum = src.sum
	}
	top, err := x.run(ctx, archive, temp)
	if errors.Is(err, errTooBig) && x.maxBytes == b.u.o.BuilderBudget {
		return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
			"There is no room for the ImageBuilder %s: unpacked it takes more than %s, this server's whole budget for ImageBuilders (builder_budget). Please tell the server's operator.",
			src.name, megabytes(x.maxBytes)).WithCause(err)
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(temp, top)
	if b.u.o.Prepare != nil {
		if err := b.u.o.Prepare(ctx, dir); err != nil {
			return fmt.Errorf("%w: %w", errPrepare, err)
		}
	}
	size, err := seal(dir)
	if err != nil {
		return err
	}
	m := marker{Archive: src.name, Top: top, Size: size, Version: markerVersion}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := b.u.disk.writeFile(filepath.Join(temp, markerName), data); err != nil {
		return err
	}
	if err := syncTree(temp); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := b.fit(size, promised, src.name); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(b.dir, src.sum)); err != nil {
		return err
	}
	if err := syncDir(b.dir); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[src.sum] = &held{marker: m, sum: src.sum, used: b.stamp()} // get's pin writes it to disk
	return nil
}

// maxUnpacked bounds one ImageBuilder, in bytes.
func (b *builders) maxUnpacked() int64 {
	const most = 16 << 30
	if b.u.o.BuilderBudget > 0 {
		return min(most, b.u.o.BuilderBudget)
	}
	return most
}

// makeRoom sees to it that so many further bytes fit on the disk and promised
// ones into the budget, at the cost of builders that have not been used for
// longest. On success the promise counts until it is taken back.
func (b *builders) makeRoom(onDisk, promised int64, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		free, err := b.u.disk.free(b.dir)
		if err != nil {
			return err
		}
		free -= b.growing
		idle := b.idle()
		var over int64 // bytes by which the budget would not hold
		if budget := b.u.o.BuilderBudget; budget > 0 {
			inUse := b.usage() + b.growing
			over = inUse + promised - budget
			if over > idle && inUse-idle < budget {
				// The promise is a guess. While there is any budget left it is
				// worth a try: fit has the last word.
				over = 0
			}
			if over > idle {
				return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
					"There is no room for the ImageBuilder %s: this server's budget for ImageBuilders (builder_budget) is %s and those in use take %s. Please try again later, or tell the server's operator.",
					name, megabytes(budget), megabytes(inUse-idle))
			}
		}
		short := onDisk + reserve - free
		if short > idle {
			return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
				"There is no room for the ImageBuilder %s: it needs about %s, and this server's disk has %s free. Please try again later, or tell the server's operator.",
				name, megabytes(onDisk+reserve), megabytes(max(free, 0)))
		}
		if over <= 0 && short <= 0 {
			b.growing += promised
			return nil
		}
		b.evict()
	}
}

// fit makes the budget hold with a builder whose size is now known.
func (b *builders) fit(size, promised int64, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		over := b.usage() + b.growing - promised + size - b.u.o.BuilderBudget
		switch {
		case b.u.o.BuilderBudget == 0 || over <= 0:
			return nil
		case over > b.idle():
			return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
				"There is no room for the ImageBuilder %s: it takes %s, and this server's budget for ImageBuilders (builder_budget) is %s. Please tell the server's operator.",
				name, megabytes(size), megabytes(b.u.o.BuilderBudget))
		}
		b.evict()
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%d MB", (n+999_999)/1_000_000) }

// usage is the size of all unpacked builders; b.mu is held.
func (b *builders) usage() int64 {
	var n int64
	for _, h := range b.held {
		n += h.Size
	}
	return n
}

// idle is the size of those builders that may be evicted; b.mu is held.
func (b *builders) idle() int64 {
	var n int64
	for _, h := range b.held {
		if h.pins == 0 {
			n += h.Size
		}
	}
	return n
}

// evict drops the builder that nobody has used for longest, if there is one
// that may go. b.mu is held, but not while files are removed.
func (b *builders) evict() {
	var free []*held
	for _, h := range b.held {
		if h.pins == 0 {
			free = append(free, h)
		}
	}
	if len(free) == 0 {
		return
	}
	h := slices.MinFunc(free, func(x, y *held) int {
		return cmp.Or(x.used.Compare(y.used), strings.Compare(x.sum, y.sum))
	})
	delete(b.held, h.sum)
	name := filepath.Join(b.dir, h.sum)
	gone := filepath.Join(b.dir, gonePrefix+h.sum)
	if os.Rename(name, gone) == nil { // a crash in mid-removal leaves nothing that looks whole
		name = gone
	}
	b.mu.Unlock()
	defer b.mu.Lock()
	if err := removeTree(name); err != nil {
		b.u.o.Log.Warn("an ImageBuilder could not be removed", "archive", h.Archive, "error", err)
	}
	b.u.o.Log.Info("ImageBuilder evicted", "archive", h.Archive, "bytes", h.Size)
}

// seal closes a tree's folders to writing and returns its size on disk. Files
// keep the modes of the archive, which are seen in images: boot partitions are
// made of copies that keep them, and an ordinary user's copy of a file without
// the write bit cannot be added to.
func seal(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		size += (info.Size() + 4095) / 4096 * 4096
		if !entry.IsDir() {
			return nil
		}
		return os.Chmod(name, info.Mode().Perm()&^0o222)
	})
	return size, err
}

// removeTree removes a sealed tree.
func removeTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(name, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

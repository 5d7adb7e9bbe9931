package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"attendant/imagebuilder"
)

const (
	// packageSlots is how many packages are fetched at once.
	packageSlots = 4
	// maxPackageSize bounds one package, in bytes; the largest real one has
	// some 90 MB.
	maxPackageSize = 1 << 30
	// identityPrefix begins the names of packages that are known by apk's
	// hash of them, in place of the file's sum.
	identityPrefix = "apk-"
	// packageMode is of packages in place, which builds link to; partMode of
	// those on their way.
	packageMode = 0o444
	partMode    = 0o644
)

// Packages are package files on disk, content-addressed:
//
//	<dir>/<sha256>        a package
//	<dir>/apk-<hash>      one whose index has apk's own hash only
//	<dir>/.parts/         downloads on their way
//
// They are shared by all releases, targets and upstreams that are given the
// same store. A file has its final name only when it is whole, checked and
// synced. The methods may be called at the same time.
type Packages struct {
	o     PackagesOptions
	slots chan struct{}

	mu      sync.Mutex
	held    map[string]*heldPackage // by key
	flights map[string]*packageFlight
	used    int64     // bytes on disk of what is held
	growing int64     // bytes promised to downloads
	newest  time.Time // the latest use there has been
}

// PackagesOptions of [OpenPackages]. Dir must be set.
type PackagesOptions struct {
	Dir    string // of packages only, on one mount with the builds' work
	Budget int64  // bytes that packages may take on disk; 0 is no bound but the disk's

	Now func() time.Time
	Log *slog.Logger // default: none

	disk disk
}

// heldPackage is one package on disk.
type heldPackage struct {
	key     string
	size    int64 // of the file, in bytes
	pins    int
	checked bool      // since the start
	used    time.Time // orders the packages by their last use
	touched time.Time // when used was written to disk, by the clock
}

func (h *heldPackage) disk() int64 { return onDisk(h.size) }

// onDisk is what a file of n bytes takes, in bytes.
func onDisk(n int64) int64 { return (n + 4095) / 4096 * 4096 }

// OpenPackages opens the store in a folder, which is made if absent, and
// sweeps what a crash has left there.
func OpenPackages(o PackagesOptions) (*Packages, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.disk.free == nil {
		o.disk = realDisk()
	}
	if o.Dir == "" || o.Budget < 0 {
		return nil, errors.New("opening the package store: a folder and a budget of 0 or more must be given")
	}
	s := &Packages{o: o, slots: make(chan struct{}, packageSlots), held: map[string]*heldPackage{}, flights: map[string]*packageFlight{}}
	if err := os.MkdirAll(filepath.Join(o.Dir, partsDir), 0o755); err != nil {
		return nil, fmt.Errorf("opening the package store: %w", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the package store: %w", err)
	}
	for _, entry := range entries {
		if !validPackageKey(entry.Name()) {
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if info.Mode().Perm() != packageMode { // a crash came between the rename and the change
			if err := os.Chmod(s.path(entry.Name()), packageMode); err != nil {
				return nil, fmt.Errorf("opening the package store: %w", err)
			}
		}
		h := &heldPackage{key: entry.Name(), size: info.Size(), used: info.ModTime(), touched: info.ModTime()}
		s.held[h.key] = h
		s.used += h.disk()
		if h.used.After(s.newest) {
			s.newest = h.used
		}
	}
	s.sweep()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.o.Budget > 0 && s.used > s.o.Budget && s.evict() { // it may be smaller than it was
	}
	return s, nil
}

func validPackageKey(key string) bool {
	return imagebuilder.ValidHash(key) || strings.HasPrefix(key, identityPrefix) && len(key) <= len(identityPrefix)+128 &&
		strings.Trim(key[len(identityPrefix):], "0123456789abcdef") == ""
}

// sweep drops downloads that nobody has gone on with for long, and sees to it
// that the others can be gone on with.
func (s *Packages) sweep() {
	entries, err := os.ReadDir(filepath.Join(s.o.Dir, partsDir))
	if err != nil {
		return
	}
	for _, entry := range entries {
		part := filepath.Join(s.o.Dir, partsDir, entry.Name())
		info, err := entry.Info()
		if err != nil || s.o.Now().Sub(info.ModTime()) > keepPart || !validPackageKey(entry.Name()) || os.Chmod(part, partMode) != nil {
			os.Remove(part)
		}
	}
}

// PackagesUsage is what a store takes.
type PackagesUsage struct {
	Packages     int
	Used, Budget int64 // bytes
}

// Usage tells what is used now.
func (s *Packages) Usage() PackagesUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return PackagesUsage{Packages: len(s.held), Used: s.used, Budget: s.o.Budget}
}

// PackageSet is packages that are kept until Release.
type PackageSet struct {
	Paths []string // absolute, in the order they were asked for

	s    *Packages
	mu   sync.Mutex
	pins []*heldPackage
}

// Release lets go of the packages. Further calls do nothing.
func (p *PackageSet) Release() {
	p.mu.Lock()
	pins := p.pins
	p.pins = nil
	p.mu.Unlock()
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for _, h := range pins {
		h.pins--
	}
}

// Damaged has the packages checked again when they are next asked for, after a
// build that found fault with them.
func (p *PackageSet) Damaged() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for _, h := range p.pins {
		h.checked = false
	}
}

func (s *Packages) path(key string) string { return filepath.Join(s.o.Dir, key) }

// pin hands a package out if it is there; s.mu is held.
func (s *Packages) pin(key string) *heldPackage {
	h := s.held[key]
	if h == nil {
		return nil
	}
	h.pins++
	if now := s.o.Now().Round(0); now.After(s.newest) {
		s.newest = now
	} else {
		s.newest = s.newest.Add(time.Nanosecond)
	}
	h.used = s.newest
	if since := s.o.Now().Sub(h.touched); since >= touchEvery || since < 0 {
		h.touched = s.o.Now()
		os.Chtimes(s.path(key), h.used, h.used) //nolint:errcheck // only the order of eviction after a restart
	}
	return h
}

// forget drops a package that is damaged or gone. Whoever reads it goes on
// reading what they have opened or linked.
func (s *Packages) forget(h *heldPackage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[h.key] == h {
		delete(s.held, h.key)
		s.used -= h.disk()
		os.Remove(s.path(h.key))
	}
}

// makeRoom sees to it that n further bytes fit into the budget and onto the
// disk, at the cost of packages that have not been used for longest. On
// success they count until they are taken back from growing.
func (s *Packages) makeRoom(n int64) error {
	n = onDisk(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		free, err := s.o.disk.free(s.o.Dir)
		if err != nil {
			return err
		}
		short := n + s.growing + reserve - free
		over := s.used + s.growing + n - s.o.Budget
		if s.o.Budget == 0 {
			over = 0
		}
		if short <= 0 && over <= 0 {
			s.growing += n
			return nil
		}
		if s.evict() {
			continue
		}
		if over > 0 {
			return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
				"There is no room for the packages of this image: this server's budget for packages (package_budget) is %s and those in use take %s. Please try again later, or tell the server's operator.",
				megabytes(s.o.Budget), megabytes(s.used))
		}
		return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
			"There is no room for the packages of this image: this server's disk has %s free. Please try again later, or tell the server's operator.",
			megabytes(max(free, 0)))
	}
}

// evict drops the package that nobody has used for longest and tells whether
// there was one that may go. s.mu is held.
func (s *Packages) evict() bool {
	var oldest *heldPackage
	for _, h := range s.held {
		if h.pins == 0 && (oldest == nil || cmp.Or(h.used.Compare(oldest.used), strings.Compare(h.key, oldest.key)) < 0) {
			oldest = h
		}
	}
	if oldest == nil {
		return false
	}
	if err := os.Remove(s.path(oldest.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.o.Log.Warn("a package could not be removed", "package", oldest.key, "error", err)
	}
	delete(s.held, oldest.key)
	s.used -= oldest.disk()
	return true
}

// keys are the names of all packages that are held, sorted.
func (s *Packages) keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.held))
	for key := range s.held {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

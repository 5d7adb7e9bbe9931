package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// errDamaged: a package is not what its index says.
var errDamaged = errors.New("it is not what the list of packages says")

// keepPartFrom is the size, in bytes, from which a package that broke off is
// worth resuming later.
const keepPartFrom = 256 << 10

// PackageFile is a package of a verified index.
type PackageFile struct {
	URL     string // absolute
	Package *feeds.Package
	// SHA256 is the file's sum as a verified sha256sums has it; "" where only
	// the index tells.
	SHA256 string
}

// key is what the package is called in the store; "" if nothing tells what it
// has to be.
func (f *PackageFile) key() string {
	switch {
	case imagebuilder.ValidHash(f.SHA256):
		return f.SHA256
	case imagebuilder.ValidHash(f.Package.SHA256):
		return f.Package.SHA256
	case f.Package.Identity != "":
		return identityPrefix + hex.EncodeToString([]byte(f.Package.Identity))
	}
	return ""
}

// size is the file's size in bytes, 0 if the index does not say.
func (f *PackageFile) size() int64 { return f.Package.Size }

// packageFlight is one package on its way, with all who wait for it.
type packageFlight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int // guarded by Packages.mu
	err     error
	ended   bool         // err is that everybody had left
	got     atomic.Int64 // bytes so far
}

// FetchPackages returns files of Options.Packages, which it fetches first
// where they are not there: several at a time, resuming what broke off, each
// once however many want it, checked against the index. rep hears of the
// stage only if something has to be fetched, with its progress in bytes. The
// packages are kept until the set is released. The error is an
// *imagebuilder.Error: CodePackageDamaged, CodeNoNetwork, CodeNoSpace,
// CodeCanceled, CodeStopping.
func (u *Upstream) FetchPackages(ctx context.Context, files []PackageFile, rep imagebuilder.Reporter) (*PackageSet, error) {
	s := u.packages
	set := &PackageSet{s: s, Paths: make([]string, len(files)), pins: make([]*heldPackage, 0, len(files))}
	if rep == nil {
		rep = silent{}
	}
	var total int64
	s.mu.Lock()
	for i := range files {
		if s.held[files[i].key()] == nil {
			total += files[i].size()
		}
	}
	missing := slices.ContainsFunc(files, func(f PackageFile) bool { return s.held[f.key()] == nil })
	s.mu.Unlock()
	var done atomic.Int64
	if missing {
		rep.Stage(imagebuilder.StagePackages)
		rep.Progress(0, total)
		stop := make(chan struct{})
		var telling sync.WaitGroup
		telling.Go(func() { tellProgress(rep, &done, total, stop) })
		defer telling.Wait()
		defer close(stop)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pins := make([]*heldPackage, len(files))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(packageSlots, len(files)) {
		workers.Go(func() {
			for i := range next {
				h, err := s.get(ctx, u, &files[i], &done)
				if err != nil {
					cancel(packageError(&files[i], err))
					continue
				}
				pins[i], set.Paths[i] = h, s.path(h.key)
			}
		})
	}
	for i := range files {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	for _, h := range pins {
		if h != nil {
			set.pins = append(set.pins, h)
		}
	}
	if ctx.Err() != nil {
		set.Release()
		err := context.Cause(ctx)
		if isTold(err) {
			return nil, err
		}
		return nil, imagebuilder.Errorf(imagebuilder.CodeCanceled, "Waiting for the packages was ended.").WithCause(err)
	}
	return set, nil
}

// tellProgress reports what has come, a few times a second.
func tellProgress(rep imagebuilder.Reporter, done *atomic.Int64, total int64, stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	told := int64(0)
	for {
		ended := false
		select {
		case <-tick.C:
		case <-stop:
			ended = true
		}
		if n := min(done.Load(), total); n != told {
			told = n
			rep.Progress(n, total)
		}
		if ended {
			return
		}
	}
}

func packageError(f *PackageFile, err error) error {
	name := f.Package.Name
	switch {
	case isTold(err):
		return err
	case isNoSpace(err):
		return imagebuilder.Errorf(imagebuilder.CodeNoSpace,
			"This server's disk is full: there is no room for the package %s. Please tell the server's operator.", name).WithCause(err)
	case errors.Is(err, errAbsent):
		return imagebuilder.Errorf(imagebuilder.CodePackageDamaged,
			"Error: The package %s is in the feed's list but not on the download server; it may be being published right now. Please try again later.", name).WithCause(err)
	case errors.Is(err, errDamaged):
		return imagebuilder.Errorf(imagebuilder.CodePackageDamaged,
			"Error: The download server's package %s is not the one that its feed lists; it may be being published right now. Please try again later.", name).WithCause(err)
	case errors.Is(err, errClosed):
		return imagebuilder.Errorf(imagebuilder.CodeStopping, "The server is stopping. Please try again in a minute.").WithCause(err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return imagebuilder.Errorf(imagebuilder.CodeCanceled, "Waiting for the package %s was ended.", name).WithCause(err)
	}
	return imagebuilder.Errorf(imagebuilder.CodeNoNetwork,
		"Error: The package %s could not be downloaded. Please try again in a few minutes.", name).WithCause(err)
}

// get returns a package, pinned, fetched first if need be. A flight ends when
// nobody waits for it any more.
func (s *Packages) get(ctx context.Context, u *Upstream, file *PackageFile, done *atomic.Int64) (*heldPackage, error) {
	key := file.key()
	if key == "" {
		return nil, fmt.Errorf("the list has no sum for %s: %w", file.Package.Name, errDamaged)
	}
	if size := file.size(); size < 0 || size > maxPackageSize {
		return nil, fmt.Errorf("%s has %d bytes: %w", file.Package.Name, size, errDamaged)
	}
	for {
		s.mu.Lock()
		if h := s.pin(key); h != nil {
			checked := h.checked
			s.mu.Unlock()
			if checked {
				return h, nil
			}
			err := s.check(file, s.path(key))
			if err == nil {
				s.mu.Lock()
				h.checked = true
				s.mu.Unlock()
				return h, nil
			}
			s.o.Log.Warn("a kept package is damaged and is fetched again", "package", file.Package.Name, "error", err)
			s.forget(h)
			continue
		}
		f, err := s.join(u, key, file)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		err = s.wait(ctx, f, done)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if u.ctx.Err() != nil {
			return nil, errClosed
		}
		if err != nil && !f.ended {
			return nil, err
		}
	}
}

// join finds or begins the flight of a package; s.mu is held.
func (s *Packages) join(u *Upstream, key string, file *PackageFile) (*packageFlight, error) {
	f := s.flights[key]
	if f == nil {
		f = &packageFlight{done: make(chan struct{})}
		var ctx context.Context
		ctx, f.cancel = context.WithCancel(u.ctx)
		if !u.spawn(func() {
			f.err = s.fetch(ctx, u, key, file, f)
			f.ended = f.err != nil && ctx.Err() != nil
			f.cancel()
			s.mu.Lock()
			delete(s.flights, key)
			s.mu.Unlock()
			close(f.done)
		}) {
			f.cancel()
			return nil, errClosed
		}
		s.flights[key] = f
	}
	f.waiting++
	return f, nil
}

// wait waits for a flight and adds what it brings to done.
func (s *Packages) wait(ctx context.Context, f *packageFlight, done *atomic.Int64) error {
	defer func() {
		s.mu.Lock()
		f.waiting--
		last := f.waiting == 0
		s.mu.Unlock()
		if last {
			f.cancel()
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var counted int64
	count := func() {
		got := f.got.Load()
		done.Add(got - counted)
		counted = got
	}
	for {
		select {
		case <-tick.C:
			count()
		case <-f.done:
			count()
			return f.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fetch downloads one package and puts it in place.
func (s *Packages) fetch(ctx context.Context, u *Upstream, key string, file *PackageFile, f *packageFlight) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	part := filepath.Join(s.o.Dir, partsDir, key)
	err := s.makeRoom(file.size())
	if err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		s.growing -= onDisk(file.size())
		s.mu.Unlock()
	}()
	const tries = 4
	for try := 1; ; try++ {
		before := f.got.Load()
		var resumed bool
		resumed, err = s.download(ctx, u, part, file, f)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		if errors.Is(err, errDamaged) {
			os.Remove(part)
			if resumed { // its beginning may be of another time
				continue
			}
			break
		}
		if f.got.Load()-before >= progress {
			try = 0
		}
		if try >= tries || errors.Is(err, errAbsent) || isNoSpace(err) {
			break
		}
		u.o.Log.Debug("download of a package broke off", "package", file.Package.Name, "error", err)
		if err = u.pause(ctx); err != nil {
			break
		}
	}
	if err != nil {
		if info, statErr := os.Stat(part); statErr == nil && info.Size() < keepPartFrom {
			os.Remove(part)
		}
		return err
	}
	info, err := putInPlace(part, s.path(key))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &heldPackage{key: key, size: info.Size(), checked: true, used: info.ModTime(), touched: info.ModTime()}
	s.held[key] = h
	s.used += h.disk()
	s.pin(key)
	h.pins--
	return nil
}

// putInPlace gives a whole, synced download its final name and makes that durable.
// Only there is the file closed to writing: a part stays one that can be gone
// on with, whenever the power goes.
func putInPlace(part, name string) (os.FileInfo, error) {
	if err := os.Rename(part, name); err != nil {
		return nil, err
	}
	if err := os.Chmod(name, packageMode); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(name)); err != nil {
		return nil, fmt.Errorf("syncing the package store: %w", err)
	}
	return os.Stat(name)
}

// download gets the rest of a package into part, checks it and syncs it.
// resumed tells that a part of it was there before.
func (s *Packages) download(ctx context.Context, u *Upstream, part string, file *PackageFile, f *packageFlight) (resumed bool, err error) {
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, partMode)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := sha256.New()
	have, err := io.CopyBuffer(h, out, make([]byte, 64<<10))
	if err != nil {
		return false, err
	}
	resumed = have > 0
	f.got.Store(have)
	if size := file.size(); size == 0 || have < size {
		if err := s.receive(ctx, u, out, have, h, file, f); err != nil {
			return resumed, err
		}
	}
	if sum := file.key(); imagebuilder.ValidHash(sum) && hex.EncodeToString(h.Sum(nil)) != sum {
		return resumed, fmt.Errorf("%s has another sum: %w", file.URL, errDamaged)
	}
	if err := checkPackage(file, out); err != nil {
		return resumed, err
	}
	return resumed, out.Sync()
}

// receive asks upstream for what follows the first have bytes.
func (s *Packages) receive(ctx context.Context, u *Upstream, out *os.File, have int64, h hash.Hash, file *PackageFile, f *packageFlight) error {
	req, err := http.NewRequest(http.MethodGet, file.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if have > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(have, 10)+"-")
	}
	resp, err := u.do(ctx, req, u.o.BuilderLimit)
	if err != nil {
		return fmt.Errorf("downloading %s: %w", file.URL, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if start, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || start != have {
			return fmt.Errorf("downloading %s: upstream sent another range than asked for: %w", file.URL, errDamaged)
		}
	case http.StatusOK:
		have = 0
		h.Reset()
		f.got.Store(0)
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := out.Truncate(0); err != nil {
			return err
		}
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("downloading %s: %w", file.URL, errAbsent)
	case http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("downloading %s: upstream's copy is shorter than ours: %w", file.URL, errDamaged)
	default:
		return fmt.Errorf("downloading %s: upstream answered %.100q", file.URL, resp.Status)
	}
	limit := file.size()
	if limit == 0 {
		limit = max(have+resp.ContentLength, 0)
		if resp.ContentLength < 0 || limit > maxPackageSize {
			return fmt.Errorf("downloading %s: neither the list nor upstream tells its size: %w", file.URL, errDamaged)
		}
		if err := s.makeRoom(limit); err != nil {
			return err
		}
		defer func() {
			s.mu.Lock()
			s.growing -= onDisk(limit)
			s.mu.Unlock()
		}()
	}
	w := io.MultiWriter(diskWriter{s.o.disk, out}, h, countTo{&f.got})
	n, err := io.CopyBuffer(w, io.LimitReader(resp.Body, limit-have+1), make([]byte, 64<<10))
	if err != nil {
		return fmt.Errorf("downloading %s: %w", file.URL, err)
	}
	switch have += n; {
	case have > limit, have < limit && resp.ContentLength >= 0 && n == resp.ContentLength:
		return fmt.Errorf("%s has not the %d bytes that the list says: %w", file.URL, limit, errDamaged)
	case have < limit:
		return fmt.Errorf("downloading %s: %w", file.URL, io.ErrUnexpectedEOF)
	}
	return nil
}

// countTo counts the bytes that are written.
type countTo struct{ n *atomic.Int64 }

// Write implements io.Writer.
func (c countTo) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// check checks a package that is in place.
func (s *Packages) check(file *PackageFile, name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	if sum := file.key(); imagebuilder.ValidHash(sum) {
		h := sha256.New()
		if _, err := io.CopyBuffer(h, in, make([]byte, 64<<10)); err != nil {
			return err
		}
		if hex.EncodeToString(h.Sum(nil)) != sum {
			return fmt.Errorf("%s has another sum: %w", name, errDamaged)
		}
	}
	return checkPackage(file, in)
}

// checkPackage checks what the index has to say beside a sum: the size, and
// of apk's packages the hash of their content.
func checkPackage(file *PackageFile, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if size := file.size(); size > 0 && info.Size() != size {
		return fmt.Errorf("%s has %d bytes, not %d: %w", file.Package.Name, info.Size(), size, errDamaged)
	}
	if file.Package.Identity == "" {
		return nil
	}
	if err := feeds.VerifyAPK(io.NewSectionReader(in, 0, info.Size()), file.Package); err != nil {
		return fmt.Errorf("%s: %w: %w", file.Package.Name, errDamaged, err)
	}
	return nil
}

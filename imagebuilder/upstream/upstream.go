package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"attendant/imagebuilder"
)

var errClosed = errors.New("the server is stopping")

const (
	// fetchSlots is how many small files are fetched at once.
	fetchSlots = 4
	// documentsInMemory bounds the targets and architectures whose data is in
	// memory; the rest is read from disk when it is asked for.
	documentsInMemory = 32
	// renewEvery is how often Run looks for what is due.
	renewEvery = 15 * time.Second
	// tidyEvery is how often it looks for what nobody needs, which is what
	// nobody has asked for since dropAfter.
	tidyEvery = 24 * time.Hour
	dropAfter = 30 * 24 * time.Hour
)

// Upstream is one download server and what is kept of it. Its methods may be
// called at the same time.
type Upstream struct {
	o        Options
	client   *http.Client
	keys     keyring
	state    *state
	disk     disk
	builders *builders
	slots    chan struct{}

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, kept and the maps of documents
	closed bool
	wg     sync.WaitGroup

	kept     map[string]*record // read at start, until their document is made
	versions *document[versionList]
	overview *document[Overview]
	lists    map[string]*document[targetList]
	cores    map[string]*document[core]
	archs    map[string]*document[archIndex]
	devices  *deviceIndex
	recent   *lru.Cache[string, droppable]
	locals   localSums

	universes *universes
	packages  *Packages

	// Pauses between tries within one flight; shortened by tests.
	retryPause time.Duration
	// maxKept bounds the targets' and packages' data on disk, in bytes.
	maxKept int64
	tidied  time.Time // by Run alone
	// overviewDigest is what the last overview was, to tell the log of news.
	overviewDigest atomic.Pointer[string]
}

type droppable interface{ drop() }

// Open reads what is kept of upstream. It needs no network and does not wait
// for one.
func Open(o Options) (*Upstream, error) {
	return open(o, realDisk())
}

func open(o Options, d disk) (*Upstream, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	keys, err := loadKeys(o.KeysDir, o.TrustedKeys)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	st, kept, err := openState(o.Dir, o.URL, d, o.Log)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	u := &Upstream{
		o: o, client: safeClient(o.Client), keys: keys, state: st, disk: d, kept: kept,
		slots: make(chan struct{}, fetchSlots),
		lists: map[string]*document[targetList]{}, cores: map[string]*document[core]{}, archs: map[string]*document[archIndex]{},
		retryPause: 3 * time.Second,
		maxKept:    512 << 20,
		universes:  newUniverses(o.IndexMemory),
	}
	if u.packages = o.Packages; u.packages == nil {
		u.packages, err = OpenPackages(PackagesOptions{
			Dir: filepath.Join(o.Dir, "packages"), Budget: o.PackageBudget, Now: o.Now, Log: o.Log, disk: d,
		})
		if err != nil {
			return nil, fmt.Errorf("upstream: %w", err)
		}
	}
	if u.builders, err = openBuilders(u); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	if u.recent, err = lru.New[string, droppable](documentsInMemory); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.devices = newDeviceIndex(u)
	u.versions = &document[versionList]{u: u, key: "versions", interval: o.Refresh, build: u.buildVersions}
	u.adoptKept(u.versions.key, u.versions.adopt)
	u.overview = &document[Overview]{u: u, key: "overview", interval: min(o.Refresh, o.SnapshotRefresh), build: u.buildOverview}
	u.overview.value, u.overview.checked = u.heldOverview()
	return u, nil
}

func (u *Upstream) adoptKept(key string, adopt func(*record)) {
	if r := u.kept[key]; r != nil {
		adopt(r)
		delete(u.kept, key)
	}
}

// URL is upstream's address without a final slash.
func (u *Upstream) URL() string { return u.o.URL }

// Run renews what is known in the background until ctx ends. It returns nil.
func (u *Upstream) Run(ctx context.Context) error {
	u.mu.Lock()
	for key := range u.kept { // what was in use before the start stays fresh, or is tidied away
		u.adopt(key)
	}
	u.mu.Unlock()
	tick := time.NewTicker(min(renewEvery, u.o.SnapshotRefresh, u.o.Refresh))
	defer tick.Stop()
	for {
		u.renew(u.o.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		case <-u.ctx.Done():
			return nil
		}
	}
}

func (u *Upstream) renew(now time.Time) {
	u.overview.mu.Lock()
	u.overview.used = now
	u.overview.mu.Unlock()
	u.overview.renew(now)
	u.mu.Lock()
	cores, archs := make([]*document[core], 0, len(u.cores)), make([]*document[archIndex], 0, len(u.archs))
	for _, d := range u.cores {
		cores = append(cores, d)
	}
	for _, d := range u.archs {
		archs = append(archs, d)
	}
	u.mu.Unlock()
	for _, d := range archs {
		d.renew(now)
	}
	for _, d := range cores {
		d.renew(now)
	}
	u.tidy(now)
}

// keeper is a document of a target or an architecture.
type keeper interface {
	lastUse() (used time.Time, size int64)
	shed()
}

// tidy drops, once a day, what is on disk of targets and architectures that
// nobody has asked for in a long time, and of all together what is too much,
// that which was used longest ago first. While upstream does not answer it
// could not be had again: then everything stays.
func (u *Upstream) tidy(now time.Time) {
	u.versions.mu.Lock()
	answers := u.versions.err == nil && !u.versions.seen(now).stale
	u.versions.mu.Unlock()
	if since := now.Sub(u.tidied); !answers || since >= 0 && since < tidyEvery {
		return
	}
	u.tidied = now
	type kept struct {
		keeper
		used time.Time
		size int64
	}
	var all []kept
	u.mu.Lock()
	for _, d := range u.cores {
		all = append(all, kept{keeper: d})
	}
	for _, d := range u.archs {
		all = append(all, kept{keeper: d})
	}
	for _, d := range u.devices.files {
		all = append(all, kept{keeper: d})
	}
	u.mu.Unlock()
	var total int64
	for i := range all {
		all[i].used, all[i].size = all[i].lastUse()
		total += all[i].size
	}
	slices.SortFunc(all, func(a, b kept) int { return a.used.Compare(b.used) })
	for _, k := range all {
		if k.size > 0 && (now.Sub(k.used) > dropAfter || total > u.maxKept) {
			k.shed()
			total -= k.size
		}
	}
}

// Close ends background work and waits for it.
func (u *Upstream) Close() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.cancel()
	u.wg.Wait()
	u.client.CloseIdleConnections()
	return nil
}

// spawn runs f in the background; it is false once u is closed.
func (u *Upstream) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.wg.Go(f)
	return true
}

// touch notes that a document is in use and drops those that are not.
func (u *Upstream) touch(key string, d droppable) {
	if u.recent.Contains(key) {
		u.recent.Get(key)
		return
	}
	if u.recent.Len() >= documentsInMemory {
		if _, old, ok := u.recent.RemoveOldest(); ok {
			old.drop()
		}
	}
	u.recent.Add(key, d)
}

// wait bounds how long a caller is held up.
func (u *Upstream) wait(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, u.o.RequestWait)
}

// unavailable is the answer where nothing usable is held yet.
func unavailable(what string, err error) *imagebuilder.Error {
	why := "could not be fetched from the download server"
	switch {
	case errors.Is(err, errPending):
		why = "is still being fetched from the download server"
	case errors.Is(err, errNoSums):
		why = "cannot be verified, as the download server publishes no sha256sums for it"
	case errors.Is(err, errUnsigned):
		why = "is not signed by a key that this server trusts"
	case errors.Is(err, ErrBadSignature):
		why = "has a wrong signature on the download server"
	case errors.Is(err, errMismatch):
		why = "is only half published on the download server"
	case errors.Is(err, errLocal):
		return imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable,
			"The server has no usable data on %s: its operator's own ImageBuilder cannot be read. Please tell the server's operator.", what).WithCause(err)
	case errors.Is(err, errAbsent):
		why = "is not on the download server"
	case errors.Is(err, errClosed):
		return imagebuilder.Errorf(imagebuilder.CodeStopping, "The server is stopping. Please try again in a minute.").WithCause(err)
	}
	return imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable,
		"The server has no usable data on %s: it %s. Please try again in a minute.", what, why).WithCause(err)
}

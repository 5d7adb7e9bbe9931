package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"attendant/imagebuilder/feeds"
)

// defaultIndexMemory is what parsed indexes may take in memory, in bytes,
// where Options do not say: a Raspberry Pi has 1 GB.
const defaultIndexMemory = 48 << 20

// Feed is one package feed as an ImageBuilder's list of feeds has it.
type Feed struct {
	Name string // as "openwrt_base"; may be ""
	Path string // upstream path of its folder
}

// FeedList is the package manager's own list of a feed as it is held: files
// that must not be changed, and that stay at least until the generation is
// replaced.
type FeedList struct {
	Name      string // "Packages.gz", "Packages" or "packages.adb"
	File      string // absolute path
	Signature string // absolute path of Packages.sig, "" for none
}

// Feeds are the target's feeds in the order in which ImageBuilders list them
// (openwrt/openwrt include/feeds.mk): the target's own packages, base, its
// kernel's modules, then the architecture's others by name.
func (t *Target) Feeds() []Feed {
	var all []Feed
	for i, l := range t.core.lists {
		if l != nil {
			all = append(all, Feed{Name: [2]string{"core", "kmods"}[i], Path: l.folder})
		}
	}
	at := min(1, len(all))
	others := slices.DeleteFunc(slices.Clone(t.arch.lists), func(l *packageList) bool { return l == nil })
	slices.SortFunc(others, func(a, b *packageList) int { return strings.Compare(a.folder, b.folder) })
	for _, l := range others {
		f := Feed{Name: path.Base(l.folder), Path: l.folder}
		if f.Name == "base" {
			all = slices.Insert(all, at, f)
			continue
		}
		all = append(all, f)
	}
	return all
}

// Universe is all packages of the generation; nil where upstream does not
// have the package manager's own lists of all feeds, or what is held of them
// cannot be read. It is shared: the first call for a generation parses, later
// ones find it in memory unless others have displaced it.
func (t *Target) Universe() *feeds.Universe {
	if !t.core.listed || !t.arch.listed {
		return nil
	}
	universe, _ := t.UniverseOf(t.Feeds())
	return universe
}

// UniverseOf is Universe with the feeds of an ImageBuilder's own list, which
// are returned as well. Both are nil also when one of them is not in the
// generation.
func (t *Target) UniverseOf(list []Feed) (*feeds.Universe, []feeds.Feed) {
	lists := make([]*packageList, 0, len(list))
	for _, f := range list {
		l := t.list(f.Path)
		if l == nil || len(lists) > 0 && l.manager() != lists[0].manager() {
			return nil, nil
		}
		lists = append(lists, l)
	}
	if len(lists) == 0 {
		return nil, nil
	}
	p, err := t.u.universes.get(t, list, lists)
	if errors.Is(err, fs.ErrNotExist) { // they may be on their way to the disk
		t.kept()
		p, err = t.u.universes.get(t, list, lists)
	}
	if err != nil {
		t.u.o.Log.Warn("the packages of a target cannot be read", "version", t.Version, "target", t.Name, "error", err)
		return nil, nil
	}
	return p.universe, p.feeds
}

// HasFeed tells whether the feed at an upstream path is in the generation.
func (t *Target) HasFeed(folder string) bool { return t.list(folder) != nil }

// list finds the list of the folder at an upstream path, nil if there is none
// in the generation.
func (t *Target) list(folder string) *packageList {
	for _, lists := range [][]*packageList{t.core.lists, t.arch.lists} {
		for _, l := range lists {
			if l != nil && l.folder == folder {
				return l
			}
		}
	}
	return nil
}

// FeedList returns the list of the feed at an upstream path, checked: memory
// cards lose bits. The error says that it is not held (any more).
func (t *Target) FeedList(folder string) (FeedList, error) {
	l := t.list(folder)
	if l == nil {
		return FeedList{}, fmt.Errorf("%s: %w", folder, errNotHeld)
	}
	held := FeedList{Name: l.name, File: t.u.state.blobName(l.sum)}
	if err := t.readable(l.sum); err != nil {
		return FeedList{}, fmt.Errorf("%s/%s: %w: %w", folder, l.name, errNotHeld, err)
	}
	if l.signature != "" {
		held.Signature = t.u.state.blobName(l.signature)
		if err := t.readable(l.signature); err != nil {
			return FeedList{}, fmt.Errorf("%s/Packages.sig: %w: %w", folder, errNotHeld, err)
		}
	}
	return held, nil
}

func (t *Target) readable(sum string) error {
	_, err := t.u.state.blob(sum)
	if errors.Is(err, fs.ErrNotExist) {
		t.kept()
		_, err = t.u.state.blob(sum)
	}
	return err
}

// PackageFile is a package of the feed at an upstream path, to be fetched.
func (t *Target) PackageFile(folder string, p *feeds.Package) PackageFile {
	name := packageFileName(p)
	f := PackageFile{URL: t.u.o.URL + "/" + folder + "/" + url.PathEscape(name), Package: p}
	if p.SHA256 != "" {
		return f
	}
	for base, sums := range t.sums() {
		if rest, ok := strings.CutPrefix(folder, base+"/"); ok {
			f.SHA256 = sums[rest+"/"+name]
		}
	}
	return f
}

// sums are the sha256sums of the target's folder and of the architecture's,
// by these folders.
func (t *Target) sums() map[string]Sums {
	t.sumsOnce.Do(func() {
		t.sumsRead = map[string]Sums{}
		for base, blob := range map[string]string{t.Path + "/targets/" + t.Name: t.core.sums, t.Path + "/packages/" + t.Arch: t.arch.sums} {
			if blob == "" || t.readable(blob) != nil {
				continue
			}
			if data, err := t.u.state.blob(blob); err == nil {
				if sums, err := ParseSums(data); err == nil {
					t.sumsRead[base] = sums
				}
			}
		}
	})
	return t.sumsRead
}

// universes are the parsed indexes and what is made of them, those used last,
// up to a number of bytes in memory.
type universes struct {
	limit int64

	mu      sync.Mutex
	lru     *simplelru.LRU[string, *parsed]
	cost    int64
	flights map[string]chan struct{} // closed when the parsing of a list ends
}

// parsed is an index, by its list's sum, or a universe, by the names and sums
// of its feeds.
type parsed struct {
	index    *feeds.Index
	universe *feeds.Universe
	feeds    []feeds.Feed // of a universe
	of       []string     // sums of their lists
	cost     int64        // bytes, of a universe without its indexes
}

func newUniverses(limit int64) *universes {
	x := &universes{limit: cmp.Or(limit, defaultIndexMemory), flights: map[string]chan struct{}{}}
	lru, err := simplelru.NewLRU(math.MaxInt32, func(_ string, p *parsed) { x.cost -= p.cost })
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	x.lru = lru
	return x
}

func (x *universes) get(t *Target, list []Feed, lists []*packageList) (*parsed, error) {
	key := "universe " + t.Arch
	for i, l := range lists {
		key += "\n" + list[i].Name + " " + l.folder + " " + l.sum
	}
	x.mu.Lock()
	p, ok := x.lru.Get(key)
	x.mu.Unlock()
	if ok {
		return p, nil
	}
	made := &parsed{feeds: make([]feeds.Feed, len(lists))}
	for i, l := range lists {
		index, err := x.index(t.u.state, l)
		if err != nil {
			return nil, err
		}
		made.feeds[i] = feeds.Feed{Name: list[i].Name, Path: l.folder, Index: index}
		made.of = append(made.of, l.sum)
	}
	made.universe = feeds.NewUniverse(lists[0].manager(), t.Arch, made.feeds)
	made.cost = made.universe.Memory()
	x.mu.Lock()
	defer x.mu.Unlock()
	if p, ok := x.lru.Get(key); ok {
		return p, nil
	}
	x.add(key, made)
	return made, nil
}

// index parses a list once for all who want it at the same time.
func (x *universes) index(st *state, l *packageList) (*feeds.Index, error) {
	for {
		x.mu.Lock()
		if p, ok := x.lru.Get(l.sum); ok {
			x.mu.Unlock()
			return p.index, nil
		}
		flight := x.flights[l.sum]
		if flight != nil {
			x.mu.Unlock()
			<-flight
			continue
		}
		flight = make(chan struct{})
		x.flights[l.sum] = flight
		x.mu.Unlock()

		index, err := st.parse(l)
		x.mu.Lock()
		delete(x.flights, l.sum)
		close(flight)
		if err != nil {
			x.mu.Unlock()
			return nil, fmt.Errorf("%s/%s: %w", l.folder, l.name, err)
		}
		p := &parsed{index: index, cost: index.Memory()}
		x.add(l.sum, p)
		x.mu.Unlock()
		return p.index, nil
	}
}

func (s *state) parse(l *packageList) (*feeds.Index, error) {
	data, err := s.blob(l.sum)
	if err != nil {
		return nil, err
	}
	return l.parse(data)
}

// add keeps p and drops what was used longest ago. A universe goes with the
// first of its indexes, which it would hold in memory. x.mu is held.
func (x *universes) add(key string, p *parsed) {
	x.lru.Add(key, p)
	x.cost += p.cost
	for x.cost > x.limit && x.lru.Len() > 1 {
		gone, old, _ := x.lru.RemoveOldest()
		if old.index == nil {
			continue
		}
		for _, key := range x.lru.Keys() {
			if p, ok := x.lru.Peek(key); ok && slices.Contains(p.of, gone) {
				x.lru.Remove(key)
			}
		}
	}
}

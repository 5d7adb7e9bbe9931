package upstream

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// DocumentState is how one part of upstream's data is held: the list of
// versions, a release's targets, a target, an architecture's packages.
type DocumentState struct {
	Name    string    // "versions", "targets releases/24.10.4", "target 24.10.4 ath79/generic", "packages 24.10.4 mips_24kc"
	Checked time.Time // when upstream last confirmed it; zero for never
	Used    time.Time // when somebody last asked for it; zero where that is not kept
	Stale   bool      // upstream has not confirmed it lately
	Absent  bool      // upstream has none, and none is held
	Bytes   int64     // on disk
	Err     error     // of the last try; nil after a good one
}

// surveyed is a document of any type.
type surveyed interface {
	state(now time.Time) DocumentState
	demand(now time.Time) bool
	launch()
}

// survey returns all documents but the overview, which is made of others.
func (u *Upstream) survey() (lists, others []surveyed) {
	lists = []surveyed{u.versions}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, d := range u.lists {
		lists = append(lists, d)
	}
	for _, d := range u.cores {
		others = append(others, d)
	}
	for _, d := range u.archs {
		others = append(others, d)
	}
	return lists, others
}

// Documents tells how old upstream's data is, part by part, by their names.
// It waits for nothing.
func (u *Upstream) Documents() []DocumentState {
	now := u.o.Now()
	lists, others := u.survey()
	states := make([]DocumentState, 0, len(lists)+len(others))
	for _, d := range append(lists, others...) {
		states = append(states, d.state(now))
	}
	slices.SortFunc(states, func(a, b DocumentState) int { return cmp.Compare(a.Name, b.Name) })
	return states
}

// Freshness tells when upstream last confirmed its list of versions, zero for
// never, and whether that is too long ago. It waits for nothing.
func (u *Upstream) Freshness() (checked time.Time, stale bool) {
	s := u.versions.state(u.o.Now())
	return s.Checked, s.Stale
}

// Sync has upstream asked anew for all data in use, due or not and whatever
// went wrong before, and returns how many documents that concerns. It does not
// wait. What is being asked for already is not asked for twice.
func (u *Upstream) Sync() int {
	now := u.o.Now()
	lists, others := u.survey()
	asked := 0
	for _, d := range lists { // the overview's flight renews them
		if d.demand(now) {
			asked++
		}
	}
	u.overview.demand(now)
	u.overview.launch()
	for _, d := range others {
		if d.demand(now) {
			asked++
			d.launch()
		}
	}
	return asked
}

// TrustedKeys is the number of keys whose signatures are trusted.
func (u *Upstream) TrustedKeys() int { return len(u.keys) }

// BuilderUsage tells what the unpacked ImageBuilders take and may take, in
// bytes; a budget of 0 is none but the disk's.
func (u *Upstream) BuilderUsage() (used, budget int64) {
	u.builders.mu.Lock()
	defer u.builders.mu.Unlock()
	return u.builders.usage(), u.o.BuilderBudget
}

func (d *document[T]) state(now time.Time) DocumentState {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := DocumentState{Name: documentName(d.key), Checked: d.checked, Used: d.used, Stale: d.seen(now).stale, Err: d.err,
		Absent: d.rec == nil && d.value == nil && errors.Is(d.err, errAbsent)}
	if d.rec != nil {
		s.Bytes = d.rec.size()
	}
	return s
}

// demand has the next flight ask upstream, whatever the times say. It is false
// for a document that nobody uses, and for one that is being asked for.
func (d *document[T]) demand(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flight != nil || !d.used.IsZero() && now.Sub(d.used) > unusedAfter {
		return false
	}
	d.forced, d.next = true, time.Time{}
	return true
}

// launch starts a flight unless there is one.
func (d *document[T]) launch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flight == nil {
		d.start()
	}
}

// documentName is a document's key as people read it.
func documentName(key string) string {
	kind, rest, _ := strings.Cut(key, " ")
	var parts struct{ Version, Target, Arch string }
	if json.Unmarshal([]byte(rest), &parts) != nil {
		return key
	}
	return kind + " " + parts.Version + " " + cmp.Or(parts.Target, parts.Arch)
}

package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"attendant/imagebuilder"
)

// Event is one of the things that are counted per day, with the meaning that
// openwrt/asu asu/util.py gives them.
type Event int

// The events. Every call of the build API is a request; it is a hit when a
// finished build answers it and a miss when it leads to a new build; every new
// build ends as a success or a failure.
const (
	Requests Event = iota
	CacheHits
	CacheMisses
	Successes
	Failures
	// SavedMilliseconds is the time that builds would have taken which a
	// finished one made unnecessary.
	SavedMilliseconds
	eventCount
)

// Bounds of the statistics. What comes beyond them is counted under Other or
// displaces what is least.
const (
	keptDays      = 26*7 + 8 // days with counters
	maxVersions   = 64       // different versions counted in a day
	maxBranches   = 16       // different branches counted in a period
	maxPackages   = 500      // different packages counted of a branch in a period
	periodDays    = 10       // a period of package counts
	keptPeriods   = 4        // cover the last 30 days
	errorLines    = 5000     // build errors kept
	maxErrorText  = 200      // bytes of a build error's sentence
	unsavedErrors = 500      // build errors held in memory until the next saving
)

// Other stands for the versions and branches beyond those counted by name.
const Other = "other"

// Statistics counts what the server does, in memory; DB.Run saves it now and
// then. Its space is bounded, and it holds no hashes and no addresses. Its
// methods may be called concurrently.
type Statistics struct {
	db *DB

	mu       sync.Mutex
	days     map[int64]*dayCounts // by days since 1970 (UTC)
	hours    map[int64]int64      // successes by hours since 1970
	packages map[periodKey]map[string]int64
	dirty    map[string]bool // database keys to save or to delete
	errors   []string        // not saved yet, oldest first
	saving   []string        // being saved, before errors

	saveMu sync.Mutex // held while saving; before mu
}

type dayCounts struct {
	Events   [eventCount]int64 `json:"events"`
	Versions map[string]int64  `json:"versions,omitempty"` // finished builds
}

type periodKey struct {
	period int64
	branch string
}

func dayKey(day int64) string { return "day/" + strconv.FormatInt(day, 10) }

func (k periodKey) String() string {
	return "packages/" + strconv.FormatInt(k.period, 10) + "/" + k.branch
}

const hoursKey = "hours"

// Statistics returns the database's statistics.
func (db *DB) Statistics() *Statistics { return db.stats }

// Run saves the statistics now and then until ctx ends. Close saves what
// remains.
func (db *DB) Run(ctx context.Context) {
	ticker := time.NewTicker(db.o.SaveInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := db.stats.Save(); err != nil {
				db.o.Log.Error("statistics could not be saved; they are kept in memory", "error", err)
			}
		}
	}
}

func loadStatistics(db *DB) (*Statistics, error) {
	s := &Statistics{
		db:       db,
		days:     map[int64]*dayCounts{},
		hours:    map[int64]int64{},
		packages: map[periodKey]map[string]int64{},
		dirty:    map[string]bool{},
	}
	err := db.bolt.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketStats).ForEach(func(k, v []byte) error {
			if err := s.decode(string(k), v); err != nil {
				return fmt.Errorf("statistics %q: %w", k, err)
			}
			return nil
		})
	})
	return s, err
}

func (s *Statistics) decode(key string, v []byte) error {
	if key == hoursKey {
		return json.Unmarshal(v, &s.hours)
	}
	kind, rest, _ := strings.Cut(key, "/")
	switch kind {
	case "day":
		day, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return err
		}
		d := new(dayCounts)
		s.days[day] = d
		return json.Unmarshal(v, d)
	case "packages":
		number, branch, _ := strings.Cut(rest, "/")
		period, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return err
		}
		counts := map[string]int64{}
		s.packages[periodKey{period, branch}] = counts
		return json.Unmarshal(v, &counts)
	}
	return fmt.Errorf("of an unknown kind")
}

func (s *Statistics) encode(key string) ([]byte, error) {
	if key == hoursKey {
		return json.Marshal(s.hours)
	}
	kind, rest, _ := strings.Cut(key, "/")
	number, branch, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return nil, err
	}
	if kind == "day" {
		if d := s.days[n]; d != nil {
			return json.Marshal(d)
		}
		return nil, nil
	}
	if counts := s.packages[periodKey{n, branch}]; counts != nil {
		return json.Marshal(counts)
	}
	return nil, nil
}

const daySeconds = 24 * 60 * 60

func (s *Statistics) today() int64 { return floorDiv(s.db.o.Now().Unix(), daySeconds) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// day returns today's counters, and makes room for them by dropping the
// oldest: by number of days, not by age, so that a clock that is wrong for a
// while takes nothing away.
func (s *Statistics) day() *dayCounts {
	today := s.today()
	d := s.days[today]
	if d == nil {
		d = new(dayCounts)
		s.days[today] = d
		for len(s.days) > keptDays {
			oldest := today
			for day := range s.days {
				oldest = min(oldest, day)
			}
			delete(s.days, oldest)
			s.dirty[dayKey(oldest)] = true
		}
	}
	s.dirty[dayKey(today)] = true
	return d
}

// Count counts an event.
func (s *Statistics) Count(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(e)
}

// Hit counts a request that a finished build answered, and the time that
// building anew would have taken.
func (s *Statistics) Hit(saved time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(CacheHits)
	s.day().Events[SavedMilliseconds] += max(0, saved.Milliseconds())
}

func (s *Statistics) count(e Event) {
	s.day().Events[e]++
	if e != Successes {
		return
	}
	hour := floorDiv(s.db.o.Now().Unix(), 60*60)
	s.hours[hour]++
	for len(s.hours) > 25 {
		oldest := hour
		for h := range s.hours {
			oldest = min(oldest, h)
		}
		delete(s.hours, oldest)
	}
	s.dirty[hoursKey] = true
}

// Built counts a successful build of a version with the packages that were
// asked for. Removals ("-name") are not counted.
func (s *Statistics) Built(version string, packages []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(Successes)

	d := s.day()
	if d.Versions == nil {
		d.Versions = map[string]int64{}
	}
	counted := version
	if _, known := d.Versions[version]; !known && len(d.Versions) >= maxVersions {
		counted = Other
	}
	d.Versions[counted]++

	period := floorDiv(s.today(), periodDays)
	key := periodKey{period, imagebuilder.Branch(version)}
	counts := s.packages[key]
	if counts == nil {
		branches := 0
		for k := range s.packages {
			if k.period == period {
				branches++
			}
		}
		if branches >= maxBranches {
			key.branch = Other
			counts = s.packages[key]
		}
	}
	if counts == nil {
		counts = map[string]int64{}
		s.packages[key] = counts
		s.dropPeriods()
		if s.packages[key] == nil {
			return
		}
	}
	for _, name := range packages {
		if name == "" || name[0] == '-' || len(name) > 128 {
			continue
		}
		addBounded(counts, name)
	}
	s.dirty[key.String()] = true
}

// addBounded counts name. When there are too many, it takes the place and the
// count of the rarest, so that what is frequent stays in (the "space-saving"
// scheme of Metwally, Agrawal and El Abbadi).
func addBounded(counts map[string]int64, name string) {
	if _, known := counts[name]; !known && len(counts) >= maxPackages {
		var rarest string
		least := int64(-1)
		for n, c := range counts {
			if least < 0 || c < least || c == least && n > rarest {
				rarest, least = n, c
			}
		}
		delete(counts, rarest)
		counts[name] = least
	}
	counts[name]++
}

func (s *Statistics) dropPeriods() {
	periods := map[int64]bool{}
	for k := range s.packages {
		periods[k.period] = true
	}
	sorted := slices.Sorted(maps.Keys(periods))
	for len(sorted) > keptPeriods {
		for k := range s.packages {
			if k.period == sorted[0] {
				delete(s.packages, k)
				s.dirty[k.String()] = true
			}
		}
		sorted = sorted[1:]
	}
}

// BuildFailed counts a failed build and notes why, as
// "2026-01-31 12:00:00 24.10.4:ath79/generic:tplink_archer-c7-v5 sentence"
// (openwrt/asu asu/util.py, ErrorLog). Request hashes in the sentence are
// left out: who knows one can fetch the image.
func (s *Statistics) BuildFailed(version, target, profile, sentence string) {
	line := fmt.Sprintf("%s %.64s:%.64s:%.64s %s",
		s.db.o.Now().UTC().Format("2006-01-02 15:04:05"), oneLine(version), oneLine(target), oneLine(profile), cutText(withoutHashes(oneLine(sentence)), maxErrorText))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(Failures)
	if len(s.errors) >= unsavedErrors {
		s.errors = slices.Delete(s.errors, 0, 1)
	}
	s.errors = append(s.errors, line)
}

// oneLine joins the words of s with single spaces and replaces what is not
// printable.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}

func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

func withoutHashes(s string) string {
	isHex := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
	var b strings.Builder
	for i := 0; i < len(s); {
		end := i
		for end < len(s) && isHex(s[end]) {
			end++
		}
		switch {
		case end-i >= 64:
			b.WriteString("[hash]")
		case end == i:
			end++
			b.WriteString(s[i:end])
		default:
			b.WriteString(s[i:end])
		}
		i = end
	}
	return b.String()
}

// Day is one UTC day's counters.
type Day struct {
	Date   time.Time // midnight, UTC
	Counts [eventCount]int64
}

// Count returns the number of an event on that day.
func (d Day) Count(e Event) int64 { return d.Counts[e] }

// Days returns the last n days, oldest first; the last is today.
func (s *Statistics) Days(n int) []Day {
	s.mu.Lock()
	defer s.mu.Unlock()
	today := s.today()
	days := make([]Day, n)
	for i := range days {
		day := today - int64(n-1-i)
		days[i].Date = time.Unix(day*daySeconds, 0).UTC()
		if d := s.days[day]; d != nil {
			days[i].Counts = d.Events
		}
	}
	return days
}

// Successes24h returns how many builds succeeded in the last 24 hours, to the
// hour.
func (s *Statistics) Successes24h() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	hour := floorDiv(s.db.o.Now().Unix(), 60*60)
	var n int64
	for h, count := range s.hours {
		if h > hour-24 && h <= hour {
			n += count
		}
	}
	return n
}

// Versions returns the successful builds of each version in the last n spans
// of 7 days, oldest first; the last span ends with today. At most 26 spans
// are kept. starts are the first days (midnight, UTC).
func (s *Statistics) Versions(n int) (starts []time.Time, counts map[string][]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.today() + 1 - int64(7*n)
	starts = make([]time.Time, n)
	for i := range starts {
		starts[i] = time.Unix((first+int64(7*i))*daySeconds, 0).UTC()
	}
	counts = map[string][]int64{}
	for day, d := range s.days {
		if day < first || day > s.today() {
			continue
		}
		for version, c := range d.Versions {
			if counts[version] == nil {
				counts[version] = make([]int64, n)
			}
			counts[version][(day-first)/7] += c
		}
	}
	return starts, counts
}

// PackageCount is how often a package was built in.
type PackageCount struct {
	Name  string
	Count int64
}

// TopPackages returns the n most frequent packages of a branch, or of all
// branches together when branch is "", over the last 30 to 40 days.
func (s *Statistics) TopPackages(branch string, n int) []PackageCount {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := floorDiv(s.today(), periodDays) - keptPeriods + 1
	sums := map[string]int64{}
	for k, counts := range s.packages {
		if k.period < oldest || branch != "" && k.branch != branch {
			continue
		}
		for name, c := range counts {
			sums[name] += c
		}
	}
	top := make([]PackageCount, 0, len(sums))
	for name, c := range sums {
		top = append(top, PackageCount{name, c})
	}
	slices.SortFunc(top, func(a, b PackageCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	return top[:min(max(n, 0), len(top))]
}

// BuildErrors returns the last n lines noted by BuildFailed, newest first; at
// most 5000 are kept.
func (s *Statistics) BuildErrors(n int) ([]string, error) {
	s.mu.Lock()
	unsaved := slices.Concat(s.saving, s.errors)
	s.mu.Unlock()
	var lines []string
	for _, line := range slices.Backward(unsaved) {
		if len(lines) >= n {
			return lines, nil
		}
		lines = append(lines, line)
	}
	err := s.db.bolt.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketErrors).Cursor()
		for k, v := c.Last(); k != nil && len(lines) < n; k, v = c.Prev() {
			lines = append(lines, string(v))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading build errors: %w", err)
	}
	return lines, nil
}

// Save writes what has changed since the last time. Nothing changed, nothing
// written. Counting goes on meanwhile.
func (s *Statistics) Save() error {
	s.saveMu.Lock()
	defer s.saveMu.Unlock()
	values, lines, err := s.takeDirty()
	if err != nil || len(values)+len(lines) == 0 {
		return err
	}
	err = s.db.update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketStats)
		for key, v := range values {
			var err error
			if v == nil {
				err = bucket.Delete([]byte(key))
			} else {
				err = bucket.Put([]byte(key), v)
			}
			if err != nil {
				return err
			}
		}
		return appendErrors(tx, lines)
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	s.saving = nil
	if err != nil {
		for key := range values {
			s.dirty[key] = true
		}
		lines = slices.Concat(lines, s.errors)
		s.errors = lines[max(0, len(lines)-unsavedErrors):]
		return fmt.Errorf("saving statistics: %w", err)
	}
	return nil
}

// takeDirty returns what is to be saved: values by database key, nil to
// delete, and lines of build errors.
func (s *Statistics) takeDirty() (map[string][]byte, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	values := make(map[string][]byte, len(s.dirty))
	for key := range s.dirty {
		v, err := s.encode(key)
		if err != nil {
			return nil, nil, fmt.Errorf("saving statistics %q: %w", key, err)
		}
		values[key] = v
	}
	clear(s.dirty)
	s.saving, s.errors = s.errors, nil
	return values, s.saving, nil
}

func appendErrors(tx *bolt.Tx, lines []string) error {
	bucket := tx.Bucket(bucketErrors)
	for _, line := range lines {
		n, err := bucket.NextSequence()
		if err != nil {
			return err
		}
		if err := bucket.Put(seqKey(n), []byte(line)); err != nil {
			return err
		}
	}
	for last := bucket.Sequence(); last > errorLines; {
		k, _ := bucket.Cursor().First()
		if k == nil || binary.BigEndian.Uint64(k) > last-errorLines {
			return nil
		}
		if err := bucket.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

package upstream

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"attendant/imagebuilder"
)

// Devices are the devices of releases, ready to be searched. They are never
// changed once handed out.
type Devices struct {
	versions []string // whose devices are known
	devices  []Device // by brand and model
	version  string   // "" for all

	words   []string // every word of every device, sorted
	rows    []deviceWords
	folded  []string // per device: its names without anything but letters and digits
	ordered []string // per device: what it is sorted by
}

// deviceWords are the places in Devices.words of a device's words.
type deviceWords struct {
	brand, title, other []int32
}

// Versions are the releases whose devices are known, newest first.
func (t *Devices) Versions() []string { return t.versions }

// only is the view of one version.
func (t *Devices) only(version string) *Devices {
	view := *t
	view.version = version
	return &view
}

// split takes a name apart into words: letters and digits in lower case.
// A device may be called TP-LINK or TP-Link, tplink_archer or Archer.
func split(name string) []string {
	return strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// compact is name without anything but letters and digits.
func compact(name string) string { return strings.Join(split(name), "") }

// prepare sorts the devices and notes their words.
func (t *Devices) prepare() {
	type row struct {
		device Device
		key    string
	}
	rows := make([]row, len(t.devices))
	for i, d := range t.devices {
		rows[i] = row{d, naturalKey(d.Title()) + "\x00" + d.Target + "\x00" + d.Profile}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.key, b.key) })
	number := map[string]int32{}
	var all []string
	note := func(list []int32, words ...string) []int32 {
		for _, w := range words {
			n, known := number[w]
			if !known {
				n = int32(len(all)) //nolint:gosec // bounded by maxProfiles and MaxNameLength
				number[w] = n
				all = append(all, w)
			}
			if !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
		return list
	}
	t.rows, t.folded, t.ordered = make([]deviceWords, len(rows)), make([]string, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		t.devices[i], t.ordered[i] = r.device, r.key
		w := &t.rows[i]
		names := []string{}
		for _, title := range r.device.Titles {
			full := title.String()
			names = append(names, compact(full))
			brand := brandOf(title)
			w.brand = note(w.brand, split(brand)...)
			w.brand = note(w.brand, compact(brand))
			w.title = note(w.title, split(strings.TrimPrefix(full, brand))...)
		}
		names = append(names, compact(r.device.Profile))
		w.other = note(w.other, split(r.device.Profile)...)
		for _, alias := range r.device.Aliases {
			names = append(names, compact(alias))
			w.other = note(w.other, split(alias)...)
		}
		t.folded[i] = strings.Join(names, "\n")
	}
	t.words = all
}

// brandOf is a title's vendor, or its first word.
func brandOf(title imagebuilder.Title) string {
	if title.Vendor != "" && title.Title == "" {
		return title.Vendor
	}
	first, _, _ := strings.Cut(title.String(), " ")
	return first
}

// naturalKey sorts names as people do: without regard to case, and v2 before
// v10.
func naturalKey(name string) string {
	var key strings.Builder
	digits := 0
	flush := func(s string) {
		if len(s) < 8 {
			key.WriteString(strings.Repeat("0", 8-len(s)))
		}
		key.WriteString(s)
	}
	lower := strings.ToLower(name)
	for i := 0; i < len(lower); i++ {
		if lower[i] >= '0' && lower[i] <= '9' {
			digits++
			continue
		}
		if digits > 0 {
			flush(lower[i-digits : i])
			digits = 0
		}
		key.WriteByte(lower[i])
	}
	if digits > 0 {
		flush(lower[len(lower)-digits:])
	}
	return key.String()
}

// Bounds of a search.
const (
	maxQuery      = 128 // bytes that are looked at
	maxQueryWords = 8
)

// Search finds devices by words of their titles, ids and board names, in any
// order, with small mistakes forgiven; an empty text finds all. target, if not
// "", must be the device's, and one of its releases offered, if not nil. It
// returns how many there are, and those from offset on, at most limit: the
// likeliest first, a hit in the brand before others, then by brand and model.
func (t *Devices) Search(text, target string, offered func(version string) bool, offset, limit int) (total int, found []Device) {
	counts := make(map[string]bool, len(t.versions))
	for _, v := range t.versions {
		counts[v] = (t.version == "" || t.version == v) && (offered == nil || offered(v))
	}
	if len(text) > maxQuery {
		text = text[:maxQuery]
	}
	query := split(text)
	query = query[:min(len(query), maxQueryWords)]
	scores := make([][]int16, len(query))
	for i, q := range query {
		scores[i] = t.score(q)
	}
	whole := strings.Join(query, "")
	type hit struct{ device, score int }
	var hits []hit
	for i := range t.devices {
		d := &t.devices[i]
		if target != "" && d.Target != target || !slices.ContainsFunc(d.Versions, func(v string) bool { return counts[v] }) {
			continue
		}
		score := 0
		if len(query) > 0 {
			if score = t.rate(i, scores, whole); score == 0 {
				continue
			}
		}
		hits = append(hits, hit{i, score})
	}
	// The devices are in order already: only the score moves them.
	slices.SortStableFunc(hits, func(a, b hit) int { return b.score - a.score })
	total = len(hits)
	hits = hits[min(max(offset, 0), total):]
	hits = hits[:min(max(limit, 0), len(hits))]
	found = make([]Device, len(hits))
	for i, h := range hits {
		found[i] = t.devices[h.device]
		found[i].Versions = slices.DeleteFunc(slices.Clone(found[i].Versions), func(v string) bool { return offered != nil && !offered(v) })
	}
	return total, found
}

// Marks for how well a word of the query fits a device's word.
const (
	markWord     = 100
	markBegin    = 70
	markInside   = 40
	markTypo     = 30
	markBrand    = 25 // extra, for a hit in the brand
	markTitle    = 10 // extra, for a hit in the rest of the title
	markRunOn    = 45 // for the query written as one word within a name
	markFullName = 60 // extra, for a name that is the query and nothing else
)

// score rates every word against one word of a query.
func (t *Devices) score(q string) []int16 {
	marks := make([]int16, len(t.words))
	allowed := typosAllowed(q)
	for i, w := range t.words {
		switch {
		case w == q:
			marks[i] = markWord
		case strings.HasPrefix(w, q):
			marks[i] = markBegin
		case len(q) > 1 && strings.Contains(w, q):
			marks[i] = markInside
		case allowed > 0 && sameDigits(w, q):
			if n := typos(q, w, allowed); n <= allowed {
				marks[i] = int16(markTypo / n) //nolint:gosec // small
			}
		}
	}
	return marks
}

// typosAllowed is how many mistakes a word may have.
func typosAllowed(q string) int {
	switch n := len([]rune(q)); {
	case n < 4:
		return 0
	case n < 8:
		return 1
	}
	return 2
}

// sameDigits keeps model numbers apart: WDR3600 is no mistake for WDR4300.
func sameDigits(a, b string) bool {
	next := func(s string, i int) int {
		for i < len(s) && (s[i] < '0' || s[i] > '9') {
			i++
		}
		return i
	}
	i, j := 0, 0
	for {
		i, j = next(a, i), next(b, j)
		if i == len(a) || j == len(b) {
			return i == len(a) && j == len(b)
		}
		if a[i] != b[j] {
			return false
		}
		i++
		j++
	}
}

// rate is how well a device fits a query: 0 does not.
func (t *Devices) rate(i int, scores [][]int16, whole string) int {
	w := &t.rows[i]
	sum := 0
	for _, marks := range scores {
		best := max(bestOf(marks, w.brand, markBrand), bestOf(marks, w.title, markTitle), bestOf(marks, w.other, 0))
		if best == 0 {
			sum = 0
			break
		}
		sum += best
	}
	if sum > 0 {
		sum /= len(scores)
	}
	if len(whole) > 2 && strings.Contains(t.folded[i], whole) {
		sum = max(sum, markRunOn)
		for name := range strings.SplitSeq(t.folded[i], "\n") {
			if name == whole {
				sum += markFullName
				break
			}
		}
	}
	return sum
}

func bestOf(marks []int16, words []int32, extra int) int {
	best := 0
	for _, w := range words {
		if m := int(marks[w]); m > 0 && m+extra > best {
			best = m + extra
		}
	}
	return best
}

// typos is how many letters must be changed, left out, put in or swapped with
// their neighbour to make a of b; more than limit counts as limit+1.
func typos(a, b string, limit int) int {
	x, y := []rune(a), []rune(b)
	if d := len(x) - len(y); d > limit || -d > limit {
		return limit + 1
	}
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		least := row[0]
		for j := 1; j <= len(y); j++ {
			change := last[j-1] + btoi(x[i-1] != y[j-1])
			row[j] = min(last[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least > limit {
			return limit + 1
		}
		before, last, row = last, row, before
	}
	return min(last[len(y)], limit+1)
}

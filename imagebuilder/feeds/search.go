package feeds

import (
	"cmp"
	"slices"
	"strings"
)

// maxQuery bounds a search, in bytes.
const maxQuery = 128

// How well a package fits a search: better ones first.
const (
	fitExact = iota
	fitPrefix
	fitWord
	fitSubstring
	fitDescription
	fitNone
)

// Search returns the packages whose name or description has all words of the
// query, and how many there are. Those called so come first, then those whose
// name begins with it, has a word that does, has it anywhere, and last those
// with it only in the description; within each by name. An empty query finds
// all. Of a package with several versions the newest is found. hits are at
// most limit, from the one at offset on.
func (u *Universe) Search(query string, offset, limit int) (hits []Selected, total int) {
	if len(query) > maxQuery {
		query = query[:maxQuery]
	}
	words := strings.Fields(strings.ToLower(query))
	type hit struct {
		i   int32
		fit int
	}
	var found []hit
	for n := range u.nodes {
		i := u.newestOf(int32(n))
		if i < 0 {
			continue
		}
		fit := fitExact
		for _, word := range words {
			if fit = max(fit, fits(u.listed[i].Package, word)); fit == fitNone {
				break
			}
		}
		if fit != fitNone {
			found = append(found, hit{i, fit})
		}
	}
	slices.SortFunc(found, func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.fit, b.fit), strings.Compare(u.listed[a.i].Name, u.listed[b.i].Name))
	})
	total = len(found)
	from := min(max(offset, 0), total)
	for _, f := range found[from:min(from+max(limit, 0), total)] {
		hits = append(hits, u.selected(f.i))
	}
	return hits, total
}

// newestOf returns the newest package of a node that is in a feed, -1 if none
// is called so.
func (u *Universe) newestOf(n int32) int32 {
	best := int32(-1)
	for _, i := range u.nodes[n].called {
		if u.listed[i].feed >= 0 && (best < 0 || u.compareVersions(u.listed[i].Version, u.listed[best].Version) > 0) {
			best = i
		}
	}
	return best
}

// fits tells how well a package fits a word in lower case.
func fits(p *Package, word string) int {
	at := indexFold(p.Name, word)
	switch {
	case at == 0 && (len(word) == len(p.Name) || len(word) == len(p.BaseName())):
		return fitExact
	case at == 0:
		return fitPrefix
	case at > 0:
		for from := at; ; {
			if strings.IndexByte("-_.+", p.Name[from-1]) >= 0 {
				return fitWord
			}
			next := indexFold(p.Name[from+1:], word)
			if next < 0 {
				return fitSubstring
			}
			from += 1 + next
		}
	case indexFold(p.Description, word) >= 0:
		return fitDescription
	}
	return fitNone
}

// indexFold finds a lower-case word in s, whose ASCII letters may be upper case.
func indexFold(s, word string) int {
	if word == "" {
		return 0
	}
	first := word[0]
	upper := first
	if first >= 'a' && first <= 'z' {
		upper -= 'a' - 'A'
	}
	for i := 0; i+len(word) <= len(s); i++ {
		if s[i] != first && s[i] != upper {
			continue
		}
		j := 1
		for j < len(word) && (s[i+j] == word[j] || s[i+j] >= 'A' && s[i+j] <= 'Z' && s[i+j]+'a'-'A' == word[j]) {
			j++
		}
		if j == len(word) {
			return i
		}
	}
	return -1
}

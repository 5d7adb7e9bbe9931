package feeds

import (
	"cmp"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Costs of a name that is near another: a slip of the keyboard costs one, a
// word more or less what it is likely to.
const (
	costWord     = 2.0 // the same words, and others
	costPerWord  = 0.5 // of those others
	costExchange = 0.5 // "_" for "-", upper case for lower
	maxSlips     = 3
)

// Nearest returns up to n names of packages that look like name, the likeliest
// first, without ABI suffix: with letters mistyped, or with words more or less
// ("tcpdump-full" is near tcpdump). It takes about as long for any name.
func (u *Universe) Nearest(name string, n int) []string {
	if len(name) > imagebuilder.MaxNameLength || n <= 0 {
		return nil
	}
	type near struct {
		name string
		cost float64
	}
	var found []near
	seen := map[string]bool{name: true}
	folded := fold(name)
	words := strings.Split(folded, "-")
	slips := min(maxSlips, (len(name)+1)/4)
	var letters letterSet
	letters.add(folded)
	for _, p := range u.listed {
		if p.feed < 0 {
			continue
		}
		base := p.BaseName()
		cost, ok := nearness(folded, words, &letters, base, slips)
		if !ok || seen[base] {
			continue
		}
		seen[base] = true
		found = append(found, near{base, cost})
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	names := make([]string, 0, min(n, len(found)))
	for _, f := range found[:min(n, len(found))] {
		names = append(names, f.name)
	}
	return names
}

// fold writes a name as one that is typed carelessly.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '_' || r == '.':
			return '-'
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// nearness tells how far a name is from the folded one with these words, and
// whether it is near at all.
func nearness(folded string, words []string, letters *letterSet, name string, slips int) (float64, bool) {
	if len(name) >= len(folded)-slips && len(name) <= len(folded)+slips && letters.differ(name) <= 2*slips {
		other := fold(name)
		if other == folded {
			return costExchange, true
		}
		if d := distance(folded, other, slips); d <= slips {
			return float64(d), true
		}
	}
	// Words: all of one name's are the other's too.
	shorter := min(len(folded), len(name))
	if shorter < 3 {
		return 0, false
	}
	if len(name) > len(folded) && strings.Contains(name, words[len(words)-1]) {
		if extra, ok := contains(strings.Split(fold(name), "-"), words); ok {
			return costWord + costPerWord*float64(extra), true
		}
	} else if first, _, _ := strings.Cut(name, "-"); len(name) < len(folded) && 2*len(name) >= len(folded) && strings.Contains(folded, first) {
		if extra, ok := contains(words, strings.Split(fold(name), "-")); ok {
			return costWord + costPerWord*float64(extra), true
		}
	}
	return 0, false
}

// contains tells whether all of few are among many, and how many more there are.
func contains(many, few []string) (extra int, ok bool) {
	for _, word := range few {
		if !slices.Contains(many, word) {
			return 0, false
		}
	}
	return len(many) - len(few), true
}

// letterSet counts the letters of a name, to tell cheaply that another is too
// different.
type letterSet [32]int8

func (l *letterSet) add(s string) {
	for i := 0; i < len(s); i++ {
		l[s[i]&31]++
	}
}

// differ returns how many letters one has and the other has not, at least.
func (l *letterSet) differ(s string) int {
	other := *l
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '_' || c == '.' {
			c = '-'
		}
		other[c&31]--
	}
	n := 0
	for _, d := range other {
		n += max(int(d), -int(d))
	}
	return n
}

// distance counts the letters to change, add, leave out or swap with their
// neighbour to get from a to b; more than most is returned as most+1.
func distance(a, b string, most int) int {
	var rows [3][imagebuilder.MaxNameLength + 1]int
	if len(a) > imagebuilder.MaxNameLength || len(b) > imagebuilder.MaxNameLength {
		return most + 1
	}
	before, last, this := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		this[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			d := 1
			if a[i-1] == b[j-1] {
				d = 0
			}
			d = min(last[j-1]+d, last[j]+1, this[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, before[j-2]+1)
			}
			this[j] = d
			least = min(least, d)
		}
		if least > most {
			return most + 1
		}
		before, last, this = last, this, before
	}
	return min(last[len(b)], most+1)
}

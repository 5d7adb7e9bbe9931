package replacements

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// snapshot is the version of the main branch's images, which is newer than
// every release.
const snapshot = "SNAPSHOT"

// version is a release's name in a form that can be ordered:
//
//	24.10 < 24.10.0-rc1 < 24.10.0 < 24.10.4 < 24.10-SNAPSHOT < 25.12 < SNAPSHOT
//
// A bare "24.10" stands for the moment at which the release begins, which is
// why a table of that name lies on the way from 23.05.5 to 24.10.0-rc1.
type version struct {
	numbers   []int
	candidate int    // of "-rcN"; math.MaxInt for what is none
	rest      string // what else the name holds; breaks ties
}

func parseVersion(s string) version {
	if s == snapshot {
		return version{numbers: []int{math.MaxInt}, candidate: math.MaxInt}
	}
	v := version{candidate: math.MaxInt}
	head, tail, _ := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	for part := range strings.SplitSeq(head, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			v.rest = s
			break
		}
		v.numbers = append(v.numbers, n)
	}
	switch {
	case tail == "":
	case strings.EqualFold(tail, snapshot):
		v.numbers = append(v.numbers, math.MaxInt)
	case strings.HasPrefix(tail, "rc"):
		n, err := strconv.Atoi(tail[2:])
		if err != nil {
			v.rest = s
			break
		}
		v.candidate = n
		for len(v.numbers) < 3 {
			v.numbers = append(v.numbers, 0)
		}
	default:
		v.rest = s
	}
	return v
}

func (v version) compare(w version) int {
	if c := slices.Compare(v.numbers, w.numbers); c != 0 {
		return c
	}
	if v.candidate != w.candidate {
		if v.candidate < w.candidate {
			return -1
		}
		return 1
	}
	return strings.Compare(v.rest, w.rest)
}

func (v version) isSnapshot() bool {
	return len(v.numbers) == 1 && v.numbers[0] == math.MaxInt
}

// within tells whether v belongs to release r, as 24.10.4 does to 24.10.
func (v version) within(r version) bool {
	return len(v.numbers) >= len(r.numbers) && r.rest == "" && r.candidate == math.MaxInt &&
		slices.Equal(v.numbers[:len(r.numbers)], r.numbers)
}

// RevisionNumber returns N of a revision "rN" or "rN-hash", and 0 for what is
// none.
func RevisionNumber(s string) int {
	digits, ok := strings.CutPrefix(s, "r")
	if !ok {
		return 0
	}
	digits, _, _ = strings.Cut(digits, "-")
	digits, _, _ = strings.Cut(digits, "+")
	n, err := strconv.Atoi(digits)
	if err != nil || n <= 0 {
		return 0
	}
	return n
}

package feeds

import (
	"math"
	"strings"
)

// CompareOpkg compares two versions as opkg does: negative if a is the older.
// It is Debian's order (deb-version(7)): an epoch before the first colon, the
// revision after the last hyphen, and runs of digits compared as numbers
// between runs of other bytes, of which "~" comes before the end, letters
// before all else (openwrt/opkg-lede libopkg/pkg.c).
func CompareOpkg(a, b string) int {
	epochA, a := cutEpoch(a)
	epochB, b := cutEpoch(b)
	if epochA != epochB {
		if epochA < epochB {
			return -1
		}
		return 1
	}
	a, revisionA := cutRevision(a)
	b, revisionB := cutRevision(b)
	if c := compareRuns(a, b); c != 0 {
		return c
	}
	return compareRuns(revisionA, revisionB)
}

// cutEpoch parts the epoch, 0 without one, from the rest. What is no number
// before the colon counts as 0, as it does for opkg.
func cutEpoch(v string) (uint32, string) {
	before, rest, ok := strings.Cut(v, ":")
	if !ok {
		return 0, v
	}
	before, negative := strings.CutPrefix(before, "-")
	if !negative {
		before = strings.TrimPrefix(before, "+")
	}
	var n uint64
	for i := 0; i < len(before) && isDigit(before[i]); i++ {
		digit := uint64(before[i] - '0')
		if n > (math.MaxUint64-digit)/10 {
			return math.MaxUint32, rest
		}
		n = n*10 + digit
	}
	if negative {
		n = -n
	}
	return uint32(n), rest
}

func cutRevision(v string) (version, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// compareRuns compares what is neither epoch nor hyphen.
func compareRuns(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := weight(a) - weight(b); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
		}
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		first := 0
		for a != "" && b != "" && isDigit(a[0]) && isDigit(b[0]) {
			if first == 0 {
				first = int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
		}
		switch {
		case a != "" && isDigit(a[0]):
			return 1
		case b != "" && isDigit(b[0]):
			return -1
		case first != 0:
			return first
		}
	}
	return 0
}

// weight is the rank of the first byte of s among bytes that are no digits.
func weight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

// opkgAdmits tells whether a package of the given version meets the relation, as
// opkg sees it: an equal version meets every bound, even "<<", and ">" and "<"
// are ">=" and "<=" (openwrt/opkg-lede libopkg/pkg_depends.c).
func (r *Relation) opkgAdmits(version string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareOpkg(version, r.Version)
	switch r.Op {
	case ">>", ">=", ">":
		return c >= 0
	case "<<", "<=", "<":
		return c <= 0
	case "=":
		return c == 0
	}
	return true
}

package feeds

import (
	"cmp"
	"strings"
)

// Versions of apk are, in this order, all parts but the first optional:
//
//	number {.number} [letter] {_suffix[number]} [~commit] [-rnumber]
//
// The rules of comparing are those of alpinelinux/apk-tools src/version.c:
// part by part, and where one version ends the longer one is the greater,
// unless it goes on with a suffix of what comes before a release.

// versionPart is a kind of part, in the order in which they may follow.
type versionPart int

const (
	partFirst    versionPart = iota // the number at the beginning
	partNumber                      // ".12"
	partLetter                      // "a"
	partSuffix                      // "_rc"
	partSuffixNo                    // its number
	partCommit                      // "~1b9b"
	partRevision                    // "-r4"
	partEnd
	partInvalid
)

// versionSuffixes are ordered; those before the empty one come before the
// release itself.
var versionSuffixes = []string{"alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p"}

const suffixRelease = 4 // the empty one

// versionReader goes through the parts of a version.
type versionReader struct {
	rest   string
	part   versionPart
	text   string // of the part, without what introduces it
	number uint64 // it wraps around, as in apk
	suffix int
}

func newVersionReader(version string) *versionReader {
	v := &versionReader{rest: version, part: partFirst}
	v.digits()
	return v
}

func (v *versionReader) digits() {
	n := 0
	v.number = 0
	for n < len(v.rest) && v.rest[n] >= '0' && v.rest[n] <= '9' {
		v.number = v.number*10 + uint64(v.rest[n]-'0')
		n++
	}
	v.text, v.rest = v.rest[:n], v.rest[n:]
	if n == 0 {
		v.part = partInvalid
	}
}

// run cuts off the bytes that are in set.
func (v *versionReader) run(set string) {
	n := 0
	for n < len(v.rest) && strings.IndexByte(set, v.rest[n]) >= 0 {
		n++
	}
	v.text, v.rest = v.rest[:n], v.rest[n:]
}

// next goes to the next part, which is partInvalid for what may not follow.
func (v *versionReader) next() {
	before := v.part
	v.part = partInvalid
	if v.rest == "" {
		v.part = partEnd
		return
	}
	switch c := v.rest[0]; {
	case c >= 'a' && c <= 'z':
		if before <= partNumber {
			v.part, v.text, v.rest = partLetter, v.rest[:1], v.rest[1:]
		}
	case c == '.':
		if before <= partNumber {
			v.part, v.rest = partNumber, v.rest[1:]
			v.digits()
		}
	case c >= '0' && c <= '9':
		if before == partSuffix {
			v.part = partSuffixNo
			v.digits()
		}
	case c == '_':
		if before > partSuffixNo {
			return
		}
		v.rest = v.rest[1:]
		v.run("abcdefghijklmnopqrstuvwxyz")
		for i, suffix := range versionSuffixes {
			if suffix == v.text && suffix != "" {
				v.part, v.suffix = partSuffix, i
			}
		}
	case c == '~':
		if before < partCommit {
			v.rest = v.rest[1:]
			if v.run("0123456789abcdef"); v.text != "" {
				v.part = partCommit
			}
		}
	case c == '-':
		if rest, ok := strings.CutPrefix(v.rest, "-r"); ok && before < partRevision {
			v.part, v.rest = partRevision, rest
			v.digits()
		}
	}
}

// compare compares two parts of one kind.
func (v *versionReader) compare(w *versionReader) int {
	switch v.part {
	case partNumber:
		if v.text[0] == '0' || w.text[0] == '0' {
			return strings.Compare(v.text, w.text)
		}
		return cmp.Compare(v.number, w.number)
	case partFirst, partSuffixNo, partRevision:
		return cmp.Compare(v.number, w.number)
	case partSuffix:
		return cmp.Compare(v.suffix, w.suffix)
	default:
		return strings.Compare(v.text, w.text)
	}
}

// ValidAPKVersion tells whether apk takes s for a version.
func ValidAPKVersion(s string) bool {
	v := newVersionReader(s)
	for v.part < partEnd {
		v.next()
	}
	return v.part == partEnd
}

// CompareAPK returns -1, 0 or 1 as a is older than, as old as or newer
// than b by apk's rules. Versions that are not valid are compared as far as
// they are.
func CompareAPK(a, b string) int { return compareAPK(a, b, false) }

// compareAPK compares; if fuzzy, a may go on where b ends.
func compareAPK(a, b string, fuzzy bool) int {
	v, w := newVersionReader(a), newVersionReader(b)
	for v.part == w.part && v.part < partEnd {
		if order := v.compare(w); order != 0 {
			return order
		}
		v.next()
		w.next()
	}
	switch {
	case v.part == w.part, w.part == partEnd && fuzzy:
		return 0
	case v.part == partSuffix && v.suffix < suffixRelease:
		return -1
	case w.part == partSuffix && w.suffix < suffixRelease:
		return 1
	}
	return cmp.Compare(w.part, v.part) // the kind that comes first is the greater
}

// apkMatch is what a relation asks of a version: bits of what comparing may
// give, as the container has them.
type apkMatch uint8

// newAPKMatch returns the bits of an operator, all of which match without one.
func newAPKMatch(op string) apkMatch {
	var m apkMatch
	for i := 0; i < len(op); i++ {
		switch op[i] {
		case '=':
			m |= matchEqual
		case '<':
			m |= matchLess
		case '>':
			m |= matchGreater
		case '~':
			m |= matchFuzzy | matchEqual
		}
	}
	if m == 0 {
		m = matchAny
	}
	return m
}

// operator returns the operator of the bits, "" if all match.
func (m apkMatch) operator() string {
	if m&matchAny == matchAny {
		return ""
	}
	var op strings.Builder
	if m&matchLess != 0 {
		op.WriteByte('<')
	}
	if m&matchGreater != 0 {
		op.WriteByte('>')
	}
	switch {
	case m&matchFuzzy != 0:
		op.WriteByte('~')
	case m&matchEqual != 0:
		op.WriteByte('=')
	}
	return op.String()
}

// met tells whether a version is what is wanted. A name that is provided
// without a version, "", counts as older than any.
func (m apkMatch) met(version, wanted string) bool {
	if m&matchAny == matchAny {
		return true
	}
	switch order := compareAPK(version, wanted, m&matchFuzzy != 0); {
	case order < 0:
		return m&matchLess != 0
	case order > 0:
		return m&matchGreater != 0
	}
	return m&matchEqual != 0
}

package web

import (
	"bytes"
	"strings"
	"unicode"
)

// Explicit marks of direction (Unicode Standard Annex 9) turn round what comes
// after them, in a sentence that is none of theirs too. Nothing that a page
// shows needs them: what is written from right to left is known by its letters.
const (
	firstIsolate = '\u2068' // opens an isolate whose direction its letters decide
	popIsolate   = '\u2069'
)

func isMark(r rune) bool {
	return r == '\u061c' || r == '\u200e' || r == '\u200f' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// withoutMarks drops the marks from text that comes from outside.
func withoutMarks(text []byte) []byte {
	if !bytes.ContainsFunc(text, isMark) {
		return text
	}
	return bytes.Map(func(r rune) rune {
		if isMark(r) {
			return -1
		}
		return r
	}, text)
}

// isolated is a piece of text to be put into a sentence, whose direction stays
// its own. Markup has <bdi> for it, titles and attributes have not.
func isolated(piece string) string {
	piece = string(withoutMarks([]byte(piece)))
	if !strings.ContainsFunc(piece, fromTheRight) {
		return piece
	}
	return string(firstIsolate) + piece + string(popIsolate)
}

func fromTheRight(r rune) bool {
	return r >= '\u0590' && unicode.In(r, unicode.Hebrew, unicode.Arabic, unicode.Syriac, unicode.Thaana, unicode.Nko, unicode.Samaritan, unicode.Mandaic, unicode.Adlam)
}

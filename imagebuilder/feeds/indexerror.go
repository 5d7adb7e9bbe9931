package feeds

import (
	"errors"
	"fmt"
)

// ErrNotIndex is returned for bytes that are no package index at all, such as
// a web server's error page.
var ErrNotIndex = errors.New("not a package index")

// ErrTruncated is returned for an index that ends in the middle of something.
var ErrTruncated = errors.New("the index is cut short")

// ErrTooLarge is returned for an index beyond what any real feed has: MaxIndex
// bytes, MaxPackages packages, MaxRelations relations.
var ErrTooLarge = errors.New("the index is too large")

// SyntaxError tells where in an index reading it failed.
type SyntaxError struct {
	File   string // "" if the caller did not say
	Offset int64  // in bytes, of the unpacked index
	Err    error
}

func (e *SyntaxError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("at byte %d: %v", e.Offset, e.Err)
	}
	return fmt.Sprintf("%s, at byte %d: %v", e.File, e.Offset, e.Err)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

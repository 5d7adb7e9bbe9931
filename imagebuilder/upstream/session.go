package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"attendant/imagebuilder"
)

// session collects the files that one document is made of: from upstream, or,
// offline, from what is held. What it got is the next record.
type session struct {
	ctx     context.Context
	u       *Upstream
	old     *record // nil if nothing is held
	offline bool

	files   []*file
	absent  []string
	partial bool // the document will do, but parts are missing
	damaged bool // a file that old names could not be read
}

func (s *session) reset() { s.files, s.absent = nil, nil }

// changed tells whether the session got anything else than what was held.
func (s *session) changed() bool {
	if s.old == nil || s.damaged || len(s.files) != len(s.old.Files) {
		return true
	}
	for _, f := range s.files {
		if old := s.old.file(f.Path); old == nil || old.SHA256 != f.SHA256 {
			return true
		}
	}
	return false
}

func (s *session) record(key string) *record {
	return &record{Key: key, Files: s.files, Absent: s.absent}
}

// held returns what is held of path with its content, or errNotHeld.
func (s *session) held(path string) (*file, error) {
	f := s.old.file(path)
	if f == nil {
		return nil, fmt.Errorf("%s: %w", path, errNotHeld)
	}
	if f.data == nil {
		data, err := s.u.state.blob(f.SHA256)
		if err != nil {
			s.damaged = true
			return nil, fmt.Errorf("%s: %w: %w", path, errNotHeld, err)
		}
		f = &file{Path: f.Path, SHA256: f.SHA256, Size: f.Size, ETag: f.ETag, LastModified: f.LastModified, Fetched: f.Fetched, data: data}
	}
	return f, nil
}

// get returns a file that may change in place. The errors include errAbsent.
func (s *session) get(path string, limit int64) ([]byte, error) {
	old, err := s.held(path)
	if s.offline {
		if s.old != nil && slices.Contains(s.old.Absent, path) {
			s.absent = append(s.absent, path)
			return nil, fmt.Errorf("%s: %w", path, errAbsent)
		}
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, old)
		return old.data, nil
	}
	f, err := s.u.fetch(s.ctx, path, limit, old)
	if errors.Is(err, errAbsent) {
		s.absent = append(s.absent, path)
	}
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, f)
	return f.data, nil
}

// getSummed returns a file whose content is known by its sum: what is held
// need not be asked for. A file with another sum is errMismatch.
func (s *session) getSummed(path, sum string, limit int64) ([]byte, error) {
	if !imagebuilder.ValidHash(sum) {
		return nil, fmt.Errorf("%s: %w", path, errMismatch)
	}
	if f, err := s.held(path); err == nil && f.SHA256 == sum {
		s.files = append(s.files, f)
		return f.data, nil
	}
	if s.offline {
		return nil, fmt.Errorf("%s: %w", path, errNotHeld)
	}
	f, err := s.u.fetch(s.ctx, path, limit, nil)
	if errors.Is(err, errAbsent) {
		return nil, fmt.Errorf("%s is listed in sha256sums but missing: %w", path, errMismatch)
	}
	if err != nil {
		return nil, err
	}
	if f.SHA256 != sum {
		return nil, fmt.Errorf("%s has another sum than sha256sums says: %w", path, errMismatch)
	}
	s.files = append(s.files, f)
	return f.data, nil
}

// optional is get for files that many upstreams lack: nil without an error if
// there is none, or if a web page comes in its place.
func (s *session) optional(path string, limit int64) ([]byte, error) {
	data, err := s.get(path, limit)
	if errors.Is(err, errAbsent) || errors.Is(err, errWebPage) || s.offline && errors.Is(err, errNotHeld) {
		return nil, nil
	}
	return data, err
}

// steady is optional for files that others hang on: what is held of one does
// not just go away.
func (s *session) steady(path string, limit int64) ([]byte, error) {
	data, err := s.optional(path, limit)
	if data == nil && err == nil && s.holds(path) {
		return nil, fmt.Errorf("%s has vanished: %w", path, errMismatch)
	}
	return data, err
}

// goneAfter is when it is believed that a part of upstream is gone for good.
const goneAfter = 7 * 24 * time.Hour

// holds tells whether a file is held whose path begins with prefix. While
// upstream publishes, files and whole folders are missing for a while; what
// upstream has not confirmed for long does not count.
func (s *session) holds(prefix string) bool {
	return !s.offline && s.old != nil && s.u.o.Now().Sub(s.old.Checked) < goneAfter &&
		slices.ContainsFunc(s.old.Files, func(f *file) bool { return strings.HasPrefix(f.Path, prefix) })
}

package upstream

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"attendant/imagebuilder"
)

// file is one upstream file as it is held.
type file struct {
	Path         string    `json:"path"`
	SHA256       string    `json:"sha256"`
	Size         int64     `json:"size"`
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Fetched      time.Time `json:"fetched"` // when these bytes came

	data []byte
}

// record is a document on disk: the files that it was made of.
type record struct {
	Key     string    `json:"key"`
	Files   []*file   `json:"files"`
	Absent  []string  `json:"absent,omitempty"` // upstream said that it has none
	Checked time.Time `json:"checked"`          // when upstream last confirmed all of it
	Used    time.Time `json:"used"`             // when somebody last asked for it
}

func (r *record) file(name string) *file {
	if r == nil {
		return nil
	}
	for _, f := range r.Files {
		if f.Path == name {
			return f
		}
	}
	return nil
}

// size is what the record's files take, in bytes.
func (r *record) size() int64 {
	var n int64
	for _, f := range r.Files {
		n += f.Size
	}
	return n
}

// state is the folder of records and blobs, and the mirror that follows them.
type state struct {
	mirror, blobs, records string
	disk                   disk
	log                    *slog.Logger

	mu    sync.Mutex
	refs  map[string]int // blob to the number of record entries that hold it
	names map[string]int // the same for paths in the mirror
}

// validPath tells whether p can be an upstream path: clean, relative, without
// white space or control characters, and no name in it that begins with "-".
func validPath(p string) bool {
	if !fs.ValidPath(p) || p == "." || len(p) > 1024 {
		return false
	}
	for i := 0; i < len(p); i++ {
		if p[i] <= ' ' || p[i] > '~' || strings.IndexByte("\\?#%*\"'<>|`$&;", p[i]) >= 0 {
			return false
		}
	}
	return p[0] != '-' && !strings.Contains(p, "/-")
}

// openState reads the records and sweeps what none of them holds. What cannot
// be read is dropped: upstream has it. A change of address drops all.
func openState(dir, address string, d disk, log *slog.Logger) (*state, map[string]*record, error) {
	s := &state{
		mirror:  filepath.Join(dir, "mirror"),
		blobs:   filepath.Join(dir, "mirror-state", "blobs"),
		records: filepath.Join(dir, "mirror-state", "records"),
		disk:    d,
		log:     log,
		refs:    map[string]int{},
		names:   map[string]int{},
	}
	for _, folder := range []string{s.mirror, s.blobs, s.records} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, nil, fmt.Errorf("making upstream's folders: %w", err)
		}
	}
	origin := filepath.Join(dir, "mirror-state", "origin")
	if old, err := os.ReadFile(origin); err != nil || string(old) != address {
		if err == nil {
			if err := errors.Join(os.RemoveAll(s.records), os.Mkdir(s.records, 0o755), os.RemoveAll(s.mirror), os.Mkdir(s.mirror, 0o755)); err != nil {
				return nil, nil, fmt.Errorf("dropping what another upstream had: %w", err)
			}
		}
		if err := d.writeFile(origin, []byte(address)); err != nil {
			return nil, nil, fmt.Errorf("noting upstream's address: %w", err)
		}
	}
	entries, err := os.ReadDir(s.records)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the records of upstream's files: %w", err)
	}
	records := map[string]*record{}
	for _, entry := range entries {
		name := filepath.Join(s.records, entry.Name())
		r, err := readRecord(name)
		if err != nil || recordName(r.Key) != entry.Name() {
			os.Remove(name)
			continue
		}
		records[r.Key] = r
		s.hold(r)
	}
	blobs, err := os.ReadDir(s.blobs)
	if err != nil {
		return nil, nil, fmt.Errorf("reading upstream's kept files: %w", err)
	}
	for _, entry := range blobs {
		if s.refs[entry.Name()] == 0 {
			os.Remove(filepath.Join(s.blobs, entry.Name()))
		}
	}
	s.sweepMirror()
	for _, r := range records {
		for _, f := range r.Files {
			s.link(f) //nolint:errcheck // the mirror is made good again when the document is next refreshed
		}
	}
	return s, records, nil
}

// sweepMirror drops what no record names, as a crash leaves it, and what was
// not yet renamed into place.
func (s *state) sweepMirror() {
	var folders []string
	filepath.WalkDir(s.mirror, func(name string, entry fs.DirEntry, err error) error { //nolint:errcheck // what cannot be read stays
		if err != nil || name == s.mirror {
			return nil
		}
		if entry.IsDir() {
			folders = append(folders, name)
			return nil
		}
		if p, err := filepath.Rel(s.mirror, name); err == nil && s.names[filepath.ToSlash(p)] == 0 {
			os.Remove(name)
		}
		return nil
	})
	for _, name := range slices.Backward(folders) {
		os.Remove(name) // if it is empty
	}
	temps, _ := filepath.Glob(filepath.Join(filepath.Dir(s.records), tempPrefix+"*")) // the pattern is good
	for _, name := range temps {
		os.Remove(name)
	}
}

func readRecord(name string) (*record, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	for _, f := range r.Files {
		if f == nil || !validPath(f.Path) || !imagebuilder.ValidHash(f.SHA256) {
			return nil, fmt.Errorf("record %s is damaged", name)
		}
	}
	return &r, nil
}

func recordName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16]) + ".json"
}

func (s *state) blobName(sum string) string { return filepath.Join(s.blobs, sum) }

// blob reads a kept file and checks it: memory cards lose bits.
func (s *state) blob(sum string) ([]byte, error) {
	data, err := os.ReadFile(s.blobName(sum))
	if err != nil {
		return nil, err
	}
	if hexSum(data) != sum {
		os.Remove(s.blobName(sum))
		return nil, fmt.Errorf("the kept file %s is damaged", sum)
	}
	return data, nil
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// commit puts r in force in place of old: first its blobs, then the record by
// one rename, then the mirror, then what only old held goes.
func (s *state) commit(old, r *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range r.Files {
		name := filepath.Join(s.blobs, f.SHA256)
		if info, err := os.Lstat(name); err == nil && info.Size() == f.Size {
			continue
		}
		if f.data == nil {
			return fmt.Errorf("keeping %s: its content is not at hand", f.Path)
		}
		if err := s.disk.writeFile(name, f.data); err != nil {
			return fmt.Errorf("keeping %s: %w", f.Path, err)
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keeping the record of %s: %w", r.Key, err)
	}
	if err := s.disk.writeFile(filepath.Join(s.records, recordName(r.Key)), data); err != nil {
		return fmt.Errorf("keeping the record of %s: %w", r.Key, err)
	}
	// From here on r is in force: trouble with the mirror is no failure.
	s.hold(r)
	for _, f := range r.Files {
		if err := s.link(f); err != nil {
			s.log.Warn("the mirror does not follow", "error", err)
		}
	}
	s.release(old)
	return nil
}

// drop removes a record and what only it held.
func (s *state) drop(r *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(filepath.Join(s.records, recordName(r.Key))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dropping the record of %s: %w", r.Key, err)
	}
	s.release(r)
	return nil
}

// hold counts what a record names; s.mu is held.
func (s *state) hold(r *record) {
	for _, f := range r.Files {
		s.refs[f.SHA256]++
		s.names[f.Path]++
	}
}

// release takes back what hold counted. What no record names any more goes.
// s.mu is held.
func (s *state) release(r *record) {
	if r == nil {
		return
	}
	for _, f := range r.Files {
		if s.names[f.Path]--; s.names[f.Path] <= 0 {
			delete(s.names, f.Path)
			os.Remove(filepath.Join(s.mirror, filepath.FromSlash(f.Path)))
		}
		if s.refs[f.SHA256]--; s.refs[f.SHA256] <= 0 {
			delete(s.refs, f.SHA256)
			os.Remove(filepath.Join(s.blobs, f.SHA256))
		}
	}
}

// note rewrites a record whose files have not changed.
func (s *state) note(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keeping the record of %s: %w", r.Key, err)
	}
	return s.disk.writeFile(filepath.Join(s.records, recordName(r.Key)), data)
}

// link gives a blob its name in the mirror.
func (s *state) link(f *file) error {
	blob := filepath.Join(s.blobs, f.SHA256)
	name := filepath.Join(s.mirror, filepath.FromSlash(f.Path))
	kept, err := os.Lstat(blob)
	if err != nil {
		return fmt.Errorf("mirroring %s: %w", f.Path, err)
	}
	if there, err := os.Lstat(name); err == nil && os.SameFile(there, kept) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("mirroring %s: %w", f.Path, err)
	}
	temp := filepath.Join(filepath.Dir(name), tempPrefix+path.Base(f.Path))
	os.Remove(temp)
	if os.Link(blob, temp) != nil { // a file system without hard links
		data, err := os.ReadFile(blob)
		if err == nil {
			err = s.disk.writeFile(name, data)
		}
		if err != nil {
			return fmt.Errorf("mirroring %s: %w", f.Path, err)
		}
		return nil
	}
	if err := os.Rename(temp, name); err != nil {
		return fmt.Errorf("mirroring %s: %w", f.Path, err)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

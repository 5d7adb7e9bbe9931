package replacements

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// Holder has the tables in force. While an operator's tables are wrong it
// goes on with the last ones that were right, at first the embedded ones
// alone. Its methods may be called at the same time.
type Holder struct {
	dirs []string
	set  atomic.Pointer[Set]

	mu    sync.Mutex // held while loading
	state string     // of the files that were read last
	err   error
}

// Hold loads the tables; see Load for dirs. Err tells whether that went well.
func Hold(dirs ...string) *Holder {
	h := &Holder{dirs: dirs}
	h.Reload() //nolint:errcheck // Err tells
	if h.set.Load() == nil {
		set, err := Load()
		if err != nil {
			panic(fmt.Errorf("load the embedded replacement tables: %w", err)) // a test loads them
		}
		h.set.Store(set)
	}
	return h
}

// Set returns the tables in force; never nil.
func (h *Holder) Set() *Set { return h.set.Load() }

// Err returns what was wrong at the last load, or nil.
func (h *Holder) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Reload loads the tables anew if a file came, went or changed, and tells
// whether the tables in force are others now. It costs little when nothing
// changed, and so may be called on a timer. The error, a *LoadError where a
// table is wrong, is returned each time until it is mended.
func (h *Holder) Reload() (changed bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state, err := h.look()
	if err == nil && state == h.state && h.state != "" {
		return false, h.err
	}
	h.state = state
	var set *Set
	if err == nil {
		set, err = Load(h.dirs...)
	}
	h.err = err
	if err != nil {
		return false, err
	}
	h.set.Store(set)
	return true, nil
}

// look describes the files such that a change of one changes the text.
func (h *Holder) look() (string, error) {
	var b strings.Builder
	b.WriteString("files:")
	for _, dir := range h.dirs {
		paths, err := tableFiles(dir)
		if err != nil {
			return "", err
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				fmt.Fprintf(&b, "%q gone\n", path)
				continue
			}
			fmt.Fprintf(&b, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String(), nil
}

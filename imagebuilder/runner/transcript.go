package runner

import (
	"strings"
	"sync"
)

// Bounds of what is kept of a build's output, in bytes.
const (
	failureLog = 16 << 10 // of each stream, in an error
	successLog = 4 << 10  // of each stream, in an image set
	headLog    = 4 << 10  // of that kept of the beginning, where there is room
)

// transcript keeps the beginning and the end of a stream.
type transcript struct {
	mu      sync.Mutex
	head    strings.Builder
	tail    []string
	tailLen int
	left    int // lines left out between head and tail
}

func (t *transcript) line(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tailLen == 0 && t.left == 0 && t.head.Len()+len(s)+1 <= headLog {
		t.head.WriteString(s)
		t.head.WriteByte('\n')
		return
	}
	t.tail = append(t.tail, s)
	t.tailLen += len(s) + 1
	for t.tailLen > failureLog-headLog-64 && len(t.tail) > 1 {
		t.tailLen -= len(t.tail[0]) + 1
		t.tail = t.tail[1:]
		t.left++
	}
}

// ends is the whole in at most most bytes: the beginning only where that does
// not crowd out the end, which is where failures are told.
func (t *transcript) ends(most int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	head, tail := t.head.String(), strings.Join(t.tail, "\n")
	if tail != "" {
		tail += "\n"
	}
	if t.left > 0 {
		tail = "[…]\n" + tail
	}
	all := head + tail
	if len(all) <= most {
		return all
	}
	const mark = "[…]\n"
	all = all[len(all)-(most-len(mark)):]
	if i := strings.IndexByte(all, '\n'); i >= 0 {
		all = all[i+1:]
	}
	return mark + all
}

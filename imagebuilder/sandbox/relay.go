package sandbox

import (
	"fmt"
	"sync"
)

// Relay hands lines to a consumer that may be slow, on a goroutine of its
// own. Lines that find its queue full are dropped and counted.
type Relay struct {
	mu      sync.Mutex
	queue   chan string
	dropped int
	done    chan struct{}
}

// NewRelay starts a relay to consume with a queue of size lines.
func NewRelay(size int, consume func(line string)) *Relay {
	queue := make(chan string, size)
	r := &Relay{queue: queue, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for line := range queue {
			r.mu.Lock()
			dropped := r.dropped
			r.dropped = 0
			r.mu.Unlock()
			if dropped > 0 {
				consume(fmt.Sprintf("[%d lines left out]", dropped))
			}
			consume(line)
		}
	}()
	return r
}

// Line queues a line; it never blocks.
func (r *Relay) Line(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue == nil {
		return
	}
	select {
	case r.queue <- line:
	default:
		r.dropped++
	}
}

// Close ends the relay. Done is closed when the consumer has had all lines.
func (r *Relay) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue != nil {
		close(r.queue)
		r.queue = nil
	}
}

// Done is closed when the last line has been consumed after Close.
func (r *Relay) Done() <-chan struct{} { return r.done }

package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
	"time"
)

// Bounds of tries with a wrong token. After freeTries within tryMemory every
// try waits tryPause, a right one too, and at most slowTries wait at once: so
// nobody tries more than slowTries tokens a second, and the operator is slowed
// down by others but never locked out.
const (
	freeTries = 5
	slowTries = 4
	tryPause  = time.Second
	tryMemory = time.Minute // after the last wrong one
)

var (
	errWrongToken   = errors.New("the token is wrong")
	errTooManyTries = errors.New("too many tries with a wrong token")
)

// guard compares tokens with the operator's, in a time that tells nothing of
// it.
type guard struct {
	token [sha256.Size]byte
	slow  chan struct{}

	mu    sync.Mutex
	wrong int       // tries with a wrong token
	last  time.Time // of those; monotonic
}

func newGuard(token string) *guard {
	return &guard{token: sha256.Sum256([]byte(token)), slow: make(chan struct{}, slowTries)}
}

// check returns nil for the operator's token, else errWrongToken,
// errTooManyTries or the error of ctx.
func (g *guard) check(ctx context.Context, token string) error {
	sum := sha256.Sum256([]byte(token))
	g.mu.Lock()
	if time.Since(g.last) > tryMemory {
		g.wrong = 0
	}
	if g.wrong < freeTries {
		defer g.mu.Unlock() // to the end, so that tries at the same time are counted, too
		return g.compare(sum)
	}
	g.mu.Unlock()

	select {
	case g.slow <- struct{}{}:
	default:
		return errTooManyTries
	}
	defer func() { <-g.slow }()
	timer := time.NewTimer(tryPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.compare(sum)
}

// compare counts a wrong token; g.mu is held.
func (g *guard) compare(sum [sha256.Size]byte) error {
	if subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1 {
		return nil
	}
	g.wrong++
	g.last = time.Now()
	return errWrongToken
}

// tries returns how many wrong tokens there were lately.
func (g *guard) tries() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.wrong
}

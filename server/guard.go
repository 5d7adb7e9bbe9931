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
// wrong one is answered tryPause later, and at most slowTries wait at once. The
// right one is never held up by others' tries, as these cannot guess a token of
// 16 bytes or more at any pace: the bounds keep guessing cheap for the server.
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

// check returns nil at once for the operator's token, else errWrongToken,
// errTooManyTries or the error of ctx.
func (g *guard) check(ctx context.Context, token string) error {
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1 {
		return nil
	}
	if g.count() <= freeTries {
		return errWrongToken
	}
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
		return errWrongToken
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// count counts a wrong token and returns how many there were lately.
func (g *guard) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.last) > tryMemory {
		g.wrong = 0
	}
	g.wrong++
	g.last = time.Now()
	return g.wrong
}

// tries returns how many wrong tokens there were lately.
func (g *guard) tries() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.wrong
}

package server

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of connections. There is no write timeout for all: it would cut an
// image's download on a slow link. Each reply has its own limit instead.
const (
	maxConnections = 1024
	headerTimeout  = 20 * time.Second
	idleTimeout    = 90 * time.Second
	maxHeaderBytes = 32 << 10
)

type connKey struct{}

// Hurry ends the grace that downloads have once Serve is stopping.
func (s *Server) Hurry() { s.hurrying.Do(func() { close(s.hurry) }) }

// Serve answers on l until ctx ends, then stops in stages: no new connections,
// and what is being answered has grace to finish. Streams of events end at
// once. It returns nil after an orderly stop.
func (s *Server) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(s.log, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	limited := &limitListener{Listener: l, free: make(chan struct{}, maxConnections), closed: make(chan struct{})}
	srv.ConnState = limited.connState
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(limited) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stopping.Do(func() { close(s.stop) })
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	go func() {
		select {
		case <-s.hurry:
			cancel()
		case <-stopCtx.Done():
		}
	}()
	err := srv.Shutdown(stopCtx)
	if stopCtx.Err() != nil {
		// Downloads are cut; clients resume them.
		err = srv.Close()
	}
	if serveErr := <-failed; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// limitListener accepts no more than cap(free) connections at a time. The
// connections stay plain *net.TCPConn, so that files go out by sendfile; their
// end is told by the server's connState.
type limitListener struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
	}
	return c, err
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (l *limitListener) connState(_ net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		<-l.free
	}
}

package server

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stallTimeout is how long a download may make no progress before its
// connection is dropped. At 2 KB/s progress is seen at least every 32 s: a
// receiver may acknowledge in steps as large as its segments, up to 64 KiB.
const stallTimeout = 2 * time.Minute

// watchStall drops the request's connection when its client takes no bytes for
// timeout. A write deadline cannot tell: the kernel buffers megabytes, so a
// single write to a slow client may rightly take many minutes. What the client
// has acknowledged tells. The returned function ends the watch.
func watchStall(ctx context.Context, timeout time.Duration, written *atomic.Int64) (stop func()) {
	conn, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(timeout / 4)
		defer tick.Stop()
		last, idle := int64(-1), time.Duration(0)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			taken := written.Load() - unsent(conn)
			if taken != last {
				last, idle = taken, 0
				continue
			}
			if idle += timeout / 4; idle >= timeout {
				// Close makes the handler's write fail; it then ends by itself.
				// What the kernel still holds for the client is thrown away.
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
				_ = conn.Close()
				return
			}
		}
	}()
	return func() { close(done) }
}

// unsent returns how many bytes wait in the connection's send buffer,
// unacknowledged ones included; 0 where that cannot be told.
func unsent(c net.Conn) int64 {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
	})
	return int64(n)
}

// countingWriter counts what a handler has handed to the kernel, and keeps
// net/http's sendfile path: ReadFrom passes files on in pieces.
type countingWriter struct {
	http.ResponseWriter
	written *atomic.Int64
	refused bool // the answer is an error of ours
}

// WriteHeader puts an error of the API's form in the place of net/http's: a
// range outside the file, a condition that does not hold.
func (c *countingWriter) WriteHeader(status int) {
	if status < 400 {
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.refused = true
	e := errorReply{Status: status, Code: "precondition_failed", Detail: "The file is not the one that the request asks about: its ETag differs."}
	if status == http.StatusRequestedRangeNotSatisfiable {
		e.Code, e.Detail = "range_not_satisfiable", "The file is shorter than the range that was asked for. Begin again without a range."
	}
	c.Header().Del("Content-Disposition")
	c.Header().Del("Cache-Control")
	writeJSON(c.ResponseWriter, status, jsonBody(e))
}

func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *countingWriter) Write(b []byte) (int, error) {
	if c.refused {
		return len(b), nil
	}
	n, err := c.ResponseWriter.Write(b)
	c.written.Add(int64(n))
	return n, err
}

package server

import (
	"context"
	"net"
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
func watchStall(ctx context.Context, timeout time.Duration) (stop func()) {
	conn, ok := ctx.Value(connKey{}).(*net.TCPConn)
	if !ok {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(timeout / 4)
		defer tick.Stop()
		last, idle := acknowledged(conn), time.Duration(0)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if taken := acknowledged(conn); taken != last {
				last, idle = taken, 0
				continue
			}
			if idle += timeout / 4; idle >= timeout {
				// Close makes the handler's write fail; it then ends by itself.
				// What the kernel still holds for the client is thrown away.
				_ = conn.SetLinger(0)
				_ = conn.Close()
				return
			}
		}
	}()
	return func() { close(done) }
}

// acknowledged returns how many bytes the client's side has acknowledged on
// the connection so far; 0 where the kernel does not tell.
func acknowledged(c *net.TCPConn) uint64 {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	var info *unix.TCPInfo
	_ = raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if info == nil {
		return 0
	}
	return info.Bytes_acked
}

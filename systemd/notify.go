package systemd

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// The functions below do nothing, without an error, where no service manager
// listens: when attendant is started by hand or by another init system.

// Ready tells that the server answers requests.
func Ready() error { return notify(daemon.SdNotifyReady) }

// Stopping tells that the server begins to stop.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// Status sets the line that `systemctl status` shows; newlines become spaces.
func Status(line string) error {
	return notify("STATUS=" + strings.ReplaceAll(line, "\n", " "))
}

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// Watchdog tells the service manager, until ctx ends, that the server still
// works, as long as alive returns nil; the manager restarts a server that has
// been silent for the unit's WatchdogSec. alive is called twice in that time
// and must return well within half of it. Without a watchdog Watchdog returns
// at once. Errors of alive go to report.
func Watchdog(ctx context.Context, alive func(context.Context) error, report func(error)) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's settings: %w", err)
	}
	if limit == 0 {
		return nil
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		if err := alive(ctx); err == nil {
			err = notify(daemon.SdNotifyWatchdog)
			if err != nil {
				report(err)
			}
		} else if ctx.Err() == nil {
			report(fmt.Errorf("watchdog: the server does not work: %w", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Listeners returns the sockets that systemd has opened for this process
// (socket activation); none if it has not. The environment's variables for it
// are removed, so that children do not take the sockets for theirs.
func Listeners() ([]net.Listener, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over the sockets of the service manager: %w", err)
	}
	var listeners []net.Listener
	for _, l := range all {
		if l != nil { // a socket that is no stream
			listeners = append(listeners, l)
		}
	}
	return listeners, nil
}

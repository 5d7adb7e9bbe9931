package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"attendant/server"
	"attendant/systemd"
)

type serveCmd struct {
	configFlags
}

func (*serveCmd) Help() string {
	return `Runs until it is interrupted. Then it takes no new requests, lets a running build finish for
a while, and ends; an interrupted build is done again at the next start.

    attendant serve --data /srv/attendant --listen :80

Every setting can stand in attendant.toml or in the environment as well: see "attendant config --example".`
}

func (c *serveCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	log := newLogger(cfg, p.stderr)
	a, err := newApplication(cfg, log, extras{})
	if err != nil {
		return err
	}
	defer a.closeAndLog()

	l, err := listen(cfg.Listen)
	if err != nil {
		return err
	}
	control, err := server.ListenControl(cfg.Control)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	log.Info().Str("version", readBuildInfo().Version).Str("listen", l.Addr().String()).Str("upstream", cfg.Upstream).
		Str("data", cfg.Data).Int("workers", cfg.Workers).Msg("attendant is ready")
	if err := systemd.Status("Answering on " + l.Addr().String()); err != nil {
		log.Warn().Err(err).Msg("systemd could not be told the address")
	}
	watched, stopWatchdog := context.WithCancel(p.ctx)
	defer stopWatchdog()
	a.notifySystemd(watched)
	return a.run(p.ctx, hurried(p.ctx), l, control)
}

// listen takes the socket that systemd opened for this process, if there is
// one, else opens addr.
func listen(addr string) (net.Listener, error) {
	passed, err := systemd.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take the sockets that systemd opened: %w", err)
	}
	if len(passed) == 1 {
		return passed[0], nil
	}
	if len(passed) > 1 {
		return nil, fmt.Errorf("systemd passes %d sockets; attendant serves one: leave a single ListenStream in the socket unit", len(passed))
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w. Choose another address with --listen, or stop what uses this one", addr, err)
	}
	return l, nil
}

// notifySystemd tells the service manager that requests are answered, and
// keeps its watchdog quiet as long as the database answers.
func (a *application) notifySystemd(ctx context.Context) {
	if err := systemd.Ready(); err != nil {
		a.log.Warn().Err(err).Msg("systemd could not be told that attendant is ready")
	}
	a.background.Go(func() {
		alive := func(context.Context) error {
			_, err := a.db.LastSeq()
			return err
		}
		err := systemd.Watchdog(ctx, alive, func(err error) { a.log.Error().Err(err).Msg("the database does not answer") })
		if err != nil && ctx.Err() == nil {
			a.log.Warn().Err(err).Msg("systemd's watchdog cannot be served")
		}
		if ctx.Err() != nil {
			_ = systemd.Stopping() // a courtesy
		}
	})
}

func (a *application) closeAndLog() {
	if err := a.close(); err != nil {
		a.log.Error().Err(err).Msg("not everything could be put away")
	}
}

// controlClient returns a client that talks to the running server's control
// socket; its URLs begin with http://control.
func controlClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", path)
		},
	}}
}

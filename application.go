package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"attendant/imagebuilder"
	"attendant/imagebuilder/runner"
	"attendant/queue"
	"attendant/replacements"
	"attendant/server"
	"attendant/store"
	"attendant/store/images"
)

// application is a whole attendant: everything that serve and demo start, and
// that tests start on a port of their own.
type application struct {
	cfg *Config
	log zerolog.Logger

	db      *store.DB
	tables  *replacements.Holder
	images  *images.Cache
	distros []*catalogue // the one that requests mean that name none comes first
	runner  *runner.Runner
	queue   *queue.Queue
	watch   *watch
	server  *server.Server

	forecasts *forecasts

	background     sync.WaitGroup
	stopBackground context.CancelFunc
}

// How long the stages of a stop may take. systemd's unit allows for their sum.
const (
	httpGrace  = 10 * time.Second
	buildGrace = 20 * time.Second
)

// tablesInterval is how often the replacement tables' files are looked at.
const tablesInterval = 20 * time.Second

// extras is what the demo adds to the configuration.
type extras struct {
	upstreamTree http.Handler
	trustedKeys  [][]byte
}

func newLogger(cfg *Config, w io.Writer) zerolog.Logger {
	if cfg.LogFormat != "json" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.DateTime, NoColor: true}
	}
	level := map[slog.Level]zerolog.Level{
		slog.LevelDebug: zerolog.DebugLevel, slog.LevelInfo: zerolog.InfoLevel,
		slog.LevelWarn: zerolog.WarnLevel, slog.LevelError: zerolog.ErrorLevel,
	}[cfg.LogLevel]
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// newApplication opens everything below the data folder and starts nothing
// that needs the network. Close it in any case.
func newApplication(cfg *Config, log zerolog.Logger, more extras) (a *application, err error) {
	a = &application{cfg: cfg, log: log}
	opened := a
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o750); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	adminToken, err := readAdminToken(cfg.AdminTokenFile)
	if err != nil {
		return nil, err
	}
	newest := newestFile(cfg.Data) // before anything is written
	work := filepath.Join(cfg.Data, "work")
	structured := slog.New(zerolog.NewSlogHandler(log))

	a.db, err = store.Open(filepath.Join(cfg.Data, "attendant.db"), store.Options{Log: structured.With("part", "store")})
	if errors.Is(err, store.ErrInUse) {
		return nil, fmt.Errorf("another attendant is using %s: stop it first, or give this one a data folder of its own (--data): %w", cfg.Data, err)
	}
	if err != nil {
		return nil, err
	}
	a.images, err = images.Open(images.Options{
		Dir: cfg.Data, DB: a.db, Budget: cfg.ImageBudget, DefaultsTTL: cfg.DefaultsTTL, Log: structured.With("part", "images"),
	})
	if err != nil {
		return nil, err
	}

	a.forecasts = &forecasts{db: a.db, universe: a.universe, log: structured.With("part", "forecast")}

	// The runner prepares what upstream unpacks, and upstream gives the runner
	// its builders.
	a.runner, err = runner.New(runner.Options{
		Builders: runner.BuildersFunc(func(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*runner.Builder, func(), error) {
			b, release, err := a.distro(req.Distro).Builder(ctx, req, g, rep)
			if err == nil {
				a.forecasts.builder(req, b)
			}
			return b, release, err
		}),
		Planner: a.planner(), KeysDir: filepath.Join(cfg.Data, "build-keys"),
		Hidden:  hiddenFromBuilds(cfg),
		WorkDir: work, UpstreamURL: cfg.Upstream, StepIdle: cfg.IdleTimeout, JobLimit: cfg.JobTimeout,
		Nice: 5, Env: proxyVariables(os.Environ()), Log: structured.With("part", "runner"),
	})
	if err != nil {
		return nil, err
	}
	a.tables = replacements.Hold(cfg.Replacements)
	if err := a.tables.Err(); err != nil {
		log.Error().Err(err).Msg("your replacement tables are wrong and are left out until they are mended")
	}
	if err := a.openDistributions(more, structured.With("part", "upstream")); err != nil {
		return nil, err
	}
	a.queue, err = queue.New(queue.Options{
		DB: a.db, Images: a.images, Builder: observed{builds{a.runner, a.distro}, a.forecasts}, Workers: cfg.Workers, Limit: cfg.QueueLimit,
		FailureTTL: cfg.FailureTTL, Log: structured.With("part", "queue"),
	})
	if err != nil {
		return nil, err
	}
	signing, err := server.OpenSigningKey(filepath.Join(cfg.Data, "legacy-signing.key"))
	if err != nil {
		return nil, err
	}
	a.watch = newWatch(a, newest)
	a.server = server.New(server.Options{
		SigningKey: signing,
		Catalogue:  a.distros[0], Distributions: a.distributions(), Queue: a.queue, Images: a.images,
		Statistics: statistics{a.db.Statistics()}, Database: database{a.db},
		Surroundings: a.watch, Operator: operator{a}, AdminToken: adminToken,
		Version: readBuildInfo().Version, Contact: cfg.Contact, PublicURL: cfg.PublicURL,
		AllowDefaults: cfg.AllowDefaults, RepositoryAllowList: cfg.RepositoryAllowList,
		Limits:       imagebuilder.Limits{MaxRootfsSizeMB: cfg.MaxRootfsSizeMB, MaxDefaultsLength: cfg.MaxDefaultsBytes},
		UpstreamTree: more.upstreamTree, Log: log.With().Str("part", "server").Logger(),
	})
	return a, nil
}

// hiddenFromBuilds is the server's own: what is in the data folder, or is
// linked there from elsewhere, and the ways to administer the server.
func hiddenFromBuilds(cfg *Config) []string {
	hidden := []string{cfg.Data, cfg.Control}
	for _, name := range []string{"attendant.db", "legacy-signing.key", "images", "work", "mirror", "mirror-state", "distributions"} {
		hidden = append(hidden, filepath.Join(cfg.Data, name))
	}
	if cfg.AdminTokenFile != "" {
		hidden = append(hidden, cfg.AdminTokenFile)
	}
	return hidden
}

// proxyVariables returns what of environ tells programs which proxy to use:
// builds fetch packages by wget.
func proxyVariables(environ []string) []string {
	var found []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "no_proxy":
			found = append(found, entry)
		}
	}
	return found
}

// run answers on the listener and on the control socket, if there is one,
// until ctx ends, and then stops in stages: no new requests, running builds may
// finish, then everything is put away. hurry skips the waiting.
func (a *application) run(ctx context.Context, hurry <-chan struct{}, l, control net.Listener) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	a.stopBackground = stopBackground
	failures := make(chan error, 6+len(a.distros))
	start := func(what string, f func(context.Context) error) {
		a.background.Go(func() {
			if err := f(background); err != nil && background.Err() == nil {
				failures <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	for _, d := range a.distros {
		start("refresh upstream", d.upstream.Run)
	}
	start("run the queue", a.queue.Run)
	start("look after the images", func(ctx context.Context) error { a.images.Run(ctx); return nil })
	start("look after the replacement tables", func(ctx context.Context) error { a.watchTables(ctx); return nil })
	start("look after the surroundings", func(ctx context.Context) error { a.watch.run(ctx); return nil })
	start("save statistics", func(ctx context.Context) error { a.db.Run(ctx); return nil })
	if control != nil {
		start("serve the control socket", func(ctx context.Context) error { return a.server.ServeControl(ctx, control) })
	}

	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(serving, l, httpGrace) }()

	var err error
	select {
	case <-ctx.Done():
	case err = <-failures:
	case err = <-served:
		served <- nil
	}
	a.log.Info().Msg("stopping: running builds may finish; interrupt again to cut them")
	building, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildGrace)
	defer cancel()
	go func() {
		select {
		case <-hurry:
			cancel()
			a.server.Hurry()
		case <-building.Done():
		}
	}()
	stopServing()
	// From here on no build begins, while downloads have their grace.
	stopErr := a.queue.Stop(building)
	if stopErr != nil && !errors.Is(stopErr, context.DeadlineExceeded) && !errors.Is(stopErr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("stop the queue: %w", stopErr))
	}
	return errors.Join(err, <-served)
}

// watchTables reads the operator's replacement tables again when they change.
func (a *application) watchTables(ctx context.Context) {
	tick := time.NewTicker(tablesInterval)
	defer tick.Stop()
	told := fmt.Sprint(a.tables.Err())
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, err := a.tables.Reload()
		if changed {
			a.log.Info().Msg("replacement tables read again")
		}
		if text := fmt.Sprint(err); err != nil && text != told {
			a.log.Error().Err(err).Msg("your replacement tables are wrong; the last right ones stay in force")
		}
		told = fmt.Sprint(err)
	}
}

// close puts everything away: whatever was open is closed, the database last.
func (a *application) close() error {
	if a.stopBackground != nil {
		a.stopBackground()
	}
	a.background.Wait()
	var err error
	if a.runner != nil {
		err = errors.Join(err, a.runner.Close())
	}
	for _, d := range a.distros {
		err = errors.Join(err, d.upstream.Close())
	}
	if a.images != nil {
		err = errors.Join(err, a.images.Close())
	}
	if a.db != nil {
		err = errors.Join(err, a.db.Close())
	}
	return err
}

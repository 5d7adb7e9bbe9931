// Package runner drives one ImageBuilder through one request: it lays a
// private view over the shared builder, asks for the manifest, builds the
// image, reads what went wrong out of what the ImageBuilder says, and hands
// over the files with sums of its own.
package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

// Builder is an unpacked ImageBuilder.
type Builder struct {
	Dir        string // absolute; read-only and shared
	Generation imagebuilder.Generation
	// UpstreamURL is where the builder's own feeds are fetched from; "" is
	// Options.UpstreamURL.
	UpstreamURL string
}

// Builders hands out the ImageBuilders of requests, fetched and unpacked where needed, and
// pinned until release is called.
type Builders interface {
	Builder(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (b *Builder, release func(), err error)
}

// BuildersFunc is a function as Builders.
type BuildersFunc func(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*Builder, func(), error)

// Builder calls f.
func (f BuildersFunc) Builder(ctx context.Context, req imagebuilder.Request, g imagebuilder.Generation, rep imagebuilder.Reporter) (*Builder, func(), error) {
	return f(ctx, req, g, rep)
}

// Defaults of [Options].
const (
	DefaultStepIdle = 5 * time.Minute
	DefaultJobLimit = 30 * time.Minute
	DefaultPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Options are what a Runner needs.
type Options struct {
	Builders Builders
	// WorkDir is where builds do their work, on one mount with the images.
	// Its path may hold no spaces. Names in it that begin with "build-" or
	// "probe-" belong to the runner.
	WorkDir string
	// UpstreamURL is where the builders' own feeds are fetched from instead
	// of the address built into them; "" leaves that.
	UpstreamURL string

	StepIdle time.Duration // without output, before a step is ended
	JobLimit time.Duration // of a build, without the builder's download
	Path     string        // PATH of builds
	Env      []string      // further environment of builds, as proxies need it
	Nice     int           // niceness of builds, 0 to 19

	// Method is how builders are layered; "" chooses by trying.
	Method sandbox.Method
	// Packages says which packages are built for a request, for instance
	// after renames; nil builds those that it names.
	Packages func(req imagebuilder.Request, info *Info) []string

	// Planner has the packages of a build at hand before it begins; nil lets
	// ImageBuilders fetch for themselves.
	Planner Planner
	// KeysDir keeps the key with which builders of the opkg generation sign
	// images, so that an image is the same when its builder is unpacked anew;
	// "" leaves one in each builder. See Prepare.
	KeysDir string
	// Hidden are files and folders, absolute, that builds do not see where the
	// system grants mount namespaces, but for their builder and their own
	// folder in WorkDir.
	Hidden []string

	Log *slog.Logger
	Now func() time.Time
}

// Runner builds images. Its methods may be called concurrently.
type Runner struct {
	o         Options
	abilities sandbox.Abilities

	mu    sync.Mutex
	infos map[string]*Info // by builder folder and sum

	keyMu sync.Mutex // a key is made once

	removals sync.WaitGroup // of work folders
}

// attemptPrefix begins the names of the runner's folders in WorkDir.
const attemptPrefix = "build-"

// New makes a runner. It ends and removes what builds of an earlier process
// left in WorkDir, so there must be only one for a WorkDir.
func New(o Options) (*Runner, error) {
	o.StepIdle = cmp.Or(o.StepIdle, DefaultStepIdle)
	o.JobLimit = cmp.Or(o.JobLimit, DefaultJobLimit)
	o.Path = cmp.Or(o.Path, DefaultPath)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Builders == nil {
		return nil, errors.New("runner: no builders")
	}
	if err := sandbox.CheckPath(o.WorkDir); err != nil {
		return nil, fmt.Errorf("the work folder: %w", err)
	}
	if err := os.MkdirAll(o.WorkDir, 0o755); err != nil {
		return nil, fmt.Errorf("the work folder: %w", err)
	}
	r := &Runner{o: o, infos: map[string]*Info{}}
	if err := r.sweep(); err != nil {
		return nil, err
	}
	var err error
	if r.abilities, err = sandbox.Probe(o.WorkDir); err != nil {
		return nil, err
	}
	o.Log.Debug("sandbox", "namespaces", r.abilities.Namespaces, "user_namespace", r.abilities.UserNamespace,
		"no_network", r.abilities.NoNetwork, "overlay", r.abilities.Overlay, "overlay_error", r.abilities.OverlayError, "reflink", r.abilities.Reflink)
	return r, nil
}

// Abilities tells what the sandbox can do with this runner's work folder.
func (r *Runner) Abilities() sandbox.Abilities { return r.abilities }

// Close waits until the work folders of ended builds are removed; builds must
// have ended. A process that ends without it leaves them to the next New.
func (r *Runner) Close() error {
	r.removals.Wait()
	return nil
}

// remove deletes a work folder while its build's outcome is on its way.
func (r *Runner) remove(dir string) {
	r.removals.Go(func() {
		if err := sandbox.RemoveAll(dir); err != nil {
			r.o.Log.Warn("a build's work folder cannot be removed", "dir", dir, "err", err)
		}
	})
}

func (r *Runner) sweep() error {
	killed, err := sandbox.KillLeftovers(r.o.WorkDir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(r.o.WorkDir)
	if err != nil {
		return fmt.Errorf("sweeping the work folder: %w", err)
	}
	swept := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), attemptPrefix) || strings.HasPrefix(e.Name(), "probe-") {
			if err := sandbox.RemoveAll(filepath.Join(r.o.WorkDir, e.Name())); err != nil {
				return fmt.Errorf("sweeping the work folder: %w", err)
			}
			swept++
		}
	}
	if killed > 0 || swept > 0 {
		r.o.Log.Info("removed what interrupted builds left", "processes", killed, "folders", swept)
	}
	return nil
}

// errJobLimit is the cause of a context that JobLimit ended.
var errJobLimit = errors.New("the build took too long")

// Build makes the images of job. The error is an *imagebuilder.Error; a build
// whose context ends fails with the *imagebuilder.Error that is its cause, or
// with CodeCanceled. Of a success the caller owns Built.Dir, which lies in
// WorkDir and holds nothing but the files.
func (r *Runner) Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error) {
	progress := newProgress(rep, r.o.Now)
	defer progress.close()
	progress.Stage(imagebuilder.StageInit)
	if e := r.check(job.Request); e != nil {
		return nil, e
	}
	builder, release, err := r.o.Builders.Builder(ctx, job.Request, job.Generation, progress)
	if err != nil {
		return nil, r.ended(ctx, "fetching the ImageBuilder", err)
	}
	defer release()

	ctx, cancel := context.WithTimeoutCause(ctx, r.o.JobLimit, errJobLimit)
	defer cancel()
	method, relies := r.method(builder.Dir), planned
	for retried := false; ; {
		a, built, err := r.attempt(ctx, job, builder, method, relies, progress)
		if err == nil {
			return built, nil
		}
		e := r.ended(ctx, "building", err)
		next := a.wayOut(e, err)
		switch {
		case ctx.Err() != nil:
			return nil, progress.withOutput(e)
		case errors.Is(err, sandbox.ErrOverlay) && method == sandbox.Overlay:
			r.o.Log.Warn("an overlay cannot be mounted, so the ImageBuilder is copied", "builder", builder.Dir, "err", err)
			method = sandbox.Copy
		case next > relies:
			relies = next
		case (e.Code == imagebuilder.CodeStalled || errors.Is(err, errFeedsMoved) || a.foundDamage(e)) && !retried:
			// A package manager that hangs now and then
			// (openwrt/openwrt issue 17237), a feed updated in between, or a
			// kept package that the memory card has spoilt.
			retried = true
			progress.Line("attendant: " + e.Detail + " Trying once more.")
		default:
			return nil, progress.withOutput(e)
		}
	}
}

func (r *Runner) method(builder string) sandbox.Method {
	switch {
	case r.o.Method != "":
		return r.o.Method
	case r.abilities.OverlayFits(builder):
		return sandbox.Overlay
	}
	return sandbox.Copy
}

// check refuses what must not reach a make command line or a configuration
// file, whoever let it through.
func (r *Runner) check(req imagebuilder.Request) *imagebuilder.Error {
	if !imagebuilder.ValidProfileID(req.Profile) {
		return sentence(imagebuilder.CodeMalformed, fmt.Sprintf("%.100q is not a device's name.", req.Profile))
	}
	if req.Filesystem != nil && filesystemOptions[*req.Filesystem] == "" {
		return sentence(imagebuilder.CodeMalformed, fmt.Sprintf("%.100q is not a file system.", *req.Filesystem))
	}
	if req.RootfsSizeMB != nil && *req.RootfsSizeMB < 1 {
		return sentence(imagebuilder.CodeMalformed, "rootfs_size_mb is below 1.")
	}
	if e := checkRepositories(req); e != nil {
		return e
	}
	return checkPackageNames(req.Packages)
}

// ended turns whatever ended a build into an *imagebuilder.Error.
func (r *Runner) ended(ctx context.Context, doing string, err error) *imagebuilder.Error {
	if cause := context.Cause(ctx); cause != nil {
		var e *imagebuilder.Error
		switch {
		case errors.As(cause, &e):
			return e
		case errors.Is(cause, errJobLimit):
			return imagebuilder.Errorf(imagebuilder.CodeTimedOut,
				"Error: The build took longer than %s and was ended. Please try again later.", r.o.JobLimit).WithCause(err)
		}
		return sentence(imagebuilder.CodeCanceled, "The build was canceled.").WithCause(cause)
	}
	var e *imagebuilder.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, sandbox.ErrStalled):
		return imagebuilder.Errorf(imagebuilder.CodeStalled,
			"Error: The ImageBuilder printed nothing for %s and was ended. Please try again.", r.o.StepIdle).WithCause(err)
	case errors.Is(err, sandbox.ErrNotFound):
		return sentence(imagebuilder.CodeHost, "This server lacks what ImageBuilders need: make.",
			"Its operator must install that; `attendant doctor` says how.").WithCause(err)
	case errors.Is(err, sandbox.ErrPath):
		return sentence(imagebuilder.CodeHost,
			"The server's data folder has a name that ImageBuilders cannot take, as with spaces. Its operator must move it.").WithCause(err)
	case isNoSpace(err):
		return new(findings).withNoSpace().WithCause(err)
	}
	e = imagebuilder.AsError(fmt.Errorf("%s: %w", doing, err))
	e.Detail = "Error: " + e.Detail
	return e
}

// progress hands a build's stages and lines to its Reporter and measures the
// stages.
type progress struct {
	rep   imagebuilder.Reporter
	now   func() time.Time
	relay *sandbox.Relay

	mu     sync.Mutex
	stages []imagebuilder.StageTime
	began  time.Time

	last *step // of the build's own goroutine; nil before the first
}

func newProgress(rep imagebuilder.Reporter, now func() time.Time) *progress {
	return &progress{rep: rep, now: now, relay: sandbox.NewRelay(1024, rep.Line)}
}

func (p *progress) Stage(s imagebuilder.Stage) {
	p.mu.Lock()
	p.finish()
	p.stages = append(p.stages, imagebuilder.StageTime{Stage: s})
	p.began = p.now()
	p.mu.Unlock()
	p.rep.Stage(s)
}

func (p *progress) finish() {
	if n := len(p.stages); n > 0 {
		p.stages[n-1].Duration = p.now().Sub(p.began)
	}
}

// times are the stages so far, one entry for each even when a retry began it
// again.
func (p *progress) times() []imagebuilder.StageTime {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	var times []imagebuilder.StageTime
	at := map[imagebuilder.Stage]int{}
	for _, s := range p.stages {
		if i, ok := at[s.Stage]; ok {
			times[i].Duration += s.Duration
			continue
		}
		at[s.Stage] = len(times)
		times = append(times, s)
	}
	return times
}

// withOutput adds what the last step said to an error that has no output, as
// when the step was ended before its time.
func (p *progress) withOutput(e *imagebuilder.Error) *imagebuilder.Error {
	if p.last == nil || e.Stdout != "" || e.Stderr != "" {
		return e
	}
	own := *e // it may be a cause that others share
	return p.last.failed(&own)
}

func (p *progress) Progress(done, total int64) { p.rep.Progress(done, total) }

func (p *progress) Line(line string) { p.relay.Line(cutText(line, maxLogLine)) }

// close waits for the reporter to hear the last lines, but not forever: it
// may be stuck.
func (p *progress) close() {
	p.relay.Close()
	select {
	case <-p.relay.Done():
	case <-time.After(time.Second):
	}
}

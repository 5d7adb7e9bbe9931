package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Why a command was ended before its time. They are wrapped in what
// [Command.Run] returns; the end of the context is told as context.Cause.
var (
	ErrTimedOut = errors.New("the command ran longer than its limit")
	ErrStalled  = errors.New("the command printed nothing for longer than its limit")
)

// ErrOverlay tells that an overlay could not be mounted; a layer made by Copy
// may do.
var ErrOverlay = errors.New("mounting the overlay failed")

// ErrNotFound tells that the program to run is not in the command's PATH.
var ErrNotFound = errors.New("program not found")

// Defaults of [Command].
const (
	DefaultGrace   = 5 * time.Second
	DefaultMaxLine = 4096 // bytes

	// setUpLimit is how long a supervisor may take to start the command.
	setUpLimit = time.Minute
	// drainDelay is how long output is still read after the supervisor's
	// exit, when something else holds the pipes open.
	drainDelay = 2 * time.Second
)

// Command is one command to run. The zero value of every limit is no limit.
type Command struct {
	Args []string // argv; a name without "/" is looked up in the PATH of Env
	Dir  string   // working folder; default: the layer's view
	Env  []string // the whole environment, "NAME=value"

	// Stdout and Stderr hear each line, without its end, cut at MaxLine
	// bytes. They run on the goroutine that reads the pipe, one for each
	// stream, and must be quick: what may be slow belongs behind a [Relay].
	Stdout, Stderr func(line string)
	MaxLine        int // bytes; default DefaultMaxLine

	// Both count from the command's start.
	Timeout time.Duration // of the whole run
	Idle    time.Duration // without a byte of output
	Grace   time.Duration // between TERM and KILL; default DefaultGrace

	// NoNetwork leaves the command nothing but a loopback interface, where the
	// system can do that; see Abilities.NoNetwork.
	NoNetwork bool
	// ReadOnly are folders, absolute, that the command can read but not
	// change, where it gets a mount namespace.
	ReadOnly []string
	// Hidden are files and folders, absolute, that the command does not see,
	// where it gets a mount namespace: a file is empty, of a folder only
	// Shown is there, and where the folders of Layer are.
	Hidden []string
	// Shown are folders, absolute, that the command sees though they lie in
	// hidden ones.
	Shown []string

	Nice  int    // added to the niceness, 0 to 19
	Layer *Layer // the view of a tree to run in; nil for none

	// Record, when set, is a file that names the running processes for
	// [KillLeftovers]; it is removed at the end.
	Record string
}

// Result is how a command ended.
type Result struct {
	ExitCode int           // -1 if a signal ended it
	Signal   string        // the signal's name, or ""
	Duration time.Duration // from start to the end of the last process
}

// Run starts the command and waits until it and everything it started has
// ended. An exit code other than 0 is not an error. When ctx ends or a limit
// is reached its process group gets TERM, and after the grace time everything
// gets KILL.
func (c *Command) Run(ctx context.Context) (Result, error) {
	if err := context.Cause(ctx); err != nil {
		return Result{ExitCode: -1}, err
	}
	s, err := c.spec()
	if err != nil {
		return Result{ExitCode: -1}, err
	}
	ns := namespaces()
	ns.net = c.NoNetwork && networkNamespaces()
	s.setNamespaces(ns)
	return c.run(ctx, s, ns)
}

func (c *Command) spec() (*spec, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("sandbox: no command")
	}
	path, err := lookPath(c.Args[0], c.Env)
	if err != nil {
		return nil, err
	}
	s := &spec{Path: path, Args: c.Args, Env: c.Env, Dir: c.Dir, Nice: c.Nice, ReadOnly: c.ReadOnly, Hidden: c.Hidden}
	s.Shown = slices.Clone(c.Shown)
	if c.Layer != nil {
		s.Shown = append(s.Shown, c.Layer.shown()...)
		s.Overlay = c.Layer.overlay()
		if s.Dir == "" {
			s.Dir = c.Layer.Path()
		}
	}
	if s.Dir == "" {
		return nil, errors.New("sandbox: no working folder")
	}
	return s, nil
}

func (c *Command) run(ctx context.Context, s *spec, ns namespaceMode) (Result, error) {
	sup, err := startSupervisor(ns)
	if err != nil {
		return Result{ExitCode: -1}, fmt.Errorf("starting the supervisor: %w", err)
	}
	defer sup.close()
	began := time.Now()

	var lastOutput atomic.Int64 // nanoseconds since began
	alive := func() { lastOutput.Store(int64(time.Since(began))) }
	readers := make(chan struct{}, 2)
	for _, stream := range []struct {
		pipe *os.File
		emit func(string)
	}{{sup.stdout, c.Stdout}, {sup.stderr, c.Stderr}} {
		go func() {
			readLines(stream.pipe, c.maxLine(), alive, stream.emit)
			readers <- struct{}{}
		}()
	}
	statuses := make(chan status, 4)
	go sup.readStatuses(statuses)

	record := &processRecord{Supervisor: identify(sup.cmd.Process.Pid), Boot: bootID()}
	if err := record.save(c.Record); err != nil {
		sup.end()
		return Result{ExitCode: -1}, errors.Join(fmt.Errorf("recording the processes: %w", err), sup.drain(readers, statuses))
	}
	if c.Record != "" {
		defer os.Remove(c.Record)
	}
	stopped := sup.send(s)
	if stopped != nil {
		sup.end()
	}

	var kill <-chan time.Time
	limit, idle := time.NewTimer(setUpLimit), time.NewTimer(setUpLimit)
	defer limit.Stop()
	defer idle.Stop()
	idle.Stop()
	begun := func() {
		limit.Stop()
		if c.Timeout > 0 {
			limit.Reset(c.Timeout)
		}
		alive()
		if c.Idle > 0 {
			idle.Reset(c.Idle)
		}
	}
	done := ctx.Done()
	stop := func(reason error) {
		if stopped == nil {
			stopped = reason
			sup.command(commandTerminate)
			grace := c.Grace
			if grace <= 0 {
				grace = DefaultGrace
			}
			kill = time.After(grace)
		}
		limit.Stop()
		idle.Stop()
		done = nil
	}

	var last status
	hardKill := false
	for running := true; running; {
		select {
		case <-done:
			stop(context.Cause(ctx))
		case <-limit.C:
			stop(fmt.Errorf("%w of %s", ErrTimedOut, cmp.Or(c.Timeout, setUpLimit)))
		case <-idle.C:
			silent := time.Since(began) - time.Duration(lastOutput.Load())
			if silent >= c.Idle {
				stop(fmt.Errorf("%w of %s", ErrStalled, c.Idle))
			} else {
				idle.Reset(c.Idle - silent)
			}
		case <-kill:
			if hardKill {
				sup.end()
				kill = nil
				break
			}
			hardKill = true
			sup.command(commandKill)
			kill = time.After(2 * time.Second)
		case st, ok := <-statuses:
			if !ok {
				running = false
				break
			}
			if st.PID > 0 && stopped == nil {
				begun()
			}
			if st.PID > 0 && !ns.pid {
				record.Group = identify(st.PID)
				if err := record.save(c.Record); err != nil {
					stop(fmt.Errorf("recording the processes: %w", err))
				}
			}
			if st.Exited || st.Error != "" {
				last = st
				limit.Stop()
				idle.Stop()
				done = nil
			}
		}
	}
	err = sup.drain(readers, nil)
	result := Result{ExitCode: last.Code, Signal: last.Signal, Duration: time.Since(began)}
	switch {
	case stopped != nil:
		result.ExitCode = -1
		return result, stopped
	case last.Layer:
		result.ExitCode = -1
		return result, fmt.Errorf("%w (%s)", ErrOverlay, last.Error)
	case last.Error != "":
		result.ExitCode = -1
		return result, fmt.Errorf("sandbox: %s", last.Error)
	case !last.Exited:
		result.ExitCode = -1
		return result, fmt.Errorf("the supervisor ended without a word: %w", errors.Join(err, errors.New("it may have been killed")))
	}
	return result, nil
}

func (c *Command) maxLine() int {
	if c.MaxLine > 0 {
		return c.MaxLine
	}
	return DefaultMaxLine
}

// supervisor is the parent's side of the process that Init becomes.
type supervisor struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File // read ends
	control        *os.File // write end; its closing ends the supervisor
	status         *os.File // read end
	waited         chan error
}

// startSupervisor runs this binary as a supervisor in the given namespaces.
// The kernel ties a parent-death signal to the thread that forked, so that
// thread waits for the child too.
func startSupervisor(ns namespaceMode) (*supervisor, error) {
	sup := &supervisor{waited: make(chan error, 1)}
	var theirs []*os.File
	closeAll := func(files ...*os.File) {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
	pipe := func(ours **os.File, weRead bool) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if weRead {
			*ours, theirs = r, append(theirs, w)
		} else {
			*ours, theirs = w, append(theirs, r)
		}
		return nil
	}
	err := errors.Join(pipe(&sup.stdout, true), pipe(&sup.stderr, true), pipe(&sup.control, false), pipe(&sup.status, true))
	if err != nil {
		closeAll(append(theirs, sup.stdout, sup.stderr, sup.control, sup.status)...)
		return nil, err
	}
	sup.cmd = &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{supervisorName},
		Env:         []string{},
		Stdout:      theirs[0],
		Stderr:      theirs[1],
		ExtraFiles:  []*os.File{theirs[2], theirs[3]},
		SysProcAttr: ns.attributes(),
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := sup.cmd.Start()
		started <- err
		if err == nil {
			sup.waited <- sup.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		closeAll(append(theirs, sup.stdout, sup.stderr, sup.control, sup.status)...)
		return nil, err
	}
	closeAll(theirs...)
	return sup, nil
}

func (s *supervisor) send(sp *spec) error {
	data, err := json.Marshal(sp)
	if err != nil {
		return err
	}
	if _, err := s.control.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("instructing the supervisor: %w", err)
	}
	return nil
}

func (s *supervisor) command(b byte) {
	// A supervisor that is gone cannot be told; that shows elsewhere.
	_, _ = s.control.Write([]byte{b})
}

func (s *supervisor) end() { _ = s.cmd.Process.Kill() }

func (s *supervisor) readStatuses(to chan<- status) {
	defer close(to)
	dec := json.NewDecoder(s.status)
	for {
		var st status
		if dec.Decode(&st) != nil {
			return
		}
		to <- st
	}
}

// drain waits for the supervisor and the readers of its output, and for the
// statuses where they are not read elsewhere.
func (s *supervisor) drain(readers <-chan struct{}, statuses <-chan status) error {
	err := <-s.waited
	late := time.AfterFunc(drainDelay, func() {
		now := time.Now()
		for _, f := range []*os.File{s.stdout, s.stderr, s.status} {
			_ = f.SetReadDeadline(now)
		}
	})
	defer late.Stop()
	<-readers
	<-readers
	if statuses != nil {
		for range statuses {
		}
	}
	return err
}

func (s *supervisor) close() {
	for _, f := range []*os.File{s.stdout, s.stderr, s.control, s.status} {
		f.Close()
	}
}

// readLines hands each line of r to emit, cut at max bytes, until r ends.
// What a carriage return overwrites, as in progress bars, is left out.
func readLines(r io.Reader, max int, alive func(), emit func(string)) {
	if emit == nil {
		emit = func(string) {}
	}
	line := make([]byte, 0, 256)
	cut, returned := false, false
	flush := func() {
		text := string(line)
		if cut {
			text += "…"
		}
		emit(strings.ToValidUTF8(text, "\uFFFD"))
		line, cut, returned = line[:0], false, false
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			alive()
		}
		for _, b := range buf[:n] {
			switch {
			case b == '\n':
				flush()
			case b == '\r':
				returned = true
			default:
				if returned {
					line, cut, returned = line[:0], false, false
				}
				if len(line) < max {
					line = append(line, b)
				} else {
					cut = true
				}
			}
		}
		if err != nil {
			if len(line) > 0 {
				flush()
			}
			return
		}
	}
}

func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(environ(env, "PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && syscall.Access(path, 1) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNotFound, name)
}

func environ(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

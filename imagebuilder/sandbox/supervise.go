package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervisorName is argv[0] of this binary when it is a supervisor.
const supervisorName = "attendant-build"

// The supervisor's further file descriptors, and what the command finds open
// beside 0, 1 and 2: ImageBuilders speak of too big images on descriptor 8
// (openwrt/openwrt include/image-commands.mk, check-size).
const (
	controlFD = 3
	statusFD  = 4
	warningFD = 8
)

// One-byte commands on the control pipe, after the spec. Its end means kill.
const (
	commandTerminate = 'T'
	commandKill      = 'K'
)

// spec is what a supervisor is to run: one line of JSON on the control pipe.
type spec struct {
	Path    string
	Args    []string
	Env     []string
	Dir     string
	Nice    int
	Overlay *overlaySpec

	Hidden, Shown, ReadOnly []string

	Mount, PID, User, Net bool // the namespaces it was given
	Probe                 bool // set up, try the overlay, run nothing
}

func (s *spec) setNamespaces(m namespaceMode) {
	s.Mount, s.PID, s.User, s.Net = m.mount, m.pid, m.user, m.net
}

// overlaySpec is an overlay mount; all paths absolute, without characters
// that mean something in mount options.
type overlaySpec struct {
	Lower, Upper, Work, Merged string
}

// status is what a supervisor tells, as JSON on the status pipe.
type status struct {
	PID    int    // the command was started; of the supervisor's namespace
	Exited bool   // the command ended, with Code or Signal
	Code   int    //
	Signal string //
	Error  string // it could not be run
	Layer  bool   // because the overlay could not be mounted
}

// Init must be called first in main and in the TestMain of packages that run
// commands. It returns at once, except in a process that was started to be a
// supervisor: there it does not return.
func Init() {
	if len(os.Args) == 0 || os.Args[0] != supervisorName {
		return
	}
	// The command's parent-death signal is tied to this thread.
	runtime.LockOSThread()
	report := os.NewFile(statusFD, "status")
	st := supervise(report)
	// Not os.Exit, which runs what instrumented binaries have to do at the
	// end: the race detector sleeps a second there.
	if err := json.NewEncoder(report).Encode(st); err != nil {
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

func supervise(report *os.File) status {
	closeAllOnExec()
	control := bufio.NewReader(os.NewFile(controlFD, "control"))
	line, err := control.ReadBytes('\n')
	if err != nil {
		return status{Error: fmt.Sprintf("no instructions: %v", err)}
	}
	var s spec
	if err := json.Unmarshal(line, &s); err != nil {
		return status{Error: fmt.Sprintf("instructions: %v", err)}
	}
	if err := s.setUp(); err != nil {
		return status{Error: err.Error(), Layer: errors.Is(err, ErrOverlay)}
	}
	if s.Probe {
		if err := s.probe(); err != nil {
			return status{Error: err.Error()}
		}
		return status{Exited: true}
	}
	pid, err := s.start()
	if err != nil {
		return status{Error: fmt.Sprintf("starting %s: %v", s.Args[0], err)}
	}
	_ = json.NewEncoder(report).Encode(status{PID: pid})
	go obey(control, &s, pid)

	st := status{Exited: true}
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return status{Error: fmt.Sprintf("waiting: %v", err)}
		}
		if got != pid {
			continue
		}
		st.Code = ws.ExitStatus()
		if ws.Signaled() {
			st.Signal = ws.Signal().String()
		}
		break
	}
	s.killRest(pid)
	if s.Overlay != nil {
		// Ending the namespace does it too, but maybe a moment later.
		_ = os.Chdir("/")
		_ = unix.Unmount(s.Overlay.Merged, 0)
	}
	return st
}

// closeAllOnExec keeps every descriptor from the command that it is not given
// by name, also those that this program itself inherited.
func closeAllOnExec() {
	if unix.CloseRange(controlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		syscall.CloseOnExec(controlFD)
		syscall.CloseOnExec(statusFD)
		return
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name.Name()); err == nil && fd >= controlFD {
			syscall.CloseOnExec(fd)
		}
	}
}

// setUp gives this process its mounts, priority and mask.
func (s *spec) setUp() error {
	syscall.Umask(0o022)
	if s.Mount {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("making mounts private: %w", err)
		}
		if len(s.Hidden) > 0 {
			if err := hide(s.Hidden, s.Shown); err != nil {
				return fmt.Errorf("hiding what is not the command's: %w", err)
			}
		}
	}
	if s.Overlay != nil {
		if err := s.Overlay.mount(s.User); err != nil {
			return err
		}
	}
	if s.Mount {
		for _, dir := range s.ReadOnly {
			if err := mountReadOnly(dir); err != nil {
				return fmt.Errorf("making %s read-only: %w", dir, err)
			}
		}
	}
	if s.Net {
		if err := loopback(); err != nil {
			return fmt.Errorf("bringing up the loopback interface: %w", err)
		}
	}
	if s.PID && s.Mount {
		// Without it programs see the processes of the parent namespace;
		// containers may forbid it.
		_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if s.Mount {
		if err := keepMounts(); err != nil {
			return err
		}
	}
	if s.User {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return fmt.Errorf("dropping capabilities: %w", err)
		}
		if s.Overlay != nil {
			// In the private view the owner may write what the shared
			// tree has made read-only.
			if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, capDACOverride, 0, 0); err != nil {
				return fmt.Errorf("keeping a capability: %w", err)
			}
		}
	}
	if !s.PID {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("becoming the reaper: %w", err)
		}
	}
	if s.Nice > 0 {
		// The system call returns 20 minus the niceness. Without it a build
		// only runs less politely.
		if level, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, min(20-level+s.Nice, 19))
		}
	}
	return nil
}

// mountReadOnly lays dir over itself, read-only. What its mount forbids already
// has to be forbidden again: in a user namespace the system insists.
func mountReadOnly(dir string) error {
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME
	flags := uintptr(st.Flags) & kept
	return unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|flags, "")
}

func (o *overlaySpec) mount(user bool) error {
	options := "lowerdir=" + o.Lower + ",upperdir=" + o.Upper + ",workdir=" + o.Work
	if user {
		options += ",userxattr"
	}
	if err := unix.Mount("overlay", o.Merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("%w: %w", ErrOverlay, err)
	}
	return nil
}

// probe does in the overlay what builds do: change a file and a folder of the
// lower tree, remove, rename, add.
func (s *spec) probe() error {
	if s.Overlay == nil {
		return nil
	}
	in := func(name string) string { return filepath.Join(s.Overlay.Merged, "folder", name) }
	f, err := os.OpenFile(in("changed"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close(),
		os.Remove(in("removed")),
		os.WriteFile(in("added"), nil, 0o644),
		os.Rename(in("added"), in("changed")),
		os.Chmod(in(""), 0o755))
}

func (s *spec) start() (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	files := make([]uintptr, warningFD+1)
	for i := range files {
		files[i] = ^uintptr(0)
	}
	files[0], files[1], files[2], files[warningFD] = null.Fd(), 1, 2, 2
	return syscall.ForkExec(s.Path, s.Args, &syscall.ProcAttr{
		Dir:   s.Dir,
		Env:   s.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
}

// obey reads commands until the parent closes the pipe or dies.
func obey(control *bufio.Reader, s *spec, pid int) {
	for {
		b, err := control.ReadByte()
		if err == nil && b == commandTerminate {
			_ = syscall.Kill(-pid, syscall.SIGTERM)
			continue
		}
		for {
			s.killAll(pid)
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// killAll sends KILL to everything that the command started.
func (s *spec) killAll(pid int) {
	if s.PID {
		_ = syscall.Kill(-1, syscall.SIGKILL) // all of the namespace but its first process
		return
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	for _, p := range descendants(os.Getpid()) {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// killRest ends what the command left running and reaps it.
func (s *spec) killRest(pid int) {
	for deadline := time.Now().Add(drainDelay); time.Now().Before(deadline); {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return
		case got == 0:
			s.killAll(pid)
			time.Sleep(time.Millisecond)
		}
	}
}

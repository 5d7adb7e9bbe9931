package sandbox

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespaceMode is which namespaces a supervisor gets.
type namespaceMode struct {
	mount, pid, user, net bool
}

// Capabilities (linux/capability.h) that a supervisor in a user namespace
// keeps over its exec: what mounting and copying up in an overlay needs.
const (
	capChown       = 0
	capDACOverride = 1
	capFowner      = 3
	capFsetid      = 4
	capKill        = 5
	capNetAdmin    = 12
	capSysAdmin    = 21
)

func (m namespaceMode) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if m.pid {
		// With the first process the kernel ends its namespace. Without one
		// the supervisor must live to do that; the control pipe's end tells it.
		attr.Pdeathsig = syscall.SIGKILL
	}
	if m.mount {
		attr.Cloneflags |= syscall.CLONE_NEWNS
	}
	if m.pid {
		attr.Cloneflags |= syscall.CLONE_NEWPID
	}
	if m.net {
		attr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if m.user {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		// The same ids inside as outside: to its tools a build by an
		// ordinary user must look like one.
		uid, gid := os.Geteuid(), os.Getegid()
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{capChown, capDACOverride, capFowner, capFsetid, capKill, capSysAdmin}
		if m.net {
			attr.AmbientCaps = append(attr.AmbientCaps, capNetAdmin)
		}
	}
	return attr
}

// namespaces finds, once, the best mode that this system grants.
var namespaces = sync.OnceValue(func() namespaceMode {
	modes := []namespaceMode{{mount: true, pid: true, user: true}}
	if os.Geteuid() == 0 {
		modes = append([]namespaceMode{{mount: true, pid: true}}, modes...)
	}
	for _, mode := range modes {
		if tryMode(mode, &spec{Probe: true, Hidden: []string{os.TempDir()}}) == nil {
			return mode
		}
	}
	return namespaceMode{}
})

// networkNamespaces tells, once, whether commands can be kept from the network.
var networkNamespaces = sync.OnceValue(func() bool {
	mode := namespaces()
	mode.net = true
	return tryMode(mode, &spec{Probe: true}) == nil
})

// loopback brings up the one interface of a network namespace that is new:
// there are programs that talk to themselves.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// tryMode runs a supervisor that only sets itself up, and probes the overlay
// of s if it has one.
func tryMode(mode namespaceMode, s *spec) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.setNamespaces(mode)
	var c Command
	_, err := c.run(ctx, s, mode)
	return err
}

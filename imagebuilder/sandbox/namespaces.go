package sandbox

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"
)

// namespaceMode is which namespaces a supervisor gets.
type namespaceMode struct {
	mount, pid, user bool
}

// Capabilities (linux/capability.h) that a supervisor in a user namespace
// keeps over its exec: what mounting and copying up in an overlay needs.
const (
	capChown       = 0
	capDACOverride = 1
	capFowner      = 3
	capFsetid      = 4
	capKill        = 5
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
	if m.user {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		// The same ids inside as outside: to its tools a build by an
		// ordinary user must look like one.
		uid, gid := os.Geteuid(), os.Getegid()
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{capChown, capDACOverride, capFowner, capFsetid, capKill, capSysAdmin}
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
		if tryMode(mode, &spec{Probe: true}) == nil {
			return mode
		}
	}
	return namespaceMode{}
})

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

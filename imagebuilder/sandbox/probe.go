package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Abilities are what this machine grants commands whose work lies in a given
// folder.
type Abilities struct {
	// Namespaces tells whether commands get PID and mount namespaces of their
	// own; UserNamespace whether that takes a user namespace too.
	Namespaces, UserNamespace bool
	// NoNetwork tells whether commands can be kept from the network.
	NoNetwork bool
	// Overlay tells whether layers can be overlays; OverlayError why not.
	Overlay      bool
	OverlayError error
	// Reflink tells whether copies share blocks with the original.
	Reflink bool
}

// Method is the better way to make layers here.
func (a Abilities) Method() Method {
	if a.Overlay {
		return Overlay
	}
	return Copy
}

// Probe finds out what works with work folders in dir, by trying. It takes
// some 50 ms and leaves nothing behind.
func Probe(dir string) (a Abilities, err error) {
	ns := namespaces()
	a.Namespaces, a.UserNamespace, a.NoNetwork = ns.pid, ns.user, networkNamespaces()
	if err := CheckPath(dir); err != nil {
		return a, err
	}
	scratch, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return a, fmt.Errorf("trying layers: %w", err)
	}
	defer func() { err = errors.Join(err, RemoveAll(scratch)) }()
	lower := filepath.Join(scratch, "lower")
	folder := filepath.Join(lower, "folder")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return a, err
	}
	for _, name := range []string{"changed", "removed"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), 0o444); err != nil {
			return a, err
		}
	}
	if err := os.Chmod(folder, 0o555); err != nil {
		return a, err
	}
	a.Reflink = canReflink(filepath.Join(folder, "changed"), filepath.Join(scratch, "clone"))
	if !ns.mount {
		a.OverlayError = errors.New("no mount namespaces: the system forbids them to this user")
		return a, nil
	}
	layer, err := NewLayer(lower, filepath.Join(scratch, "layer"), Overlay)
	if err != nil {
		return a, err
	}
	a.OverlayError = tryMode(ns, &spec{Probe: true, Overlay: layer.overlay()})
	a.Overlay = a.OverlayError == nil
	return a, nil
}

// OverlayFits tells whether an overlay over the tree lower works for this
// user: in a user namespace only files of the user's own can be changed.
func (a Abilities) OverlayFits(lower string) bool {
	fi, err := os.Stat(lower)
	if err != nil || !a.Overlay {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return !a.UserNamespace || ok && int(st.Uid) == os.Geteuid() && int(st.Gid) == os.Getegid()
}

func canReflink(from, to string) bool {
	src, err := os.Open(from)
	if err != nil {
		return false
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return false
	}
	defer dst.Close()
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

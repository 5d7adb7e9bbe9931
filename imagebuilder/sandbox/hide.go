package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHiddenSize bounds what the empty folders in a hidden one's place take, in
// bytes of memory.
const maxHiddenSize = 1 << 20

// hide covers the files and folders that the command shall not see, each by its
// real path: a folder by an empty one, in which those that are shown are at
// their old places, and a file by the null device. What is not there needs no
// hiding. It has to come before every other mount.
func hide(hidden, shown []string) error {
	dirs, files, err := realPaths(hidden)
	if err != nil {
		return err
	}
	kept := make([]shownDir, 0, len(shown))
	defer func() {
		for _, s := range kept {
			unix.Close(s.fd) //nolint:errcheck // nothing was written
		}
	}()
	for _, path := range shown {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening %s: %w", path, err)
		}
		kept = append(kept, shownDir{path, fd})
	}
	for _, dir := range dirs {
		if err := unix.Mount("hidden", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size="+strconv.Itoa(maxHiddenSize)); err != nil {
			return fmt.Errorf("covering %s: %w", dir, err)
		}
	}
	for _, s := range kept {
		if err := s.show(); err != nil {
			return fmt.Errorf("showing %s: %w", s.path, err)
		}
	}
	for _, dir := range dirs {
		if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("covering %s read-only: %w", dir, err)
		}
	}
	for _, file := range files {
		if err := unix.Mount(os.DevNull, file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("covering %s: %w", file, err)
		}
	}
	// The working folder inherited from the server may be one that is covered.
	return os.Chdir("/")
}

// realPaths resolves links and leaves out what is not there, and what lies in
// a folder that is hidden anyway.
func realPaths(paths []string) (dirs, files []string, err error) {
	for _, path := range paths {
		real, err := filepath.EvalSymlinks(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		info, err := os.Stat(real)
		switch {
		case err != nil:
			return nil, nil, err
		case real == "/":
			return nil, nil, errors.New("the whole file system cannot be hidden")
		case info.IsDir():
			dirs = append(dirs, real)
		default:
			files = append(files, real)
		}
	}
	all := slices.Clone(dirs)
	covered := func(path string) bool {
		return slices.ContainsFunc(all, func(dir string) bool { return strings.HasPrefix(path, dir+"/") })
	}
	slices.Sort(dirs)
	return slices.DeleteFunc(slices.Compact(dirs), covered), slices.DeleteFunc(files, covered), nil
}

// shownDir is a folder as it was before it was hidden.
type shownDir struct {
	path string
	fd   int
}

// show puts the folder at its path again, unless it was not hidden.
func (s shownDir) show() error {
	var was, is unix.Stat_t
	if err := unix.Fstat(s.fd, &was); err != nil {
		return err
	}
	switch err := unix.Stat(s.path, &is); {
	case err == nil && was.Dev == is.Dev && was.Ino == is.Ino:
		return nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	}
	if err := os.MkdirAll(s.path, 0o755); err != nil {
		return err
	}
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(s.fd), s.path, "", unix.MS_BIND|unix.MS_REC, "")
}

// keepMounts takes from what is executed from here on the right to change
// mounts, which root would have: what is hidden stays hidden.
func keepMounts() error {
	if os.Geteuid() != 0 {
		return nil // it goes with the exec
	}
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, capSysAdmin, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping the right to mount: %w", err)
	}
	return nil
}

package upstream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is the seam through which this package writes and asks for space.
type disk struct {
	// write is os.File.Write; tests let it fail as a full disk does.
	write func(f *os.File, p []byte) (int, error)
	// free is how many bytes a folder's file system has for us.
	free func(dir string) (int64, error)
}

func realDisk() disk {
	return disk{write: (*os.File).Write, free: freeBytes}
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking for free space: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// isNoSpace tells a full disk or quota from other failures.
func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// diskWriter writes to a file through the seam.
type diskWriter struct {
	disk disk
	f    *os.File
}

// Write implements io.Writer.
func (w diskWriter) Write(p []byte) (int, error) { return w.disk.write(w.f, p) }

// tempPrefix is how files begin that are not in place yet.
const tempPrefix = ".attendant-"

// writeFile puts a whole, synced file in place: a temporary one beside it is
// renamed, and the folder is synced.
func (d disk) writeFile(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = diskWriter{d, f}.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // not every file system can
		return err
	}
	return nil
}

// syncTree makes everything written to dir's file system durable. One call
// for the whole file system costs less than one for each of an
// ImageBuilder's tens of thousands of files.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

var _ io.Writer = diskWriter{}

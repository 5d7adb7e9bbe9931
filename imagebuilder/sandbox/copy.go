package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CopyTree copies the folder from to the new folder to: files (sharing blocks
// where the file system can), folders and symbolic links, with their times,
// which make depends on. Everything copied is writable for its owner. Other
// kinds of files are an error.
func CopyTree(from, to string) error {
	type folder struct {
		path string
		mode fs.FileMode
		time time.Time
	}
	var folders []folder
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch fi.Mode().Type() {
		case fs.ModeDir:
			folders = append(folders, folder{target, fi.Mode().Perm() | 0o700, fi.ModTime()})
			return os.Mkdir(target, 0o700)
		case fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case 0:
			return copyFile(path, target, fi)
		}
		return fmt.Errorf("%s is neither a file nor a folder nor a link", path)
	})
	// Backwards: what is put into a folder changes its time.
	for i := len(folders) - 1; i >= 0 && err == nil; i-- {
		f := folders[i]
		if err = os.Chmod(f.path, f.mode); err == nil {
			err = os.Chtimes(f.path, f.time, f.time)
		}
	}
	return err
}

func copyFile(from, to string, fi fs.FileInfo) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) != nil {
		_, err = io.Copy(dst, src)
	}
	err = errors.Join(err, dst.Chmod(fi.Mode().Perm()|0o600), dst.Close())
	if err != nil {
		return err
	}
	return os.Chtimes(to, fi.ModTime(), fi.ModTime())
}

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Method is how a private writable view of a read-only tree is made.
type Method string

const (
	// Overlay mounts an overlayfs over the tree in the command's own mount
	// namespace: nothing is copied beforehand.
	Overlay Method = "overlay"
	// Copy copies the tree, sharing blocks where the file system can
	// (FICLONE). Hard links would not do: ImageBuilders rewrite files in
	// place.
	Copy Method = "copy"
)

// ErrPath tells of a path that ImageBuilders or mount options cannot take.
var ErrPath = errors.New("the path holds a character that ImageBuilders cannot take")

// CheckPath tells whether path is absolute and free of what breaks
// ImageBuilders (spaces, and what make, the shell or mount options would read
// as more than a name). The error wraps ErrPath.
func CheckPath(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%w: %q is not absolute", ErrPath, path)
	}
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80, strings.IndexByte("/._-+@", c) >= 0:
		default:
			return fmt.Errorf("%w: %q in %q", ErrPath, c, path)
		}
	}
	return nil
}

// Layer is a private writable view of a read-only tree. Its path is the same
// for every command that runs in it, and changes stay from one to the next.
// One command at a time may use it.
type Layer struct {
	lower, dir string
	method     Method
}

// NewLayer makes a view of the tree lower in the folder dir, which must not
// exist yet. With Overlay the view is there only for commands; use ReadFile
// and WriteFile from outside.
func NewLayer(lower, dir string, method Method) (*Layer, error) {
	for _, path := range []string{lower, dir} {
		if err := CheckPath(path); err != nil {
			return nil, err
		}
	}
	if fi, err := os.Stat(lower); err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a folder", lower)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	l := &Layer{lower: lower, dir: dir, method: method}
	switch method {
	case Overlay:
		for _, sub := range []string{"upper", "work", "tree"} {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
				return nil, err
			}
		}
	case Copy:
		if err := CopyTree(lower, l.Path()); err != nil {
			return nil, fmt.Errorf("copying %s: %w", lower, err)
		}
	default:
		return nil, fmt.Errorf("unknown layer method %q", method)
	}
	return l, nil
}

// Path is where commands find the view.
func (l *Layer) Path() string { return filepath.Join(l.dir, "tree") }

// Method tells how the view is made.
func (l *Layer) Method() Method { return l.method }

func (l *Layer) overlay() *overlaySpec {
	if l.method != Overlay {
		return nil
	}
	return &overlaySpec{
		Lower:  l.lower,
		Upper:  filepath.Join(l.dir, "upper"),
		Work:   filepath.Join(l.dir, "work"),
		Merged: l.Path(),
	}
}

// shown are the folders that a command needs for the view.
func (l *Layer) shown() []string {
	if l.method == Overlay {
		return []string{l.lower, l.dir}
	}
	return []string{l.dir}
}

func (l *Layer) writable() string {
	if l.method == Overlay {
		return filepath.Join(l.dir, "upper")
	}
	return l.Path()
}

// ReadFile reads the file at the relative path name as commands would see it.
// Links out of the view are not followed.
func (l *Layer) ReadFile(name string) ([]byte, error) {
	data, err := readIn(l.writable(), name)
	if l.method == Overlay && errors.Is(err, fs.ErrNotExist) {
		data, err = readIn(l.lower, name)
	}
	return data, err
}

func readIn(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.ReadFile(name)
}

// WriteFile puts a file of mode 0644 at the relative path name of the view,
// over what is there. No command may be running in it.
func (l *Layer) WriteFile(name string, data []byte) error {
	root, err := os.OpenRoot(l.writable())
	if err != nil {
		return err
	}
	defer root.Close()
	if dir := filepath.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.WriteFile(name, data, 0o644)
}

// Remove deletes the view and all changes made in it.
func (l *Layer) Remove() error { return RemoveAll(l.dir) }

// RemoveAll removes path with everything in it, also folders that are
// read-only or closed to their owner, as a copied tree and the work folder of
// an overlay have them.
func RemoveAll(path string) error {
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	walk := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			if fi, err := d.Info(); err == nil && fi.Mode()&0o700 != 0o700 {
				return os.Chmod(name, 0o700)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err = os.RemoveAll(path); err != nil {
		return errors.Join(err, walk)
	}
	return nil
}

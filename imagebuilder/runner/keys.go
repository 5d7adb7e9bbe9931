package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ImageBuilders of the opkg generation sign each image with a key of their own
// (key-build with its certificate; openwrt/openwrt include/image-commands.mk,
// append-metadata), made where there is none. Images that shall be the same
// byte for byte when they are built again need the same key. So it is made
// once, by the first builder, kept in Options.KeysDir, and put into each
// builder after it.
//
// The key is no secret and proves nothing: the build reads it, so a package's
// script could, and no router trusts it. What clients trust is signed outside
// of the build, with a key that builds do not see (Options.Hidden) where the
// system grants them mount namespaces; without, they can read what the server
// can. That is also why it is made here, and not the same everywhere:
// a builder trusts package lists that are signed with it.

const (
	buildKey = "key-build" // begins the names of the key's files
	keysDir  = "keys"      // of public keys, in a builder
)

// buildKey gives the builder in dir its key. run runs make in it.
func (r *Runner) buildKey(dir string, run func(args ...string) (*step, error)) error {
	if _, err := os.Stat(filepath.Join(dir, opkgFeeds)); err != nil {
		return nil // apk's do not sign images
	}
	r.keyMu.Lock()
	defer r.keyMu.Unlock()
	kept := r.o.KeysDir
	if kept != "" {
		if _, err := os.Stat(filepath.Join(kept, buildKey)); err == nil {
			return copyKey(kept, dir)
		}
	}
	before, err := keyFiles(dir)
	if err != nil {
		return err
	}
	if _, err := run("make", "_check_keys"); err != nil {
		return err // an exit code tells of a builder that makes its key later, or none
	}
	after, err := keyFiles(dir)
	if err != nil || kept == "" || !after[buildKey] {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(kept), ".keys-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	for name := range after {
		if before[name] {
			continue
		}
		if err := copyFile(filepath.Join(dir, name), filepath.Join(temp, name)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(kept); err != nil { // without a key it holds nothing
		return err
	}
	return os.Rename(temp, kept)
}

// keyFiles are the files of a builder's own key and all public keys, by their
// paths in it.
func keyFiles(dir string) (map[string]bool, error) {
	files := map[string]bool{}
	for _, folder := range []string{".", keysDir} {
		entries, err := os.ReadDir(filepath.Join(dir, folder))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && (folder == keysDir || strings.HasPrefix(e.Name(), buildKey)) {
				files[filepath.Join(folder, e.Name())] = true
			}
		}
	}
	return files, nil
}

// copyKey puts a kept key into a builder.
func copyKey(kept, dir string) error {
	files, err := keyFiles(kept)
	if err != nil {
		return err
	}
	for name := range files {
		if err := copyFile(filepath.Join(kept, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return nil
}

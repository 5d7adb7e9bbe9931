package feeds

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// ErrAPKMismatch is returned for a package file that is not the one that the
// index describes.
var ErrAPKMismatch = errors.New("it is not the package that the index describes")

// Numbers of the fields of a package, a folder and a file in it
// (alpinelinux/apk-tools src/apk_adb.h).
const (
	apkPaths = 2

	dirFiles = 3

	fileSize   = 3
	fileHash   = 5
	fileTarget = 6 // a link or a device: it has no bytes of its own
)

const (
	maxAPKPaths = 1 << 18 // folders of a package, files of a folder
	maxAPKFiles = 1 << 20 // of a package
)

// VerifyAPK reads an apk v3 package file to its end and tells whether it is
// the package p of a verified index: the length is the one of the index, the
// container's hash is p.Identity, and the size and hash of each file are the
// container's. A nil error says yes; ErrAPKMismatch is among the others.
// Signatures in the package are not needed and not looked at.
func VerifyAPK(r io.Reader, p *Package) error {
	counted := &countingReader{r: io.LimitReader(r, p.Size+1)}
	if err := verifyAPK(counted, p); err != nil {
		return err
	}
	// What is behind the end of the compression belongs to the file, too.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return fmt.Errorf("read the package: %w", err)
	}
	if counted.n != p.Size {
		return fmt.Errorf("not of %d bytes: %w", p.Size, ErrAPKMismatch)
	}
	return nil
}

func verifyAPK(r io.Reader, p *Package) error {
	a, err := newADBReader(r)
	if err != nil {
		return err
	}
	defer a.close()
	if a.schema != adbSchemaPackage {
		return fmt.Errorf("an apk file of schema %q: %w", a.schema, ErrAPKMismatch)
	}
	d, err := a.container()
	if err != nil {
		return err
	}
	if digest := identityOf(len(p.Identity), d.bytes); digest == "" || digest != p.Identity {
		return fmt.Errorf("its description has another hash: %w", ErrAPKMismatch)
	}
	files, err := filesOf(d)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := f.verify(a); err != nil {
			return err
		}
	}
	for {
		kind, _, err := a.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if kind == adbBlockFile {
			return &SyntaxError{Offset: a.at, Err: fmt.Errorf("more files than its description has: %w", ErrAPKMismatch)}
		}
	}
}

// identityOf hashes a container as an index does that has so long hashes.
func identityOf(length int, container string) string {
	switch length {
	case 20:
		return string(adbDigest(adbSHA256160, container))
	case 32:
		return string(adbDigest(adbSHA256, container))
	case 64:
		return string(adbDigest(adbSHA512, container))
	}
	return ""
}

// digestOf returns the hash that has so many bytes, nil for none.
func digestOf(length int) func() hash.Hash {
	switch length {
	case 20:
		return sha1.New
	case 32:
		return sha256.New
	case 64:
		return sha512.New
	}
	return nil
}

// apkFile is a file in a package whose bytes follow in a block of their own.
type apkFile struct {
	path, file uint32 // places in the description, from 1 on
	size       int64
	hash       string
}

// filesOf lists the files whose bytes follow, in their order.
func filesOf(d *adbData) ([]apkFile, error) {
	var files []apkFile
	paths := d.list(d.list(d.root(), pkgFields).value(apkPaths), maxAPKPaths)
	for i := 1; i <= paths.n && d.err == nil; i++ {
		dir := d.list(d.list(paths.value(i), pkgFields).value(dirFiles), maxAPKPaths)
		for j := 1; j <= dir.n && d.err == nil; j++ {
			f := d.list(dir.value(j), pkgFields)
			size := f.number(fileSize)
			if size == 0 || f.value(fileTarget) != 0 {
				continue
			}
			if size > 1<<40 || len(files) >= maxAPKFiles {
				return nil, &SyntaxError{Offset: d.base + int64(f.at), Err: fmt.Errorf("a file of %d bytes, the %dth: %w", size, len(files)+1, ErrTooLarge)}
			}
			files = append(files, apkFile{path: uint32(i), file: uint32(j), size: int64(size), hash: f.text(fileHash)})
		}
	}
	return files, d.err
}

// verify reads the next block as this file's bytes.
func (f apkFile) verify(a *adbReader) error {
	kind := uint32(adbBlockSignature)
	var length int64
	var err error
	for kind == adbBlockSignature {
		if kind, length, err = a.next(); errors.Is(err, io.EOF) {
			return &SyntaxError{Offset: a.at, Err: ErrTruncated}
		} else if err != nil {
			return err
		}
	}
	at := a.at
	var place [8]byte
	if length != f.size+int64(len(place)) {
		return &SyntaxError{Offset: at, Err: fmt.Errorf("a file of another size: %w", ErrAPKMismatch)}
	}
	if err := a.full(place[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(place[:]) != f.path || binary.LittleEndian.Uint32(place[4:]) != f.file {
		return &SyntaxError{Offset: at, Err: fmt.Errorf("another file: %w", ErrAPKMismatch)}
	}
	hash := digestOf(len(f.hash))
	if hash == nil {
		return &SyntaxError{Offset: at, Err: fmt.Errorf("a file without a hash: %w", ErrAPKMismatch)}
	}
	sum := hash()
	if _, err := io.Copy(sum, a); err != nil {
		return err
	}
	if string(sum.Sum(nil)) != f.hash {
		return &SyntaxError{Offset: at, Err: fmt.Errorf("a file with another hash: %w", ErrAPKMismatch)}
	}
	return nil
}

// countingReader counts what was read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

package upstream

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxEntries bounds an archive's files; real ImageBuilders have some 30,000.
	maxEntries = 500_000
	// maxWindow bounds the memory that decompression takes, in bytes; OpenWrt
	// packs with zstd -20, whose window has 128 MB at most.
	maxWindow = 128 << 20
)

var (
	// errArchive: an archive is damaged or holds what no ImageBuilder should.
	errArchive = errors.New("the archive is not usable")
	// errTooBig: it holds more than extraction.maxBytes.
	errTooBig = errors.New("unpacked it is too big")
)

func badArchive(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errArchive}, args...)...)
}

// extraction unpacks one ImageBuilder archive.
type extraction struct {
	disk       disk
	maxBytes   int64 // of all files
	maxEntries int
	report     func(done, total int64) // bytes of the archive; may be nil
	sum        string                  // the archive's, to be checked on the way; "" if it has been

	root  *os.Root
	kinds map[string]byte // path to tar type of everything that was made
	bytes int64
	times []dirTime
	buf   []byte
}

type dirTime struct {
	name string
	time time.Time
}

// run unpacks the archive (.tar.zst or .tar.xz, by its first bytes) below dir,
// which must be empty, and returns the name of its only top folder. Nothing is
// made outside dir, nothing is written through a link, and only files, folders
// and links are made, none with set-id bits. An archive with another sum than
// x.sum is errMismatch. What an ended run leaves behind is the caller's to
// remove.
func (x *extraction) run(ctx context.Context, archive, dir string) (top string, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	counted := &countingReader{ctx: ctx, r: f, total: info.Size(), report: x.report}
	h := sha256.New()
	if x.sum != "" {
		counted.r = io.TeeReader(f, h)
	}
	plain, closePlain, err := decompress(bufio.NewReaderSize(counted, 256<<10))
	if err != nil {
		return "", err
	}
	defer closePlain()
	top, err = x.untar(plain, dir)
	if err != nil || x.sum == "" {
		return top, err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != x.sum { // untar has read to the end
		return "", fmt.Errorf("unpacking %s: its sum is %s, not %s: %w", archive, sum, x.sum, errMismatch)
	}
	return top, nil
}

// untar is run for an archive that is not compressed.
func (x *extraction) untar(plain io.Reader, dir string) (top string, err error) {
	if x.root, err = os.OpenRoot(dir); err != nil {
		return "", err
	}
	defer x.root.Close()
	x.kinds = map[string]byte{}
	x.buf = make([]byte, 256<<10)
	t := tar.NewReader(plain)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", archiveError(err)
		}
		if n >= x.maxEntries {
			return "", badArchive("it has more than %d entries", x.maxEntries)
		}
		if err := x.entry(t, h, &top); err != nil {
			return "", err
		}
	}
	// The tar's end mark is not the compressed stream's: what follows must be
	// whole too.
	if n, err := io.CopyBuffer(io.Discard, io.LimitReader(plain, 16<<20), x.buf); err != nil {
		return "", archiveError(err)
	} else if n == 16<<20 {
		return "", badArchive("it goes on after its end")
	}
	if top == "" || x.kinds[top] != tar.TypeDir {
		return "", badArchive("it has no top folder")
	}
	for i := len(x.times) - 1; i >= 0; i-- {
		if err := x.root.Chtimes(x.times[i].name, x.times[i].time, x.times[i].time); err != nil {
			return "", err
		}
	}
	return top, nil
}

// archiveError tells damage from the machine's own failures and from being
// ended.
func archiveError(err error) error {
	var pathErr *fs.PathError
	if errors.Is(err, errArchive) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &pathErr) {
		return err
	}
	return fmt.Errorf("%w: %w", errArchive, err)
}

func (x *extraction) entry(t *tar.Reader, h *tar.Header, top *string) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := entryName(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return badArchive("its root is not a folder")
		}
		return nil
	}
	first, _, below := strings.Cut(name, "/")
	if *top == "" {
		if !validTop(first) {
			return badArchive("its top folder is called %.100q", first)
		}
		*top = first
	}
	if first != *top || !below && h.Typeflag != tar.TypeDir {
		return badArchive("it has more than one top folder: %.100q beside %.100q", first, *top)
	}
	if err := x.parents(name); err != nil {
		return err
	}
	if kind, exists := x.kinds[name]; exists && (kind != tar.TypeDir || h.Typeflag != tar.TypeDir) {
		return badArchive("%.200q is in it twice", name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return x.folder(name, h)
	case tar.TypeReg:
		return x.file(t, name, h)
	case tar.TypeSymlink:
		return x.symlink(name, h.Linkname)
	case tar.TypeLink:
		return x.hardlink(name, h.Linkname)
	}
	return badArchive("%.200q is neither file, folder nor link", name)
}

// entryName cleans an entry's name and refuses what leads outside.
func entryName(name string) (string, error) {
	if len(name) > 4096 || strings.IndexByte(name, 0) >= 0 {
		return "", badArchive("%.100q is no usable name", name)
	}
	clean := strings.TrimSuffix(name, "/")
	for strings.HasPrefix(clean, "./") {
		clean = clean[2:]
	}
	if clean == "" && name != "" {
		clean = "."
	}
	if !fs.ValidPath(clean) {
		return "", badArchive("%.100q leads outside", name)
	}
	return clean, nil
}

// validTop tells whether s can be an ImageBuilder's top folder: part of paths
// in makefiles.
func validTop(s string) bool {
	return validPath(s) && !strings.Contains(s, "/") && s[0] != '.' && s != markerName
}

// parents sees to it that everything above name is a folder that we made.
func (x *extraction) parents(name string) error {
	for i := 0; i < len(name); i++ {
		if name[i] != '/' {
			continue
		}
		dir := name[:i]
		kind, exists := x.kinds[dir]
		if exists && kind != tar.TypeDir {
			return badArchive("%.200q is below something that is no folder", name)
		}
		if !exists {
			if err := x.mkdir(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *extraction) mkdir(name string) error {
	if len(x.kinds) >= 2*x.maxEntries {
		return badArchive("it has too many folders")
	}
	if err := x.root.Mkdir(name, 0o755); err != nil {
		return err
	}
	x.kinds[name] = tar.TypeDir
	return nil
}

func (x *extraction) folder(name string, h *tar.Header) error {
	if x.kinds[name] != tar.TypeDir {
		if err := x.mkdir(name); err != nil {
			return err
		}
	}
	// Filling a folder changes its time: set at the end.
	x.times = append(x.times, dirTime{name, h.ModTime})
	return nil
}

func (x *extraction) file(t *tar.Reader, name string, h *tar.Header) error {
	if h.Size < 0 || h.Size > x.maxBytes-x.bytes {
		return badArchive("%w: it has more than %d bytes", errTooBig, x.maxBytes)
	}
	mode := os.FileMode(0o644)
	if h.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	x.kinds[name] = tar.TypeReg
	n, err := io.CopyBuffer(struct{ io.Writer }{diskWriter{x.disk, f}}, struct{ io.Reader }{t}, x.buf)
	x.bytes += n
	if err == nil {
		err = f.Chmod(mode) // whatever the umask
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return archiveError(err)
	}
	return x.root.Chtimes(name, h.ModTime, h.ModTime) // make looks at times
}

// symlink keeps a link that stays inside, or is absolute: ImageBuilders link
// to the host's tools.
func (x *extraction) symlink(name, target string) error {
	if target == "" || len(target) > 4096 || strings.IndexByte(target, 0) >= 0 {
		return badArchive("the link %.200q leads nowhere", name)
	}
	if !path.IsAbs(target) && !fs.ValidPath(path.Join(path.Dir(name), target)) {
		return badArchive("the link %.200q leads outside", name)
	}
	if err := x.root.Symlink(target, name); err != nil {
		return err
	}
	x.kinds[name] = tar.TypeSymlink
	return nil
}

// hardlink links to a file that came before.
func (x *extraction) hardlink(name, target string) error {
	clean, err := entryName(target)
	if err != nil {
		return err
	}
	if x.kinds[clean] != tar.TypeReg {
		return badArchive("the link %.200q leads to no file of the archive", name)
	}
	if err := x.root.Link(clean, name); err != nil {
		return err
	}
	x.kinds[name] = tar.TypeReg
	return nil
}

// decompress reads .zst or .xz, told apart by their first bytes.
func decompress(r *bufio.Reader) (plain io.Reader, done func(), err error) {
	// A block's header may hold two sizes of up to nine bytes each before
	// what xzDictionary looks for.
	magic, err := r.Peek(64)
	if err != nil && len(magic) < 6 {
		return nil, nil, archiveError(err)
	}
	switch {
	case string(magic[:4]) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, nil, archiveError(err)
		}
		return z, z.Close, nil
	case string(magic[:6]) == "\xfd7zXZ\x00":
		if size, ok := xzDictionary(magic); !ok || size > maxWindow {
			return nil, nil, badArchive("unpacking it would take too much memory")
		}
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, nil, archiveError(err)
		}
		return z, func() {}, nil
	}
	return nil, nil, badArchive("it is neither zstd nor xz")
}

// xzDictionary reads the dictionary's size out of the first block's header
// (xz file format 1.2.1, sections 3.1 and 5.3.1): the reader would allocate
// whatever is written there. Of what is written in later blocks' headers there
// is no bound but the reader's: its configuration has only a least size. What
// is unpacked has the sum that the operator or sha256sums gives, though.
func xzDictionary(b []byte) (int64, bool) {
	const header = 12
	if len(b) < header+2 {
		return 0, false
	}
	if b[header] == 0 { // no block at all
		return 0, true
	}
	flags, at := b[header+1], header+2
	for _, flag := range []byte{0x40, 0x80} { // compressed and uncompressed size
		if flags&flag == 0 {
			continue
		}
		for at < len(b) && b[at]&0x80 != 0 {
			at++
		}
		at++
	}
	if at+2 >= len(b) || flags&0x3f != 0 || b[at] != 0x21 || b[at+1] != 1 || b[at+2] > 40 {
		return 0, false // not one LZMA2 filter alone
	}
	bits := b[at+2]
	if bits == 40 {
		return 1<<32 - 1, true
	}
	return int64(2|bits&1) << (bits/2 + 11), true
}

// countingReader reports how much of an archive has been read, and ends when
// its context does.
type countingReader struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	report      func(done, total int64)
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.report != nil {
		c.report(c.done, c.total)
	}
	return n, err
}

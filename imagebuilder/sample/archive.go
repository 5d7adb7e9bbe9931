package sample

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// member is a file of an archive.
type member struct {
	name string // relative, slashes
	mode int64
	data []byte
	link string // target of a symbolic link
}

// tarball makes a tar of members below prefix ("" or ending in a slash), with
// the folders they need, all owned by root and of one time.
func tarball(members []member, prefix string, mtime time.Time) ([]byte, error) {
	var buf bytes.Buffer
	size := 4 << 10
	for _, m := range members {
		size += len(m.data) + 2<<10
	}
	buf.Grow(size)
	w := tar.NewWriter(&buf)
	made := map[string]bool{".": true, "": true}
	header := func(h tar.Header) error {
		h.Uname, h.Gname, h.ModTime, h.Format = "root", "root", mtime, tar.FormatGNU
		return w.WriteHeader(&h)
	}
	var folder func(string) error
	folder = func(name string) error {
		if made[name] {
			return nil
		}
		made[name] = true
		if err := folder(path.Dir(name)); err != nil {
			return err
		}
		return header(tar.Header{Typeflag: tar.TypeDir, Name: prefix + name + "/", Mode: 0o755})
	}
	if prefix != "" {
		if err := header(tar.Header{Typeflag: tar.TypeDir, Name: prefix, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	for _, m := range members {
		if err := folder(path.Dir(m.name)); err != nil {
			return nil, err
		}
		h := tar.Header{Typeflag: tar.TypeReg, Name: prefix + m.name, Mode: m.mode, Size: int64(len(m.data))}
		if m.link != "" {
			h = tar.Header{Typeflag: tar.TypeSymlink, Name: prefix + m.name, Mode: 0o777, Linkname: m.link}
		}
		if err := header(h); err != nil {
			return nil, fmt.Errorf("tar header of %s: %w", m.name, err)
		}
		if _, err := w.Write(m.data); err != nil {
			return nil, fmt.Errorf("tar member %s: %w", m.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// gzipped packs data. What is small is only stored: that is quick, and the
// sample's builder reads it without another program.
func gzipped(data []byte) ([]byte, error) {
	if len(data) > 1<<20 {
		return gzippedAt(data, gzip.BestSpeed)
	}
	out := make([]byte, 0, len(data)+len(data)/0xffff*5+32)
	out = append(out, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff)
	for rest := data; ; {
		n := min(len(rest), 0xffff)
		final := byte(0)
		if n == len(rest) {
			final = 1
		}
		out = append(out, final)
		out = binary.LittleEndian.AppendUint16(out, uint16(n))
		out = binary.LittleEndian.AppendUint16(out, ^uint16(n))
		out = append(out, rest[:n]...)
		if rest = rest[n:]; final == 1 {
			break
		}
	}
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(out, uint32(len(data))), nil
}

func gzippedAt(data []byte, level int) ([]byte, error) {
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, level)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// zstandard packs data, the same on every machine.
func zstandard(data []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(data, nil), nil
}

package feeds

import (
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Apk v3 files are ADB files: "ADB." and a schema, then blocks that begin at
// multiples of 8 bytes. The first block is a container of values, the others
// sign it or are files' bytes. The whole may be compressed. Facts from
// alpinelinux/apk-tools, src/adb.h, src/adb.c and src/adb_comp.c.
const (
	adbSchemaIndex   = "indx"
	adbSchemaPackage = "pckg"

	adbBlockData      = 0 // the container
	adbBlockSignature = 1
	adbBlockFile      = 2
	adbBlockExtended  = 3 // its header has the kind and a 64-bit size

	adbCompressionNone    = 0
	adbCompressionDeflate = 1
	adbCompressionZstd    = 2
)

// adbReader reads an ADB file block by block. Offsets in its errors are those
// of the uncompressed file.
type adbReader struct {
	schema string

	r       *bufio.Reader
	close   func()
	at      int64 // how far the file is read
	end     int64 // where the present block's payload ends
	padding int64 // after it
}

// newADBReader reads the header. close must be called when done.
func newADBReader(r io.Reader) (*adbReader, error) {
	a := &adbReader{r: bufio.NewReader(r), close: func() {}}
	magic, err := a.r.Peek(4)
	if err != nil || string(magic[:3]) != "ADB" {
		return nil, fmt.Errorf("it does not begin as an apk v3 file: %w", ErrNotIndex)
	}
	compression := byte(adbCompressionNone)
	switch magic[3] {
	case '.':
	case 'd':
		compression = adbCompressionDeflate
		a.r.Discard(4)
	case 'c':
		header, err := a.r.Peek(6) // magic, algorithm, level
		if err != nil {
			return nil, &SyntaxError{Offset: 4, Err: ErrTruncated}
		}
		compression = header[4]
		a.r.Discard(6)
	default:
		return nil, &SyntaxError{Offset: 3, Err: fmt.Errorf("unknown compression %q", magic[3])}
	}
	switch compression {
	case adbCompressionNone:
	case adbCompressionDeflate:
		inflated := flate.NewReader(a.r)
		a.close = func() { inflated.Close() }
		a.r = bufio.NewReader(inflated)
	case adbCompressionZstd:
		plain, err := zstd.NewReader(a.r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxIndex))
		if err != nil {
			return nil, fmt.Errorf("starting to uncompress: %w", err)
		}
		a.close = plain.Close
		a.r = bufio.NewReader(plain)
	default:
		return nil, &SyntaxError{Offset: 4, Err: fmt.Errorf("unknown compression %d", compression)}
	}
	header := make([]byte, 8)
	if err := a.full(header); err != nil {
		a.close()
		return nil, err
	}
	if string(header[:4]) != "ADB." {
		a.close()
		return nil, fmt.Errorf("no apk v3 file within the compression: %w", ErrNotIndex)
	}
	a.schema = string(header[4:])
	a.end = a.at
	return a, nil
}

// full fills p, or fails with the offset at which the file ends or breaks.
func (a *adbReader) full(p []byte) error {
	n, err := io.ReadFull(a.r, p)
	a.at += int64(n)
	return a.broken(err)
}

// broken says where reading failed.
func (a *adbReader) broken(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &SyntaxError{Offset: a.at, Err: ErrTruncated}
	default:
		return &SyntaxError{Offset: a.at, Err: err}
	}
}

// next goes to the next block, whatever is left of the present one, and
// returns its kind and the length of its payload. io.EOF is the end.
func (a *adbReader) next() (kind uint32, length int64, err error) {
	skip := a.end + a.padding - a.at
	n, err := io.CopyN(io.Discard, a.r, skip)
	a.at += n
	if err != nil {
		return 0, 0, a.broken(err)
	}
	begin := a.at
	var header [16]byte
	n1, err := io.ReadFull(a.r, header[:4])
	a.at += int64(n1)
	if errors.Is(err, io.EOF) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, a.broken(err)
	}
	head := binary.LittleEndian.Uint32(header[:])
	kind, size := head>>30, uint64(head&0x3fffffff)
	if kind == adbBlockExtended {
		if err := a.full(header[4:]); err != nil {
			return 0, 0, err
		}
		kind, size = head&0x3fffffff, binary.LittleEndian.Uint64(header[8:])
	}
	headed := uint64(a.at - begin)
	if size < headed || size > 1<<48 || kind > adbBlockFile {
		return 0, 0, &SyntaxError{Offset: begin, Err: fmt.Errorf("no block can have %d bytes and kind %d", size, kind)}
	}
	length = int64(size - headed)
	a.end = a.at + length
	a.padding = int64(-size & 7)
	return kind, length, nil
}

// Read reads from the present block's payload.
func (a *adbReader) Read(p []byte) (int, error) {
	if left := a.end - a.at; left == 0 {
		return 0, io.EOF
	} else if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := a.r.Read(p)
	a.at += int64(n)
	if errors.Is(err, io.EOF) && a.at < a.end {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && n == 0 {
		return 0, a.broken(err)
	}
	return n, nil
}

// container reads the block that must come first: the values.
func (a *adbReader) container() (*adbData, error) {
	begin := a.at
	kind, length, err := a.next()
	if errors.Is(err, io.EOF) {
		return nil, &SyntaxError{Offset: begin, Err: ErrTruncated}
	}
	if err != nil {
		return nil, err
	}
	switch {
	case kind != adbBlockData:
		return nil, &SyntaxError{Offset: begin, Err: fmt.Errorf("a block of kind %d comes first", kind)}
	case length < 8:
		return nil, &SyntaxError{Offset: begin, Err: fmt.Errorf("a container of %d bytes", length)}
	case length > MaxIndex:
		return nil, &SyntaxError{Offset: begin, Err: fmt.Errorf("a container of %d bytes: %w", length, ErrTooLarge)}
	}
	d := &adbData{base: a.at}
	var text strings.Builder
	if _, err := io.Copy(&text, a); err != nil { // grows with what is there, not with what is declared
		return nil, err
	}
	d.bytes = text.String()
	if d.bytes[0] != 0 {
		return nil, &SyntaxError{Offset: d.base, Err: fmt.Errorf("unknown version %d of the format", d.bytes[0])}
	}
	return d, nil
}

// adbData is a container. A value is a number of 32 bits: four for its type,
// the others for where in the container it is, or a small number itself.
// Strings that are read from it are parts of it. The first value that cannot
// be read sets err; what is read from there on is nothing.
type adbData struct {
	bytes string
	base  int64 // the offset of bytes in the file
	err   error
}

// Types of values.
const (
	adbTypeMask   = 0xf0000000
	adbValueMask  = 0x0fffffff
	adbSpecial    = 0x00000000 // null, true, false
	adbInt        = 0x10000000
	adbInt32      = 0x20000000
	adbInt64      = 0x30000000
	adbBlob8      = 0x80000000
	adbBlob16     = 0x90000000
	adbBlob32     = 0xa0000000
	adbTypeArray  = 0xd0000000 // apk writes arrays as objects, but reads both
	adbTypeObject = 0xe0000000
)

func (d *adbData) fail(at int, format string, args ...any) {
	if d.err == nil {
		d.err = &SyntaxError{Offset: d.base + int64(at), Err: fmt.Errorf(format, args...)}
	}
}

// has tells whether n bytes are at that place, and fails if not.
func (d *adbData) has(at, n int) bool {
	if d.err != nil {
		return false
	}
	if n > len(d.bytes) || at > len(d.bytes)-n {
		d.fail(at, "%d bytes outside of the container", n)
		return false
	}
	return true
}

func (d *adbData) uint32(at int) uint32 {
	s := d.bytes[at : at+4]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

func (d *adbData) root() uint32 { return d.uint32(4) }

// text reads a value of bytes; null is "".
func (d *adbData) text(v uint32) string {
	at, head := int(v&adbValueMask), 0
	switch v & adbTypeMask {
	case adbSpecial:
		return ""
	case adbBlob8:
		head = 1
	case adbBlob16:
		head = 2
	case adbBlob32:
		head = 4
	default:
		d.fail(at, "a value of type %#x instead of text", v>>28)
		return ""
	}
	if !d.has(at, head) {
		return ""
	}
	length := 0
	for i := head; i > 0; i-- {
		length = length<<8 | int(d.bytes[at+i-1])
	}
	if !d.has(at+head, length) {
		return ""
	}
	return d.bytes[at+head : at+head+length]
}

// number reads a number; null is 0.
func (d *adbData) number(v uint32) uint64 {
	at := int(v & adbValueMask)
	switch v & adbTypeMask {
	case adbSpecial:
	case adbInt:
		return uint64(at)
	case adbInt32:
		if d.has(at, 4) {
			return uint64(d.uint32(at))
		}
	case adbInt64:
		if d.has(at, 8) {
			return uint64(d.uint32(at)) | uint64(d.uint32(at+4))<<32
		}
	default:
		d.fail(at, "a value of type %#x instead of a number", v>>28)
	}
	return 0
}

// adbList is an object or an array: values by number, from 1 on.
type adbList struct {
	data *adbData
	at   int
	n    int // how many
}

// list reads an object or an array of at most so many values; null is an
// empty one.
func (d *adbData) list(v uint32, most int) adbList {
	at := int(v & adbValueMask)
	switch v & adbTypeMask {
	case adbSpecial:
		return adbList{data: d}
	case adbTypeArray, adbTypeObject:
	default:
		d.fail(at, "a value of type %#x instead of a list", v>>28)
		return adbList{data: d}
	}
	if !d.has(at, 4) {
		return adbList{data: d}
	}
	n := int(d.uint32(at)) - 1
	if n < 0 || n > most {
		d.fail(at, "a list of %d values: %w", n, ErrTooLarge)
		return adbList{data: d}
	}
	if !d.has(at, 4*(n+1)) {
		return adbList{data: d}
	}
	return adbList{data: d, at: at, n: n}
}

// value is the i-th value, null if there is none.
func (l adbList) value(i int) uint32 {
	if i > l.n {
		return 0
	}
	return l.data.uint32(l.at + 4*i)
}

func (l adbList) text(i int) string   { return l.data.text(l.value(i)) }
func (l adbList) number(i int) uint64 { return l.data.number(l.value(i)) }

package feeds

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

// Bounds of one index. The largest real feed has about 9,000 packages, 40,000
// relations and 6 MB.
const (
	MaxPackages  = 200_000
	MaxRelations = 1_000_000
	MaxIndex     = 32 << 20 // in bytes, unpacked
)

// maxOdd bounds the names that an index remembers of entries it skipped.
const maxOdd = 1000

// ReadPackages reads a Packages file, plain or gzipped, of the given file
// name. Errors are *SyntaxError. It takes no more memory than a few times the
// bytes that are really there, and none for bytes beyond MaxIndex.
func ReadPackages(file string, data []byte) (*Index, error) {
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		text, unpacked, err := unpack(data)
		if err != nil {
			return nil, &SyntaxError{File: file, Offset: unpacked, Err: err}
		}
		data = text
	}
	x, err := ParsePackages(data)
	var at *SyntaxError
	if errors.As(err, &at) {
		at.File = file
	}
	return x, err
}

// unpack returns the unpacked bytes, or how many there are before the fault.
// It reads in pieces, because a buffer that grows would take several times as
// much.
func unpack(packed []byte) (text []byte, unpacked int64, err error) {
	const piece = 1 << 20
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrNotIndex, err)
	}
	var pieces [][]byte
	p := make([]byte, 0, min(max(8*len(packed), 4096), piece))
	for {
		n, err := z.Read(p[len(p):cap(p)])
		p = p[:len(p)+n]
		unpacked += int64(n)
		switch {
		case unpacked > MaxIndex:
			return nil, MaxIndex, fmt.Errorf("more than %d bytes: %w", MaxIndex, ErrTooLarge)
		case err == io.EOF && pieces == nil:
			return p, unpacked, nil
		case err == io.EOF:
			return bytes.Join(append(pieces, p), nil), unpacked, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, unpacked, fmt.Errorf("%w: %w", ErrTruncated, err)
		case err != nil:
			return nil, unpacked, fmt.Errorf("unpacking: %w", err)
		}
		if len(p) == cap(p) {
			pieces = append(pieces, p)
			p = make([]byte, 0, piece)
		}
	}
}

// ParsePackages reads an opkg Packages file: paragraphs of "Field: value",
// continued by lines that begin with a space, separated by empty lines
// (openwrt/openwrt scripts/ipkg-make-index.sh). Entries without a usable name
// or version are counted and skipped; the empty file is an empty index.
// Errors are *SyntaxError.
func ParsePackages(data []byte) (*Index, error) {
	if len(data) > MaxIndex {
		return nil, &SyntaxError{Offset: MaxIndex, Err: fmt.Errorf("more than %d bytes: %w", MaxIndex, ErrTooLarge)}
	}
	p := parser{index: &Index{}}
	if len(bytes.TrimSpace(data)) == 0 {
		return p.index, nil
	}
	// Packages never have fewer lines than this has paragraphs.
	p.index.Packages = make([]Package, 0, min(bytes.Count(data, []byte("\nPackage:"))+1, MaxPackages))
	text := string(data)
	at := 0
	for at < len(text) && p.err == nil {
		end := strings.IndexByte(text[at:], '\n')
		next := at + end + 1
		if end < 0 {
			end, next = len(text)-at, len(text)
		}
		p.line(strings.TrimSuffix(text[at:at+end], "\r"))
		if p.err == nil {
			at = next
		}
	}
	p.end()
	if p.err == nil && p.fields > 0 && len(p.index.Packages) == 0 && p.index.Skipped == 0 {
		p.err = ErrNotIndex
	}
	if p.err != nil {
		return nil, &SyntaxError{Offset: int64(at), Err: p.err}
	}
	return p.index, nil
}

type parser struct {
	index     *Index
	pkg       Package
	started   bool
	last      string   // the field that a continuation line belongs to
	more      []string // continuation lines of the description
	fields    int
	arena     []Relation // from which the packages' lists are cut
	relations int
	err       error
}

func (p *parser) line(line string) {
	if strings.TrimSpace(line) == "" {
		p.end()
		return
	}
	if line[0] == ' ' || line[0] == '\t' {
		if p.last == "Description" {
			p.more = append(p.more, line[1:])
		}
		return
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || strings.ContainsAny(name, " \t<>") {
		if p.fields == 0 {
			p.err = fmt.Errorf("line %.40q: %w", line, ErrNotIndex)
		}
		p.last = ""
		return
	}
	p.fields++
	p.field(name, strings.TrimSpace(value))
}

func (p *parser) field(name, value string) {
	p.started = true
	p.last = name
	switch name {
	case "Package":
		p.pkg.Name = value
	case "Version":
		p.pkg.Version = value
	case "ABIVersion":
		p.pkg.ABIVersion = value
	case "Architecture":
		p.pkg.Architecture = value
	case "Depends":
		p.pkg.Depends = p.list(p.relationsOf(value))
	case "Pre-Depends":
		p.pkg.Depends = p.list(slices.Concat(p.pkg.Depends, p.relationsOf(value)))
	case "Provides":
		p.pkg.Provides = p.list(appendProvided(nil, value))
	case "Conflicts":
		p.pkg.Conflicts = p.list(p.relationsOf(value))
	case "Replaces":
		p.pkg.Replaces = p.list(appendProvided(nil, value))
	case "Recommends", "Suggests":
		p.pkg.Unclear = true
	case "Alternatives":
		p.pkg.Alternatives = value
	case "Section":
		p.pkg.Section = value
	case "Essential":
		p.pkg.Essential = value == "yes"
	case "Status":
		p.status(strings.Fields(value))
	case "Filename":
		p.pkg.Filename = value
	case "Size":
		p.pkg.Size = parseSize(value)
	case "Installed-Size":
		p.pkg.InstalledSize = parseSize(value)
	case "SHA256sum":
		p.pkg.SHA256 = strings.ToLower(value)
	case "Description":
		p.pkg.Description = value
	}
}

// status reads what opkg keeps of installed packages, and some feeds have by
// accident: whether the package is wanted, flags, and its state. One that is
// wanted, preferred or there opkg believes to be so, and one that is held and
// to be removed it puts in place of another version.
func (p *parser) status(words []string) {
	if len(words) < 3 {
		return
	}
	p.pkg.Held = words[1] == "hold"
	if words[0] == "install" || words[0] == "deinstall" && p.pkg.Held || words[1] != "hold" && words[1] != "ok" && words[1] != "user" || words[2] != "not-installed" {
		p.pkg.Unclear = true
	}
}

// relationsOf reads the list of a Depends or Conflicts field into scratch
// space, and marks the package if opkg would read it otherwise: it wants one
// space before the version, and takes "name *" for all that provide name.
func (p *parser) relationsOf(value string) []Relation {
	if p.relations+strings.Count(value, ",")+strings.Count(value, "|") >= MaxRelations {
		p.err = fmt.Errorf("more than %d relations: %w", MaxRelations, ErrTooLarge)
		return nil
	}
	list := appendRelations(p.arena[len(p.arena):], value)
	n := 0
	for part := range strings.SplitSeq(value, ",") {
		if strings.TrimSpace(part) != "" {
			n += 1 + strings.Count(part, "|")
		}
	}
	if n != len(list) || strings.IndexByte(value, '*') >= 0 {
		p.pkg.Unclear = true
	}
	for i := strings.IndexByte(value, '('); i > 0; {
		// " (>= 1) (<< 2)": opkg reads the first only, and so does parseRelation.
		if value[i-1] != ' ' || i > 1 && value[i-2] == ' ' {
			p.pkg.Unclear = true
		}
		next := strings.IndexByte(value[i+1:], '(')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return list
}

// list keeps relations in the arena, so that a package's lists cost no
// allocation of their own.
func (p *parser) list(relations []Relation) []Relation {
	n := len(relations)
	if n == 0 {
		return nil
	}
	if p.relations += n; p.relations > MaxRelations {
		p.err = fmt.Errorf("more than %d relations: %w", MaxRelations, ErrTooLarge)
		return nil
	}
	if cap(p.arena)-len(p.arena) < n {
		p.arena = make([]Relation, 0, max(n, 1024))
	}
	at := len(p.arena)
	p.arena = p.arena[:at+n]
	kept := p.arena[at : at+n : at+n]
	copy(kept, relations)
	return kept
}

func (p *parser) end() {
	if !p.started || p.err != nil {
		return
	}
	pkg := p.pkg
	if len(p.more) > 0 {
		pkg.Description += "\n" + strings.Join(p.more, "\n")
	}
	p.pkg, p.started, p.last, p.more = Package{}, false, "", p.more[:0]
	x := p.index
	if !imagebuilder.ValidPackageName(pkg.Name) || pkg.Version == "" || !imagebuilder.ValidPackageVersion(pkg.Version) {
		x.Skipped++
		if pkg.Name != "" && len(x.odd) < maxOdd {
			x.odd = append(x.odd, pkg.Name)
		}
		return
	}
	if len(x.Packages) >= MaxPackages {
		p.err = fmt.Errorf("more than %d packages: %w", MaxPackages, ErrTooLarge)
		return
	}
	if x.Architecture == "" && pkg.Architecture != "all" {
		x.Architecture = pkg.Architecture
	}
	x.Packages = append(x.Packages, pkg)
}

// parseSize reads a size in bytes; 0 is unknown.
func parseSize(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

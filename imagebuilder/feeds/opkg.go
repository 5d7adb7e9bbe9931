package feeds

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

// MaxPackages bounds the entries of one index; the largest real feed has
// about 9,000.
const MaxPackages = 200_000

// ErrNotIndex is returned for bytes that are no package index at all, such as
// a web server's error page.
var ErrNotIndex = errors.New("not a package index")

// ParsePackages reads an opkg Packages file: paragraphs of "Field: value",
// continued by lines that begin with a space, separated by empty lines
// (openwrt/openwrt scripts/ipkg-make-index.sh). Entries without a usable name
// or version are counted and skipped; the empty file is an empty index.
func ParsePackages(data []byte) (*Index, error) {
	x := &Index{}
	if len(bytes.TrimSpace(data)) == 0 {
		return x, nil
	}
	text := string(data)
	var p parser
	fields := 0
	for len(text) > 0 {
		line := text
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = ""
		}
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" {
			if err := p.end(x); err != nil {
				return nil, err
			}
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if p.last == "Description" {
				p.more = append(p.more, line[1:])
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(name, " \t<>") {
			if fields == 0 {
				return nil, fmt.Errorf("line %.40q: %w", line, ErrNotIndex)
			}
			p.last = ""
			continue
		}
		fields++
		p.field(name, strings.TrimSpace(value))
	}
	if err := p.end(x); err != nil {
		return nil, err
	}
	if fields > 0 && len(x.Packages) == 0 && x.Skipped == 0 {
		return nil, ErrNotIndex
	}
	return x, nil
}

type parser struct {
	pkg     Package
	started bool
	last    string   // the field that a continuation line belongs to
	more    []string // continuation lines of the description
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
		p.pkg.Depends = ParseRelations(value)
	case "Provides":
		p.pkg.Provides = ParseRelations(value)
	case "Conflicts":
		p.pkg.Conflicts = ParseRelations(value)
	case "Section":
		p.pkg.Section = value
	case "Essential":
		p.pkg.Essential = value == "yes"
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

func (p *parser) end(x *Index) error {
	if !p.started {
		return nil
	}
	pkg := p.pkg
	if len(p.more) > 0 {
		pkg.Description += "\n" + strings.Join(p.more, "\n")
	}
	*p = parser{}
	if !imagebuilder.ValidPackageName(pkg.Name) || pkg.Version == "" || !imagebuilder.ValidPackageVersion(pkg.Version) {
		x.Skipped++
		return nil
	}
	if len(x.Packages) >= MaxPackages {
		return fmt.Errorf("more than %d packages in one index", MaxPackages)
	}
	if x.Architecture == "" && pkg.Architecture != "all" {
		x.Architecture = pkg.Architecture
	}
	x.Packages = append(x.Packages, pkg)
	return nil
}

// parseSize reads a size in bytes; 0 is unknown.
func parseSize(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

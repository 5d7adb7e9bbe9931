package feeds

import "strings"

// Package is one package of a feed, in the words of opkg's Packages file.
type Package struct {
	Name          string     // as installed, with its ABI suffix: "libubox20240329"
	Version       string     //
	ABIVersion    string     // the suffix of Name, "" for most
	Architecture  string     // "all" or a package architecture
	Depends       []Relation //
	Provides      []Relation //
	Conflicts     []Relation //
	Section       string     //
	Essential     bool       //
	Filename      string     // relative to the feed
	Size          int64      // of the file, in bytes
	InstalledSize int64      // in bytes
	SHA256        string     // of the file, lower-case hex
	Description   string     // lines separated by "\n"

	// What only apk has.
	Replaces         []Relation // whose files it may overwrite
	InstallIf        []Relation // it is installed as soon as all of these are
	Recommends       []Relation //
	ProviderPriority int        // of several that provide a name, the highest is taken
	Origin           string     // the source it was built from: "feeds/base/dropbear"
	Tags             []string   // "openwrt:section=net"
	Identity         string     // raw bytes of the hash that ParseADB explains
}

// BaseName is the name without its ABI suffix: what clients ask for and what
// a manifest with STRIP_ABI=1 has.
func (p *Package) BaseName() string {
	if base := strings.TrimSuffix(p.Name, p.ABIVersion); base != "" {
		return base
	}
	return p.Name
}

// Relation names a package, perhaps bound to versions: "kernel (= 6.6.68-r1)".
type Relation struct {
	Name string
	// Op is "", "=", ">=", "<=", ">", "<" or, of opkg only, ">>" or "<<". Of
	// apk only are "~", "<~" and ">~", which compare as many parts of a
	// version as Version has, and the "!" before an operator in InstallIf.
	Op      string
	Version string // "" without Op
}

// String writes a relation as a Packages file has it.
func (r Relation) String() string {
	if r.Op == "" {
		return r.Name
	}
	return r.Name + " (" + r.Op + " " + r.Version + ")"
}

// Index is the list of packages of one feed.
type Index struct {
	// Architecture is the first of its packages' that is not "all", or what
	// index.json says; "" if there is none.
	Architecture string
	Packages     []Package
	// ABIFree tells that the packages are called by their base names already
	// (index.json from version 2).
	ABIFree bool
	// Skipped counts entries that made no sense, such as those without a
	// name, which real feeds hold.
	Skipped int
}

// Versions returns the version of every package by its base name. Of packages
// that share one, the last counts, as in the reference server.
func (x *Index) Versions() map[string]string {
	versions := make(map[string]string, len(x.Packages))
	for i := range x.Packages {
		p := &x.Packages[i]
		versions[p.BaseName()] = p.Version
	}
	return versions
}

// ParseRelations reads a list as in "libc, kmod-foo (>= 1.0)". What is no
// relation is dropped; of alternatives ("a | b"), which OpenWrt does not use,
// the first counts.
func ParseRelations(s string) []Relation {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	relations := make([]Relation, 0, strings.Count(s, ",")+1)
	for part := range strings.SplitSeq(s, ",") {
		part, _, _ = strings.Cut(part, "|")
		name, rest, bound := strings.Cut(part, "(")
		r := Relation{Name: strings.TrimSpace(name)}
		if r.Name == "" || strings.ContainsAny(r.Name, " \t)") {
			continue
		}
		if bound {
			rest, _, _ = strings.Cut(rest, ")")
			rest = strings.TrimSpace(rest)
			n := 0
			for n < len(rest) && strings.IndexByte("<>=", rest[n]) >= 0 {
				n++
			}
			version := strings.TrimSpace(rest[n:])
			if n == 0 || n > 2 || version == "" || strings.ContainsAny(version, " \t(") {
				continue
			}
			r.Op, r.Version = rest[:n], version
		}
		relations = append(relations, r)
	}
	return relations
}

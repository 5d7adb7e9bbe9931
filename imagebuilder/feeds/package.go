package feeds

import (
	"strings"
	"unsafe"
)

// Package is one package of a feed, in the words of opkg's Packages file.
type Package struct {
	Name          string     // as installed, with its ABI suffix: "libubox20240329"
	Version       string     //
	ABIVersion    string     // the suffix of Name, "" for most
	Architecture  string     // "all" or a package architecture
	Depends       []Relation //
	Provides      []Relation //
	Conflicts     []Relation //
	Replaces      []Relation // whose place, or with apk whose files, it may take
	Alternatives  string     // as written: "300:/usr/sbin/arptables:/usr/sbin/xtables-nft-multi, …"
	Section       string     //
	Essential     bool       //
	Held          bool       // "Status: … hold …": opkg prefers it among those that provide the same
	Unclear       bool       // has something that is not read: Recommends, Suggests, "name *", an odd Status
	Filename      string     // relative to the feed
	Size          int64      // of the file, in bytes
	InstalledSize int64      // in bytes
	SHA256        string     // of the file, lower-case hex
	Description   string     // lines separated by "\n"

	// What only apk has.
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
	Or      bool   // an alternative to the relation before it: the b of "a | b"
}

// String writes a relation as a Packages file has it, without its "| ".
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
	// NamesOnly tells that nothing but names and versions is known
	// (index.json), so that nothing can be said of what depends on what.
	NamesOnly bool
	// Skipped counts entries that made no sense, such as those without a
	// name, which real feeds hold.
	Skipped int
	// odd are the names of skipped entries that have one: nobody may say of
	// them that they are in no feed.
	odd []string
}

// Memory estimates what the index keeps, in bytes.
func (x *Index) Memory() int64 {
	n := len(x.Packages) * int(unsafe.Sizeof(Package{}))
	for i := range x.Packages {
		p := &x.Packages[i]
		relations := len(p.Depends) + len(p.Provides) + len(p.Conflicts) + len(p.Replaces) + len(p.InstallIf) + len(p.Recommends)
		n += relations*int(unsafe.Sizeof(Relation{})) + len(p.Name) + len(p.Version) + len(p.Filename) + len(p.SHA256) +
			len(p.Description) + len(p.Alternatives) + len(p.Origin) + len(p.Identity)
	}
	// The fields are parts of larger texts, which are kept as a whole.
	return int64(n) * 4 / 3
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

// ParseRelations reads a list as in "libc, kmod-foo (>= 1.0), a | b". What is
// no relation is dropped.
func ParseRelations(s string) []Relation {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	return appendRelations(make([]Relation, 0, strings.Count(s, ",")+1), s)
}

// appendRelations appends the relations of s to list.
func appendRelations(list []Relation, s string) []Relation {
	for part := range strings.SplitSeq(s, ",") {
		or := false
		for option := range strings.SplitSeq(part, "|") {
			if r, ok := parseRelation(option); ok {
				r.Or = or
				or = true
				list = append(list, r)
			}
		}
	}
	return list
}

// parseRelation reads "name" or "name (>= version)".
func parseRelation(s string) (Relation, bool) {
	name, rest, bound := strings.Cut(s, "(")
	r := Relation{Name: strings.TrimSpace(name)}
	if r.Name == "" || strings.ContainsAny(r.Name, " \t)") {
		return Relation{}, false
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
			return Relation{}, false
		}
		r.Op, r.Version = rest[:n], version
	}
	return r, true
}

// appendProvided appends the names of a Provides list. opkg parts them at
// spaces as well as commas ("foo bar" are two) and knows no versions in it.
func appendProvided(list []Relation, s string) []Relation {
	for part := range strings.SplitSeq(s, ",") {
		if r, ok := parseRelation(part); ok {
			list = append(list, r)
			continue
		}
		for name := range strings.FieldsSeq(part) {
			if !strings.ContainsAny(name, "()|") {
				list = append(list, Relation{Name: name})
			}
		}
	}
	return list
}

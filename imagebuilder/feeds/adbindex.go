package feeds

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

// maxRelations bounds the relations of one kind of one package; real ones have
// up to some hundred.
const maxRelations = 1 << 14

// Numbers of the fields of a package's description, of a relation and of an
// index (alpinelinux/apk-tools src/apk_adb.h).
const (
	pkgName          = 1
	pkgVersion       = 2
	pkgHashes        = 3
	pkgDescription   = 4
	pkgArch          = 5
	pkgOrigin        = 7
	pkgInstalledSize = 12
	pkgFileSize      = 13
	pkgPriority      = 14
	pkgDepends       = 15
	pkgProvides      = 16
	pkgReplaces      = 17
	pkgInstallIf     = 18
	pkgRecommends    = 19
	pkgLayer         = 20
	pkgTags          = 21
	pkgFields        = 64 // more than any version of the format has

	relName    = 1
	relVersion = 2
	relMatch   = 3

	indexPackages = 2
	indexNaming   = 3
)

// Bits of a relation's match.
const (
	matchEqual    = 1
	matchLess     = 2
	matchGreater  = 4
	matchAny      = matchEqual | matchLess | matchGreater
	matchFuzzy    = 8
	matchConflict = 16
)

// Tags that OpenWrt's packages carry (openwrt/openwrt include/package-pack.mk).
const (
	tagABI     = "openwrt:abiversion="
	tagSection = "openwrt:section="
)

// archNamedAll is an architecture that is called "all", as packages of feeds
// made by hand have it: apk installs none of them.
const archNamedAll = `"all"`

// apkNaming is how a feed's packages are called if its index does not say.
const apkNaming = "${name}-${version}.apk"

// ParseADB reads apk-tools v3's packages.adb: plain ("ADB."), deflated ("ADBd")
// or with a compression header ("ADBc"; deflate or zstd). Signatures are not
// looked at: see [VerifyADB]. Numbers and places that make no sense are an
// error with the offset in the uncompressed file. Entries without a usable
// name or version, and those that apk itself would not install or that
// attendant cannot understand, are counted and skipped.
//
// Dependencies that begin with "!" become Conflicts; in InstallIf they keep
// their "!", at the beginning of Op. An architecture of "noarch" becomes "all";
// one called "all", which apk takes for any other, gets quotes.
//
// The index has no hash of a package's file. Its hash, in Identity, is one of
// the package's first block: the container of what the package says about
// itself, which names size and SHA-256 of every file in it. So a package is
// verified by its length, this block's hash, and each file's hash: [VerifyAPK].
func ParseADB(data []byte) (*Index, error) {
	a, err := newADBReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer a.close()
	if a.schema != adbSchemaIndex {
		return nil, fmt.Errorf("an apk file of schema %q: %w", a.schema, ErrNotIndex)
	}
	d, err := a.container()
	if err != nil {
		return nil, err
	}
	return readADBIndex(d)
}

func readADBIndex(d *adbData) (*Index, error) {
	root := d.list(d.root(), pkgFields)
	naming := root.text(indexNaming)
	if naming == "" {
		naming = apkNaming
	}
	list := d.list(root.value(indexPackages), MaxPackages)
	if d.err != nil {
		return nil, d.err
	}
	x := &Index{Packages: make([]Package, 0, list.n)}
	r := adbIndexReader{
		adbData: d, naming: naming, left: min(MaxRelations, len(d.bytes)/4),
		relations: map[uint32]relationLists{}, tags: map[uint32][]string{},
	}
	for i := 1; i <= list.n; i++ {
		p, ok := r.pkg(list.value(i))
		if d.err != nil {
			return nil, fmt.Errorf("package %d of %d: %w", i, list.n, d.err)
		}
		if !ok {
			x.Skipped++
			continue
		}
		if x.Architecture == "" && p.Architecture != "all" && p.Architecture != archNamedAll {
			x.Architecture = p.Architecture
		}
		x.Packages = append(x.Packages, p)
	}
	return x, nil
}

// adbIndexReader keeps the lists that were read, since apk writes equal ones once.
type adbIndexReader struct {
	*adbData
	naming    string
	left      int // relations and tags that may still come
	relations map[uint32]relationLists
	tags      map[uint32][]string
}

// relationLists is one list of relations, taken apart.
type relationLists struct {
	wanted, conflicts []Relation
	strange           bool // one of them cannot be understood
}

// pkg reads one entry. It is not ok if it must be skipped.
func (r *adbIndexReader) pkg(v uint32) (p Package, ok bool) {
	o := r.list(v, pkgFields)
	depends := r.related(o.value(pkgDepends), false)
	provides := r.related(o.value(pkgProvides), false)
	replaces := r.related(o.value(pkgReplaces), false)
	installIf := r.related(o.value(pkgInstallIf), true)
	recommends := r.related(o.value(pkgRecommends), false)
	p = Package{
		Name: o.text(pkgName), Version: o.text(pkgVersion), Architecture: o.text(pkgArch), Origin: o.text(pkgOrigin),
		Depends: depends.wanted, Conflicts: depends.conflicts, Provides: provides.wanted, Replaces: replaces.wanted,
		InstallIf: installIf.wanted, Recommends: recommends.wanted,
		Size: adbSize(o.number(pkgFileSize)), InstalledSize: adbSize(o.number(pkgInstalledSize)),
		ProviderPriority: int(uint16(o.number(pkgPriority))), // apk keeps 16 bits
		Identity:         o.text(pkgHashes), Description: o.text(pkgDescription),
		Tags: r.tagged(o.value(pkgTags)),
	}
	layer := o.number(pkgLayer)
	for _, tag := range p.Tags {
		if abi, found := strings.CutPrefix(tag, tagABI); found && abi != p.Name && strings.HasSuffix(p.Name, abi) {
			p.ABIVersion = abi
		}
		if section, found := strings.CutPrefix(tag, tagSection); found {
			p.Section = section
		}
	}
	if !imagebuilder.ValidPackageName(p.Name) || p.Version == "" || !imagebuilder.ValidPackageVersion(p.Version) ||
		p.Architecture != "" && !imagebuilder.ValidArch(p.Architecture) || layer != 0 || digestOf(len(p.Identity)) == nil ||
		depends.strange || provides.strange || installIf.strange || len(provides.conflicts) > 0 {
		return p, false
	}
	switch p.Architecture {
	case "noarch":
		p.Architecture = "all"
	case "all":
		p.Architecture = archNamedAll
	}
	p.Filename = apkFilename(r.naming, &p)
	return p, true
}

// adbSize is a size in bytes; one that nothing can have is unknown: 0.
func adbSize(n uint64) int64 {
	if n > math.MaxInt64 {
		return 0
	}
	return int64(n)
}

// related reads a list of relations.
func (r *adbIndexReader) related(v uint32, keepConflicts bool) relationLists {
	key := v
	if keepConflicts {
		key = ^v // its own entry: no value of a list has this type
	}
	if found, ok := r.relations[key]; ok || v == 0 {
		return found
	}
	list := r.list(v, maxRelations)
	if !r.spend(list) {
		return relationLists{}
	}
	var got relationLists
	got.wanted = make([]Relation, 0, list.n)
	for i := 1; i <= list.n && r.err == nil; i++ {
		o := r.list(list.value(i), pkgFields)
		relation := Relation{Name: o.text(relName), Version: o.text(relVersion)}
		match := o.number(relMatch)
		conflict := match&matchConflict != 0
		match &^= matchConflict
		known := true
		if relation.Op, known = matchOp(match); relation.Version == "" {
			relation.Op, known = "", true
		}
		if !known || !validRelation(relation) {
			got.strange = true
			continue
		}
		if conflict && keepConflicts {
			relation.Op = "!" + relation.Op
		}
		if conflict && !keepConflicts {
			got.conflicts = append(got.conflicts, relation)
		} else {
			got.wanted = append(got.wanted, relation)
		}
	}
	got.wanted = clipped(got.wanted)
	got.conflicts = clipped(got.conflicts)
	r.relations[key] = got
	return got
}

func clipped(relations []Relation) []Relation {
	if len(relations) == 0 {
		return nil
	}
	return relations[:len(relations):len(relations)]
}

// spend counts a list against the bound, which keeps lists that overlap from
// becoming more than the file can hold.
func (r *adbIndexReader) spend(list adbList) bool {
	if r.left -= list.n; r.left < 0 {
		r.fail(list.at, "more relations than there can be: %w", ErrTooLarge)
	}
	return r.err == nil
}

// tagged reads a list of tags.
func (r *adbIndexReader) tagged(v uint32) []string {
	if found, ok := r.tags[v]; ok || v == 0 {
		return found
	}
	list := r.list(v, maxRelations)
	if !r.spend(list) {
		return nil
	}
	tags := make([]string, 0, list.n)
	for i := 1; i <= list.n; i++ {
		tags = append(tags, list.text(i))
	}
	r.tags[v] = tags
	return tags
}

// matchOp returns the operator of a relation that has a version.
func matchOp(match uint64) (op string, ok bool) {
	switch match {
	case 0, matchEqual:
		return "=", true
	case matchLess:
		return "<", true
	case matchLess | matchEqual:
		return "<=", true
	case matchGreater:
		return ">", true
	case matchGreater | matchEqual:
		return ">=", true
	case matchFuzzy | matchEqual:
		return "~", true
	case matchFuzzy | matchLess | matchEqual:
		return "<~", true
	case matchFuzzy | matchGreater | matchEqual:
		return ">~", true
	}
	return "", false // such as "><", a package by its hash, which no feed has
}

// validRelation tells whether r can be told to people and programs. Names of
// relations may hold more than names of packages: "so:libc.so.6", "cmd:ip".
func validRelation(r Relation) bool {
	if r.Name == "" || len(r.Name) > 2*imagebuilder.MaxNameLength || len(r.Version) > imagebuilder.MaxNameLength {
		return false
	}
	for i := 0; i < len(r.Name); i++ {
		if r.Name[i] <= ' ' || r.Name[i] > '~' || strings.IndexByte("<>=()|", r.Name[i]) >= 0 {
			return false
		}
	}
	return imagebuilder.ValidPackageVersion(r.Version)
}

// apkFilename applies an index's naming of packages, as in
// "${name}-${version}.apk" or "${arch}/${name}_${version}.${hash:8}.apk". It
// returns "" for one that leads elsewhere than into the feed's own folder.
func apkFilename(naming string, p *Package) string {
	if naming == apkNaming {
		return p.Name + "-" + p.Version + ".apk"
	}
	var name strings.Builder
	for naming != "" {
		before, rest, found := strings.Cut(naming, "${")
		name.WriteString(before)
		if !found {
			break
		}
		variable, after, closed := strings.Cut(rest, "}")
		variable, length, cut := strings.Cut(variable, ":")
		value := map[string]string{
			"name": p.Name, "version": p.Version, "arch": p.Architecture, "hash": hex.EncodeToString([]byte(p.Identity)),
		}[variable]
		if variable == "arch" {
			switch value {
			case "all":
				value = "noarch"
			case archNamedAll:
				value = "all"
			}
		}
		if cut {
			n, err := strconv.Atoi(length)
			if err != nil || n < 0 {
				return ""
			}
			value = value[:min(n, len(value))]
		}
		if value == "" || !closed {
			return ""
		}
		name.WriteString(value)
		naming = after
	}
	if !validFeedPath(name.String()) {
		return ""
	}
	return name.String()
}

// validFeedPath tells whether a file of that name lies in a feed's own folder.
func validFeedPath(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	for i := 0; i < len(name); i++ {
		if name[i] <= ' ' || name[i] > '~' || strings.IndexByte(`\:?#%"'`, name[i]) >= 0 && name[i] != ':' {
			return false
		}
	}
	return !strings.Contains(name, "://")
}

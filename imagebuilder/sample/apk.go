package sample

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
)

// matchConflict is the match of a dependency that must not be met.
const matchConflict = 0x17

// pkginfo writes what index and package say about a package, in the order of
// apk's fields. identity is the package's hash, fileSize 0 within the package.
func (b *built) pkginfo(a *adb, identity []byte, fileSize int) uint32 {
	type relation struct {
		name, version string
		match         uint32
	}
	var depends, provides []relation
	for _, d := range b.depends {
		depends = append(depends, relation{name: d.name, version: d.version})
	}
	for _, name := range b.conflicts {
		depends = append(depends, relation{name: name, match: matchConflict})
	}
	for _, name := range b.provides {
		p := relation{name: name}
		if b.standsFor[name] {
			p.version = b.version
		}
		provides = append(provides, p)
	}
	provides = append(provides, relation{name: b.base + "-any"})
	relations := func(rs []relation) uint32 {
		slices.SortFunc(rs, func(x, y relation) int { return cmp.Or(strings.Compare(x.name, y.name), int(x.match)-int(y.match)) })
		var values []uint32
		for _, r := range rs {
			var match uint32
			if r.match != 0 {
				match = a.number(r.match)
			}
			values = append(values, a.collect(a.text(r.name), a.text(r.version), match))
		}
		return a.collect(values...)
	}
	var tags []uint32
	if b.abi != "" {
		tags = append(tags, a.text("openwrt:abiversion="+b.abi))
	}
	tags = append(tags, a.text("openwrt:section="+b.section))
	if b.cpe != "" {
		tags = append(tags, a.text("openwrt:cpe="+b.cpe))
	}
	arch := b.arch
	if arch == "all" {
		arch = "noarch"
	}
	var size uint32
	if fileSize > 0 {
		size = a.number(uint32(fileSize))
	}
	id := typeBlob8 | a.placeNew(append([]byte{byte(len(identity))}, identity...), 1, "") // rewritten later
	return a.collect(a.text(b.name), a.text(b.version), id, a.text(b.text), a.text(arch), a.text(b.license),
		a.text("feeds/"+b.feed+"/"+b.base), a.text("The sample distribution <sample@localhost>"), a.text("https://openwrt.org/"), 0, 0,
		a.number(uint32(b.installed)), size, 0, relations(depends), relations(provides), 0, 0, 0, 0, a.collect(tags...))
}

// buildAPK makes an apk v3 package: its description, its folders and files,
// its script, then the files' bytes.
func buildAPK(p *pkg, r *release, t *target) (*built, error) {
	b := &built{pkg: p, filename: fmt.Sprintf("%s-%s.apk", p.name, p.version)}
	files := contents(p, r, t)
	var names bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&names, "/%s\n", f.name)
		b.installed += len(f.data)
	}
	files = append(files, member{name: "lib/apk/packages/" + p.name + ".list", mode: 0o644, data: names.Bytes()})
	folders := map[string][]member{"": nil}
	for _, f := range files {
		dir := path.Dir(f.name)
		for d := dir; d != "."; d = path.Dir(d) {
			folders[d] = slices.Clip(folders[d])
		}
		if dir == "." {
			dir = ""
		}
		folders[dir] = append(folders[dir], f)
	}

	a := newADB()
	acl := func(mode int64) uint32 { return a.collect(a.number(uint32(mode)), a.text("root"), a.text("root")) }
	var dirs []uint32
	var data [][]byte
	for i, dir := range sortedKeys(folders) {
		members := folders[dir]
		slices.SortFunc(members, func(x, y member) int { return strings.Compare(x.name, y.name) })
		var infos []uint32
		for j, f := range members {
			hash := sha256.Sum256(f.data)
			infos = append(infos, a.collect(a.text(path.Base(f.name)), acl(f.mode), a.number(uint32(len(f.data))), a.number(uint32(r.epoch)), a.blob(hash[:])))
			if len(f.data) > 0 {
				place := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(i+1)), uint32(j+1))
				data = append(data, block(blockData, append(place, f.data...)))
			}
		}
		dirs = append(dirs, a.collect(a.text(dir), acl(0o755), a.collect(infos...)))
	}
	identity := make([]byte, 20)
	info := b.pkginfo(a, identity, 0)
	paths := a.collect(dirs...)
	scripts := a.collect(0, 0, a.blob(postinstContent(p)))
	container := a.finish(a.collect(info, paths, scripts))
	// The package's unique id is the hash of the container in which it is zero.
	zeroed := sha256.Sum256(container)
	copy(identity, zeroed[:])
	at := bytes.Index(container, append([]byte{20}, make([]byte, 20)...))
	if at < 0 {
		return nil, fmt.Errorf("no place for the unique id")
	}
	copy(container[at+1:], identity)
	whole := sha256.Sum256(container)
	b.identity = whole[:]

	var err error
	b.data, err = adbFile(schemaPackage, b.installed > 1<<20, append([][]byte{block(blockADB, container)}, data...)...)
	if err != nil {
		return nil, err
	}
	b.sum = sum(b.data)
	return b, nil
}

func sortedKeys(m map[string][]member) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// apkIndex makes a signed packages.adb.
func apkIndex(pkgs []*built) ([]byte, error) {
	a := newADB()
	var infos []uint32
	for _, b := range pkgs {
		infos = append(infos, b.pkginfo(a, b.identity, len(b.data)))
	}
	container := a.finish(a.collect(0, a.collect(infos...)))
	sig, err := signADB(schemaIndex, container)
	if err != nil {
		return nil, err
	}
	return adbFile(schemaIndex, true, block(blockADB, container), block(blockSig, sig))
}

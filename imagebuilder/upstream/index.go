package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// commonFeeds are OpenWrt's own, in the order of its feeds.conf.
var commonFeeds = []string{"base", "luci", "packages", "routing", "telephony"}

const maxFeeds = 64

// archIndex is the packages of one architecture, of all feeds.
type archIndex struct {
	digest   string
	reply    []byte // of ArchIndex
	feeds    []string
	packages int
	lists    []*packageList // of feeds, in their order
	listed   bool           // there is a list for each of them
	sums     string         // blob of sha256sums, "" for none
}

// TargetIndex is the reply of /json/v1/{path}/targets/{target}/index.json:
// architecture and versions of the target's own packages, those of its kernel
// included, without ABI suffixes. The errors are CodeNotFound for an unknown
// path, CodeUnsupportedTarget and CodeUpstreamUnavailable.
func (u *Upstream) TargetIndex(ctx context.Context, path, target string) ([]byte, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	version, ok := u.VersionForPath(path)
	if !ok {
		return nil, imagebuilder.Errorf(imagebuilder.CodeNotFound, "There is no release at %s.", path)
	}
	d, _, _, err := u.coreFor(ctx, version, target)
	if err != nil {
		return nil, err
	}
	c, _, err := d.get(ctx)
	if err != nil {
		return nil, unavailable(fmt.Sprintf("%s of %s", target, version), err)
	}
	return c.index, nil
}

// ArchIndex is the reply of /json/v1/{path}/packages/{arch}-index.json: the
// versions of all feeds' packages without ABI suffixes. The errors are
// CodeNotFound for an unknown path or architecture, and
// CodeUpstreamUnavailable.
func (u *Upstream) ArchIndex(ctx context.Context, path, arch string) ([]byte, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	version, ok := u.VersionForPath(path)
	if !ok {
		return nil, imagebuilder.Errorf(imagebuilder.CodeNotFound, "There is no release at %s.", path)
	}
	list, p, err := u.targetsOf(ctx, version)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(slices.Collect(maps.Values(list)), arch) {
		return nil, imagebuilder.Errorf(imagebuilder.CodeNotFound, "No target of %s has the architecture %s.", version, arch)
	}
	a, _, err := u.archDocument(version, p.path, arch).get(ctx)
	if err != nil {
		return nil, unavailable(fmt.Sprintf("the packages of %s in %s", arch, version), err)
	}
	return a.reply, nil
}

// archKey is what an architecture's document is called on disk.
type archKey struct{ Version, Path, Arch string }

// String implements fmt.Stringer.
func (k archKey) String() string {
	text, _ := json.Marshal(k) // of strings it cannot fail
	return "packages " + string(text)
}

func (u *Upstream) archDocument(version, path, arch string) *document[archIndex] {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.archDocumentLocked(version, path, arch)
}

func (u *Upstream) archDocumentLocked(version, path, arch string) *document[archIndex] {
	key := archKey{version, path, arch}.String()
	d := u.archs[key]
	if d == nil {
		d = &document[archIndex]{u: u, key: key, interval: u.interval(version), evictable: true, used: u.o.Now()}
		d.build = func(s *session) (*archIndex, error) { return u.buildArch(s, path, arch) }
		u.adoptKept(key, d.adopt)
		u.archs[key] = d
	}
	return d
}

// adopt makes the document that a kept record belongs to; u.mu is held.
func (u *Upstream) adopt(key string) {
	if text, ok := strings.CutPrefix(key, "target "); ok {
		var k coreKey
		if json.Unmarshal([]byte(text), &k) == nil && k.String() == key && validPath(k.Path) && imagebuilder.ValidTarget(k.Target) {
			u.coreDocument(k.Version, k.Path, k.Target, k.Arch)
		}
	}
	if text, ok := strings.CutPrefix(key, "packages "); ok {
		var k archKey
		if json.Unmarshal([]byte(text), &k) == nil && k.String() == key && validPath(k.Path) && imagebuilder.ValidArch(k.Arch) {
			u.archDocumentLocked(k.Version, k.Path, k.Arch)
		}
	}
	if path, ok := strings.CutPrefix(key, devicesKey); ok && validPath(path) {
		u.devices.documentLocked(path)
	}
}

// buildTargetIndex reads the target's own packages and those of its kernel.
func (u *Upstream) buildTargetIndex(s *session, c *core, base string, sums Sums) error {
	own, err := u.packageIndex(s, base, "packages", sums)
	if err != nil {
		return err
	}
	kmods, known, err := u.kernelIndex(s, c.profiles.LinuxKernel, base, sums)
	if err != nil {
		return err
	}
	reply := struct {
		Architecture string            `json:"architecture"`
		Packages     map[string]string `json:"packages"`
	}{c.arch, map[string]string{}}
	if own.names != nil {
		maps.Copy(reply.Packages, own.names.Versions())
		if own.names.Architecture != "" {
			reply.Architecture = own.names.Architecture
		}
	}
	if kmods.names != nil {
		maps.Copy(reply.Packages, kmods.names.Versions())
	}
	c.indexDigest = own.digest + " " + kmods.digest
	c.lists = []*packageList{own.list}
	c.listed = own.list != nil && known
	if kmods.names != nil {
		c.lists = append(c.lists, kmods.list)
		c.listed = c.listed && kmods.list != nil
	}
	c.index, err = json.Marshal(reply)
	return err
}

// kernelIndex reads the kernel modules where they are kept apart from the
// other packages: in 24.10 and later, in 23.05 from 23.05.6 on. It is not
// known when there are several such folders and nothing tells which.
func (u *Upstream) kernelIndex(s *session, k LinuxKernel, base string, sums Sums) (x folderIndex, known bool, err error) {
	dir := ""
	if k.Version != "" && k.Release != "" && k.Vermagic != "" {
		dir = "kmods/" + k.Version + "-" + k.Release + "-" + k.Vermagic
	} else {
		// profiles.json does not tell: if sums name one folder, that is it.
		for name := range sums {
			parts := strings.Split(name, "/")
			if len(parts) != 3 || parts[0] != "kmods" {
				continue
			}
			found := "kmods/" + parts[1]
			if dir != "" && dir != found {
				return folderIndex{}, false, nil
			}
			dir = found
		}
	}
	if dir == "" || strings.Count(dir, "/") != 1 || !validPath(base+"/"+dir) {
		return folderIndex{}, true, nil
	}
	x, err = u.packageIndex(s, base, dir, sums)
	return x, true, err
}

// folderIndex is what is known of the packages in one folder; the zero value
// is nothing.
type folderIndex struct {
	names  *feeds.Index // names and versions at least
	list   *packageList // nil where upstream has index.json only
	digest string       // of all that was read
}

// packageList is the list from which the package manager installs, as it is
// held.
type packageList struct {
	folder    string // upstream path
	name      string // of the file: "Packages.gz", "Packages" or "packages.adb"
	sum       string // of its blob
	signature string // the blob of Packages.sig; "" for none
}

func (l *packageList) manager() feeds.Manager {
	if l.name == apkList {
		return feeds.APK
	}
	return feeds.Opkg
}

const apkList = "packages.adb"

// packageIndex reads the index of the folder base/dir: the names from
// index.json where that is of version 2, else from Packages, else from
// index.json as it is; and the package manager's own list. What sums lists
// must have its sum, and where it lists one of them only listed ones count.
func (u *Upstream) packageIndex(s *session, base, dir string, sums Sums) (x folderIndex, err error) {
	folder := base + "/" + dir
	names := []string{"Packages.gz", "Packages", apkList}
	if s.old.file(folder+"/"+apkList) != nil { // it was there the last time
		names = []string{apkList, "Packages.gz", "Packages"}
	}
	listed := sums[dir+"/index.json"] != "" || slices.ContainsFunc(names, func(name string) bool { return sums[dir+"/"+name] != "" })
	read := func(name string, limit int64) ([]byte, error) {
		if sum := sums[dir+"/"+name]; sum != "" {
			return s.getSummed(folder+"/"+name, sum, limit)
		}
		if listed {
			return nil, nil
		}
		return s.optional(folder+"/"+name, limit)
	}
	h := sha256.New()
	data, err := read("index.json", maxIndexSize)
	if err != nil {
		return x, err
	}
	if data != nil {
		if x.names, err = feeds.ParseIndexJSON(data); err != nil {
			return x, fmt.Errorf("%s/index.json: %w", folder, err)
		}
		fmt.Fprintf(h, "index.json %s\n", hexSum(data))
	}
	for _, name := range names {
		if data, err = read(name, maxIndexSize); err != nil {
			return x, err
		}
		if data != nil {
			x.list = &packageList{folder: folder, name: name, sum: hexSum(data)}
			fmt.Fprintf(h, "%s %s\n", name, x.list.sum)
			break
		}
	}
	if x.list != nil && x.list.manager() == feeds.Opkg {
		sig, err := read("Packages.sig", maxSigSize)
		if err != nil {
			return x, err
		}
		if sig != nil {
			x.list.signature = hexSum(sig)
			if !listed {
				if err := u.checkListSignature(x.list, data, sig); err != nil {
					return x, err
				}
			}
		}
	}
	if x.list != nil && (x.names == nil || !x.names.ABIFree) {
		if x.names, err = x.list.parse(data); err != nil {
			return x, fmt.Errorf("%s/%s: %w", folder, x.list.name, err)
		}
	}
	if x.names != nil {
		x.digest = hex.EncodeToString(h.Sum(nil))
	}
	return x, nil
}

// parse reads the list's content.
func (l *packageList) parse(data []byte) (*feeds.Index, error) {
	if l.manager() == feeds.APK {
		return feeds.ParseADB(data)
	}
	text, err := unpackIndex(l.name, data)
	if err != nil {
		return nil, err
	}
	return feeds.ParsePackages(text)
}

func unpackIndex(name string, data []byte) ([]byte, error) {
	if !strings.HasSuffix(name, ".gz") {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(z, maxIndexSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxIndexSize {
		return nil, fmt.Errorf("it has more than %d bytes when unpacked", maxIndexSize)
	}
	return text, nil
}

// checkListSignature checks an opkg list by its own signature, where that is
// by a trusted key.
func (u *Upstream) checkListSignature(l *packageList, data, sig []byte) error {
	if len(u.keys) == 0 {
		return nil
	}
	text, err := unpackIndex(l.name, data)
	if err == nil {
		_, err = u.keys.verify(text, sig)
	}
	if err != nil {
		return fmt.Errorf("%s/Packages: %w", l.folder, err)
	}
	return nil
}

// buildArch reads all feeds of an architecture.
func (u *Upstream) buildArch(s *session, path, arch string) (*archIndex, error) {
	return settled(u, s, func() (*archIndex, error) { return u.buildArchOnce(s, path, arch) })
}

func (u *Upstream) buildArchOnce(s *session, path, arch string) (*archIndex, error) {
	base := path + "/packages/" + arch
	var sums Sums
	data, err := s.steady(base+"/sha256sums", maxSumsSize)
	if err != nil {
		return nil, err
	}
	if data != nil {
		if sums, err = ParseSums(data); err != nil {
			return nil, fmt.Errorf("%s: %w", base, err)
		}
	}
	names, err := u.feedNames(s, path, arch, sums)
	if err != nil {
		return nil, err
	}
	a := &archIndex{feeds: names, listed: true}
	if sums != nil {
		a.sums = hexSum(data)
	}
	versions := map[string]string{}
	h := sha256.New()
	fmt.Fprintf(h, "packages 2\n")
	for _, name := range names {
		index, err := u.packageIndex(s, base, name, sums)
		if err != nil {
			return nil, err
		}
		if index.names == nil {
			if s.holds(base + "/" + name + "/") {
				return nil, fmt.Errorf("the feed %s of %s has vanished: %w", name, arch, errMismatch)
			}
			continue
		}
		fmt.Fprintf(h, "%s %s\n", name, index.digest)
		maps.Copy(versions, index.names.Versions())
		a.lists = append(a.lists, index.list)
		a.listed = a.listed && index.list != nil
	}
	if len(versions) == 0 && !s.offline && s.old != nil && len(s.old.Files) > len(s.files) {
		return nil, fmt.Errorf("all packages of %s have vanished: %w", arch, errMismatch)
	}
	a.packages = len(versions)
	a.digest = hex.EncodeToString(h.Sum(nil))
	a.reply, err = json.Marshal(versions)
	return a, err
}

// feedNames are the feeds of an architecture: those of feeds.conf beside them,
// else those whose indexes are in sha256sums, else base and those that one of
// the architecture's targets was built with, else OpenWrt's own.
func (u *Upstream) feedNames(s *session, path, arch string, sums Sums) ([]string, error) {
	conf, err := s.steady(path+"/packages/"+arch+"/feeds.conf", maxConfSize)
	if err != nil {
		return nil, err
	}
	if names := parseFeedsConf(conf); len(names) > 0 {
		return names, nil
	}
	var names []string
	for name := range sums {
		feed, file, ok := strings.Cut(name, "/")
		if ok && (file == "index.json" || file == "Packages" || file == "Packages.gz") &&
			imagebuilder.ValidRepositoryName(feed) && !slices.Contains(names, feed) {
			names = append(names, feed)
		}
	}
	if len(names) > 0 && len(names) <= maxFeeds {
		slices.Sort(names)
		return names, nil
	}
	if target := u.targetWith(s, path, arch); target != "" {
		conf, err := s.steady(path+"/targets/"+target+buildinfo, maxConfSize)
		if err != nil {
			return nil, err
		}
		if names := parseFeedsConf(conf); len(names) > 0 {
			return append([]string{"base"}, slices.DeleteFunc(names, func(n string) bool { return n == "base" })...), nil
		}
	}
	return commonFeeds, nil
}

const buildinfo = "/feeds.buildinfo"

// targetWith is a target of the architecture: the one whose feeds are held, if
// any, so that what is made of held files stays the same.
func (u *Upstream) targetWith(s *session, path, arch string) string {
	if s.old != nil {
		for _, f := range s.old.Files {
			target, ok := strings.CutPrefix(f.Path, path+"/targets/")
			if target, found := strings.CutSuffix(target, buildinfo); ok && found {
				return target
			}
		}
	}
	u.mu.Lock()
	d := u.lists[path]
	u.mu.Unlock()
	if d == nil {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.value == nil {
		return ""
	}
	for _, target := range sortedKeys(*d.value) {
		if (*d.value)[target] == arch {
			return target
		}
	}
	return ""
}

// parseFeedsConf returns the second word of every line that names a feed, as in
// "src/gz packages https://…" and "src-git packages https://…;branch".
func parseFeedsConf(data []byte) []string {
	var names []string
	for line := range strings.SplitSeq(string(data), "\n") {
		words := strings.Fields(line)
		if len(words) < 2 || !strings.HasPrefix(words[0], "src") || !imagebuilder.ValidRepositoryName(words[1]) ||
			strings.Trim(words[1], ".") == "" || words[1][0] == '-' || slices.Contains(names, words[1]) {
			continue
		}
		if len(names) < maxFeeds {
			names = append(names, words[1])
		}
	}
	return names
}

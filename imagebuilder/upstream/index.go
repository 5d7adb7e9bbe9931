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
	own, digest, err := u.packageIndex(s, base, "packages", sums)
	if err != nil {
		return err
	}
	kmods, kmodsDigest, err := u.kernelIndex(s, c.profiles.LinuxKernel, base, sums)
	if err != nil {
		return err
	}
	reply := struct {
		Architecture string            `json:"architecture"`
		Packages     map[string]string `json:"packages"`
	}{c.arch, map[string]string{}}
	if own != nil {
		maps.Copy(reply.Packages, own.Versions())
		if own.Architecture != "" {
			reply.Architecture = own.Architecture
		}
	}
	if kmods != nil {
		maps.Copy(reply.Packages, kmods.Versions())
	}
	c.indexDigest = digest + " " + kmodsDigest
	c.index, err = json.Marshal(reply)
	return err
}

// kernelIndex reads the kernel modules where they are kept apart from the
// other packages: in 24.10 and later, in 23.05 from 23.05.6 on.
func (u *Upstream) kernelIndex(s *session, k LinuxKernel, base string, sums Sums) (*feeds.Index, string, error) {
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
				return nil, "", nil
			}
			dir = found
		}
	}
	if dir == "" || strings.Count(dir, "/") != 1 || !validPath(base+"/"+dir) {
		return nil, "", nil
	}
	return u.packageIndex(s, base, dir, sums)
}

// packageIndex reads the index of the folder base/dir: index.json where it is
// of version 2, else Packages, else index.json as it is. What sums lists must
// have its sum, and where it lists one of them only listed ones count. The
// index is nil if there is none.
func (u *Upstream) packageIndex(s *session, base, dir string, sums Sums) (*feeds.Index, string, error) {
	names := []string{"index.json", "Packages.gz", "Packages"}
	listed := slices.ContainsFunc(names, func(name string) bool { return sums[dir+"/"+name] != "" })
	read := func(name string) ([]byte, error) {
		if sum := sums[dir+"/"+name]; sum != "" {
			return s.getSummed(base+"/"+dir+"/"+name, sum, maxIndexSize)
		}
		if listed {
			return nil, nil
		}
		return s.optional(base+"/"+dir+"/"+name, maxIndexSize)
	}
	data, err := read("index.json")
	if err != nil {
		return nil, "", err
	}
	var old *feeds.Index
	var oldDigest string
	if data != nil {
		if old, err = feeds.ParseIndexJSON(data); err != nil {
			return nil, "", fmt.Errorf("%s/%s/index.json: %w", base, dir, err)
		}
		if oldDigest = hexSum(data); old.ABIFree {
			return old, oldDigest, nil
		}
	}
	for _, name := range names[1:] {
		packed, err := read(name)
		if err != nil {
			return nil, "", err
		}
		if packed == nil {
			continue
		}
		text, err := unpackIndex(name, packed)
		if err != nil {
			return nil, "", fmt.Errorf("%s/%s/%s: %w", base, dir, name, err)
		}
		index, err := feeds.ParsePackages(text)
		if err != nil {
			return nil, "", fmt.Errorf("%s/%s/%s: %w", base, dir, name, err)
		}
		if !listed {
			if err := u.checkIndexSignature(s, base+"/"+dir, text); err != nil {
				return nil, "", err
			}
		}
		return index, hexSum(text), nil
	}
	return old, oldDigest, nil
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

// checkIndexSignature checks an opkg index by its own signature, where there
// is one by a trusted key.
func (u *Upstream) checkIndexSignature(s *session, dir string, text []byte) error {
	if len(u.keys) == 0 {
		return nil
	}
	sig, err := s.optional(dir+"/Packages.sig", maxSigSize)
	if err != nil || sig == nil {
		return err
	}
	if _, err := u.keys.verify(text, sig); err != nil {
		return fmt.Errorf("%s/Packages: %w", dir, err)
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
	a := &archIndex{feeds: names}
	versions := map[string]string{}
	h := sha256.New()
	fmt.Fprintf(h, "packages 1\n")
	for _, name := range names {
		index, digest, err := u.packageIndex(s, base, name, sums)
		if err != nil {
			return nil, err
		}
		if index == nil {
			if s.holds(base + "/" + name + "/") {
				return nil, fmt.Errorf("the feed %s of %s has vanished: %w", name, arch, errMismatch)
			}
			continue
		}
		fmt.Fprintf(h, "%s %s\n", name, digest)
		maps.Copy(versions, index.Versions())
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

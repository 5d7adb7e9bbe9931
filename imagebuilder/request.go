package imagebuilder

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Request is what a client asks for. The fields are those of asu's build
// request (openwrt/asu asu/build_request.py) with the same meanings.
type Request struct {
	Distro           string   `json:"distro"`            // default "openwrt"
	Version          string   `json:"version"`           // release, as "24.10.4"
	VersionCode      string   `json:"version_code"`      // revision the result must have; "" any
	Target           string   `json:"target"`            // as "ath79/generic"
	Profile          string   `json:"profile"`           // profile id or one of the device's other names
	Packages         []string `json:"packages"`          // in the requester's order; "-name" removes
	PackagesVersions Pairs    `json:"packages_versions"` // instead of Packages, with the versions the image must have
	DiffPackages     bool     `json:"diff_packages"`     // Packages is the whole list: defaults not in it are removed
	Defaults         *string  `json:"defaults"`          // script run on first boot
	RootfsSizeMB     *int     `json:"rootfs_size_mb"`    // MiB
	Filesystem       *string  `json:"filesystem"`        // one of Filesystems
	Repositories     Pairs    `json:"repositories"`      // feed name to URL
	RepositoriesMode string   `json:"repositories_mode"` // "append" or "replace" (default)
	RepositoryKeys   []string `json:"repository_keys"`   // usign or PEM public keys
	Client           *string  `json:"client"`            // who asks; changes nothing

	// What the packages come from, where the client says so: it decides what
	// becomes of those that later releases know by other names.
	FromVersion  string            `json:"from_version,omitempty"`  // installed release
	FromRevision string            `json:"from_revision,omitempty"` // installed revision; tells snapshots apart
	Installed    []string          `json:"-"`                       // all that is installed, with dependencies
	Choices      map[string]string `json:"choices,omitempty"`       // old package to the option that the user chose

	// Changes is what the server has made of Packages before building.
	Changes *Changes `json:"changes,omitempty"`
}

// Changes tells which packages were asked for by names that the release
// no longer has, and what it needs beside those asked for.
type Changes struct {
	Replacements map[string][]string `json:"replacements,omitempty"` // old name to new ones; to none: dropped
	Added        []string            `json:"added,omitempty"`
	Choices      Choices             `json:"choices,omitempty"`
}

// Choices are the old packages for which there are several new ones.
type Choices map[string]Choice

// Choice is what can take an old package's place.
type Choice struct {
	Default string   `json:"default"` // what is taken unless the user says otherwise; "" where nothing is
	Chosen  string   `json:"chosen"`  // what was taken; "" where nothing was
	Options []Option `json:"options"`
}

// Option is one possibility of a Choice.
type Option struct {
	Name   string `json:"name"`
	Detail string `json:"detail"` // a sentence for the person who chooses
}

// ValidChoices checks the grammar of a user's choices and their number. The
// error is CodeMalformed.
func ValidChoices(choices map[string]string) *Error {
	if len(choices) > MaxPackages {
		return Errorf(CodeMalformed, "choices: there are %d; at most %d are allowed.", len(choices), MaxPackages)
	}
	for old, option := range choices {
		if !ValidPackageName(old) || !ValidPackageName(option) {
			return Errorf(CodeMalformed, "choices: %.100q for %.100q is not a package's name for another.", option, old)
		}
	}
	return nil
}

// DefaultDistro is the distribution of a request that names none.
const DefaultDistro = "openwrt"

// The two meanings of Request.Repositories.
const (
	RepositoriesAppend  = "append"  // beside the ImageBuilder's own feeds
	RepositoriesReplace = "replace" // instead of them
)

// Filesystems are the root file systems that a request may name; whether the
// target has it, its ImageBuilder decides.
var Filesystems = []string{"squashfs", "ext4", "ubifs", "erofs", "jffs2", "jffs2-nand", "targz", "cpiogz"}

// Limits are the operator's bounds on a request.
type Limits struct {
	MaxRootfsSizeMB   int // MiB
	MaxDefaultsLength int // bytes
}

// Normalize fills in defaults and brings the request into the form that is
// built and hashed: packages_versions, where given, become the packages; a
// leading "+" and repetitions are dropped, order is kept. Applying it twice
// changes nothing more.
func (r Request) Normalize() Request {
	if r.Distro == "" {
		r.Distro = DefaultDistro
	}
	if r.RepositoriesMode == "" {
		r.RepositoriesMode = RepositoriesReplace
	}
	names := r.Packages
	if len(r.PackagesVersions) > 0 {
		versions := make(Pairs, 0, len(r.PackagesVersions))
		seen := make(map[string]bool, len(r.PackagesVersions))
		for _, pv := range r.PackagesVersions {
			pv.Name = strings.TrimPrefix(pv.Name, "+")
			if !seen[pv.Name] {
				seen[pv.Name] = true
				versions = append(versions, pv)
			}
		}
		r.PackagesVersions = versions
		names = versions.Names()
	}
	packages := make([]string, 0, len(names))
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		name = strings.TrimPrefix(name, "+")
		if name != "" && !seen[name] {
			seen[name] = true
			packages = append(packages, name)
		}
	}
	r.Packages = packages
	if r.Defaults != nil && *r.Defaults == "" {
		r.Defaults = nil
	}
	if r.Filesystem != nil && *r.Filesystem == "" {
		r.Filesystem = nil
	}
	if r.RepositoryKeys == nil {
		r.RepositoryKeys = []string{}
	}
	return r
}

// Validate checks the grammar and bounds of a normalized request; whether
// what it names exists is not its business. The error is CodeMalformed with a
// sentence that names the field.
func (r Request) Validate(limits Limits) *Error {
	bad := func(format string, args ...any) *Error { return Errorf(CodeMalformed, format, args...) }
	if !ValidVersion(r.Distro) {
		return bad("distro: %.100q is not a distribution's name.", r.Distro)
	}
	if r.Version == "" {
		return bad("version: it is missing. Name the release, as in \"24.10.4\" or \"SNAPSHOT\".")
	}
	if !ValidVersion(r.Version) {
		return bad("version: %.100q is not a release's name.", r.Version)
	}
	if !ValidRevision(r.VersionCode) {
		return bad("version_code: %.100q is not a revision, as in \"r28427-6df0e3d02a\".", r.VersionCode)
	}
	if r.Target == "" {
		return bad("target: it is missing. Name target and subtarget, as in \"ath79/generic\".")
	}
	if !ValidTarget(r.Target) {
		return bad("target: %.100q is not a target with its subtarget, as in \"ath79/generic\".", r.Target)
	}
	if r.Profile == "" {
		return bad("profile: it is missing. Name the device, as in \"tplink_archer-c7-v5\".")
	}
	if !ValidProfileName(r.Profile) {
		return bad("profile: %.100q is not a device's name.", r.Profile)
	}
	if err := r.validatePackages(); err != nil {
		return err
	}
	if r.Defaults != nil {
		if n := len(*r.Defaults); n > limits.MaxDefaultsLength {
			return bad("defaults: it has %d bytes; at most %d are allowed here.", n, limits.MaxDefaultsLength)
		}
		if strings.ContainsRune(*r.Defaults, 0) {
			return bad("defaults: it holds a NUL byte, which no shell script may.")
		}
	}
	if r.RootfsSizeMB != nil && (*r.RootfsSizeMB < 1 || *r.RootfsSizeMB > limits.MaxRootfsSizeMB) {
		return bad("rootfs_size_mb: %d is not between 1 and %d.", *r.RootfsSizeMB, limits.MaxRootfsSizeMB)
	}
	if r.Filesystem != nil && !slices.Contains(Filesystems, *r.Filesystem) {
		advice := ""
		if *r.Filesystem == "initramfs" { // routers name what they run from
			advice = " A router that says so runs a recovery image, from memory: install an image on it first, such as the release's own."
		}
		return bad("filesystem: %.100q is none of %s.%s", *r.Filesystem, strings.Join(Filesystems, ", "), advice)
	}
	if err := r.validateRepositories(); err != nil {
		return err
	}
	if r.Client != nil && len(*r.Client) > MaxClientLength {
		return bad("client: it has %d bytes; at most %d are allowed.", len(*r.Client), MaxClientLength)
	}
	if r.FromVersion != "" && !ValidVersion(r.FromVersion) {
		return bad("from_version: %.100q is not a release's name.", r.FromVersion)
	}
	if !ValidRevision(r.FromRevision) {
		return bad("from_revision: %.100q is not a revision, as in \"r28427-6df0e3d02a\".", r.FromRevision)
	}
	return ValidChoices(r.Choices)
}

func (r Request) validatePackages() *Error {
	field := "packages"
	if len(r.PackagesVersions) > 0 {
		field = "packages_versions"
	}
	if n := len(r.Packages); n > MaxPackages {
		return Errorf(CodeMalformed, "%s: it names %d packages; at most %d are allowed.", field, n, MaxPackages)
	}
	for _, name := range r.Packages {
		if !ValidPackageName(strings.TrimPrefix(name, "-")) {
			return Errorf(CodeMalformed, "%s: %.100q is not a package's name.", field, name)
		}
	}
	for _, pv := range r.PackagesVersions {
		if !ValidPackageVersion(pv.Value) {
			return Errorf(CodeMalformed, "packages_versions: %.100q is not a version of %s.", pv.Value, pv.Name)
		}
	}
	return nil
}

func (r Request) validateRepositories() *Error {
	bad := func(format string, args ...any) *Error { return Errorf(CodeMalformed, format, args...) }
	if r.RepositoriesMode != RepositoriesAppend && r.RepositoriesMode != RepositoriesReplace {
		return bad("repositories_mode: %.100q is neither \"append\" nor \"replace\".", r.RepositoriesMode)
	}
	if n := len(r.Repositories); n > MaxRepositories {
		return bad("repositories: it names %d feeds; at most %d are allowed.", n, MaxRepositories)
	}
	for _, repo := range r.Repositories {
		if !ValidRepositoryName(repo.Name) {
			return bad("repositories: %.100q is not a feed's name; use letters, digits, \".\", \"_\" and \"-\".", repo.Name)
		}
		if !ValidRepositoryURL(repo.Value) {
			return bad("repositories: %.100q, the address of %s, is not a plain http or https URL.", repo.Value, repo.Name)
		}
	}
	if n := len(r.RepositoryKeys); n > MaxRepositories {
		return bad("repository_keys: it holds %d keys; at most %d are allowed.", n, MaxRepositories)
	}
	for i, key := range r.RepositoryKeys {
		if len(key) > MaxKeyLength {
			return bad("repository_keys: key %d has %d bytes; at most %d are allowed.", i+1, len(key), MaxKeyLength)
		}
		for j := 0; j < len(key); j++ {
			if c := key[j]; (c < ' ' && c != '\n' && c != '\r' && c != '\t') || c > '~' {
				return bad("repository_keys: key %d is not plain text.", i+1)
			}
		}
	}
	return nil
}

// ValidRepositoryURL tells whether s can be a feed's address. It wants one that is one word in a configuration file
// and can mean only one host.
func ValidRepositoryURL(s string) bool {
	if len(s) > MaxURLLength {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte("\"'`\\$<>{}|^;#", s[i]) >= 0 {
			return false
		}
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil
}

// CommandPackages is the list for the ImageBuilder's PACKAGES=. With diff it is
// the whole list that the image shall have, so that defaults of the target and
// the device which it does not name are removed first, sorted, as asu does
// (openwrt/asu asu/util.py, diff_packages). A "-name" of the device whose name
// is asked for stays out: in PACKAGES it would win.
func CommandPackages(requested []string, diff bool, defaults, device []string) []string {
	if !diff {
		return requested
	}
	asked := make(map[string]bool, len(requested))
	for _, name := range requested {
		asked[name] = true
	}
	var removed []string
	for _, name := range slices.Concat(defaults, device) {
		plain := strings.TrimPrefix(name, "-")
		if !asked[name] && !asked[plain] && !asked["-"+plain] && plain != "" {
			removed = append(removed, "-"+plain)
		}
	}
	slices.Sort(removed)
	return slices.Concat(slices.Compact(removed), requested)
}

// hashVersion changes when the canonical form does, so that no old hash can
// name a new request.
const hashVersion = "attendant request 1"

// Hash returns the request hash: SHA-256, in hex, of everything that can
// change the image: the request's parts, each named and length-delimited, and
// the digest of the generation that it is built with. The order of packages
// does not matter: where opkg would choose otherwise for another one, the server
// has put them in one order. Neither does who asks. r must be normalized and its
// profile resolved to an id.
func (r Request) Hash(generation string) string {
	h := sha256.New()
	part := partWriter(h)
	part(hashVersion)
	part("generation", generation)
	part("distro", r.Distro)
	part("version", r.Version)
	part("version_code", r.VersionCode)
	part("target", r.Target)
	part("profile", r.Profile)
	part("packages", slices.Sorted(slices.Values(r.Packages))...)
	versions := make([]string, 0, len(r.PackagesVersions))
	for _, pv := range r.PackagesVersions {
		versions = append(versions, pv.Name+"="+pv.Value)
	}
	slices.Sort(versions)
	part("packages_versions", versions...)
	part("diff_packages", strconv.FormatBool(r.DiffPackages))
	r.writeOptions(part)
	return hex.EncodeToString(h.Sum(nil))
}

// contentVersion changes when the canonical form of contents does.
const contentVersion = "attendant content 1"

// ContentHash returns the SHA-256, in hex, of what will be in the image,
// whatever the words it was asked for in: requests that differ in form, but
// whose packages come to the same manifest for the same device with the same
// options, share it. What differs between their images is only which packages
// are noted as asked for and which as needed by others. r is as for Hash, m the
// packages without ABI suffixes.
func (r Request) ContentHash(generation string, m Manifest) string {
	h := sha256.New()
	part := partWriter(h)
	part(contentVersion)
	part("generation", generation)
	part("distro", r.Distro)
	part("version", r.Version)
	part("target", r.Target)
	part("profile", r.Profile)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if name != "libc" && name != "kernel" { // they come with the builder, which the generation names
			part("package", name, m[name])
		}
	}
	r.writeOptions(part)
	return hex.EncodeToString(h.Sum(nil))
}

// partWriter writes named, length-delimited parts.
func partWriter(h hash.Hash) func(name string, values ...string) {
	return func(name string, values ...string) {
		writeDelimited(h, name)
		writeDelimited(h, strconv.Itoa(len(values)))
		for _, v := range values {
			writeDelimited(h, v)
		}
	}
}

// writeOptions writes what changes the image beside its packages.
func (r Request) writeOptions(part func(name string, values ...string)) {
	if r.Defaults != nil {
		part("defaults", *r.Defaults)
	}
	if r.RootfsSizeMB != nil {
		part("rootfs_size_mb", strconv.Itoa(*r.RootfsSizeMB))
	}
	if r.Filesystem != nil {
		part("filesystem", *r.Filesystem)
	}
	if len(r.Repositories) > 0 {
		part("repositories_mode", r.RepositoriesMode)
		for _, repo := range r.Repositories {
			part("repository", repo.Name, repo.Value)
		}
	}
	part("repository_keys", r.RepositoryKeys...)
}

func writeDelimited(h hash.Hash, s string) {
	io.WriteString(h, strconv.Itoa(len(s))) //nolint:errcheck // a hash never fails
	h.Write([]byte{':'})
	io.WriteString(h, s)
}

// PackageChange is one entry of package_changes in overview.json and
// branches.json: at a revision of the main branch Source was replaced by
// Target, or was dropped where there is no Target; Target alone was added.
// Mandatory says that the change shall be made even to a list that does not
// depend on it. The form is openwrt/asu's (asu/config.py).
type PackageChange struct {
	Source    string `json:"source,omitempty"`
	Target    string `json:"target,omitempty"`
	Revision  int    `json:"revision"`
	Mandatory bool   `json:"mandatory,omitempty"`
}

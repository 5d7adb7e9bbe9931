package web

import (
	"bufio"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Said is what a router's own words tell of it.
type Said struct {
	Version   string            `json:"version,omitempty"`    // release, as "24.10.4"
	Revision  string            `json:"revision,omitempty"`   // as "r28959-29397011cc"
	Target    string            `json:"target,omitempty"`     // as "ath79/generic"
	BoardName string            `json:"board_name,omitempty"` // as "tplink,archer-c7-v5"
	Model     string            `json:"model,omitempty"`      // as people call it
	Profile   string            `json:"profile,omitempty"`    // where the board name could be resolved
	Packages  []string          `json:"packages"`             // asked for by the owner where that is told, else all; sorted
	Installed map[string]string `json:"installed"`            // all that are installed, to their versions; "" is unknown
	// Whole tells that Installed is everything: a default package that is not
	// in it was removed.
	Whole bool `json:"whole"`
}

// maxSaid bounds the packages that are taken from a text.
const maxSaid = 2000

// Recognize finds in a text what routers say of themselves, in any order and
// any number of pieces:
//
//	ubus call system board           JSON (openwrt/procd system.c)
//	cat /etc/openwrt_release         DISTRIB_TARGET='ath79/generic'
//	cat /etc/os-release              OPENWRT_BOARD="ath79/generic"
//	opkg list-installed              luci - 24.264.56413~c7a3562
//	apk list -I, apk info -v         luci-26.1-r1 noarch {feeds/luci/…} (Apache-2.0) [installed]
//	cat /etc/apk/world               luci
//	a backup's /etc/backup/installed_packages.txt   luci<TAB>rom, overlay or unknown
//
// Lines that are none of these are passed over: a prompt, a mail's greeting.
func Recognize(text string) Said {
	said := Said{Packages: []string{}, Installed: map[string]string{}}
	rest := said.board(text)
	var world, overlay []string
	lines := bufio.NewScanner(strings.NewReader(rest))
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	bare, other := []string{}, 0
	for lines.Scan() {
		line := strings.TrimSpace(strings.TrimSuffix(lines.Text(), "\r"))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		switch {
		case said.assignment(line):
		case said.opkg(line), said.apk(line):
		case backupLine.MatchString(line):
			m := backupLine.FindStringSubmatch(line)
			said.install(m[1], "")
			if m[2] == "overlay" {
				overlay = append(overlay, m[1])
			}
		case worldLine.MatchString(line):
			bare = append(bare, worldLine.FindStringSubmatch(line)[1])
		default:
			other++
		}
	}
	// A list of bare names is a world file; a single word between sentences
	// is none.
	if len(bare) > other {
		world = bare
	}
	said.Whole = len(said.Installed) > 0
	switch {
	case len(overlay) > 0:
		said.Packages = overlay
	case len(world) > 0:
		said.Packages = world
	default:
		said.Packages = slices.AppendSeq(said.Packages, maps.Keys(said.Installed))
	}
	said.Packages = slices.DeleteFunc(said.Packages, func(name string) bool { return !imagebuilder.ValidPackageName(name) })
	said.Packages = withoutLibraries(said.Packages)
	slices.Sort(said.Packages)
	said.Packages = slices.Compact(said.Packages)
	if len(said.Packages) > maxSaid {
		said.Packages = said.Packages[:maxSaid]
	}
	return said
}

// librarySuffix is the ABI version that stands at the end of an installed
// library's name, after a "-" where the name itself ends in a digit: openwrt's
// include/package.mk, ABIV. Indexes have the names without.
var librarySuffix = regexp.MustCompile(`^(lib.*[a-z_+])[0-9][0-9.]*$|^(lib.*[0-9])-[0-9][0-9.]*$`)

// withoutLibraries leaves out libraries that are there because others need
// them: in the next release they may have another name, and come by themselves.
// libustream is chosen by people, and keeps its place by its plain name.
func withoutLibraries(names []string) []string {
	kept := names[:0]
	for _, name := range names {
		m := librarySuffix.FindStringSubmatch(name)
		if m == nil {
			kept = append(kept, name)
		} else if plain := m[1] + m[2]; strings.HasPrefix(plain, "libustream-") {
			kept = append(kept, plain)
		}
	}
	return kept
}

// Removed are those of a release's default packages that the router does not
// have any more; nil where not everything that is installed is known.
func (s Said) Removed(defaults []string) []string {
	if !s.Whole {
		return nil
	}
	plain := make(map[string]bool, len(s.Installed))
	for name := range s.Installed {
		plain[name] = true
		if m := librarySuffix.FindStringSubmatch(name); m != nil {
			plain[m[1]+m[2]] = true
		}
	}
	var removed []string
	for _, name := range defaults {
		if !plain[name] {
			removed = append(removed, name)
		}
	}
	return removed
}

// Empty tells that nothing was recognised.
func (s Said) Empty() bool {
	return s.Target == "" && s.BoardName == "" && s.Version == "" && len(s.Packages) == 0
}

// board takes the JSON of `ubus call system board` out of the text and returns
// what is around it.
func (s *Said) board(text string) string {
	from := 0
	for range maxObjects {
		i := strings.IndexByte(text[from:], '{')
		if i < 0 {
			break
		}
		from += i
		var b struct {
			Model     string
			BoardName string `json:"board_name"`
			Release   struct {
				Version, Revision, Target string
			}
		}
		d := json.NewDecoder(strings.NewReader(text[from:]))
		if d.Decode(&b) == nil && (b.BoardName != "" || b.Release.Target != "") {
			s.setModel(b.Model)
			s.setBoard(b.BoardName)
			s.setVersion(b.Release.Version)
			s.setRevision(b.Release.Revision)
			s.setTarget(b.Release.Target)
			return text[:from] + text[from+int(d.InputOffset()):]
		}
		from++
	}
	return text
}

// maxObjects is how many beginnings of an object are tried in a text.
const maxObjects = 32

var (
	assignmentLine = regexp.MustCompile(`^([A-Z_]+)=["']?([^"']*)["']?$`)
	opkgLine       = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9+._-]*) - ([A-Za-z0-9_+.,~:-]+)$`)
	apkLine        = regexp.MustCompile(`^([a-zA-Z0-9][A-Za-z0-9+._-]*?)-([0-9][A-Za-z0-9._~]*-r[0-9]+)( .*)?$`)
	backupLine     = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9+._-]*)\t(rom|overlay|unknown)$`)
	worldLine      = regexp.MustCompile(`^([a-z0-9][a-z0-9+._-]*)(?:[<>=~@][^ #:$]*)?$`)
)

func (s *Said) assignment(line string) bool {
	m := assignmentLine.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	switch m[1] {
	case "DISTRIB_RELEASE", "VERSION", "VERSION_ID":
		if m[1] == "DISTRIB_RELEASE" || s.Version == "" {
			s.setVersion(m[2])
		}
	case "DISTRIB_REVISION", "BUILD_ID":
		s.setRevision(m[2])
	case "DISTRIB_TARGET", "OPENWRT_BOARD":
		s.setTarget(m[2])
	case "OPENWRT_DEVICE_PRODUCT":
		// "Generic" on every device: nothing to learn.
	}
	return true
}

func (s *Said) opkg(line string) bool {
	m := opkgLine.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	s.install(m[1], m[2])
	return true
}

func (s *Said) apk(line string) bool {
	m := apkLine.FindStringSubmatch(line)
	if m == nil || (m[3] != "" && !strings.Contains(m[3], "[installed]") && !strings.Contains(m[3], "[upgradable")) {
		return false
	}
	s.install(m[1], m[2])
	return true
}

func (s *Said) install(name, version string) {
	if len(s.Installed) >= maxSaid || !imagebuilder.ValidPackageName(name) || !imagebuilder.ValidPackageVersion(version) {
		return
	}
	s.Installed[name] = version
}

func (s *Said) setVersion(v string) {
	if imagebuilder.ValidVersion(v) {
		s.Version = strings.TrimSuffix(v, "'")
	}
}

func (s *Said) setRevision(v string) {
	if imagebuilder.ValidRevision(v) {
		s.Revision = v
	}
}

func (s *Said) setTarget(v string) {
	if imagebuilder.ValidTarget(v) {
		s.Target = v
	}
}

func (s *Said) setBoard(v string) {
	if imagebuilder.ValidProfileName(v) {
		s.BoardName = v
	}
}

func (s *Said) setModel(v string) {
	if len(v) <= imagebuilder.MaxNameLength {
		s.Model = v
	}
}

package imagebuilder

import "strings"

// The grammars below are what may reach a make command line, a path or a
// configuration file. They are narrower than asu's patterns
// (openwrt/asu asu/build_request.py) where those let through what the
// ImageBuilder's Makefile would treat as code or as an option.

// Bounds of a request. Sizes are in bytes.
const (
	MaxNameLength    = 128  // of a package, version, target or profile name
	MaxPackages      = 2000 // in one request; the largest real images have about 400
	MaxRepositories  = 32
	MaxKeyLength     = 8 << 10 // of one repository key
	MaxClientLength  = 128
	MaxURLLength     = 1024
	MaxDefaultsLimit = 1 << 20 // the operator's limit on defaults cannot exceed this
)

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func allBytes(s string, extra string) bool {
	for i := 0; i < len(s); i++ {
		if isAlphanumeric(s[i]) {
			continue
		}
		ok := false
		for j := 0; j < len(extra); j++ {
			if s[i] == extra[j] {
				ok = true
				break
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// ValidPackageName tells whether s is a package name as OpenWrt has them:
// a letter or digit, then letters, digits and "+._-". A leading "-", which
// removes a package, is not part of the name.
func ValidPackageName(s string) bool {
	return s != "" && len(s) <= MaxNameLength && isAlphanumeric(s[0]) && allBytes(s[1:], "+._-")
}

// ValidPackageVersion tells whether s can be a package's version, as in
// "1.2.3-r4" or "2024.09.24~5a8ee6ee".
func ValidPackageVersion(s string) bool {
	return len(s) <= MaxNameLength && allBytes(s, "_+.,~:-")
}

// ValidVersion tells whether s can be a release's name, as in "24.10.4",
// "24.10-SNAPSHOT" or "SNAPSHOT".
func ValidVersion(s string) bool {
	return s != "" && len(s) <= MaxNameLength && isAlphanumeric(s[0]) && allBytes(s, "._-")
}

// ValidRevision tells whether s can be a version_code, as in
// "r28427-6df0e3d02a". An empty one asks for no check.
func ValidRevision(s string) bool {
	return len(s) <= MaxNameLength && allBytes(s, "_.,+~-")
}

// ValidTarget tells whether s is a target with its subtarget, as in
// "ath79/generic".
func ValidTarget(s string) bool {
	if len(s) > MaxNameLength {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '/' {
			target, subtarget := s[:i], s[i+1:]
			return target != "" && subtarget != "" &&
				allBytes(target, "_-") && allBytes(subtarget, "_-") &&
				isAlphanumeric(target[0]) && isAlphanumeric(subtarget[0])
		}
	}
	return false
}

// ValidProfileName tells whether s can name a profile: its id, or a board name
// such as "tplink,archer-c7-v5". Board names of x86 machines come from the
// vendor's firmware and hold spaces and punctuation ("Default string", "To be
// filled by O.E.M. (x)"): they are matched against what is known and never
// reach a command line, so any printable ASCII is let through.
func ValidProfileName(s string) bool {
	if s == "" || len(s) > MaxNameLength {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// ValidProfileID tells whether s can be a profile's id, as in profiles.json
// and in PROFILE=.
func ValidProfileID(s string) bool { return ValidPackageName(s) }

// ValidArch tells whether s can be a package architecture, as in
// "arm_cortex-a9_vfpv3-d16".
func ValidArch(s string) bool {
	return s != "" && len(s) <= MaxNameLength && isAlphanumeric(s[0]) && allBytes(s, "_.+-")
}

// ValidRepositoryName tells whether s can name a feed in repositories.conf,
// and the file in which opkg keeps its list.
func ValidRepositoryName(s string) bool {
	return s != "" && len(s) <= MaxNameLength && allBytes(s, "_.-") && s[0] != '-' && s[0] != '.'
}

// ValidHash tells whether s is a request hash: 64 lower-case hex digits.
func ValidHash(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !(s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f') {
			return false
		}
	}
	return true
}

// Branch returns the branch of a release: "24.10" of "24.10.4",
// "24.10.0-rc1", "24.10-SNAPSHOT" and "24.10"; a name without a dot is its
// own.
func Branch(version string) string {
	version, _, _ = strings.Cut(version, "-")
	year, rest, dotted := strings.Cut(version, ".")
	if !dotted {
		return version
	}
	month, _, _ := strings.Cut(rest, ".")
	return year + "." + month
}

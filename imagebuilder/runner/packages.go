package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// maxPackagesBytes bounds PACKAGES: Linux takes at most 128 KiB in one
// argument, and make hands the list on within a longer shell command.
const maxPackagesBytes = 96 << 10

// commandPackages is the list for PACKAGES=.
func commandPackages(requested []string, diff bool, info *Info, profile InfoProfile) []string {
	return imagebuilder.CommandPackages(requested, diff, info.DefaultPackages, profile.Packages)
}

// checkPackageNames makes sure that nothing but names reaches make: there
// every value is code and every word could be an option of opkg or apk.
func checkPackageNames(names []string) *imagebuilder.Error {
	total := 0
	for _, name := range names {
		if !imagebuilder.ValidPackageName(strings.TrimPrefix(name, "-")) {
			return imagebuilder.Errorf(imagebuilder.CodeMalformed, "Error: %.100q is not a package's name.", name)
		}
		total += len(name) + 1
	}
	if total > maxPackagesBytes {
		return imagebuilder.Errorf(imagebuilder.CodeMalformed,
			"Error: The names of the packages have %d bytes together; ImageBuilders take at most %d. Ask for fewer packages.", total, maxPackagesBytes)
	}
	return nil
}

// checkVersions holds the manifest against the versions that were asked for
// of the packages in requested.
func checkVersions(m imagebuilder.Manifest, versions imagebuilder.Pairs, requested []string) *imagebuilder.Error {
	for _, pv := range versions {
		if pv.Value == "" || strings.HasPrefix(pv.Name, "-") || !slices.Contains(requested, pv.Name) {
			continue
		}
		name, ok := findPackage(m, pv.Name)
		if !ok {
			return imagebuilder.Errorf(imagebuilder.CodePackageSelect,
				"Error: Impossible package selection: %s not in manifest", pv.Name)
		}
		if m[name] != pv.Value {
			return imagebuilder.Errorf(imagebuilder.CodePackageVersion,
				"Error: Impossible package selection: %s version not as requested: %s vs. %s", pv.Name, pv.Value, m[name])
		}
	}
	return nil
}

// extraImageName is what asu puts into image names: the first 12 hex digits
// of the SHA-256 of the sorted package names joined by spaces.
func extraImageName(m imagebuilder.Manifest) string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(names, " ")))
	return hex.EncodeToString(sum[:])[:12]
}

// filesystemOptions are the configuration symbols of root file systems
// (openwrt/openwrt config/Config-images.in).
var filesystemOptions = map[string]string{
	"squashfs":   "CONFIG_TARGET_ROOTFS_SQUASHFS",
	"ext4":       "CONFIG_TARGET_ROOTFS_EXT4FS",
	"ubifs":      "CONFIG_TARGET_ROOTFS_UBIFS",
	"erofs":      "CONFIG_TARGET_ROOTFS_EROFS",
	"jffs2":      "CONFIG_TARGET_ROOTFS_JFFS2",
	"jffs2-nand": "CONFIG_TARGET_ROOTFS_JFFS2_NAND",
	"targz":      "CONFIG_TARGET_ROOTFS_TARGZ",
	"cpiogz":     "CONFIG_TARGET_ROOTFS_CPIOGZ",
}

// restrictFilesystem switches off all other root file systems in an
// ImageBuilder's .config. ImageBuilders before May 2026 need that: they do
// not know ROOTFS_FILESYSTEM and pass over it in silence.
func restrictFilesystem(config, filesystem string) (string, error) {
	wanted := filesystemOptions[filesystem]
	var out strings.Builder
	var enabled []string
	found := false
	for line := range strings.Lines(config) {
		option, isSet := strings.CutSuffix(strings.TrimRight(line, "\r\n"), "=y")
		name := ""
		for fs, o := range filesystemOptions {
			if isSet && o == option {
				name = fs
			}
		}
		switch {
		case name == "":
			out.WriteString(line)
			continue
		case option == wanted:
			found = true
			out.WriteString(line)
		default:
			fmt.Fprintf(&out, "# %s is not set\n", option)
		}
		enabled = append(enabled, name)
	}
	if !found {
		return "", filesystemError(filesystem, strings.Join(enabled, ", "))
	}
	return out.String(), nil
}

func filesystemError(asked, available string) *imagebuilder.Error {
	if available == "" {
		available = "none that it names"
	}
	return imagebuilder.Errorf(imagebuilder.CodeFilesystem,
		"Error: Filesystem \"%s\" is not available for this device. Available: %s. Choose one of those or leave the choice open.", asked, available)
}

package runner

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"attendant/imagebuilder"
)

// Info is what `make info` says of an ImageBuilder.
type Info struct {
	Target          string                 `json:"target"`
	Architecture    string                 `json:"architecture,omitempty"` // the kernel's; absent in 21.02
	Revision        string                 `json:"revision"`
	DefaultPackages []string               `json:"default_packages"`
	Profiles        map[string]InfoProfile `json:"profiles"`
}

// InfoProfile is one device of an ImageBuilder.
type InfoProfile struct {
	Title            string   `json:"title,omitempty"`
	Packages         []string `json:"packages"` // beside the defaults; "-name" removes one
	HasImageMetadata bool     `json:"has_image_metadata"`
	SupportedDevices []string `json:"supported_devices,omitempty"`
}

// errNoProfiles tells of an info without a profile: what `make info` prints,
// with exit code 0, in a tree that it cannot write to.
var errNoProfiles = errors.New("make info lists no profile")

// ParseInfo reads the standard output of `make info`
// (openwrt/openwrt target/imagebuilder/files/Makefile, _call_info). An output
// without revision or without profiles is an error.
func ParseInfo(text string) (*Info, error) {
	info := &Info{Profiles: map[string]InfoProfile{}}
	id := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		body, indented := strings.CutPrefix(line, "    ")
		if !indented {
			key, value, found := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch {
			case !found:
			case key == "Current Target":
				info.Target = strings.Trim(value, `"`)
			case key == "Current Architecture":
				info.Architecture = strings.Trim(value, `"`)
			case key == "Current Revision":
				info.Revision = strings.Trim(value, `"`)
			case key == "Default Packages":
				info.DefaultPackages = strings.Fields(value)
			case key == "Available Profiles":
			case value == "" && imagebuilder.ValidProfileID(key):
				id = key
				info.Profiles[id] = InfoProfile{Packages: []string{}}
			}
			continue
		}
		if id == "" {
			continue
		}
		p := info.Profiles[id]
		key, value, _ := strings.Cut(body, ":")
		switch key {
		case "Packages":
			p.Packages = strings.Fields(value)
		case "hasImageMetadata":
			p.HasImageMetadata = strings.TrimSpace(value) == "1"
		case "SupportedDevices":
			p.SupportedDevices = strings.Fields(value)
		default:
			if p.Title == "" {
				p.Title = strings.TrimSpace(body)
			}
		}
		info.Profiles[id] = p
	}
	if info.Revision == "" {
		return nil, errors.New("make info names no revision")
	}
	if len(info.Profiles) == 0 {
		return nil, errNoProfiles
	}
	return info, nil
}

// ParseManifest reads the standard output of `make manifest` or a .manifest
// file: lines "name - version", or "name version" as apk builders before
// November 2025 print them. Other lines are passed over.
func ParseManifest(text string) (imagebuilder.Manifest, error) {
	m := imagebuilder.Manifest{}
	dashes := strings.Contains(text, " - ")
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		var name, version string
		switch {
		case dashes && len(f) == 3 && f[1] == "-":
			name, version = f[0], f[2]
		case !dashes && len(f) == 2:
			name, version = f[0], f[1]
		default:
			continue
		}
		if imagebuilder.ValidPackageName(name) && version != "" && imagebuilder.ValidPackageVersion(version) {
			m[name] = version
		}
	}
	if len(m) == 0 {
		return nil, errors.New("the manifest lists no package")
	}
	return m, nil
}

// sameManifest compares the manifest of the image, whose names carry ABI
// suffixes, with the one without that was checked. It returns a difference in
// words, or "".
func sameManifest(checked, image imagebuilder.Manifest) string {
	names := make([]string, 0, len(image))
	for name := range image {
		names = append(names, name)
	}
	sort.Strings(names)
	seen := make(map[string]bool, len(checked))
	for _, name := range names {
		plain, ok := findPackage(checked, name)
		switch {
		case !ok:
			return fmt.Sprintf("%s %s is in the image only", name, image[name])
		case checked[plain] != image[name]:
			return fmt.Sprintf("%s was %s and became %s", plain, checked[plain], image[name])
		}
		seen[plain] = true
	}
	missing := make([]string, 0)
	for name := range checked {
		if !seen[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		sort.Strings(missing)
		return fmt.Sprintf("%s %s is not in the image", missing[0], checked[missing[0]])
	}
	return ""
}

// findPackage finds name in a manifest without ABI suffixes, with or without
// one of its own: "libubox20240329" is "libubox", "test1-1" is "test1".
func findPackage(m imagebuilder.Manifest, name string) (string, bool) {
	if _, ok := m[name]; ok {
		return name, true
	}
	for i := len(name) - 1; i > 0; i-- {
		if _, ok := m[name[:i]]; ok && isABISuffix(name[i:]) {
			return name[:i], true
		}
	}
	return "", false
}

// isABISuffix tells whether s has the form of an ABI version as OpenWrt puts
// it behind library names: "20240329", "-0", "1.1", "2-0", wolfssl's
// "5.6.4.e624513f".
func isABISuffix(s string) bool {
	s = strings.TrimPrefix(s, "-")
	if s == "" || s[0] < '0' || s[0] > '9' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'z') && s[i] != '.' && s[i] != '-' {
			return false
		}
	}
	return true
}

package sample

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Sizes of the stand-ins for what a real release has, in bytes.
const (
	readyImageSize = 6 << 10 // of images whose size profiles.json does not tell
	kernelSize     = 192 << 10
	sectorSize     = 64 << 10 // kernel and root of an image are padded to it
)

// imageInfo and targetInfo are profiles.json; keys in the order of their names.
type imageInfo struct {
	Filesystem     string `json:"filesystem"`
	Name           string `json:"name"`
	SHA256         string `json:"sha256"`
	SHA256Unsigned string `json:"sha256_unsigned"`
	Size           int    `json:"size,omitempty"` // bytes
	Type           string `json:"type"`
}

type profileInfo struct {
	DevicePackages   []string            `json:"device_packages"`
	FileSizeLimits   map[string]int      `json:"file_size_limits,omitempty"` // bytes
	ImagePrefix      string              `json:"image_prefix"`
	Images           []imageInfo         `json:"images"`
	SupportedDevices []string            `json:"supported_devices"`
	Titles           []map[string]string `json:"titles"`
}

type targetInfo struct {
	ArchPackages    string                 `json:"arch_packages"`
	DefaultPackages []string               `json:"default_packages"`
	ImageBuilder    map[string]string      `json:"imagebuilder,omitempty"`
	LinuxKernel     map[string]string      `json:"linux_kernel"`
	MetadataVersion int                    `json:"metadata_version"`
	Profiles        map[string]profileInfo `json:"profiles"`
	SourceDateEpoch int64                  `json:"source_date_epoch"`
	Target          string                 `json:"target"`
	VersionCode     string                 `json:"version_code"`
	VersionNumber   string                 `json:"version_number"`
}

// info is profiles.json of the target, without profiles.
func (t *target) info(r *release) targetInfo {
	info := targetInfo{
		ArchPackages:    t.arch,
		DefaultPackages: slices.Sorted(slices.Values(t.defaultPackages(r))),
		LinuxKernel:     map[string]string{"release": "1", "vermagic": t.vermagic(r), "version": r.kernel},
		MetadataVersion: 1,
		Profiles:        map[string]profileInfo{},
		SourceDateEpoch: r.epoch,
		Target:          t.name,
		VersionCode:     r.revision,
		VersionNumber:   r.version,
	}
	if r.apk {
		info.ImageBuilder = map[string]string{"x86_64": builderName(r, t) + ".tar.zst"}
	}
	return info
}

// images writes the ready-made images, profiles.json and the manifest.
func (w *tree) images(r *release, t *target, folder string, pkgs []*pkg) error {
	info := t.info(r)
	for _, p := range t.profiles {
		pi := profileInfo{
			DevicePackages:   p.packages,
			ImagePrefix:      t.prefix(r) + "-" + p.id,
			SupportedDevices: p.aliases,
			Titles:           p.titles(),
		}
		if r.apk && p.limit > 0 {
			pi.FileSizeLimits = map[string]int{"image": p.limit}
		}
		if pi.SupportedDevices == nil {
			pi.SupportedDevices = []string{}
		}
		for _, filesystem := range t.filesystems() {
			for _, kind := range p.images {
				name := fmt.Sprintf("%s-%s-%s.%s", pi.ImagePrefix, filesystem, kind.kind, kind.ext)
				size := readyImageSize
				if r.apk && kind == sysupgrade {
					chosen, err := selection(r, t, pkgs, p.packages)
					if err != nil {
						return err
					}
					size = flashSize(chosen, r, t)
				}
				data := noise("ready-made image "+name, size)
				if err := w.put(folder+"/"+name, data, r); err != nil {
					return err
				}
				s := sum(data)
				info := imageInfo{Filesystem: filesystem, Name: name, SHA256: s, SHA256Unsigned: s, Type: kind.kind}
				if r.apk {
					info.Size = size
				}
				pi.Images = append(pi.Images, info)
			}
		}
		info.Profiles[p.id] = pi
	}
	doc, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := w.put(folder+"/profiles.json", doc, r); err != nil {
		return err
	}
	manifest, err := defaultManifest(r, t, pkgs)
	if err != nil {
		return err
	}
	return w.put(folder+"/"+t.prefix(r)+".manifest", manifest, r)
}

// defaultManifest lists the default packages with all they depend on, as the
// release's own manifest does.
func defaultManifest(r *release, t *target, pkgs []*pkg) ([]byte, error) {
	chosen, err := selection(r, t, pkgs, nil)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, p := range pkgs {
		if chosen[p] {
			fmt.Fprintf(&out, "%s - %s\n", p.name, p.version)
		}
	}
	return out.Bytes(), nil
}

// selection is the target's default packages and a device's own, "-name"
// taking one out, with all that they depend on.
func selection(r *release, t *target, pkgs []*pkg, device []string) (map[*pkg]bool, error) {
	providers := map[string]*pkg{}
	for _, p := range pkgs {
		for _, name := range p.provides {
			if providers[name] == nil {
				providers[name] = p
			}
		}
	}
	for _, p := range pkgs {
		providers[p.name] = p
	}
	chosen := map[*pkg]bool{}
	var add func(name string) error
	add = func(name string) error {
		p := providers[name]
		if p == nil {
			return fmt.Errorf("the default package %s is not in the catalogue", name)
		}
		if chosen[p] {
			return nil
		}
		chosen[p] = true
		for _, d := range p.depends {
			if err := add(d.name); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		return nil
	}
	for _, name := range slices.Concat(t.defaultPackages(r), device, []string{"kernel"}) {
		if strings.HasPrefix(name, "-") || slices.Contains(device, "-"+name) {
			continue
		}
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return chosen, nil
}

// flashSize is about what the sample's ImageBuilder makes of the packages: the
// kernel and a root file system that does not compress.
func flashSize(chosen map[*pkg]bool, r *release, t *target) int {
	root := 0
	for p := range chosen {
		for _, f := range contents(p, r, t) {
			root += len(f.data)
		}
	}
	return kernelSize + (root+sectorSize-1)/sectorSize*sectorSize
}

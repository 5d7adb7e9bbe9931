package imagebuilder

import (
	"encoding/json"
	"time"
)

// Image is one firmware file, in the ImageBuilder's own words
// (profiles.json, openwrt/openwrt scripts/json_overview_image_info.py).
type Image struct {
	Name           string `json:"name"`
	Type           string `json:"type"`
	Filesystem     string `json:"filesystem,omitempty"`
	SHA256         string `json:"sha256"`
	SHA256Unsigned string `json:"sha256_unsigned,omitempty"`
	Size           int64  `json:"size"` // bytes
}

// File is one file of an image set: images, manifest, sums and the rest.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Title is how a device is called by people.
type Title struct {
	Vendor  string `json:"vendor,omitempty"`
	Model   string `json:"model,omitempty"`
	Variant string `json:"variant,omitempty"`
	Title   string `json:"title,omitempty"`
}

// String joins the parts of a title with spaces.
func (t Title) String() string {
	if t.Title != "" {
		return t.Title
	}
	s := t.Vendor
	for _, part := range []string{t.Model, t.Variant} {
		if part == "" {
			continue
		}
		if s != "" {
			s += " "
		}
		s += part
	}
	return s
}

// Manifest is the packages in an image: name, without ABI suffix, to version.
type Manifest map[string]string

// ImageSet is what one build produced: the facts of its profiles.json, the
// manifest and the sums.
type ImageSet struct {
	ID               string          `json:"id"` // the profile
	Titles           []Title         `json:"titles"`
	Target           string          `json:"target"`
	VersionNumber    string          `json:"version_number"`
	VersionCode      string          `json:"version_code"`
	ArchPackages     string          `json:"arch_packages"`
	ImagePrefix      string          `json:"image_prefix,omitempty"`
	DefaultPackages  []string        `json:"default_packages"`
	DevicePackages   []string        `json:"device_packages"`
	SupportedDevices []string        `json:"supported_devices"`
	MetadataVersion  int             `json:"metadata_version"`
	SourceDateEpoch  int64           `json:"source_date_epoch"` // seconds
	LinuxKernel      json.RawMessage `json:"linux_kernel,omitempty"`
	Images           []Image         `json:"images"`
	Manifest         Manifest        `json:"manifest"`
	Files            []File          `json:"files"`
	BuildCmd         []string        `json:"build_cmd"`
	BuildCmdPackages []string        `json:"build_cmd_packages"`
	BuiltAt          time.Time       `json:"built_at"`
	// Stdout and Stderr are the ends of what the ImageBuilder said; bounded.
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
}

// Size is the sum of all files' sizes in bytes.
func (s *ImageSet) Size() int64 {
	var n int64
	for _, f := range s.Files {
		n += f.Size
	}
	return n
}

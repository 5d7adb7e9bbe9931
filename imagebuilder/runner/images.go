package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

// profilesJSON is the file that an ImageBuilder writes beside its images
// (openwrt/openwrt scripts/json_overview_image_info.py).
type profilesJSON struct {
	ArchPackages    string          `json:"arch_packages"`
	DefaultPackages []string        `json:"default_packages"`
	LinuxKernel     json.RawMessage `json:"linux_kernel"`
	MetadataVersion int             `json:"metadata_version"`
	Profiles        map[string]struct {
		DevicePackages   []string             `json:"device_packages"`
		ImagePrefix      string               `json:"image_prefix"`
		Images           []imagebuilder.Image `json:"images"`
		SupportedDevices []string             `json:"supported_devices"`
		Titles           []imagebuilder.Title `json:"titles"`
	} `json:"profiles"`
	SourceDateEpoch int64  `json:"source_date_epoch"`
	Target          string `json:"target"`
	VersionCode     string `json:"version_code"`
	VersionNumber   string `json:"version_number"`
}

// collect makes an image set of what `make image` left in dir, if it is whole:
// profiles.json must be there and name the profile with at least one image
// that exists, and every image that exists must have the sum noted for it.
// Exit code 0 proves none of that. What is no plain file is removed.
func collect(dir string, req imagebuilder.Request, manifest imagebuilder.Manifest, found *findings) (*imagebuilder.ImageSet, error) {
	files, err := sumFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("computing sums: %w", err)
	}
	// Something did not fit: images were dropped in silence.
	dropped := found.tooBig || found.skipped > 0 || found.noImages
	data, err := os.ReadFile(filepath.Join(dir, "profiles.json"))
	if errors.Is(err, os.ErrNotExist) {
		if dropped {
			return nil, found.tooBigFailure()
		}
		return nil, sentence(imagebuilder.CodeNoImage, "No JSON file found.", "The ImageBuilder ended well but made no image for this device.")
	}
	if err != nil {
		return nil, err
	}
	var p profilesJSON
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, sentence(imagebuilder.CodeNoImage, "No usable JSON file found.", "Please tell the server's operator.").WithCause(err)
	}
	profile, ok := p.Profiles[req.Profile]
	if !ok {
		if dropped {
			return nil, found.tooBigFailure()
		}
		return nil, sentence(imagebuilder.CodeNoImage, "Profile not found in JSON file.", "The ImageBuilder ended well but made no image for this device.")
	}
	bySum := make(map[string]imagebuilder.File, len(files))
	for _, f := range files {
		bySum[f.Name] = f
	}
	images := make([]imagebuilder.Image, 0, len(profile.Images))
	takable := false
	for _, image := range profile.Images {
		f, ok := bySum[image.Name]
		if !ok {
			continue
		}
		if image.SHA256 != f.SHA256 {
			return nil, sentence(imagebuilder.CodeNoImage, "The image "+f.Name+" does not match the sum that the ImageBuilder noted for it.", "Please try again.").
				WithCause(fmt.Errorf("%s has SHA-256 %s, noted is %s", f.Name, f.SHA256, image.SHA256))
		}
		image.Size = f.Size
		images = append(images, image)
		wanted := req.Filesystem == nil || image.Filesystem == "" || image.Filesystem == *req.Filesystem
		takable = takable || wanted && clientTakes(image.Type)
	}
	switch {
	case dropped && !takable:
		return nil, found.tooBigFailure()
	case len(images) == 0:
		return nil, sentence(imagebuilder.CodeNoImage, "No image found for this device.", "The ImageBuilder ended well but left none of the images that it lists.")
	}
	if err := compareManifests(dir, files, manifest); err != nil {
		return nil, err
	}
	return &imagebuilder.ImageSet{
		ID:               req.Profile,
		Titles:           notNil(profile.Titles),
		Target:           p.Target,
		VersionNumber:    p.VersionNumber,
		VersionCode:      p.VersionCode,
		ArchPackages:     p.ArchPackages,
		ImagePrefix:      profile.ImagePrefix,
		DefaultPackages:  notNil(p.DefaultPackages),
		DevicePackages:   notNil(profile.DevicePackages),
		SupportedDevices: notNil(profile.SupportedDevices),
		MetadataVersion:  p.MetadataVersion,
		SourceDateEpoch:  p.SourceDateEpoch,
		LinuxKernel:      p.LinuxKernel,
		Images:           images,
		Manifest:         manifest,
		Files:            files,
	}, nil
}

// clientTakes tells whether a client that upgrades a device could take an
// image of this type (openwrt/packages utils/owut: sysupgrade, combined, or
// what a profile has beside its factory images).
func clientTakes(imageType string) bool {
	for _, other := range []string{"factory", "kernel", "rootfs", "initramfs", "recovery", "tftp", "manifest"} {
		if strings.Contains(imageType, other) {
			return false
		}
	}
	return true
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// sumFiles lists the plain files of dir with our own sums, gives them mode
// 0644 and removes everything else.
func sumFiles(dir string) ([]imagebuilder.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make([]imagebuilder.File, 0, len(entries))
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if !entry.Type().IsRegular() {
			if err := sandbox.RemoveAll(path); err != nil {
				return nil, err
			}
			continue
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return nil, err
		}
		file, err := sumFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func sumFile(path string) (imagebuilder.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return imagebuilder.File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return imagebuilder.File{}, err
	}
	return imagebuilder.File{Name: filepath.Base(path), Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// compareManifests holds the image's own manifest against the checked one.
func compareManifests(dir string, files []imagebuilder.File, checked imagebuilder.Manifest) error {
	for _, f := range files {
		if !strings.HasSuffix(f.Name, ".manifest") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			return err
		}
		image, err := ParseManifest(string(data))
		if err != nil {
			return sentence(imagebuilder.CodeNoImage, "The image's manifest cannot be read.", "Please tell the server's operator.").WithCause(err)
		}
		if difference := sameManifest(checked, image); difference != "" {
			return sentence(imagebuilder.CodePackageDamaged, "The package feeds changed while the image was built.", "Please try again.").
				WithCause(&differenceError{difference, image})
		}
	}
	return nil
}

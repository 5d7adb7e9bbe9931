package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"attendant/imagebuilder"
)

// ProfilesJSON is a target's profiles.json (openwrt/openwrt
// scripts/json_overview_image_info.py). Members that are missing or of an
// unexpected type are zero.
type ProfilesJSON struct {
	ArchPackages    string
	DefaultPackages []string
	LinuxKernel     LinuxKernel
	MetadataVersion int
	SourceDateEpoch int64 // seconds
	Target          string
	VersionCode     string // the revision, as "r28427-6df0e3d02a"
	VersionNumber   string
	Profiles        map[string]*Profile // by id

	metadata map[string]json.RawMessage // all members but profiles
	names    map[string][]string        // what a device is called, folded, to the ids
}

// LinuxKernel is the kernel of a target; known since 24.10.
type LinuxKernel struct {
	Version, Release, Vermagic string
}

// Profile is one device.
type Profile struct {
	ID               string
	Titles           []imagebuilder.Title
	DevicePackages   []string // "-name" removes a default package
	SupportedDevices []string
	ImagePrefix      string
	Images           []imagebuilder.Image
	ImageSize        int64 // bytes that the device's definition allows its image; known after 24.10, else 0

	members map[string]json.RawMessage
}

// maxProfiles bounds a target's devices; the largest real one has about 700.
const maxProfiles = 20_000

// ParseProfiles reads a profiles.json. Only the object of profiles is needed;
// profiles whose id could not be given to an ImageBuilder are dropped.
func ParseProfiles(data []byte) (*ProfilesJSON, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("reading profiles.json: %w", err)
	}
	var profiles map[string]json.RawMessage
	if err := json.Unmarshal(members["profiles"], &profiles); err != nil || profiles == nil {
		return nil, errors.New("reading profiles.json: there are no profiles in it")
	}
	if len(profiles) > maxProfiles {
		return nil, fmt.Errorf("reading profiles.json: it has more than %d profiles", maxProfiles)
	}
	delete(members, "profiles")
	p := &ProfilesJSON{Profiles: make(map[string]*Profile, len(profiles)), metadata: members}
	lenient(members["arch_packages"], &p.ArchPackages)
	p.DefaultPackages = packageNames(members["default_packages"])
	lenient(members["metadata_version"], &p.MetadataVersion)
	lenient(members["source_date_epoch"], &p.SourceDateEpoch)
	lenient(members["target"], &p.Target)
	lenient(members["version_code"], &p.VersionCode)
	lenient(members["version_number"], &p.VersionNumber)
	var kernel map[string]json.RawMessage
	lenient(members["linux_kernel"], &kernel)
	p.LinuxKernel = LinuxKernel{scalar(kernel["version"]), scalar(kernel["release"]), scalar(kernel["vermagic"])}
	if !imagebuilder.ValidArch(p.ArchPackages) {
		p.ArchPackages = ""
	}
	if !imagebuilder.ValidRevision(p.VersionCode) {
		p.VersionCode = ""
	}
	for id, raw := range profiles {
		if !imagebuilder.ValidProfileID(id) {
			continue
		}
		profile := &Profile{ID: id}
		if json.Unmarshal(raw, &profile.members) != nil || profile.members == nil {
			continue
		}
		lenient(profile.members["titles"], &profile.Titles)
		profile.DevicePackages = packageNames(profile.members["device_packages"])
		lenient(profile.members["supported_devices"], &profile.SupportedDevices)
		lenient(profile.members["image_prefix"], &profile.ImagePrefix)
		lenient(profile.members["images"], &profile.Images)
		var limits map[string]json.RawMessage
		lenient(profile.members["file_size_limits"], &limits)
		lenient(limits["image"], &profile.ImageSize)
		profile.ImageSize = max(profile.ImageSize, 0)
		p.Profiles[id] = profile
	}
	if len(p.Profiles) == 0 {
		return nil, errors.New("reading profiles.json: there are no profiles in it")
	}
	p.nameAll()
	return p, nil
}

// lenient decodes raw into v and leaves v zero if it does not fit.
func lenient[T any](raw json.RawMessage, v *T) {
	if len(raw) == 0 {
		return
	}
	var value T
	if json.Unmarshal(raw, &value) == nil {
		*v = value
	}
}

// scalar returns a string or a number as a string.
func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

func packageNames(raw json.RawMessage) []string {
	var names []string
	lenient(raw, &names)
	return slices.DeleteFunc(names, func(name string) bool {
		return !imagebuilder.ValidPackageName(strings.TrimPrefix(name, "-"))
	})
}

// fold brings the spellings of one device name together: routers say
// "tplink,archer-c7-v5", profiles are called "tplink_archer-c7-v5".
func fold(name string) string { return strings.ReplaceAll(name, ",", "_") }

// loosely is fold for names that people write.
func loosely(name string) string {
	return "\x00" + strings.ToLower(strings.Join(strings.Fields(fold(name)), " "))
}

// nameAll notes how every profile is called besides its id.
func (p *ProfilesJSON) nameAll() {
	p.names = make(map[string][]string, 3*len(p.Profiles))
	add := func(name, id string) {
		if len(name) > 0 && name != "\x00" && !slices.Contains(p.names[name], id) {
			p.names[name] = append(p.names[name], id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Profiles)) {
		profile := p.Profiles[id]
		add(loosely(id), id)
		for _, device := range profile.SupportedDevices {
			add(fold(device), id)
			add(loosely(device), id)
		}
		if prefix := profile.ImagePrefix; prefix != "" {
			add(prefix, id)
			dashed := strings.ReplaceAll(p.Target, "/", "-")
			if i := strings.LastIndex(prefix, "-"+dashed+"-"); dashed != "" && i >= 0 {
				add(prefix[i+len(dashed)+2:], id)
				add(loosely(prefix[i+len(dashed)+2:]), id)
			}
		}
		for _, title := range profile.Titles {
			add(loosely(title.String()), id)
		}
	}
}

// Resolve finds the profile that answers to name, the surest way first: the
// id itself; the id as a board name ("tplink,archer-c7-v5"); a supported
// device or the name in image files; any of these or the title as people write
// them. A target whose only profile is "generic" (x86, armsr) takes every
// name, as its machines' board names come from their vendors. The errors are
// CodeUnsupportedProfile and CodeAmbiguousProfile, which lists the ids.
func (p *ProfilesJSON) Resolve(name string) (*Profile, error) {
	if profile := p.Profiles[name]; profile != nil {
		return profile, nil
	}
	if profile := p.Profiles[fold(name)]; profile != nil {
		return profile, nil
	}
	for _, spelling := range []string{fold(name), loosely(name)} {
		switch ids := p.names[spelling]; len(ids) {
		case 0:
		case 1:
			return p.Profiles[ids[0]], nil
		default:
			return nil, imagebuilder.Errorf(imagebuilder.CodeAmbiguousProfile,
				"Ambiguous profile: %s. Several devices answer to it: %s. Please ask for one of these.", name, strings.Join(ids, ", "))
		}
	}
	if generic := p.Profiles["generic"]; generic != nil && len(p.Profiles) == 1 {
		return generic, nil
	}
	return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedProfile,
		"Unsupported profile: %s. The requested profile was either dropped or never existed. Please check the forums for more information.", name)
}

// JSON is the reply of /json/v1/…/{profile}.json: the target's metadata with
// the members of the profile, its id and when it was built.
func (p *ProfilesJSON) JSON(id string) ([]byte, bool) {
	profile := p.Profiles[id]
	if profile == nil {
		return nil, false
	}
	members := make(map[string]json.RawMessage, len(p.metadata)+len(profile.members)+2)
	maps.Copy(members, p.metadata)
	maps.Copy(members, profile.members)
	members["id"], _ = json.Marshal(id) // a string always can
	builtAt := time.Unix(p.SourceDateEpoch, 0).UTC()
	if year := builtAt.Year(); year < 0 || year > 9999 {
		builtAt = time.Unix(0, 0).UTC()
	}
	members["build_at"], _ = json.Marshal(builtAt.Format("2006-01-02T15:04:05.000000Z"))
	reply, err := json.Marshal(members)
	return reply, err == nil
}

package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"attendant/imagebuilder"
)

// UpgradeQuestion is what a router says of itself when it asks whether there
// is an upgrade. Its form goes back to the design of 2017
// (aparcar/attendedsysupgrade-server, README.md).
type UpgradeQuestion struct {
	Distro   string
	Version  string // installed release
	Revision string // installed revision, "" unknown; tells snapshots apart
	Target   string // as "ath79/generic"
	// Devices are the names that the device goes by: profile, board name,
	// model; the surest first.
	Devices []string
	// Packages are those that the user has chosen, with the installed
	// version or "" where that is unknown; "-name" is one that was removed.
	Packages  imagebuilder.Pairs
	Installed imagebuilder.Pairs // everything installed, with dependencies; optional
	Choices   map[string]string  // old package to the option that the user chose
	Channel   string             // ChannelRelease or ChannelTesting
	Community string             // whose policy applies; "" the server's
	ToVersion string             // "" lets the server recommend one

	// These go into Upgrade.Request as they are.
	Filesystem   *string
	DiffPackages bool
	Client       *string
}

// The channels of an upgrade check.
const (
	ChannelRelease = "release" // releases
	ChannelTesting = "testing" // release candidates as well, and what is held back
)

// Names are the requested packages without their versions.
func (q *UpgradeQuestion) Names() []string { return q.Packages.Names() }

// UpgradeReason says, to a program, why a version is recommended.
type UpgradeReason string

// The reasons for an upgrade.
const (
	ReasonStable     UpgradeReason = "stable"      // a newer release of the installed branch
	ReasonNextBranch UpgradeReason = "next_branch" // nothing newer in the installed branch, but a newer branch
	ReasonEndOfLife  UpgradeReason = "end_of_life" // the installed branch gets no more updates
	ReasonMinimum    UpgradeReason = "minimum"     // the installed release is older than the operator wants
	ReasonSnapshot   UpgradeReason = "snapshot"    // a newer revision of the installed snapshot
	ReasonPackages   UpgradeReason = "packages"    // the same release with updated packages
	ReasonRequested  UpgradeReason = "requested"   // the client asked for this version
)

// Upgrade is the answer to an UpgradeQuestion that found something newer.
type Upgrade struct {
	Status           int                    `json:"status"`
	Detail           string                 `json:"detail"`
	Version          string                 `json:"version"`
	VersionCode      string                 `json:"version_code,omitempty"`
	Reason           UpgradeReason          `json:"reason"`
	ReasonDetail     string                 `json:"reason_detail"`
	InstalledVersion string                 `json:"installed_version"`
	Distro           string                 `json:"distro"`
	Target           string                 `json:"target"`
	Profile          string                 `json:"profile,omitempty"` // its id, "" where the question names no device
	Titles           []imagebuilder.Title   `json:"titles,omitempty"`
	Notes            []string               `json:"notes,omitempty"` // sentences that the user should read before upgrading
	Packages         map[string]string      `json:"packages"`        // the selection: name to version in the new release
	Upgrades         map[string][2]string   `json:"upgrades"`        // name to old and new version
	Replacements     map[string][]string    `json:"replacements"`    // old name to those that take its place
	Dropped          map[string]string      `json:"dropped"`         // name to a sentence
	Added            map[string]string      `json:"added"`           // name to a sentence
	Choices          imagebuilder.Choices   `json:"choices"`
	Missing          map[string][]string    `json:"missing"` // in no index: name to the nearest names
	Problems         []imagebuilder.Problem `json:"problems"`
	Repairs          []imagebuilder.Repair  `json:"repairs"`
	// Request is ready to be posted; nil where the device is not known.
	Request *imagebuilder.Request `json:"request,omitempty"`
}

// upgradeCheck answers whether there is something newer for a router: 204
// without a body, or 200 with what will change.
func (s *Server) upgradeCheck(w http.ResponseWriter, r *http.Request) {
	body, err := s.readBody(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	q, err := decodeUpgradeQuestion(body)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	upgrade, err := s.checkUpgrade(r, q)
	switch {
	case err != nil:
		s.writeError(w, r, err)
	case upgrade == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		writeJSON(w, http.StatusOK, jsonBody(upgrade))
	}
}

// checkUpgrade asks the catalogue of the distribution that q names; nil is
// nothing newer.
func (s *Server) checkUpgrade(r *http.Request, q UpgradeQuestion) (*Upgrade, error) {
	catalogue, err := s.distribution(r, q.Distro)
	if err != nil {
		return nil, err
	}
	if err := q.validate(); err != nil {
		return nil, err
	}
	return catalogue.Upgrade(r.Context(), q)
}

// decodeUpgradeQuestion reads the body of an upgrade check.
func decodeUpgradeQuestion(body []byte) (UpgradeQuestion, error) {
	var q UpgradeQuestion
	var subtarget, profile, boardName, model, versionCode string
	var packages, installed nameVersions
	err := decodeObject(body, []field{
		{"distro", &q.Distro, "a string"},
		{"version", &q.Version, "a string"},
		{"revision", &q.Revision, "a string"},
		{"version_code", &versionCode, "a string"},
		{"target", &q.Target, "a string"},
		{"subtarget", &subtarget, "a string"},
		{"profile", &profile, "a string"},
		{"board_name", &boardName, "a string"},
		{"model", &model, "a string"},
		{"packages", &packages, packagesForm},
		{"installed", &installed, packagesForm},
		{"choices", &q.Choices, "an object of strings, old package to new"},
		{"channel", &q.Channel, "a string"},
		{"community", &q.Community, "a string"},
		{"to_version", &q.ToVersion, "a string"},
		{"filesystem", &q.Filesystem, "a string"},
		{"diff_packages", &q.DiffPackages, "true or false"},
		{"client", &q.Client, "a string"},
	})
	if err != nil {
		return q, err
	}
	if q.Revision == "" {
		q.Revision = versionCode
	}
	if subtarget != "" && !strings.Contains(q.Target, "/") {
		q.Target += "/" + subtarget
	}
	for _, name := range []string{profile, boardName, model} {
		if name != "" {
			q.Devices = append(q.Devices, name)
		}
	}
	q.Packages, q.Installed = imagebuilder.Pairs(packages), imagebuilder.Pairs(installed)
	return q, nil
}

// validate checks grammar and bounds. The error is CodeMalformed with a
// sentence that names the field.
func (q *UpgradeQuestion) validate() error {
	bad := func(format string, args ...any) error {
		return imagebuilder.Errorf(imagebuilder.CodeMalformed, format, args...)
	}
	if q.Channel == "" {
		q.Channel = ChannelRelease
	}
	switch {
	case q.Version == "":
		return bad("version: it is missing. Name the installed release, as in \"24.10.4\" or \"SNAPSHOT\".")
	case !imagebuilder.ValidVersion(q.Version):
		return bad("version: %.100q is not a release's name.", q.Version)
	case q.ToVersion != "" && !imagebuilder.ValidVersion(q.ToVersion):
		return bad("to_version: %.100q is not a release's name.", q.ToVersion)
	case !imagebuilder.ValidRevision(q.Revision):
		return bad("revision: %.100q is not a revision, as in \"r28427-6df0e3d02a\".", q.Revision)
	case q.Target == "":
		return bad("target: it is missing. Name target and subtarget, as in \"ath79/generic\".")
	case !imagebuilder.ValidTarget(q.Target):
		return bad("target: %.100q is not a target with its subtarget, as in \"ath79/generic\".", q.Target)
	case q.Channel != ChannelRelease && q.Channel != ChannelTesting:
		return bad("channel: %.100q is neither \"release\" nor \"testing\".", q.Channel)
	case q.Community != "" && !imagebuilder.ValidVersion(q.Community):
		return bad("community: %.100q is not a community's name.", q.Community)
	case q.Client != nil && len(*q.Client) > imagebuilder.MaxClientLength:
		return bad("client: it has %d bytes; at most %d are allowed.", len(*q.Client), imagebuilder.MaxClientLength)
	}
	for _, name := range q.Devices {
		if !imagebuilder.ValidProfileName(name) {
			return bad("profile: %.100q is not a device's name.", name)
		}
	}
	var err *imagebuilder.Error
	if q.Packages, err = checkNameVersions("packages", q.Packages, imagebuilder.MaxPackages, true); err != nil {
		return err
	}
	if q.Installed, err = checkNameVersions("installed", q.Installed, 2*imagebuilder.MaxPackages, false); err != nil {
		return err
	}
	if err := imagebuilder.ValidChoices(q.Choices); err != nil {
		return err
	}
	return nil
}

// packagesForm is what a nameVersions may be.
const packagesForm = "an object of strings, package to version, or a list of names"

// nameVersions are packages as an object, name to version, or as a list of
// names, whose versions are "".
type nameVersions imagebuilder.Pairs

// UnmarshalJSON reads either form.
func (n *nameVersions) UnmarshalJSON(data []byte) error {
	if data = bytes.TrimSpace(data); len(data) > 0 && data[0] == '{' {
		return (*imagebuilder.Pairs)(n).UnmarshalJSON(data)
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return errors.New("neither an object of strings nor a list of them")
	}
	*n = make(nameVersions, len(names))
	for i, name := range names {
		(*n)[i].Name = name
	}
	return nil
}

// checkNameVersions returns the packages in canonical form: without a leading
// "+", each once.
func checkNameVersions(field string, pairs imagebuilder.Pairs, limit int, removals bool) (imagebuilder.Pairs, *imagebuilder.Error) {
	bad := func(format string, args ...any) (imagebuilder.Pairs, *imagebuilder.Error) {
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, field+": "+format, args...)
	}
	if len(pairs) > limit {
		return bad("it names %d packages; at most %d are allowed.", len(pairs), limit)
	}
	seen := make(map[string]bool, len(pairs))
	kept := make(imagebuilder.Pairs, 0, len(pairs))
	for _, p := range pairs {
		p.Name = strings.TrimPrefix(p.Name, "+")
		name := p.Name
		if removals {
			name = strings.TrimPrefix(name, "-")
		}
		if !imagebuilder.ValidPackageName(name) {
			return bad("%.100q is not a package's name.", p.Name)
		}
		if !imagebuilder.ValidPackageVersion(p.Value) {
			return bad("%.100q is not a version of %s.", p.Value, p.Name)
		}
		if !seen[p.Name] {
			seen[p.Name] = true
			kept = append(kept, p)
		}
	}
	return kept, nil
}

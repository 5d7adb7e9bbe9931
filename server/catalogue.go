package server

import (
	"context"
	"time"

	"attendant/imagebuilder"
)

// Catalogue is what can be built: upstream's releases, targets, devices and
// package indexes. Its methods answer from memory, or wait no longer than a
// client can (contract: the first byte of a reply within 15 s). Their errors
// are *imagebuilder.Error.
type Catalogue interface {
	// Overview returns what is offered now. It is not changed afterwards.
	Overview(ctx context.Context) (*Overview, error)
	// Resolve checks that the request's release, target and device are
	// offered. It returns the request with its profile resolved to an id and
	// the generation that it is to be built with.
	Resolve(ctx context.Context, r imagebuilder.Request) (imagebuilder.Request, imagebuilder.Generation, error)
	// Replace puts the names that packages have in the resolved request's
	// release in the place of older ones, and says so in Changes. What it does
	// depends on Tables, besides its arguments, and on nothing else. The
	// error is a choice that is not possible.
	Replace(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (imagebuilder.Request, error)
	// Impossible tells why no image can come of a request as Replace returned
	// it. It is nil where one can, and where that is not certain.
	Impossible(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) *imagebuilder.Error
	// Content is the ContentHash of a request as Replace returned it, "" where
	// it is not certain what its packages come to.
	Content(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) string
	// Upgrade answers an upgrade check; nil is nothing newer.
	Upgrade(ctx context.Context, q UpgradeQuestion) (*Upgrade, error)
	Packages
	// Tables stands for the replacement tables in force; comparable.
	Tables() any
	// Revision returns a target's version_code.
	Revision(ctx context.Context, version, target string) (string, error)
	// Profile returns the JSON document of one device; path is as in
	// "releases/24.10.4". An unknown device is CodeUnsupportedProfile.
	Profile(ctx context.Context, path, target, profile string) ([]byte, error)
	// TargetIndex returns the JSON document of a target's packages.
	TargetIndex(ctx context.Context, path, target string) ([]byte, error)
	// ArchIndex returns the JSON document of an architecture's packages.
	ArchIndex(ctx context.Context, path, arch string) ([]byte, error)
	Locator
}

// Overview is what is offered, as overview.json and branches.json tell it.
type Overview struct {
	Branches    []Branch // newest first
	Latest      []string // newest branch first: upcoming, stable, oldstable
	UpstreamURL string   // where routers find the release's files; without a final slash
	Checked     time.Time
	Stale       bool // upstream could not be reached when it was last due
}

// Branch is a line of releases.
type Branch struct {
	Name           string                       `json:"name"`
	Path           string                       `json:"path"` // with "{version}"
	Enabled        bool                         `json:"enabled"`
	Snapshot       bool                         `json:"snapshot"`
	PathPackages   string                       `json:"path_packages"` // unused by all, but auc drops a branch without it
	BranchOffRev   int                          `json:"branch_off_rev,omitempty"`
	PackageChanges []imagebuilder.PackageChange `json:"package_changes"`
	Versions       []string                     `json:"versions"`
	Targets        map[string]string            `json:"targets"` // target to architecture
}

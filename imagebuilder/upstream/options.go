package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"attendant/imagebuilder"
)

// Options says where upstream is and how it is treated.
type Options struct {
	// URL is upstream's address, as "https://downloads.openwrt.org".
	URL string
	// Dir is the data folder, on one mount. Its path may hold no white space:
	// ImageBuilders break on it.
	Dir string
	// KeysDir holds trusted usign public keys, called by their fingerprint or
	// *.pub. TrustedKeys are further ones, each a key file's content.
	KeysDir     string
	TrustedKeys [][]byte
	// RequireSignatures refuses targets that no trusted key has signed.
	RequireSignatures bool

	// Refresh and SnapshotRefresh are how often releases and snapshots are
	// looked at; defaults 30 and 10 minutes.
	Refresh, SnapshotRefresh time.Duration
	// RequestWait is how long a caller waits for the first copy of something;
	// default 4 s.
	RequestWait time.Duration
	// Stall ends a transfer that brings no byte for so long; default 30 s.
	// FetchLimit bounds a whole transfer of metadata, default 5 minutes, and
	// BuilderLimit that of an ImageBuilder with all its tries, default 6 hours.
	Stall, FetchLimit, BuilderLimit time.Duration

	// BuilderBudget bounds the unpacked ImageBuilders, in bytes; 0 is no bound
	// but the disk's.
	BuilderBudget int64
	// Packages is where packages are kept; several upstreams may share one.
	// Without it there is one in <Dir>/packages with PackageBudget, in bytes;
	// 0 is no bound but the disk's.
	Packages      *Packages
	PackageBudget int64
	// IndexMemory bounds the parsed package indexes in memory, in bytes;
	// default 48 MiB.
	IndexMemory int64
	// HostArch is this machine's architecture as ImageBuilder archives name
	// it; default the one this program was built for.
	HostArch string
	// LocalBuilders are the operator's own archives, used instead of
	// upstream's.
	LocalBuilders []LocalBuilder
	// Branches are the operator's, over those that are known (see Facts).
	Branches []BranchConfig

	// Prepare is run once on every freshly unpacked ImageBuilder while it is
	// writable and nobody else sees it. dir is its top folder, at a path that
	// is not its last. An error throws the unpacked ImageBuilder away.
	Prepare func(ctx context.Context, dir string) error

	Client *http.Client // default: one with sane limits
	Now    func() time.Time
	Log    *slog.Logger // default: none
}

// LocalBuilder is an ImageBuilder archive (.tar.zst or .tar.xz) that the
// operator has on disk.
type LocalBuilder struct {
	Version string // as "24.10.4"
	Target  string // as "ath79/generic"
	Path    string
}

// BranchConfig is the operator's word on a branch. What is empty stays as the
// table or upstream has it.
type BranchConfig struct {
	Name           string                       // as "24.10"
	Path           string                       // as "releases/{version}"
	Disabled       bool                         // do not offer it
	Snapshot       bool                         // its images are snapshots
	BranchOffRev   int                          // revision at which the branch left the main one
	PackageChanges []imagebuilder.PackageChange // handed on in Overview
	Versions       []string                     // offered beside those that upstream lists
}

func (o *Options) fill() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	o.URL = strings.TrimRight(o.URL, "/")
	if u, err := url.Parse(o.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		bad("%q is not a plain http or https address", o.URL)
	}
	if dir, err := filepath.Abs(o.Dir); err != nil || o.Dir == "" {
		bad("the data folder %q is not a path", o.Dir)
	} else if strings.ContainsAny(dir, " \t\n") {
		bad("the data folder %q has white space in its path, which ImageBuilders cannot stand", dir)
	} else {
		o.Dir = dir
	}
	duration := func(d *time.Duration, name string, def time.Duration) {
		if *d < 0 {
			bad("%s is negative", name)
		}
		if *d == 0 {
			*d = def
		}
	}
	duration(&o.Refresh, "Refresh", 30*time.Minute)
	duration(&o.SnapshotRefresh, "SnapshotRefresh", 10*time.Minute)
	duration(&o.RequestWait, "RequestWait", 4*time.Second)
	duration(&o.Stall, "Stall", 30*time.Second)
	duration(&o.FetchLimit, "FetchLimit", 5*time.Minute)
	duration(&o.BuilderLimit, "BuilderLimit", 6*time.Hour)
	if o.BuilderBudget < 0 {
		bad("BuilderBudget is negative")
	}
	if o.PackageBudget < 0 || o.IndexMemory < 0 {
		bad("PackageBudget or IndexMemory is negative")
	}
	for i, b := range o.LocalBuilders {
		if !imagebuilder.ValidVersion(b.Version) || !imagebuilder.ValidTarget(b.Target) {
			bad("local ImageBuilder %d: %q, %q are not a version and a target", i+1, b.Version, b.Target)
		}
		if !strings.HasSuffix(b.Path, ".tar.zst") && !strings.HasSuffix(b.Path, ".tar.xz") {
			bad("local ImageBuilder %d: %q is neither a .tar.zst nor a .tar.xz", i+1, b.Path)
		}
	}
	for i, b := range o.Branches {
		if !imagebuilder.ValidVersion(b.Name) {
			bad("branch %d: %q is not a branch's name", i+1, b.Name)
		}
		if b.Path != "" && !validPath(strings.ReplaceAll(b.Path, "{version}", "1.0")) {
			bad("branch %s: %q is not a path", b.Name, b.Path)
		}
		for _, v := range b.Versions {
			if !imagebuilder.ValidVersion(v) {
				bad("branch %s: %q is not a version", b.Name, v)
			}
		}
	}
	if o.HostArch == "" {
		o.HostArch = machine()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(problems...)
}

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"attendant/imagebuilder"
)

// requestFlags describe an image and name the server to ask for it.
type requestFlags struct {
	Server string `name:"server" placeholder:"URL" help:"The server. Default http://127.0.0.1:8080. (ATTENDANT_SERVER)"`

	Release        string    `name:"version" placeholder:"RELEASE" group:"request" help:"Release: 24.10.4, SNAPSHOT."`
	Target         string    `name:"target" placeholder:"TARGET" group:"request" help:"Target with subtarget: ath79/generic."`
	Profile        string    `name:"profile" placeholder:"DEVICE" group:"request" help:"Device: tplink_archer-c7-v5."`
	Packages       wordsFlag `name:"packages" placeholder:"'NAME …'" group:"request" help:"Packages beside the device's own; -NAME leaves one out."`
	Versions       wordsFlag `name:"packages-versions" placeholder:"'NAME=VERSION …'" group:"request" help:"Packages with the versions that the image must have; instead of --packages."`
	Diff           bool      `name:"diff-packages" group:"request" help:"The packages are the whole list: the device's own are left out unless named."`
	Filesystem     string    `name:"filesystem" placeholder:"NAME" group:"request" help:"Root file system: squashfs, ext4, …"`
	RootfsSize     int       `name:"rootfs-size-mb" placeholder:"MIB" group:"request" help:"Size of the root partition in MiB."`
	Defaults       string    `name:"defaults" placeholder:"FILE" group:"request" help:"Script to run at the router's first start."`
	Revision       string    `name:"version-code" placeholder:"REVISION" group:"request" help:"Revision that the image must have: r28427-6df0e3d02a."`
	Repositories   wordsFlag `name:"repository" placeholder:"NAME=URL" group:"request" help:"Further package feed; the server must allow it."`
	RepositoryMode string    `name:"repository-mode" placeholder:"MODE" group:"request" help:"append: beside the usual feeds; replace: instead of them."`
	RepositoryKeys wordsFlag `name:"repository-key" placeholder:"FILE" group:"request" help:"Public key of a further feed."`
	From           string    `name:"from" placeholder:"RELEASE" group:"request" help:"Installed release: packages that later ones know by other names are replaced."`
	FromRevision   string    `name:"from-revision" placeholder:"REVISION" group:"request" help:"Installed revision; tells snapshots apart."`
	Choose         wordsFlag `name:"choose" placeholder:"OLD=NEW" group:"request" help:"Which package takes an old one's place, where there is a choice."`
}

const defaultServer = "http://127.0.0.1:8080"

// base is the server's address without a final slash.
func (c *requestFlags) base(p *program) (string, error) {
	server := c.Server
	if server == "" {
		server = environValue(p.environ, "ATTENDANT_SERVER")
	}
	if server == "" {
		server = defaultServer
	}
	return serverBase(server)
}

// wireRequest is the body of POST /api/v1/build. Only what was asked for is
// sent: other servers may know fewer keys.
type wireRequest struct {
	Version          string             `json:"version"`
	VersionCode      string             `json:"version_code,omitempty"`
	Target           string             `json:"target"`
	Profile          string             `json:"profile"`
	Packages         []string           `json:"packages,omitempty"`
	PackagesVersions imagebuilder.Pairs `json:"packages_versions,omitempty"`
	DiffPackages     bool               `json:"diff_packages"`
	Defaults         *string            `json:"defaults,omitempty"`
	RootfsSizeMB     *int               `json:"rootfs_size_mb,omitempty"`
	Filesystem       *string            `json:"filesystem,omitempty"`
	Repositories     imagebuilder.Pairs `json:"repositories,omitempty"`
	RepositoriesMode string             `json:"repositories_mode,omitempty"`
	RepositoryKeys   []string           `json:"repository_keys,omitempty"`
	FromVersion      string             `json:"from_version,omitempty"`
	FromRevision     string             `json:"from_revision,omitempty"`
	Choices          map[string]string  `json:"choices,omitempty"`
	Client           string             `json:"client"`
}

// request brings the flags into the form of the API and checks what can be
// checked without the server.
func (c *requestFlags) request() (*wireRequest, error) {
	var missing []string
	for _, f := range []struct{ name, value string }{{"--version", c.Release}, {"--target", c.Target}, {"--profile", c.Profile}} {
		if f.value == "" {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return nil, usagef("missing: %s. See --help", strings.Join(missing, ", "))
	}
	r := &wireRequest{
		Version: c.Release, VersionCode: c.Revision, Target: c.Target, Profile: c.Profile,
		Packages: splitWords(c.Packages), DiffPackages: c.Diff,
		RepositoriesMode: c.RepositoryMode, Client: "attendant/" + readBuildInfo().Version,
	}
	var err error
	if r.PackagesVersions, err = pairs("--packages-versions", splitWords(c.Versions)); err != nil {
		return nil, err
	}
	if r.Repositories, err = pairs("--repository", c.Repositories); err != nil {
		return nil, err
	}
	r.FromVersion, r.FromRevision = c.From, c.FromRevision
	if len(c.Choose) > 0 {
		choices, err := pairs("--choose", splitWords(c.Choose))
		if err != nil {
			return nil, err
		}
		r.Choices = make(map[string]string, len(choices))
		for _, choice := range choices {
			r.Choices[choice.Name] = choice.Value
		}
	}
	if len(r.PackagesVersions) > 0 && len(r.Packages) > 0 {
		return nil, usagef("--packages and --packages-versions exclude one another")
	}
	if c.Filesystem != "" {
		r.Filesystem = &c.Filesystem
	}
	if c.RootfsSize != 0 {
		r.RootfsSizeMB = &c.RootfsSize
	}
	if c.Defaults != "" {
		script, err := os.ReadFile(c.Defaults)
		if err != nil {
			return nil, fmt.Errorf("read the script for the first start: %w", err)
		}
		text := string(script)
		r.Defaults = &text
	}
	for _, name := range c.RepositoryKeys {
		key, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the key of a feed: %w", err)
		}
		r.RepositoryKeys = append(r.RepositoryKeys, strings.TrimSpace(string(key)))
	}
	check := imagebuilder.Request{
		Version: r.Version, VersionCode: r.VersionCode, Target: r.Target, Profile: r.Profile, Packages: r.Packages,
		PackagesVersions: r.PackagesVersions, Defaults: r.Defaults, RootfsSizeMB: r.RootfsSizeMB, Filesystem: r.Filesystem,
		Repositories: r.Repositories, RepositoriesMode: r.RepositoriesMode, RepositoryKeys: r.RepositoryKeys,
		FromVersion: r.FromVersion, FromRevision: r.FromRevision, Choices: r.Choices,
	}
	// How much the server allows, it says itself.
	limits := imagebuilder.Limits{MaxRootfsSizeMB: 1 << 20, MaxDefaultsLength: imagebuilder.MaxDefaultsLimit}
	if bad := check.Normalize().Validate(limits); bad != nil {
		return nil, &usageError{errors.New(bad.Detail)}
	}
	return r, nil
}

// wordsFlag is a flag that can be given several times and whose value may
// begin with "-", as that of --packages does.
type wordsFlag []string

// Decode implements kong.MapperValue.
func (f *wordsFlag) Decode(ctx *kong.DecodeContext) error {
	token := ctx.Scan.Pop()
	if token.IsEOL() {
		return errors.New("its value is missing")
	}
	*f = append(*f, token.String())
	return nil
}

// splitWords takes lists apart that are written with spaces or commas.
func splitWords(lists []string) []string {
	var words []string
	for _, list := range lists {
		words = append(words, strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' || r == '\t' })...)
	}
	return words
}

func pairs(flag string, words []string) (imagebuilder.Pairs, error) {
	var p imagebuilder.Pairs
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, usagef("%s: %.100q has no \"=\"", flag, word)
		}
		p = append(p, imagebuilder.Pair{Name: name, Value: value})
	}
	return p, nil
}

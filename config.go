package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"attendant/imagebuilder"
)

// Config is what an operator can set, ready to use: paths are absolute, URLs
// have no trailing slash, everything has been checked. It is filled from the
// defaults, then attendant.toml, then ATTENDANT_* variables, then flags; the
// table in config_settings.go describes each key.
type Config struct {
	Listen    string // host:port; an empty host is all addresses
	PublicURL string // where clients reach this server; "" is unknown
	Contact   string // shown to users; "" is nobody
	Data      string // folder
	Control   string // path of the control socket

	AdminTokenFile string // file of the operator's token; "" is no administration over HTTP

	Upstream            string // URL
	Keys                string // folder of trusted usign public keys
	RequireSignatures   bool
	Refresh             time.Duration
	SnapshotRefresh     time.Duration
	UpstreamWait        time.Duration
	RepositoryAllowList []string       // URL prefixes, each ending in "/"
	Branches            []Branch       // over the branches that are built in
	ImageBuilders       []ImageBuilder // the operator's own archives
	Distributions       []Distribution // beside the one of Upstream
	Policies            []Policy

	Replacements     string // folder of the operator's replacement tables
	Workers          int    // at least 1
	QueueLimit       int
	JobTimeout       time.Duration
	IdleTimeout      time.Duration
	FailureTTL       time.Duration
	AllowDefaults    bool
	MaxDefaultsBytes int           // of a request's defaults
	DefaultsTTL      time.Duration // of images that hold a request's defaults
	MaxRootfsSizeMB  int           // MiB

	ImageBudget   int64 // bytes
	BuilderBudget int64 // bytes
	PackageBudget int64 // bytes

	LogLevel  slog.Level
	LogFormat string // "text" or "json"

	// File is the configuration file that was read; "" is none.
	File string

	autoWorkers bool // Workers was chosen by the size of the machine
	origins     map[string]Origin
}

// Branch is an operator's word on a branch of releases. What is nil or empty
// stays as attendant knows it.
type Branch struct {
	Name           string                       `json:"name"` // "24.10", "SNAPSHOT"
	Enabled        *bool                        `json:"enabled,omitempty"`
	Snapshot       *bool                        `json:"snapshot,omitempty"`       // it has no releases, only a moving state
	Path           string                       `json:"path,omitempty"`           // below the upstream, with "{version}": "releases/{version}"
	BranchOffRev   *int                         `json:"branch_off_rev,omitempty"` // revision number at which the branch left the main line
	Versions       []string                     `json:"versions,omitempty"`       // offered beside those that upstream lists
	PackageChanges []imagebuilder.PackageChange `json:"package_changes,omitempty"`
}

// ImageBuilder is an archive of the operator's own.
type ImageBuilder struct {
	Version string `json:"version"` // release
	Target  string `json:"target"`  // with subtarget
	Path    string `json:"path"`    // absolute; .tar.zst or .tar.xz
}

// Origin is where a value comes from.
type Origin struct {
	Kind OriginKind
	Name string // path of the file, name of the variable or flag
	Line int    // in the file, from 1
}

// OriginKind is a place that values come from.
type OriginKind string

// The places, the later ones over the earlier ones.
const (
	FromDefault     OriginKind = "default"
	FromFile        OriginKind = "file"
	FromEnvironment OriginKind = "environment"
	FromFlag        OriginKind = "flag"
)

// String names the origin so that a person finds it: "default",
// "attendant.toml:3", "ATTENDANT_LISTEN", "--listen".
func (o Origin) String() string {
	switch o.Kind {
	case FromFile:
		if o.Line == 0 {
			return o.Name
		}
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case FromEnvironment, FromFlag:
		return o.Name
	}
	return string(FromDefault)
}

// Origin tells where the value of a key comes from.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// configError is one thing that is wrong with the configuration.
type configError struct {
	Origin  Origin
	Key     string // "" where the file as a whole is meant
	Message string // a sentence: what is wrong and what is allowed
}

func (e configError) Error() string {
	if e.Key == "" || e.Key == e.Origin.Name {
		return fmt.Sprintf("%s: %s", e.Origin, e.Message)
	}
	return fmt.Sprintf("%s: %s: %s", e.Origin, e.Key, e.Message)
}

// configErrors is everything that is wrong with the configuration.
type configErrors []configError

func (e configErrors) Error() string {
	if len(e) == 1 {
		return "the configuration has an error:\n  " + e[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d errors:", len(e))
	for _, one := range e {
		b.WriteString("\n  " + one.Error())
	}
	return b.String()
}

// configSources is where loadConfig looks.
type configSources struct {
	path       string   // of the file; "" looks in the usual places
	system     string   // the usual place on a machine with the service
	environ    []string // "NAME=value"
	flags      []flagValue
	dir        string // what relative paths are relative to; absolute
	cpus       int
	memory     int64 // bytes; 0 is unknown
	ignoreFile bool
}

// systemConfigPath is the configuration file of the service.
const systemConfigPath = "/etc/attendant/attendant.toml"

// otherVariables begin with ATTENDANT_ and are no settings.
var otherVariables = []string{
	"ATTENDANT_CONFIG", // path of the configuration file
	"ATTENDANT_SERVER", // the server that `attendant build` asks
}

const variablePrefix = "ATTENDANT_"

// configLoader gathers values and all errors.
type configLoader struct {
	src    configSources
	config *Config
	errs   configErrors
}

// loadConfig joins what all sources say. Its error is a configErrors with
// everything that is wrong.
func loadConfig(src configSources) (*Config, error) {
	l := &configLoader{src: src, config: &Config{origins: map[string]Origin{}}}
	for i := range settings {
		s := &settings[i]
		if err := s.set(l.config, s.def); err != nil {
			panic(fmt.Sprintf("default of %s: %v", s.key, err)) // a mistake in the table
		}
		l.config.origins[s.key] = Origin{Kind: FromDefault}
	}
	if err := l.readFile(); err != nil {
		return nil, err
	}
	l.readEnvironment()
	for _, f := range src.flags {
		l.setText(f.key, f.text, Origin{Kind: FromFlag, Name: "--" + flagName(f.key)})
	}
	l.complete()
	l.validate()
	if len(l.errs) > 0 {
		slices.SortStableFunc(l.errs, func(a, b configError) int {
			if a.Origin.Kind != b.Origin.Kind || a.Origin.Name != b.Origin.Name {
				return 0
			}
			return cmp.Compare(a.Origin.Line, b.Origin.Line)
		})
		return nil, l.errs
	}
	return l.config, nil
}

func (l *configLoader) errorf(o Origin, key, format string, args ...any) {
	l.errs = append(l.errs, configError{Origin: o, Key: key, Message: fmt.Sprintf(format, args...)})
}

// setText sets a key to a value in its text form and notes the origin. A
// value that is refused leaves the key as it was.
func (l *configLoader) setText(key, text string, o Origin) {
	s := findSetting(key)
	if err := s.set(l.config, text); err != nil {
		l.refuse(s, o, err)
		return
	}
	l.config.origins[key] = o
}

func (l *configLoader) refuse(s *setting, o Origin, err error) {
	l.errorf(o, s.key, "%v. Allowed is %s.", err, s.allowed)
}

// readFile finds the configuration file and takes its values. The error is
// that the file cannot be read or is no TOML at all.
func (l *configLoader) readFile() error {
	if l.src.ignoreFile {
		return nil
	}
	path, asked := l.src.path, true
	if path == "" {
		path = environValue(l.src.environ, "ATTENDANT_CONFIG")
	}
	if path == "" {
		asked = false
		path = "attendant.toml"
		if _, err := os.Stat(l.absolute(path)); errors.Is(err, fs.ErrNotExist) {
			path = l.src.system
		}
	}
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(l.absolute(path))
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil
	}
	if err != nil {
		var why *fs.PathError
		if errors.As(err, &why) {
			err = why.Err
		}
		return configErrors{{Origin: Origin{Kind: FromFile, Name: path}, Message: fmt.Sprintf("the file cannot be read: %v.", err)}}
	}
	l.config.File = l.absolute(path)
	file, err := parseConfigFile(path, data)
	if err != nil {
		return err
	}
	l.takeFile(file)
	return nil
}

// readEnvironment takes the ATTENDANT_* variables. An empty one is as good as
// none: service managers and compose files leave such behind.
func (l *configLoader) readEnvironment() {
	known := slices.Clone(otherVariables)
	for i := range settings {
		known = append(known, settings[i].variable())
	}
	environ := slices.Clone(l.src.environ)
	slices.Sort(environ)
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, variablePrefix) || slices.Contains(otherVariables, name) {
			continue
		}
		o := Origin{Kind: FromEnvironment, Name: name}
		s := findSetting(strings.ToLower(strings.TrimPrefix(name, variablePrefix)))
		switch {
		case s == nil || s.variable() != name:
			l.errorf(o, name, "there is no such variable.%s", suggestion(name, known))
		case text != "":
			l.setText(s.key, text, o)
		}
	}
}

// complete fills in what follows from other values and makes paths absolute.
func (l *configLoader) complete() {
	c := l.config
	c.Data = l.absolute(c.Data)
	if c.Keys == "" {
		c.Keys = filepath.Join(c.Data, "keys")
	}
	c.Keys = l.absolute(c.Keys)
	if c.Replacements == "" {
		c.Replacements = filepath.Join(c.Data, "replacements.d")
	}
	c.Replacements = l.absolute(c.Replacements)
	if c.Control == "" {
		c.Control = filepath.Join(c.Data, "control.sock")
	}
	c.Control = l.absolute(c.Control)
	if c.AdminTokenFile != "" {
		c.AdminTokenFile = l.absolute(c.AdminTokenFile)
	}
	l.completeDistributions()
	for i := range c.ImageBuilders {
		c.ImageBuilders[i].Path = l.absolute(c.ImageBuilders[i].Path)
	}
	if c.autoWorkers {
		c.Workers = workersFor(l.src.cpus, l.src.memory)
	}
}

// workersFor chooses how many images are built at once: an ImageBuilder keeps
// a core busy and needs some hundred megabytes.
func workersFor(cpus int, memory int64) int {
	if cpus < 4 || memory > 0 && memory < 3<<30 {
		return 1
	}
	return 2
}

func (l *configLoader) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(l.src.dir, path)
}

// maxSocketPath is the longest path of a Unix socket in bytes: sun_path of
// sockaddr_un without its final NUL.
const maxSocketPath = 107

// validate checks what a single value does not show.
func (l *configLoader) validate() {
	c := l.config
	if bad := badPathCharacter(c.Data); bad != "" {
		l.errorf(c.origins["data"], "data", "the path %q holds %s, which breaks ImageBuilders: they are run by make, in folders below this one. Allowed are letters, digits and \"/._+-@\".", c.Data, bad)
	}
	if n := len(c.Control); n > maxSocketPath {
		o := c.origins["control"]
		if o.Kind == FromDefault {
			o = c.origins["data"]
		}
		l.errorf(o, "control", "the path of the control socket, %q, has %d bytes; systems allow %d. Set control to a shorter path.", c.Control, n, maxSocketPath)
	}
	l.validatePolicies()
	if c.IdleTimeout > c.JobTimeout {
		o := c.origins["idle_timeout"]
		if o.Kind == FromDefault {
			o = c.origins["job_timeout"]
		}
		l.errorf(o, "idle_timeout", "a step may be silent for %s, longer than a whole job may take (job_timeout %s). Make idle_timeout the shorter one.",
			formatDuration(c.IdleTimeout), formatDuration(c.JobTimeout))
	}
}

// badPathCharacter names the first character in path that make, or the shell
// lines in an ImageBuilder's makefiles, would not take as part of a file name.
func badPathCharacter(path string) string {
	for _, r := range path {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r > 0x7f, strings.ContainsRune("/._+-@", r):
		case r == ' ':
			return "a space"
		default:
			return fmt.Sprintf("%q", r)
		}
	}
	return ""
}

// thisMachine returns the sources of a real run.
func thisMachine(environ []string) (configSources, error) {
	dir, err := os.Getwd()
	if err != nil {
		return configSources{}, fmt.Errorf("find the current folder: %w", err)
	}
	src := configSources{system: systemConfigPath, environ: environ, dir: dir, cpus: runtime.NumCPU()}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		src.memory = int64(info.Totalram) * int64(info.Unit)
	}
	return src, nil
}

func environValue(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"attendant/imagebuilder"
)

// valueKind is how a value is written in TOML.
type valueKind int

const (
	textValue   valueKind = iota // "text"
	numberValue                  // 3, or a word in quotes
	switchValue                  // true
	listValue                    // ["a", "b"]; in text form "a,b"
)

// setting is one key of the configuration: in the file by its key, as variable
// ATTENDANT_KEY, as flag --key. Values come in text form from everywhere.
type setting struct {
	key         string
	group       string
	kind        valueKind
	def         string // default, in text form
	placeholder string // what a value looks like, for the help
	help        string // one line
	doc         string // more for the example file; may be empty
	allowed     string // completes "Allowed is …."
	set         func(c *Config, text string) error
	text        func(c *Config) string // the value in text form
	shown       func(c *Config) string // what others may see; nil: as text
}

func (s *setting) variable() string { return variablePrefix + strings.ToUpper(s.key) }

func flagName(key string) string { return strings.ReplaceAll(key, "_", "-") }

func findSetting(key string) *setting {
	for i := range settings {
		if settings[i].key == key {
			return &settings[i]
		}
	}
	return nil
}

// The groups of settings, in the order of help and example.
const (
	groupServer   = "Server"
	groupUpstream = "Upstream"
	groupBuilds   = "Builds"
	groupDisk     = "Disk"
	groupLog      = "Log"
)

// settings is the one table that flags, variables, the configuration file,
// their documentation and their checks come from.
var settings = []setting{
	{key: "listen", group: groupServer, def: ":8080", placeholder: "HOST:PORT",
		help:    "Address to listen on.",
		doc:     "Without a host: on all addresses of this machine.",
		allowed: `an address with a port, as ":8080" or "192.168.1.2:80" or "[fd00::1]:8080"`,
		set:     setListen, text: func(c *Config) string { return c.Listen }},
	{key: "public_url", group: groupServer, placeholder: "URL",
		help:    "Address at which clients reach this server, if it stands behind a proxy.",
		doc:     "Needed only where links must be absolute. Without it they follow the request.",
		allowed: `an http or https address without a query, as "https://sysupgrade.example.org"`,
		set:     setURL(func(c *Config) *string { return &c.PublicURL }, true), text: func(c *Config) string { return c.PublicURL },
		shown: func(c *Config) string { return hidePassword(c.PublicURL) }},
	{key: "contact", group: groupServer, placeholder: "TEXT",
		help:    "Who runs this server: a name, an address. Shown to users.",
		allowed: fmt.Sprintf("one line of at most %d bytes", maxContactLength),
		set:     setContact, text: func(c *Config) string { return c.Contact }},
	{key: "data", group: groupServer, def: "./attendant-data", placeholder: "DIR",
		help:    "Folder for everything that attendant keeps.",
		doc:     "All of it must be on one file system, with case-sensitive names, from which programs may run.\nNo spaces in the path: ImageBuilders do not work in such.\nA relative path is relative to the folder in which attendant is started.",
		allowed: "the path of a folder",
		set:     setPath(func(c *Config) *string { return &c.Data }, false), text: func(c *Config) string { return c.Data }},
	{key: "control", group: groupServer, placeholder: "PATH",
		help:    "Socket through which other commands talk to the running server.",
		doc:     "Without it: control.sock in the data folder.",
		allowed: "the path of a socket, at most 107 bytes long",
		set:     setPath(func(c *Config) *string { return &c.Control }, true), text: func(c *Config) string { return c.Control }},
	{key: "admin_token_file", group: groupServer, placeholder: "PATH",
		help:    "File with the token that lets the operator cancel, pin, evict and sync over HTTP.",
		doc:     "Without it there is no such thing; the commands on this machine do the same. Make one with\n\"openssl rand -hex 32\", readable by the server's user alone. It is read at start.",
		allowed: "the path of a file",
		set:     setPath(func(c *Config) *string { return &c.AdminTokenFile }, true), text: func(c *Config) string { return c.AdminTokenFile }},

	{key: "upstream", group: groupUpstream, def: "https://downloads.openwrt.org", placeholder: "URL",
		help:    "Download server of the distribution.",
		doc:     "Routers get this address from attendant and fetch from it, too.",
		allowed: `an http or https address without a query, as "https://downloads.openwrt.org"`,
		set:     setURL(func(c *Config) *string { return &c.Upstream }, false), text: func(c *Config) string { return c.Upstream },
		shown: func(c *Config) string { return hidePassword(c.Upstream) }},
	{key: "keys", group: groupUpstream, placeholder: "DIR",
		help:    "Folder of the usign public keys whose signatures are trusted.",
		doc:     "Without it: keys in the data folder. Each file is a key. Without any key, archives are checked against\nupstream's checksums only.",
		allowed: "the path of a folder",
		set:     setPath(func(c *Config) *string { return &c.Keys }, true), text: func(c *Config) string { return c.Keys }},
	{key: "require_signatures", group: groupUpstream, kind: switchValue, def: "false", placeholder: "BOOL",
		help:    "Whether targets that no trusted key has signed are refused.",
		doc:     "A signature that a trusted key should have made and that is wrong is refused in any case.",
		allowed: "true or false",
		set:     setSwitch(func(c *Config) *bool { return &c.RequireSignatures }),
		text:    func(c *Config) string { return strconv.FormatBool(c.RequireSignatures) }},
	durationSetting(setting{key: "refresh", group: groupUpstream, def: "1h",
		help: "How often upstream is asked for new releases."},
		func(c *Config) *time.Duration { return &c.Refresh }, time.Minute, 30*24*time.Hour),
	durationSetting(setting{key: "snapshot_refresh", group: groupUpstream, def: "15m",
		help: "How often upstream is asked for new snapshots of the targets in use."},
		func(c *Config) *time.Duration { return &c.SnapshotRefresh }, time.Minute, 30*24*time.Hour),
	durationSetting(setting{key: "upstream_wait", group: groupUpstream, def: "4s",
		help: "How long a client's request may wait for upstream.",
		doc:  "Only for what attendant has never seen; the rest is answered from its own copy. Some clients give up\nafter 15 seconds."},
		func(c *Config) *time.Duration { return &c.UpstreamWait }, 100*time.Millisecond, 10*time.Second),
	{key: "repository_allow_list", group: groupUpstream, kind: listValue, placeholder: "URL,…",
		help:    "Addresses of further package feeds that requests may name.",
		doc:     "A feed is allowed if its address is one of these or lies below one of these. Packages run scripts during\nthe build: allow whom you trust.",
		allowed: `a list of http or https addresses without user and query, as "https://feeds.example.org/packages/"`,
		set:     setAllowList, text: func(c *Config) string { return strings.Join(c.RepositoryAllowList, ",") }},

	{key: "workers", group: groupBuilds, kind: numberValue, def: "auto", placeholder: "N",
		help:    "How many images are built at once.",
		doc:     `"auto" is 1 on a machine with less than 4 processors or less than 3 GB of memory, else 2.`,
		allowed: `a whole number between 1 and 64, or "auto"`,
		set:     setWorkers, text: textWorkers, shown: shownWorkers},
	numberSetting(setting{key: "queue_limit", group: groupBuilds, def: "200",
		help: "How many requests may wait; further ones are asked to come back later."},
		func(c *Config) *int { return &c.QueueLimit }, 1, 100000),
	durationSetting(setting{key: "job_timeout", group: groupBuilds, def: "30m",
		help: "How long one build may take."},
		func(c *Config) *time.Duration { return &c.JobTimeout }, time.Minute, 24*time.Hour),
	durationSetting(setting{key: "idle_timeout", group: groupBuilds, def: "10m",
		help: "How long a step of a build may print nothing before it is taken for stuck."},
		func(c *Config) *time.Duration { return &c.IdleTimeout }, 10*time.Second, 24*time.Hour),
	durationSetting(setting{key: "failure_ttl", group: groupBuilds, def: "1h",
		help: "How long a failed build is remembered before the same request is tried again."},
		func(c *Config) *time.Duration { return &c.FailureTTL }, time.Second, 30*24*time.Hour),
	{key: "replacements", group: groupBuilds, placeholder: "DIR",
		help:    "Folder of your own replacement tables: what became of packages in later releases.",
		doc:     "Without it: replacements.d in the data folder. Tables are called DISTRIBUTION/RELEASE.yaml,\nas in openwrt/24.10.yaml, and read again when they change; see \"attendant replacements\".",
		allowed: "the path of a folder",
		set:     setPath(func(c *Config) *string { return &c.Replacements }, true), text: func(c *Config) string { return c.Replacements }},
	{key: "allow_defaults", group: groupBuilds, kind: switchValue, def: "true", placeholder: "BOOL",
		help:    "Whether requests may bring a script that runs at the router's first start (defaults).",
		doc:     "The script runs on the requester's router, never here. It often holds passwords, and whoever learns the\nimage's address can read them: the address cannot be guessed, and such images go after defaults_ttl.",
		allowed: "true or false",
		set:     setSwitch(func(c *Config) *bool { return &c.AllowDefaults }),
		text:    func(c *Config) string { return strconv.FormatBool(c.AllowDefaults) }},
	numberSetting(setting{key: "max_defaults_length", group: groupBuilds, def: "20480",
		help: "How many bytes such a script may have."},
		func(c *Config) *int { return &c.MaxDefaultsBytes }, 1, imagebuilder.MaxDefaultsLimit),
	durationSetting(setting{key: "defaults_ttl", group: groupBuilds, def: "4h",
		help: "How long images with such a script are kept."},
		func(c *Config) *time.Duration { return &c.DefaultsTTL }, 10*time.Minute, 365*24*time.Hour),
	numberSetting(setting{key: "max_rootfs_size_mb", group: groupBuilds, def: "1024",
		help: "How large a root partition requests may ask for, in MiB."},
		func(c *Config) *int { return &c.MaxRootfsSizeMB }, 1, 65536),

	sizeSetting(setting{key: "image_budget", group: groupDisk, def: "10GB",
		help: "How much disk the built images may take; the least recently used go first."},
		func(c *Config) *int64 { return &c.ImageBudget }),
	sizeSetting(setting{key: "builder_budget", group: groupDisk, def: "10GB",
		help: "How much disk the unpacked ImageBuilders may take; the least recently used go first.",
		doc:  "One takes between 0.3 and 1.5 GB."},
		func(c *Config) *int64 { return &c.BuilderBudget }),
	sizeSetting(setting{key: "package_budget", group: groupDisk, def: "4GB",
		help: "How much disk the packages may take that are kept for builds; the least recently used go first.",
		doc:  "An image takes between 5 and 50 MB of them, most of which it shares with others."},
		func(c *Config) *int64 { return &c.PackageBudget }),

	{key: "log_level", group: groupLog, def: "info", placeholder: "LEVEL",
		help:    "What is worth logging.",
		allowed: `"debug", "info", "warn" or "error"`,
		set:     setLogLevel, text: func(c *Config) string { return strings.ToLower(c.LogLevel.String()) }},
	{key: "log_format", group: groupLog, def: "text", placeholder: "FORMAT",
		help:    "How the log is written: for people or for programs.",
		allowed: `"text" or "json"`,
		set:     setLogFormat, text: func(c *Config) string { return c.LogFormat }},
}

const (
	minBudget        = 100_000_000 // bytes; a single image set may have more than half of this
	maxBudget        = math.MaxInt64 / 4
	maxContactLength = 500
)

func numberSetting(s setting, field func(*Config) *int, low, high int) setting {
	s.kind, s.placeholder = numberValue, "N"
	s.allowed = fmt.Sprintf("a whole number between %d and %d", low, high)
	s.set = func(c *Config, text string) error {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("%.100q is no whole number", text)
		}
		if n < low || n > high {
			return fmt.Errorf("%d is out of range", n)
		}
		*field(c) = n
		return nil
	}
	s.text = func(c *Config) string { return strconv.Itoa(*field(c)) }
	return s
}

func durationSetting(s setting, field func(*Config) *time.Duration, low, high time.Duration) setting {
	s.placeholder = "TIME"
	s.allowed = fmt.Sprintf(`a time between %s and %s, as "90s", "30m", "12h" or "7d"`, formatDuration(low), formatDuration(high))
	s.set = func(c *Config, text string) error {
		d, err := parseDuration(text)
		if err != nil {
			return err
		}
		if d < low || d > high {
			return fmt.Errorf("%s is out of range", formatDuration(d))
		}
		*field(c) = d
		return nil
	}
	s.text = func(c *Config) string { return formatDuration(*field(c)) }
	return s
}

func sizeSetting(s setting, field func(*Config) *int64) setting {
	s.kind, s.placeholder = numberValue, "SIZE"
	s.allowed = fmt.Sprintf(`a size of at least %s, as "800MB", "10GB" or "1.5TB"`, formatSize(minBudget))
	s.set = func(c *Config, text string) error {
		n, err := humanize.ParseBytes(text)
		if err != nil || strings.HasPrefix(strings.TrimSpace(text), "-") {
			return fmt.Errorf("%.100q is no size", text)
		}
		if n < minBudget || n > maxBudget {
			return fmt.Errorf("%.100q is out of range", text)
		}
		*field(c) = int64(n)
		return nil
	}
	s.text = func(c *Config) string { return formatSize(*field(c)) }
	return s
}

// parseDuration reads what time.ParseDuration reads and whole days: "7d".
func parseDuration(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%.100q is no time", text)
	}
	return d, nil
}

// formatDuration writes what parseDuration reads, without zero parts.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// formatSize writes bytes in the largest unit that loses nothing.
func formatSize(n int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1e12, "TB"}, {1 << 40, "TiB"}, {1e9, "GB"}, {1 << 30, "GiB"}, {1e6, "MB"}, {1 << 20, "MiB"}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func setListen(c *Config, text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("%.100q is no address with a port", text)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%.100q is no port", port)
	}
	c.Listen = text
	return nil
}

func parseHTTPURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%.100q is no http or https address", text)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("%.100q has a query or a fragment", text)
	}
	return u, nil
}

func setURL(field func(*Config) *string, optional bool) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "" && optional {
			*field(c) = ""
			return nil
		}
		if _, err := parseHTTPURL(text); err != nil {
			return err
		}
		*field(c) = strings.TrimRight(text, "/")
		return nil
	}
}

// hidePassword returns a URL fit for a screen and a bug report.
func hidePassword(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	if _, has := u.User.Password(); !has {
		return text
	}
	return strings.Replace(u.Redacted(), ":xxxxx@", ":"+hidden+"@", 1)
}

// hidden stands where a secret is.
const hidden = "***"

func setPath(field func(*Config) *string, optional bool) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "" && !optional {
			return errors.New("it is empty")
		}
		if strings.ContainsRune(text, 0) {
			return errors.New("it holds a NUL byte")
		}
		*field(c) = text
		return nil
	}
}

func setSwitch(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, text string) error {
		switch strings.ToLower(strings.TrimSpace(text)) {
		case "true", "yes", "on", "1":
			*field(c) = true
		case "false", "no", "off", "0":
			*field(c) = false
		default:
			return fmt.Errorf("%.100q is neither", text)
		}
		return nil
	}
}

func setContact(c *Config, text string) error {
	if len(text) > maxContactLength {
		return fmt.Errorf("it has %d bytes", len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("it holds a control character")
	}
	c.Contact = text
	return nil
}

// splitList takes a list's text form apart.
func splitList(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func setAllowList(c *Config, text string) error {
	var prefixes []string
	for _, item := range splitList(text) {
		u, err := parseHTTPURL(item)
		if err != nil {
			return err
		}
		if u.User != nil {
			return fmt.Errorf("%.100q has a user", item)
		}
		prefixes = append(prefixes, strings.TrimRight(item, "/")+"/")
	}
	c.RepositoryAllowList = prefixes
	return nil
}

const automatic = "auto"

func setWorkers(c *Config, text string) error {
	if text == automatic {
		c.autoWorkers = true
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%.100q is no whole number", text)
	}
	if n < 1 || n > 64 {
		return fmt.Errorf("%d is out of range", n)
	}
	c.Workers, c.autoWorkers = n, false
	return nil
}

func textWorkers(c *Config) string {
	if c.autoWorkers {
		return automatic
	}
	return strconv.Itoa(c.Workers)
}

func shownWorkers(c *Config) string {
	if c.autoWorkers {
		return fmt.Sprintf("%s (%d here)", automatic, c.Workers)
	}
	return strconv.Itoa(c.Workers)
}

func setLogLevel(c *Config, text string) error {
	switch text {
	case "debug", "info", "warn", "error":
		return c.LogLevel.UnmarshalText([]byte(text))
	}
	return fmt.Errorf("%.100q is no level", text)
}

func setLogFormat(c *Config, text string) error {
	if text != "text" && text != "json" {
		return fmt.Errorf("%.100q is no format", text)
	}
	c.LogFormat = text
	return nil
}

// Flags.

// flagValue is a setting as given on the command line.
type flagValue struct{ key, text string }

// configFlags are the flags of a command that needs the configuration. Embed
// it, and fill it with settingFlags in newCommandLine.
type configFlags struct {
	ConfigFile string       `name:"config" placeholder:"FILE" group:"config" help:"Configuration file. Without it: ./attendant.toml, else /etc/attendant/attendant.toml, if there. (ATTENDANT_CONFIG)"`
	Settings   kong.Plugins `embed:""`
}

// settingFlags returns flags for the settings with these keys, or for all.
func settingFlags(keys ...string) configFlags {
	var fields []reflect.StructField
	for i := range settings {
		s := &settings[i]
		wanted := len(keys) == 0
		for _, key := range keys {
			wanted = wanted || key == s.key
		}
		if !wanted {
			continue
		}
		help := s.help
		if s.def != "" {
			help += " Default " + s.def + "."
		}
		fieldType, extra := reflect.TypeFor[*string](), ""
		if s.kind == switchValue {
			fieldType, extra = reflect.TypeFor[*bool](), ` negatable:""`
		}
		fields = append(fields, reflect.StructField{
			Name: "Setting_" + s.key,
			Type: fieldType,
			Tag: reflect.StructTag(fmt.Sprintf(`name:%q placeholder:%q group:%q help:%q`,
				flagName(s.key), s.placeholder, "config", help+" ("+s.variable()+")") + extra),
		})
	}
	return configFlags{Settings: kong.Plugins{reflect.New(reflect.StructOf(fields)).Interface()}}
}

// settingGroups are the headings of the flags in a command's help.
func settingGroups() []kong.Group {
	return []kong.Group{{Key: "config", Title: "Configuration (see `attendant config --example`):"}}
}

// given returns the settings that the command line holds.
func (f *configFlags) given() []flagValue {
	var values []flagValue
	for _, flags := range f.Settings {
		v := reflect.ValueOf(flags).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsNil() {
				continue
			}
			key := strings.TrimPrefix(v.Type().Field(i).Name, "Setting_")
			values = append(values, flagValue{key, fmt.Sprint(v.Field(i).Elem().Interface())})
		}
	}
	return values
}

// load returns the configuration in force for a command.
func (f *configFlags) load(p *program) (*Config, error) {
	src, err := thisMachine(p.environ)
	if err != nil {
		return nil, err
	}
	src.path, src.flags = f.ConfigFile, f.given()
	return loadConfig(src)
}

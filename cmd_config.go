package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize/english"
)

type configCmd struct {
	configFlags
	JSON    bool `name:"json" help:"Print it as JSON."`
	Example bool `name:"example" help:"Print a configuration file with every key, its meaning and its default."`
}

// Help is kong's longer text for a command.
func (*configCmd) Help() string {
	return `Values come from four places, the later ones win: the built-in defaults, the configuration file, ATTENDANT_* environment variables, flags. Nothing unknown is let through; all mistakes are told at once, and the exit code is then 2.

Start a configuration file of your own:

    attendant config --example > attendant.toml

See what a flag would change:

    attendant config --workers 2`
}

func (c *configCmd) Run(p *program) error {
	if c.Example {
		_, err := io.WriteString(p.stdout, exampleConfig(nil))
		return err
	}
	config, err := c.load(p)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeConfigJSON(p.stdout, config)
	}
	return writeConfig(p.stdout, config)
}

// shownValue returns a setting's value without its secrets.
func (s *setting) shownValue(c *Config) string {
	if s.shown != nil {
		return s.shown(c)
	}
	return s.text(c)
}

func writeConfig(w io.Writer, c *Config) error {
	file := c.File
	if file == "" {
		file = "none"
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "configuration file: %s\n", file)
	group := ""
	for i := range settings {
		s := &settings[i]
		if s.group != group {
			group = s.group
			fmt.Fprintf(t, "\n%s\n", group)
		}
		value := s.shownValue(c)
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", s.key, value, c.origins[s.key])
	}
	if len(c.Branches) > 0 {
		fmt.Fprintf(t, "\nBranches (%s)\n", c.origins[tableBranch])
		for _, branch := range c.Branches {
			fmt.Fprintf(t, "  %s\t%s\n", branch.Name, describeBranch(branch))
		}
	}
	if len(c.ImageBuilders) > 0 {
		fmt.Fprintf(t, "\nImageBuilders (%s)\n", c.origins[tableImageBuilder])
		for _, builder := range c.ImageBuilders {
			fmt.Fprintf(t, "  %s %s\t%s\n", builder.Version, builder.Target, builder.Path)
		}
	}
	if len(c.Distributions) > 0 {
		fmt.Fprintf(t, "\nDistributions (%s)\n", c.origins[tableDistribution])
		for _, d := range c.Distributions {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", d.Name, hidePassword(d.Upstream), english.Plural(len(d.Feeds), "feed", ""))
		}
	}
	if len(c.Policies) > 0 {
		fmt.Fprintf(t, "\nPolicies (%s)\n", c.origins[tablePolicy])
		for _, p := range c.Policies {
			fmt.Fprintf(t, "  %s\t%s\n", cmp.Or(p.Community, "everyone"), describePolicy(p))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func describeBranch(b Branch) string {
	var parts []string
	if b.Enabled != nil {
		parts = append(parts, "enabled "+strconv.FormatBool(*b.Enabled))
	}
	if b.Snapshot != nil {
		parts = append(parts, "snapshot "+strconv.FormatBool(*b.Snapshot))
	}
	if b.Path != "" {
		parts = append(parts, "path "+b.Path)
	}
	if b.BranchOffRev != nil {
		parts = append(parts, "branch_off_rev "+strconv.Itoa(*b.BranchOffRev))
	}
	if len(b.Versions) > 0 {
		parts = append(parts, "versions "+strings.Join(b.Versions, " "))
	}
	if n := len(b.PackageChanges); n > 0 {
		parts = append(parts, fmt.Sprintf("%d package_changes", n))
	}
	if len(parts) == 0 {
		return "nothing changed"
	}
	return strings.Join(parts, ", ")
}

func describePolicy(p Policy) string {
	var parts []string
	for _, part := range []struct{ name, value string }{
		{"distro", p.Distro}, {"offer", strings.Join(p.Offer, " ")}, {"hold_back", strings.Join(p.HoldBack, " ")},
		{"minimum", p.Minimum}, {"newest", p.Newest},
	} {
		if part.value != "" {
			parts = append(parts, part.name+" "+part.value)
		}
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

// shownSetting is a setting in the JSON form of `attendant config`.
type shownSetting struct {
	Key    string     `json:"key"`
	Value  string     `json:"value"` // text form, as in a variable
	Origin OriginKind `json:"origin"`
	From   string     `json:"from"` // "attendant.toml:3", "ATTENDANT_LISTEN", "--listen"
}

func writeConfigJSON(w io.Writer, c *Config) error {
	out := struct {
		File          string         `json:"file,omitempty"`
		Settings      []shownSetting `json:"settings"`
		Branches      []Branch       `json:"branches,omitempty"`
		ImageBuilders []ImageBuilder `json:"imagebuilders,omitempty"`
		Distributions []Distribution `json:"distributions,omitempty"`
		Policies      []Policy       `json:"policies,omitempty"`
	}{File: c.File, Branches: c.Branches, ImageBuilders: c.ImageBuilders, Distributions: c.Distributions, Policies: c.Policies}
	for i := range settings {
		s := &settings[i]
		o := c.origins[s.key]
		out.Settings = append(out.Settings, shownSetting{s.key, s.shownValue(c), o.Kind, o.String()})
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// exampleConfig returns a configuration file that explains every key. All of
// them are commented out but those in set, which have these values.
func exampleConfig(set map[string]string) string {
	var b strings.Builder
	b.WriteString(`# attendant.toml: the configuration of attendant.
#
# Every key is here with its meaning and its default. To change one, take the "#" away.
# Each key can also be given as environment variable (ATTENDANT_LISTEN) or flag (--listen),
# which win over this file. "attendant config" checks it and shows what is in force.
`)
	group := ""
	for i := range settings {
		s := &settings[i]
		if s.group != group {
			group = s.group
			fmt.Fprintf(&b, "\n## %s\n", group)
		}
		b.WriteString("\n# " + s.help + "\n")
		if s.doc != "" {
			b.WriteString("# " + strings.ReplaceAll(s.doc, "\n", "\n# ") + "\n")
		}
		fmt.Fprintf(&b, "# Allowed: %s.\n", s.allowed)
		if value, ok := set[s.key]; ok {
			fmt.Fprintf(&b, "%s = %s\n", s.key, s.literal(value))
		} else {
			fmt.Fprintf(&b, "# %s = %s\n", s.key, s.literal(s.def))
		}
	}
	b.WriteString(exampleTables)
	return b.String()
}

// exampleTables explains the tables. Their lines begin with "#| " so that they
// are told from the keys above.
const exampleTables = `
## Branches

# Which branches of releases exist, attendant learns from upstream and from a table of its own. Here you can
# switch one off or describe one that it does not know; once for each branch. All but the name may be left out.
# These lines begin with "#|": take both characters away.
#| [[branch]]
#| name = "23.05"
#| enabled = false
#|
#| [[branch]]
#| name = "25.12"
#| path = "releases/{version}"
#| branch_off_rev = 32000
#| versions = ["25.12-SNAPSHOT"]
#|   [[branch.package_changes]]
#|   source = "old-name"
#|   target = "new-name"
#|   revision = 32100

## ImageBuilders of your own

# An archive on this machine, used instead of upstream's for its release and target.
#| [[imagebuilder]]
#| version = "24.10.4"
#| target = "ath79/generic"
#| path = "/srv/builders/openwrt-imagebuilder-24.10.4-ath79-generic.Linux-x86_64.tar.zst"

## Which releases are for whom

# Without a policy everything that upstream has is offered. One without a community decides what is offered at
# all; one with a community holds for upgrade checks that name it. A branch stands for all its releases.
#| [[policy]]
#| offer = ["24.10", "23.05"]
#| hold_back = ["24.10.5"]        # offered, but recommended to nobody
#| minimum = "23.05.0"            # routers with older releases are told to upgrade
#| newest = "24.10.6"
#|
#| [[policy]]
#| community = "valley"
#| offer = ["24.10.4"]

## Other distributions

# Beside that of the upstream setting, which is called "openwrt" (and "lede"). Requests name one by "distro", or by
# the server's address: http://SERVER/d/NAME for LuCI, owut and auc. keys is a folder of usign public keys, by default
# distributions/NAME/keys in the data folder; replacements names the distribution whose replacement tables apply.
# Every image of it gets the feeds, and their keys.
#| [[distribution]]
#| name = "libremesh"
#| upstream = "https://downloads.example.org"
#| require_signatures = true
#| replacements = "openwrt"
#|   [[distribution.feed]]
#|   name = "lime"
#|   url = "https://feed.example.org/{branch}/{arch}"
#|   key = "/etc/attendant/lime.pub"
#|   [[distribution.branch]]
#|   name = "2024.1"
#|   path = "releases/{version}"
`

// literal writes a value's text form as TOML.
func (s *setting) literal(text string) string {
	switch s.kind {
	case switchValue:
		return text
	case numberValue:
		if _, err := strconv.Atoi(text); err == nil {
			return text
		}
	case listValue:
		items := splitList(text)
		for i := range items {
			items[i] = strconv.Quote(items[i])
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return strconv.Quote(text)
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/dustin/go-humanize/english"

	"attendant/imagebuilder"
	"attendant/replacements"
)

type replacementsCmd struct {
	Check   replacementsCheckCmd   `cmd:"" help:"Look for mistakes in replacement tables."`
	Explain replacementsExplainCmd `cmd:"" help:"Show what becomes of packages on the way to another release, and which rule does it."`
}

type replacementsCheckCmd struct {
	Files   []string `arg:"" optional:"" name:"file" help:"Tables to check, each <distribution>/<release>.yaml. Without any, those of this program and of --dir."`
	Dirs    []string `name:"dir" placeholder:"DIR" help:"Folder with further tables, <distribution>/<release>.yaml. May be repeated."`
	Targets string   `placeholder:"FILE" help:"Targets that exist, one a line as ath79/generic. Without it OpenWrt's are known."`
}

func (*replacementsCheckCmd) Help() string {
	return `Reads the tables as the server does, together with those that are part of this program, and reports what
keeps them from being used (unknown words, circles, impossible versions) as well as what can hardly be meant
(targets that no index has, choices without a default, rules without a source).

    attendant replacements check replacements.d/openwrt/24.10.yaml

The exit code is 1 if there is anything to report. The form of a table is told in the header of each and by
"go doc attendant/replacements".`
}

func (c *replacementsCheckCmd) Run(p *program) error {
	if err := areFolders(c.Dirs); err != nil {
		return err
	}
	targets, err := readTargets(c.Targets)
	if err != nil {
		return err
	}
	problems, err := replacements.Check(c.Files, c.Dirs, targets)
	if errors.Is(err, fs.ErrNotExist) {
		return &usageError{err}
	} else if err != nil {
		return err
	}
	for _, problem := range problems {
		fmt.Fprintln(p.stdout, problem)
	}
	if len(problems) > 0 {
		return fmt.Errorf("something is to be mended in %s", english.Plural(len(problems), "place", ""))
	}
	fmt.Fprintln(p.stdout, "The tables are in order.")
	return nil
}

func areFolders(dirs []string) error {
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil {
			return &usageError{err}
		} else if !info.IsDir() {
			return usagef("%s is not a folder", dir)
		}
	}
	return nil
}

func readTargets(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &usageError{err}
	}
	defer f.Close() //nolint:errcheck // only read
	var targets []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case !imagebuilder.ValidTarget(line):
			return nil, usagef("%s: %.100q is not a target with its subtarget, as ath79/generic", path, line)
		default:
			targets = append(targets, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(targets) == 0 {
		return nil, usagef("%s names no target", path)
	}
	return targets, nil
}

type replacementsExplainCmd struct {
	Dirs         []string `name:"dir" placeholder:"DIR" help:"Folder with further tables, <distribution>/<release>.yaml. May be repeated."`
	Distro       string   `default:"openwrt" help:"Distribution."`
	From         string   `placeholder:"VERSION" help:"Installed release. Without it only what holds whatever the origin is applied."`
	FromRevision string   `placeholder:"REVISION" help:"Its revision, as r18611; places a snapshot."`
	To           string   `required:"" placeholder:"VERSION" help:"Release of the new image."`
	ToRevision   string   `placeholder:"REVISION" help:"Its revision; places a snapshot."`
	Target       string   `placeholder:"TARGET" help:"Target of the new image, as ath79/generic."`
	Profile      string   `placeholder:"ID" help:"Device."`
	Installed    string   `placeholder:"NAMES" help:"All that is installed, with dependencies: decides choices."`
	Choose       []string `placeholder:"OLD=NEW" sep:"none" help:"A choice of the user's. May be repeated."`
	Packages     string   `required:"" placeholder:"NAMES" help:"Packages that are asked for; \"-name\" removes one."`
}

func (*replacementsExplainCmd) Help() string {
	return `    attendant replacements explain --from 19.07.10 --to 24.10.4 --packages "firewall kmod-ipt-offload luci"

Names may be separated by spaces or commas. Where the first one is a removal, write --packages="-firewall luci".`
}

func (c *replacementsExplainCmd) Run(p *program) error {
	if err := areFolders(c.Dirs); err != nil {
		return err
	}
	req, err := c.request()
	if err != nil {
		return err
	}
	set, err := replacements.Load(c.Dirs...)
	if err != nil {
		return err
	}
	result, err := set.Apply(req)
	if told := new(imagebuilder.Error); errors.As(err, &told) && told.Code == imagebuilder.CodeMalformed {
		return usagef("%s", told.Detail)
	} else if err != nil {
		return err
	}
	return result.Explain(p.stdout)
}

// request is what the flags ask for, in canonical form.
func (c *replacementsExplainCmd) request() (replacements.Request, error) {
	req := replacements.Request{
		Distro: c.Distro, From: c.From, FromRevision: c.FromRevision, To: c.To, ToRevision: c.ToRevision,
		Target: c.Target, Profile: c.Profile,
		Packages:  imagebuilder.Request{Packages: names(c.Packages)}.Normalize().Packages,
		Installed: names(c.Installed),
		Choices:   make(map[string]string),
	}
	for _, v := range []string{c.Distro, c.From, c.To} {
		if v != "" && !imagebuilder.ValidVersion(v) {
			return req, usagef("%.100q is not the name of a release or distribution", v)
		}
	}
	if c.Target != "" && !imagebuilder.ValidTarget(c.Target) {
		return req, usagef("--target: %.100q is not a target with its subtarget, as ath79/generic", c.Target)
	}
	for _, name := range append(req.Packages[:len(req.Packages):len(req.Packages)], req.Installed...) {
		if !imagebuilder.ValidPackageName(strings.TrimPrefix(name, "-")) {
			return req, usagef("%.100q is not a package's name", name)
		}
	}
	for _, choice := range c.Choose {
		old, option, ok := strings.Cut(choice, "=")
		if !ok || !imagebuilder.ValidPackageName(old) || !imagebuilder.ValidPackageName(option) {
			return req, usagef("--choose: %.100q is not OLD=NEW", choice)
		}
		req.Choices[old] = option
	}
	return req, nil
}

// names splits a list as people write it.
func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
}

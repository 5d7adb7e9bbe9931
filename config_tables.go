package main

import (
	"path/filepath"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Distribution is another distribution than the one of the top-level
// settings, with an upstream of its own.
type Distribution struct {
	Name              string             `json:"name"`
	Upstream          string             `json:"upstream"` // URL
	Keys              string             `json:"keys"`     // folder of trusted usign public keys
	RequireSignatures bool               `json:"require_signatures"`
	Replacements      string             `json:"replacements"` // the distribution whose replacement tables apply
	Branches          []Branch           `json:"branches,omitempty"`
	Feeds             []DistributionFeed `json:"feeds,omitempty"`
}

// DistributionFeed is a feed that every image of a distribution gets.
type DistributionFeed struct {
	Name string `json:"name"`
	URL  string `json:"url"`           // may hold {version}, {branch}, {arch} and {target}
	Key  string `json:"key,omitempty"` // path of its public key, usign or PEM; absolute
}

// The tables that are about distributions and releases.
const (
	tableDistribution = "distribution"
	tablePolicy       = "policy"
)

// reservedDistros are names that mean the first distribution.
var reservedDistros = []string{imagebuilder.DefaultDistro, "lede"}

func (l *configLoader) takeDistribution(t *tableReader) {
	d := Distribution{
		Name: strings.ToLower(t.text("name", true, imagebuilder.ValidVersion, `a distribution's name, as "libremesh"`)),
		Upstream: strings.TrimRight(t.text("upstream", true, func(s string) bool {
			return setURL(func(c *Config) *string { return &c.Upstream }, false)(new(Config), s) == nil
		}, `an http or https address without a query`), "/"),
		Keys:         t.text("keys", false, func(s string) bool { return s != "" }, "the path of a folder"),
		Replacements: t.text("replacements", false, imagebuilder.ValidVersion, `the name of a distribution that has replacement tables, as "openwrt"`),
	}
	if b := t.flag("require_signatures"); b != nil {
		d.RequireSignatures = *b
	}
	if d.Replacements == "" {
		d.Replacements = imagebuilder.DefaultDistro
	}
	t.known = append(t.known, "branch", "feed")
	if branches, there := t.values["branch"]; there {
		l.takeTables(t.f, t.path+".branch", branches, func(t *tableReader) { l.takeBranchInto(t, &d.Branches) })
	}
	if feeds, there := t.values["feed"]; there {
		l.takeTables(t.f, t.path+".feed", feeds, func(t *tableReader) { l.takeFeed(t, &d.Feeds) })
	}
	if d.Name == "" || d.Upstream == "" {
		return
	}
	if slices.Contains(reservedDistros, d.Name) {
		t.errorf("name", "%q is the distribution of the upstream setting.", d.Name)
		return
	}
	for _, other := range l.config.Distributions {
		if other.Name == d.Name {
			t.errorf("name", "the distribution %q is there twice.", d.Name)
			return
		}
	}
	l.config.Distributions = append(l.config.Distributions, d)
}

func (l *configLoader) takeFeed(t *tableReader, feeds *[]DistributionFeed) {
	f := DistributionFeed{
		Name: t.text("name", true, imagebuilder.ValidRepositoryName, `a feed's name, as "lime"`),
		URL: t.text("url", true, func(s string) bool {
			plain := strings.NewReplacer("{version}", "1.0", "{branch}", "1.0", "{arch}", "a", "{target}", "a/b").Replace(s)
			return imagebuilder.ValidRepositoryURL(plain)
		}, `an http or https address, in which {version}, {branch}, {arch} and {target} may stand`),
	}
	if path := t.text("key", false, func(s string) bool { return s != "" }, "the path of a public key's file"); path != "" {
		f.Key = l.absolute(path)
	}
	if f.Name == "" || f.URL == "" {
		return
	}
	for _, other := range *feeds {
		if other.Name == f.Name {
			t.errorf("name", "the feed %q is there twice.", f.Name)
			return
		}
	}
	*feeds = append(*feeds, f)
}

func (l *configLoader) takePolicy(t *tableReader) {
	release := `a release, as "24.10.4"`
	releases := `releases or branches, as "24.10.4" or "24.10"`
	p := Policy{
		Community: t.text("community", false, imagebuilder.ValidVersion, "a community's name"),
		Distro:    strings.ToLower(t.text("distro", false, imagebuilder.ValidVersion, `a distribution's name, as "openwrt"`)),
		Offer:     t.list("offer", imagebuilder.ValidVersion, releases),
		HoldBack:  t.list("hold_back", imagebuilder.ValidVersion, releases),
		Minimum:   t.text("minimum", false, imagebuilder.ValidVersion, release),
		Newest:    t.text("newest", false, imagebuilder.ValidVersion, release),
	}
	if slices.Contains(reservedDistros, p.Distro) {
		p.Distro = imagebuilder.DefaultDistro
	}
	for _, other := range l.config.Policies {
		if other.Community == p.Community && other.Distro == p.Distro {
			t.errorf("", "there is another one for the same community and distribution.")
			return
		}
	}
	l.config.Policies = append(l.config.Policies, p)
}

// completeDistributions fills in what follows from other values.
func (l *configLoader) completeDistributions() {
	c := l.config
	for i := range c.Distributions {
		d := &c.Distributions[i]
		if d.Keys == "" {
			d.Keys = filepath.Join(distributionDir(c, d.Name), "keys")
		}
		d.Keys = l.absolute(d.Keys)
	}
}

// distributionDir is where what belongs to a further distribution alone is
// kept.
func distributionDir(c *Config, name string) string {
	return filepath.Join(c.Data, "distributions", name)
}

// validatePolicies checks policies against the distributions that there are.
func (l *configLoader) validatePolicies() {
	c := l.config
	known := append([]string{}, reservedDistros...)
	for _, d := range c.Distributions {
		known = append(known, d.Name)
	}
	for _, p := range c.Policies {
		if p.Distro != "" && !slices.Contains(known, p.Distro) {
			l.errorf(c.origins[tablePolicy], "[[policy]] distro", "there is no distribution %q.%s", p.Distro, suggestion(p.Distro, known))
		}
	}
}

package sample

import (
	"bufio"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed catalogue/packages.txt
var catalogueText string

// packageFile is one file of a package; its content is made from its path.
type packageFile struct {
	path  string // absolute on the router
	size  int    // bytes; 0 lets the content decide
	zeros bool   // it holds nothing else
}

// initScript is a service of a package.
type initScript struct {
	name  string
	start string // two digits: START of rc.common
}

// pkg is one package as it is in one release for one target.
type pkg struct {
	name      string // with ABI suffix
	base      string // without
	feed      string // core, kmods, base, luci, packages, routing or telephony
	version   string
	abi       string
	arch      string
	section   string
	license   string
	cpe       string
	text      string // description
	essential bool
	depends   []dependency
	provides  []string        // with the name without ABI suffix, where there is one
	standsFor map[string]bool // those of provides that are packages themselves
	conflicts []string
	files     []packageFile
	inits     []initScript
	postinst  string // "", "default" or "fails"
}

// dependency is a package name, with "=VERSION" where one version is wanted.
type dependency struct {
	name    string
	version string
}

// entry is one stanza of the catalogue, its fields unresolved.
type entry struct {
	name   string
	kmod   bool
	fields map[string]string
}

// parseCatalogue reads stanzas of "Field: value" lines; '#' starts a comment.
func parseCatalogue(text string) ([]entry, error) {
	var entries []entry
	var current *entry
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" {
			current = nil
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		field, value, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, fmt.Errorf("catalogue line %d: not \"Field: value\": %q", n, line)
		}
		if field == "Package" || field == "Kmod" {
			entries = append(entries, entry{name: value, kmod: field == "Kmod", fields: map[string]string{}})
			current = &entries[len(entries)-1]
			continue
		}
		if current == nil {
			return nil, fmt.Errorf("catalogue line %d: %s before Package", n, field)
		}
		current.fields[field] = value
	}
	return entries, lines.Err()
}

// value returns a field as it is in release r.
func (e *entry) value(field string, r *release) string {
	v := e.fields[field]
	if parts := strings.Split(v, " | "); len(parts) == len(releases) {
		v = parts[r.index]
	}
	return v
}

// catalogue is the embedded one, read once.
var catalogue = sync.OnceValues(func() ([]entry, error) { return parseCatalogue(catalogueText) })

// packagesFor returns the packages of release r for target t, sorted by name.
func packagesFor(r *release, t *target) ([]*pkg, error) {
	entries, err := catalogue()
	if err != nil {
		return nil, err
	}
	expand := strings.NewReplacer("@HASH@", r.commit(), "@KERNEL@", r.kernel, "@VERMAGIC@", t.vermagic(r))
	abi := map[string]string{}
	var kept []*entry
	for i := range entries {
		e := &entries[i]
		if ts := e.fields["Targets"]; ts != "" && !slices.Contains(strings.Fields(ts), t.name) {
			continue
		}
		if e.value("Version", r) == "-" {
			continue
		}
		kept = append(kept, e)
		abi[e.name] = e.value("ABIVersion", r)
	}
	var pkgs []*pkg
	for _, e := range kept {
		p, err := e.resolve(r, t, abi, expand)
		if err != nil {
			return nil, fmt.Errorf("catalogue, %s: %w", e.name, err)
		}
		pkgs = append(pkgs, p)
	}
	slices.SortFunc(pkgs, func(a, b *pkg) int { return strings.Compare(a.name, b.name) })
	return pkgs, nil
}

// withABI is name with the suffix that the package has; a name that ends in a
// digit takes a dash in between, as in "libgadget2-0".
func withABI(name, abi string) string {
	if abi == "" {
		return name
	}
	if c := name[len(name)-1]; c >= '0' && c <= '9' {
		return name + "-" + abi
	}
	return name + abi
}

func (e *entry) resolve(r *release, t *target, abi map[string]string, expand *strings.Replacer) (*pkg, error) {
	get := func(field string) string { return expand.Replace(e.value(field, r)) }
	p := &pkg{
		base:      e.name,
		abi:       get("ABIVersion"),
		feed:      get("Feed"),
		version:   get("Version"),
		arch:      t.arch,
		section:   get("Section"),
		license:   get("License"),
		cpe:       get("CPE-ID"),
		text:      get("Description"),
		essential: get("Essential") == "yes",
		postinst:  get("Postinst"),
	}
	if get("Arch") == "all" {
		p.arch = "all"
	}
	depends := get("Depends")
	if e.kmod {
		p.feed, p.version, p.section, p.license = "kmods", r.kernel+"-r1", "kernel", "GPL-2.0"
		p.files = []packageFile{{path: fmt.Sprintf("/lib/modules/%s/%s.ko", r.kernel, strings.ReplaceAll(strings.TrimPrefix(e.name, "kmod-"), "-", "_")), size: 1500}}
		depends = strings.TrimSuffix("kernel (="+t.kernelVersion(r)+"), "+depends, ", ")
	}
	p.name = withABI(e.name, p.abi)
	if p.abi != "" {
		p.provides = append(p.provides, e.name)
	}
	for _, name := range list(get("Provides")) {
		p.provides = append(p.provides, name)
		if _, isPackage := abi[name]; isPackage {
			if p.standsFor == nil {
				p.standsFor = map[string]bool{}
			}
			p.standsFor[name] = true
		}
	}
	for _, name := range list(get("Conflicts")) {
		p.conflicts = append(p.conflicts, withABI(name, abi[name]))
	}
	for _, d := range list(depends) {
		name, version, _ := strings.Cut(d, " (=")
		p.depends = append(p.depends, dependency{name: withABI(name, abi[name]), version: strings.TrimSuffix(version, ")")})
	}
	for _, f := range strings.Fields(get("Files")) {
		path, size, _ := strings.Cut(f, ":")
		size, zeros := strings.CutSuffix(size, ":zeros")
		n := 0
		if size != "" {
			var err error
			if n, err = strconv.Atoi(size); err != nil {
				return nil, fmt.Errorf("size of %s: %w", path, err)
			}
		}
		p.files = append(p.files, packageFile{path: path, size: n, zeros: zeros})
	}
	for _, f := range strings.Fields(get("Init")) {
		name, start, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("init script %q has no start number", f)
		}
		p.inits = append(p.inits, initScript{name: name, start: start})
	}
	return p, nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ", ")
}

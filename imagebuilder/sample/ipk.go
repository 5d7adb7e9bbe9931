package sample

import (
	"bytes"
	"fmt"
	"strings"
)

// built is a package file.
type built struct {
	*pkg
	filename  string
	data      []byte
	sum       string // SHA-256 in hex
	installed int    // bytes of its files
	identity  []byte // apk's unique id; nil for ipk
}

// buildIPK makes an opkg package: a tar.gz of debian-binary, data.tar.gz and
// control.tar.gz.
func buildIPK(p *pkg, r *release, t *target) (*built, error) {
	b := &built{pkg: p, filename: fmt.Sprintf("%s_%s_%s.ipk", p.name, p.version, p.arch)}
	files := contents(p, r, t)
	for _, f := range files {
		b.installed += len(f.data)
	}
	data, err := tarball(files, "./", r.time())
	if err != nil {
		return nil, err
	}
	control := []member{{name: "control", mode: 0o644, data: b.control(r)}}
	if script := postinstContent(p); script != nil {
		control = append(control, member{name: "postinst", mode: 0o755, data: script})
	}
	if conf := conffiles(p); conf != nil {
		control = append(control, member{name: "conffiles", mode: 0o644, data: conf})
	}
	meta, err := tarball(control, "./", r.time())
	if err != nil {
		return nil, err
	}
	outer := []member{{name: "debian-binary", mode: 0o644, data: []byte("2.0\n")}}
	for name, content := range map[string][]byte{"data.tar.gz": data, "control.tar.gz": meta} {
		packed, err := gzipped(content)
		if err != nil {
			return nil, err
		}
		outer = append(outer, member{name: name, mode: 0o644, data: packed})
	}
	all, err := tarball(outer, "./", r.time())
	if err != nil {
		return nil, err
	}
	if b.data, err = gzipped(all); err != nil {
		return nil, err
	}
	b.sum = sum(b.data)
	return b, nil
}

func conffiles(p *pkg) []byte {
	var buf bytes.Buffer
	for _, f := range p.files {
		if strings.HasPrefix(f.path, "/etc/config/") {
			fmt.Fprintln(&buf, f.path)
		}
	}
	return buf.Bytes()
}

// control is the package's control file.
func (b *built) control(r *release) []byte {
	var buf bytes.Buffer
	b.relations(&buf)
	fmt.Fprintf(&buf, "Source: feeds/%s/%s\nSourceName: %s\n", b.feed, b.base, b.base)
	b.attributes(&buf)
	fmt.Fprintf(&buf, "SourceDateEpoch: %d\nArchitecture: %s\nInstalled-Size: %d\nDescription:  %s\n", r.epoch, b.arch, b.installed, b.text)
	return buf.Bytes()
}

// stanza is the package's entry in Packages.
func (b *built) stanza() []byte {
	var buf bytes.Buffer
	b.relations(&buf)
	b.attributes(&buf)
	fmt.Fprintf(&buf, "Architecture: %s\nInstalled-Size: %d\nFilename: %s\nSize: %d\nSHA256sum: %s\nDescription:  %s\n\n",
		b.arch, b.installed, b.filename, len(b.data), b.sum, b.text)
	return buf.Bytes()
}

// manifestStanza is the package's entry in Packages.manifest.
func (b *built) manifestStanza() []byte {
	var buf bytes.Buffer
	b.relations(&buf)
	fmt.Fprintf(&buf, "Source: feeds/%s/%s\nSourceName: %s\n", b.feed, b.base, b.base)
	b.attributes(&buf)
	fmt.Fprintf(&buf, "Architecture: %s\nInstalled-Size: %d\nFilename: %s\nSize: %d\nSHA256sum: %s\nDescription:  %s\n\n",
		b.arch, b.installed, b.filename, len(b.data), b.sum, b.text)
	return buf.Bytes()
}

func (b *built) relations(buf *bytes.Buffer) {
	fmt.Fprintf(buf, "Package: %s\nVersion: %s\n", b.name, b.version)
	field := func(name string, values []string) {
		if len(values) > 0 {
			fmt.Fprintf(buf, "%s: %s\n", name, strings.Join(values, ", "))
		}
	}
	var depends []string
	for _, d := range b.depends {
		if d.version != "" {
			depends = append(depends, d.name+" (="+d.version+")")
		} else {
			depends = append(depends, d.name)
		}
	}
	field("Depends", depends)
	field("Conflicts", b.conflicts)
	field("Provides", b.provides)
}

func (b *built) attributes(buf *bytes.Buffer) {
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(buf, "%s: %s\n", name, value)
		}
	}
	field("License", b.license)
	field("Section", b.section)
	if b.essential {
		field("Essential", "yes")
	}
	field("CPE-ID", b.cpe)
	field("ABIVersion", b.abi)
}

package runner

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Bounds of what is read of a builder's image Makefiles; the largest target
// has 20 files, 400 devices and 300 kB.
const (
	maxMakefile    = 1 << 20 // bytes of one file
	maxMakefiles   = 200
	maxDevices     = 5000
	maxExpansion   = 64 << 10 // bytes of one value or definition
	maxDepth       = 24       // of references in references
	maxEvaluations = 16 << 20 // bytes looked at in all
)

// unsure stands in a value for what cannot be known.
const unsure = "\x00"

// makefiles is what is understood of a target's image Makefiles: definitions,
// variables, and the list of devices. It knows of make what device definitions
// use, and where it does not know it says so by unsure.
type makefiles struct {
	builder fs.FS
	defines map[string]definition
	globals map[string]variable
	config  map[string]string
	devices []string
	opened  int

	// Of the device evaluated last. As in make, what a device sets and
	// Device/Init does not reset stays for the next one.
	vars map[string]variable
	lost bool // its definition could not be followed
	work int  // bytes looked at
}

// definition is the text between define and endef.
type definition struct {
	text  string
	maybe bool // it depends on what is not known
}

// variable is a value of make.
type variable struct {
	text      string
	recursive bool // to be expanded when used
}

func newMakefiles(builder fs.FS, config map[string]string) *makefiles {
	m := &makefiles{
		builder: builder, config: config,
		defines: map[string]definition{"Device/Init": {text: "IMAGES :=\nIMAGE_SIZE :=\nKERNEL_SIZE :=\n"}},
		globals: map[string]variable{}, vars: map[string]variable{},
	}
	m.set("IB", "1")
	m.set("DUMP", "")
	return m
}

func (m *makefiles) set(name, value string) { m.globals[name] = variable{text: value} }

// definitions takes only the definitions of a file, if it is there.
func (m *makefiles) definitions(name string) error {
	other := newMakefiles(m.builder, m.config)
	if err := other.read(name); err != nil {
		return err
	}
	for name, d := range other.defines {
		d.maybe = false // the file's conditions are about what is no matter here
		m.defines[name] = d
	}
	return nil
}

// read reads a file and those that it includes. A file that is not there, or
// is too large, is passed over.
func (m *makefiles) read(name string) error {
	if m.opened++; m.opened > maxMakefiles || !fs.ValidPath(name) {
		return nil
	}
	f, err := m.builder.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxMakefile+1))
	if err != nil {
		return err
	}
	if len(data) > maxMakefile {
		return nil
	}
	return m.parse(path.Dir(name), string(data))
}

// logicalLines joins lines that end in a backslash.
func logicalLines(text string) []string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), unsure, "")
	var lines []string
	joined, open := "", false
	for line := range strings.SplitSeq(text, "\n") {
		if open {
			line = strings.TrimRight(joined, " \t") + " " + strings.TrimLeft(line, " \t")
		}
		if joined, open = strings.CutSuffix(line, `\`); !open {
			lines = append(lines, line)
		}
	}
	if open {
		lines = append(lines, joined)
	}
	return lines
}

func (m *makefiles) parse(dir, text string) error {
	var conditions branches
	lines := logicalLines(text)
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		if conditions.line(m.expandGlobal, m.defined, line) {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		if word == "define" {
			body, depth := i+1, 1
			for depth > 0 {
				if i++; i >= len(lines) {
					return nil // as make does, nothing is made of it
				}
				switch next := strings.TrimSpace(lines[i]); {
				case strings.HasPrefix(next, "define "):
					depth++
				case next == "endef":
					depth--
				}
			}
			if state := conditions.state(); state != never {
				m.define(rest, strings.Join(lines[body:i], "\n"), state == perhaps)
			}
			continue
		}
		switch state := conditions.state(); {
		case state == never, line == "", line[0] == '#', lines[i][0] == '\t':
		case word == "include" || word == "-include" || word == "sinclude":
			for _, name := range strings.Fields(m.expandGlobal(rest)) {
				if strings.Contains(name, unsure) || path.IsAbs(name) {
					continue
				}
				before := m.snapshot(state)
				if err := m.read(path.Join(dir, name)); err != nil {
					return err
				}
				m.doubt(before)
			}
		default:
			m.assign(m.globals, line, state, m.expandGlobal)
			if name, _, _, ok := assignment(line); ok && name == "TARGET_DEVICES" {
				m.listDevices()
			}
		}
	}
	return nil
}

// snapshot and doubt make unsure what an include that perhaps happens has
// defined.
func (m *makefiles) snapshot(state truth) map[string]definition {
	if state != perhaps {
		return nil
	}
	before := map[string]definition{}
	for name, d := range m.defines {
		before[name] = d
	}
	return before
}

func (m *makefiles) doubt(before map[string]definition) {
	if before == nil {
		return
	}
	for name, d := range m.defines {
		if before[name] != d {
			d.maybe = true
			m.defines[name] = d
		}
	}
}

func (m *makefiles) define(name, text string, maybe bool) {
	name = strings.TrimSpace(strings.TrimRight(name, ":= "))
	if name == "" || len(text) > maxExpansion {
		return
	}
	m.defines[name] = definition{text, maybe}
}

// listDevices takes over the names that TARGET_DEVICES has now.
func (m *makefiles) listDevices() {
	v := m.globals["TARGET_DEVICES"]
	for _, name := range strings.Fields(v.text) {
		if imagebuilder.ValidProfileID(name) && len(m.devices) < maxDevices && !slices.Contains(m.devices, name) {
			m.devices = append(m.devices, name)
		}
	}
	// They are noted; the variable itself may stay short.
	m.globals["TARGET_DEVICES"] = variable{}
}

// assignment splits "NAME := value"; op is "=", ":=", "+=" or "?=".
func assignment(line string) (name, op, value string, ok bool) {
	i := strings.IndexByte(line, '=')
	if i <= 0 {
		return "", "", "", false
	}
	name, value, op = line[:i], strings.TrimLeft(line[i+1:], " \t"), "="
	switch name[i-1] {
	case ':', '+', '?':
		op = string(name[i-1]) + "="
		name = strings.TrimRight(name[:i-1], ":")
	}
	name = strings.TrimSpace(name)
	for _, prefix := range []string{"export ", "override "} {
		name = strings.TrimSpace(strings.TrimPrefix(name, prefix))
	}
	if name == "" || strings.ContainsAny(name, " \t:") {
		return "", "", "", false // a rule
	}
	if cut, _, commented := strings.Cut(value, " #"); commented {
		value = cut
	}
	return name, op, value, true
}

// assign does what an assignment says; it tells whether line is one. Values
// of := are expanded by expand.
func (m *makefiles) assign(vars map[string]variable, line string, state truth, expand func(string) string) bool {
	name, op, value, ok := assignment(line)
	if !ok {
		return false
	}
	if strings.Contains(name, "$") {
		name = expand(name)
	}
	old, known := vars[name]
	v := variable{text: value, recursive: true}
	switch op {
	case ":=":
		v = variable{text: expand(value)}
	case "?=":
		if known {
			v = old
		}
	case "+=":
		switch {
		case known && !old.recursive:
			v = variable{text: strings.TrimLeft(old.text+" "+expand(value), " ")}
		case known:
			v.text = strings.TrimLeft(old.text+" "+value, " ")
		}
	}
	if state == perhaps || len(v.text) > maxExpansion {
		v = variable{text: unsure}
	}
	vars[name] = v
	return true
}

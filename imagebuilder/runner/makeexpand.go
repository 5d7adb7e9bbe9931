package runner

import "strings"

// evaluate does what make does for a device: Device/Init, Device/Default and
// the device's own definition, each expanded as a call and then read line by
// line (openwrt/openwrt include/image.mk, define Device).
func (m *makefiles) evaluate(device string) {
	m.lost = false
	for _, name := range []string{"Device/Init", "Device/Default", "Device/" + device} {
		d, ok := m.defines[name]
		if !ok {
			if name == "Device/"+device {
				m.lose()
			}
			continue
		}
		if d.maybe {
			m.lose()
			continue
		}
		text := m.expand(d.text, device, 0, m.global)
		var conditions branches
		for line := range strings.SplitSeq(text, "\n") {
			line = strings.TrimSpace(line)
			if conditions.line(m.expandDevice, m.definedHere, line) {
				continue
			}
			state := conditions.state()
			switch {
			case line == "", line[0] == '#', state == never:
			case m.assign(m.vars, line, state, m.expandDevice):
			case strings.HasPrefix(line, "DEVICE_VARS"):
			default:
				m.lose()
			}
		}
	}
	if m.work > maxEvaluations {
		m.lose()
	}
}

// lose gives the device up. What it may have set is unsure from here on.
func (m *makefiles) lose() {
	m.lost = true
	for name := range m.vars {
		m.vars[name] = variable{text: unsure}
	}
}

// value is a variable of the device as its recipes see it.
func (m *makefiles) value(name string) string {
	v, ok := m.vars[name]
	if !ok {
		return ""
	}
	if v.recursive {
		return m.expandDevice(v.text)
	}
	return v.text
}

// global is a variable as it is before the devices are evaluated.
func (m *makefiles) global(name string, depth int) string {
	if strings.HasPrefix(name, "CONFIG_") {
		return m.config[name]
	}
	v, ok := m.globals[name]
	switch {
	case !ok:
		if d, ok := m.defines[name]; ok && !d.maybe {
			return m.expand(d.text, "", depth+1, m.global)
		}
		return unsure
	case v.recursive:
		return m.expand(v.text, "", depth+1, m.global)
	}
	return v.text
}

// local is a variable as it is while a device is evaluated.
func (m *makefiles) local(name string, depth int) string {
	v, ok := m.vars[name]
	switch {
	case !ok:
		return m.global(name, depth)
	case v.recursive:
		return m.expand(v.text, "", depth+1, m.local)
	}
	return v.text
}

func (m *makefiles) expandGlobal(s string) string { return m.expand(s, "", 0, m.global) }
func (m *makefiles) expandDevice(s string) string { return m.expand(s, "", 0, m.local) }

// expandRecipe expands what is left for when the recipe runs.
func (m *makefiles) expandRecipe(s string) string {
	for range 3 {
		if !strings.Contains(s, "$") {
			break
		}
		s = m.expandDevice(s)
	}
	return s
}

func (m *makefiles) defined(name string) truth {
	value, ok := m.globals[name]
	switch {
	case strings.HasPrefix(name, "CONFIG_"):
		value.text = m.config[name]
	case !ok:
		return perhaps
	}
	switch value.text {
	case "":
		return never
	case unsure:
		return perhaps
	}
	return always
}

func (m *makefiles) definedHere(name string) truth {
	if v, ok := m.vars[name]; ok {
		switch {
		case v.text == "":
			return never
		case !strings.Contains(v.text, unsure):
			return always
		}
		return perhaps
	}
	return m.defined(name)
}

// expand replaces the references in s: $(NAME) by what lookup says, $(1) by
// arg, $(Device/NAME) and $(call Device/NAME,…) by the definition, $$ by $.
// Functions, and all that goes too deep or too far, become unsure.
func (m *makefiles) expand(s, arg string, depth int, lookup func(string, int) string) string {
	if m.work += len(s) + 64; depth > maxDepth || m.work > maxEvaluations {
		return unsure
	}
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 >= len(s) {
			out.WriteString(strings.TrimSuffix(s, "$"))
			break
		}
		out.WriteString(s[:i])
		var reference string
		switch next := s[i+1]; next {
		case '$':
			out.WriteByte('$')
			s = s[i+2:]
			continue
		case '(', '{':
			end := closing(s[i+1:])
			if end < 0 {
				out.WriteString(unsure)
				return out.String()
			}
			reference, s = s[i+2:i+1+end], s[i+2+end:]
		default:
			reference, s = s[i+1:i+2], s[i+2:]
		}
		value := m.reference(reference, arg, depth, lookup)
		out.WriteString(value)
		if m.work += len(value); out.Len() > maxExpansion {
			return unsure
		}
	}
	return out.String()
}

// closing is the index of the bracket that closes the one s begins with; -1
// if none does.
func closing(s string) int {
	opening, shut, depth := s[0], byte(')'), 0
	if opening == '{' {
		shut = '}'
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case opening:
			depth++
		case shut:
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// reference is what the reference between the brackets stands for.
func (m *makefiles) reference(name, arg string, depth int, lookup func(string, int) string) string {
	if strings.Contains(name, "$") {
		name = m.expand(name, arg, depth+1, lookup)
	}
	if call, ok := strings.CutPrefix(name, "call "); ok {
		callee, first, _ := strings.Cut(strings.TrimSpace(call), ",")
		first, _, _ = strings.Cut(first, ",")
		if strings.Contains(first, unsure) {
			return unsure
		}
		name, arg = strings.TrimSpace(callee), first
		if !strings.HasPrefix(name, "Device/") {
			return unsure
		}
	}
	switch {
	case name == "1":
		return arg
	case strings.Contains(name, unsure), strings.ContainsAny(name, " \t,:"):
		return unsure
	case strings.HasPrefix(name, "Device/"):
		d, ok := m.defines[name]
		if !ok || d.maybe {
			return unsure
		}
		return m.expand(d.text, arg, depth+1, lookup)
	}
	return lookup(name, depth)
}

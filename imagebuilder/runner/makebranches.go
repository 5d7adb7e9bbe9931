package runner

import "strings"

// truth is what is known of a condition.
type truth int

const (
	always truth = iota
	perhaps
	never
)

// branch is one if of make, between if and endif.
type branch struct {
	now   truth // whether the lines here count
	spent truth // whether an earlier branch was taken: always, perhaps or never
}

// branches follows the conditional parts of a Makefile.
type branches []branch

// state tells whether the lines that follow count.
func (b branches) state() truth {
	state := always
	for _, level := range b {
		state = max(state, level.now)
	}
	return state
}

// line reads a line that belongs to a condition, and tells whether it does.
func (b *branches) line(expand func(string) string, defined func(string) truth, line string) bool {
	word, rest := line, ""
	if i := strings.IndexAny(line, " \t("); i >= 0 {
		word, rest = line[:i], strings.TrimSpace(line[i:])
	}
	switch word {
	case "ifeq", "ifneq", "ifdef", "ifndef":
		if b.state() == never {
			*b = append(*b, branch{never, always})
			return true
		}
		is := condition(expand, defined, word, rest)
		*b = append(*b, branch{is, not(not(is))})
	case "else":
		if len(*b) == 0 {
			return true
		}
		last := &(*b)[len(*b)-1]
		is := always
		if rest != "" {
			inner, args := rest, ""
			if i := strings.IndexAny(rest, " \t("); i >= 0 {
				inner, args = rest[:i], strings.TrimSpace(rest[i:])
			}
			is = condition(expand, defined, inner, args)
		}
		was := last.spent
		last.now = max(not(was), is)
		last.spent = min(was, is)
	case "endif":
		if len(*b) > 0 {
			*b = (*b)[:len(*b)-1]
		}
	default:
		return false
	}
	return true
}

func not(t truth) truth { return never - t }

func condition(expand func(string) string, defined func(string) truth, word, args string) truth {
	switch word {
	case "ifdef":
		return defined(strings.TrimSpace(args))
	case "ifndef":
		return not(defined(strings.TrimSpace(args)))
	case "ifeq", "ifneq":
	default:
		return perhaps
	}
	left, right, ok := arguments(args)
	if !ok {
		return perhaps
	}
	left, right = strings.TrimSpace(expand(left)), strings.TrimSpace(expand(right))
	is := never
	switch {
	case strings.Contains(left+right, unsure):
		return perhaps
	case left == right:
		is = always
	}
	if word == "ifneq" {
		return not(is)
	}
	return is
}

// arguments splits "(a,b)" and "'a' 'b'".
func arguments(s string) (left, right string, ok bool) {
	if len(s) < 2 {
		return "", "", false
	}
	if s[0] == '"' || s[0] == '\'' {
		left, rest, ok := strings.Cut(s[1:], s[:1])
		rest = strings.TrimSpace(rest)
		if !ok || len(rest) < 2 || rest[0] != '"' && rest[0] != '\'' {
			return "", "", false
		}
		right, _, ok := strings.Cut(rest[1:], rest[:1])
		return left, right, ok
	}
	if s[0] != '(' {
		return "", "", false
	}
	depth, comma := 0, -1
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(', '{':
			depth++
		case ')', '}':
			if depth--; depth == 0 {
				if comma < 0 {
					return "", "", false
				}
				return s[1:comma], s[comma+1 : i], true
			}
		case ',':
			if depth == 1 && comma < 0 {
				comma = i
			}
		}
	}
	return "", "", false
}

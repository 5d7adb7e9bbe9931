package replacements

import (
	"fmt"
	"strings"
)

func whyDropped(r *rule, k Kind) string {
	switch {
	case k == Kept:
		return fmt.Sprintf("%s dropped it, but the index still has it.", r.Release)
	case r.mandatory:
		return fmt.Sprintf("It does not belong into images of %s and later.", r.Release)
	}
	return fmt.Sprintf("It does not exist any more since %s.", r.Release)
}

func whyReplaced(r *rule, name string, names []string) string {
	switch {
	case len(names) > 1:
		return fmt.Sprintf("Since %s it is several packages, and all are needed.", r.Release)
	case names[0] == name:
		return fmt.Sprintf("It goes on in %s.", r.Release)
	}
	return fmt.Sprintf("%s took its place in %s.", names[0], r.Release)
}

func kindOfRemoval(r *rule, name string, names []string) Kind {
	switch {
	case len(names) == 0:
		return Dropped
	case len(names) == 1 && names[0] == name:
		return Kept
	case len(names) > 1:
		return Split
	}
	return Renamed
}

func whyRemoved(r *rule, name string, names []string) string {
	switch {
	case len(names) == 0:
		return fmt.Sprintf("It does not exist any more since %s: there is nothing to remove.", r.Release)
	case len(names) == 1 && names[0] == name && r.dropped():
		return fmt.Sprintf("%s dropped it, but the index still has it.", r.Release)
	case len(names) == 1 && names[0] == name:
		return fmt.Sprintf("It goes on in %s.", r.Release)
	case len(names) == 1:
		return fmt.Sprintf("%s took its place in %s: it is what must not be installed now.", names[0], r.Release)
	}
	return fmt.Sprintf("Since %s any of several packages can stand for it: none of them shall be installed.", r.Release)
}

// sentence is what a person reads beside an option.
func (w *way) sentence(o option, name, old string) string {
	var s string
	switch {
	case len(o.installed) > 0 && o.byDefault:
		s = fmt.Sprintf("The default; it belongs with %s.", orNames(o.installed))
	case len(o.installed) > 0:
		s = fmt.Sprintf("It is taken where %s is, or was, installed.", orNames(o.installed))
	case o.byDefault:
		s = "The default."
	case name == old:
		s = "The package goes on under its old name."
	default:
		s = "It is taken only if you choose it."
	}
	if o.comment != "" {
		s += " " + ended(o.comment)
	}
	return s
}

func (w *way) whyChosen(r *rule, name string, names []string, taken int, by takenBy) string {
	switch by {
	case byUser:
		return fmt.Sprintf("%s was chosen by the user.", names[taken])
	case byInstalled:
		var found []string
		for _, n := range r.options[taken].installed {
			if w.context[n] {
				found = append(found, n)
			}
		}
		return fmt.Sprintf("%s took its place in %s, as %s%s or became installed.", names[taken], r.Release, andList(found), isAre(found))
	case byDefault:
		if names[taken] == name {
			return fmt.Sprintf("It goes on in %s and stays the default.", r.Release)
		}
		return fmt.Sprintf("%s, the default of several, took its place in %s.", names[taken], r.Release)
	case byItself:
		return fmt.Sprintf("It goes on in %s, beside others that can be chosen.", r.Release)
	}
	return fmt.Sprintf("Several packages can take its place in %s and none is the default: please choose.", r.Release)
}

func (w *way) whyAdded(r *rule) string {
	switch {
	case len(r.profiles) > 0:
		return fmt.Sprintf("This device needs it since %s.", r.Release)
	case len(r.targets) > 0:
		return fmt.Sprintf("Devices of %s need it since %s.", w.Target, r.Release)
	}
	return fmt.Sprintf("Images need it since %s.", r.Release)
}

func ended(s string) string {
	if strings.HasSuffix(s, ".") || strings.HasSuffix(s, "!") || strings.HasSuffix(s, "?") {
		return s
	}
	return s + "."
}

func joined(names []string, last string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " " + last + " " + names[len(names)-1]
}

func andList(names []string) string { return joined(names, "and") }
func orNames(names []string) string { return joined(names, "or") }

func orList(options []Option) string {
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.Name
	}
	return orNames(names)
}

func isAre(names []string) string {
	if len(names) == 1 {
		return " was"
	}
	return " were"
}

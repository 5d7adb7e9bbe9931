package web

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

// selection is what the form of a device says: from an address, from a form
// that was sent, or from both.
type selection struct {
	Target, Profile, Version string
	From, Revision           string   // what is installed
	Have                     []string // packages of the router, "name" or "name=version"
	Packages                 []string // asked for beside the default ones
	Remove                   []string // default ones to leave out
	Choices                  map[string]string
	Filesystem               string
	RootfsMB                 string
	Defaults                 string // script of the first boot
	Base                     []string
	For                      string // the release that Packages was made for
}

// maxForm bounds a form, in bytes.
const maxForm = 512 << 10

// readSelection takes the form of r. Boxes that were unticked do not arrive:
// what the form had shown tells which.
func readSelection(w http.ResponseWriter, r *http.Request) (selection, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return selection{}, formIncomplete(err)
	}
	f := r.Form
	words := func(name string) []string { return splitNames(strings.Join(f[name], " ")) }
	sel := selection{
		Target: f.Get("target"), Profile: f.Get("profile"), Version: f.Get("version"),
		From: f.Get("from"), Revision: f.Get("rev"), Have: words("have"),
		Packages: unique(append(words("p"), words("more")...)), Remove: words("remove"),
		Choices: map[string]string{}, Filesystem: f.Get("fs"), RootfsMB: strings.TrimSpace(f.Get("rootfs")),
		Defaults: strings.ReplaceAll(f.Get("defaults"), "\r\n", "\n"), Base: words("base"), For: f.Get("for"),
	}
	if _, fixed := f["fix"]; fixed { // a repair is the whole list
		sel.Packages, sel.Remove = words("fix"), nil
	} else {
		kept := words("keep")
		for _, name := range words("shown") {
			if !slices.Contains(kept, name) {
				sel.Remove = append(sel.Remove, name)
			}
		}
	}
	// "-name" among the packages leaves one out, as everywhere.
	sel.Packages = slices.DeleteFunc(sel.Packages, func(name string) bool {
		plain, removed := strings.CutPrefix(name, "-")
		if removed && plain != "" {
			sel.Remove = append(sel.Remove, plain)
		}
		return removed
	})
	sel.Remove = unique(sel.Remove)
	for name, values := range f {
		if old, ok := strings.CutPrefix(name, "choice."); ok && len(values) > 0 && len(sel.Choices) < 100 {
			sel.Choices[old] = values[0]
		}
	}
	return sel, nil
}

func formIncomplete(err error) error {
	detail := "The form did not arrive whole. Please go back and send it again."
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		detail = "The form holds more than is ever needed. Please go back and send it with less text."
	}
	return &apiError{Status: http.StatusBadRequest, Code: imagebuilder.CodeMalformed, Detail: detail}
}

// splitNames takes package names apart as people write them.
func splitNames(text string) []string {
	names := strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == ',' || c == ';' || c == '\n' || c == '\r' || c == '\t' })
	if len(names) > maxSaid {
		names = names[:maxSaid]
	}
	return names
}

func unique(names []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(names, func(name string) bool {
		was := seen[name]
		seen[name] = true
		return was
	})
}

// address is the selection as an address to share. The script of the first
// boot stays out of it: it may hold passwords.
func (s selection) address() string {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("target", s.Target)
	set("profile", s.Profile)
	set("version", s.Version)
	set("from", s.From)
	set("rev", s.Revision)
	set("have", strings.Join(s.Have, " "))
	set("p", strings.Join(s.Packages, " "))
	set("remove", strings.Join(s.Remove, " "))
	set("fs", s.Filesystem)
	set("rootfs", s.RootfsMB)
	if len(s.Have) > 0 {
		set("for", s.For)
		set("base", strings.Join(s.Base, " "))
	}
	for old, chosen := range s.Choices {
		set("choice."+old, chosen)
	}
	return "/device?" + q.Encode()
}

// installed are the router's packages with the versions that are known.
func (s selection) installed() map[string]string {
	m := make(map[string]string, len(s.Have))
	for _, word := range s.Have {
		name, version, _ := strings.Cut(word, "=")
		m[name] = version
	}
	return m
}

// wireRequest is a build request as the page sends it to the API.
type wireRequest struct {
	Version      string            `json:"version"`
	Target       string            `json:"target"`
	Profile      string            `json:"profile"`
	Packages     []string          `json:"packages"`
	Filesystem   string            `json:"filesystem,omitempty"`
	RootfsSizeMB *int              `json:"rootfs_size_mb,omitempty"`
	Defaults     string            `json:"defaults,omitempty"`
	FromVersion  string            `json:"from_version,omitempty"`
	FromRevision string            `json:"from_revision,omitempty"`
	Choices      map[string]string `json:"choices,omitempty"`
	Client       string            `json:"client"`
}

// request is the build request that the selection stands for.
func (s selection) request(version string) (wireRequest, error) {
	r := wireRequest{
		Version: s.Version, Target: s.Target, Profile: s.Profile, Packages: slices.Clone(s.Packages),
		Filesystem: s.Filesystem, Defaults: s.Defaults, FromVersion: s.From, FromRevision: s.Revision,
		Choices: s.Choices, Client: "attendant-web/" + version,
	}
	for _, name := range s.Remove {
		if !slices.Contains(s.Packages, name) {
			r.Packages = append(r.Packages, "-"+name)
		}
	}
	if s.RootfsMB != "" {
		n, err := strconv.Atoi(s.RootfsMB)
		if err != nil {
			return r, &apiError{Status: http.StatusUnprocessableEntity, Code: imagebuilder.CodeMalformed,
				Detail: "The size of the root partition is a whole number of MiB."}
		}
		r.RootfsSizeMB = &n
	}
	return r, nil
}

// rebase takes what the person changed in the packages over to a new list that
// takes the place of the one that they began with.
func (s *selection) rebase(base []string) {
	packages := slices.Clone(base)
	for _, name := range s.Packages {
		if !slices.Contains(s.Base, name) && !slices.Contains(packages, name) {
			packages = append(packages, name)
		}
	}
	if s.For != "" {
		packages = slices.DeleteFunc(packages, func(name string) bool {
			return slices.Contains(s.Base, name) && !slices.Contains(s.Packages, name)
		})
	}
	s.Packages, s.Base, s.For = packages, base, s.Version
}

// makeRoom takes over which of the options for an old package the server leaves
// out of the defaults. One that was left out for another, which the list had
// so far, is back when it is chosen itself.
func (s *selection) makeRoom(choices imagebuilder.Choices, remove []string) {
	for _, c := range choices {
		other := slices.ContainsFunc(c.Options, func(o imagebuilder.Option) bool { return o.Name != c.Chosen && slices.Contains(s.Base, o.Name) })
		for _, o := range c.Options {
			switch {
			case o.Name == c.Chosen && other:
				s.Remove = slices.DeleteFunc(s.Remove, func(name string) bool { return name == o.Name })
			case o.Name != c.Chosen && slices.Contains(remove, o.Name):
				s.Remove = unique(append(s.Remove, o.Name))
			}
		}
	}
}

// whole reads a list that says everything, default packages too, as what it
// adds to the defaults and what it leaves out.
func whole(list, defaults []string) (packages, remove []string) {
	in := map[string]bool{}
	for _, name := range list {
		in[name] = true
	}
	isDefault := map[string]bool{}
	for _, name := range defaults {
		isDefault[name] = true
		if !in[name] {
			remove = append(remove, name)
		}
	}
	for _, name := range list {
		if !isDefault[name] && !strings.HasPrefix(name, "-") {
			packages = append(packages, name)
		}
	}
	return packages, remove
}

// defaultPackages are what an image for the device has when nothing is asked
// for: a device's "-name" leaves one of the target's out.
func (f *profileFacts) defaultPackages() []string {
	all := append(slices.Clone(f.DefaultPackages), f.DevicePackages...)
	out := map[string]bool{}
	for _, name := range all {
		if plain, ok := strings.CutPrefix(name, "-"); ok {
			out[plain] = true
		}
	}
	all = unique(slices.DeleteFunc(all, func(name string) bool { return strings.HasPrefix(name, "-") || out[name] }))
	slices.Sort(all)
	return all
}

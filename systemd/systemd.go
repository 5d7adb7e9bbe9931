// Package systemd is what attendant and systemd have to do with one another:
// the unit, the user and the folders of the service, and the messages that a
// running server sends to its service manager.
package systemd

import (
	_ "embed"
	"fmt"
	"strings"
)

// Layout says where the parts of the service are.
type Layout struct {
	Executable string // absolute path of the program
	Config     string // absolute path of attendant.toml
	User       string // system user and group that the server runs as
	StateName  string // the data folder's name below /var/lib
}

// DefaultLayout is that of `attendant install`.
func DefaultLayout() Layout {
	return Layout{
		Executable: "/usr/local/bin/attendant",
		Config:     "/etc/attendant/attendant.toml",
		User:       "attendant",
		StateName:  "attendant",
	}
}

// Data is the data folder.
func (l Layout) Data() string { return "/var/lib/" + l.StateName }

// ServiceName is the unit's name without ".service".
const ServiceName = "attendant"

//go:embed attendant.service
var unitTemplate string

// Unit returns the text of attendant.service, in the form of systemd.unit(5)
// and systemd.service(5). It is an error if a path or name cannot stand in a
// unit file.
func Unit(l Layout) (string, error) {
	for _, word := range []string{l.Executable, l.Config, l.User, l.StateName} {
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || strings.ContainsRune("\"'\\%$;", r) }) {
			return "", fmt.Errorf("%q cannot stand in a unit file: it is empty or holds a space, a quote or one of %% $ ; \\", word)
		}
	}
	return strings.NewReplacer(
		"@EXECUTABLE@", l.Executable,
		"@CONFIG@", l.Config,
		"@USER@", l.User,
		"@STATE@", l.StateName,
	).Replace(unitTemplate), nil
}

// Sysusers returns a file for sysusers.d(5) that makes the service's user.
func Sysusers(l Layout) string {
	return fmt.Sprintf("# The user that the attendant service runs as.\nu %s - \"attended-sysupgrade server\" %s\n", l.User, l.Data())
}

// Tmpfiles returns a file for tmpfiles.d(5) that makes the service's folders.
func Tmpfiles(l Layout) string {
	return fmt.Sprintf("# The data folder of the attendant service.\nd %s 0750 %s %s -\n", l.Data(), l.User, l.User)
}

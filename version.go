package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// version is set by the release build: -ldflags "-X main.version=v1.2.3".
var version string

// buildInfo says what this program was built from.
type buildInfo struct {
	Version  string    `json:"version"`            // "v1.2.3", or "devel" when nobody said
	Commit   string    `json:"commit,omitempty"`   // of the source tree, where known
	Modified bool      `json:"modified,omitempty"` // the tree had changes that are in no commit
	Time     time.Time `json:"time,omitzero"`      // of the commit
	Go       string    `json:"go"`
	Platform string    `json:"platform"` // "linux/arm64"
}

// readBuildInfo joins what the release build has said with what the Go tool
// has noted.
func readBuildInfo() buildInfo {
	info := buildInfo{
		Version:  version,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if noted, ok := debug.ReadBuildInfo(); ok {
		if info.Version == "" && noted.Main.Version != "(devel)" {
			info.Version = noted.Main.Version
		}
		for _, s := range noted.Settings {
			switch s.Key {
			case "vcs.revision":
				info.Commit = s.Value
			case "vcs.modified":
				info.Modified = s.Value == "true"
			case "vcs.time":
				if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
					info.Time = t
				}
			}
		}
	}
	if info.Version == "" {
		info.Version = "devel"
	}
	return info
}

// String is one line for people.
func (b buildInfo) String() string {
	s := "attendant " + b.Version
	if b.Commit != "" {
		s += " (commit " + b.Commit[:min(12, len(b.Commit))]
		if b.Modified {
			s += ", modified"
		}
		if !b.Time.IsZero() {
			s += ", " + b.Time.UTC().Format(time.DateOnly)
		}
		s += ")"
	}
	return s + " " + b.Go + " " + b.Platform
}

type versionCmd struct {
	JSON bool `name:"json" help:"Print it as JSON."`
}

func (c *versionCmd) Run(p *program) error {
	info := readBuildInfo()
	if !c.JSON {
		_, err := fmt.Fprintln(p.stdout, info)
		return err
	}
	return json.NewEncoder(p.stdout).Encode(info)
}

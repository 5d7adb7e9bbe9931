package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"attendant/imagebuilder/sandbox"
	"attendant/server"
)

// watchEvery is how often the machine is looked at for what the operator
// should look after.
const watchEvery = 15 * time.Second

// watch knows what the status page tells of the machine and of upstream. It
// looks in the background, so that telling costs nothing.
type watch struct {
	cfg       *Config
	distros   []*catalogue
	tables    func() error // what is wrong with the replacement tables
	abilities sandbox.Abilities
	examiner  *examiner
	newest    stamped // of the data folder at the start
	floor     int64   // bytes that builds leave free on the disk

	looking  sync.Mutex // held while looking; before mu
	mu       sync.Mutex
	total    int64 // bytes of the file system
	warnings []server.Warning
}

// newWatch has looked once.
func newWatch(a *application, newest stamped) *watch {
	w := &watch{
		cfg: a.cfg, distros: a.distros, tables: a.tables.Err, abilities: a.runner.Abilities(),
		examiner: newExaminer(context.Background(), a.cfg, os.Environ()), newest: newest, floor: a.images.Usage().MinFree,
	}
	w.look()
	return w
}

func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look()
		}
	}
}

// look finds out what changes slowly.
func (w *watch) look() {
	w.looking.Lock()
	defer w.looking.Unlock()
	disk, err := w.examiner.statfs(existing(w.cfg.Data))
	warnings := slices.Concat(w.checkClock(), w.checkDisk(disk, err), w.checkSandbox(), w.checkPrograms(), w.checkBuilders(), w.checkTables())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total, w.warnings = disk.total, warnings
}

// Builders implements [server.Surroundings].
func (w *watch) Builders() (used, budget int64) {
	for _, c := range w.distros {
		u, b := c.upstream.BuilderUsage()
		used, budget = used+u, budget+b
	}
	return used, budget
}

// DiskTotal implements [server.Surroundings].
func (w *watch) DiskTotal() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// Upstreams implements [server.Surroundings].
func (w *watch) Upstreams() []server.UpstreamState {
	states := make([]server.UpstreamState, len(w.distros))
	for i, c := range w.distros {
		checked, stale := c.upstream.Freshness()
		states[i] = server.UpstreamState{Distro: c.name, URL: hidePassword(c.upstream.URL()), Checked: checked, Stale: stale}
	}
	return states
}

// Warnings implements [server.Surroundings]: the worst first.
func (w *watch) Warnings() []server.Warning {
	w.mu.Lock()
	slow := w.warnings
	w.mu.Unlock()
	return slices.Concat(slow, w.checkUplink(), w.checkKeys())
}

func warn(code, format string, args ...any) server.Warning {
	return server.Warning{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// warning is a finding of the doctor's as a warning.
func (f finding) warning(code string) server.Warning {
	if f.Fix == "" {
		return server.Warning{Code: code, Detail: f.Detail}
	}
	return warn(code, "%s What to do: %s", f.Detail, f.Fix)
}

// clockGrace is by how much a file may be newer than the clock: file systems
// and clocks are read one after the other.
const clockGrace = 5 * time.Minute

func (w *watch) checkClock() []server.Warning {
	for _, f := range w.examiner.checkClock() {
		if f.Status == missing {
			return []server.Warning{f.warning(server.WarnClock)}
		}
	}
	if now := w.examiner.now(); w.newest.time.After(now.Add(clockGrace)) {
		return []server.Warning{warn(server.WarnClock,
			"The clock says %s, but %s was written at %s: times and certificates cannot be trusted. What to do: sudo timedatectl set-ntp true; or set the clock by hand (sudo date -s …).",
			now.UTC().Format("2006-01-02 15:04 UTC"), w.newest.name, w.newest.time.UTC().Format("2006-01-02 15:04 UTC"))}
	}
	return nil
}

// nearFloor is how much more than the floor must be free for a build to find
// room for its work, in bytes.
const nearFloor = scratchSpace / 4

func (w *watch) checkDisk(s space, err error) []server.Warning {
	const mend = "What to do: remove what is not needed, lower image_budget or builder_budget, or set data to a folder on a larger disk."
	switch {
	case err != nil:
		return []server.Warning{warn(server.WarnDisk, "The disk cannot be asked for its space: %v.", err)}
	case s.free < w.floor+nearFloor:
		return []server.Warning{warn(server.WarnDisk, "Only %s are free on the disk of the data folder; a build needs about %s, and %s stay free in any case. %s",
			humanize.Bytes(uint64(max(s.free, 0))), humanize.Bytes(nearFloor), humanize.Bytes(uint64(w.floor)), mend)}
	case s.files > 0 && s.freeFiles < enoughFiles/5:
		return []server.Warning{warn(server.WarnDisk, "The file system of the data folder has room for only %d more files; one ImageBuilder has up to 20000. %s", s.freeFiles, mend)}
	}
	return nil
}

func (w *watch) checkSandbox() []server.Warning {
	if w.abilities.Namespaces && w.abilities.Overlay {
		return nil
	}
	findings := w.examiner.checkNamespaces()
	if !w.abilities.Namespaces {
		const loss = "Builds have no namespaces of their own, so what they run sees this machine's processes and network, and can read the files of this server's user: its signing key, its database, the operator's token. "
		for _, f := range findings {
			if f.Name == "namespaces" && f.Status != fine {
				f.Detail = loss + f.Detail
				return []server.Warning{f.warning(server.WarnNoSandbox)}
			}
		}
		return []server.Warning{warn(server.WarnNoSandbox, "%sThe system forbids them. What to do: let the server's user have user namespaces; in a container, start that with the right to make them.", loss)}
	}
	for _, f := range findings {
		if f.Name == "overlayfs" && f.Status != fine {
			return []server.Warning{f.warning(server.WarnNoOverlay)}
		}
	}
	return []server.Warning{warn(server.WarnNoOverlay, "Builds cannot share an ImageBuilder through overlayfs (%v), so each one copies it and takes longer. What to do: set data to a folder on ext4 or btrfs, and not in a container's own file system.", w.abilities.OverlayError)}
}

func (w *watch) checkPrograms() []server.Warning {
	var names, packages []string
	for _, tool := range append([]hostTool{{name: "make", pkg: "make"}, {name: "perl", pkg: "perl"}, {name: "python3", pkg: "python3"}}, hostTools...) {
		if _, err := w.examiner.lookPath(tool.name); err != nil {
			names, packages = append(names, tool.name), append(packages, tool.pkg)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(packages)
	return []server.Warning{warn(server.WarnTools, "ImageBuilders need programs that are not here: %s. What to do: sudo apt-get install %s",
		strings.Join(names, ", "), strings.Join(slices.Compact(packages), " "))}
}

// archiveMachine finds the architecture in an ImageBuilder archive's name.
var archiveMachine = regexp.MustCompile(`\.Linux-([A-Za-z0-9_]+)\.tar\.(?:zst|xz)$`)

// machines are the architectures that ImageBuilder archives name, by GOARCH.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l", "386": "i686", "loong64": "loongarch64"}

func (w *watch) checkBuilders() []server.Warning {
	var found []server.Warning
	for _, f := range w.examiner.checkArchitecture() {
		if f.Status == missing {
			found = append(found, f.warning(server.WarnBuilder))
		}
	}
	own := cmp.Or(machines[w.examiner.arch], w.examiner.arch)
	for _, b := range w.cfg.ImageBuilders {
		name := filepath.Base(b.Path) // where it lies is nobody's business
		if info, err := os.Stat(b.Path); err != nil || !info.Mode().IsRegular() {
			found = append(found, warn(server.WarnBuilder, "The ImageBuilder for %s %s, %s, is not where the configuration says. What to do: put it there, or mend the configuration.", b.Version, b.Target, name))
			continue
		}
		m := archiveMachine.FindStringSubmatch(name)
		if m == nil || m[1] == own {
			continue
		}
		if text, err := w.examiner.readFile("/proc/sys/fs/binfmt_misc/qemu-" + m[1]); err == nil && strings.HasPrefix(string(text), "enabled") {
			continue
		}
		found = append(found, warn(server.WarnBuilder,
			"The ImageBuilder for %s %s, %s, is made for %s and does not run on this machine, which is %s. What to do: name one that is made for %s, or install qemu-user-static and binfmt-support.",
			b.Version, b.Target, name, m[1], own, own))
	}
	return found
}

// shownTableErrors bounds the warnings about replacement tables.
const shownTableErrors = 10

func (w *watch) checkTables() []server.Warning {
	var found []server.Warning
	wrong := tableErrors(w.tables())
	for _, e := range wrong[:min(len(wrong), shownTableErrors)] {
		place := filepath.Base(filepath.Dir(e.File)) + "/" + filepath.Base(e.File)
		if e.File == "" {
			place = "A replacement table"
		}
		if e.Line > 0 {
			place += fmt.Sprintf(", line %d", e.Line)
		}
		if e.Text != "" {
			place += fmt.Sprintf(" (%s)", e.Text)
		}
		found = append(found, warn(server.WarnReplacements, "%s: %s The last right tables stay in force. What to do: mend it, and look with \"attendant replacements check\".", place, e.Detail))
	}
	return found
}

func (w *watch) checkUplink() []server.Warning {
	var found []server.Warning
	for _, u := range w.Upstreams() {
		switch {
		case !u.Stale:
		case u.Checked.IsZero():
			found = append(found, warn(server.WarnUplink, "%s (%s) has not been reached yet, so nothing can be built for it. What to do: check the network, the proxy variables and the setting upstream.", u.URL, u.Distro))
		default:
			found = append(found, warn(server.WarnUplink, "%s (%s) has not been reached since %s; the server goes on with what it has. What to do: check the network, or wait for it.",
				u.URL, u.Distro, u.Checked.UTC().Format("2006-01-02 15:04 UTC")))
		}
	}
	return found
}

func (w *watch) checkKeys() []server.Warning {
	var found []server.Warning
	for i, c := range w.distros {
		if c.upstream.TrustedKeys() > 0 {
			continue
		}
		key := "keys"
		if i > 0 {
			key = "keys of the distribution"
		}
		found = append(found, warn(server.WarnNoKey, "No key is trusted for %s: what comes from upstream is checked against upstream's own checksums only. What to do: put the distribution's usign public keys into the folder of the setting %s, and start the server again.", c.name, key))
	}
	return found
}

// stamped is a file and when it was written.
type stamped struct {
	name string
	time time.Time
}

// newestFile finds what was last written in a data folder, one level deep and
// in the folder of upstream's state; enough to tell that a clock was set back.
func newestFile(data string) stamped {
	var newest stamped
	for _, dir := range []string{"", "mirror-state"} {
		entries, err := os.ReadDir(filepath.Join(data, dir))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if info, err := entry.Info(); err == nil && info.ModTime().After(newest.time) {
				newest = stamped{filepath.Join(dir, entry.Name()), info.ModTime()}
			}
		}
	}
	return newest
}

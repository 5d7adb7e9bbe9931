package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attendant/imagebuilder/sandbox"
	"attendant/replacements"
	"attendant/server"
)

// watching is a watch over a machine of a test, without distributions.
func watching(m *fakeMachine) *watch {
	return &watch{
		cfg: m.config, examiner: m.examiner, tables: func() error { return nil },
		abilities: sandbox.Abilities{Namespaces: true, Overlay: true}, floor: 256 << 20,
	}
}

func TestWarningsOfAMachine(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(m *fakeMachine, w *watch)
		code  string // "" for no warning
		want  []string
	}{
		{"healthy", func(*fakeMachine, *watch) {}, "", nil},
		{"no namespaces", func(m *fakeMachine, w *watch) {
			m.files["/proc/sys/user/max_user_namespaces"] = "0\n"
			w.abilities = sandbox.Abilities{}
		}, server.WarnNoSandbox, []string{"sees this machine's processes", "can read the files of this server's user: its signing key", "sudo sysctl -w user.max_user_namespaces"}},
		{"namespaces forbidden for no reason to be seen", func(m *fakeMachine, w *watch) {
			w.abilities = sandbox.Abilities{}
		}, server.WarnNoSandbox, []string{"The system forbids them. What to do:"}},
		{"no overlayfs", func(m *fakeMachine, w *watch) {
			m.files["/proc/filesystems"] = "\text4\n"
			w.abilities = sandbox.Abilities{Namespaces: true}
		}, server.WarnNoOverlay, []string{"has not loaded overlayfs", "modprobe overlay"}},
		{"overlayfs does not work here", func(m *fakeMachine, w *watch) {
			w.abilities = sandbox.Abilities{Namespaces: true, OverlayError: errors.New("upper fs is an overlay")}
		}, server.WarnNoOverlay, []string{"upper fs is an overlay", "ext4 or btrfs"}},
		{"clock before the program was made", func(m *fakeMachine, w *watch) {
			m.now = func() time.Time { return time.Unix(3600, 0) }
		}, server.WarnClock, []string{"The clock says 1970-01-01", "before this program was made"}},
		{"clock before a file of the data folder", func(m *fakeMachine, w *watch) {
			w.newest = stamped{"attendant.db", doctorNow.Add(48 * time.Hour)}
		}, server.WarnClock, []string{"2026-11-23 12:00 UTC", "attendant.db was written at 2026-11-25 12:00 UTC", "What to do: sudo timedatectl"}},
		{"a file that was written just now", func(m *fakeMachine, w *watch) {
			w.newest = stamped{"attendant.db", doctorNow.Add(time.Minute)}
		}, "", nil},
		{"disk nearly full", func(m *fakeMachine, w *watch) {
			m.space.free = 700e6
		}, server.WarnDisk, []string{"Only 700 MB are free", "268 MB stay free", "lower image_budget"}},
		{"no inodes", func(m *fakeMachine, w *watch) {
			m.space.freeFiles = 100
		}, server.WarnDisk, []string{"only 100 more files"}},
		{"no make, no unzip", func(m *fakeMachine, w *watch) {
			delete(m.answers, "make")
			delete(m.answers, "unzip")
		}, server.WarnTools, []string{"make, unzip", "apt-get install make unzip"}},
		{"another processor", func(m *fakeMachine, w *watch) {
			m.arch = "arm64"
		}, server.WarnBuilder, []string{"do not run here without qemu", "qemu-user-static"}},
		{"another processor with qemu", func(m *fakeMachine, w *watch) {
			m.arch = "arm64"
			m.files["/proc/sys/fs/binfmt_misc/qemu-x86_64"] = "enabled\n"
		}, "", nil},
		{"own ImageBuilder for another processor", func(m *fakeMachine, w *watch) {
			path := filepath.Join(m.config.Data, "libremesh-imagebuilder-24.10.4-ath79-generic.Linux-aarch64.tar.zst")
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				panic(err)
			}
			m.config.ImageBuilders = []ImageBuilder{{Version: "24.10.4", Target: "ath79/generic", Path: path}}
		}, server.WarnBuilder, []string{"for 24.10.4 ath79/generic, libremesh-imagebuilder", "is made for aarch64", "which is x86_64"}},
		{"own ImageBuilder that is not there", func(m *fakeMachine, w *watch) {
			m.config.ImageBuilders = []ImageBuilder{{Version: "24.10.4", Target: "ath79/generic", Path: "/secret/place/x.tar.zst"}}
		}, server.WarnBuilder, []string{"x.tar.zst, is not where the configuration says"}},
		{"wrong table", func(m *fakeMachine, w *watch) {
			w.tables = func() error {
				return &replacements.LoadError{Problems: []replacements.Problem{{File: "/secret/place/openwrt/24.10.yaml", Line: 7, Text: "  - old: [", Message: "It does not end."}}}
			}
		}, server.WarnReplacements, []string{"openwrt/24.10.yaml, line 7 (- old: [): It does not end.", "attendant replacements check"}},
		{"tables that cannot be read", func(m *fakeMachine, w *watch) {
			w.tables = func() error { return errors.New("permission denied") }
		}, server.WarnReplacements, []string{"permission denied"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := healthyMachine(t)
			w := watching(m)
			tt.spoil(m, w)
			w.look()
			warnings := w.Warnings()
			if tt.code == "" {
				if len(warnings) > 0 {
					t.Fatalf("%+v", warnings)
				}
				return
			}
			if len(warnings) != 1 || warnings[0].Code != tt.code {
				t.Fatalf("%+v, want one %s", warnings, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(warnings[0].Detail, want) {
					t.Errorf("%q is not in %q", want, warnings[0].Detail)
				}
			}
			if strings.Contains(warnings[0].Detail, "/secret") || strings.Contains(warnings[0].Detail, m.config.Data) {
				t.Errorf("a path of the machine is told to everybody: %q", warnings[0].Detail)
			}
		})
	}
}

func TestManyTableErrorsAreCut(t *testing.T) {
	m := healthyMachine(t)
	w := watching(m)
	w.tables = func() error { return &replacements.LoadError{Problems: make([]replacements.Problem, 1000)} }
	w.look()
	if n := len(w.Warnings()); n != shownTableErrors {
		t.Errorf("%d warnings", n)
	}
	if w.DiskTotal() != m.space.total {
		t.Errorf("disk of %d bytes", w.DiskTotal())
	}
}

func TestNewestFile(t *testing.T) {
	data := t.TempDir()
	if got := newestFile(filepath.Join(data, "none")); got != (stamped{}) {
		t.Errorf("got %+v", got)
	}
	if err := os.MkdirAll(filepath.Join(data, "mirror-state", "records"), 0o755); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour).Truncate(time.Second)
	if err := os.Chtimes(filepath.Join(data, "mirror-state", "records"), later, later); err != nil {
		t.Fatal(err)
	}
	if got := newestFile(data); got.name != filepath.Join("mirror-state", "records") || !got.time.Equal(later) {
		t.Errorf("got %+v", got)
	}
}

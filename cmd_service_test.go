package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kardianos/service"

	"attendant/systemd"
)

// fakeManager notes what it is asked for.
type fakeManager struct {
	calls   []string
	state   service.Status
	err     error // of Status
	failing string
}

func (m *fakeManager) call(name string) error {
	m.calls = append(m.calls, name)
	if m.failing == name {
		return errors.New("job failed")
	}
	return nil
}

func (m *fakeManager) Install() error                  { return m.call("install") }
func (m *fakeManager) Uninstall() error                { return m.call("uninstall") }
func (m *fakeManager) Start() error                    { m.state = service.StatusRunning; return m.call("start") }
func (m *fakeManager) Stop() error                     { m.state = service.StatusStopped; return m.call("stop") }
func (m *fakeManager) Status() (service.Status, error) { return m.state, m.err }

// testHost is a machine below a folder. With manager nil it has no systemd.
func testHost(t *testing.T, m *fakeManager) (h *serviceHost, out *bytes.Buffer) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "attendant")
	if err := os.WriteFile(program, []byte("#!program"), 0o755); err != nil {
		t.Fatal(err)
	}
	out = &bytes.Buffer{}
	h = &serviceHost{
		layout: systemd.DefaultLayout(), root: t.TempDir(), live: true, out: out, executable: program, rooted: true,
		run: func(name string, args ...string) (string, error) {
			return "", fmt.Errorf("unexpected command %s %q", name, args)
		},
		lookPath:   func(string) (string, error) { return "/bin/x", nil },
		lookupUser: func(string) (*user.User, error) { return nil, errors.New("no such user") },
		chown:      func(path string, _, _ int) error { return fmt.Errorf("unexpected chown of %s", path) },
	}
	if m != nil {
		h.manager = m
	}
	return h, out
}

func TestInstallBelowAFolder(t *testing.T) {
	h, out := testHost(t, nil)
	h.live, h.rooted = false, false
	if err := h.install(); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (!d.IsDir() || strings.HasPrefix(path, h.root+"/var/lib/")) {
			info, err := d.Info()
			if err != nil {
				return err
			}
			got = append(got, fmt.Sprintf("%v %s", info.Mode(), strings.TrimPrefix(path, h.root)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-rw-r--r-- /etc/attendant/attendant.toml",
		"-rw-r--r-- /etc/systemd/system/attendant.service",
		"-rw-r--r-- /etc/sysusers.d/attendant.conf",
		"-rw-r--r-- /etc/tmpfiles.d/attendant.conf",
		"-rwxr-xr-x /usr/local/bin/attendant",
		"drwxr-x--- /var/lib/attendant",
		"drwxr-x--- /var/lib/attendant/keys",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s\n%s", diff, out)
	}
	c, err := loadConfig(configSources{path: filepath.Join(h.root, h.layout.Config), dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "/var/lib/attendant" {
		t.Errorf("the configuration says data = %q", c.Data)
	}
}

func TestInstallKeepsTheConfiguration(t *testing.T) {
	h, out := testHost(t, nil)
	h.live = false
	config := filepath.Join(h.root, h.layout.Config)
	if err := os.MkdirAll(filepath.Dir(config), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("workers = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time all is there already
		if err := h.install(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(config); err != nil || string(got) != "workers = 1\n" {
		t.Errorf("the configuration became %q, %v", got, err)
	}
	if !strings.Contains(out.String(), "stays as it is") {
		t.Errorf("nothing said:\n%s", out)
	}
}

// makeUser lets a machine have the user after a command was run, and notes
// that and whose the folders become.
func makeUser(h *serviceHost) (did *[]string) {
	did = &[]string{}
	made := false
	h.run = func(name string, args ...string) (string, error) {
		*did = append(*did, name+" "+strings.Join(args, " "))
		made = true
		return "", nil
	}
	h.lookupUser = func(name string) (*user.User, error) {
		if !made {
			return nil, user.UnknownUserError(name)
		}
		return &user.User{Username: name, Uid: "990", Gid: "991"}, nil
	}
	h.chown = func(path string, uid, gid int) error {
		*did = append(*did, fmt.Sprintf("chown %d:%d %s", uid, gid, strings.TrimPrefix(path, h.root)))
		return nil
	}
	return did
}

func TestInstall(t *testing.T) {
	for _, tt := range []struct {
		name     string
		lookPath error
		command  string
	}{
		{"with sysusers", nil, "systemd-sysusers /etc/sysusers.d/attendant.conf"},
		{"without sysusers", errors.New("not found"), "useradd --system --user-group --home-dir /var/lib/attendant --no-create-home --shell /usr/sbin/nologin attendant"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &fakeManager{}
			h, out := testHost(t, m)
			h.lookPath = func(string) (string, error) { return "", tt.lookPath }
			did := makeUser(h)
			if err := h.install(); err != nil {
				t.Fatal(err)
			}
			want := []string{tt.command, "chown 990:991 /var/lib/attendant", "chown 990:991 /var/lib/attendant/keys"}
			if diff := cmp.Diff(want, *did); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
			if !slices.Equal(m.calls, []string{"install"}) {
				t.Errorf("the manager was asked for %v", m.calls)
			}
			if !strings.Contains(out.String(), "sudo attendant start") {
				t.Errorf("what next is not said:\n%s", out)
			}
		})
	}
}

func TestInstallAgain(t *testing.T) {
	m := &fakeManager{}
	h, out := testHost(t, m)
	did := makeUser(h)
	if err := h.install(); err != nil {
		t.Fatal(err)
	}
	unit, err := systemd.Unit(h.layout)
	if err != nil {
		t.Fatal(err)
	}
	*did, m.calls = nil, nil

	if err := h.placeText(unitFile, unit); err != nil { // as the manager would have
		t.Fatal(err)
	}
	if err := h.install(); err != nil {
		t.Fatal(err)
	}
	if len(*did) != 0 || len(m.calls) != 0 {
		t.Errorf("nothing is new, but it did %q and asked for %q", *did, m.calls)
	}
	if !strings.Contains(out.String(), "up to date") {
		t.Errorf("not said:\n%s", out)
	}

	if err := h.placeText(unitFile, "[Unit]\n# an older one\n"); err != nil {
		t.Fatal(err)
	}
	if err := h.install(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.calls, []string{"uninstall", "install"}) {
		t.Errorf("to replace a unit the manager was asked for %q", m.calls)
	}
}

func TestInstallTellsWhichStepFailed(t *testing.T) {
	h, _ := testHost(t, &fakeManager{})
	h.run = func(string, ...string) (string, error) { return "no space left", errors.New("exit status 1") }
	err := h.install()
	if err == nil || !strings.Contains(err.Error(), "make the user attendant: systemd-sysusers ") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
	m := &fakeManager{failing: "install"}
	h, _ = testHost(t, m)
	makeUser(h)
	if err := h.install(); err == nil || !strings.Contains(err.Error(), "write the unit: job failed") {
		t.Errorf("got %v", err)
	}
}

func TestServiceCommandsSayWhatIsMissing(t *testing.T) {
	for name, command := range map[string]func(*serviceHost) error{
		"install": (*serviceHost).install, "uninstall": (*serviceHost).uninstall, "start": (*serviceHost).start, "stop": (*serviceHost).stop, "status": (*serviceHost).status,
	} {
		h, _ := testHost(t, nil)
		if err := command(h); err == nil || !strings.Contains(err.Error(), "not run by systemd") || !strings.Contains(err.Error(), "serve --data") {
			t.Errorf("%s without systemd: %v", name, err)
		}
		h, _ = testHost(t, &fakeManager{state: service.StatusRunning})
		h.rooted = false
		err := command(h)
		if name == "status" {
			if err != nil {
				t.Errorf("status as a user: %v", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), "this needs root. Type: sudo "+h.executable+" "+name) {
			t.Errorf("%s as a user: %v", name, err)
		}
	}
}

func TestUninstall(t *testing.T) {
	m := &fakeManager{}
	h, out := testHost(t, m)
	makeUser(h)
	if err := h.install(); err != nil {
		t.Fatal(err)
	}
	m.calls, m.state = nil, service.StatusRunning
	if err := h.uninstall(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.calls, []string{"stop", "uninstall"}) {
		t.Errorf("the manager was asked for %q", m.calls)
	}
	for _, gone := range []string{h.layout.Executable, sysusersFile, tmpfilesFile} {
		if _, err := os.Stat(h.path(gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	for _, kept := range []string{h.layout.Config, h.layout.Data()} {
		if _, err := os.Stat(h.path(kept)); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(out.String(), "sudo rm -r /var/lib/attendant /etc/attendant; sudo userdel attendant") {
		t.Errorf("what stays is not said:\n%s", out)
	}
	m.calls, m.err = nil, service.ErrNotInstalled
	if err := h.uninstall(); err != nil || len(m.calls) != 0 {
		t.Errorf("a second time: %v, %q", err, m.calls)
	}
}

func TestStartStopStatus(t *testing.T) {
	m := &fakeManager{state: service.StatusStopped}
	h, out := testHost(t, m)
	h.run = func(string, ...string) (string, error) {
		return "StatusText=2 jobs wait\nActiveEnterTimestamp=Mon 2026-11-23\nMainPID=12", nil
	}
	steps := []struct {
		do   func() error
		err  string
		says string
	}{
		{h.status, "failed", "installed and stopped"},
		{h.start, "", "running.\n  it says: 2 jobs wait\n  since: Mon 2026-11-23\n  process: 12"},
		{h.status, "", "The service is running."},
		{h.stop, "", "The service is stopped."},
	}
	for i, step := range steps {
		out.Reset()
		err := step.do()
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) || !strings.Contains(out.String(), step.says) {
			t.Errorf("step %d: %v\n%s", i, err, out)
		}
	}
	m.failing = "start"
	if err := h.start(); err == nil || !strings.Contains(err.Error(), "journalctl -u attendant") {
		t.Errorf("a start that fails: %v", err)
	}
	m.failing = "stop"
	if err := h.stop(); err == nil {
		t.Error("a stop that fails went unnoticed")
	}
	m.err = errors.New("service in failed state")
	out.Reset()
	if err := h.status(); !errors.Is(err, errTold) || !strings.Contains(out.String(), "service in failed state. Its last words: ") {
		t.Errorf("%v\n%s", err, out)
	}
	m.err = service.ErrNotInstalled
	for _, do := range []func() error{h.start, h.stop, h.status} {
		if err := do(); err == nil {
			t.Error("no error without a service")
		}
	}
}

func TestNewServiceHostOnThisMachine(t *testing.T) {
	h, err := newServiceHost(&bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if !h.live || h.root != "" || h.executable == "" {
		t.Errorf("got %+v", h)
	}
}

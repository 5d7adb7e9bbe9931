package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kardianos/service"

	"attendant/systemd"
)

type installCmd struct {
	Root string `name:"root" placeholder:"DIR" help:"Write everything below this folder and ask no service manager: for packages and images."`
}

// Help is kong's longer text for a command.
func (*installCmd) Help() string {
	return `Copies this program to /usr/local/bin, makes the user "attendant", its data folder /var/lib/attendant, a commented /etc/attendant/attendant.toml if there is none, and a systemd unit that starts with the machine. Doing it again with a newer program is an upgrade; the configuration stays as it is.

    sudo ./attendant install
    sudo attendant start`
}

type removeCmd struct{}

// Help is kong's longer text for a command.
func (*removeCmd) Help() string {
	return `Stops the service and removes unit and program. Data, configuration and user stay; what to type to remove these, it says.

    sudo attendant uninstall`
}

type startCmd struct{}

type stopCmd struct{}

type statusCmd struct{}

// Help is kong's longer text for a command.
func (*statusCmd) Help() string {
	return `The exit code is 0 if the service runs and 1 if not.

    attendant status`
}

func (c *installCmd) Run(p *program) error {
	h, err := newServiceHost(p.stdout)
	if err != nil {
		return err
	}
	if c.Root != "" {
		root, err := filepath.Abs(c.Root)
		if err != nil {
			return fmt.Errorf("find %s: %w", c.Root, err)
		}
		h.root, h.live = root, false
	}
	return h.install()
}

func (*removeCmd) Run(p *program) error {
	h, err := newServiceHost(p.stdout)
	if err != nil {
		return err
	}
	return h.uninstall()
}

func (*startCmd) Run(p *program) error {
	h, err := newServiceHost(p.stdout)
	if err != nil {
		return err
	}
	return h.start()
}

func (*stopCmd) Run(p *program) error {
	h, err := newServiceHost(p.stdout)
	if err != nil {
		return err
	}
	return h.stop()
}

func (*statusCmd) Run(p *program) error {
	h, err := newServiceHost(p.stdout)
	if err != nil {
		return err
	}
	return h.status()
}

// manager is what is wanted of service.Service.
type manager interface {
	Install() error
	Uninstall() error
	Start() error
	Stop() error
	Status() (service.Status, error)
}

// serviceHost is the machine that the service is to live on.
type serviceHost struct {
	layout     systemd.Layout
	root       string // everything is written below it; "" on a real machine
	live       bool   // make users, ask the service manager; else only write files
	out        io.Writer
	executable string  // this program
	rooted     bool    // we may do everything
	manager    manager // nil: the machine is not run by systemd
	run        func(name string, args ...string) (output string, err error)
	lookPath   func(name string) (string, error)
	lookupUser func(name string) (*user.User, error)
	chown      func(path string, uid, gid int) error
}

// notRun stands for the server where the service manager's side is meant only.
type notRun struct{}

func (notRun) Start(service.Service) error { return nil }
func (notRun) Stop(service.Service) error  { return nil }

func newServiceHost(out io.Writer) (*serviceHost, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	h := &serviceHost{
		layout:     systemd.DefaultLayout(),
		live:       true,
		out:        out,
		executable: self,
		rooted:     os.Geteuid() == 0,
		run: func(name string, args ...string) (string, error) {
			output, err := exec.Command(name, args...).CombinedOutput()
			return strings.TrimSpace(string(output)), err
		},
		lookPath:   exec.LookPath,
		lookupUser: user.Lookup,
		chown:      os.Lchown,
	}
	unit, err := systemd.Unit(h.layout)
	if err != nil {
		return nil, err
	}
	if service.Platform() == "linux-systemd" {
		h.manager, err = service.New(notRun{}, &service.Config{
			Name:       systemd.ServiceName,
			Executable: h.layout.Executable,
			UserName:   h.layout.User,
			Option:     service.KeyValue{"SystemdScript": unit},
		})
		if err != nil {
			return nil, fmt.Errorf("reach the service manager: %w", err)
		}
	}
	return h, nil
}

// check tells why the machine cannot do what a command needs.
func (h *serviceHost) check(command string, needRoot bool) error {
	if h.manager == nil {
		return fmt.Errorf("this machine is not run by systemd, so attendant cannot be its service. "+
			"Let your init system run, as a user of its own: %s serve --data /var/lib/attendant", h.layout.Executable)
	}
	if needRoot && !h.rooted {
		return fmt.Errorf("this needs root. Type: sudo %s %s", h.executable, command)
	}
	return nil
}

func (h *serviceHost) say(format string, args ...any) {
	fmt.Fprintf(h.out, format+"\n", args...)
}

// path returns where a file of the machine is written to.
func (h *serviceHost) path(name string) string { return filepath.Join(h.root, name) }

// The files of the service that are not in its layout.
const (
	unitFile     = "/etc/systemd/system/" + systemd.ServiceName + ".service"
	sysusersFile = "/etc/sysusers.d/" + systemd.ServiceName + ".conf"
	tmpfilesFile = "/etc/tmpfiles.d/" + systemd.ServiceName + ".conf"
)

// install makes the service, or brings it up to date. Each step finds out
// whether it is needed, so that a broken installation can be repeated.
func (h *serviceHost) install() error {
	if h.live {
		if err := h.check("install", true); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"copy the program", h.installProgram},
		{"make the user " + h.layout.User, h.installUser},
		{"make the data folder", h.installData},
		{"write the configuration", h.installConfig},
		{"write the unit", h.installUnit},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if h.live {
		h.say("Done. Look through %s, then: sudo attendant start", h.layout.Config)
	}
	return nil
}

func (h *serviceHost) installProgram() error {
	to := h.path(h.layout.Executable)
	from, err := os.Open(h.executable)
	if err != nil {
		return err
	}
	defer from.Close()
	have, err := from.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(to); err == nil && os.SameFile(have, there) {
		h.say("program: %s is this one", to)
		return nil
	}
	if err := h.place(to, from, 0o755); err != nil {
		return err
	}
	h.say("program: copied to %s", to)
	return nil
}

func (h *serviceHost) installUser() error {
	if err := h.placeText(sysusersFile, systemd.Sysusers(h.layout)); err != nil {
		return err
	}
	if err := h.placeText(tmpfilesFile, systemd.Tmpfiles(h.layout)); err != nil {
		return err
	}
	if !h.live {
		h.say("user: %s and %s make it at the next start of the machine", h.path(sysusersFile), h.path(tmpfilesFile))
		return nil
	}
	if _, err := h.lookupUser(h.layout.User); err == nil {
		h.say("user: %s is there", h.layout.User)
		return nil
	}
	command := []string{"systemd-sysusers", sysusersFile}
	if _, err := h.lookPath(command[0]); err != nil {
		command = []string{"useradd", "--system", "--user-group", "--home-dir", h.layout.Data(), "--no-create-home", "--shell", "/usr/sbin/nologin", h.layout.User}
	}
	if output, err := h.run(command[0], command[1:]...); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, output)
	}
	h.say("user: made %s", h.layout.User)
	return nil
}

func (h *serviceHost) installData() error {
	data := h.path(h.layout.Data())
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return err
	}
	made := []string{}
	for _, dir := range []string{data, filepath.Join(data, "keys")} {
		switch err := os.Mkdir(dir, 0o750); {
		case err == nil:
			made = append(made, dir)
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	if h.live && len(made) > 0 {
		account, err := h.lookupUser(h.layout.User)
		if err != nil {
			return err
		}
		uid, uidErr := strconv.Atoi(account.Uid)
		gid, gidErr := strconv.Atoi(account.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return err
		}
		for _, dir := range made {
			if err := h.chown(dir, uid, gid); err != nil {
				return err
			}
		}
	}
	h.say("data: %s, trusted keys in %s", data, filepath.Join(data, "keys"))
	return nil
}

func (h *serviceHost) installConfig() error {
	path := h.path(h.layout.Config)
	if _, err := os.Stat(path); err == nil {
		h.say("configuration: %s stays as it is", path)
		return nil
	}
	if err := h.placeText(h.layout.Config, exampleConfig(map[string]string{"data": h.layout.Data()})); err != nil {
		return err
	}
	h.say("configuration: %s, everything at its default", path)
	return nil
}

func (h *serviceHost) installUnit() error {
	unit, err := systemd.Unit(h.layout)
	if err != nil {
		return err
	}
	if !h.live {
		if err := h.placeText(unitFile, unit); err != nil {
			return err
		}
		h.say("unit: %s", h.path(unitFile))
		return nil
	}
	old, err := os.ReadFile(h.path(unitFile))
	switch {
	case err == nil && string(old) == unit:
		h.say("unit: %s is up to date; a running server goes on with the old program until: sudo systemctl restart attendant", unitFile)
		return nil
	case err == nil:
		if err := h.manager.Uninstall(); err != nil {
			return fmt.Errorf("replace the old one: %w", err)
		}
		h.say("unit: the old one is replaced; changes of your own belong into: sudo systemctl edit attendant")
	}
	if err := h.manager.Install(); err != nil {
		return err
	}
	h.say("unit: %s, starts with the machine", unitFile)
	return nil
}

func (h *serviceHost) placeText(name, text string) error {
	return h.place(h.path(name), strings.NewReader(text), 0o644)
}

// place writes a file that appears whole or not at all.
func (h *serviceHost) place(path string, content io.Reader, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".attendant-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (h *serviceHost) uninstall() error {
	if err := h.check("uninstall", true); err != nil {
		return err
	}
	status, err := h.manager.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
		h.say("The service was not installed.")
	default:
		if status == service.StatusRunning {
			if err := h.manager.Stop(); err != nil {
				return fmt.Errorf("stop the service: %w", err)
			}
			h.say("The service is stopped.")
		}
		if err := h.manager.Uninstall(); err != nil {
			return fmt.Errorf("remove the unit: %w", err)
		}
		h.say("Removed %s", unitFile)
	}
	for _, name := range []string{sysusersFile, tmpfilesFile, h.layout.Executable} {
		switch err := os.Remove(h.path(name)); {
		case err == nil:
			h.say("Removed %s", name)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	h.say("Data, configuration and user are still there. To remove these, too:")
	h.say("  sudo rm -r %s %s; sudo userdel %s", h.layout.Data(), filepath.Dir(h.layout.Config), h.layout.User)
	return nil
}

const journalHint = "Its last words: journalctl -u " + systemd.ServiceName + " -n 30"

func (h *serviceHost) start() error {
	if err := h.check("start", true); err != nil {
		return err
	}
	if _, err := h.manager.Status(); errors.Is(err, service.ErrNotInstalled) {
		return errors.New("the service is not installed. Type: sudo attendant install")
	}
	if err := h.manager.Start(); err != nil {
		return fmt.Errorf("the service did not start: %w. %s", err, journalHint)
	}
	return h.status()
}

func (h *serviceHost) stop() error {
	if err := h.check("stop", true); err != nil {
		return err
	}
	if _, err := h.manager.Status(); errors.Is(err, service.ErrNotInstalled) {
		return errors.New("the service is not installed")
	}
	if err := h.manager.Stop(); err != nil {
		return fmt.Errorf("the service did not stop: %w", err)
	}
	h.say("The service is stopped. It starts again with the machine, or by: sudo attendant start")
	return nil
}

func (h *serviceHost) status() error {
	if err := h.check("status", false); err != nil {
		return err
	}
	status, err := h.manager.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
		h.say("The service is not installed. To install it: sudo attendant install")
		return errTold
	case err != nil:
		h.say("The service does not run: %v. %s", err, journalHint)
		return errTold
	case status != service.StatusRunning:
		h.say("The service is installed and stopped. To start it: sudo attendant start")
		return errTold
	}
	h.say("The service is running.")
	// What the server says of itself is an extra: without it the answer is still right.
	if output, err := h.run("systemctl", "show", systemd.ServiceName, "--property=StatusText,ActiveEnterTimestamp,MainPID"); err == nil {
		for line := range strings.Lines(output) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			label := map[string]string{"StatusText": "it says", "ActiveEnterTimestamp": "since", "MainPID": "process"}[name]
			if label != "" && value != "" {
				h.say("  %s: %s", label, value)
			}
		}
	}
	return nil
}

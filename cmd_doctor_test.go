package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var doctorNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// fakeMachine is what an examiner of a test sees: a healthy Debian machine
// that a test then spoils.
type fakeMachine struct {
	*examiner
	answers map[string]string // of programs; none: the program is not there
	files   map[string]string
	space   space
}

func healthyMachine(t *testing.T) *fakeMachine {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", doctorNow.Format(http.TimeFormat))
		if r.URL.Path != "/.versions.json" {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(upstream.Close)
	data := t.TempDir()
	key := append([]byte("Ed12345678"), make([]byte, 32)...)
	keys := filepath.Join(data, "keys")
	if err := os.Mkdir(keys, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(keys, "1234"), []byte("untrusted comment: a key\n"+base64.StdEncoding.EncodeToString(key)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := &fakeMachine{
		answers: map[string]string{"make": "GNU Make 4.3\n", "perl": "", "python3": "3.13 -\n"},
		files: map[string]string{
			"/proc/self/status":                          "Name:\tx\nUmask:\t0022\n",
			"/proc/meminfo":                              "MemTotal:        4096000 kB\nSwapTotal:             0 kB\n",
			"/proc/sys/user/max_user_namespaces":         "31000\n",
			"/proc/sys/kernel/osrelease":                 "6.1.0-18-amd64\n",
			"/proc/filesystems":                          "nodev\tproc\n\text4\nnodev\toverlay\n",
			"/proc/sys/fs/binfmt_misc/qemu-x86_64":       "",
			"/proc/sys/kernel/unprivileged_userns_clone": "1\n",
		},
		space: space{free: 50e9, total: 100e9, files: 1e6, freeFiles: 9e5},
	}
	delete(m.files, "/proc/sys/fs/binfmt_misc/qemu-x86_64")
	for _, tool := range hostTools {
		m.answers[tool.name] = tool.name + " (" + tool.answers + ") 1.0\n"
	}
	m.examiner = &examiner{
		config: &Config{Data: data, Keys: keys, Upstream: upstream.URL, Listen: ":8080", Workers: 1, ImageBudget: 10e9, BuilderBudget: 10e9},
		arch:   "amd64",
		built:  doctorNow.Add(-24 * time.Hour),
		lookPath: func(name string) (string, error) {
			if _, ok := m.answers[name]; !ok {
				return "", errors.New("not found")
			}
			return "/usr/bin/" + name, nil
		},
		run: func(name string, _ ...string) (string, error) {
			answer, ok := m.answers[name]
			if !ok || strings.HasPrefix(answer, "!") {
				return "", errors.New("exit status 1")
			}
			return answer, nil
		},
		readFile: func(name string) ([]byte, error) {
			if strings.HasPrefix(name, data) {
				return os.ReadFile(name)
			}
			if text, ok := m.files[name]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		},
		statfs: func(string) (space, error) { return m.space, nil },
		now:    func() time.Time { return doctorNow },
		synced: func() (bool, bool) { return true, true },
		listen: func(string) error { return nil },
		client: upstream.Client(),
	}
	return m
}

func TestDoctorOnAHealthyMachine(t *testing.T) {
	m := healthyMachine(t)
	findings := m.examine(t.Context())
	for _, f := range findings {
		if f.Status != fine || f.Detail == "" {
			t.Errorf("%+v", f)
		}
	}
	var out bytes.Buffer
	if err := writeFindings(&out, findings); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "\nEverything that is needed is here.\n") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestDoctorFindings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(m *fakeMachine)
		about  string
		status severity
		says   string
		fix    string
	}{
		{"no make", func(m *fakeMachine) { delete(m.answers, "make") }, "make", missing, "not here", "apt-get install make"},
		{"old make", func(m *fakeMachine) { m.answers["make"] = "GNU Make 3.81" }, "make", missing, "is 3.81", "install make"},
		{"BSD make", func(m *fakeMachine) { m.answers["make"] = "!usage" }, "make", missing, "another one", "install make"},
		{"no unzip", func(m *fakeMachine) { delete(m.answers, "unzip") }, "unzip", missing, "need the program unzip", "install unzip"},
		{"no which", func(m *fakeMachine) { delete(m.answers, "which") }, "which", missing, "which", "install debianutils"},
		{"busybox tar", func(m *fakeMachine) { m.answers["tar"] = "tar (busybox) 1.36\n" }, "tar", missing, `need GNU tar; the tar here is another one ("tar (busybox) 1.36")`, "install tar"},
		{"mawk only", func(m *fakeMachine) { delete(m.answers, "gawk") }, "gawk", missing, "gawk", "install gawk"},
		{"perl-base", func(m *fakeMachine) { m.answers["perl"] = "Thread::Queue IPC::Cmd " }, "perl", missing, "lacks Thread::Queue, IPC::Cmd", "install perl"},
		{"no perl", func(m *fakeMachine) { delete(m.answers, "perl") }, "perl", missing, "not here", "install perl"},
		{"broken perl", func(m *fakeMachine) { m.answers["perl"] = "!" }, "perl", missing, "does not run", "install perl"},
		{"no python", func(m *fakeMachine) { delete(m.answers, "python3") }, "python3", missing, "not here", "install python3"},
		{"old python", func(m *fakeMachine) { m.answers["python3"] = "3.7 distutils\n" }, "python3", missing, "need 3.8", "install python3"},
		{"no distutils", func(m *fakeMachine) { m.answers["python3"] = "3.11 -\n" }, "python3", missing, "without distutils", "install python3-distutils"},
		{"broken python", func(m *fakeMachine) { m.answers["python3"] = "?" }, "python3", missing, "does not run", "install python3"},
		{"strict umask", func(m *fakeMachine) { m.files["/proc/self/status"] = "Umask:\t0077\n" }, "umask", note, "0077", ""},
		{"noexec", func(m *fakeMachine) { m.space.noexec = true }, "data folder", missing, "noexec", "elsewhere"},
		{"read-only", func(m *fakeMachine) { m.space.readOnly = true }, "data folder", missing, "read-only", "another file system"},
		{"data folder to be made", func(m *fakeMachine) { m.config.Data += "/x/y" }, "data folder", fine, "will be made", ""},
		{"data folder is a special one", func(m *fakeMachine) { m.config.Data = "/proc/self" }, "data folder", missing, "Nothing can be written into /proc/self", ""},
		{"disk full", func(m *fakeMachine) { m.space.free = 1e8 }, "disk", missing, "Only 100 MB are free", "larger disk"},
		{"disk smaller than the budgets", func(m *fakeMachine) { m.space.free = 8e9 }, "disk", note, "8.0 GB are free, but images, ImageBuilders and packages may take 20 GB more", "to 6.0 GB together"},
		{"few inodes", func(m *fakeMachine) { m.space.freeFiles = 500 }, "inodes", note, "only 500 more files", ""},
		{"little memory", func(m *fakeMachine) { m.files["/proc/meminfo"] = "MemTotal: 500000 kB\nSwapTotal: 100000 kB\n" }, "memory", note, "488 MiB, with 98 MiB of swap", "workers = 1"},
		{"namespaces off", func(m *fakeMachine) { m.files["/proc/sys/user/max_user_namespaces"] = "0\n" }, "namespaces", note, "switched off", "user.max_user_namespaces"},
		{"namespaces not built", func(m *fakeMachine) { delete(m.files, "/proc/sys/user/max_user_namespaces") }, "namespaces", note, "no user namespaces", ""},
		{"namespaces for root", func(m *fakeMachine) { m.files["/proc/sys/kernel/unprivileged_userns_clone"] = "0\n" }, "namespaces", note, "Only root", "unprivileged_userns_clone=1"},
		{"AppArmor", func(m *fakeMachine) {
			m.files["/proc/sys/kernel/apparmor_restrict_unprivileged_userns"] = "1\n"
		}, "namespaces", note, "AppArmor", "apparmor_restrict_unprivileged_userns=0"},
		{"no overlayfs", func(m *fakeMachine) { m.files["/proc/filesystems"] = "\text4\n" }, "overlayfs", note, "not loaded overlayfs", "modprobe overlay"},
		{"old kernel", func(m *fakeMachine) { m.files["/proc/sys/kernel/osrelease"] = "5.10.0-28\n" }, "overlayfs", note, "Linux 5.10", ""},
		{"ARM", func(m *fakeMachine) { m.arch = "arm64" }, "processor", missing, "arm64: ", "install qemu-user-static binfmt-support"},
		{"ARM with qemu", func(m *fakeMachine) {
			m.arch, m.files["/proc/sys/fs/binfmt_misc/qemu-x86_64"] = "arm64", "enabled\ninterpreter /usr/bin/qemu-x86_64-static\n"
		}, "processor", note, "through qemu", ""},
		{"ARM with qemu switched off", func(m *fakeMachine) {
			m.arch, m.files["/proc/sys/fs/binfmt_misc/qemu-x86_64"] = "arm64", "disabled\n"
		}, "processor", missing, "do not run here", "qemu-user-static"},
		{"32-bit ARM", func(m *fakeMachine) { m.arch = "arm" }, "processor", missing, "a 64-bit system is the better choice", "qemu"},
		{"ARM with own ImageBuilder", func(m *fakeMachine) {
			m.arch, m.config.ImageBuilders = "arm64", []ImageBuilder{{"1", "a/b", m.config.Data}}
		}, "processor", note, "of your own, 1 can", ""},
		{"archive gone", func(m *fakeMachine) {
			m.config.ImageBuilders = []ImageBuilder{{"1", "a/b", "/missing/x.tar.zst"}}
		}, "imagebuilder", missing, "/missing/x.tar.zst, is not there", ""},
		{"1970", func(m *fakeMachine) { m.now = func() time.Time { return time.Unix(0, 0) } }, "clock", missing, "1970-01-01", "systemd-timesyncd"},
		{"1970, build time unknown", func(m *fakeMachine) {
			m.built, m.now = time.Time{}, func() time.Time { return time.Unix(0, 0) }
		}, "clock", missing, "before this program was made", "systemd-timesyncd"},
		{"nobody keeps the clock", func(m *fakeMachine) { m.synced = func() (bool, bool) { return false, true } }, "clock", note, "Nothing keeps it right", "set-ntp"},
		{"unknown who keeps the clock", func(m *fakeMachine) { m.synced = func() (bool, bool) { return false, false } }, "clock", fine, "2026-11-23 12:00", ""},
		{"clock an hour off", func(m *fakeMachine) { m.now = func() time.Time { return doctorNow.Add(time.Hour) } }, "clock", note, "differ by 60 min", "set-ntp"},
		{"upstream away", func(m *fakeMachine) { m.config.Upstream = "http://127.0.0.1:1" }, "upstream", missing, "does not answer: ", "proxy"},
		{"upstream behind a proxy away", func(m *fakeMachine) {
			m.config.Upstream, m.environ = "http://u:geheim@127.0.0.1:1", []string{"https_proxy=http://p"}
		}, "upstream", missing, "http://u:***@127.0.0.1:1 does not answer (proxies are set by https_proxy)", "proxy"},
		{"upstream laid out otherwise", func(m *fakeMachine) { m.config.Upstream += "/x" }, "upstream", missing, "answered 404 Not Found", "upstream"},
		{"upstream away, copy here", func(m *fakeMachine) {
			m.config.Upstream = "http://127.0.0.1:1"
			mirror := filepath.Join(m.config.Data, "mirror")
			if err := errors.Join(os.Mkdir(mirror, 0o755), os.WriteFile(filepath.Join(mirror, ".versions.json"), nil, 0o644)); err != nil {
				panic(err)
			}
		}, "upstream", note, "its own copy", ""},
		{"no keys", func(m *fakeMachine) { m.config.Keys += "-missing" }, "trusted keys", note, "There is none", "usign public keys"},
		{"something that is no key", func(m *fakeMachine) {
			if err := os.WriteFile(filepath.Join(m.config.Keys, "README"), []byte("hello"), 0o644); err != nil {
				panic(err)
			}
		}, "trusted keys", note, "Not usign public keys: README", ""},
		{"address in use", func(m *fakeMachine) {
			m.listen = func(string) error { return fmt.Errorf("listen: %w", syscall.EADDRINUSE) }
		}, "address", note, "already", ""},
		{"address for root", func(m *fakeMachine) { m.listen = func(string) error { return syscall.EACCES } }, "address", missing, "below 1024", "ip_unprivileged_port_start"},
		{"address of another machine", func(m *fakeMachine) { m.listen = func(string) error { return syscall.EADDRNOTAVAIL } }, "address", missing, "cannot listen on :8080", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := healthyMachine(t)
			tt.spoil(m)
			findings := m.examine(t.Context())
			i := slices.IndexFunc(findings, func(f finding) bool { return f.Name == tt.about && f.Status == tt.status })
			if i < 0 {
				t.Fatalf("no finding %s %q among %+v", tt.status, tt.about, findings)
			}
			if f := findings[i]; !strings.Contains(f.Detail, tt.says) || !strings.Contains(f.Fix, tt.fix) || tt.fix == "" && f.Fix != "" {
				t.Errorf("got %+v, want detail with %q, fix with %q", f, tt.says, tt.fix)
			}
		})
	}
}

func TestDoctorJoinsThePackages(t *testing.T) {
	m := healthyMachine(t)
	for _, name := range []string{"make", "unzip", "xargs", "find", "perl"} {
		delete(m.answers, name)
	}
	findings := m.examine(t.Context())
	want := "sudo apt-get install findutils make perl unzip"
	if got := installCommand(findings); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var text, out bytes.Buffer
	if err := writeFindings(&text, findings); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(text.String(), "5 things that are needed are missing. All packages at once:\n\n    "+want+"\n") {
		t.Errorf("got\n%s", text.String())
	}
	if err := writeFindingsJSON(&out, findings); err != nil {
		t.Fatal(err)
	}
	var got struct {
		OK       bool
		Install  string
		Findings []finding
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.OK || got.Install != want || len(got.Findings) != len(findings) {
		t.Errorf("%v, got %+v", err, got)
	}
}

func TestCaseSensitive(t *testing.T) {
	dir := t.TempDir()
	if yes, err := caseSensitive(dir); err != nil || !yes {
		t.Errorf("got %v, %v", yes, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), bytes.Repeat([]byte("x"), 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := diskUsage(dir, filepath.Join(dir, "missing")); n < 100_000 || n > 200_000 {
		t.Errorf("100000 bytes use %d", n)
	}
}

// What the doctor asks the real machine for is understood.
func TestDoctorCommand(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer upstream.Close()
	data := t.TempDir()
	code, out, errs := runAttendant(t, os.Environ(), "doctor", "--json", "--upstream", upstream.URL, "--data", data, "--listen", "127.0.0.1:0")
	var got struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	if (code == exitOK) != got.OK || errs != "" {
		t.Errorf("code %d, ok %v, stderr %q", code, got.OK, errs)
	}
	status := map[string]severity{}
	for _, f := range got.Findings {
		status[f.Name] = f.Status
	}
	for _, name := range []string{"upstream", "address", "data folder"} {
		if status[name] != fine {
			t.Errorf("%s is %q: %s", name, status[name], out)
		}
	}
	for _, name := range []string{"make", "perl", "python3", "disk", "memory", "namespaces", "overlayfs", "processor", "clock", "trusted keys"} {
		if status[name] == "" {
			t.Errorf("nothing about %s: %s", name, out)
		}
	}
}

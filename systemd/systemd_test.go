package systemd

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite golden files")

// childVariable makes the test program accept a connection on a socket that
// was handed to it, as a server under socket activation would.
const childVariable = "SYSTEMD_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := greetFirstClient(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func greetFirstClient() error {
	listeners, err := Listeners()
	if err != nil || len(listeners) != 1 {
		return fmt.Errorf("%d listeners, %w", len(listeners), err)
	}
	conn, err := listeners[0].Accept()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "LISTEN_FDS=%q", os.Getenv("LISTEN_FDS"))
	return errors.Join(err, conn.Close(), listeners[0].Close())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-file +now):\n%s", name, diff)
	}
}

func TestUnit(t *testing.T) {
	unit, err := Unit(DefaultLayout())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "attendant.service", unit)
	for _, line := range []string{
		"Type=notify", "User=attendant", "StateDirectory=attendant", "Restart=on-failure", "RestartPreventExitStatus=2", "KillMode=mixed",
		"ExecStart=/usr/local/bin/attendant serve --config /etc/attendant/attendant.toml", "WantedBy=multi-user.target",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
	if strings.Contains(unit, "@") || strings.Contains(unit, "{{") {
		t.Error("the unit holds a place that was not filled in, or what kardianos/service takes for a template")
	}
}

// Everything that a unit forbids, the ImageBuilders inherit.
func TestUnitDoesNotHardenBuildsAway(t *testing.T) {
	unit, err := Unit(DefaultLayout())
	if err != nil {
		t.Fatal(err)
	}
	forbidden := regexp.MustCompile(`(?m)^(NoNewPrivileges|RestrictNamespaces|SystemCallFilter|MemoryDenyWriteExecute|ProtectKernelTunables|PrivateUsers|ReadWritePaths)=`)
	if found := forbidden.FindString(unit); found != "" {
		t.Errorf("%s would reach the ImageBuilders", found)
	}
}

func TestUnitRefusesWhatWouldChangeIt(t *testing.T) {
	for _, bad := range []string{"", "/opt/my programs/attendant", "/opt/a%i", "/opt/a\nUser=root", "/opt/$x", `/opt/"`} {
		l := DefaultLayout()
		l.Executable = bad
		if unit, err := Unit(l); err == nil {
			t.Errorf("executable %q was taken: %s", bad, unit)
		}
	}
}

func TestSysusersAndTmpfiles(t *testing.T) {
	golden(t, "sysusers.conf", Sysusers(DefaultLayout()))
	golden(t, "tmpfiles.conf", Tmpfiles(DefaultLayout()))
}

// manager is a service manager that listens.
func manager(t *testing.T) (receive func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		buf := make([]byte, 1000)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestNotify(t *testing.T) {
	receive := manager(t)
	for _, tt := range []struct {
		send func() error
		want string
	}{
		{Ready, "READY=1"},
		{Stopping, "STOPPING=1"},
		{func() error { return Status("2 jobs\n1 waits") }, "STATUS=2 jobs 1 waits"},
	} {
		if err := tt.send(); err != nil {
			t.Fatal(err)
		}
		if got := receive(); got != tt.want {
			t.Errorf("the manager got %q, want %q", got, tt.want)
		}
	}
}

func TestNotifyWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := Ready(); err == nil {
		t.Error("a manager that does not answer went unnoticed")
	}
}

func TestWatchdogSpeaksOnlyWhileAlive(t *testing.T) {
	receive := manager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	var reports []error
	done := make(chan error, 1)
	go func() {
		done <- Watchdog(ctx, func(context.Context) error {
			calls++
			if calls == 2 {
				return errors.New("the database does not answer")
			}
			return nil
		}, func(err error) { reports = append(reports, err) })
	}()
	for range 2 {
		if got := receive(); got != "WATCHDOG=1" {
			t.Errorf("the manager got %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if calls < 3 || len(reports) != 1 || !strings.Contains(reports[0].Error(), "the database does not answer") {
		t.Errorf("%d calls, reports %v", calls, reports)
	}
}

func TestWatchdogThatNobodyWants(t *testing.T) {
	for _, env := range [][2]string{{"", ""}, {"20000", "1"}} {
		t.Setenv("WATCHDOG_USEC", env[0])
		t.Setenv("WATCHDOG_PID", env[1])
		err := Watchdog(t.Context(), func(context.Context) error {
			t.Error("alive was called")
			return nil
		}, nil)
		if err != nil {
			t.Error(err)
		}
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := Watchdog(t.Context(), nil, nil); err == nil {
		t.Error("a senseless interval went unnoticed")
	}
}

func TestListeners(t *testing.T) {
	if listeners, err := Listeners(); err != nil || len(listeners) != 0 {
		t.Errorf("without socket activation: %v, %v", listeners, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0"`, self)
	cmd.ExtraFiles = []*os.File{file} // descriptor 3
	cmd.Env = append(os.Environ(), childVariable+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	_, readErr := got.ReadFrom(conn)
	if err := cmd.Wait(); err != nil || readErr != nil {
		t.Fatalf("%v, %v: %s", err, readErr, stderr.String())
	}
	if got.String() != `LISTEN_FDS=""` {
		t.Errorf("the child said %s: children of it would take the socket for theirs", got.String())
	}
}

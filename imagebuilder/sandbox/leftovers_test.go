package sandbox

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// crashingServer runs a command as a server would, until it is killed. The
// environment says where, and in which mode.
func crashingServer() {
	dir := os.Getenv("SANDBOX_TEST_CRASH")
	mode := namespaceMode{}
	if os.Getenv("SANDBOX_TEST_MODE") == "granted" {
		mode = namespaces()
	}
	c := Command{Args: []string{"sh", "-c", stubborn}, Dir: dir, Env: []string{"PATH=/usr/bin:/bin"}, Record: filepath.Join(dir, RecordName)}
	s, err := c.spec()
	if err == nil {
		s.setNamespaces(mode)
		_, err = c.run(context.Background(), s, mode)
	}
	panic(err)
}

func startCrashingServer(t *testing.T, dir, mode string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SANDBOX_TEST_CRASH=" + dir, "SANDBOX_TEST_MODE=" + mode}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "both processes to run", func() bool {
		_, err1 := os.Stat(filepath.Join(dir, "child"))
		_, err2 := os.Stat(filepath.Join(dir, "grandchild"))
		return err1 == nil && err2 == nil
	})
	return cmd
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// kill -9 of the server ends its builds, with no help at the next start.
func TestNothingOutlivesAKilledServer(t *testing.T) {
	for _, mode := range []string{"none", "granted"} {
		t.Run(mode, func(t *testing.T) {
			work := t.TempDir()
			dir := filepath.Join(work, "one")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := startCrashingServer(t, dir, mode)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was killed
			time.Sleep(200 * time.Millisecond)
			isQuiet(t, dir, "child", "grandchild")
			if n, err := KillLeftovers(work); n != 0 || err != nil {
				t.Errorf("KillLeftovers killed %d, %v; want nothing left to do", n, err)
			}
			if _, err := os.Stat(filepath.Join(dir, RecordName)); err == nil {
				t.Error("the record is still there")
			}
		})
	}
}

// When the supervisor dies with the server, before it could act, what it
// leaves is found by the record.
func TestKillLeftovers(t *testing.T) {
	work := t.TempDir()
	dir := filepath.Join(work, "one")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// A group whose leader is gone, a member of which works in the folder.
	leader := exec.Command("sh", "-c", `sh -c 'while :; do echo x >>child; sleep 0.02; done' >/dev/null 2>&1 & echo x >>child`)
	leader.Dir = dir
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	group := identify(leader.Process.Pid)
	if err := leader.Wait(); err != nil {
		t.Fatal(err)
	}
	// A process of our own with a number that an old record names.
	innocent := exec.Command("sleep", "60")
	innocent.Dir = dir
	innocent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	defer innocent.Wait() //nolint:errcheck // it is killed
	defer innocent.Process.Kill()
	reused := identify(innocent.Process.Pid)
	reused.Start--

	record := &processRecord{Boot: bootID(), Supervisor: reused, Group: group}
	if err := record.save(filepath.Join(dir, RecordName)); err != nil {
		t.Fatal(err)
	}
	n, err := KillLeftovers(work)
	if n == 0 || err != nil {
		t.Errorf("KillLeftovers killed %d, %v", n, err)
	}
	isQuiet(t, dir, "child")
	if p, err := readProcess(innocent.Process.Pid); err != nil || p.zombie {
		t.Error("a process was killed for having the number of another")
	}
}

func TestKillLeftoversLeavesAlone(t *testing.T) {
	self := identify(os.Getpid())
	for name, record := range map[string]string{
		"another boot": mustJSON(t, processRecord{Boot: "another", Supervisor: self}),
		"half-written": `{"Boot":"`,
		"empty":        "",
		"init":         mustJSON(t, processRecord{Boot: bootID(), Supervisor: process{PID: 1}, Group: process{PID: 1}}),
		"zero":         mustJSON(t, processRecord{Boot: bootID()}),
	} {
		work := t.TempDir()
		dir := filepath.Join(work, "with [glob]*")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, RecordName)
		if err := os.WriteFile(path, []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := KillLeftovers(work); n != 0 || err != nil {
			t.Errorf("%s: killed %d, %v", name, n, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: the record is still there", name)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

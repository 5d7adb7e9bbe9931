package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// beginBuild submits a request whose build takes slow, and returns its hash when
// the image is being built.
func beginBuild(t *testing.T, p *attendantProcess) string {
	t.Helper()
	first, err := ask(http.MethodPost, p.base+"/api/v1/build", buildBody("24.10.4", "x86/64", "generic", "nano"))
	if err != nil {
		t.Fatal(err)
	}
	for range 600 {
		reply, err := ask(http.MethodGet, p.base+"/api/v1/build/"+first.RequestHash, "")
		if err != nil || reply.HTTP != http.StatusAccepted {
			t.Fatalf("got %+v %v", reply, err)
		}
		if reply.Stage == "building_image" {
			return first.RequestHash
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the build does not begin")
	return ""
}

// An orderly stop lets the running build finish.
func TestStopLetsTheBuildFinish(t *testing.T) {
	t.Parallel()
	data, addr, upstream := t.TempDir(), freeAddress(t), sampleUpstream(t, buildGrace/5)
	t.Cleanup(func() { _ = removeScratch(data) })
	p := startProcess(t, addr, data, "--upstream", upstream)
	hash := beginBuild(t, p)
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	p = startProcess(t, addr, data, "--upstream", upstream)
	defer p.kill()
	if reply, err := ask(http.MethodGet, p.base+"/api/v1/build/"+hash, ""); err != nil || reply.HTTP != http.StatusOK {
		t.Errorf("after the restart: %+v %v", reply, err)
	}
}

// A second signal cuts it; it is done again after the restart.
func TestSecondSignalHurries(t *testing.T) {
	t.Parallel()
	data, addr, upstream := t.TempDir(), freeAddress(t), sampleUpstream(t, slowBuild)
	t.Cleanup(func() { _ = removeScratch(data) })
	p := startProcess(t, addr, data, "--upstream", upstream)
	hash := beginBuild(t, p)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if strings.Contains(p.out.String(), "stopping: running builds may finish") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	p = startProcess(t, addr, data, "--upstream", upstream)
	defer p.kill()
	if reply, err := ask(http.MethodGet, p.base+"/api/v1/build/"+hash, ""); err != nil || reply.HTTP != http.StatusAccepted {
		t.Errorf("after the restart: %+v %v", reply, err)
	}
}

// When a part of the server fails the program ends, so that the service
// manager starts it again: the watchdog must not keep it alive.
func TestFailureEndsTheProgram(t *testing.T) {
	manager, err := net.ListenPacket("unixgram", filepath.Join(t.TempDir(), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", manager.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "1000000")
	cfg, err := demoConfig(t.TempDir(), "http://127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApplication(cfg, newLogger(cfg, t.Output()), extras{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a.notifySystemd(ctx)
	if err := a.run(t.Context(), nil, l, nil); err == nil {
		t.Error("a closed listener is no failure")
	}
	cancel()
	if err := a.close(); err != nil {
		t.Error(err)
	}
}

package main

import (
	"context"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// crashRounds is how often servers are killed, crashServers how many there are
// at a time: one works while another waits for its end. Each round lasts less
// than a build, so most kills hit one.
const (
	crashRounds  = 50
	crashServers = 2
)

// The power goes at random moments while clients submit. After each restart
// nothing that was accepted is missing, no image is partial, and no two builds
// run where one worker is configured.
func TestKilledAtRandomMoments(t *testing.T) {
	upstream := sampleUpstream(t, 0)
	for server := range crashServers {
		t.Run(fmt.Sprint("server ", server+1), func(t *testing.T) {
			t.Parallel()
			killedAtRandomMoments(t, upstream, int64(server), crashRounds/crashServers)
		})
	}
}

func killedAtRandomMoments(t *testing.T, upstream string, seed int64, rounds int) {
	data, addr := t.TempDir(), freeAddress(t)
	t.Cleanup(func() { _ = removeScratch(data) })
	rng := rand.New(rand.NewSource(seed + 1))
	var (
		mu       sync.Mutex
		accepted = map[string]bool{}
	)
	note := func(reply apiReply, err error) {
		if err == nil && (reply.HTTP == http.StatusAccepted || reply.HTTP == http.StatusOK) {
			mu.Lock()
			defer mu.Unlock()
			accepted[reply.RequestHash] = true
		}
	}
	packages := []string{"tmux", "htop", "nano", "luci", "owut", "vim"}
	start := func() *attendantProcess {
		return startProcess(t, addr, data, "--upstream", upstream, "--workers", "1", "--log-level", "warn")
	}
	for round := range rounds {
		p := start()
		if parallel := buildsUnder(t, data); len(parallel) > 1 {
			t.Errorf("round %d: %d builds at once: %q", round, len(parallel), parallel)
		}
		checkAccepted(t, p, accepted, round)
		submitting, stop := context.WithCancel(context.Background())
		var clients sync.WaitGroup
		for client := range 3 {
			choice := rand.New(rand.NewSource(seed*1000 + int64(round*10+client)))
			clients.Go(func() {
				for submitting.Err() == nil {
					chosen := packages[:1+choice.Intn(len(packages))]
					note(ask(http.MethodPost, p.base+"/api/v1/build", buildBody("24.10.4", "x86/64", "generic", append(chosen[:len(chosen):len(chosen)], fmt.Sprintf("-none%d", choice.Intn(4)))...)))
					time.Sleep(time.Duration(choice.Intn(40)) * time.Millisecond)
				}
			})
		}
		time.Sleep(time.Duration(20+rng.Intn(700)) * time.Millisecond)
		p.kill()
		stop()
		clients.Wait()
		http.DefaultClient.CloseIdleConnections()
	}

	p := start()
	if len(accepted) < 5 {
		t.Fatalf("only %d requests were accepted", len(accepted))
	}
	for hash := range accepted {
		reply := awaitBuild(t, p.base, hash)
		switch {
		case reply.HTTP == http.StatusOK:
			checkImages(t, p.base, reply)
		case reply.HTTP == http.StatusInternalServerError && reply.Code == "crashed":
			// killed in three attempts at it
		default:
			t.Errorf("%s ended as %d %s %s", hash, reply.HTTP, reply.Code, reply.Detail)
		}
	}
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	leftovers, err := filepath.Glob(filepath.Join(data, "work", "*"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left in the work folder: %v %v", leftovers, err)
	}
	t.Logf("%d requests survived %d kills", len(accepted), rounds)
}

// checkAccepted asks for everything that was accepted before the last kill.
func checkAccepted(t *testing.T, p *attendantProcess, accepted map[string]bool, round int) {
	t.Helper()
	for hash := range accepted {
		reply, err := ask(http.MethodGet, p.base+"/api/v1/build/"+hash, "")
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, p.out)
		}
		switch {
		case reply.HTTP == http.StatusOK:
			checkImages(t, p.base, reply)
		case reply.HTTP == http.StatusAccepted:
		case reply.HTTP == http.StatusInternalServerError && reply.Code == "crashed":
		default:
			t.Errorf("round %d: %s is answered %d %s %s", round, hash, reply.HTTP, reply.Code, reply.Detail)
		}
	}
}

// buildsUnder lists the different build folders below data in which a make is
// running, whoever started it.
func buildsUnder(t *testing.T, data string) []string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var builds []string
	for _, name := range processes {
		cmdline, err := os.ReadFile(name) // gone by now, mostly
		if err != nil {
			continue
		}
		for arg := range strings.SplitSeq(string(cmdline), "\x00") {
			dir, isBinDir := strings.CutPrefix(arg, "BIN_DIR="+data)
			if isBinDir && !seen[dir] {
				seen[dir] = true
				builds = append(builds, dir)
			}
		}
	}
	return builds
}

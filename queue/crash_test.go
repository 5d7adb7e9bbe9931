package queue

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
	"attendant/store/images"
)

const (
	// crashDirVar makes the test binary a server that submits and builds in
	// that folder until it is killed.
	crashDirVar    = "ATTENDANT_QUEUE_CRASH_DIR"
	crashBudgetVar = "ATTENDANT_QUEUE_CRASH_BUDGET"
)

// crashingServer prints "open" and then "accepted <name>" for every job that
// it has accepted.
func crashingServer(dir string) {
	check := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	budget, err := strconv.ParseInt(os.Getenv(crashBudgetVar), 10, 64)
	check(err)
	db, err := store.Open(filepath.Join(dir, "attendant.db"), store.Options{})
	check(err)
	cache, err := images.Open(images.Options{Dir: dir, DB: db, Budget: budget, MinKeep: time.Nanosecond, Grace: time.Nanosecond, SaveInterval: 10 * time.Millisecond})
	check(err)
	b := &builder{dir: dir, building: map[string]int{}}
	b.set(func(r *running) (setSize, error) {
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		return setSize(2000 + rand.IntN(10_000)), nil
	})
	q, err := New(Options{DB: db, Images: cache, Builder: b, Workers: 2, MaxAttempts: 5, SetSize: 5 * store.BlockSize})
	check(err)
	fmt.Println("open")
	go cache.Run(context.Background())
	go func() { check(q.Run(context.Background())) }()
	for range 3 {
		go func() {
			for {
				name := strconv.Itoa(rand.IntN(1000))
				_, err := q.Submit(context.Background(), hashOf(name), request(name), imagebuilder.Generation{})
				switch code(err) {
				case "":
					check(err)
					fmt.Println("accepted", name)
				case imagebuilder.CodeQueueFull:
					time.Sleep(time.Millisecond)
				default:
					check(err)
				}
				cache.Touch(hashOf(strconv.Itoa(rand.IntN(1000))))
			}
		}()
	}
	time.Sleep(time.Minute)
	os.Exit(1)
}

// TestKilledAtRandomMoments kills a server again and again and looks at what
// it left.
func TestKilledAtRandomMoments(t *testing.T) {
	for name, test := range map[string]struct {
		budget  int64
		evicted bool // sets are evicted, so a done job may be gone
	}{
		"with room for all": {budget: 1 << 30},
		"while evicting":    {budget: 100 * 5 * store.BlockSize, evicted: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			accepted := map[string]bool{}
			end := time.Now().Add(4 * time.Second)
			rounds := 0
			for ; time.Now().Before(end) || rounds < 5; rounds++ {
				for _, name := range killed(t, dir, test.budget) {
					accepted[name] = true
				}
				inspect(t, dir, test.budget, accepted, test.evicted)
			}
			t.Logf("%d rounds, %d jobs accepted", rounds, len(accepted))
		})
	}
}

// killed runs a server for a random time and returns what it accepted.
func killed(t *testing.T, dir string, budget int64) (accepted []string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashDirVar+"="+dir, fmt.Sprintf("%s=%d", crashBudgetVar, budget))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := func() string {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // tells that it was killed
		return stderr.String()
	}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if said := ended(); said != "" || err != io.EOF {
				t.Fatal(err, said)
			}
			return accepted
		}
		line = strings.TrimSpace(line)
		if line == "open" {
			time.AfterFunc(time.Duration(rand.IntN(250))*time.Millisecond, func() { cmd.Process.Kill() })
		} else if name, ok := strings.CutPrefix(line, "accepted "); ok {
			accepted = append(accepted, name)
		} else {
			t.Fatalf("the server said %q, %s", line, ended())
		}
	}
}

// inspect opens what a killed server left, as the next one would.
func inspect(t *testing.T, dir string, budget int64, accepted map[string]bool, evicted bool) {
	t.Helper()
	f := &fixture{TB: t, dir: dir, b: &builder{dir: dir}}
	f.images.Budget = budget
	f.o.Limit = 1 << 20
	f.o.MaxAttempts = 5
	f.open()
	defer f.close()
	f.check(f.db)
	last := uint64(0)
	for _, s := range f.q.Snapshot().Waiting {
		if s.Job.Seq <= last {
			t.Errorf("job %d stands behind %d", s.Job.Seq, last)
		}
		last = s.Job.Seq
	}
	for name := range accepted {
		s, found := f.q.Lookup(hashOf(name))
		switch {
		case !found && evicted:
			continue
		case !found:
			t.Fatalf("job %s is lost", name)
		case s.Job.State == imagebuilder.Failed && s.Job.Failure.Code != imagebuilder.CodeCrashed:
			t.Fatalf("job %s failed: %+v", name, s.Job.Failure)
		case s.Job.State == imagebuilder.Done:
			h, err := f.cache.Open(hashOf(name), "image.bin")
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(h.File)
			h.Close()
			if err != nil || int64(len(content)) != s.Job.Images.Files[0].Size || strings.TrimRight(string(content), ".") != name {
				t.Fatalf("the image of %s is partial: %d bytes, %v", name, len(content), err)
			}
		}
	}
	if u := f.cache.Usage(); u.Used > u.Budget {
		t.Errorf("over the budget: %+v", u)
	}
}

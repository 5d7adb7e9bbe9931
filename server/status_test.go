package server

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/queue"
	"attendant/store/images"
)

var update = flag.Bool("update", false, "rewrite golden files")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// aStanding is a server with some of everything.
func aStanding() *standing {
	job := func(hash, profile string, state imagebuilder.State, defaults *string) *imagebuilder.Job {
		return &imagebuilder.Job{Hash: strings.Repeat(hash, 64), State: state, EnqueuedAt: noon.Add(-time.Minute), Request: imagebuilder.Request{
			Version: "24.10.4", Target: "ath79/generic", Profile: profile, Defaults: defaults,
		}}
	}
	script := "echo geheim | passwd"
	days := make([]DayCounts, statDays)
	for i := range days {
		days[i] = DayCounts{Date: noon.Truncate(24*time.Hour).AddDate(0, 0, i-statDays+1), Requests: int64(3 * i), CacheHits: int64(2 * i), Successes: int64(i), Failures: int64(i % 2), Saved: time.Duration(i) * 90 * time.Second}
	}
	return &standing{
		now: noon, started: noon.Add(-26 * time.Hour), days: days,
		queue: queue.Snapshot{
			Building: []queue.Status{{Job: job("a", "tplink_archer-c7-v5", imagebuilder.Building, nil), Stage: imagebuilder.StageImage, Wait: 20 * time.Second}},
			Waiting: []queue.Status{
				{Job: job("b", "ubnt_unifi", imagebuilder.Queued, &script), Position: 1, Wait: 110500 * time.Millisecond},
				{Job: job("c", "<script>alert(1)</script>", imagebuilder.Queued, nil), Position: 2},
			},
			Recent: []queue.Summary{
				{Hash: strings.Repeat("d", 64), Version: "24.10.4", Target: "ath79/generic", Profile: "ubnt_unifi", State: imagebuilder.Done,
					StartedAt: noon.Add(-5 * time.Minute), FinishedAt: noon.Add(-4*time.Minute + 40*time.Millisecond)},
				{Hash: strings.Repeat("e", 64), Version: "24.10.4", Target: "ath79/generic", Profile: "x", State: imagebuilder.Failed, Code: imagebuilder.CodeCanceled,
					Detail: "It ended: see " + strings.Repeat("e", 64) + ".", FinishedAt: noon.Add(-5 * time.Minute)},
			},
			Limit: 200, Workers: 2,
		},
		usage:        images.Usage{Sets: 12, Budget: 10e9, Used: 480 << 20, Pinned: 40 << 20, Free: 20e9, MinFree: 256 << 20},
		buildersUsed: 2e9, buildersLimit: 10e9, diskTotal: 32e9,
		upstreams: []UpstreamState{
			{Distro: "openwrt", URL: "https://downloads.openwrt.org", Checked: noon.Add(-3 * time.Hour), Stale: true},
			{Distro: "libremesh", URL: "https://libremesh.example"},
		},
		warnings: []Warning{{WarnUplink, "Nobody answers. What to do: wait."}},
	}
}

func TestStatusReply(t *testing.T) {
	reply := aStanding().reply()
	reply.Version, reply.Contact = "v1.2.3", "someone@example.org"
	var got bytes.Buffer
	if err := json.Indent(&got, jsonBody(reply), "", "  "); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "status.json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("differs from %s (-file +now):\n%s", path, diff)
	}
	for _, secret := range []string{"bbbbbbbb", "dddddddd", "eeeeeeee", "geheim"} {
		if strings.Contains(got.String(), secret) {
			t.Errorf("%s is told to everybody", secret)
		}
	}
}

func TestStatusReplyIsBounded(t *testing.T) {
	st := aStanding()
	long := strings.Repeat("€", 1<<20)
	st.queue.Building, st.queue.Waiting, st.queue.Recent, st.warnings = nil, nil, nil, nil
	for i := range 3000 {
		job := &imagebuilder.Job{Hash: strings.Repeat("a", 64), State: imagebuilder.Queued, Request: imagebuilder.Request{Version: "24.10.4", Target: "ath79/generic", Profile: "x"}}
		st.queue.Waiting = append(st.queue.Waiting, queue.Status{Job: job, Position: i + 1})
		st.warnings = append(st.warnings, Warning{WarnDisk, long})
		st.queue.Recent = append(st.queue.Recent, queue.Summary{Detail: long})
	}
	reply := st.reply()
	if len(reply.Queue.Jobs) != statusJobs || reply.Queue.Waiting != 3000 || len(reply.Recent) != statusRecent || len(reply.Warnings) != maxWarnings {
		t.Errorf("%d jobs of %d, %d outcomes, %d warnings", len(reply.Queue.Jobs), reply.Queue.Waiting, len(reply.Recent), len(reply.Warnings))
	}
	if n := len(jsonBody(reply)); n > 100<<10 {
		t.Errorf("%d bytes", n)
	}
}

// A clock that was set back, or nothing counted yet, must not lead to nonsense.
func TestStatusReplyOfAWrongClock(t *testing.T) {
	st := aStanding()
	st.now, st.days = time.Unix(0, 0), nil
	reply := st.reply()
	if reply.UptimeSeconds != 0 || reply.Upstream[0].AgeSeconds != 0 || reply.Cache.HitRate != 0 {
		t.Errorf("%+v", reply)
	}
}

func TestStatusIsMadeOnceASecondAndShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeptStatus()
		var made atomic.Int64
		get := func() string {
			return string(k.get(func() []byte {
				n := made.Add(1)
				time.Sleep(10 * time.Second)
				return fmt.Append(nil, n)
			}))
		}
		var asking sync.WaitGroup
		for range 100 { // the first ones wait for it
			asking.Go(func() {
				if got := get(); got != "1" {
					t.Errorf("got %s", got)
				}
			})
		}
		asking.Wait()
		if got := get(); got != "1" || made.Load() != 1 {
			t.Errorf("got %s, made %d times", got, made.Load())
		}
		time.Sleep(statusEvery)
		asking.Go(func() {
			if got := get(); got != "2" {
				t.Errorf("got %s", got)
			}
		})
		synctest.Wait()
		begin := time.Now()
		for range 100 {
			if got := get(); got != "1" {
				t.Errorf("while another is being made, got %s", got)
			}
		}
		if time.Since(begin) > 0 {
			t.Error("they waited")
		}
		asking.Wait()
		if got := get(); got != "2" || made.Load() != 2 {
			t.Errorf("got %s, made %d times", got, made.Load())
		}
	})
}

// TestStatusUnderLoad asks from many sides while builds run, end and are
// counted.
func TestStatusUnderLoad(t *testing.T) {
	ts := start(t, nil)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	stop := make(chan struct{})
	var asking sync.WaitGroup
	var answers atomic.Int64
	for range 32 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Get(ts.base + "/api/v1/status")
				if err != nil {
					t.Error(err)
					return
				}
				var reply statusReply
				err = json.NewDecoder(resp.Body).Decode(&reply)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || len(reply.Days) != statDays || resp.ContentLength <= 0 {
					t.Errorf("%d %v %+v", resp.StatusCode, err, reply)
					return
				}
				answers.Add(1)
			}
		})
	}
	var hashes []string
	for i := range 15 {
		hashes = append(hashes, ts.post(plainBody(fmt.Sprint("package-", i))).hash())
	}
	for _, hash := range hashes {
		if a := ts.await(hash); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
	time.Sleep(statusEvery)
	close(stop)
	asking.Wait()
	a := ts.get("/api/v1/status")
	if n := len(a.json["recent"].([]any)); n != 15 || answers.Load() == 0 {
		t.Errorf("%d outcomes after %d answers: %s", n, answers.Load(), a.raw)
	}
}

func TestHashesOfJobsWithScriptsAreNotTold(t *testing.T) {
	ts := start(t, nil)
	ts.holdBuilds()
	open := ts.post(plainBody("a")).hash()
	secret := ts.post(strings.Replace(plainBody("b"), "{", `{"defaults":"passwd geheim",`, 1)).hash()
	a := ts.get("/api/v1/status")
	if body := string(a.raw); open == "" || secret == "" || !strings.Contains(body, open) || strings.Contains(body, secret) || strings.Contains(body, "geheim") {
		t.Errorf("%s", body)
	}
	if n := len(a.json["queue"].(map[string]any)["jobs"].([]any)); n != 2 {
		t.Errorf("%d jobs: %s", n, a.raw)
	}
}

// A build that is asked for again long after saved what it took; whom it was
// built for saved nothing.
func TestHitsSaveBuildingTime(t *testing.T) {
	var later atomic.Int64 // nanoseconds by which the server's clock is ahead
	stats := &savedStatistics{}
	ts := start(t, func(o *Options) {
		o.Statistics = stats
		o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	hash := ts.post(plainBody("luci")).hash()
	ts.await(hash)
	if a := ts.post(plainBody("luci")); a.status != http.StatusOK || stats.hits.Load() != 1 || stats.saved.Load() != 0 {
		t.Errorf("%d: %d hits saved %d", a.status, stats.hits.Load(), stats.saved.Load())
	}
	later.Store(int64(time.Hour))
	if a := ts.post(plainBody("luci")); a.status != http.StatusOK || stats.hits.Load() != 2 || stats.saved.Load() <= 0 {
		t.Errorf("%d: %d hits saved %d", a.status, stats.hits.Load(), stats.saved.Load())
	}
}

type savedStatistics struct {
	stubStatistics
	saved atomic.Int64
}

func (s *savedStatistics) CountHit(saved time.Duration) {
	s.stubStatistics.CountHit(saved)
	s.saved.Add(int64(saved))
}

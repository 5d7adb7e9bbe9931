package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"attendant/imagebuilder"
	"attendant/store"
)

const manyJobs = 100_000

// BenchmarkStartWith100000Jobs measures the real program on a database of
// finished jobs whose images are on disk: from its start to its first answer,
// and its resident memory afterwards, when all background work has settled.
func BenchmarkStartWith100000Jobs(b *testing.B) {
	dir := b.TempDir()
	program := filepath.Join(dir, "attendant")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	data := filepath.Join(dir, "data")
	hash := writeManyJobs(b, data)
	syscall.Sync() // the disk is not to be busy with what was just written
	b.ResetTimer()
	var first time.Duration
	var idle int64
	for range b.N {
		addr := freeAddress(b)
		cmd := exec.Command(program, "serve", "--data", data, "--listen", addr, "--upstream", "http://127.0.0.1:9", "--log-level", "error")
		cmd.Stderr = os.Stderr
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for {
			resp, err := http.Get("http://" + addr + "/api/v1/build/" + hash)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					b.Fatalf("answered %s", resp.Status)
				}
				break
			}
			if time.Since(begin) > 20*time.Second {
				b.Fatal("no answer")
			}
			time.Sleep(time.Millisecond)
		}
		first += time.Since(begin)
		for settled, last := 0, ""; settled < 5; {
			time.Sleep(time.Second)
			now := processTimes(b, cmd.Process.Pid)
			if settled++; now != last {
				settled, last = 0, now
			}
		}
		idle = residentBytes(b, cmd.Process.Pid)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			b.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(program)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(first.Milliseconds())/float64(b.N), "ms-to-first-answer")
	b.ReportMetric(float64(idle)/1e6, "idle-MB")
	b.ReportMetric(float64(info.Size())/1e6, "binary-MB")
	b.ReportMetric(0, "ns/op")
}

// writeManyJobs fills a data folder with finished jobs and returns the hash of
// the last one.
func writeManyJobs(b *testing.B, data string) string {
	b.Helper()
	db, err := store.Open(filepath.Join(data, "attendant.db"), store.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	hash := ""
	for i := range manyJobs {
		request := imagebuilder.Request{
			Version: "24.10.4", Target: "ath79/generic", Profile: "tplink_archer-c7-v5",
			Packages: []string{"luci", "tmux", fmt.Sprint("package-", i)},
		}.Normalize()
		hash = request.Hash("generation")
		folder := filepath.Join(data, "images", hash)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "image.bin"), []byte("image"), 0o644); err != nil {
			b.Fatal(err)
		}
		job := &imagebuilder.Job{
			Hash: hash, Seq: uint64(i + 1), Request: request, State: imagebuilder.Queued, EnqueuedAt: now,
			Generation: imagebuilder.Generation{Digest: "generation"},
		}
		if err := db.Enqueue(job); err != nil {
			b.Fatal(err)
		}
		done := *job
		done.State, done.FinishedAt = imagebuilder.Done, now
		done.Images = &imagebuilder.ImageSet{
			ID: request.Profile, Target: request.Target, VersionNumber: request.Version, VersionCode: "r28959-29397011cc",
			Images:   []imagebuilder.Image{{Name: "image.bin", Type: "sysupgrade", Filesystem: "squashfs", SHA256: hash, Size: 5}},
			Files:    []imagebuilder.File{{Name: "image.bin", Size: 5, SHA256: hash}},
			Manifest: imagebuilder.Manifest{"luci": "25.292.66247~75e41cb", "tmux": "3.4-r1", "base-files": "1637~29397011cc"},
			BuildCmd: []string{"make", "image"}, BuiltAt: now,
		}
		record := &store.ImageRecord{Bytes: 5, Disk: 2 * store.BlockSize, Done: now, Used: now, Tick: uint64(i + 1)}
		if err := db.FinishJob(&done, record, 20*time.Second); err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	return hash
}

// processTimes is the processor time that a process has used, as text.
func processTimes(b *testing.B, pid int) string {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat))
	return fields[13]
}

func residentBytes(b *testing.B, pid int) int64 {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

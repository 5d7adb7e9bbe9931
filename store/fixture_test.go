package store

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"attendant/imagebuilder"
)

var writeFixture = flag.Bool("write-fixture", false, "write testdata/schema-<n>.db.zst of the schema in force; never again once it is released")

// fixtureJobs are the jobs in a fixture: one of each state.
func fixtureJobs() []*imagebuilder.Job {
	queued, building := job(1, "queued"), job(2, "building")
	building.State, building.Attempts = imagebuilder.Building, 2
	d, _ := done(job(3, "done"))
	return []*imagebuilder.Job{queued, building, d, failed(job(4, "failed"))}
}

var fixtureTarget = SizeTarget{"openwrt", "24.10", "ath79/generic"}

// TestOldDatabasesOpen opens a database of each schema there ever was.
func TestOldDatabasesOpen(t *testing.T) {
	if *writeFixture {
		makeFixture(t)
	}
	for schema := 1; schema <= len(migrations); schema++ {
		t.Run(fmt.Sprint(schema), func(t *testing.T) {
			frame, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("schema-%d.db.zst", schema)))
			must(t, err)
			dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
			must(t, err)
			defer dec.Close()
			content, err := dec.DecodeAll(frame, nil)
			must(t, err)
			path := filepath.Join(t.TempDir(), "attendant.db")
			must(t, os.WriteFile(path, content, 0o600))

			db := open(t, path)
			if r := check(t, db); r.Schema != uint64(len(migrations)) || r.Jobs != 4 {
				t.Errorf("report: %+v", r)
			}
			for _, want := range fixtureJobs() {
				got, err := db.Job(want.Hash)
				must(t, err)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("job %d: %s", want.Seq, diff)
				}
			}
			active, err := db.Active()
			must(t, err)
			if len(active) != 2 || active[0].Seq != 1 || active[1].Seq != 2 {
				t.Errorf("queue: %v", active)
			}
			history, err := db.History()
			must(t, err)
			if len(history["ath79/generic"]) != 1 {
				t.Errorf("history: %v", history)
			}
			if lines, err := db.Statistics().BuildErrors(10); err != nil || len(lines) != 1 {
				t.Errorf("build errors: %v, %v", lines, err)
			}
			sizes, err := db.Sizes(fixtureTarget, "squashfs")
			must(t, err)
			limits, err := db.Limits(fixtureTarget)
			must(t, err)
			if seen := schema >= 3; seen != (len(sizes) == 1) || seen != (limits.Of("tplink_archer-c7-v5") == 15794176) {
				t.Errorf("sizes %v, limits %v", sizes, limits)
			}
			if top := db.Statistics().packages; len(top) != 1 {
				t.Errorf("packages: %v", top)
			}
		})
	}
}

func makeFixture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fixture.db")
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	db := openAt(t, path, &now)
	for _, j := range fixtureJobs() {
		queued := job(j.Seq, map[uint64]string{1: "queued", 2: "building", 3: "done", 4: "failed"}[j.Seq])
		must(t, db.Enqueue(queued))
		switch j.State {
		case imagebuilder.Building:
			must(t, db.SaveJob(j))
		case imagebuilder.Done:
			_, image := done(queued)
			must(t, db.NoteSize(j.Hash, fixtureTarget, "squashfs", Size{"tplink_archer-c7-v5", 4 << 20, 9 << 20}))
			must(t, db.FinishJob(j, image, time.Minute))
		case imagebuilder.Failed:
			must(t, db.FinishJob(j, nil, 0))
		}
	}
	db.Statistics().Count(Requests)
	db.Statistics().Built("24.10.4", []string{"luci"})
	db.Statistics().BuildFailed("24.10.4", "ath79/generic", "x", "It failed.")
	must(t, db.StateLimits(fixtureTarget, hashOf("builder"), map[string]int64{"tplink_archer-c7-v5": 15794176}))
	must(t, db.Close())
	content, err := os.ReadFile(path)
	must(t, err)
	var frame bytes.Buffer
	enc, err := zstd.NewWriter(&frame)
	must(t, err)
	_, err = enc.Write(content)
	must(t, err)
	must(t, enc.Close())
	must(t, os.WriteFile(filepath.Join("testdata", fmt.Sprintf("schema-%d.db.zst", len(migrations))), frame.Bytes(), 0o644))
}

package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"attendant/imagebuilder"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a database and checks the whole of it when the test ends.
func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if db.closed {
			return
		}
		check(t, db)
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, db *DB) *Report {
	t.Helper()
	r, err := db.Check()
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	if len(r.Problems) > 0 {
		t.Fatalf("problems: %s", strings.Join(r.Problems, "\n"))
	}
	return r
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// job is a job of about the size of real ones.
func job(seq uint64, name string) *imagebuilder.Job {
	packages := make([]string, 40)
	for i := range packages {
		packages[i] = fmt.Sprintf("package-%d", i)
	}
	return &imagebuilder.Job{
		Hash: hashOf(name),
		Seq:  seq,
		Request: imagebuilder.Request{
			Version: "24.10.4", Target: "ath79/generic", Profile: "tplink_archer-c7-v5", Packages: packages,
			Repositories:     imagebuilder.Pairs{},
			PackagesVersions: imagebuilder.Pairs{{Name: "zlib", Value: "1"}, {Name: "abc", Value: "2"}},
		}.Normalize(),
		Generation: imagebuilder.Generation{Digest: hashOf("generation"), Revision: "r28427-6df0e3d02a"},
		State:      imagebuilder.Queued,
		EnqueuedAt: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
	}
}

func done(j *imagebuilder.Job) (*imagebuilder.Job, *ImageRecord) {
	d := *j
	d.State = imagebuilder.Done
	d.Attempts = 1
	d.FinishedAt = d.EnqueuedAt.Add(time.Minute)
	manifest := imagebuilder.Manifest{}
	for i := range 140 {
		manifest[fmt.Sprintf("package-%s-%d", j.Hash[:4], i)] = fmt.Sprintf("2025.%d.%s-r1", i, j.Hash[i%50:i%50+8])
	}
	d.Images = &imagebuilder.ImageSet{
		ID: "tplink_archer-c7-v5", Target: "ath79/generic", VersionNumber: "24.10.4", Manifest: manifest,
		Images: []imagebuilder.Image{{Name: "a-sysupgrade.bin", Type: "sysupgrade", Filesystem: "squashfs", SHA256: j.Hash, Size: 9 << 20}},
		Files:  []imagebuilder.File{{Name: "a-sysupgrade.bin", SHA256: j.Hash, Size: 9 << 20}},
		Stdout: strings.Repeat("Building images...\n", 20),
	}
	return &d, &ImageRecord{Bytes: 9 << 20, Disk: 9<<20 + BlockSize, Done: d.FinishedAt.Truncate(time.Second), Used: d.FinishedAt.Truncate(time.Second), Tick: j.Seq}
}

func failed(j *imagebuilder.Job) *imagebuilder.Job {
	f := *j
	f.State = imagebuilder.Failed
	f.FinishedAt = f.EnqueuedAt.Add(time.Minute)
	f.Failure = &imagebuilder.Failure{Code: imagebuilder.CodeBuildFailed, Detail: "It failed."}
	return &f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJobKeepsEverythingOverARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "attendant.db")
	db := open(t, path)
	j1, j2, j3 := job(1, "one"), job(2, "two"), job(3, "three")
	for _, j := range []*imagebuilder.Job{j1, j2, j3} {
		must(t, db.Enqueue(j))
	}
	d1, image := done(j1)
	must(t, db.FinishJob(d1, image, 65*time.Second))
	f2 := failed(j2)
	must(t, db.FinishJob(f2, nil, 0))
	must(t, db.Close())

	db = open(t, path)
	for _, want := range []*imagebuilder.Job{d1, f2, j3} {
		got, err := db.Job(want.Hash)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("job %d changed: %s", want.Seq, diff)
		}
	}
	active, err := db.Active()
	must(t, err)
	if diff := cmp.Diff([]*imagebuilder.Job{j3}, active); diff != "" {
		t.Error(diff)
	}
	recent, err := db.Recent()
	must(t, err)
	if len(recent) != 2 || recent[0].Seq != 2 || recent[1].Seq != 1 {
		t.Errorf("recent: %v", recent)
	}
	failures, err := db.Failures()
	must(t, err)
	if len(failures) != 1 || failures[0].Key.String() != f2.Hash || !failures[0].Finished.Equal(f2.FinishedAt) {
		t.Errorf("failures: %v", failures)
	}
	if err := db.Images(func(k Key, r ImageRecord) error {
		if k.String() != d1.Hash || !r.Done.Equal(image.Done) || r.Bytes != image.Bytes || r.Disk != image.Disk {
			t.Errorf("image %s: %+v", k, r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	history, err := db.History()
	must(t, err)
	if diff := cmp.Diff(map[string][]Build{"ath79/generic": {{Took: 65 * time.Second, Disk: image.Disk}}}, history); diff != "" {
		t.Error(diff)
	}
	if seq, err := db.LastSeq(); err != nil || seq != 3 {
		t.Errorf("last sequence number %d, %v", seq, err)
	}
	if _, err := db.Job(hashOf("none")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a job that is not there: %v", err)
	}
	if _, err := db.Job("../../etc/passwd"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a hash that is none: %v", err)
	}
}

func TestEnqueueForgetsTheOldOutcome(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	j := job(1, "x")
	must(t, db.Enqueue(j))
	must(t, db.FinishJob(failed(j), nil, 0))
	old, err := db.Failures()
	must(t, err)

	again := job(2, "x")
	must(t, db.Enqueue(again))
	check(t, db)
	// The sweep of the old failure comes late and must not hit the new job.
	must(t, db.ForgetFailures(old...))
	if got, err := db.Job(again.Hash); err != nil || got.Seq != 2 {
		t.Fatalf("%v, %v", got, err)
	}

	d, image := done(again)
	must(t, db.FinishJob(d, image, time.Second))
	key, _ := ParseKey(d.Hash)
	third := job(3, "x")
	must(t, db.Enqueue(third))
	// So with the eviction of the old images.
	must(t, db.DeleteImages(key))
	if got, err := db.Job(third.Hash); err != nil || got.State != imagebuilder.Queued {
		t.Fatalf("%v, %v", got, err)
	}
	d, image = done(third)
	must(t, db.FinishJob(d, image, time.Second))
	must(t, db.DeleteImages(key))
	if _, err := db.Job(d.Hash); !errors.Is(err, ErrNotFound) {
		t.Errorf("the job outlived its images: %v", err)
	}
}

func TestSaveJobNeedsAPlaceInTheQueue(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	j := job(1, "x")
	if err := db.SaveJob(j); !errors.Is(err, ErrNotFound) {
		t.Errorf("saved a job that is not queued: %v", err)
	}
	must(t, db.Enqueue(j))
	building := *j
	building.State, building.Attempts = imagebuilder.Building, 1
	must(t, db.SaveJob(&building))
	if got, err := db.Job(j.Hash); err != nil || got.Attempts != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if err := db.FinishJob(j, &ImageRecord{}, 0); err == nil {
		t.Error("finished a job that is not done with an image record")
	}
}

func TestSecondOpenIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	_, err := Open(path, Options{Timeout: 50 * time.Millisecond})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "already running") {
		t.Errorf("error: %v", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	must(t, db.bolt.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keySchema, seqKey(uint64(len(migrations)+1)))
	}))
	must(t, db.Close())
	before, err := os.ReadFile(path)
	must(t, err)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "restore a backup") {
		t.Errorf("error: %v", err)
	}
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the refused database was changed")
	}
}

func TestMigrationsRunOnceEachInOrder(t *testing.T) {
	b, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	must(t, err)
	defer b.Close()
	var ran []int
	step := func(n int, err error) func(*bolt.Tx) error {
		return func(*bolt.Tx) error { ran = append(ran, n); return err }
	}
	boom := errors.New("boom")
	if err := migrate(b, []func(*bolt.Tx) error{step(1, nil), step(2, boom), step(3, nil)}); !errors.Is(err, boom) {
		t.Errorf("error: %v", err)
	}
	must(t, migrate(b, []func(*bolt.Tx) error{step(1, nil), step(2, nil), step(3, nil)}))
	must(t, migrate(b, []func(*bolt.Tx) error{step(1, nil), step(2, nil), step(3, nil)}))
	if diff := cmp.Diff([]int{1, 2, 2, 3}, ran); diff != "" {
		t.Error(diff)
	}
}

func TestDamagedFileIsTold(t *testing.T) {
	for name, content := range map[string]string{
		"text":   strings.Repeat("this is no database\n", 1000),
		"zeroes": string(make([]byte, 64<<10)),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			must(t, os.WriteFile(path, []byte(content), 0o600))
			if db, err := Open(path, Options{}); err == nil {
				db.Close()
				t.Error("opened")
			} else if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

func TestConcurrentWritesAreAllKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := Open(path, Options{})
	must(t, err)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if i%10 == 9 {
				// A write that fails takes none of its companions along.
				if err := db.SaveJob(job(uint64(1000+i), fmt.Sprint("never queued", i))); !errors.Is(err, ErrNotFound) {
					t.Errorf("save: %v", err)
				}
				return
			}
			if err := db.Enqueue(job(uint64(i+1), fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, db.Close())
	if err := db.Enqueue(job(2000, "late")); err == nil {
		t.Error("wrote to a closed database")
	}

	db = open(t, path)
	active, err := db.Active()
	must(t, err)
	if len(active) != 90 {
		t.Errorf("%d of 90 jobs are there", len(active))
	}
	for i := 1; i < len(active); i++ {
		if active[i-1].Seq >= active[i].Seq {
			t.Fatal("out of order")
		}
	}
}

func TestBackupWhileWriting(t *testing.T) {
	dir := t.TempDir()
	db := open(t, filepath.Join(dir, "db"))
	for i := range 50 {
		must(t, db.Enqueue(job(uint64(i+1), fmt.Sprint(i))))
	}
	db.Statistics().Count(Requests)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 50; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := db.Enqueue(job(uint64(i+1), fmt.Sprint(i))); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var buf bytes.Buffer
	n, err := db.Backup(&buf)
	close(stop)
	wg.Wait()
	must(t, err)
	if n != int64(buf.Len()) {
		t.Errorf("%d bytes told, %d written", n, buf.Len())
	}
	copied := filepath.Join(dir, "copy")
	must(t, os.WriteFile(copied, buf.Bytes(), 0o600))
	again := open(t, copied)
	if r := check(t, again); r.Active < 50 {
		t.Errorf("%d jobs in the copy", r.Active)
	}
	if got := again.Statistics().Days(1)[0].Count(Requests); got != 1 {
		t.Errorf("%d requests in the copy", got)
	}
}

func TestCheckFindsWhatDisagrees(t *testing.T) {
	tests := map[string]struct {
		spoil func(tx *bolt.Tx, queued, done, failed Key) error
		want  string
	}{
		"job without queue entry": {func(tx *bolt.Tx, queued, _, _ Key) error {
			return tx.Bucket(bucketQueue).Delete(seqKey(1))
		}, "in the queue: false"},
		"queue entry without job": {func(tx *bolt.Tx, queued, _, _ Key) error {
			return tx.Bucket(bucketJobs).Delete(queued[:])
		}, "is missing"},
		"image without job": {func(tx *bolt.Tx, _, done, _ Key) error {
			return tx.Bucket(bucketJobs).Delete(done[:])
		}, "its job is missing"},
		"job without image": {func(tx *bolt.Tx, _, done, _ Key) error {
			return tx.Bucket(bucketImages).Delete(done[:])
		}, "with an image record: false"},
		"failure without entry": {func(tx *bolt.Tx, _, _, failed Key) error {
			return tx.Bucket(bucketFailures).Delete(seqKey(3))
		}, "among the failures: false"},
		"unreadable job": {func(tx *bolt.Tx, queued, _, _ Key) error {
			return tx.Bucket(bucketJobs).Put(queued[:], []byte("{"))
		}, "unexpected end"},
		"cut frame": {func(tx *bolt.Tx, _, done, _ Key) error {
			v := tx.Bucket(bucketJobs).Get(done[:])
			return tx.Bucket(bucketJobs).Put(done[:], bytes.Clone(v[:len(v)/2]))
		}, "In bucket jobs"},
		"job under another's hash": {func(tx *bolt.Tx, queued, done, _ Key) error {
			return tx.Bucket(bucketJobs).Put(queued[:], bytes.Clone(tx.Bucket(bucketJobs).Get(done[:])))
		}, "the job says it is"},
		"short image record": {func(tx *bolt.Tx, _, done, _ Key) error {
			return tx.Bucket(bucketImages).Put(done[:], []byte("short"))
		}, "it has 5 bytes"},
		"sizes cut short": {func(tx *bolt.Tx, _, _, _ Key) error {
			return tx.Bucket(bucketSizes).Put([]byte("a"), []byte{3, 'a'})
		}, "the sizes end within an entry"},
		"a size of nothing": {func(tx *bolt.Tx, _, _, _ Key) error {
			return tx.Bucket(bucketSizes).Put([]byte("a"), appendSize(nil, Size{"a", 0, 1}))
		}, "makes no sense"},
		"limits that are none": {func(tx *bolt.Tx, _, _, _ Key) error {
			return tx.Bucket(bucketLimits).Put([]byte("a"), []byte(`{"learnt":{"a":-1}}`))
		}, "cannot take -1 bytes"},
		"unreadable limits": {func(tx *bolt.Tx, _, _, _ Key) error {
			return tx.Bucket(bucketLimits).Put([]byte("a"), []byte("{"))
		}, "In bucket limits"},
		"number never given": {func(tx *bolt.Tx, _, _, _ Key) error {
			return tx.Bucket(bucketQueue).SetSequence(2)
		}, "was never given"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			db, err := Open(filepath.Join(t.TempDir(), "db"), Options{NoSync: true})
			must(t, err)
			defer db.Close()
			jobs := []*imagebuilder.Job{job(1, "queued"), job(2, "done"), job(3, "failed")}
			var keys [3]Key
			for i, j := range jobs {
				must(t, db.Enqueue(j))
				keys[i], _ = ParseKey(j.Hash)
			}
			d, image := done(jobs[1])
			must(t, db.FinishJob(d, image, time.Second))
			must(t, db.FinishJob(failed(jobs[2]), nil, 0))
			r := check(t, db)
			if r.Jobs != 3 || r.Active != 1 || r.Images != 1 || r.Failures != 1 || r.Schema != uint64(len(migrations)) || r.Size == 0 {
				t.Errorf("report: %+v", r)
			}
			must(t, db.bolt.Update(func(tx *bolt.Tx) error { return test.spoil(tx, keys[0], keys[1], keys[2]) }))
			r, err = db.Check()
			must(t, err)
			if !strings.Contains(strings.Join(r.Problems, "\n"), test.want) {
				t.Errorf("problems: %q", r.Problems)
			}
		})
	}
}

func TestActiveReturnsWhatCanBeRead(t *testing.T) {
	db, err := Open(filepath.Join(t.TempDir(), "db"), Options{NoSync: true})
	must(t, err)
	defer db.Close()
	for i := range 3 {
		must(t, db.Enqueue(job(uint64(i+1), fmt.Sprint(i))))
	}
	key, _ := ParseKey(hashOf("1"))
	must(t, db.bolt.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketJobs).Put(key[:], []byte("(rubbish")) }))
	active, err := db.Active()
	if err == nil || len(active) != 2 || active[0].Seq != 1 || active[1].Seq != 3 {
		t.Errorf("%d jobs, %v", len(active), err)
	}
	// It can be replaced by a new job all the same, which leaves no trace of it.
	must(t, db.Enqueue(job(4, "1")))
	if got, err := db.Job(hashOf("1")); err != nil || got.Seq != 4 {
		t.Errorf("%v, %v", got, err)
	}
	check(t, db)
	must(t, db.bolt.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketQueue).Put(seqKey(2), key[:]) }))
	if active, err = db.Active(); err == nil || len(active) != 3 {
		t.Errorf("a job that stands in two places: %d jobs, %v", len(active), err)
	}
}

func TestHistoryIsARing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range 25 {
		j := job(uint64(i+1), fmt.Sprint(i))
		must(t, db.Enqueue(j))
		d, image := done(j)
		must(t, db.FinishJob(d, image, time.Duration(i)*time.Second))
	}
	history, err := db.History()
	must(t, err)
	builds := history["ath79/generic"]
	if len(builds) != historyLength || builds[0].Took != 5*time.Second || builds[19].Took != 24*time.Second {
		t.Errorf("history: %v", builds)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(hashOf("x"))
	f.Add(strings.Repeat("A", 64))
	f.Add("../" + hashOf("x")[3:])
	f.Fuzz(func(t *testing.T, s string) {
		k, ok := ParseKey(s)
		if ok != imagebuilder.ValidHash(s) || ok && k.String() != s {
			t.Errorf("%q becomes %v, %t", s, k, ok)
		}
	})
}

func TestAFullDiskIsToldAndHarmless(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := Open(path, Options{NoSync: true, MaxSize: 256 << 10})
	must(t, err)
	queued := 0
	for ; err == nil && queued < 10_000; queued++ {
		err = db.Enqueue(job(uint64(queued+1), fmt.Sprint(queued)))
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("after %d jobs: %v", queued, err)
	}
	queued--
	active, err := db.Active()
	must(t, err)
	if len(active) != queued {
		t.Errorf("%d jobs of %d", len(active), queued)
	}
	must(t, db.Close())
	db = open(t, path)
	if r := check(t, db); r.Active != queued {
		t.Errorf("%d jobs of %d", r.Active, queued)
	}
}

// A panic in a transaction is everybody's error and nobody's end: later writes
// go on.
func TestPanicInATransactionIsAnError(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	if err := db.update(func(*bolt.Tx) error { panic("page 7 makes no sense") }); err == nil || !strings.Contains(err.Error(), "page 7") {
		t.Errorf("got %v", err)
	}
	must(t, db.update(func(*bolt.Tx) error { return nil }))
}

package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"attendant/imagebuilder"
	"attendant/store"
	"attendant/store/images"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirVar); dir != "" {
		crashingServer(dir)
	}
	goleak.VerifyTestMain(m)
}

// builder builds what a test tells it to. Without being told, it writes a
// small set at once.
type builder struct {
	dir string // the data folder

	mu       sync.Mutex
	begun    []string                        // names in the order of their starts
	building map[string]int                  // by name
	behave   func(*running) (setSize, error) // nil: build at once
}

// setSize is the size in bytes of the one file of a set.
type setSize int64

// running is a build under way.
type running struct {
	ctx  context.Context
	job  imagebuilder.Job
	rep  imagebuilder.Reporter
	name string
}

func (b *builder) Build(ctx context.Context, job imagebuilder.Job, rep imagebuilder.Reporter) (*imagebuilder.Built, error) {
	name := job.Request.Profile
	b.mu.Lock()
	b.begun = append(b.begun, name)
	if b.building[name]++; b.building[name] > 1 {
		panic("built twice at once")
	}
	behave := b.behave
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.building[name]--
	}()
	size := setSize(100)
	if behave != nil {
		var err error
		if size, err = behave(&running{ctx: ctx, job: job, rep: rep, name: name}); err != nil {
			return nil, err
		}
	}
	if size < 0 {
		return nil, nil
	}
	return b.write(name, int64(size))
}

func (b *builder) write(name string, size int64) (*imagebuilder.Built, error) {
	dir, err := os.MkdirTemp(filepath.Join(b.dir, "work"), "attempt-")
	if err != nil {
		return nil, err
	}
	content := name + strings.Repeat(".", int(size)-len(name))
	if err := os.WriteFile(filepath.Join(dir, "image.bin"), []byte(content), 0o644); err != nil {
		return nil, err
	}
	return &imagebuilder.Built{
		Dir:    dir,
		Set:    imagebuilder.ImageSet{ID: name, Files: []imagebuilder.File{{Name: "image.bin", Size: size}}},
		Stages: []imagebuilder.StageTime{{Stage: imagebuilder.StageImage, Duration: time.Second}},
	}, nil
}

func (b *builder) order() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.begun, " ")
}

func (b *builder) set(behave func(*running) (setSize, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.behave = behave
}

// takes makes every build take so long, and end when it is cut.
func takes(d time.Duration) func(*running) (setSize, error) {
	return func(r *running) (setSize, error) {
		select {
		case <-time.After(d):
			return 100, nil
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

// fails makes every build fail.
func fails(code imagebuilder.Code) func(*running) (setSize, error) {
	return func(*running) (setSize, error) {
		return 0, imagebuilder.Errorf(code, "It failed.")
	}
}

// fixture is a queue with all it needs in a folder of its own.
type fixture struct {
	testing.TB
	dir    string
	o      Options
	images images.Options
	store  store.Options
	b      *builder

	db     *store.DB
	cache  *images.Cache
	q      *Queue
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

func newFixture(t testing.TB, o Options) *fixture {
	t.Helper()
	f := &fixture{TB: t, dir: t.TempDir(), o: o}
	f.b = &builder{dir: f.dir, building: map[string]int{}}
	f.images.Budget = 1 << 30
	f.store.NoSync = true
	t.Cleanup(f.close)
	return f
}

// open opens the queue as the folder has it.
func (f *fixture) open() *fixture {
	f.Helper()
	ok := func(err error) {
		if err != nil {
			f.Helper()
			f.Fatal(err)
		}
	}
	var err error
	f.db, err = store.Open(filepath.Join(f.dir, "attendant.db"), f.store)
	ok(err)
	f.images.Dir, f.images.DB = f.dir, f.db
	if f.images.Free == nil {
		f.images.Free = func(string) (int64, error) { return 1 << 40, nil }
	}
	f.cache, err = images.Open(f.images)
	ok(err)
	f.o.DB, f.o.Images = f.db, f.cache
	if f.o.Builder == nil {
		f.o.Builder = f.b
	}
	f.q, err = New(f.o)
	ok(err)
	return f
}

// run begins to build.
func (f *fixture) run() *fixture {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	q, cache := f.q, f.cache
	f.wait.Go(func() {
		if err := q.Run(ctx); err != nil {
			f.Error(err)
		}
	})
	f.wait.Go(func() { cache.Run(ctx) })
	return f
}

// close ends all, cutting what runs.
func (f *fixture) close() {
	f.Helper()
	if f.q == nil {
		return
	}
	if f.cancel != nil {
		f.cancel()
		f.wait.Wait()
		f.cancel = nil
	}
	if err := f.cache.Close(); err != nil && f.store.MaxSize == 0 {
		f.Error(err)
	}
	f.check(f.db)
	if err := f.db.Close(); err != nil && f.store.MaxSize == 0 {
		f.Error(err)
	}
	f.q = nil
}

func (f *fixture) check(db *store.DB) {
	f.Helper()
	r, err := db.Check()
	if err != nil {
		f.Error(err)
	} else if len(r.Problems) > 0 {
		f.Errorf("%d problems: %s", len(r.Problems)+r.More, strings.Join(r.Problems[:min(5, len(r.Problems))], "\n"))
	}
}

func (f *fixture) restart() {
	f.Helper()
	f.close()
	f.open()
}

func hashOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

func request(name string) imagebuilder.Request {
	return imagebuilder.Request{
		Version: "24.10.4", Target: "ath79/generic", Profile: name, Packages: []string{"luci"},
	}.Normalize()
}

func (f *fixture) submit(name string) (Status, error) {
	return f.q.Submit(context.Background(), hashOf(name), request(name), imagebuilder.Generation{Digest: hashOf("generation")})
}

func (f *fixture) mustSubmit(names ...string) {
	f.Helper()
	for _, name := range names {
		if _, err := f.submit(name); err != nil {
			f.Fatalf("submitting %s: %v", name, err)
		}
	}
}

// is checks the state of a job; "" is none.
func (f *fixture) is(name string, want imagebuilder.State) Status {
	f.Helper()
	s, found := f.q.Lookup(hashOf(name))
	if found != (want != "") || found && s.Job.State != want {
		f.Fatalf("%s: found %t, %s; want %q", name, found, describe(s), want)
	}
	return s
}

func describe(s Status) string {
	if s.Job == nil {
		return "no job"
	}
	text := fmt.Sprintf("%s, %s, position %d", s.Job.Request.Profile, s.Job.State, s.Position)
	if s.Job.Failure != nil {
		text += ", " + string(s.Job.Failure.Code)
	}
	return text
}

// failedWith checks that a job failed with a code.
func (f *fixture) failedWith(name string, code imagebuilder.Code) *imagebuilder.Job {
	f.Helper()
	s := f.is(name, imagebuilder.Failed)
	if s.Job.Failure == nil || s.Job.Failure.Code != code || s.Job.Failure.Detail == "" {
		f.Fatalf("%s failed with %+v; want %s", name, s.Job.Failure, code)
	}
	return s.Job
}

func code(err error) imagebuilder.Code {
	if e, ok := errors.AsType[*imagebuilder.Error](err); ok {
		return e.Code
	}
	return ""
}

// waiting is the names of the jobs that wait, in order.
func (f *fixture) waiting() string {
	var names []string
	for i, s := range f.q.Snapshot().Waiting {
		if s.Position != i+1 {
			f.Errorf("position %d at place %d", s.Position, i)
		}
		names = append(names, s.Job.Request.Profile)
	}
	return strings.Join(names, " ")
}

// copied is the folder as a crash would leave it now, as a folder of its own.
func (f *fixture) crash() {
	f.Helper()
	dir := f.TempDir()
	if err := os.CopyFS(dir, os.DirFS(f.dir)); err != nil {
		f.Fatal(err)
	}
	f.close()
	f.dir, f.b.dir = dir, dir
	f.open()
}

func (f *fixture) events(name string, n int) []string {
	f.Helper()
	ch, stop, ok := f.q.Subscribe(hashOf(name))
	if !ok {
		f.Fatalf("%s cannot be followed", name)
	}
	defer stop()
	var got []string
	for e := range ch {
		got = append(got, eventText(e))
		if len(got) == n {
			break
		}
	}
	return got
}

func eventText(e Event) string {
	text := ""
	if e.Missed > 0 {
		text = fmt.Sprintf("(%d missed) ", e.Missed)
	}
	switch e.Kind {
	case EventState:
		text += fmt.Sprintf("%s %d", e.Status.Job.State, e.Status.Position)
	case EventProgress:
		text += fmt.Sprintf("%d/%d", e.Status.Done, e.Status.Total)
	case EventStage:
		text += "stage " + string(e.Stage)
	case EventLine:
		text += "line " + e.Line
	}
	return text
}

func contains(list []string, want ...string) bool {
	for _, w := range want {
		i := slices.Index(list, w)
		if i < 0 {
			return false
		}
		list = list[i+1:]
	}
	return true
}

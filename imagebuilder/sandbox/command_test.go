package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// heard collects the lines of a command.
type heard struct {
	mu       sync.Mutex
	out, err []string
}

func (h *heard) command(dir string, args ...string) *Command {
	return &Command{
		Args: args,
		Dir:  dir,
		Env:  []string{"PATH=/usr/bin:/bin"},
		Stdout: func(line string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.out = append(h.out, line)
		},
		Stderr: func(line string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.err = append(h.err, line)
		},
		Grace: 100 * time.Millisecond,
	}
}

// inModes runs a test with the namespaces that this machine grants and
// without any.
func inModes(t *testing.T, test func(t *testing.T, run func(context.Context, *Command) (Result, error))) {
	modes := map[string]namespaceMode{"none": {}, "granted": namespaces()}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			test(t, func(ctx context.Context, c *Command) (Result, error) {
				s, err := c.spec()
				if err != nil {
					return Result{}, err
				}
				s.setNamespaces(mode)
				return c.run(ctx, s, mode)
			})
		})
	}
}

func TestCommandGetsNothingButWhatItWasGiven(t *testing.T) {
	t.Setenv("PROFILE", "leaks")
	// Descriptors of the server's that would stay open over an exec.
	leak, err := syscall.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		dir := t.TempDir()
		var h heard
		c := h.command(dir, "sh", "-c", `env; umask; pwd; cat; ls /proc/self/fd; echo eight >&8; echo "$0" "$1"`, "$(touch injected)", "a b;c")
		result, err := run(t.Context(), c)
		if err != nil || result.ExitCode != 0 {
			t.Fatalf("got %+v, %v", result, err)
		}
		// ls itself opens 3; 8 is the copy of standard error.
		want := []string{"PATH=/usr/bin:/bin", "PWD=" + dir, "0022", dir, "0", "1", "2", "3", "8", "$(touch injected) a b;c"}
		got := slices.DeleteFunc(slices.Clone(h.out), func(s string) bool {
			return strings.HasPrefix(s, "_=") || strings.HasPrefix(s, "SHLVL=") || strings.HasPrefix(s, "OLDPWD=")
		})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("standard output\n got %q\nwant %q", got, want)
		}
		if !slices.Equal(h.err, []string{"eight"}) {
			t.Errorf("standard error %q, want what was written to descriptor 8", h.err)
		}
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("something was executed: %v", names)
		}
	})
}

func TestCommandExit(t *testing.T) {
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		for script, want := range map[string]Result{
			"exit 0":     {},
			"exit 3":     {ExitCode: 3},
			"kill -9 $$": {ExitCode: -1, Signal: "killed"},
		} {
			var h heard
			result, err := run(t.Context(), h.command(t.TempDir(), "sh", "-c", script))
			result.Duration = 0
			if err != nil || result != want {
				t.Errorf("%s: got %+v, %v; want %+v", script, result, err, want)
			}
		}
	})
}

func TestCommandThatCannotStart(t *testing.T) {
	var h heard
	if _, err := h.command(t.TempDir(), "no-such-program").Run(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := h.command(t.TempDir(), "/bin").Run(t.Context()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a folder ran: %v", err)
	}
	if _, err := h.command("/no/such/folder", "true").Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("ran in no folder: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("before it began")
	cancel(cause)
	if _, err := h.command(t.TempDir(), "true").Run(ctx); !errors.Is(err, cause) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

// stubborn ignores TERM, in itself and in a grandchild of another session
// that keeps the pipes open, and tells both numbers of the parent namespace.
const stubborn = `trap '' TERM
setsid sh -c 'trap "" TERM HUP; while :; do echo x >>grandchild; sleep 0.02; done' &
while :; do echo x >>child; sleep 0.02; done`

func TestStoppingEndsEverything(t *testing.T) {
	cause := errors.New("enough")
	tests := map[string]struct {
		end  func(c *Command, after time.Duration)
		want error
	}{
		"whole limit": {func(c *Command, after time.Duration) { c.Timeout = after }, ErrTimedOut},
		"silence":     {func(c *Command, after time.Duration) { c.Idle = after }, ErrStalled},
		"context":     {func(*Command, time.Duration) {}, cause},
	}
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				// On a busy machine it may take long until both are at work.
				for after := 200 * time.Millisecond; ; after *= 3 {
					var h heard
					c := h.command(dir, "sh", "-c", stubborn)
					tt.end(c, after)
					ctx, cancel := context.Background(), context.CancelFunc(func() {})
					if tt.want == cause {
						ctx, cancel = context.WithTimeoutCause(ctx, after, cause)
					}
					_, err := run(ctx, c)
					cancel()
					if !errors.Is(err, tt.want) {
						t.Fatalf("got %v, want %v", err, tt.want)
					}
					if exists(dir, "child") && exists(dir, "grandchild") || after > 10*time.Second {
						break
					}
				}
				isQuiet(t, dir, "child", "grandchild")
			})
		}
	})
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// isQuiet fails if one of the files is missing or still grows.
func isQuiet(t *testing.T, dir string, names ...string) {
	t.Helper()
	size := func(name string) int64 {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("it never ran: %v", err)
			return 0
		}
		return fi.Size()
	}
	before := map[string]int64{}
	for _, name := range names {
		before[name] = size(name)
	}
	time.Sleep(150 * time.Millisecond)
	for _, name := range names {
		if size(name) != before[name] {
			t.Errorf("%s still grows", name)
		}
	}
}

func TestTermComesFirst(t *testing.T) {
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		var h heard
		c := h.command(t.TempDir(), "sh", "-c", `trap 'echo orderly; exit 0' TERM; echo ready; while :; do sleep 0.02; done`)
		c.Grace = time.Minute
		ctx, cancel := context.WithCancelCause(t.Context())
		cause, hear := errors.New("enough"), c.Stdout
		c.Stdout = func(line string) {
			hear(line)
			if line == "ready" {
				cancel(cause)
			}
		}
		if result, err := run(ctx, c); !errors.Is(err, cause) {
			t.Errorf("got %+v, %v", result, err)
		}
		if !slices.Equal(h.out, []string{"ready", "orderly"}) {
			t.Errorf("heard %q, want an orderly end", h.out)
		}
	})
}

// What a command leaves running ends with it, and nobody waits for it.
func TestLeftoversOfAGoodCommand(t *testing.T) {
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		dir := t.TempDir()
		var h heard
		c := h.command(dir, "sh", "-c", `setsid sh -c 'trap "" TERM HUP; echo x >grandchild; while :; do echo x >>grandchild; sleep 0.02; done' & while ! [ -s grandchild ]; do sleep 0.01; done; echo done`)
		result, err := run(t.Context(), c)
		if err != nil || result.ExitCode != 0 || !slices.Equal(h.out, []string{"done"}) {
			t.Fatalf("got %+v, %v, %q", result, err, h.out)
		}
		isQuiet(t, dir, "grandchild")
	})
}

func TestOutputKeepsIdleLimitAway(t *testing.T) {
	var h heard
	c := h.command(t.TempDir(), "sh", "-c", `for i in 1 2 3 4 5 6 7 8; do printf .; sleep 0.3; done`)
	c.Idle = 2 * time.Second
	if result, err := c.Run(t.Context()); err != nil || !slices.Equal(h.out, []string{"........"}) {
		t.Errorf("got %+v, %v, %q", result, err, h.out)
	}
}

func TestLinesAreBounded(t *testing.T) {
	var h heard
	c := h.command(t.TempDir(), "sh", "-c", `head -c 3000000 /dev/zero | tr '\0' x; echo; printf 'bar 1\rbar 2\rbar 3\n'; printf '\377\n'; printf end`)
	c.MaxLine = 100
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{strings.Repeat("x", 100) + "…", "bar 3", "\uFFFD", "end"}
	if !slices.Equal(h.out, want) {
		t.Errorf("got %q, want %q", h.out, want)
	}
}

// Whatever the chunks that it comes in, the lines are the same.
func TestReadLinesDoesNotDependOnChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab\n]{0,60}`).Draw(t, "text")
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		var got []string
		r := &chunks{text: text, sizes: rapid.SliceOf(rapid.IntRange(1, 7)).Draw(t, "sizes")}
		readLines(r, limit, func() {}, func(s string) { got = append(got, s) })
		var want []string
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if len(line) > limit {
				line = line[:limit] + "…"
			}
			want = append(want, line)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

type chunks struct {
	text  string
	sizes []int
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.text == "" {
		return 0, errors.New("end")
	}
	n := len(c.text)
	if len(c.sizes) > 0 {
		n, c.sizes = min(n, c.sizes[0]), c.sizes[1:]
	}
	n = copy(p, c.text[:n])
	c.text = c.text[n:]
	return n, nil
}

func TestNice(t *testing.T) {
	var h heard
	c := h.command(t.TempDir(), "nice")
	c.Nice = 7
	level, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(min(20-level+c.Nice, 19)) // the tests themselves may run nicely
	if _, err := c.Run(t.Context()); err != nil || !slices.Equal(h.out, []string{want}) {
		t.Errorf("got %q, %v", h.out, err)
	}
}

func TestSlowConsumerBlocksNobody(t *testing.T) {
	release := make(chan struct{})
	var got []string
	relay := NewRelay(2, func(line string) {
		<-release
		got = append(got, line)
	})
	c := Command{
		Args: []string{"sh", "-c", `i=0; while [ $i -lt 5000 ]; do echo "a line that is rather long, so that pipes fill $i"; i=$((i+1)); done`},
		Dir:  t.TempDir(), Env: []string{"PATH=/usr/bin:/bin"}, Stdout: relay.Line, Timeout: 20 * time.Second,
	}
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	relay.Close()
	relay.Line("after the end")
	close(release)
	<-relay.Done()
	if len(got) < 3 || len(got) > 6 {
		t.Fatalf("the consumer had %d lines, want the few that found room", len(got))
	}
	if !slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, " 0") }) {
		t.Errorf("the first line is not among %q", got)
	}
}

func TestAsAnotherUser(t *testing.T) {
	asNobody(t, "^(TestCommandGetsNothingButWhatItWasGiven|TestStoppingEndsEverything|TestLayer|TestProbe|TestCopyTree)$")
}

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	a, err := Probe(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", a)
	if a.Overlay && a.Method() != Overlay || !a.Overlay && (a.Method() != Copy || a.OverlayError == nil) {
		t.Errorf("method %s does not go with %+v", a.Method(), a)
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("it left %v", names)
	}
	if _, err := Probe(filepath.Join(dir, "a b")); !errors.Is(err, ErrPath) {
		t.Errorf("a path with a space: %v", err)
	}
	if a.OverlayFits(filepath.Join(dir, "missing")) {
		t.Error("an overlay fits nothing")
	}
}

func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	for name, mode := range map[string]namespaceMode{"namespaces": namespaces(), "none": {}} {
		b.Run(fmt.Sprint(name), func(b *testing.B) {
			for b.Loop() {
				c := Command{Args: []string{"true"}, Dir: dir, Env: []string{"PATH=/usr/bin:/bin"}}
				s, err := c.spec()
				if err != nil {
					b.Fatal(err)
				}
				s.setNamespaces(mode)
				if _, err := c.run(b.Context(), s, mode); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

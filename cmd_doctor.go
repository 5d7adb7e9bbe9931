package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

type doctorCmd struct {
	configFlags
	JSON bool `name:"json" help:"Print the findings as JSON."`
}

// Help is kong's longer text for a command.
func (*doctorCmd) Help() string {
	return `Looks for everything that ImageBuilders and attendant need on this machine: programs, disk, memory, namespaces, processor, clock, network. For what is missing it says the command that mends it on Debian, Ubuntu and Raspberry Pi OS. The exit code is 1 if something needed is missing.

    attendant doctor
    sudo -u attendant attendant doctor --config /etc/attendant/attendant.toml`
}

// severity is how bad a finding is.
type severity string

const (
	fine    severity = "ok"
	note    severity = "note"    // works, but not as well as it could
	missing severity = "missing" // builds will fail, or nothing can be built
)

// finding is what was found out about one thing.
type finding struct {
	Name   string   `json:"name"`
	Status severity `json:"status"`
	Detail string   `json:"detail"`        // a sentence
	Fix    string   `json:"fix,omitempty"` // what to type, or a sentence about it

	packages []string // Debian packages that mend it
}

// space is what a file system says of itself.
type space struct {
	free, total int64 // bytes; what is free for ordinary users
	freeFiles   int64 // inodes
	files       int64 // 0: the file system does not count them
	noexec      bool
	readOnly    bool
}

// examiner looks at a machine, through functions so that tests can show it
// another one.
type examiner struct {
	config   *Config
	arch     string // GOARCH
	built    time.Time
	environ  []string
	lookPath func(name string) (string, error)
	run      func(name string, args ...string) (output string, err error)
	readFile func(name string) ([]byte, error)
	statfs   func(path string) (space, error)
	now      func() time.Time
	synced   func() (yes, known bool)
	listen   func(address string) error
	client   *http.Client
}

func newExaminer(ctx context.Context, c *Config, environ []string) *examiner {
	return &examiner{
		config:   c,
		arch:     runtime.GOARCH,
		built:    readBuildInfo().Time,
		environ:  environ,
		lookPath: exec.LookPath,
		run: func(name string, args ...string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, name, args...)
			cmd.Env = append(slices.Clone(environ), "LC_ALL=C")
			cmd.WaitDelay = time.Second
			output, err := cmd.CombinedOutput()
			return string(output), err
		},
		readFile: os.ReadFile,
		statfs:   statfs,
		now:      time.Now,
		synced: func() (yes, known bool) {
			const timeError = 5 // TIME_ERROR of adjtimex(2): nobody keeps the clock
			state, err := unix.Adjtimex(&unix.Timex{})
			return state != timeError, err == nil
		},
		listen: func(address string) error {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			return l.Close()
		},
		client: &http.Client{Timeout: 10 * time.Second},
	}
}

func statfs(path string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return space{}, fmt.Errorf("ask for the space of %s: %w", path, err)
	}
	block := int64(st.Bsize) //nolint:unconvert // int32 on 32-bit machines
	return space{
		free:      int64(st.Bavail) * block,
		total:     int64(st.Blocks) * block,
		freeFiles: int64(st.Ffree),
		files:     int64(st.Files),
		noexec:    st.Flags&unix.ST_NOEXEC != 0,
		readOnly:  st.Flags&unix.ST_RDONLY != 0,
	}, nil
}

func (c *doctorCmd) Run(p *program) error {
	config, err := c.load(p)
	if err != nil {
		return err
	}
	findings := newExaminer(p.ctx, config, p.environ).examine(p.ctx)
	if c.JSON {
		err = writeFindingsJSON(p.stdout, findings)
	} else {
		err = writeFindings(p.stdout, findings)
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(findings, func(f finding) bool { return f.Status == missing }) {
		return errTold
	}
	return nil
}

// examine makes all checks.
func (e *examiner) examine(ctx context.Context) []finding {
	var all []finding
	for _, check := range []func() []finding{
		e.checkTools, e.checkPerl, e.checkPython, e.checkUmask,
		e.checkData, e.checkSpace, e.checkMemory,
		e.checkNamespaces, e.checkArchitecture,
		e.checkClock,
		func() []finding { return e.checkUpstream(ctx) },
		e.checkKeys, e.checkBuilders, e.checkListen,
	} {
		all = append(all, check()...)
	}
	return all
}

// installCommand joins what all findings want installed.
func installCommand(findings []finding) string {
	var packages []string
	for _, f := range findings {
		packages = append(packages, f.packages...)
	}
	if len(packages) == 0 {
		return ""
	}
	slices.Sort(packages)
	return "sudo apt-get install " + strings.Join(slices.Compact(packages), " ")
}

func writeFindings(w io.Writer, findings []finding) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	counts := map[severity]int{}
	for _, f := range findings {
		counts[f.Status]++
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Status, f.Name, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(t, "\t\t  %s\n", f.Fix)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	verdict := "Everything that is needed is here."
	switch n := counts[missing]; {
	case n == 1:
		verdict = "One thing that is needed is missing."
	case n > 1:
		verdict = fmt.Sprintf("%d things that are needed are missing.", n)
	}
	if command := installCommand(findings); command != "" {
		verdict += " All packages at once:\n\n    " + command
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}

func writeFindingsJSON(w io.Writer, findings []finding) error {
	out := struct {
		OK       bool      `json:"ok"`
		Findings []finding `json:"findings"`
		Install  string    `json:"install,omitempty"`
	}{
		OK:       !slices.ContainsFunc(findings, func(f finding) bool { return f.Status == missing }),
		Findings: findings,
		Install:  installCommand(findings),
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// existing returns the folder itself or the nearest one above that is there.
func existing(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return path
		}
		path = parent
	}
}

// diskUsage sums the blocks that files below the folders take. What cannot be
// read counts nothing.
func diskUsage(dirs ...string) int64 {
	var n int64
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error { //nolint:errcheck // see above
			if err != nil || d.IsDir() {
				return nil
			}
			if info, err := d.Info(); err == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					n += int64(st.Blocks) * 512
				}
			}
			return nil
		})
	}
	return n
}

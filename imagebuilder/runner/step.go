package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

// step is one run of make and all that was heard of it.
type step struct {
	tell func(line string) // may be nil
	home string            // a folder that people need not read of in every line

	mu             sync.Mutex // the streams are read side by side
	found          findings
	stdout, stderr transcript
	output         strings.Builder // standard output, at most maxOutput
	code           int
}

func (s *step) line(stdout bool, line string) {
	s.mu.Lock()
	s.found.line(stdout, line)
	if stdout && s.output.Len()+len(line) < maxOutput {
		s.output.WriteString(line)
		s.output.WriteByte('\n')
	}
	s.mu.Unlock()
	short := line
	if s.home != "" {
		short = strings.ReplaceAll(line, s.home+"/", "")
	}
	short = cutText(short, maxLogLine)
	if stdout {
		s.stdout.line(short)
	} else {
		s.stderr.line(short)
	}
	if s.tell != nil {
		s.tell(short)
	}
}

// run runs c; the error is why it did not come to an exit code of its own,
// with the ends of the output where there is a person to tell.
func (s *step) run(ctx context.Context, c *sandbox.Command) error {
	result, err := c.Run(ctx)
	s.code = result.ExitCode
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(c.Args[:min(2, len(c.Args))], " "), err)
	}
	return nil
}

// failed adds the ends of the output to a verdict.
func (s *step) failed(e *imagebuilder.Error) *imagebuilder.Error {
	e.Stdout, e.Stderr = s.stdout.ends(failureLog), s.stderr.ends(failureLog)
	return e
}

// info reads the step's output as that of `make info`.
func (s *step) info() (*Info, error) {
	if s.code != 0 {
		return nil, s.failed(s.found.failure(nil))
	}
	info, err := ParseInfo(s.output.String())
	if err != nil {
		return nil, s.failed(sentence(imagebuilder.CodeBadBuilder,
			"The ImageBuilder of this release does not work: it names no devices.", "Please tell the server's operator.").WithCause(err))
	}
	return info, nil
}

// Prepare makes a freshly unpacked ImageBuilder ready to be shared, while its
// tree in dir is still writable and private: it lets make write what it makes
// once, keeps what `make info` says beside it for all builds, puts the key with
// which images are signed into it, and checks that this machine has the
// programs that the ImageBuilder needs. It is upstream.Options.Prepare. The error is an *imagebuilder.Error.
func (r *Runner) Prepare(ctx context.Context, dir string) error {
	if err := r.prepare(ctx, dir); err != nil {
		return r.ended(ctx, "preparing the ImageBuilder", err)
	}
	return nil
}

func (r *Runner) prepare(ctx context.Context, dir string) error {
	if err := sandbox.CheckPath(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.o.JobLimit, errJobLimit)
	defer cancel()
	run := func(args ...string) (*step, error) {
		s := &step{home: dir}
		c := r.command(args, s)
		c.Dir, c.Shown = dir, []string{dir}
		return s, s.run(ctx, c)
	}
	s, err := run("make", "info")
	if err != nil {
		return err
	}
	info, err := s.info()
	if err != nil {
		return err
	}
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, infoFile), data, 0o644); err != nil {
		return err
	}
	if err := r.buildKey(dir, run); err != nil {
		return fmt.Errorf("the key that images are signed with: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "include", "prereq-build.mk")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// The stamp spares every build the check, which takes a second.
	if s, err = run("make", "staging_dir/host/.prereq-build"); err != nil {
		return err
	}
	if s.code != 0 && (len(s.found.prerequis) > 0 || len(s.found.failedCheck) > 0) {
		return s.failed(s.found.hostFailure())
	}
	return nil
}

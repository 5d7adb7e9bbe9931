package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

// Files of the runner's own in a tree or attempt.
const (
	infoFile     = ".attendant-info.json" // in a prepared builder
	defaultsFile = "etc/uci-defaults/99-asu-defaults"
	maxOutput    = 4 << 20 // bytes of standard output kept to be parsed
	maxStepLine  = 64 << 10
	maxLogLine   = 2 << 10
)

// mode is what an attempt relies on. Each is the way out where the one before
// it fails.
type mode int

const (
	planned     mode = iota // on the plan, and on what it is certain of
	inDoubt                 // on what the plan has fetched, but not on its choice
	fromNetwork             // on nothing: the ImageBuilder fetches for itself
)

// attempt is one try at a build: a folder in WorkDir.
type attempt struct {
	r     *Runner
	job   imagebuilder.Job
	mode  mode
	dir   string
	layer *sandbox.Layer
	out   *progress
	feeds []string // addresses of the request's own feeds

	plan    *Plan             // nil where there is none
	fetched *Fetched          // what plan has fetched
	local   string            // folder of the build's own feeds, "" for none
	folders map[string]string // addresses of the folders in it, to those of the feeds
	ran     *step             // the last one about packages; nil before the first

	upstream string // where the builder's own feeds are; "" leaves them
}

// certain tells that the attempt goes by the plan's choice of packages.
func (a *attempt) certain() bool { return a.plan != nil && a.plan.Certain && a.mode == planned }

func (r *Runner) attempt(ctx context.Context, job imagebuilder.Job, b *Builder, method sandbox.Method, m mode, out *progress) (*attempt, *imagebuilder.Built, error) {
	a := &attempt{r: r, job: job, mode: m, out: out, upstream: cmp.Or(b.UpstreamURL, r.o.UpstreamURL)}
	var err error
	if a.dir, err = os.MkdirTemp(r.o.WorkDir, attemptPrefix+cutHash(job.Hash)+"-"); err != nil {
		return a, nil, err
	}
	defer r.remove(a.dir)
	if err := os.Chmod(a.dir, 0o755); err != nil {
		return a, nil, err
	}
	if a.layer, err = sandbox.NewLayer(b.Dir, filepath.Join(a.dir, "builder"), method); err != nil {
		return a, nil, fmt.Errorf("layering the ImageBuilder: %w", err)
	}
	built, err := a.build(ctx, b)
	if a.fetched != nil {
		if err != nil && imagebuilder.AsError(err).Code == imagebuilder.CodePackageDamaged {
			a.fetched.Damaged()
		}
		a.fetched.Release()
	}
	return a, built, err
}

func cutHash(hash string) string {
	if imagebuilder.ValidHash(hash) {
		return hash[:12]
	}
	return "image"
}

func (a *attempt) build(ctx context.Context, b *Builder) (*imagebuilder.Built, error) {
	req := a.job.Request
	a.out.Stage(imagebuilder.StageRevision)
	info, err := a.info(ctx, b)
	if err != nil {
		return nil, err
	}
	if req.VersionCode != "" && req.VersionCode != info.Revision {
		return nil, imagebuilder.Errorf(imagebuilder.CodeWrongRevision,
			"Error: Received incorrect version %s (requested %s)", info.Revision, req.VersionCode)
	}
	profile, ok := info.Profiles[req.Profile]
	if !ok {
		return nil, (&findings{unknownProfile: req.Profile}).failure(nil)
	}
	requested := req.Packages
	if a.r.o.Packages != nil {
		requested = a.r.o.Packages(req, info)
	}
	packages := commandPackages(requested, req.DiffPackages, info, profile)
	if e := checkPackageNames(packages); e != nil {
		return nil, e
	}
	if err := a.configure(ctx, b, info, profile, packages, requested); err != nil {
		return nil, err
	}
	common := []string{"PROFILE=" + req.Profile, "PACKAGES=" + strings.Join(packages, " ")}
	manifest, err := a.decide(ctx, common, requested)
	if err != nil {
		return nil, err
	}

	a.out.Stage(imagebuilder.StageImage)
	images := filepath.Join(a.dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"make", "image"}, common...)
	args = append(args, "EXTRA_IMAGE_NAME="+extraImageName(manifest), "BIN_DIR="+images)
	options, err := a.imageOptions()
	if err != nil {
		return nil, err
	}
	args = append(args, options...)
	s, err := a.run(ctx, args)
	if err != nil {
		return nil, err
	}
	if s.code != 0 {
		return nil, s.failed(s.found.failure(a.feeds))
	}

	a.out.Stage(imagebuilder.StageCommit)
	set, err := collect(images, req, manifest, &s.found)
	if err != nil {
		var e *imagebuilder.Error
		if errors.As(err, &e) {
			return nil, s.failed(e)
		}
		return nil, err
	}
	set.BuildCmd, set.BuildCmdPackages = args, packages
	set.Stdout, set.Stderr = s.stdout.ends(successLog), s.stderr.ends(successLog)
	set.BuiltAt = a.r.o.Now().UTC()
	kept := a.dir + "-images"
	if err := os.Rename(images, kept); err != nil {
		return nil, err
	}
	return &imagebuilder.Built{Dir: kept, Set: *set, Stages: a.out.times()}, nil
}

// imageOptions are the arguments of `make image` that not every build has.
func (a *attempt) imageOptions() ([]string, error) {
	req := a.job.Request
	var options []string
	if req.Defaults != nil {
		files := filepath.Join(a.dir, "files")
		script := filepath.Join(files, defaultsFile)
		if err := os.MkdirAll(filepath.Dir(script), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(script, []byte(*req.Defaults), 0o644); err != nil {
			return nil, err
		}
		options = append(options, "FILES="+files)
	}
	if req.RootfsSizeMB != nil {
		options = append(options, "ROOTFS_PARTSIZE="+strconv.Itoa(*req.RootfsSizeMB))
	}
	if req.Filesystem != nil {
		options = append(options, "ROOTFS_FILESYSTEM="+*req.Filesystem)
	}
	return options, nil
}

// read returns a file of the builder, "" if it is not there.
func (a *attempt) read(name string) (string, error) {
	data, err := a.layer.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the ImageBuilder's %s: %w", name, err)
	}
	return string(data), nil
}

// decide tells which packages the image will have: from the plan, where that is
// certain, else from `make manifest`.
func (a *attempt) decide(ctx context.Context, common, requested []string) (imagebuilder.Manifest, error) {
	if a.certain() {
		return a.plan.Manifest, nil // checked before anything was fetched
	}
	a.out.Stage(imagebuilder.StageManifest)
	manifest, err := a.manifest(ctx, append([]string{"make", "manifest"}, append(common, "STRIP_ABI=1")...))
	if err != nil {
		return nil, err
	}
	if e := checkVersions(manifest, a.job.Request.PackagesVersions, requested); e != nil {
		return nil, e
	}
	return manifest, a.checkConflicts(manifest)
}

func (a *attempt) manifest(ctx context.Context, args []string) (imagebuilder.Manifest, error) {
	s, err := a.run(ctx, args)
	if err != nil {
		return nil, err
	}
	if s.code != 0 {
		return nil, s.failed(s.found.failure(a.feeds))
	}
	// The view began without lists. One that could not be had was passed
	// over; in the image run the copies of this run may serve.
	if e := s.found.incomplete(a.feeds); e != nil {
		return nil, s.failed(e)
	}
	manifest, err := ParseManifest(s.output.String())
	if err != nil {
		return nil, s.failed(s.found.generic("").WithCause(err))
	}
	return manifest, nil
}

// info is what `make info` says of the builder: as Prepare noted it, or as
// was seen before, or else asked now, in the writable view.
func (a *attempt) info(ctx context.Context, b *Builder) (*Info, error) {
	key := b.Dir + " " + b.Generation.BuilderSHA256
	a.r.mu.Lock()
	info := a.r.infos[key]
	a.r.mu.Unlock()
	if info != nil {
		return info, nil
	}
	if data, err := a.layer.ReadFile(infoFile); err == nil {
		var prepared Info
		if json.Unmarshal(data, &prepared) == nil && prepared.Revision != "" && len(prepared.Profiles) > 0 {
			info = &prepared
		}
	}
	if info == nil {
		s, err := a.run(ctx, []string{"make", "info"})
		if err != nil {
			return nil, err
		}
		if info, err = s.info(); err != nil {
			return nil, err
		}
	}
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	if len(a.r.infos) >= 64 {
		clear(a.r.infos)
	}
	a.r.infos[key] = info
	return info, nil
}

// run runs make in the attempt's view.
func (a *attempt) run(ctx context.Context, args []string) (*step, error) {
	s := &step{tell: a.out.Line, home: a.dir}
	a.out.last = s
	if !slices.Contains(args, "info") {
		a.ran = s
	}
	c := a.r.command(args, s)
	if a.local != "" {
		c.NoNetwork, c.ReadOnly = true, []string{a.local}
	}
	c.Layer, c.Shown = a.layer, []string{a.dir}
	c.Dir = a.layer.Path()
	c.Record = filepath.Join(a.dir, sandbox.RecordName)
	err := s.run(ctx, c)
	s.found.rename(a.folders)
	return s, err
}

func (r *Runner) command(args []string, s *step) *sandbox.Command {
	env := []string{"PATH=" + r.o.Path}
	if r.abilities.UserNamespace {
		// There is only one user in it. Giving a file to another is EINVAL
		// there, of which fakeroot, below which apk installs, forgives EPERM
		// alone (fakeroot libfakeroot.c, chown).
		env = append(env, "FAKEROOTDONTTRYCHOWN=1")
	}
	return &sandbox.Command{
		Args:    args,
		Env:     append(env, r.o.Env...),
		Stdout:  func(line string) { s.line(true, line) },
		Stderr:  func(line string) { s.line(false, line) },
		MaxLine: maxStepLine,
		Idle:    r.o.StepIdle,
		Nice:    r.o.Nice,
		Hidden:  r.o.Hidden,
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (f *findings) withNoSpace() *imagebuilder.Error {
	f.noSpace = true
	return f.failure(nil)
}

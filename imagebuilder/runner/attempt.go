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

// errFeedsMoved tells that the image got other packages than the manifest
// that was checked.
var errFeedsMoved = errors.New("the feeds changed during the build")

// attempt is one try at a build: a folder in WorkDir.
type attempt struct {
	r     *Runner
	job   imagebuilder.Job
	dir   string
	layer *sandbox.Layer
	out   *progress
	feeds []string // addresses of the request's own feeds

	upstream string // where the builder's own feeds are; "" leaves them
}

func (r *Runner) attempt(ctx context.Context, job imagebuilder.Job, b *Builder, method sandbox.Method, out *progress) (*imagebuilder.Built, error) {
	dir, err := os.MkdirTemp(r.o.WorkDir, attemptPrefix+cutHash(job.Hash)+"-")
	if err != nil {
		return nil, err
	}
	defer r.remove(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	layer, err := sandbox.NewLayer(b.Dir, filepath.Join(dir, "builder"), method)
	if err != nil {
		return nil, fmt.Errorf("layering the ImageBuilder: %w", err)
	}
	a := &attempt{r: r, job: job, dir: dir, layer: layer, out: out, upstream: cmp.Or(b.UpstreamURL, r.o.UpstreamURL)}
	return a.build(ctx, b)
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
	if err := a.configure(); err != nil {
		return nil, err
	}

	a.out.Stage(imagebuilder.StageManifest)
	common := []string{"PROFILE=" + req.Profile, "PACKAGES=" + strings.Join(packages, " ")}
	manifest, err := a.manifest(ctx, append([]string{"make", "manifest"}, append(common, "STRIP_ABI=1")...))
	if err != nil {
		return nil, err
	}
	if e := checkVersions(manifest, req.PackagesVersions, requested); e != nil {
		return nil, e
	}
	if err := a.checkConflicts(manifest); err != nil {
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

// configure puts feeds, keys and the file system's choice into the layer.
func (a *attempt) configure() error {
	req := a.job.Request
	config, err := a.read(".config")
	if err != nil {
		return err
	}
	list, err := a.read(opkgFeeds)
	if err != nil {
		return err
	}
	apk, name := false, opkgFeeds
	if list == "" || strings.Contains(config, "CONFIG_USE_APK=y\n") {
		apk, name = true, apkFeeds
		if list, err = a.read(apkFeeds); err != nil {
			return err
		}
	}
	feeds := list
	if a.upstream != "" {
		feeds = rewriteFeeds(feeds, upstreamBases(config), a.upstream)
	}
	if len(req.Repositories) > 0 {
		var e *imagebuilder.Error
		if feeds, e = mergeFeeds(feeds, req, apk); e != nil {
			return e
		}
		for _, repo := range req.Repositories {
			a.feeds = append(a.feeds, repo.Value)
		}
	}
	if feeds != list {
		if err := a.layer.WriteFile(name, []byte(feeds)); err != nil {
			return fmt.Errorf("writing the feeds: %w", err)
		}
	}
	for i, key := range req.RepositoryKeys {
		name, content, e := keyFile(i, key)
		if e != nil {
			return e
		}
		if err := a.layer.WriteFile(name, content); err != nil {
			return fmt.Errorf("writing a feed's key: %w", err)
		}
	}
	if req.Filesystem == nil {
		return nil
	}
	makefile, err := a.read("Makefile")
	if err != nil || strings.Contains(makefile, "ROOTFS_FILESYSTEM") {
		return err
	}
	restricted, err := restrictFilesystem(config, *req.Filesystem)
	if err != nil {
		return err
	}
	if restricted != config {
		return a.layer.WriteFile(".config", []byte(restricted))
	}
	return nil
}

// read returns a file of the builder, "" if it is not there.
func (a *attempt) read(name string) (string, error) {
	data, err := a.layer.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the ImageBuilder's %s: %w", name, err)
	}
	return string(data), nil
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
	s := &step{tell: a.out.Line}
	a.out.last = s
	c := a.r.command(args, s)
	c.Layer = a.layer
	c.Dir = a.layer.Path()
	c.Record = filepath.Join(a.dir, sandbox.RecordName)
	return s, s.run(ctx, c)
}

func (r *Runner) command(args []string, s *step) *sandbox.Command {
	return &sandbox.Command{
		Args:    args,
		Env:     append([]string{"PATH=" + r.o.Path}, r.o.Env...),
		Stdout:  func(line string) { s.line(true, line) },
		Stderr:  func(line string) { s.line(false, line) },
		MaxLine: maxStepLine,
		Idle:    r.o.StepIdle,
		Nice:    r.o.Nice,
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (f *findings) withNoSpace() *imagebuilder.Error {
	f.noSpace = true
	return f.failure(nil)
}

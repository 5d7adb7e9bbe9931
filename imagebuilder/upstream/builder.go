package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"attendant/imagebuilder"
)

// Builder is an unpacked ImageBuilder. It is shared: builds lay a view of their
// own over it.
type Builder struct {
	Dir        string // its top folder; the folder above it belongs to it alone and may take what is worth keeping with it
	Generation imagebuilder.Generation
	Size       int64 // bytes on disk
}

// Builder returns an unpacked ImageBuilder and keeps it until release is
// called. One that is not there is downloaded, verified and unpacked, once
// whatever the number of callers; all of them hear of its progress. g is the
// generation that the request was checked against; the zero one is whatever is
// current. If upstream has moved on and g's archive is gone, the current
// generation's ImageBuilder is returned: Builder.Generation tells. The errors
// are CodeNoBuilder, CodeBadBuilder, CodeNoSpace, CodeCanceled and those of
// Target.
func (u *Upstream) Builder(ctx context.Context, version, target string, g imagebuilder.Generation, rep imagebuilder.Reporter) (b *Builder, release func(), err error) {
	if g.BuilderSHA256 != "" && !imagebuilder.ValidHash(g.BuilderSHA256) {
		return nil, nil, imagebuilder.Errorf(imagebuilder.CodeInternal, "The ImageBuilder's sum is malformed.")
	}
	if rep == nil {
		rep = silent{}
	}
	if b, release := u.builders.ready(g); b != nil {
		return b, release, nil
	}
	var last error
	for range 3 {
		src, now, err := u.source(ctx, version, target, g)
		if err != nil {
			return nil, nil, err
		}
		g = now
		b, release, err := u.builders.get(ctx, src, g, rep)
		if err == nil {
			return b, release, nil
		}
		if !errors.Is(err, errMismatch) && !errors.Is(err, errAbsent) {
			return nil, nil, builderError(src, err)
		}
		last = builderError(src, err)
		// The archive is not what it was said to be: has upstream moved on?
		if u.refreshTarget(ctx, version, target) != nil {
			return nil, nil, last
		}
		current, err := u.target(ctx, version, target)
		if err != nil || current.Generation.BuilderSHA256 == g.BuilderSHA256 {
			return nil, nil, last
		}
		g = current.Generation
	}
	return nil, nil, last
}

type silent struct{}

func (silent) Stage(imagebuilder.Stage) {}
func (silent) Progress(int64, int64)    {}
func (silent) Line(string)              {}

// source is where an archive comes from.
type source struct {
	name string // file name
	sum  string
	url  string // "" for a local one
	path string // of a local one
}

// source finds g's archive, or the current one if g names none or if another
// archive is now in its place.
func (u *Upstream) source(ctx context.Context, version, target string, g imagebuilder.Generation) (source, imagebuilder.Generation, error) {
	d, p, _, err := u.coreFor(ctx, version, target)
	if err != nil {
		return source{}, g, err
	}
	c, s, err := d.get(ctx)
	if err == nil && u.o.Now().Sub(s.checked) > time.Minute && strings.HasSuffix(version, snapshotName) {
		// A snapshot's archive is replaced in place: look before hundreds of
		// megabytes are fetched for nothing.
		c, _, err = d.fresh(ctx, true)
	}
	if err != nil {
		return source{}, g, unavailable(fmt.Sprintf("%s of %s", target, version), err)
	}
	moved := g.BuilderSHA256 != c.builderSum && (c.local != "" || g.Builder == c.builder)
	if g.BuilderSHA256 == "" || moved {
		t, err := u.target(ctx, version, target)
		if err != nil {
			return source{}, g, err
		}
		g = t.Generation
	}
	if g.BuilderSHA256 == "" {
		return source{}, g, imagebuilder.Errorf(imagebuilder.CodeNoBuilder,
			"The download server has no ImageBuilder for %s of %s that runs on this server. Please try again later, or choose another release.", target, version)
	}
	if c.local != "" && c.builderSum == g.BuilderSHA256 {
		return source{name: filepath.Base(c.local), sum: c.builderSum, path: c.local}, g, nil
	}
	path := p.path + "/targets/" + target + "/" + g.Builder
	if !validPath(path) || filepath.Base(g.Builder) != g.Builder {
		return source{}, g, imagebuilder.Errorf(imagebuilder.CodeInternal, "The ImageBuilder's name is malformed.")
	}
	return source{name: g.Builder, sum: g.BuilderSHA256, url: u.o.URL + "/" + path}, g, nil
}

// refreshTarget asks upstream for a target now.
func (u *Upstream) refreshTarget(ctx context.Context, version, target string) error {
	d, _, _, err := u.coreFor(ctx, version, target)
	if err != nil {
		return err
	}
	_, _, err = d.fresh(ctx, true)
	return err
}

// errPrepare: Options.Prepare failed.
var errPrepare = errors.New("preparing the ImageBuilder")

func isTold(err error) bool {
	var e *imagebuilder.Error
	return errors.As(err, &e)
}

func builderError(src source, err error) error {
	if isTold(err) {
		return err
	}
	code, detail := imagebuilder.CodeNoBuilder, "The ImageBuilder %s could not be downloaded. Please try again in a few minutes."
	switch {
	case isNoSpace(err):
		code, detail = imagebuilder.CodeNoSpace, "This server's disk is full: there is no room for the ImageBuilder %s. Please tell the server's operator."
	case errors.Is(err, errAbsent):
		detail = "The ImageBuilder %s is not on the download server. Please try again later, or choose another release."
	case errors.Is(err, errMismatch):
		code, detail = imagebuilder.CodeBadBuilder, "The download server's ImageBuilder %s does not have the sum that it is listed with; it may be being published right now. Please try again later."
	case errors.Is(err, errPrepare):
		code, detail = imagebuilder.CodeBadBuilder, "The ImageBuilder %s was unpacked but does not run on this server. Please tell the server's operator."
	case errors.Is(err, errArchive):
		code, detail = imagebuilder.CodeBadBuilder, "The ImageBuilder %s cannot be unpacked. Please tell the server's operator."
	case errors.Is(err, errClosed):
		return imagebuilder.Errorf(imagebuilder.CodeStopping, "The server is stopping. Please try again in a minute.").WithCause(err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		code, detail = imagebuilder.CodeCanceled, "Waiting for the ImageBuilder %s was ended."
	}
	return imagebuilder.Errorf(code, detail, src.name).WithCause(err)
}

// errLocal: one of Options.LocalBuilders cannot be read.
var errLocal = errors.New("the operator's own ImageBuilder")

// localSums remembers the sums of the operator's own archives.
type localSums struct {
	mu   sync.Mutex
	sums map[string]localSum
}

type localSum struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mod_time"`
	SHA256  string    `json:"sha256"`
}

// useLocal puts the operator's own archive for the target, if there is one, in
// place of upstream's.
func (u *Upstream) useLocal(c *core, version, target string) error {
	for _, b := range u.o.LocalBuilders {
		if b.Version != version || b.Target != target {
			continue
		}
		path, err := filepath.Abs(b.Path)
		if err != nil {
			return err
		}
		sum, err := u.localSum(path)
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		c.local, c.builder, c.builderSum = path, filepath.Base(path), sum
	}
	return nil
}

// localSum computes the sum of a file, or returns what it was if size and time
// have not changed since.
func (u *Upstream) localSum(path string) (string, error) {
	u.locals.mu.Lock()
	defer u.locals.mu.Unlock()
	name := filepath.Join(u.o.Dir, "mirror-state", "local.json")
	if u.locals.sums == nil {
		u.locals.sums = map[string]localSum{}
		if data, err := os.ReadFile(name); err == nil {
			json.Unmarshal(data, &u.locals.sums) //nolint:errcheck // what is damaged is computed again
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	old := u.locals.sums[path]
	if old.Size == info.Size() && old.ModTime.Equal(info.ModTime()) && imagebuilder.ValidHash(old.SHA256) {
		return old.SHA256, nil
	}
	sum, err := sumFile(path)
	if err != nil {
		return "", err
	}
	u.locals.sums[path] = localSum{info.Size(), info.ModTime(), sum}
	data, err := json.Marshal(u.locals.sums)
	if err != nil {
		return "", err
	}
	if err := u.disk.writeFile(name, data); err != nil {
		u.o.Log.Warn("the sum of a local ImageBuilder could not be kept", "error", err)
	}
	return sum, nil
}

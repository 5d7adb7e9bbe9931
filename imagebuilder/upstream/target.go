package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"attendant/imagebuilder"
)

var (
	errNoSums   = errors.New("upstream publishes no sha256sums for it")
	errUnsigned = errors.New("no trusted key has signed it")
)

// core is what a target's own folder holds, verified as a whole.
type core struct {
	digest      string // of everything below
	profiles    *ProfilesJSON
	arch        string
	builder     string // archive's name, "" if there is none
	builderSum  string
	local       string // path of the operator's own archive, "" for upstream's
	key         string // that signed it, "" for none
	index       []byte // reply of TargetIndex
	indexDigest string
	lists       []*packageList // of the target's own packages and of its kernel's; nil entries are unknown
	listed      bool           // both are there, or the kernel's need not be
	sums        string         // blob of sha256sums

	generation atomic.Pointer[generation]
}

// generation is a core with one state of its architecture's feeds.
type generation struct {
	arch *archIndex
	imagebuilder.Generation
}

// Target is one consistent, verified view of a target. It is never changed
// once handed out.
type Target struct {
	Version    string // as "24.10.4"
	Name       string // as "ath79/generic"
	Path       string // upstream path of the version, as "releases/24.10.4"
	Arch       string // package architecture
	Generation imagebuilder.Generation
	Profiles   *ProfilesJSON
	Checked    time.Time // when upstream last confirmed all of it
	Stale      bool      // upstream has not confirmed it lately
	Signed     bool      // a trusted key has signed it

	u    *Upstream
	core *core
	arch *archIndex
	kept func() // waits until what was just fetched is on disk

	sumsOnce sync.Once
	sumsRead map[string]Sums // see sums
}

// Target returns the verified view of a target, as last known. The errors are
// CodeUnsupportedVersion, CodeUnsupportedTarget and, where nothing is known
// yet, CodeUpstreamUnavailable.
func (u *Upstream) Target(ctx context.Context, version, target string) (*Target, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	return u.target(ctx, version, target)
}

func (u *Upstream) target(ctx context.Context, version, target string) (*Target, error) {
	d, p, arch, err := u.coreFor(ctx, version, target)
	if err != nil {
		return nil, err
	}
	feeds := u.archDocument(version, p.path, arch)
	u.warm(feeds)
	c, s, err := d.get(ctx)
	if err != nil {
		return nil, unavailable(fmt.Sprintf("%s of %s", target, version), err)
	}
	if c.arch != arch {
		feeds = u.archDocument(version, p.path, c.arch)
	}
	a, as, err := feeds.get(ctx)
	if err != nil {
		return nil, unavailable(fmt.Sprintf("the packages of %s in %s", c.arch, version), err)
	}
	t := &Target{
		Version: version, Name: target, Path: p.path, Arch: c.arch,
		Generation: c.inForce(a), Profiles: c.profiles,
		Checked: s.checked, Stale: s.stale || as.stale, Signed: c.key != "",
		u: u, core: c, arch: a, kept: func() { d.settle(); feeds.settle() },
	}
	if as.checked.Before(t.Checked) {
		t.Checked = as.checked
	}
	return t, nil
}

// Hasten has upstream asked for a target and its packages in the background,
// although neither is due, at most once a minute: after a build that failed as
// it would if what is known of them were outdated. It does not wait.
func (u *Upstream) Hasten(version, target string) {
	ctx, cancel := context.WithCancel(u.ctx)
	cancel() // what is not known yet is being fetched anyway
	d, p, arch, err := u.coreFor(ctx, version, target)
	if err != nil {
		return
	}
	d.mu.Lock()
	if d.value != nil {
		arch = d.value.arch
	}
	d.mu.Unlock()
	d.hasten()
	u.archDocument(version, p.path, arch).hasten()
}

// warm lets the first fetch of a document begin beside another.
func (u *Upstream) warm(d *document[archIndex]) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.value == nil && d.flight == nil && (!d.lost() || d.due(u.o.Now())) {
		d.start()
	}
}

// inForce names the generation of c with its feeds in the state a.
func (c *core) inForce(a *archIndex) imagebuilder.Generation {
	if g := c.generation.Load(); g != nil && g.arch == a {
		return g.Generation
	}
	h := sha256.New()
	for _, part := range []string{"generation 1", c.digest, a.digest} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	g := &generation{arch: a, Generation: imagebuilder.Generation{
		Digest: hex.EncodeToString(h.Sum(nil)), Revision: c.profiles.VersionCode,
		Builder: c.builder, BuilderSHA256: c.builderSum,
	}}
	c.generation.Store(g)
	return g.Generation
}

// Local tells that the target's ImageBuilder is an archive of the operator's own,
// which may bring packages and feeds that upstream does not have.
func (t *Target) Local() bool { return t.core.local != "" }

// Profile finds the profile that answers to name; see ProfilesJSON.Resolve.
func (t *Target) Profile(name string) (id string, p *Profile, err error) {
	p, err = t.Profiles.Resolve(name)
	if err != nil {
		return "", nil, err
	}
	return p.ID, p, nil
}

// ProfileJSON is the reply of /json/v1/…/{profile}.json; false if there is no
// profile with that id.
func (t *Target) ProfileJSON(id string) ([]byte, bool) { return t.Profiles.JSON(id) }

// Profiles returns a target's profiles alone, without waiting for the package
// feeds, for clients that look through many versions. The errors are those of
// Target.
func (u *Upstream) Profiles(ctx context.Context, version, target string) (*ProfilesJSON, error) {
	ctx, cancel := u.wait(ctx)
	defer cancel()
	d, _, _, err := u.coreFor(ctx, version, target)
	if err != nil {
		return nil, err
	}
	c, _, err := d.get(ctx)
	if err != nil {
		return nil, unavailable(fmt.Sprintf("%s of %s", target, version), err)
	}
	return c.profiles, nil
}

// targetsOf finds the targets of a version, with their package architectures.
// The errors are CodeUnsupportedVersion and CodeUpstreamUnavailable.
func (u *Upstream) targetsOf(ctx context.Context, version string) (targetList, place, error) {
	_, p, err := u.place(ctx, version)
	if err != nil {
		return nil, place{}, err
	}
	list, _, err := u.targetList(version, p.path).get(ctx)
	if errors.Is(err, errAbsent) {
		return nil, place{}, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", version).WithCause(err)
	}
	if err != nil {
		return nil, place{}, unavailable("the targets of "+version, err)
	}
	return *list, p, nil
}

// coreFor finds a target's document; only targets that upstream lists have one.
func (u *Upstream) coreFor(ctx context.Context, version, target string) (*document[core], place, string, error) {
	list, p, err := u.targetsOf(ctx, version)
	if err != nil {
		return nil, place{}, "", err
	}
	arch, listed := list[target]
	if !listed {
		return nil, place{}, "", imagebuilder.Errorf(imagebuilder.CodeUnsupportedTarget,
			"Unsupported target: %s. The requested target was either dropped, is still being built or is not supported by the selected version. Please check the forums or try again later.", target)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.coreDocument(version, p.path, target, arch), p, arch, nil
}

// coreDocument makes a target's document; u.mu is held.
func (u *Upstream) coreDocument(version, path, target, arch string) *document[core] {
	key := coreKey{version, path, target, arch}.String()
	d := u.cores[key]
	if d == nil {
		d = &document[core]{u: u, key: key, interval: u.interval(version), evictable: true, used: u.o.Now()}
		d.build = func(s *session) (*core, error) { return u.buildCore(s, version, path, target, arch) }
		u.adoptKept(key, d.adopt)
		u.cores[key] = d
	}
	return d
}

// coreKey is what a target's document is called on disk: enough to make it
// again.
type coreKey struct{ Version, Path, Target, Arch string }

// String implements fmt.Stringer.
func (k coreKey) String() string {
	text, _ := json.Marshal(k) // of strings it cannot fail
	return "target " + string(text)
}

// settled calls build again, from the start, while what it reads does not fit
// together: upstream's files do so for a while when it publishes.
func settled[T any](u *Upstream, s *session, build func() (*T, error)) (*T, error) {
	const tries = 3
	for try := 1; ; try++ {
		built, err := build()
		if err == nil {
			return built, nil
		}
		if s.offline || try == tries || !errors.Is(err, errMismatch) && !errors.Is(err, ErrBadSignature) {
			return nil, err
		}
		if err := u.pause(s.ctx); err != nil {
			return nil, err
		}
		s.reset()
	}
}

// buildCore gets and verifies a target's folder.
func (u *Upstream) buildCore(s *session, version, path, target, arch string) (*core, error) {
	return settled(u, s, func() (*core, error) { return u.buildCoreOnce(s, version, path, target, arch) })
}

func (u *Upstream) pause(ctx context.Context) error {
	timer := time.NewTimer(u.retryPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (u *Upstream) buildCoreOnce(s *session, version, path, target, arch string) (*core, error) {
	base := path + "/targets/" + target
	sumsFile, err := s.get(base+"/sha256sums", maxSumsSize)
	if errors.Is(err, errAbsent) {
		return nil, errNoSums
	}
	if err != nil {
		return nil, err
	}
	sums, err := ParseSums(sumsFile)
	if err != nil {
		return nil, err
	}
	c := &core{sums: hexSum(sumsFile)}
	if c.key, err = u.signer(s, base, sumsFile); err != nil {
		return nil, err
	}
	sum, listed := sums["profiles.json"]
	if !listed {
		return nil, fmt.Errorf("sha256sums does not list profiles.json: %w", errMismatch)
	}
	data, err := s.getSummed(base+"/profiles.json", sum, maxProfilesSize)
	if err != nil {
		return nil, err
	}
	if c.profiles, err = ParseProfiles(data); err != nil {
		return nil, err
	}
	if t := c.profiles.Target; t != "" && t != target {
		return nil, fmt.Errorf("profiles.json of %s is for %q", target, t)
	}
	c.profiles.Target = target
	if c.arch = c.profiles.ArchPackages; c.arch == "" {
		c.arch = arch
	}
	if err := u.buildTargetIndex(s, c, base, sums); err != nil {
		return nil, err
	}
	c.builder, c.builderSum = sums.builder(u.o.HostArch)
	if err := u.useLocal(c, version, target); err != nil {
		return nil, err
	}
	h := sha256.New()
	io.WriteString(h, "target 2\n")
	fmt.Fprintf(h, "%s\n%s\n%s\n", hexSum(sumsFile), c.indexDigest, c.builderSum)
	c.digest = hex.EncodeToString(h.Sum(nil))
	return c, nil
}

// signer tells which trusted key has signed sums, "" for none. What was signed
// once by a key that is still trusted stays so: a copy without its signature is
// refused.
func (u *Upstream) signer(s *session, base string, sums []byte) (string, error) {
	if len(u.keys) == 0 {
		if u.o.RequireSignatures {
			return "", errUnsigned
		}
		return "", nil
	}
	sig, err := s.optional(base+"/sha256sums.sig", maxSigSize)
	if err != nil {
		return "", err
	}
	key := ""
	if sig != nil {
		if key, err = u.keys.verify(sums, sig); err != nil {
			return "", fmt.Errorf("%s/sha256sums: %w", base, err)
		}
	}
	if key == "" && (u.o.RequireSignatures || !s.offline && u.wasSigned(s, base)) {
		return "", fmt.Errorf("%s/sha256sums: %w", base, errUnsigned)
	}
	return key, nil
}

func (u *Upstream) wasSigned(s *session, base string) bool {
	sums, err := s.held(base + "/sha256sums")
	if err != nil {
		return false
	}
	sig, err := s.held(base + "/sha256sums.sig")
	if err != nil {
		return false
	}
	key, err := u.keys.verify(sums.data, sig.data)
	return err == nil && key != ""
}

package runner

import (
	"encoding/json"
	"errors"

	"attendant/imagebuilder"
)

// wayOut is what the next attempt may rely on after one that failed with err,
// told as e: the same again where the plan is not at fault. A plan that was
// certain and wrong is told to the log, with all that makes a test of it.
func (a *attempt) wayOut(e *imagebuilder.Error, err error) mode {
	if a.plan == nil || a.local == "" {
		return a.mode
	}
	switch {
	case a.ran == nil: // it was refused, or failed while fetching
		return a.mode
	case e.Code == imagebuilder.CodePackageMissing, e.Code == imagebuilder.CodePackageConflict, e.Code == imagebuilder.CodePackageSelect,
		e.Code == imagebuilder.CodeNoNetwork, errors.Is(err, errFeedsMoved):
	default:
		return a.mode
	}
	if a.certain() {
		a.counterexample(e, err)
		return inDoubt
	}
	found := &a.ran.found
	if len(found.downloads) > 0 || len(found.lists) > 0 || len(found.unsigned) > 0 {
		a.out.Line("attendant: not all that the build needs was fetched beforehand; it fetches for itself now.")
		a.r.o.Log.Warn("a build lacked packages that were not foreseen", "version", a.job.Request.Version, "target", a.job.Request.Target,
			"packages", found.downloads, "err", err)
		return fromNetwork
	}
	return a.mode
}

// foundDamage tells that the ImageBuilder found fault with what was fetched
// for it.
func (a *attempt) foundDamage(e *imagebuilder.Error) bool {
	return a.local != "" && a.ran != nil && e.Code == imagebuilder.CodePackageDamaged
}

// errFeedsMoved tells that the image got other packages than the manifest
// that was checked.
var errFeedsMoved = errors.New("the feeds changed during the build")

// differenceError is errFeedsMoved with what is in the image.
type differenceError struct {
	difference string
	image      imagebuilder.Manifest
}

func (e *differenceError) Error() string { return errFeedsMoved.Error() + ": " + e.difference }
func (e *differenceError) Unwrap() error { return errFeedsMoved }

// counterexample tells of a build that went another way than the plan said.
func (a *attempt) counterexample(e *imagebuilder.Error, err error) {
	request := a.job.Request
	request.Defaults = nil // they may hold passwords
	text, _ := json.Marshal(request)
	solution, _ := json.Marshal(a.plan.Manifest)
	var manifest []byte
	if d, ok := errors.AsType[*differenceError](err); ok {
		manifest, _ = json.Marshal(d.image)
	}
	a.out.Line("attendant: the ImageBuilder made another choice of packages than was foreseen; make manifest is asked.")
	a.r.o.Log.Warn("counterexample: the resolver and the ImageBuilder differ", "generation", a.job.Generation.Digest,
		"request", string(text), "solution", string(solution), "manifest", string(manifest), "code", e.Code, "err", err)
}

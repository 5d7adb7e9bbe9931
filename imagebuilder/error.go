package imagebuilder

import (
	"errors"
	"fmt"
)

// Code says, to a program, what went wrong. Codes are stable: they are part of
// the API.
type Code string

// Codes of requests that are refused before anything happens.
const (
	CodeMalformed            Code = "malformed"              // the body breaks the grammar or a bound
	CodeUnsupportedDistro    Code = "unsupported_distro"     //
	CodeUnsupportedVersion   Code = "unsupported_version"    // the release or its branch is not offered
	CodeUnsupportedTarget    Code = "unsupported_target"     //
	CodeUnsupportedProfile   Code = "unsupported_profile"    //
	CodeAmbiguousProfile     Code = "ambiguous_profile"      // several profiles answer to the name
	CodeDefaultsDisabled     Code = "defaults_disabled"      //
	CodeRepositoryNotAllowed Code = "repository_not_allowed" //
	CodeNotFound             Code = "not_found"              //
	CodeQueueFull            Code = "queue_full"             // try again later
	CodeUpstreamUnavailable  Code = "upstream_unavailable"   // no usable copy of upstream's data yet
	CodeStopping             Code = "stopping"               // the server is shutting down
	CodeBusy                 Code = "busy"                   // too much of one kind is going on just now
	CodeUnauthorized         Code = "unauthorized"           // the operator's token is missing or wrong
	CodeForbidden            Code = "forbidden"              // not from this place
	CodePinned               Code = "pinned"                 // the operator's pins stand against it
)

// Codes of builds that failed.
const (
	CodePackageMissing  Code = "package_missing"   // a package is in no feed
	CodePackageConflict Code = "package_conflict"  // packages exclude one another
	CodePackageSelect   Code = "package_selection" // the selection cannot be met for another reason
	CodePackageVersion  Code = "package_version"   // a package exists in another version than asked
	CodeWrongRevision   Code = "wrong_revision"    // the builder's revision is not the one asked for
	CodeImageTooBig     Code = "image_too_big"     // the image exceeds the device's flash or partition
	CodeFilesystem      Code = "filesystem"        // the file system is not among the target's
	CodePackageScript   Code = "package_script"    // a package's install script failed
	CodePackageDamaged  Code = "package_damaged"   // a package does not match its index
	CodeNoImage         Code = "no_image"          // the ImageBuilder succeeded without a usable image
	CodeBuildFailed     Code = "build_failed"      // the ImageBuilder failed for a reason nobody recognised
	CodeNoBuilder       Code = "no_imagebuilder"   // upstream has no ImageBuilder for the target, or it cannot be had
	CodeBadBuilder      Code = "bad_imagebuilder"  // the ImageBuilder's sum, signature or content is wrong
	CodeHost            Code = "host"              // this machine lacks what ImageBuilders need
	CodeNoSpace         Code = "no_space"          // this server's disk or budget is full
	CodeNoNetwork       Code = "no_network"        // feeds cannot be reached during the build
	CodeTimedOut        Code = "timed_out"         // the whole job took too long
	CodeStalled         Code = "stalled"           // a step printed nothing for too long
	CodeCanceled        Code = "canceled"          // the operator ended it
	CodeCrashed         Code = "crashed"           // the server died in this build too often
	CodeInternal        Code = "internal"          // a fault of attendant's own
)

// Error is a failure told three ways: a Code for programs, Detail for the
// person who asked, Err for the log.
type Error struct {
	Code   Code
	Detail string // one or two sentences: what happened and what to do
	Err    error  // the cause; may be nil

	// Unknown are the packages that are in no feed, for X-Unknown-Package.
	Unknown []string
	// Nearest are names that exist and look like the unknown one, the
	// likeliest first.
	Nearest []string
	// Problems say what is wrong with a selection of packages, and Repairs
	// what was tried and works.
	Problems []Problem
	Repairs  []Repair
	// Stdout and Stderr are the ends of what the ImageBuilder said; bounded.
	Stdout, Stderr string
}

// Errorf makes an Error of a code and a sentence.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// WithCause returns e with its cause set.
func (e *Error) WithCause(err error) *Error {
	e.Err = err
	return e
}

// Error is for the log: code, sentence and cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %s", e.Code, e.Detail)
	}
	return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Transient tells whether the same request may succeed soon without anybody
// changing it: the failure lies with this server or its surroundings.
func (c Code) Transient() bool {
	switch c {
	case CodeQueueFull, CodeUpstreamUnavailable, CodeStopping, CodeBusy, CodeNoBuilder, CodeHost, CodeNoSpace,
		CodeNoNetwork, CodeTimedOut, CodeStalled, CodeCanceled, CodeInternal, CodeBadBuilder, CodePackageDamaged:
		return true
	}
	return false
}

// AsError returns err as an *Error. What is none becomes CodeInternal with a
// sentence that promises nothing about the cause.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{
		Code:   CodeInternal,
		Detail: "The server could not do this because of a fault of its own. Please try again; if it stays, tell the server's operator.",
		Err:    err,
	}
}

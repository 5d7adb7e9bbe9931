package imagebuilder

import "time"

// State is how far a job has come.
type State string

// The states of a job. Queued and Building are on their way; Done and Failed
// are outcomes.
const (
	Queued   State = "queued"
	Building State = "building"
	Done     State = "done"
	Failed   State = "failed"
)

// Stage is what a job in state Building is doing.
type Stage string

// The stages of a build in their order. A stage that has nothing to do (a
// builder that is already unpacked) is passed over.
const (
	StageInit     Stage = "init"
	StageDownload Stage = "download_imagebuilder"
	StageUnpack   Stage = "unpack_imagebuilder"
	StageRevision Stage = "validate_revision"
	StagePackages Stage = "download_packages"
	StageManifest Stage = "validate_manifest"
	StageImage    Stage = "building_image"
	StageCommit   Stage = "storing_image" // sums computed, files synced and put in place
)

// StageTime is how long a stage took.
type StageTime struct {
	Stage    Stage         `json:"stage"`
	Duration time.Duration `json:"duration_ns"`
}

// Failure is the outcome of a failed job as it is kept and told.
type Failure struct {
	Code     Code      `json:"code"`
	Detail   string    `json:"detail"`
	Unknown  []string  `json:"unknown,omitempty"`
	Problems []Problem `json:"problems,omitempty"`
	Repairs  []Repair  `json:"repairs,omitempty"`
	Stdout   string    `json:"stdout,omitempty"`
	Stderr   string    `json:"stderr,omitempty"`
}

// Job is a request on its way, or its outcome.
type Job struct {
	Hash       string     `json:"hash"`
	Seq        uint64     `json:"seq"` // place in the queue's order, from 1; never reused
	Request    Request    `json:"request"`
	Generation Generation `json:"generation"`
	State      State      `json:"state"`
	Attempts   int        `json:"attempts"` // builds started, this one included

	// Wall-clock times: to be shown, never to be ordered by.
	EnqueuedAt time.Time `json:"enqueued_at"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`

	Stages  []StageTime `json:"stages,omitempty"`
	Failure *Failure    `json:"failure,omitempty"` // in state Failed
	Images  *ImageSet   `json:"images,omitempty"`  // in state Done

	// Content is the request's ContentHash: as foreseen, "" where nobody can
	// tell, and in state Done that of what was built.
	Content string `json:"content,omitempty"`
	// Shares is the hash of the job whose images these are, "" for its own.
	Shares string `json:"shares,omitempty"`
}

// ImagesHash is the hash that the images of a done job lie under.
func (j *Job) ImagesHash() string {
	if j.Shares != "" {
		return j.Shares
	}
	return j.Hash
}

// Generation names one consistent, verified view of a target: what a request
// was checked against and what it is to be built with.
type Generation struct {
	// Digest is a SHA-256 in hex over the target's sha256sums and the
	// package indexes in force.
	Digest string `json:"digest"`
	// Revision is the target's version_code, as "r28427-6df0e3d02a".
	Revision string `json:"revision,omitempty"`
	// Builder and BuilderSHA256 are the ImageBuilder archive's file name and sum.
	Builder       string `json:"builder,omitempty"`
	BuilderSHA256 string `json:"builder_sha256,omitempty"`
}

// Reporter hears from a build while it runs. Its methods must not block.
type Reporter interface {
	// Stage is called when a stage begins.
	Stage(s Stage)
	// Progress tells of a stage that can be measured: done of total, in
	// bytes; total 0 is unknown.
	Progress(done, total int64)
	// Line is one line of output, without its end, bounded in length.
	Line(line string)
}

// Built is what a successful build leaves: files in a folder of its own, on
// the same mount as the image cache, and what is known of them.
type Built struct {
	Dir    string // absolute; holds exactly the files of Set.Files
	Set    ImageSet
	Stages []StageTime
}

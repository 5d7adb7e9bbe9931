package imagebuilder

// Problem is one reason why a selection of packages cannot be met, or why it
// is not what was asked for.
type Problem struct {
	Kind    ProblemKind `json:"kind"`
	Package string      `json:"package"`         // the one that is at fault
	Other   string      `json:"other,omitempty"` // of a conflict: the one that it excludes
	// Chain leads from what was asked for to Package: each needs the next.
	Chain  []string `json:"chain,omitempty"`
	Detail string   `json:"detail"` // a sentence: what is wrong
	// Nearest are names that exist and look like Package; the likeliest first.
	Nearest []string `json:"nearest,omitempty"`
}

// ProblemKind says, to a program, what kind of problem it is. Kinds are
// stable: they are part of the API.
type ProblemKind string

// The kinds of problems.
const (
	ProblemMissing  ProblemKind = "missing"  // the package, or one that it needs, is in no feed
	ProblemConflict ProblemKind = "conflict" // two packages exclude one another
	ProblemVersion  ProblemKind = "version"  // it exists, in another version than asked for or needed
	ProblemTooBig   ProblemKind = "too_big"  // the image will not fit into the device's flash
	ProblemOther    ProblemKind = "other"    //
)

// Repair is a change to a request that was tried and makes it possible.
type Repair struct {
	Detail string   `json:"detail"`           // a sentence: what it does
	Add    []string `json:"add,omitempty"`    // packages to ask for
	Remove []string `json:"remove,omitempty"` // packages not to ask for; a default one becomes "-name"
	// Packages is the whole list with the change made, ready to be requested.
	Packages []string `json:"packages"`
}

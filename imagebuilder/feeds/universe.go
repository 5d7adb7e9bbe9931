package feeds

import "attendant/imagebuilder"

// Manager is the package manager whose rules decide what is installed.
type Manager string

// The package managers of the two generations of ImageBuilders.
const (
	Opkg Manager = "opkg" // openwrt/opkg-lede, up to 24.10
	APK  Manager = "apk"  // apk-tools v3, from 25.12 on
)

// Feed is an index at its place in the order in which the package manager
// reads its feeds.
type Feed struct {
	Name  string // as in the builder's list of feeds: "openwrt_base"
	Path  string // upstream path of the folder that holds the index and the packages, "" for one elsewhere
	Index *Index
}

// Universe is all packages that an ImageBuilder can install: the feeds of one
// generation, in order. It is never changed and may be used by several at a time.
type Universe struct {
	manager Manager
	arch    string // package architecture
	feeds   []Feed
}

// NewUniverse joins feeds, which may not be changed afterwards. arch is the
// target's package architecture.
func NewUniverse(m Manager, arch string, feeds []Feed) *Universe {
	return &Universe{manager: m, arch: arch, feeds: feeds}
}

// Wish is what an image shall hold, as the ImageBuilder's Makefile puts it
// together (openwrt/openwrt target/imagebuilder/files/Makefile, BUILD_PACKAGES).
type Wish struct {
	Default   []string // the target's default packages
	Device    []string // the profile's; "-name" takes a default one away
	Requested []string // the user's; "-name" removes
}

// Selected is a package that will be in the image.
type Selected struct {
	*Package
	Feed   *Feed
	Reason string // a package that needs it; "" for one that was asked for or is a default
}

// Solution is what the package manager will make of a Wish.
type Solution struct {
	Selected []Selected // sorted by name
	Problems []imagebuilder.Problem
	// Certain tells that the ImageBuilder installs exactly Selected, or
	// fails for Problems. Where it is false Doubts say why, a sentence each,
	// and Selected and Problems are the best guess.
	Certain bool
	Doubts  []string
}

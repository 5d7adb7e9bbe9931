// Package feeds reads package indexes (the Packages files of opkg, the
// packages.adb of apk with their signatures, and the index.json files that
// OpenWrt's buildbots write beside every feed) and tells, without running
// anything, what a package manager makes of a list of packages: which come
// with them, in which versions, or why it cannot be.
//
// A Universe is what an ImageBuilder can install. Its Solve follows the
// generation's own package manager step by step, because only then does it
// refuse nothing that the ImageBuilder would build.
package feeds

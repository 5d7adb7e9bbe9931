// Package upstream knows what a download server laid out like
// downloads.openwrt.org offers: releases, targets, profiles, package indexes
// and ImageBuilders. It fetches them, verifies them, and keeps the last good
// copy of everything on disk, so that an upstream that is slow, broken,
// half-published or gone changes the age of the answers and nothing else.
//
// # What is verified
//
// A target is used only as a whole: its sha256sums, its profiles.json, the
// package indexes that sha256sums lists and the ImageBuilder named there must
// fit together, else the last good whole stays in force. Where a trusted
// usign key with the signature's key id is given, sha256sums.sig must be good.
// Without such a key the sums protect against damage and half-published
// trees, not against a liar, and [Target].Signed is false. A target that was
// verified with a key is never replaced by one that is not. A target without
// sha256sums cannot be verified and is not offered.
//
// # What is kept
//
//	<dir>/mirror/<upstream path>   the files, a tree that can be served again
//	<dir>/mirror-state/blobs/      the same files by SHA-256 (hard links)
//	<dir>/mirror-state/records/    which files make up one document, with
//	                               their validators and times
//	<dir>/builders/<sha256>/       unpacked ImageBuilders, named by their archive's sum
//	<dir>/builders/.parts/         downloads on their way
//	<dir>/builders/.unpack-*/      being unpacked; swept at start
//
// A record is replaced by one rename once its files are synced: it is the
// truth, and the mirror follows it. What is held of targets and packages that
// nobody has asked for in a month goes, and earlier if all of it is too much,
// but only while upstream answers.
package upstream

// Package sample is a small distribution of our own: an upstream tree laid
// out like downloads.openwrt.org, with releases, targets, package feeds and
// ImageBuilders that build. Tests and the demo run it. Its names and
// relations follow OpenWrt's, its contents are made up: what it builds boots
// nowhere.
//
// # What there is
//
// Releases 24.10.3 and 24.10.4 (opkg) and SNAPSHOT (apk), targets x86/64 and
// ath79/generic with eight devices, and about 130 packages in
// catalogue/packages.txt. Some are there to fail: broken-dep and broken-chain
// (a dependency that does not exist), kernel-pinned (another kernel's),
// conflict-a and conflict-b, fileclash-a and fileclash-b, dnsmasq-full beside
// dnsmasq, failing-postinst, and bigpkg, which is too big for the 8 MB
// devices (comfast_cf-e314n-v2 says so on file descriptor 8,
// tplink_tl-wr1043nd-v1 in mktplinkfw's words) and for ROOTFS_PARTSIZE=8. As
// it holds zeros only the build shows that; of offline-maps (from
// 24.10.4 on, ath79/generic) its size in the index says it.
// The alias "wndr3700" belongs to two devices.
//
// From 24.10.3 to 24.10.4 auc was renamed to owut, and vim-full was split
// into vim-full and vim-runtime. In SNAPSHOT opkg became apk-mbedtls.
// index.json is of version 1 in 24.10.3 and of version 2 after it.
//
// Everything is signed by a key whose secret half is derived from a constant
// in the source: a signature says that a file is the sample's, no more.
//
// # The ImageBuilders
//
// The folder builder is the part that all ImageBuilders share: a Makefile and
// scripts for perl as Debian's perl-base has it. They need GNU make, tar,
// gzip, find and coreutils; they use wget (else plain http) and mksquashfs
// (else a tar.gz under the same name) where those are installed. They follow
// the real one in targets, variables, words, exit codes and the files that
// they leave. Knowingly different are:
//
//   - Signatures of feeds: the builder checks that there is one and that it
//     names a key in keys/, not the signature's bytes; it still says
//     "Signature check passed.".
//   - Images: "ext4" is a tar archive; squashfs data is not compressed, so that
//     a package's size is the flash it takes; a combined image is a boot
//     sector, kernel and root one after the other, without partitions, and is
//     not padded to the partition's size. Kernels are random bytes. No image
//     carries metadata.
//   - Image signatures (opkg) are a line with the local key's number: they
//     differ between copies of a builder, as real ones do, and verify nowhere.
//   - Values of make variables reach programs through the environment, so
//     $(shell …) in them runs, as with the real one, but backticks, quotes
//     and semicolons do not. PACKAGES takes names only: no options, paths or
//     addresses for the package manager.
//   - The prerequisite check looks for what the sample needs, not for the
//     real one's list.
//   - Package scripts run with sh, where the real one uses bash in "Finalizing".
//   - The choice of packages is simpler. opkg: no Replaces, no
//     Recommends, no alternatives. apk: one pass without backtracking; no
//     install_if; the number after "Error" in make's line is the number of
//     problems; packages/ is read directly, no packages.adb is written there.
//   - package_depends works in a tree that was never used; package_whatdepends
//     lists in the order of names.
//   - The stderr of a good build is quiet: no dd, no set -x.
//   - profiles.json has no git_commit.
//
// Where the sample and the real ImageBuilder differ the real one is right.
package sample

// Package feeds reads package indexes: the Packages files of opkg, the
// packages.adb of apk with their signatures, and the index.json files that
// OpenWrt's buildbots write beside every feed.
package feeds

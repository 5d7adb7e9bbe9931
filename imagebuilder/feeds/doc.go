// Package feeds reads package indexes: the Packages files of opkg and the
// index.json files that OpenWrt's buildbots write beside every feed.
package feeds

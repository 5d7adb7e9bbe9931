// Package replacements knows what became of packages from release to release,
// and takes a selection of packages from one release to another.
//
// # Tables
//
// What is known stands in YAML files, one for each distribution and release in
// which something changed, in a place that tells both: openwrt/24.10.yaml.
// Those for OpenWrt are part of the program; an operator's own lie in a folder
// beside it and are read over them. A table is a mapping from old names to
// what became of them:
//
//	openvpn:
//	  openvpn-openssl: {default: true}          # took its place
//	  openvpn-mbedtls: {installed: [mbedtls]}   # where one of these was installed, or became so
//	  openvpn-wolfssl: {}                       # possible, taken only when the user chooses it
//	polarssl: {mbedtls: {default: true}}        # renamed
//	luci-app-diag-core: {}                      # dropped
//	kmod-foo: {all: [kmod-foo-core, kmod-foo-usb]}  # split: both are needed
//	libmicrohttpd:                              # goes on, but is no longer the default
//	  libmicrohttpd-no-ssl: {default: true}
//	  libmicrohttpd: {}
//
// Packages and the format's own words share these mappings. What tells them
// apart is the kind of the value: a key with a mapping is a package, a key with
// anything else is a word. So a package may be called "all" or "source", and
// no word can be mistaken for one.
//
// An option, as "openvpn-mbedtls" above, has the words
//
//	default: true       taken unless something below or the user says otherwise; one option at most
//	installed: [a, b]   taken where a or b was installed, was asked for, or is what such a
//	                    package has become; the first option for which that is so counts
//	comment: text       a sentence for the person who chooses
//
// An entry has, beside its options,
//
//	all: [a, b]            split: all of these, instead of options
//	targets: [ath79/*]     only for these targets; profiles: [id, …] only for these devices
//	from: 24.10.1          only in images of this version or revision (r28000) on, and
//	to: 24.10.3            up to this one; a release stands for all its versions
//	revision: 27897        revision of the main branch at which it happened; places snapshots
//	mandatory: true        a dropped package must go even where an index still has it
//	unconditional: true    holds whatever release the request comes from; see [Set.Apply]
//	package_changes: true  is among the changes that clients apply themselves; see [Set.PackageChanges]
//	comment: text          for people
//	source: URL            where the change is documented
//
// In place of its mapping an entry may have a list of them: the first whose
// conditions hold counts.
//
// One "*" in an old name stands for one byte or more, and the "*" of a new
// name for the same: language packs go by
//
//	luci-i18n-opkg-*: {luci-i18n-package-manager-*: {default: true}}
//
// An entry for the very name counts before a pattern, and a pattern with more
// text before one with less.
//
// Two words stand among the packages of a table, told apart in the same way:
//
//	branch_off: 27990        revision at which the release left the main branch
//	add:                     packages that images need from this release on
//	  - packages: [fitblk]
//	    targets: [mediatek/filogic]   # and profiles, from, to, revision, comment, source as above
//
// An operator's table replaces embedded entries of the same release and old
// name; additions add up. "name: {name: {default: true}}" undoes an embedded
// entry.
//
// # What is refused
//
// Besides unknown words: names that go in a circle, and names that come back
// in a later release after an earlier one gave them up, as then nobody could
// tell the old package from the new one. Both would make the result depend on
// how often a table is applied.
package replacements

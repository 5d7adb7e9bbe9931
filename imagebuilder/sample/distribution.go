package sample

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// release is one release of the sample distribution.
type release struct {
	index    int    // column in the catalogue
	version  string // as in .versions.json
	path     string // folder below the tree's root
	revision string // version_code
	epoch    int64  // SOURCE_DATE_EPOCH, seconds
	kernel   string
	apk      bool // package manager: apk instead of opkg
	indexV2  bool // index.json version 2: names without ABI suffix
	branch   string
}

var releases = []*release{
	{index: 0, version: "24.10.3", path: "releases/24.10.3", revision: "r28872-daca7c049b", epoch: 1758316778, kernel: "6.6.104", branch: "openwrt-24.10"},
	{index: 1, version: "24.10.4", path: "releases/24.10.4", revision: "r28959-29397011cc", epoch: 1760891865, kernel: "6.6.110", indexV2: true, branch: "openwrt-24.10"},
	{index: 2, version: "SNAPSHOT", path: "snapshots", revision: "r34567-0a1b2c3d4e", epoch: 1782000000, kernel: "6.18.35", indexV2: true, apk: true},
}

func (r *release) snapshot() bool { return r.version == "SNAPSHOT" }

func (r *release) commit() string {
	_, hash, _ := strings.Cut(r.revision, "-")
	return hash
}

func (r *release) time() time.Time { return time.Unix(r.epoch, 0).UTC() }

// infix is the release's part of a file name; snapshots have none.
func (r *release) infix() string {
	if r.snapshot() {
		return ""
	}
	return r.version + "-"
}

// target is one platform.
type target struct {
	name       string // "ath79/generic"
	board      string // "ath79"
	subtarget  string
	arch       string // package architecture
	kernelArch string // what `make info` says
	defaults   []string
	profiles   []profile
}

// profile is one device.
type profile struct {
	id        string
	vendor    string
	model     string
	packages  []string // device packages
	aliases   []string // supported_devices
	limit     int      // flash, in bytes; 0: the root partition's size decides
	images    []imageKind
	mktplink  bool // too big is told in mktplinkfw's words
	nometa    bool // hasImageMetadata: 0
	partition bool // has a root partition: ROOTFS_PARTSIZE counts
}

// imageKind is one image that a profile has for each of its file systems.
type imageKind struct {
	kind string // type in profiles.json
	ext  string
}

var (
	sysupgrade = imageKind{"sysupgrade", "bin"}
	factory    = imageKind{"factory", "bin"}
)

var targets = []*target{
	{
		name: "x86/64", board: "x86", subtarget: "64", arch: "x86_64", kernelArch: "x86_64",
		defaults: strings.Fields("base-files ca-bundle dropbear fstools libc libgcc libustream-mbedtls logd mtd netifd uci uclient-fetch urandom-seed urngd " +
			"partx-utils e2fsprogs kmod-button-hotplug grub2-bios-setup opkg busybox procd procd-seccomp dnsmasq firewall4 nftables kmod-nft-offload " +
			"odhcp6c odhcpd-ipv6only ppp ppp-mod-pppoe"),
		profiles: []profile{{
			id: "generic", vendor: "Generic", model: "x86/64", packages: strings.Fields("kmod-e1000e kmod-igb kmod-r8169"),
			images: []imageKind{{"combined", "img.gz"}, {"combined-efi", "img.gz"}, {"rootfs", "img.gz"}},
			nometa: true, partition: true,
		}},
	},
	{
		name: "ath79/generic", board: "ath79", subtarget: "generic", arch: "mips_24kc", kernelArch: "mips",
		defaults: strings.Fields("base-files ca-bundle dropbear fstools libc libgcc libustream-mbedtls logd mtd netifd uci uclient-fetch urandom-seed urngd " +
			"kmod-gpio-button-hotplug swconfig kmod-ath9k uboot-envtools wpad-basic-mbedtls opkg busybox procd procd-seccomp dnsmasq firewall4 nftables " +
			"kmod-nft-offload odhcp6c odhcpd-ipv6only ppp ppp-mod-pppoe"),
		profiles: []profile{
			{id: "comfast_cf-e314n-v2", vendor: "COMFAST", model: "CF-E314N v2", packages: []string{"rssileds"},
				aliases: []string{"comfast,cf-e314n-v2"}, limit: 8126464, images: []imageKind{sysupgrade}},
			{id: "glinet_gl-ar150", vendor: "GL.iNet", model: "GL-AR150", packages: []string{"kmod-usb-chipidea2"},
				aliases: []string{"glinet,gl-ar150", "gl-ar150"}, limit: 16384000, images: []imageKind{sysupgrade}},
			{id: "netgear_wndr3700-v2", vendor: "NETGEAR", model: "WNDR3700 v2", packages: strings.Fields("kmod-usb2 kmod-usb-ledtrig-usbport kmod-switch-rtl8366s"),
				aliases: []string{"netgear,wndr3700-v2", "wndr3700", "netgear,wndr3700v2"}, limit: 16121856, images: []imageKind{{"factory", "img"}, sysupgrade}},
			{id: "netgear_wndr3800", vendor: "NETGEAR", model: "WNDR3800", packages: strings.Fields("kmod-usb2 kmod-usb-ledtrig-usbport kmod-switch-rtl8366s"),
				aliases: []string{"netgear,wndr3800", "wndr3700"}, limit: 16121856, images: []imageKind{{"factory", "img"}, sysupgrade}},
			{id: "openmesh_om2p-v2", vendor: "OpenMesh", model: "OM2P v2", packages: []string{"-uboot-envtools"},
				aliases: []string{"openmesh,om2p-v2", "om2pv2"}, limit: 7929856, images: []imageKind{{"kernel", "bin"}, factory, sysupgrade}},
			{id: "tplink_archer-c7-v2", vendor: "TP-Link", model: "Archer C7 v2", packages: strings.Fields("kmod-usb2 kmod-usb-ledtrig-usbport kmod-ath10k-ct ath10k-firmware-qca988x-ct"),
				aliases: []string{"tplink,archer-c7-v2", "archer-c7"}, limit: 16252928, images: []imageKind{factory, sysupgrade}},
			{id: "tplink_archer-c7-v5", vendor: "TP-Link", model: "Archer C7 v5", packages: strings.Fields("kmod-usb2 kmod-usb-ledtrig-usbport kmod-ath10k-ct ath10k-firmware-qca988x-ct"),
				aliases: []string{"tplink,archer-c7-v5", "archer-c7-v5"}, limit: 15794176, images: []imageKind{factory, sysupgrade}},
			{id: "tplink_tl-wr1043nd-v1", vendor: "TP-Link", model: "TL-WR1043N/ND v1", packages: strings.Fields("kmod-usb2 kmod-usb-ledtrig-usbport kmod-switch-rtl8366rb"),
				aliases: []string{"tplink,tl-wr1043nd-v1", "tl-wr1043nd"}, limit: 8126464, images: []imageKind{factory, sysupgrade}, mktplink: true},
		},
	},
}

// dashed is the target as in file names.
func (t *target) dashed() string { return t.board + "-" + t.subtarget }

// vermagic stands for the hash of the kernel's configuration.
func (t *target) vermagic(r *release) string {
	sum := sha256.Sum256([]byte("kernel configuration of " + r.version + " " + t.name))
	return hex.EncodeToString(sum[:16])
}

// kernelVersion is the version of the package kernel.
func (t *target) kernelVersion(r *release) string {
	return r.kernel + "~" + t.vermagic(r) + "-r1"
}

// kmodsFolder is the name of the folder below kmods/.
func (t *target) kmodsFolder(r *release) string {
	return r.kernel + "-1-" + t.vermagic(r)
}

// defaultPackages are the target's, in the order of `make info`.
func (t *target) defaultPackages(r *release) []string {
	if !r.apk {
		return t.defaults
	}
	var names []string
	for _, name := range t.defaults {
		switch name {
		case "busybox", "procd", "procd-seccomp": // base-files depends on them there
		case "opkg":
			names = append(names, "apk-mbedtls")
		default:
			names = append(names, name)
		}
	}
	return names
}

// filesystems are the root file systems that the target's images come with.
func (t *target) filesystems() []string {
	if t.board == "x86" {
		return []string{"ext4", "squashfs"}
	}
	return []string{"squashfs"}
}

// prefix begins the names of the target's files in release r.
func (t *target) prefix(r *release) string {
	return "openwrt-" + r.infix() + t.dashed()
}

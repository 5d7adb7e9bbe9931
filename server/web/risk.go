package web

import (
	"path"
	"strings"
)

// risks are what leaving out a default package may do to its owner, in the
// order in which they are looked at: a key of the texts, and patterns of names.
var risks = []struct {
	key      string
	patterns string
}{
	{"risk.boot", "kernel base-files libc libgcc* musl busybox procd* ubox fstools mtd ubus ubusd libub* libuci* uci block-mount f2fs* e2fsprogs mkf2fs partx-utils grub2* kmod-fs-* kmod-nls-* kmod-mmc* kmod-sdhci* kmod-ata-* kmod-usb-storage*"},
	{"risk.network", "netifd swconfig kmod-switch-* kmod-dsa* kmod-phy* kmod-e100* kmod-igb* kmod-igc kmod-ixgb* kmod-r816* kmod-r8125* kmod-8139* kmod-tg3 kmod-bnx2* kmod-vmxnet3 kmod-mvneta kmod-mdio* kmod-of-mdio kmod-stmmac* kmod-dwmac* kmod-fsl-* kmod-atl* kmod-forcedeth kmod-amazon-ena kmod-gpio-*-rtl* r8169-firmware"},
	{"risk.wifi", "wpad* hostapd* wpa-supplicant* kmod-ath* ath10k* ath11k* ath12k* kmod-mt76* kmod-mt79* mt76* mt79* kmod-iwlwifi iwlwifi-* kmod-brcm* brcmfmac-* cypress-* kmod-rt2* kmod-rtl8* rtl8* kmod-rtw* kmod-mwl* mwl* mwifiex* kmod-mac80211 kmod-cfg80211 iw iwinfo wireless-regdb ipq-wifi-*"},
	{"risk.login", "dropbear luci luci-* uhttpd* rpcd* cgi-io openssh-server"},
	{"risk.firewall", "firewall* nftables* iptables*"},
	{"risk.addresses", "dnsmasq* odhcpd* odhcp6c ppp ppp-mod-* dhcpcd"},
	{"risk.upgrade", "opkg apk-* uclient-fetch ca-bundle ca-certificates libustream-* uboot-envtools fwtool usign urandom-seed urngd attendedsysupgrade-common owut"},
}

// risk is what leaving out a package may do, as a key of the texts; "" is
// nothing that everybody needs to be told.
func risk(name string) string {
	for _, r := range risks {
		for pattern := range strings.FieldsSeq(r.patterns) {
			if ok, _ := path.Match(pattern, name); ok {
				return r.key
			}
		}
	}
	return ""
}

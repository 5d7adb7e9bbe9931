package web

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attendant/imagebuilder"
)

const boardJSON = `{
	"kernel": "6.6.104",
	"hostname": "node{1}",
	"system": "Qualcomm Atheros QCA956X ver 1 rev 0",
	"model": "TP-Link Archer C7 v5",
	"board_name": "tplink,archer-c7-v5",
	"rootfs_type": "squashfs",
	"release": {
		"distribution": "OpenWrt",
		"version": "24.10.3",
		"revision": "r28872-daca7c049b",
		"target": "ath79/generic",
		"description": "OpenWrt 24.10.3 r28872-daca7c049b"
	}
}`

const opkgList = `base-files - 1637~29397011cc
kmod-ath9k - 6.6.110.6.12.44-r1
libubox20240329 - 2024.03.29~eb9bcb64-r1
libustream-openssl20201210 - 2024.07.28~99bd3d2b-r1
luci - 25.292.66247~75e41cb
libusb-1.0-0 - 1.0.27-r1`

// What routers print, as they print it, and what it says.
func TestRecognize(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"nothing", "hello, how are you?", `{"packages":[],"installed":{},"whole":false}`},
		{"board", "root@node:~# ubus call system board\n" + boardJSON + "\nroot@node:~#",
			`{"version":"24.10.3","revision":"r28872-daca7c049b","target":"ath79/generic","board_name":"tplink,archer-c7-v5","model":"TP-Link Archer C7 v5","packages":[],"installed":{},"whole":false}`},
		{"openwrt_release", "DISTRIB_ID='OpenWrt'\r\nDISTRIB_RELEASE='23.05.5'\r\nDISTRIB_REVISION='r24106-10cc5fcd00'\r\nDISTRIB_TARGET='x86/64'\r\nDISTRIB_ARCH='x86_64'\r\n",
			`{"version":"23.05.5","revision":"r24106-10cc5fcd00","target":"x86/64","packages":[],"installed":{},"whole":false}`},
		{"os-release", "NAME=\"OpenWrt\"\nVERSION=\"24.10.4\"\nBUILD_ID=\"r28959-29397011cc\"\nOPENWRT_BOARD=\"ath79/generic\"\n",
			`{"version":"24.10.4","revision":"r28959-29397011cc","target":"ath79/generic","packages":[],"installed":{},"whole":false}`},
		{"opkg", opkgList, `{"packages":["base-files","kmod-ath9k","libustream-openssl","luci"],"installed":{"base-files":"1637~29397011cc","kmod-ath9k":"6.6.110.6.12.44-r1","libubox20240329":"2024.03.29~eb9bcb64-r1","libusb-1.0-0":"1.0.27-r1","libustream-openssl20201210":"2024.07.28~99bd3d2b-r1","luci":"25.292.66247~75e41cb"},"whole":true}`},
		{"apk list", "WARNING: opening /var/cache: No such file\nluci-26.1.5~abc-r1 noarch {feeds/luci/collections/luci} (Apache-2.0) [installed]\nkmod-usb2-6.12.60-r1 mips_24kc {linux} (GPL-2.0) [upgradable from: kmod-usb2-6.12.59-r1]\nnano-8.0-r1 mips_24kc {nano} (GPL) \n",
			`{"packages":["kmod-usb2","luci"],"installed":{"kmod-usb2":"6.12.60-r1","luci":"26.1.5~abc-r1"},"whole":true}`},
		{"apk names", "luci-26.1-r1\nlibc-1.2.5-r5", `{"packages":["libc","luci"],"installed":{"libc":"1.2.5-r5","luci":"26.1-r1"},"whole":true}`},
		{"world", "luci\ntmux\nlibustream-openssl>2020\n", `{"packages":["libustream-openssl","luci","tmux"],"installed":{},"whole":false}`},
		{"backup", "base-files\trom\nluci\toverlay\ntmux\toverlay\nodd\tunknown\n", `{"packages":["luci","tmux"],"installed":{"base-files":"","luci":"","odd":"","tmux":""},"whole":true}`},
		{"board, world and list", boardJSON + "\nluci\ntmux\n" + opkgList,
			`{"version":"24.10.3","revision":"r28872-daca7c049b","target":"ath79/generic","board_name":"tplink,archer-c7-v5","model":"TP-Link Archer C7 v5","packages":["luci","tmux"],"installed":{"base-files":"1637~29397011cc","kmod-ath9k":"6.6.110.6.12.44-r1","libubox20240329":"2024.03.29~eb9bcb64-r1","libusb-1.0-0":"1.0.27-r1","libustream-openssl20201210":"2024.07.28~99bd3d2b-r1","luci":"25.292.66247~75e41cb"},"whole":true}`},
		{"bad names", `{"board_name":"a` + "\\u0000" + `b","release":{"version":"../x","target":"x","revision":"$(r)"}}`, `{"packages":[],"installed":{},"whole":false}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(Recognize(tt.text))
			if err != nil || string(got) != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestRemovedDefaults(t *testing.T) {
	said := Recognize(opkgList)
	if got := strings.Join(said.Removed([]string{"base-files", "libubox", "libusb-1.0", "dropbear", "luci"}), " "); got != "dropbear" {
		t.Errorf("removed: %s", got)
	}
	if got := Recognize("luci\ntmux").Removed([]string{"dropbear"}); got != nil {
		t.Errorf("of a world file: %v", got)
	}
}

// However a text is made, what is recognised keeps to the grammar.
func FuzzRecognize(f *testing.F) {
	f.Add(boardJSON)
	f.Add(opkgList)
	f.Add("luci\ntmux\nDISTRIB_TARGET='x86/64'\nluci-1-r1\nx\toverlay")
	f.Add(strings.Repeat("{", 100))
	f.Add("libustream-x-1 - 1\nlibustream-x1 - 1\n" + strings.Repeat("x", 200) + "\toverlay")
	if files, err := filepath.Glob("testdata/said-*"); err == nil {
		for _, name := range files {
			if raw, err := os.ReadFile(name); err == nil {
				f.Add(string(raw))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := Recognize(text)
		if s.Version != "" && !imagebuilder.ValidVersion(s.Version) || s.Revision != "" && !imagebuilder.ValidRevision(s.Revision) ||
			s.Target != "" && !imagebuilder.ValidTarget(s.Target) || s.BoardName != "" && !imagebuilder.ValidProfileName(s.BoardName) {
			t.Errorf("%+v", s)
		}
		if len(s.Packages) > maxSaid || len(s.Installed) > maxSaid {
			t.Errorf("%d, %d packages", len(s.Packages), len(s.Installed))
		}
		for i, name := range s.Packages {
			if !imagebuilder.ValidPackageName(name) || i > 0 && s.Packages[i-1] >= name {
				t.Errorf("packages %q", s.Packages)
			}
		}
	})
}

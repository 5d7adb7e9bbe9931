package replacements

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

func TestEmbeddedTablesLoadAndHaveNoDoubts(t *testing.T) {
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := Check(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
	for _, table := range set.tables("openwrt") {
		for _, r := range table.rules() {
			if !strings.HasPrefix(r.Source, "https://github.com/openwrt/") {
				t.Errorf("%s:%d: the source %q is none of OpenWrt's", r.File, r.Line, r.Source)
			}
		}
	}
	if d := cmp.Diff(words("17.01 18.06 19.07 21.02 22.03 23.05 24.10 25.12 SNAPSHOT"), set.Releases("openwrt")); d != "" {
		t.Errorf("tables (-want +got):\n%s", d)
	}
	if !slices.Equal(set.Releases("LEDE"), set.Releases("openwrt")) {
		t.Error("LEDE has other tables than OpenWrt")
	}
	if rules, additions := set.Len(""); rules < 400 || additions < 15 {
		t.Errorf("%d rules and %d additions: some are lost", rules, additions)
	}
}

func TestPackageChangesAreThoseThatClientsKnow(t *testing.T) {
	all := []imagebuilder.PackageChange{
		{Source: "firewall", Target: "firewall4", Revision: 18611},
		{Source: "kmod-nft-nat6", Revision: 20282, Mandatory: true},
		{Source: "libustream-wolfssl", Target: "libustream-mbedtls", Revision: 21994},
		{Source: "px5g-wolfssl", Target: "px5g-mbedtls", Revision: 21994},
		{Source: "wpad-basic-wolfssl", Target: "wpad-basic-mbedtls", Revision: 21994},
		{Source: "luci-app-diag-core", Revision: 25984, Mandatory: true},
		{Source: "auc", Target: "owut", Revision: 26792},
		{Source: "luci-app-opkg", Target: "luci-app-package-manager", Revision: 27897},
		{Source: "opkg", Target: "apk-mbedtls", Revision: 28056},
	}
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for branchOff, n := range map[int]int{0: 9, 32295: 9, 27990: 8, 23069: 5, 19160: 1, 15812: 0} {
		if d := cmp.Diff(all[:n], set.PackageChanges("openwrt", branchOff)); d != "" {
			t.Errorf("branch that left at %d (-want +got):\n%s", branchOff, d)
		}
	}
	if got := set.PackageChanges("mesh", 0); got == nil || len(got) > 0 {
		t.Errorf("a distribution without tables has %v", got)
	}
}

func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		dirs []string
		req  Request
	}{
		"proposal":  {[]string{"testdata/proposal"}, Request{From: "19.07.10", To: "24.10.4", Packages: words("openvpn polarssl kmod-foo libmicrohttpd luci-app-diag-core")}},
		"openvpn":   {nil, Request{From: "15.05.1", To: "24.10.4", Packages: words("openvpn libpolarssl luci-ssl")}},
		"default":   {[]string{"testdata/proposal"}, Request{From: "19.07.10", To: "24.10.4", Packages: words("openvpn -libmicrohttpd"), Choices: map[string]string{"x": "y"}}},
		"chosen":    {[]string{"testdata/proposal"}, Request{From: "19.07.10", To: "24.10.4", Packages: words("openvpn"), Choices: map[string]string{"openvpn": "openvpn-wolfssl"}}},
		"firewall":  {nil, Request{From: "19.07.10", To: "24.10.4", Packages: words("firewall iptables ip6tables kmod-ipt-offload miniupnpd -ppp")}},
		"device":    {nil, Request{From: "22.03.5", To: "25.12.0", Target: "lantiq/xrx200", Profile: "tplink_vr200", Packages: words("opkg luci-app-opkg luci-i18n-opkg-de luci-i18n-base-en -auc")}},
		"unknown":   {nil, Request{To: "24.10.4", Packages: words("firewall auc luci-i18n-opkg-de kmod-bmp085"), Exists: indexOf("firewall")}},
		"unchanged": {nil, Request{From: "24.10.2", To: "24.10.4", Packages: words("luci")}},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Load(c.dirs...)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := apply(t, set, c.req).Explain(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, "explain-"+name+".golden", b.String())
		})
	}
}

func BenchmarkApply(b *testing.B) {
	set, err := Load()
	if err != nil {
		b.Fatal(err)
	}
	req := Request{From: "19.07.10", To: "24.10.4", Target: "ath79/generic", Profile: "x", Packages: embeddedWorld(set).names}
	b.ReportAllocs()
	for b.Loop() {
		apply(b, set, req)
	}
}

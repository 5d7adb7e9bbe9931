package replacements

import (
	"slices"
	"strings"
	"testing"
)

// FuzzLoad reads any bytes as a table. What is accepted must keep the
// promises that Apply makes.
func FuzzLoad(f *testing.F) {
	for _, m := range mistakes {
		f.Add([]byte(m.text))
	}
	for _, path := range []string{"openwrt/17.01.yaml", "openwrt/23.05.yaml", "openwrt/SNAPSHOT.yaml"} {
		text, err := embedded.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(theProposal))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := emptyLoader()
		l.read("mesh/21.02.yaml", "mesh/21.02.yaml", text)
		set, problems := l.finish()
		for _, p := range problems {
			if p.File != "mesh/21.02.yaml" || p.Message == "" || p.Line < 0 || strings.ContainsAny(p.Message, "\x00") {
				t.Errorf("a problem without its place: %+v", p)
			}
		}
		if len(problems) > 0 {
			return
		}
		doubts(set.tables("mesh"), nil)
		req := Request{Distro: "mesh", From: "19.07.1", To: "21.02.1", Target: "ath79/generic", Profile: "x"}
		for _, table := range set.tables("mesh") {
			for _, r := range table.rules() {
				if r.old != "" && len(req.Packages) < 20 {
					req.Packages = append(req.Packages, strings.Replace(r.old, "*", "de", 1))
				}
			}
		}
		slices.Sort(req.Packages)
		req.Packages = slices.Compact(req.Packages)
		backwards := slices.Clone(req.Packages)
		slices.Reverse(backwards)
		checkProperties(t, set, req, backwards)
		set.PackageChanges("mesh", 0)
	})
}

// FuzzApply takes any names through the embedded tables and the proposal's.
func FuzzApply(f *testing.F) {
	f.Add("openvpn libpolarssl", "mbedtls", "15.05.1", "24.10.4", "openvpn", "openvpn-openssl", true)
	f.Add("firewall -iptables kmod-ipt-offload luci-i18n-opkg-de", "", "19.07.10", "SNAPSHOT", "", "", false)
	f.Add("openvpn polarssl kmod-foo -libmicrohttpd", "", "", "22.03.1", "libmicrohttpd", "libmicrohttpd", true)
	f.Add("- -- --x *", "*", "v-", "-rc", "-", "=", true)
	l := newLoader()
	l.read("openwrt/22.03.1.yaml", "openwrt/22.03.1.yaml", []byte(strings.NewReplacer("openvpn:", "openvpn-x:", "polarssl:", "polarssl-x:", "luci-app-diag-core:", "x:").Replace(theProposal)))
	set, problems := l.finish()
	if len(problems) > 0 {
		f.Fatal(&LoadError{problems})
	}
	f.Fuzz(func(t *testing.T, packages, installed, from, to, old, option string, known bool) {
		req := Request{From: from, FromRevision: from, To: to, ToRevision: to, Target: "ath79/generic", Installed: words(installed)}
		seen := make(map[string]bool)
		for _, p := range words(packages) {
			if len(req.Packages) < 50 && !seen[p] {
				seen[p] = true
				req.Packages = append(req.Packages, p)
			}
		}
		if old != "" {
			req.Choices = map[string]string{old: option}
		}
		if known {
			req.Exists = func(name string) bool { return len(name)%2 == 0 }
		}
		if _, err := set.Apply(req); err != nil {
			if old == "" {
				t.Errorf("refused without a choice: %v", err)
			}
			return
		}
		backwards := slices.Clone(req.Packages)
		slices.Reverse(backwards)
		checkProperties(t, set, req, backwards)
	})
}

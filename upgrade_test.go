package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder/sample"
	"attendant/imagebuilder/upstream"
	"attendant/server"
)

// post asks url and returns the HTTP status and the body.
func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// startConfigured starts a server on the sample distribution with what config
// adds to its configuration file; UPSTREAM in it is the sample's address.
func startConfigured(t *testing.T, config string) *attendantProcess {
	t.Helper()
	up := sampleUpstream(t, 0)
	dir := t.TempDir()
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "attendant.toml")
	text := fmt.Sprintf("upstream = %q\n%s", up, strings.ReplaceAll(config, "UPSTREAM", up))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, freeAddress(t), data, "--config", file, "--keys", filepath.Join(sampleTree(t, sample.Options{}), "keys"))
	t.Cleanup(p.kill)
	return p
}

// Every answer stands in a golden file, so that a person can read them.
func TestUpgradeCheckOfTheSample(t *testing.T) {
	p := startConfigured(t, "")
	const device = `"target":"ath79/generic","board_name":"tplink,archer-c7-v5"`
	tests := []struct {
		name, body string
		status     int
	}{
		{"stable", `{"distro":"openwrt","version":"24.10.3",` + device + `,"packages":{"luci":"25.292.1","tmux":"3.5a-r1"}}`, 200},
		{"stable in the form of 2017", `{"distro":"LEDE","version":"24.10.3","target":"ath79","subtarget":"generic","board":"x","model":"TP-Link Archer C7 v5","packages":{"luci":"1"}}`, 200},
		{"nothing newer", `{"version":"24.10.4",` + device + `,"packages":["luci"]}`, 204},
		{"nothing newer with versions", `{"version":"24.10.4",` + device + `,"packages":{"luci":"25.292.66247~75e41cb"}}`, 204},
		{"packages", `{"version":"24.10.4",` + device + `,"packages":{"luci":"25.100.1~aaaaaaa","tmux":"3.5a-r1"},"installed":{"libubox20240329":"1"}}`, 200},
		{"choice", `{"version":"22.03.5",` + device + `,"packages":["libustream-wolfssl","-ppp","luci"]}`, 200},
		{"choice by what is installed", `{"version":"22.03.5",` + device + `,"packages":["libustream-wolfssl"],"installed":["libustream-wolfssl20201210","libmbedtls12"]}`, 200},
		{"choice made", `{"version":"22.03.5",` + device + `,"packages":["libustream-wolfssl"],"choices":{"libustream-wolfssl":"libustream-openssl"}}`, 200},
		{"choice that is none", `{"version":"22.03.5",` + device + `,"packages":["libustream-wolfssl"],"choices":{"libustream-wolfssl":"tmux"}}`, 422},
		{"end of life", `{"version":"19.07.10",` + device + `,"packages":["luci-app-diag-core","firewall","luci-i18n-opkg-de"]}`, 200},
		{"requested", `{"version":"24.10.4",` + device + `,"packages":["luci"],"to_version":"24.10.3"}`, 200},
		{"requested, unknown", `{"version":"24.10.4",` + device + `,"packages":["luci"],"to_version":"24.10.9"}`, 400},
		{"newer snapshot", `{"version":"SNAPSHOT","revision":"r30000-aaaaaaa","target":"x86/64","model":"QEMU Standard PC","packages":["opkg"]}`, 200},
		{"same snapshot", `{"version":"SNAPSHOT","revision":"r34567-0a1b2c3d4e","target":"x86/64","model":"QEMU","packages":["luci"]}`, 204},
		{"snapshot that is ahead", `{"version":"SNAPSHOT","revision":"r90000-0a1b2c3d4e","target":"x86/64","model":"QEMU","packages":{"luci":"1"}}`, 204},
		{"target that was renamed", `{"distro":"LEDE","version":"17.01.7","target":"ar71xx/generic","model":"TP-Link Archer C7 v5","board_name":"archer-c7-v5","packages":["luci","luci-ssl"]}`, 200},
		{"without a device", `{"version":"24.10.3","target":"ath79/generic","packages":["luci"]}`, 200},
		{"unknown distribution", `{"distro":"openwtr","version":"24.10.3",` + device + `}`, 400},
		{"unknown release", `{"version":"42.10.3",` + device + `}`, 400},
		{"unknown target", `{"version":"24.10.3","target":"ath79/generc"}`, 400},
		{"unknown device", `{"version":"24.10.3","target":"ath79/generic","board_name":"tplink,archer-c7-v9"}`, 400},
		{"ambiguous device", `{"version":"24.10.3","target":"ath79/generic","board_name":"wndr3700"}`, 400},
		{"no version", `{` + device + `}`, 422},
		{"garbage version of a package", `{"version":"24.10.3",` + device + `,"packages":{"luci":"1 2; reboot"}}`, 422},
		{"package that is an option", `{"version":"24.10.3",` + device + `,"packages":["--force-depends"]}`, 422},
		{"packages as a text", `{"version":"24.10.3",` + device + `,"packages":"luci tmux"}`, 422},
		{"ten thousand packages", `{"version":"24.10.3",` + device + `,"packages":["p` + strings.Repeat(`","p`, 9999) + `"]}`, 422},
		{"duplicates and suffixes", `{"version":"24.10.3",` + device + `,"packages":["luci","+luci","luci","libubox20240329"]}`, 200},
		{"channel that is none", `{"version":"24.10.3",` + device + `,"channel":"beta"}`, 422},
	}
	var transcript strings.Builder
	for _, tt := range tests {
		status, body := post(t, p.base+"/api/v1/upgrade-check", tt.body)
		if status != tt.status {
			t.Errorf("%s: HTTP %d, want %d: %s", tt.name, status, tt.status, body)
		}
		asked := tt.body
		if len(asked) > 400 {
			asked = asked[:200] + "…"
		}
		var indented bytes.Buffer
		if body != "" {
			if err := json.Indent(&indented, []byte(body), "", "  "); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		fmt.Fprintf(&transcript, "== %s\n%s\n%d\n%s\n\n", tt.name, asked, status, &indented)
	}
	golden(t, "testdata/upgrade-check.golden", transcript.String())
}

// What the check hands out is a build request that builds.
func TestUpgradeCheckLeadsToAnImage(t *testing.T) {
	p := startConfigured(t, "")
	for want, choices := range map[string]string{
		"libustream-mbedtls": `{}`,
		"libustream-openssl": `{"libustream-wolfssl":"libustream-openssl"}`, // which excludes a default package
	} {
		_, body := post(t, p.base+"/api/v1/upgrade-check",
			`{"version":"22.03.5","target":"ath79/generic","board_name":"tplink,archer-c7-v5","packages":["libustream-wolfssl","tmux"],"choices":`+choices+`}`)
		request := regexp.MustCompile(`"request":(\{.*\})\}$`).FindStringSubmatch(body)
		if request == nil {
			t.Fatalf("no request in %s", body)
		}
		reply := await(t, p.base, request[1])
		if reply.Status != 200 || reply.Manifest[want] == "" || reply.Manifest["tmux"] == "" {
			t.Errorf("%s: got %+v", want, reply)
		}
		for name := range reply.Manifest {
			if strings.HasPrefix(name, "libustream-") && name != want {
				t.Errorf("%s: beside it %s is in the image", want, name)
			}
		}
	}
}

// await posts a build request and waits for its outcome.
func await(t *testing.T, base, body string) apiReply {
	t.Helper()
	reply, err := ask(http.MethodPost, base+"/api/v1/build", body)
	if err != nil {
		t.Fatal(err)
	}
	if reply.HTTP == http.StatusAccepted {
		return awaitBuild(t, base, reply.RequestHash)
	}
	return reply
}

func TestBuildRequestsSayWhatTheyComeFrom(t *testing.T) {
	p := startConfigured(t, "")
	const rest = `"version":"24.10.4","target":"ath79/generic","profile":"tplink_archer-c7-v5"`
	tests := []struct {
		name, body string
		want       map[string][]string
	}{
		{"unknown origin", `{` + rest + `,"packages":["auc"]}`, map[string][]string{"auc": {"owut"}}},
		{"origin", `{` + rest + `,"packages":["wpad-basic-wolfssl","uhttpd"],"from_version":"22.03.5"}`, map[string][]string{"wpad-basic-wolfssl": {"wpad-basic-mbedtls"}}},
		{"origin that had the new one", `{` + rest + `,"packages":["libustream-wolfssl"],"from_version":"24.10.3"}`, nil},
		{"choice", `{` + rest + `,"packages":["libustream-wolfssl"],"from_version":"22.03.5","choices":{"libustream-wolfssl":"libustream-openssl"}}`,
			map[string][]string{"libustream-wolfssl": {"libustream-openssl"}, "libustream-mbedtls": {"libustream-openssl"}}},
	}
	for _, tt := range tests {
		reply, err := ask(http.MethodPost, p.base+"/api/v1/build", tt.body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, reply.Replacements); diff != "" {
			t.Errorf("%s (-want +got):\n%s%s", tt.name, diff, reply.Detail)
		}
	}
	reply, err := ask(http.MethodPost, p.base+"/api/v1/build", `{`+rest+`,"packages":["libustream-wolfssl"],"from_version":"22.03.5","choices":{"libustream-wolfssl":"tmux"}}`)
	if err != nil || reply.HTTP != 422 {
		t.Errorf("a choice that is none: %+v, %v", reply, err)
	}
}

func TestPoliciesOfOperatorAndCommunity(t *testing.T) {
	p := startConfigured(t, `
[[policy]]
offer = ["24.10"]
hold_back = ["24.10.4"]
[[policy]]
community = "valley"
offer = ["24.10.4"]
minimum = "24.10.4"
`)
	const device = `"target":"ath79/generic","board_name":"tplink,archer-c7-v5"`
	if status, body := post(t, p.base+"/api/v1/upgrade-check", `{"version":"24.10.3",`+device+`}`); status != 204 {
		t.Errorf("to a release that is held back: %d %s", status, body)
	}
	if status, body := post(t, p.base+"/api/v1/upgrade-check", `{"version":"24.10.3","channel":"testing",`+device+`}`); status != 200 {
		t.Errorf("for testing: %d %s", status, body)
	}
	if status, body := post(t, p.base+"/api/v1/upgrade-check", `{"version":"24.10.3","community":"valley",`+device+`}`); status != 200 || !strings.Contains(body, `"reason":"minimum"`) {
		t.Errorf("of a community with another policy: %d %s", status, body)
	}
	if reply, err := ask(http.MethodPost, p.base+"/api/v1/build", `{"version":"SNAPSHOT","target":"x86/64","profile":"generic"}`); err != nil || reply.HTTP != 400 {
		t.Errorf("a build of what is not offered: %+v, %v", reply, err)
	}
	resp, err := http.Get(p.base + "/json/v1/overview.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	overview, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(overview); strings.Contains(s, `"SNAPSHOT"`) || !strings.Contains(s, `"latest":["24.10.3"]`) {
		t.Errorf("the overview offers more, or recommends what is held back: %s", s)
	}
}

func TestAnotherDistributionByItsAddress(t *testing.T) {
	t.Parallel()
	p := startConfigured(t, fmt.Sprintf(`
[[distribution]]
name = "Mesh"
upstream = "UPSTREAM"
keys = %q
[[distribution]]
name = "lime"
upstream = "UPSTREAM"
  [[distribution.feed]]
  name = "lime"
  url = "UPSTREAM/no-such-feed/{branch}/{arch}"
[[policy]]
distro = "mesh"
offer = ["24.10.3"]
[[policy]]
distro = "LEDE"
hold_back = ["24.10.4"]
`, filepath.Join(sampleTree(t, sample.Options{}), "keys")))
	const body = `"target":"ath79/generic","profile":"tplink_archer-c7-v5","packages":["tmux"]}`
	if status, body := post(t, p.base+"/api/v1/upgrade-check", `{"version":"24.10.3",`+body); status != 204 {
		t.Errorf("a policy for LEDE is one for OpenWrt: %d %s", status, body)
	}
	status, check := post(t, p.base+"/d/lime/api/v1/upgrade-check",
		`{"version":"23.05.5","target":"ath79/generic","board_name":"tplink,archer-c7-v5","packages":["lime-system"]}`)
	if status != 200 || strings.Contains(check, "cannot be built") || !strings.Contains(check, `"missing":{}`) {
		t.Errorf("of packages that are in the distribution's own feed: %d %s", status, check)
	}
	first := await(t, p.base, `{"version":"24.10.3",`+body)
	mesh := await(t, p.base+"/d/mesh", `{"version":"24.10.3",`+body)
	named := await(t, p.base, `{"distro":"Mesh","version":"24.10.3",`+body)
	if mesh.Status != 200 || len(mesh.Images) == 0 {
		t.Fatalf("below /d/mesh: %+v", mesh)
	}
	if first.Status != 200 || mesh.Status != 200 || first.RequestHash == mesh.RequestHash || mesh.RequestHash != named.RequestHash {
		t.Errorf("hashes %s, %s, %s; details %s, %s, %s", first.RequestHash, mesh.RequestHash, named.RequestHash, first.Detail, mesh.Detail, named.Detail)
	}
	resp, err := http.Get(p.base + "/d/mesh/store/" + mesh.BinDir + "/" + mesh.Images[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("its image: HTTP %d", resp.StatusCode)
	}
	if status, body := post(t, p.base+"/d/mesh/api/v1/upgrade-check", `{"version":"24.10.3",`+body); status != 204 {
		t.Errorf("its policy offers nothing newer: %d %s", status, body)
	}
	if reply, err := ask(http.MethodPost, p.base+"/d/mush/api/v1/build", `{"version":"24.10.3",`+body); err != nil || reply.HTTP != 404 {
		t.Errorf("an unknown one: %+v, %v", reply, err)
	}
}

func TestWhichReleaseIsRecommended(t *testing.T) {
	maintained := map[string]bool{"24.10": true, "23.05": true}
	newer := []string{"24.10.4", "24.10.3", "23.05.6", "23.05.5", "22.03.7", "21.02.7"}
	tests := []struct {
		installed string
		below     bool
		want      []string
	}{
		{"24.10.3", false, []string{"24.10.4 stable"}},
		{"23.05.5", false, []string{"23.05.6 stable", "24.10.4 next_branch"}},
		{"23.05.6", false, []string{"24.10.4 next_branch"}},
		{"22.03.5", false, []string{"24.10.4 end_of_life", "23.05.6 end_of_life", "22.03.7 stable"}},
		{"19.07.10", false, []string{"24.10.4 end_of_life", "23.05.6 end_of_life", "22.03.7 end_of_life", "21.02.7 end_of_life"}},
		{"23.05.5", true, []string{"23.05.6 minimum", "24.10.4 minimum"}},
	}
	for _, tt := range tests {
		var offered []string
		for _, v := range newer {
			if upstream.CompareVersions(v, tt.installed) > 0 {
				offered = append(offered, v)
			}
		}
		var got []string
		for _, c := range advance(tt.installed, offered, maintained, tt.below) {
			got = append(got, c.version+" "+string(c.reason))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("from %s (-want +got):\n%s", tt.installed, diff)
		}
	}
}

func TestPoliciesByReleaseAndBranch(t *testing.T) {
	p := Policy{Offer: []string{"24.10", "23.05.5", "SNAPSHOT"}, HoldBack: []string{"24.10.4"}, Minimum: "23.05.0", Newest: "24.10.5"}
	for version, want := range map[string][2]bool{
		"24.10.4": {true, false}, "24.10.3": {true, true}, "24.10.6": {false, false}, "23.05.5": {true, true},
		"23.05.4": {false, false}, "24.10-SNAPSHOT": {false, false}, "22.03.5": {false, false}, "SNAPSHOT": {false, false},
	} {
		if got := [2]bool{p.offers(version), p.recommends(version)}; got != want {
			t.Errorf("%s: offered, recommended %v, want %v", version, got, want)
		}
	}
	var none Policy
	if !none.recommends("SNAPSHOT") || none.below("1") {
		t.Error("an empty policy refuses something")
	}
}

var _ server.Catalogue = (*catalogue)(nil)

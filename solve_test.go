package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sample"
	"attendant/server"
)

const archerC7 = `"target":"ath79/generic","profile":"tplink_archer-c7-v5"`

// What a person reads, in a golden file.
func TestSolveOfTheSample(t *testing.T) {
	p := startConfigured(t, "")
	var transcript strings.Builder
	const release, snapshot = `"version":"24.10.4",` + archerC7, `"version":"SNAPSHOT","target":"ath79/generic","profile":"comfast_cf-e314n-v2"`
	for _, tt := range []struct{ device, packages string }{
		{release, `["luci","tmux"]`},
		{release, `["lucy","tmx"]`},
		{release, `["auc"]`},
		{release, `["conflict-a","conflict-b"]`},
		{release, `["dnsmasq-full"]`},
		{release, `["dnsmasq-full","-dnsmasq"]`},
		{release, `["broken-chain"]`},
		{release, `["kernel-pinned"]`},
		{release, `["needs-mta","libubox20240329"]`},
		{snapshot, `["luci"]`},
		{snapshot, `["bigpkg"]`},
		{snapshot, `["offline-maps","luci"]`},
	} {
		packages := tt.packages
		_, body := post(t, p.base+"/api/v1/solve", `{`+tt.device+`,"packages":`+packages+`}`)
		var s server.Solved
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatalf("%s: %v in %s", packages, err, body)
		}
		fmt.Fprintf(&transcript, "== %s\n%s\npossible %v, certain %v, %d packages\n", packages, s.Detail, s.Possible, s.Certain, len(s.Packages))
		for _, r := range s.Repairs {
			fmt.Fprintf(&transcript, "  %s %q\n", r.Detail, r.Packages)
		}
		if s.Possible != (len(s.Problems) == 0 || !s.Certain) || s.Sizes.Installed == 0 && s.Possible {
			t.Errorf("%s: %s", packages, body)
		}
	}
	golden(t, "testdata/solve.golden", transcript.String())
}

// What is promised is what is built.
func TestSolutionIsTheManifest(t *testing.T) {
	t.Parallel()
	p := startConfigured(t, "")
	for _, request := range []string{
		`{"version":"24.10.4",` + archerC7 + `,"packages":["luci","tmux","-ppp"]}`,
		`{"version":"24.10.3","target":"x86/64","profile":"generic","packages":["luci","vim-full"]}`,
		`{"version":"24.10.4","target":"x86/64","profile":"generic","packages":["luci-app-opkg","needs-mta"]}`,
	} {
		_, body := post(t, p.base+"/api/v1/solve", request)
		var s server.Solved
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		built := await(t, p.base, request)
		if !s.Certain || built.Status != 200 {
			t.Fatalf("certain %v; built %d %s", s.Certain, built.Status, built.Detail)
		}
		for name, version := range built.Manifest {
			if s.Manifest[name] != version && s.Manifest[name] != "" {
				t.Errorf("%s: promised %s, built %s", name, s.Manifest[name], version)
			}
			if s.Manifest[name] == "" && name != "libc" && name != "kernel" {
				t.Errorf("%s %s was not promised", name, version)
			}
		}
		for name := range s.Manifest {
			if built.Manifest[name] == "" {
				t.Errorf("%s was promised", name)
			}
		}
	}
}

func TestImpossibleSelectionsAreNotQueued(t *testing.T) {
	p := startConfigured(t, "")
	tests := []struct {
		packages, code, says string
	}{
		{`"packages":["lucy"]`, "package_missing", "Error: Impossible package selection: missing (lucy). "},
		{`"packages":["conflict-b","conflict-a"]`, "package_conflict", "Error: Impossible package selection: conflicts (conflict-a, conflict-b). "},
		{`"packages_versions":{"luci":"0.0"}`, "package_version", "Error: Impossible package selection: luci version not as requested: 0.0 vs. "},
	}
	for _, tt := range tests {
		status, body := post(t, p.base+"/api/v1/build", `{"version":"24.10.4",`+archerC7+`,`+tt.packages+`}`)
		var reply struct {
			Code, Detail string
			Hash         string                 `json:"request_hash"`
			Problems     []imagebuilder.Problem `json:"problems"`
		}
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			t.Fatal(err)
		}
		if status != 500 || reply.Code != tt.code || !strings.HasPrefix(reply.Detail, tt.says) || len(reply.Problems) == 0 || !imagebuilder.ValidHash(reply.Hash) {
			t.Errorf("%s: %d %s", tt.packages, status, body)
		}
	}
	resp, err := http.Get(p.base + "/api/v1/stats/summary")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if summary, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(summary), `"queue_length":0`) {
		t.Errorf("%s, %v", summary, err)
	}
}

func TestPackagesOfTheSample(t *testing.T) {
	p := startConfigured(t, "")
	var page server.PackagePage
	if err := json.Unmarshal([]byte(get(t, p.base+"/api/v1/packages?version=SNAPSHOT&target=x86/64&q=lucI&limit=3")), &page); err != nil {
		t.Fatal(err)
	}
	if page.Total < 5 || len(page.Packages) != 3 || page.Packages[0].Name != "luci" || page.Packages[0].Feed == "" || page.Packages[0].Description == "" {
		t.Errorf("got %+v", page)
	}
	var luci server.PackageDetails
	if err := json.Unmarshal([]byte(get(t, p.base+"/api/v1/packages/libubox?version=24.10.4&target=ath79/generic")), &luci); err != nil {
		t.Fatal(err)
	}
	if luci.Version == "" || !slices.Contains(luci.RequiredBy, "ubus") && !slices.Contains(luci.RequiredBy, "libubus") || len(luci.Depends) == 0 {
		t.Errorf("got %+v", luci)
	}
}

func TestSolveCommand(t *testing.T) {
	p := startConfigured(t, "")
	flags := []string{"solve", "--server", p.base, "--version", "24.10.4", "--target", "ath79/generic", "--profile", "tplink_archer-c7-v5"}
	code, out, _ := runAttendant(t, nil, append(slices.Clone(flags), "--packages", "luci tmux", "--list")...)
	if code != exitOK || !strings.HasPrefix(out, "This selection can be built: ") || !strings.Contains(out, "asked for") || !strings.Contains(out, "needed by ") {
		t.Errorf("code %d\n%s", code, out)
	}
	code, out, _ = runAttendant(t, nil, append(slices.Clone(flags), "--packages", "lucy")...)
	if code != exitFailure || !strings.Contains(out, "What would work:") || !strings.Contains(out, "--packages luci") {
		t.Errorf("code %d\n%s", code, out)
	}
	code, out, _ = runAttendant(t, nil, append(slices.Clone(flags), "--packages", "auc", "--from", "23.05.5", "--json")...)
	if code != exitOK || !strings.Contains(out, `"owut"`) || !json.Valid([]byte(out)) {
		t.Errorf("code %d\n%s", code, out)
	}
	code, _, errs := runAttendant(t, nil, "solve", "--server", p.base, "--version", "1.1", "--target", "ath79/generic", "--profile", "x")
	if code != exitFailure || !strings.Contains(errs, "Unsupported branch: 1.1") {
		t.Errorf("code %d\n%s", code, errs)
	}
}

// Of packages that only the operator's own ImageBuilder may have, nothing is
// certain: it decides.
func TestOwnImageBuilderDecides(t *testing.T) {
	p := startConfigured(t, fmt.Sprintf(`
[[imagebuilder]]
version = "24.10.4"
target = "ath79/generic"
path = %q
`, filepath.Join(sampleTree(t, sample.Options{}), "releases/24.10.4/targets/ath79/generic/openwrt-imagebuilder-24.10.4-ath79-generic.Linux-x86_64.tar.zst")))
	request := `{"version":"24.10.4",` + archerC7 + `,"packages":["lucy"]}`
	reply, err := ask(http.MethodPost, p.base+"/api/v1/build", request)
	if err != nil || reply.HTTP != http.StatusAccepted {
		t.Fatalf("refused before the ImageBuilder was asked: %+v, %v", reply, err)
	}
	if reply = awaitBuild(t, p.base, reply.RequestHash); reply.Code != "package_missing" {
		t.Errorf("got %+v", reply)
	}
	if _, body := post(t, p.base+"/api/v1/solve", request); !strings.Contains(body, `"possible":true`) || !strings.Contains(body, "operator's own") {
		t.Errorf("got %s", body)
	}
}

// A request hash stands for all orders of its packages, so all of them must come
// to one image.
func TestOrderOfPackagesChangesNothing(t *testing.T) {
	p := startConfigured(t, "")
	names := strings.Fields("luci tmux needs-mta mta-big mta-small libustream-openssl dnsmasq-full -dnsmasq -libustream-mbedtls vim vim-full nano curl wpad-mbedtls -wpad-basic-mbedtls conflict-a babeld")
	solve := func(packages []string) (hash string, m imagebuilder.Manifest) {
		list, err := json.Marshal(packages)
		if err != nil {
			t.Fatal(err)
		}
		_, body := post(t, p.base+"/api/v1/solve", `{"version":"24.10.4",`+archerC7+`,"packages":`+string(list)+`}`)
		var s server.Solved
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		return s.RequestHash, s.Manifest
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		set := slices.Clone(names[:2+rng.IntN(5)])
		hash, manifest := solve(set)
		rng.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
		other, again := solve(set)
		if hash != other {
			t.Fatalf("%q: two hashes", set)
		}
		if diff := cmp.Diff(manifest, again); diff != "" {
			t.Errorf("%q: %s", set, diff)
		}
	}
}

package server

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

const (
	body2017 = `{"distro":"LEDE","version":"24.10.4","target":"ar71xx","subtarget":"generic","board":"archer-c7-v5","model":"TP-Link Archer C7 v5","packages":["luci","kernel","libc"]}`
	body2018 = `{"version":"24.10.4","distro":"OpenWrt","target":"ar71xx","subtarget":"generic","board":"archer-c7-v5","packages":["luci"]}`
	body2019 = `{"version":"24.10.4","distro":"OpenWrt","target":"ath79/generic","board":"tplink,archer-c7-v5","packages":["luci"]}`
)

func (ts *testServer) ask(path, body string) answer { return ts.do(http.MethodPost, path, body) }

// startLegacy is start with LEDE as another name of the distribution.
func startLegacy(t *testing.T, change func(*Options)) *testServer {
	return start(t, func(o *Options) {
		o.Distributions = map[string]Catalogue{"openwrt": o.Catalogue, "lede": o.Catalogue}
		if change != nil {
			change(o)
		}
	})
}

// The flow of 2017: the same POST again and again, 201, 206, 200.
func TestLegacyFlow2017(t *testing.T) {
	ts := startLegacy(t, nil)
	release := ts.holdBuilds()
	blocker := ts.post(plainBody("blocker"))
	if blocker.status != 202 {
		t.Fatalf("%d %s", blocker.status, blocker.raw)
	}
	ts.awaitState(blocker.hash(), imagebuilder.Building)
	if a := ts.ask("/image-request", body2017); a.status != 201 || string(a.raw) != `{"queue":1}` {
		t.Errorf("queued: %d %s", a.status, a.raw)
	}
	release()
	release = ts.holdBuilds()
	var a answer
	for range 500 {
		if a = ts.ask("//image-request", body2017); a.status != 201 { // LuCI's two slashes
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if a.status == 206 && (len(a.raw) != 0 || a.header.Get("Content-Length") != "0") {
		t.Errorf("building: %q", a.raw)
	}
	release()
	for range 500 {
		if a = ts.ask("/image-request", body2017); a.status == 200 || a.status >= 400 {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	url, _ := a.json["url"].(string)
	if a.status != 200 || !strings.HasPrefix(url, ts.base+"/store/") || a.json["request_hash"] != nil {
		t.Fatalf("ready: %d %s", a.status, a.raw)
	}
	image := ts.get(strings.TrimPrefix(url, ts.base))
	sum := md5.Sum(image.raw)
	if image.status != 200 || a.json["checksum"] != hex.EncodeToString(sum[:]) || a.json["filesize"] != float64(len(image.raw)) {
		t.Errorf("image: %d, %d bytes; %s", image.status, len(image.raw), a.raw)
	}
	if n := ts.builder.builds.Load(); n != 2 {
		t.Errorf("%d builds; the same request has one", n)
	}
}

// awaitState waits until a build is in a state.
func (ts *testServer) awaitState(hash string, state imagebuilder.State) {
	ts.t.Helper()
	for range 1000 {
		if status, ok := ts.queue.Lookup(hash); ok && status.Job.State == state {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	ts.t.Fatalf("%s does not become %s", hash, state)
}

// The flows of 2018 and 2019: one POST, then GET by the request_hash.
func TestLegacyFlowByHash(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		address    func(ts *testServer, a answer) string // of the image, as the client makes it
	}{
		{"2018", body2018, func(ts *testServer, a answer) string {
			address, _ := a.json["sysupgrade"].(string)
			return strings.TrimPrefix(address, ts.base)
		}},
		{"2019", body2019, func(_ *testServer, a answer) string {
			return fmt.Sprintf("/%s/%s", a.json["files"], a.json["sysupgrade"]) // auc 0.1.4: {server}/{files}/{sysupgrade}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ts := start(t, nil)
			release := ts.holdBuilds()
			ts.awaitState(ts.post(plainBody("blocker")).hash(), imagebuilder.Building)
			a := ts.ask("/api/upgrade-request", tt.body)
			if a.status != 202 || a.header.Get("X-Imagebuilder-Status") != "queue" || a.header.Get("X-Build-Queue-Position") != "1" {
				t.Fatalf("queued: %d %v %s", a.status, a.header, a.raw)
			}
			if !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "X-Build-Queue-Position") {
				t.Error("LuCI's page cannot read the position")
			}
			poll := "/api/upgrade-request/" + a.hash()
			release()
			job := strings.TrimSuffix(a.hash(), mark2019)
			ts.await(job)
			a = ts.get(poll)
			if a.status != 200 || a.json["image_hash"] != job {
				t.Fatalf("ready: %d %s", a.status, a.raw)
			}
			address := tt.address(ts, a)
			image := ts.get(address)
			if image.status != 200 || image.header.Get("Content-Length") != fmt.Sprint(len(image.raw)) || len(image.raw) == 0 {
				t.Fatalf("%s: %d", address, image.status)
			}
			folder := address[:strings.LastIndex(address, "/")]
			sums := ts.get(folder + "/sha256sums")
			line := fmt.Sprintf("%s *%s\n", sha256Hex(image.raw), address[strings.LastIndex(address, "/")+1:])
			if sums.status != 200 || !strings.Contains(string(sums.raw), line) {
				t.Errorf("sums: %d %q, want %q among them", sums.status, sums.raw, line)
			}
			var listing []legacyFile
			if err := json.Unmarshal(ts.get(folder+"/").raw, &listing); err != nil || len(listing) < 2 {
				t.Errorf("listing: %v %v", listing, err)
			}
			if info := ts.get("/api/image/" + job); info.status != 200 || info.json["profile"] != "tplink_archer-c7-v5" || info.json["model"] != "TP-Link Archer C7 v5" {
				t.Errorf("info: %s", info.raw)
			}
			if manifest := ts.get("/api/manifest/" + job); string(manifest.raw) != `{"luci":"1"}` {
				t.Errorf("manifest: %s", manifest.raw)
			}
			if log := ts.get("/" + strings.TrimPrefix(a.json["log"].(string), ts.base)); log.status != 200 {
				t.Errorf("log: %d", log.status)
			}
			// By the body, as LuCI and the design have it.
			if again := ts.ask("/api/upgrade-request", tt.body); again.status != 200 || again.json["sysupgrade"] != a.json["sysupgrade"] {
				t.Errorf("again: %d %s", again.status, again.raw)
			}
			if again := ts.ask("/api/upgrade-request", `{"request_hash":"`+strings.TrimPrefix(poll, "/api/upgrade-request/")+`","packages":7}`); again.status != 400 {
				t.Errorf("packages of no form: %d %s", again.status, again.raw)
			}
			if again := ts.ask("/api/upgrade-request", `{"request_hash":"`+strings.TrimPrefix(poll, "/api/upgrade-request/")+`"}`); again.status != 200 {
				t.Errorf("by hash in the body: %d %s", again.status, again.raw)
			}
		})
	}
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Every failure has the status of its period.
func TestLegacyFailures(t *testing.T) {
	for _, tt := range []struct {
		code   imagebuilder.Code
		status [3]int // 2017, 2018, 2019
	}{
		{imagebuilder.CodeImageTooBig, [3]int{400, 413, 413}},
		{imagebuilder.CodePackageMissing, [3]int{400, 422, 422}},
		{imagebuilder.CodePackageConflict, [3]int{500, 500, 409}},
		{imagebuilder.CodePackageSelect, [3]int{500, 500, 409}},
		{imagebuilder.CodeNoImage, [3]int{500, 501, 501}},
		{imagebuilder.CodeBuildFailed, [3]int{500, 500, 500}},
		{imagebuilder.CodeNoSpace, [3]int{500, 500, 500}},
		{imagebuilder.CodeInternal, [3]int{500, 500, 500}},
	} {
		t.Run(string(tt.code), func(t *testing.T) {
			ts := start(t, nil)
			ts.builder.fail = func(imagebuilder.Request) *imagebuilder.Error {
				e := imagebuilder.Errorf(tt.code, "Error: it broke")
				e.Unknown = map[imagebuilder.Code][]string{imagebuilder.CodePackageMissing: {"one", "two"}}[tt.code]
				return e
			}
			hash := ts.ask("/api/upgrade-request", body2018).hash()
			ts.await(hash)
			for i, a := range []answer{ts.ask("/image-request", body2018), ts.get("/api/upgrade-request/" + hash), ts.get("/api/build-request/" + hash + mark2019)} {
				if a.status != tt.status[i] || a.json["error"] != "Error: it broke" || a.json["status"] != float64(tt.status[i]) {
					t.Errorf("%d: %d %s, want %d", 2017+i, a.status, a.raw, tt.status[i])
				}
				if a.status == 422 && a.header.Get("X-Unknown-Package") != "one, two" {
					t.Errorf("X-Unknown-Package: %q", a.header.Get("X-Unknown-Package"))
				}
				if _, ok := a.json["log"].(string); !ok {
					t.Errorf("%d: no log in %s", 2017+i, a.raw)
				}
			}
		})
	}
}

// What cannot be met is told at once, and auc gets the header that it crashes
// without.
func TestLegacyUnknownPackage(t *testing.T) {
	ts := start(t, nil)
	a := ts.ask("/api/upgrade-request", strings.Replace(body2019, `"luci"`, `"luci","nowhere"`, 1))
	if a.status != 422 || a.header.Get("X-Unknown-Package") != "nowhere" {
		t.Errorf("%d %v %s", a.status, a.header, a.raw)
	}
	if waiting, building := ts.queue.Length(); waiting+building != 0 {
		t.Errorf("%d, %d in the queue", waiting, building)
	}
	h := http.Header{}
	setLegacyUnknown(h, nil, "Fehler: ü\r\nX-Other: 1")
	if got := h.Get("X-Unknown-Package"); strings.ContainsAny(got, "\r\nü") || got == "" {
		t.Errorf("%q", got)
	}
}

// A device without a sysupgrade image: 501 for a router, files for others.
func TestLegacyWithoutSysupgrade(t *testing.T) {
	ts := start(t, nil)
	hash := ts.ask("/api/build-request", body2018).hash()
	ts.await(hash)
	status, _ := ts.queue.Lookup(hash)
	images := status.Job.Images.Images
	images[0].Type = "factory" // of the job that the queue holds
	defer func() { images[0].Type = "sysupgrade" }()
	if a := ts.get("/api/upgrade-request/" + hash); a.status != 501 || a.json["error"] == nil {
		t.Errorf("%d %s", a.status, a.raw)
	}
	a := ts.get("/api/build-request/" + hash)
	if a.status != 200 || a.json["sysupgrade"] != nil || a.json["files"] != ts.base+"/store/"+hash+"/" {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestSysupgradeImage(t *testing.T) {
	image := func(kind, filesystem string) imagebuilder.Image {
		return imagebuilder.Image{Name: kind + "-" + filesystem, Type: kind, Filesystem: filesystem}
	}
	for _, tt := range []struct {
		images []imagebuilder.Image
		want   string
	}{
		{[]imagebuilder.Image{image("factory", "squashfs"), image("sysupgrade", "ext4"), image("sysupgrade", "squashfs")}, "sysupgrade-squashfs"},
		{[]imagebuilder.Image{image("combined-efi", "squashfs"), image("combined", "ext4"), image("rootfs", "squashfs")}, "combined-ext4"},
		{[]imagebuilder.Image{image("sdcard", "squashfs")}, "sdcard-squashfs"},
		{[]imagebuilder.Image{image("factory", "squashfs"), image("kernel", "")}, ""},
		{nil, ""},
	} {
		got := ""
		if i := sysupgradeImage(&imagebuilder.ImageSet{Images: tt.images}); i != nil {
			got = i.Name
		}
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.images, got, tt.want)
		}
	}
}

// Bad input of each kind is told and changes nothing.
func TestLegacyBadInput(t *testing.T) {
	ts := start(t, func(o *Options) { o.AllowDefaults = false })
	const device = `"distro":"openwrt","version":"24.10.4","target":"ar71xx","subtarget":"generic","board":"archer-c7-v5"`
	many := `["p` + strings.Repeat(`","p`, 9999) + `"]`
	for _, tt := range []struct {
		path, body string
		status     int
		says       string // in the body or a header
	}{
		{"/api/upgrade-request", ``, 400, "no body"},
		{"/api/upgrade-request", `{"distro":`, 400, "not a JSON object"},
		{"/api/upgrade-request", `[]`, 400, "not a JSON object"},
		{"/api/upgrade-request", `null`, 400, "not a JSON object"},
		{"/api/upgrade-request", `{}`, 412, "lacks target"},
		{"/api/upgrade-request", `{"target":"ar71xx"}`, 412, "lacks subtarget"},
		{"/api/upgrade-request", `{"target":"ar71xx/generic"}`, 412, "lacks board"},
		{"/api/upgrade-check", `{"distro":"LEDE"}`, 412, "lacks version"},
		{"/api/upgrade-check", `{"distro":"LEDE","target":"ath79/generic","version":7}`, 400, "version"},
		{"/update-request", `{"version":"17.01.4"}`, 400, "lacks distro"},
		{"/image-request", `{"distro":"LEDE","version":"17.01.4","target":"ar71xx","subtarget":"generic"}`, 400, "lacks board"},
		{"/image-request", `{` + device + `,"network_profile":"../../etc"}`, 400, "network profile"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "openwrt", "gentoo", 1) + `}`, 412, "gentoo"},
		{"/image-request", `{` + strings.Replace(device, "openwrt", "gentoo", 1) + `}`, 400, "gentoo"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "24.10.4", "9.9", 1) + `}`, 412, "9.9"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "24.10.4", "../..", 1) + `}`, 400, "release"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "ar71xx", "mars", 1) + `}`, 412, "mars/generic"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "ar71xx", "a/../b", 1) + `}`, 400, "target"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "archer-c7-v5", "toaster", 1) + `}`, 412, "toaster"},
		{"/api/upgrade-request", `{` + strings.Replace(device, "archer-c7-v5", "x\\u0000y", 1) + `}`, 400, "board"},
		{"/api/upgrade-request", `{` + strings.Replace(device, `"board":"archer-c7-v5"`, `"machine":"TP-LINK CPE510/520"`, 1) + `}`, 412, "tplink_cpe510-v1, tplink_cpe510-v2"},
		{"/api/upgrade-request", `{` + device + `,"packages":["--force"]}`, 400, "package"},
		{"/api/upgrade-request", `{` + device + `,"packages":{"luci":7}}`, 400, "packages"},
		{"/api/upgrade-request", `{` + device + `,"packages":7}`, 400, "packages"},
		{"/api/upgrade-request", `{` + device + `,"packages":["$(reboot)"]}`, 400, "package"},
		{"/api/upgrade-check", `{"distro":"openwrt","version":"19.07.10","target":"ath79/generic","installed":` + many + `}`, 400, "packages"},
		{"/api/upgrade-check", `{"distro":"openwrt","version":"19.07.10","target":"ath79/generic","installed":{"luci":"1 2; reboot"}}`, 400, "version of luci"},
		{"/api/upgrade-request", `{` + device + `,"defaults":"` + strings.Repeat("a", 20481) + `"}`, 420, "20481"},
		{"/api/upgrade-request", `{` + device + `,"defaults":"echo"}`, 400, "defaults"},
		{"/api/upgrade-request", `{"request_hash":"f6560b451837"}`, 404, "no build"},
	} {
		a := ts.ask(tt.path, tt.body)
		text, _ := a.json["error"].(string)
		if a.status != tt.status || !strings.Contains(text, tt.says) || a.json["detail"] != text || a.json["status"] != float64(a.status) {
			t.Errorf("%s %.150s: %d %.300s; want %d, %q", tt.path, tt.body, a.status, a.raw, tt.status, tt.says)
		}
		if a.status == 412 && strings.HasPrefix(tt.says, "lacks ") && a.header.Get("X-Missing-Param") != strings.TrimPrefix(tt.says, "lacks ") {
			t.Errorf("%.150s: X-Missing-Param %q", tt.body, a.header.Get("X-Missing-Param"))
		}
	}
	for path, status := range map[string]int{
		"/api/upgrade-request/f6560b451837": 404, "/api/build-request/" + strings.Repeat("0", 64): 404, "/api/upgrade-check/x": 404,
		"/api/image/x": 404, "/api/manifest/" + strings.Repeat("0", 64): 404, "/store/x": 404, "/api/upgrade-request": 405, "/update-request": 405,
		"/api/models": 400, "/api/models?distro=openwrt&version=9": 412, "/api/packages_image?distro=openwrt": 400,
		"/api/packages_image?distro=openwrt&version=24.10.4&target=mars/x&profile=y": 412,
	} {
		if a := ts.get(path); a.status != status {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	if waiting, building := ts.queue.Length(); waiting+building != 0 || ts.builder.builds.Load() != 0 {
		t.Errorf("%d, %d in the queue", waiting, building)
	}
}

// While upstream's data are on their way the clients are told to wait, but not
// for ever.
func TestLegacyUpstreamUnavailable(t *testing.T) {
	now := time.Now()
	ts := startLegacy(t, func(o *Options) { o.Now = func() time.Time { return now } })
	ts.catalog.down.Store(true)
	if a := ts.ask("/image-request", body2017); a.status != 201 || string(a.raw) != "{}" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	for _, path := range []string{"/api/upgrade-request", "/api/build-request"} {
		if a := ts.ask(path, body2018); a.status != 202 || a.header.Get("X-Imagebuilder-Status") != "initialize" {
			t.Errorf("%s: %d %v %s", path, a.status, a.header, a.raw)
		}
	}
	now = now.Add(readyWithin + time.Second)
	if a := ts.ask("/api/upgrade-request", body2018); a.status != 503 || a.json["error"] == nil || a.header.Get("Retry-After") == "" {
		t.Errorf("after a while: %d %s", a.status, a.raw)
	}
	if a := ts.get("/api/versions"); a.status != 503 {
		t.Errorf("versions: %d %s", a.status, a.raw)
	}
	if a := ts.get("/api/distros"); a.status != 200 || !strings.Contains(string(a.raw), `"latest":""`) {
		t.Errorf("distributions: %d %s", a.status, a.raw)
	}
	ts.catalog.down.Store(false)
	if a := ts.ask("/api/upgrade-request", body2018); a.status != 202 || a.hash() == "" {
		t.Errorf("when it is back: %d %s", a.status, a.raw)
	}
}

// checkCatalogue answers upgrade checks with what a test wants.
type checkCatalogue struct {
	*stubCatalogue
	question UpgradeQuestion
	upgrade  *Upgrade
	err      error
}

func (c *checkCatalogue) Upgrade(_ context.Context, q UpgradeQuestion) (*Upgrade, error) {
	c.question = q
	return c.upgrade, c.err
}

func TestLegacyCheck(t *testing.T) {
	release := &Upgrade{
		Version: "24.10.4", VersionCode: "r1-a", Reason: ReasonEndOfLife, Detail: "There is something.",
		Packages: map[string]string{"luci": "2", "tmux": "3"}, Upgrades: map[string][2]string{"luci": {"1", "2"}}, Missing: map[string][]string{"gone": {}},
	}
	packages := &Upgrade{Version: "19.07.10", Reason: ReasonPackages, Packages: map[string]string{"luci": "2"}, Upgrades: map[string][2]string{"luci": {"1", "2"}}}
	snapshot := &Upgrade{Version: "SNAPSHOT", VersionCode: "r2-b", Reason: ReasonSnapshot, Packages: map[string]string{}, Upgrades: map[string][2]string{}}
	const from = `"distro":"LEDE","version":"17.01.4","target":"ar71xx","subtarget":"generic"`
	const from2019 = `"distro":"OpenWrt","version":"18.06.2","target":"ar71xx/generic"`
	for _, tt := range []struct {
		name, path, body string
		upgrade          *Upgrade
		err              error
		status           int
		want             string
	}{
		{"2017", "/update-request", `{` + from + `,"packages":{"luci":"1","tmux":"2","kernel":"4"}}`, release, nil, 200,
			`{"version":"24.10.4","detail":"There is something.","updates":{"luci":["2","1"]},"packages":["gone","luci","tmux"]}`},
		{"2017, nothing but the release", "/update-request", `{` + from + `}`, release, nil, 200, `{"version":"24.10.4","detail":"There is something."}`},
		{"2017, packages not asked for", "/update-request", `{` + from + `,"packages":{"luci":"1"}}`, packages, nil, 204, ``},
		{"2017, packages asked for", "/update-request", `{` + from + `,"packages":{"luci":"1"},"update_packages":1}`, packages, nil, 200,
			`{"updates":{"luci":["2","1"]},"packages":["luci"]}`},
		{"2018", "/api/upgrade-check", `{` + from + `,"packages":{"luci":"1","tmux":"2"},"upgrade_packages":"0"}`, release, nil, 200,
			`{"version":"24.10.4","detail":"There is something.","upgrades":{"luci":["2","1"]},"packages":["gone","luci","tmux"]}`},
		{"2018, as LuCI says yes", "/api/upgrade-check", `{` + from + `,"packages":{"luci":"1"},"upgrade_packages":"1"}`, packages, nil, 200,
			`{"upgrades":{"luci":["2","1"]},"packages":["luci"]}`},
		{"2018, as LuCI says no", "/api/upgrade-check", `{` + from + `,"packages":{"luci":"1"},"upgrade_packages":"0"}`, packages, nil, 204, ``},
		{"2019", "/api/upgrade-check", `{` + from2019 + `,"revision":"r7258-5eb055306f","installed":{"luci":"1"},"upgrade_packages":1}`, snapshot, nil, 200,
			`{"version":"SNAPSHOT","revision":"r2-b","upgrades":{},"packages":[]}`},
		{"2019 without a version", "/api/upgrade-check", `{"distro":"OpenWrt","target":"ar71xx/generic"}`, nil, nil, 200, `{"version":"24.10.4"}`},
		{"nothing newer", "/api/upgrade-check", `{` + from2019 + `}`, nil, nil, 204, ``},
		{"unavailable, 2017", "/update-request", `{` + from + `}`, nil, imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable, "x"), 201, `{}`},
		{"unavailable, 2018", "/api/upgrade-check", `{` + from + `}`, nil, imagebuilder.Errorf(imagebuilder.CodeUpstreamUnavailable, "x"), 202, `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &checkCatalogue{upgrade: tt.upgrade, err: tt.err}
			ts := start(t, func(o *Options) {
				c.stubCatalogue = o.Catalogue.(*stubCatalogue)
				o.Catalogue, o.Distributions = c, map[string]Catalogue{"openwrt": c, "lede": c}
			})
			a := ts.ask(tt.path, tt.body)
			if a.status != tt.status || string(a.raw) != tt.want {
				t.Errorf("%d %s\nwant %d %s", a.status, a.raw, tt.status, tt.want)
			}
			if slices.Contains(c.question.Names(), "kernel") {
				t.Errorf("the kernel is asked for: %v", c.question.Names())
			}
		})
	}
}

// What the check says comes back from auc until 0.0.8 as the request, with its
// own members added: it must mean what it meant.
func TestLegacyCheckComesBackAsRequest(t *testing.T) {
	reply := (&legacyRequest{form: form2018, packages: legacyPackages{{Name: "luci"}}}).upgrade(&Upgrade{
		Version: "24.10.4", VersionCode: "r1-a", Reason: ReasonStable, Detail: "d", Packages: map[string]string{"luci": "1"}, Upgrades: map[string][2]string{"luci": {"1", "2"}},
	})
	var members map[string]any
	if err := json.Unmarshal(jsonBody(reply), &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]any{"distro": "LEDE", "target": "ar71xx", "subtarget": "generic", "board": "archer-c7-v5"} {
		if _, taken := members[name]; taken {
			t.Errorf("%s stands in the reply of the check", name)
		}
		members[name] = value
	}
	q, err := decodeLegacy(jsonBody(members), form2018)
	if err != nil || q.version != "24.10.4" || q.hash != "" || q.form != form2018 || len(q.packages) != 1 || q.packages[0].Name != "luci" {
		t.Errorf("%+v, %v", q, err)
	}
}

func TestLegacyPackagesInEveryForm(t *testing.T) {
	for body, want := range map[string]string{
		`{"luci":"1","kernel":"4","libc":"1","tmux":"2"}`: "luci=1 tmux=2",
		`["luci","","libgcc1"," tmux  htop "]`:            "luci= tmux= htop=",
		`"luci tmux\nhtop"`:                               "luci= tmux= htop=",
		`[]`:                                              "",
		`{}`:                                              "",
		`""`:                                              "",
		`["-ppp","+luci"]`:                                "-ppp= +luci=",
	} {
		q, err := decodeLegacy([]byte(`{"packages":`+body+`}`), form2018)
		var got []string
		for _, p := range q.packages {
			got = append(got, p.Name+"="+p.Value)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v", body, got, err)
		}
	}
	for _, body := range []string{`7`, `[7]`, `{"a":1}`, `true`, `{"a":null}`} {
		if _, err := decodeLegacy([]byte(`{"packages":`+body+`}`), form2018); imagebuilder.AsError(err).Code != imagebuilder.CodeMalformed {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestLegacyVersions(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "17.01.4": "17.01.4", "SNAPSHOT": "SNAPSHOT", "snapshot": "SNAPSHOT", "snapshots": "SNAPSHOT",
		"18.06-SNAPSHOT": "18.06-SNAPSHOT", "18.06.0-RC1": "18.06.0-rc1", "mysnapshot": "mysnapshot",
	} {
		if got := legacyVersion(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		once := legacyVersion(rapid.String().Draw(t, "version"))
		if legacyVersion(once) != once {
			t.Fatalf("%q becomes %q", once, legacyVersion(once))
		}
	})
	for _, tt := range []struct{ distro, to, old, want string }{
		{"lede", "24.10.4", "", "17.01.0"}, {"openwrt", "24.10.4", "", "18.06.0"}, {"", "24.10.4", "", "18.06.0"},
		{"openwrt", "18.06.9", "", ""}, {"openwrt", "17.01.7", "", ""}, {"lede", "17.01.7", "", ""},
		{"lime", "24.10.4", "", ""}, {"openwrt", "24.10.4", "19.07.3", "19.07.3"},
	} {
		q := legacyRequest{version: tt.to, oldVersion: tt.old}
		if got := q.from(tt.distro); got != tt.want {
			t.Errorf("%+v: from %q", tt, got)
		}
	}
}

func TestLegacyData(t *testing.T) {
	ts := start(t, func(o *Options) {
		o.Distributions = map[string]Catalogue{"openwrt": o.Catalogue, "lede": o.Catalogue}
		o.PublicURL = "https://upgrade.example/"
	})
	hash := ts.ask("/api/build-request", body2018).hash()
	ts.await(hash)
	ts.builder.fail = func(imagebuilder.Request) *imagebuilder.Error {
		return imagebuilder.Errorf(imagebuilder.CodeImageTooBig, "too big")
	}
	ts.await(ts.ask("/api/build-request", strings.Replace(body2018, "luci", "tmux", 1)).hash())
	for path, want := range map[string]string{
		"/api/distros":               `[{"id":1,"name":"openwrt","alias":"OpenWrt","latest":"24.10.4","description":"","distro":"openwrt","distro_alias":"OpenWrt","distro_description":""}]`,
		"/api/versions":              `[{"id":1,"distro":"openwrt","version":"24.10.4","alias":"OpenWrt 24.10.4","description":"","snapshots":false}]`,
		"/api/versions?distro=LEDE":  `[{"id":1,"distro":"openwrt","version":"24.10.4","alias":"OpenWrt 24.10.4","description":"","snapshots":false}]`,
		"/api/versions?distro=other": `[]`,
		"/api/models?distro=openwrt&version=24.10.4&model_search=ARCHER":                                                `[{"id":1,"distro":"openwrt","version":"24.10.4","target":"ath79","subtarget":"generic","snapshots":false,"profile":"tplink_archer-c7-v5","model":"TP-Link Archer C7 v5"}]`,
		"/api/models?distro=openwrt&version=24.10.4&model_search=ath79/":                                                `[{"id":1,"distro":"openwrt","version":"24.10.4","target":"ath79","subtarget":"generic","snapshots":false,"profile":"tplink_archer-c7-v5","model":"TP-Link Archer C7 v5"}]`,
		"/api/models?distro=openwrt&version=24.10.4&model_search=toaster":                                               `[]`,
		"/api/packages_image?distro=openwrt&version=24.10.4&target=ath79&subtarget=generic&profile=tplink_archer-c7-v5": `{"packages":[]}`,
		"/api/default_packages?distro=openwrt&version=24.10.4&target=ath79/generic&profile=tplink_archer-c7-v5":         `[]`,
		"/api/v1/stats/popular_packages":                                                                                `[{"package_name":"luci","count":3},{"package_name":"tmux","count":1}]`,
		"/api/v1/stats/popular_targets":                                                                                 `[{"count":1,"build_seconds":0,"target":"ath79","subtarget":"generic"}]`,
		"/api/v1/stats/images":                                                                                          `{"total":2,"stored":1,"requested":0}`,
		"/api/v1/stats/image_stats":                                                                                     `{"total":2,"stored":1,"requested":0}`,
	} {
		if a := ts.get(path); a.status != 200 || string(a.raw) != want {
			t.Errorf("%s: %d\n%s\nwant\n%s", path, a.status, a.raw, want)
		}
	}
	for path, status := range map[string]string{"/api/v1/stats/images_latest": "untested", "/api/v1/stats/fails_latest": "imagesize_fail"} {
		var rows []legacyRow
		a := ts.get(path)
		if err := json.Unmarshal(a.raw, &rows); err != nil || len(rows) != 1 || rows[0].Status != status || rows[0].Subtarget != "generic" {
			t.Errorf("%s: %s", path, a.raw)
		}
		if strings.Contains(string(a.raw), hash) {
			t.Errorf("%s tells a hash, and who has it can fetch the image", path)
		}
	}
	if a := ts.get("/api/upgrade-request/" + hash); a.json["sysupgrade"] != "https://upgrade.example/store/"+hash+"/openwrt-24.10.4-sysupgrade.bin" {
		t.Errorf("behind a public address: %s", a.raw)
	}
}

// A request that shares images was never begun.
func TestLegacyImageThatIsShared(t *testing.T) {
	ts := startLegacy(t, nil)
	ts.await(ts.post(plainBody("luci")).hash())
	shared := ts.post(plainBody("same-content"))
	if shared.json["shared_with"] == nil {
		t.Fatalf("%d %s", shared.status, shared.raw)
	}
	a := ts.get("/api/image/" + shared.hash())
	if a.status != 200 || a.json["build_seconds"] != 0.0 || a.json["image_hash"] != shared.hash() {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestLegacyRowsTellTheirDistribution(t *testing.T) {
	ts := start(t, func(o *Options) {
		o.Distributions = map[string]Catalogue{"openwrt": o.Catalogue, "lime": &stubCatalogue{}}
	})
	ts.await(ts.ask("/api/build-request", body2018).hash())
	ts.await(ts.ask("/api/build-request", strings.Replace(body2018, "OpenWrt", "lime", 1)).hash())
	var rows []legacyRow
	a := ts.get("/api/v1/stats/images_latest")
	if err := json.Unmarshal(a.raw, &rows); err != nil || len(rows) != 2 || rows[0].Distro != "lime" || rows[1].Distro != "openwrt" {
		t.Errorf("%v: %s", err, a.raw)
	}
}

func FuzzDecodeLegacy(f *testing.F) {
	for _, body := range []string{body2017, body2018, body2019, `{"request_hash":"f6560b451837"}`, `{"packages":"a b","installed":["x"],"upgrade_packages":"1"}`, `{"packages":{"a":null}}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := decodeLegacy(body, form2018)
		if err != nil {
			if imagebuilder.AsError(err).Code != imagebuilder.CodeMalformed {
				t.Fatal(err)
			}
			return
		}
		for _, p := range q.packages {
			if p.Name == "" || notChosen[p.Name] {
				t.Fatalf("%q is left", p.Name)
			}
		}
		q.missing("distro", "version", "target", "subtarget", "board")
		q.from(q.distro)
	})
}

package web

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"attendant/imagebuilder"
)

var update = flag.Bool("update", false, "renew golden files")

func TestStatesOfThePage(t *testing.T) {
	f := newFakeAPI()
	builds := map[string]Build{hashA: doneBuild()}
	h := site(f, builds)
	failed := strings.Replace(hashA, "a", "b", 1)
	builds[failed] = failedBuild()
	queued := strings.Replace(hashA, "a", "c", 1)
	builds[queued] = Build{Position: 3, Wait: 4 * time.Minute, Job: &imagebuilder.Job{State: imagebuilder.Queued, Request: buildRequest()}}
	building := strings.Replace(hashA, "a", "d", 1)
	builds[building] = Build{Stage: imagebuilder.StageManifest, Done: 1, Total: 4, Job: &imagebuilder.Job{State: imagebuilder.Building, Request: buildRequest()}}

	tests := []struct {
		name, address string
		form          url.Values
		status        int
		wants         []string
	}{
		{"start", "/", nil, 200, []string{`name="q"`, `action="/recognize"`}},
		{"search", "/?q=b", nil, 200, []string{`/device?profile=dev&amp;target=ath79%2Fgeneric`, "Devices found: 1"}},
		{"device", "/device?target=ath79/generic&profile=a,dev", nil, 200, []string{
			`value="24.10.4" id="v-24.10.4" checked`, "This selection works", `value="dropbear" checked`, "Without it you may not be able to log in.",
			"Ready-made images of 24.10.4", "http://up.example/releases/24.10.4/targets/ath79/generic/x-squashfs-factory.bin", "About 5.0 MB"}},
		{"device, another release", "/device?target=ath79/generic&profile=dev&version=23.05.6&p=luci&remove=dropbear", nil, 200, []string{
			`value="23.05.6" id="v-23.05.6" checked`, `name="p" value="luci" checked`, `name="keep" value="dropbear">`, "left out: 1"}},
		{"form with an unticked package", "/check", url.Values{"target": {"ath79/generic"}, "profile": {"dev"}, "shown": {"base-files dropbear"}, "keep": {"base-files"}, "p": {"tmux"}, "more": {"luci, htop -kmod-usb2"}}, 200, []string{
			`name="p" value="htop" checked`, "left out: 2", "p=tmux&#43;luci&#43;htop"}},
		{"part of a page", "/check?part=verdict", url.Values{"target": {"ath79/generic"}, "profile": {"dev"}}, 200, []string{`<section class="card verdict good"`}},
		{"no such device", "/device?target=ath79/generic&profile=nosuch", nil, 404, []string{"No release that is offered here has this device"}},
		{"no device at all", "/device", nil, 404, []string{"names no device"}},
		{"queued", "/build/" + queued, nil, 200, []string{"Number 3 in the queue.", "Ready in about 4 min.", `<noscript><meta http-equiv="refresh" content="4">`}},
		{"building", "/build/" + building, nil, 200, []string{`value="25"`, `<li class="done">Prepare the tools`, `<li class="now" aria-current="step">Check the packages`}},
		{"done", "/build/" + hashA, nil, 200, []string{`<h2 id="file-0">The maker&#39;s firmware is still on the device`, "Download (5.4 MB)", "<bdi>auc</bdi></dt><dd><bdi>owut", "sha256sums", `class="qr"`}},
		{"done, for an upgrade", "/build/" + hashA + "?from=24.10.3", nil, 200, []string{`<h2 id="file-0">OpenWrt is already on the device`}},
		{"failed", "/build/" + failed, nil, 200, []string{"Two packages exclude each other", "<p lang=\"en\"><bdi>a and b exclude one another</bdi>", "a and b exclude each other.", `name="fix" value="b -ppp"`, "Leave out a"}},
		{"no such build", "/build/x", nil, 404, []string{"This image is not here"}},
		{"packages without a list", "/packages?version=24.10.4&target=ath79/generic&q=x", nil, 200, []string{"cannot be shown just now"}},
		{"packages of nothing", "/packages", nil, 404, []string{"names no release"}},
		{"status without figures", "/status", nil, 200, []string{"cannot be shown just now", "24.10.4, 24.10.3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := browse(t, h, tt.address, tt.form)
			if w.Code != tt.status {
				t.Errorf("status %d", w.Code)
			}
			contains(t, tt.name, w.Body.String(), tt.wants...)
			checkPage(t, w)
		})
	}
}

var inline = regexp.MustCompile(`(?i)<[^>]* (style|on[a-z]+)=|<style|<script>|javascript:`)

// checkPage checks what holds for every page: names from outside are text, and
// the policy lets nothing else run.
func checkPage(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	body := w.Body.String()
	if bad := inline.FindString(strings.ReplaceAll(body, "javascript:alert(3)</bdi>", "")); bad != "" {
		t.Errorf("in the page: %s", bad)
	}
	for _, bad := range []string{"<img", "alert(1)</script>", "<b>us</b>", "onerror=alert(2)>"} {
		if strings.Contains(body, bad) {
			t.Errorf("a name became markup: %s", bad)
		}
	}
	h := w.Header()
	if p := h.Get("Content-Security-Policy"); strings.Contains(p, "unsafe") || !strings.Contains(p, "default-src 'none'") {
		t.Errorf("policy %q", p)
	}
	if h.Get("Content-Length") == "" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", h)
	}
}

func TestPageSaysWhenSomethingCannotBeHad(t *testing.T) {
	tests := []struct {
		name    string
		without []string
		address string
		status  int
		want    string
	}{
		{"no search", []string{"GET /api/v1/devices"}, "/", 200, "The list of devices cannot be shown"},
		{"no resolver", []string{"POST /api/v1/solve"}, "/device?target=ath79/generic&profile=dev", 200, "Not checked yet"},
		{"no upgrade check", nil, "/device?target=ath79/generic&profile=dev&from=24.10.3&have=luci+base-files", 200, "cannot be told just now"},
		{"no overview", []string{"GET /json/v1/overview.json"}, "/", 200, "does not know yet what it can offer"},
		{"no overview, device", []string{"GET /json/v1/overview.json"}, "/device?target=ath79/generic&profile=dev", 404, "That did not work"},
	}
	for _, tt := range tests {
		for _, status := range []int{404, 503} {
			f := newFakeAPI()
			for _, address := range tt.without {
				f[address] = status
			}
			w := browse(t, site(f, nil), tt.address, nil)
			contains(t, tt.name, w.Body.String(), tt.want)
			if w.Code != tt.status && w.Code != status {
				t.Errorf("%s: status %d", tt.name, w.Code)
			}
		}
	}
}

func TestOfflineIsTold(t *testing.T) {
	f := newFakeAPI()
	f["GET /json/v1/overview.json"] = strings.Replace(overviewJSON, `"stale":false`, `"stale":true`, 1)
	for _, address := range []string{"/", "/device?target=ath79/generic&profile=dev", "/status"} {
		contains(t, address, browse(t, site(f, nil), address, nil).Body.String(), `It goes by what it knew 3 h ago`)
	}
}

func TestUpgradeIsShownAndTaken(t *testing.T) {
	f := newFakeAPI()
	var asked []map[string]any
	f["POST /api/v1/upgrade-check"] = func(r *http.Request) any {
		var q map[string]any
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		asked = append(asked, q)
		return `{"version":"24.10.4","reason":"stable","upgrades":{"luci":["1","2"]},"replacements":{"wpad-wolfssl":["wpad-mbedtls"],"gone":[]},
			"dropped":{"away":"It was <b>dropped</b>."},"added":{"fitblk":"Needed."},"missing":{"mine":["mime"]},"notes":["Read <this>."],
			"choices":{"wpad-wolfssl":{"default":"wpad-mbedtls","chosen":"wpad-mbedtls","options":[{"name":"wpad-mbedtls","detail":"The default."},{"name":"wpad-openssl","detail":"Other."}]}},
			"request":{"packages":["luci","wpad-mbedtls","base-files","-dropbear"]}}`
	}
	w := browse(t, site(f, nil), "/device?target=ath79/generic&profile=dev&from=24.10.3&have=luci%3D1+wpad-wolfssl+gone&remove=dropbear", nil)
	contains(t, "upgrade", w.Body.String(), "1 → 2", "<bdi>wpad-wolfssl</bdi></dt><dd><bdi>wpad-mbedtls", "<bdi>gone</bdi></dt>", "It was &lt;b&gt;dropped", "Not found in this release: 1", "Read &lt;this&gt;.",
		"There is a newer stable release.", `name="choice.wpad-wolfssl"`, `<option value="wpad-mbedtls" selected>`, `name="p" value="wpad-mbedtls" checked`, `name="keep" value="dropbear">`, "left out: 1")
	if strings.Contains(w.Body.String(), `name="p" value="base-files"`) {
		t.Error("a default package is asked for")
	}
	if len(asked) != 1 || asked[0]["to_version"] != "" || asked[0]["packages"].(map[string]any)["luci"] != "1" {
		t.Errorf("asked %v", asked)
	}
	if _, ok := asked[0]["packages"].(map[string]any)["-dropbear"]; !ok {
		t.Errorf("what was removed is not told: %v", asked)
	}
	// 204: nothing newer.
	f["POST /api/v1/upgrade-check"] = http.StatusNoContent
	w = browse(t, site(f, nil), "/device?target=ath79/generic&profile=dev&from=24.10.3&have=luci", nil)
	contains(t, "nothing newer", w.Body.String(), "24.10.3 with these packages is up to date", `name="p" value="luci" checked`)
}

func TestBuildIsRequested(t *testing.T) {
	f := newFakeAPI()
	var asked map[string]any
	f["POST /api/v1/build"] = func(r *http.Request) any {
		asked = nil
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		return `{"request_hash":"` + hashA + `"}`
	}
	form := url.Values{"target": {"ath79/generic"}, "profile": {"dev"}, "version": {"24.10.4"}, "p": {"luci", "tmux"}, "shown": {"ppp dropbear"}, "keep": {"dropbear"},
		"from": {"24.10.3"}, "rootfs": {"128"}, "fs": {"squashfs"}, "defaults": {"a\r\nb"}, "choice.x": {"y"}, "lang": {"de"}}
	w := browse(t, site(f, nil), "/build", form)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/build/"+hashA+"?from=24.10.3&lang=de" {
		t.Errorf("%d %s", w.Code, w.Header().Get("Location"))
	}
	got, _ := json.Marshal(asked)
	want := `{"choices":{"x":"y"},"client":"attendant-web/1.2","defaults":"a\nb","filesystem":"squashfs","from_version":"24.10.3","packages":["luci","tmux","-ppp"],"profile":"dev","rootfs_size_mb":128,"target":"ath79/generic","version":"24.10.4"}`
	if string(got) != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}

	// A repair is the whole list, also an empty one.
	form.Set("fix", "")
	browse(t, site(f, nil), "/build", form)
	if got, _ := json.Marshal(asked["packages"]); string(got) != "null" && string(got) != "[]" {
		t.Errorf("packages of an empty repair: %s", got)
	}

	f["POST /api/v1/build"] = `{"status":500,"code":"package_missing","detail":"x","problems":[{"kind":"other","package":"nosuch","detail":"nosuch is <in> no feed"}],"repairs":[{"detail":"R","remove":["tmux"],"packages":["luci"]}]}`
	f["POST /api/v1/solve"] = `{"possible":false,"problems":[{"kind":"missing","package":"nosuch","detail":"No.","nearest":["such"]}],"repairs":[{"detail":"R","add":["such"],"remove":["nosuch"],"packages":["such"]}]}`
	form.Del("fix")
	form.Del("lang")
	w = browse(t, site(f, nil), "/build", form)
	contains(t, "refused", w.Body.String(), "nosuch is &lt;in&gt; no feed", "This image cannot be made", `name="p" value="tmux" checked`, `class="main" name="fix" value="luci"`, "Leave out tmux")
	if strings.Contains(w.Body.String(), "This selection does not work") {
		t.Error("what is wrong is said twice")
	}
	if w.Code != 500 {
		t.Errorf("status %d", w.Code)
	}
	form.Set("rootfs", "many")
	if w := browse(t, site(f, nil), "/build", form); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("a size in words: %d", w.Code)
	}
}

func TestVerdicts(t *testing.T) {
	tests := []struct{ name, solve, want string }{
		{"fits", `{"possible":true,"certain":true,"sizes":{"flash":{"verdict":"fits","estimate":7000000,"limit":16000000}}}`, `value="7000000"`},
		{"tight", `{"possible":true,"certain":true,"sizes":{"flash":{"verdict":"tight","estimate":15900000,"limit":16000000}}}`, `verdict warned`},
		{"tight in words", `{"possible":true,"certain":true,"sizes":{"flash":{"verdict":"tight","estimate":15900000,"limit":16000000}}}`, "It may be too big"},
		{"never built for", `{"possible":true,"certain":true,"sizes":{"installed":3000000,"flash":{"verdict":"unknown","limit":16000000}}}`, "About 3.0 MB when installed."},
		{"too big", `{"possible":true,"certain":true,"sizes":{"flash":{"verdict":"too_big","estimate":17000000,"limit":16000000,"over":1000000}}}`, "Too much by 1.0 MB."},
		{"too big with a repair", `{"possible":true,"certain":true,"repairs":[{"detail":"R","remove":["maps"],"packages":["luci"]}],"sizes":{"flash":{"verdict":"too_big","estimate":17000000,"limit":16000000,"over":1000000}}}`, "Leave out maps"},
		{"uncertain", `{"possible":true,"certain":false,"doubts":["Perhaps <not>."]}`, "Perhaps &lt;not&gt;."},
		{"what comes along", `{"possible":true,"certain":true,"packages":[{"name":"tmux","requested":true},{"name":"libevent","reason":"tmux","installed_size":9000},{"name":"libssl","reason":"libevent"},{"name":"procd","default":true},{"name":"ubox","reason":"procd"},{"name":"x","reason":"y"},{"name":"y","reason":"x"}]}`, "Packages that come along: 2"},
		{"written wrong", `{"possible":false,"problems":[{"kind":"missing","package":"nosuch","detail":"No.","nearest":["such"]}],"repairs":[{"detail":"R","add":["such"],"remove":["nosuch"],"packages":["such"]}]}`, "Did you mean: <code><bdi>such"},
		{"written wrong, repaired", `{"possible":false,"problems":[{"kind":"missing","package":"nosuch","detail":"No.","nearest":["such"]}],"repairs":[{"detail":"R","add":["such"],"remove":["nosuch"],"packages":["such"]}]}`, "Take such in place of nosuch"},
		{"impossible", `{"possible":false,"problems":[{"kind":"other","detail":"So."}]}`, "This selection does not work"},
	}
	for _, tt := range tests {
		f := newFakeAPI()
		f["POST /api/v1/solve"] = tt.solve
		w := browse(t, site(f, nil), "/check?part=verdict", url.Values{"target": {"ath79/generic"}, "profile": {"dev"}})
		contains(t, tt.name, w.Body.String(), tt.want)
	}
}

func TestStatusIsDrawn(t *testing.T) {
	f := newFakeAPI()
	f["GET /api/v1/status"] = `{"version":"1","uptime_seconds":7300,"queue":{"waiting":2,"building":1,"limit":100,"workers":2,"jobs":[{"hash":"` + hashA + `","state":"queued","position":2,"expected_wait_seconds":120,"version":"24.10.4","target":"a/b","profile":"<i>dev"}]},
		"recent":[{"version":"24.10.4","target":"a/b","profile":"dev","state":"failed","finished":"2026-01-02T03:04:05Z","seconds":4.4,"detail":"<u>"}],
		"cache":{"images":3,"used":1000000,"budget":4000000,"hits":3,"requests":4,"hit_rate":0.75,"seconds_saved":120},"builders":{"used":1,"budget":2},"disk":{"free":5000000000,"total":9000000000},
		"upstream":[{"distro":"openwrt","url":"http://up","age_seconds":60,"stale":true}],"warnings":[{"code":"no_sandbox","detail":"No <sandbox>."}],
		"days":[{"date":"2026-01-01","requests":10,"hits":5,"builds":4,"failures":1},{"date":"2026-01-02","requests":20,"hits":20,"builds":0,"failures":0}]}`
	w := browse(t, site(f, nil), "/status", nil)
	checkPage(t, w)
	contains(t, "status", w.Body.String(), "75 %", "&lt;i&gt;dev", "Number 2 in the queue.", "No &lt;sandbox&gt;.", "Failed.", "&lt;u&gt;", "2026-01-02 03:04 UTC",
		`<rect class="whole" x="0" y="40" width="8" height="40"/><rect class="part" x="0" y="60" width="8" height="20"/>`,
		`<rect class="whole" x="10" y="0" width="8" height="80"/><rect class="part" x="10" y="0" width="8" height="80"/>`, "30 in all, 25 answered at once", "5 in all, 1 failed", "Running for 2 h.")
	if c := newChart(nil, nil); c.Width() != 10 || c.Sum != 0 {
		t.Errorf("no days: %+v", c)
	}
}

func TestAssetsMayBeKeptForEver(t *testing.T) {
	h := site(newFakeAPI(), nil)
	page := browse(t, h, "/device?target=ath79/generic&profile=dev", nil).Body.String()
	names := regexp.MustCompile(`/assets/[a-z]+-[0-9a-f]{12}\.(js|css|svg)`).FindAllString(page, -1)
	if len(names) < 4 {
		t.Fatalf("the page refers to %v", names)
	}
	total := 0
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		plain := browse(t, h, name, nil)
		r := httptest.NewRequest(http.MethodGet, name, nil)
		r.Header.Set("Accept-Encoding", "br, gzip;q=0.5")
		packed := httptest.NewRecorder()
		h.ServeHTTP(packed, r)
		z, err := gzip.NewReader(packed.Body)
		if err != nil || packed.Header().Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: %v %v", name, err, packed.Header())
		}
		total += packed.Body.Len()
		if unpacked, err := io.ReadAll(z); err != nil || string(unpacked) != plain.Body.String() {
			t.Errorf("%s: packed differs from plain: %v", name, err)
		}
		if c := plain.Header().Get("Cache-Control"); !strings.Contains(c, "immutable") {
			t.Errorf("%s: %s", name, c)
		}
		for _, m := range regexp.MustCompile(`from "\./([^"]+)"`).FindAllStringSubmatch(plain.Body.String(), -1) {
			if browse(t, h, "/assets/"+m[1], nil).Code != http.StatusOK {
				t.Errorf("%s imports %s, which is not there", name, m[1])
			}
		}
		r.Header.Set("If-None-Match", plain.Header().Get("ETag"))
		again := httptest.NewRecorder()
		if h.ServeHTTP(again, r); again.Code != http.StatusNotModified {
			t.Errorf("%s again: %d", name, again.Code)
		}
	}
	if total > 40_000 {
		t.Errorf("the assets have %d bytes, compressed", total)
	}
	if w := browse(t, h, "/assets/style-000000000000.css", nil); w.Code != http.StatusNotFound {
		t.Errorf("an old name: %d", w.Code)
	}
}

func TestPrefixOfADistribution(t *testing.T) {
	s := New(Options{API: newFakeAPI(), Prefix: func(*http.Request) string { return "/d/lime" }, Build: func(string) (Build, bool) { return doneBuild(), true }})
	for _, route := range []struct {
		handle  func(http.ResponseWriter, *http.Request, string)
		address string
	}{{s.start, "/?q=b"}, {s.device, "/device?target=ath79/generic&profile=dev"}, {s.build, "/build/" + hashA}, {s.status, "/status"}} {
		w := httptest.NewRecorder()
		route.handle(w, httptest.NewRequest(http.MethodGet, route.address, nil), hashA)
		for _, m := range regexp.MustCompile(` (?:href|action|formaction|data-check|data-search)="(/[^"]*)"`).FindAllStringSubmatch(w.Body.String(), -1) {
			if a := m[1]; !strings.HasPrefix(a, "/d/lime") && !strings.HasPrefix(a, "/assets/") && !strings.HasPrefix(a, "/store/") && a != "/docs" {
				t.Errorf("%s: %s leaves the distribution", route.address, a)
			}
		}
	}
}

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"attendant/imagebuilder/sample"
)

// slowBuild is what builds take that something is to happen in the middle of,
// on a busy machine too.
const slowBuild = 15 * time.Second

const archerPage = "/device?target=ath79/generic&profile=tplink_archer-c7-v5"

// The page in a real browser, against a whole attendant with the sample
// distribution as its upstream.
func TestPage(t *testing.T) {
	b := startBrowser(t)
	base, _ := startApplication(t, sampleUpstream(t, 0), nil)
	awaitDevices(t, base)
	for name, test := range map[string]func(*testing.T, *browser, string){
		"from device to image":     pageDeviceToImage,
		"upgrade with a choice":    pageUpgrade,
		"failing build":            pageFailingBuild,
		"without scripts":          pageWithoutScripts,
		"dark":                     pageDark,
		"every language":           pageLanguages,
		"by plain http":            pageByPlainHTTP,
		"keyboard and less motion": pageKeyboard,
		"what is not there":        pageNotThere,
		"status":                   pageStatus,
		"weight":                   pageWeight,
		"backup":                   pageBackup,
		"hostile files":            pageHostileFiles,
		"old browser":              pageOldBrowser,
		"no administration":        pageWithoutAdmin,
		// These have servers of their own.
		"reload and restart in mid-build": pageSurvives,
		"offline":                         pageOffline,
		"hostile names":                   pageHostile,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b, base)
		})
	}
}

// awaitDevices waits until all releases' devices are known.
func awaitDevices(t *testing.T, base string) {
	t.Helper()
	for range 600 {
		var found struct {
			Devices []struct{ Versions []string }
		}
		if err := json.Unmarshal([]byte(get(t, base+"/api/v1/devices?q=archer+c7+v5")), &found); err != nil {
			t.Fatal(err)
		}
		if len(found.Devices) > 0 && len(found.Devices[0].Versions) == 3 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the devices do not become known")
}

func pageDeviceToImage(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.open("/")
	tb.see("#q")
	tb.look("start")
	tb.typeIn("#q", "archr c7 v5") // a typo is forgiven
	tb.until(`document.querySelector("#devices a strong")?.textContent.includes("Archer C7 v5")`)
	tb.look("start-found")
	tb.click("#devices a")
	tb.see("#verdict .good")
	if tb.text("h1") != "TP-Link Archer C7 v5" {
		t.Errorf("the device is %q", tb.text("h1"))
	}
	tb.look("device")

	// Packages by typing, with suggestions; the resolver answers meanwhile.
	tb.typeIn("#more", "tmu")
	tb.see(`#found button[data-add=tmux]`)
	tb.look("device-search")
	tb.click(`#found button[data-add=tmux]`)
	tb.see(`input[name=p][value=tmux]`)
	tb.typeIn("#more", "conflict-a conflict-b"+kb.Enter)
	tb.see("#verdict .bad")
	tb.look("device-conflict")
	if text := tb.text("#verdict"); !strings.Contains(text, "conflict-a and conflict-b exclude each other.") {
		t.Errorf("the verdict: %s", text)
	}
	tb.click("#verdict button[name=fix]")
	tb.see("#verdict .good")
	if n := eval[int](tb, `document.querySelectorAll("input[name=p]").length`); n != 2 {
		t.Errorf("%d packages after the repair", n)
	}
	// A default package that cuts off: the warning is there at once.
	tb.do(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("#editor section details").forEach(d => d.open = true)`))
	tb.click(`input[name=keep][value=dropbear]`)
	tb.until(`getComputedStyle(document.querySelector("input[name=keep][value=dropbear] ~ .warn")).display !== "none"`)
	tb.look("device-warned")
	tb.click(`input[name=keep][value=dropbear]`)
	tb.settle()
	tb.look("device-defaults")
	// Another release takes the selection along.
	tb.click(`#v-SNAPSHOT`)
	tb.until(`document.querySelector("input[name=for]").value === "SNAPSHOT"`)
	tb.click(`#v-24\.10\.4`)
	tb.until(`document.querySelector("input[name=for]").value === "24.10.4" && document.querySelector("input[name=p][value=tmux]")`)

	tb.click(".build button")
	tb.see("#result")
	tb.look("result")
	text := tb.text("#result")
	for _, want := range []string{"The maker's firmware is still on the device", "OpenWrt is already on the device", "How to install it", "For another device"} {
		if !strings.Contains(text, want) {
			t.Errorf("the result does not say %q:\n%s", want, text)
		}
	}
	checkDownload(tb)
	tb.look("result-checked")
}

// checkDownload lets the page check a file that was downloaded, and one that
// was damaged on the way.
func checkDownload(tb *tab) {
	tb.t.Helper()
	address := eval[string](tb, `document.querySelector("a.button.main").href`)
	u, err := url.Parse(address)
	if err != nil {
		tb.t.Fatal(err)
	}
	base, err := url.Parse(tb.base)
	if err != nil {
		tb.t.Fatal(err)
	}
	u.Host = "127.0.0.1:" + base.Port()
	content := []byte(get(tb.t, u.String()))
	good, bad := filepath.Join(tb.t.TempDir(), "good.bin"), filepath.Join(tb.t.TempDir(), "bad.bin")
	if err := os.WriteFile(good, content, 0o644); err != nil {
		tb.t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(bad, content, 0o644); err != nil {
		tb.t.Fatal(err)
	}
	tb.do(chromedp.SetUploadFiles(chromedp.CSS("#checked"), []string{bad}))
	tb.see("#checked-is.bad")
	tb.do(chromedp.SetUploadFiles(chromedp.CSS("#checked"), []string{good}))
	tb.see("#checked-is.good")
}

func pageUpgrade(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.open("/")
	tb.click("#paste summary")
	tb.do(chromedp.SetValue(chromedp.CSS("#said"), "nothing of the kind"))
	tb.mean("422")
	tb.click("#paste button")
	tb.see("[role=alert]")
	tb.look("paste-unknown")
	said := `root@node:~# ubus call system board
{"model": "TP-Link Archer C7 v5", "board_name": "tplink,archer-c7-v5", "release": {"version": "22.03.5", "revision": "r20134-5f15225c1e", "target": "ath79/generic"}}
luci - git-23.051.66410-a505bb1
libustream-wolfssl20201210 - 2022-12-07-9217ab46-2
wpad-basic-wolfssl - 2022-01-16-cff80b4f-18.1
auc - 0.3.1-1
tmux - 3.3a-1
`
	tb.do(chromedp.SetValue(chromedp.CSS("#said"), said))
	tb.look("paste")
	tb.click("#paste button")
	tb.see("#change")
	tb.look("upgrade")
	text := tb.text("#editor")
	for _, want := range []string{"gets no more security fixes", "In place of wpad-basic-wolfssl", "Updated:"} {
		if !strings.Contains(text, want) {
			t.Errorf("the upgrade does not say %q:\n%s", want, text)
		}
	}
	tb.choose(`select[name="choice.wpad-basic-wolfssl"]`, "wpad-basic-openssl")
	tb.see(`input[name=p][value=wpad-basic-openssl]`)
	tb.see("#verdict .bad") // this release does not have it
	tb.look("upgrade-choice")
	tb.choose(`select[name="choice.wpad-basic-wolfssl"]`, "wpad-basic-mbedtls")
	tb.see("#verdict .good")
	// What is chosen takes the place of a default package, and gives it back.
	tb.choose(`select[name="choice.libustream-wolfssl"]`, "libustream-openssl")
	tb.see(`input[name=p][value=libustream-openssl]:checked`)
	tb.until(`document.querySelector("input[name=keep][value=libustream-mbedtls]:not(:checked)") && !document.querySelector("[value=libustream-mbedtls] ~ .warn")`)
	tb.see("#verdict .good")
	tb.look("upgrade-default-replaced")
	tb.choose(`select[name="choice.libustream-wolfssl"]`, "libustream-mbedtls")
	tb.until(`document.querySelector("input[name=keep][value=libustream-mbedtls]:checked ~ .warn") && !document.querySelector("input[value=libustream-openssl]")`)
	tb.see("#verdict .good")
	tb.click(".build button")
	tb.see("#result")
	if first := tb.text("#file-0"); first != "OpenWrt is already on the device" {
		t.Errorf("the first file: %s", first)
	}
	tb.look("upgrade-result")
	tb.click("#changed summary")
	text = tb.text("#changed")
	for _, want := range []string{"From OpenWrt 22.03.5 to 24.10.4", "wpad-basic-wolfssl\nwpad-basic-mbedtls", "git-23.051.66410-a505bb1 → ", "There may be more changes."} {
		if !strings.Contains(text, want) {
			t.Errorf("of what has changed the result does not say %q:\n%s", want, text)
		}
	}
	tb.look("upgrade-changed")
	// The address that is shared does not tell what this router had.
	if address := eval[string](tb, `document.querySelector(".address").href`); strings.Contains(address, "have") || !strings.HasSuffix(address, "?from=22.03.5") {
		t.Errorf("the address to share is %s", address)
	}
}

func pageFailingBuild(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.open(archerPage + "&p=failing-postinst")
	tb.see("#verdict-h")
	tb.click(".build button")
	tb.see("#failure")
	tb.look("failed")
	if text := tb.text("#failure"); !strings.Contains(text, "A package could not be installed") {
		t.Errorf("the failure says: %s", text)
	}
	tb.click(".fixes a.button")
	tb.see(`input[name=p][value=failing-postinst]`)

	// What is impossible is refused at once, with the repair beside it.
	tb.mean("500")
	tb.open(archerPage + "&p=conflict-a+conflict-b")
	tb.see("#verdict .bad")
	tb.click("#verdict button[name=fix]")
	tb.see("#verdict .good")
	tb.open(archerPage + "&p=conflict-a+conflict-b")
	tb.click(".build button")
	tb.see("[role=alert]")
	tb.look("refused")
	tb.click("[role=alert] button[name=fix]") // makes the repaired image
	tb.see("#result")
}

func pageWithoutScripts(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base, command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	tb.open("/")
	tb.typeIn("#q", "wndr3800")
	tb.click("#search button")
	tb.see("#devices a")
	tb.lookPlain("noscript-start")
	tb.click("#paste summary")
	tb.see("#paste .nojs")
	tb.lookPlain("noscript-paste")
	if tb.text("#paste .nojs") == "" || eval[bool](tb, `[...document.querySelectorAll("input[type=file]")].some(e => e.getClientRects().length)`) {
		t.Error("a file can be chosen, which would be sent")
	}
	tb.click("#devices a")
	tb.see("#choose")
	tb.typeIn("#more", "conflict-a conflict-b")
	tb.click(`#more-hint ~ .nojs button`)
	tb.see("#verdict .bad")
	tb.lookPlain("noscript-conflict")
	tb.click("#verdict button[name=fix]")
	tb.see("#verdict .good")
	tb.click(".build button")
	tb.see("#result") // the waiting page loads itself again
	tb.lookPlain("noscript-result")
	if !strings.Contains(tb.text("#result .nojs"), "sha256sum") {
		t.Error("nothing tells how to check the file by hand")
	}
}

func pageDark(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base, command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	}))
	tb.open("/?q=netgear")
	tb.look("dark-start")
	tb.open(archerPage + "&from=24.10.3&have=luci+auc+conflict-a+conflict-b")
	tb.see("#verdict .bad")
	tb.look("dark-device")
	tb.open("/build/" + built(t, base, "luci"))
	tb.see("#result")
	tb.look("dark-result")
	if color := eval[string](tb, `getComputedStyle(document.documentElement).backgroundColor`); color != "rgb(16, 22, 20)" {
		t.Errorf("the page is %s in the dark", color)
	}
}

// built has an image with the packages, or a failure, and returns its hash.
func built(t testing.TB, base string, packages ...string) string {
	t.Helper()
	first, err := ask(http.MethodPost, base+"/api/v1/build", buildBody("24.10.4", "ath79/generic", "tplink_archer-c7-v5", packages...))
	if err != nil {
		t.Fatal(err)
	}
	awaitBuild(t, base, first.RequestHash)
	return first.RequestHash
}

// No text is wider than the narrowest telephone, in any language.
func pageLanguages(t *testing.T, b *browser, base string) {
	done, failed := built(t, base, "luci"), built(t, base, "failing-postinst")
	states := []struct{ name, path string }{
		{"start", "/?q=tp-link"}, {"nothing-found", "/?q=zzzzzz"}, {"packages", "/packages?version=24.10.4&target=ath79/generic&q=ssl"},
		{"device", archerPage + "&from=22.03.5&have=luci%3D1+wpad-basic-wolfssl+auc+bigpkg&remove=dropbear+ppp+netifd+wpad-basic-mbedtls"},
		{"conflict", archerPage + "&p=conflict-a+conflict-b+tmuxx"}, {"x86", "/device?target=x86/64&profile=generic"},
		{"result", "/build/" + done}, {"changed", "/build/" + done + "?from=22.03.5&have=luci%3D1+base-files%3D2+wpad-basic-wolfssl+away"}, {"no-release", archerPage + "&have=luci+tmux"},
		{"carried", "/?from=22.03.5&target=ath79/generic&have=luci+tmux"}, {"failed", "/build/" + failed}, {"status", "/status"}, {"gone", "/build/nosuch"},
	}
	tb := b.tab(t, base)
	tb.mean("404")
	tb.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 320, Height: 640, DeviceScaleFactor: 1, Mobile: true}))
	for _, lang := range []string{"en", "de", "es", "fr", "it", "pt"} {
		for _, state := range states {
			address := state.path
			if strings.Contains(address, "?") {
				address += "&lang=" + lang
			} else {
				address += "?lang=" + lang
			}
			tb.open(address)
			tb.see("h1")
			// Everything is opened, and the sentences are shown that scripts show one at a time.
			tb.do(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("main details").forEach(d => d.open = true);
				document.querySelectorAll("#file-is, #checked-is").forEach(e => { e.innerText = Object.values(e.dataset).join("\n"); })`))
			tb.fits(lang + " " + state.name + " at 320")
			tb.picture(state.name + "-" + lang + "-320")
			if got := eval[string](tb, `document.documentElement.lang`); got != lang {
				t.Errorf("%s: the page is in %s", address, got)
			}
		}
	}
	// The language that was chosen once holds for addresses that name none.
	tb.size(0)
	tb.open("/?lang=en")
	tb.click(".languages summary")
	tb.look("languages")
	tb.click(`.languages a[lang=de]`)
	tb.until(`document.documentElement.lang === "de"`)
	tb.open("/status")
	tb.until(`document.documentElement.lang === "de"`)
}

// In a valley pages come by plain http, where browsers have neither a
// clipboard nor check sums to offer.
func pageByPlainHTTP(t *testing.T, b *browser, base string) {
	hash := built(t, base, "luci")
	tb := b.tab(t, strings.Replace(base, "127.0.0.1", "valley.test", 1))
	tb.open("/build/" + hash)
	tb.see("#result")
	if eval[bool](tb, `isSecureContext || "subtle" in crypto`) {
		t.Error("the browser takes the page for a secure one: the test shows nothing")
	}
	checkDownload(tb)
	tb.click(".first .sum summary")
	tb.click(".first [data-copy]")
	tb.until(`document.querySelector(".first .told")?.textContent.includes("Copied")`)
	if got := tb.text(".address"); !strings.HasPrefix(got, tb.base+"/build/"+hash) {
		t.Errorf("the address for another device: %s", got)
	}
}

func pageKeyboard(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base, command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}},
	}))
	tb.size(1)
	tb.open("/")
	tb.see("#q")
	tb.do(chromedp.KeyEvent(kb.Tab))
	if at := eval[string](tb, `document.activeElement.className`); at != "skip" {
		t.Errorf("the first stop of the keyboard is %q", at)
	}
	tb.do(chromedp.KeyEvent(kb.Enter))
	tb.until(`location.hash === "#main"`)
	tb.do(chromedp.KeyEvent(kb.Tab))
	tb.until(`document.activeElement.id === "q"`)
	tb.do(chromedp.KeyEvent("comfast"))
	tb.settle()
	tb.do(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab))
	tb.at("after a search", "comfast_cf-e314n-v2")
	// What is found anew leaves the keyboard where it is, or where more can be typed.
	tb.search("comfast e314n")
	tb.at("after another search", "comfast_cf-e314n-v2")
	tb.search("netgear")
	tb.at("after a search for something else", "q")
	tb.search("comfast")
	tb.do(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab))
	tb.do(chromedp.KeyEvent(kb.Enter))
	tb.see("#choose")
	// Enter among the packages adds them; it does not make the image.
	tb.do(chromedp.Focus(chromedp.CSS("#more")), chromedp.KeyEvent("bigpkg"+kb.Enter))
	tb.see(`input[name=p][value=bigpkg]`)
	tb.look("device-big")
	if moving := eval[string](tb, `(() => { const li = document.createElement("ol"); li.className = "stages"; li.innerHTML = "<li class=now>x</li>"; document.body.append(li); return getComputedStyle(li.firstChild, "::before").animationName; })()`); moving != "none" {
		t.Errorf("something moves: %s", moving)
	}
}

func pageNotThere(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.mean("404")
	for name, path := range map[string]string{
		"gone": "/build/" + strings.Repeat("0", 64), "no-device": "/device?target=ath79/generic&profile=nosuch", "nothing-found": "/?q=zzzzzz",
	} {
		tb.open(path)
		tb.see("h1")
		tb.look(name)
	}
}

func pageStatus(t *testing.T, b *browser, base string) {
	built(t, base, "luci")
	tb := b.tab(t, base)
	tb.open("/status")
	tb.see("#live section")
	tb.look("status")
}

// The whole way costs no more than 60 KB, and what was kept is not sent again.
func pageWeight(t *testing.T, b *browser, base string) {
	built(t, base, "luci")
	tb := b.tab(t, base)
	tb.open("/")
	tb.see("#q")
	first := tb.weight()
	tb.typeIn("#q", "archer c7 v5")
	tb.until(`document.querySelector("#devices .hint")?.textContent.startsWith("Devices found") && document.querySelector("#devices strong").textContent.includes("Archer C7 v5")`)
	tb.click("#devices a")
	tb.see("#verdict .good")
	tb.typeIn("#more", "luci"+kb.Enter)
	tb.see(`input[name=p][value=luci]`)
	tb.settle()
	tb.click(".build button")
	tb.see("#result")
	all := tb.weight()
	heap := eval[float64](tb, `performance.memory.usedJSHeapSize`)
	t.Logf("first page %.1f kB, from device to image %.1f kB over the wire, headers included; JavaScript heap of the tab %.1f MB", first/1000, all/1000, heap/1e6)
	if all > 60_000 {
		t.Errorf("from device to image: %.0f bytes", all)
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, part := range tb.parts {
		t.Log(part)
	}
}

// A build goes on while its page is loaded again, and while the server is away.
func pageSurvives(t *testing.T, b *browser, _ string) {
	data, addr, upstream := t.TempDir(), freeAddress(t), sampleUpstream(t, slowBuild)
	t.Cleanup(func() { _ = removeScratch(data) })
	p := startProcess(t, addr, data, "--upstream", upstream)
	defer func() { p.kill() }()
	tb := b.tab(t, p.base)
	tb.mean("net::ERR")
	tb.open(archerPage + "&p=nano")
	tb.see("#choose")
	tb.click(".build button")
	tb.see("#pending")
	tb.do(chromedp.Reload())
	tb.see("#pending .stages .now")
	tb.click("#log summary")
	tb.look("building")

	p.kill()
	tb.see("#lost")
	tb.look("server-lost")
	p = startProcess(t, addr, data, "--upstream", upstream)
	tb.until(`document.querySelector("#lost").hidden`)
	tb.see("#result")
	if title := value(tb, chromedp.Title()); !strings.Contains(title, "ready") {
		t.Errorf("the title is %q", title)
	}
	p.stop(t)
}

// When upstream is gone the page says so, and images can still be made.
func pageOffline(t *testing.T, b *browser, _ string) {
	tree := httptest.NewServer(http.FileServer(http.Dir(sampleTree(t, sample.Options{}))))
	base, _ := startApplication(t, tree.URL, func(cfg *Config) { cfg.Refresh = 200 * time.Millisecond })
	built(t, base, "luci")
	tree.Close()
	for range 1200 {
		if strings.Contains(get(t, base+"/json/v1/overview.json"), `"stale":true`) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	tb := b.tab(t, base)
	tb.open(archerPage + "&p=luci")
	tb.see(".banner:not([hidden])")
	tb.look("offline")
	tb.click(".build button")
	tb.see("#result")
}

// lookPlain is look for a page without scripts, where axe cannot run.
func (tb *tab) lookPlain(name string) {
	tb.t.Helper()
	for i, v := range viewports {
		tb.size(i)
		tb.picture(name + "-" + v.name)
	}
	tb.size(0)
}

// Names of devices are hostile input: nothing of them runs.
func pageHostile(t *testing.T, b *browser, _ string) {
	srv := httptest.NewServer(hostileSite(t))
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	tb := b.tab(t, srv.URL)
	tb.open("/")
	tb.see("#q")
	tb.typeIn("#q", "x")
	tb.see("#devices a")
	tb.look("hostile-start")
	if text := tb.text("#devices strong"); !strings.Contains(text, "<script>") {
		t.Errorf("the name is shown as %q", text)
	}
	tb.click("#devices a")
	tb.see("#choose")
	tb.look("hostile-device")
	tb.typeIn("#more", "xx")
	tb.see("#found button")
	tb.click("#found button")
	tb.see("#chips input")
	tb.open("/status")
	tb.see("#live section")
	tb.look("status-full")
	tb.open("/admin")
	tb.logIn(pageToken)
	tb.see("#live #images")
	tb.do(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("#live details").forEach(d => d.open = true)`))
	tb.click("[data-sure]")
	tb.look("hostile-admin")
	for _, path := range []string{"/", archerPage, "/status"} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		if policy := resp.Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
	if eval[bool](tb, `"owned" in window`) {
		t.Error("something of a name ran")
	}
}

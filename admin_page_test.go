package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// A token, and what is typed in its place.
const (
	pageToken  = "0123456789abcdef0123456789abcdef"
	wrongToken = "another one, and not even a tökén"
)

// The operator's page in a real browser, against a whole attendant with a
// wrong replacement table and builds that take their time.
func TestAdminPage(t *testing.T) {
	secrets := t.TempDir()
	tables := filepath.Join(secrets, "tables", "openwrt")
	if err := os.MkdirAll(tables, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		filepath.Join(secrets, "token"): pageToken + "\n", filepath.Join(tables, "24.10.yaml"): "# our own\n" + hostileName + "\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	admin := func(cfg *Config) {
		cfg.AdminTokenFile = filepath.Join(secrets, "token")
		cfg.Replacements = filepath.Dir(tables)
		cfg.Policies = []Policy{{HoldBack: []string{"25.12"}}, {Community: "valley", Offer: []string{"24.10"}, Minimum: "24.10.1"}}
	}
	base, _ := startApplication(t, sampleUpstream(t, 0), admin)
	b := startBrowser(t)
	built(t, base, "luci")
	built(t, base, "failing-postinst")

	for name, test := range map[string]func(*testing.T, *browser, string){
		"token":           adminToken,
		"pin and evict":   adminPins,
		"every language":  adminLanguages,
		"dark":            adminDark,
		"without scripts": adminWithoutScripts,
		"cancel": func(t *testing.T, b *browser, _ string) { // needs builds that take their time
			base, _ := startApplication(t, sampleUpstream(t, slowBuild), admin)
			adminCancels(t, b, base)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b, base)
		})
	}
}

// logIn gives the page a token, over one that was refused.
func (tb *tab) logIn(token string) {
	tb.t.Helper()
	tb.see("#token")
	tb.do(chromedp.Focus(chromedp.CSS("#token")), chromedp.KeyEvent(token+kb.Enter))
}

// The token opens the page to this tab alone, and leaves no trace.
func adminToken(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.mean("401")
	tb.open("/status")
	tb.click(`footer a[href="/admin"]`)
	tb.see("#token")
	tb.look("admin-token")
	tb.logIn(wrongToken)
	tb.see("#refusal .bad")
	tb.look("admin-wrong")
	if text := tb.text("#refusal"); !strings.Contains(text, "The token is not this server's.") {
		t.Errorf("a wrong token: %s", text)
	}
	if kept := eval[string](tb, `document.activeElement.id + Object.values(sessionStorage).join()`); kept != "token" {
		t.Errorf("after a wrong token the keyboard is at, and the browser keeps, %q", kept)
	}
	tb.logIn(pageToken)
	tb.see("#live #images")
	tb.until(`document.activeElement.id === "sync"`)
	tb.look("admin")
	text := tb.text("#live")
	for _, want := range []string{"openwrt/24.10.yaml, line 2", "<script>window.owned=1", "The last right ones stay in force.", "hold_back", "For valley", "Trusted keys: 1",
		"A table is a mapping", "tplink_archer-c7-v5", "Failed.", "Documents that are up to date:"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	tb.click("#sync")
	tb.until(`document.querySelector("#told").textContent.includes("Documents: ")`)
	tb.until(`document.activeElement.id === "sync"`)
	tb.click("#sound summary")
	tb.until(`document.querySelector("#sound").textContent.includes("target 24.10.4 ath79/generic")`)
	// What upstream does not have is nothing to worry about.
	tb.click("#lacking summary")
	tb.until(`document.querySelector("#lacking").textContent.includes("There is nothing to mend")`)
	if eval[bool](tb, `!!document.querySelector("#troubled")`) {
		t.Errorf("documents are in trouble:\n%s", tb.text("#troubled"))
	}
	tb.look("admin-documents")
	traces := eval[string](tb, `document.cookie + location.href + JSON.stringify(Object.values(localStorage)) + document.querySelector("#token").value + document.documentElement.outerHTML`)
	if strings.Contains(traces, pageToken) || eval[string](tb, `sessionStorage.getItem("token")`) != pageToken || eval[bool](tb, `"owned" in window`) {
		t.Error("the token is kept where it should not, or something of a table ran")
	}
	// A reload keeps it, logging out does not.
	tb.do(chromedp.Reload())
	tb.see("#live #images")
	tb.click("#leave")
	tb.see("#token")
	if left := eval[string](tb, `document.querySelector("#live").textContent + sessionStorage.length`); left != "0" {
		t.Errorf("after logging out there is %q", left)
	}
}

func adminPins(t *testing.T, b *browser, base string) {
	hash := built(t, base, "tmux")
	tb := b.tab(t, base)
	tb.mean("404")
	tb.open("/admin")
	tb.logIn(pageToken)
	tb.click("#pin-" + hash)
	tb.until(`document.querySelector("#told").textContent.startsWith("The image is pinned")`)
	tb.until(`document.activeElement.id === "pin-` + hash + `" && document.activeElement.textContent.startsWith("Unpin")`)
	if eval[bool](tb, `!!document.querySelector("#evict-`+hash+`")`) {
		t.Error("a pinned image can be dropped")
	}
	tb.look("admin-pinned")
	tb.click("#pin-" + hash)
	tb.until(`document.querySelector("#told").textContent.includes("no longer pinned")`)

	// Dropping asks first, and can be left by the keyboard.
	tb.click("#evict-" + hash)
	tb.see("#sure-" + hash)
	tb.look("admin-sure")
	tb.do(chromedp.KeyEvent(kb.Escape))
	tb.until(`document.activeElement.id === "evict-` + hash + `" && document.querySelector("#sure-` + hash + `").hidden`)
	tb.click("#evict-" + hash)
	tb.click("#sure-" + hash + " [data-keep]")
	tb.click("#evict-" + hash)
	tb.click("#sure-" + hash + " [data-do]")
	tb.until(`document.querySelector("#told").textContent.startsWith("The image is dropped")`)
	tb.until(`document.activeElement.id === "told" && !document.querySelector("#evict-` + hash + `")`)
	// What the server refuses it says itself: another tab was quicker.
	tb.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#sync").dataset.do = "pin/` + hash + `"`))
	tb.click("#sync")
	tb.until(`document.querySelector("#told.bad[lang=en]")?.textContent.includes("no image")`)
	reply, err := ask(http.MethodGet, base+"/api/v1/build/"+hash, "")
	if err != nil || reply.HTTP != http.StatusNotFound {
		t.Errorf("the image is still there: %+v, %v", reply, err)
	}
}

func adminCancels(t *testing.T, b *browser, base string) {
	first, err := ask(http.MethodPost, base+"/api/v1/build", buildBody("24.10.4", "x86/64", "generic", "nano"))
	if err != nil {
		t.Fatal(err)
	}
	tb := b.tab(t, base)
	tb.open("/admin")
	tb.logIn(pageToken)
	tb.see("#cancel-" + first.RequestHash)
	tb.picture("admin-building")
	tb.click("#cancel-" + first.RequestHash)
	tb.until(`document.querySelector("#told").textContent === "The build is being ended."`)
	if end := awaitBuild(t, base, first.RequestHash); end.Code != "canceled" {
		t.Errorf("the build ended as %+v", end)
	}
	tb.until(`!document.querySelector("#cancel-` + first.RequestHash + `")`)
	tb.look("admin-canceled")
}

// No text is wider than the narrowest telephone, in any language.
func adminLanguages(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.mean("401")
	narrow := func(name string) {
		tb.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 320, Height: 640, DeviceScaleFactor: 1, Mobile: true}))
		tb.fits(name)
		tb.picture(name + "-320")
	}
	for _, lang := range []string{"en", "de", "es", "fr", "it", "pt"} {
		tb.open("/admin?lang=" + lang)
		tb.see("#token")
		// What a wrong token gets, without the pause that follows several of them.
		tb.do(chromedp.Evaluate[chromedp.Void](`fetch("/admin?part=live&lang=`+lang+`").then(r => r.text()).then(t => { document.querySelector("#refusal").innerHTML = t; })`, chromedp.EvalAwaitPromise))
		tb.see("#refusal .bad")
		narrow("admin-wrong-" + lang)
		tb.logIn(pageToken)
		tb.see("#live #images")
		tb.do(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("#live details").forEach(d => d.open = true)`))
		tb.click("[data-sure]")
		narrow("admin-" + lang)
		tb.click("#leave")
	}
}

func adminDark(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base, command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	}))
	tb.open("/admin")
	tb.logIn(pageToken)
	tb.see("#live #images")
	tb.look("dark-admin")
}

func adminWithoutScripts(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base, command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	tb.open("/admin")
	tb.see("main pre")
	if text := tb.text("main"); !strings.Contains(text, "needs JavaScript") || !strings.Contains(text, "attendant cancel HASH") {
		t.Errorf("without scripts: %s", text)
	}
	tb.lookPlain("noscript-admin")
}

// Where there is no token the page tells how there can be one, and nothing
// leads to it.
func pageWithoutAdmin(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base)
	tb.mean("404")
	tb.open("/admin")
	tb.see("main pre")
	tb.look("admin-off")
	if text := tb.text("main"); !strings.Contains(text, "admin_token_file") {
		t.Errorf("switched off: %s", text)
	}
	if eval[bool](tb, `!!document.querySelector("#token, footer a[href^='/admin']")`) {
		t.Error("the page asks for a token, or something leads to it")
	}
}

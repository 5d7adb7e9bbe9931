package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// The sizes at which every state of the page is looked at: an old telephone
// and a desk.
var viewports = []struct {
	name          string
	width, height int64
	mobile        bool
}{
	{"360x740", 360, 740, true},
	{"1280x800", 1280, 800, false},
}

// browser is a Chromium for one test.
type browser struct {
	ctx   context.Context
	shots string // folder for pictures; "" is none
	axe   string // axe-core's script
}

// startBrowser starts Debian's Chromium; it ends with the test. Pictures of
// all states go to the folder PAGE_TEST_SCREENSHOTS.
func startBrowser(t testing.TB) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is missing. On Debian: sudo apt-get install chromium")
	}
	shots := os.Getenv("PAGE_TEST_SCREENSHOTS")
	if shots != "" {
		if err := os.MkdirAll(shots, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.DisableGPU,
		chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-extensions", true), chromedp.Flag("mute-audio", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("no-proxy-server", true),
		// Of several tabs none is in the background, where browsers save work.
		chromedp.Flag("disable-background-timer-throttling", true), chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		// A name that is no address of this machine: browsers give pages from there no more than pages by plain http have.
		chromedp.Flag("host-resolver-rules", "MAP valley.test 127.0.0.1"),
		chromedp.WSURLReadTimeout(time.Minute),
	)
	ctx, _ := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		closing, done := context.WithTimeout(ctx, 10*time.Second)
		defer done()
		if err := chromedp.Cancel(closing); err != nil && !errors.Is(err, context.Canceled) {
			t.Logf("close chromium: %v", err)
		}
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return &browser{ctx: ctx, shots: shots, axe: axeScript(t)}
}

const axeVersion = "4.14.1"

var axeOnce = sync.OnceValues(func() (string, error) {
	path := os.Getenv("PAGE_TEST_AXE")
	if path == "" {
		dir, err := os.MkdirTemp("", "attendant-test-axe-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		out, err := exec.Command("npm", "install", "--silent", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir, "axe-core@"+axeVersion).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("fetch axe-core by npm (or name its axe.min.js in PAGE_TEST_AXE): %w\n%s", err, out)
		}
		path = filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	}
	script, err := os.ReadFile(path)
	return string(script), err
})

// axeScript is axe-core, which finds what keeps people out: PAGE_TEST_AXE
// names its axe.min.js, or else npm fetches it.
func axeScript(t testing.TB) string {
	t.Helper()
	script, err := axeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// tab is one tab of the browser, with storage of its own. What its pages throw
// or are refused fails the test.
type tab struct {
	*browser
	t        testing.TB
	ctx      context.Context
	base     string
	mu       sync.Mutex
	wrong    []string
	urls     map[network.RequestID]string
	parts    []string // what came, with its size
	received float64  // bytes that came over the wire, headers included
	harmless []string // parts of complaints that are meant to be
}

func (b *browser) tab(t testing.TB, base string, options ...step) *tab {
	t.Helper()
	tb := &tab{browser: b, t: t, base: base, urls: map[network.RequestID]string{}}
	opened, closeTab := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(tb.hear))
	if err := chromedp.Do(opened); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	ctx, stop := context.WithTimeout(opened, 8*time.Minute)
	tb.ctx = ctx
	t.Cleanup(func() {
		tb.mu.Lock()
		for _, w := range tb.wrong {
			meant := false
			for _, h := range tb.harmless {
				meant = meant || strings.Contains(w, h)
			}
			if !meant {
				t.Errorf("the browser complains: %s", w)
			}
		}
		tb.mu.Unlock()
		stop()
		closeTab()
	})
	tb.do(command(cdplog.Enable, cdp.Empty{}), command(network.Enable, network.EnableParams{}),
		// Every tab is one that somebody looks at, however many there are.
		command(emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}))
	tb.do(options...)
	tb.size(0)
	return tb
}

// step is something that is done in a tab.
type step = chromedp.Action[chromedp.Void]

// command is a step that is a command of the browser's own protocol.
func command[P, R any](c cdp.Command[P, R], params P) step {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, c, params)
		return chromedp.Void{}, err
	}
}

// hear notes what the browser complains of.
func (tb *tab) hear(event any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		wrong := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			wrong += " " + e.ExceptionDetails.Exception.Description
		}
		tb.wrong = append(tb.wrong, wrong)
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError {
			tb.wrong = append(tb.wrong, e.Entry.Text+" "+e.Entry.URL)
		}
	case *page.EventJavascriptDialogOpening:
		tb.wrong = append(tb.wrong, "a dialog opened: "+e.Message)
	case *network.EventResponseReceived:
		if e.Response != nil {
			tb.urls[e.RequestID] = e.Response.URL
		}
	case *network.EventLoadingFinished:
		tb.received += e.EncodedDataLength
		tb.parts = append(tb.parts, fmt.Sprintf("%6.0f %.70s", e.EncodedDataLength, strings.TrimPrefix(tb.urls[e.RequestID], tb.base)))
	}
}

// mean names a complaint of the browser that the test provokes.
func (tb *tab) mean(part string) { tb.harmless = append(tb.harmless, part) }

func (tb *tab) do(steps ...step) {
	tb.t.Helper()
	value(tb, chromedp.Steps(steps...))
}

// check ends the test with what the tab shows.
func (tb *tab) check(err error) {
	tb.t.Helper()
	if err == nil {
		return
	}
	late, stop := context.WithTimeout(context.WithoutCancel(tb.ctx), 5*time.Second)
	defer stop()
	at, _ := chromedp.Run(late, chromedp.Location())
	text, _ := chromedp.Run(late, chromedp.Text(chromedp.CSS("body")))
	tb.t.Fatalf("%v\nat %s:\n%.2000s", err, at, text)
}

// value is what an action returns. It is run again while it fails for the
// reason that the page was changed, or left, in the middle of it.
func value[T any](tb *tab, action chromedp.Action[T]) T {
	tb.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		v, err := chromedp.Run(tb.ctx, action)
		var gone *cdproto.Error
		if errors.As(err, &gone) && tb.ctx.Err() == nil && time.Now().Before(end) {
			continue
		}
		tb.check(err)
		return v
	}
}

// eval is what a script says.
func eval[T any](tb *tab, script string) T {
	tb.t.Helper()
	return value(tb, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

func (tb *tab) size(viewport int) {
	tb.t.Helper()
	v := viewports[viewport]
	tb.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: v.width, Height: v.height, DeviceScaleFactor: 1, Mobile: v.mobile,
	}), command(emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: v.mobile}))
}

// open goes to a page of the site.
func (tb *tab) open(path string) {
	tb.t.Helper()
	tb.do(chromedp.Navigate(tb.base + path))
}

// see waits until the page has a visible element.
func (tb *tab) see(selector string) {
	tb.t.Helper()
	tb.until(fmt.Sprintf(`[...document.querySelectorAll(%s)].some(e => e.getClientRects().length > 0)`, quoted(selector)))
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return string(b)
}

// settle waits until no part of the page is about to be put anew.
func (tb *tab) settle() {
	tb.t.Helper()
	tb.until(`!document.querySelector("[aria-busy=true]")`)
}

func (tb *tab) click(selector string) {
	tb.t.Helper()
	tb.see(selector)
	tb.settle()
	tb.do(chromedp.ScrollIntoView(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// set gives a field a value and tells the page by an event, as the browser does.
func (tb *tab) set(selector, value, event string) {
	tb.t.Helper()
	tb.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`(() => { const field = document.querySelector(%s); field.value = %s; field.dispatchEvent(new Event(%s, {bubbles: true})); })()`, quoted(selector), quoted(value), quoted(event))))
}

// choose picks from a menu, as a person does.
func (tb *tab) choose(selector, option string) {
	tb.t.Helper()
	tb.see(selector)
	tb.set(selector, option, "change")
}

func (tb *tab) typeIn(selector, text string) {
	tb.t.Helper()
	tb.do(chromedp.SendKeys(chromedp.CSS(selector), text, chromedp.NodeVisible))
}

// search puts a word into the search for devices, wherever the keyboard is.
func (tb *tab) search(word string) {
	tb.t.Helper()
	tb.set("#q", word, "input")
	tb.settle()
}

// at checks what the keyboard is on: an identifier, or a part of an address.
func (tb *tab) at(when, want string) {
	tb.t.Helper()
	if got := eval[string](tb, `document.activeElement.href || document.activeElement.id || document.activeElement.outerHTML.slice(0, 100)`); got != want && !strings.Contains(got, "="+want) {
		tb.t.Errorf("%s the keyboard is at %q", when, got)
	}
}

// text is what an element says.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return value(tb, chromedp.Text(chromedp.CSS(selector)))
}

// until waits for a condition in the page's own language, also while one page
// follows another.
func (tb *tab) until(condition string) {
	tb.t.Helper()
	end := time.Now().Add(90 * time.Second)
	for {
		is, err := chromedp.Run(tb.ctx, chromedp.Evaluate[bool](`Boolean(`+condition+`)`))
		if err == nil && is {
			return
		}
		if tb.ctx.Err() != nil || time.Now().After(end) {
			tb.check(fmt.Errorf("in vain for %s (%v)", condition, err))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// look takes pictures of the state at all sizes and checks what must hold in
// every state: nothing is wider than the window, everything reads from left to
// right, and axe finds nothing.
func (tb *tab) look(name string) {
	tb.t.Helper()
	tb.settle()
	for i, v := range viewports {
		tb.size(i)
		tb.fits(name + " at " + v.name)
		tb.straight(name + " at " + v.name)
		tb.picture(name + "-" + v.name)
		if i == 0 {
			tb.accessible(name)
		}
	}
	tb.size(0)
}

// picture writes a picture of the whole page, where somebody wants to look.
// Beside other tabs the browser now and then never takes it: it is asked again.
func (tb *tab) picture(name string) {
	tb.t.Helper()
	if tb.shots == "" {
		return
	}
	var picture []byte
	for range 4 {
		ctx, stop := context.WithTimeout(tb.ctx, 15*time.Second)
		var err error
		picture, err = chromedp.Run(ctx, chromedp.FullScreenshot(100))
		stop()
		if !errors.Is(err, context.DeadlineExceeded) {
			tb.check(err)
			break
		}
	}
	if picture == nil {
		tb.t.Fatalf("the browser takes no picture of %s", name)
	}
	if err := os.WriteFile(filepath.Join(tb.shots, name+".png"), picture, 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

// weight is what came over the wire so far, in bytes.
func (tb *tab) weight() float64 {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.received
}

// fits checks that nothing sticks out of the window or out of its button.
func (tb *tab) fits(where string) {
	tb.t.Helper()
	wide := eval[[]string](tb, `[...document.querySelectorAll("body *")].filter(e => {
		const r = e.getBoundingClientRect(), s = getComputedStyle(e);
		if (!r.width || !r.height || s.position === "absolute" || e.closest("pre, .hidden, .skip, svg, option")) return false;
		return r.right > innerWidth + 1 || r.left < -1 || (e.scrollWidth > e.clientWidth + 1 && s.display !== "inline" && !["INPUT", "TEXTAREA", "SELECT"].includes(e.tagName));
	}).map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 60) + " " + Math.round(e.getBoundingClientRect().right))`)
	if len(wide) > 0 {
		tb.t.Errorf("%s: wider than there is room: %s", where, strings.Join(wide, "; "))
	}
	if eval[bool](tb, `document.documentElement.scrollWidth > innerWidth`) {
		tb.t.Errorf("%s: the page scrolls sideways", where)
	}
}

// straight checks that no text has turned round another, as one that is written
// from right to left can: texts in a line follow each other, and their letters
// do.
func (tb *tab) straight(where string) {
	tb.t.Helper()
	turned := eval[[]string](tb, `(() => {
		const turned = [], range = document.createRange(), nodes = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
		const boxes = () => [...range.getClientRects()].filter(r => r.width);
		let before, said;
		for (let n; n = nodes.nextNode();) {
			if (!n.data.trim() || !n.parentElement.checkVisibility() || n.parentElement.closest("pre, svg, textarea, .hidden")) continue;
			range.selectNodeContents(n);
			const all = boxes();
			if (!all.length) continue;
			const first = Math.min(...all.filter(r => r.top === all[0].top).map(r => r.left)), end = all.at(-1);
			if (before && Math.abs(before.top - all[0].top) < 2 && first < before.left) turned.push(said + " | " + n.data.trim().slice(0, 60));
			before = {top: end.top, left: Math.min(...all.filter(r => r.top === end.top).map(r => r.left))};
			said = n.data.trim().slice(0, 60);
			const i = n.data.search(/[a-z]{2}/);
			if (i < 0) continue;
			const [a, b] = [i, i + 1].map(at => { range.setStart(n, at); range.setEnd(n, at + 1); return boxes()[0]; });
			if (a && b && a.top === b.top && b.left < a.left) turned.push(said);
		}
		return turned;
	})()`)
	if len(turned) > 0 {
		tb.t.Errorf("%s: read backwards: %q", where, turned)
	}
}

// accessible runs axe-core on the page.
func (tb *tab) accessible(where string) {
	tb.t.Helper()
	tb.do(chromedp.Evaluate[chromedp.Void](tb.axe + ";0"))
	result := eval[string](tb, `axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => n.html).slice(0, 3)}))))`)
	var violations []struct {
		ID, Impact, Help string
		Nodes            []string
	}
	if err := json.Unmarshal([]byte(result), &violations); err != nil {
		tb.t.Fatal(err)
	}
	for _, v := range violations {
		tb.t.Errorf("%s: axe: %s (%s): %s: %s", where, v.ID, v.Impact, v.Help, strings.Join(v.Nodes, " | "))
	}
}

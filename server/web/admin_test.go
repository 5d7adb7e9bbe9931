package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// adminSite is a site whose operator's state is answer.
func adminSite(answer any) http.Handler {
	f := newFakeAPI()
	f["GET /api/v1/admin/state"] = answer
	return siteOf(Options{API: f, Admin: true})
}

func TestAdminShowsTheState(t *testing.T) {
	q := quoted(hostile)
	state := `{"jobs":[{"hash":"` + hashA + `","state":"building","version":"24.10.4","target":"a/b","profile":` + q + `},{"hash":"bb","state":"queued","position":2,"profile":"dev"},
		{"hash":"cc","state":"failed","finished":"2026-01-02T03:04:05Z","detail":` + q + `}` + strings.Repeat(`,{"hash":"dd","state":"done","profile":"many"}`, 30) + `],
		"images":[{"hash":"ee","profile":"kept","bytes":5400000,"idle_seconds":7300},{"hash":"ff","profile":"secret","secret":true},{"hash":"gg","profile":"twice","pinned":true}],"image_count":9,"image_bytes":1000,"image_budget":4000,
		"pinned":[{"hash":"gg","profile":"twice","pinned":true}],"pinned_bytes":2000000,
		"replacements":[{"file":"/srv/replacements.d/openwrt/24.10.yaml","line":3,"text":` + q + `,"detail":` + q + `},{"detail":"All wrong."}],
		"policies":[{"hold_back":["25.12"]},{"community":` + q + `,"minimum":"24.10"}],
		"distributions":[{"name":` + q + `,"url":"http://up.example","trusted_keys":2,"feeds":["mesh"],"aliases":["lede"],"latest":["24.10.4"],"replacements":"openwrt"}],
		"documents":[{"distro":"openwrt","name":"versions","checked":"2026-01-02T03:04:05Z","age_seconds":120,"bytes":9000},{"distro":"openwrt","name":"old","checked":"2026-01-02T03:04:05Z","age_seconds":172900,"stale":true},{"distro":"openwrt","name":"none","stale":true,"detail":` + q + `},{"distro":"openwrt","name":"lacks","stale":true,"absent":true,"detail":"gone"}],
		"warnings":[{"code":"x","detail":` + q + `}]}`
	w := browse(t, adminSite(state), "/admin?part=live", nil)
	checkPage(t, w)
	body := w.Body.String()
	contains(t, "state", body, `data-do="cancel/`+hashA+`"`, `data-do="cancel/bb"`, "Number 2 in the queue.", "2026-01-02 03:04 UTC", "5.4 MB", "Last used 2 h ago.",
		`data-do="pin/ee"`, `data-do="evict/ee"`, `data-do="evict/ff"`, `data-do="unpin/gg"`, "pinned: 2.0 MB", "Only 3 are listed", `value="25"`,
		"openwrt/24.10.yaml, line 3", "All wrong.", "For everybody", "<dt><bdi>hold_back</bdi></dt><dd><bdi>25.12</bdi></dd>", "<dt><bdi>minimum</bdi></dt><dd><bdi>24.10</bdi></dd>",
		"Trusted keys: 2", "Own feeds: mesh", "Also called: lede", "Documents that are up to date: 1", "could not be had: 2", "Never reached.", "Out of date.", "does not have: 1", "<strong><bdi>lacks</bdi></strong>")
	for what, n := range map[string]int{"twice</bdi></a>": 1, "many</bdi></a>": maxEnded - 1, `data-do="pin/ff"`: 0, `data-do="evict/gg"`: 0, "Never reached.": 1} {
		if got := strings.Count(body, what); got != n {
			t.Errorf("%q stands there %d times, want %d", what, got, n)
		}
	}
	w = browse(t, adminSite(`{}`), "/admin?part=live&lang=de", nil)
	contains(t, "nothing", w.Body.String(), "Nichts wird gebaut", "Es sind keine Images da.", "Sie sind in Ordnung.", "Allen werden alle Versionen angeboten.")
}

func TestAdminTellsWhyNot(t *testing.T) {
	for status, want := range map[int]string{401: "not this server", 429: "too many tries", 404: "admin_token_file", 403: "There is nothing at this address."} {
		w := browse(t, adminSite(status), "/admin?part=live", nil)
		if w.Code != status {
			t.Errorf("%d became %d", status, w.Code)
		}
		contains(t, http.StatusText(status), w.Body.String(), want)
		if (w.Header().Get("WWW-Authenticate") != "") != (status == 401) {
			t.Errorf("%d: challenge %q", status, w.Header().Get("WWW-Authenticate"))
		}
	}
}

// What the browser says of itself reaches the API's guard, in the header only.
func TestAdminPassesTheTokenOn(t *testing.T) {
	var got http.Header
	var address string
	h := adminSite(func(r *http.Request) any {
		got, address = r.Header, r.URL.String()
		return `{}`
	})
	r := httptest.NewRequest(http.MethodGet, "/admin?part=live", nil)
	for name, value := range map[string]string{"Authorization": "Bearer geheim", "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Cookie": "a=b"} {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if len(got) != 3 || got.Get("Authorization") != "Bearer geheim" || got.Get("Origin") != "https://evil.example" || got.Get("Sec-Fetch-Site") != "cross-site" {
		t.Errorf("the API was told %v", got)
	}
	if strings.Contains(address+w.Body.String(), "geheim") || w.Header().Get("Set-Cookie") != "" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("the token is told on: %s %v", address, w.Header())
	}
}

// The page asks for the token without a name that a form would send, and is
// linked only where there is one.
func TestAdminAsksForTheToken(t *testing.T) {
	w := browse(t, adminSite(`{}`), "/admin?lang=fr", nil)
	checkPage(t, w)
	body := w.Body.String()
	contains(t, "page", body, `type="password" id="token"`, `autocomplete="off"`, "<noscript>", "attendant cancel HASH", `href="/admin?lang=fr" aria-current="page"`)
	if _, field, _ := strings.Cut(body, `type="password"`); strings.Contains(field[:strings.Index(field, ">")], "name=") {
		t.Error("a form would send the token")
	}
	contains(t, "status", browse(t, adminSite(`{}`), "/status", nil).Body.String(), `href="/admin"`)

	off := site(newFakeAPI(), nil)
	w = browse(t, off, "/admin", nil)
	checkPage(t, w)
	contains(t, "off", w.Body.String(), "switched off", "admin_token_file = ", "attendant evict HASH")
	if w.Code != http.StatusNotFound || strings.Contains(w.Body.String()+browse(t, off, "/status", nil).Body.String(), `href="/admin"`) {
		t.Errorf("switched off: %d", w.Code)
	}
}

func TestNothingIsSavedWithoutHits(t *testing.T) {
	f := newFakeAPI()
	for seconds, want := range map[string]string{"0": "Saved: 0 s of work", "1": "Saved: 1 s of work", "600": "Saved: 10 min of work"} {
		f["GET /api/v1/status"] = `{"cache":{"seconds_saved":` + seconds + `}}`
		contains(t, seconds, browse(t, site(f, nil), "/status", nil).Body.String(), want)
	}
}

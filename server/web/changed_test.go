package web

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"attendant/imagebuilder"
)

var tags = regexp.MustCompile(`<[^>]*>`)

// changes is what a page says of what has changed, without its markup.
func changes(body string) string {
	_, part, found := strings.Cut(body, `<details class="card" id="changed">`)
	if !found {
		return ""
	}
	part, _, _ = strings.Cut(part, "</details>")
	part = strings.ReplaceAll(part, "</dt>", ": ")
	return strings.Join(strings.Fields(tags.ReplaceAllString(part, " ")), " ")
}

func TestWhatHasChanged(t *testing.T) {
	const whole = "base-files=1 libubox20240329=5 libgone=1 "
	tests := []struct{ name, query, want string }{
		{"from the request alone", "", "What has changed No longer there: 1 old : Replaced by others: 1 auc : owut New: 1 fitblk :"},
		{"everything is known", "from=23.05.5&have=" + whole + "luci=1 auc=7 wpad-basic-wolfssl=2 away=3", "What has changed From OpenWrt 23.05.5 to 24.10.4 " +
			"No longer there: 2 away : It was dropped. libgone : Replaced by others: 2 auc : owut wpad-basic-wolfssl : wpad-basic-mbedtls New: 1 tmux : 4 Updated: 2 base-files : 1 → 2 libubox : 5 → 6"},
		{"a part is known", "from=23.05.5&have=luci tmux=3", "What has changed From OpenWrt 23.05.5 to 24.10.4 Updated: 1 tmux : 3 → 4 Only what is known of the router could be compared. There may be more changes."},
		{"without a release", "have=luci=1 away", "What has changed No longer there: 1 away : Only what is known of the router could be compared. There may be more changes."},
		{"the same", "from=24.10.4&have=base-files=2 luci=1 libubox=6 owut=8 tmux=4 wpad-basic-mbedtls=9", "What has changed From OpenWrt 24.10.4 to 24.10.4 The packages are the same."},
		{"an address that is none", "from=23.05.5&have=<b>=1 =2 --", "What has changed From OpenWrt 23.05.5 to 24.10.4 The packages are the same. Only what is known of the router could be compared. There may be more changes."},
	}
	b := doneBuild()
	b.Job.Images.Manifest = imagebuilder.Manifest{"base-files": "2", "luci": "1", "libubox20250101": "6", "owut": "8", "tmux": "4", "wpad-basic-mbedtls": "9"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeAPI()
			f["POST /api/v1/upgrade-check"] = `{"version":"24.10.4","replacements":{"auc":["owut"]},"dropped":{"away":"It was dropped."},
				"choices":{"wpad-basic-wolfssl":{"options":[{"name":"wpad-basic-mbedtls"},{"name":"wpad-basic-openssl"}]}}}`
			q := url.Values{}
			for pair := range strings.SplitSeq(tt.query, "&") {
				name, value, _ := strings.Cut(pair, "=")
				q.Set(name, value)
			}
			w := browse(t, site(f, map[string]Build{hashA: b}), "/build/"+hashA+"?"+q.Encode(), nil)
			checkPage(t, w)
			if got := changes(w.Body.String()); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			// The address for others does not say what this router has.
			if strings.Contains(w.Body.String(), `class="address" data-copy-link>`) && strings.Contains(regexp.MustCompile(`<a href="([^"]*)" class="address"`).FindString(w.Body.String()), "have=") {
				t.Error("the address to share says what is installed")
			}
		})
	}
	// Without the tables what is gone is known all the same.
	w := browse(t, site(newFakeAPI(), map[string]Build{hashA: b}), "/build/"+hashA+"?from=23.05.5&have=away+auc", nil)
	contains(t, "no tables", changes(w.Body.String()), "No longer there: 1 away", "Replaced by others: 1 auc : owut")
	b.Job.Request.Changes = nil
	w = browse(t, site(newFakeAPI(), map[string]Build{hashA: b}), "/build/"+hashA, nil)
	if got := changes(w.Body.String()); got != "" {
		t.Errorf("nothing is known, and the page says %s", got)
	}
}

// What is known of a router goes along until its device is found, and then to
// the image.
func TestWhatIsKnownGoesAlong(t *testing.T) {
	f := newFakeAPI()
	f["POST /api/v1/recognize"] = `{"version":"24.10.3","target":"ath79/generic","packages":["luci","tmux"],"installed":{"luci":"1","tmux":""}}`
	f["POST /api/v1/build"] = `{"request_hash":"` + hashA + `"}`
	h := site(f, nil)
	w := browse(t, h, "/recognize?lang=de", url.Values{"said": {"luci\ntmux"}})
	address := w.Header().Get("Location")
	if w.Code != http.StatusSeeOther || address != "/?from=24.10.3&have=luci%3D1+tmux&lang=de&target=ath79%2Fgeneric" {
		t.Fatalf("%d to %s", w.Code, address)
	}
	w = browse(t, h, strings.Replace(address, "lang=de&", "", 1), nil)
	contains(t, "start", w.Body.String(), "Installed: OpenWrt 24.10.3. Packages recognised: 2. <strong>Now say which device it is.",
		`<input type="hidden" name="have" value="luci=1 tmux">`, `/device?from=24.10.3&amp;have=luci%3D1&#43;tmux&amp;profile=dev&amp;target=ath79%2Fgeneric`)
	w = browse(t, h, "/device?have=luci+tmux&profile=dev&target=ath79/generic", nil)
	contains(t, "no release", w.Body.String(), "Which release is on the device is not known", `name="p" value="tmux" checked`)
	w = browse(t, h, "/build", url.Values{"target": {"ath79/generic"}, "profile": {"dev"}, "version": {"24.10.4"}, "have": {"luci=1 tmux "}})
	if got := w.Header().Get("Location"); got != "/build/"+hashA+"?have=luci%3D1+tmux" {
		t.Errorf("after the build: %s", got)
	}
	w = browse(t, h, "/build", url.Values{"target": {"ath79/generic"}, "profile": {"dev"}, "have": {strings.Repeat("package ", 1000)}})
	if got := w.Header().Get("Location"); got != "/build/"+hashA {
		t.Errorf("with too long a list: %.100s", got)
	}
	// Of the target that was installed there is nothing any more.
	f["GET /api/v1/devices"] = func(r *http.Request) any {
		if r.URL.Query().Has("target") {
			return `{"total":0,"devices":[]}`
		}
		return newFakeAPI()["GET /api/v1/devices"]
	}
	contains(t, "old target", browse(t, h, "/?q=b&target=ar71xx/generic", nil).Body.String(), "Devices found: 1")
}

// Only text is taken: no form of the page sends a file.
func TestNoFileIsSent(t *testing.T) {
	body := browse(t, site(newFakeAPI(), nil), "/", nil).Body.String()
	contains(t, "start", body, `<input type="file" id="file" aria-describedby="file-hint">`, "Its keys and passwords stay with you.", "does not belong on a server")
	if strings.Contains(body, "multipart") {
		t.Error("a form sends files")
	}
	w := browse(t, site(newFakeAPI(), nil), "/recognize", url.Values{"said": {strings.Repeat("x", 5*maxPaste)}})
	contains(t, "too much", w.Body.String(), "more than is ever needed")
	if w.Code != http.StatusBadRequest {
		t.Errorf("status %d", w.Code)
	}
}

func TestNamesKeepTheirDirection(t *testing.T) {
	for piece, want := range map[string]string{
		"Archer C7": "Archer C7", "a\u202eb\u2066c\u200f": "abc", "שלום": "\u2068שלום\u2069", "\u2069x\u2067مرحبا": "\u2068xمرحبا\u2069", "Ünïcode 日本": "Ünïcode 日本", "\xff": "\xff",
	} {
		if got := isolated(piece); got != want {
			t.Errorf("%q became %q, want %q", piece, got, want)
		}
	}
	f := newFakeAPI()
	contains(t, "title", browse(t, site(f, nil), "/?q=%D7%A9%E2%80%AE", nil).Body.String(), "value=\"ש\u202e\"") // what the person typed stays
	w := browse(t, site(f, nil), "/device?target=ath79/generic&profile=dev", nil)
	if strings.Contains(w.Body.String(), "\u202e") {
		t.Error("a mark of direction came through")
	}
}

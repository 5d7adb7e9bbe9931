package server

import (
	"net/http"
	"strings"
	"testing"

	"attendant/imagebuilder"
)

// The flow of LuCI's app of 2021: the newest releases, one POST, then GET by
// the request_hash.
func TestLegacyFlowOf2021(t *testing.T) {
	for name, from := range map[string]string{
		"ath79":  `"target":"ath79/generic","profile":"tplink,archer-c7-v5"`,
		"ar71xx": `"target":"ar71xx/generic","profile":"archer-c7-v5"`,
	} {
		t.Run(name, func(t *testing.T) {
			ts := start(t, nil)
			for _, path := range []string{"/json/latest.json", "//json/latest.json?1732370000", "/api/latest"} {
				if a := ts.get(path); a.status != 200 || string(a.raw) != string(ts.get("/json/v1/latest.json").raw) {
					t.Errorf("%s: %d %s", path, a.status, a.raw)
				}
			}
			body := `{` + from + `,"version":"24.10.4","packages":["auc","luci"],"diff_packages":true}`
			release := ts.holdBuilds()
			ts.awaitState(ts.post(plainBody("blocker")).hash(), imagebuilder.Building)
			a := ts.do(http.MethodPost, "//api/build?1732370000", body)
			if a.status != 202 || a.json["queue_position"] != 1.0 {
				t.Fatalf("queued: %d %s", a.status, a.raw)
			}
			poll := "/api/build/" + a.hash()
			if again := ts.do(http.MethodPost, "/api/build", body); again.hash() != a.hash() {
				t.Errorf("the same request has the hashes %q and %q", a.hash(), again.hash())
			}
			release()
			ts.await(a.hash())
			a = ts.get(poll)
			if a.status != 200 || a.json["bin_dir"] == nil || a.json["images"] == nil {
				t.Fatalf("ready: %d %s", a.status, a.raw)
			}
			request, _ := a.json["request"].(map[string]any)
			if request["profile"] != "tplink_archer-c7-v5" || request["target"] != "ath79/generic" || a.json["replacements"] == nil {
				t.Errorf("built %s", a.raw)
			}
		})
	}
}

// That app shows a person what 400, 422 and 500 say, and waits for ever
// otherwise.
func TestLegacyRefusalsOf2021(t *testing.T) {
	ts := start(t, nil)
	for _, tt := range []struct {
		name, body string
		status     int
		detail     string
	}{
		{"no body", ``, 422, "The request has no body."},
		{"a word", `{"version":"24.10.4","target":"ath79/generic","profile":"x","packages":["$(reboot)"]}`, 422, "packages:"},
		{"release", `{"version":"9.9","target":"ath79/generic","profile":"tplink,archer-c7-v5"}`, 400, "Unsupported branch: 9.9"},
		{"target", `{"version":"24.10.4","target":"mars/generic","profile":"tplink,archer-c7-v5"}`, 400, "Unsupported target: mars/generic"},
		{"device", `{"version":"24.10.4","target":"ar71xx/generic","profile":"toaster"}`, 400, "Unsupported profile: toaster"},
	} {
		a := ts.do(http.MethodPost, "/api/build", tt.body)
		if detail, _ := a.json["detail"].(string); a.status != tt.status || !strings.HasPrefix(detail, tt.detail) {
			t.Errorf("%s: %d %s", tt.name, a.status, a.raw)
		}
	}
	if a := ts.get("/api/build/xyz"); a.status != 404 {
		t.Errorf("no hash: %d %s", a.status, a.raw)
	}
}

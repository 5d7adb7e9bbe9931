package server

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRecognizeFindsTheDevice(t *testing.T) {
	ts := start(t, nil)
	said := func(text string) string {
		body, _ := json.Marshal(map[string]string{"text": text})
		return string(body)
	}
	tests := []struct {
		name, body string
		status     int
		want       string // part of the answer
	}{
		{"board", said(`{"board_name":"tplink,archer-c7-v5","release":{"version":"24.10.4","target":"ath79/generic"}}`), 200, `"profile":"tplink_archer-c7-v5"`},
		{"of a release that is not offered", said(`{"board_name":"tplink,archer-c7-v5","release":{"version":"19.07.1","target":"ath79/generic"}}`), 200, `"profile":"tplink_archer-c7-v5"`},
		{"unknown board", said(`{"board_name":"nobody,knows","release":{"version":"24.10.4","target":"ath79/generic"}}`), 200, `"board_name":"nobody,knows"`},
		{"packages alone", said("luci - 1\ntmux - 2"), 200, `"installed":{"luci":"1","tmux":"2"}`},
		{"nothing", said("good day"), 422, "Nothing in this text was recognised"},
		{"no text", `{"text":7}`, 422, "not a JSON object"},
		{"no object", `[]`, 422, "not a JSON object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ts.do("POST", "/api/v1/recognize", tt.body)
			if a.status != tt.status || !strings.Contains(string(a.raw), tt.want) {
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
}

// The page's addresses lie beside the API's, and answer like them to
// HEAD too.
func TestPagesAreServed(t *testing.T) {
	ts := start(t, nil)
	hash := ts.post(plainBody("luci")).hash()
	ts.await(hash)
	for path, status := range map[string]int{
		"/": 200, "/device?target=ath79/generic&profile=tplink_archer-c7-v5": 200, "/build/" + hash: 200, "/build/" + strings.Repeat("0", 64): 404,
		"/status": 200, "//status/": 200, "/device": 404, "/assets/none.js": 404,
	} {
		a := ts.get(path)
		if a.status != status {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
		if h := ts.do("HEAD", path, ""); h.status != status || len(h.raw) > 0 {
			t.Errorf("HEAD %s: %d %.40s", path, h.status, h.raw)
		}
		if policy := a.header.Get("Content-Security-Policy"); status == 200 && (!strings.Contains(policy, "script-src 'self'") || strings.Contains(policy, "unsafe")) {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
}

// A quiet stream tells how a build goes and ends, and nothing that costs.
func TestQuietEvents(t *testing.T) {
	ts := start(t, nil)
	hash := ts.post(plainBody("luci")).hash()
	ts.await(hash)
	loud, quiet := ts.get("/api/v1/build/"+hash+"/events"), ts.get("/api/v1/build/"+hash+"/events?quiet")
	if !strings.Contains(string(loud.raw), `"manifest"`) {
		t.Errorf("the whole outcome: %s", loud.raw)
	}
	if want := "event: status\ndata: {\"status\":200,\"request_hash\":\"" + hash + "\"}\n\n"; len(quiet.raw) == 0 || strings.ReplaceAll(string(quiet.raw), want, "") != "" { // it may say so twice
		t.Errorf("got %q, want %q", quiet.raw, want)
	}
}

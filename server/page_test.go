package server

import (
	"encoding/json"
	"io"
	"net/http"
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

// The operator's page is there where there is a token, and no page of another
// server may read it.
func TestAdminPageIsServed(t *testing.T) {
	if a := start(t, nil).get("/admin"); a.status != 404 || !strings.Contains(string(a.raw), "admin_token_file") {
		t.Errorf("without a token: %d %s", a.status, a.raw)
	}
	ts := start(t, func(o *Options) { o.AdminToken, o.Operator = testToken, &stubOperator{} })
	for _, tt := range []struct {
		path    string
		headers []string
		status  int
		want    string
	}{
		{"/admin", nil, 200, `type="password"`},
		{"//admin/?part=live", withToken(testToken), 200, "openwrt/24.10.yaml, line 3"},
		{"/d/openwrt/admin?part=live", withToken(testToken), 200, `data-do="sync"`},
		{"/admin?part=live", withToken("another"), 401, "not this server"},
		{"/admin?part=live&token=" + testToken, nil, 401, "not this server"},
		{"/admin?part=live", append([]string{"Sec-Fetch-Site", "cross-site"}, withToken(testToken)...), 403, "own pages"},
	} {
		r, err := http.NewRequest(http.MethodGet, ts.base+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(tt.headers); i += 2 {
			r.Header.Set(tt.headers[i], tt.headers[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d %v %v\n%s", tt.path, resp.StatusCode, resp.Header, err, body)
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

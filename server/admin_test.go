package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"attendant/imagebuilder"
)

const testToken = "0123456789abcdef0123456789abcdef"

// operate sends a request with headers, given as name, value, name, value.
func (ts *testServer) operate(method, path string, headers ...string) answer {
	ts.t.Helper()
	req, err := http.NewRequest(method, ts.base+path, nil)
	if err != nil {
		ts.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		ts.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		ts.t.Fatal(err)
	}
	if len(a.raw) > 0 {
		if err := json.Unmarshal(a.raw, &a.json); err != nil {
			ts.t.Fatalf("%s %s: %v in %.200s", method, path, err, a.raw)
		}
	}
	return a
}

func withToken(token string) []string { return []string{"Authorization", "Bearer " + token} }

type stubOperator struct{ synced int }

func (o *stubOperator) Sync() int { o.synced++; return 7 }
func (o *stubOperator) Distributions() []DistributionState {
	return []DistributionState{{Name: "openwrt", URL: "https://downloads.openwrt.org", Replacements: "openwrt"}}
}
func (o *stubOperator) Documents() []DocumentState {
	return []DocumentState{{Distro: "openwrt", Name: "versions", Checked: time.Now().Add(-time.Hour), Detail: strings.Repeat("x", 5000)}, {Distro: "openwrt", Name: "target"}}
}
func (o *stubOperator) TableErrors() []TableError {
	return []TableError{{File: "/srv/replacements.d/openwrt/24.10.yaml", Line: 3, Text: "x: [", Detail: "It does not end."}}
}
func (o *stubOperator) Policies() any { return []map[string]string{{"minimum": "23.05"}} }

func TestAdministrationIsOffWithoutAToken(t *testing.T) {
	ts := start(t, nil)
	for _, path := range []string{"/api/v1/admin/state", "/d/openwrt/api/v1/admin/state"} {
		a := ts.operate(http.MethodGet, path, withToken("")...)
		if a.status != http.StatusNotFound || !strings.Contains(string(a.raw), "admin_token_file") {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
}

func TestOnlyTheOperatorAdministers(t *testing.T) {
	op := &stubOperator{}
	ts := start(t, func(o *Options) {
		o.AdminToken, o.Operator, o.PublicURL = testToken, op, "https://sysupgrade.example.org/below"
	})
	right := withToken(testToken)
	tests := []struct {
		name    string
		headers []string
		want    int
		code    imagebuilder.Code
	}{
		{"no token", nil, 401, imagebuilder.CodeUnauthorized},
		{"empty token", withToken(""), 401, imagebuilder.CodeUnauthorized},
		{"wrong token", withToken(testToken + "0"), 401, imagebuilder.CodeUnauthorized},
		{"beginning of the token", withToken(testToken[:31]), 401, imagebuilder.CodeUnauthorized},
		{"another scheme", []string{"Authorization", "Basic " + testToken}, 401, imagebuilder.CodeUnauthorized},
		{"token alone", []string{"Authorization", testToken}, 401, imagebuilder.CodeUnauthorized},
		{"cookie", []string{"Cookie", "token=" + testToken}, 401, imagebuilder.CodeUnauthorized},
		{"page of another server", append([]string{"Origin", "https://evil.example"}, right...), 403, imagebuilder.CodeForbidden},
		{"same name, other port", append([]string{"Origin", "http://127.0.0.1:1"}, right...), 403, imagebuilder.CodeForbidden},
		{"page that hides where it is from", append([]string{"Origin", "null"}, right...), 403, imagebuilder.CodeForbidden},
		{"several origins", append([]string{"Origin", ts.base, "Origin", "https://evil.example"}, right...), 403, imagebuilder.CodeForbidden},
		{"fetched cross-site", append([]string{"Sec-Fetch-Site", "cross-site"}, right...), 403, imagebuilder.CodeForbidden},
		{"public address without TLS", append([]string{"Origin", "http://sysupgrade.example.org"}, right...), 403, imagebuilder.CodeForbidden},
		{"own page", append([]string{"Origin", ts.base, "Sec-Fetch-Site", "same-origin"}, right...), 202, ""},
		{"own page behind a proxy", append([]string{"Origin", "https://sysupgrade.example.org"}, right...), 202, ""},
		{"program", right, 202, ""},
		{"program that writes it otherwise", []string{"Authorization", "bearer  " + testToken}, 202, ""},
	}
	for _, path := range []string{"/api/v1/admin/sync", "//api//v1/admin/sync/", "/d/openwrt/api/v1/admin/sync"} {
		for _, tt := range tests {
			ts.server.guard.mu.Lock()
			ts.server.guard.wrong = 0
			ts.server.guard.mu.Unlock()
			before := op.synced
			a := ts.operate(http.MethodPost, path, tt.headers...)
			if code, _ := a.json["code"].(string); a.status != tt.want || code != string(tt.code) || a.json["detail"] == "" {
				t.Errorf("%s, %s: %d %s", path, tt.name, a.status, a.raw)
			}
			if acted := op.synced > before; acted != (tt.want == 202) {
				t.Errorf("%s, %s: acted: %t", path, tt.name, acted)
			}
			if allowed := a.header.Get("Access-Control-Allow-Origin"); allowed != "" {
				t.Errorf("%s, %s: pages of %q may read it", path, tt.name, allowed)
			}
			if challenge := a.header.Get("WWW-Authenticate"); (challenge != "") != (tt.want == 401) {
				t.Errorf("%s, %s: challenge %q", path, tt.name, challenge)
			}
			if a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %s: it may be kept", path, tt.name)
			}
		}
		// A browser asks before it sends the header from another server's page.
		a := ts.operate(http.MethodOptions, path, "Origin", "https://evil.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("OPTIONS %s: %d, %s", path, a.status, name)
			}
		}
	}
}

func TestOperatorPinsEvictsAndCancels(t *testing.T) {
	ts := start(t, func(o *Options) { o.AdminToken, o.Operator = testToken, &stubOperator{} })
	do := func(what, hash string) answer {
		t.Helper()
		return ts.operate(http.MethodPost, "/api/v1/admin/"+what+"/"+hash, withToken(testToken)...)
	}
	state := func() answer {
		t.Helper()
		return ts.operate(http.MethodGet, "/api/v1/admin/state", withToken(testToken)...)
	}
	done := ts.post(plainBody("luci")).hash()
	ts.await(done)
	want := func(a answer, status int, code imagebuilder.Code) {
		t.Helper()
		if got, _ := a.json["code"].(string); a.status != status || got != string(code) || a.json["detail"] == "" {
			t.Errorf("%d %s, want %d %s", a.status, a.raw, status, code)
		}
	}
	want(do("pin", done), 200, "")
	want(do("pin", done), 200, "")
	want(do("evict", done), 409, imagebuilder.CodePinned)
	a := state()
	pinned, _ := a.json["pinned"].([]any)
	if len(pinned) != 1 || pinned[0].(map[string]any)["hash"] != done || pinned[0].(map[string]any)["profile"] != "tplink_archer-c7-v5" {
		t.Errorf("state: %s", a.raw)
	}
	images, _ := a.json["images"].([]any)
	if len(images) != 1 || images[0].(map[string]any)["pinned"] != true || images[0].(map[string]any)["bytes"] != pinned[0].(map[string]any)["bytes"] || a.json["image_count"] != 1.0 {
		t.Errorf("images: %s", a.raw)
	}
	var jobs []ControlJob
	var replacements []TableError
	var documents []DocumentState
	for key, into := range map[string]any{"jobs": &jobs, "replacements": &replacements, "documents": &documents} {
		part, _ := json.Marshal(a.json[key])
		if err := json.Unmarshal(part, into); err != nil {
			t.Fatal(err)
		}
	}
	if len(jobs) != 1 || !jobs[0].Pinned || jobs[0].Hash != done {
		t.Errorf("jobs: %+v", jobs)
	}
	if len(replacements) != 1 || replacements[0].Line != 3 || replacements[0].Text != "x: [" {
		t.Errorf("replacements: %+v", replacements)
	}
	if len(documents) != 2 || documents[0].AgeSeconds < 3600 || len(documents[0].Detail) > maxAdminDetail+3 || documents[1].AgeSeconds != 0 {
		t.Errorf("documents: %+v", documents)
	}
	want(do("unpin", done), 200, "")
	want(do("evict", done), 200, "")
	want(do("evict", done), 404, imagebuilder.CodeNotFound)
	want(do("pin", done), 404, imagebuilder.CodeNotFound)
	want(do("pin", "..%2f..%2fetc"), 404, imagebuilder.CodeNotFound)
	want(do("reboot", done), 404, imagebuilder.CodeNotFound)

	ts.holdBuilds()
	building := ts.post(plainBody("slow")).hash()
	want(do("cancel", building), 200, "")
	if a := ts.await(building); a.json["code"] != string(imagebuilder.CodeCanceled) {
		t.Errorf("%d %s", a.status, a.raw)
	}
	want(do("cancel", building), 404, imagebuilder.CodeNotFound)
}

// Whoever shares images is as good a name for them as whose they are.
func TestOperatorPinsAndEvictsSharedImages(t *testing.T) {
	ts := start(t, func(o *Options) { o.AdminToken, o.Operator = testToken, &stubOperator{} })
	built := ts.await(ts.post(plainBody("luci")).hash()).hash()
	shared := ts.post(plainBody("same-content"))
	if other := ts.post(plainBody("same-content", "tmux")); shared.json["shared_with"] != built || other.json["shared_with"] != built {
		t.Fatalf("%s\n%s", shared.raw, other.raw)
	}
	do := func(what, hash string, status int, detail string) {
		t.Helper()
		a := ts.operate(http.MethodPost, "/api/v1/admin/"+what+"/"+hash, withToken(testToken)...)
		if told, _ := a.json["detail"].(string); a.status != status || !strings.Contains(told, detail) {
			t.Errorf("%s: %d %s", what, a.status, a.raw)
		}
		if of := a.json["images_of"]; status == 200 && (of == built) != (hash != built) {
			t.Errorf("%s: images of %v", what, of)
		}
	}
	do("pin", shared.hash(), 200, built)
	if sets := ts.server.o.Images.Pinned(); len(sets) != 1 || sets[0].Hash != built {
		t.Errorf("pinned: %+v", sets)
	}
	do("evict", shared.hash(), 409, "pinned")
	do("unpin", shared.hash(), 200, built)
	do("evict", shared.hash(), 200, "1 other request shared it")
	for _, hash := range []string{built, shared.hash()} {
		if a := ts.get("/api/v1/build/" + hash); a.status != 404 {
			t.Errorf("an evicted image: %d %s", a.status, a.raw)
		}
		do("evict", hash, 404, "no image")
	}

	again := ts.await(ts.post(plainBody("luci")).hash()).hash()
	ts.post(plainBody("same-content"))
	ts.post(plainBody("same-content", "tmux"))
	do("evict", again, 200, "2 other requests shared it")
}

func TestTriesWithWrongTokensAreSlowedDownAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(testToken)
		begin := time.Now()
		for range freeTries {
			if err := g.check(t.Context(), "wrong"); !errors.Is(err, errWrongToken) {
				t.Fatal(err)
			}
		}
		if time.Since(begin) > 0 {
			t.Error("the first tries waited")
		}

		var mu sync.Mutex
		got := map[error]int{}
		var trying sync.WaitGroup
		for range 100 {
			trying.Go(func() {
				err := g.check(t.Context(), "wrong")
				mu.Lock()
				got[err]++
				mu.Unlock()
			})
		}
		trying.Wait()
		if got[errWrongToken] != slowTries || got[errTooManyTries] != 100-slowTries || time.Since(begin) != tryPause {
			t.Errorf("%v within %v", got, time.Since(begin))
		}

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.check(gone, "wrong"); !errors.Is(err, context.Canceled) {
			t.Errorf("of somebody who left: %v", err)
		}

		// Whatever others try, the operator gets in at once.
		for range 2 * slowTries {
			trying.Go(func() { _ = g.check(t.Context(), "wrong") })
		}
		synctest.Wait()
		begin = time.Now()
		if err := g.check(t.Context(), testToken); err != nil || time.Since(begin) > 0 {
			t.Errorf("the operator: %v after %v", err, time.Since(begin))
		}
		trying.Wait()

		time.Sleep(tryMemory + time.Second)
		begin = time.Now()
		if err := g.check(t.Context(), "wrong"); !errors.Is(err, errWrongToken) || time.Since(begin) > 0 {
			t.Errorf("a minute later: %v after %v", err, time.Since(begin))
		}
	})
}

func TestTooManyTriesAreToldSo(t *testing.T) {
	ts := start(t, func(o *Options) { o.AdminToken = testToken })
	for range freeTries {
		ts.operate(http.MethodGet, "/api/v1/admin/state", withToken("wrong")...)
	}
	for range slowTries {
		ts.server.guard.slow <- struct{}{}
	}
	a := ts.operate(http.MethodGet, "/api/v1/admin/state", withToken("wrong")...)
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || a.json["detail"] == "" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a := ts.operate(http.MethodGet, "/api/v1/admin/state", withToken(testToken)...); a.status != http.StatusOK {
		t.Errorf("the operator: %d %s", a.status, a.raw)
	}
}

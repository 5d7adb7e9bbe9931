package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attendant/imagebuilder"
)

// The OpenAPI document is true to what is served: every operation is called on
// a live server, its status and body are among those described, every required
// field is there with its type, and every route is described.
func TestOpenAPIIsTrue(t *testing.T) {
	ts := start(t, nil)
	ts.builder.fail = func(r imagebuilder.Request) *imagebuilder.Error {
		if r.Packages[0] == "broken" {
			return imagebuilder.Errorf(imagebuilder.CodeBuildFailed, "Error: it broke")
		}
		return nil
	}
	done := ts.post(plainBody("luci")).hash()
	ts.await(done)
	failed := ts.post(plainBody("broken")).hash()
	ts.await(failed)
	ts.holdBuilds()
	building := ts.post(plainBody("slow")).hash()

	var doc struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal(ts.get("/api/v1/openapi.json").raw, &doc); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("{path}", "releases/24.10.4", "{target}", "ath79", "{subtarget}", "generic", "{profile}", "tplink_archer-c7-v5",
		"{arch}", "mips_24kc", "{version}", "24.10.4", "{file}", "openwrt-24.10.4-sysupgrade.bin")
	called := 0
	for path, methods := range doc.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var op struct {
				Responses map[string]struct {
					Content map[string]struct{ Schema schema }
				}
			}
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			for _, hash := range []string{done, failed, building, strings.Repeat("0", 64)} {
				if !strings.Contains(path, "{hash}") && hash != done {
					continue
				}
				if strings.HasSuffix(path, "/events") && hash == building {
					continue // does not end
				}
				called++
				body := ""
				if method == "post" {
					body = plainBody("luci")
				}
				a := ts.do(strings.ToUpper(method), strings.ReplaceAll(fill.Replace(path), "{hash}", hash), body)
				described, ok := op.Responses[fmt.Sprint(a.status)]
				if !ok {
					t.Errorf("%s %s: %d is not described", method, path, a.status)
					continue
				}
				kind, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
				content, ok := described.Content[kind]
				if method != "head" && len(described.Content) > 0 && !ok {
					t.Errorf("%s %s: %d has type %s", method, path, a.status, kind)
				}
				if kind == "application/json" && method != "head" {
					var v any
					if err := json.Unmarshal(a.raw, &v); err != nil {
						t.Fatal(err)
					}
					content.Schema.check(t, doc.Components.Schemas, fmt.Sprintf("%s %s: %d", method, path, a.status), v)
				}
			}
		}
	}
	if called < 30 {
		t.Errorf("only %d operations were called", called)
	}
	// The other way: what clients call is in the document.
	for _, path := range []string{"/api/v1/build", "/api/v1/build/{hash}", "/store/{hash}/{file}", "/json/v1/overview.json", "/healthz"} {
		if doc.Paths[path] == nil {
			t.Errorf("%s is not described", path)
		}
	}
}

type schema struct {
	Ref        string `json:"$ref"`
	Type       any
	Properties map[string]schema
	Required   []string
	Items      *schema
	Additional *schema `json:"additionalProperties"`
	Const      any
	Enum       []any
}

func (s schema) check(t *testing.T, all map[string]schema, where string, v any) {
	t.Helper()
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		target, ok := all[name]
		if !ok {
			t.Errorf("%s: no schema %s", where, name)
			return
		}
		target.check(t, all, where+" "+name, v)
		return
	}
	if s.Const != nil && s.Const != v {
		t.Errorf("%s: %v is not %v", where, v, s.Const)
	}
	if s.Enum != nil {
		found := false
		for _, e := range s.Enum {
			found = found || e == v
		}
		if !found {
			t.Errorf("%s: %v is not among %v", where, v, s.Enum)
		}
	}
	kinds := map[string]bool{}
	switch k := s.Type.(type) {
	case string:
		kinds[k] = true
	case []any:
		for _, one := range k {
			kinds[one.(string)] = true
		}
	}
	if len(kinds) > 0 {
		ok := false
		switch v := v.(type) {
		case nil:
			ok = kinds["null"]
		case bool:
			ok = kinds["boolean"]
		case string:
			ok = kinds["string"]
		case float64:
			ok = kinds["number"] || kinds["integer"] && v == float64(int64(v))
		case []any:
			ok = kinds["array"]
		case map[string]any:
			ok = kinds["object"]
		}
		if !ok {
			t.Errorf("%s: %v is not of type %v", where, v, s.Type)
		}
	}
	switch v := v.(type) {
	case []any:
		if s.Items != nil {
			for i, item := range v {
				s.Items.check(t, all, fmt.Sprintf("%s[%d]", where, i), item)
			}
		}
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				t.Errorf("%s: %s is missing", where, name)
			}
		}
		for name, value := range v {
			if p, ok := s.Properties[name]; ok {
				p.check(t, all, where+"."+name, value)
			} else if s.Properties != nil && s.Additional == nil {
				t.Errorf("%s: %s is not described", where, name)
			} else if s.Additional != nil {
				s.Additional.check(t, all, where+"."+name, value)
			}
		}
	}
}

func TestDocsPageStandsAlone(t *testing.T) {
	ts := start(t, nil)
	for _, path := range []string{"/docs"} {
		a := ts.get(path)
		page := string(a.raw)
		if a.status != 200 || !strings.HasPrefix(page, "<!doctype html>") {
			t.Errorf("%s: %d %.100s", path, a.status, page)
		}
		for _, outside := range []string{"src=", "http-equiv", "url(", "@import", "<script", "<link"} {
			if strings.Contains(page, outside) {
				t.Errorf("%s holds %s", path, outside)
			}
		}
		if csp := a.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
	if page := string(ts.get("/docs").raw); !strings.Contains(page, "/api/v1/build/{hash}") || !strings.Contains(page, `id="schema-BuildRequest"`) {
		t.Error("the page lacks operations or objects")
	}
}

func TestEventsFollowABuild(t *testing.T) {
	ts := start(t, nil)
	release := ts.holdBuilds()
	hash := ts.post(plainBody("luci")).hash()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, ts.base+"/api/v1/build/"+hash+"/events", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("type %s", kind)
	}
	var last string
	seen := map[string]int{}
	lines := bufio.NewScanner(resp.Body)
	var event string
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			event = name
			seen[name]++
			continue
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if event == "status" {
				last = data
			}
			if event == "line" && data == "resolvingpackages" {
				release()
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	var final map[string]any
	if err := json.Unmarshal([]byte(last), &final); err != nil || final["status"] != 200.0 {
		t.Errorf("the last status is %s (%v)", last, err)
	}
	if seen["stage"] == 0 || seen["line"] == 0 {
		t.Errorf("seen %v", seen)
	}
	if a := ts.get("/api/v1/build/" + hash + "/events"); !strings.HasPrefix(string(a.raw), "event: status\ndata: {") {
		t.Errorf("of a finished build: %.100s", a.raw)
	}
	if a := ts.get("/api/v1/build/" + hash + "/log"); string(a.raw) != "Building images...\n--- errors and warnings ---\ndd: 1+0 records" {
		t.Errorf("the log: %q", a.raw)
	}
}

func TestLogOfARunningBuild(t *testing.T) {
	ts := start(t, nil)
	ts.holdBuilds()
	hash := ts.post(plainBody("luci")).hash()
	waitFor(t, func() bool { return strings.Contains(string(ts.get("/api/v1/build/"+hash+"/log").raw), "resolving") })
}

func TestStatisticsHaveTheReferencesForm(t *testing.T) {
	ts := start(t, nil)
	perDay := ts.get("/api/v1/builds-per-day")
	if n := len(perDay.json["labels"].([]any)); n != 30 {
		t.Errorf("%d days", n)
	}
	if label := perDay.json["labels"].([]any)[0]; label != "2026-01-01Z" {
		t.Errorf("the first day is %v", label)
	}
	first := perDay.json["datasets"].([]any)[1].(map[string]any)
	if first["label"] != "Cache-Hits" || first["color"] != "orange" {
		t.Errorf("got %v", first)
	}
	labels := func(a answer) (out []string) {
		for _, d := range a.json["datasets"].([]any) {
			out = append(out, d.(map[string]any)["label"].(string))
		}
		return out
	}
	if got := fmt.Sprint(labels(ts.get("/api/v1/builds-by-version"))); got != "[23.05 24.10 SNAPSHOT]" {
		t.Errorf("by branch: %s", got)
	}
	if got := fmt.Sprint(labels(ts.get("/api/v1/builds-by-version?branch=24.10"))); got != "[24.10.3 24.10.4]" {
		t.Errorf("of a branch: %s", got)
	}
	if got := string(ts.get("/api/v1/top-packages?n=1&branch=24.10").raw); got != `{"packages":[{"name":"luci","count":3}],"branch":"24.10","days":30}` {
		t.Errorf("packages: %s", got)
	}
	if got := string(ts.get("/api/v1/stats/summary").raw); got != `{"builds_24h":7,"queue_length":0}` {
		t.Errorf("summary: %s", got)
	}
	if got := string(ts.get("/api/v1/build-errors").raw); !strings.HasPrefix(got, "Build Errors: 2 entries\nTime range: 2026-01-30 12:00:00 to 2026-01-31 12:00:00\n\nRecent errors:\n---") {
		t.Errorf("errors: %s", got)
	}
}

func TestMetadata(t *testing.T) {
	ts := start(t, nil)
	o := ts.get("/json/v1/overview.json")
	srv := o.json["server"].(map[string]any)
	if o.json["upstream_url"] != "http://upstream.example" || srv["max_defaults_length"] != 20480.0 || srv["max_custom_rootfs_size_mb"] != 1024.0 || srv["allow_defaults"] != true {
		t.Errorf("overview: %s", o.raw)
	}
	branch := o.json["branches"].(map[string]any)["24.10"].(map[string]any)
	for _, key := range []string{"enabled", "name", "path", "path_packages", "versions", "targets", "package_changes"} {
		if branch[key] == nil {
			t.Errorf("the branch has no %s", key)
		}
	}
	var list []map[string]any
	if err := json.Unmarshal(ts.get("/json/v1/branches.json").raw, &list); err != nil || len(list) != 1 || list[0]["name"] != "24.10" {
		t.Errorf("branches: %v %v", list, err)
	}
	if got := string(ts.get("/json/v1/releases/24.10.4/targets/ath79/generic/nope.json").raw); got != "{}" {
		t.Errorf("an unknown device: %s", got)
	}
	for _, path := range []string{"/json/v1/releases/9.9/targets/ath79/generic/index.json", "/json/v1/releases/24.10.4/packages/nope-index.json",
		"/json/v1/x", "/json/v1/../../etc/targets/a/b/index.json", "/json/v1/releases/24.10.4/targets/ath79/generic/index.txt"} {
		if a := ts.get(path); a.status != 404 {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
}

func TestAnUnknownRevisionIsEmptyBesideTheError(t *testing.T) {
	ts := start(t, nil)
	for _, path := range []string{"9.9/ath79/generic", "%24/ath79/generic"} {
		a := ts.get("/api/v1/revision/" + path)
		if revision, ok := a.json["revision"].(string); a.status != 400 || !ok || revision != "" || a.json["detail"] == "" {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	if a := ts.get("/api/v1/build/abc"); a.status != 404 || strings.Contains(string(a.raw), "revision") {
		t.Errorf("another error: %d %s", a.status, a.raw)
	}
}

func TestUpstreamAddressInTheDemo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".versions.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	ts := start(t, func(o *Options) { o.UpstreamTree = http.FileServer(http.Dir(dir)) })
	o := ts.get("/json/v1/overview.json")
	if o.json["upstream_url"] != ts.base+"/upstream" {
		t.Errorf("got %v", o.json["upstream_url"])
	}
	for _, path := range []string{"/upstream/.versions.json", "/upstream/"} {
		if a := ts.get(path); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	_, _, body := ts.raw("GET /json/v1/overview.json HTTP/1.1\r\nHost: evil\"<script>\r\nConnection: close\r\n\r\n")
	if strings.Contains(string(body), "script") {
		t.Errorf("a hostile Host is echoed: %s", body)
	}
}

func TestRepositoryAllowed(t *testing.T) {
	allowed := []string{"https://allowed.example/feeds/", "http://plain.example"}
	for address, want := range map[string]bool{
		"https://allowed.example/feeds/mesh":              true,
		"https://allowed.example/feeds/a/b/packages.adb":  true,
		"https://ALLOWED.example/feeds/mesh":              true,
		"http://plain.example/anything":                   true,
		"https://allowed.example/feedsevil":               false,
		"https://allowed.example/other":                   false,
		"http://allowed.example/feeds/mesh":               false,
		"https://allowed.example.evil.example/feeds/mesh": false,
		"https://allowed.example@evil.example/feeds/mesh": false,
		"https://allowed.example:8443/feeds/mesh":         false,
		"https://allowed.example/feeds/../other":          false,
		"https://allowed.example/feeds/%2e%2e/other":      false,
		"https://allowed.example/feeds/..%2fother":        false,
		"https://allowed.example/feeds/a\\..\\..\\b":      false,
		"//allowed.example/feeds/mesh":                    false,
	} {
		if got := repositoryAllowed(address, allowed); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if repositoryAllowed("https://allowed.example/feeds/x", nil) {
		t.Error("an empty list allows something")
	}
}

func TestPanicBecomesAnError(t *testing.T) {
	s := New(Options{})
	rec := newRecorder()
	s.recoverPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") })).ServeHTTP(rec, rec.request)
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "oops") || !strings.Contains(rec.Body.String(), `"code":"internal"`) {
		t.Errorf("got %d %s", rec.Code, rec.Body)
	}
}

func TestPanicAfterTheBeginningCutsTheAnswer(t *testing.T) {
	s := New(Options{})
	rec := newRecorder()
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("panicked with %v", p)
		}
		if strings.Contains(rec.Body.String(), "internal") {
			t.Errorf("an error was put behind the beginning: %s", rec.Body)
		}
	}()
	s.recoverPanics(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("the beginning"))
		panic("oops")
	})).ServeHTTP(rec, rec.request)
}

func TestUnknownPackagesHeaderIsBounded(t *testing.T) {
	h := http.Header{}
	setUnknownPackages(h, strings.Fields(strings.Repeat("a-package-with-a-long-name ", 200)))
	if n := len(h.Get("X-Unknown-Package")); n == 0 || n > maxUnknownHeader {
		t.Errorf("%d bytes", n)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(plainBody("luci", "-ppp")))
	f.Add([]byte(`{"version":"24.10.4","target":"a/b","profile":"x","packages_versions":{"a":"1"},"defaults":"","rootfs_size_mb":1,"filesystem":"ext4","repositories":{"a":"http://x/"},"repository_keys":["k"],"diff_packages":true,"client":"c"}`))
	f.Add([]byte(`{"version":null}`))
	f.Add([]byte(`[[[[`))
	limits := imagebuilder.Limits{MaxRootfsSizeMB: 1024, MaxDefaultsLength: 20480}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeRequest(body)
		if err != nil {
			if e := imagebuilder.AsError(err); e.Code != imagebuilder.CodeMalformed || e.Detail == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		r = r.Normalize()
		if r.Validate(limits) != nil {
			return
		}
		// What passes can be written and read again as the same request.
		again, err := decodeRequest(jsonBody(r))
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if r.Hash("g") != again.Normalize().Hash("g") {
			t.Fatalf("%+v becomes %+v", r, again)
		}
		for _, p := range r.Packages {
			if strings.ContainsAny(p, " \t\n$`;'\"/=") || strings.HasPrefix(p, "--") {
				t.Fatalf("package %q passes", p)
			}
		}
	})
}

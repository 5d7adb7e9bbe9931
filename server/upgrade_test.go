package server

import (
	"fmt"
	"strings"
	"testing"

	"attendant/imagebuilder"
)

func TestUpgradeCheckAnswers(t *testing.T) {
	ts := start(t, nil)
	const rest = `,"target":"ath79","subtarget":"generic"}`
	newer := ts.do("POST", "/api/v1/upgrade-check", `{"version":"24.10.3"`+rest)
	if newer.status != 200 || newer.json["version"] != "24.10.4" || newer.json["target"] != "ath79/generic" {
		t.Errorf("got %d %s", newer.status, newer.raw)
	}
	current := ts.do("POST", "/api/v1/upgrade-check", `{"version":"24.10.4"`+rest)
	if current.status != 204 || len(current.raw) != 0 {
		t.Errorf("got %d %q", current.status, current.raw)
	}
	ts.catalog.down.Store(true)
	if down := ts.do("POST", "/api/v1/upgrade-check", `{"version":"24.10.3"`+rest); down.status != 503 || down.header.Get("Retry-After") == "" {
		t.Errorf("without upstream: %d %s", down.status, down.raw)
	}
}

func TestPackagesAreFound(t *testing.T) {
	ts := start(t, nil)
	const release = "version=24.10.4&target=ath79/generic"
	if found := ts.get("/api/v1/packages?" + release + "&q=lu&offset=3&limit=2"); found.status != 200 || !strings.Contains(string(found.raw), `"offset":3`) || !strings.Contains(string(found.raw), `"lu!!"`) {
		t.Errorf("got %d %s", found.status, found.raw)
	}
	for path, want := range map[string]int{
		"/api/v1/packages": 422,
		"/api/v1/packages?version=24.10.4&target=ath79":                       422,
		"/api/v1/packages?" + release + "&limit=101":                          422,
		"/api/v1/packages?" + release + "&offset=-1":                          422,
		"/api/v1/packages?" + release + "&q=" + strings.Repeat("x", 201):      422,
		"/api/v1/packages/luci?" + release:                                    200,
		"/api/v1/packages/lucy?" + release:                                    404,
		"/api/v1/packages/--luci?" + release:                                  422,
		"/api/v1/packages/luci?version=24.10.4&target=../../etc":              422,
		"/d/openwrt/api/v1/packages/luci?" + release:                          200,
		"/d/elsewhere/api/v1/packages/luci?" + release:                        404,
		"/api/v1/packages/" + strings.Repeat("x", 200) + "?version=1&target=": 422,
	} {
		if a := ts.get(path); a.status != want {
			t.Errorf("%s: %d %s, want %d", path, a.status, a.raw, want)
		}
	}
	if a := ts.get("/api/v1/packages/lucy?" + release); fmt.Sprint(a.json["nearest"]) != "[luci]" {
		t.Errorf("nearest: %s", a.raw)
	}
}

func TestSolveQueuesNothing(t *testing.T) {
	ts := start(t, nil)
	solved := ts.do("POST", "/api/v1/solve", plainBody("auc"))
	if solved.status != 200 || solved.json["possible"] != true || !imagebuilder.ValidHash(solved.hash()) {
		t.Fatalf("got %d %s", solved.status, solved.raw)
	}
	if got := fmt.Sprint(solved.json["replacements"]); got != "map[auc:[owut]]" {
		t.Errorf("replacements %s", got)
	}
	if waiting, building := ts.queue.Length(); waiting+building != 0 {
		t.Error("it was queued")
	}
	if built := ts.post(plainBody("auc")); built.hash() != solved.hash() {
		t.Errorf("the build has the hash %s, the solution %s", built.hash(), solved.hash())
	}
	if bad := ts.do("POST", "/api/v1/solve", `{"version":"24.10.4"}`); bad.status != 422 {
		t.Errorf("a request without a target: %d %s", bad.status, bad.raw)
	}
}

func FuzzUpgradeQuestion(f *testing.F) {
	f.Add([]byte(`{"distro":"LEDE","version":"17.01.4","target":"ar71xx","subtarget":"generic","board_name":"archer-c7-v4","model":"x","packages":{"luci":"1"}}`))
	f.Add([]byte(`{"version":"SNAPSHOT","revision":"r1-a","target":"a/b","packages":["+a","-b"],"installed":{"libubox20240329":"1"},"choices":{"a":"b"},"channel":"testing","to_version":"1"}`))
	f.Add([]byte(`{"packages":[1]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := decodeUpgradeQuestion(body)
		if err == nil {
			err = q.validate()
		}
		if err != nil {
			if e := imagebuilder.AsError(err); e.Code != imagebuilder.CodeMalformed || e.Detail == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if !imagebuilder.ValidVersion(q.Version) || !imagebuilder.ValidTarget(q.Target) || q.Channel == "" {
			t.Fatalf("%+v passes", q)
		}
		for _, p := range append(q.Packages, q.Installed...) {
			if !imagebuilder.ValidPackageName(strings.TrimPrefix(p.Name, "-")) || !imagebuilder.ValidPackageVersion(p.Value) {
				t.Fatalf("package %q %q passes", p.Name, p.Value)
			}
		}
	})
}

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/julienschmidt/httprouter"

	"attendant/server/web"
)

// hostileName is what nobody should have to show, and what a mesh's nodes and
// an upstream's devices may be called. It ends in signs that are written from
// right to left, and one that makes all that follows so.
const hostileName = `<script>window.owned=1</script>"'><img src=x onerror="window.owned=2"><svg onload=window.owned=3> {{.}} javascript:window.owned=4 12 ` + "שלום 34 \u202e"

// hostileSite is the page on an API in which every text is a hostile one.
func hostileSite(t *testing.T) http.Handler {
	t.Helper()
	raw, err := json.Marshal(hostileName)
	if err != nil {
		t.Fatal(err)
	}
	name := string(raw)
	var days []string
	for i := range 30 {
		days = append(days, fmt.Sprintf(`{"date":"2026-10-%02d","requests":%d,"hits":%d,"builds":%d,"failures":%d}`, i+1, 40+i*i%37, 20+i*i%19, 10+i*7%11, i%3))
	}
	answers := map[string]string{
		"/json/v1/overview.json": `{"latest":["24.10.4"],"branches":{"24.10":{"name":"24.10","path":"releases/{version}","enabled":true,"versions":["24.10.4"],"targets":{"ath79/generic":"mips_24kc"}}},"upstream_url":"javascript:window.owned=5","server":{"contact":` + name + `}}`,
		"/api/v1/devices":        `{"total":1,"devices":[{"title":` + name + `,"titles":[{"title":` + name + `}],"profile":"tplink_archer-c7-v5","target":"ath79/generic","versions":["24.10.4"]}]}`,
		"/json/v1/releases/24.10.4/targets/ath79/generic/tplink_archer-c7-v5.json": `{"id":"tplink_archer-c7-v5","titles":[{"title":` + name + `},{"title":"b"}],"default_packages":["a"],"images":[{"name":` + name + `,"type":` + name + `}]}`,
		"/api/v1/packages": `{"total":1,"packages":[{"name":"xx","version":` + name + `,"description":` + name + `}]}`,
		"/api/v1/solve":    `{"possible":false,"problems":[{"kind":"other","package":` + name + `,"detail":` + name + `}],"repairs":[{"detail":` + name + `,"packages":["xx"]}],"packages":[]}`,
		"/api/v1/status": `{"uptime_seconds":90000,"queue":{"waiting":3,"building":1,"limit":1000,"workers":1,"jobs":[{"state":"building","version":"24.10.4","target":"ath79/generic","profile":` + name + `,"expected_wait_seconds":40},{"state":"queued","position":1,"version":"24.10.4","target":"x86/64","profile":"generic","expected_wait_seconds":140}]},
			"recent":[{"version":"24.10.4","target":"ath79/generic","profile":"tplink_archer-c7-v5","state":"done","finished":"2026-10-30T10:11:12Z","seconds":33.3},{"version":"24.10.4","target":"ath79/generic","profile":` + name + `,"state":"failed","finished":"2026-10-30T09:11:12Z","seconds":3,"detail":` + name + `}],
			"cache":{"images":41,"used":812000000,"budget":2000000000,"hits":311,"requests":420,"hit_rate":0.74,"seconds_saved":11000},"builders":{"used":900000000,"budget":4000000000},"disk":{"free":21000000000,"total":64000000000,"floor":1000000000},
			"upstream":[{"distro":"openwrt","url":"http://downloads.example","age_seconds":1300}],"warnings":[{"code":"x","detail":` + name + `}],"days":[` + strings.Join(days, ",") + `]}`,
	}
	answers["/api/v1/admin/state"] = `{"jobs":[{"hash":"` + strings.Repeat("a", 64) + `","state":"building","version":"24.10.4","target":"ath79/generic","profile":` + name + `},{"state":"failed","profile":` + name + `,"finished":"2026-10-30T09:11:12Z","detail":` + name + `}],
		"images":[{"hash":"` + strings.Repeat("b", 64) + `","version":` + name + `,"target":"ath79/generic","profile":` + name + `,"bytes":5400000,"idle_seconds":7300}],"image_count":1,"image_bytes":5400000,"image_budget":10000000,
		"replacements":[{"file":"/srv/replacements.d/openwrt/24.10.yaml","line":3,"text":` + name + `,"detail":` + name + `}],"policies":[{"community":` + name + `,"minimum":"24.10"}],
		"distributions":[{"name":` + name + `,"url":"http://up.example","trusted_keys":2,"feeds":[` + name + `,"mesh"],"aliases":[` + name + `],"latest":["24.10.4"],"replacements":"openwrt"}],
		"documents":[{"distro":"openwrt","name":` + name + `,"checked":"2026-10-30T09:11:12Z","age_seconds":120,"bytes":9000},{"distro":"openwrt","name":` + name + `,"stale":true,"absent":true},{"distro":"openwrt","name":` + name + `,"stale":true,"detail":` + name + `}],"warnings":[{"code":"x","detail":` + name + `}]}`
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(body))
	})
	site := web.New(web.Options{API: api, Admin: true, Build: func(string) (web.Build, bool) { return web.Build{}, false }})
	router := httprouter.New()
	for _, route := range site.Routes() {
		router.Handle(route.Method, route.Path, func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
			parameter := ""
			if len(ps) > 0 {
				parameter = ps[0].Value
			}
			route.Handle(w, r, parameter)
		})
	}
	return router
}

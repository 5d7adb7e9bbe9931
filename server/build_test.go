package server

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attendant/imagebuilder"
)

func TestBuildFromPostToVerifiedFile(t *testing.T) {
	ts := start(t, nil)
	release := ts.holdBuilds()
	first := ts.post(plainBody("luci", "-ppp"))
	if first.status != 202 || first.json["status"] != 202.0 || !imagebuilder.ValidHash(first.hash()) {
		t.Fatalf("got %d %s", first.status, first.raw)
	}
	release()
	done := ts.await(first.hash())
	if done.status != 200 {
		t.Fatalf("got %d %s", done.status, done.raw)
	}
	for _, key := range []string{"status", "detail", "request", "bin_dir", "images", "manifest", "version_number", "version_code",
		"titles", "id", "target", "build_cmd", "build_at", "request_hash", "imagebuilder_status", "stdout", "stderr",
		"arch_packages", "default_packages", "device_packages", "supported_devices", "metadata_version"} {
		if _, ok := done.json[key]; !ok {
			t.Errorf("the reply has no %s", key)
		}
	}
	if done.json["build_at"] != "2025-10-19T16:37:45.000000Z" {
		t.Errorf("build_at is %v", done.json["build_at"])
	}
	if _, has := done.json["queue_position"]; has {
		t.Error("a finished build has a queue_position")
	}
	if _, has := done.json["built_at"]; has {
		t.Error("the reply tells the time of the build twice")
	}
	image := done.json["images"].([]any)[0].(map[string]any)
	file := ts.get(fmt.Sprintf("/store/%s/%s", done.json["bin_dir"], image["name"]))
	if file.status != 200 || len(file.raw) != 64<<10 {
		t.Fatalf("the file: %d, %d bytes", file.status, len(file.raw))
	}
	if file.header.Get("ETag") != `"`+image["sha256"].(string)+`"` {
		t.Errorf("ETag %s", file.header.Get("ETag"))
	}
	again := ts.post(plainBody("-ppp", "luci"))
	if again.status != 200 || again.hash() != first.hash() {
		t.Errorf("the same request in another order: %d %s", again.status, again.raw)
	}
	if n := ts.builder.builds.Load(); n != 1 {
		t.Errorf("%d builds", n)
	}
	stats := ts.server.o.Statistics.(*stubStatistics)
	if stats.requests.Load() != 2 || stats.hits.Load() != 1 || stats.misses.Load() != 1 {
		t.Errorf("counted %d requests, %d hits, %d misses", stats.requests.Load(), stats.hits.Load(), stats.misses.Load())
	}
}

// The same build reached by an old and by the new name: each requester is told
// what was done to its own packages.
func TestReplacementsAreTold(t *testing.T) {
	ts := start(t, nil)
	old, current := ts.post(plainBody("auc")), ts.post(plainBody("owut"))
	if old.hash() != current.hash() {
		t.Errorf("the old name and the new one are two builds: %s, %s", old.raw, current.raw)
	}
	done := ts.await(old.hash())
	again := ts.post(plainBody("auc"))
	for _, a := range []answer{old, done, again} {
		if got := fmt.Sprint(a.json["replacements"], a.json["added"]); got != "map[auc:[owut]] [fitblk]" {
			t.Errorf("got %s in %s", got, a.raw)
		}
	}
	if done.json["request"].(map[string]any)["changes"] != nil {
		t.Errorf("told twice: %s", done.raw)
	}
	for _, a := range []answer{current, ts.post(plainBody("owut"))} {
		if a.json["replacements"] != nil {
			t.Errorf("told of a replacement that was not made: %s", a.raw)
		}
	}
}

// A request that comes to the same packages by other words has the same images,
// at once, and is told whose they are.
func TestImagesThatAreSharedAreTold(t *testing.T) {
	ts := start(t, nil)
	built := ts.await(ts.post(plainBody("luci")).hash())
	if built.json["shared_with"] != nil {
		t.Errorf("a build of its own is shared: %s", built.raw)
	}
	shared := ts.post(plainBody("same-content"))
	if shared.status != 200 || shared.hash() == built.hash() || shared.json["shared_with"] != built.hash() || shared.json["bin_dir"] != built.hash() {
		t.Fatalf("got %d %s", shared.status, shared.raw)
	}
	if n := ts.builder.builds.Load(); n != 1 {
		t.Errorf("%d builds", n)
	}
	images := shared.json["images"].([]any)[0].(map[string]any)
	file := ts.do("GET", "/store/"+shared.json["bin_dir"].(string)+"/"+images["name"].(string), "")
	if file.status != 200 || len(file.raw) == 0 {
		t.Errorf("the image: %d", file.status)
	}
	if again := ts.do("GET", "/api/v1/build/"+shared.hash(), ""); again.status != 200 || again.json["shared_with"] != built.hash() {
		t.Errorf("got %d %s", again.status, again.raw)
	}
}

func TestImpossibleIsAnsweredAtOnceAsAFailedBuild(t *testing.T) {
	ts := start(t, nil)
	refused := ts.post(plainBody("nowhere", "luci"))
	if refused.status != 500 || refused.json["status"] != 500.0 || !imagebuilder.ValidHash(refused.hash()) {
		t.Fatalf("got %d %s", refused.status, refused.raw)
	}
	if refused.header.Get("X-Unknown-Package") != "nowhere" || refused.header.Get("X-Imagebuilder-Status") != "failed" {
		t.Errorf("headers %v", refused.header)
	}
	for key, want := range map[string]string{
		"code": "package_missing", "unknown_packages": "[nowhere]",
		"problems": "[map[detail:nowhere is in no feed of 24.10.4. kind:missing package:nowhere]]",
		"repairs":  "[map[detail:Leave nowhere out. packages:[] remove:[nowhere]]]",
	} {
		if got := fmt.Sprint(refused.json[key]); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	if again := ts.get("/api/v1/build/" + refused.hash()); again.status != 500 || string(again.raw) != string(refused.raw) {
		t.Errorf("it is not remembered: %d %s", again.status, again.raw)
	}
	if waiting, building := ts.queue.Length(); waiting+building != 0 || ts.builder.builds.Load() != 0 {
		t.Errorf("it was queued")
	}
}

func TestHeadTellsInHeaders(t *testing.T) {
	ts := start(t, nil)
	release := ts.holdBuilds()
	building, queued := ts.post(plainBody("a")), ts.post(plainBody("b"))
	waitFor(t, func() bool { return ts.get("/api/v1/build/" + building.hash()).json["detail"] == "started" })

	head := ts.do(http.MethodHead, "/api/v1/build/"+queued.hash(), "")
	if head.status != 202 || head.header.Get("X-Imagebuilder-Status") != "queued" || head.header.Get("X-Queue-Position") != "1" {
		t.Errorf("queued: %d %v", head.status, head.header)
	}
	if q := ts.get("/api/v1/build/" + queued.hash()); q.json["queue_position"] != 1.0 || q.json["imagebuilder_status"] != nil {
		t.Errorf("queued: %s", q.raw)
	}
	waitFor(t, func() bool {
		return ts.do(http.MethodHead, "/api/v1/build/"+building.hash(), "").header.Get("X-Imagebuilder-Status") == "building_image"
	})
	b := ts.get("/api/v1/build/" + building.hash())
	if _, has := b.json["queue_position"]; has || b.json["imagebuilder_status"] != "building_image" {
		t.Errorf("building: %s", b.raw)
	}
	release()
	ts.await(queued.hash())
	head = ts.do(http.MethodHead, "/api/v1/build/"+queued.hash(), "")
	if head.status != 200 || head.header.Get("X-Imagebuilder-Status") != "done" || head.header.Get("X-Queue-Position") != "0" || len(head.raw) != 0 {
		t.Errorf("done: %d %v", head.status, head.header)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for range 4000 {
		if cond() {
			return
		}
	}
	t.Fatal("it does not happen")
}

func TestFailedBuild(t *testing.T) {
	ts := start(t, nil)
	ts.builder.fail = func(imagebuilder.Request) *imagebuilder.Error {
		e := imagebuilder.Errorf(imagebuilder.CodePackageMissing, "Error: Impossible package selection: missing (nosuch)")
		e.Unknown, e.Stderr = []string{"nosuch"}, "Collected errors:"
		return e
	}
	hash := ts.post(plainBody("nosuch")).hash()
	for name, a := range map[string]answer{"GET": ts.await(hash), "POST": ts.post(plainBody("nosuch"))} {
		if a.status != 500 || a.json["status"] != 500.0 || a.json["detail"] != "Error: Impossible package selection: missing (nosuch)" ||
			a.json["request_hash"] != hash || a.json["code"] != "package_missing" || a.json["stderr"] != "Collected errors:" || a.json["stdout"] != "" {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
		if a.header.Get("X-Unknown-Package") != "nosuch" || a.header.Get("X-Imagebuilder-Status") != "failed" {
			t.Errorf("%s: %v", name, a.header)
		}
	}
	if n := ts.builder.builds.Load(); n != 1 {
		t.Errorf("%d builds: a failure is not remembered", n)
	}
}

func TestRefusals(t *testing.T) {
	ts := start(t, func(o *Options) { o.AllowDefaults = false })
	base := `"version":"24.10.4","target":"ath79/generic","profile":"tplink_archer-c7-v5"`
	tests := []struct {
		name, body string
		status     int
		detail     string // its beginning
	}{
		{"empty", ``, 422, "The request has no body."},
		{"not JSON", `{"version"`, 422, "The request is not a JSON object ("},
		{"a list", `[]`, 422, "The request is not a JSON object"},
		{"null", `null`, 422, "The request is not a JSON object"},
		{"trailing", `{` + base + `} x`, 422, "The request is not a JSON object"},
		{"no version", `{"target":"ath79/generic","profile":"x"}`, 422, "version:"},
		{"no target", `{"version":"24.10.4","profile":"x"}`, 422, "target:"},
		{"no profile", `{"version":"24.10.4","target":"ath79/generic"}`, 422, "profile:"},
		{"packages a string", `{` + base + `,"packages":"luci"}`, 422, "packages: expected a list of strings."},
		{"packages of numbers", `{` + base + `,"packages":[1]}`, 422, "packages: expected a list of strings."},
		{"package with shell", `{` + base + `,"packages":["$(reboot)"]}`, 422, `packages: "$(reboot)" is not a package's name.`},
		{"versions a list", `{` + base + `,"packages_versions":["a"]}`, 422, "packages_versions: expected"},
		{"diff_packages a word", `{` + base + `,"diff_packages":"yes"}`, 422, "diff_packages: expected true or false."},
		{"filesystem", `{` + base + `,"filesystem":"bogusfs"}`, 422, "filesystem:"},
		{"a router in recovery", `{` + base + `,"filesystem":"initramfs"}`, 422, `filesystem: "initramfs" is none of squashfs, ext4, ubifs, erofs, jffs2, jffs2-nand, targz, cpiogz. A router that says so runs a recovery image`},
		{"rootfs 0", `{` + base + `,"rootfs_size_mb":0}`, 422, "rootfs_size_mb: 0 is not between 1 and 1024."},
		{"rootfs too big", `{` + base + `,"rootfs_size_mb":1025}`, 422, "rootfs_size_mb:"},
		{"rootfs a fraction", `{` + base + `,"rootfs_size_mb":1.5}`, 422, "rootfs_size_mb: expected a whole number."},
		{"rootfs a word", `{` + base + `,"rootfs_size_mb":"big"}`, 422, "rootfs_size_mb: expected a whole number."},
		{"rootfs too big in quotes", `{` + base + `,"rootfs_size_mb":"1025"}`, 422, "rootfs_size_mb: 1025 is not between 1 and 1024."},
		{"defaults too long", `{` + base + `,"defaults":"` + strings.Repeat("x", 20481) + `"}`, 422, "defaults:"},
		{"repositories_mode", `{` + base + `,"repositories_mode":"x"}`, 422, "repositories_mode:"},
		{"repository name", `{` + base + `,"repositories":{"a b":"https://feeds.example/allowed/x"}}`, 422, "repositories:"},
		{"repository URL", `{` + base + `,"repositories":{"a":"file:///etc"}}`, 422, "repositories:"},
		{"defaults off", `{` + base + `,"defaults":"reboot"}`, 400, "Handling `defaults` not enabled on server"},
		{"repository not allowed", `{` + base + `,"repositories":{"a":"https://evil.example/"}}`, 400, "Repository not allowed: https://evil.example/"},
		{"release", `{"version":"9.9","target":"ath79/generic","profile":"x"}`, 400, "Unsupported branch: 9.9"},
		{"target", `{"version":"24.10.4","target":"no/such","profile":"x"}`, 400, "Unsupported target: no/such"},
		{"profile", `{"version":"24.10.4","target":"ath79/generic","profile":"x"}`, 400, "Unsupported profile: x"},
		{"too large", `{"client":"` + strings.Repeat("x", 1<<20) + `"}`, 422, "The request is larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ts.post(tt.body)
			detail, _ := a.json["detail"].(string)
			if a.status != tt.status || a.json["status"] != float64(tt.status) || !strings.HasPrefix(detail, tt.detail) {
				t.Errorf("got %d %s", a.status, a.raw)
			}
			if code, _ := a.json["code"].(string); code == "" {
				t.Errorf("no code in %s", a.raw)
			}
		})
	}
	if waiting, building := ts.queue.Length(); waiting+building+int(ts.builder.builds.Load()) != 0 {
		t.Error("a refused request changed something")
	}
}

func TestWhatClientsSendBeyondTheDocumentIsAccepted(t *testing.T) {
	ts := start(t, func(o *Options) { o.AllowDefaults = false })
	base := `"version":"24.10.4","target":"ath79/generic","profile":"tplink,archer-c7-v5"`
	for name, body := range map[string]string{
		"unknown keys and nulls": `{` + base + `,"efi":true,"partsize":null,"rootfs_size_mb":null,"filesystem":null,"packages":null,"defaults":null,"client":null}`,
		"selector's empties":     `{` + base + `,"defaults":"","repositories":{},"repository_keys":[],"packages":[]}`,
		"both lists":             `{` + base + `,"packages":["vim"],"packages_versions":{"tmux":"1-r1"}}`,
		"an allowed feed":        `{` + base + `,"repositories":{"mesh":"https://feeds.example/allowed/mips"},"repositories_mode":"append"}`,
	} {
		if a := ts.post(body); a.status != 202 && a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	// LuCI sends owut's setting as the configuration has it.
	number, text := ts.post(`{`+base+`,"rootfs_size_mb":256}`), ts.post(`{`+base+`,"rootfs_size_mb":"256"}`)
	if number.hash() == "" || text.hash() != number.hash() || number.hash() == ts.post(`{`+base+`}`).hash() {
		t.Errorf("the same size as a number and as text: %d %s and %d %s", number.status, number.raw, text.status, text.raw)
	}
	for _, path := range []string{"//api/v1/build", "/api//v1/build?1732370000", "/api/v1/build/"} {
		if a := ts.do(http.MethodPost, path, plainBody("luci")); a.status != 202 && a.status != 200 {
			t.Errorf("POST %s: %d %s", path, a.status, a.raw)
		}
	}
}

func TestFiftyClientsOneBuild(t *testing.T) {
	ts := start(t, nil)
	release := ts.holdBuilds()
	var wg sync.WaitGroup
	hashes := make([]string, 50)
	for i := range hashes {
		wg.Go(func() { hashes[i] = ts.post(plainBody("luci")).hash() })
	}
	wg.Wait()
	release()
	for _, h := range hashes {
		if h != hashes[0] {
			t.Fatalf("%s and %s", h, hashes[0])
		}
	}
	if a := ts.await(hashes[0]); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if n := ts.builder.builds.Load(); n != 1 {
		t.Errorf("%d builds", n)
	}
}

func TestFullQueueAsksToTryAgain(t *testing.T) {
	ts := start(t, nil)
	ts.holdBuilds()
	var last answer
	for i := range 30 {
		last = ts.post(plainBody(fmt.Sprint("p", i)))
		if last.status == 503 {
			break
		}
	}
	if last.status != 503 || last.header.Get("Retry-After") == "" || last.json["code"] != "queue_full" || len(last.json["detail"].(string)) < 20 {
		t.Errorf("got %d %v %s", last.status, last.header, last.raw)
	}
}

func TestUpstreamUnknownYet(t *testing.T) {
	ts := start(t, nil)
	ts.catalog.down.Store(true)
	for _, a := range []answer{ts.post(plainBody("luci")), ts.get("/json/v1/overview.json"), ts.get("/json/v1/branches.json"), ts.get("/api/v1/latest")} {
		if a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("got %d %s", a.status, a.raw)
		}
	}
	if a := ts.get("/healthz"); a.status != 503 || a.json["status"] != 503.0 || a.json["state"] != "failing" || a.json["detail"] == "" {
		t.Errorf("health: %d %s", a.status, a.raw)
	}
}

func TestUnknownHash(t *testing.T) {
	ts := start(t, nil)
	for _, path := range []string{"/api/v1/build/testtesttest", "/api/v1/build/" + strings.Repeat("a", 64), "/api/v1/build/..%2f..%2fx"} {
		if a := ts.get(path); a.status != 404 || a.json["status"] != 404.0 {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	if a := ts.do(http.MethodPost, "/api/v1/build/0222f0cd9290", ""); a.status != 405 || a.json["status"] != 405.0 || a.header.Get("Allow") == "" {
		t.Errorf("POST: %d %s", a.status, a.raw)
	}
}

// What a request's own feeds hold is in no generation: they are looked at anew
// every day.
func TestFeedsOfARequestAreLookedAtEveryDay(t *testing.T) {
	now := time.Date(2026, 1, 31, 23, 59, 0, 0, time.UTC)
	var hours atomic.Int64
	ts := start(t, func(o *Options) {
		o.Now = func() time.Time { return now.Add(time.Duration(hours.Load()) * time.Hour) }
	})
	feeds := strings.TrimSuffix(plainBody("luci"), "}") + `,"repositories":{"mesh":"https://feeds.example/allowed/mesh"}}`
	plain, today := ts.post(plainBody("luci")).hash(), ts.post(feeds).hash()
	if again := ts.post(feeds).hash(); again != today || today == plain {
		t.Errorf("the same day: %s and %s; without feeds %s", today, again, plain)
	}
	hours.Store(1)
	if ts.post(feeds).hash() == today || ts.post(plainBody("luci")).hash() != plain {
		t.Error("the day changes the wrong one")
	}
}

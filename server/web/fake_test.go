package web

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"attendant/imagebuilder"
)

// hostile is a device's name as nobody should have to show it.
const hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{.}} \u202e"

// fakeAPI answers what the pages ask; "METHOD /path" to a body, or to a status
// where the body is an int.
type fakeAPI map[string]any

func (f fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, ok := f[r.Method+" "+r.URL.Path]
	if call, isFunc := answer.(func(*http.Request) any); isFunc {
		answer = call(r)
	}
	status, isStatus := answer.(int)
	switch {
	case !ok:
		status = http.StatusNotFound
		fallthrough
	case isStatus:
		w.WriteHeader(status)
		io.WriteString(w, `{"status":404,"code":"not_found","detail":"There is nothing at this address."}`)
		return
	}
	body := answer.(string)
	if strings.HasPrefix(body, `{"status":5`) {
		w.WriteHeader(http.StatusInternalServerError)
	}
	io.WriteString(w, body)
}

const overviewJSON = `{"latest":["24.10.4","23.05.6"],"branches":{
	"24.10":{"name":"24.10","path":"releases/{version}","enabled":true,"versions":["24.10.4","24.10.3"],"targets":{"ath79/generic":"mips_24kc"}},
	"23.05":{"name":"23.05","path":"releases/{version}","enabled":true,"versions":["23.05.6","23.05.5"],"targets":{"ath79/generic":"mips_24kc"}},
	"SNAPSHOT":{"name":"SNAPSHOT","path":"snapshots","enabled":true,"snapshot":true,"versions":["SNAPSHOT"],"targets":{"ath79/generic":"mips_24kc"}}},
	"upstream_url":"http://up.example/","upstream":{"checked":"2026-01-02T03:04:05Z","stale":false},"server":{"contact":"<b>us</b>","allow_defaults":true,"max_custom_rootfs_size_mb":256}}`

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// newFakeAPI has one device with a hostile name.
func newFakeAPI() fakeAPI {
	profile := `{"id":"dev","titles":[{"title":` + quoted(hostile) + `},{"vendor":"A","model":"B","variant":"v2"}],"default_packages":["base-files","dropbear","ppp","-nothere"],
		"device_packages":["kmod-usb2","-ppp"],"images":[
		{"name":"x-squashfs-factory.bin","type":"factory","filesystem":"squashfs"},{"name":"x-ext4-sysupgrade.bin","type":"sysupgrade","filesystem":"ext4"},{"name":"x-squashfs-sysupgrade.bin","type":"sysupgrade","filesystem":"squashfs"}]}`
	f := fakeAPI{
		"GET /json/v1/overview.json": overviewJSON,
		"GET /api/v1/devices":        `{"total":1,"devices":[{"title":` + quoted(hostile) + `,"titles":[{"title":` + quoted(hostile) + `},{"title":"javascript:alert(3)"}],"profile":"dev","target":"ath79/generic","aliases":["a,dev"],"versions":["24.10.4","24.10.3","23.05.6","SNAPSHOT"]}]}`,
		"POST /api/v1/solve":         `{"possible":true,"certain":true,"packages":[{"name":"a","installed_size":5,"reason":"b"}],"sizes":{"installed":5000000}}`,
	}
	for _, path := range []string{"releases/24.10.4", "releases/24.10.3", "releases/23.05.6", "snapshots"} {
		f["GET /json/v1/"+path+"/targets/ath79/generic/dev.json"] = profile
	}
	return f
}

var clock = time.Date(2026, 1, 2, 6, 4, 5, 0, time.UTC)

// site is a site on a fake API, with builds by hash.
func site(f http.Handler, builds map[string]Build) http.Handler {
	return siteOf(Options{API: f, Version: "1.2", Now: func() time.Time { return clock }, Build: func(hash string) (Build, bool) {
		b, ok := builds[hash]
		return b, ok
	}})
}

func siteOf(o Options) http.Handler {
	s := New(o)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, route := range s.Routes() {
			prefix, _, parameter := strings.Cut(route.Path, ":")
			method := r.Method
			if method == http.MethodHead {
				method = http.MethodGet
			}
			if method != route.Method || (!parameter && r.URL.Path != route.Path) || (parameter && !strings.HasPrefix(r.URL.Path, prefix)) {
				continue
			}
			route.Handle(w, r, strings.TrimPrefix(r.URL.Path, prefix))
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
}

// browse asks the site; form "" is a GET.
func browse(t *testing.T, h http.Handler, address string, form url.Values) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, address, nil)
	if form != nil {
		r = httptest.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func buildRequest() imagebuilder.Request {
	return imagebuilder.Request{Distro: "openwrt", Version: "24.10.4", Target: "ath79/generic", Profile: "dev", Packages: []string{"luci", "-ppp"}}
}

func doneBuild() Build {
	set := &imagebuilder.ImageSet{ID: "dev", Titles: []imagebuilder.Title{{Title: hostile}}, Target: "ath79/generic", VersionNumber: "24.10.4", VersionCode: "r1-a"}
	for _, image := range []imagebuilder.Image{{Name: "x-factory.bin", Type: "factory", Filesystem: "squashfs"}, {Name: "x-kernel.bin", Type: "kernel"}, {Name: "x-sysupgrade.bin", Type: "sysupgrade", Filesystem: "squashfs"}} {
		image.SHA256, image.Size = strings.Repeat("ab", 32), 5_400_000
		set.Images = append(set.Images, image)
		set.Files = append(set.Files, imagebuilder.File{Name: image.Name, Size: image.Size})
	}
	set.Files = append(set.Files, imagebuilder.File{Name: "sha256sums", Size: 10})
	set.Manifest = imagebuilder.Manifest{"luci": "1", "base-files": "2"}
	r := buildRequest()
	r.Changes = &imagebuilder.Changes{Replacements: map[string][]string{"auc": {"owut"}, "old": {}}, Added: []string{"fitblk"}}
	return Build{Job: &imagebuilder.Job{Hash: hashA, State: imagebuilder.Done, Request: r, Images: set}}
}

func failedBuild() Build {
	return Build{Job: &imagebuilder.Job{Hash: hashA, State: imagebuilder.Failed, Request: buildRequest(), Failure: &imagebuilder.Failure{
		Code: imagebuilder.CodePackageConflict, Detail: forClients + "a and b exclude one another", Stderr: hostile, Stdout: "out",
		Problems: []imagebuilder.Problem{{Kind: imagebuilder.ProblemConflict, Package: "a", Other: "b", Detail: "a and b exclude one another."}},
		Repairs:  []imagebuilder.Repair{{Detail: "Leave out a.", Remove: []string{"a"}, Packages: []string{"b", "-ppp"}}},
	}}}
}

func contains(t *testing.T, where, body string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(body, want) {
			t.Errorf("%s: no %q in %d bytes", where, want, len(body))
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s differs; run with -update to renew it:\n%s", path, got)
	}
}

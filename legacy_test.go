package main

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// recorded sends a recorded body as it is, with the headers of its client.
func recorded(t *testing.T, base, path, file, contentType, agent string) (*http.Response, string) {
	t.Helper()
	var body io.Reader
	method := http.MethodGet
	if file != "" {
		method = http.MethodPost
		data, err := os.ReadFile(filepath.Join("testdata", "legacy", file))
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(data)
		if strings.Contains(agent, "auc") {
			body = io.MultiReader(body) // whose length is not known: uclient sends chunks
		}
	}
	req, err := http.NewRequest(method, base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" && body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("User-Agent", agent)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(raw)
}

const (
	luciAgent  = "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0"
	auc009     = "auc (0.0.9)"
	auc014     = "auc (0.1.4)"
	jsonBodies = "application/json"
	textBodies = "text/json"
)

// Recorded bodies of every period are answered by a server with the sample
// distribution as they were then. The answers stand in a golden file.
func TestLegacyRecordings(t *testing.T) {
	t.Parallel()
	p := startConfigured(t, "")
	tests := []struct {
		file, path, kind, agent string
		status                  int // of the outcome
	}{
		{"2017-06-update-request.json", "/update-request", jsonBodies, "curl/7.52.1", 400}, // the sample lacks the device
		{"2017-06-image-request.json", "/image-request", jsonBodies, "curl/7.52.1", 200},
		{"2017-06-update-request.json", "/image-request", jsonBodies, "curl/7.52.1", 400}, // and the release
		{"2017-luci-update-request.json", "/update-request", jsonBodies, luciAgent, 200},
		{"2017-luci-image-request.json", "//image-request", jsonBodies, luciAgent, 200},
		{"2017-demo-x86.json", "/image-request", jsonBodies, "curl/7.52.1", 200},
		{"2017-demo-snapshot.json", "/update-request", jsonBodies, "curl/7.52.1", 204},
		{"2017-demo-snapshot.json", "/image-request", jsonBodies, "curl/7.52.1", 200},
		{"2017-auc-0.0.8-upgrade-request.json", "/api/upgrade-request", textBodies, "auc (0.0.8)", 200},
		{"2018-auc-upgrade-check.json", "/api/upgrade-check", textBodies, auc009, 200},
		{"2018-auc-upgrade-request.json", "/api/upgrade-request", textBodies, auc009, 200},
		{"2018-luci-upgrade-check.json", "/api/upgrade-check", jsonBodies, luciAgent, 200},
		{"2018-luci-upgrade-request.json", "/api/upgrade-request", jsonBodies, luciAgent, 200},
		{"2018-chef-build-request.json", "/api/build-request", jsonBodies, luciAgent, 200},
		{"2019-auc-upgrade-check.json", "/api/upgrade-check", textBodies, auc014, 200},
		{"2019-auc-upgrade-request.json", "/api/upgrade-request", textBodies, auc014, 200},
		{"2019-luci-upgrade-check.json", "/api/upgrade-check", jsonBodies, luciAgent, 200},
		{"2019-luci-upgrade-request.json", "/api/upgrade-request", jsonBodies, luciAgent, 200},
	}
	var transcript strings.Builder
	hide := regexp.MustCompile(`[0-9a-f]{64}|[0-9a-f]{32}`)
	tell := func(what string, resp *http.Response, body string) {
		fmt.Fprintf(&transcript, "%s\n  %d", what, resp.StatusCode)
		for _, name := range []string{"X-Imagebuilder-Status", "X-Build-Queue-Position", "X-Unknown-Package", "X-Missing-Param"} {
			if v := resp.Header.Get(name); v != "" {
				fmt.Fprintf(&transcript, " %s: %s", name, v)
			}
		}
		body = strings.ReplaceAll(body, p.base, "http://SERVER")
		body = hide.ReplaceAllStringFunc(body, func(s string) string { return map[int]string{64: "HASH", 32: "MD5"}[len(s)] })
		body = regexp.MustCompile(`"filesize":\d+`).ReplaceAllString(body, `"filesize":"SIZE"`)
		if body != "" {
			var out bytes.Buffer
			if err := json.Indent(&out, []byte(body), "  ", "  "); err == nil {
				body = out.String()
			}
			fmt.Fprintf(&transcript, "\n  %s", body)
		}
		transcript.WriteString("\n\n")
	}
	for _, tt := range tests {
		path, file := tt.path, tt.file
		resp, body := recorded(t, p.base, path, file, tt.kind, tt.agent)
		if resp.StatusCode/100 == 2 && resp.StatusCode != 200 && resp.StatusCode != 204 {
			pending := resp.StatusCode
			if want := map[bool]int{true: 201, false: 202}[strings.HasSuffix(path, "/image-request")]; pending != want && pending != 206 {
				t.Errorf("%s: pending as %d", file, pending)
			}
			deadline := time.Now().Add(2 * time.Minute)
			for resp.StatusCode != 200 && resp.StatusCode < 300 && time.Now().Before(deadline) {
				// auc goes on by GET, LuCI by the same POST.
				var reply struct {
					Hash string `json:"request_hash"`
				}
				if strings.HasPrefix(tt.agent, "auc") && json.Unmarshal([]byte(body), &reply) == nil && reply.Hash != "" {
					path, file = tt.path+"/"+reply.Hash, ""
				}
				time.Sleep(20 * time.Millisecond)
				resp, body = recorded(t, p.base, path, file, tt.kind, tt.agent)
			}
		}
		if resp.StatusCode != tt.status {
			t.Errorf("%s %s: %d, want %d: %s", tt.path, tt.file, resp.StatusCode, tt.status, body)
		}
		if resp.StatusCode != 204 && resp.Header.Get("Content-Length") != fmt.Sprint(len(body)) {
			t.Errorf("%s: %d bytes, Content-Length %q", tt.file, len(body), resp.Header.Get("Content-Length"))
		}
		tell(tt.path+" "+tt.file, resp, body)
		if resp.StatusCode == 200 && strings.Contains(tt.path, "request") && !strings.HasPrefix(tt.path, "/update") {
			checkLegacyImage(t, p.base, tt.agent, body)
		}
	}
	golden(t, "testdata/legacy/replies.golden", transcript.String())
}

// checkLegacyImage downloads as the clients of the period do, and compares
// what they compare.
func checkLegacyImage(t *testing.T, base, agent, body string) {
	t.Helper()
	var reply struct {
		URL, Sysupgrade, Files, Checksum string
		FileSize                         int64
	}
	if err := json.Unmarshal([]byte(body), &reply); err != nil {
		t.Fatal(err)
	}
	address := reply.URL + reply.Sysupgrade
	if agent == auc014 {
		address = fmt.Sprintf("%s/%s/%s", base, reply.Files, reply.Sysupgrade)
	}
	if len(address) > 255 {
		t.Errorf("%s has %d bytes; auc takes 255", address, len(address))
	}
	resp, image := recorded(t, strings.TrimSuffix(address, "/"), "", "", "", agent)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Length") != fmt.Sprint(len(image)) || len(image) == 0 {
		t.Fatalf("%s: %d, %d bytes", address, resp.StatusCode, len(image))
	}
	if agent == auc014 {
		return
	}
	sum := md5.Sum([]byte(image))
	if reply.Checksum != hex.EncodeToString(sum[:]) || reply.FileSize != int64(len(image)) {
		t.Errorf("%s: MD5 %x, %d bytes; told %s, %d", address, sum, len(image), reply.Checksum, reply.FileSize)
	}
	// auc 0.0.9 takes the line of the image out of sha256sums: the name begins
	// at its 66th byte.
	slash := strings.LastIndex(address, "/")
	_, sums := recorded(t, address[:slash]+"/sha256sums", "", "", "", agent)
	found := 0
	for line := range strings.SplitSeq(sums, "\n") {
		if len(line) > 66 && line[66:] == address[slash+1:] {
			found++
			if sum := sha256.Sum256([]byte(image)); line[:64] != hex.EncodeToString(sum[:]) {
				t.Errorf("sha256sums: %s", line)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d lines of %s in sha256sums:\n%s", found, address[slash+1:], sums)
	}
}

// The device search of the sample, over all of its releases.
func TestDevicesOverHTTP(t *testing.T) {
	p := startConfigured(t, "")
	type device struct {
		Title, Profile, Target string
		Versions, Aliases      []string
	}
	ask := func(query string) (total int, devices []device) {
		t.Helper()
		resp, body := recorded(t, p.base, "/api/v1/devices?"+query, "", "", "")
		var reply struct {
			Total   int
			Devices []device
		}
		if err := json.Unmarshal([]byte(body), &reply); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s, %v", query, resp.StatusCode, body, err)
		}
		return reply.Total, reply.Devices
	}
	// The lists of older releases come in the background.
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, devices := ask("q=tp+lnik+archer+c7+v5&limit=1")
		if len(devices) == 1 && len(devices[0].Versions) == 3 {
			d := devices[0]
			if d.Title != "TP-Link Archer C7 v5" || d.Profile != "tplink_archer-c7-v5" || d.Target != "ath79/generic" || d.Versions[0] != "24.10.4" || d.Versions[2] != "SNAPSHOT" {
				t.Errorf("%+v", d)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", devices)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n, devices := ask("version=24.10.3&target=x86/64"); n != 1 || devices[0].Profile != "generic" {
		t.Errorf("x86/64 of 24.10.3: %d, %+v", n, devices)
	}
	if n, devices := ask("limit=2&offset=1"); n < 8 || len(devices) != 2 {
		t.Errorf("a page of two: %d, %+v", n, devices)
	}
	// A target that is held brings the names that routers have for its devices.
	if status, body := post(t, p.base+"/api/v1/upgrade-check", `{"version":"24.10.3","target":"ath79/generic","packages":["luci"]}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if n, devices := ask("q=om2pv2"); n != 1 || devices[0].Profile != "openmesh_om2p-v2" {
		t.Errorf("by board name: %d, %+v", n, devices)
	}
	// What the operator does not offer is not found.
	narrow := startConfigured(t, "[[policy]]\noffer = [\"24.10.3\"]\n")
	resp, body := recorded(t, narrow.base, "/api/v1/devices?q=archer+c7+v5", "", "", "")
	if resp.StatusCode == 200 && strings.Contains(body, "24.10.4") {
		t.Errorf("%s", body)
	}
	if resp, _ := recorded(t, narrow.base, "/api/v1/devices?version=24.10.4", "", "", ""); resp.StatusCode != 400 {
		t.Errorf("a release that is not offered: %d", resp.StatusCode)
	}
}

// LuCI's app of 2021 does not say what its router runs; its packages are taken
// as those of 19.07, and its device is found as it was called then.
func TestLegacyRequestsOf2021AreOfTheirTime(t *testing.T) {
	t.Parallel()
	p := startConfigured(t, "")
	for _, from := range []string{`"target":"ath79/generic","profile":"tplink,archer-c7-v5"`, `"target":"ar71xx/generic","profile":"archer-c7-v5"`} {
		body := `{` + from + `,"version":"24.10.4","packages":["wpad-basic","tmux"],"diff_packages":true}`
		reply, err := ask(http.MethodPost, p.base+"/api/build", body)
		if err != nil {
			t.Fatal(err)
		}
		if reply.HTTP == http.StatusAccepted {
			reply = awaitBuild(t, p.base, reply.RequestHash)
		}
		if reply.Status != 200 || reply.Manifest["tmux"] == "" || reply.Manifest["wpad-basic-mbedtls"] == "" {
			t.Errorf("%s: %+v", from, reply)
		}
	}
}

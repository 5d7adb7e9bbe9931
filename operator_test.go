package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attendant/server"
)

func TestAdminTokenFile(t *testing.T) {
	dir := t.TempDir()
	tests := []struct{ content, want, problem string }{
		{"0123456789abcdef\n", "0123456789abcdef", ""},
		{"  0123456789abcdef-._~+/=\r\n", "0123456789abcdef-._~+/=", ""},
		{strings.Repeat("x", maxTokenLength) + "\n", strings.Repeat("x", maxTokenLength), ""},
		{"", "", "has 0 bytes and can be guessed"},
		{"secret\n", "", "has 6 bytes and can be guessed"},
		{strings.Repeat("x", 5000), "", "more than 1024 bytes"},
		{"0123456789abcdef\nand another\n", "", "printable ASCII"},
		{"0123456789abcdef\u00e9", "", "printable ASCII"},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, "token")
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readAdminToken(path)
		if got != tt.want || (err != nil) != (tt.problem != "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%.30q: %q, %v", tt.content, got, err)
		}
		if err != nil && tt.content != "" && strings.Contains(err.Error(), strings.TrimSpace(tt.content)) {
			t.Errorf("the error tells the token: %v", err)
		}
	}
	if token, err := readAdminToken(""); token != "" || err != nil {
		t.Errorf("no file: %q, %v", token, err)
	}
	if _, err := readAdminToken(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "admin_token_file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestConfigDoesNotTellTheAdminToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("0123456789abcdef-geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config"}, {"config", "--json"}} {
		code, out, errs := runAttendant(t, []string{"ATTENDANT_ADMIN_TOKEN_FILE=" + path}, args...)
		if code != exitOK || strings.Contains(out+errs, "geheim") || !strings.Contains(out, path) {
			t.Errorf("%v: %d %s%s", args, code, out, errs)
		}
	}
}

// TestOperatorOfTheWholeServer administers a real one.
func TestOperatorOfTheWholeServer(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	secrets := t.TempDir()
	tables := filepath.Join(secrets, "tables", "openwrt")
	if err := os.MkdirAll(tables, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		filepath.Join(secrets, "token"): token + "\n", filepath.Join(tables, "24.10.yaml"): "# our own\nnonsense: here\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base, _ := startApplication(t, sampleUpstream(t, 0), func(cfg *Config) {
		cfg.AdminTokenFile = filepath.Join(secrets, "token")
		cfg.Replacements = filepath.Dir(tables)
		cfg.Policies = []Policy{{HoldBack: []string{"25.12"}}}
	})
	call := func(method, path string, into any) int {
		t.Helper()
		req, err := http.NewRequest(method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, into); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return resp.StatusCode
	}
	reply, err := ask(http.MethodPost, base+"/api/v1/build", buildBody("24.10.4", "x86/64", "generic", "nano"))
	if err != nil {
		t.Fatal(err)
	}
	if done := awaitBuild(t, base, reply.RequestHash); done.Status != http.StatusOK {
		t.Fatalf("%+v", done)
	}

	var asked struct{ Documents int }
	if status := call(http.MethodPost, "/api/v1/admin/sync", &asked); status != http.StatusAccepted {
		t.Errorf("sync: %d %+v", status, asked)
	}
	var state struct {
		Replacements  []server.TableError
		Policies      []Policy
		Distributions []server.DistributionState
		Documents     []server.DocumentState
		Jobs          []server.ControlJob
	}
	if status := call(http.MethodGet, "/api/v1/admin/state", &state); status != http.StatusOK {
		t.Fatalf("state: %d", status)
	}
	if len(state.Replacements) == 0 || state.Replacements[0].Line != 2 || state.Replacements[0].Text != "nonsense: here" || filepath.Base(state.Replacements[0].File) != "24.10.yaml" {
		t.Errorf("replacements: %+v", state.Replacements)
	}
	if len(state.Policies) != 1 || state.Policies[0].HoldBack[0] != "25.12" {
		t.Errorf("policies: %+v", state.Policies)
	}
	if len(state.Distributions) != 1 || state.Distributions[0].Name != "openwrt" || state.Distributions[0].TrustedKeys == 0 || len(state.Distributions[0].Latest) == 0 {
		t.Errorf("distributions: %+v", state.Distributions)
	}
	names := map[string]bool{}
	for _, d := range state.Documents {
		names[d.Name] = true
	}
	if !names["versions"] || !names["target 24.10.4 x86/64"] {
		t.Errorf("documents: %+v", state.Documents)
	}
	if len(state.Jobs) != 1 || state.Jobs[0].Hash != reply.RequestHash {
		t.Errorf("jobs: %+v", state.Jobs)
	}

	var status struct {
		Recent   []struct{ State string }
		Builders struct{ Used, Budget int64 }
		Disk     struct{ Free, Total, Floor int64 }
		Upstream []struct {
			Distro string
			Stale  bool
		}
		Warnings []server.Warning
		Days     []struct{ Requests, Builds int64 }
	}
	time.Sleep(1100 * time.Millisecond) // an older one may be kept
	if code := call(http.MethodGet, "/api/v1/status", &status); code != http.StatusOK {
		t.Fatalf("status: %d", code)
	}
	if len(status.Recent) != 1 || status.Builders.Used <= 0 || status.Builders.Budget <= 0 || status.Disk.Total <= 0 || status.Disk.Free > status.Disk.Total || status.Disk.Floor <= 0 ||
		len(status.Upstream) != 1 || status.Upstream[0].Stale || len(status.Days) != 30 || status.Days[29].Builds != 1 {
		t.Errorf("%+v", status)
	}
	warned := map[string]string{}
	for _, w := range status.Warnings {
		warned[w.Code] = w.Detail
	}
	if !strings.Contains(warned[server.WarnReplacements], "openwrt/24.10.yaml, line 2 (nonsense: here)") || warned[server.WarnNoKey] != "" || warned[server.WarnUplink] != "" {
		t.Errorf("warnings: %+v", status.Warnings)
	}
}

// TestWarningsOfAnUplinkThatIsGone has no upstream and no key.
func TestWarningsOfAnUplinkThatIsGone(t *testing.T) {
	cfg, err := demoConfig(t.TempDir(), "http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApplication(cfg, newLogger(cfg, io.Discard), extras{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}()
	warned := map[string]string{}
	for _, w := range a.watch.Warnings() {
		warned[w.Code] = w.Detail
	}
	if !strings.Contains(warned[server.WarnUplink], "has not been reached yet") || !strings.Contains(warned[server.WarnNoKey], "usign public keys") {
		t.Errorf("%+v", warned)
	}
}

// TestPinsOutliveTheProcess pins by the operator's commands.
func TestPinsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	data, addr := t.TempDir(), freeAddress(t)
	t.Cleanup(func() { _ = removeScratch(data) })
	run := func(args ...string) (int, string) {
		code, stdout, stderr := runAttendant(t, []string{"PATH=" + os.Getenv("PATH")}, append(args, "--data", data)...)
		return code, stdout + stderr
	}
	upstream := sampleUpstream(t, 0)
	p := startProcess(t, addr, data, "--upstream", upstream)
	reply, err := ask(http.MethodPost, p.base+"/api/v1/build", buildBody("24.10.4", "x86/64", "generic", "nano"))
	if err != nil {
		t.Fatal(err)
	}
	if code, out := run("pin", reply.RequestHash); code != exitFailure || !strings.Contains(out, "no image with this hash") {
		t.Errorf("pin of what is not built: %d %s", code, out)
	}
	if done := awaitBuild(t, p.base, reply.RequestHash); done.Status != http.StatusOK {
		t.Fatalf("%+v", done)
	}
	if code, out := run("pin", reply.RequestHash); code != exitOK {
		t.Errorf("pin: %d %s", code, out)
	}
	p.kill() // as a power cut does
	p = startProcess(t, addr, data, "--upstream", upstream)
	defer p.stop(t)
	if code, out := run("jobs"); code != exitOK || !strings.Contains(out, "PINNED") || !strings.Contains(out, fmt.Sprintf("%s  done   pinned  ", reply.RequestHash)) {
		t.Errorf("jobs: %d %s", code, out)
	}
	if code, out := run("evict", reply.RequestHash); code != exitFailure || !strings.Contains(out, "pinned") {
		t.Errorf("evict: %d %s", code, out)
	}
	for _, command := range []string{"unpin", "evict"} {
		if code, out := run(command, reply.RequestHash); code != exitOK {
			t.Errorf("%s: %d %s", command, code, out)
		}
	}
	if code, out := run("pin", "short"); code != exitUsage {
		t.Errorf("pin of no hash: %d %s", code, out)
	}
}

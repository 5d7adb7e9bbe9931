package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite golden files and docs")

// golden compares got with a file and rewrites that with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make it with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-file +now):\n%s", path, diff)
	}
}

// runAttendant runs a command line with an environment of its own.
func runAttendant(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &program{ctx: context.Background(), stdout: &out, stderr: &errs, environ: environ}
	code = p.run(args)
	return code, out.String(), errs.String()
}

// testSources are sources on a small machine, with the file's content in
// attendant.toml; "" is no file.
func testSources(t *testing.T, file string) configSources {
	t.Helper()
	dir := t.TempDir()
	if file != "" {
		if err := os.WriteFile(filepath.Join(dir, "attendant.toml"), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return configSources{dir: dir, cpus: 2, memory: 1 << 30}
}

var sameConfig = cmp.Options{
	cmpopts.IgnoreUnexported(Config{}),
	cmpopts.IgnoreFields(Config{}, "File"),
	cmpopts.EquateComparable(),
}

func TestConfigDefaults(t *testing.T) {
	src := testSources(t, "")
	c, err := loadConfig(src)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":8080" || c.Upstream != "https://downloads.openwrt.org" || c.ImageBudget != 10e9 || c.UpstreamWait != 4*time.Second {
		t.Errorf("unexpected defaults: %+v", c)
	}
	if want := filepath.Join(src.dir, "attendant-data"); c.Data != want || c.Keys != want+"/keys" || c.Control != want+"/control.sock" {
		t.Errorf("data %q, keys %q, control %q; want them below %q", c.Data, c.Keys, c.Control, want)
	}
	for _, s := range settings {
		if got := c.Origin(s.key).String(); got != "default" {
			t.Errorf("origin of %s is %q", s.key, got)
		}
	}
}

func TestConfigLaterSourcesWin(t *testing.T) {
	src := testSources(t, `
listen = ":1"
queue_limit = 1
contact = "file"

refresh = "2h"
`)
	src.environ = []string{"ATTENDANT_LISTEN=:2", "ATTENDANT_QUEUE_LIMIT=2", "ATTENDANT_CONTACT=", "HOME=/x", "ATTENDANT_SERVER=http://x"}
	src.flags = []flagValue{{"listen", ":3"}}
	c, err := loadConfig(src)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":3" || c.QueueLimit != 2 || c.Contact != "file" || c.Refresh != 2*time.Hour {
		t.Errorf("listen %q, queue_limit %d, contact %q, refresh %s", c.Listen, c.QueueLimit, c.Contact, c.Refresh)
	}
	for key, want := range map[string]string{
		"listen": "--listen", "queue_limit": "ATTENDANT_QUEUE_LIMIT", "contact": "attendant.toml:4", "refresh": "attendant.toml:6", "data": "default",
	} {
		if got := c.Origin(key).String(); got != want {
			t.Errorf("origin of %s is %q, want %q", key, got, want)
		}
	}
}

func TestConfigFileIsFound(t *testing.T) {
	dir := t.TempDir()
	write := func(name, contact string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("contact = \""+contact+"\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	system, other := write("system.toml", "system"), write("other.toml", "other")
	contact := func(src configSources) string {
		t.Helper()
		src.dir = dir
		c, err := loadConfig(src)
		if err != nil {
			t.Fatal(err)
		}
		return c.Contact
	}
	if got := contact(configSources{system: filepath.Join(dir, "missing")}); got != "" {
		t.Errorf("without any file: %q", got)
	}
	if got := contact(configSources{system: system}); got != "system" {
		t.Errorf("with the system's file: %q", got)
	}
	write("attendant.toml", "here")
	if got := contact(configSources{system: system}); got != "here" {
		t.Errorf("with a file in the folder: %q", got)
	}
	variable := []string{"ATTENDANT_CONFIG=" + other}
	if got := contact(configSources{system: system, environ: variable}); got != "other" {
		t.Errorf("with ATTENDANT_CONFIG: %q", got)
	}
	if got := contact(configSources{system: system, path: "system.toml", environ: variable}); got != "system" {
		t.Errorf("with --config: %q", got)
	}
	_, err := loadConfig(configSources{dir: dir, path: "missing.toml"})
	if want := "the configuration has an error:\n  missing.toml: the file cannot be read: no such file or directory."; err == nil || err.Error() != want {
		t.Errorf("with a file that is not there: %v\nwant %s", err, want)
	}
}

func TestConfigMistakesAreToldAllAtOnce(t *testing.T) {
	src := testSources(t, `# a bad one
lsten = ":80"
workers = 0
image_budget = "1MB"
refresh = 3
allow_defaults = "yes"
repository_allow_list = "https://a.example"
public_url = "ftp://x"

[server]
port = 1

[[branch]]
nam = "x"

[[branch]]
name = "24.10"
path = "/../etc"
versions = ["24.10.4", "a b", 3]

[[branch.package_changes]]
sorce = "x"
revision = "s"

[[branch]]
name = "24.10"

[[imagebuilder]]
version = "24.10.4"
target = "ath79"
path = "x.zip"
`)
	src.environ = []string{"ATTENDANT_LISTN=:1", "ATTENDANT_QUEUE_LIMIT=many", "ATTENDANT_data=x"}
	src.flags = []flagValue{{"listen", "8080"}, {"idle_timeout", "2h"}, {"data", "/srv/my data"}}
	_, err := loadConfig(src)
	if err == nil {
		t.Fatal("the configuration was accepted")
	}
	golden(t, "testdata/config-mistakes.txt", err.Error()+"\n")
}

func TestConfigSyntaxErrorNamesItsLine(t *testing.T) {
	_, err := loadConfig(testSources(t, "listen = \":1\"\ndata = [1, \n"))
	if err == nil || !strings.Contains(err.Error(), "attendant.toml:2: the file is no TOML here: ") {
		t.Errorf("got %v", err)
	}
	_, err = loadConfig(testSources(t, "listen = \":1\"\nlisten = \":2\"\n"))
	if err == nil || !strings.Contains(err.Error(), "attendant.toml:2: ") {
		t.Errorf("a key given twice: %v", err)
	}
}

func TestConfigAcceptsAndRefuses(t *testing.T) {
	for _, tt := range []struct {
		key    string
		good   []string // and what becomes of it, after "=>" if not the same
		refuse []string
	}{
		{"listen", []string{":80", "[::1]:8080", "localhost:0"}, []string{"", "80", ":http", ":65536", "::1"}},
		{"public_url", []string{"https://a.example/x/ => https://a.example/x", "http://h:81", ""}, []string{"a.example", "https://", "https://a?x", "https://a#x"}},
		{"upstream", []string{"http://127.0.0.1:8000/tree"}, []string{"", "file:///srv"}},
		{"repository_allow_list", []string{"https://a.example => https://a.example/", "https://a/p,https://b/ => https://a/p/,https://b/"}, []string{"https://u@a.example", "a.example", "https://a/?x"}},
		{"workers", []string{"1", "64", "auto"}, []string{"0", "65", "two", "-1", ""}},
		{"queue_limit", []string{"1", "100000"}, []string{"0", "1e3"}},
		{"max_defaults_length", []string{"1048576"}, []string{"1048577", "0"}},
		{"job_timeout", []string{"1h30m", "1d", "24h => 1d"}, []string{"59s", "25h", "10", "-5m", "2d", ""}},
		{"defaults_ttl", []string{"7d", "90m => 1h30m"}, []string{"1.5d", "1s", "-1d"}},
		{"image_budget", []string{"100MB", "10 GB => 10GB", "1GiB", "1.5TB => 1500GB", "100000001"}, []string{"99MB", "-10GB", "ten", "", "9EB", "9999999EB"}},
		{"allow_defaults", []string{"true", "no => false", "1 => true"}, []string{"", "maybe"}},
		{"log_level", []string{"debug", "warn"}, []string{"trace", "INFO+1", ""}},
		{"log_format", []string{"json"}, []string{"xml"}},
		{"contact", []string{"Röschen <a@b.example>"}, []string{"two\nlines", strings.Repeat("x", 501)}},
		{"data", []string{"/srv/attendant-data_1.x+y@z", "/srv/größe"}, []string{"", "/srv/a b", "/srv/a$b", "/srv/a:b", "/srv/a#b", "/srv/a,b", "/srv/a%b", "/srv/(x)", "/srv/a\nb", "/srv/'x"}},
		{"control", []string{"/run/attendant.sock"}, []string{"/" + strings.Repeat("x", 107)}},
	} {
		load := func(text string) (*Config, error) {
			src := testSources(t, "")
			src.flags = []flagValue{{tt.key, text}}
			return loadConfig(src)
		}
		for _, good := range tt.good {
			text, want, changed := strings.Cut(good, " => ")
			if !changed {
				want = text
			}
			c, err := load(text)
			if err != nil {
				t.Errorf("%s = %q: %v", tt.key, text, err)
				continue
			}
			if got := findSetting(tt.key).text(c); got != want {
				t.Errorf("%s = %q became %q, want %q", tt.key, text, got, want)
			}
		}
		for _, bad := range tt.refuse {
			_, err := load(bad)
			if err == nil {
				t.Errorf("%s = %q was accepted", tt.key, bad)
			} else if !strings.Contains(err.Error(), "--"+flagName(tt.key)+": "+tt.key) {
				t.Errorf("%s = %q: the error does not name flag and key: %v", tt.key, bad, err)
			}
		}
	}
}

func TestConfigLongDataPathNeedsAControlSocketElsewhere(t *testing.T) {
	src := testSources(t, "data = \"/srv/"+strings.Repeat("x", 100)+"\"\n")
	_, err := loadConfig(src)
	if err == nil || !strings.Contains(err.Error(), "attendant.toml:1: control: the path of the control socket") {
		t.Errorf("got %v", err)
	}
	src.flags = []flagValue{{"control", "/run/attendant.sock"}}
	if _, err := loadConfig(src); err != nil {
		t.Error(err)
	}
}

func TestConfigWorkersFollowTheMachine(t *testing.T) {
	for _, tt := range []struct {
		cpus   int
		memory int64
		want   int
	}{{1, 8 << 30, 1}, {4, 2 << 30, 1}, {4, 4 << 30, 2}, {64, 0, 2}} {
		if got := workersFor(tt.cpus, tt.memory); got != tt.want {
			t.Errorf("workersFor(%d, %d) = %d, want %d", tt.cpus, tt.memory, got, tt.want)
		}
	}
}

// loadExample loads the example with lines changed by edit.
func loadExample(t *testing.T, edit func(string) string) *Config {
	t.Helper()
	src := testSources(t, edit(exampleConfig(nil)))
	c, err := loadConfig(src)
	if err != nil {
		t.Fatal(err)
	}
	c.Data = strings.TrimPrefix(c.Data, src.dir)
	c.Keys = strings.TrimPrefix(c.Keys, src.dir)
	c.Control = strings.TrimPrefix(c.Control, src.dir)
	c.Replacements = strings.TrimPrefix(c.Replacements, src.dir)
	return c
}

func TestExampleConfigHoldsTheDefaults(t *testing.T) {
	src := testSources(t, "")
	defaults, err := loadConfig(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []*string{&defaults.Data, &defaults.Keys, &defaults.Control, &defaults.Replacements} {
		*path = strings.TrimPrefix(*path, src.dir)
	}
	if diff := cmp.Diff(defaults, loadExample(t, func(s string) string { return s }), sameConfig); diff != "" {
		t.Errorf("the example as it is changes values (-default +example):\n%s", diff)
	}
	key := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`)
	uncommented := loadExample(t, func(s string) string { return key.ReplaceAllString(s, "$1") })
	if diff := cmp.Diff(defaults, uncommented, sameConfig); diff != "" {
		t.Errorf("the example's values are not the defaults (-default +example):\n%s", diff)
	}
	for _, s := range settings {
		if uncommented.Origin(s.key).Kind != FromFile {
			t.Errorf("%s is not in the example", s.key)
		}
	}
}

func TestExampleConfigTablesAreValid(t *testing.T) {
	c := loadExample(t, func(s string) string { return regexp.MustCompile(`(?m)^#\| ?`).ReplaceAllString(s, "") })
	if len(c.Branches) != 2 || len(c.Branches[1].PackageChanges) != 1 || len(c.Branches[1].Versions) != 1 || len(c.ImageBuilders) != 1 {
		t.Errorf("got %+v, %+v", c.Branches, c.ImageBuilders)
	}
}

func TestExampleConfigInDocs(t *testing.T) {
	golden(t, "docs/attendant.example.toml", exampleConfig(nil))
	code, out, _ := runAttendant(t, nil, "config", "--example")
	if code != exitOK || out != exampleConfig(nil) {
		t.Errorf("config --example: code %d", code)
	}
}

func TestSettingsAreDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings {
		if seen[s.key] || s.help == "" || !strings.HasSuffix(s.help, ".") || s.allowed == "" || s.placeholder == "" || s.group == "" {
			t.Errorf("%s: incomplete or there twice: %+v", s.key, s)
		}
		seen[s.key] = true
		for line := range strings.Lines(s.doc + "\n" + s.help) {
			if len(line) > 115 {
				t.Errorf("%s: a line of %d characters", s.key, len(line))
			}
		}
	}
}

func TestConfigCommandShowsOriginsAndHidesPasswords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.toml")
	if err := os.WriteFile(file, []byte("upstream = \"https://me:geheim@mirror.example/\"\n[[branch]]\nname = \"23.05\"\nenabled = false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	environ := []string{"ATTENDANT_LISTEN=:81"}
	code, out, errs := runAttendant(t, environ, "config", "--config", file, "--workers", "3", "--no-allow-defaults")
	if code != exitOK {
		t.Fatalf("code %d: %s", code, errs)
	}
	words := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{
		"configuration file: " + file, "listen :81 ATTENDANT_LISTEN", "workers 3 --workers", "upstream https://me:***@mirror.example " + file + ":1",
		"allow_defaults false --allow-defaults", "log_level info default", "23.05 enabled false",
	} {
		if !strings.Contains(words, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	code, out, _ = runAttendant(t, environ, "config", "--config", file, "--json")
	if code != exitOK || strings.Contains(out, "geheim") {
		t.Errorf("code %d, output %s", code, out)
	}
	var shown struct {
		File     string
		Settings []shownSetting
		Branches []Branch
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.Settings) != len(settings) || shown.File != file || len(shown.Branches) != 1 {
		t.Errorf("got %+v", shown)
	}
	if want := (shownSetting{"listen", ":81", FromEnvironment, "ATTENDANT_LISTEN"}); shown.Settings[0] != want {
		t.Errorf("got %+v, want %+v", shown.Settings[0], want)
	}
}

func TestConfigCommandRefusesWithCode2(t *testing.T) {
	code, out, errs := runAttendant(t, []string{"ATTENDANT_WORKERS=0"}, "config")
	if code != exitUsage || out != "" || !strings.Contains(errs, "ATTENDANT_WORKERS: workers: 0 is out of range. Allowed is ") {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
	}
}

func TestRunExitCodes(t *testing.T) {
	for _, tt := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{nil, exitOK, "Usage: attendant <command>", ""},
		{[]string{"--help"}, exitOK, "As a service of this machine:", ""},
		{[]string{"serve", "--help"}, exitOK, "--image-budget", ""},
		{[]string{"version"}, exitOK, "attendant ", ""},
		{[]string{"version", "--json"}, exitOK, `"platform"`, ""},
		{[]string{"serv"}, exitUsage, "", `did you mean "serve"?`},
		{[]string{"config", "--lisen", "x"}, exitUsage, "", `did you mean "--listen"?`},
		{[]string{"config", "--config", "/missing/x"}, exitUsage, "", "/missing/x: the file cannot be read"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			code, out, errs := runAttendant(t, nil, tt.args...)
			if code != tt.code || !strings.Contains(out, tt.stdout) || !strings.Contains(errs, tt.stderr) {
				t.Errorf("code %d\nstdout %s\nstderr %s", code, out, errs)
			}
		})
	}
}

func TestEachCommandHasHelp(t *testing.T) {
	_, out, _ := runAttendant(t, nil)
	for _, name := range []string{"serve", "demo", "build", "sample", "install", "uninstall", "start", "stop", "status", "doctor", "config", "db check", "backup", "version", "jobs", "cancel"} {
		if !regexp.MustCompile(`(?m)^  ` + name + ` `).MatchString(out) {
			t.Errorf("%s is not in the help", name)
		}
		if code, help, errs := runAttendant(t, nil, append(strings.Fields(name), "--help")...); code != exitOK || help == "" {
			t.Errorf("%s --help: code %d, %s", name, code, errs)
		}
	}
}

func TestDurationsAndSizesReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(400*24*time.Hour)).Draw(t, "duration"))
		if rapid.Bool().Draw(t, "round") {
			d = d.Truncate(time.Minute)
		}
		if got, err := parseDuration(formatDuration(d)); err != nil || got != d {
			t.Fatalf("%s was written %q and read as %s, %v", d, formatDuration(d), got, err)
		}
		n := rapid.Int64Range(minBudget, 1<<50).Draw(t, "size")
		if rapid.Bool().Draw(t, "roundSize") {
			n = n / minBudget * minBudget
		}
		var c Config
		if err := findSetting("image_budget").set(&c, formatSize(n)); err != nil || c.ImageBudget != n {
			t.Fatalf("%d was written %q and read as %d, %v", n, formatSize(n), c.ImageBudget, err)
		}
	})
}

func TestSuggestion(t *testing.T) {
	known := []string{"listen", "log_level", "log_format"}
	for name, want := range map[string]string{"lsten": "listen", "log_fromat": "log_format", "loglevel": "log_level", "quite_else": ""} {
		if want != "" {
			want = fmt.Sprintf(" Did you mean %q?", want)
		}
		if got := suggestion(name, known); got != want {
			t.Errorf("suggestion(%q) = %q, want %q", name, got, want)
		}
	}
}

// FuzzConfigFile: whatever a file holds, it is either taken or refused with
// errors that name the file.
func FuzzConfigFile(f *testing.F) {
	f.Add([]byte(exampleConfig(map[string]string{"data": "/srv/x"})))
	f.Add([]byte("[[branch]]\nname=\"x\"\n[[branch.package_changes]]\nsource=\"a\"\n"))
	f.Add([]byte("branch = [{name = \"a\", package_changes = [{source = \"x\"}]}, 3]\nimagebuilder.x.y = 1"))
	f.Add([]byte("a.b.c = 1\n[a.b.d]\nx = 1979-05-27\n[[a.b.e]]"))
	f.Add([]byte("listen = 1\nworkers = 1.5\nrepository_allow_list = [1]\n\"\" = 2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseConfigFile("x.toml", data)
		if err != nil {
			if !strings.Contains(err.Error(), "x.toml") {
				t.Errorf("the error names no file: %v", err)
			}
			return
		}
		for _, key := range slices.Sorted(maps.Keys(file.values)) {
			if file.lines[key] == 0 && !strings.Contains(key, ".") {
				t.Errorf("key %q has no line", key)
			}
		}
		l := &configLoader{src: configSources{dir: "/"}, config: &Config{origins: map[string]Origin{}}}
		l.takeFile(file)
		for _, e := range l.errs {
			if e.Origin.Name != "x.toml" || e.Origin.Line == 0 && !strings.Contains(e.Key, ".") {
				t.Errorf("error without a place: %v", e)
			}
		}
	})
}

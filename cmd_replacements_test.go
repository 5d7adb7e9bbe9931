package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replacementsTable is a folder with one table for OpenWrt.
func replacementsTable(t *testing.T, release, text string) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "openwrt"), 0o755); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "openwrt", release+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func runReplacements(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"replacements"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func TestReplacementsExplain(t *testing.T) {
	dir, file := replacementsTable(t, "24.10", `
openvpn:
  openvpn-openssl: {default: true}
  openvpn-mbedtls: {installed: [mbedtls]}
  openvpn-wolfssl: {}
polarssl: {mbedtls: {default: true}}
`)
	code, out, errs := runReplacements("explain", "--dir", dir, "--from", "19.07.10", "--to", "24.10.4", "--packages", "openvpn, polarssl")
	want := strings.ReplaceAll(`Tables on the way from 19.07.10 to 24.10.4: 21.02, 22.03, 23.05, 24.10.

openvpn → openvpn-mbedtls
  24.10: openvpn → openvpn-mbedtls (FILE:2)
    openvpn-mbedtls took its place in 24.10, as mbedtls was or became installed.

polarssl → mbedtls
  24.10: polarssl → mbedtls (FILE:6)
    mbedtls took its place in 24.10.

A choice for openvpn:
    openvpn-openssl  The default.
  * openvpn-mbedtls  It is taken where mbedtls is, or was, installed.
    openvpn-wolfssl  It is taken only if you choose it.

Packages: openvpn-mbedtls mbedtls
`, "FILE", file)
	if code != exitOK || out != want || errs != "" {
		t.Errorf("exit code %d, stderr %q, stdout:\n%s\nwant:\n%s", code, errs, out, want)
	}

	for _, c := range []struct {
		args []string
		want string // last line
	}{
		{[]string{"--choose", "openvpn=openvpn-wolfssl", "--packages", "openvpn"}, "Packages: openvpn-wolfssl"},
		{[]string{"--installed", "polarssl", "--packages", "openvpn"}, "Packages: openvpn-mbedtls"},
		{[]string{"--packages=-openvpn +busybox busybox"}, "Packages: -openvpn-openssl -openvpn-mbedtls -openvpn-wolfssl busybox"},
		{[]string{"--packages", "auc", "--target", "mediatek/filogic", "--profile", "x"}, "Packages: owut fitblk"},
	} {
		code, out, errs := runReplacements(append([]string{"explain", "--dir", dir, "--from", "23.05.0", "--to", "24.10.4"}, c.args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if got := lines[len(lines)-1]; code != exitOK || got != c.want {
			t.Errorf("%q: exit code %d, %q, stderr %q; want %q", c.args, code, got, errs, c.want)
		}
	}
}

func TestReplacementsExplainRefuses(t *testing.T) {
	dir, _ := replacementsTable(t, "24.10", "openvpn: {openvpn-openssl: {default: true}, openvpn: {}}\n")
	broken, file := replacementsTable(t, "24.10", "openvpn: {}\nfoo: {bar: yes}\n")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--packages", "a;b"}, exitUsage, `"a;b" is not a package's name`},
		{[]string{"--packages", "a", "--target", "x86"}, exitUsage, `--target: "x86" is not a target`},
		{[]string{"--packages", "a", "--from", "../x"}, exitUsage, `"../x" is not the name of a release`},
		{[]string{"--packages", "a", "--choose", "a"}, exitUsage, `--choose: "a" is not OLD=NEW`},
		{[]string{"--packages", "openvpn", "--dir", dir, "--choose", "openvpn=other"}, exitUsage, `"other" cannot stand for openvpn; openvpn-openssl or openvpn can.`},
		{[]string{"--packages", "a", "--dir", filepath.Join(dir, "none")}, exitUsage, "no such file"},
		{[]string{"--packages", "a", "--dir", broken}, exitFailure, file + `:2: "bar" is unknown here.`},
	} {
		code, _, errs := runReplacements(append([]string{"explain", "--from", "23.05.0", "--to", "24.10.4"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%q: exit code %d, stderr %q; want %d, %q", c.args, code, errs, c.code, c.want)
		}
	}
}

func TestReplacementsCheck(t *testing.T) {
	if code, out, errs := runReplacements("check"); code != exitOK || out != "The tables are in order.\n" || errs != "" {
		t.Errorf("embedded tables: exit code %d, %q, %q", code, out, errs)
	}

	dir, file := replacementsTable(t, "24.10", "foo: {source: s, targets: [ath79/generic, ath97/generic]}\nbar: {baz: {default: true}, from: 23.05.1}\n")
	want := file + ":2: from: 23.05.1 is not a version of 24.10, which this table is about.\n    bar: {baz: {default: true}, from: 23.05.1}\n"
	for _, args := range [][]string{{"check", file}, {"check", "--dir", dir}} {
		if code, out, errs := runReplacements(args...); code != exitFailure || out != want || !strings.Contains(errs, "1 place") {
			t.Errorf("%q: exit code %d, stderr %q, stdout:\n%s", args, code, errs, out)
		}
	}

	_, file = replacementsTable(t, "24.10", "foo: {source: s, targets: [ath79/generic, ath97/generic]}\n")
	want = file + ":1: No index has the target ath97/generic.\n    foo: {source: s, targets: [ath79/generic, ath97/generic]}\n"
	if code, out, _ := runReplacements("check", file); code != exitFailure || out != want {
		t.Errorf("exit code %d, stdout:\n%s", code, out)
	}
	targets := filepath.Join(t.TempDir(), "targets")
	for text, wantCode := range map[string]int{"ath79/generic\n# ours\nath97/generic # too\n": exitOK, "ath79/generic\n": exitFailure, "ath79\n": exitUsage, "": exitUsage} {
		if err := os.WriteFile(targets, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if code, out, errs := runReplacements("check", "--targets", targets, file); code != wantCode {
			t.Errorf("targets %q: exit code %d, want %d; %q, %q", text, code, wantCode, out, errs)
		}
	}
	if code, _, errs := runReplacements("check", filepath.Join(dir, "openwrt", "none.yaml")); code != exitUsage || !strings.Contains(errs, "no such file") {
		t.Errorf("a file that is not there: exit code %d, %q", code, errs)
	}
}

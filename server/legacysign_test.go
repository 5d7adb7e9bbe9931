package server

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// verifyUsign checks a signature as usign does.
func verifyUsign(t testing.TB, public, data, signature []byte) bool {
	t.Helper()
	blob := func(text []byte) []byte {
		_, line, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		b, err := base64.StdEncoding.DecodeString(line)
		if err != nil || string(b[:2]) != "Ed" {
			t.Fatalf("%q: %v", text, err)
		}
		return b
	}
	key, sig := blob(public), blob(signature)
	return bytes.Equal(key[2:10], sig[2:10]) && ed25519.Verify(key[10:], data, sig[10:])
}

func TestSigningKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	first, err := OpenSigningKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	again, err := OpenSigningKey(path)
	if err != nil || !bytes.Equal(first.public(), again.public()) {
		t.Fatalf("%v: another key after a restart", err)
	}
	if !verifyUsign(t, first.public(), []byte("sums"), again.sign([]byte("sums"))) || verifyUsign(t, first.public(), []byte("other"), again.sign([]byte("sums"))) {
		t.Error("the signature is not one")
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(good), "\n")
	blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int) string {
		b := bytes.Clone(blob)
		b[at] ^= 1
		return "untrusted comment: x\n" + base64.StdEncoding.EncodeToString(b) + "\n"
	}
	for name, text := range map[string]string{
		"empty": "", "public": string(first.public()), "no comment": line, "algorithm": changed(0), "passphrase": changed(7), "checksum": changed(24), "key": changed(80), "cut": string(good[:60]),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSigningKey(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenSigningKey(filepath.Join(path, "below", "a file")); err == nil {
		t.Error("a key where there is no folder")
	}
}

func TestSumsAreSigned(t *testing.T) {
	key, err := OpenSigningKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	ts := start(t, func(o *Options) { o.SigningKey = key })
	hash := ts.ask("/api/upgrade-request", body2018).hash()
	ts.await(hash)
	sums, signature, public := ts.get("/store/"+hash+"/sha256sums"), ts.get("/store/"+hash+"/sha256sums.sig"), ts.get("/api/signing-key")
	if sums.status != 200 || signature.status != 200 || public.status != 200 || !verifyUsign(t, public.raw, sums.raw, signature.raw) {
		t.Errorf("%d %d %d: %q %q", sums.status, signature.status, public.status, sums.raw, signature.raw)
	}
	if len(signature.raw) < 16 || !strings.Contains(string(ts.get("/store/"+hash).raw), `"sha256sums.sig","type":"file"`) {
		t.Errorf("%s", ts.get("/store/"+hash).raw)
	}
	without := start(t, nil)
	for _, path := range []string{"/api/signing-key", "/store/" + hash + "/sha256sums.sig"} {
		if a := without.get(path); a.status != 404 {
			t.Errorf("without a key %s: %d", path, a.status)
		}
	}
}

func FuzzParseSigningKey(f *testing.F) {
	_, text := newSigningKey()
	f.Add(text)
	f.Add([]byte("untrusted comment: x\nRWQ=\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := parseSigningKey(text); err == nil && !verifyUsign(t, k.public(), text, k.sign(text)) {
			t.Fatal("a key that does not sign")
		}
	})
}

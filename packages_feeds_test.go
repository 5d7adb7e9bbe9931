package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attendant/imagebuilder"
	"attendant/imagebuilder/upstream"
)

// A feed that the ImageBuilder does not trust is named by the address that
// people know, not by the folder that stands in for it.
func TestUntrustedFeedIsNamedByItsAddress(t *testing.T) {
	w := newWorkshop(t, upstream.Options{})
	const feed = "/releases/24.10.4/packages/mips_24kc/packages"
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // nobody knows it
	list, err := os.ReadFile(filepath.Join(w.tree, feed, "Packages"))
	if err == nil {
		signature := append([]byte("Ed12345678"), ed25519.Sign(private, list)...)
		err = os.WriteFile(filepath.Join(w.tree, feed, "Packages.sig"), []byte("untrusted comment: x\n"+base64.StdEncoding.EncodeToString(signature)+"\n"), 0o644)
	}
	if err == nil {
		err = os.Remove(filepath.Join(w.tree, "releases/24.10.4/packages/mips_24kc/sha256sums"))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	_, _, err = w.build(w.job("24.10.4", "ath79/generic", "tplink_archer-c7-v5", "cowsay"))
	e := imagebuilder.AsError(err)
	if e.Code != imagebuilder.CodePackageDamaged || !strings.Contains(e.Detail, w.server.URL+feed+" is missing or wrong") || !strings.Contains(e.Detail, "cowsay") {
		t.Errorf("got %v", err)
	}
}

package main

import (
	"bytes"
	"compress/flate"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
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
	t.Parallel()
	for _, tt := range []struct {
		version, target, profile, folder, feed string
		spoil                                  func(feed string) error
	}{
		{"24.10.4", "ath79/generic", "tplink_archer-c7-v5", "/releases/24.10.4/packages/mips_24kc", "packages", opkgByNobody},
		{"SNAPSHOT", "x86/64", "generic", "/snapshots/packages/x86_64", "packages", apkByNobody},
	} {
		t.Run(tt.version, func(t *testing.T) {
			w := newWorkshop(t, upstream.Options{})
			folder := filepath.Join(w.tree, tt.folder)
			if err := tt.spoil(filepath.Join(folder, tt.feed)); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(folder, "sha256sums")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			_, _, err := w.build(w.job(tt.version, tt.target, tt.profile, "cowsay"))
			e := imagebuilder.AsError(err)
			if e.Code != imagebuilder.CodePackageDamaged || !strings.Contains(e.Detail, w.server.URL+tt.folder+"/"+tt.feed+" is missing or wrong") || !strings.Contains(e.Detail, "cowsay") {
				t.Errorf("got %v\n%s", err, e.Stderr)
			}
		})
	}
}

// opkgByNobody signs an opkg feed's list with a key that nobody knows.
func opkgByNobody(feed string) error {
	list, err := os.ReadFile(filepath.Join(feed, "Packages"))
	if err != nil {
		return err
	}
	signature := ed25519.Sign(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), list)
	file := "untrusted comment: x\n" + base64.StdEncoding.EncodeToString(append([]byte("Ed12345678"), signature...)) + "\n"
	return os.WriteFile(filepath.Join(feed, "Packages.sig"), []byte(file), 0o644)
}

// apkByNobody has each signature of an apk feed's index be by a key that
// nobody knows: a block of type 1, with a word of its type and length and two
// bytes before the key's identity.
func apkByNobody(feed string) error {
	name := filepath.Join(feed, "packages.adb")
	index, err := os.ReadFile(name)
	if packed, ok := bytes.CutPrefix(index, []byte("ADBd")); ok {
		index, err = io.ReadAll(flate.NewReader(bytes.NewReader(packed)))
	}
	if err != nil {
		return err
	}
	for at := 8; at+4 <= len(index); {
		word := binary.LittleEndian.Uint32(index[at:])
		size := int(word & (1<<30 - 1))
		if size < 4 || at+size > len(index) {
			return errors.New("the index is not as it was thought to be")
		}
		if word>>30 == 1 {
			index[at+6] ^= 1
		}
		at += (size + 7) &^ 7
	}
	return os.WriteFile(name, index, 0o644)
}

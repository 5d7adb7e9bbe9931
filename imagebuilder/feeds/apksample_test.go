package feeds_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"attendant/imagebuilder/feeds"
	"attendant/imagebuilder/sample"
)

// The sample distribution writes its apk packages and indexes with code of its
// own: what reads them here must agree.
func TestSampleFeeds(t *testing.T) {
	dir := t.TempDir()
	if err := sample.Write(dir, sample.Options{}); err != nil {
		t.Fatal(err)
	}
	indexes, packages := 0, 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "packages.adb" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		x, err := feeds.ParseADB(data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		if x.Skipped > 0 {
			t.Errorf("%s: %d entries skipped", path, x.Skipped)
		}
		if err := feeds.VerifyADB(data, nil); !errors.Is(err, feeds.ErrUnknownKey) {
			t.Errorf("%s: error %v, want ErrUnknownKey", path, err)
		}
		indexes++
		for i := range x.Packages {
			p := &x.Packages[i]
			file, err := os.ReadFile(filepath.Join(filepath.Dir(path), p.Filename))
			if err != nil {
				return err
			}
			if err := feeds.VerifyAPK(bytes.NewReader(file), p); err != nil {
				t.Errorf("%s: %v", p.Filename, err)
			}
			packages++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if indexes == 0 || packages < 50 {
		t.Errorf("%d indexes with %d packages", indexes, packages)
	}
}

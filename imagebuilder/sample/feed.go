package sample

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
)

// feed writes one folder of packages with its indexes.
func (w *tree) feed(r *release, t *target, folder string, pkgs []*built) error {
	for _, b := range pkgs {
		if err := w.put(folder+"/"+b.filename, b.data, r); err != nil {
			return err
		}
	}
	files := map[string][]byte{}
	if r.apk {
		index, err := apkIndex(pkgs)
		if err != nil {
			return fmt.Errorf("packages.adb: %w", err)
		}
		files["packages.adb"] = index
	} else {
		var index, manifest bytes.Buffer
		for _, b := range pkgs {
			index.Write(b.stanza())
			manifest.Write(b.manifestStanza())
		}
		packed, err := gzippedAt(index.Bytes(), gzip.BestCompression)
		if err != nil {
			return err
		}
		files["Packages"], files["Packages.manifest"], files["Packages.gz"] = index.Bytes(), manifest.Bytes(), packed
		files["Packages.sig"] = usignSignature(index.Bytes())
	}
	doc, err := jsonIndex(r, t, pkgs)
	if err != nil {
		return err
	}
	files["index.json"] = doc
	for name, data := range files {
		if err := w.put(folder+"/"+name, data, r); err != nil {
			return err
		}
	}
	return nil
}

// jsonIndex makes index.json: version 1 has names with ABI suffix on one
// line, version 2 has names without and is indented.
func jsonIndex(r *release, t *target, pkgs []*built) ([]byte, error) {
	versions := map[string]string{}
	for _, b := range pkgs {
		name := b.name
		if r.indexV2 {
			name = b.base
		}
		versions[name] = b.version
	}
	if !r.indexV2 {
		return json.Marshal(struct {
			Architecture string            `json:"architecture"`
			Packages     map[string]string `json:"packages"`
		}{t.arch, versions})
	}
	return json.MarshalIndent(struct {
		Version      int               `json:"version"`
		Architecture string            `json:"architecture"`
		Packages     map[string]string `json:"packages"`
	}{2, t.arch, versions}, "", "  ")
}

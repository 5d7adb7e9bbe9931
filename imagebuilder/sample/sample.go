package sample

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultBaseURL is the address that a tree written without Options.BaseURL
// believes to be served at. Nothing answers there.
const DefaultBaseURL = "https://downloads.sample.example"

// Options say how the sample distribution is written.
type Options struct {
	// Slow makes every `make image` in the tree's ImageBuilders take at least
	// that long (CONFIG_SAMPLE_SLOW in their .config; millisecond precision).
	Slow time.Duration
	// BaseURL is the address that the tree will be served at, without a slash
	// at its end; "" is DefaultBaseURL. It goes to CONFIG_VERSION_REPO and to
	// the feeds of the ImageBuilders.
	BaseURL string
}

// Write writes the distribution below dir, which is made if absent; what is
// there already is overwritten or left. The same options give the same bytes
// and times on every machine.
func Write(dir string, o Options) error {
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	o.BaseURL = strings.TrimRight(o.BaseURL, "/")
	if strings.ContainsAny(o.BaseURL, " \t\r\n\"'") {
		return fmt.Errorf("write the sample distribution: %q cannot be a base URL", o.BaseURL)
	}
	w := &tree{dir: dir, options: o}
	for _, r := range releases {
		if err := w.release(r); err != nil {
			return fmt.Errorf("write the sample's %s: %w", r.version, err)
		}
	}
	if err := w.top(); err != nil {
		return fmt.Errorf("write the sample distribution: %w", err)
	}
	return nil
}

// tree is a distribution being written.
type tree struct {
	dir     string
	options Options
}

// put writes a file with a release's time.
func (w *tree) put(name string, data []byte, r *release) error {
	full := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(full, data, 0o644); err != nil {
		return err
	}
	return os.Chtimes(full, r.time(), r.time())
}

// latest is the newest release that is no snapshot.
func latest() *release { return releases[1] }

// top writes what stands above the releases.
func (w *tree) top() error {
	var versions []string
	for _, r := range releases {
		if !r.snapshot() {
			versions = append(versions, r.version)
		}
	}
	slices.Reverse(versions)
	doc, err := json.Marshal(struct {
		Stable    string   `json:"stable_version"`
		Oldstable string   `json:"oldstable_version"`
		Upcoming  string   `json:"upcoming_version"`
		Versions  []string `json:"versions_list"`
	}{latest().version, "", "", versions})
	if err != nil {
		return err
	}
	if err := w.put(".versions.json", doc, latest()); err != nil {
		return err
	}
	fingerprint, pub := TrustedKey()
	return w.put(path.Join("keys", fingerprint), pub, latest())
}

// release writes everything below the release's path.
func (w *tree) release(r *release) error {
	archs := map[string]string{}
	type device struct {
		ID     string              `json:"id"`
		Target string              `json:"target"`
		Titles []map[string]string `json:"titles"`
	}
	var devices []device
	for _, t := range targets {
		archs[t.name] = t.arch
		for _, p := range t.profiles {
			devices = append(devices, device{p.id, t.name, p.titles()})
		}
		if err := w.target(r, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	doc, err := json.Marshal(archs)
	if err != nil {
		return err
	}
	if err := w.put(r.path+"/.targets.json", doc, r); err != nil {
		return err
	}
	overview, err := json.Marshal(struct {
		Release  string   `json:"release"`
		Profiles []device `json:"profiles"`
		ImageURL string   `json:"image_url"`
	}{r.revision, devices, w.options.BaseURL + "/" + strings.Replace(r.path, r.version, "{version}", 1) + "/targets/{target}"})
	if err != nil {
		return err
	}
	return w.put(r.path+"/.overview.json", overview, r)
}

func (p *profile) titles() []map[string]string {
	return []map[string]string{{"vendor": p.vendor, "model": p.model}}
}

// arch feeds are those that all targets of an architecture share.
var archFeeds = []string{"base", "luci", "packages", "routing", "telephony"}

// target writes a target's folder and the feeds of its architecture.
func (w *tree) target(r *release, t *target) error {
	pkgs, err := packagesFor(r, t)
	if err != nil {
		return err
	}
	feeds := map[string][]*built{}
	for _, p := range pkgs {
		build := buildIPK
		if r.apk {
			build = buildAPK
		}
		b, err := build(p, r, t)
		if err != nil {
			return fmt.Errorf("package %s: %w", p.name, err)
		}
		feeds[p.feed] = append(feeds[p.feed], b)
	}
	archFolder := r.path + "/packages/" + t.arch
	for _, feed := range archFeeds {
		if err := w.feed(r, t, archFolder+"/"+feed, feeds[feed]); err != nil {
			return fmt.Errorf("feed %s: %w", feed, err)
		}
	}
	if err := w.put(archFolder+"/feeds.conf", feedsConf(r, true), r); err != nil {
		return err
	}
	if err := w.sums(r, archFolder); err != nil {
		return err
	}
	folder := r.path + "/targets/" + t.name
	if err := w.feed(r, t, folder+"/packages", feeds["core"]); err != nil {
		return fmt.Errorf("feed core: %w", err)
	}
	if err := w.feed(r, t, folder+"/kmods/"+t.kmodsFolder(r), feeds["kmods"]); err != nil {
		return fmt.Errorf("feed kmods: %w", err)
	}
	if err := w.images(r, t, folder, pkgs); err != nil {
		return err
	}
	archive, err := w.builder(r, t, feeds["core"])
	if err != nil {
		return fmt.Errorf("ImageBuilder: %w", err)
	}
	for name, data := range map[string][]byte{
		builderName(r, t) + ".tar.zst": archive,
		"version.buildinfo":            []byte(r.revision + "\n"),
		"config.buildinfo":             w.config(r, t),
		"feeds.buildinfo":              feedsConf(r, false),
	} {
		if err := w.put(folder+"/"+name, data, r); err != nil {
			return err
		}
	}
	return w.sums(r, folder)
}

// feedsConf is the list of feeds; the buildbots' form has the base feed too.
func feedsConf(r *release, withBase bool) []byte {
	var out strings.Builder
	branch := ""
	if r.branch != "" {
		branch = ";" + r.branch
	}
	if withBase {
		fmt.Fprintf(&out, "src-git base https://git.openwrt.org/openwrt/openwrt.git%s\n", branch)
	}
	for _, feed := range []struct{ name, url string }{
		{"packages", "feed/packages.git"}, {"luci", "project/luci.git"}, {"routing", "feed/routing.git"}, {"telephony", "feed/telephony.git"},
	} {
		fmt.Fprintf(&out, "src-git %s https://git.openwrt.org/%s%s\n", feed.name, feed.url, branch)
	}
	return []byte(out.String())
}

// sums writes sha256sums and its signature over everything in folder.
func (w *tree) sums(r *release, folder string) error {
	root := filepath.Join(w.dir, filepath.FromSlash(folder))
	var lines []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel == "sha256sums" || rel == "sha256sums.sig" {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		lines = append(lines, sum(data)+" *"+rel+"\n")
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	doc := []byte(strings.Join(lines, ""))
	if err := w.put(folder+"/sha256sums", doc, r); err != nil {
		return err
	}
	return w.put(folder+"/sha256sums.sig", usignSignature(doc), r)
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

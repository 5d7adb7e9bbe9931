package runner

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// Planner finds out, before the ImageBuilder runs, what a build will install,
// and gets it, so that the build itself needs no network.
type Planner interface {
	// Plan answers q. An error that is ErrNoPlan has the build fetch for
	// itself, as ImageBuilders do; any other one ends it.
	Plan(ctx context.Context, q Question) (*Plan, error)
}

// ErrNoPlan tells why nothing can be said before a build: what wraps it is
// told in the build's log.
var ErrNoPlan = errors.New("the build fetches its packages for itself")

// Question is a build about which a Planner is asked.
type Question struct {
	Job     imagebuilder.Job
	Builder *Builder
	Manager feeds.Manager
	Wish    feeds.Wish
	Feeds   []FeedLine // in the order in which the package manager reads them
	// Local are the file names of the packages that the builder brings along.
	Local []string
	// Keys are the public keys, each a file's content, that the package
	// manager trusts.
	Keys [][]byte
	// Doubt asks for more than the likeliest choice: the ImageBuilder has
	// made another one.
	Doubt bool
}

// FeedLine is one feed of a builder's list, or of the request.
type FeedLine struct {
	Name string // "openwrt_base"; "" where the list has no names
	URL  string // address of the folder
	Path string // the same below upstream, as "releases/24.10.4/packages/x86_64/base"; "" for one elsewhere
}

// Plan is what is known of a build beforehand.
type Plan struct {
	// Certain tells that the ImageBuilder will install exactly Selected. Else
	// `make manifest` is asked.
	Certain bool
	// Selected is what will be installed, and Manifest the same by names
	// without ABI suffixes, as `make manifest STRIP_ABI=1` prints it. Both are
	// nil where the plan is not certain.
	Selected []*feeds.Package
	Manifest imagebuilder.Manifest
	// Why says, where a plan is not certain, why: a sentence for the log, or "".
	Why string
	// Fetch gets everything that the build may need, which stays until
	// release is called. The feeds are those of the question.
	Fetch func(ctx context.Context, rep imagebuilder.Reporter) (fetched *Fetched, err error)
}

// Fetched is what a build installs from.
type Fetched struct {
	Feeds   []FetchedFeed // of the question's feeds, in their order
	Release func()
	// Damaged has the files checked again when they are next needed.
	Damaged func()
}

// FetchedFeed is the content of one feed's folder: files by their names
// there, each at an absolute path where it is kept or as its bytes.
type FetchedFeed struct {
	Files map[string]string
	Data  map[string][]byte
}

// feedLines reads a builder's list of feeds. bases are the addresses below
// which upstream's feeds lie. Local feeds and options are left out.
func feedLines(list string, apk bool, bases []string) []FeedLine {
	var lines []FeedLine
	for line := range strings.Lines(list) {
		f, ok := readFeedLine(line, apk)
		if !ok {
			continue
		}
		for _, base := range bases {
			if path, found := strings.CutPrefix(f.URL, strings.TrimRight(base, "/")+"/"); found {
				f.Path = strings.Trim(path, "/")
				break
			}
		}
		lines = append(lines, f)
	}
	return lines
}

// readFeedLine reads one line of a list of feeds; it is false for a line that
// names no feed elsewhere.
func readFeedLine(line string, apk bool) (f FeedLine, ok bool) {
	if i := strings.IndexByte(line, '#'); i >= 0 {
		line = line[:i]
	}
	words := strings.Fields(line)
	if apk {
		if len(words) != 1 {
			return f, false
		}
		folder, found := strings.CutSuffix(words[0], "/"+apkIndexName)
		return FeedLine{URL: folder}, found && strings.Contains(folder, "://")
	}
	if len(words) != 3 || words[0] != "src/gz" && words[0] != "src" || !strings.Contains(words[2], "://") {
		return f, false
	}
	return FeedLine{Name: words[1], URL: strings.TrimRight(words[2], "/")}, true
}

const apkIndexName = "packages.adb"

// localFeeds is the list with folders in place of the feeds' addresses, in
// their order.
func localFeeds(list string, apk bool, folders []string) string {
	var out strings.Builder
	n := 0
	for line := range strings.Lines(list) {
		f, ok := readFeedLine(line, apk)
		switch {
		case !ok || n >= len(folders):
			out.WriteString(line)
			continue
		case apk:
			out.WriteString(folders[n] + "/" + apkIndexName + "\n")
		default:
			out.WriteString("src/gz " + f.Name + " file://" + folders[n] + "\n")
		}
		n++
	}
	return out.String()
}

// ask asks the planner about a build whose feeds are list. It returns nil
// where the build has to fetch for itself.
func (a *attempt) ask(ctx context.Context, b *Builder, info *Info, profile InfoProfile, packages []string, t *tree) (*Plan, error) {
	if a.r.o.Planner == nil || a.mode == fromNetwork {
		return nil, nil
	}
	q := Question{
		Job: a.job, Builder: b, Manager: feeds.Opkg, Doubt: a.mode == inDoubt,
		Wish:  feeds.Wish{Default: info.DefaultPackages, Device: profile.Packages, Requested: packages},
		Feeds: feedLines(t.feeds, t.apk, t.bases),
	}
	if t.apk {
		q.Manager = feeds.APK
	}
	var err error
	if q.Keys, err = a.trustedKeys(b); err != nil {
		return nil, err
	}
	if q.Local, err = localPackages(b.Dir); err != nil {
		return nil, err
	}
	p, err := a.r.o.Planner.Plan(ctx, q)
	if errors.Is(err, ErrNoPlan) {
		a.out.Line("attendant: " + err.Error())
		a.r.o.Log.Info("a build fetches its packages for itself", "version", a.job.Request.Version, "target", a.job.Request.Target, "why", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !p.Certain && p.Why != "" {
		a.out.Line("attendant: make manifest is asked: " + p.Why)
	}
	return p, nil
}

// trustedKeys are the keys in the builder and those of the request.
func (a *attempt) trustedKeys(b *Builder) ([][]byte, error) {
	names, err := filepath.Glob(filepath.Join(b.Dir, "keys", "*"))
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() || info.Size() > 16<<10 {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, data)
	}
	for i, key := range a.job.Request.RepositoryKeys {
		_, content, e := keyFile(i, key)
		if e != nil {
			return nil, e
		}
		keys = append(keys, content)
	}
	return keys, nil
}

// localPackages are the names of the package files in a builder: in packages/,
// and libc and kernel of opkg's releases beside the kernel.
func localPackages(dir string) ([]string, error) {
	var names []string
	for _, pattern := range []string{"packages/*.ipk", "packages/*.apk", "build_dir/target-*/linux-*/linux-*/*.ipk"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// lay makes the folders of a build's own feeds and returns them in the order
// of the plan's feeds. Files are linked, not copied, where the file system can.
func lay(dir string, lines []FeedLine, fetched []FetchedFeed) ([]string, error) {
	if len(lines) != len(fetched) {
		return nil, fmt.Errorf("%d feeds were planned for and %d fetched", len(lines), len(fetched))
	}
	folders := make([]string, len(fetched))
	for i, feed := range fetched {
		folders[i] = filepath.Join(dir, strconv.Itoa(i)+"-"+folderName(lines[i]))
		if err := os.MkdirAll(folders[i], 0o755); err != nil {
			return nil, err
		}
		for name, from := range feed.Files {
			if filepath.Base(name) != name {
				return nil, fmt.Errorf("%q is not a file's name", name)
			}
			if _, twice := feed.Data[name]; twice {
				return nil, fmt.Errorf("the feed %s has two files named %q", lines[i].URL, name)
			}
			if err := link(from, filepath.Join(folders[i], name)); err != nil {
				return nil, err
			}
		}
		for name, data := range feed.Data {
			if filepath.Base(name) != name {
				return nil, fmt.Errorf("%q is not a file's name", name)
			}
			if err := writeNew(filepath.Join(folders[i], name), data); err != nil {
				return nil, err
			}
		}
		if err := packList(folders[i]); err != nil {
			return nil, err
		}
	}
	return folders, nil
}

// link gives a kept file another name: a hard link, which outlives the file's
// being dropped, else a copy. A symbolic link would lead to where builds see
// nothing.
func link(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	return copyFile(from, to)
}

// writeNew makes a file. It never writes into one that is there, which may be
// a kept one by another name.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// reservedNames are files of a feed's folder that are not packages.
var reservedNames = []string{"Packages", "Packages.gz", "Packages.sig", apkIndexName}

// ValidPackageFileName tells whether a package of a feed may be called name in
// the feed's folder: a name and no path, and not that of a list.
func ValidPackageFileName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00") && !slices.Contains(reservedNames, name)
}

// folderName tells people which feed a folder is.
func folderName(f FeedLine) string {
	if imagebuilder.ValidRepositoryName(f.Name) {
		return f.Name
	}
	if name := filepath.Base(f.URL); imagebuilder.ValidRepositoryName(name) {
		return name
	}
	return "feed"
}

// packList makes the Packages.gz that opkg asks for where upstream has only
// Packages.
func packList(folder string) error {
	if _, err := os.Stat(filepath.Join(folder, "Packages.gz")); err == nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(folder, "Packages"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(text); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return writeNew(filepath.Join(folder, "Packages.gz"), packed.Bytes())
}

package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// legacyFile is one line of a folder's listing, in the form of nginx's
// autoindex_format json.
type legacyFile struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	MTime string `json:"mtime"`
	Size  int64  `json:"size"` // bytes
}

// legacyDone finds the finished build of a hash in the address, or answers 404.
func (s *Server) legacyDone(w http.ResponseWriter, r *http.Request, ps httprouter.Params) (*imagebuilder.Job, bool) {
	hash := strings.TrimSuffix(ps.ByName("hash"), mark2019)
	if imagebuilder.ValidHash(hash) {
		if status, ok := s.o.Queue.Lookup(hash); ok && status.Job.State == imagebuilder.Done {
			return status.Job, true
		}
	}
	s.legacyError(w, r, form2018, imagebuilder.Errorf(imagebuilder.CodeNotFound,
		"This server has no image by that hash, or no longer: images that nobody wants make room for others."))
	return nil, false
}

// legacyListing lists the files of an image set.
func (s *Server) legacyListing(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	job, ok := s.legacyDone(w, r, ps)
	if !ok {
		return
	}
	made := job.FinishedAt.UTC().Format(http.TimeFormat)
	files := make([]legacyFile, 0, len(job.Images.Files)+1)
	for _, f := range job.Images.Files {
		files = append(files, legacyFile{f.Name, "file", made, f.Size})
	}
	if sums := sha256sums(job.Images); sums != nil {
		files = append(files, legacyFile{sumsFile, "file", made, int64(len(sums))})
	}
	if s.o.SigningKey != nil {
		files = append(files, legacyFile{signatureFile, "file", made, int64(len(s.o.SigningKey.sign(nil)))})
	}
	slices.SortFunc(files, func(a, b legacyFile) int { return strings.Compare(a.Name, b.Name) })
	writeJSON(w, http.StatusOK, jsonBody(files))
}

const sumsFile = "sha256sums"

// sha256sums is the file that lies beside the images of every download server;
// nil where the ImageBuilder has made it itself.
func sha256sums(set *imagebuilder.ImageSet) []byte {
	var text strings.Builder
	for _, f := range set.Files {
		if f.Name == sumsFile {
			return nil
		}
		text.WriteString(f.SHA256 + " *" + f.Name + "\n")
	}
	return []byte(text.String())
}

// legacyRow is what was told of one image or failed request.
type legacyRow struct {
	ID           uint64    `json:"id"`
	ImageHash    string    `json:"image_hash,omitempty"`
	Distro       string    `json:"distro"`
	Version      string    `json:"version"`
	Target       string    `json:"target"`
	Subtarget    string    `json:"subtarget"`
	Profile      string    `json:"profile"`
	Model        string    `json:"model,omitempty"`
	ManifestHash string    `json:"manifest_hash,omitempty"`
	DefaultsHash *string   `json:"defaults_hash"`
	Worker       string    `json:"worker"`
	BuildDate    time.Time `json:"build_date,omitzero"`
	Sysupgrade   string    `json:"sysupgrade,omitempty"`
	Status       string    `json:"status"`
	Vanilla      bool      `json:"vanilla"`
	BuildSeconds int64     `json:"build_seconds"`
	Snapshots    bool      `json:"snapshots"`
}

func (s *Server) legacyImage(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	job, ok := s.legacyDone(w, r, ps)
	if !ok {
		return
	}
	row := legacyRow{
		ID: job.Seq, ImageHash: job.Hash, Distro: job.Request.Distro, Version: job.Request.Version, Profile: job.Request.Profile,
		ManifestHash: job.Hash, Worker: "attendant", BuildDate: job.FinishedAt.UTC(), Status: "untested",
		BuildSeconds: buildSeconds(job.StartedAt, job.FinishedAt), Snapshots: isSnapshotName(job.Request.Version),
	}
	row.Target, row.Subtarget, _ = strings.Cut(job.Request.Target, "/")
	if len(job.Images.Titles) > 0 {
		row.Model = job.Images.Titles[0].String()
	}
	if image := sysupgradeImage(job.Images); image != nil {
		row.Sysupgrade = image.Name
	}
	writeJSON(w, http.StatusOK, jsonBody(row))
}

func (s *Server) legacyManifest(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	job, ok := s.legacyDone(w, r, ps)
	if !ok {
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(job.Images.Manifest))
}

func isSnapshotName(version string) bool { return strings.HasSuffix(version, "SNAPSHOT") }

// legacyDistro has the names of both periods.
type legacyDistro struct {
	ID          int    `json:"id"`
	Name        string `json:"name"`
	Alias       string `json:"alias"`
	Latest      string `json:"latest"`
	Description string `json:"description"`

	Distro            string `json:"distro"`
	DistroAlias       string `json:"distro_alias"`
	DistroDescription string `json:"distro_description"`
}

// legacyDistributions are the distributions, each once, by name.
func (s *Server) legacyDistributions() []string {
	var names []string
	seen := map[Catalogue]bool{}
	all := slices.Sorted(maps.Keys(s.o.Distributions))
	slices.SortStableFunc(all, func(a, b string) int { // an alias is not a name
		return rankName(a) - rankName(b)
	})
	for _, name := range all {
		if c := s.o.Distributions[name]; !seen[c] {
			seen[c] = true
			names = append(names, name)
		}
	}
	return names
}

func rankName(name string) int {
	if name == imagebuilder.DefaultDistro {
		return 0
	}
	return 1
}

// displayName is how a distribution calls itself.
func displayName(name string) string {
	if name == imagebuilder.DefaultDistro {
		return "OpenWrt"
	}
	return name
}

func (s *Server) legacyDistros(w http.ResponseWriter, r *http.Request) {
	rows := []legacyDistro{}
	for i, name := range s.legacyDistributions() {
		latest, err := s.latestStable(r, &legacyRequest{distro: name})
		if err != nil {
			latest = ""
		}
		alias := displayName(name)
		rows = append(rows, legacyDistro{ID: i + 1, Name: name, Alias: alias, Latest: latest, Distro: name, DistroAlias: alias})
	}
	writeJSON(w, http.StatusOK, jsonBody(rows))
}

type legacyVersionRow struct {
	ID          int    `json:"id"`
	Distro      string `json:"distro"`
	Version     string `json:"version"`
	Alias       string `json:"alias"`
	Description string `json:"description"`
	Snapshots   bool   `json:"snapshots"`
}

func (s *Server) legacyVersions(w http.ResponseWriter, r *http.Request) {
	wanted := strings.ToLower(r.URL.Query().Get("distro"))
	rows := []legacyVersionRow{}
	id := 0
	var down error
	for _, name := range s.legacyDistributions() {
		c := s.o.Distributions[name]
		o, err := c.Overview(r.Context())
		if err != nil { // the others may be known
			down = err
			continue
		}
		for _, b := range o.Branches {
			for _, v := range b.Versions {
				id++
				if wanted != "" && s.o.Distributions[wanted] != c {
					continue
				}
				rows = append(rows, legacyVersionRow{ID: id, Distro: name, Version: v, Alias: displayName(name) + " " + v, Snapshots: b.Snapshot || isSnapshotName(v)})
			}
		}
	}
	if len(rows) == 0 && down != nil {
		s.legacyError(w, r, form2018, down)
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(rows))
}

type legacyModel struct {
	ID        int    `json:"id"`
	Distro    string `json:"distro"`
	Version   string `json:"version"`
	Target    string `json:"target"`
	Subtarget string `json:"subtarget"`
	Snapshots bool   `json:"snapshots"`
	Profile   string `json:"profile"`
	Model     string `json:"model"`
}

// maxModels bounds the devices of one reply; a release has about 2,000.
const maxModels = 5000

// legacyModels lists the devices of a release whose title holds the words.
func (s *Server) legacyModels(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	distro, version, search := strings.ToLower(values.Get("distro")), legacyVersion(values.Get("version")), strings.ToLower(values.Get("model_search"))
	if distro == "" || version == "" {
		writeJSON(w, http.StatusBadRequest, []byte("[]"))
		return
	}
	c, err := s.distribution(r, distro)
	if err != nil {
		s.legacyError(w, r, form2018, err)
		return
	}
	list, err := c.Devices(r.Context(), DeviceQuery{Version: version, Limit: maxModels})
	if err != nil {
		s.legacyError(w, r, form2018, err)
		return
	}
	rows, others := []legacyModel{}, []legacyModel{}
	for _, d := range list.Devices {
		names := []string{d.Title}
		for _, title := range d.Titles {
			if name := title.String(); name != d.Title {
				names = append(names, name)
			}
		}
		row := legacyModel{Distro: distro, Version: version, Snapshots: isSnapshotName(version), Profile: d.Profile}
		row.Target, row.Subtarget, _ = strings.Cut(d.Target, "/")
		for _, row.Model = range names {
			if strings.Contains(strings.ToLower(row.Model), search) {
				rows = append(rows, row)
			}
		}
		if row.Model = d.Title; strings.Contains(d.Target+" "+strings.ToLower(d.Profile), search) {
			others = append(others, row)
		}
	}
	if len(rows) == 0 {
		rows = others
	}
	for i := range rows {
		rows[i].ID = i + 1
	}
	writeJSON(w, http.StatusOK, jsonBody(rows))
}

// legacyDefaultPackages lists what an image of a device has when nothing is
// asked for.
func (s *Server) legacyDefaultPackages(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	q := legacyRequest{distro: strings.ToLower(values.Get("distro")), version: legacyVersion(values.Get("version")), target: values.Get("target"), profile: values.Get("profile")}
	with2019 := strings.Contains(q.target, "/")
	if subtarget := values.Get("subtarget"); !with2019 && subtarget != "" {
		q.target += "/" + subtarget
	}
	if q.missing("distro", "version", "target", "subtarget", "board") != "" {
		writeJSON(w, http.StatusBadRequest, []byte("[]"))
		return
	}
	packages, err := s.defaultPackages(r, &q)
	if err != nil {
		s.legacyError(w, r, form2018, err)
		return
	}
	if with2019 {
		writeJSON(w, http.StatusOK, jsonBody(packages))
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(map[string][]string{"packages": packages}))
}

func (s *Server) defaultPackages(r *http.Request, q *legacyRequest) ([]string, error) {
	c, err := s.distribution(r, q.distro)
	if err != nil {
		return nil, err
	}
	if !imagebuilder.ValidVersion(q.version) || !imagebuilder.ValidTarget(q.target) || !imagebuilder.ValidProfileName(q.profile) {
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "Version, target and profile are no names of such.")
	}
	o, err := c.Overview(r.Context())
	if err != nil {
		return nil, err
	}
	at, err := c.Locate(r.Context(), q.version, q.target, q.profile)
	if err != nil {
		return nil, err
	}
	for _, b := range o.Branches {
		if !slices.Contains(b.Versions, q.version) {
			continue
		}
		text, err := c.Profile(r.Context(), strings.ReplaceAll(b.Path, "{version}", q.version), at.Target, at.Profile)
		if err != nil {
			return nil, err
		}
		var profile struct {
			Default []string `json:"default_packages"`
			Device  []string `json:"device_packages"`
		}
		if err := json.Unmarshal(text, &profile); err != nil {
			return nil, err
		}
		packages := nonNil(slices.Clone(profile.Default))
		for _, name := range profile.Device {
			if removed, removes := strings.CutPrefix(name, "-"); removes {
				packages = slices.DeleteFunc(packages, func(p string) bool { return p == removed })
			} else if !slices.Contains(packages, name) {
				packages = append(packages, name)
			}
		}
		return packages, nil
	}
	return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", q.version)
}

// Statistics of then. What was about all images is about the outcomes that the
// queue remembers; no hashes, as who has one can fetch the image.

const legacyTop = 50

func (s *Server) legacyPopularPackages(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Name  string `json:"package_name"`
		Count int64  `json:"count"`
	}
	rows := []row{}
	for _, p := range s.o.Statistics.TopPackages("", legacyTop) {
		rows = append(rows, row(p))
	}
	writeJSON(w, http.StatusOK, jsonBody(rows))
}

func (s *Server) legacyPopularTargets(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Count        int64  `json:"count"`
		BuildSeconds int64  `json:"build_seconds"`
		Target       string `json:"target"`
		Subtarget    string `json:"subtarget"`
	}
	counts := map[string]*row{}
	for _, job := range s.o.Queue.Snapshot().Recent {
		if job.State != imagebuilder.Done {
			continue
		}
		c := counts[job.Target]
		if c == nil {
			c = &row{}
			c.Target, c.Subtarget, _ = strings.Cut(job.Target, "/")
			counts[job.Target] = c
		}
		c.Count++
		c.BuildSeconds += buildSeconds(job.StartedAt, job.FinishedAt)
	}
	rows := []row{}
	for _, target := range slices.Sorted(maps.Keys(counts)) {
		c := counts[target]
		c.BuildSeconds /= c.Count
		rows = append(rows, *c)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return int(b.Count - a.Count) })
	writeJSON(w, http.StatusOK, jsonBody(rows))
}

// buildSeconds is 0 for a job that was never built, as one that shares images.
func buildSeconds(started, finished time.Time) int64 {
	if started.IsZero() {
		return 0
	}
	return max(0, int64(finished.Sub(started)/time.Second))
}

func (s *Server) legacyImageStats(w http.ResponseWriter, _ *http.Request) {
	now := s.o.Queue.Snapshot()
	var total uint64
	for _, job := range now.Recent {
		total = max(total, job.Seq)
	}
	for _, status := range slices.Concat(now.Building, now.Waiting) {
		total = max(total, status.Job.Seq)
	}
	writeJSON(w, http.StatusOK, jsonBody(struct {
		Total     uint64 `json:"total"`     // requests that were ever queued
		Stored    int    `json:"stored"`    // images that are kept
		Requested int    `json:"requested"` // requests that wait
	}{total, s.o.Images.Usage().Sets, len(now.Waiting)}))
}

func (s *Server) legacyImagesLatest(w http.ResponseWriter, r *http.Request) {
	s.writeRecent(w, r, imagebuilder.Done)
}

func (s *Server) legacyFailsLatest(w http.ResponseWriter, r *http.Request) {
	s.writeRecent(w, r, imagebuilder.Failed)
}

func (s *Server) writeRecent(w http.ResponseWriter, _ *http.Request, state imagebuilder.State) {
	rows := []legacyRow{}
	for _, job := range s.o.Queue.Snapshot().Recent {
		if job.State != state {
			continue
		}
		row := legacyRow{
			ID: job.Seq, Distro: job.Distro, Version: job.Version, Profile: job.Profile, Worker: "attendant",
			BuildDate: job.FinishedAt.UTC(), Status: "untested", BuildSeconds: buildSeconds(job.StartedAt, job.FinishedAt), Snapshots: isSnapshotName(job.Version),
		}
		row.Target, row.Subtarget, _ = strings.Cut(job.Target, "/")
		if state == imagebuilder.Failed {
			row.Status = legacyFailStatus(job.Code)
		}
		rows = append(rows, row)
	}
	writeJSON(w, http.StatusOK, jsonBody(rows))
}

// legacyFailStatus is the word of then for a failure.
func legacyFailStatus(code imagebuilder.Code) string {
	switch code {
	case imagebuilder.CodeImageTooBig:
		return "imagesize_fail"
	case imagebuilder.CodePackageMissing, imagebuilder.CodePackageConflict, imagebuilder.CodePackageSelect, imagebuilder.CodePackageVersion:
		return "manifest_fail"
	}
	return "build_fail"
}

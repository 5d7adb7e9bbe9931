package server

import (
	"crypto/md5" //nolint:gosec // the clients of then compare it, against damage
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"attendant/imagebuilder"
)

// legacyBuilt is the reply about a request for an image.
type legacyBuilt struct {
	Hash      string `json:"request_hash,omitempty"`
	ImageHash string `json:"image_hash,omitempty"`

	URL        string `json:"url,omitempty"`        // 2017: where the image is
	Sysupgrade string `json:"sysupgrade,omitempty"` // 2018: where it is; 2019: its name
	Files      string `json:"files,omitempty"`      // the folder's listing
	Log        string `json:"log,omitempty"`
	Checksum   string `json:"checksum,omitempty"` // MD5 of the image
	FileSize   int64  `json:"filesize,omitempty"` // bytes

	Queue int `json:"queue,omitempty"` // 2017: place in the queue
}

// legacyBuild takes a request for an image. sysupgrade says that it must be
// one that a running router takes.
func (s *Server) legacyBuild(w http.ResponseWriter, r *http.Request, f form, sysupgrade bool) {
	s.o.Statistics.CountRequest()
	q, err := s.readLegacy(w, r, f)
	if err != nil {
		s.legacyError(w, r, q.form, err)
		return
	}
	if q.hash != "" {
		s.legacyPoll(w, r, q.hash, sysupgrade)
		return
	}
	needed := []string{"target", "subtarget", "board"}
	if q.form == form2017 {
		needed = []string{"distro", "version", "target", "subtarget", "board"}
	}
	if name := q.missing(needed...); name != "" {
		s.missingParam(w, r, q.form, name)
		return
	}
	if q.defaults != nil && len(*q.defaults) > s.o.Limits.MaxDefaultsLength {
		status := 420 // of no standard; the README's
		if q.form == form2017 {
			status = http.StatusBadRequest
		}
		s.writeLegacyError(w, r, status, imagebuilder.Errorf(imagebuilder.CodeMalformed,
			"defaults: it has %d bytes; at most %d are allowed here.", len(*q.defaults), s.o.Limits.MaxDefaultsLength))
		return
	}
	asked, err := s.admitLegacy(r, q)
	if err == nil {
		var status queueStatus
		if status, err = s.submit(r, asked); err == nil {
			s.writeLegacyStatus(w, r, q.form, sysupgrade, status)
			return
		}
	}
	if !s.legacyUnready(w, q, err) {
		s.legacyError(w, r, q.form, err)
	}
}

// admitLegacy makes a build request of today of one of then.
func (s *Server) admitLegacy(r *http.Request, q *legacyRequest) (*asked, error) {
	if q.networkProfile != "" {
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "network profile %.100q not found. This server has none.", q.networkProfile)
	}
	c, err := s.distribution(r, q.distro)
	if err != nil {
		return nil, err
	}
	if q.version == "" {
		if q.version, err = s.latestStable(r, q); err != nil {
			return nil, err
		}
	}
	switch {
	case !imagebuilder.ValidVersion(q.version):
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "version: %.100q is not a release's name.", q.version)
	case !imagebuilder.ValidTarget(q.target):
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "target: %.100q is not a target with its subtarget, as in \"ath79/generic\".", q.target)
	}
	for _, name := range q.names() {
		if !imagebuilder.ValidProfileName(name) {
			return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "board: %.100q is not a device's name.", name)
		}
	}
	at, err := c.Locate(r.Context(), q.version, q.target, q.names()...)
	if err != nil {
		return nil, err
	}
	distro := q.distro
	if distro == "" {
		distro = distributionName(r)
	}
	return s.askedFor(imagebuilder.Request{
		Distro: distro, Version: q.version, Target: at.Target, Profile: at.Profile,
		Packages: imagebuilder.Pairs(q.packages).Names(), Defaults: q.defaults, FromVersion: q.from(distro),
	})
}

// askedFor checks a request that is no body as it came, or recognises it.
func (s *Server) askedFor(request imagebuilder.Request) (*asked, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write([]byte("legacy\x00"))
	h.Write(text)
	key := [sha256.Size]byte(h.Sum(nil))
	if known, ok := s.known.Get(key); ok {
		return known, nil
	}
	return s.check(request, key, len(text))
}

// from is the release that the packages come from, as far as it can be told: no
// client of then says. Those of LEDE run 17.01; OpenWrt had them in 18.06 and
// 19.07, and a router on the later one has nothing that became of a package in
// between.
func (q *legacyRequest) from(distro string) string {
	from := q.oldVersion
	switch {
	case from != "":
	case distro == "lede":
		from = "17.01.0"
	case distro == "" || distro == imagebuilder.DefaultDistro:
		from = "18.06.0"
	}
	// There is no way from a release to itself or to an older one.
	switch to := imagebuilder.Branch(q.version); {
	case to == imagebuilder.Branch(from), q.oldVersion == "" && to == "17.01":
		return ""
	}
	return from
}

// legacyPoll tells how far the build of a request_hash is.
func (s *Server) legacyPoll(w http.ResponseWriter, r *http.Request, handle string, sysupgrade bool) {
	f := form2018
	hash, is2019 := strings.CutSuffix(handle, mark2019)
	if is2019 {
		f = form2019
	}
	if imagebuilder.ValidHash(hash) {
		if status, ok := s.o.Queue.Lookup(hash); ok {
			s.writeLegacyStatus(w, r, f, sysupgrade, status)
			return
		}
	}
	s.legacyError(w, r, f, imagebuilder.Errorf(imagebuilder.CodeNotFound,
		"This server knows no build by that request hash: it may have made room for others. Please request the image again."))
}

// writeLegacyStatus tells how far a build is.
func (s *Server) writeLegacyStatus(w http.ResponseWriter, r *http.Request, f form, sysupgrade bool, status queueStatus) {
	job := status.Job
	reply := legacyBuilt{Hash: job.Hash}
	base := s.legacyBase(r)
	switch f {
	case form2017:
		reply.Hash = ""
	case form2019:
		reply.Hash, base = job.Hash+mark2019, ""
	}
	log := base + "/api/v1/build/" + job.Hash + "/log"
	switch job.State {
	case imagebuilder.Done:
		s.writeLegacyDone(w, r, f, sysupgrade, job, reply, base, log)
	case imagebuilder.Failed:
		failure := job.Failure
		code := legacyStatus(f, failure.Code)
		if code < http.StatusBadRequest || code == http.StatusServiceUnavailable {
			code = http.StatusInternalServerError
		}
		if code == http.StatusUnprocessableEntity {
			setLegacyUnknown(w.Header(), failure.Unknown, failure.Detail)
		}
		writeJSON(w, code, jsonBody(legacyFailure{Error: failure.Detail, Log: log, errorReply: errorReply{
			Status: code, Detail: failure.Detail, Code: failure.Code, Hash: reply.Hash, IBState: wireFailed,
			Unknown: failure.Unknown, Problems: failure.Problems, Repairs: failure.Repairs,
		}}))
	default:
		s.writeLegacyPending(w, f, status, reply)
	}
}

func (s *Server) writeLegacyPending(w http.ResponseWriter, f form, status queueStatus, reply legacyBuilt) {
	queued := status.Job.State == imagebuilder.Queued
	if f == form2017 {
		if queued {
			reply.Queue = max(status.Position, 1)
			writeJSON(w, http.StatusCreated, jsonBody(reply))
			return
		}
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusPartialContent)
		return
	}
	h := w.Header()
	switch {
	case queued:
		h.Set("X-Imagebuilder-Status", "queue")
		h.Set("X-Build-Queue-Position", strconv.Itoa(max(status.Position, 1)))
	case status.Stage == imagebuilder.StageDownload, status.Stage == imagebuilder.StageUnpack:
		h.Set("X-Imagebuilder-Status", "initialize")
	default:
		h.Set("X-Imagebuilder-Status", "building")
	}
	writeJSON(w, http.StatusAccepted, jsonBody(reply))
}

func (s *Server) writeLegacyDone(w http.ResponseWriter, r *http.Request, f form, sysupgrade bool, job *imagebuilder.Job, reply legacyBuilt, base, log string) {
	folder := base + "/store/" + job.Hash + "/"
	image := sysupgradeImage(job.Images)
	if image == nil && sysupgrade {
		e := imagebuilder.Errorf(imagebuilder.CodeNoImage, "No sysupgrade file produced, may not supported by model.")
		s.legacyError(w, r, f, e)
		return
	}
	reply.Log = log
	if f != form2017 {
		reply.Files, reply.ImageHash = folder, job.Hash
	}
	if image == nil {
		writeJSON(w, http.StatusOK, jsonBody(reply))
		return
	}
	switch f {
	case form2017:
		reply.URL = folder + image.Name
	case form2018:
		reply.Sysupgrade = folder + image.Name
	case form2019:
		reply.Sysupgrade = image.Name
	}
	if f != form2019 {
		sum, size, err := s.legacyChecksum(job.ImagesHash(), image.Name)
		if errors.Is(err, fs.ErrNotExist) {
			err = imagebuilder.Errorf(imagebuilder.CodeNotFound, "The image has just made room for others. Please request it again.")
		}
		if err != nil {
			s.legacyError(w, r, f, err)
			return
		}
		reply.Checksum, reply.FileSize = sum, size
	}
	writeJSON(w, http.StatusOK, jsonBody(reply))
}

// sysupgradeImage is the image that a running router takes; nil if there is
// none. The types are the ImageBuilder's words; of a type squashfs is what
// routers ran then.
func sysupgradeImage(set *imagebuilder.ImageSet) *imagebuilder.Image {
	for _, kind := range []string{"sysupgrade", "combined", "combined-efi", "sdcard", "trx", "chk"} {
		of := slices.DeleteFunc(slices.Clone(set.Images), func(i imagebuilder.Image) bool { return i.Type != kind })
		slices.SortStableFunc(of, func(a, b imagebuilder.Image) int { return notSquashfs(a) - notSquashfs(b) })
		if len(of) > 0 {
			return &of[0]
		}
	}
	return nil
}

func notSquashfs(i imagebuilder.Image) int {
	if i.Filesystem == "squashfs" {
		return 0
	}
	return 1
}

// legacyChecksum is an image's MD5 in hex and its size in bytes.
func (s *Server) legacyChecksum(hash, name string) (sum string, size int64, err error) {
	f, err := s.o.Images.Open(hash, name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	size = f.Info.Size()
	key := hash + "/" + name
	if sum, ok := s.legacy.sums.Get(key); ok {
		return sum, size, nil
	}
	s.legacy.summing.Lock()
	defer s.legacy.summing.Unlock()
	if sum, ok := s.legacy.sums.Get(key); ok {
		return sum, size, nil
	}
	h := md5.New() //nolint:gosec // as above
	if _, err := io.Copy(h, f.File); err != nil {
		return "", 0, err
	}
	sum = hex.EncodeToString(h.Sum(nil))
	s.legacy.sums.Add(key, sum)
	return sum, size, nil
}

// legacyBase is this server's own address as the client can reach it, without
// a slash at its end; "" where it cannot be told.
func (s *Server) legacyBase(r *http.Request) string {
	if s.o.PublicURL != "" {
		return strings.TrimRight(s.o.PublicURL, "/")
	}
	if plainHost.MatchString(r.Host) {
		return "http://" + r.Host
	}
	return ""
}

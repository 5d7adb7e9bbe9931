package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// buildPage is a build on its way, or its outcome.
type buildPage struct {
	Build
	Hash      string
	Title     string
	From      string // installed release, where the person came with one
	Stages    []stageStep
	Percent   int64 // of the stage; -1 is unknown
	WaitText  string
	Images    []resultImage
	Main      []resultImage // those that people come for, the right one first
	Special   []resultImage // for special cases
	Manifest  []pair
	Changed   *changed // from what was installed to the image; nil where that is not known
	HowTo     string   // key of the text: how to install on this kind of device
	Files     []imagebuilder.File
	Fixes     []fix
	Again     string // address of the selection, to change it
	Short     string // address of this page without what was installed
	Absolute  string // address of this page for another device
	QR        qrCode
	Have      string // what was installed
	Packages  string
	Removed   string
	Transient bool // the same request may succeed later
}

type stageStep struct {
	Key   string
	State string // "done", "now", "next"
}

type resultImage struct {
	imagebuilder.Image
	URL  string
	Kind string // key of the text that says when to use it
}

// noSuchBuild marks the error page of a build that is not here, or not any more.
const noSuchBuild imagebuilder.Code = "no_such_build"

// stageKeys are the stages that people are shown, in order.
var stageKeys = []struct {
	key    string
	stages []imagebuilder.Stage
}{
	{"stage.prepare", []imagebuilder.Stage{imagebuilder.StageInit, imagebuilder.StageDownload, imagebuilder.StageUnpack}},
	{"stage.packages", []imagebuilder.Stage{imagebuilder.StageRevision, imagebuilder.StageManifest}},
	{"stage.image", []imagebuilder.Stage{imagebuilder.StageImage}},
	{"stage.store", []imagebuilder.Stage{imagebuilder.StageCommit}},
}

func (s *Site) build(w http.ResponseWriter, r *http.Request, hash string) {
	self := "/build/" + hash
	from := r.URL.Query().Get("from")
	if !imagebuilder.ValidVersion(from) {
		from = ""
	} else {
		self = withQuery(self, "from", from)
	}
	var b Build
	ok := imagebuilder.ValidHash(hash)
	if ok {
		b, ok = s.o.Build(hash)
	}
	if !ok {
		s.failed(w, r, "start", &apiError{Status: http.StatusNotFound, Code: noSuchBuild})
		return
	}
	short := self
	have := splitNames(r.URL.Query().Get("have"))
	if len(have) > 0 {
		self = withQuery(self, "have", strings.Join(have, " "))
	}
	p := s.newPage(r, "start", self)
	job := b.Job
	d := &buildPage{Build: b, Hash: hash, From: from, Percent: -1, Short: p.Base + short}
	p.Data, p.Script = d, "build.js"
	d.Title = job.Request.Profile
	sel := selection{Target: job.Request.Target, Profile: job.Request.Profile, Version: job.Request.Version, From: from, Have: have, For: job.Request.Version}
	for _, name := range job.Request.Packages {
		if plain, ok := strings.CutPrefix(name, "-"); ok {
			sel.Remove = append(sel.Remove, plain)
		} else {
			sel.Packages = append(sel.Packages, name)
		}
	}
	if job.Request.Filesystem != nil {
		sel.Filesystem = *job.Request.Filesystem
	}
	d.Again, d.Packages, d.Removed = p.Link(sel.address()), strings.Join(sel.Packages, " "), strings.Join(sel.Remove, " ")
	d.Have = strings.Join(have, " ")
	if job.State != imagebuilder.Done {
		var facts profileFacts
		var o overview
		ctx, cancel := s.within(r)
		defer cancel()
		if s.get(ctx, r, "/json/v1/overview.json", &o) == nil {
			p.notices(&o, s.o.Now())
			if s.get(ctx, r, o.profileAddress(job.Request.Version, job.Request.Target, job.Request.Profile), &facts) == nil {
				d.Title, _ = titles(facts.Titles, d.Title)
			}
		}
	}
	switch job.State {
	case imagebuilder.Done:
		s.result(r, p, d)
		d.Changed = s.changed(r, d, have)
		p.Title = p.T("done.title", "device", d.Title)
	case imagebuilder.Failed:
		p.Title = p.T("failed.title", "device", d.Title)
		d.Fixes = fixes(job.Failure.Repairs)
		d.Transient = job.Failure.Code.Transient()
	default:
		p.Refresh = 4
		p.Title = p.T("building.title", "device", d.Title)
		d.progress(p)
	}
	part := r.URL.Query().Get("part")
	if part != "state" {
		part = ""
	}
	s.show(w, r, http.StatusOK, "build", part, p)
}

// progress fills in how far the build is.
func (d *buildPage) progress(p *page) {
	now := -1
	if d.Job.State == imagebuilder.Building {
		now = 0
		for i, step := range stageKeys {
			if slices.Contains(step.stages, d.Stage) {
				now = i
			}
		}
	}
	for i, step := range stageKeys {
		state := "next"
		if i < now {
			state = "done"
		} else if i == now {
			state = "now"
		}
		d.Stages = append(d.Stages, stageStep{step.key, state})
	}
	if d.Total > 0 {
		d.Percent = 100 * d.Done / d.Total
	}
	if d.Wait > 0 {
		d.WaitText = p.duration(d.Wait)
	}
}

// result fills in the files.
func (s *Site) result(r *http.Request, p *page, d *buildPage) {
	set := d.Job.Images
	d.Title, _ = titles(set.Titles, d.Title)
	kinds := map[string]bool{}
	for _, image := range set.Images {
		kinds[image.Type] = true
		d.Images = append(d.Images, resultImage{Image: image, URL: "/store/" + d.Hash + "/" + url.PathEscape(image.Name), Kind: "file." + image.Type})
	}
	sortImages(d.Images, func(i resultImage) imagebuilder.Image { return i.Image }, d.From != "" || !kinds["factory"])
	for i := range d.Images {
		if !p.Has(d.Images[i].Kind) {
			d.Images[i].Kind = "file.other"
		}
	}
	for _, image := range d.Images {
		if slices.Contains(mainKinds, image.Type) && (len(d.Main) == 0 || image.Filesystem == d.Main[0].Filesystem) {
			d.Main = append(d.Main, image)
		} else {
			d.Special = append(d.Special, image)
		}
	}
	if len(d.Main) == 0 {
		d.Main, d.Special = d.Special, nil
	}
	d.HowTo = howTo(kinds)
	for _, file := range set.Files {
		if !slices.ContainsFunc(d.Images, func(i resultImage) bool { return i.Name == file.Name }) {
			d.Files = append(d.Files, file)
		}
	}
	for name, version := range set.Manifest {
		d.Manifest = append(d.Manifest, pair{name, version})
	}
	slices.SortFunc(d.Manifest, func(a, b pair) int { return strings.Compare(a.Name, b.Name) })
	d.Absolute = s.absolute(r, p.Base+"/build/"+d.Hash)
	d.QR = qrOf(d.Absolute)
}

// absolute is an address of the site for another device.
func (s *Site) absolute(r *http.Request, path string) string {
	if s.o.PublicURL != "" {
		return strings.TrimRight(s.o.PublicURL, "/") + path
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + path
}

// imageOrder is the order in which people need the kinds of images; what is
// not here comes last.
var imageOrder = []string{"sysupgrade", "combined-efi", "combined", "sdcard", "factory", "initramfs-kernel", "kernel", "rootfs"}

// mainKinds are the kinds of images that people come for.
var mainKinds = []string{"sysupgrade", "combined-efi", "combined", "sdcard", "factory"}

// sortImages puts the right file first: an upgrade's where OpenWrt is
// installed already, else the one for the maker's own firmware.
func sortImages[T any](list []T, image func(T) imagebuilder.Image, installed bool) {
	rank := func(i imagebuilder.Image) int {
		n := slices.Index(imageOrder, i.Type)
		switch {
		case n < 0:
			n = len(imageOrder)
		case i.Type == "factory" && !installed:
			n = -1
		}
		n *= 2
		if i.Filesystem != "" && i.Filesystem != "squashfs" { // which keeps the factory reset
			n++
		}
		return n
	}
	slices.SortStableFunc(list, func(a, b T) int { return rank(image(a)) - rank(image(b)) })
}

// howTo tells how devices with such images are installed.
func howTo(kinds map[string]bool) string {
	switch {
	case kinds["combined"] || kinds["combined-efi"]:
		return "howto.pc"
	case kinds["sdcard"]:
		return "howto.sdcard"
	case kinds["factory"]:
		return "howto.factory"
	case kinds["sysupgrade"]:
		return "howto.sysupgrade"
	}
	return "howto.other"
}

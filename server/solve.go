package server

import (
	"context"
	"net/http"
	"strconv"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// Packages is what a Catalogue knows of the packages of its releases. The
// errors are those of Catalogue.Resolve, CodeNotFound for a package that there
// is not, and CodeUpstreamUnavailable where a release's packages are not
// known well enough.
type Packages interface {
	// Solve tells what the package manager will make of a request as Replace
	// returned it.
	Solve(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (*Solved, error)
	// Search finds packages by name and description, the best first; "" finds
	// all.
	Search(ctx context.Context, version, target, query string, offset, limit int) (*PackagePage, error)
	// Package tells all about one package.
	Package(ctx context.Context, version, target, name string) (*PackageDetails, error)
}

// Solved is the answer to POST /api/v1/solve.
type Solved struct {
	Status      int      `json:"status"`
	Detail      string   `json:"detail"`
	Possible    bool     `json:"possible"` // false only where it is certain that no image can come of it
	Certain     bool     `json:"certain"`  // the image will hold exactly Manifest, or Problems keep it from being built
	Doubts      []string `json:"doubts"`   // why it is not certain, a sentence each
	RequestHash string   `json:"request_hash"`
	Version     string   `json:"version"`
	Target      string   `json:"target"`
	Profile     string   `json:"profile"`

	Manifest imagebuilder.Manifest  `json:"manifest"`
	Packages []SolvedPackage        `json:"packages"`
	Sizes    Sizes                  `json:"sizes"`
	Problems []imagebuilder.Problem `json:"problems"`
	Repairs  []imagebuilder.Repair  `json:"repairs"`
	*imagebuilder.Changes
}

// SolvedPackage is one package of the image.
type SolvedPackage struct {
	Name          string `json:"name"` // without ABI suffix
	Version       string `json:"version"`
	Size          int64  `json:"size"`           // of its file, in bytes
	InstalledSize int64  `json:"installed_size"` // bytes
	Requested     bool   `json:"requested,omitempty"`
	Default       bool   `json:"default,omitempty"`
	Reason        string `json:"reason,omitempty"` // a package that needs it
}

// Sizes are those of a selection, in bytes.
type Sizes struct {
	Download  int64      `json:"download"`  // of all package files
	Installed int64      `json:"installed"` // unpacked
	Flash     *FlashSize `json:"flash,omitempty"`
}

// FlashSize is a forecast of the image's size against the device's flash.
type FlashSize struct {
	Verdict  string         `json:"verdict"`  // "fits", "tight", "too_big" or "unknown"
	Estimate int64          `json:"estimate"` // bytes; it lies between Low and High
	Low      int64          `json:"low"`
	High     int64          `json:"high"`
	Limit    int64          `json:"limit"`          // the device's, in bytes; 0 unknown
	Over     int64          `json:"over,omitempty"` // bytes by which it is probably too big
	Detail   string         `json:"detail"`
	Largest  []LargePackage `json:"largest,omitempty"` // the largest that could be left out
}

// LargePackage is a package that takes much room.
type LargePackage struct {
	Name          string `json:"name"`
	InstalledSize int64  `json:"installed_size"` // bytes
}

// PackageInfo is a package as search shows it.
type PackageInfo struct {
	Name          string `json:"name"` // without ABI suffix
	Version       string `json:"version"`
	Size          int64  `json:"size"`           // of its file, in bytes
	InstalledSize int64  `json:"installed_size"` // bytes
	Section       string `json:"section"`
	Feed          string `json:"feed"`
	Description   string `json:"description"`
}

// PackagePage is a part of what a search found.
type PackagePage struct {
	Total    int           `json:"total"`
	Offset   int           `json:"offset"`
	Packages []PackageInfo `json:"packages"`
}

// PackageDetails is all about a package.
type PackageDetails struct {
	PackageInfo
	Depends    []string `json:"depends"`
	Provides   []string `json:"provides"`
	Conflicts  []string `json:"conflicts"`
	RequiredBy []string `json:"required_by"` // bounded
}

// solve tells what would become of a build request. Nothing is queued.
func (s *Server) solve(w http.ResponseWriter, r *http.Request) {
	asked, err := s.readAsked(w, r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	solved, err := s.solved(r, asked)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(solved))
}

func (s *Server) solved(r *http.Request, a *asked) (*Solved, error) {
	c, err := s.distribution(r, a.request.Distro)
	if err != nil {
		return nil, err
	}
	resolved, generation, err := c.Resolve(r.Context(), a.request)
	if err != nil {
		return nil, err
	}
	final, err := a.final(r.Context(), c, resolved, generation, s.o.Now())
	if err != nil {
		return nil, err
	}
	solved, err := c.Solve(r.Context(), final.request, generation)
	if err != nil {
		return nil, err
	}
	solved.RequestHash, solved.Changes = final.hash, final.request.Changes
	return solved, nil
}

// Bounds of a page of packages or devices.
const (
	defaultPage    = 20
	maxPage        = 100
	maxQueryLength = 200 // bytes
)

// page reads offset and limit of a request. The error is CodeMalformed.
func page(r *http.Request) (offset, limit int, err error) {
	read := func(name string, def, most int) (int, error) {
		text := r.URL.Query().Get(name)
		if text == "" {
			return def, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > most {
			return 0, imagebuilder.Errorf(imagebuilder.CodeMalformed, "%s: %.40q is not a whole number from 0 to %d.", name, text, most)
		}
		return n, nil
	}
	if offset, err = read("offset", 0, 1<<20); err != nil {
		return 0, 0, err
	}
	limit, err = read("limit", defaultPage, maxPage)
	return offset, limit, err
}

// query reads q of a request. The error is CodeMalformed.
func query(r *http.Request) (string, error) {
	q := r.URL.Query().Get("q")
	if len(q) > maxQueryLength {
		return "", imagebuilder.Errorf(imagebuilder.CodeMalformed, "q: it has %d bytes; at most %d are allowed.", len(q), maxQueryLength)
	}
	return q, nil
}

// releaseTarget reads version and target of a request. The error is
// CodeMalformed.
func releaseTarget(r *http.Request) (version, target string, err error) {
	version, target = r.URL.Query().Get("version"), r.URL.Query().Get("target")
	switch {
	case !imagebuilder.ValidVersion(version):
		return "", "", imagebuilder.Errorf(imagebuilder.CodeMalformed, "version: %.100q is not a release's name, as in \"24.10.4\".", version)
	case !imagebuilder.ValidTarget(target):
		return "", "", imagebuilder.Errorf(imagebuilder.CodeMalformed, "target: %.100q is not a target with its subtarget, as in \"ath79/generic\".", target)
	}
	return version, target, nil
}

func (s *Server) packages(w http.ResponseWriter, r *http.Request) {
	version, target, err := releaseTarget(r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	offset, limit, err := page(r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	q, err := query(r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	found, err := s.catalogue(r).Search(r.Context(), version, target, q, offset, limit)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(found))
}

func (s *Server) packageDetails(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	version, target, err := releaseTarget(r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	name := ps.ByName("name")
	if !imagebuilder.ValidPackageName(name) {
		s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeMalformed, "%.100q is not a package's name.", name))
		return
	}
	details, err := s.catalogue(r).Package(r.Context(), version, target, name)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(details))
}

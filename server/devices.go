package server

import (
	"context"
	"net/http"

	"attendant/imagebuilder"
)

// DeviceQuery asks for devices.
type DeviceQuery struct {
	Text          string // words of a title, an id or a board name; "" finds all
	Version       string // "" is every release that is offered
	Target        string // as "ath79/generic"; "" is every target
	Offset, Limit int
}

// DeviceList is one page of the devices that were found.
type DeviceList struct {
	Total   int      `json:"total"` // on all pages
	Offset  int      `json:"offset"`
	Devices []Device `json:"devices"` // the likeliest first
}

// Device is one profile of one target.
type Device struct {
	Title    string               `json:"title"` // as people call it
	Titles   []imagebuilder.Title `json:"titles"`
	Profile  string               `json:"profile"`
	Target   string               `json:"target"`
	Aliases  []string             `json:"aliases"`  // board names, where they are known
	Versions []string             `json:"versions"` // the releases that have it, newest first
}

// Location is where a device is in a release.
type Location struct {
	Version string
	Target  string
	Profile string // its id; "" where no name was given
	Titles  []imagebuilder.Title
	Moved   bool // to another target than the one asked for
}

// devices answers a search for devices.
func (s *Server) devices(w http.ResponseWriter, r *http.Request) {
	q, err := deviceQuery(r)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	list, err := s.catalogue(r).Devices(r.Context(), q)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	list.Devices = nonNil(list.Devices)
	writeJSON(w, http.StatusOK, jsonBody(list))
}

func deviceQuery(r *http.Request) (q DeviceQuery, err error) {
	values := r.URL.Query()
	q.Version, q.Target = values.Get("version"), values.Get("target")
	switch {
	case q.Version != "" && !imagebuilder.ValidVersion(q.Version):
		return q, imagebuilder.Errorf(imagebuilder.CodeMalformed, "version: %.100q is not a release's name.", q.Version)
	case q.Target != "" && !imagebuilder.ValidTarget(q.Target):
		return q, imagebuilder.Errorf(imagebuilder.CodeMalformed, "target: %.100q is not a target with its subtarget, as in \"ath79/generic\".", q.Target)
	}
	if q.Text, err = query(r); err != nil {
		return q, err
	}
	q.Offset, q.Limit, err = page(r)
	return q, err
}

// Locator finds devices. It is part of Catalogue.
type Locator interface {
	// Devices searches the devices of the releases.
	Devices(ctx context.Context, q DeviceQuery) (*DeviceList, error)
	// Locate finds a device in a release, where older releases may have called
	// its target otherwise. names are what it is called, the surest first;
	// without any only the target is looked up. Nothing is guessed:
	// CodeAmbiguousProfile lists those that may be meant.
	Locate(ctx context.Context, version, target string, names ...string) (*Location, error)
}

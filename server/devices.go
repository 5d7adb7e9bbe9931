package server

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

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

// Bounds of a page of a search.
const (
	defaultPage = 20
	maxPage     = 100
	maxOffset   = 1_000_000
	maxText     = 200 // bytes of a search text
)

// devices answers a search for devices.
func (s *Server) devices(w http.ResponseWriter, r *http.Request) {
	q, err := deviceQuery(r.URL.Query())
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

func deviceQuery(values url.Values) (DeviceQuery, error) {
	bad := func(format string, args ...any) (DeviceQuery, error) {
		return DeviceQuery{}, imagebuilder.Errorf(imagebuilder.CodeMalformed, format, args...)
	}
	q := DeviceQuery{Text: values.Get("q"), Version: values.Get("version"), Target: values.Get("target"), Limit: defaultPage}
	switch {
	case len(q.Text) > maxText:
		return bad("q: it has %d bytes; at most %d are looked at.", len(q.Text), maxText)
	case q.Version != "" && !imagebuilder.ValidVersion(q.Version):
		return bad("version: %.100q is not a release's name.", q.Version)
	case q.Target != "" && !imagebuilder.ValidTarget(q.Target):
		return bad("target: %.100q is not a target with its subtarget, as in \"ath79/generic\".", q.Target)
	}
	for _, number := range []struct {
		name      string
		into      *int
		low, high int
	}{{"offset", &q.Offset, 0, maxOffset}, {"limit", &q.Limit, 1, maxPage}} {
		text := values.Get(number.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < number.low || n > number.high {
			return bad("%s: %.20q is not a number from %d to %d.", number.name, text, number.low, number.high)
		}
		*number.into = n
	}
	return q, nil
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

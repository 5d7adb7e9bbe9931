package server

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// distributionPath begins the addresses of a distribution's own API: below
// /d/NAME/ lies everything that lies below /, and requests that name no
// distribution mean NAME. So clients that cannot name one (LuCI, owut, auc)
// get another than the server's first by their server's address alone.
const distributionPath = "/d/"

type distributionKey struct{}

// chooseDistribution takes /d/NAME off the path and remembers NAME.
func (s *Server) chooseDistribution(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, found := strings.CutPrefix(r.URL.Path, distributionPath)
		if !found {
			next.ServeHTTP(w, r)
			return
		}
		name, path, _ := strings.Cut(rest, "/")
		c, err := s.named(name)
		if err != nil {
			e := *imagebuilder.AsError(err)
			e.Code = imagebuilder.CodeNotFound
			s.writeError(w, r, &e)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), distributionKey{}, distribution{strings.ToLower(name), c}))
		u := *r.URL
		u.Path, u.RawPath = "/"+path, ""
		r.URL = &u
		next.ServeHTTP(w, r)
	})
}

// distribution is what a request's address names.
type distribution struct {
	name string
	Catalogue
}

// catalogue is that of the distribution in the request's address, or the
// server's first.
func (s *Server) catalogue(r *http.Request) Catalogue {
	if d, ok := r.Context().Value(distributionKey{}).(distribution); ok {
		return d.Catalogue
	}
	return s.o.Catalogue
}

// distribution is the catalogue of the distribution that a body names; "" is
// that of the address. The error is CodeUnsupportedDistro.
func (s *Server) distribution(r *http.Request, name string) (Catalogue, error) {
	if name == "" {
		return s.catalogue(r), nil
	}
	return s.named(name)
}

// distributionName is what a request without a distribution means.
func distributionName(r *http.Request) string {
	d, _ := r.Context().Value(distributionKey{}).(distribution)
	return d.name
}

func (s *Server) named(name string) (Catalogue, error) {
	if c := s.o.Distributions[strings.ToLower(name)]; c != nil {
		return c, nil
	}
	e := imagebuilder.Errorf(imagebuilder.CodeUnsupportedDistro, "Unsupported distro: %.100s", name)
	e.Nearest = slices.Sorted(maps.Keys(s.o.Distributions))
	return nil, e
}

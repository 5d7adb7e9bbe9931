package server

import (
	"fmt"
	"net/http"
)

// order is what the operator has done about a request hash. Its answer tells
// what was done.
type order func(hash string) (adminDone, error)

func (s *Server) cancelJob(hash string) (adminDone, error) {
	return adminDone{Status: http.StatusOK, Detail: "The build is being ended."}, s.o.Queue.Cancel(hash)
}

func (s *Server) pinImages(hash string) (adminDone, error) {
	return s.orderImages(hash, s.o.Images.Pin, "The image is pinned: it stays until it is unpinned.")
}

func (s *Server) unpinImages(hash string) (adminDone, error) {
	return s.orderImages(hash, s.o.Images.Unpin, "The image is no longer pinned: it may go when room is needed.")
}

// evictImages drops the images themselves, also for all others that share them:
// only that makes room.
func (s *Server) evictImages(hash string) (adminDone, error) {
	others := s.o.Queue.Sharers(s.o.Queue.ImagesOf(hash)) // as none is left afterwards
	done, err := s.orderImages(hash, s.o.Images.Drop, "The image is dropped.")
	if done.ImagesOf != "" {
		others-- // hash itself
	}
	switch {
	case others == 1:
		done.Detail += " 1 other request shared it and lost it, too."
	case others > 1:
		done.Detail += fmt.Sprintf(" %d other requests shared it and lost it, too.", others)
	}
	return done, err
}

// orderImages does something about the images of a request, whoever's they are.
func (s *Server) orderImages(hash string, do func(hash string) error, detail string) (adminDone, error) {
	done := adminDone{Status: http.StatusOK, Detail: detail}
	of := s.o.Queue.ImagesOf(hash)
	if of != hash {
		done.ImagesOf = of
		done.Detail += " It is that of request " + of + ", which this one shares."
	}
	return done, do(of)
}

package server

import (
	"errors"
	"io"
	"io/fs"
	"net/http"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// fileWriter puts an error of the API's form in the place of net/http's: a range
// outside the file, a condition that does not hold. It keeps net/http's way of
// sending files.
type fileWriter struct {
	http.ResponseWriter
	refused bool // the answer is an error of ours
}

func (f *fileWriter) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f *fileWriter) WriteHeader(status int) {
	if status < 400 {
		f.ResponseWriter.WriteHeader(status)
		return
	}
	f.refused = true
	e := errorReply{Status: status, Code: "precondition_failed", Detail: "The file is not the one that the request asks about: its ETag differs."}
	if status == http.StatusRequestedRangeNotSatisfiable {
		e.Code, e.Detail = "range_not_satisfiable", "The file is shorter than the range that was asked for. Begin again without a range."
	}
	f.Header().Del("Content-Disposition")
	f.Header().Del("Cache-Control")
	writeJSON(f.ResponseWriter, status, jsonBody(e))
}

func (f *fileWriter) Write(b []byte) (int, error) {
	if f.refused {
		return len(b), nil
	}
	return f.ResponseWriter.Write(b)
}

func (f *fileWriter) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(f.ResponseWriter, src)
}

// storeFile hands out one file of an image set, with ranges.
func (s *Server) storeFile(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	hash, name := ps.ByName("hash"), ps.ByName("file")
	gone := imagebuilder.Errorf(imagebuilder.CodeNotFound,
		"This server does not have that file, or no longer: images that nobody wants make room for others. Please request the image again.")
	if !imagebuilder.ValidHash(hash) {
		s.writeError(w, r, gone)
		return
	}
	status, ok := s.o.Queue.Lookup(hash)
	if !ok || status.Job.State != imagebuilder.Done {
		s.writeError(w, r, gone)
		return
	}
	var sum string
	for _, f := range status.Job.Images.Files {
		if f.Name == name {
			sum = f.SHA256
		}
	}
	if sum == "" && s.legacySums(w, r, ps, status.Job) {
		return
	}
	if sum == "" {
		s.writeError(w, r, gone)
		return
	}
	f, err := s.o.Images.Open(status.Job.ImagesHash(), name)
	if errors.Is(err, fs.ErrNotExist) {
		s.writeError(w, r, gone)
		return
	}
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	defer f.Close() //nolint:errcheck // nothing was written

	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", `"`+sum+`"`)
	h.Set("Cache-Control", "private, max-age=604800, immutable")

	defer watchStall(r.Context(), s.o.StallTimeout)()
	http.ServeContent(&fileWriter{ResponseWriter: w}, r, "", f.Info.ModTime(), f.File)
}

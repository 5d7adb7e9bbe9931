package server

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"sync/atomic"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// sendPiece is how many bytes go to the kernel in one call: large enough for
// sendfile to pay, small enough that progress can be seen between calls.
const sendPiece = 4 << 20

// ReadFrom keeps sendfile: net/http passes a plain *io.LimitedReader of a file
// to the kernel, so pieces are cut by its N.
func (c *countingWriter) ReadFrom(src io.Reader) (int64, error) {
	to, ok := c.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, src)
	}
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		n, err := to.ReadFrom(src)
		c.written.Add(n)
		return n, err
	}
	var total int64
	for limited.N > 0 {
		piece := &io.LimitedReader{R: limited.R, N: min(limited.N, sendPiece)}
		want := piece.N
		n, err := to.ReadFrom(piece)
		total += n
		limited.N -= n
		c.written.Add(n)
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
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
	if sum == "" {
		s.writeError(w, r, gone)
		return
	}
	f, err := s.o.Images.Open(hash, name)
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

	var written atomic.Int64
	defer watchStall(r.Context(), s.o.StallTimeout, &written)()
	http.ServeContent(&countingWriter{ResponseWriter: w, written: &written}, r, "", f.Info.ModTime(), f.File)
}

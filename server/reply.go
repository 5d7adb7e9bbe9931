package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"attendant/imagebuilder"
)

// jsonBody renders v without the newline that a json.Encoder adds: auc reads
// in blocks of 256 bytes and would wait 15 s for the end of a reply whose
// JSON ends at such a border with a byte to follow.
func jsonBody(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // only types that cannot be JSON fail: a fault of the caller
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

// writeBody sends one whole reply with its length, never chunked.
func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	// A reply that does not fit into the connection's buffers has this long.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * time.Minute))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone; nothing depends on it
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	writeBody(w, status, "application/json", body)
}

// statusOf is the one table from an error's code to HTTP. Clients show the
// reason of 400, 422 and 500 only; LuCI tries again on 503 and the like.
func statusOf(code imagebuilder.Code) int {
	switch code {
	case imagebuilder.CodeMalformed:
		return http.StatusUnprocessableEntity
	case imagebuilder.CodeUnsupportedDistro, imagebuilder.CodeUnsupportedVersion, imagebuilder.CodeUnsupportedTarget,
		imagebuilder.CodeUnsupportedProfile, imagebuilder.CodeAmbiguousProfile, imagebuilder.CodeDefaultsDisabled,
		imagebuilder.CodeRepositoryNotAllowed:
		return http.StatusBadRequest
	case imagebuilder.CodeNotFound:
		return http.StatusNotFound
	case imagebuilder.CodeUnauthorized:
		return http.StatusUnauthorized
	case imagebuilder.CodeForbidden:
		return http.StatusForbidden
	case imagebuilder.CodePinned:
		return http.StatusConflict
	case imagebuilder.CodeQueueFull, imagebuilder.CodeUpstreamUnavailable, imagebuilder.CodeStopping,
		imagebuilder.CodeBusy:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// errorReply is the form of every error: status an integer, detail a string.
type errorReply struct {
	Status   int                    `json:"status"`
	Detail   string                 `json:"detail"`
	Code     imagebuilder.Code      `json:"code"`
	Hash     string                 `json:"request_hash,omitempty"`
	IBState  string                 `json:"imagebuilder_status,omitempty"`
	Unknown  []string               `json:"unknown_packages,omitempty"`
	Nearest  []string               `json:"nearest,omitempty"`
	Problems []imagebuilder.Problem `json:"problems,omitempty"`
	Repairs  []imagebuilder.Repair  `json:"repairs,omitempty"`
	Stdout   *string                `json:"stdout,omitempty"`
	Stderr   *string                `json:"stderr,omitempty"`
	Revision *string                `json:"revision,omitempty"` // what /api/v1/revision does not know
	*imagebuilder.Changes
}

// retryAfter is what a client is told to wait after a 503, in seconds.
const retryAfter = 30

func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	s.writeErrorReply(w, r, err, errorReply{})
}

// writeErrorReply writes err and what reply has beside it.
func (s *Server) writeErrorReply(w http.ResponseWriter, r *http.Request, err error, reply errorReply) {
	e := imagebuilder.AsError(err)
	status := statusOf(e.Code)
	if r.Context().Err() != nil {
		return // nobody is there to be told
	}
	if status == http.StatusInternalServerError {
		s.log.Error().Err(err).Str("path", r.URL.Path).Str("code", string(e.Code)).Msg("request failed")
	} else if e.Err != nil {
		s.log.Info().Err(err).Str("path", r.URL.Path).Str("code", string(e.Code)).Msg("request refused")
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	setUnknownPackages(w.Header(), e.Unknown)
	reply.Status, reply.Detail, reply.Code = status, e.Detail, e.Code
	reply.Unknown, reply.Nearest, reply.Problems, reply.Repairs = e.Unknown, e.Nearest, e.Problems, e.Repairs
	writeJSON(w, status, jsonBody(reply))
}

// maxUnknownHeader bounds X-Unknown-Package, in bytes: proxies refuse large
// headers. The body has all names.
const maxUnknownHeader = 1 << 10

// setUnknownPackages fills the header that auc prints.
func setUnknownPackages(h http.Header, names []string) {
	for i, n := 0, 0; i < len(names); i++ {
		if n += len(names[i]) + 1; n > maxUnknownHeader {
			names = names[:i]
		}
	}
	if len(names) > 0 {
		h.Set("X-Unknown-Package", strings.Join(names, " "))
	}
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeNotFound,
		"There is nothing at this address. The API is described at /docs."))
}

func (s *Server) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	// The router has set Allow.
	writeJSON(w, http.StatusMethodNotAllowed, jsonBody(errorReply{
		Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
		Detail: "This address does not take " + r.Method + "; it takes " + w.Header().Get("Allow") + ".",
	}))
}

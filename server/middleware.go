package server

import (
	"bytes"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"attendant/imagebuilder"
)

// wrap is the way of a request through the server, outermost first:
//
//	recover    a panic becomes a 500 and a log line
//	log        one line per request at debug level
//	body       a body that stands still ends the connection
//	cors       every reply to a browser carries the header; OPTIONS is answered here
//	path       double slashes are served in place: a redirected POST arrives empty
//	distro     /d/NAME/ in front of an address chooses a distribution
//	router     httprouter
func (s *Server) wrap(router http.Handler) http.Handler {
	return s.recoverPanics(s.logRequests(s.boundBody(cors(cleanPath(s.chooseDistribution(router))))))
}

// boundBody gives a request's body a limit of time from its first moment. An
// address that does not read its body needs it as well: net/http reads what is
// left before it answers, and would wait for ever. (Server.ReadTimeout would do
// it too, but goes on after the body and ends long downloads.)
func (s *Server) boundBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.o.BodyStall)) // recorders in tests have none
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := &begunWriter{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
				panic(p)
			}
			s.log.Error().Interface("panic", p).Bytes("stack", bytes.TrimSpace(debug.Stack())).
				Str("path", r.URL.Path).Msg("panic while serving a request")
			if begun.begun {
				panic(http.ErrAbortHandler) // nobody must take the part for the whole
			}
			writeJSON(w, http.StatusInternalServerError, jsonBody(errorReply{
				Status: http.StatusInternalServerError, Code: imagebuilder.CodeInternal,
				Detail: "The server made a mistake of its own. Please try again; if it stays, tell the server's operator.",
			}))
		}()
		next.ServeHTTP(begun, r)
	})
}

// begunWriter notes whether an answer has begun.
type begunWriter struct {
	http.ResponseWriter
	begun bool
}

func (b *begunWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *begunWriter) WriteHeader(status int) {
	b.begun = true
	b.ResponseWriter.WriteHeader(status)
}

func (b *begunWriter) Write(p []byte) (int, error) {
	b.begun = true
	return b.ResponseWriter.Write(p)
}

// ReadFrom keeps net/http's way of sending files.
func (b *begunWriter) ReadFrom(src io.Reader) (int64, error) {
	b.begun = true
	return io.Copy(b.ResponseWriter, src)
}

func (s *Server) logRequests(next http.Handler) http.Handler {
	if !s.log.Debug().Enabled() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		next.ServeHTTP(w, r)
		s.log.Debug().Str("method", r.Method).Str("path", r.URL.Path).Str("from", r.RemoteAddr).
			Str("agent", r.UserAgent()).Dur("took", time.Since(begin)).Msg("served")
	})
}

// cors lets pages of any origin read any reply: LuCI's page comes from the
// router, the firmware selector's from anywhere. There are no cookies or
// other credentials to protect, but for the operator's addresses, whose
// replies no page of another server may read.
func cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if isAdminPath(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS")
			h.Set("Access-Control-Allow-Headers", "*, Content-Type, Range")
			h.Set("Access-Control-Max-Age", "86400")
			h.Set("Allow", "GET, HEAD, POST, OPTIONS")
			h.Set("Content-Length", "0")
			w.WriteHeader(http.StatusOK)
			return
		}
		h.Set("Access-Control-Expose-Headers", "X-Imagebuilder-Status, X-Queue-Position, X-Unknown-Package, Retry-After, Content-Range, ETag")
		next.ServeHTTP(w, r)
	})
}

// cleanPath folds repeated slashes and drops a final one. Users configure
// http://server/ with a slash at the end; auc and LuCI join it as it is.
func cleanPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		if strings.HasPrefix(p, upstreamTreePath+"/") { // a tree of folders, whose slashes mean something
			next.ServeHTTP(w, r)
			return
		}
		if strings.Contains(p, "//") || (len(p) > 1 && strings.HasSuffix(p, "/")) {
			u := *r.URL
			u.Path = foldSlashes(p)
			u.RawPath = ""
			clean := *r
			clean.URL = &u
			r = &clean
		}
		next.ServeHTTP(w, r)
	})
}

func foldSlashes(p string) string {
	out := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] == '/' && len(out) > 0 && out[len(out)-1] == '/' {
			continue
		}
		out = append(out, p[i])
	}
	if len(out) > 1 && out[len(out)-1] == '/' {
		out = out[:len(out)-1]
	}
	return string(out)
}

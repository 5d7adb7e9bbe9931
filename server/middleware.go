package server

import (
	"bytes"
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
//	cors       every reply to a browser carries the header; OPTIONS is answered here
//	path       double slashes are served in place: a redirected POST arrives empty
//	router     httprouter
func (s *Server) wrap(router http.Handler) http.Handler {
	return s.recoverPanics(s.logRequests(cors(cleanPath(router))))
}

func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
			writeJSON(w, http.StatusInternalServerError, jsonBody(errorReply{
				Status: http.StatusInternalServerError, Code: imagebuilder.CodeInternal,
				Detail: "The server made a mistake of its own. Please try again; if it stays, tell the server's operator.",
			}))
		}()
		next.ServeHTTP(w, r)
	})
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
// other credentials to protect.
func cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
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

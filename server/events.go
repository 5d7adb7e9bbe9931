package server

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
	"attendant/queue"
)

const (
	streamHeartbeat = 20 * time.Second // comments that keep proxies from closing a silent stream
	streamStall     = 30 * time.Second // how long a reader may take none of it
)

// events streams a build as server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). It is the
// one reply without a length.
func (s *Server) events(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		s.writeError(w, r, imagebuilder.Errorf(imagebuilder.CodeBusy,
			"Too many people follow builds just now. Ask for the build's status instead, every few seconds."))
		return
	}
	status, ok := s.lookup(w, r, ps)
	if !ok {
		return
	}
	stream := &eventStream{w: w, rc: http.NewResponseController(w), quiet: r.URL.Query().Has("quiet")}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)

	followed, stop, ok := s.o.Queue.Subscribe(status.Job.Hash)
	if !ok { // an outcome, or one since
		if now, known := s.o.Queue.Lookup(status.Job.Hash); known {
			status = now
		}
		stream.status(s, status)
		return
	}
	defer stop()
	if !stream.status(s, status) {
		return
	}
	heartbeat := time.NewTicker(streamHeartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case e, open := <-followed:
			if !open || !stream.event(s, e) {
				return
			}
		case <-heartbeat.C:
			if !stream.write([]byte(": still here\n\n")) {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.stop:
			return
		}
	}
}

// eventStream writes events; its methods tell whether the reader is there.
type eventStream struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	quiet bool // without the log's lines and the outcome's details, for those who pay for each byte
}

func (e *eventStream) write(b []byte) bool {
	_ = e.rc.SetWriteDeadline(time.Now().Add(streamStall))
	if _, err := e.w.Write(b); err != nil {
		return false
	}
	return e.rc.Flush() == nil
}

func (e *eventStream) send(name string, data []byte) bool {
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "event: %s\n", name)
	for line := range bytes.Lines(data) {
		fmt.Fprintf(&buf, "data: %s\n", bytes.TrimRight(line, "\r\n"))
	}
	if len(data) == 0 {
		buf.WriteString("data:\n")
	}
	buf.WriteByte('\n')
	return e.write(buf.Bytes())
}

func (e *eventStream) status(s *Server, status queueStatus) bool {
	code, _, body := s.renderStatus(status)
	if e.quiet && code != http.StatusAccepted {
		body = jsonBody(struct {
			Status      int    `json:"status"`
			RequestHash string `json:"request_hash"`
		}{code, status.Job.Hash})
	}
	return e.send("status", body)
}

type progressEvent struct {
	Stage imagebuilder.Stage `json:"stage"`
	Done  int64              `json:"done"`  // bytes
	Total int64              `json:"total"` // bytes
}

func (e *eventStream) event(s *Server, event queue.Event) bool {
	if e.quiet && event.Kind == queue.EventLine {
		return true
	}
	if event.Missed > 0 && !e.quiet && !e.send("line", fmt.Appendf(nil, "[%d lines left out]", event.Missed)) {
		return false
	}
	switch event.Kind {
	case queue.EventState:
		return e.status(s, event.Status)
	case queue.EventStage:
		return e.send("stage", jsonBody(progressEvent{Stage: event.Stage}))
	case queue.EventProgress:
		return e.send("progress", jsonBody(progressEvent{event.Status.Stage, event.Status.Done, event.Status.Total}))
	case queue.EventLine:
		// A carriage return would end the line for the reader.
		return e.send("line", []byte(strings.ReplaceAll(event.Line, "\r", "")))
	}
	return true
}

// buildLog is what the ImageBuilder said, as text.
func (s *Server) buildLog(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
	status, ok := s.lookup(w, r, ps)
	if !ok {
		return
	}
	var stdout, stderr string
	switch job := status.Job; job.State {
	case imagebuilder.Done:
		stdout, stderr = job.Images.Stdout, job.Images.Stderr
	case imagebuilder.Failed:
		stdout, stderr = job.Failure.Stdout, job.Failure.Stderr
	default:
		stdout = s.logSoFar(job.Hash)
	}
	text := stdout
	if stderr != "" {
		text += "\n--- errors and warnings ---\n" + stderr
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	writeBody(w, http.StatusOK, "text/plain; charset=utf-8", []byte(text))
}

// logSoFar returns the lines that a running build has printed.
func (s *Server) logSoFar(hash string) string {
	followed, stop, ok := s.o.Queue.Subscribe(hash)
	if !ok {
		return ""
	}
	defer stop()
	var text strings.Builder
	for {
		select {
		case e, open := <-followed:
			if !open {
				return text.String()
			}
			if e.Kind == queue.EventLine {
				text.WriteString(e.Line)
				text.WriteByte('\n')
			}
		// What is there comes at once; a pause is the end of it.
		case <-time.After(50 * time.Millisecond):
			return text.String()
		}
	}
}

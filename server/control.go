package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"attendant/imagebuilder"
	"attendant/queue"
)

// Database is what the control socket offers of the store.
type Database interface {
	// Answers returns an error when the database cannot be read.
	Answers() error
	// Backup writes a consistent copy of the database while it is in use.
	Backup(w io.Writer) (int64, error)
	// Check reads everything and returns what is wrong, a line each.
	Check() (problems []string, err error)
}

// ListenControl opens the control socket: a unix socket that only the server's
// own user and group may use. One that a crash left behind is replaced; one
// that somebody listens on is not.
func ListenControl(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("open the control socket: another attendant is listening on %s", path)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open the control socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("open the control socket: %s is something else; choose another path", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove a stale control socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("protect the control socket: %w", err)
	}
	return l, nil
}

// ServeControl answers the operator's commands on l until ctx ends:
//
//	GET  /jobs           the jobs, as a list of ControlJob
//	POST /cancel/{hash}  ends a job; this and the next three tell what was done
//	POST /evict/{hash}   drops a finished job's images
//	POST /pin/{hash}     keeps a finished job's images from being dropped
//	POST /unpin/{hash}   lets them be dropped again
//	GET  /backup         a copy of the database
//	GET  /check          what is wrong with the database, as a list
func (s *Server) ServeControl(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jobs", s.controlJobs)
	mux.HandleFunc("POST /cancel/{hash}", s.controlJob(s.cancelJob))
	mux.HandleFunc("POST /evict/{hash}", s.controlJob(s.evictImages))
	mux.HandleFunc("POST /pin/{hash}", s.controlJob(s.pinImages))
	mux.HandleFunc("POST /unpin/{hash}", s.controlJob(s.unpinImages))
	mux.HandleFunc("GET /backup", s.controlBackup)
	mux.HandleFunc("GET /check", s.controlCheck)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the control socket: %w", err)
	case <-ctx.Done():
	}
	err := srv.Close()
	<-failed
	return err
}

// ControlJob is a job as `attendant jobs` shows it.
type ControlJob struct {
	Hash     string             `json:"hash"`
	State    imagebuilder.State `json:"state"`
	Stage    imagebuilder.Stage `json:"stage,omitempty"`
	Position int                `json:"position,omitempty"`
	Version  string             `json:"version"`
	Target   string             `json:"target"`
	Profile  string             `json:"profile"`
	Attempts int                `json:"attempts,omitempty"`
	Enqueued time.Time          `json:"enqueued"`
	Finished time.Time          `json:"finished,omitzero"`
	Detail   string             `json:"detail,omitempty"` // why a job failed
	Pinned   bool               `json:"pinned,omitempty"` // its images stay
}

func (s *Server) controlJobs(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, jsonBody(s.jobs()))
}

// jobs are those that are building and waiting, the last outcomes, and after
// them what is pinned and no longer among those.
func (s *Server) jobs() []ControlJob {
	jobs := []ControlJob{}
	sets := s.o.Images.Pinned()
	pinned := make(map[string]bool, len(sets))
	for _, set := range sets {
		pinned[set.Hash] = true
	}
	snapshot := s.o.Queue.Snapshot()
	for _, list := range [][]queueStatus{snapshot.Building, snapshot.Waiting} {
		for _, status := range list {
			job := status.Job
			jobs = append(jobs, ControlJob{
				Hash: job.Hash, State: job.State, Stage: status.Stage, Position: status.Position,
				Version: job.Request.Version, Target: job.Request.Target, Profile: job.Request.Profile,
				Attempts: job.Attempts, Enqueued: job.EnqueuedAt,
			})
		}
	}
	outcome := func(past queue.Summary) {
		jobs = append(jobs, ControlJob{
			Hash: past.Hash, State: past.State, Version: past.Version, Target: past.Target, Profile: past.Profile,
			Enqueued: past.EnqueuedAt, Finished: past.FinishedAt, Detail: past.Detail, Pinned: past.State == imagebuilder.Done && pinned[cmp.Or(past.Shares, past.Hash)],
		})
	}
	listed := map[string]bool{}
	for _, past := range snapshot.Recent {
		outcome(past)
		listed[past.Hash] = true
	}
	for _, set := range sets[:min(len(sets), maxAdminPinned)] {
		if listed[set.Hash] {
			continue
		}
		if past, ok := s.o.Queue.Summary(set.Hash); ok {
			outcome(past)
		}
	}
	return jobs
}

// controlJob does something with a request hash.
func (s *Server) controlJob(do order) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done, err := do(r.PathValue("hash"))
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, jsonBody(done))
	}
}

func (s *Server) controlBackup(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", "X-Bytes")
	n, err := s.o.Database.Backup(w)
	if err != nil {
		s.log.Error().Err(err).Msg("backup through the control socket failed")
		panic(http.ErrAbortHandler) // the reader must not take a part for the whole
	}
	w.Header().Set("X-Bytes", fmt.Sprint(n))
}

func (s *Server) controlCheck(w http.ResponseWriter, r *http.Request) {
	problems, err := s.o.Database.Check()
	if err != nil {
		s.writeError(w, r, fmt.Errorf("check the database: %w", err))
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(nonNil(problems)))
}

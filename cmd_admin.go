package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"attendant/imagebuilder"
	"attendant/server"
	"attendant/store"
)

// errNoServer is returned where no attendant listens on the control socket.
var errNoServer = errors.New("no attendant is running")

// askServer calls the running server through its control socket. The caller
// closes the reply's body.
func askServer(ctx context.Context, socket, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := controlClient(socket).Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w, or it does not listen on %s: %w", errNoServer, socket, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close() //nolint:errcheck // read to its end or given up
		var told struct{ Detail string }
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&told); err != nil || told.Detail == "" {
			return nil, fmt.Errorf("the server answered %s", resp.Status)
		}
		return nil, errors.New(told.Detail)
	}
	return resp, nil
}

type jobsCmd struct {
	configFlags
	JSON bool `help:"Print JSON."`
}

func (*jobsCmd) Help() string {
	return `Lists what is being built, what waits, the last outcomes and what is pinned. Who knows a hash can fetch the image:
do not publish this list.`
}

func (c *jobsCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	resp, err := askServer(p.ctx, cfg.Control, http.MethodGet, "/jobs")
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if c.JSON {
		_, err := io.Copy(p.stdout, resp.Body)
		return err
	}
	var jobs []server.ControlJob
	if err := json.NewDecoder(resp.Body).Decode(&jobs); err != nil {
		return fmt.Errorf("read the list of jobs: %w", err)
	}
	if len(jobs) == 0 {
		fmt.Fprintln(p.stdout, "No jobs.")
		return nil
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HASH\tSTATE\tPINNED\tVERSION\tTARGET\tPROFILE\tSINCE")
	for _, job := range jobs {
		state, since := string(job.State), job.Finished
		switch job.State {
		case imagebuilder.Queued:
			state, since = "queued, "+strconv.Itoa(job.Position), job.Enqueued
		case imagebuilder.Building:
			state, since = "building: "+string(job.Stage), job.Enqueued
		}
		pinned := ""
		if job.Pinned {
			pinned = "pinned"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", job.Hash, state, pinned, job.Version, job.Target, job.Profile, humanize.Time(since))
		if job.Detail != "" {
			fmt.Fprintf(table, "\t  %s\n", job.Detail)
		}
	}
	return table.Flush()
}

type cancelCmd struct {
	configFlags
	Hash string `arg:"" help:"Request hash of the job, as \"attendant jobs\" shows it."`
}

func (c *cancelCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	return orderServer(p, cfg, "/cancel/", c.Hash)
}

type evictCmd struct {
	configFlags
	Hash string `arg:"" help:"Request hash of the image, as \"attendant jobs\" shows it."`
}

func (*evictCmd) Help() string {
	return `Drops a finished image to make room, or to have it built anew at the next request. Requests that share the
image lose it, too; the answer tells how many.`
}

func (c *evictCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	return orderServer(p, cfg, "/evict/", c.Hash)
}

type pinCmd struct {
	configFlags
	Hash string `arg:"" help:"Request hash of the image, as \"attendant jobs\" shows it."`
}

func (*pinCmd) Help() string {
	return `Keeps a finished image when room is made for others, until it is unpinned. Pinned images may take three
quarters of image_budget together. Images with a first-boot script cannot be pinned: they may hold passwords.`
}

func (c *pinCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	return orderServer(p, cfg, "/pin/", c.Hash)
}

type unpinCmd struct {
	configFlags
	Hash string `arg:"" help:"Request hash of the image, as \"attendant jobs\" shows it."`
}

func (*unpinCmd) Help() string {
	return `Lets a pinned image be dropped again when room is needed.`
}

func (c *unpinCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	return orderServer(p, cfg, "/unpin/", c.Hash)
}

// orderServer tells the running server to do something about a job, and prints
// what it says to that.
func orderServer(p *program, cfg *Config, path, hash string) error {
	if !imagebuilder.ValidHash(hash) {
		return usagef("%q is not a request hash: it has 64 hex digits; \"attendant jobs\" shows them", hash)
	}
	resp, err := askServer(p.ctx, cfg.Control, http.MethodPost, path+hash)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	var told struct{ Detail string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&told); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	fmt.Fprintln(p.stdout, told.Detail)
	return nil
}

type dbCmd struct {
	Check dbCheckCmd `cmd:"" help:"Check the database."`
}

type dbCheckCmd struct {
	configFlags
}

func (*dbCheckCmd) Help() string {
	return `Reads every record and every reference between records. A running server is asked to do it;
otherwise the file is opened.`
}

func (c *dbCheckCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	problems, err := checkDatabase(p.ctx, cfg)
	if err != nil {
		return err
	}
	for _, problem := range problems {
		fmt.Fprintln(p.stdout, problem)
	}
	if len(problems) > 0 {
		return fmt.Errorf("the database has %d problems; restore a backup, or move %s away: images and queue start anew", len(problems), filepath.Join(cfg.Data, "attendant.db"))
	}
	fmt.Fprintln(p.stdout, "The database is in order.")
	return nil
}

func checkDatabase(ctx context.Context, cfg *Config) ([]string, error) {
	resp, err := askServer(ctx, cfg.Control, http.MethodGet, "/check")
	if err == nil {
		defer resp.Body.Close() //nolint:errcheck // read to its end
		var problems []string
		if err := json.NewDecoder(resp.Body).Decode(&problems); err != nil {
			return nil, fmt.Errorf("read the server's answer: %w", err)
		}
		return problems, nil
	}
	if !errors.Is(err, errNoServer) {
		return nil, err
	}
	path := filepath.Join(cfg.Data, "attendant.db")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("there is no database to check: %w", err)
	}
	db, err := store.Open(path, store.Options{})
	if err != nil {
		return nil, err
	}
	problems, err := database{db}.Check()
	return problems, errors.Join(err, db.Close())
}

type backupCmd struct {
	configFlags
	To string `arg:"" type:"path" help:"File to write, or a folder."`
}

func (*backupCmd) Help() string {
	return `Copies the database of the running server, consistent as of one moment, while it goes on working.
Images are not copied: they can be built again.

    attendant backup /mnt/usb/

To restore, stop the server and put the file in the place of attendant.db in the data folder.`
}

func (c *backupCmd) Run(p *program) error {
	cfg, err := c.load(p)
	if err != nil {
		return err
	}
	to := c.To
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, "attendant-"+time.Now().Format("2006-01-02-150405")+".db")
	}
	n, err := backupTo(p.ctx, cfg, to)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s: %s\n", to, humanize.Bytes(uint64(n)))
	return nil
}

// backupTo writes the copy under a temporary name, so that a file called to
// is always whole.
func backupTo(ctx context.Context, cfg *Config, to string) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(to), ".attendant-backup-*")
	if err != nil {
		return 0, fmt.Errorf("make the backup's file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	resp, err := askServer(ctx, cfg.Control, http.MethodGet, "/backup")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if n, err = io.Copy(f, resp.Body); err != nil {
		return 0, fmt.Errorf("copy the database: %w", err)
	}
	if told := resp.Trailer.Get("X-Bytes"); told != strconv.FormatInt(n, 10) {
		return 0, fmt.Errorf("copy the database: %d bytes came, the server sent %q", n, told)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync the backup: %w", err)
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return 0, fmt.Errorf("put the backup in place: %w", err)
	}
	return n, f.Close()
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"attendant/imagebuilder"
)

// imageClient speaks the build API of an attended-sysupgrade server.
type imageClient struct {
	base   string // URL without a trailing slash
	http   *http.Client
	screen *screen
	agent  string // User-Agent
	hash   string // of the request, once the server has accepted it
	met    bool   // the server has answered before

	poll     time.Duration // between questions for the state
	stall    time.Duration // a download without a byte for so long is given up and tried again
	patience time.Duration // how long a server that has answered before may be out of reach
	greeting time.Duration // how long one that has not may be: the address may be wrong
	wait     func(ctx context.Context, d time.Duration) error
}

// serverBase brings a server's address as people write it into the form of a
// URL to append to.
func serverBase(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	if _, err := parseHTTPURL(text); err != nil {
		return "", usagef("--server: %w", err)
	}
	return strings.TrimRight(text, "/"), nil
}

func newImageClient(base string, s *screen) *imageClient {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true, // images are compressed, and Range needs the plain bytes
	}
	return &imageClient{
		base: base,
		http: &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.Method != via[0].Method {
				return fmt.Errorf("%s %s leads to %s, which loses the request; use that address as --server", via[0].Method, via[0].URL, req.URL)
			}
			if len(via) >= 10 {
				return errors.New("the server leads in a circle")
			}
			return nil
		}},
		screen:   s,
		agent:    "attendant/" + readBuildInfo().Version,
		poll:     2 * time.Second,
		stall:    time.Minute,
		patience: 15 * time.Minute,
		greeting: 15 * time.Second,
		wait: func(ctx context.Context, d time.Duration) error {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
				return nil
			}
		},
	}
}

// buildReply is what the server says about a request. Which fields are there
// depends on how far it has come.
type buildReply struct {
	Status             int      `json:"status"`
	Detail             string   `json:"detail"`
	RequestHash        string   `json:"request_hash"`
	QueuePosition      *int     `json:"queue_position"`
	ExpectedWait       *float64 `json:"expected_wait_seconds"`
	ImageBuilderStatus string   `json:"imagebuilder_status"`
	Stage              string   `json:"stage"` // more exactly; attendant's own
	Progress           struct {
		Done  int64 `json:"done"`  // bytes
		Total int64 `json:"total"` // bytes
	} `json:"progress"`
	BinDir      string               `json:"bin_dir"`
	VersionCode string               `json:"version_code"`
	Images      []imagebuilder.Image `json:"images"`
	Stdout      string               `json:"stdout"`
	Stderr      string               `json:"stderr"`
}

// buildFailure is the server's refusal.
type buildFailure struct {
	Detail         string
	Stdout, Stderr string
}

func (e *buildFailure) Error() string { return e.Detail }

// maxReply bounds what is read of a JSON reply, in bytes: manifest and output
// of a large build have some hundred kilobytes.
const maxReply = 16 << 20

// errNoAnswer wraps what may pass by itself: no connection, a proxy without
// its server.
var errNoAnswer = errors.New("no answer from the server")

// call sends one request. An error that wraps errNoAnswer may pass by itself.
func (c *imageClient) call(ctx context.Context, method, path string, body []byte) (int, http.Header, *buildReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("ask the server: %w", err)
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var lost *url.Error
		if errors.As(err, &lost) && resp != nil { // a redirect that CheckRedirect refused
			resp.Body.Close()
			return 0, nil, nil, lost.Err
		}
		return 0, nil, nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	var reply buildReply
	if err := json.Unmarshal(data, &reply); err != nil {
		if resp.StatusCode >= 500 {
			return 0, nil, nil, fmt.Errorf("%w: %s", errNoAnswer, resp.Status)
		}
		if resp.StatusCode >= 300 {
			return resp.StatusCode, resp.Header, &buildReply{Detail: fmt.Sprintf("The server answered %s to %s %s.", resp.Status, method, path)}, nil
		}
		return 0, nil, nil, fmt.Errorf("%s is no attended-sysupgrade server: its reply to %s %s is no JSON", c.base, method, path)
	}
	return resp.StatusCode, resp.Header, &reply, nil
}

const (
	firstRetry   = time.Second
	longestRetry = 30 * time.Second
	// A server that forgets a request again and again will not finish it.
	maxForgotten = 3
)

// retry paces attempts at a server that does not answer.
type retry struct {
	pause  time.Duration // the last one
	waited time.Duration // since the last answer
}

func (r *retry) answered() { *r = retry{} }

// again waits for the next attempt. It is an error when patience has run out.
func (r *retry) again(ctx context.Context, c *imageClient, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.pause = min(max(firstRetry, r.pause*2), longestRetry)
	patience := c.patience
	if !c.met {
		patience = c.greeting
	}
	if r.waited += r.pause; r.waited > patience {
		return fmt.Errorf("gave up after %s: %w", formatDuration(patience), cause)
	}
	c.screen.state("no-answer", "no answer from the server, trying again (%v)", cause)
	return c.wait(ctx, r.pause)
}

// await sends the request, unless there is a hash already, and waits for its
// outcome. Sending it again is harmless: the server knows it by its hash.
func (c *imageClient) await(ctx context.Context, body []byte, hash string) (*buildReply, error) {
	c.hash = hash
	var pace retry
	forgotten := 0
	for {
		method, path, send := http.MethodPost, "/api/v1/build", body
		if c.hash != "" {
			method, path, send = http.MethodGet, "/api/v1/build/"+url.PathEscape(c.hash), nil
		}
		code, header, reply, err := c.call(ctx, method, path, send)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !errors.Is(err, errNoAnswer) {
				return nil, err
			}
			if err := pace.again(ctx, c, err); err != nil {
				return nil, err
			}
			continue
		}
		pace.answered()
		c.met = true
		if method == http.MethodPost && plainName(reply.RequestHash) {
			c.hash = reply.RequestHash
		}
		switch {
		case code == http.StatusOK:
			if reply.RequestHash == "" {
				reply.RequestHash = c.hash
			}
			return reply, nil
		case code == http.StatusAccepted || code == http.StatusCreated:
			if c.hash == "" {
				return nil, fmt.Errorf("%s accepted the request without a request_hash to ask for", c.base)
			}
			c.show(reply)
			err = c.wait(ctx, c.poll)
		case code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests || code == 529:
			pause := retryAfter(header)
			c.screen.state("busy:"+reply.Detail, "%s Trying again in %s.", sentence(reply.Detail, "The server is busy."), formatDuration(pause))
			err = c.wait(ctx, pause)
		case code == http.StatusNotFound && method == http.MethodGet && body != nil && forgotten < maxForgotten:
			forgotten++
			c.hash = ""
			c.screen.note("The server does not know the request any more; sending it again.")
			err = c.wait(ctx, c.poll)
		default:
			return nil, &buildFailure{
				Detail: sentence(reply.Detail, fmt.Sprintf("The server answered %d.", code)),
				Stdout: reply.Stdout, Stderr: reply.Stderr,
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

func sentence(text, otherwise string) string {
	if text = printable(text); text == "" {
		return otherwise
	}
	return text
}

// retryAfter reads Retry-After in seconds, within reason.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil {
		n = 5
	}
	return time.Duration(min(max(n, 1), 300)) * time.Second
}

// stageTexts say what the server's stage names mean: attendant's and asu's.
var stageTexts = map[string]string{
	"init":                             "starting",
	"container_setup":                  "preparing the build",
	string(imagebuilder.StageDownload): "the server downloads the ImageBuilder",
	string(imagebuilder.StageUnpack):   "the server unpacks the ImageBuilder",
	string(imagebuilder.StageRevision): "checking the revision",
	string(imagebuilder.StagePackages): "fetching packages",
	string(imagebuilder.StageManifest): "resolving packages",
	"calculate_packages_hash":          "resolving packages",
	string(imagebuilder.StageImage):    "building the image",
	string(imagebuilder.StageCommit):   "storing the image",
	"signing_images":                   "signing the image",
	"started":                          "building",
}

// show tells how far the request has come.
func (c *imageClient) show(r *buildReply) {
	wait := ""
	if r.ExpectedWait != nil && *r.ExpectedWait >= 1 {
		wait = roughly(time.Duration(min(*r.ExpectedWait, 1e6) * float64(time.Second)))
	}
	if r.QueuePosition != nil {
		if wait != "" {
			wait = ", expected wait " + wait
		}
		c.screen.state("queue:"+strconv.Itoa(*r.QueuePosition), "in the queue, position %d%s", *r.QueuePosition, wait)
		return
	}
	if wait != "" {
		wait = ", about " + wait + " to go"
	}
	stage := cmp.Or(r.Stage, r.ImageBuilderStatus)
	text := stageTexts[stage]
	if text == "" {
		text = sentence(strings.ReplaceAll(stage, "_", " "), "waiting")
	}
	if r.Progress.Total > 0 {
		text += fmt.Sprintf(" (%d %%)", r.Progress.Done*100/r.Progress.Total)
	}
	c.screen.state(stage, "%s%s", text, wait)
}

// roughly writes a duration as people say it.
func roughly(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", int(d.Minutes()+0.5))
	}
	return fmt.Sprintf("%d h", int(d.Hours()+0.5))
}

// screen shows progress: on a terminal as one line that changes, elsewhere as
// a line for each change.
type screen struct {
	out      io.Writer
	terminal bool
	last     string // key of the state that is shown
	open     bool   // the terminal's line is not ended
}

func newScreen(out io.Writer) *screen {
	file, ok := out.(*os.File)
	return &screen{out: out, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

// state shows how things are. States with one key are one state: away from a
// terminal only the first of them is printed.
func (s *screen) state(key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.terminal {
		fmt.Fprintf(s.out, "\r\x1b[K%s", text)
		s.open, s.last = true, key
		return
	}
	if key != s.last {
		fmt.Fprintln(s.out, text)
		s.last = key
	}
}

// note prints something that stays.
func (s *screen) note(format string, args ...any) {
	s.finish()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// finish ends the line that changes.
func (s *screen) finish() {
	if s.open {
		fmt.Fprintln(s.out)
		s.open = false
	}
	s.last = ""
}

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Bounds of what is fetched, in bytes.
const (
	maxListSize     = 4 << 20  // .versions.json, .targets.json
	maxSumsSize     = 16 << 20 // sha256sums
	maxSigSize      = 4 << 10
	maxProfilesSize = 16 << 20
	maxIndexSize    = 32 << 20 // also after decompression
	maxConfSize     = 64 << 10 // feeds.conf, feeds.buildinfo
)

var (
	// errAbsent: upstream answered that it has no such file.
	errAbsent = errors.New("upstream does not have it")
	// errMismatch: a file does not have the sum that sha256sums gives it.
	errMismatch = errors.New("upstream's files do not fit together")
	errStalled  = errors.New("upstream sent nothing for too long")
	errNotHeld  = errors.New("no copy is held")
	errWebPage  = errors.New("upstream sent a web page instead")
)

func defaultClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   4,
		MaxConnsPerHost:       8,
		ForceAttemptHTTP2:     true,
	}}
}

// safeClient copies c and bounds where redirects may lead: to http or https,
// and not from https back to http.
func safeClient(c *http.Client) *http.Client {
	if c == nil {
		c = defaultClient()
	}
	safe := *c
	safe.Timeout = 0 // transfers have bounds of their own
	safe.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("upstream redirects too often")
		}
		switch {
		case req.URL.Scheme == "https":
		case req.URL.Scheme == "http" && via[len(via)-1].URL.Scheme == "http":
		default:
			return fmt.Errorf("upstream redirects from %s to %s", via[len(via)-1].URL.Scheme, req.URL.Scheme)
		}
		return nil
	}
	return &safe
}

// watched is a transfer that is ended when it stalls.
type watched struct {
	io.ReadCloser
	timer  *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
	ctx    context.Context
}

// Read implements io.Reader. The error of an ended transfer is its cause.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	if err != nil && err != io.EOF && w.ctx.Err() != nil {
		err = context.Cause(w.ctx)
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(context.Canceled)
	return w.ReadCloser.Close()
}

// do sends a request whose whole transfer ends after limit, or earlier when
// nothing comes for Options.Stall. The caller closes the body.
func (u *Upstream) do(ctx context.Context, req *http.Request, limit time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	overall := time.AfterFunc(limit, func() { cancel(fmt.Errorf("the transfer took longer than %v", limit)) })
	timer := time.AfterFunc(u.o.Stall, func() { cancel(errStalled) })
	end := func(cause error) {
		overall.Stop()
		timer.Stop()
		cancel(cause)
	}
	req.Header.Set("User-Agent", "attendant")
	resp, err := u.client.Do(req.WithContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		end(err)
		return nil, err
	}
	timer.Reset(u.o.Stall)
	resp.Body = &watched{
		ReadCloser: resp.Body, timer: timer, stall: u.o.Stall, ctx: ctx,
		cancel: func(cause error) { end(cause) },
	}
	return resp, nil
}

// fetch gets one small file. old, if not nil, is what is held: upstream is
// asked for something newer, and old comes back if there is none. The errors
// are errAbsent or something that may pass.
func (u *Upstream) fetch(ctx context.Context, path string, limit int64, old *file) (*file, error) {
	if !validPath(path) {
		return nil, fmt.Errorf("fetching %q: it is not a path", path)
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	f, err := u.fetchURL(ctx, u.o.URL+"/"+path, path, limit, old)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", path, err)
	}
	return f, nil
}

// fetchURL gets a file that is called path from anywhere.
func (u *Upstream) fetchURL(ctx context.Context, url, path string, limit int64, old *file) (*file, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(path, ".json") && !strings.HasSuffix(path, "sha256sums") {
		req.Header.Set("Accept-Encoding", "identity") // what is packed already stays as it is
	}
	if old != nil {
		if old.ETag != "" {
			req.Header.Set("If-None-Match", old.ETag)
		}
		if old.LastModified != "" {
			req.Header.Set("If-Modified-Since", old.LastModified)
		}
	}
	resp, err := u.do(ctx, req, u.o.FetchLimit)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && old != nil:
		return old, nil
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return nil, errAbsent
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("upstream answered %.100q", resp.Status)
	case resp.ContentLength > limit:
		return nil, fmt.Errorf("it has %d bytes; at most %d are taken", resp.ContentLength, limit)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	if trimmed := bytes.TrimLeft(data, " \t\r\n\ufeff"); len(trimmed) > 0 && trimmed[0] == '<' {
		return nil, errWebPage
	}
	f := &file{
		Path: path, SHA256: hexSum(data), Size: int64(len(data)), data: data,
		ETag: header(resp, "ETag"), LastModified: header(resp, "Last-Modified"), Fetched: u.o.Now(),
	}
	if old != nil && old.SHA256 == f.SHA256 {
		f.Fetched = old.Fetched
	}
	return f, nil
}

// header returns a reply's header if it is short enough to be kept and sent
// again.
func header(resp *http.Response, name string) string {
	if v := resp.Header.Get(name); len(v) <= 256 {
		return v
	}
	return ""
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"

	"attendant/imagebuilder"
)

// downloaded is a file that is whole and has the right sum.
type downloaded struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

var errWrongSum = errors.New("wrong SHA-256")

// download fetches an image of binDir into the folder dir. Until it is whole
// and verified it is called like the image with a part of its sum and ".part"
// behind; a later download goes on where that ends.
func (c *imageClient) download(ctx context.Context, binDir string, image imagebuilder.Image, dir string) (*downloaded, error) {
	if !imagebuilder.ValidHash(image.SHA256) {
		return nil, fmt.Errorf("the server gives no SHA-256 for %s, so a download could not be checked", image.Name)
	}
	address, err := c.storeURL(binDir, image.Name)
	if err != nil {
		return nil, err
	}
	d := &download{
		client: c, address: address, image: image,
		final: filepath.Join(dir, image.Name),
	}
	d.partial = d.final + "." + image.SHA256[:8] + ".part"
	if sum, size, err := sumFile(d.final); err == nil && sum == image.SHA256 {
		c.screen.note("%s is here already.", d.final)
		return &downloaded{d.final, size, sum}, nil
	}
	for attempt := 1; ; attempt++ {
		err := d.run(ctx)
		if err == nil {
			return &downloaded{d.final, d.size, image.SHA256}, nil
		}
		if !errors.Is(err, errWrongSum) || attempt == 2 {
			return nil, err
		}
		c.screen.note("%s arrived damaged; downloading it again.", image.Name)
	}
}

// storeURL is where a file of a build is. binDir comes from the server: it
// may not lead out of the store.
func (c *imageClient) storeURL(binDir, name string) (string, error) {
	address := c.base + "/store"
	for part := range strings.SplitSeq(binDir, "/") {
		if !plainName(part) {
			return "", fmt.Errorf("the server says that the image is in %.100q, which is no folder of its store", binDir)
		}
		address += "/" + url.PathEscape(part)
	}
	return address + "/" + url.PathEscape(name), nil
}

func sumFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// download is one file on its way.
type download struct {
	client         *imageClient
	address        string
	image          imagebuilder.Image
	final, partial string

	file *os.File
	sum  hash.Hash
	size int64 // bytes that are in file and sum
	bar  *progressbar.ProgressBar
}

// run downloads until the file is whole, checks it and gives it its name.
func (d *download) run(ctx context.Context) error {
	f, err := os.OpenFile(d.partial, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("keep the download: %w", err)
	}
	d.file = f
	defer f.Close()
	d.sum = sha256.New()
	if d.size, err = io.Copy(d.sum, f); err != nil {
		return fmt.Errorf("read what is there of the download: %w", err)
	}
	if d.size > 0 {
		d.client.screen.note("Going on with %s at %s.", d.image.Name, humanize.Bytes(uint64(d.size)))
	}
	var pace retry
	for {
		before := d.size
		whole, err := d.attempt(ctx)
		d.endBar()
		if whole {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, errNoAnswer) {
			return err
		}
		if d.size > before {
			pace.answered()
		}
		if err := pace.again(ctx, d.client, err); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(d.sum.Sum(nil)); got != d.image.SHA256 {
		if err := os.Remove(d.partial); err != nil {
			return fmt.Errorf("throw the damaged download away: %w", err)
		}
		return fmt.Errorf("%s: %w: it is %s, the server said %s", d.image.Name, errWrongSum, got, d.image.SHA256)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write the image to disk: %w", err)
	}
	if err := os.Rename(d.partial, d.final); err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	return nil
}

// attempt asks for what is missing. whole says that nothing is. An error that
// wraps errNoAnswer may pass by itself.
func (d *download) attempt(ctx context.Context) (whole bool, err error) {
	c := d.client
	moving, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(c.stall, cancel)
	defer stalled.Stop()
	req, err := http.NewRequestWithContext(moving, http.MethodGet, d.address, nil)
	if err != nil {
		return false, fmt.Errorf("ask for the image: %w", err)
	}
	req.Header.Set("User-Agent", c.agent)
	if d.size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.size))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != d.size {
			return false, d.restart(fmt.Errorf("%w: it sent another part of the image than asked for", errNoAnswer))
		}
	case code == http.StatusOK:
		if err := d.restart(nil); err != nil {
			return false, err
		}
	case code == http.StatusRequestedRangeNotSatisfiable:
		// Nothing is missing, or what is here does not belong to it: the sum tells.
		return true, nil
	case code == http.StatusNotFound:
		return false, fmt.Errorf("the server does not have %s any more. Repeat the command without --resume: it will be built again", d.image.Name)
	case code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests:
		if err := c.wait(ctx, retryAfter(resp.Header)); err != nil {
			return false, err
		}
		return false, fmt.Errorf("%w: %s", errNoAnswer, resp.Status)
	case code >= 500:
		return false, fmt.Errorf("%w: %s", errNoAnswer, resp.Status)
	default:
		return false, fmt.Errorf("the server answered %s to the download of %s", resp.Status, d.image.Name)
	}
	total := int64(-1)
	if resp.ContentLength >= 0 {
		total = d.size + resp.ContentLength
	}
	d.beginBar(total)
	buf := make([]byte, 64<<10)
	for {
		n, readErr := resp.Body.Read(buf)
		if n > 0 {
			stalled.Reset(c.stall)
			if err := d.write(buf[:n]); err != nil {
				return false, err
			}
		}
		switch {
		case readErr == io.EOF:
			return true, nil
		case readErr != nil:
			return false, fmt.Errorf("%w: the download broke off at %s: %w", errNoAnswer, humanize.Bytes(uint64(d.size)), readErr)
		}
	}
}

// restart forgets what is there of the file. It returns cause, or why it
// could not.
func (d *download) restart(cause error) error {
	if err := d.file.Truncate(0); err != nil {
		return fmt.Errorf("start the download over: %w", err)
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("start the download over: %w", err)
	}
	d.sum.Reset()
	d.size = 0
	return cause
}

func (d *download) write(p []byte) error {
	if d.image.Size > 0 && d.size+int64(len(p)) > d.image.Size {
		os.Remove(d.partial)
		return fmt.Errorf("the server sends more of %s than the %d bytes it has announced", d.image.Name, d.image.Size)
	}
	if _, err := d.file.Write(p); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	d.sum.Write(p)
	d.size += int64(len(p))
	if d.bar != nil {
		d.bar.Add(len(p)) //nolint:errcheck // a display that fails is no reason to stop
	}
	return nil
}

// beginBar shows the download of total bytes; -1 is unknown.
func (d *download) beginBar(total int64) {
	s := d.client.screen
	if !s.terminal {
		size := ""
		if total >= 0 {
			size = " (" + humanize.Bytes(uint64(total)) + ")"
		}
		s.state("download:"+d.image.Name, "downloading %s%s", d.image.Name, size)
		return
	}
	s.finish()
	d.bar = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(s.out),
		progressbar.OptionSetDescription("downloading"),
		progressbar.OptionShowBytes(true),
		progressbar.OptionShowTotalBytes(true),
		progressbar.OptionSetWidth(20),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(s.out) }),
	)
	if d.size > 0 {
		d.bar.Set64(d.size) //nolint:errcheck // as above
	}
}

func (d *download) endBar() {
	if d.bar == nil {
		return
	}
	if !d.bar.IsFinished() {
		d.bar.Exit() //nolint:errcheck // as above
		fmt.Fprintln(d.client.screen.out)
	}
	d.bar = nil
}

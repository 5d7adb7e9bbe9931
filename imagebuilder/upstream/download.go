package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxArchiveSize bounds an ImageBuilder archive, in bytes; real ones have up to
// some 500 MB.
const maxArchiveSize = 4 << 30

const (
	// progress is how many bytes make a try worth another one.
	progress = 64 << 10
	// roomEvery is after how many bytes of an archive whose size upstream does
	// not tell the disk is asked for room again.
	roomEvery = 16 << 20
)

// part is what is noted of a download on its way, beside its bytes.
type part struct {
	URL          string `json:"url"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
}

// validator is what If-Range takes; "" if the copy cannot be resumed safely.
func (p part) validator() string {
	if p.ETag != "" && !strings.HasPrefix(p.ETag, "W/") {
		return p.ETag
	}
	return p.LastModified
}

// download gets an archive within Options.BuilderLimit and returns the path of
// a file that has its sum. A download that breaks off stays for the next try.
func (b *builders) download(ctx context.Context, src source, report func(done, total int64)) (string, error) {
	limit := b.u.o.BuilderLimit
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("downloading %s took longer than %v", src.name, limit))
	defer cancel()
	const tries = 4
	for try := 1; ; try++ {
		before := b.partSize(src)
		name, err := b.downloadOnce(ctx, src, report)
		if err == nil {
			return name, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if b.partSize(src)-before >= progress {
			try = 0
		}
		if try >= tries || errors.Is(err, errAbsent) || errors.Is(err, errMismatch) || isNoSpace(err) || isTold(err) {
			return "", err
		}
		b.u.o.Log.Info("download of an ImageBuilder broke off", "archive", src.name, "bytes", b.partSize(src), "error", err)
		if err := b.u.pause(ctx); err != nil {
			return "", err
		}
	}
}

func (b *builders) partName(src source) string {
	return filepath.Join(b.dir, partsDir, src.sum+".part")
}

func (b *builders) partSize(src source) int64 {
	info, err := os.Stat(b.partName(src))
	if err != nil {
		return 0
	}
	return info.Size()
}

func (b *builders) downloadOnce(ctx context.Context, src source, report func(done, total int64)) (name string, err error) {
	name = b.partName(src)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer func() {
		// What has come is synced even if the rest has not: it is resumed.
		err = errors.Join(err, f.Sync(), f.Close())
	}()
	h := sha256.New()
	have, note, err := resume(f, h, name, src)
	if err != nil {
		return "", err
	}
	throwAway := func() error { return errors.Join(f.Truncate(0), os.Remove(name+".json")) }
	if have > 0 && hex.EncodeToString(h.Sum(nil)) == src.sum {
		return name, nil // it was whole when the server ended
	}
	resp, err := b.request(ctx, src, have, note)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if start, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || start != have {
			return "", errors.Join(errors.New("upstream sent another range than asked for"), throwAway())
		}
	case http.StatusOK:
		have = 0
		h.Reset()
		if err := f.Truncate(0); err != nil {
			return "", err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
		data, err := json.Marshal(part{src.url, header(resp, "ETag"), header(resp, "Last-Modified")})
		if err == nil {
			err = b.u.disk.writeFile(name+".json", data)
		}
		if err != nil {
			return "", err
		}
	case http.StatusNotFound, http.StatusGone:
		return "", fmt.Errorf("downloading %s: %w", src.name, errAbsent)
	case http.StatusRequestedRangeNotSatisfiable:
		return "", errors.Join(errors.New("upstream's copy is shorter than ours"), throwAway())
	default:
		return "", fmt.Errorf("downloading %s: upstream answered %.100q", src.name, resp.Status)
	}
	var total int64
	if resp.ContentLength >= 0 {
		total = have + resp.ContentLength
	}
	if total > maxArchiveSize {
		return "", errors.Join(fmt.Errorf("downloading %s: it has %d bytes; at most %d are taken", src.name, total, int64(maxArchiveSize)), throwAway())
	}
	rest := max(resp.ContentLength, 0)
	if err := b.makeRoom(rest+total*expansion, total*guess, src.name); err != nil {
		return "", err
	}
	defer func() {
		b.mu.Lock()
		b.growing -= total * guess
		b.mu.Unlock()
	}()
	w := &progressWriter{w: io.MultiWriter(diskWriter{b.u.disk, f}, h), done: have, total: total, report: report}
	if total == 0 {
		w.room = func() error { return b.makeRoom(roomEvery, 0, src.name) }
	}
	if _, err := io.CopyBuffer(w, io.LimitReader(resp.Body, maxArchiveSize-have+1), make([]byte, 256<<10)); err != nil {
		return "", fmt.Errorf("downloading %s: %w", src.name, err)
	}
	if total > 0 && w.done != total {
		return "", fmt.Errorf("downloading %s: %w", src.name, io.ErrUnexpectedEOF)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != src.sum {
		return "", errors.Join(fmt.Errorf("downloading %s: its sum is %s, not %s: %w", src.name, sum, src.sum, errMismatch), throwAway())
	}
	return name, nil
}

// resume hashes what is there of a download and leaves f at its end. What
// comes from elsewhere, or cannot be resumed safely, is thrown away.
func resume(f *os.File, h hash.Hash, name string, src source) (have int64, note part, err error) {
	data, err := os.ReadFile(name + ".json")
	if err != nil || json.Unmarshal(data, &note) != nil || note.URL != src.url || note.validator() == "" {
		return 0, part{}, f.Truncate(0)
	}
	have, err = io.CopyBuffer(h, f, make([]byte, 256<<10))
	if err != nil {
		return 0, part{}, err
	}
	return have, note, nil
}

func (b *builders) request(ctx context.Context, src source, have int64, note part) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, src.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if have > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(have, 10)+"-")
		req.Header.Set("If-Range", note.validator())
	}
	resp, err := b.u.do(ctx, req, b.u.o.BuilderLimit)
	if err != nil {
		return nil, fmt.Errorf("downloading %s: %w", src.name, err)
	}
	return resp, nil
}

// rangeStart reads "bytes 100-199/200".
func rangeStart(s string) (int64, bool) {
	s, ok := strings.CutPrefix(s, "bytes ")
	first, _, found := strings.Cut(s, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, ok && found && err == nil
}

// progressWriter counts what passes.
type progressWriter struct {
	w           io.Writer
	done, total int64
	report      func(done, total int64)
	room        func() error // if not nil, asked whenever roomEvery bytes have passed
	asked       int64        // done when it was asked last
}

// Write implements io.Writer.
func (p *progressWriter) Write(data []byte) (int, error) {
	if p.room != nil && p.done-p.asked >= roomEvery {
		if err := p.room(); err != nil {
			return 0, err
		}
		p.asked = p.done
	}
	n, err := p.w.Write(data)
	p.done += int64(n)
	p.report(p.done, p.total)
	return n, err
}

func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

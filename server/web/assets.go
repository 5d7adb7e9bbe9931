package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
)

//go:embed assets
var assetFiles embed.FS

// assets are the files that pages refer to, each under a name with its own
// sum: a name never stands for other bytes, so browsers may keep it for ever.
type assets struct {
	byName map[string]*asset // by the hashed name
	names  map[string]string // the plain name to the hashed one
}

type asset struct {
	contentType  string
	etag         string
	body, packed []byte
}

// moduleImport is how one module names another.
var moduleImport = regexp.MustCompile(`(from |import\()"\./([a-z]+\.js)"`)

func loadAssets() *assets {
	a := &assets{byName: map[string]*asset{}, names: map[string]string{}}
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		a.add(e.Name(), 0)
	}
	return a
}

// add takes a file in, after those that it imports, whose hashed names it is
// given: a change of a module changes the names of all that use it.
func (a *assets) add(name string, depth int) string {
	if hashed, ok := a.names[name]; ok {
		return hashed
	}
	if depth > 8 {
		panic(fmt.Sprintf("%s imports itself", name))
	}
	body, err := assetFiles.ReadFile("assets/" + name)
	if err != nil {
		panic(err)
	}
	if path.Ext(name) == ".js" {
		body = moduleImport.ReplaceAllFunc(body, func(m []byte) []byte {
			found := moduleImport.FindSubmatch(m)
			return []byte(string(found[1]) + `"./` + a.add(string(found[2]), depth+1) + `"`)
		})
	}
	sum := sha256.Sum256(body)
	short := hex.EncodeToString(sum[:6])
	ext := path.Ext(name)
	hashed := strings.TrimSuffix(name, ext) + "-" + short + ext
	contentType := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}[ext]
	if contentType == "" {
		contentType = mime.TypeByExtension(ext)
	}
	a.byName[hashed] = &asset{contentType: contentType, etag: `"` + short + `"`, body: body, packed: pack(body)}
	a.names[name] = hashed
	return hashed
}

// url is where pages find the file.
func (a *assets) url(name string) (string, error) {
	hashed, ok := a.names[name]
	if !ok {
		return "", fmt.Errorf("there is no asset %q", name)
	}
	return "/assets/" + hashed, nil
}

func pack(body []byte) []byte {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		panic(err) // of a wrong level
	}
	_, err = z.Write(body)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return buf.Bytes()
}

// takesGzip tells whether the browser can unpack gzip.
func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, quality, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" || name == "*" {
			return strings.ReplaceAll(quality, " ", "") != "q=0"
		}
	}
	return false
}

func (s *Site) asset(w http.ResponseWriter, r *http.Request, name string) {
	a, ok := s.assets.byName[name]
	if !ok {
		http.Error(w, "There is no such file. Load the page again: it has been renewed.", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept-Encoding")
	h.Set("X-Content-Type-Options", "nosniff")
	if strings.Contains(r.Header.Get("If-None-Match"), a.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", a.contentType)
	body := a.body
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = a.packed
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the browser may have gone
}

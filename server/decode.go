package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"attendant/imagebuilder"
)

// minBodyLimit is how large a request's body may be at least, in bytes: 300
// packages with versions and 20 KiB of defaults fit several times over.
const minBodyLimit = 512 << 10

// Limits of a request's body. A client may be slow: 20 KB come through 2 KB/s
// in ten seconds.
const (
	bodyStall  = 30 * time.Second // a pause inside it
	bodyTime   = 5 * time.Minute  // all of it
	bodyAtOnce = 32 << 10         // bytes that are set aside before they come
)

// maxLargeBodies is how many bodies of more than bodyAtOnce may be on their
// way at a time: together they are the memory that bodies can take.
const maxLargeBodies = 48

// readBody reads a request's body up to s.bodyLimit bytes.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	limit := s.bodyLimit
	rc := http.NewResponseController(w)
	end := time.Now().Add(bodyTime)
	body := &progressReader{r: http.MaxBytesReader(w, r.Body, limit), extend: func() {
		stall := time.Now().Add(s.o.BodyStall)
		if stall.After(end) {
			stall = end
		}
		_ = rc.SetReadDeadline(stall) // recorders in tests have no deadlines
	}}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, bodyAtOnce)) + bytes.MinRead)
	}
	_, err := io.CopyN(&buf, body, bodyAtOnce)
	if err == nil { // there may be more
		select {
		case s.largeBodies <- struct{}{}:
			defer func() { <-s.largeBodies }()
		default:
			w.Header().Set("Connection", "close")
			return nil, imagebuilder.Errorf(imagebuilder.CodeBusy, "Too many large requests are being sent just now. Please try again in a minute.")
		}
		_, err = buf.ReadFrom(body)
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{})
	} else {
		// What is left of the body is not waited for.
		w.Header().Set("Connection", "close")
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed,
			"The request is larger than the %d bytes allowed here. Ask for fewer packages or a shorter first-boot script.", limit)
	}
	if err != nil {
		return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "The request did not arrive whole. Please send it again.").WithCause(err)
	}
	return buf.Bytes(), nil
}

type progressReader struct {
	r      io.Reader
	extend func()
}

func (p *progressReader) Read(b []byte) (int, error) {
	p.extend()
	return p.r.Read(b)
}

// decodeRequest reads a build request. Unknown keys and nulls are ignored, as
// clients and their forks send both; a value of the wrong type is refused with
// the name of its field.
func decodeRequest(body []byte) (imagebuilder.Request, error) {
	var r imagebuilder.Request
	var installed nameVersions
	err := decodeObject(body, []field{
		{"distro", &r.Distro, "a string"},
		{"version", &r.Version, "a string"},
		{"version_code", &r.VersionCode, "a string"},
		{"target", &r.Target, "a string"},
		{"profile", &r.Profile, "a string"},
		{"packages", &r.Packages, "a list of strings"},
		{"packages_versions", &r.PackagesVersions, "an object of strings, package to version"},
		{"diff_packages", &r.DiffPackages, "true or false"},
		{"defaults", &r.Defaults, "a string"},
		{"rootfs_size_mb", &quotedInt{&r.RootfsSizeMB}, "a whole number"},
		{"filesystem", &r.Filesystem, "a string"},
		{"repositories", &r.Repositories, "an object of strings, name to URL"},
		{"repositories_mode", &r.RepositoriesMode, "a string"},
		{"repository_keys", &r.RepositoryKeys, "a list of strings"},
		{"client", &r.Client, "a string"},
		{"from_version", &r.FromVersion, "a string"},
		{"from_revision", &r.FromRevision, "a string"},
		{"installed", &installed, packagesForm},
		{"choices", &r.Choices, "an object of strings, old package to new"},
	})
	if err != nil {
		return r, err
	}
	kept, bad := checkNameVersions("installed", imagebuilder.Pairs(installed), 2*imagebuilder.MaxPackages, false)
	if bad != nil {
		return r, bad
	}
	r.Installed = kept.Names()
	return r, nil
}

// field is one member of a JSON object that a request may be.
type field struct {
	name string
	into any
	want string // completes "expected …"
}

// quotedInt reads a whole number, also one in quotes: LuCI sends the size of
// the root partition as the router's configuration has it, which is text.
type quotedInt struct{ into **int }

func (q *quotedInt) UnmarshalJSON(raw []byte) error {
	var n int
	var text string
	err := json.Unmarshal(raw, &n)
	if err != nil && json.Unmarshal(raw, &text) == nil {
		n, err = strconv.Atoi(text)
	}
	if err != nil {
		return err
	}
	*q.into = &n
	return nil
}

// decodeObject reads a request's body into fields. The error is CodeMalformed.
func decodeObject(body []byte, into []field) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return imagebuilder.Errorf(imagebuilder.CodeMalformed,
			"The request has no body. Send a JSON object with version, target, profile and packages; /docs describes it.")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		var syntax *json.SyntaxError
		where := ""
		if errors.As(err, &syntax) {
			where = fmt.Sprintf(" (%v at byte %d)", syntax, syntax.Offset)
		}
		return imagebuilder.Errorf(imagebuilder.CodeMalformed, "The request is not a JSON object%s.", where)
	}
	for _, f := range into {
		raw, given := members[f.name]
		if !given || string(raw) == "null" {
			continue
		}
		if err := json.Unmarshal(raw, f.into); err != nil {
			return imagebuilder.Errorf(imagebuilder.CodeMalformed, "%s: expected %s.", f.name, f.want)
		}
	}
	return nil
}

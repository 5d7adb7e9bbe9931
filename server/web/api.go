package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"attendant/imagebuilder"
)

// The replies of the API that pages are made of; /docs describes them all.
type (
	overview struct {
		Latest      []string
		Branches    map[string]branch
		UpstreamURL string `json:"upstream_url"`
		Upstream    struct {
			Checked    string
			AgeSeconds int64 `json:"age_seconds"`
			Stale      bool
		}
		Server struct {
			Contact       string
			AllowDefaults bool `json:"allow_defaults"`
			MaxRootfsMB   int  `json:"max_custom_rootfs_size_mb"`
		}
	}
	branch struct {
		Name, Path string
		Enabled    bool
		Snapshot   bool
		Versions   []string
		Targets    map[string]string
	}
	deviceList struct {
		Total   int
		Offset  int
		Devices []deviceFound
	}
	deviceFound struct {
		Title           string
		Titles          []imagebuilder.Title
		Profile, Target string
		Aliases         []string
		Versions        []string
	}
	profileFacts struct {
		ID              string
		Titles          []imagebuilder.Title
		DefaultPackages []string `json:"default_packages"`
		DevicePackages  []string `json:"device_packages"`
		ImagePrefix     string   `json:"image_prefix"`
		Images          []imagebuilder.Image
		VersionCode     string `json:"version_code"`
	}
	upgradeReply struct {
		Version      string
		Reason       string
		ReasonDetail string `json:"reason_detail"`
		Detail       string
		Profile      string
		Notes        []string
		Upgrades     map[string][]string
		Replacements map[string][]string
		Dropped      map[string]string
		Added        map[string]string
		Missing      map[string][]string
		Choices      imagebuilder.Choices
		Request      struct {
			Packages         []string
			PackagesVersions map[string]string `json:"packages_versions"`
			DiffPackages     bool              `json:"diff_packages"`
		}
	}
	solveReply struct {
		Detail            string
		Possible, Certain bool
		Doubts            []string
		Packages          []solvedPackage
		Sizes             struct {
			Download, Installed int64
			Flash               flash
		}
		Problems     []imagebuilder.Problem
		Repairs      []imagebuilder.Repair
		Replacements map[string][]string
		Added        []string
		Choices      imagebuilder.Choices
	}
	solvedPackage struct {
		Name, Version      string
		Size               int64
		InstalledSize      int64 `json:"installed_size"`
		Reason             string
		Default, Requested bool
	}
	flash struct {
		Verdict                          string
		Estimate, Low, High, Limit, Over int64
		Detail                           string
	}
	packageList struct {
		Total, Offset int
		Packages      []packageFound
	}
	packageFound struct {
		Name, Version, Section, Description string
		Size                                int64
		InstalledSize                       int64 `json:"installed_size"`
	}
	buildReply struct {
		RequestHash string `json:"request_hash"`
	}
)

// apiError is an answer of the API that is no success.
type apiError struct {
	Status       int
	Detail       string
	Code         imagebuilder.Code
	Problems     []imagebuilder.Problem
	Repairs      []imagebuilder.Repair
	Stdout       string
	Stderr       string
	Replacements map[string][]string
	RequestHash  string `json:"request_hash"` // of a build that failed
}

func (e *apiError) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Detail) }

// maxReply bounds what is kept of a reply, in bytes.
const maxReply = 16 << 20

// reply receives what the API's handler writes.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *reply) Header() http.Header { return r.header }

func (r *reply) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *reply) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.body.Len()+len(b) > maxReply {
		return 0, fmt.Errorf("the reply has more than %d bytes", maxReply)
	}
	return r.body.Write(b)
}

// toldOn are the headers of a browser that the operator's addresses go by.
var toldOn = []string{"Authorization", "Origin", "Sec-Fetch-Site"}

// call asks the API as the browser behind from would: it tells routers the
// address that they already use. An answer of 204 leaves into alone and is
// told by found.
func (s *Site) call(ctx context.Context, from *http.Request, method, address string, body, into any) (found bool, err error) {
	var sent []byte
	if body != nil {
		if sent, err = json.Marshal(body); err != nil {
			return false, fmt.Errorf("write the request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(sent))
	if err != nil {
		return false, fmt.Errorf("ask %s: %w", address, err)
	}
	req.Host, req.RemoteAddr, req.TLS = from.Host, from.RemoteAddr, from.TLS
	for _, name := range toldOn {
		if values := from.Header.Values(name); len(values) > 0 {
			req.Header[name] = values
		}
	}
	got := &reply{header: http.Header{}}
	s.o.API.ServeHTTP(got, req)
	answer := withoutMarks(got.body.Bytes())
	switch {
	case got.status == http.StatusNoContent:
		return false, nil
	case got.status == http.StatusOK, got.status == http.StatusAccepted:
		if err := json.Unmarshal(answer, into); err != nil {
			return false, fmt.Errorf("read the answer of %s: %w", address, err)
		}
		return true, nil
	}
	e := &apiError{}
	if json.Unmarshal(answer, e) != nil || e.Detail == "" {
		e.Detail = strings.TrimSpace(string(answer))
	}
	e.Status = got.status
	if e.Status == 0 {
		e.Status = http.StatusServiceUnavailable
	}
	return false, e
}

func (s *Site) get(ctx context.Context, from *http.Request, address string, into any) error {
	_, err := s.call(ctx, from, http.MethodGet, address, nil, into)
	return err
}

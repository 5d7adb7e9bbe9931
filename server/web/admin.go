package web

import (
	"net/http"
	"path"
	"strings"
)

// adminState is GET /api/v1/admin/state.
type adminState struct {
	Jobs         []adminJob
	Images       []adminImage
	ImageCount   int   `json:"image_count"`
	ImageBytes   int64 `json:"image_bytes"`
	Pinned       []adminImage
	PinnedBytes  int64 `json:"pinned_bytes"`
	ImageBudget  int64 `json:"image_budget"`
	Replacements []struct {
		File         string
		Line         int
		Text, Detail string
	}
	Policies []struct {
		Community, Distro, Minimum, Newest string
		Offer                              []string
		HoldBack                           []string `json:"hold_back"`
	}
	Distributions []struct {
		Name, URL, Replacements string
		Aliases, Feeds, Latest  []string
		TrustedKeys             int `json:"trusted_keys"`
	}
	Documents []adminDocument
	Warnings  []struct{ Code, Detail string }
}

type adminJob struct {
	Hash, State, Stage       string
	Position                 int
	Version, Target, Profile string
	Enqueued, Finished       string
	Detail                   string
}

type adminImage struct {
	Hash, Version, Target, Profile string
	Bytes                          int64
	IdleSeconds                    int64 `json:"idle_seconds"`
	Pinned, Secret                 bool
}

// Name is the device's, or else how the image can be told from others.
func (i adminImage) Name() string { return nameOr(i.Profile, i.Hash) }

// Short is enough of the hash to tell images of a device apart.
func (i adminImage) Short() string { return i.Hash[:min(len(i.Hash), 8)] }

// Name is as an image's.
func (j adminJob) Name() string { return nameOr(j.Profile, j.Hash) }

func nameOr(name, hash string) string {
	if name == "" {
		return hash[:min(len(hash), 12)]
	}
	return name
}

type adminDocument struct {
	Distro, Name, Checked, Detail string
	AgeSeconds                    int64 `json:"age_seconds"`
	Stale, Absent                 bool
	Bytes                         int64
}

// Known tells whether upstream ever confirmed the document.
func (d adminDocument) Known() bool { return d.Checked != "" }

// adminPage is what the operator sees after the token.
type adminPage struct {
	*adminState
	Running, Ended   []adminJob // Ended newest first
	Kept             []adminImage
	Sound, Troubled  []adminDocument // Troubled are stale, or were never had
	Lacking          []adminDocument // upstream has none
	Unlisted         bool            // there are more images than are listed
	PolicyList, Errs []named
}

// named is something with facts about it.
type named struct {
	Name  string
	Text  string
	Hint  string
	Facts []fact
}

type fact struct{ Name, Text string }

// maxEnded is how many outcomes the page lists.
const maxEnded = 20

// admin is the operator's page. What it shows comes as a part that the script
// asks for with the token in a header; without a token there is only the
// question for it.
func (s *Site) admin(w http.ResponseWriter, r *http.Request, _ string) {
	p := s.newPage(r, "admin", "/admin")
	p.Title, p.Script = p.T("admin.title"), "admin.js"
	if r.URL.Query().Get("part") != "live" {
		status := http.StatusOK
		if !s.o.Admin {
			status, p.Script = http.StatusNotFound, ""
		}
		s.show(w, r, status, "admin", "", p)
		return
	}
	ctx, cancel := s.within(r)
	defer cancel()
	var state adminState
	if err := s.get(ctx, r, "/api/v1/admin/state", &state); err != nil {
		e := detailOf(err)
		if e.Status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="attendant"`)
		}
		p.Data = e
		s.show(w, r, e.Status, "admin", "refusal", p)
		return
	}
	p.Data = newAdminPage(p, &state)
	s.show(w, r, http.StatusOK, "admin", "live", p)
}

func newAdminPage(p *page, state *adminState) *adminPage {
	d := &adminPage{adminState: state}
	for _, job := range state.Jobs {
		if job.State == "queued" || job.State == "building" {
			d.Running = append(d.Running, job)
		} else if len(d.Ended) < maxEnded {
			d.Ended = append(d.Ended, job)
		}
	}
	d.Kept = append(d.Kept, state.Pinned...)
	for _, image := range state.Images {
		if !image.Pinned {
			d.Kept = append(d.Kept, image)
		}
	}
	d.Unlisted = len(d.Kept) < state.ImageCount
	for _, document := range state.Documents {
		if document.Absent {
			d.Lacking = append(d.Lacking, document)
		} else if document.Stale || document.Detail != "" || !document.Known() {
			d.Troubled = append(d.Troubled, document)
		} else {
			d.Sound = append(d.Sound, document)
		}
	}
	for _, e := range state.Replacements {
		one := named{Name: path.Base(path.Dir(e.File)) + "/" + path.Base(e.File), Text: e.Text, Hint: e.Detail}
		if e.File == "" {
			one.Name = ""
		}
		if e.Line > 0 {
			one.Name += ", " + p.T("admin.line", "n", e.Line)
		}
		d.Errs = append(d.Errs, one)
	}
	for _, policy := range state.Policies {
		one := named{Name: policy.Community}
		for _, f := range []fact{ // by their names in the configuration
			{"distro", policy.Distro}, {"offer", strings.Join(policy.Offer, ", ")}, {"hold_back", strings.Join(policy.HoldBack, ", ")},
			{"minimum", policy.Minimum}, {"newest", policy.Newest},
		} {
			if f.Text != "" {
				one.Facts = append(one.Facts, f)
			}
		}
		d.PolicyList = append(d.PolicyList, one)
	}
	return d
}

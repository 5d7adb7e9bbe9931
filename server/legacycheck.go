package server

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// legacyUpgrade is the reply of an upgrade check. Nothing may stand in it that
// means something in a request: auc until 0.0.8 sends it back as one.
type legacyUpgrade struct {
	Version  string               `json:"version,omitempty"` // newer release
	Revision string               `json:"revision,omitempty"`
	Detail   string               `json:"detail,omitempty"`
	Updates  map[string][2]string `json:"updates,omitzero"`  // 2017: name to new and installed version
	Upgrades map[string][2]string `json:"upgrades,omitzero"` // since: the same
	Packages []string             `json:"packages,omitzero"` // for the new image
}

// legacyCheck answers whether there is something newer.
func (s *Server) legacyCheck(w http.ResponseWriter, r *http.Request, f form) {
	q, err := s.readLegacy(w, r, f)
	if err != nil {
		s.legacyError(w, r, q.form, err)
		return
	}
	needed := []string{"distro", "version", "target", "subtarget"}
	if q.form == form2019 {
		needed = []string{"distro", "target"}
	}
	if name := q.missing(needed...); name != "" {
		s.missingParam(w, r, q.form, name)
		return
	}
	if q.version == "" {
		s.legacyLatest(w, r, q)
		return
	}
	chosen := q.packages
	if len(chosen) == 0 {
		chosen = q.installed
	}
	upgrade, err := s.checkUpgrade(r, UpgradeQuestion{
		Distro: q.distro, Version: q.version, Revision: q.revision, Target: q.target, Devices: q.names(),
		Packages: imagebuilder.Pairs(chosen), Installed: imagebuilder.Pairs(q.installed),
	})
	switch {
	case err != nil:
		if !s.legacyUnready(w, q, err) {
			s.legacyError(w, r, q.form, err)
		}
	case upgrade == nil, upgrade.Reason == ReasonPackages && !q.wantsPackages:
		w.WriteHeader(http.StatusNoContent)
	default:
		writeJSON(w, http.StatusOK, jsonBody(q.upgrade(upgrade)))
	}
}

// legacyLatest answers a check of 2019 that does not say what is installed.
func (s *Server) legacyLatest(w http.ResponseWriter, r *http.Request, q *legacyRequest) {
	version, err := s.latestStable(r, q)
	if err != nil {
		if !s.legacyUnready(w, q, err) {
			s.legacyError(w, r, q.form, err)
		}
		return
	}
	writeJSON(w, http.StatusOK, jsonBody(legacyUpgrade{Version: version}))
}

// latestStable is the newest release of the request's distribution that is no
// candidate.
func (s *Server) latestStable(r *http.Request, q *legacyRequest) (string, error) {
	c, err := s.distribution(r, q.distro)
	if err != nil {
		return "", err
	}
	o, err := c.Overview(r.Context())
	if err != nil {
		return "", err
	}
	for _, v := range o.Latest {
		if !strings.Contains(v, "-rc") {
			return v, nil
		}
	}
	return "", imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "No release is offered. Please name a version.")
}

// upgrade writes the answer of today as it was written then.
func (q *legacyRequest) upgrade(u *Upgrade) legacyUpgrade {
	reply := legacyUpgrade{Detail: u.Detail}
	if u.Reason != ReasonPackages {
		reply.Version = u.Version
	}
	if q.form == form2019 && u.Reason == ReasonSnapshot {
		reply.Revision = u.VersionCode
	}
	if len(q.packages) == 0 && len(q.installed) == 0 {
		return reply
	}
	pairs := make(map[string][2]string, len(u.Upgrades))
	for name, versions := range u.Upgrades {
		pairs[name] = [2]string{versions[1], versions[0]} // the new one first
	}
	// LuCI of 2017 asks for the packages only if there are updates, however few.
	if q.form == form2017 {
		reply.Updates = pairs
	} else {
		reply.Upgrades = pairs
	}
	// What is in no feed stays in the list: the request for the image then says
	// so, where leaving it out would drop it unseen.
	reply.Packages = slices.Concat(slices.Collect(maps.Keys(u.Packages)), slices.Collect(maps.Keys(u.Missing)))
	reply.Packages = nonNil(reply.Packages)
	slices.Sort(reply.Packages)
	return reply
}

package server

import (
	"net/url"
	"path"
	"strings"

	"attendant/imagebuilder"
)

// checkPolicy refuses what this server's operator does not allow.
func (s *Server) checkPolicy(r imagebuilder.Request) *imagebuilder.Error {
	if r.Defaults != nil && !s.o.AllowDefaults {
		return imagebuilder.Errorf(imagebuilder.CodeDefaultsDisabled, "Handling `defaults` not enabled on server")
	}
	for _, repo := range r.Repositories {
		if !repositoryAllowed(repo.Value, s.o.RepositoryAllowList) {
			return imagebuilder.Errorf(imagebuilder.CodeRepositoryNotAllowed, "Repository not allowed: %s", repo.Value)
		}
	}
	return nil
}

// repositoryAllowed tells whether address lies below one of the allowed URLs:
// the same scheme and host, and a path that begins with the whole segments of
// the allowed one. A plain prefix comparison would let
// http://allowed.example.evil.example pass.
func repositoryAllowed(address string, allowed []string) bool {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Host == "" {
		return false
	}
	// What a server makes of an encoded slash or of dot segments is unknown.
	if strings.Contains(strings.ToLower(u.EscapedPath()), "%2") || strings.Contains(u.Path, "\\") {
		return false
	}
	for _, segment := range strings.Split(u.Path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	for _, a := range allowed {
		base, err := url.Parse(a)
		if err != nil || !strings.EqualFold(base.Scheme, u.Scheme) || !strings.EqualFold(base.Host, u.Host) {
			continue
		}
		prefix := strings.TrimSuffix(path.Clean("/"+base.Path), "/")
		if u.Path == prefix || strings.HasPrefix(u.Path, prefix+"/") {
			return true
		}
	}
	return false
}

package runner

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"path"
	"strings"

	"attendant/imagebuilder"
)

// The files that list feeds, relative to the tree. Which one there is tells
// the package manager.
const (
	opkgFeeds = "repositories.conf"
	apkFeeds  = "repositories"
)

// officialUpstream is what builders call home when their configuration does
// not say otherwise.
const officialUpstream = "https://downloads.openwrt.org"

// upstreamBases lists the addresses, without "/" at the end, below which a
// builder's own feeds lie: the one in CONFIG_VERSION_REPO without the release's
// path, and the official one.
func upstreamBases(config string) []string {
	bases := []string{}
	for line := range strings.Lines(config) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "CONFIG_VERSION_REPO=")
		if !ok {
			continue
		}
		u, err := url.Parse(strings.Trim(value, `"`))
		if err != nil || u.Host == "" {
			continue
		}
		p := strings.TrimRight(u.Path, "/")
		if dir, last := path.Split(p); last == "snapshots" || last == "SNAPSHOT" || path.Base(path.Clean(dir)) == "releases" {
			p = strings.TrimRight(dir, "/")
			if path.Base(p) == "releases" {
				p = strings.TrimSuffix(p, "/releases")
			}
		}
		u.Path, u.RawPath = strings.TrimRight(p, "/"), ""
		bases = append(bases, u.String())
	}
	return append(bases, officialUpstream, strings.Replace(officialUpstream, "https:", "http:", 1))
}

// rewriteFeeds lets feed lines that point below one of bases point below
// upstream.
func rewriteFeeds(feeds string, bases []string, upstream string) string {
	upstream = strings.TrimRight(upstream, "/")
	var out strings.Builder
	for line := range strings.Lines(feeds) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' {
			for _, base := range bases {
				if at := strings.Index(line, base+"/"); at == 0 || at > 0 && line[at-1] == ' ' {
					line = line[:at] + upstream + line[at+len(base):]
					break
				}
			}
		}
		out.WriteString(line)
	}
	return out.String()
}

// mergeFeeds is the list of feeds with those of the request: behind the
// builder's own, or instead of them. The local feed and the signature option
// of an opkg builder stay.
func mergeFeeds(base string, req imagebuilder.Request, apk bool) (string, *imagebuilder.Error) {
	var lines []string
	names := map[string]bool{}
	for line := range strings.Lines(base) {
		line = strings.TrimRight(line, "\r\n")
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		local := !apk && len(f) == 3 && f[0] == "src" && f[1] == "imagebuilder"
		option := !apk && f[0] == "option"
		switch {
		case option:
			lines = append(lines, line)
		case local:
		case req.RepositoriesMode == imagebuilder.RepositoriesAppend:
			lines = append(lines, line)
			if !apk && len(f) > 1 {
				names[f[1]] = true
			}
		}
	}
	for _, repo := range req.Repositories {
		if apk {
			lines = append(lines, apkIndexURL(repo.Value))
			continue
		}
		if names[repo.Name] || repo.Name == "imagebuilder" {
			return "", imagebuilder.Errorf(imagebuilder.CodeMalformed,
				"Error: repositories: the name %s is taken by another feed of this release. Give the feed another name.", repo.Name)
		}
		names[repo.Name] = true
		lines = append(lines, "src/gz "+repo.Name+" "+strings.TrimRight(repo.Value, "/"))
	}
	if !apk {
		lines = append(lines, "src imagebuilder file:packages")
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// apkIndexURL is the address of a feed's index. A line of another form apk
// would take for a repository of Alpine's layout (apk-repositories(5)).
func apkIndexURL(feed string) string {
	if strings.HasSuffix(feed, ".adb") {
		return feed
	}
	return strings.TrimRight(feed, "/") + "/packages.adb"
}

// checkRepositories repeats what the request's validation holds, for nothing
// may reach the builder's configuration unchecked.
func checkRepositories(req imagebuilder.Request) *imagebuilder.Error {
	for _, repo := range req.Repositories {
		u, err := url.Parse(repo.Value)
		if err != nil || !imagebuilder.ValidRepositoryName(repo.Name) || u.Hostname() == "" || u.User != nil ||
			(u.Scheme != "http" && u.Scheme != "https") || strings.ContainsAny(repo.Value, " \t\r\n\"'`\\$<>{}|^;#") {
			return imagebuilder.Errorf(imagebuilder.CodeMalformed,
				"Error: repositories: %.100q at %.100q is not a feed's name with a plain http or https address.", repo.Name, repo.Value)
		}
	}
	return nil
}

// keyFile is a repository key as a file of a builder: usign keys by their
// fingerprint, which opkg looks for; PEM keys under any name in .pem.
func keyFile(index int, key string) (name string, content []byte, e *imagebuilder.Error) {
	bad := func(why string) (string, []byte, *imagebuilder.Error) {
		return "", nil, imagebuilder.Errorf(imagebuilder.CodeMalformed,
			"Error: repository_keys: key %d %s. Give a usign public key or a PEM public key.", index+1, why)
	}
	key = strings.TrimSpace(strings.ReplaceAll(key, "\r", ""))
	if strings.HasPrefix(key, "-----BEGIN") {
		block, rest := pem.Decode([]byte(key))
		switch {
		case block == nil || len(bytes.TrimSpace(rest)) > 0:
			return bad("is not one whole PEM block")
		case block.Type != "PUBLIC KEY":
			return bad("is a PEM block of another type than PUBLIC KEY")
		}
		return fmt.Sprintf("keys/custom-%d.pem", index), pem.EncodeToMemory(block), nil
	}
	lines := strings.Split(key, "\n")
	encoded := strings.TrimSpace(lines[len(lines)-1])
	raw, err := base64.StdEncoding.DecodeString(encoded)
	// Two bytes of algorithm, eight of key id, 32 of Ed25519 key.
	if err != nil || len(raw) != 42 {
		return bad("is neither")
	}
	fingerprint := hex.EncodeToString(raw[2:10])
	return "keys/" + fingerprint, []byte("untrusted comment: " + fingerprint + "\n" + encoded + "\n"), nil
}

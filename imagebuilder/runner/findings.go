package runner

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// findings is what the output of one ImageBuilder run says went wrong, or may
// have: facts without a verdict. It reads line by line, both streams in any
// interleaving, and keeps a bounded amount.
type findings struct {
	unknownProfile    string
	unknownFilesystem string
	filesystems       string

	uninstalled []string            // opkg: "Cannot install package"
	unknown     []string            // in no feed, for certain
	explained   map[string]bool     // opkg: the reason of "Cannot install" was given otherwise
	neededBy    map[string][]string // unknown dependency to those who need it
	conflicts   []string            //
	clashFiles  []string            // that two packages bring
	unmet       []string            // "X needs Y", where Y exists in another form
	impossible  bool                // apk could not select

	lists      []listFailure
	unsigned   []string // addresses of lists whose signature failed; "" unknown
	downloads  []string // packages that could not be downloaded
	damaged    []string // packages
	scripts    []string // packages whose install script failed
	prerequis  []string // what the host lacks, in the ImageBuilder's words
	wrongArch  bool     // programs of the builder are for another processor
	noSpace    bool     // the host's disk
	tooBig     bool     //
	size, max  int64    // bytes of the image and of its place; 0 unknown
	excess     int64    // bytes too many; 0 unknown
	skipped    int      // images that JSON creation missed
	noImages   bool     // no image was left at all
	mkfsSmall  bool     // a root partition was too small
	notFound   []string // programs that a shell did not find
	lastErrors []string // of stderr, for want of anything better

	// Of the readers of multi-line messages.
	wgetCode    int
	lastList    string
	opkgNeed    string
	opkgHead    bool
	apkHead     string
	apkKey      string
	apkSelect   bool
	failedCheck []string
}

// listFailure is a package list that could not be had.
type listFailure struct {
	url  string
	code int // wget's: 4 no connection, 5 TLS, 8 an HTTP error; 0 unknown
}

// httpError tells whether the server answered, but with an error.
func (l listFailure) httpError() bool { return l.code == 8 }

const maxFindings = 200

func note(list *[]string, s string) {
	s = cutText(s, 200)
	if s != "" && len(*list) < maxFindings && !slices.Contains(*list, s) {
		*list = append(*list, s)
	}
}

// pattern pairs a message with what it means. The messages are opkg's
// (openwrt/opkg-lede libopkg), apk's (alpinelinux/apk-tools src), the image
// tools' and the Makefiles'.
type pattern struct {
	contains string // cheap test before the expression
	re       *regexp.Regexp
	found    func(f *findings, m []string)
}

var patterns = []pattern{
	{"does not exist!", regexp.MustCompile(`^Profile "([^"]*)" does not exist!$`), func(f *findings, m []string) { f.unknownProfile = cutText(m[1], 200) }},
	{"is not available!", regexp.MustCompile(`^Filesystem "([^"]*)" is not available!$`), func(f *findings, m []string) { f.unknownFilesystem = cutText(m[1], 200) }},
	{"Available filesystems:", regexp.MustCompile(`^Available filesystems: (.*)$`), func(f *findings, m []string) {
		f.filesystems = cutText(strings.Join(strings.Fields(m[1]), ", "), 500)
	}},

	{"Cannot install package", regexp.MustCompile(`Cannot install package (\S+)\.$`), func(f *findings, m []string) { note(&f.uninstalled, m[1]) }},
	{"Unknown package", regexp.MustCompile(`^Unknown package '([^']+)'\.$`), func(f *findings, m []string) { note(&f.unknown, m[1]) }},
	{"cannot find dependency", regexp.MustCompile(`cannot find dependency (\S+)( \([^)]*\))? for (\S+)$`), func(f *findings, m []string) {
		f.explain(m[3])
		if m[2] != "" {
			note(&f.unmet, m[3]+" needs "+m[1]+m[2])
			return
		}
		f.need(m[1], m[3])
	}},
	{"incompatible with the architectures", regexp.MustCompile(`Packages for (\S+) found, but incompatible`), func(f *findings, m []string) {
		if !f.explained[m[1]] {
			note(&f.unmet, m[1]+" is made for another architecture")
		}
		f.explain(m[1])
	}},
	{"Cannot satisfy the following dependencies", regexp.MustCompile(`Cannot satisfy the following dependencies for (\S+):$`), func(f *findings, m []string) { f.explain(m[1]); f.opkgNeed = m[1] }},
	{"The following packages conflict with", regexp.MustCompile(`The following packages conflict with (\S+):$`), func(f *findings, m []string) { f.conflict(m[1]); f.opkgHead = true }},
	{"check_conflicts_for:", regexp.MustCompile(`check_conflicts_for:\s+(\S+) \*\s*$`), func(f *findings, m []string) { f.conflict(m[1]) }},
	{"check_data_file_clashes:", regexp.MustCompile(`check_data_file_clashes: Package (\S+) wants to install file (\S+)`), func(f *findings, m []string) {
		f.conflict(m[1])
		note(&f.clashFiles, insideRoot(m[2]))
	}},
	{"is already provided by package", regexp.MustCompile(`is already provided by package\s+\* (\S+)\s*$`), func(f *findings, m []string) { f.conflict(m[1]) }},
	{"trying to overwrite", regexp.MustCompile(`ERROR: (\S+): trying to overwrite (\S+) owned by (\S+)\.$`), func(f *findings, m []string) {
		f.conflict(apkName(m[1]))
		f.conflict(apkName(m[3]))
		note(&f.clashFiles, "/"+strings.TrimPrefix(m[2], "/"))
	}},

	{"wget returned", regexp.MustCompile(`Failed to download (\S+), wget returned (\d+)`), func(f *findings, m []string) {
		code, _ := strconv.Atoi(m[2])
		if strings.Contains(m[1], "/Packages") {
			f.list(m[1], code)
		}
	}},
	{"Failed to download the package list", regexp.MustCompile(`Failed to download the package list from (\S+)`), func(f *findings, m []string) { f.list(m[1], 0) }},
	{"Failed to download", regexp.MustCompile(`opkg_install_pkg: Failed to download (\S+)\. `), func(f *findings, m []string) { note(&f.downloads, m[1]); f.explain(m[1]) }},
	{"Downloading ", regexp.MustCompile(`^Downloading (\S+)$`), func(f *findings, m []string) { f.lastList = m[1] }},
	{"Signature check failed", regexp.MustCompile(`^Signature check failed\.$`), func(f *findings, _ []string) { f.untrusted(f.lastList) }},
	{"Signature file download failed", regexp.MustCompile(`^Signature file download failed\.$`), func(f *findings, _ []string) { f.untrusted(f.lastList) }},
	{"Checksum or size mismatch", regexp.MustCompile(`Checksum or size mismatch for package (\S+)\. `), func(f *findings, m []string) { note(&f.damaged, m[1]); f.explain(m[1]) }},
	{"Failed to extract", regexp.MustCompile(`Failed to extract \w+ files (?:for|from) (\S+)\. `), func(f *findings, m []string) { f.explain(m[1]) }},
	{"postinst script returned", regexp.MustCompile(`package "([^"]+)" (?:post|pre)inst script returned status (\d+)`), func(f *findings, m []string) { note(&f.scripts, m[1]); f.explain(m[1]) }},
	{"has failed with exit code", regexp.MustCompile(`^postinst script (\S+) has failed with exit code (\d+)$`), func(f *findings, m []string) { note(&f.scripts, scriptOwner(m[1])) }},

	{"wget: exited with error", regexp.MustCompile(`wget: exited with error (\d+)$`), func(f *findings, m []string) { f.wgetCode, _ = strconv.Atoi(m[1]) }},
	{"WARNING: updating", regexp.MustCompile(`WARNING: updating(?: and opening)? (\S+): (.*)$`), func(f *findings, m []string) {
		if strings.Contains(m[2], "signature") {
			f.untrusted(m[1])
		} else {
			f.list(m[1], f.wgetCode)
		}
		f.wgetCode = 0
	}},
	// Of a feed that is a folder here, or was fetched before.
	{"WARNING: opening", regexp.MustCompile(`WARNING: opening(?: from cache)? (\S+): .*signature`), func(f *findings, m []string) { f.untrusted(m[1]) }},
	{"unexpected end of file", regexp.MustCompile(`^ERROR: (\S+): unexpected end of file$`), func(f *findings, m []string) { note(&f.downloads, apkName(m[1])) }},
	{"file format is invalid", regexp.MustCompile(`^ERROR: (\S+): .*file format is invalid`), func(f *findings, m []string) { note(&f.damaged, apkName(m[1])) }},
	{"BAD", regexp.MustCompile(`^ERROR: (\S+): BAD (?:signature|archive|checksum)`), func(f *findings, m []string) { note(&f.damaged, apkName(m[1])) }},

	{"Build dependency:", regexp.MustCompile(`^Build dependency: (?:Please install )?(?:the )?(.*)$`), func(f *findings, m []string) { note(&f.prerequis, m[1]) }},
	{"'... failed.", regexp.MustCompile(`^Checking '([^']+)'\.\.\. failed\.$`), func(f *findings, m []string) { note(&f.failedCheck, m[1]) }},
	{"No such file or directory", regexp.MustCompile(`^/usr/bin/env: .(bash|perl|python3)[^/]: No such file or directory$`), func(f *findings, m []string) { note(&f.prerequis, m[1]) }},
	{"not found", regexp.MustCompile(`^(?:/bin/)?(?:ba)?sh: (?:line )?\d+: ([\w.+-]+): (?:command )?not found$`), func(f *findings, m []string) { note(&f.notFound, m[1]) }},

	{"Exec format error", regexp.MustCompile(`Exec format error`), func(f *findings, _ []string) { f.wrongArch = true }},
	{"No space left on device", regexp.MustCompile(`No space left on device`), func(f *findings, _ []string) { f.noSpace = true }},
	{"Disk quota exceeded", regexp.MustCompile(`Disk quota exceeded`), func(f *findings, _ []string) { f.noSpace = true }},

	{"too big", regexp.MustCompile(`too big(?: by (\d+) bytes|: (\d+) > (\d+))?`), func(f *findings, m []string) {
		f.tooBig = true
		if n, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			f.excess = max(f.excess, n)
		}
		size, err1 := strconv.ParseInt(m[2], 10, 64)
		limit, err2 := strconv.ParseInt(m[3], 10, 64)
		if err1 == nil && err2 == nil && size > limit && size-limit > f.size-f.max {
			f.size, f.max = size, limit
		}
	}},
	{"out of space?", regexp.MustCompile(`out of space\?`), func(f *findings, _ []string) { f.tooBig, f.mkfsSmall = true, true }},
	{"failed to allocate", regexp.MustCompile(`failed to allocate`), func(f *findings, _ []string) { f.tooBig, f.mkfsSmall = true, true }},
	{"Skip JSON creation", regexp.MustCompile(`^Skip JSON creation for non existing file`), func(f *findings, _ []string) { f.skipped++ }},
	{"could not find any JSON files", regexp.MustCompile(`could not find any JSON files for target`), func(f *findings, _ []string) { f.noImages = true }},
}

// line reads one line of standard output or standard error.
func (f *findings) line(stdout bool, line string) {
	if f.readBlocks(line) {
		return
	}
	for i := range patterns {
		p := &patterns[i]
		if strings.Contains(line, p.contains) {
			if m := p.re.FindStringSubmatch(line); m != nil {
				p.found(f, m)
			}
		}
	}
	if !stdout && isComplaint(line) {
		f.lastErrors = append(f.lastErrors, cutText(strings.TrimSpace(line), 500))
		if len(f.lastErrors) > 3 {
			f.lastErrors = f.lastErrors[1:]
		}
	}
}

// makeTrace is how make says where it gave up, which tells nobody why.
var makeTrace = regexp.MustCompile(`^make(\[\d+\])?: (\*\*\* \[|Entering|Leaving)`)

// isComplaint picks lines of standard error that may tell a person what went
// wrong; good builds are noisy there too, and "make: ***" only says where.
func isComplaint(line string) bool {
	if makeTrace.MatchString(line) || strings.HasPrefix(line, "+ ") || strings.Contains(line, "jshn.sh: No such file") {
		return false
	}
	lower := strings.ToLower(line)
	for _, word := range []string{"error", "failed", "cannot", "can't", "need ", "not found", "no such", "no rule", "denied", "invalid"} {
		if strings.Contains(lower, word) {
			return true
		}
	}
	return false
}

// readBlocks reads the messages that span lines; it tells whether line was
// part of one.
func (f *findings) readBlocks(line string) bool {
	if f.opkgNeed != "" {
		// " * \tno-such-library" below "Cannot satisfy…"; what is missing
		// was said before.
		if name, ok := strings.CutPrefix(line, " * \t"); ok && !strings.Contains(name, ":") {
			return true
		}
		f.opkgNeed = ""
	}
	if strings.HasPrefix(line, "ERROR: unable to select packages") {
		f.apkSelect, f.impossible, f.apkHead, f.apkKey = true, true, "", ""
		return true
	}
	if !f.apkSelect {
		return false
	}
	body, ok := strings.CutPrefix(line, "  ")
	if !ok {
		f.apkSelect = false
		return false
	}
	if !strings.HasPrefix(body, " ") {
		head, ok := strings.CutSuffix(body, ":")
		if !ok {
			f.apkSelect = false
			return false
		}
		f.apkKey = ""
		if name, ok := strings.CutSuffix(head, " (no such package)"); ok {
			f.apkHead = ""
			f.need(name, "")
			f.apkHead, f.apkKey = name, "missing"
		} else {
			name, _, _ := strings.Cut(head, " ")
			f.apkHead = apkName(name)
		}
		return true
	}
	body = strings.TrimLeft(body, " ")
	key, value, found := strings.Cut(body, ": ")
	switch {
	case found && (key == "required by" || key == "conflicts" || key == "breaks" || key == "satisfies" || key == "provided by" || key == "masked in"):
		if key == "required by" && f.apkKey == "missing" {
			key = "missing"
		}
		f.apkKey = key
	default:
		value = body
	}
	f.apkDetail(value)
	return true
}

// apkDetail reads "package-version[dependency]" under the key in force.
func (f *findings) apkDetail(value string) {
	owner, dependency, _ := strings.Cut(value, "[")
	owner, dependency = apkName(owner), strings.TrimSuffix(dependency, "]")
	switch f.apkKey {
	case "missing":
		if owner != "world" {
			f.need(f.apkHead, owner)
		}
	case "conflicts":
		f.conflict(f.apkHead)
		f.conflict(owner)
	case "breaks":
		switch {
		case owner == "world" && strings.HasPrefix(dependency, "!"), owner == "world" && dependency == "":
			f.conflict(f.apkHead)
		case strings.HasPrefix(dependency, "!"):
			f.conflict(f.apkHead)
			f.conflict(owner)
		case owner == "world":
			note(&f.unmet, "the image needs "+dependency)
		default:
			note(&f.unmet, owner+" needs "+dependency)
		}
	}
}

func (f *findings) explain(name string) {
	if f.explained == nil {
		f.explained = map[string]bool{}
	}
	if len(f.explained) < maxFindings {
		f.explained[name] = true
	}
}

// need notes that name is in no feed, and who needs it.
func (f *findings) need(name, by string) {
	note(&f.unknown, name)
	name, by = cutText(name, 200), cutText(by, 200)
	if by == "" || len(f.neededBy) >= maxFindings {
		return
	}
	if f.neededBy == nil {
		f.neededBy = map[string][]string{}
	}
	if needed := f.neededBy[name]; len(needed) < 10 && !slices.Contains(needed, by) {
		f.neededBy[name] = append(needed, by)
	}
}

func (f *findings) conflict(name string) {
	note(&f.conflicts, name)
	f.explain(name)
}

// untrusted notes a list whose signature failed. The builder's own packages
// folder is left out: it is installed from by path.
func (f *findings) untrusted(list string) {
	if !strings.HasPrefix(list, "file:packages/") {
		note(&f.unsigned, feedOf(list))
	}
}

// rename puts addresses that people know in place of those below the folders
// that stood in for feeds: folders' addresses to the feeds'.
func (f *findings) rename(folders map[string]string) {
	known := func(address string) string {
		for folder, feed := range folders {
			if rest, ok := strings.CutPrefix(address, folder); ok && (rest == "" || rest[0] == '/') {
				return feed + rest
			}
		}
		return address
	}
	for i := range f.lists {
		f.lists[i].url = known(f.lists[i].url)
	}
	for i := range f.unsigned {
		f.unsigned[i] = known(f.unsigned[i])
	}
}

// list notes a package list that could not be had. A later code completes an
// earlier note without one.
func (f *findings) list(url string, code int) {
	for i := range f.lists {
		if f.lists[i].url == url {
			if f.lists[i].code == 0 {
				f.lists[i].code = code
			}
			return
		}
	}
	if len(f.lists) < maxFindings {
		f.lists = append(f.lists, listFailure{cutText(url, 500), code})
	}
}

// missing is what is in no feed: what was said to be, and what opkg could not
// install for no other reason that it gave. Sorted.
func (f *findings) missing() []string {
	missing := slices.Clone(f.unknown)
	for _, name := range f.uninstalled {
		if !f.explained[name] {
			note(&missing, name)
		}
	}
	missing = slices.DeleteFunc(missing, func(name string) bool { return slices.Contains(f.conflicts, name) })
	slices.Sort(missing)
	return slices.Compact(missing)
}

// apkName takes the version off "name-version-rN". Versions without release
// number stay: "name-2" may be a name.
func apkName(s string) string {
	release := strings.LastIndex(s, "-r")
	if release < 0 || release+2 >= len(s) || strings.Trim(s[release+2:], "0123456789") != "" {
		if i := strings.LastIndexByte(s, '-'); i > 0 && strings.ContainsAny(s[i:], "~.") && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' {
			return s[:i]
		}
		return s
	}
	if i := strings.LastIndexByte(s[:release], '-'); i > 0 && s[i+1] >= '0' && s[i+1] <= '9' {
		return s[:i]
	}
	return s
}

// scriptOwner is the package in the path of an install script:
// "./usr/lib/opkg/info/NAME.postinst", "./lib/apk/db/NAME-1.0-r1.X12….post-install".
func scriptOwner(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if plain, ok := strings.CutSuffix(name, ".postinst"); ok {
		return plain
	}
	name = strings.TrimSuffix(name, ".post-install")
	if i := strings.LastIndex(name, ".X"); i > 0 {
		name = name[:i]
	}
	return apkName(name)
}

// insideRoot is a path of the scratch root as the device would have it.
func insideRoot(path string) string {
	if _, rest, ok := strings.Cut(path, "/root-"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
	}
	return path
}

// feedOf is the address of the folder that a list lies in.
func feedOf(list string) string {
	if i := strings.LastIndexByte(list, '/'); i > 0 {
		return list[:i]
	}
	return list
}

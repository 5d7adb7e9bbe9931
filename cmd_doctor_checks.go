package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
)

// hostTool is a program that ImageBuilders look for before they build
// (openwrt/openwrt include/prereq-build.mk).
type hostTool struct {
	name    string
	pkg     string   // Debian package
	args    []string // to ask with; none: being there is enough
	answers string   // part of the right program's answer
}

var askVersion = []string{"--version"}

var hostTools = []hostTool{
	{"tar", "tar", askVersion, "GNU tar"},
	{"find", "findutils", askVersion, "GNU findutils"},
	{"xargs", "findutils", []string{"-r", "--version"}, "GNU findutils"},
	{"patch", "patch", askVersion, "GNU patch"},
	{"diff", "diffutils", askVersion, "GNU diffutils"},
	{"cp", "coreutils", askVersion, "GNU coreutils"},
	{"install", "coreutils", askVersion, "GNU coreutils"},
	{"stat", "coreutils", askVersion, "GNU coreutils"},
	{"seq", "coreutils", nil, ""},
	{"realpath", "coreutils", nil, ""},
	{"gawk", "gawk", askVersion, "GNU Awk"},
	{"grep", "grep", askVersion, "GNU grep"},
	{"egrep", "grep", nil, ""},
	{"getopt", "util-linux", askVersion, "util-linux"},
	{"wget", "wget", askVersion, "GNU Wget"},
	{"bash", "bash", askVersion, "GNU bash"},
	{"gzip", "gzip", nil, ""},
	{"unzip", "unzip", nil, ""},
	{"bzip2", "bzip2", nil, ""},
	{"file", "file", nil, ""},
	{"which", "debianutils", nil, ""},
}

func mendWith(f finding, packages ...string) finding {
	f.packages = packages
	f.Fix = "sudo apt-get install " + strings.Join(packages, " ")
	return f
}

func (e *examiner) checkTools() []finding {
	found := []finding{e.checkMake()}
	here := 0
	for _, tool := range hostTools {
		f := finding{Name: tool.name, Status: missing}
		if _, err := e.lookPath(tool.name); err != nil {
			f.Detail = "ImageBuilders need the program " + tool.name + "; it is not here."
			found = append(found, mendWith(f, tool.pkg))
			continue
		}
		if tool.args != nil {
			output, err := e.run(tool.name, tool.args...)
			if err != nil || !strings.Contains(output, tool.answers) {
				first, _, _ := strings.Cut(strings.TrimSpace(output), "\n")
				f.Detail = fmt.Sprintf("ImageBuilders need %s; the %s here is another one (%.60q).", tool.answers, tool.name, first)
				found = append(found, mendWith(f, tool.pkg))
				continue
			}
		}
		here++
	}
	if here > 0 {
		detail := fmt.Sprintf("All %d other programs that ImageBuilders call are here.", here)
		if here < len(hostTools) {
			detail = fmt.Sprintf("%d of %d other programs that ImageBuilders call are here.", here, len(hostTools))
		}
		found = append(found, finding{Name: "programs", Status: fine, Detail: detail})
	}
	return found
}

var makeVersion = regexp.MustCompile(`GNU Make (\d+)\.(\d+)`)

func (e *examiner) checkMake() finding {
	f := finding{Name: "make", Status: missing}
	if _, err := e.lookPath("make"); err != nil {
		f.Detail = "ImageBuilders are run by GNU make; it is not here."
		return mendWith(f, "make")
	}
	output, err := e.run("make", "--version")
	m := makeVersion.FindStringSubmatch(output)
	if err != nil || m == nil {
		f.Detail = "ImageBuilders are run by GNU make; the make here is another one."
		return mendWith(f, "make")
	}
	if !atLeast(m[1:], 4, 1) {
		f.Detail = fmt.Sprintf("GNU make is %s.%s; ImageBuilders need 4.1.", m[1], m[2])
		return mendWith(f, "make")
	}
	f.Status, f.Detail = fine, fmt.Sprintf("GNU make %s.%s.", m[1], m[2])
	return f
}

// atLeast compares a version in two decimal parts.
func atLeast(version []string, major, minor int) bool {
	a, _ := strconv.Atoi(version[0])
	b, _ := strconv.Atoi(version[1])
	return a > major || a == major && b >= minor
}

var perlModules = []string{"Data::Dumper", "FindBin", "File::Copy", "File::Compare", "Thread::Queue", "IPC::Cmd"}

func (e *examiner) checkPerl() []finding {
	f := finding{Name: "perl", Status: missing}
	if _, err := e.lookPath("perl"); err != nil {
		f.Detail = "ImageBuilders need perl; it is not here."
		return []finding{mendWith(f, "perl")}
	}
	output, err := e.run("perl", append([]string{"-e", `for (@ARGV) { print "$_ " unless eval "require $_" }`}, perlModules...)...)
	switch lacking := strings.Fields(output); {
	case err != nil:
		f.Detail = fmt.Sprintf("perl does not run: %v.", err)
	case len(lacking) > 0:
		f.Detail = "perl lacks " + strings.Join(lacking, ", ") + ", which ImageBuilders use; perl-base alone is not enough."
	default:
		return []finding{{Name: "perl", Status: fine, Detail: "perl with all modules that ImageBuilders use."}}
	}
	return []finding{mendWith(f, "perl")}
}

var pythonVersion = regexp.MustCompile(`^(\d+)\.(\d+) (distutils|-)`)

func (e *examiner) checkPython() []finding {
	f := finding{Name: "python3", Status: missing}
	if _, err := e.lookPath("python3"); err != nil {
		f.Detail = "ImageBuilders need python3; it is not here."
		return []finding{mendWith(f, "python3")}
	}
	const ask = `import sys, importlib.util as u; print("%d.%d" % sys.version_info[:2], "distutils" if u.find_spec("distutils") else "-")`
	output, err := e.run("python3", "-c", ask)
	m := pythonVersion.FindStringSubmatch(output)
	if err != nil || m == nil {
		f.Detail = "python3 does not run as it should."
		return []finding{mendWith(f, "python3")}
	}
	version := m[1] + "." + m[2]
	switch {
	case !atLeast(m[1:], 3, 8):
		f.Detail = "python3 is " + version + "; current ImageBuilders need 3.8."
		return []finding{mendWith(f, "python3")}
	case !atLeast(m[1:], 3, 12) && m[3] != "distutils":
		f.Detail = "python3 is " + version + " without distutils, which ImageBuilders want of every Python before 3.12."
		return []finding{mendWith(f, "python3-distutils")}
	}
	f.Status, f.Detail = fine, "Python "+version+"."
	return []finding{f}
}

func (e *examiner) checkUmask() []finding {
	status, err := e.readFile("/proc/self/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(status)) {
		text, ok := strings.CutPrefix(line, "Umask:")
		if !ok {
			continue
		}
		umask, err := strconv.ParseUint(strings.TrimSpace(text), 8, 16)
		if err != nil || umask&0o055 == 0 {
			break
		}
		return []finding{{Name: "umask", Status: note, Detail: fmt.Sprintf("The umask is %04o. Builds run with 0022 all the same, but files of the server will be readable for its user only.", umask)}}
	}
	return nil
}

func (e *examiner) checkData() []finding {
	f := finding{Name: "data folder", Status: missing}
	dir := existing(e.config.Data)
	s, err := e.statfs(dir)
	switch {
	case err != nil:
		f.Detail = err.Error() + "."
		return []finding{f}
	case s.readOnly:
		f.Detail = dir + " is mounted read-only."
		f.Fix = "Set data to a folder on another file system."
		return []finding{f}
	case s.noexec:
		f.Detail = dir + " is mounted noexec, but ImageBuilders bring programs of their own and run them from there."
		f.Fix = "Mount it without noexec, or set data to a folder elsewhere."
		return []finding{f}
	}
	sensitive, err := caseSensitive(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Status = note
		f.Detail = "This user may not write into " + dir + "; the server's user must."
		f.Fix = "Ask again as that user: sudo -u attendant attendant doctor"
	case err != nil:
		f.Detail = fmt.Sprintf("Nothing can be written into %s: %v.", dir, err)
	case !sensitive:
		f.Detail = "The file system of " + dir + " takes large and small letters for the same; ImageBuilders need one that tells them apart."
		f.Fix = "Set data to a folder on ext4, btrfs or the like."
	default:
		f.Status, f.Detail = fine, e.config.Data+" is fit for ImageBuilders."
		if dir != e.config.Data {
			f.Detail = e.config.Data + " is not there yet; it will be made."
		}
	}
	return []finding{f}
}

// caseSensitive tries whether a folder keeps "a" and "A" apart.
func caseSensitive(dir string) (bool, error) {
	f, err := os.CreateTemp(dir, ".attendant-doctor-*-a")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return false, err
	}
	base := filepath.Base(f.Name())
	_, err = os.Stat(filepath.Join(dir, strings.ToUpper(base)))
	if err == nil {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

const (
	scratchSpace = 2_000_000_000 // bytes that a build may need for itself, with a fresh ImageBuilder's archive
	enoughFiles  = 100_000       // inodes: one ImageBuilder has 5,000 to 20,000 files
	enoughMemory = 1_000_000_000 // bytes; less is what a "1 GB" machine without graphics has
)

func (e *examiner) checkSpace() []finding {
	s, err := e.statfs(existing(e.config.Data))
	if err != nil {
		return nil // said by checkData
	}
	used := diskUsage(filepath.Join(e.config.Data, "images"), filepath.Join(e.config.Data, "builders"), filepath.Join(e.config.Data, "packages"))
	budgets := e.config.ImageBudget + e.config.BuilderBudget + e.config.PackageBudget
	size := func(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }
	f := finding{Name: "disk", Status: fine, Detail: fmt.Sprintf("%s free; the budgets for images, ImageBuilders and packages are %s, %s of it in use.", size(s.free), size(budgets), size(used))}
	switch {
	case s.free < scratchSpace/4 || s.free+used < scratchSpace:
		f.Status = missing
		f.Detail = fmt.Sprintf("Only %s are free; a build needs about %s beside the %s that images, ImageBuilders and packages may take.", size(s.free), size(scratchSpace), size(budgets))
		f.Fix = "Make room, or set data to a folder on a larger disk."
	case s.free+used < budgets+scratchSpace:
		f.Status = note
		f.Detail = fmt.Sprintf("%s are free, but images, ImageBuilders and packages may take %s more, and a build %s.", size(s.free), size(budgets-used), size(scratchSpace))
		f.Fix = fmt.Sprintf("Set image_budget, builder_budget and package_budget to %s together.", size(max(s.free+used-scratchSpace, 3*minBudget)))
	}
	found := []finding{f}
	if s.files > 0 && s.freeFiles < enoughFiles {
		found = append(found, finding{Name: "inodes", Status: note, Detail: fmt.Sprintf("The file system has room for only %d more files; one ImageBuilder has up to 20000.", s.freeFiles)})
	}
	return found
}

func (e *examiner) checkMemory() []finding {
	text, err := e.readFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	value := func(name string) int64 {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name+":"); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
				return n << 10
			}
		}
		return 0
	}
	total, swap := value("MemTotal"), value("SwapTotal")
	f := finding{Name: "memory", Status: fine, Detail: fmt.Sprintf("%s; workers is %d.", humanize.IBytes(uint64(total)), e.config.Workers)}
	if total == 0 {
		return nil
	}
	if total+swap < enoughMemory*int64(e.config.Workers) {
		f.Status = note
		f.Detail = fmt.Sprintf("%s, with %s of swap, is little for workers = %d; a large image may fail.", humanize.IBytes(uint64(total)), humanize.IBytes(uint64(swap)), e.config.Workers)
		f.Fix = "Set workers = 1 and give the machine some swap."
	}
	return []finding{f}
}

func (e *examiner) checkNamespaces() []finding {
	read := func(name string) string {
		text, err := e.readFile(name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	f := finding{Name: "namespaces", Status: note}
	const without = "Builds work without, but slower: each one copies its ImageBuilder."
	const exposed = without + " What they run can read the server's own files, its signing key among them."
	switch {
	case read("/proc/sys/user/max_user_namespaces") == "0":
		f.Detail = "User namespaces are switched off. " + exposed
		f.Fix = "sudo sysctl -w user.max_user_namespaces=10000"
	case read("/proc/sys/user/max_user_namespaces") == "":
		f.Detail = "This kernel has no user namespaces. " + exposed
	case read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		f.Detail = "Only root may make user namespaces. " + exposed
		f.Fix = "sudo sysctl -w kernel.unprivileged_userns_clone=1"
	case read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		f.Detail = "AppArmor keeps ordinary users from using user namespaces. " + exposed
		f.Fix = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	default:
		f.Status, f.Detail = fine, "Builds can have user namespaces."
	}
	o := finding{Name: "overlayfs", Status: fine, Detail: "Builds can share an ImageBuilder through overlayfs."}
	release := kernelRelease.FindStringSubmatch(read("/proc/sys/kernel/osrelease"))
	switch {
	case !slices.Contains(strings.Fields(read("/proc/filesystems")), "overlay"):
		o.Status, o.Detail = note, "The kernel has not loaded overlayfs. "+without
		o.Fix = "echo overlay | sudo tee /etc/modules-load.d/overlay.conf; sudo modprobe overlay"
	case release != nil && !atLeast(release[1:], 5, 11):
		o.Status, o.Detail = note, fmt.Sprintf("Linux %s.%s lets only root use overlayfs; 5.11 lets everybody. %s", release[1], release[2], without)
	}
	return []finding{f, o}
}

var kernelRelease = regexp.MustCompile(`^(\d+)\.(\d+)`)

func (e *examiner) checkArchitecture() []finding {
	f := finding{Name: "processor", Status: fine, Detail: "x86_64, as OpenWrt's ImageBuilders are made for."}
	if e.arch == "amd64" {
		return []finding{f}
	}
	handler, err := e.readFile("/proc/sys/fs/binfmt_misc/qemu-x86_64")
	emulated := err == nil && strings.HasPrefix(string(handler), "enabled")
	wordBits := ""
	if e.arch == "arm" || e.arch == "386" {
		wordBits = " This is a 32-bit system, and emulating a 64-bit processor on one seldom works: a 64-bit system is the better choice."
	}
	switch own := len(e.config.ImageBuilders); {
	case emulated:
		f.Status = note
		f.Detail = fmt.Sprintf("%s: OpenWrt's ImageBuilders, made for x86_64, run through qemu, several times slower.%s", e.arch, wordBits)
	case own > 0:
		f.Status = note
		f.Detail = fmt.Sprintf("%s: OpenWrt's ImageBuilders, made for x86_64, do not run here; of your own, %d can, if made for this machine.", e.arch, own)
	default:
		f.Status = missing
		f.Detail = fmt.Sprintf("%s: OpenWrt's ImageBuilders are made for x86_64 and do not run here without qemu.%s", e.arch, wordBits)
		f = mendWith(f, "qemu-user-static", "binfmt-support")
	}
	return []finding{f}
}

// firstRelease is before any build of this program.
var firstRelease = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func (e *examiner) checkClock() []finding {
	f := finding{Name: "clock", Status: missing}
	now := e.now()
	earliest := e.built
	if earliest.IsZero() {
		earliest = firstRelease
	}
	if now.Before(earliest.Add(-24 * time.Hour)) {
		f.Detail = fmt.Sprintf("The clock says %s, which is before this program was made; TLS connections will fail.", now.Format(time.DateOnly))
		return []finding{mendWith(f, "systemd-timesyncd")}
	}
	f.Status, f.Detail = fine, "The clock says "+now.Format("2006-01-02 15:04")+"."
	if yes, known := e.synced(); known && !yes {
		f.Status = note
		f.Detail += " Nothing keeps it right."
		f.Fix = "sudo apt-get install systemd-timesyncd; sudo timedatectl set-ntp true"
	}
	return []finding{f}
}

// checkUpstream asks upstream for its list of versions, and looks at its clock
// in passing.
func (e *examiner) checkUpstream(ctx context.Context) []finding {
	address := e.config.Upstream + "/.versions.json"
	f := finding{Name: "upstream", Status: missing}
	via := ""
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		if environValue(e.environ, name) != "" {
			via = " (proxies are set by " + name + ")"
			break
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		f.Detail = fmt.Sprintf("%s is no address: %v.", hidePassword(e.config.Upstream), err)
		return []finding{f}
	}
	resp, err := e.client.Do(req)
	var why string
	switch {
	case err != nil:
		why = fmt.Sprintf("does not answer%s: %v.", via, err)
	case resp.StatusCode != http.StatusOK:
		resp.Body.Close()
		why = fmt.Sprintf("answered %s to /.versions.json%s; is it laid out like downloads.openwrt.org?", resp.Status, via)
	default:
		resp.Body.Close()
		found := []finding{{Name: f.Name, Status: fine, Detail: hidePassword(e.config.Upstream) + " answers" + via + "."}}
		if there, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			if off := e.now().Sub(there).Abs(); off > 5*time.Minute {
				found = append(found, finding{Name: "clock", Status: note, Detail: fmt.Sprintf("The clock and upstream's differ by %s.", roughly(off)), Fix: "sudo timedatectl set-ntp true"})
			}
		}
		return found
	}
	f.Detail = hidePassword(e.config.Upstream) + " " + why
	if _, err := os.Stat(filepath.Join(e.config.Data, "mirror", ".versions.json")); err == nil {
		f.Status = note
		f.Detail += " The server goes on with its own copy of the data."
	} else {
		f.Detail += " Without it, and without a copy from earlier, nothing can be built."
		f.Fix = "Check the network, the proxy variables and the setting upstream."
	}
	return []finding{f}
}

// A usign public key: two letters for the algorithm, eight bytes of key id,
// 32 bytes of Ed25519 key (openwrt/usign main.c).
const usignKeyLength = 42

func (e *examiner) checkKeys() []finding {
	f := finding{Name: "trusted keys", Status: note}
	entries, err := os.ReadDir(e.config.Keys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Detail = fmt.Sprintf("%s cannot be read: %v.", e.config.Keys, err)
		return []finding{f}
	}
	keys := 0
	var broken []string
	for _, entry := range entries {
		if entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		content, err := e.readFile(filepath.Join(e.config.Keys, entry.Name()))
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		key, decodeErr := base64.StdEncoding.DecodeString(strings.TrimSpace(lines[len(lines)-1]))
		if err != nil || decodeErr != nil || len(key) != usignKeyLength || string(key[:2]) != "Ed" {
			broken = append(broken, entry.Name())
			continue
		}
		keys++
	}
	switch {
	case len(broken) > 0:
		f.Detail = fmt.Sprintf("Not usign public keys: %s, in %s.", strings.Join(broken, ", "), e.config.Keys)
	case keys == 0:
		f.Detail = "There is none: what comes from upstream is checked against upstream's own checksums only."
		f.Fix = "Put the distribution's usign public keys into " + e.config.Keys + "."
	default:
		f.Status, f.Detail = fine, fmt.Sprintf("%d in %s.", keys, e.config.Keys)
	}
	return []finding{f}
}

func (e *examiner) checkBuilders() []finding {
	var found []finding
	for _, b := range e.config.ImageBuilders {
		if info, err := os.Stat(b.Path); err != nil || !info.Mode().IsRegular() {
			found = append(found, finding{Name: "imagebuilder", Status: missing, Detail: fmt.Sprintf("The archive for %s %s, %s, is not there.", b.Version, b.Target, b.Path)})
		}
	}
	return found
}

func (e *examiner) checkListen() []finding {
	f := finding{Name: "address", Status: missing}
	err := e.listen(e.config.Listen)
	switch {
	case err == nil:
		f.Status, f.Detail = fine, "The server can listen on "+e.config.Listen+"."
	case errors.Is(err, syscall.EADDRINUSE):
		f.Status, f.Detail = note, "Something listens on "+e.config.Listen+" already: the server itself, or else it cannot start."
	case errors.Is(err, syscall.EACCES):
		f.Detail = e.config.Listen + " needs root: ports below 1024 do."
		f.Fix = "Use a higher port, or: sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80"
	default:
		f.Detail = fmt.Sprintf("The server cannot listen on %s: %v.", e.config.Listen, err)
	}
	return []finding{f}
}

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one line of /proc/<pid>/stat, as far as it matters (proc(5)).
type process struct {
	PID    int
	parent int
	group  int
	zombie bool
	Start  uint64 // clock ticks since boot
}

func readProcess(pid int) (process, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, err
	}
	// The name, in parentheses, may hold anything.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return process{}, fmt.Errorf("unknown form of /proc/%d/stat", pid)
	}
	p := process{PID: pid, zombie: f[0] == "Z" || f[0] == "X"}
	var errs [3]error
	p.parent, errs[0] = strconv.Atoi(f[1])
	p.group, errs[1] = strconv.Atoi(f[2])
	p.Start, errs[2] = strconv.ParseUint(f[19], 10, 64)
	return p, errors.Join(errs[:]...)
}

func allProcesses() []process {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	all := make([]process, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// descendants lists the children of pid, their children and so on.
func descendants(pid int) []int {
	children := map[int][]int{}
	for _, p := range allProcesses() {
		children[p.parent] = append(children[p.parent], p.PID)
	}
	var found []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		found = append(found, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return found
}

// identify names a process beyond the reuse of its number.
func identify(pid int) process {
	p, err := readProcess(pid)
	if err != nil {
		return process{}
	}
	return p
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// processRecord names the processes of one running command in its work folder.
type processRecord struct {
	Boot       string
	Supervisor process
	Group      process // the command, which leads a process group; PID 0 in a PID namespace
}

func (r *processRecord) save(path string) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// RecordName is the file name of [Command.Record] that [KillLeftovers] looks
// for in each folder of a work folder.
const RecordName = "processes.json"

// KillLeftovers ends what still runs of commands whose records lie in
// workDir/*/processes.json, and removes those records. It is to be called at
// start, before any command runs: nothing in workDir can be alive for a good
// reason then. A process whose number has been given to another one since is
// left alone. The number of processes that got KILL is returned.
func KillLeftovers(workDir string) (int, error) {
	records, err := filepath.Glob(filepath.Join(escapeGlob(workDir), "*", RecordName))
	if err != nil {
		return 0, fmt.Errorf("looking for leftover builds: %w", err)
	}
	killed := 0
	var errs []error
	for _, path := range records {
		n, err := killRecorded(path, workDir)
		killed += n
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("leftover build: %w", err))
		}
	}
	return killed, errors.Join(errs...)
}

func killRecorded(path, workDir string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var r processRecord
	if json.Unmarshal(data, &r) != nil || r.Boot != bootID() {
		return 0, nil // half-written before anything ran, or before a reboot
	}
	killed := 0
	for deadline := time.Now().Add(5 * time.Second); ; {
		targets := r.alive(workDir)
		if len(targets) == 0 {
			return killed, nil
		}
		if time.Now().After(deadline) {
			return killed, fmt.Errorf("processes %v do not end", targets)
		}
		for _, pid := range targets {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive lists what is left of a recorded command: its supervisor with all
// descendants, its leader, and members of its group that work in workDir.
func (r *processRecord) alive(workDir string) []int {
	var found []int
	same := func(p process) bool {
		now, err := readProcess(p.PID)
		return p.PID > 1 && err == nil && now.Start == p.Start && !now.zombie
	}
	if same(r.Supervisor) {
		found = append(found, descendants(r.Supervisor.PID)...)
		found = append(found, r.Supervisor.PID)
	}
	if r.Group.PID > 1 {
		for _, p := range allProcesses() {
			if p.zombie || p.group != r.Group.PID {
				continue
			}
			cwd, _ := os.Readlink("/proc/" + strconv.Itoa(p.PID) + "/cwd")
			if p.PID == r.Group.PID && p.Start == r.Group.Start || isBelow(cwd, workDir) {
				found = append(found, p.PID)
			}
		}
	}
	return found
}

func isBelow(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return path != "" && err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

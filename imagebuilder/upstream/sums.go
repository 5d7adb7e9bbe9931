package upstream

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"regexp"
	"runtime"
	"strings"

	"attendant/imagebuilder"
)

// Sums is a sha256sums file: path, relative to its folder, to sum in lower-case
// hex.
type Sums map[string]string

const maxSums = 1_000_000

// ParseSums reads a sha256sums file: lines of "<hex> *<path>" or
// "<hex>  <path>". A line that is neither is an error: what is not understood
// cannot be relied upon. Paths that lead outside are refused.
func ParseSums(data []byte) (Sums, error) {
	sums := Sums{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" {
			continue
		}
		if len(line) < 64+3 || line[64] != ' ' || line[65] != ' ' && line[65] != '*' {
			return nil, fmt.Errorf("%.80q is not a line of sha256sums", line)
		}
		sum, name := strings.ToLower(line[:64]), strings.TrimPrefix(line[66:], "./")
		if !imagebuilder.ValidHash(sum) || !fs.ValidPath(name) || name == "." {
			return nil, fmt.Errorf("%.80q is not a line of sha256sums", line)
		}
		if old, seen := sums[name]; seen && old != sum {
			return nil, fmt.Errorf("sha256sums has two sums for %.80q", name)
		}
		if len(sums) >= maxSums {
			return nil, fmt.Errorf("sha256sums has more than %d lines", maxSums)
		}
		sums[name] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading sha256sums: %w", err)
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("sha256sums is empty")
	}
	return sums, nil
}

var builderName = regexp.MustCompile(`^(?:[A-Za-z0-9._-]+-)?imagebuilder-[A-Za-z0-9._-]+\.Linux-([A-Za-z0-9_]+)\.tar\.(zst|xz)$`)

// builder finds the ImageBuilder's archive: for the machine's own architecture
// if there is one, else for x86_64, which may run by emulation; .tar.zst
// before .tar.xz, as it unpacks faster. The name is "" if there is none.
func (s Sums) builder(hostArch string) (name, sum string) {
	best := 0
	for candidate, hash := range s {
		m := builderName.FindStringSubmatch(candidate)
		if m == nil {
			continue
		}
		rank := 0
		switch m[1] {
		case hostArch:
			rank = 4
		case "x86_64":
			rank = 2
		default:
			continue
		}
		if m[2] == "zst" {
			rank++
		}
		if rank > best || rank == best && candidate < name {
			best, name, sum = rank, candidate, hash
		}
	}
	return name, sum
}

// machine is how uname -m, and with it an ImageBuilder's name, calls the
// architecture this program runs on.
func machine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "arm":
		return "armv7l"
	case "386":
		return "i686"
	case "loong64":
		return "loongarch64"
	}
	return runtime.GOARCH // riscv64, ppc64le, …
}

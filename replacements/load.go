package replacements

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

//go:embed openwrt
var embedded embed.FS

// LoadError tells everything that is wrong with the tables.
type LoadError struct {
	Problems []Problem
}

// Error has a line with file, line number and sentence for each problem, and
// the line's text below it.
func (e *LoadError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the embedded tables and over them those in dirs, which hold
// <distribution>/<release>.yaml. What a later table says of an old package
// counts instead of what an earlier one of the same release does; additions
// add up. A folder that does not exist holds no tables. The error is a
// *LoadError where a table is wrong.
func Load(dirs ...string) (*Set, error) {
	l := newLoader()
	if err := l.readDirs(dirs); err != nil {
		return nil, err
	}
	set, problems := l.finish()
	if len(problems) > 0 {
		return nil, &LoadError{problems}
	}
	return set, nil
}

type loader struct {
	set      *Set
	problems []Problem
}

// newLoader has read the embedded tables.
func newLoader() *loader {
	l := &loader{set: &Set{distros: make(map[string][]*table)}}
	paths, err := fs.Glob(embedded, "*/*.yaml")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, path := range paths {
		text, err := embedded.ReadFile(path)
		if err != nil {
			panic(err) // it is in the program
		}
		l.read(path, path, text)
	}
	return l
}

func (l *loader) readDirs(dirs []string) error {
	for _, dir := range dirs {
		paths, err := tableFiles(dir)
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := l.readFile(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// tableFiles are the tables in dir, in a fixed order.
func tableFiles(dir string) ([]string, error) {
	var paths []string
	distros, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("list replacement tables: %w", err)
	}
	for _, distro := range distros {
		if strings.HasPrefix(distro.Name(), ".") {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, distro.Name()))
		if err != nil || !info.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, distro.Name()))
		if err != nil {
			return nil, fmt.Errorf("list replacement tables: %w", err)
		}
		for _, f := range files {
			if ext := filepath.Ext(f.Name()); (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(f.Name(), ".") {
				paths = append(paths, filepath.Join(dir, distro.Name(), f.Name()))
			}
		}
	}
	return paths, nil
}

func (l *loader) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read a replacement table: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read a replacement table: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileSize {
		l.problems = append(l.problems, Problem{File: path, Message: fmt.Sprintf("This is not a file of at most %d bytes.", maxFileSize)})
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read a replacement table: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	l.read(path, abs, text)
	return nil
}

// read adds a table. Its place, <distribution>/<release>.yaml, says what it
// is about.
func (l *loader) read(name, place string, text []byte) {
	distro := distroName(filepath.Base(filepath.Dir(place)))
	release := strings.TrimSuffix(filepath.Base(place), filepath.Ext(place))
	v := parseVersion(release)
	if !imagebuilder.ValidVersion(distro) || !imagebuilder.ValidVersion(release) || v.rest != "" || v.candidate != parseVersion(snapshot).candidate {
		l.problems = append(l.problems, Problem{File: name, Message: "A table's place is <distribution>/<release>.yaml, as openwrt/24.10.yaml."})
		return
	}
	f := parse(name, release, text)
	l.problems = append(l.problems, f.problems...)
	if len(f.problems) > 0 {
		return
	}
	tables := l.set.distros[distro]
	i, found := slices.BinarySearchFunc(tables, v, func(t *table, v version) int { return t.version.compare(v) })
	if !found {
		tables = slices.Insert(tables, i, &table{release: release, version: v, exact: make(map[string][]*rule)})
		l.set.distros[distro] = tables
	}
	tables[i].add(f.rules)
	if f.branchOff > 0 {
		tables[i].branchOff = f.branchOff
	}
}

// finish looks for what is wrong between tables.
func (l *loader) finish() (*Set, []Problem) {
	if len(l.problems) == 0 {
		for _, distro := range sortedKeys(l.set.distros) {
			l.problems = append(l.problems, contradictions(l.set.distros[distro])...)
		}
	}
	return l.set, l.problems
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package replacements

import (
	"fmt"
	"strings"
)

// reach tells whether a rule lies on a request's way.
type reach int

const (
	no     reach = iota
	behind       // it was in force at From already, which is of the same branch
	maybe        // it cannot be told
	yes
)

// passage is where a request comes from and goes to.
type passage struct {
	from, to             version
	fromSet              bool
	fromAhead            bool // From is newer than To
	fromRevision, toMain int  // revisions of the main branch; 0 unknown
	branchOffs           []int
	releases             []version
}

func newWay(tables []*table, req Request) *way {
	w := &way{Request: req, context: make(map[string]bool), met: make(map[string]bool), gone: make(map[string]bool)}
	w.to = parseVersion(req.To)
	for _, t := range tables {
		if t.version.compare(w.to) > 0 {
			continue
		}
		w.tables = append(w.tables, t)
		w.branchOffs = append(w.branchOffs, t.branchOff)
		w.releases = append(w.releases, t.version)
		if w.to.within(t.version) {
			w.toMain = t.branchOff
		}
	}
	if w.to.isSnapshot() {
		w.toMain = RevisionNumber(req.ToRevision)
	}
	if req.From != "" {
		w.from, w.fromSet = parseVersion(req.From), true
		w.fromRevision = RevisionNumber(req.FromRevision)
		w.fromAhead = !w.from.isSnapshot() && w.from.compare(w.to) > 0
	}
	return w
}

// passes tells whether rule r of table i comes into force after From and is in
// force at To.
func (p *passage) passes(i int, r *rule) reach {
	if !p.inForce(r) {
		return no
	}
	if p.to.isSnapshot() && p.toMain > 0 && r.revision > p.toMain {
		return no
	}
	switch {
	case !p.fromSet || p.fromAhead:
		return maybe
	case p.from.isSnapshot():
		return p.passesFromSnapshot(i, r)
	}
	start := p.releases[i]
	if r.from.set() && r.from.revision == 0 {
		start = r.from.version
	}
	switch {
	case p.from.compare(start) < 0:
		return yes
	case p.from.within(p.releases[i]):
		return behind
	}
	return no
}

// inForce tells whether To lies in the rule's span.
func (p *passage) inForce(r *rule) bool {
	if p.toMain > 0 && (r.from.revision > p.toMain || r.to.revision > 0 && r.to.revision < p.toMain) {
		return false // where it cannot be told, the span counts as kept
	}
	if r.from.set() && r.from.revision == 0 && p.to.compare(r.from.version) < 0 {
		return false
	}
	return !r.to.set() || r.to.revision > 0 || p.to.compare(r.to.version) <= 0 || p.to.within(r.to.version)
}

// passesFromSnapshot places a snapshot by its revision: a rule happened at its
// own, or else between the releases' leaving of the main branch.
func (p *passage) passesFromSnapshot(i int, r *rule) reach {
	n, at := p.fromRevision, r.revision
	if at == 0 {
		at = r.from.revision
	}
	switch {
	case n == 0:
		return maybe
	case at > n:
		return yes
	case at > 0:
		return no
	case p.branchOffs[i] > 0 && n >= p.branchOffs[i]:
		return no
	}
	for j := i - 1; j >= 0; j-- {
		if p.branchOffs[j] > 0 {
			if n < p.branchOffs[j] {
				return yes
			}
			break
		}
	}
	return maybe
}

// origin says what From means for the result.
func (w *way) origin() string {
	careful := "Only rules that hold whatever the origin, or whose old package the new release lacks, were applied."
	switch {
	case !w.fromSet:
		return "It is not known which release the packages come from. " + careful
	case w.from.isSnapshot() && w.fromRevision == 0:
		return "It is not known which revision the snapshot has that the packages come from. " + careful
	case w.fromAhead:
		return fmt.Sprintf("%s is newer than %s. %s", w.From, w.To, careful)
	}
	var releases []string
	for i, t := range w.tables {
		if t.any(func(r *rule) bool { return w.passes(i, r) >= maybe }) {
			releases = append(releases, t.release)
		}
	}
	if len(releases) == 0 {
		return fmt.Sprintf("No table lies on the way from %s to %s.", w.From, w.To)
	}
	return fmt.Sprintf("Tables on the way from %s to %s: %s.", w.From, w.To, strings.Join(releases, ", "))
}

package feeds

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// maxNearest bounds the problems of one solution that come with names nearby.
const maxNearest = 16

// findImpossible finds the packages that can never be installed, whatever opkg
// does: one that needs something of which no feed has any, or only such as
// cannot be installed either. With each come the options none of which there
// is. It is false if a hostile feed makes this too much work.
func (u *Universe) findImpossible() (map[int32][]Relation, bool) {
	type need struct {
		needer  int32
		options []Relation
		left    int // packages that meet an option and are not impossible
	}
	cause := map[int32][]Relation{}
	needs := make([]need, 0, 4*len(u.listed))
	waiting := make([][]int32, len(u.listed)) // packages to the needs that they meet
	var lost []int32
	work := 0
	for i, p := range u.listed {
		for depends := p.Depends; len(depends) > 0; {
			options := firstOptions(depends)
			depends = depends[len(options):]
			for _, r := range options {
				if n, ok := u.names[r.Name]; ok {
					work += 1 + len(u.nodes[n].providers)
				}
			}
			if work > maxOpkgSteps {
				return nil, false
			}
			meeting := u.meeting(options)
			for _, candidate := range meeting {
				waiting[candidate] = append(waiting[candidate], int32(len(needs)))
			}
			needs = append(needs, need{int32(i), options, len(meeting)})
			if len(meeting) == 0 && cause[int32(i)] == nil {
				cause[int32(i)] = options
				lost = append(lost, int32(i))
			}
		}
	}
	for len(lost) > 0 {
		i := lost[0]
		lost = lost[1:]
		for _, k := range waiting[i] {
			n := &needs[k]
			if n.left--; n.left == 0 && cause[n.needer] == nil {
				cause[n.needer] = n.options
				lost = append(lost, n.needer)
			}
		}
	}
	return cause, true
}

// firstOptions returns the first relation of a list with its alternatives.
func firstOptions(depends []Relation) []Relation {
	n := 1
	for n < len(depends) && depends[n].Or {
		n++
	}
	return depends[:n]
}

// candidates returns all packages that a name could stand for, those called
// so first. The list may not be changed.
func (u *Universe) candidates(name string) []int32 {
	n, ok := u.names[name]
	if !ok {
		return nil
	}
	called, providers := u.nodes[n].called, u.nodes[n].providers
	if len(providers) == 0 || len(providers) == 1 && providers[0] == n {
		return called
	}
	found := append(make([]int32, 0, len(called)+len(providers)), called...)
	for _, provider := range providers {
		if provider != n {
			found = append(found, u.nodes[provider].called...)
		}
	}
	return found
}

// meeting returns all packages that meet one of the options.
func (u *Universe) meeting(options []Relation) []int32 {
	var found []int32
	for k := range options {
		for _, i := range u.candidates(options[k].Name) {
			if u.admits(&options[k], i) && (len(options) == 1 || !slices.Contains(found, i)) {
				found = append(found, i)
			}
		}
	}
	return found
}

// explain adds the problem behind a name that opkg could not install.
func (e *opkgExplanation) explain(f opkgFailure) {
	candidates := e.candidates(f.name)
	if len(candidates) == 0 {
		e.missing(f.name)
		return
	}
	if !slices.ContainsFunc(candidates, func(i int32) bool { return e.impossible[i] == nil }) {
		e.unmet(f.name, candidates[0])
		return
	}
	for _, pair := range f.conflicts {
		e.conflict(pair.pkg, pair.other, f.name)
	}
	switch {
	case len(f.conflicts) > 0:
	case f.chosen >= 0 && e.image.status[f.chosen] != notInstalled:
		// What provides the name is there already, which opkg takes for an
		// error unless it is the first of its providers.
		present := e.listed[f.chosen].BaseName()
		e.problem(imagebuilder.Problem{
			Kind: imagebuilder.ProblemOther, Package: f.name,
			Detail: fmt.Sprintf("%s is provided by %s, which is selected already, and opkg refuses to be asked for both: leave %s out.", f.name, present, f.name),
		}, f.name)
	default:
		e.guessed++
		e.problem(imagebuilder.Problem{
			Kind: imagebuilder.ProblemOther, Package: f.name,
			Detail: fmt.Sprintf("%s cannot be installed beside the other packages.", f.name),
		}, f.name)
	}
}

// missing adds the problem of a name that is in no feed.
func (e *opkgExplanation) missing(name string) {
	e.proven++
	p := imagebuilder.Problem{Kind: imagebuilder.ProblemMissing, Package: name, Detail: name + " is in no feed."}
	if e.nearest < maxNearest {
		e.nearest++
		p.Nearest = e.Nearest(name, 3)
	}
	e.doubtMissing(name)
	e.problem(p, name)
}

// doubtMissing doubts that a name is in no feed if there are entries that could
// not be read.
func (e *opkgExplanation) doubtMissing(name string) {
	for _, f := range e.feeds {
		if f.Index != nil && slices.Contains(f.Index.odd, name) {
			e.doubt("The feed %s has an entry for %s that cannot be read.", f.Name, name)
		}
	}
}

// unmet adds the problem of an impossible package: the chain to what there is
// none of.
func (e *opkgExplanation) unmet(name string, i int32) {
	chain := []string{name}
	guessed := e.guessed
	for {
		if base := e.listed[i].BaseName(); base != chain[len(chain)-1] && e.listed[i].Name != chain[len(chain)-1] {
			chain = append(chain, base)
		}
		options := e.impossible[i]
		meeting := e.meeting(options)
		if len(meeting) > 0 {
			i = meeting[0]
			continue
		}
		rel := options[0]
		chain = append(chain, rel.Name)
		p := imagebuilder.Problem{Kind: imagebuilder.ProblemMissing, Package: rel.Name, Chain: chain}
		others := e.candidates(rel.Name)
		switch {
		case rel.Name == "kernel" && len(others) > 0:
			p.Kind = imagebuilder.ProblemVersion
			p.Detail = fmt.Sprintf("%s made for another kernel (%s) than this image has (%s).",
				needs(chain[:len(chain)-1], "is"), rel.Version, e.listed[others[0]].Version)
			if e.listed[others[0]].feed < 0 && !e.boundToKernel(e.listed[others[0]].Version) {
				e.guessed++
			}
		case len(others) > 0:
			p.Kind = imagebuilder.ProblemVersion
			other := e.listed[others[0]]
			p.Detail = fmt.Sprintf("%s %s; the feeds have %s %s.", needs(chain[:len(chain)-1], "needs"), rel, other.Name, other.Version)
		default:
			p.Detail = fmt.Sprintf("%s %s, which is in no feed.", needs(chain[:len(chain)-1], "needs"), rel)
			e.doubtMissing(rel.Name)
		}
		if guessed == e.guessed {
			e.proven++
		}
		e.problem(p, name)
		return
	}
}

// needs writes "a needs b, which needs c, which" and the verb.
func needs(chain []string, verb string) string {
	text := strings.Join(chain, " needs ")
	if len(chain) > 1 {
		text = chain[0] + " needs " + strings.Join(chain[1:], ", which needs ") + ", which"
	}
	return text + " " + verb
}

// boundToKernel tells whether a selected package needs that very kernel, so
// that one made for another cannot be beside it.
func (e *opkgExplanation) boundToKernel(version string) bool {
	for _, p := range e.solution.Selected {
		for _, r := range p.Depends {
			if r.Name == "kernel" && r.Op == "=" && CompareOpkg(r.Version, version) == 0 {
				return true
			}
		}
	}
	return false
}

// conflict adds the problem that two packages exclude one another; asked is
// the name at which opkg found that out, "" if it does not.
func (e *opkgExplanation) conflict(a, b int32, asked string) {
	e.between(a, b, asked, "%s and %s exclude one another: leave one of them out.")
}

func (e *opkgExplanation) between(a, b int32, asked, detail string) {
	nameA, chain := e.root(a)
	if asked != "" && chain[0] != asked && e.asked[a] == "" && e.image.needer[a] < 0 {
		nameA = asked
	}
	nameB, chainB := e.root(b)
	p := imagebuilder.Problem{
		Kind: imagebuilder.ProblemConflict, Package: e.listed[a].BaseName(), Other: e.listed[b].BaseName(),
		Detail: fmt.Sprintf(detail, withNeeder(chain), withNeeder(chainB)),
	}
	if len(chain) > 1 {
		p.Chain = chain
	}
	e.problem(p, nameA, nameB)
}

// withNeeder writes the end of a chain and where it comes from.
func withNeeder(chain []string) string {
	last := chain[len(chain)-1]
	if len(chain) == 1 {
		return last
	}
	return last + " (which " + chain[0] + " needs)"
}

// exclude adds the conflicts within the selection that opkg does not see,
// because the package that declares it was installed first: they would make
// the order of a request decide whether there is an image. Conflicts bound to
// versions are left to opkg.
func (e *opkgExplanation) exclude() {
	chosen := map[string]int32{}      // by name, base name
	providers := map[string][]int32{} // by what they provide
	for i, status := range e.image.status {
		if status == notInstalled {
			continue
		}
		p := e.listed[i]
		chosen[p.Name], chosen[p.BaseName()] = int32(i), int32(i)
		for _, r := range p.Provides {
			providers[r.Name] = append(providers[r.Name], int32(i))
		}
	}
	for i, status := range e.image.status {
		if status == notInstalled {
			continue
		}
		p := e.listed[i]
		for _, against := range p.Conflicts {
			if against.Op != "" {
				continue
			}
			others := providers[against.Name]
			if other, ok := chosen[against.Name]; ok {
				others = append([]int32{other}, others...)
			}
			for _, other := range others {
				if e.listed[other].BaseName() != p.BaseName() && !e.excluded(int32(i), other) {
					e.conflict(int32(i), other, "")
				}
			}
		}
	}
}

// excluded tells whether a problem says already that two packages exclude one
// another.
func (e *opkgExplanation) excluded(a, b int32) bool {
	rootA, _ := e.root(a)
	rootB, _ := e.root(b)
	for i, p := range e.solution.Problems {
		roots := e.solution.roots[i]
		if p.Kind == imagebuilder.ProblemConflict && slices.Contains(roots, rootA) && slices.Contains(roots, rootB) {
			return true
		}
	}
	return false
}

// standIns finds in the selection a package and another that provides it
// (dnsmasq-full beside dnsmasq): mostly they are variants with the same files,
// which opkg refuses to install and no index tells. If nothing else is wrong
// the refusal is not certain.
func (e *opkgExplanation) standIns() {
	for i, status := range e.image.status {
		if status == notInstalled {
			continue
		}
		p := e.listed[i]
		for _, r := range p.Provides {
			n := e.names[r.Name]
			if r.Name == p.Name || !e.image.in[n] {
				continue
			}
			for _, other := range e.nodes[n].called {
				if e.image.status[other] != notInstalled && !e.excluded(int32(i), other) {
					e.guessed++
					e.between(int32(i), other, "", "%s stands in for %s, and most likely has the same files, which opkg refuses: leave one of them out.")
				}
			}
		}
	}
}

package feeds

import "container/heap"

// The functions of apkSolver follow apk-tools v3 (src/solver.c of 3.0.5) in
// what they decide and in which order, since apk does not look for the best
// selection, nor does it go back on a choice: it rules out what cannot be, takes
// what it must, and chooses for the rest, name by name. Left out is all that
// an empty root without pinned repositories never meets.

// Bounds of one solving. A selection of 300 packages takes about 100,000
// steps, one of 5,000 some millions.
const (
	maxAPKSteps = 40_000_000
	maxAPKDepth = 20_000 // of names that lead to names
)

type apkSolver struct {
	*apkTables
	state  []apkNameState
	pkg    []apkPackageState
	dirty  []int32 // to reconsider, in order
	now    []int32 // to choose for at once, in order
	queues [2]apkQueue
	order  int32
	failed int // apk's count of errors
	steps  int
	depth  int
	lost   bool // a bound was met

	selected []int32 // packages, in apk's order
	broken   []int32 // names for which a choice was wrong
	unmet    []apkNeed
}

// Queues of names that wait to be chosen for.
const (
	queueNone = iota
	queueNow
	queueChoosable // something that may be taken by itself provides it
	queueOther
)

type apkNameState struct {
	chosen                               apkProvider // if locked
	order                                int32       // the highest is chosen for first
	requirers, mergeNeeds, mergeProvides uint16      // apk's counters, which wrap around
	queue                                uint8
	seen, locked, dirty, asked           bool
	againNeeds, againConditions          bool // to be looked at when reconsidered
	conditional, noConditional           bool // a provider's InstallIf is met; none can be
	options, settled, virtual, choosable bool
	conditionNeeded, done                bool
}

type apkPackageState struct {
	conflicts                int32
	seen, selectable         bool
	preferred, merged, used  bool
	triggered, untriggerable bool // its InstallIf is met, cannot be met
	taken, failed            bool
}

// newAPKSolver begins a solving. asked are the names on apk's command line.
func newAPKSolver(t *apkTables, asked []apkDep) *apkSolver {
	s := &apkSolver{apkTables: t, state: make([]apkNameState, len(t.names)), pkg: make([]apkPackageState, len(t.pkgs))}
	for i := range asked {
		s.state[asked[i].name].asked = true
	}
	for i := range s.queues {
		s.queues[i].state = s.state
	}
	return s
}

// solve selects packages for a world, in the order that apk sorts it in.
// It tells whether apk accepts it. With lost set nothing is known.
func (s *apkSolver) solve(world []apkDep) bool {
	for i := range world {
		s.discover(world[i].name)
	}
	for i := range world {
		s.constrain(-1, &world[i])
	}
	for !s.lost {
		if len(s.dirty) > 0 {
			n := s.dirty[0]
			s.dirty = s.dirty[1:]
			if s.state[n].dirty {
				s.state[n].dirty = false
				s.reconsider(n)
			}
			continue
		}
		n := s.next()
		if n < 0 {
			break
		}
		s.choose(n)
	}
	for i := range world {
		s.collect(-1, &world[i])
	}
	return s.failed == 0 && !s.lost
}

// spend counts work and tells whether there may be more.
func (s *apkSolver) spend(steps int) bool {
	if s.steps += steps; s.steps > maxAPKSteps {
		s.lost = true
	}
	return !s.lost
}

// fail notes that a package cannot be had as it was chosen.
func (s *apkSolver) fail(pkg int32) {
	if pkg >= 0 && !s.pkg[pkg].failed {
		s.pkg[pkg].failed = true
		s.failed++
	}
}

// discover looks at a name and all that it leads to, and numbers it.
func (s *apkSolver) discover(n int32) {
	state := &s.state[n]
	if state.seen {
		return
	}
	state.seen, state.noConditional = true, true
	if s.depth++; s.depth > maxAPKDepth {
		s.lost = true
	}
	defer func() { s.depth-- }()
	name := &s.names[n]
	if !s.spend(1 + len(name.providers)) {
		return
	}
	virtual := 0
	for _, p := range name.providers {
		pkg, ps := &s.pkgs[p.pkg], &s.pkg[p.pkg]
		if !ps.seen {
			*ps = apkPackageState{seen: true, selectable: !pkg.foreign, preferred: true, untriggerable: len(pkg.installIf) == 0}
			for i := range pkg.depends {
				s.discover(pkg.depends[i].name)
			}
		}
		state.noConditional = state.noConditional && ps.untriggerable
		if pkg.name != n {
			virtual++
		}
	}
	for _, c := range name.conditional {
		s.discover(c)
	}
	for _, p := range name.providers {
		pkg := &s.pkgs[p.pkg]
		for _, c := range s.names[pkg.name].conditional {
			s.discover(c)
		}
		for i := range pkg.provides {
			s.discover(pkg.provides[i].name)
		}
	}
	s.order++
	state.order = s.order
	if len(name.providers) != virtual {
		state.order |= 1 << 30
	}
	if !state.asked {
		state.order |= -1 << 31
	}
	for _, p := range name.providers {
		for i := range s.pkgs[p.pkg].installIf {
			s.discover(s.pkgs[p.pkg].installIf[i].name)
		}
	}
}

// constrain applies what a package, or with -1 the world, says of a name.
func (s *apkSolver) constrain(asking int32, d *apkDep) {
	state := &s.state[d.name]
	if !d.conflict {
		if state.requirers++; state.requirers == 1 {
			s.requirersChanged(d.name)
		}
	}
	providers := s.names[d.name].providers
	if !s.spend(1 + len(providers)) {
		return
	}
	for _, p := range providers {
		ps := &s.pkg[p.pkg]
		if !d.provided(p, asking) {
			ps.conflicts++
		}
		if ps.selectable && ps.conflicts > 0 {
			s.disqualify(p.pkg)
		}
	}
}

func (s *apkSolver) requirersChanged(n int32) {
	s.enqueue(n, false)
	s.againConditions(n)
	s.soil(n)
}

// soil puts a name on the list of those to reconsider.
func (s *apkSolver) soil(n int32) {
	state := &s.state[n]
	if state.dirty || state.locked || state.requirers == 0 && !state.againConditions {
		return
	}
	state.dirty = true
	s.dirty = append(s.dirty, n)
}

func (s *apkSolver) againNeeds(n int32) {
	dependents := s.names[n].dependents
	if !s.spend(len(dependents)) {
		return
	}
	for _, m := range dependents {
		if state := &s.state[m]; state.seen {
			state.againNeeds = true
			s.soil(m)
		}
	}
}

func (s *apkSolver) againConditions(n int32) {
	conditional := s.names[n].conditional
	if !s.spend(len(conditional)) {
		return
	}
	for _, m := range conditional {
		if state := &s.state[m]; state.seen && !state.noConditional {
			state.againConditions = true
			s.soil(m)
		}
	}
}

func (s *apkSolver) againConditionsOf(pkg int32) {
	p := &s.pkgs[pkg]
	s.againConditions(p.name)
	for i := range p.provides {
		s.againConditions(p.provides[i].name)
	}
}

// disqualify rules a package out.
func (s *apkSolver) disqualify(pkg int32) {
	s.pkg[pkg].selectable = false
	p := &s.pkgs[pkg]
	if !s.spend(1 + len(p.provides)) {
		return
	}
	s.againNeeds(p.name)
	for i := range p.provides {
		s.againNeeds(p.provides[i].name)
	}
	s.againConditionsOf(pkg)
}

// satisfiable tells whether what a package needs can still be had.
func (s *apkSolver) satisfiable(asking int32, d *apkDep) bool {
	state := &s.state[d.name]
	if state.locked {
		return d.provided(state.chosen, asking)
	}
	if state.requirers == 0 && d.conflict {
		return true
	}
	providers := s.names[d.name].providers
	if !s.spend(len(providers)) {
		return false
	}
	for _, p := range providers {
		if s.pkg[p.pkg].selectable && d.provided(p, asking) {
			return true
		}
	}
	return false
}

// mustProvide rules out of a name's packages those that do not provide
// another name as well, since one package will have to provide both.
func (s *apkSolver) mustProvide(n, other int32, skipVirtual bool) {
	if n == other {
		return
	}
	for _, p := range s.names[n].providers {
		pkg := &s.pkgs[p.pkg]
		if !s.spend(1 + len(pkg.provides)) {
			return
		}
		if pkg.name == other || !s.pkg[p.pkg].selectable || skipVirtual && p.version == "" {
			continue
		}
		kept := false
		for i := range pkg.provides {
			d := &pkg.provides[i]
			if kept = d.name == other || skipVirtual && d.version == ""; kept {
				break
			}
		}
		if !kept {
			s.disqualify(p.pkg)
		}
	}
}

// choosable tells whether a package may be taken for a name that it provides:
// without a version only if it has a priority or is needed by its own name.
func (s *apkSolver) choosable(p apkProvider) bool {
	return p.version != "" || s.pkgs[p.pkg].ProviderPriority != 0 || s.state[s.pkgs[p.pkg].name].requirers != 0
}

// next takes the name that is to be chosen for next, -1 if all are.
func (s *apkSolver) next() int32 {
	for len(s.now) > 0 {
		n := s.now[0]
		s.now = s.now[1:]
		if state := &s.state[n]; state.queue == queueNow {
			state.queue = queueNone
			return n
		}
	}
	for i := range s.queues {
		for q := &s.queues[i]; q.Len() > 0; {
			n := heap.Pop(q).(int32)
			if state := &s.state[n]; state.queue == uint8(queueChoosable+i) {
				state.queue = queueNone
				return n
			}
		}
	}
	return -1
}

// enqueue puts a name into the queue that fits.
func (s *apkSolver) enqueue(n int32, again bool) {
	state := &s.state[n]
	if state.locked || state.queue == queueNow {
		return
	}
	now := state.settled && state.requirers != 0 && state.choosable && !state.options
	if state.queue != queueNone {
		if !now && !again {
			return
		}
	} else if state.requirers == 0 && !state.conditional && !state.conditionNeeded {
		return
	}
	switch {
	case now:
		state.queue = queueNow
		s.now = append(s.now, n)
	case state.choosable:
		state.queue = queueChoosable
		heap.Push(&s.queues[0], n)
	default:
		state.queue = queueOther
		heap.Push(&s.queues[1], n)
	}
}

// apkQueue is a heap of names, the one with the highest order on top. Names
// that were moved elsewhere stay in it.
type apkQueue struct {
	names []int32
	state []apkNameState
}

func (q *apkQueue) Len() int           { return len(q.names) }
func (q *apkQueue) Less(i, j int) bool { return q.state[q.names[i]].order > q.state[q.names[j]].order }
func (q *apkQueue) Swap(i, j int)      { q.names[i], q.names[j] = q.names[j], q.names[i] }
func (q *apkQueue) Push(n any)         { q.names = append(q.names, n.(int32)) }
func (q *apkQueue) Pop() any {
	n := q.names[len(q.names)-1]
	q.names = q.names[:len(q.names)-1]
	return n
}

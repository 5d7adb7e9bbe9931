package feeds

import "cmp"

// reconsider looks again at who can provide a name, and draws conclusions
// from what all of them have in common.
func (s *apkSolver) reconsider(n int32) {
	state := &s.state[n]
	name := &s.names[n]
	againNeeds, againConditions := state.againNeeds, state.againConditions
	state.againNeeds, state.againConditions = false, false
	first := int32(-1)
	candidates := uint16(0)
	conditional, noConditional, choosable := false, true, false
	for _, p := range name.providers {
		pkg, ps := &s.pkgs[p.pkg], &s.pkg[p.pkg]
		if !s.spend(1 + len(pkg.depends) + len(pkg.provides) + len(pkg.installIf)) {
			return
		}
		ps.merged = false
		if againNeeds && ps.selectable {
			for i := range pkg.depends {
				if !s.satisfiable(p.pkg, &pkg.depends[i]) {
					s.disqualify(p.pkg)
					break
				}
			}
		}
		if !ps.selectable {
			continue
		}
		if againConditions {
			s.checkConditions(p.pkg)
		}
		conditional = conditional || ps.triggered
		noConditional = noConditional && ps.untriggerable
		choosable = choosable || ps.triggered
		if state.requirers == 0 {
			continue
		}
		ps.merged = true
		if first < 0 {
			first = p.pkg
		}
		for i := range pkg.depends {
			if d := &pkg.depends[i]; !d.conflict {
				merge(&s.state[d.name].mergeNeeds, candidates)
			}
		}
		if own := &s.state[pkg.name]; merge(&own.mergeProvides, candidates) {
			own.virtual = own.virtual || p.version == ""
		}
		for i := range pkg.provides {
			d := &pkg.provides[i]
			if other := &s.state[d.name]; merge(&other.mergeProvides, candidates) {
				other.virtual = other.virtual || d.version == ""
			}
		}
		candidates++
		choosable = choosable || s.choosable(p)
	}
	state.options = candidates > 1
	state.conditional, state.noConditional = conditional, noConditional
	changed := choosable != state.choosable
	state.choosable = choosable
	if first >= 0 {
		for _, p := range name.providers {
			s.pkg[p.pkg].used = s.pkg[p.pkg].merged
		}
		s.conclude(n, first, candidates)
	}
	state.settled = true
	for _, m := range name.dependents {
		if other := &s.state[m]; other.seen && !other.locked {
			state.settled = false
			break
		}
	}
	s.spend(len(name.dependents) / 8)
	s.enqueue(n, changed)
}

// merge counts what the candidates so far have in common.
func merge(count *uint16, candidates uint16) bool {
	if *count != candidates {
		return false
	}
	*count = candidates + 1
	return true
}

// merged tells whether all candidates have it in common, and forgets the count.
func merged(count *uint16, candidates uint16) bool {
	all := *count == candidates
	*count = 0
	return all
}

// conclude applies what all candidates for a name need and provide. first is
// the first of them.
func (s *apkSolver) conclude(n, first int32, candidates uint16) {
	pkg := &s.pkgs[first]
	for i := range pkg.depends {
		d := &pkg.depends[i]
		state := &s.state[d.name]
		if !merged(&state.mergeNeeds, candidates) {
			continue
		}
		if candidates == 1 {
			s.constrain(first, d)
		} else if state.requirers == 0 {
			state.requirers++
			s.requirersChanged(d.name)
		}
	}
	own := &s.state[pkg.name]
	if merged(&own.mergeProvides, candidates) {
		s.mustProvide(pkg.name, n, own.virtual)
	}
	for i := range pkg.provides {
		d := &pkg.provides[i]
		if merged(&s.state[d.name].mergeProvides, candidates) {
			s.mustProvide(d.name, n, s.state[d.name].virtual)
		}
	}
	own.virtual = false
	for i := range pkg.provides {
		s.state[pkg.provides[i].name].virtual = false
	}
}

// checkConditions looks whether a package's InstallIf is met by now.
func (s *apkSolver) checkConditions(n int32) {
	pkg, ps := &s.pkgs[n], &s.pkg[n]
	if !ps.triggered && !ps.untriggerable {
		ps.triggered = true
		for i := range pkg.installIf {
			d := &pkg.installIf[i]
			state := &s.state[d.name]
			if !state.locked {
				if d.conflict {
					state.conditionNeeded = true
					s.enqueue(d.name, false)
				}
				ps.triggered = false
				break
			}
			if !d.provided(state.chosen, n) {
				ps.triggered, ps.untriggerable = false, true
				break
			}
		}
	}
	if ps.triggered {
		for i := range pkg.installIf {
			if s.state[pkg.installIf[i].name].chosen.pkg < 0 {
				ps.preferred = false // apk takes the pinning of nothing for one
			}
		}
	}
}

// better tells whether a is to be preferred to b for a name.
func (s *apkSolver) better(a, b apkProvider) bool {
	if b.pkg < 0 {
		return true
	}
	p, q := &s.pkgs[a.pkg], &s.pkgs[b.pkg]
	ps, qs := &s.pkg[a.pkg], &s.pkg[b.pkg]
	if order := cmp.Or(
		truth(ps.selectable)-truth(qs.selectable),
		truth(ps.used)-truth(qs.used),
		int(qs.conflicts)-int(ps.conflicts),
		truth(ps.preferred)-truth(qs.preferred),
		CompareAPK(a.version, b.version),
	); order != 0 {
		return order > 0
	}
	if p.name == q.name {
		if order := CompareAPK(p.Version, q.Version); order != 0 {
			return order > 0
		}
	}
	return cmp.Or(p.ProviderPriority-q.ProviderPriority, int(q.feed)-int(p.feed)) > 0
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// choose takes the best provider of a name, or nothing.
func (s *apkSolver) choose(n int32) {
	state := &s.state[n]
	best := apkProvider{pkg: -1}
	if state.requirers != 0 || state.conditional {
		if !s.spend(len(s.names[n].providers)) {
			return
		}
		for _, p := range s.names[n].providers {
			ps := &s.pkg[p.pkg]
			if state.requirers == 0 && (!ps.triggered || !ps.selectable) || !s.choosable(p) {
				continue
			}
			if s.better(p, best) {
				best = p
			}
		}
	}
	if best.pkg < 0 {
		s.assign(n, best)
		if state.requirers > 0 {
			s.failed++
			s.broken = append(s.broken, n)
		}
		return
	}
	pkg := &s.pkgs[best.pkg]
	if !s.pkg[best.pkg].selectable {
		s.fail(best.pkg)
		s.broken = append(s.broken, n)
	}
	s.assign(pkg.name, apkProvider{best.pkg, pkg.Version})
	for i := range pkg.provides {
		s.assign(pkg.provides[i].name, apkProvider{best.pkg, pkg.provides[i].version})
	}
	for i := range pkg.depends {
		s.constrain(best.pkg, &pkg.depends[i])
	}
}

// assign decides who provides a name, for good.
func (s *apkSolver) assign(n int32, p apkProvider) {
	state := &s.state[n]
	if state.locked {
		if p.version != "" || state.chosen.version != "" {
			s.fail(p.pkg)
			s.fail(state.chosen.pkg)
			s.broken = append(s.broken, n)
		}
		return
	}
	state.locked, state.chosen = true, p
	state.queue, state.dirty = queueNone, false
	if p.pkg >= 0 && state.requirers == 0 && s.pkg[p.pkg].triggered {
		conditions := s.pkgs[p.pkg].installIf
		for i := range conditions {
			if !s.state[conditions[i].name].locked {
				s.constrain(p.pkg, &conditions[i])
			}
		}
	}
	for _, q := range s.names[n].providers {
		if q.pkg != p.pkg && (p.version != "" || q.version != "") {
			s.disqualify(q.pkg)
		}
	}
	s.againNeeds(n)
	if p.pkg >= 0 {
		s.againConditionsOf(p.pkg)
	} else {
		s.againConditions(n)
	}
}

// collect goes from what the world, or a package, says of a name to what was
// chosen for it, checks that, and lists what will be installed.
func (s *apkSolver) collect(asking int32, d *apkDep) {
	state := &s.state[d.name]
	if !state.locked {
		state.chosen = apkProvider{pkg: -1}
	}
	if !d.provided(state.chosen, asking) {
		s.fail(asking)
		s.unmet = append(s.unmet, apkNeed{dep: *d, from: asking})
	}
	s.collectName(d.name)
	if state.chosen.pkg >= 0 && s.pkg[state.chosen.pkg].failed {
		s.fail(asking)
	}
}

func (s *apkSolver) collectName(n int32) {
	state := &s.state[n]
	if state.done {
		return
	}
	state.done = true
	if !state.locked || state.chosen.pkg < 0 || s.pkg[state.chosen.pkg].taken {
		return
	}
	if s.depth++; s.depth > maxAPKDepth {
		s.lost = true
		return
	}
	defer func() { s.depth-- }()
	chosen := state.chosen.pkg
	pkg := &s.pkgs[chosen]
	s.pkg[chosen].taken = true
	s.state[pkg.name].done = true
	for i := range pkg.provides {
		s.state[pkg.provides[i].name].done = true
	}
	for i := range pkg.depends {
		s.collect(chosen, &pkg.depends[i])
	}
	s.selected = append(s.selected, chosen)
	s.collectConditional(pkg.name)
	for i := range pkg.provides {
		s.collectConditional(pkg.provides[i].name)
	}
}

// collectConditional lists what a name's presence brings.
func (s *apkSolver) collectConditional(n int32) {
next:
	for _, m := range s.names[n].conditional {
		state := &s.state[m]
		if !state.seen || state.done || !state.locked || state.chosen.pkg < 0 {
			continue
		}
		conditions := s.pkgs[state.chosen.pkg].installIf
		for i := range conditions {
			d := &conditions[i]
			other := &s.state[d.name]
			if !other.locked {
				other.chosen = apkProvider{pkg: -1}
			}
			if !d.conflict && !other.done || !d.provided(other.chosen, state.chosen.pkg) {
				continue next
			}
		}
		s.collectName(m)
	}
}

package replacements

import (
	"maps"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// Request is a selection of packages on its way from one release to another.
type Request struct {
	Distro       string // "" is OpenWrt
	From         string // installed version; "" unknown
	FromRevision string // installed revision, "r18611-…"; needed to place a snapshot
	To           string // version of the new image
	ToRevision   string // its revision; places a snapshot, "" is the newest
	Target       string // of the new image, as "ath79/generic"; "" fits no rule that names targets
	Profile      string // its id; "" fits no rule that names profiles

	Packages  []string          // in canonical form, see imagebuilder.Request.Normalize; "-name" removes
	Installed []string          // all that is installed, with dependencies; optional
	Choices   map[string]string // old name to the option that the user chose

	// Exists tells whether a package, or one that provides its name, is in the
	// new image's index. May be nil; then no rule is applied, or left out, for
	// what the index holds.
	Exists func(name string) bool
}

// Kind says what a rule did.
type Kind string

// What rules do.
const (
	Renamed   Kind = "renamed"   // one name for another
	Split     Kind = "split"     // several names for one
	Dropped   Kind = "dropped"   // nothing for a name
	Chosen    Kind = "chosen"    // one of several options for a name
	Undecided Kind = "undecided" // the name stays until the user chooses
	Kept      Kind = "kept"      // the name stays, as it still exists
	Added     Kind = "added"
)

// Step is what one rule did to one name.
type Step struct {
	Kind Kind
	Old  string   // empty for Added
	New  []string // of a removal all that must be removed now
	Why  string   // a sentence
	Rule Rule
}

// Outcome is what became of one requested package that a rule concerns.
type Outcome struct {
	Requested string   // as requested: "name" or "-name"
	New       []string // what stands for it now; empty if nothing does
	Steps     []Step   // release by release
	Note      string   // a sentence where New is not what the steps led to
}

// Option is what can stand for an old package.
type Option struct {
	Name     string
	Sentence string
}

// Choice is an old package with several options.
type Choice struct {
	Old     string
	Default string // what is taken when the user chooses nothing; empty where nothing is
	Chosen  string // what was taken; empty where nothing was
	Options []Option
	Rule    Rule
}

// Result is a selection for the new release with everything that was done.
// But for the order of Packages it does not depend on the order of the
// requested ones.
type Result struct {
	Packages []string // in the order of the request; additions last
	Outcomes []Outcome
	Added    []Outcome // Requested is empty, New is the package
	Choices  []Choice
	Unused   []string // old names of choices that there was nothing to choose for
	Origin   string   // a sentence about what From means for the result
}

// Replaced maps the requested packages that have other names now to these.
func (r *Result) Replaced() map[string][]string {
	replaced := make(map[string][]string)
	for _, o := range r.Outcomes {
		if len(o.New) > 0 && !strings.HasPrefix(o.Requested, "-") && !slices.Equal(o.New, []string{o.Requested}) {
			replaced[o.Requested] = o.New
		}
	}
	return replaced
}

// Dropped are the requested packages that nothing stands for any more.
func (r *Result) Dropped() []string {
	var dropped []string
	for _, o := range r.Outcomes {
		if len(o.New) == 0 && !strings.HasPrefix(o.Requested, "-") {
			dropped = append(dropped, o.Requested)
		}
	}
	return dropped
}

// Apply takes a selection to another release.
//
// Every table on the way is followed, the oldest first, and within a table
// every name until no rule is for it any more. On the way are the tables after
// From up to To. Where From is unknown, cannot be placed, or is newer than To,
// a rule is applied only if it is marked unconditional, or if the index is
// known and lacks the old name; and only To's own release adds packages. The
// table of From's own branch is for names that the index is known to lack: the
// feeds that a branch's releases share may have had them when From was installed.
//
// A package that is dropped stays if the index still has it, unless the rule
// is mandatory: a community may go on building what OpenWrt gave up.
//
// A removal follows all options, as any of them would bring back what is not
// wanted. A package that is asked for wins over the removal of an old one that
// has become it; a removal wins over an addition.
//
// The error is an *imagebuilder.Error: a choice is none of the options.
func (s *Set) Apply(req Request) (*Result, error) {
	w := newWay(s.tables(req.Distro), req)
	wanted, removed := w.requested()

	for _, name := range removed {
		for _, n := range w.followRemoval(name, 0, nil) {
			w.gone[n] = true
		}
	}
	w.gather(wanted)
	return w.result(wanted, removed)
}

// way is the tables that a request passes.
type way struct {
	Request
	passage
	tables  []*table
	context map[string]bool // names that were, are or become installed
	met     map[string]bool // such names that the context lacks so far
	gone    map[string]bool // names that the removals lead to
	plain   bool            // stop at choices that the context decides
}

// gather finds the context, which decides choices: what is installed or asked
// for, and all that it becomes. As choices decide in turn what something
// becomes, this goes on until nothing comes to it any more. Of what is
// installed only that is followed which no choice decides, so that it means
// the same beside every selection.
//
// Each round sees the context as the last one left it, so that the order of
// packages cannot matter.
func (w *way) gather(wanted []string) {
	w.plain = true
	for _, name := range w.Installed {
		w.follow(name, 0, nil)
	}
	w.plain = false
	for _, name := range wanted {
		w.met[name] = true
	}
	for len(w.met) > 0 {
		maps.Copy(w.context, w.met)
		clear(w.met)
		for _, name := range wanted {
			w.follow(name, 0, nil)
		}
		for _, a := range w.additions() {
			w.follow(a.name, a.table, nil)
		}
	}
}

// meet notes that a package was, is or becomes installed.
func (w *way) meet(name string) {
	if !w.context[name] {
		w.met[name] = true
	}
}

// requested splits the packages into those wanted and those removed.
func (w *way) requested() (wanted, removed []string) {
	for _, name := range w.Packages {
		if old, ok := strings.CutPrefix(name, "-"); ok {
			removed = append(removed, old)
		} else {
			wanted = append(wanted, name)
		}
	}
	return wanted, removed
}

// rule returns the rule of a table that is applied to a name.
func (w *way) rule(t *table, i int, name string) *rule {
	for _, r := range t.candidates(name) {
		if !r.isFor(w.Target, w.Profile) {
			continue
		}
		reach := w.passes(i, r)
		lacking := w.Exists != nil && !w.Exists(name)
		if reach == yes || reach == maybe && (r.unconditional || lacking) || reach == behind && lacking {
			return r
		}
	}
	return nil
}

// place is a name in front of a table.
type place struct {
	name  string
	table int
}

// visits are the places that a walk came by. Several ways can lead to one
// place; going on from it once is enough.
type visits map[place]bool

func (v visits) again(name string, table int) bool {
	p := place{name, table}
	if v[p] {
		return true
	}
	v[p] = true
	return false
}

// follow takes a wanted package from table i on and returns what stands for it
// at the end. The steps are added to trail, where there is one.
func (w *way) follow(name string, i int, trail *trail) []string {
	w.meet(name)
	return w.walk(name, i, trail, make(visits))
}

func (w *way) walk(name string, i int, trail *trail, seen visits) []string {
	if seen.again(name, i) {
		return nil
	}
	for ; i < len(w.tables); i++ {
		r := w.rule(w.tables[i], i, name)
		if r == nil {
			continue
		}
		if w.plain && r.contextual() {
			break
		}
		names, step, choice := w.decide(r, name)
		trail.add(step, choice)
		if len(names) == 1 && names[0] == name {
			continue
		}
		var all []string
		for _, n := range names {
			w.meet(n)
			all = union(all, w.walk(n, i, trail, seen))
		}
		return all
	}
	return []string{name}
}

// followRemoval is follow for a package that shall not be installed.
func (w *way) followRemoval(name string, i int, trail *trail) []string {
	return w.walkRemoval(name, i, trail, make(visits))
}

func (w *way) walkRemoval(name string, i int, trail *trail, seen visits) []string {
	if seen.again(name, i) {
		return nil
	}
	for ; i < len(w.tables); i++ {
		r := w.rule(w.tables[i], i, name)
		if r == nil {
			continue
		}
		names := substituted(r, name, r.outputs())
		if r.dropped() && w.Exists != nil && w.Exists(name) {
			names = []string{name}
		}
		trail.add(Step{Kind: kindOfRemoval(r, name, names), Old: name, New: names, Why: whyRemoved(r, name, names), Rule: r.Rule}, nil)
		var all []string
		for _, n := range names {
			next := i
			if n == name {
				next = i + 1
			}
			all = union(all, w.walkRemoval(n, next, trail, seen))
		}
		return all
	}
	return []string{name}
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

func substituted(r *rule, name string, outputs []string) []string {
	star, _ := match(r.old, name)
	names := make([]string, 0, len(outputs))
	for _, o := range outputs {
		names = append(names, strings.Replace(o, "*", star, 1))
	}
	return names
}

// trail collects the steps of one requested package.
type trail struct {
	steps   []Step
	choices []Choice
}

func (t *trail) add(s Step, c *Choice) {
	if t == nil {
		return
	}
	if !slices.ContainsFunc(t.steps, func(old Step) bool { return old.Old == s.Old && old.Rule == s.Rule }) {
		t.steps = append(t.steps, s)
	}
	if c != nil {
		t.choices = append(t.choices, *c)
	}
}

// decide applies a rule to a name.
func (w *way) decide(r *rule, name string) ([]string, Step, *Choice) {
	step := Step{Old: name, Rule: r.Rule}
	switch {
	case r.dropped():
		if !r.mandatory && w.Exists != nil && w.Exists(name) {
			step.Kind, step.New = Kept, []string{name}
		} else {
			step.Kind = Dropped
		}
		step.Why = whyDropped(r, step.Kind)
		return step.New, step, nil
	case len(r.all) > 0:
		step.Kind, step.New = Split, substituted(r, name, r.all)
		if len(step.New) == 1 {
			step.Kind = Renamed
		}
		step.Why = whyReplaced(r, name, step.New)
		return step.New, step, nil
	}
	names := substituted(r, name, r.outputs())
	taken, by := w.take(r, name, names)
	if len(names) == 1 && taken == 0 {
		step.Kind, step.New = Renamed, names
		if names[0] == name {
			step.Kind = Kept
		}
		step.Why = whyReplaced(r, name, names)
		return names, step, nil
	}
	choice := &Choice{Old: name, Rule: r.Rule}
	if _, auto := w.automatic(r); auto >= 0 {
		choice.Default = names[auto]
	} else if slices.Contains(names, name) {
		choice.Default = name
	}
	for i, o := range r.options {
		choice.Options = append(choice.Options, Option{Name: names[i], Sentence: w.sentence(o, names[i], name)})
	}
	if taken < 0 {
		step.Kind, step.New = Undecided, []string{name}
	} else {
		step.Kind, step.New = Chosen, []string{names[taken]}
		choice.Chosen = names[taken]
	}
	step.Why = w.whyChosen(r, name, names, taken, by)
	return step.New, step, choice
}

// By what an option was taken.
type takenBy int

const (
	byNothing takenBy = iota
	byUser
	byInstalled
	byDefault
	byItself // the old name goes on and nothing else is the default
)

// take returns which option stands for a name; -1 none.
func (w *way) take(r *rule, name string, names []string) (int, takenBy) {
	if chosen, ok := w.Choices[name]; ok {
		if i := slices.Index(names, chosen); i >= 0 {
			return i, byUser
		}
	}
	by, i := w.automatic(r)
	if i < 0 {
		if i = slices.Index(names, name); i >= 0 {
			return i, byItself
		}
	}
	return i, by
}

// automatic is what stands for a name when the user chooses nothing.
func (w *way) automatic(r *rule) (takenBy, int) {
	for i, o := range r.options {
		if slices.ContainsFunc(o.installed, func(n string) bool { return w.context[n] }) {
			return byInstalled, i
		}
	}
	for i, o := range r.options {
		if o.byDefault {
			return byDefault, i
		}
	}
	return byNothing, -1
}

// addition is a package that the device needs from a table's release on.
type addition struct {
	name  string
	table int
	rule  *rule
}

// additions are the packages that the tables add, without those that the
// request removes.
func (w *way) additions() []addition {
	var additions []addition
	for i, t := range w.tables {
		for _, r := range t.additions {
			reach := w.passes(i, r)
			if !r.isFor(w.Target, w.Profile) || reach < maybe || reach == maybe && !w.to.within(t.version) && !r.unconditional {
				continue
			}
			for _, name := range r.all {
				if !w.gone[name] && (w.Exists == nil || w.Exists(name)) {
					additions = append(additions, addition{name, i, r})
				}
			}
		}
	}
	return additions
}

func (w *way) result(wanted, removed []string) (*Result, error) {
	res := &Result{Packages: []string{}, Origin: w.origin()}
	outcomes := make(map[string]Outcome)
	choices := make(map[string]Choice)
	present := make(map[string]bool)
	made := make(map[string]bool) // present because of a rule
	for _, name := range wanted {
		if _, done := outcomes[name]; done {
			continue
		}
		t := &trail{}
		o := Outcome{Requested: name, New: w.follow(name, 0, t), Steps: t.steps}
		outcomes[name] = o
		for _, c := range t.choices {
			choices[c.Old] = c
		}
		for _, n := range o.New {
			present[n] = true
			if n != name {
				made[n] = true
			}
		}
	}
	for old, option := range w.Choices {
		if c, ok := choices[old]; !ok {
			res.Unused = append(res.Unused, old)
		} else if !slices.ContainsFunc(c.Options, func(o Option) bool { return o.Name == option }) {
			return nil, imagebuilder.Errorf(imagebuilder.CodeMalformed, "choices: %.100q cannot stand for %s; %s can.", option, old, orList(c.Options))
		}
	}
	gone := make(map[string]bool)
	for _, old := range removed {
		name := "-" + old
		if _, done := outcomes[name]; done {
			continue
		}
		t := &trail{}
		o := Outcome{Requested: name}
		var won []string
		for _, n := range w.followRemoval(old, 0, t) {
			if present[n] && (n != old || made[n]) {
				won = append(won, n)
				continue
			}
			gone[n] = true
			o.New = append(o.New, "-"+n)
		}
		o.Steps = t.steps
		if len(won) > 0 {
			slices.Sort(won)
			o.Note = andList(won) + isAre(won) + " asked for, and that wins over the removal."
		}
		outcomes[name] = o
	}
	listed := make(map[string]bool)
	list := func(names []string) {
		for _, n := range names {
			if !listed[n] {
				listed[n] = true
				res.Packages = append(res.Packages, n)
			}
		}
	}
	for _, name := range w.Packages {
		list(outcomes[name].New)
	}
	for _, name := range sortedKeys(outcomes) {
		if o := outcomes[name]; len(o.Steps) > 0 || o.Note != "" {
			res.Outcomes = append(res.Outcomes, o)
		}
	}
	for _, a := range w.additions() {
		t := &trail{steps: []Step{{Kind: Added, New: []string{a.name}, Why: w.whyAdded(a.rule), Rule: a.rule.Rule}}}
		for _, n := range w.follow(a.name, a.table, t) {
			if !present[n] && !gone[n] {
				present[n] = true
				res.Added = append(res.Added, Outcome{New: []string{n}, Steps: t.steps})
				list([]string{n})
			}
		}
	}
	for _, old := range sortedKeys(choices) {
		res.Choices = append(res.Choices, choices[old])
	}
	slices.Sort(res.Unused)
	return res, nil
}

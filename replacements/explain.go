package replacements

import (
	"fmt"
	"io"
	"strings"
)

// Explain writes r as a person reads it: what became of each package, and
// which rule did it.
func (r *Result) Explain(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.Origin)
	for _, o := range r.Outcomes {
		fmt.Fprintf(&b, "\n%s\n", headline(o))
		writeSteps(&b, o.Steps)
		if o.Note != "" {
			fmt.Fprintf(&b, "  %s\n", o.Note)
		}
	}
	for _, o := range r.Added {
		fmt.Fprintf(&b, "\n+ %s\n", strings.Join(o.New, " "))
		writeSteps(&b, o.Steps)
	}
	for _, c := range r.Choices {
		fmt.Fprintf(&b, "\nA choice for %s:\n", c.Old)
		width := 0
		for _, o := range c.Options {
			width = max(width, len(o.Name))
		}
		for _, o := range c.Options {
			mark := " "
			if o.Name == c.Chosen {
				mark = "*"
			}
			fmt.Fprintf(&b, "  %s %-*s  %s\n", mark, width, o.Name, o.Sentence)
		}
	}
	for _, old := range r.Unused {
		fmt.Fprintf(&b, "\nThere is nothing to choose for %s.\n", old)
	}
	if len(r.Outcomes) == 0 && len(r.Added) == 0 {
		fmt.Fprintln(&b, "\nNothing changes.")
	}
	fmt.Fprintf(&b, "\nPackages: %s\n", strings.Join(r.Packages, " "))
	_, err := io.WriteString(w, b.String())
	return err
}

func headline(o Outcome) string {
	switch {
	case len(o.New) == 0:
		return o.Requested + " → nothing"
	case len(o.New) == 1 && o.New[0] == o.Requested:
		return o.Requested + " stays"
	}
	return o.Requested + " → " + strings.Join(o.New, " ")
}

func writeSteps(b *strings.Builder, steps []Step) {
	for _, s := range steps {
		what := s.Old + " → " + strings.Join(s.New, " ")
		switch s.Kind {
		case Added:
			what = "+ " + strings.Join(s.New, " ")
		case Dropped:
			what = s.Old + " is dropped"
		case Kept, Undecided:
			what = s.Old + " stays"
		}
		fmt.Fprintf(b, "  %s: %s (%s:%d)\n", s.Rule.Release, what, s.Rule.File, s.Rule.Line)
		fmt.Fprintf(b, "    %s\n", s.Why)
		if s.Rule.Comment != "" {
			fmt.Fprintf(b, "    %s\n", ended(s.Rule.Comment))
		}
		if s.Rule.Source != "" {
			fmt.Fprintf(b, "    Source: %s\n", s.Rule.Source)
		}
	}
}

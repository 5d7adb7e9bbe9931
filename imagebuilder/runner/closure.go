package runner

import (
	"strings"

	"attendant/imagebuilder/feeds"
)

// Closure is every package of list that the package manager could come to
// when it is asked for w: whatever answers to one of its names, and to what
// that needs, whichever choice is made. It has more than will be installed.
// The keys are places in list.
func Closure(list []feeds.Feed, w feeds.Wish) map[int][]*feeds.Package {
	byName := map[string][]place{}
	for i := range list {
		packages := list[i].Index.Packages
		for j := range packages {
			p, at := &packages[j], place{i, j}
			byName[p.Name] = append(byName[p.Name], at)
			if base := p.BaseName(); base != p.Name {
				byName[base] = append(byName[base], at)
			}
			for _, r := range p.Provides {
				if r.Name != p.Name {
					byName[r.Name] = append(byName[r.Name], at)
				}
			}
		}
	}
	c := &closure{list: list, byName: byName, asked: map[string]bool{}, chosen: map[place]bool{}}
	for _, names := range [][]string{w.Default, w.Device, w.Requested, {"kernel", "libc"}} {
		for _, name := range names {
			if !strings.HasPrefix(name, "-") {
				c.ask(name)
			}
		}
	}
	c.settle()
	out := map[int][]*feeds.Package{}
	for at := range c.chosen {
		out[at.feed] = append(out[at.feed], &list[at.feed].Index.Packages[at.pkg])
	}
	return out
}

// place is a package in a list of feeds.
type place struct{ feed, pkg int }

type closure struct {
	list   []feeds.Feed
	byName map[string][]place
	asked  map[string]bool
	todo   []string
	chosen map[place]bool
}

func (c *closure) ask(name string) {
	if !c.asked[name] {
		c.asked[name] = true
		c.todo = append(c.todo, name)
	}
}

// settle follows all names, and what installs itself when others are there.
func (c *closure) settle() {
	for {
		for len(c.todo) > 0 {
			name := c.todo[len(c.todo)-1]
			c.todo = c.todo[:len(c.todo)-1]
			for _, at := range c.byName[name] {
				c.choose(at)
			}
		}
		before := len(c.chosen)
		for i := range c.list {
			packages := c.list[i].Index.Packages
			for j := range packages {
				if at := (place{i, j}); !c.chosen[at] && c.installsItself(&packages[j]) {
					c.choose(at)
				}
			}
		}
		if len(c.chosen) == before {
			return
		}
	}
}

func (c *closure) choose(at place) {
	if c.chosen[at] {
		return
	}
	c.chosen[at] = true
	p := &c.list[at.feed].Index.Packages[at.pkg]
	for _, r := range p.Depends {
		c.ask(r.Name)
	}
	for _, r := range p.Recommends {
		c.ask(r.Name)
	}
}

func (c *closure) installsItself(p *feeds.Package) bool {
	for _, r := range p.InstallIf {
		if len(c.byName[r.Name]) == 0 || !c.asked[r.Name] && !c.answered(r.Name) {
			return false
		}
	}
	return len(p.InstallIf) > 0
}

// answered tells whether something is chosen that answers to name.
func (c *closure) answered(name string) bool {
	for _, at := range c.byName[name] {
		if c.chosen[at] {
			return true
		}
	}
	return false
}

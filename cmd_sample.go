package main

import (
	"fmt"
	"time"

	"attendant/imagebuilder/sample"
)

type sampleCmd struct {
	Slow time.Duration `placeholder:"3s" help:"Make every build take at least this long."`
	URL  string        `placeholder:"URL" help:"Address at which the tree will be served. Not needed for attendant, which puts its upstream's address in its place."`
	Dir  string        `arg:"" type:"path" help:"Folder to write to."`
}

func (*sampleCmd) Help() string {
	return `Writes a small distribution of attendant's own, laid out like downloads.openwrt.org: two releases, a
snapshot, two targets, about sixty packages and ImageBuilders that work. Any web server can be the upstream then:

    attendant sample /tmp/sample
    python3 -m http.server 8088 --bind 127.0.0.1 --directory /tmp/sample &
    attendant serve --upstream http://127.0.0.1:8088 --keys /tmp/sample/keys`
}

func (c *sampleCmd) Run(p *program) error {
	if c.Slow < 0 {
		return usagef("--slow: %s is negative", c.Slow)
	}
	if err := sample.Write(c.Dir, sample.Options{Slow: c.Slow, BaseURL: c.URL}); err != nil {
		return fmt.Errorf("write the sample distribution: %w", err)
	}
	fmt.Fprintf(p.stdout, "The sample distribution is in %s.\n", c.Dir)
	return nil
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"attendant/imagebuilder"
	"attendant/server"
)

type solveCmd struct {
	requestFlags

	List bool `name:"list" group:"result" help:"Show every package that will be in the image."`
	JSON bool `name:"json" group:"result" help:"Print the answer as JSON."`
}

// Help is kong's longer text for a command.
func (*solveCmd) Help() string {
	return `Asks a server what would be in an image, and how large it would be, without having it built. Where the selection cannot be met it says why, and what would work; the exit code is then 1.

    attendant solve --version 24.10.4 --target ath79/generic --profile tplink_archer-c7-v5 --packages "luci tmux -ppp"`
}

// solveWait is how long the server may think, and fetch what it lacks.
const solveWait = time.Minute

func (c *solveCmd) Run(p *program) error {
	base, err := c.base(p)
	if err != nil {
		return err
	}
	request, err := c.request()
	if err != nil {
		return err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("write the request: %w", err)
	}
	reply, err := askSolve(p.ctx, base, body)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := writeIndented(p.stdout, reply); err != nil {
			return err
		}
	} else if err := c.write(p.stdout, reply); err != nil {
		return err
	}
	if !reply.Possible {
		return errTold
	}
	return nil
}

func writeIndented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// askSolve posts a request to be solved. An answer that is an error is one.
func askSolve(ctx context.Context, base string, body []byte) (*server.Solved, error) {
	ctx, cancel := context.WithTimeout(ctx, solveWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/v1/solve", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	var reply server.Solved
	if err := json.Unmarshal(data, &reply); err != nil {
		return nil, fmt.Errorf("%s is no attendant: its answer to POST /api/v1/solve (%s) is no JSON", base, resp.Status)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &imagebuilder.Error{Code: imagebuilder.CodeMalformed, Detail: printable(sentence(reply.Detail, resp.Status))}
	}
	return &reply, nil
}

// write shows an answer as a person reads it.
func (c *solveCmd) write(w io.Writer, s *server.Solved) error {
	var b strings.Builder
	fmt.Fprintln(&b, printable(s.Detail))
	for _, doubt := range s.Doubts {
		fmt.Fprintln(&b, printable(doubt))
	}
	if s.Changes != nil {
		for _, old := range slices.Sorted(maps.Keys(s.Replacements)) {
			now := cmp.Or(strings.Join(s.Replacements[old], ", "), "nothing: it no longer exists")
			fmt.Fprintf(&b, "%s is replaced by %s.\n", printable(old), printable(now))
		}
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "\n%s\n", printable(p.Detail))
		if len(p.Chain) > 1 {
			fmt.Fprintf(&b, "  %s\n", printable(strings.Join(p.Chain, " → ")))
		}
	}
	if len(s.Repairs) > 0 {
		fmt.Fprintln(&b, "\nWhat would work:")
		for _, r := range s.Repairs {
			fmt.Fprintf(&b, "  %s\n    --packages %s\n", printable(r.Detail), shellWord(printable(strings.Join(r.Packages, " "))))
		}
	}
	fmt.Fprintf(&b, "\n%d packages, %s to download, %s installed.\n", len(s.Packages),
		humanize.IBytes(uint64(max(0, s.Sizes.Download))), humanize.IBytes(uint64(max(0, s.Sizes.Installed))))
	if f := s.Sizes.Flash; f != nil && !strings.Contains(s.Detail, f.Detail) {
		fmt.Fprintln(&b, printable(f.Detail))
	}
	if c.List {
		t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t)
		for _, p := range s.Packages {
			why := ""
			switch {
			case p.Requested:
				why = "asked for"
			case p.Default:
				why = "default"
			case p.Reason != "":
				why = "needed by " + printable(p.Reason)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", printable(p.Name), printable(p.Version), humanize.IBytes(uint64(max(0, p.InstalledSize))), why)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

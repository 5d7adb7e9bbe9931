package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"attendant/replacements"
	"attendant/server"
)

// Bounds of the operator's token, in bytes. What is shorter can be guessed.
const (
	minTokenLength = 16
	maxTokenLength = 1024
)

// readAdminToken reads the operator's token; "" for no file.
func readAdminToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the operator's token (admin_token_file): %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, maxTokenLength+3))
	if err != nil {
		return "", fmt.Errorf("read the operator's token (admin_token_file): %w", err)
	}
	token := strings.TrimSpace(string(text))
	wrong := ""
	switch {
	case len(token) < minTokenLength:
		wrong = fmt.Sprintf("it has %d bytes and can be guessed", len(token))
	case len(token) > maxTokenLength:
		wrong = fmt.Sprintf("it has more than %d bytes", maxTokenLength)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		wrong = "it is not one line of printable ASCII without spaces"
	default:
		return token, nil
	}
	return "", fmt.Errorf("the operator's token in %s (admin_token_file) cannot be used: %s. Make one of at least %d bytes: openssl rand -hex 32", path, wrong, minTokenLength)
}

// operator shows the whole application to its operator.
type operator struct{ *application }

// Sync implements [server.Operator].
func (o operator) Sync() int {
	n := 0
	for _, c := range o.distros {
		n += c.upstream.Sync()
	}
	if _, err := o.tables.Reload(); err != nil {
		o.log.Warn().Err(err).Msg("your replacement tables are wrong; the last right ones stay in force")
	}
	o.watch.look()
	o.log.Info().Int("documents", n).Msg("the operator has upstream asked anew")
	return n
}

// Distributions implements [server.Operator].
func (o operator) Distributions() []server.DistributionState {
	states := make([]server.DistributionState, 0, len(o.distros))
	for _, c := range o.distros {
		s := server.DistributionState{
			Name: c.name, Aliases: c.aliases, URL: hidePassword(c.upstream.URL()), Replacements: c.tableDistro, TrustedKeys: c.upstream.TrustedKeys(),
			Latest: []string{},
		}
		for _, f := range c.feeds {
			s.Feeds = append(s.Feeds, f.Name)
		}
		known, cancel := context.WithCancel(context.Background())
		cancel() // what is not known yet is not waited for
		if overview, err := c.Overview(known); err == nil {
			s.Latest = overview.Latest
		}
		states = append(states, s)
	}
	return states
}

// Documents implements [server.Operator].
func (o operator) Documents() []server.DocumentState {
	var states []server.DocumentState
	for _, c := range o.distros {
		for _, d := range c.upstream.Documents() {
			s := server.DocumentState{Distro: c.name, Name: d.Name, Checked: d.Checked, Stale: d.Stale, Absent: d.Absent, Used: d.Used, Bytes: d.Bytes}
			if d.Err != nil {
				s.Detail = d.Err.Error()
			}
			states = append(states, s)
		}
	}
	return states
}

// TableErrors implements [server.Operator].
func (o operator) TableErrors() []server.TableError { return tableErrors(o.tables.Err()) }

func tableErrors(err error) []server.TableError {
	if err == nil {
		return nil
	}
	wrong, ok := errors.AsType[*replacements.LoadError](err)
	if !ok {
		return []server.TableError{{Detail: err.Error()}}
	}
	errs := make([]server.TableError, len(wrong.Problems))
	for i, p := range wrong.Problems {
		errs[i] = server.TableError{File: p.File, Line: p.Line, Text: strings.TrimSpace(p.Text), Detail: p.Message}
	}
	return errs
}

// Policies implements [server.Operator].
func (o operator) Policies() any {
	if o.cfg.Policies == nil {
		return []Policy{}
	}
	return o.cfg.Policies
}

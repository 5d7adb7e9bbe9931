// Attendant is an attended-sysupgrade server for OpenWrt and its relatives: it
// builds the firmware image that a router asks for, keeps it while it is
// wanted and hands it out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sandbox"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // what was asked for did not succeed
	exitUsage   = 2 // the command line or the configuration is wrong; trying again changes nothing
)

func main() {
	sandbox.Init() // does not return in a process that is to run a build
	ctx, stop := withSignals(context.Background())
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// commandLine is the grammar of the command line. Each command lives in a file
// of its own.
type commandLine struct {
	Serve        serveCmd        `cmd:"" group:"server" help:"Run the server."`
	Demo         demoCmd         `cmd:"" group:"server" help:"Try attendant without configuration and without internet."`
	Config       configCmd       `cmd:"" group:"server" help:"Show the configuration in force and where each value comes from."`
	Doctor       doctorCmd       `cmd:"" group:"server" help:"Check whether this machine can run ImageBuilders."`
	Jobs         jobsCmd         `cmd:"" group:"server" help:"List the jobs of the running server."`
	Cancel       cancelCmd       `cmd:"" group:"server" help:"End a job of the running server."`
	Evict        evictCmd        `cmd:"" group:"server" help:"Drop a finished image of the running server."`
	Pin          pinCmd          `cmd:"" group:"server" help:"Keep a finished image of the running server from being dropped."`
	Unpin        unpinCmd        `cmd:"" group:"server" help:"Let a pinned image be dropped again."`
	DB           dbCmd           `cmd:"" name:"db" group:"server" help:"Look after the database."`
	Backup       backupCmd       `cmd:"" group:"server" help:"Copy the database while the server runs."`
	Sample       sampleCmd       `cmd:"" group:"server" help:"Write the sample distribution, to be served as an upstream."`
	Replacements replacementsCmd `cmd:"" group:"server" help:"Look after replacement tables: what became of packages from release to release."`
	Install      installCmd      `cmd:"" group:"service" help:"Make attendant a service of this machine."`
	Remove       removeCmd       `cmd:"" name:"uninstall" group:"service" help:"Take the service away again; data and configuration stay."`
	Start        startCmd        `cmd:"" group:"service" help:"Start the service."`
	Stop         stopCmd         `cmd:"" group:"service" help:"Stop the service."`
	Status       statusCmd       `cmd:"" group:"service" help:"Tell whether the service runs."`
	Build        buildCmd        `cmd:"" group:"client" help:"Ask a server for an image and download it."`
	Solve        solveCmd        `cmd:"" group:"client" help:"Ask a server what an image would hold, without having it built."`
	Version      versionCmd      `cmd:"" group:"client" help:"Print the version of this program."`
}

// newCommandLine returns a grammar with the configuration's flags in place.
func newCommandLine() *commandLine {
	c := &commandLine{}
	c.Serve.configFlags = settingFlags()
	c.Config.configFlags = settingFlags()
	c.Doctor.configFlags = settingFlags("data", "upstream", "keys", "listen", "workers", "image_budget", "builder_budget", "package_budget")
	c.Jobs.configFlags = settingFlags("data", "control")
	c.Cancel.configFlags = settingFlags("data", "control")
	c.Evict.configFlags = settingFlags("data", "control")
	c.Pin.configFlags = settingFlags("data", "control")
	c.Unpin.configFlags = settingFlags("data", "control")
	c.DB.Check.configFlags = settingFlags("data", "control")
	c.Backup.configFlags = settingFlags("data", "control")
	return c
}

// program is what a command is given to work with: kong passes it to each
// command's Run method.
type program struct {
	ctx            context.Context // ends when the program shall stop; see hurried
	stdout, stderr io.Writer
	environ        []string // "NAME=value"
}

// run does what args ask for and returns the exit code. Output that somebody
// may want to process goes to stdout, everything else to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p := &program{ctx: ctx, stdout: stdout, stderr: stderr, environ: os.Environ()}
	return p.run(args)
}

// exitRequest is what kong's hooks panic with instead of ending the process.
type exitRequest int

func (p *program) run(args []string) (code int) {
	parser, err := kong.New(newCommandLine(),
		kong.Name("attendant"),
		kong.Description("An attended-sysupgrade server: routers and their owners ask for a firmware image, attendant builds it and hands it out."),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(code int) { panic(exitRequest(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.ExplicitGroups(append([]kong.Group{
			{Key: "server", Title: "The server:"},
			{Key: "service", Title: "As a service of this machine:"},
			{Key: "client", Title: "Elsewhere:"},
			{Key: "request", Title: "What to build:"},
			{Key: "result", Title: "What to do with it:"},
		}, settingGroups()...)),
	)
	if err != nil {
		panic(fmt.Errorf("describe the command line: %w", err)) // a mistake in this file
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exitRequest:
			code = int(r)
		default:
			panic(r)
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(p.stderr, "attendant: %v\n", err)
		var parseError *kong.ParseError
		if errors.As(err, &parseError) && parseError.Context != nil && parseError.Context.Command() != "" {
			fmt.Fprintf(p.stderr, "See: attendant %s --help\n", parseError.Context.Command())
		} else {
			fmt.Fprintln(p.stderr, "See: attendant --help")
		}
		return exitUsage
	}
	if err := command.Run(p); err != nil {
		return p.fail(err)
	}
	return exitOK
}

// fail tells err and returns the exit code that it deserves.
func (p *program) fail(err error) int {
	var (
		wrong *usageError
		bad   configErrors
		told  *imagebuilder.Error
	)
	switch {
	case errors.Is(err, errTold):
		return exitFailure
	case errors.As(err, &bad):
		fmt.Fprintf(p.stderr, "attendant: %v\n", bad)
		return exitUsage
	case errors.As(err, &wrong):
		fmt.Fprintf(p.stderr, "attendant: %v\n", wrong)
		return exitUsage
	case errors.As(err, &told):
		fmt.Fprintf(p.stderr, "attendant: %s\n", told.Detail)
		if told.Err != nil {
			fmt.Fprintf(p.stderr, "  (%v)\n", told.Err)
		}
	default:
		fmt.Fprintf(p.stderr, "attendant: %v\n", err)
	}
	return exitFailure
}

// errTold is a failure that the command itself has told the user.
var errTold = errors.New("failed")

// usageError is a mistake in how a command was called.
type usageError struct{ err error }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

type hurryKey struct{}

// withSignals returns a context that ends at the first SIGINT or SIGTERM. The
// second one closes the channel that hurried returns, and a third ends the
// process as if nobody listened. stop undoes all that.
func withSignals(parent context.Context) (ctx context.Context, stop func()) {
	hurry := make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithValue(parent, hurryKey{}, hurry))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		for _, act := range []func(){cancel, func() { close(hurry) }} {
			select {
			case <-signals:
				act()
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		close(done)
		cancel()
	}
}

// hurried returns a channel that is closed when the user, having asked the
// program to stop, asks again. It is nil, and so never ready, where nobody
// listens for signals.
func hurried(ctx context.Context) <-chan struct{} {
	hurry, _ := ctx.Value(hurryKey{}).(chan struct{})
	return hurry
}

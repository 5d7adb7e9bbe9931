package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"attendant/imagebuilder"
	"attendant/imagebuilder/sample"
)

type demoCmd struct {
	Listen string        `default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Address to listen on."`
	Data   string        `type:"path" placeholder:"DIR" help:"Data folder to keep. Without it: a scratch folder that is removed at the end."`
	Slow   time.Duration `placeholder:"3s" help:"Make every build take at least this long."`
	Once   bool          `help:"End after the image."`
}

func (*demoCmd) Help() string {
	return `Starts a server with a small distribution of attendant's own as its upstream, asks it for an image as
a router would, and goes on serving. Needs no configuration and no internet.`
}

// What the demo asks for.
const (
	demoVersion  = "24.10.4"
	demoTarget   = "ath79/generic"
	demoProfile  = "tplink,archer-c7-v5" // as the router calls itself
	demoPackages = "luci tmux -ppp"
)

func (c *demoCmd) Run(p *program) (err error) {
	if c.Slow < 0 {
		return usagef("--slow: %s is negative", c.Slow)
	}
	data := c.Data
	if data == "" {
		data, err = os.MkdirTemp("", "attendant-demo-")
		if err != nil {
			return fmt.Errorf("make a scratch folder: %w", err)
		}
		defer func() { err = errors.Join(err, removeScratch(data)) }()
	}
	if data, err = filepath.Abs(data); err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	fmt.Fprintln(p.stdout, "Writing the sample distribution …")
	tree := filepath.Join(data, "sample")
	if err := sample.Write(tree, sample.Options{Slow: c.Slow}); err != nil {
		return fmt.Errorf("write the sample distribution: %w", err)
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w. Choose another address with --listen", c.Listen, err)
	}
	base := "http://" + reachableFromHere(l.Addr())

	cfg, err := demoConfig(data, base)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	_, key := sample.TrustedKey()
	a, err := newApplication(cfg, newLogger(cfg, p.stderr), extras{
		upstreamTree: http.FileServer(http.Dir(tree)), trustedKeys: [][]byte{key},
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer a.closeAndLog()

	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, hurried(p.ctx), l, nil) }()

	shown := make(chan error, 1)
	go func() { shown <- c.show(ctx, p, base) }()
	select {
	case err := <-ended:
		return err
	case err := <-shown:
		if err != nil || c.Once {
			stop()
			return errors.Join(err, <-ended)
		}
	}
	fmt.Fprintf(p.stdout, `
attendant goes on serving at %[1]s until Ctrl-C. Try:
  attendant build --server %[1]s --version %[2]s --target x86/64 --profile generic --packages "luci htop"
  curl %[1]s/json/v1/overview.json
  curl %[1]s/api/v1/build -d '{"version":"%[2]s","target":"%[3]s","profile":"tplink_archer-c7-v5","packages":["nosuchpackage"]}'
  %[1]s/docs in a browser; owut, auc or LuCI with this address as their server.
`, base, demoVersion, demoTarget)
	return <-ended
}

// demoConfig is the configuration of a demo: the defaults, whatever files and
// variables there are.
func demoConfig(data, base string) (*Config, error) {
	cfg, err := loadConfig(configSources{ignoreFile: true, dir: data, cpus: runtime.NumCPU(), flags: []flagValue{{"data", data}}})
	if err != nil {
		return nil, err
	}
	cfg.Upstream = base + "/upstream"
	cfg.AllowDefaults = true
	cfg.LogLevel = slog.LevelWarn // the demo tells by itself what happens
	return cfg, nil
}

// removeScratch removes a data folder, whose builders are read-only.
func removeScratch(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// reachableFromHere is a listener's address as a client on this machine uses it.
func reachableFromHere(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// show asks for an image as a client does and tells what happens.
func (c *demoCmd) show(ctx context.Context, p *program, base string) error {
	fmt.Fprintf(p.stdout, "Asking %s for %s, %s, with %q\n", base, demoVersion, demoProfile, demoPackages)
	begin := time.Now()
	built, err := c.requestImage(ctx, p, base)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout)
	for _, stage := range built.Stages {
		fmt.Fprintf(p.stdout, "  %-22s %6.2f s\n", stage.Stage, stage.Seconds)
	}
	fmt.Fprintf(p.stdout, "  %-22s %6.2f s\n\n", "from request to image", time.Since(begin).Seconds())
	for _, image := range built.Images {
		url := base + "/store/" + built.BinDir + "/" + image.Name
		sum, size, err := fetchSum(ctx, url)
		if err != nil {
			return err
		}
		if sum != image.SHA256 {
			return fmt.Errorf("%s has the SHA-256 %s, not %s as promised", url, sum, image.SHA256)
		}
		fmt.Fprintf(p.stdout, "%s (%s)\n  %s\n  %s (%d bytes), SHA-256 verified:\n  %s\n",
			image.Type, image.Filesystem, url, humanize.Bytes(uint64(size)), size, sum)
	}
	return nil
}

// demoImage is what the demo shows of a finished build.
type demoImage struct {
	BinDir string `json:"bin_dir"`
	Stages []struct {
		Stage   string  `json:"stage"`
		Seconds float64 `json:"seconds"`
	} `json:"stages"`
	Images []imagebuilder.Image `json:"images"`
}

// requestImage sends the request and follows it, as "attendant build" does.
func (c *demoCmd) requestImage(ctx context.Context, p *program, base string) (*demoImage, error) {
	body, err := json.Marshal(wireRequest{
		Version: demoVersion, Target: demoTarget, Profile: demoProfile, Packages: strings.Fields(demoPackages),
		Client: "attendant/" + readBuildInfo().Version,
	})
	if err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	client := newImageClient(base, newScreen(p.stdout))
	client.poll = 50 * time.Millisecond // stages are short here, and the way is too
	reply, err := client.await(ctx, body, "")
	client.screen.finish()
	if err != nil {
		return nil, err
	}
	var built demoImage
	return &built, getJSON(ctx, base+"/api/v1/build/"+reply.RequestHash, &built)
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// fetchSum downloads url and returns its SHA-256 in hex and its size in bytes.
func fetchSum(ctx context.Context, url string) (sum string, size int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("download the image: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("download the image: the server answered %s", resp.Status)
	}
	h := sha256.New()
	size, err = io.Copy(h, resp.Body)
	if err != nil {
		return "", 0, fmt.Errorf("download the image: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

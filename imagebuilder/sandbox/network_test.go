package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reaches tries, with bash's own sockets, to connect to a port of this machine.
const reaches = `exec 3<>/dev/tcp/127.0.0.1/%d && echo reached`

func TestCommandWithoutNetwork(t *testing.T) {
	if !networkNamespaces() {
		t.Log("this system grants no network namespaces; only that commands run all the same is checked")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	script := fmt.Sprintf(reaches, l.Addr().(*net.TCPAddr).Port)
	for _, cut := range []bool{false, true} {
		var h heard
		c := h.command(t.TempDir(), "bash", "-c", script)
		c.NoNetwork = cut
		if _, err := c.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		reached := strings.Join(h.out, "") == "reached"
		if reached == (cut && networkNamespaces()) {
			t.Errorf("without network %t: reached %t, %q", cut, reached, h.err)
		}
	}
	// Programs may still talk to themselves.
	var h heard
	c := h.command(t.TempDir(), "sh", "-c", "cat /proc/net/dev")
	c.NoNetwork = true
	if _, err := c.Run(t.Context()); err != nil || !strings.Contains(strings.Join(h.out, "\n"), "lo:") {
		t.Errorf("%v: %q", err, h.out)
	}
}

func TestReadOnlyFolders(t *testing.T) {
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		dir, feeds := t.TempDir(), t.TempDir()
		if err := os.WriteFile(filepath.Join(feeds, "list"), []byte("kept"), 0o644); err != nil {
			t.Fatal(err)
		}
		var h heard
		c := h.command(dir, "sh", "-c", `cat "$0/list"; echo changed >"$0/list"; chmod 777 "$0"; touch "$0/more"; echo here >own`, feeds)
		c.ReadOnly = []string{feeds}
		result, err := run(t.Context(), c)
		if err != nil || result.ExitCode != 0 || strings.Join(h.out, "") != "kept" {
			t.Fatalf("%+v, %v: %q %q", result, err, h.out, h.err)
		}
		data, err := os.ReadFile(filepath.Join(feeds, "list"))
		_, more := os.Stat(filepath.Join(feeds, "more"))
		mounted := strings.Contains(t.Name(), "granted") && namespaces().mount
		if changed := string(data) != "kept" || more == nil; err != nil || changed == mounted {
			t.Errorf("%q, %v; with a mount namespace: %t", data, err, mounted)
		}
	})
}

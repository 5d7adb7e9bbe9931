package sandbox

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// serverData is a server's data folder with secrets in it, and a token and a
// socket beside it.
func serverData(t *testing.T) (data, token, socket string) {
	t.Helper()
	dir := t.TempDir()
	data, token, socket = filepath.Join(dir, "data"), filepath.Join(dir, "token"), filepath.Join(dir, "s")
	for name, content := range map[string]string{
		token: "secret", filepath.Join(data, "legacy-signing.key"): "secret", filepath.Join(data, "attendant.db"): "secret",
		filepath.Join(data, "work/mine/own"): "mine", filepath.Join(data, "work/other/theirs"): "secret", filepath.Join(data, "images/x/image"): "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return data, token, socket
}

// snoop looks for secrets in a data folder ($0), its links ($1), a token ($2)
// and a socket ($3), and tries to uncover them.
const snoop = `umount "$0" "$2" 2>/dev/null
unshare -Urm sh -c 'umount -l "$0"; grep -rs secret "$0"' "$0" 2>/dev/null
grep -rs secret "$0" "$1/." "$2" /proc/1/cwd/x/image /proc/1/root"$0"
[ -S "$3" ] && echo "secret socket"
cat "$0/work/mine/own"; echo; echo changed >"$0/work/mine/own"
touch "$0/new" 2>/dev/null && echo "the cover can be written"
ls "$0" "$0/work"`

func TestHidden(t *testing.T) {
	inModes(t, func(t *testing.T, run func(context.Context, *Command) (Result, error)) {
		data, token, socket := serverData(t)
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(data, link); err != nil {
			t.Fatal(err)
		}
		t.Chdir(filepath.Join(data, "images"))
		mine := filepath.Join(data, "work", "mine")
		var h heard
		c := h.command(mine, "sh", "-c", snoop, data, link, token, socket)
		// In the order of no great care: links, twice, in each other, absent.
		c.Hidden = []string{filepath.Join(data, "attendant.db"), link, token, data, socket, filepath.Join(data, "none"), filepath.Join(data, "images")}
		c.Shown = []string{mine}
		if _, err := run(t.Context(), c); err != nil {
			t.Fatalf("%v: %q", err, h.err)
		}
		out := strings.Join(h.out, "\n")
		if strings.Contains(t.Name(), "none") || !namespaces().mount {
			if !strings.Contains(out, "secret") {
				t.Errorf("without namespaces the test found nothing: %q %q", h.out, h.err)
			}
		} else if want := []string{"mine", data + ":", "work", "", data + "/work:", "mine"}; !slices.Equal(h.out, want) {
			t.Errorf("the command sees\n%q, want\n%q", h.out, want)
		}
		if got, err := os.ReadFile(filepath.Join(mine, "own")); err != nil || string(got) != "changed\n" {
			t.Errorf("its own folder: %q, %v", got, err)
		}
		if got, err := os.ReadFile(filepath.Join(data, "attendant.db")); err != nil || string(got) != "secret" {
			t.Errorf("the server sees %q, %v", got, err)
		}
	})
}

// Layers work inside what is hidden, from one command to the next.
func TestLayerInHiddenFolder(t *testing.T) {
	for _, method := range methods(t) {
		t.Run(string(method), func(t *testing.T) {
			data, token, socket := serverData(t)
			lower := filepath.Join(data, "builders", "one")
			if err := os.Mkdir(filepath.Dir(lower), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := CopyTree(sharedTree(t), lower); err != nil {
				t.Fatal(err)
			}
			l, err := NewLayer(lower, filepath.Join(data, "work", "mine", "builder"), method)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				var h heard
				c := h.command("", "sh", "-ec", `cat Makefile; echo more >>Makefile; grep -rs secret "$0" "$1" || echo nothing`, data, token)
				c.Layer, c.Hidden = l, []string{data, token, socket}
				result, err := c.Run(t.Context())
				if err != nil || result.ExitCode != 0 {
					t.Fatalf("%+v, %v: %q", result, err, h.err)
				}
				if namespaces().mount && h.out[len(h.out)-1] != "nothing" {
					t.Errorf("it sees %q", h.out)
				}
			}
			if got, err := l.ReadFile("Makefile"); err != nil || string(got) != "all:\nmore\nmore\nmore\n" {
				t.Errorf("%q, %v", got, err)
			}
			if err := l.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHiddenFromAnotherUser(t *testing.T) {
	asNobody(t, "^(TestHidden|TestLayerInHiddenFolder)$")
}

func TestWhatCannotBeHidden(t *testing.T) {
	if !namespaces().mount {
		t.Log("this system grants no mount namespaces; nothing is hidden")
		return
	}
	var h heard
	c := h.command(t.TempDir(), "true")
	for _, bad := range []*Command{{Hidden: []string{"/"}}, {Hidden: []string{t.TempDir()}, Shown: []string{filepath.Join(t.TempDir(), "none")}}} {
		c.Hidden, c.Shown = bad.Hidden, bad.Shown
		if _, err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "hiding") {
			t.Errorf("hidden %q, shown %q: got %v", c.Hidden, c.Shown, err)
		}
	}
}

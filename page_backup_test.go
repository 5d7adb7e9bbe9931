package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// secret is in every file of a backup that is nobody's business.
const secret = "gehe1m"

// inTar is a file of an archive.
type inTar struct {
	name, content string
	change        func(*tar.Header)
}

// backupFiles are a backup's, as `sysupgrade -k -b` makes it; device tells
// whether it says which one it is of.
func backupFiles(device bool) []inTar {
	files := []inTar{
		{"etc/config/system", "config system\n\toption hostname '" + secret + "-node'\n", nil},
		{"etc/config/wireless", "config wifi-iface\n\toption key '" + secret + "'\n", nil},
		{"etc/shadow", "root:$5$" + secret + ":20000:0:99999:7:::\n", nil},
		{"etc/dropbear/dropbear_rsa_host_key", secret + strings.Repeat("\x00\x1f\x8b", 4000), nil},
		{"etc/" + strings.Repeat("long/", 40) + secret, secret, nil}, // GNU's and POSIX's long names
		{"etc/backup/installed_packages.txt", "base-files\trom\nluci\toverlay\nauc\toverlay\n" + secret + " is no package\ntmux\toverlay\nnot-known\tunknown\n", nil},
	}
	if device {
		files = append(files,
			inTar{"etc/board.json", `{"model":{"id":"tplink,archer-c7-v5","name":"TP-Link Archer C7 v5"},"credentials":{"root_password_hash":"` + secret + `"},"network":{"lan":{"macaddr":"` + secret + `"}}}`, nil},
			inTar{"etc/openwrt_release", "DISTRIB_ID='OpenWrt'\nDISTRIB_RELEASE='22.03.5'\nDISTRIB_REVISION='r20134-5f15225c1e'\nDISTRIB_TARGET='ath79/generic'\nDISTRIB_TAINTS='" + secret + "'\n", nil})
	}
	return files
}

// archive packs files into a tar archive.
func archive(t *testing.T, files []inTar) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o600, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if f.change != nil {
			f.change(h)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// offer chooses a file on the first page and waits for what becomes of it.
func (tb *tab) offer(name string, content []byte, becomes string) {
	tb.t.Helper()
	path := filepath.Join(tb.t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.t.Fatal(err)
	}
	tb.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#said").value = ""; document.querySelector("#file-is").textContent = ""`),
		chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
	tb.until(`(e => e.textContent && e.textContent !== e.dataset.reading)(document.querySelector("#file-is"))`)
	if got := eval[string](tb, `(e => Object.keys(e.dataset).find(k => e.textContent.replace(/\d+$/, "{n}") === e.dataset[k]) || e.textContent)(document.querySelector("#file-is"))`); got != becomes {
		tb.t.Errorf("%s became %q, want %q", name, got, becomes)
	}
}

// overheard passes everything on to the server and keeps what browsers send.
func overheard(t *testing.T, base string) (address string, sent func() string) {
	t.Helper()
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all strings.Builder
	proxy := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		fmt.Fprintln(&all, r.Method, r.URL, r.Header, string(body))
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// A backup is opened in the browser, and nothing of it leaves the browser but
// what the page says.
func pageBackup(t *testing.T, b *browser, base string) {
	address, sent := overheard(t, base)
	tb := b.tab(t, address)
	tb.open("/")
	tb.click("#paste summary")
	tb.look("backup-before")
	tb.offer("backup-"+secret+"-node-2026-10-30.tar.gz", packed(t, archive(t, backupFiles(true))), "taken")
	tb.look("backup")
	want := `{"board_name":"tplink,archer-c7-v5","model":"TP-Link Archer C7 v5"}
DISTRIB_RELEASE='22.03.5'
DISTRIB_REVISION='r20134-5f15225c1e'
DISTRIB_TARGET='ath79/generic'
base-files	rom
luci	overlay
auc	overlay
tmux	overlay
not-known	unknown
`
	if got := eval[string](tb, `document.querySelector("#said").value`); got != want {
		t.Errorf("of the backup was taken\n%s", got)
	}
	tb.click("#paste button")
	tb.see("#change")
	tb.see(`input[name=p][value=tmux]`)
	if text := tb.text("#editor"); !strings.Contains(text, "gets no more security fixes") {
		t.Errorf("the upgrade says: %s", text)
	}

	// Without a device in it, it is asked for, and the packages go along.
	tb.open("/")
	tb.click("#paste summary")
	tb.offer("backup.tar.gz", packed(t, archive(t, backupFiles(false))), "taken")
	tb.click("#paste button")
	tb.until(`document.querySelector("#search [name=have]")`)
	tb.look("backup-no-device")
	tb.typeIn("#q", "archer c7 v5")
	tb.until(`document.querySelector("#devices .hint")?.textContent.startsWith("Devices found") && document.querySelector("#devices strong").textContent.includes("Archer C7 v5")`)
	tb.click("#devices a")
	tb.see(`input[name=p][value=tmux]`)
	tb.look("backup-no-release")
	if strings.Contains(sent(), secret) {
		t.Errorf("a secret has left the browser:\n%s", sent())
	}
	if !strings.Contains(sent(), "tmux%09overlay") {
		t.Error("the package list was not seen on its way: the test shows nothing")
	}
}

// However a file is made, it is refused in a sentence, and soon.
func pageHostileFiles(t *testing.T, b *browser, base string) {
	const list = "etc/backup/installed_packages.txt"
	lines := "luci\toverlay\ntmux\toverlay\nauc\toverlay\n"
	good := archive(t, backupFiles(true))
	whole := packed(t, good)
	one := func(name, content string, change func(*tar.Header)) []byte {
		return packed(t, archive(t, []inTar{{name, content, change}}))
	}
	wrongSum, base256 := bytes.Clone(good), bytes.Clone(good)
	wrongSum[0] ^= 1
	copy(base256[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")
	sum := 0
	for i, c := range base256[:512] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(base256[148:156], fmt.Sprintf("%06o\x00 ", sum))
	files := []struct {
		name    string
		content []byte
		becomes string
	}{
		{"whole.tar.gz", whole, "taken"},
		{"unpacked.tar", archive(t, backupFiles(false)), "taken"}, // some browsers unpack what they download
		{"list.txt", []byte(lines), "text"},
		{"dots.tar.gz", one("./"+list, lines, nil), "taken"},
		{"cut.tar.gz", whole[:len(whole)/2], "damaged"},
		{"cut-inside.tar.gz", packed(t, good[:len(good)/2+100]), "damaged"},
		{"no-gzip.tar.gz", append([]byte{0x1f, 0x8b}, bytes.Repeat([]byte{7}, 5000)...), "damaged"},
		{"no-tar.gz", packed(t, bytes.Repeat([]byte("x"), 5000)), "damaged"},
		{"wrong-sum.tar.gz", packed(t, wrongSum), "damaged"},
		{"size-without-end.tar.gz", packed(t, base256), "damaged"},
		{"bomb.tar.gz", one("etc/zeros", strings.Repeat("\x00", 70<<20), nil), "large"},
		{"large-list.tar.gz", one(list, strings.Repeat(lines, 20_000), nil), "large"},
		{"many.tar.gz", packed(t, bytes.Repeat(archive(t, []inTar{{"a", "", nil}})[:512], 20_002)), "large"},
		{"large.bin", append([]byte{0x1f, 0x8b}, make([]byte, 33<<20)...), "large"},
		{"large.txt", bytes.Repeat([]byte("luci\n"), 100_000), "large"},
		{"above.tar.gz", one("../"+list, lines, nil), "nothing"},
		{"round-about.tar.gz", one("etc/backup/../backup/installed_packages.txt", lines, nil), "nothing"},
		{"folder.tar.gz", one(list+"/passwords", lines, nil), "nothing"},
		{"link.tar.gz", one(list, "", func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, "../shadow" }), "nothing"},
		{"otherwise-called.tar.gz", one(list, lines, func(h *tar.Header) {
			h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"ATTENDANT.note": "the next file is another"}
		}), "nothing"},
		{"prototype.tar.gz", one("constructor", lines, nil), "nothing"},
		{"no-names.tar.gz", one(list, "\tnothing\n$(reboot)\toverlay\n", nil), "nothing"},
		{"empty.tar.gz", packed(t, archive(t, nil)), "nothing"},
		{"picture.png", []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), "damaged"},
		{"empty.txt", nil, "damaged"},
	}
	tb := b.tab(t, base)
	tb.open("/")
	tb.click("#paste summary")
	for _, f := range files {
		tb.offer(f.name, f.content, f.becomes)
		if said := eval[string](tb, `document.querySelector("#said").value`); (said != "") != (f.becomes == "taken" || f.becomes == "text") {
			t.Errorf("of %s was taken %q", f.name, said)
		}
		if f.name == "no-gzip.tar.gz" || f.name == "link.tar.gz" {
			tb.look("backup-" + f.becomes)
		}
	}
}

// A browser that cannot unpack says so, and what to do.
func pageOldBrowser(t *testing.T, b *browser, base string) {
	tb := b.tab(t, base, command(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: "delete globalThis.DecompressionStream"}))
	tb.open("/")
	tb.click("#paste summary")
	tb.offer("backup.tar.gz", packed(t, archive(t, backupFiles(true))), "unsupported")
	tb.look("backup-unsupported")
	tb.offer("backup.tar", archive(t, backupFiles(false)), "taken")
}

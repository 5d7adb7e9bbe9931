package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// blast sends total requests over conns connections and returns requests per
// second and the latencies' median and 99th percentile. The client does as
// little as it can, so that the server is what is measured.
func blast(b *testing.B, addr, request string, conns, total int) (perSecond float64, p50, p99 time.Duration) {
	b.Helper()
	latencies := make([][]time.Duration, conns)
	var wg sync.WaitGroup
	begin := time.Now()
	for c := range conns {
		share := total / conns
		if c < total%conns {
			share++
		}
		wg.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 64<<10)
			taken := make([]time.Duration, 0, share)
			for range share {
				at := time.Now()
				if _, err := io.WriteString(conn, request); err != nil {
					b.Error(err)
					return
				}
				if err := skipReply(r); err != nil {
					b.Error(err)
					return
				}
				taken = append(taken, time.Since(at))
			}
			latencies[c] = taken
		})
	}
	wg.Wait()
	took := time.Since(begin)
	all := slices.Concat(latencies...)
	slices.Sort(all)
	if len(all) == 0 {
		b.Fatal("no request was answered")
	}
	return float64(len(all)) / took.Seconds(), all[len(all)/2], all[len(all)*99/100]
}

func skipReply(r *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) == 2 {
			break
		}
		if rest, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
	}
	_, err := r.Discard(length)
	return err
}

// owutBody is a request like owut's: sixty packages with versions.
func owutBody() string {
	versions := make([]string, 60)
	for i := range versions {
		versions[i] = fmt.Sprintf(`"kmod-some-package-%d":"6.6.110.%d-r1"`, i, i)
	}
	return `{"client":"owut/2026.04.09-r1","target":"ath79/generic","profile":"tplink_archer-c7-v5","version":"24.10.4","version_code":"r28959-29397011cc",` +
		`"filesystem":"squashfs","diff_packages":true,"packages_versions":{` + strings.Join(versions, ",") + `}}`
}

// wroteBytes is how many bytes this process has had written to disks.
func wroteBytes(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			v, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return v
		}
	}
	return 0
}

// BenchmarkCached measures what a finished build answers, beside a bare
// net/http handler that returns the same bytes after reading the request.
func BenchmarkCached(b *testing.B) {
	ts := start(b, nil)
	body := owutBody()
	hash := ts.post(body).hash()
	want := ts.await(hash)
	if want.status != 200 {
		b.Fatalf("%d %s", want.status, want.raw)
	}
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(want.raw)))
		_, _ = w.Write(want.raw)
	}))
	defer bare.Close()
	post := fmt.Sprintf("POST /api/v1/build HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	get := "GET /api/v1/build/" + hash + " HTTP/1.1\r\nHost: server\r\n\r\n"
	for _, kind := range []struct{ name, request string }{{"POST", post}, {"GET", get}} {
		for _, conns := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/conns=%d", kind.name, conns), func(b *testing.B) {
				wrote := wroteBytes(b)
				b.ResetTimer()
				rate, p50, p99 := blast(b, ts.addr, kind.request, conns, b.N)
				b.StopTimer()
				b.ReportMetric(float64(wroteBytes(b)-wrote), "disk-bytes")
				bareRate, bareP50, bareP99 := blast(b, bare.Listener.Addr().String(), kind.request, conns, b.N)
				b.ReportMetric(rate, "req/s")
				b.ReportMetric(rate/bareRate, "of-bare")
				b.ReportMetric(float64(p50.Microseconds()), "p50-µs")
				b.ReportMetric(float64(p99.Microseconds()), "p99-µs")
				b.ReportMetric(float64(bareP50.Microseconds()), "bare-p50-µs")
				b.ReportMetric(float64(bareP99.Microseconds()), "bare-p99-µs")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkDownload measures 16 MiB of image beside http.ServeFile, and beside
// nginx where that is installed.
func BenchmarkDownload(b *testing.B) {
	const size = 16 << 20
	ts := start(b, nil)
	ts.builder.size = size
	done := ts.await(ts.post(plainBody("luci")).hash())
	if done.status != 200 {
		b.Fatalf("%d %s", done.status, done.raw)
	}
	path := "/store/" + done.json["bin_dir"].(string) + "/openwrt-24.10.4-sysupgrade.bin"
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "image.bin"), ts.get(path).raw, 0o644); err != nil {
		b.Fatal(err)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(dir, "image.bin"))
	}))
	defer plain.Close()
	request := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: server\r\n\r\n" }
	nginx := startNginx(b, dir)
	for _, conns := range []int{1, 16} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			rate, _, _ := blast(b, ts.addr, request(path), conns, b.N)
			b.StopTimer()
			plainRate, _, _ := blast(b, plain.Listener.Addr().String(), request("/"), conns, b.N)
			b.ReportMetric(rate*size/1e6, "MB/s")
			b.ReportMetric(rate/plainRate, "of-ServeFile")
			if nginx != "" {
				nginxRate, _, _ := blast(b, nginx, request("/image.bin"), conns, b.N)
				b.ReportMetric(rate/nginxRate, "of-nginx")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// startNginx serves dir by nginx and returns its address; "" without nginx.
func startNginx(b *testing.B, dir string) string {
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return ""
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	conf := filepath.Join(b.TempDir(), "nginx.conf")
	text := fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 2;
events { worker_connections 256; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen %[2]s; root %[3]s; } }
`, filepath.Dir(conf), addr, dir)
	if os.Getuid() == 0 {
		text = "user root;\n" + text // the folder is this user's alone
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-c", conf)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	for range 100 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return addr
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatal("nginx does not answer")
	return ""
}

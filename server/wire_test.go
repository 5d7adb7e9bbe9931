package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// raw sends text to the server as it is and returns the reply's head and body.
func (ts *testServer) raw(request string) (status string, header map[string]string, body []byte) {
	ts.t.Helper()
	conn, err := net.Dial("tcp", ts.addr)
	if err != nil {
		ts.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		ts.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	status, err = r.ReadString('\n')
	if err != nil {
		ts.t.Fatalf("%.60q: %v", request, err)
	}
	header = map[string]string{}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			ts.t.Fatal(err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		header[strings.ToLower(name)] = value
	}
	body, err = io.ReadAll(r)
	if err != nil {
		ts.t.Fatal(err)
	}
	return strings.TrimSpace(status), header, body
}

// chunked is a POST as owut and auc send it: chunked, without a length.
func chunked(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: server\r\nUser-Agent: owut/x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", path, len(body), body)
}

func plainGet(method, path string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"
}

// The rules that every reply keeps, looked at byte by byte: contract "What the
// clients need", sections 2 and 7.
func TestWireRules(t *testing.T) {
	ts := start(t, nil)
	done := ts.post(plainBody("luci")).hash()
	ts.await(done)
	file := "/store/" + done + "/openwrt-24.10.4-sysupgrade.bin"
	requests := map[string]string{
		"overview":        plainGet("GET", "/json/v1/overview.json"),
		"branches":        plainGet("GET", "/json/v1/branches.json"),
		"latest":          plainGet("GET", "/json/v1/latest.json"),
		"overview v1":     plainGet("GET", "/api/v1/overview"),
		"overview v0":     plainGet("GET", "/api/overview"),
		"overview bare":   plainGet("GET", "/overview?1732370000123"),
		"latest v1":       plainGet("GET", "/api/v1/latest"),
		"double slashes":  plainGet("GET", "//json/v1/overview.json"),
		"many slashes":    plainGet("GET", "///json//v1///branches.json?x"),
		"profile":         plainGet("GET", "/json/v1/releases/24.10.4/targets/ath79/generic/tplink_archer-c7-v5.json"),
		"no such profile": plainGet("GET", "/json/v1/releases/24.10.4/targets/ath79/generic/nope.json"),
		"target index":    plainGet("GET", "/json/v1/releases/24.10.4/targets/ath79/generic/index.json"),
		"arch index":      plainGet("GET", "/json/v1/releases/24.10.4/packages/mips_24kc-index.json"),
		"revision":        plainGet("GET", "/api/v1/revision/24.10.4/ath79/generic"),
		"bad revision":    plainGet("GET", "/api/v1/revision/9.9/ath79/generic"),
		"stats":           plainGet("GET", "/api/v1/stats"),
		"per day":         plainGet("GET", "/api/v1/builds-per-day"),
		"not found":       plainGet("GET", "/nothing/here"),
		"no store file":   plainGet("GET", "/store/"+done+"/nope.bin"),
		"no hash":         plainGet("GET", "/api/v1/build/xyz"),
		"wrong method":    plainGet("DELETE", "/api/v1/build/"+done),
		"POST":            chunked("/api/v1/build", plainBody("luci")),
		"POST slashes":    chunked("//api/v1/build?1732370000", plainBody("luci")),
		"POST bad":        chunked("/api/v1/build", `{"version":"x"}`),
		"POST pending":    chunked("/api/v1/build", plainBody("other")),
		"POST empty":      "POST /api/v1/build HTTP/1.1\r\nHost: server\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		"status":          plainGet("GET", "/api/v1/build/"+done),
		"HEAD":            plainGet("HEAD", "/api/v1/build/"+done),
		"HEAD unknown":    plainGet("HEAD", "/api/v1/build/abc"),
		"file":            plainGet("GET", file+"?1732370000"),
		"HEAD file":       plainGet("HEAD", file),
		"range":           "GET " + file + " HTTP/1.1\r\nHost: server\r\nConnection: close\r\nRange: bytes=100-199\r\n\r\n",
		"bad range":       "GET " + file + " HTTP/1.1\r\nHost: server\r\nConnection: close\r\nRange: bytes=999999999-\r\n\r\n",
		"bad condition":   "GET " + file + " HTTP/1.1\r\nHost: server\r\nConnection: close\r\nIf-Match: \"x\"\r\n\r\n",
		"preflight":       plainGet("OPTIONS", "/api/v1/build"),
		"preflight hash":  plainGet("OPTIONS", "//api/v1/build/"+done+"?173"),
		"preflight store": plainGet("OPTIONS", file),
		"openapi":         plainGet("GET", "/api/v1/openapi.json"),
		"docs":            plainGet("GET", "/docs"),
		"home":            plainGet("GET", "/"),
		"health":          plainGet("GET", "/healthz"),
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			status, header, body := ts.raw(request)
			code, err := strconv.Atoi(strings.Fields(status)[1])
			if err != nil || code < 200 || code == 301 || code == 303 || code == 307 || code == 308 {
				t.Errorf("the status line is %q", status)
			}
			if header["access-control-allow-origin"] != "*" {
				t.Errorf("no CORS: %v", header)
			}
			length, err := strconv.Atoi(header["content-length"])
			if err != nil {
				t.Fatalf("no Content-Length: %v", header)
			}
			if header["transfer-encoding"] != "" || header["content-encoding"] != "" {
				t.Errorf("encoded: %v", header)
			}
			if strings.HasPrefix(request, "HEAD") {
				if len(body) != 0 {
					t.Errorf("HEAD has a body of %d bytes", len(body))
				}
				return
			}
			if len(body) != length {
				t.Errorf("Content-Length %d, %d bytes came", length, len(body))
			}
			if header["content-type"] == "application/json" {
				if end := body[len(body)-1]; end != '}' && end != ']' {
					t.Errorf("the body ends in %q", end)
				}
				if code >= 400 && !bytes.Contains(body, fmt.Appendf(nil, `"status":%d,"detail":"`, code)) {
					t.Errorf("error body %s", body)
				}
			} else if code >= 400 {
				t.Errorf("an error of type %q", header["content-type"])
			}
			if strings.HasPrefix(request, "OPTIONS") {
				if code != 200 && code != 204 || !strings.Contains(header["access-control-allow-methods"], "POST") ||
					!strings.Contains(strings.ToLower(header["access-control-allow-headers"]), "content-type") {
					t.Errorf("preflight: %s %v", status, header)
				}
			}
		})
	}
}

func TestRangesOfAFile(t *testing.T) {
	ts := start(t, nil)
	done := ts.post(plainBody("luci")).hash()
	ts.await(done)
	path := "/store/" + done + "/openwrt-24.10.4-sysupgrade.bin"
	whole := ts.get(path)
	req, _ := http.NewRequest(http.MethodGet, ts.base+path, nil)
	req.Header.Set("Range", "bytes=1000-")
	req.Header.Set("If-Range", whole.header.Get("ETag"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	part, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 206 || !bytes.Equal(part, whole.raw[1000:]) {
		t.Errorf("%s, %d bytes", resp.Status, len(part))
	}
	for _, name := range []string{"..%2f..%2fattendant.db", "%2e%2e", ".hidden", "x%00y"} {
		if a := ts.get("/store/" + done + "/" + name); a.status != 404 {
			t.Errorf("%s: %d", name, a.status)
		}
	}
}

// A slow client gets its image although single writes take far longer than the
// limit for standing still; one that stands still is dropped.
func TestSlowAndStalledDownloads(t *testing.T) {
	ts := start(t, func(o *Options) { o.StallTimeout = 2500 * time.Millisecond })
	ts.builder.size = 24 << 20 // more than the kernel buffers on loopback
	done := ts.post(plainBody("luci")).hash()
	ts.await(done)
	request := plainGet("GET", "/store/"+done+"/openwrt-24.10.4-sysupgrade.bin")

	open := func() net.Conn {
		conn, err := net.Dial("tcp", ts.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		return conn
	}

	t.Run("slow", func(t *testing.T) {
		conn := open()
		defer conn.Close()
		// A trickle at which the file takes minutes, for several times the limit.
		buf := make([]byte, 16<<10)
		for range 60 {
			if _, err := io.ReadFull(conn, buf); err != nil {
				t.Fatalf("a slow client was dropped: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		rest, err := io.Copy(io.Discard, conn)
		if err != nil || rest < 24<<20-60*16<<10 {
			t.Errorf("the rest: %d bytes, %v", rest, err)
		}
	})
	t.Run("stalled", func(t *testing.T) {
		conn := open()
		defer conn.Close()
		time.Sleep(6 * time.Second)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := io.Copy(io.Discard, conn)
		if n >= 24<<20 {
			t.Error("a client that stood still got the whole file")
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Error("the connection stays open")
		}
	})
}

// A body that is promised and does not come holds nobody up, whatever the
// address: the answer comes, and the connection ends.
func TestBodiesThatStandStill(t *testing.T) {
	ts := start(t, func(o *Options) { o.BodyStall = 300 * time.Millisecond })
	for name, request := range map[string]string{
		"unread":    "POST /nothing HTTP/1.1\r\nHost: server\r\nContent-Length: 10\r\n\r\n",
		"GET":       "GET /api/v1/stats HTTP/1.1\r\nHost: server\r\nContent-Length: 10\r\n\r\n",
		"build":     "POST /api/v1/build HTTP/1.1\r\nHost: server\r\nContent-Length: 100\r\n\r\n{\"version\"",
		"chunked":   "POST /api/v1/build HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ver",
		"preflight": "OPTIONS /api/v1/build HTTP/1.1\r\nHost: server\r\nContent-Length: 10\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			status, _, _ := ts.raw(request)
			if !strings.HasPrefix(status, "HTTP/1.1 ") {
				t.Errorf("answered %q", status)
			}
		})
	}
}

// A keep-alive connection outlives a body's limit of time.
func TestBodyLimitEndsWithTheBody(t *testing.T) {
	ts := start(t, func(o *Options) { o.BodyStall = 200 * time.Millisecond })
	conn, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	body := plainBody("luci")
	for range 2 {
		fmt.Fprintf(conn, "POST /api/v1/build HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode > 202 {
			t.Fatalf("%s %v", resp.Status, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func TestLargeBodiesAreLimited(t *testing.T) {
	ts := start(t, nil)
	for range maxLargeBodies {
		ts.server.largeBodies <- struct{}{}
	}
	large := plainBody("luci", strings.Repeat("x", bodyAtOnce))
	if a := ts.post(large); a.status != 503 || a.json["code"] != "busy" {
		t.Errorf("got %d %s", a.status, a.raw)
	}
	if a := ts.post(plainBody("luci")); a.status > 202 {
		t.Errorf("a small one: %d %s", a.status, a.raw)
	}
	for range maxLargeBodies {
		<-ts.server.largeBodies
	}
	if a := ts.post(large); a.status != 422 {
		t.Errorf("got %d %s", a.status, a.raw)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &limitListener{Listener: inner, free: make(chan struct{}, 1), closed: make(chan struct{})}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Config.ConnState = l.connState
	srv.Start()
	defer srv.Close()
	ask := func(conn net.Conn, wait time.Duration) error {
		_ = conn.SetDeadline(time.Now().Add(wait))
		if _, err := io.WriteString(conn, plainGet("GET", "/")); err != nil {
			return err
		}
		_, err := bufio.NewReader(conn).ReadString('\n')
		return err
	}
	idle, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // it has been accepted
	second, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := ask(second, 200*time.Millisecond); err == nil {
		t.Error("the second connection was served beside the first")
	}
	idle.Close()
	third, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	second.Close()
	if err := ask(third, 10*time.Second); err != nil {
		t.Errorf("no place was freed: %v", err)
	}
}

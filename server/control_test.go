package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"attendant/imagebuilder"
	"attendant/store"
)

type recorder struct {
	*httptest.ResponseRecorder
	request *http.Request
}

func newRecorder() recorder {
	return recorder{httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)}
}

func TestControlSocket(t *testing.T) {
	ts := start(t, nil)
	ts.holdBuilds()
	building, queued := ts.post(plainBody("a")).hash(), ts.post(plainBody("b")).hash()

	path := filepath.Join(t.TempDir(), "control.sock")
	if err := os.WriteFile(path, []byte("a configuration"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(path); err == nil {
		t.Fatal("a file that is no socket was replaced")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}) // as a crash leaves it
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ts.server.ServeControl(ctx, l); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	if _, err := ListenControl(path); err == nil {
		t.Error("a second server took the socket")
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	call := func(method, path string) (int, []byte) {
		req, _ := http.NewRequest(method, "http://control"+path, nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}

	_, body := call(http.MethodGet, "/jobs")
	var jobs []ControlJob
	if err := json.Unmarshal(body, &jobs); err != nil || len(jobs) != 2 || jobs[1].Hash != queued || jobs[1].Position != 1 {
		t.Errorf("jobs: %s %v", body, err)
	}
	for _, hash := range []string{queued, building} {
		if status, body := call(http.MethodPost, "/cancel/"+hash); status != 200 || !bytes.Contains(body, []byte("being ended")) {
			t.Errorf("cancel: %d %s", status, body)
		}
		if a := ts.await(hash); a.status != 500 || a.json["code"] != string(imagebuilder.CodeCanceled) {
			t.Errorf("a cancelled job: %d %s", a.status, a.raw)
		}
	}
	ts.builder.mu.Lock()
	ts.builder.hold = nil
	ts.builder.mu.Unlock()
	done := ts.post(plainBody("kept")).hash()
	if a := ts.await(done); a.status == 200 {
		if status, body := call(http.MethodPost, "/evict/"+done); status != 200 || !bytes.Contains(body, []byte(`"The image is dropped."`)) {
			t.Errorf("evict: %d %s", status, body)
		}
		if a := ts.get("/api/v1/build/" + done); a.status != 404 {
			t.Errorf("an evicted image: %d %s", a.status, a.raw)
		}
	} else {
		t.Errorf("got %d %s", a.status, a.raw)
	}
	if status, _ := call(http.MethodPost, "/cancel/"+building[:10]); status != 404 {
		t.Errorf("cancel of nothing: %d", status)
	}
	if status, body := call(http.MethodGet, "/check"); status != 200 || string(body) != "[]" {
		t.Errorf("check: %d %s", status, body)
	}
	_, copied := call(http.MethodGet, "/backup")
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(backup, copied, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(backup, store.Options{})
	if err != nil {
		t.Fatalf("the backup: %v", err)
	}
	defer db.Close()
	if job, err := db.Job(queued); err != nil || job.State != imagebuilder.Failed {
		t.Errorf("in the backup: %+v %v", job, err)
	}
}

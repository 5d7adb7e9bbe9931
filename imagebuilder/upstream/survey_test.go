package upstream

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestSyncAsksForAllDataInUse(t *testing.T) {
	now := newClock()
	f := newFake(t, sampleTree("r1-aaa", "one", nil))
	u := openTest(t, Options{URL: f.URL, Now: now.Now})
	mustTarget(t, u)
	settle(t, u)
	names := func() (names []string, failing int) {
		for _, d := range u.Documents() {
			names = append(names, d.Name)
			if d.Err != nil {
				failing++
			}
		}
		return names, failing
	}
	absent := 0 // told apart from what could not be had
	for _, d := range u.Documents() {
		if d.Absent {
			absent++
		}
		if d.Absent != (d.Err != nil) {
			t.Errorf("%+v", d)
		}
	}
	if absent == 0 {
		t.Error("upstream has everything: the test shows nothing")
	}
	got, failing := names()
	for _, want := range []string{"versions", "targets releases/24.10.1", "target 24.10.1 " + testTarget, "packages 24.10.1 " + testArch} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %q", want, got)
		}
	}
	if checked, stale := u.Freshness(); failing != 0 && stale || checked.IsZero() {
		t.Errorf("checked %v, stale %t", checked, stale)
	}

	// Upstream goes away, and data is renewed in vain.
	f.misbehave(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	now.add(3 * time.Hour)
	u.Sync()
	second(u.overview.fresh(t.Context(), false)) //nolint:errcheck // it is held
	settle(t, u)
	if _, stale := u.Freshness(); !stale {
		t.Error("an upstream that fails is not stale")
	}

	// It comes back with something new. Nothing is due, as the last tries failed just now.
	f.set(sampleTree("r2-bbb", "two", nil))
	f.misbehave(nil)
	if n := u.Sync(); n < 4 {
		t.Errorf("%d documents", n)
	}
	second(u.overview.fresh(t.Context(), false)) //nolint:errcheck // it is held
	settle(t, u)
	if g := mustTarget(t, u).Generation; g.Revision != "r2-bbb" {
		t.Errorf("the target was not looked at: %+v", g)
	}
	if checked, stale := u.Freshness(); stale || !checked.Equal(now.Now()) {
		t.Errorf("checked %v, stale %t", checked, stale)
	}
	for _, d := range u.Documents() {
		if (d.Name == "versions" || d.Name == "target 24.10.1 "+testTarget) && (d.Stale || d.Err != nil || d.Bytes == 0 || !d.Checked.Equal(now.Now())) {
			t.Errorf("%+v", d)
		}
	}

	// What nobody uses is left alone.
	now.add(30 * 24 * time.Hour)
	before := f.count("releases/24.10.1/targets/" + testTarget + "/sha256sums")
	u.Sync()
	second(u.overview.fresh(t.Context(), false)) //nolint:errcheck // it is held
	if n := f.count("releases/24.10.1/targets/" + testTarget + "/sha256sums"); n != before {
		t.Errorf("an unused target was asked for %d times", n-before)
	}
	openTest(t, Options{URL: "http://127.0.0.1:1"}).Sync() // nothing is known yet
}

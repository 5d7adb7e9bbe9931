package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func openAt(t *testing.T, path string, now *time.Time) *DB {
	t.Helper()
	db, err := Open(path, Options{NoSync: true, Now: func() time.Time { return *now }})
	must(t, err)
	t.Cleanup(func() {
		if !db.closed {
			check(t, db)
			must(t, db.Close())
		}
	})
	return db
}

func TestDaysAreCountedOverARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	now := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	db := openAt(t, path, &now)
	s := db.Statistics()
	s.Count(Requests)
	s.Count(Requests)
	s.Hit(90 * time.Second)
	now = now.Add(2 * time.Minute)
	s.Count(Requests)
	s.Count(CacheMisses)
	s.Built("24.10.4", []string{"luci", "-ppp", "", "luci-ssl"})
	s.BuildFailed("24.10.4", "ath79/generic", "x", "Error")
	must(t, db.Close())

	db = openAt(t, path, &now)
	days := db.Statistics().Days(30)
	if len(days) != 30 || days[29].Date != time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) {
		t.Fatalf("days: %v", days)
	}
	want := []Day{
		{Date: time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC)},
		{Date: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Counts: [eventCount]int64{Requests: 2, CacheHits: 1, SavedMilliseconds: 90_000}},
		{Date: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), Counts: [eventCount]int64{Requests: 1, CacheMisses: 1, Successes: 1, Failures: 1}},
	}
	if diff := cmp.Diff(want, days[27:]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]PackageCount{{"luci", 1}, {"luci-ssl", 1}}, db.Statistics().TopPackages("24.10", 10)); diff != "" {
		t.Error(diff)
	}
	if top := db.Statistics().TopPackages("23.05", 10); len(top) != 0 {
		t.Errorf("another branch has %v", top)
	}
}

func TestSuccessesOfTheLastDay(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	db := openAt(t, filepath.Join(t.TempDir(), "db"), &now)
	s := db.Statistics()
	for range 30 {
		s.Built("24.10.4", nil)
		now = now.Add(time.Hour)
	}
	now = now.Add(-time.Hour)
	if n := s.Successes24h(); n != 24 {
		t.Errorf("%d successes in 24 hours", n)
	}
	now = now.Add(48 * time.Hour)
	if n := s.Successes24h(); n != 0 {
		t.Errorf("%d successes after two days", n)
	}
}

func TestVersionsBySpansOfSevenDays(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db := openAt(t, filepath.Join(t.TempDir(), "db"), &now)
	s := db.Statistics()
	s.Built("24.10.3", nil)
	now = now.AddDate(0, 0, 6)
	s.Built("24.10.4", nil)
	now = now.AddDate(0, 0, 1)
	s.Built("24.10.4", nil)

	starts, counts := s.Versions(26)
	if len(starts) != 26 || starts[25] != time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) {
		t.Errorf("starts: %v", starts)
	}
	if diff := cmp.Diff(map[string][]int64{
		"24.10.3": append(make([]int64, 24), 1, 0),
		"24.10.4": append(make([]int64, 24), 0, 2),
	}, counts); diff != "" {
		t.Error(diff)
	}
}

func TestStatisticsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	db := openAt(t, path, &now)
	s := db.Statistics()
	packages := make([]string, 2*maxPackages)
	for i := range packages {
		packages[i] = fmt.Sprintf("package-%d", i)
	}
	for day := range keptDays + 20 {
		for v := range maxVersions + 10 {
			s.Built(fmt.Sprintf("%d.%d.0", v, day), nil)
		}
		if day%30 == 0 {
			s.Built("24.10.4", packages)
		}
		now = now.AddDate(0, 0, 1)
	}
	for i := range errorLines + 700 {
		s.BuildFailed("24.10.4", "ath79/generic", "x", fmt.Sprint("error ", i))
		if i%unsavedErrors == unsavedErrors-1 {
			must(t, s.Save())
		}
	}
	must(t, db.Close())

	db = openAt(t, path, &now)
	s = db.Statistics()
	if len(s.days) != keptDays {
		t.Errorf("%d days are kept", len(s.days))
	}
	for _, d := range s.days {
		if len(d.Versions) > maxVersions+1 {
			t.Fatalf("%d versions on one day", len(d.Versions))
		}
	}
	periods := map[int64]int{}
	for k, counts := range s.packages {
		periods[k.period]++
		if len(counts) > maxPackages {
			t.Errorf("%d packages of %v", len(counts), k)
		}
	}
	if len(periods) > keptPeriods {
		t.Errorf("%d periods are kept", len(periods))
	}
	for p, branches := range periods {
		if branches > maxBranches+1 {
			t.Errorf("%d branches in period %d", branches, p)
		}
	}
	lines, err := s.BuildErrors(1 << 20)
	must(t, err)
	if len(lines) != errorLines || !strings.HasSuffix(lines[0], fmt.Sprint("error ", errorLines+699)) {
		t.Errorf("%d lines, the last %q", len(lines), lines[0])
	}
	if lines, err := s.BuildErrors(3); err != nil || len(lines) != 3 {
		t.Errorf("asked for 3: %d, %v", len(lines), err)
	}
}

func TestAWrongClockTakesNothingAway(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db := openAt(t, filepath.Join(t.TempDir(), "db"), &now)
	s := db.Statistics()
	s.Count(Requests)
	for _, year := range []int{1970, 1969, 2106} {
		now = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		s.Count(Requests)
		s.Built("24.10.4", []string{"luci"})
		s.BuildFailed("24.10.4", "ath79/generic", "x", "e")
		if got := s.Days(30); got[29].Count(Requests) != 1 {
			t.Errorf("%d: %v", year, got[29])
		}
		s.Versions(26)
	}
	must(t, s.Save())
	now = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	if got := s.Days(2); got[0].Count(Requests) != 1 {
		t.Errorf("yesterday: %v", got)
	}
}

func TestBuildErrorLines(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	db := openAt(t, filepath.Join(t.TempDir(), "db"), &now)
	hash := hashOf("x")
	tests := []struct{ profile, sentence, want string }{
		{"tplink_archer-c7-v5", "Error: it\n\tbroke", "2026-03-01 11:00:00 24.10.4:ath79/generic:tplink_archer-c7-v5 Error: it broke"},
		{"x", "see " + hash + "/log", "2026-03-01 11:00:00 24.10.4:ath79/generic:x see [hash]/log"},
		{"x", "see " + hash + hash + ".", "2026-03-01 11:00:00 24.10.4:ath79/generic:x see [hash]."},
		{"x", "r28427-6df0e3d02a is another", "2026-03-01 11:00:00 24.10.4:ath79/generic:x r28427-6df0e3d02a is another"},
		{"evil\n2026-01-01", "\x1b[31mred\xff", "2026-03-01 11:00:00 24.10.4:ath79/generic:evil 2026-01-01 [31mred?"},
		{"x", strings.Repeat("ü", 150), "2026-03-01 11:00:00 24.10.4:ath79/generic:x " + strings.Repeat("ü", 100)},
		{"x", strings.Repeat("a", 63) + "ü" + strings.Repeat("b", 500), "2026-03-01 11:00:00 24.10.4:ath79/generic:x " + strings.Repeat("a", 63) + "ü[hash]"},
	}
	for _, test := range tests {
		db.Statistics().BuildFailed("24.10.4", "ath79/generic", test.profile, test.sentence)
		got, err := db.Statistics().BuildErrors(1)
		must(t, err)
		if got[0] != test.want {
			t.Errorf("got  %q\nwant %q", got[0], test.want)
		}
	}
}

func TestNothingChangedNothingWritten(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	s := db.Statistics()
	s.Count(Requests)
	must(t, s.Save())
	before := transactions(t, db)
	must(t, s.Save())
	must(t, s.Save())
	if after := transactions(t, db); after != before {
		t.Errorf("%d transactions were written", after-before)
	}
	s.Count(Requests)
	must(t, s.Save())
	if after := transactions(t, db); after != before+1 {
		t.Errorf("%d transactions were written", after-before)
	}
}

func transactions(t *testing.T, db *DB) int {
	t.Helper()
	tx, err := db.bolt.Begin(false)
	must(t, err)
	defer tx.Rollback()
	return tx.ID()
}

func TestRunSavesNowAndThen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		ctx := t.Context()
		go db.Run(ctx)
		db.Statistics().Count(Requests)
		before := transactions(t, db)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := transactions(t, db) - before; n != 1 {
			t.Errorf("%d savings of one change in an hour", n)
		}
	})
}

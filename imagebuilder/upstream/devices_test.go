package upstream

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

// realDevices is the list of devices of a real release.
func realDevices(t testing.TB) *Devices {
	t.Helper()
	list, err := parseDevices(read(t, "overview-24.10.0.json"))
	if err != nil {
		t.Fatal(err)
	}
	table := &Devices{versions: []string{"24.10.0"}}
	for _, d := range list {
		table.devices = append(table.devices, Device{Profile: d.profile, Target: d.target, Titles: d.titles, Versions: table.versions})
	}
	table.prepare()
	return table
}

func TestSearchFindsDevices(t *testing.T) {
	table := realDevices(t)
	for _, tt := range []struct {
		query string
		total int      // 0 is not looked at
		first []string // ids of the best, in order
	}{
		{"TP-Link Archer C7 v5", 0, []string{"tplink_archer-c7-v5"}},
		{"archer c7", 4, []string{"tplink_archer-c7-v1", "tplink_archer-c7-v2", "tplink_archer-c7-v4", "tplink_archer-c7-v5"}},
		{"archerc7v5", 0, []string{"tplink_archer-c7-v5"}},
		{"tplink_archer-c7-v5", 0, []string{"tplink_archer-c7-v5"}},
		{"wdr4300", 2, []string{"tplink_tl-wdr4300-v1", "tplink_tl-wdr4300-v1-il"}},
		{"TL WDR4300", 2, []string{"tplink_tl-wdr4300-v1"}},
		{"nanostaton loco", 2, []string{"ubnt_nanostation-ac-loco", "ubnt_nanostation-loco-m-xw"}},
		{"ubiqiuti nanostation", 4, []string{"ubnt_nanostation-ac"}},
		{"glinet", 0, []string{"glinet_6408"}}, // GL.iNet
		{"x86", 1, []string{"generic"}},
		{"wdr4301", 0, nil},               // another number is another device
		{"Archer C7 v5 Fritzbox", 0, nil}, // every word counts
		{"avm", 5, []string{"avm_fritz4020"}},
		{strings.Repeat("archer ", 400), 0, nil},
		{"\x00 %$ ", 384, nil}, // nothing that could be looked for
	} {
		total, found := table.Search(tt.query, "", nil, 0, 10)
		var ids []string
		for _, d := range found {
			ids = append(ids, d.Profile)
		}
		if tt.total != 0 && total != tt.total || tt.total == 0 && tt.first == nil && !strings.HasPrefix(tt.query, "archer") && total != 0 ||
			len(ids) < len(tt.first) || !slices.Equal(ids[:len(tt.first)], tt.first) {
			t.Errorf("%q: %d found, first %v; want %d, first %v", tt.query, total, ids, tt.total, tt.first)
		}
	}
}

func TestSearchPages(t *testing.T) {
	table := realDevices(t)
	all := map[string]bool{}
	total, _ := table.Search("", "", nil, 0, 0)
	for offset := 0; offset < total+50; offset += 50 {
		n, found := table.Search("", "", nil, offset, 50)
		if n != total || offset >= total && len(found) != 0 {
			t.Fatalf("offset %d: %d of %d, total %d", offset, len(found), total, n)
		}
		for _, d := range found {
			all[d.Target+" "+d.Profile] = true
		}
	}
	if len(all) != total || total != 384 {
		t.Errorf("%d of %d devices on all pages", len(all), total)
	}
	if n, found := table.Search("", "x86/64", nil, 0, 50); n != 1 || found[0].Profile != "generic" {
		t.Errorf("x86/64 has %d devices: %v", n, found)
	}
	if n, found := table.Search("archer", "", nil, -5, -5); n == 0 || len(found) != 0 {
		t.Errorf("negative bounds gave %d, %v", n, found)
	}
	// By brand, then model as people count.
	_, found := table.Search("archer c7", "", nil, 0, 4)
	if got := found[3].Title(); got != "TP-Link Archer C7 v5" {
		t.Errorf("fourth is %q", got)
	}
}

// TestSearchProperties: a device is found by its title, in any case and with
// any punctuation, and no query breaks anything.
func TestSearchProperties(t *testing.T) {
	table := realDevices(t)
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom(table.devices).Draw(t, "device")
		title := d.Title()
		words := split(title)
		if len(words) > maxQueryWords {
			return
		}
		separator := rapid.SampledFrom([]string{" ", "-", " / ", "_"}).Draw(t, "separator")
		query := strings.ToUpper(strings.Join(words, separator))
		total, found := table.Search(query, "", nil, 0, 100)
		if total == 0 || total <= 100 && !slices.ContainsFunc(found, func(f Device) bool { return f.Profile == d.Profile }) {
			t.Fatalf("%q does not find %s", query, d.Profile)
		}
		n, rest := table.Search(rapid.String().Draw(t, "query"), rapid.SampledFrom([]string{"", "x86/64"}).Draw(t, "target"), nil, rapid.Int().Draw(t, "offset"), 20)
		if len(rest) > 20 || n > len(table.devices) {
			t.Fatalf("%d of %d", len(rest), n)
		}
	})
}

func TestTypos(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"archer", "archer", 0}, {"archer", "arhcer", 1}, {"archer", "acher", 1}, {"archer", "archers", 1},
		{"archer", "arxher", 1}, {"archer", "rahcer", 2}, {"archer", "nano", 3}, {"", "ab", 2}, {"ü", "u", 1},
	} {
		if got := typos(tt.a, tt.b, 2); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if typos(tt.a, tt.b, 2) != typos(tt.b, tt.a, 2) {
			t.Errorf("%q, %q: not the same in both directions", tt.a, tt.b)
		}
	}
}

// listOf is a release's .overview.json.
func listOf(release string, devices ...string) string {
	var rows []string
	for _, d := range devices {
		target, id, _ := strings.Cut(d, " ")
		rows = append(rows, fmt.Sprintf(`{"id":%q,"target":%q,"titles":[{"vendor":"Brand","model":%q}]}`, id, target, release+" "+id))
	}
	return fmt.Sprintf(`{"release":%q,"profiles":[%s]}`, release, strings.Join(rows, ","))
}

// deviceTree is an upstream with three releases.
func deviceTree(t testing.TB) tree {
	return sampleTree("r1-aaa", builderArchive(t, 10), nil).with(tree{
		".versions.json":                  `{"stable_version":"24.10.1","oldstable_version":"23.05.5","upcoming_version":"","versions_list":["24.10.1","24.10.0","23.05.5"]}`,
		"releases/24.10.0/.targets.json":  `{"ath79/generic":"mips_24kc"}`,
		"releases/23.05.5/.targets.json":  `{"ath79/generic":"mips_24kc","ath79/tiny":"mips_24kc"}`,
		"releases/24.10.1/.overview.json": listOf("24.10.1", "ath79/generic tplink_archer-c7-v5", "ath79/generic new_one", "x86/64 generic"),
		"releases/24.10.0/.overview.json": listOf("24.10.0", "ath79/generic tplink_archer-c7-v5"),
		"releases/23.05.5/.overview.json": listOf("23.05.5", "ath79/generic tplink_archer-c7-v5", "ath79/tiny old_one"),
	})
}

// settledDevices asks until the lists of that many releases are known.
func settledDevices(t testing.TB, u *Upstream, releases int) *Devices {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		table, err := u.Devices(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(table.Versions()) >= releases {
			return table
		}
		if time.Now().After(end) {
			t.Fatalf("only %v are known", table.Versions())
		}
		time.Sleep(5 * time.Millisecond) // of real transfers
	}
}

func TestDevicesOfAllReleases(t *testing.T) {
	f := newFake(t, deviceTree(t))
	u := openTest(t, Options{URL: f.URL})
	before := f.requests()
	first, err := u.Devices(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Versions(); len(got) == 0 || got[0] != "24.10.1" {
		t.Errorf("the first answer knows %v; it waits for the newest release", got)
	}
	table := settledDevices(t, u, 3)
	if n := f.requests() - before; n > 20 {
		t.Errorf("%d requests for three lists", n)
	}
	var got []string
	_, found := table.Search("", "", nil, 0, 100)
	for _, d := range found {
		got = append(got, fmt.Sprintf("%s %s %v %q", d.Target, d.Profile, d.Versions, d.Title()))
	}
	want := []string{
		`ath79/tiny old_one [23.05.5] "Brand 23.05.5 old_one"`,
		`x86/64 generic [24.10.1] "Brand 24.10.1 generic"`,
		`ath79/generic new_one [24.10.1] "Brand 24.10.1 new_one"`,
		`ath79/generic tplink_archer-c7-v5 [24.10.1 24.10.0 23.05.5] "Brand 24.10.1 tplink_archer-c7-v5"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	one, err := u.Devices(t.Context(), "23.05.5")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := one.Search("", "", nil, 0, 10); n != 2 {
		t.Errorf("23.05.5 has %d devices", n)
	}
	_, err = u.Devices(t.Context(), "9.9.9")
	wantCode(t, err, imagebuilder.CodeUnsupportedVersion, "9.9.9")
	// A second sweep is not due: nothing more is asked for.
	before = f.requests()
	settledDevices(t, u, 3)
	if n := f.requests() - before; n != 0 {
		t.Errorf("%d further requests", n)
	}
}

// TestDevicesKeepTheirProfiles: what a target's own profiles.json says counts
// for more than the list, and brings the device's other names.
func TestDevicesKeepTheirProfiles(t *testing.T) {
	f := newFake(t, deviceTree(t))
	u := openTest(t, Options{URL: f.URL})
	settledDevices(t, u, 3)
	mustTarget(t, u) // 24.10.1 ath79/generic: archer-c7-v5 and carambola2, no new_one
	table, err := u.Devices(t.Context(), "24.10.1")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	_, found := table.Search("", "", nil, 0, 100)
	for _, d := range found {
		got = append(got, fmt.Sprintf("%s %s %q %v", d.Target, d.Profile, d.Title(), d.Aliases))
	}
	want := []string{
		`ath79/generic 8dev_carambola2 "8devices Carambola2" [carambola2 shared,name]`,
		`x86/64 generic "Brand 24.10.1 generic" []`,
		`ath79/generic tplink_archer-c7-v5 "TP-Link Archer C7 v5" [shared,name]`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n, _ := table.Search("shared name", "", nil, 0, 10); n != 2 {
		t.Errorf("%d devices by their board name", n)
	}
}

func TestDevicesOffline(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, deviceTree(t))
	first := openTest(t, Options{URL: f.URL, Dir: dir})
	settledDevices(t, first, 3)
	mustTarget(t, first)
	first.Close()
	f.Close()
	u := openTest(t, Options{URL: f.URL, Dir: dir, RequestWait: time.Second})
	table := settledDevices(t, u, 3)
	if n, found := table.Search("carambola", "", nil, 0, 10); n != 1 || !slices.Contains(found[0].Aliases, "carambola2") {
		t.Errorf("offline %d carambolas: %v", n, found)
	}
	if n, _ := table.Search("old one", "", nil, 0, 10); n != 1 {
		t.Errorf("offline %d old ones", n)
	}
}

// TestDevicesWithoutAList: many upstreams have no .overview.json. Then what is
// held of targets is all there is.
func TestDevicesWithoutAList(t *testing.T) {
	files := deviceTree(t).with(tree{"releases/24.10.1/.overview.json": "", "releases/24.10.0/.overview.json": "<html>not here</html>"})
	f := newFake(t, files)
	u := openTest(t, Options{URL: f.URL})
	table, err := u.Devices(t.Context(), "24.10.1")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := table.Search("", "", nil, 0, 10); n != 0 {
		t.Errorf("%d devices out of nothing", n)
	}
	mustTarget(t, u)
	if table, err = u.Devices(t.Context(), "24.10.1"); err != nil {
		t.Fatal(err)
	}
	if n, _ := table.Search("", "", nil, 0, 10); n != 2 {
		t.Errorf("%d devices of the held target, want 2", n)
	}
}

func TestDevicesOfABrokenUpstream(t *testing.T) {
	for name, list := range map[string]string{
		"no JSON": "{", "a list": "[]", "no profiles": "{}", "no usable profile": `{"profiles":[{"id":"../x","target":"a/b"},{"id":"a","target":"b"},7]}`,
		"too large": `{"profiles":[` + strings.Repeat(" ", maxDevicesSize) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, deviceTree(t).with(tree{"releases/24.10.0/.overview.json": list}))
			u := openTest(t, Options{URL: f.URL})
			_, err := u.Devices(t.Context(), "24.10.0")
			wantCode(t, err, imagebuilder.CodeUpstreamUnavailable, "the devices of 24.10.0")
			if n, _ := settledDevices(t, u, 2).Search("", "", nil, 0, 10); n != 4 {
				t.Errorf("%d devices of the other releases, want 4", n)
			}
		})
	}
	t.Run("gone later", func(t *testing.T) {
		c := newClock()
		f := newFake(t, deviceTree(t))
		u := openTest(t, Options{URL: f.URL, Now: c.Now})
		settledDevices(t, u, 3)
		f.misbehave(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		})
		c.add(2 * devicesEvery)
		if n, _ := settledDevices(t, u, 3).Search("", "", nil, 0, 10); n != 4 {
			t.Errorf("%d devices are left, want 4", n)
		}
	})
}

// TestDevicesAreTidiedAway: lists that nobody asks for go from disk as targets
// do.
func TestDevicesAreTidiedAway(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	f := newFake(t, deviceTree(t))
	u := openTest(t, Options{URL: f.URL, Dir: dir, Now: c.Now})
	settledDevices(t, u, 3)
	u.Close()
	u = openTest(t, Options{URL: f.URL, Dir: dir, Now: c.Now})
	kept := filepath.Join(dir, "mirror", "releases", "23.05.5", ".overview.json")
	if _, err := os.Stat(kept); err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	for key := range u.kept {
		u.adopt(key)
	}
	u.mu.Unlock()
	c.add(dropAfter + time.Hour)
	if _, _, err := u.versions.fresh(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	u.tidy(c.Now())
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", kept, err)
	}
}

func FuzzParseDevices(f *testing.F) {
	f.Add([]byte(`{"release":"r","profiles":[{"id":"generic","target":"x86/64","titles":[{"vendor":"Generic","model":"x86/64"}]}]}`))
	f.Add([]byte(`{"profiles":[{"id":"a","target":"b/c","titles":{}},{"id":"a","target":"b/c"},null,[]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseDevices(data)
		if (err == nil) != (len(list) > 0) {
			t.Fatalf("%d devices, %v", len(list), err)
		}
		table := &Devices{versions: []string{"1"}}
		for _, d := range list {
			if !imagebuilder.ValidProfileID(d.profile) || !imagebuilder.ValidTarget(d.target) {
				t.Fatalf("%+v", d)
			}
			table.devices = append(table.devices, Device{Profile: d.profile, Target: d.target, Titles: d.titles, Versions: table.versions})
		}
		table.prepare()
		table.Search(string(data), "", nil, 0, 10)
	})
}

func BenchmarkSearch(b *testing.B) {
	table := realDevices(b)
	for range 5 { // as many as all devices of all targets
		table.devices = append(table.devices, table.devices[:384]...)
	}
	table.prepare()
	for b.Loop() {
		table.Search("tplnk archer c7 v5", "", nil, 0, 20)
	}
}

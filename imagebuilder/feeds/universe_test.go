package feeds_test

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder/feeds"
)

const arch = "arm_cortex-a9_vfpv3-d16"

// release reads the five real indexes of one release.
func release(t testing.TB) []feeds.Feed {
	t.Helper()
	var list []feeds.Feed
	for _, name := range []string{"core", "base", "luci", "packages", "routing"} {
		x, err := feeds.ReadPackages(name, read(t, "opkg-23.05/"+name+".gz"))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, feeds.Feed{Name: "openwrt_" + name, Index: x})
	}
	return list
}

// small makes a universe of one feed for each text. Architectures may be left
// out.
func small(t testing.TB, texts ...string) *feeds.Universe {
	t.Helper()
	var list []feeds.Feed
	for _, text := range texts {
		var paragraphs []string
		for paragraph := range strings.SplitSeq(text, "\n\n") {
			paragraph = strings.TrimSpace(paragraph)
			if !strings.Contains(paragraph, "\nVersion:") {
				paragraph += "\nVersion: 1"
			}
			if !strings.Contains(paragraph, "Architecture:") {
				paragraph += "\nArchitecture: " + arch
			}
			paragraphs = append(paragraphs, paragraph)
		}
		x, err := feeds.ParsePackages([]byte(strings.Join(paragraphs, "\n\n") + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, feeds.Feed{Name: "f", Index: x})
	}
	return feeds.NewUniverse(feeds.Opkg, arch, list)
}

func TestUniverseOfARelease(t *testing.T) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(t))
	if v := u.Versions(); v["libubox"] != "2023-05-23-75a3b870-1" || v["dnsmasq-full"] != "2.89-4" || v["kernel"] != "" || len(v) != 4541 {
		t.Errorf("%d versions, libubox %q, dnsmasq-full %q, kernel %q", len(v), v["libubox"], v["dnsmasq-full"], v["kernel"])
	}
	for name, want := range map[string]bool{
		"libubox": true, "libubox20230523": true, "dnsmasq": true, "luci": true, "kernel": true, "libc": true,
		"no-such": false, "": false, "-luci": false, "libubox2023": false,
	} {
		if u.Has(name) != want {
			t.Errorf("Has(%q) = %v", name, !want)
		}
	}
	for name, want := range map[string][]string{
		"libubox":     {"libubox20230523"},
		"dnsmasq":     {"dnsmasq-full"},
		"wget":        {"uclient-fetch", "wget-nossl", "wget-ssl"},
		"libncurses6": {"libncurses6"},
		"no-such":     nil,
	} {
		var got []string
		for _, p := range u.Find(name) {
			got = append(got, p.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Find(%q) (-want +got):\n%s", name, diff)
		}
	}
	if got := u.RequiredBy("libubus", 3); !slices.IsSorted(got) || len(got) != 3 {
		t.Errorf("libubus is required by %v", got)
	}
	if got := u.RequiredBy("luci-ssl", 10); len(got) != 0 {
		t.Errorf("luci-ssl is required by %v", got)
	}
	if u.Manager() != feeds.Opkg || u.Arch() != arch || len(u.Feeds()) != 5 {
		t.Error("the universe does not know what it was made from")
	}
}

func TestTheNewestOfOneNameCounts(t *testing.T) {
	u := small(t, "Package: a\nVersion: 1.9\n\nPackage: b\nArchitecture: mips_24kc", "Package: a\nVersion: 1.10\n\nPackage: a\nVersion: 1.09")
	if v := u.Versions(); v["a"] != "1.10" || v["b"] != "" {
		t.Errorf("versions %v; want a 1.10, and b, which is for another architecture, not at all", v)
	}
	if found := u.Find("a"); len(found) != 2 || found[0].Version != "1.10" || found[1].Version != "1.09" {
		t.Errorf("found %v; want 1.10, then 1.09 in the place of its equal 1.9", found)
	}
}

func TestNearest(t *testing.T) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(t))
	for name, want := range map[string]string{
		"luci-app-adblok":      "luci-app-adblock",
		"luci_app_adblock":     "luci-app-adblock",
		"bnaip":                "banip",
		"libuobx":              "libubox",
		"kmod-nft-ofload":      "kmod-nft-offload",
		"dnsmasq-ful":          "dnsmasq-full",
		"aria2-full":           "aria2",
		"Nano":                 "nano",
		"luci-app-attendedsys": "",
		"":                     "",
		"x":                    "",
	} {
		got := u.Nearest(name, 3)
		if want == "" && len(got) == 0 || want != "" && len(got) > 0 && got[0] == want {
			continue
		}
		t.Errorf("nearest to %q: %v, want %q first", name, got, want)
	}
	if got := u.Nearest("luci", 5); len(got) != 5 || slices.Contains(got, "luci") {
		t.Errorf("nearest to luci: %v", got)
	}
}

func TestSearch(t *testing.T) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(t))
	all, total := u.Search("", 0, 5000)
	if total != 4541 || len(all) != total || !slices.IsSortedFunc(all, func(a, b feeds.Selected) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("all: %d hits of %d", len(all), total)
	}
	hits, total := u.Search("dnsmasq", 0, 3)
	if len(hits) == 0 || hits[0].Name != "dnsmasq-full" || hits[0].Feed.Name != "openwrt_base" {
		t.Errorf("dnsmasq: %d, %v", total, hits)
	}
	if hits, _ := u.Search("libubox", 0, 3); len(hits) == 0 || hits[0].Name != "libubox20230523" {
		t.Errorf("libubox: %v", hits)
	}
	hits, total = u.Search("DHCP server", 0, 100)
	if total == 0 || total != len(hits) {
		t.Errorf("two words: %d of %d", len(hits), total)
	}
	for _, h := range hits {
		if text := strings.ToLower(h.Name + h.Description); !strings.Contains(text, "dhcp") || !strings.Contains(text, "server") {
			t.Errorf("%s has not both words", h.Name)
		}
	}
	first, _ := u.Search("luci", 0, 10)
	second, _ := u.Search("luci", 5, 10)
	if diff := cmp.Diff(names(first[5:]), names(second[:5])); diff != "" || first[0].Name != "luci" {
		t.Errorf("pages (-first +second):\n%s", diff)
	}
	for _, q := range []string{"no such thing at all", strings.Repeat("x", 10_000)} {
		if hits, total := u.Search(q, 0, 10); len(hits)+total != 0 {
			t.Errorf("%.30q: %d hits", q, total)
		}
	}
	if hits, total := u.Search("luci", 1<<40, 10); len(hits) != 0 || total == 0 {
		t.Errorf("beyond the end: %d hits of %d", len(hits), total)
	}
}

func names(list []feeds.Selected) []string {
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

func TestTheBuildersOwnPackages(t *testing.T) {
	x := &feeds.Index{}
	for file, want := range map[string]string{
		"libc_1.2.4-4_mips_24kc.ipk":               "libc 1.2.4-4 mips_24kc",
		"kernel_5.15.150-1-4de0b8a1_mips_24kc.ipk": "kernel 5.15.150-1-4de0b8a1 mips_24kc",
		"libc_1.2.4-4_mips_24kc.apk":               "",
		"libc_mips.ipk":                            "",
		"../libc_1_mips.ipk":                       "",
		"libc_1 2_mips.ipk":                        "",
		".ipk":                                     "",
		"":                                         "",
	} {
		p, ok := feeds.PackageOfFile(file)
		if got := strings.TrimSpace(p.Name + " " + p.Version + " " + p.Architecture); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", file, got, ok, want)
		}
		if ok {
			x.Packages = append(x.Packages, p)
		}
	}
	own := feeds.Feed{Name: "builder", Index: x}
	s := feeds.NewUniverse(feeds.Opkg, "mips_24kc", []feeds.Feed{own}).Solve(feeds.Wish{})
	if m := s.Manifest(); !s.Certain || m["libc"] != "1.2.4-4" || m["kernel"] != "5.15.150-1-4de0b8a1" || len(m) != 2 {
		t.Errorf("manifest %v, doubts %q", m, s.Doubts)
	}
}

func TestAUniverseIsForSeveralAtATime(t *testing.T) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(t))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			w := router("luci", "luci-app-adblok")
			s := u.Solve(w)
			if len(s.Problems) != 1 || len(u.Repairs(w, s, nil)) == 0 || u.Versions()["luci"] == "" {
				t.Error(problems(s))
			}
			u.Search("luci", 0, 10)
			u.RequiredBy("luci-base", 10)
		})
	}
	all.Wait()
}

func TestHostileFeedsTakeBoundedWork(t *testing.T) {
	var same, virtual, chain strings.Builder
	for i := range 30_000 {
		n := strings.Repeat("x", 1+i%3) + string(rune('a'+i%26))
		same.WriteString("Package: same\nVersion: 1." + itoa(i) + "\nArchitecture: all\n\n")
		virtual.WriteString("Package: " + n + itoa(i) + "\nVersion: 1\nArchitecture: all\nDepends: virtual\nProvides: virtual\n\n")
		chain.WriteString("Package: c" + itoa(i) + "\nVersion: 1\nArchitecture: all\nDepends: c" + itoa((i+1)%30_000) + "\n\n")
	}
	for name, text := range map[string]string{"same": same.String(), "virtual": virtual.String(), "c0": chain.String()} {
		t.Run(name, func(t *testing.T) {
			x, err := feeds.ParsePackages([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			u := feeds.NewUniverse(feeds.Opkg, arch, []feeds.Feed{{Name: "hostile", Index: x}})
			if s := u.Solve(feeds.Wish{Requested: []string{name}}); s.Certain || len(s.Doubts) == 0 {
				t.Errorf("certain %v, doubts %q", s.Certain, s.Doubts)
			}
		})
	}
}

func TestBenchIndexesKeepWithinTheirMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("measures the heap")
	}
	kept, u := retained(t)
	if kept > 12<<20 {
		t.Errorf("five indexes and their tables keep %.1f MB", float64(kept)/(1<<20))
	}
	if estimate := memory(u); estimate < kept*4/5 || estimate > kept*5/4 {
		t.Errorf("estimated at %d bytes, kept %d", estimate, kept)
	}
}

// memory is the estimate of a universe with its indexes.
func memory(u *feeds.Universe) int64 {
	total := u.Memory()
	for _, f := range u.Feeds() {
		total += f.Index.Memory()
	}
	return total
}

func TestMemoryOfAPKIndexes(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var list []feeds.Feed
	for _, name := range []string{"core", "base", "luci", "packages", "routing"} {
		x, err := feeds.ParseADB(read(t, "apk/"+name+".adb"))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, feeds.Feed{Index: x})
	}
	u := feeds.NewUniverse(feeds.APK, "test_arch", list)
	u.Solve(feeds.Wish{Requested: []string{"luci"}})
	runtime.GC()
	runtime.ReadMemStats(&after)
	kept := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if estimate := memory(u); estimate < kept*4/5 || estimate > kept*5/4 {
		t.Errorf("estimated at %d bytes, kept %d", estimate, kept)
	}
}

// retained measures what the universe of a release keeps on the heap.
func retained(t testing.TB) (int64, *feeds.Universe) {
	var packed [][]byte
	for _, name := range []string{"core", "base", "luci", "packages", "routing"} {
		packed = append(packed, read(t, "opkg-23.05/"+name+".gz"))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var list []feeds.Feed
	for _, data := range packed {
		x, err := feeds.ReadPackages("", data)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, feeds.Feed{Index: x})
	}
	u := feeds.NewUniverse(feeds.Opkg, arch, list)
	u.Solve(feeds.Wish{Requested: []string{"luci"}})
	u.Versions()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(packed)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc), u
}

// BenchmarkIndexes reads the five indexes of a release from their packed bytes
// to tables that are ready for use.
func BenchmarkIndexes(b *testing.B) {
	var kept int64
	for b.Loop() {
		k, _ := retained(b)
		kept = max(kept, k)
	}
	b.ReportMetric(float64(kept)/(1<<20), "MB-kept")
}

func BenchmarkNearest(b *testing.B) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(b))
	for b.Loop() {
		u.Nearest("luci-app-adblok", 3)
	}
}

func BenchmarkSearch(b *testing.B) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(b))
	for b.Loop() {
		u.Search("dhcp server", 0, 20)
	}
}

func BenchmarkSolve(b *testing.B) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(b))
	everything, _ := u.Search("", 0, 5000)
	unknown := make([]string, 5000)
	for i := range unknown {
		unknown[i] = "luci-app-unknown" + itoa(i)
	}
	for name, w := range map[string]feeds.Wish{
		"default":    router(),
		"typical":    router("luci", "luci-app-adblock", "tcpdump", "tmux", "openvpn-openssl", "luci-app-sqm"),
		"everything": {Requested: names(everything)},
		"unknown":    router(unknown...),
	} {
		b.Run(name, func(b *testing.B) {
			start := time.Now()
			u.Solve(w)
			b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-first")
			for b.Loop() {
				u.Solve(w)
			}
		})
	}
}

func BenchmarkRepairs(b *testing.B) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(b))
	w := router("luci-app-adblok", "luci-app-nothing", "tmux")
	s := u.Solve(w)
	for b.Loop() {
		u.Repairs(w, s, nil)
	}
}

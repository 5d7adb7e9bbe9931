package feeds

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"attendant/imagebuilder"
)

const kib, mib = 1 << 10, 1 << 20

// flashOf is the image that an imaginary profile gets: a kernel of 2 MiB,
// packages packed to k of their size, padding to sectors.
func flashOf(kernel, download int64, k float64) int64 {
	size := kernel + int64(k*float64(download))
	return (size + sector - 1) / sector * sector
}

func TestForecast(t *testing.T) {
	seen := func(profile string, kernel int64, downloads ...int64) (all []Observation) {
		for _, d := range downloads {
			all = append(all, Observation{profile, "squashfs", d, flashOf(kernel, d, 0.85)})
		}
		return all
	}
	weight := func(download int64) Weight {
		return Weight{Download: download, Packages: 100,
			Optional: []Sized{{"f", 6}, {"e", 5}, {"d", 4}, {"c", 3}, {"b", 2}, {"a", 1}}}
	}
	for _, test := range []struct {
		name     string
		download int64
		profile  string
		limit    int64
		seen     []Observation
		verdict  Verdict
		most     int64 // by how much the estimate may miss what comes out, bytes
		wide     int64 // how far apart low and high may be
	}{
		{"nothing seen", 4 * mib, "a", 8 * mib, nil, VerdictUnknown, 0, 0},
		{"no limit", 4 * mib, "a", 0, seen("a", 2*mib, 4*mib), VerdictUnknown, sector, 512 * kib},
		{"the same again", 4 * mib, "a", 8 * mib, seen("a", 2*mib, 4*mib), Fits, sector, 512 * kib},
		{"one seen, some more", 5 * mib, "a", 8 * mib, seen("a", 2*mib, 4*mib), Fits, 128 * kib, 800 * kib},
		{"one seen, far more", 12 * mib, "a", 8 * mib, seen("a", 2*mib, 4*mib), TooBig, mib, 4 * mib},
		{"one seen, close below", 6800 * kib, "a", 8 * mib, seen("a", 2*mib, 4*mib), Tight, 256 * kib, 2 * mib},
		{"many seen, close below", 7150 * kib, "a", 8 * mib, seen("a", 2*mib, 3*mib, 4*mib, 5*mib, 6*mib, 7*mib), Tight, sector, 256 * kib},
		{"many seen, below", 6600 * kib, "a", 8 * mib, seen("a", 2*mib, 3*mib, 4*mib, 5*mib, 6*mib, 7*mib), Fits, sector, 256 * kib},
		{"many seen, above", 7500 * kib, "a", 8 * mib, seen("a", 2*mib, 3*mib, 4*mib, 5*mib, 6*mib, 7*mib), TooBig, sector, 256 * kib},
		{"another profile seen", 4 * mib, "a", 8 * mib, seen("b", 2*mib, 4*mib), Fits, 256 * kib, 3 * mib},
		{"other profiles seen", 4 * mib, "a", 16 * mib, slices.Concat(seen("b", 2*mib, 4*mib), seen("c", 2300*kib, 3*mib), seen("d", 1900*kib, 5*mib), seen("e", 2*mib, 4*mib)), Fits, 256 * kib, 2 * mib},
		{"one outlier", 4 * mib, "a", 8 * mib, append(seen("a", 2*mib, 3*mib, 4*mib, 5*mib, 6*mib), Observation{"a", "squashfs", 4 * mib, 15 * mib}), Fits, 128 * kib, 600 * kib},
		{"another file system", 4 * mib, "a", 8 * mib, []Observation{{"a", "ext4", 4 * mib, 9 * mib}}, VerdictUnknown, 0, 0},
		{"nonsense seen", 4 * mib, "a", 8 * mib, []Observation{{"a", "squashfs", 0, 9 * mib}, {"a", "squashfs", 9, -1}}, VerdictUnknown, 0, 0},
		{"no sizes", 0, "a", 8 * mib, seen("a", 2*mib, 4*mib), VerdictUnknown, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := NewForecast(weight(test.download), test.profile, "squashfs", test.limit, test.seen)
			if f.Verdict != test.verdict || f.Limit != test.limit {
				t.Errorf("verdict %s, want %s: %+v", f.Verdict, test.verdict, f)
			}
			if test.wide == 0 {
				if f.Estimate != 0 || f.Low != 0 || f.High != 0 || f.Over != 0 {
					t.Errorf("an estimate of nothing: %+v", f)
				}
			} else {
				truth := flashOf(2*mib, test.download, 0.85)
				if miss := max(f.Estimate-truth, truth-f.Estimate); miss > test.most {
					t.Errorf("estimate %d misses %d by %d", f.Estimate, truth, miss)
				}
				if truth < f.Low || truth > f.High {
					t.Errorf("%d is not within %d … %d", truth, f.Low, f.High)
				}
				if f.High-f.Low > test.wide || f.High-f.Low < 2*sector {
					t.Errorf("from %d to %d are %d", f.Low, f.High, f.High-f.Low)
				}
			}
			if len(f.Largest) != 5 || f.Largest[0].Name != "f" {
				t.Errorf("largest: %v", f.Largest)
			}
			if !strings.HasSuffix(f.Detail, ".") || strings.Contains(f.Detail, "%!") {
				t.Errorf("detail: %q", f.Detail)
			}
		})
	}
}

func TestForecastInWords(t *testing.T) {
	const limit = 7936 * kib
	for _, test := range []struct {
		f    Forecast
		want string
	}{
		{Forecast{Estimate: 6 * mib, Low: 5894 * kib, High: 6394 * kib, Limit: limit}, "The image will have about 6.0 MiB of 7.8 MiB, give or take 0.24 MiB: it fits."},
		{Forecast{Estimate: 7700 * kib, Low: 7400 * kib, High: 8000 * kib, Limit: limit}, "The image will have about 7.5 MiB of 7.8 MiB, give or take 0.29 MiB: it should just fit. Only the build can tell."},
		{Forecast{Estimate: 8000 * kib, Low: 7700 * kib, High: 8300 * kib, Limit: limit}, "The image will have about 7.8 MiB of 7.8 MiB, give or take 0.29 MiB: it may be too big. Only the build can tell."},
		{Forecast{Estimate: 9000 * kib, Low: 8700 * kib, High: 9300 * kib, Limit: limit}, "The image will have about 8.8 MiB of 7.8 MiB, give or take 0.29 MiB: it is too big by about 1064 KiB."},
		{Forecast{Estimate: 3 * mib, Low: 2 * mib, High: 9 * mib, Limit: limit}, "The image will have between 2.0 MiB and 9.0 MiB of 7.8 MiB: it may be too big. Only the build can tell."},
		{Forecast{Estimate: 9000 * kib, Low: 8700 * kib, High: 9300 * kib}, "The image will have about 8.8 MiB, give or take 0.29 MiB. What the device takes is not known."},
	} {
		test.f.judge()
		if test.f.Detail != test.want {
			t.Errorf("got  %s\nwant %s", test.f.Detail, test.want)
		}
	}
}

// TestForecastOfWhatIsNotKnown: packages without a size, and those of which
// nobody knows how a file system packs them, widen what is told.
func TestForecastOfWhatIsNotKnown(t *testing.T) {
	seen := []Observation{{"a", "squashfs", 4 * mib, 5 * mib}}
	plain := NewForecast(Weight{Download: 4 * mib}, "a", "squashfs", 8*mib, seen)
	unknown := NewForecast(Weight{Download: 4 * mib, Unknown: 10}, "a", "squashfs", 8*mib, seen)
	hollow := NewForecast(Weight{Download: 4 * mib, Hollow: 9 * mib}, "a", "squashfs", 8*mib, seen)
	if plain.Verdict != Fits || unknown.Verdict != Fits || unknown.High != plain.High+10*unknownSize {
		t.Errorf("%+v, %+v", plain, unknown)
	}
	if hollow.Verdict != Tight || hollow.Estimate != plain.Estimate || hollow.High != plain.High+9*mib {
		t.Errorf("%+v", hollow)
	}
	s := &Solution{Selected: []Selected{
		{Package: &Package{Name: "zeros", Size: 10 * kib, InstalledSize: 9 * mib}}, {Package: &Package{Name: "text", Size: 10 * kib, InstalledSize: 70 * kib}},
	}}
	if w := s.Weigh(Wish{}); w.Hollow != 9*mib-10*kib {
		t.Errorf("%+v", w)
	}
}

func observations() *rapid.Generator[[]Observation] {
	one := rapid.Custom(func(t *rapid.T) Observation {
		return Observation{
			Profile:    rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "profile"),
			Filesystem: rapid.SampledFrom([]string{"squashfs", "squashfs", "ext4"}).Draw(t, "filesystem"),
			Download:   rapid.Int64Range(-1, 64*mib).Draw(t, "download"),
			Flash:      rapid.Int64Range(-1, 128*mib).Draw(t, "flash"),
		}
	})
	return rapid.SliceOfN(one, 0, 40)
}

func TestForecastProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := observations().Draw(t, "seen")
		profile := rapid.SampledFrom([]string{"a", "b", "z"}).Draw(t, "profile")
		filesystem := rapid.SampledFrom([]string{"squashfs", "ext4"}).Draw(t, "filesystem")
		limit := rapid.Int64Range(0, 64*mib).Draw(t, "limit")
		less := rapid.Int64Range(0, 64*mib).Draw(t, "less")
		more := rapid.Int64Range(less, 65*mib).Draw(t, "more")
		before := slices.Clone(seen)
		f := NewForecast(Weight{Download: less}, profile, filesystem, limit, seen)
		if !slices.Equal(seen, before) {
			t.Fatal("the observations were changed")
		}
		if f.Low > f.Estimate || f.Estimate > f.High || f.Low < 0 {
			t.Fatalf("%d is not within %d … %d", f.Estimate, f.Low, f.High)
		}
		if f.Over != 0 && f.Over != f.Estimate-f.Limit {
			t.Fatalf("over by %d: %+v", f.Over, f)
		}
		switch f.Verdict {
		case TooBig:
			if f.Low <= f.Limit || f.Limit == 0 {
				t.Fatalf("a refusal that is not certain: %+v", f)
			}
		case Fits:
			if f.High > f.Limit {
				t.Fatalf("it may not fit: %+v", f)
			}
		case Tight:
			if f.Low > f.Limit || f.High <= f.Limit {
				t.Fatalf("it is certain: %+v", f)
			}
		case VerdictUnknown:
			if limit > 0 && f.High > 0 {
				t.Fatalf("it is known: %+v", f)
			}
		default:
			t.Fatalf("verdict %q", f.Verdict)
		}
		if g := NewForecast(Weight{Download: more}, profile, filesystem, limit, seen); g.Estimate < f.Estimate {
			t.Fatalf("%d bytes of packages give %d, %d give %d", less, f.Estimate, more, g.Estimate)
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.Shuffle(len(seen), func(i, j int) { seen[i], seen[j] = seen[j], seen[i] })
		if diff := cmp.Diff(f, NewForecast(Weight{Download: less}, profile, filesystem, limit, seen)); diff != "" {
			t.Fatalf("the order matters: %s", diff)
		}
	})
}

// TestForecastKeepsItsWord: of images that follow the model, with profiles,
// compressibility and noise as real ones have, no more than one in twenty may
// lie outside what was forecast, and next to none may be refused wrongly.
func TestForecastKeepsItsWord(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, count := range []int{1, 2, 4, 8, 24} {
		outside, wrong, width := 0, 0, 0.0
		const runs = 2000
		for range runs {
			k := 0.83 + r.NormFloat64()*0.04
			kernel := 2*mib + r.Int64N(mib)
			build := func() (int64, int64) {
				download := 3*mib + r.Int64N(4*mib)
				return download, flashOf(kernel, download, k+r.NormFloat64()*0.006)
			}
			var seen []Observation
			for range count {
				d, f := build()
				seen = append(seen, Observation{"a", "squashfs", d, f})
			}
			d, truth := build()
			f := NewForecast(Weight{Download: d}, "a", "squashfs", 7936*kib, seen)
			if truth < f.Low || truth > f.High {
				outside++
			}
			if f.Verdict == TooBig && truth <= f.Limit || f.Verdict == Fits && truth > f.Limit {
				wrong++
			}
			width += float64(f.High-f.Low) / 2
		}
		t.Logf("after %d builds: %.1f%% outside, %.2f%% judged wrongly, give or take %.0f KiB", count, 100*float64(outside)/runs, 100*float64(wrong)/runs, width/runs/kib)
		if outside > runs/20 || wrong > runs/100 {
			t.Errorf("after %d builds %d of %d lie outside and %d were judged wrongly", count, outside, runs, wrong)
		}
	}
}

func TestWeigh(t *testing.T) {
	p := func(name string, size int64, depends ...string) *Package {
		q := &Package{Name: name, Size: size, InstalledSize: 2 * size}
		for _, d := range depends {
			q.Depends = append(q.Depends, Relation{Name: d})
		}
		return q
	}
	ssl := p("libssl3", 700)
	ssl.ABIVersion, ssl.Provides = "3", []Relation{{Name: "libssl"}}
	s := &Solution{}
	for _, q := range []*Package{
		p("base-files", 50), p("busybox", 200, "libc"), p("libc", 0), p("dnsmasq", 100, "libc"), p("kmod-wifi", 300),
		p("openvpn", 250, "libssl", "liblzo"), ssl, p("liblzo", 60), p("curl", 40, "libssl3"), p("nosize", 0),
	} {
		s.Selected = append(s.Selected, Selected{Package: q})
	}
	got := s.Weigh(Wish{Default: []string{"busybox", "dnsmasq", "odhcpd"}, Device: []string{"kmod-wifi", "-odhcpd"}, Requested: []string{"openvpn", "curl"}})
	want := Weight{Download: 1650, Packages: 10, Unknown: 1,
		Optional: []Sized{{"libssl", 1400}, {"openvpn", 500}, {"liblzo", 120}, {"curl", 80}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = s.Weigh(Wish{Default: []string{"busybox", "curl"}, Device: []string{"kmod-wifi"}, Requested: []string{"openvpn", "dnsmasq"}})
	if diff := cmp.Diff([]Sized{{"openvpn", 500}, {"dnsmasq", 200}, {"liblzo", 120}}, got.Optional); diff != "" {
		t.Errorf("what a default package needs is not optional: %s", diff)
	}
}

func TestWeighManifest(t *testing.T) {
	x := &Index{Packages: []Package{
		{Name: "libssl3", ABIVersion: "3", Version: "3.0.1", Size: 700, InstalledSize: 1400},
		{Name: "curl", Version: "8.1", Size: 40, InstalledSize: 80},
		{Name: "curl", Version: "8.2", Size: 44, InstalledSize: 88},
	}}
	m := imagebuilder.Manifest{"libssl": "3.0.1", "curl": "8.2", "libc": "1.2", "own": "1"}
	for range 3 {
		got := WeighManifest(m, []Feed{{Index: x}, {}})
		if diff := cmp.Diff(Weight{Download: 744, Packages: 4, Unknown: 1}, got); diff != "" {
			t.Error(diff)
		}
	}
}

func BenchmarkForecast(b *testing.B) {
	var seen []Observation
	for i := range int64(24) {
		seen = append(seen, Observation{fmt.Sprint(i % 5), "squashfs", (3 + i%4) * mib, flashOf(2*mib, (3+i%4)*mib, 0.8)})
	}
	for b.Loop() {
		NewForecast(Weight{Download: 4 * mib}, "1", "squashfs", 8*mib, seen)
	}
}

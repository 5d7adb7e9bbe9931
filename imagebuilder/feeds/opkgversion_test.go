package feeds_test

import (
	"testing"

	"pgregory.net/rapid"

	"attendant/imagebuilder/feeds"
)

func sign(n int) int { return max(-1, min(1, n)) }

func TestCompareOpkg(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"1", "1", 0},
		{"1", "2", -1},
		{"9", "10", -1},
		{"1.9", "1.10", -1},
		{"1.0", "1.00", 0},
		{"1.0", "1", 1},
		{"007", "7", 0},
		{"1.0~rc1", "1.0", -1},
		{"1.0~rc1", "1.0~rc2", -1},
		{"1.0~~", "1.0~", -1},
		{"1.0a", "1.0", 1},
		{"1.0a", "1.0b", -1},
		{"1.0A", "1.0a", -1},
		{"1.0a", "1.0+", -1},
		{"1.0a", "1.0.1", -1},
		{"1.0+git1", "1.0-1", 1},
		{"1.0-1", "1.0-2", -1},
		{"1.0-9", "1.0-10", -1},
		{"1.0", "1.0-1", -1},
		{"1.0-0", "1.0", 0},
		{"1-2-3", "1-2-4", -1},
		{"1:1", "2", 1},
		{"0:1", "1", 0},
		{"1:1", "01:1", 0},
		{"x:1", "1", 0},
		{"99999999999999999999:1", "2:1", 1},
		{"2023-05-23-75a3b870-1", "2024-03-29-eb9bcb64-1", -1},
		{"6.6.68~1b9b-r1", "6.6.68~1b9b-r2", -1},
		{"git-24.072.73299-397b1b2", "git-24.100.1-0000000", -1},
		{"1-r23630-842932a63d", "1637~6df0e3d02a", -1},
		{"", "", 0},
		{"", "~", 1},
		{"", "0", 0},
	} {
		if got := sign(feeds.CompareOpkg(tt.a, tt.b)); got != tt.want {
			t.Errorf("CompareOpkg(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := sign(feeds.CompareOpkg(tt.b, tt.a)); got != -tt.want {
			t.Errorf("CompareOpkg(%q, %q) = %d, want %d", tt.b, tt.a, got, -tt.want)
		}
	}
}

func TestOpkgVersionsAreInOneOrder(t *testing.T) {
	version := rapid.StringMatching(`([0-9]{1,2}:)?[0-9a-zA-Z.+~]{0,6}(-[0-9a-z~]{0,3})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		if feeds.CompareOpkg(a, a) != 0 || sign(feeds.CompareOpkg(a, b)) != -sign(feeds.CompareOpkg(b, a)) {
			t.Fatalf("%q and %q: %d, %d", a, b, feeds.CompareOpkg(a, b), feeds.CompareOpkg(b, a))
		}
		if feeds.CompareOpkg(a, b) <= 0 && feeds.CompareOpkg(b, c) <= 0 && feeds.CompareOpkg(a, c) > 0 {
			t.Fatalf("%q ≤ %q ≤ %q, but not %q ≤ %q", a, b, c, a, c)
		}
	})
}

func FuzzCompareOpkg(f *testing.F) {
	f.Add("1.0~rc1-r2", "1:1.0")
	f.Add("2023-05-23-75a3b870-1", "git-24.072.73299-397b1b2")
	f.Fuzz(func(t *testing.T, a, b string) {
		if feeds.CompareOpkg(a, a) != 0 || sign(feeds.CompareOpkg(a, b)) != -sign(feeds.CompareOpkg(b, a)) {
			t.Fatalf("%q and %q: %d, %d", a, b, feeds.CompareOpkg(a, b), feeds.CompareOpkg(b, a))
		}
	})
}

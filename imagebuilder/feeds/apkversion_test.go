package feeds

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestCompareAPK(t *testing.T) {
	// Each list is in ascending order.
	ascending := [][]string{
		{"0", "1", "2", "10", "11"},
		{"1", "1.0", "1.0.0", "1.0.1", "1.1", "1.2", "1.10", "2"},
		{"1.0", "1.00", "1.001", "1.01", "1.1", "1.9", "1.10"}, // parts with a zero in front are compared as text
		{"1.2", "1.2a", "1.2b", "1.2.1"},
		{"1_alpha", "1_alpha1", "1_alpha2", "1_alpha10", "1_beta", "1_beta2", "1_pre", "1_pre3", "1_rc", "1_rc1", "1", "1_cvs", "1_svn", "1_git", "1_git20240101", "1_hg", "1_p", "1_p1"},
		{"2_alpha_rc", "2_alpha", "2_alpha_p"},
		{"1", "1-r0", "1-r1", "1-r2", "1-r10", "1.0"},
		{"2024.09.24~0123456", "2024.09.24~5a8ee6ee-r1", "2024.09.24~5a8ee6ee-r2", "2024.09.24~ffffff", "2024.09.25~0123456", "2024.10.01"},
		{"6.6.68~1b9b-r1", "6.6.69~0000-r1", "6.18.35-r1"},
		{"1_rc1-r5", "1-r1", "1_p1-r1"},
		{"", "0", "1"}, // a name that is provided without a version
	}
	for _, list := range ascending {
		for i, a := range list {
			for j, b := range list {
				want := 0
				if i < j {
					want = -1
				} else if i > j {
					want = 1
				}
				if got := CompareAPK(a, b); got != want {
					t.Errorf("%q and %q: %d, want %d", a, b, got, want)
				}
			}
		}
	}
}

func TestValidAPKVersion(t *testing.T) {
	valid := []string{"0", "1.2.3", "1.2a", "1_rc", "1_rc4", "1.2.3_rc4_p2~abcdef-r5", "2024.09.24~5a8ee6ee-r1", "1-r0", "00.01"}
	invalid := []string{"", "a", ".1", "1.", "1..2", "1ab", "1a.2", "1a2", "1_foo", "1_", "1~", "1~xyz", "1~ABC", "1-1", "1-r", "1-r1-r2", "1-r1_rc", "1~a_rc", "1 2", "v1", "1.2.3-r1~a", "1+2"}
	for _, v := range valid {
		if !ValidAPKVersion(v) {
			t.Errorf("%q is not valid", v)
		}
	}
	for _, v := range invalid {
		if ValidAPKVersion(v) {
			t.Errorf("%q is valid", v)
		}
	}
}

func TestAPKMatch(t *testing.T) {
	tests := []struct {
		version, op, wanted string
		want                bool
	}{
		{"1.2.3", "", "", true},
		{"1.2.3", "=", "1.2.3", true},
		{"1.2.3-r1", "=", "1.2.3", false},
		{"1.2.3-r1", "~", "1.2.3", true},
		{"1.2.3", "~", "1.2", true},
		{"1.2", "~", "1.2.3", false},
		{"1.20", "~", "1.2", false},
		{"1.2_rc1", "~", "1.2", true},
		{"1.2_rc1", ">=", "1.2", false},
		{"1.2_rc1", ">~", "1.2", true},
		{"1.3", ">~", "1.2", true},
		{"1.2.9", "<~", "1.2", true},
		{"1.3", "<~", "1.2", false},
		{"1.1", "<", "1.2", true},
		{"1.2", "<", "1.2", false},
		{"1.2", "<=", "1.2", true},
		{"1.2-r1", "<=", "1.2", false},
		{"1.3", ">", "1.2", true},
		{"1.2", ">", "1.2", false},
		{"", "", "", true},
		{"", "=", "1", false},
		{"", "<", "1", true},
		{"", ">=", "1", false},
	}
	for _, tt := range tests {
		m := newAPKMatch(tt.op)
		if got := m.met(tt.version, tt.wanted); got != tt.want {
			t.Errorf("%q %s %q: %v", tt.version, tt.op, tt.wanted, got)
		}
		if m.operator() != tt.op {
			t.Errorf("%q is written as %q", tt.op, m.operator())
		}
	}
}

// drawVersion draws a version that is likely to be valid.
func drawVersion(t *rapid.T, label string) string {
	return rapid.StringMatching(`[0-9]{1,3}(\.[0-9]{1,2}){0,3}[ab]?(_(alpha|beta|pre|rc|git|p)[0-9]?){0,2}(~[0-9a-f]{1,3})?(-r[0-9]{1,2})?[ x.]?`).Draw(t, label)
}

func TestCompareAPKIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkOrder(t, drawVersion(t, "a"), drawVersion(t, "b"), drawVersion(t, "c"))
	})
}

func checkOrder(t interface{ Fatalf(string, ...any) }, a, b, c string) {
	if CompareAPK(a, a) != 0 || CompareAPK(a, b) != -CompareAPK(b, a) {
		t.Fatalf("%q and %q: %d, %d", a, b, CompareAPK(a, b), CompareAPK(b, a))
	}
	if ValidAPKVersion(a) && ValidAPKVersion(b) && ValidAPKVersion(c) && CompareAPK(a, b) <= 0 && CompareAPK(b, c) <= 0 && CompareAPK(a, c) > 0 {
		t.Fatalf("%q <= %q <= %q, but the first is greater than the last", a, b, c)
	}
}

func FuzzCompareAPK(f *testing.F) {
	f.Add("1.2.3_rc4~abcdef-r5", "1.2.3", "1.2.3_p")
	f.Add("", "1.", "01.02")
	f.Add("1_", "1-r", "1~")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		checkOrder(t, a, b, c)
		for _, op := range []string{"", "=", "<", ">", "<=", ">=", "~", "<~", ">~"} {
			newAPKMatch(op).met(a, b)
		}
		if ValidAPKVersion(a) {
			for _, op := range []string{"=", "~", "<=", ">="} {
				if !newAPKMatch(op).met(a, a) {
					t.Fatalf("%q %s %q is not met", a, op, a)
				}
			}
		}
	})
}

func TestDisplayOrder(t *testing.T) {
	names := []string{"b", "A", "a", "B", "a-b", "aB", "ab"}
	slices.SortFunc(names, displayOrder)
	if want := []string{"A", "a", "a-b", "aB", "ab", "B", "b"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestMurmur3(t *testing.T) {
	// As the reference implementation has them with seed 0.
	for text, want := range map[string]uint32{"": 0, "a": 0x3c2569b2, "abcd": 0x43ed676a, "Hello, world!": 0xc0363e43} {
		if got := murmur3(text, 0); got != want {
			t.Errorf("%q: %#x, want %#x", text, got, want)
		}
	}
}

package web

import (
	"bytes"
	"strings"
	"testing"
)

// The error correction of "HELLO WORLD" at 1-M, and all format and version
// information, as the literature on ISO/IEC 18004 has them.
func TestQRCodesOfTheStandard(t *testing.T) {
	data := []byte{32, 91, 11, 120, 209, 114, 220, 77, 67, 64, 236, 17, 236, 17, 236, 17}
	want := []byte{196, 35, 39, 119, 235, 215, 231, 226, 93, 23}
	if got := qrCorrection(data, 10); !bytes.Equal(got, want) {
		t.Errorf("error correction %v, want %v", got, want)
	}
	for mask, want := range []int{0b101010000010010, 0b101000100100101, 0b101111001111100, 0b101101101001011, 0b100010111111001, 0b100000011001110, 0b100111110010111, 0b100101010100000} {
		if got := qrFormatBits(mask); got != want {
			t.Errorf("format of mask %d: %015b, want %015b", mask, got, want)
		}
	}
	for version, want := range map[int]int{6: 0, 7: 0x07c94, 8: 0x085bc, 9: 0x09a99, 10: 0x0a4d3} {
		if got := qrVersionBits(version); got != want {
			t.Errorf("version %d: %05x, want %05x", version, got, want)
		}
	}
}

// A symbol that other readers have read, and the size that each length needs.
func TestQRSymbol(t *testing.T) {
	var picture strings.Builder
	for _, row := range qrOf("http://192.168.1.2:8080/build/") {
		for _, dark := range row {
			picture.WriteByte(" #"[map[bool]int{true: 1}[dark]])
		}
		picture.WriteByte('\n')
	}
	golden(t, "qr.golden", []byte(picture.String()))
	for length, side := range map[int]int{0: 21, 14: 21, 15: 25, 42: 29, 43: 33, 106: 41, 107: 45, 122: 45, 180: 53, 181: 57, 213: 57, 214: 0} {
		if got := len(qrOf(strings.Repeat("x", length))); got != side {
			t.Errorf("%d bytes: %d modules wide, want %d", length, got, side)
		}
	}
	if svg := string(qrOf("x").SVG()); strings.Contains(svg, "style") || !strings.HasPrefix(svg, "<svg") {
		t.Errorf("drawn as %.100s", svg)
	}
}

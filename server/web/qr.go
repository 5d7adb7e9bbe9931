package web

import (
	"html/template"
	"strconv"
	"strings"
)

// qrCode is a QR code: rows of modules, true is dark. nil is none.
type qrCode [][]bool

// A QR code's versions (ISO/IEC 18004, tables 7 and 9, error correction level
// M): data codewords in all, error correction codewords of a block, blocks of
// the first group and how many data codewords each has, blocks of the second
// group, which have one more; and where alignment patterns stand.
type qrVersion struct {
	correction         int
	blocks1, data1     int
	blocks2            int
	alignment          []int
	capacity           int // data codewords
	versionInformation int // 18 bits, from version 7 on
}

var qrVersions = []qrVersion{
	1:  {correction: 10, blocks1: 1, data1: 16},
	2:  {correction: 16, blocks1: 1, data1: 28, alignment: []int{6, 18}},
	3:  {correction: 26, blocks1: 1, data1: 44, alignment: []int{6, 22}},
	4:  {correction: 18, blocks1: 2, data1: 32, alignment: []int{6, 26}},
	5:  {correction: 24, blocks1: 2, data1: 43, alignment: []int{6, 30}},
	6:  {correction: 16, blocks1: 4, data1: 27, alignment: []int{6, 34}},
	7:  {correction: 18, blocks1: 4, data1: 31, alignment: []int{6, 22, 38}},
	8:  {correction: 22, blocks1: 2, data1: 38, blocks2: 2, alignment: []int{6, 24, 42}},
	9:  {correction: 22, blocks1: 3, data1: 36, blocks2: 2, alignment: []int{6, 26, 46}},
	10: {correction: 26, blocks1: 4, data1: 43, blocks2: 1, alignment: []int{6, 28, 50}},
}

// qrOf encodes bytes at error correction level M; a text of more than 213
// bytes has none.
func qrOf(text string) qrCode {
	for n := 1; n < len(qrVersions); n++ {
		v := qrVersions[n]
		v.capacity = v.blocks1*v.data1 + v.blocks2*(v.data1+1)
		lengthBits := 8
		if n >= 10 {
			lengthBits = 16
		}
		if 4+lengthBits+8*len(text) > 8*v.capacity {
			continue
		}
		v.versionInformation = qrVersionBits(n)
		codewords := v.interleave(qrData(text, lengthBits, v.capacity))
		var best qrCode
		bestPenalty := -1
		for mask := range 8 {
			c := v.draw(n, codewords, mask)
			if p := c.penalty(); bestPenalty < 0 || p < bestPenalty {
				best, bestPenalty = c, p
			}
		}
		return best
	}
	return nil
}

// qrData is the text in byte mode, filled up to capacity.
func qrData(text string, lengthBits, capacity int) []byte {
	var bits []bool
	put := func(value, n int) {
		for i := n - 1; i >= 0; i-- {
			bits = append(bits, value>>i&1 == 1)
		}
	}
	put(4, 4)
	put(len(text), lengthBits)
	for i := range len(text) {
		put(int(text[i]), 8)
	}
	put(0, min(4, 8*capacity-len(bits)))
	for len(bits)%8 != 0 {
		bits = append(bits, false)
	}
	data := make([]byte, 0, capacity)
	for i := 0; i < len(bits); i += 8 {
		var b byte
		for j := range 8 {
			b <<= 1
			if bits[i+j] {
				b |= 1
			}
		}
		data = append(data, b)
	}
	for pad := byte(0xec); len(data) < capacity; pad ^= 0xec ^ 0x11 {
		data = append(data, pad)
	}
	return data
}

// multiply is the product in GF(256) modulo x^8+x^4+x^3+x^2+1.
func multiply(a, b byte) byte {
	var product byte
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			product ^= a
		}
		carry := a&0x80 != 0
		a <<= 1
		if carry {
			a ^= 0x1d
		}
	}
	return product
}

// qrCorrection are n error correction codewords of data: the remainder of the
// division by the Reed-Solomon generator polynomial of degree n.
func qrCorrection(data []byte, n int) []byte {
	generator := make([]byte, n) // coefficients below the leading 1, highest first
	generator[n-1] = 1
	root := byte(1)
	for range n {
		for j := range n {
			generator[j] = multiply(generator[j], root)
			if j+1 < n {
				generator[j] ^= generator[j+1]
			}
		}
		root = multiply(root, 2)
	}
	rest := make([]byte, n)
	for _, b := range data {
		factor := b ^ rest[0]
		copy(rest, rest[1:])
		rest[n-1] = 0
		for j := range rest {
			rest[j] ^= multiply(generator[j], factor)
		}
	}
	return rest
}

// interleave splits data into blocks and mixes them and their error correction.
func (v qrVersion) interleave(data []byte) []byte {
	var blocks, corrections [][]byte
	for i := range v.blocks1 + v.blocks2 {
		n := v.data1
		if i >= v.blocks1 {
			n++
		}
		blocks = append(blocks, data[:n])
		corrections = append(corrections, qrCorrection(data[:n], v.correction))
		data = data[n:]
	}
	var out []byte
	for _, group := range [][][]byte{blocks, corrections} {
		for i := 0; i <= v.data1 || i < v.correction; i++ {
			for _, block := range group {
				if i < len(block) {
					out = append(out, block[i])
				}
			}
		}
	}
	return out
}

// qrVersionBits is the version with its BCH code; 0 below version 7.
func qrVersionBits(n int) int {
	if n < 7 {
		return 0
	}
	rest := n << 12
	for i := 17; i >= 12; i-- {
		if rest>>i&1 == 1 {
			rest ^= 0x1f25 << (i - 12)
		}
	}
	return n<<12 | rest
}

// qrFormatBits is error correction level M and the mask with their BCH code.
func qrFormatBits(mask int) int {
	rest := mask << 10 // level M is 00
	for i := 14; i >= 10; i-- {
		if rest>>i&1 == 1 {
			rest ^= 0x537 << (i - 10)
		}
	}
	return (mask<<10 | rest) ^ 0x5412
}

// draw places everything on the symbol of version n.
func (v qrVersion) draw(n int, codewords []byte, mask int) qrCode {
	size := 17 + 4*n
	c, fixed := make(qrCode, size), make(qrCode, size)
	for i := range c {
		c[i], fixed[i] = make([]bool, size), make([]bool, size)
	}
	set := func(row, column int, dark bool) {
		if row >= 0 && row < size && column >= 0 && column < size {
			c[row][column], fixed[row][column] = dark, true
		}
	}
	for i := range size {
		set(6, i, i%2 == 0)
		set(i, 6, i%2 == 0)
	}
	for _, corner := range [][2]int{{0, 0}, {0, size - 7}, {size - 7, 0}} {
		for row := -1; row <= 7; row++ {
			for column := -1; column <= 7; column++ {
				ring := max(abs(row-3), abs(column-3))
				set(corner[0]+row, corner[1]+column, ring != 2 && ring != 4)
			}
		}
	}
	last := len(v.alignment) - 1
	for i, row := range v.alignment {
		for j, column := range v.alignment {
			if i == 0 && j == 0 || i == 0 && j == last || i == last && j == 0 {
				continue
			}
			for y := -2; y <= 2; y++ {
				for x := -2; x <= 2; x++ {
					set(row+y, column+x, max(abs(y), abs(x)) != 1)
				}
			}
		}
	}
	format := qrFormatBits(mask)
	for i := range 15 {
		dark := format>>i&1 == 1
		switch { // around the upper left corner
		case i < 6:
			set(i, 8, dark)
		case i < 8:
			set(i+1, 8, dark)
		case i == 8:
			set(8, 7, dark)
		default:
			set(8, 14-i, dark)
		}
		if i < 8 { // and once more at the other two
			set(8, size-1-i, dark)
		} else {
			set(size-15+i, 8, dark)
		}
	}
	set(size-8, 8, true)
	if n >= 7 {
		for i := range 18 {
			dark := v.versionInformation>>i&1 == 1
			set(i/3, size-11+i%3, dark)
			set(size-11+i%3, i/3, dark)
		}
	}
	bit := 0
	up := true
	for right := size - 1; right > 0; right -= 2 {
		if right == 6 {
			right--
		}
		for i := range size {
			row := i
			if up {
				row = size - 1 - i
			}
			for column := right; column > right-2; column-- {
				if fixed[row][column] {
					continue
				}
				dark := bit < 8*len(codewords) && codewords[bit/8]>>(7-bit%8)&1 == 1
				bit++
				c[row][column] = dark != masked(mask, row, column)
			}
		}
		up = !up
	}
	return c
}

func masked(mask, row, column int) bool {
	switch mask {
	case 0:
		return (row+column)%2 == 0
	case 1:
		return row%2 == 0
	case 2:
		return column%3 == 0
	case 3:
		return (row+column)%3 == 0
	case 4:
		return (row/2+column/3)%2 == 0
	case 5:
		return row*column%2+row*column%3 == 0
	case 6:
		return (row*column%2+row*column%3)%2 == 0
	}
	return ((row+column)%2+row*column%3)%2 == 0
}

// penalty is how hard the symbol is to read, by the four rules of the standard.
func (c qrCode) penalty() int {
	size, sum, dark := len(c), 0, 0
	at := func(row, column int, turned bool) bool {
		if turned {
			return c[column][row]
		}
		return c[row][column]
	}
	for _, turned := range []bool{false, true} {
		for row := range size {
			run, pattern := 0, 0
			for column := range size {
				if column > 0 && at(row, column, turned) == at(row, column-1, turned) {
					run++
				} else {
					run = 1
				}
				if run == 5 {
					sum += 3
				} else if run > 5 {
					sum++
				}
				pattern = pattern << 1 & 0x7ff
				if at(row, column, turned) {
					pattern |= 1
				}
				if column >= 10 && (pattern == 0x05d || pattern == 0x5d0) {
					sum += 40
				}
			}
		}
	}
	for row := range size {
		for column := range size {
			if c[row][column] {
				dark++
			}
			if row > 0 && column > 0 && c[row][column] == c[row-1][column] && c[row][column] == c[row][column-1] && c[row][column] == c[row-1][column-1] {
				sum += 3
			}
		}
	}
	return sum + 10*(abs(100*dark-50*size*size)/(5*size*size))
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// SVG is the code with its quiet zone, black on white in any colour scheme:
// readers want it so.
func (c qrCode) SVG() template.HTML {
	side := strconv.Itoa(len(c) + 8)
	var path strings.Builder
	for row := range c {
		for column := 0; column < len(c); column++ {
			run := 0
			for column+run < len(c) && c[row][column+run] {
				run++
			}
			if run > 0 {
				path.WriteString("M" + strconv.Itoa(column+4) + " " + strconv.Itoa(row+4) + "h" + strconv.Itoa(run) + "v1h-" + strconv.Itoa(run) + "z")
				column += run
			}
		}
	}
	return template.HTML(`<svg class="qr" viewBox="0 0 ` + side + ` ` + side + `" role="img" aria-labelledby="qr-text" shape-rendering="crispEdges">` +
		`<path fill="#fff" d="M0 0h` + side + `v` + side + `H0z"/><path fill="#000" d="` + path.String() + `"/></svg>`) //nolint:gosec // numbers
}

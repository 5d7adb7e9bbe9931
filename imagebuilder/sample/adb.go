package sample

import (
	"bytes"
	"compress/flate"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
)

// Apk v3 files are ADB containers: a header of magic and schema, then blocks
// aligned to 8 bytes. Facts from alpinelinux/apk-tools, src/adb.h and
// src/apk_adb.h.
const (
	schemaIndex   = "indx"
	schemaPackage = "pckg"

	blockADB  = 0
	blockSig  = 1
	blockData = 2

	typeInt    = 0x10000000
	typeInt32  = 0x20000000
	typeBlob8  = 0x80000000
	typeBlob16 = 0x90000000
	typeBlob32 = 0xa0000000
	typeObject = 0xe0000000 // apk 3.0 writes arrays with this type too
)

// adb builds the values of one container. A value is a type and, for all but
// small numbers, the place of its bytes.
type adb struct {
	buf  []byte
	seen map[string]uint32
}

func newADB() *adb {
	return &adb{buf: make([]byte, 8), seen: map[string]uint32{}}
}

// place adds bytes, or finds them where they were put before.
func (a *adb) place(data []byte, align int) uint32 {
	key := string(rune(align)) + string(data)
	if at, ok := a.seen[key]; ok {
		return at
	}
	return a.placeNew(data, align, key)
}

func (a *adb) placeNew(data []byte, align int, key string) uint32 {
	for len(a.buf)%align != 0 {
		a.buf = append(a.buf, 0)
	}
	at := uint32(len(a.buf))
	a.buf = append(a.buf, data...)
	if key != "" {
		a.seen[key] = at
	}
	return at
}

// blob is a value of bytes; none is null.
func (a *adb) blob(data []byte) uint32 {
	switch n := len(data); {
	case n == 0:
		return 0
	case n <= 0xff:
		return typeBlob8 | a.place(append([]byte{byte(n)}, data...), 1)
	case n <= 0xffff:
		return typeBlob16 | a.place(append(binary.LittleEndian.AppendUint16(nil, uint16(n)), data...), 2)
	default:
		return typeBlob32 | a.place(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), data...), 4)
	}
}

func (a *adb) text(s string) uint32 { return a.blob([]byte(s)) }

// number is a value below 2^32.
func (a *adb) number(n uint32) uint32 {
	if n < 0x10000000 {
		return typeInt | n
	}
	return typeInt32 | a.place(binary.LittleEndian.AppendUint32(nil, n), 4)
}

// collect writes the values of an array or an object; nulls at its end are
// left out, and an empty one is null.
func (a *adb) collect(values ...uint32) uint32 {
	for len(values) > 0 && values[len(values)-1] == 0 {
		values = values[:len(values)-1]
	}
	if len(values) == 0 {
		return 0
	}
	data := binary.LittleEndian.AppendUint32(nil, uint32(len(values)+1))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, v)
	}
	return typeObject | a.place(data, 4)
}

// finish returns the container's bytes with its root value.
func (a *adb) finish(root uint32) []byte {
	binary.LittleEndian.PutUint32(a.buf[4:], root)
	return a.buf
}

// block frames a payload.
func block(kind uint32, payload []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, kind<<30|uint32(len(payload)+4))
	out = append(out, payload...)
	for len(out)%8 != 0 {
		out = append(out, 0)
	}
	return out
}

// adbFile makes a file of blocks, deflated if wanted.
func adbFile(schema string, deflate bool, blocks ...[]byte) ([]byte, error) {
	var body bytes.Buffer
	body.WriteString("ADB." + schema)
	for _, b := range blocks {
		body.Write(b)
	}
	if !deflate {
		return body.Bytes(), nil
	}
	var out bytes.Buffer
	out.WriteString("ADBd")
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(body.Bytes()); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// indexKey signs packages.adb; like the other key it is no secret.
func indexKey() (*ecdsa.PrivateKey, error) {
	seed := sha256.Sum256([]byte(signingSeed + ", apk"))
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
}

// indexKeyPEM is the public half, as it stands in a builder's keys/.
func indexKeyPEM() ([]byte, error) {
	key, err := indexKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// signADB makes the signature block's payload: version 0, SHA-512, the key's
// id, and a signature over schema, this header and the container's digest.
func signADB(schema string, container []byte) ([]byte, error) {
	key, err := indexKey()
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	id := sha512.Sum512(point)
	header := append([]byte{0, 4}, id[:16]...)
	digest := sha512.Sum512(container)
	h := sha512.New()
	h.Write([]byte(schema))
	h.Write(header)
	h.Write(digest[:])
	sig, err := key.Sign(nil, h.Sum(nil), crypto.SHA512) // no randomness: RFC 6979
	if err != nil {
		return nil, fmt.Errorf("sign the index: %w", err)
	}
	return append(header, sig...), nil
}

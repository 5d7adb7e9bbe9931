package feeds

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Errors of VerifyADB.
var (
	ErrUnsigned     = errors.New("it is not signed")
	ErrUnknownKey   = errors.New("none of the trusted keys signed it")
	ErrBadSignature = errors.New("its signature is wrong")
)

// maxSignature bounds a signature block, in bytes, as apk does.
const maxSignature = 2048

// adbHash is a hash in ADB files, by its number (alpinelinux/apk-tools src/apk_crypto.h).
const (
	adbSHA256    = 3
	adbSHA512    = 4
	adbSHA256160 = 5 // the first 160 bits of SHA-256
)

// ParseAPKKey reads a public key as it lies in an ImageBuilder's keys/: PEM of
// a SubjectPublicKeyInfo with an elliptic-curve key, perhaps after a line
// "untrusted comment: …".
func ParseAPKKey(text []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("no PEM block PUBLIC KEY in it")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the public key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, not one of an elliptic curve", parsed)
	}
	return key, nil
}

// VerifyADB tells whether one of keys, elliptic-curve keys of any curve,
// signed an ADB file, as apk's packages.adb are: a nil error says yes.
// Otherwise it is ErrUnsigned, ErrUnknownKey, ErrBadSignature (by a known key)
// or what is broken in the file.
//
// Each signature names its key by the first 16 bytes of the SHA-512 of the
// key's uncompressed point. It is an ECDSA signature of the SHA-512 of the
// file's schema, the signature's own head (version, hash, key) and the hash of
// the container. So the container and its kind are signed, nothing after it.
func VerifyADB(data []byte, keys []crypto.PublicKey) error {
	a, err := newADBReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer a.close()
	d, err := a.container()
	if err != nil {
		return err
	}
	byID := map[string]*ecdsa.PublicKey{}
	for _, k := range keys {
		if key, ok := k.(*ecdsa.PublicKey); ok {
			id, err := keyID(key)
			if err != nil {
				return fmt.Errorf("a trusted key cannot be used: %w", err)
			}
			byID[id] = key
		}
	}
	verdict := ErrUnsigned
	for {
		kind, length, err := a.next()
		if errors.Is(err, io.EOF) || err == nil && kind != adbBlockSignature {
			return verdict
		}
		if err != nil {
			return err
		}
		if length > maxSignature {
			return &SyntaxError{Offset: a.at, Err: fmt.Errorf("a signature of %d bytes", length)}
		}
		signature := make([]byte, length)
		if err := a.full(signature); err != nil {
			return err
		}
		if length < 18 || signature[0] != 0 { // another version of the format
			continue
		}
		head := signature[:18]
		key, known := byID[string(signature[2:18])]
		if !known {
			if errors.Is(verdict, ErrUnsigned) {
				verdict = ErrUnknownKey
			}
			continue
		}
		digest := adbDigest(signature[1], d.bytes)
		signed := sha512.New()
		signed.Write([]byte(a.schema))
		signed.Write(head)
		signed.Write(digest)
		if digest != nil && ecdsa.VerifyASN1(key, signed.Sum(nil), signature[18:]) {
			return nil
		}
		verdict = ErrBadSignature
	}
}

// keyID is what a signature calls its key.
func keyID(key *ecdsa.PublicKey) (string, error) {
	point, err := key.Bytes()
	if err != nil {
		return "", err
	}
	id := sha512.Sum512(point)
	return string(id[:16]), nil
}

// adbDigest hashes a container; nil if the hash is not known.
func adbDigest(hash byte, container string) []byte {
	switch hash {
	case adbSHA256, adbSHA256160:
		h := sha256.New()
		io.Copy(h, strings.NewReader(container))
		if hash == adbSHA256160 {
			return h.Sum(nil)[:20]
		}
		return h.Sum(nil)
	case adbSHA512:
		h := sha512.New()
		io.Copy(h, strings.NewReader(container))
		return h.Sum(nil)
	}
	return nil
}

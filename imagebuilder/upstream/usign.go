package upstream

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// PublicKey is a usign public key (openwrt/usign main.c): the letters "Ed",
// eight bytes of key id and 32 bytes of Ed25519 key.
type PublicKey struct {
	ID  string // the fingerprint: 16 lower-case hex digits
	Key ed25519.PublicKey
}

// Signature is a usign signature: "Ed", key id and 64 bytes of Ed25519.
type Signature struct {
	ID  string // of the key that made it
	Sig []byte
}

// ErrBadSignature is returned where a signature by a trusted key does not fit
// what it signs.
var ErrBadSignature = errors.New("the signature is wrong")

// ParsePublicKey reads a usign public key: a comment line and a line of
// base64.
func ParsePublicKey(data []byte) (PublicKey, error) {
	raw, err := parseUsign(data, ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading a usign public key: %w", err)
	}
	return PublicKey{ID: hex.EncodeToString(raw[2:10]), Key: ed25519.PublicKey(raw[10:])}, nil
}

// ParseSignature reads a usign signature file.
func ParseSignature(data []byte) (Signature, error) {
	raw, err := parseUsign(data, ed25519.SignatureSize)
	if err != nil {
		return Signature{}, fmt.Errorf("reading a usign signature: %w", err)
	}
	return Signature{ID: hex.EncodeToString(raw[2:10]), Sig: raw[10:]}, nil
}

func parseUsign(data []byte, payload int) ([]byte, error) {
	const comment = "untrusted comment:"
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(lines) > 1 && bytes.HasPrefix(lines[0], []byte(comment)) {
		lines = lines[1:]
	}
	if len(lines) != 1 {
		return nil, fmt.Errorf("it has %d lines besides the comment, not one", len(lines))
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(lines[0])))
	if err != nil {
		return nil, fmt.Errorf("it is not base64: %w", err)
	}
	if len(raw) != 2+8+payload {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(raw), 2+8+payload)
	}
	if raw[0] != 'E' || raw[1] != 'd' {
		return nil, fmt.Errorf("its algorithm is %.10q, not \"Ed\"", raw[:2])
	}
	return raw, nil
}

// keyring is the trusted keys by their ids.
type keyring map[string]ed25519.PublicKey

// verify tells by which trusted key data is signed. The id is "" and the error
// nil if sig was made with a key that is not in the ring: nothing can be said.
func (k keyring) verify(data, sig []byte) (id string, err error) {
	s, err := ParseSignature(sig)
	if err != nil {
		return "", err
	}
	key, known := k[s.ID]
	if !known {
		return "", nil
	}
	if !ed25519.Verify(key, data, s.Sig) {
		return "", fmt.Errorf("key %s: %w", s.ID, ErrBadSignature)
	}
	return s.ID, nil
}

// loadKeys reads the trusted keys: the given ones and every file of a folder
// that is called like a fingerprint or *.pub. A missing folder holds none; a
// file that should be a key and is none is an error, since its owner believes
// it to be in force.
func loadKeys(dir string, given [][]byte) (keyring, error) {
	ring := keyring{}
	for i, data := range given {
		key, err := ParsePublicKey(data)
		if err != nil {
			return nil, fmt.Errorf("trusted key %d: %w", i+1, err)
		}
		ring[key.ID] = key.Key
	}
	if dir == "" {
		return ring, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return ring, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the folder of trusted keys: %w", err)
	}
	for _, entry := range entries {
		name := entry.Name()
		id, err := hex.DecodeString(name)
		fingerprint := err == nil && len(id) == 8
		if entry.IsDir() || !fingerprint && filepath.Ext(name) != ".pub" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("reading a trusted key: %w", err)
		}
		key, err := ParsePublicKey(data)
		if err != nil {
			return nil, fmt.Errorf("trusted key %s: %w", name, err)
		}
		if fingerprint && hex.EncodeToString(id) != key.ID {
			return nil, fmt.Errorf("trusted key %s: its fingerprint is %s", name, key.ID)
		}
		ring[key.ID] = key.Key
	}
	return ring, nil
}

package sample

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// signingSeed makes the secret key that signs the sample. It is no secret: it
// stands here. A signature by it says that a file is the sample's, nothing else.
const signingSeed = "attendant: signing key of the sample distribution, known to everybody"

func signingKey() (key ed25519.PrivateKey, number []byte) {
	seed := sha256.Sum256([]byte(signingSeed))
	id := sha256.Sum256(seed[:])
	return ed25519.NewKeyFromSeed(seed[:]), id[:8]
}

// TrustedKey returns the usign public key that signs the sample's sha256sums
// and package indexes: its fingerprint (16 hex digits, the name of its file
// in a folder of keys) and the file's content.
func TrustedKey() (fingerprint string, pub []byte) {
	key, number := signingKey()
	fingerprint = hex.EncodeToString(number)
	blob := append(append([]byte("Ed"), number...), key.Public().(ed25519.PublicKey)...)
	return fingerprint, usignFile("public key "+fingerprint, blob)
}

// usignSignature makes the content of a .sig file for data.
func usignSignature(data []byte) []byte {
	key, number := signingKey()
	blob := append(append([]byte("Ed"), number...), ed25519.Sign(key, data)...)
	return usignFile("signed by key "+hex.EncodeToString(number), blob)
}

func usignFile(comment string, blob []byte) []byte {
	return fmt.Appendf(nil, "untrusted comment: %s\n%s\n", comment, base64.StdEncoding.EncodeToString(blob))
}

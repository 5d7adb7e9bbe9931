package server

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/julienschmidt/httprouter"

	"attendant/imagebuilder"
)

// SigningKey signs the sha256sums of images for auc 0.0.9, which wants a
// signature by usign. Files are in usign's forms (openwrt/usign main.c), so
// that the key may be one that usign made.
type SigningKey struct {
	number  [8]byte
	private ed25519.PrivateKey
}

// secretLength is the length of usign's secret key: algorithms, rounds, salt,
// checksum, number, key.
const secretLength = 2 + 2 + 4 + 16 + 8 + 8 + ed25519.PrivateKeySize

// OpenSigningKey reads the secret key at path, and makes one if there is none.
func OpenSigningKey(path string) (*SigningKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, text := newSigningKey()
		if err := writeSecret(path, text); err != nil {
			return nil, fmt.Errorf("make the key that signs sha256sums: %w", err)
		}
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key that signs sha256sums: %w", err)
	}
	k, err := parseSigningKey(text)
	if err != nil {
		return nil, fmt.Errorf("read the key that signs sha256sums: %s: %w", path, err)
	}
	return k, nil
}

func newSigningKey() (*SigningKey, []byte) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	k := &SigningKey{private: private}
	rand.Read(k.number[:]) //nolint:errcheck // nor here
	blob := make([]byte, 0, secretLength)
	blob = append(blob, "EdBK\x00\x00\x00\x00"...)
	salt := make([]byte, 16)
	rand.Read(salt) //nolint:errcheck // nor here
	sum := sha512.Sum512(private)
	blob = append(append(append(append(blob, salt...), sum[:8]...), k.number[:]...), private...)
	return k, usignText("private key "+k.fingerprint(), blob)
}

func parseSigningKey(text []byte) (*SigningKey, error) {
	comment, rest, _ := bytes.Cut(text, []byte("\n"))
	if !bytes.HasPrefix(comment, []byte("untrusted comment: ")) {
		return nil, errors.New("it is no usign key")
	}
	blob, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(rest)))
	switch {
	case err != nil || len(blob) != secretLength || string(blob[:4]) != "EdBK":
		return nil, errors.New("it is no secret key of usign")
	case !bytes.Equal(blob[4:8], make([]byte, 4)):
		return nil, errors.New("it is protected by a passphrase")
	}
	key := blob[40:]
	sum := sha512.Sum512(key)
	if subtle.ConstantTimeCompare(sum[:8], blob[24:32]) != 1 || !bytes.Equal(ed25519.NewKeyFromSeed(key[:ed25519.SeedSize]), key) {
		return nil, errors.New("it is damaged")
	}
	k := &SigningKey{private: key}
	copy(k.number[:], blob[32:40])
	return k, nil
}

// writeSecret puts a file in place whole, for the owner alone.
func writeSecret(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // has mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is gone when all went well
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func usignText(comment string, blob []byte) []byte {
	return fmt.Appendf(nil, "untrusted comment: %s\n%s\n", comment, base64.StdEncoding.EncodeToString(blob))
}

// fingerprint is what the key's file is called in a folder of trusted keys.
func (k *SigningKey) fingerprint() string { return hex.EncodeToString(k.number[:]) }

// public is the file of the public key.
func (k *SigningKey) public() []byte {
	blob := append(append([]byte("Ed"), k.number[:]...), k.private.Public().(ed25519.PublicKey)...)
	return usignText("public key "+k.fingerprint(), blob)
}

// sign makes the content of a .sig file.
func (k *SigningKey) sign(data []byte) []byte {
	blob := append(append([]byte("Ed"), k.number[:]...), ed25519.Sign(k.private, data)...)
	return usignText("signed by key "+k.fingerprint(), blob)
}

// legacyKey hands out the public key.
func (s *Server) legacyKey(w http.ResponseWriter, r *http.Request) {
	if s.o.SigningKey == nil {
		s.notFound(w, r)
		return
	}
	writeBody(w, http.StatusOK, "text/plain; charset=utf-8", s.o.SigningKey.public())
}

const signatureFile = sumsFile + ".sig"

// maxSums bounds a sha256sums that an ImageBuilder made, in bytes.
const maxSums = 1 << 20

// legacySums are the files beside the images that no ImageBuilder made:
// sha256sums where it has not, and its signature. False are all others.
func (s *Server) legacySums(w http.ResponseWriter, r *http.Request, ps httprouter.Params, job *imagebuilder.Job) bool {
	name := ps.ByName("file")
	if name != sumsFile && (name != signatureFile || s.o.SigningKey == nil) {
		return false
	}
	sums := sha256sums(job.Images)
	if name == sumsFile {
		if sums == nil {
			return false // a file like others
		}
		writeBody(w, http.StatusOK, "application/octet-stream", sums)
		return true
	}
	if sums == nil {
		f, err := s.o.Images.Open(job.ImagesHash(), sumsFile)
		if err != nil {
			return false
		}
		defer f.Close() //nolint:errcheck // nothing was written
		if sums, err = io.ReadAll(io.LimitReader(f.File, maxSums)); err != nil {
			s.writeError(w, r, err)
			return true
		}
	}
	writeBody(w, http.StatusOK, "application/octet-stream", s.o.SigningKey.sign(sums))
	return true
}

package upstream

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

// ErrUntrusted is returned for a repository that none of the given keys has
// signed.
var ErrUntrusted = errors.New("none of the given keys has signed the repository's list")

// Repository is a feed of somebody else's that a request names.
type Repository struct {
	Folder string // address of the folder that holds the list and the packages
	Index  *feeds.Index
	// List and, for opkg, Signature are the files as they came, ListName what
	// the first is called there.
	ListName        string
	List, Signature []byte
}

// PackageFile is a package of the repository, to be fetched.
func (r *Repository) PackageFile(p *feeds.Package) PackageFile {
	return PackageFile{URL: r.Folder + "/" + url.PathEscape(packageFileName(p)), Package: p}
}

// packageFileName is what a package is called beside its list.
func packageFileName(p *feeds.Package) string {
	if p.Filename == "" {
		return p.Name + "-" + p.Version + ".apk" // apk's own way
	}
	return strings.TrimPrefix(p.Filename, "./")
}

// Repository fetches a feed's list and checks it: keys are usign or PEM public
// keys, each a file's content; those of another kind or that cannot be read
// are passed over. The errors are ErrUntrusted and *imagebuilder.Error:
// CodeNoNetwork, CodePackageDamaged.
func (u *Upstream) Repository(ctx context.Context, address string, m feeds.Manager, keys [][]byte) (*Repository, error) {
	r := &Repository{Folder: strings.TrimRight(address, "/"), ListName: "Packages.gz"}
	if m == feeds.APK {
		r.ListName = apkList
		if folder, ok := strings.CutSuffix(address, "/"+apkList); ok {
			r.Folder = folder
		}
	}
	var err error
	if r.List, err = u.repositoryFile(ctx, r.Folder, r.ListName, maxIndexSize); err != nil {
		return nil, err
	}
	text := r.List
	if m == feeds.Opkg {
		text, err = unpackIndex(r.ListName, r.List)
	}
	if err == nil {
		if m == feeds.APK {
			r.Index, err = feeds.ParseADB(text)
		} else {
			r.Index, err = feeds.ParsePackages(text)
		}
	}
	if err != nil {
		return nil, imagebuilder.Errorf(imagebuilder.CodePackageDamaged,
			"Error: The list of packages of %s cannot be read: it is damaged, or no list for this release. Check the feed's address or try again later.", address).WithCause(err)
	}
	if m == feeds.APK {
		return r, trustedADB(text, keys)
	}
	if r.Signature, err = u.repositoryFile(ctx, r.Folder, "Packages.sig", maxSigSize); err != nil {
		if errors.Is(err, errAbsent) {
			return r, fmt.Errorf("%s: it has no signature: %w", address, ErrUntrusted)
		}
		return nil, err
	}
	ring := keyring{}
	for _, data := range keys {
		if key, err := ParsePublicKey(data); err == nil {
			ring[key.ID] = key.Key
		}
	}
	id, err := ring.verify(text, r.Signature)
	switch {
	case err != nil:
		return nil, imagebuilder.Errorf(imagebuilder.CodePackageDamaged,
			"Error: The signature of the package feed %s is wrong: it is damaged, or being updated just now. Please try again later.", address).WithCause(err)
	case id == "":
		return r, fmt.Errorf("%s: %w", address, ErrUntrusted)
	}
	return r, nil
}

func trustedADB(data []byte, keys [][]byte) error {
	var trusted []crypto.PublicKey
	for _, text := range keys {
		if key, err := feeds.ParseAPKKey(text); err == nil {
			trusted = append(trusted, key)
		}
	}
	if err := feeds.VerifyADB(data, trusted); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return nil
}

func (u *Upstream) repositoryFile(ctx context.Context, folder, name string, limit int64) ([]byte, error) {
	f, err := u.fetchURL(ctx, folder+"/"+name, name, limit, nil)
	if err == nil {
		return f.data, nil
	}
	if ctx.Err() != nil {
		return nil, imagebuilder.Errorf(imagebuilder.CodeCanceled, "Waiting for the package feeds was ended.").WithCause(err)
	}
	why := "the server could not reach it"
	if errors.Is(err, errAbsent) || errors.Is(err, errWebPage) {
		why = "there is no such file at that address"
	}
	return nil, imagebuilder.Errorf(imagebuilder.CodeNoNetwork,
		"Error: The file %s of the package feed %s could not be downloaded: %s. Check the feed's address or try again later.", name, folder, why).WithCause(err)
}

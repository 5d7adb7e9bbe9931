package runner

import (
	"fmt"
	"slices"
	"strings"

	"attendant/imagebuilder"
)

// sentence puts a verdict into asu's words first, which clients know, and the
// way out behind them.
func sentence(code imagebuilder.Code, parts ...string) *imagebuilder.Error {
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	return &imagebuilder.Error{Code: code, Detail: "Error: " + strings.Join(parts, " ")}
}

// enumerate joins a bounded number of names.
func enumerate(names []string, most int) string {
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// failure is the verdict on a run that ended with an exit code other than 0.
// feeds are the addresses of the request's own feeds.
func (f *findings) failure(feeds []string) *imagebuilder.Error {
	switch {
	case f.noSpace:
		return sentence(imagebuilder.CodeNoSpace,
			"This server's disk is full, so the image could not be built. Please try again later; if it stays, tell the server's operator.")
	case f.unknownProfile != "":
		return sentence(imagebuilder.CodeUnsupportedProfile, "Unsupported profile: "+f.unknownProfile+
			". The requested profile was either dropped or never existed. Please check the forums for more information.")
	case f.unknownFilesystem != "":
		return filesystemError(f.unknownFilesystem, f.filesystems)
	case len(f.prerequis) > 0 || len(f.failedCheck) > 0:
		return f.hostFailure()
	case len(f.damaged) > 0:
		return f.damage()
	case len(f.downloads) > 0:
		return f.networkFailure("The package "+enumerate(f.downloads, 5)+" could not be downloaded", "")
	}
	missing := f.missing()
	if len(missing) > 0 {
		if e := f.feedFailure(feeds, missing); e != nil {
			return e
		}
	}
	switch {
	case len(missing) > 0 || len(f.conflicts) > 0 || len(f.unmet) > 0 || f.impossible:
		return f.selection(missing)
	case len(f.scripts) > 0:
		return sentence(imagebuilder.CodePackageScript, "Error while building firmware. See stdout/stderr.",
			"The install script of "+enumerate(f.scripts, 5)+" failed; leave that package out or tell its maintainer.")
	case f.tooBig:
		return f.tooBigFailure()
	// Last, for a package's script that tries a program of the router's
	// processor says the same.
	case f.wrongArch:
		return sentence(imagebuilder.CodeHost, "This release's ImageBuilder is made for another processor than this server has.",
			"Its operator can install qemu-user-static with binfmt; `attendant doctor` says more.")
	}
	return f.generic("")
}

func (f *findings) hostFailure() *imagebuilder.Error {
	lacks := f.prerequis
	if len(lacks) == 0 {
		lacks = f.failedCheck
	}
	return sentence(imagebuilder.CodeHost,
		"This server lacks what ImageBuilders need: "+enumerate(lacks, 12)+".",
		"Its operator must install that; `attendant doctor` says how.")
}

func (f *findings) damage() *imagebuilder.Error {
	return sentence(imagebuilder.CodePackageDamaged,
		"The package "+enumerate(f.damaged, 5)+" does not match its feed's index: it is damaged, or the feed is being updated just now.",
		"Please try again later.")
}

func (f *findings) networkFailure(what, unsure string) *imagebuilder.Error {
	return sentence(imagebuilder.CodeNoNetwork, what+": the server could not reach the package feeds.", unsure, "Please try again later.")
}

// feedFailure tells whether a feed that could not be had, or was not trusted,
// leaves it open whether the missing packages are in it.
func (f *findings) feedFailure(feeds, missing []string) *imagebuilder.Error {
	open := ""
	if len(missing) > 0 {
		open = "So it is not known whether these packages exist: " + enumerate(missing, 8) + "."
	}
	if len(f.lists) > 0 {
		l := f.lists[0]
		what := "The package list " + l.url + " could not be downloaded"
		if l.httpError() {
			e := sentence(imagebuilder.CodeNoNetwork, what+": its server answered with an error.", open, "Check the feed's address or try again later.")
			return e
		}
		return f.networkFailure(what, open)
	}
	if len(f.unsigned) > 0 {
		feed := f.unsigned[0]
		for _, own := range feeds {
			if strings.HasPrefix(own, feed) || strings.HasPrefix(feed, strings.TrimRight(own, "/")) {
				return sentence(imagebuilder.CodePackageSelect,
					"The signature of the package feed "+feed+" is missing or not by a known key.", open,
					"Give the feed's public key in repository_keys.")
			}
		}
		return sentence(imagebuilder.CodePackageDamaged,
			"The signature of the package feed "+feed+" is missing or wrong: it is damaged, or being updated just now.", open,
			"Please try again later.")
	}
	return nil
}

// incomplete is the verdict on a run that ended well although it did not have
// all lists. Servers that answer with an error for a feed of the builder's own
// are let pass: some mirrors leave feeds out, and what was asked for was found
// without it.
func (f *findings) incomplete(feeds []string) *imagebuilder.Error {
	serious := *f
	serious.lists = slices.DeleteFunc(slices.Clone(f.lists), func(l listFailure) bool {
		return l.httpError() && !slices.ContainsFunc(feeds, func(own string) bool { return strings.HasPrefix(l.url, strings.TrimRight(own, "/")) })
	})
	return serious.feedFailure(feeds, nil)
}

// selection is asu's sentence on packages that do not go together
// (openwrt/asu asu/util.py, check_package_errors), and why.
func (f *findings) selection(missing []string) *imagebuilder.Error {
	conflicts := slices.Sorted(slices.Values(f.conflicts))
	head := "Impossible package selection"
	if len(missing) > 0 || len(conflicts) > 0 {
		head += ":"
	}
	if len(missing) > 0 {
		head += " missing (" + enumerate(missing, 30) + ")"
	}
	if len(conflicts) > 0 {
		head += " conflicts (" + enumerate(conflicts, 30) + ")"
	}
	code := imagebuilder.CodePackageSelect
	var why []string
	switch {
	case len(missing) > 0:
		code = imagebuilder.CodePackageMissing
		for _, name := range missing {
			if by := f.neededBy[name]; len(by) > 0 && len(why) < 5 {
				why = append(why, name+" is needed by "+enumerate(by, 3))
			}
		}
	case len(conflicts) > 0:
		code = imagebuilder.CodePackageConflict
		if len(f.clashFiles) > 0 {
			why = append(why, "both bring the file "+enumerate(f.clashFiles, 2))
		}
	case len(f.unmet) > 0:
		why = append(why, enumerate(f.unmet, 3)+", which this release has not")
	}
	detail := "Error: " + head
	if len(why) > 0 {
		detail += ". " + upperFirst(strings.Join(why, "; ")) + "."
	}
	return &imagebuilder.Error{Code: code, Detail: detail, Unknown: missing}
}

func upperFirst(s string) string {
	// Names stay as they are.
	if strings.HasPrefix(s, "both ") || strings.HasPrefix(s, "the ") {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

// tooBigFailure begins with asu's sentence for it.
func (f *findings) tooBigFailure() *imagebuilder.Error {
	const asu = "Selected packages exceed device storage"
	how := "Leave packages out and try again."
	switch {
	case f.mkfsSmall:
		return sentence(imagebuilder.CodeImageTooBig, asu+".", "They do not fit into the root partition: ask for a larger rootfs_size_mb or leave packages out.")
	case f.size > 0:
		return sentence(imagebuilder.CodeImageTooBig, asu+fmt.Sprintf(": the image has %d bytes and the device takes %d, %s too many.",
			f.size, f.max, kilobytes(f.size-f.max)), how)
	case f.excess > 0:
		return sentence(imagebuilder.CodeImageTooBig, asu+fmt.Sprintf(": the image is %s too big.", kilobytes(f.excess)), how)
	}
	return sentence(imagebuilder.CodeImageTooBig, asu+".", how)
}

func kilobytes(n int64) string {
	return fmt.Sprintf("%d KiB", (n+1023)/1024)
}

func (f *findings) generic(more string) *imagebuilder.Error {
	last := ""
	switch {
	case len(f.notFound) > 0:
		last = "A program was not found: " + enumerate(f.notFound, 5) + "."
	case len(f.lastErrors) > 0:
		last = "It said: " + cutText(f.lastErrors[0], 200)
	}
	return sentence(imagebuilder.CodeBuildFailed, "Error while building firmware. See stdout/stderr.", more, last)
}

func cutText(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

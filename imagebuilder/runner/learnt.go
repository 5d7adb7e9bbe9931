package runner

import (
	"path"
	"regexp"
	"strconv"
	"strings"
)

var imageTooBig = regexp.MustCompile(`Image file (\S+) is too big: (\d{1,15}) > (\d{1,15})`)

// LearntLimit reads from the standard error of a build, or the end of it, how
// large in bytes the image that upgrades the device may be, and how large this
// one was: what check-size says (openwrt/openwrt include/image-commands.mk).
// Kernels, factory images and the like have limits of their own and say
// nothing of it; nor does a text in which two images disagree.
func LearntLimit(stderr string) (limit, size int64, ok bool) {
	for line := range strings.Lines(stderr) {
		match := imageTooBig.FindStringSubmatch(line)
		if match == nil || !clientTakes(path.Base(match[1])) {
			continue
		}
		is, err1 := strconv.ParseInt(match[2], 10, 64)
		most, err2 := strconv.ParseInt(match[3], 10, 64)
		if err1 != nil || err2 != nil || most <= 0 || is <= most || is > maxLimit {
			continue
		}
		if ok && most != limit {
			return 0, 0, false
		}
		limit, size, ok = most, max(size, is), true
	}
	return limit, size, ok
}

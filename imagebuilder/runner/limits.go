package runner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// maxLimit is the largest limit believed in bytes: more flash than any device
// has whose images are checked.
const maxLimit = 64 << 30

// DeviceLimits reads from the unpacked ImageBuilder in dir how large, in bytes,
// the image may be that upgrades each of its devices, by profile. The builder's
// own image Makefiles say it (openwrt/openwrt target/linux/<board>/image/*.mk,
// include/image.mk): an image is dropped that a last step "check-size" finds
// larger than the device's IMAGE_SIZE, or mktplinkfw larger than its flash
// layout. Devices whose images nothing checks, and those whose definitions
// cannot be followed for certain, are left out. The error is of reading; a
// builder without such Makefiles has no limits.
func DeviceLimits(dir string) (map[string]int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the devices' limits: %w", err)
	}
	defer root.Close()
	limits, err := deviceLimits(root.FS())
	if err != nil {
		return nil, fmt.Errorf("reading the devices' limits: %w", err)
	}
	return limits, nil
}

func deviceLimits(builder fs.FS) (map[string]int64, error) {
	config, err := builderConfig(builder)
	if err != nil {
		return nil, err
	}
	board, subtarget := config["CONFIG_TARGET_BOARD"], config["CONFIG_TARGET_SUBTARGET"]
	if board == "" || strings.ContainsAny(board+subtarget, "/\\$") {
		return nil, nil
	}
	m := newMakefiles(builder, config)
	m.set("BOARD", board)
	m.set("SUBTARGET", subtarget)
	for _, name := range []string{"include/image.mk", "include/image-commands.mk"} {
		if err := m.definitions(name); err != nil {
			return nil, err
		}
	}
	if err := m.read(path.Join("target/linux", board, "image/Makefile")); err != nil {
		return nil, err
	}
	limits := map[string]int64{}
	for _, device := range m.devices {
		m.evaluate(device)
		if limit := m.limit(); limit > 0 {
			limits[device] = limit
		} else {
			delete(limits, device)
		}
	}
	return limits, nil
}

// builderConfig reads a builder's .config: names to values without quotes.
func builderConfig(builder fs.FS) (map[string]string, error) {
	config := map[string]string{}
	f, err := builder.Open(".config")
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxMakefile))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && strings.HasPrefix(name, "CONFIG_") && value != "n" {
			config[name] = strings.Trim(value, `"`)
		}
	}
	return config, nil // a line too long is none that is looked for
}

// limit is that of the device evaluated last, in bytes; 0 if there is none or
// it is not certain.
func (m *makefiles) limit() int64 {
	if m.lost {
		return 0
	}
	image := upgradeImage(strings.Fields(m.value("IMAGES")))
	if image == "" {
		return 0
	}
	limit := int64(-1)
	for _, filesystem := range []string{"", "/squashfs", "/jffs2-64k", "/jffs2-128k", "/ubifs", "/ext4"} {
		recipe := strings.TrimSpace(m.value("IMAGE/" + image + filesystem))
		if recipe == "" {
			continue
		}
		found := m.recipeLimit(recipe)
		if limit >= 0 && found != limit {
			return 0 // it depends on the file system
		}
		limit = found
	}
	return max(limit, 0)
}

// upgradeImage picks the image that upgrades a device: the sysupgrade image,
// or the only one that clients take.
func upgradeImage(images []string) string {
	found := ""
	for _, image := range images {
		switch {
		case strings.Contains(image, unsure):
			return ""
		case strings.HasPrefix(image, "sysupgrade"):
			if strings.HasPrefix(found, "sysupgrade") && found != image {
				return ""
			}
			found = image
		case strings.HasPrefix(found, "sysupgrade") || !clientTakes(image):
		case found != "":
			return ""
		default:
			found = image
		}
	}
	return found
}

// recipeLimit follows an image's steps: "append-kernel | … | check-size |
// append-metadata". What changes the image after it was checked, other than by
// metadata of some hundred bytes, leaves no limit.
func (m *makefiles) recipeLimit(recipe string) int64 {
	limit := int64(0)
	for step := range strings.SplitSeq(recipe, "|") {
		name, args, _ := strings.Cut(strings.TrimSpace(step), " ")
		args = strings.TrimSpace(args)
		switch {
		case strings.Contains(name, unsure) || strings.Contains(name, "$"):
			return 0
		case name == "check-size":
			if args == "" {
				args = m.value("IMAGE_SIZE")
			}
			checked := parseUnits(m.expandRecipe(args))
			if checked == 0 {
				return 0
			}
			limit = checked
		case name == "tplink-v1-image":
			limit = m.tplinkLimit(args)
		case name == "", strings.HasPrefix(name, "append-") && strings.HasSuffix(name, "metadata"):
		default:
			limit = 0
		}
	}
	return limit
}

var units = regexp.MustCompile(`^(?:(0[xX][0-9a-fA-F]{1,10})|([1-9][0-9]{0,11}) ?([kmg]?))$`)

// parseUnits reads a size as image Makefiles have it: "7936k", "0x7c0000". It
// is 0 for all else.
func parseUnits(s string) int64 {
	match := units.FindStringSubmatch(strings.TrimSpace(s))
	if match == nil {
		return 0
	}
	if match[1] != "" {
		n, err := strconv.ParseInt(match[1][2:], 16, 64)
		if err != nil || n > maxLimit {
			return 0
		}
		return n
	}
	n, err := strconv.ParseInt(match[2], 10, 64)
	if err != nil || n > maxLimit {
		return 0
	}
	n <<= map[string]int{"": 0, "k": 10, "m": 20, "g": 30}[match[3]]
	if n > maxLimit {
		return 0
	}
	return n
}

// tplinkLayouts are the bytes that mktplinkfw has for kernel and root file
// system in each of its flash layouts (openwrt/firmware-utils src/mktplinkfw.c,
// fw_max_len).
var tplinkLayouts = map[string]int64{
	"4M": 0x3c0000, "4Mlzma": 0x3c0000,
	"8M": 0x7c0000, "8Mlzma": 0x7c0000, "8Mmtk": 0x7c0000,
	"16M": 0xf80000, "16Mlzma": 0xf80000, "16Mppc": 0xf80000,
}

var reserved = regexp.MustCompile(`(?m)\s-X\s+(0x[0-9a-fA-F]{1,8}|\S+)`)

// tplinkLimit is what mktplinkfw takes for the device's layout: without what
// its command line in Build/tplink-v1-image reserves.
func (m *makefiles) tplinkLimit(args string) int64 {
	command, ok := m.defines["Build/tplink-v1-image"]
	layout := tplinkLayouts[strings.TrimSpace(m.value("TPLINK_FLASHLAYOUT"))]
	if !ok || command.maybe || layout == 0 || strings.Contains(" "+args, " -") {
		return 0
	}
	if match := reserved.FindAllStringSubmatch(command.text, 2); len(match) > 0 {
		space := parseUnits(match[0][1])
		if len(match) > 1 || space == 0 || space >= layout {
			return 0
		}
		layout -= space
	}
	return layout
}

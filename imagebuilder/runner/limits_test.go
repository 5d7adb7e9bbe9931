package runner

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// imageTree is a builder of ath79/generic with these image Makefiles.
func imageTree(files map[string]string) fstest.MapFS {
	tree := fstest.MapFS{".config": {Data: []byte("CONFIG_TARGET_BOARD=\"ath79\"\nCONFIG_TARGET_SUBTARGET=\"generic\"\nCONFIG_GZIP=y\n# CONFIG_LZ4 is not set\n")}}
	for name, text := range files {
		if !strings.HasPrefix(name, "include/") {
			name = "target/linux/ath79/image/" + name
		}
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return tree
}

// commonMakefile is how a target's Makefile begins.
const commonMakefile = `include $(TOPDIR)/rules.mk
include $(INCLUDE_DIR)/image.mk

define Device/Default
  PROFILES = Default
  BLOCKSIZE := 64k
  IMAGES := sysupgrade.bin
  IMAGE/sysupgrade.bin = append-kernel | pad-to $$$$(BLOCKSIZE) | \
	append-rootfs | pad-rootfs | check-size | append-metadata
endef
`

const endMakefile = "\n$(eval $(call BuildImage))\n"

const tplinkCommand = "define Build/tplink-v1-image\n\t-$(STAGING_DIR_HOST)/bin/mktplinkfw -F $(TPLINK_FLASHLAYOUT) \\\n\t\t-o $@.new -j -X 0x40000 -a 4\nendef\n"

func TestDeviceLimits(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  map[string]int64
	}{
		{"units", map[string]string{"Makefile": commonMakefile + `
define Device/k
  IMAGE_SIZE := 7936k
endef
define Device/m
  IMAGE_SIZE := 16m
endef
define Device/bytes
  IMAGE_SIZE := 8126464
endef
define Device/hex
  IMAGE_SIZE := 0x7c0000
endef
define Device/upper
  IMAGE_SIZE := 7936K
endef
define Device/sum
  IMAGE_SIZE := 7936k + 64k
endef
define Device/octal
  IMAGE_SIZE := 0123456
endef
define Device/negative
  IMAGE_SIZE := -4k
endef
define Device/none
endef
TARGET_DEVICES += k m bytes hex upper \
	sum octal negative none undefined
`}, map[string]int64{"k": 7936 << 10, "m": 16 << 20, "bytes": 8126464, "hex": 0x7c0000}},

		{"inheritance and overriding", map[string]string{"Makefile": commonMakefile + `
define Device/vendor
  DEVICE_VENDOR := Vendor
  IMAGE_SIZE := 15872k
endef
define Device/vendor_a
  $(Device/vendor)
  DEVICE_MODEL := A # the first
endef
TARGET_DEVICES += vendor_a
define Device/vendor_b
  $(call Device/vendor,$(1))
  IMAGE_SIZE := 7680k
endef
TARGET_DEVICES += vendor_b
define Device/vendor_c
  IMAGE_SIZE := 7680k
  $(Device/vendor)
endef
TARGET_DEVICES += vendor_c
define Device/vendor_d
  $(Device/nowhere)
  IMAGE_SIZE := 7680k
endef
TARGET_DEVICES += vendor_d
`}, map[string]int64{"vendor_a": 15872 << 10, "vendor_b": 7680 << 10, "vendor_c": 15872 << 10}},

		{"a device does not inherit its neighbour's size", map[string]string{"Makefile": commonMakefile + `
define Device/first
  IMAGE_SIZE := 7680k
endef
define Device/second
endef
TARGET_DEVICES += first second
`}, map[string]int64{"first": 7680 << 10}},

		{"what is set and never reset goes on to the next device", map[string]string{"Makefile": commonMakefile + `
define Device/first
  IMAGE_SIZE := 7680k
  IMAGE/sysupgrade.bin/squashfs := append-rootfs | append-metadata
endef
define Device/second
  IMAGE_SIZE := 7680k
endef
TARGET_DEVICES += first second
`}, map[string]int64{}},

		{"recipes", map[string]string{"Makefile": commonMakefile + `
define Device/unchecked
  IMAGE_SIZE := 7936k
  IMAGE/sysupgrade.bin := append-kernel | append-rootfs | append-metadata
endef
define Device/tar
  IMAGE_SIZE := 11200k
  IMAGE/sysupgrade.bin := append-rootfs | check-size | sysupgrade-tar rootfs=$$$$@ | append-metadata
endef
define Device/default
  IMAGE_SIZE := 7936k
  IMAGE/default := append-kernel | append-rootfs
  IMAGE/sysupgrade.bin := $$(IMAGE/default) | check-size | append-gl-metadata
endef
define Device/kernel
  IMAGE_SIZE := 7936k
  KERNEL_SIZE := 2048k
  IMAGE/sysupgrade.bin := append-kernel | check-size $$$$(KERNEL_SIZE) | append-rootfs | check-size | append-metadata
endef
define Device/kernelonly
  IMAGE_SIZE := 7936k
  KERNEL_SIZE := 2048k
  IMAGE/sysupgrade.bin := append-kernel | check-size $$$$(KERNEL_SIZE) | append-rootfs
endef
define Device/given
  IMAGE/sysupgrade.bin := append-kernel | append-rootfs | check-size 4096k
endef
define Device/function
  IMAGE_SIZE := 7936k
  IMAGE/sysupgrade.bin := append-kernel | $$(if $$(FOO),gzip |) append-rootfs | check-size
endef
define Device/computed
  IMAGE_SIZE := $$(shell expr 8 + 8)m
endef
define Device/factory
  IMAGE_SIZE := 7936k
  IMAGES += factory.bin
  IMAGE/factory.bin := append-kernel | append-rootfs | pad-to 16m
endef
define Device/two
  IMAGE_SIZE := 7936k
  IMAGES += sysupgrade.itb
endef
define Device/another
  IMAGE_SIZE := 7936k
  IMAGES := firmware.bin factory.bin
  IMAGE/firmware.bin := append-kernel | append-rootfs | check-size
endef
TARGET_DEVICES += unchecked tar default kernel kernelonly given function computed factory two another
`}, map[string]int64{"default": 7936 << 10, "kernel": 7936 << 10, "given": 4096 << 10, "factory": 7936 << 10, "another": 7936 << 10}},

		{"conditions and includes", map[string]string{"Makefile": commonMakefile + `
include $(SUBTARGET).mk
ifeq ($(SUBTARGET),generic)
include ./common.mk
else
define Device/inherited
  IMAGE_SIZE := 1k
endef
endif
ifeq ($(SUBTARGET),tiny)
include tiny.mk
else ifneq ($(CONFIG_GZIP),)
define Device/gzipped
  IMAGE_SIZE := 7936k
endef
else
define Device/gzipped
  IMAGE_SIZE := 1k
endef
endif
ifdef CONFIG_LZ4
TARGET_DEVICES += tiny
endif
ifeq ($(wildcard /etc/passwd),)
define Device/perhaps
  IMAGE_SIZE := 7936k
endef
endif
TARGET_DEVICES += gzipped perhaps
`, "generic.mk": "define Device/own\n  $(Device/inherited)\nendef\nTARGET_DEVICES += own\n",
			"common.mk": "define Device/inherited\n  IMAGE_SIZE := 3904k\nendef\n",
			"tiny.mk":   "define Device/tiny\n  IMAGE_SIZE := 1k\nendef\nTARGET_DEVICES += tiny\n",
		}, map[string]int64{"own": 3904 << 10, "gzipped": 7936 << 10}},

		{"conditions in a device", map[string]string{"Makefile": commonMakefile + `
define Device/a
  ifeq ($$(IMAGE_SIZE),)
    IMAGE_SIZE := 7936k
  else
    IMAGE_SIZE := 1k
  endif
endef
define Device/b
  IMAGE_SIZE := 7936k
  ifneq ($$(UNKNOWN),)
    IMAGE_SIZE := 1k
  endif
endef
TARGET_DEVICES += a b
`}, map[string]int64{"a": 7936 << 10}},

		{"mktplinkfw", map[string]string{"include/image-commands.mk": tplinkCommand, "Makefile": commonMakefile + `
define Device/tplink
  TPLINK_FLASHLAYOUT := 8M
  IMAGE_SIZE := 8000k
  IMAGE/sysupgrade.bin := tplink-v1-image sysupgrade | append-metadata
endef
define Device/tplink_16m
  $(Device/tplink)
  TPLINK_FLASHLAYOUT := 16Mlzma
endef
define Device/tplink_unknown
  $(Device/tplink)
  TPLINK_FLASHLAYOUT := 32M
endef
define Device/tplink_reserved
  $(Device/tplink)
  IMAGE/sysupgrade.bin := tplink-v1-image sysupgrade -X 0x80000 | append-metadata
endef
TARGET_DEVICES += tplink tplink_16m tplink_unknown tplink_reserved
`}, map[string]int64{"tplink": 0x780000, "tplink_16m": 0xf40000}},

		{"mktplinkfw with an unknown command line", map[string]string{"Makefile": commonMakefile +
			"define Device/tplink\n  TPLINK_FLASHLAYOUT := 8M\n  IMAGE/sysupgrade.bin := tplink-v1-image sysupgrade\nendef\nTARGET_DEVICES += tplink\n"},
			map[string]int64{}},

		{"what defines itself", map[string]string{"Makefile": commonMakefile +
			"define Device/a\n  $(Device/a)\n  $(Device/a)\n  IMAGE_SIZE := 1k\nendef\nX = $(X)$(X)\nTARGET_DEVICES += a $(X)\ninclude Makefile\n"},
			map[string]int64{}},

		{"no end", map[string]string{"Makefile": commonMakefile + "TARGET_DEVICES += a\ndefine Device/a\n  IMAGE_SIZE := 8k \\"},
			map[string]int64{}},

		{"nothing", nil, map[string]int64{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if text, ok := test.files["Makefile"]; ok {
				test.files["Makefile"] = text + endMakefile
			}
			got, err := deviceLimits(imageTree(test.files))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDeviceLimitsStaysInTheTree(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside.mk")
	tree := filepath.Join(dir, "builder")
	image := filepath.Join(tree, "target/linux/ath79/image")
	for name, text := range map[string]string{
		outside:                           "define Device/a\n  IMAGE_SIZE := 8k\nendef\nTARGET_DEVICES += a\n",
		filepath.Join(tree, ".config"):    "CONFIG_TARGET_BOARD=\"ath79\"\n",
		filepath.Join(image, "Makefile"):  commonMakefile + "include ../../../../../outside.mk\ninclude link.mk\ninclude ok.mk\n",
		filepath.Join(image, "ok.mk"):     "define Device/ok\n  IMAGE_SIZE := 8k\nendef\nTARGET_DEVICES += ok\n",
		filepath.Join(image, "folder/mk"): "",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := DeviceLimits(tree)
	if err != nil || !maps.Equal(got, map[string]int64{"ok": 8 << 10}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := DeviceLimits(filepath.Join(dir, "missing")); err == nil {
		t.Error("a folder that is not there is no error")
	}
}

// TestLimitsOfTheSample compares what the sample's image Makefiles say with
// what its builder goes by.
func TestLimitsOfTheSample(t *testing.T) {
	dir, _ := sampleUpstream(t)
	for _, target := range []string{"releases/24.10.4/targets/ath79/generic", "snapshots/targets/ath79/generic", "releases/24.10.4/targets/x86/64"} {
		builder := unpack(t, filepath.Join(dir, target))
		lists, err := filepath.Glob(filepath.Join(builder, "target/linux/*/image/*.devices"))
		if err != nil || len(lists) != 1 {
			t.Fatalf("%v, %v", lists, err)
		}
		list, err := os.ReadFile(lists[0])
		if err != nil {
			t.Fatal(err)
		}
		want, device := map[string]int64{}, ""
		for line := range strings.Lines(string(list)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "Device":
				device = value
			case "Limit":
				if want[device], err = strconv.ParseInt(value, 10, 64); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := DeviceLimits(builder)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", target, diff)
		}
		if strings.Contains(target, "ath79") && len(want) < 8 {
			t.Errorf("%s: only %d devices", target, len(want))
		}
	}
}

// TestDeviceLimitsIsBounded: what grows with every reference must not take
// minutes, nor memory.
func TestDeviceLimitsIsBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString(commonMakefile)
	for i := range 40 {
		fmt.Fprintf(&text, "define Device/d%d\n  $(Device/d%d)\n  $(Device/d%d)\nendef\nV%d = $(V%d)$(V%d)\n", i+1, i, i, i+1, i, i)
	}
	text.WriteString("V0 := xxxxxxxx\ndefine Device/d0\n  IMAGE_SIZE := $$(V40)\nendef\n")
	for i := range 200 {
		fmt.Fprintf(&text, "TARGET_DEVICES += d%d\n", i%41)
	}
	got, err := deviceLimits(imageTree(map[string]string{"Makefile": text.String()}))
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestParseUnits(t *testing.T) {
	for text, want := range map[string]int64{
		"7936k": 7936 << 10, " 16m ": 16 << 20, "1g": 1 << 30, "64 k": 64 << 10, "0x10": 16, "12": 12,
		"": 0, "0": 0, "k": 0, "1t": 0, "1.5m": 0, "99999999999999m": 0, "999999999999g": 0, "0x10k": 0, "1k\n": 1024, "07k": 0,
	} {
		if got := parseUnits(text); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}

func TestLearntLimit(t *testing.T) {
	recorded, err := os.ReadFile("testdata/runs/23.05/image_toobig_fd8.stderr")
	if err != nil {
		t.Fatal(err)
	}
	const tooBig = "    WARNING: Image file /b/tmp/openwrt-ath79-generic-x-squashfs-%s is too big: %d > %d\n"
	for _, test := range []struct {
		name, stderr string
		limit, size  int64
		ok           bool
	}{
		{"recorded", string(recorded), 8126464, 10027012, true},
		{"nothing", "[mktplinkfw] *** error: images are too big by 2099458 bytes\n", 0, 0, false},
		{"beside others", fmt.Sprintf(tooBig+tooBig, "factory.bin", 9, 8, "sysupgrade.bin", 9000, 8000), 8000, 9000, true},
		{"a kernel", "WARNING: Image file /b/x-kernel.bin is too big: 9 > 8\n", 0, 0, false},
		{"twice", fmt.Sprintf(tooBig+tooBig, "sysupgrade.bin", 9000, 8000, "sysupgrade.bin", 9100, 8000), 8000, 9100, true},
		{"in disagreement", fmt.Sprintf(tooBig+tooBig, "sysupgrade.bin", 9000, 8000, "sysupgrade.bin", 9000, 8001), 0, 0, false},
		{"nonsense", fmt.Sprintf(tooBig, "sysupgrade.bin", 7000, 8000) + fmt.Sprintf(tooBig, "sysupgrade.bin", 7000, 0), 0, 0, false},
	} {
		limit, size, ok := LearntLimit(test.stderr)
		if limit != test.limit || size != test.size || ok != test.ok {
			t.Errorf("%s: %d, %d, %t", test.name, limit, size, ok)
		}
	}
}

func FuzzDeviceLimits(f *testing.F) {
	f.Add(commonMakefile + "define Device/a\n  $(Device/b)\n  IMAGE_SIZE := 7936k\nendef\nTARGET_DEVICES += a\n")
	f.Add("ifeq ($(A),b)\nelse ifdef B\nendif\nendif\nelse\ndefine Device/a\nX += $$$$(Y\nendef\nTARGET_DEVICES:=a")
	f.Add("\ndefine")
	f.Add("define Device/a\n$(call Device/a,$(1))${x}\nIMAGE_SIZE ?= 1k\nIMAGES=x\nIMAGE/x=check-size\nendef\nTARGET_DEVICES += a a\ninclude Makefile\n")
	f.Fuzz(func(t *testing.T, text string) {
		limits, err := deviceLimits(imageTree(map[string]string{"Makefile": text, "include/image.mk": text}))
		if err != nil {
			t.Fatal(err)
		}
		for name, limit := range limits {
			if limit <= 0 || limit > maxLimit || !strings.Contains(strings.ReplaceAll(text, "\\\n", ""), name) {
				t.Errorf("%q: %d", name, limit)
			}
		}
		again, _ := deviceLimits(imageTree(map[string]string{"Makefile": text, "include/image.mk": text}))
		if !slices.Equal(slices.Sorted(maps.Keys(limits)), slices.Sorted(maps.Keys(again))) {
			t.Error("the same text has other limits")
		}
	})
}

func FuzzLearntLimit(f *testing.F) {
	f.Add("WARNING: Image file /x is too big: 2 > 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if limit, size, ok := LearntLimit(text); ok != (limit > 0) || size < limit {
			t.Errorf("%d, %d, %t", limit, size, ok)
		}
	})
}

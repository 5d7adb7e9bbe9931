package sample

import (
	"bytes"
	"fmt"
)

// imageMakefiles are the target's definitions of devices in the form of the
// real ones (openwrt/openwrt target/linux/<board>/image), by file name.
func (t *target) imageMakefiles() []member {
	folder := "target/linux/" + t.board + "/image/"
	return []member{
		{name: folder + "Makefile", mode: 0o644, data: []byte(`include $(TOPDIR)/rules.mk
include $(INCLUDE_DIR)/image.mk

define Device/Default
  BLOCKSIZE := 64k
  IMAGES := sysupgrade.bin
  IMAGE/sysupgrade.bin := append-kernel | pad-to $$$$(BLOCKSIZE) | \
	append-rootfs | pad-rootfs | check-size | append-metadata
endef

include $(SUBTARGET).mk

$(eval $(call BuildImage))
`)},
		{name: folder + t.subtarget + ".mk", mode: 0o644, data: t.deviceDefinitions()},
	}
}

func (t *target) deviceDefinitions() []byte {
	var out bytes.Buffer
	for _, p := range t.profiles {
		fmt.Fprintf(&out, "define Device/%s\n  DEVICE_VENDOR := %s\n  DEVICE_MODEL := %s\n", p.id, p.vendor, p.model)
		if p.limit > 0 {
			fmt.Fprintf(&out, "  IMAGE_SIZE := %dk\n", p.limit>>10)
		}
		if p.mktplink {
			out.WriteString("  TPLINK_FLASHLAYOUT := 8M\n  IMAGE/sysupgrade.bin := tplink-v1-image sysupgrade | append-metadata\n")
		}
		out.WriteString("  IMAGES :=")
		for _, k := range p.images {
			fmt.Fprintf(&out, " %s.%s", k.kind, k.ext)
		}
		out.WriteString("\n")
		for _, k := range p.images {
			switch k.kind {
			case "sysupgrade": // as the default
			case "factory":
				fmt.Fprintf(&out, "  IMAGE/%s.%s := $$(IMAGE/sysupgrade.bin)\n", k.kind, k.ext)
			default:
				fmt.Fprintf(&out, "  IMAGE/%s.%s := append-kernel | append-rootfs\n", k.kind, k.ext)
			}
		}
		fmt.Fprintf(&out, "endef\nTARGET_DEVICES += %s\n\n", p.id)
	}
	return out.Bytes()
}

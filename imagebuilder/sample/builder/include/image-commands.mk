# The steps of images: see image.mk.
define Build/check-size
	@[ $$(($(if $(1),$(1),$(IMAGE_SIZE)))) -ge "$$(stat -c%s $@)" ] || rm -f $@
endef

define Build/tplink-v1-image
	-$(STAGING_DIR_HOST)/bin/mktplinkfw -F $(TPLINK_FLASHLAYOUT) \
		-k $(IMAGE_KERNEL) -r $(IMAGE_ROOTFS) -o $@
endef

# What the definitions of devices begin with. The sample's Makefile makes its
# images without them; they are for those who read a builder's tree.
define Device/Init
  DEVICE_NAME := $(1)
  IMAGES :=
  IMAGE_SIZE :=
  KERNEL_SIZE :=
  BLOCKSIZE :=
  TPLINK_FLASHLAYOUT :=
endef

package sample

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// builderFiles are the parts that all ImageBuilders of the sample share.
//
//go:embed builder
var builderFiles embed.FS

// rootPartitionMB is the default size of a root partition, MiB.
const rootPartitionMB = 104

// builderName is the ImageBuilder's archive without its ending, and its top
// folder.
func builderName(r *release, t *target) string {
	return "openwrt-imagebuilder-" + r.infix() + t.dashed() + ".Linux-x86_64"
}

// builder makes the ImageBuilder's archive.
func (w *tree) builder(r *release, t *target, core []*built) ([]byte, error) {
	var files []member
	add := func(name string, data []byte) { files = append(files, member{name: name, mode: 0o644, data: data}) }
	err := fs.WalkDir(builderFiles, "builder", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := builderFiles.ReadFile(name)
		if err != nil {
			return err
		}
		m := member{name: strings.TrimPrefix(name, "builder/"), mode: 0o644, data: data}
		if strings.HasSuffix(name, ".pl") {
			m.mode = 0o755
		}
		files = append(files, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	linux := fmt.Sprintf("build_dir/target-%s_musl/linux-%s_%s", t.arch, t.board, t.subtarget)
	local := linux + "/linux-" + r.kernel // where the real one keeps libc and kernel
	if r.apk {
		local = "packages"
	}
	for _, b := range core {
		if b.base == "libc" || b.base == "kernel" || r.apk && b.base == "base-files" {
			add(local+"/"+b.filename, b.data)
		}
	}
	fingerprint, pub := TrustedKey()
	if !r.apk {
		add("keys/"+fingerprint, pub)
	}
	add("keys/README", []byte("Public keys of package feeds, each in a file named like its fingerprint.\n"))
	add(".config", w.config(r, t))
	add(".targetinfo", t.targetInfo(r))
	add(".packageinfo", nil)
	add("rules.mk", []byte("# The sample's Makefile needs no rules.\n"))
	add("target/linux/"+t.board+"/image/"+t.subtarget+".devices", t.devices(r))
	files = append(files, t.imageMakefiles()...)
	add(linux+"/"+kernelFile(t), noise("kernel "+r.kernel+t.name, kernelSize))
	add("staging_dir/host/bin/README", []byte("The sample's builder uses the host's programs.\n"))
	add("packages/README", []byte("Packages in this folder can be installed by name.\n"))
	if r.apk {
		key, err := indexKeyPEM()
		if err != nil {
			return nil, err
		}
		add("keys/sample.pem", key)
		add("repositories", w.repositories(r, t))
	} else {
		add("repositories.conf", w.repositories(r, t))
	}
	packed, err := tarball(files, builderName(r, t)+"/", r.time())
	if err != nil {
		return nil, err
	}
	return zstandard(packed)
}

func kernelFile(t *target) string {
	if t.board == "x86" {
		return "bzImage"
	}
	return "vmlinux.lzma"
}

// repositories is the builder's list of feeds, in its generation's form.
func (w *tree) repositories(r *release, t *target) []byte {
	base := w.options.BaseURL + "/" + r.path
	type feed struct{ name, url string }
	feeds := []feed{
		{"core", base + "/targets/" + t.name + "/packages"},
		{"base", base + "/packages/" + t.arch + "/base"},
		{"kmods", base + "/targets/" + t.name + "/kmods/" + t.kmodsFolder(r)},
	}
	for _, name := range archFeeds[1:] {
		feeds = append(feeds, feed{name, base + "/packages/" + t.arch + "/" + name})
	}
	var out bytes.Buffer
	if r.apk {
		for _, f := range feeds {
			fmt.Fprintf(&out, "%s/packages.adb\n", f.url)
		}
		return out.Bytes()
	}
	out.WriteString("## Remote package repositories\n")
	for _, f := range feeds {
		fmt.Fprintf(&out, "src/gz openwrt_%s %s\n", f.name, f.url)
	}
	out.WriteString("\n## This is the local package repository, do not remove!\nsrc imagebuilder file:packages\n\noption check_signature\n")
	return out.Bytes()
}

// config is .config; upstream also publishes it as config.buildinfo.
func (w *tree) config(r *release, t *target) []byte {
	var out bytes.Buffer
	line := func(name, value string) { fmt.Fprintf(&out, "CONFIG_%s=%s\n", name, value) }
	line("TARGET_"+t.board, "y")
	line("TARGET_"+t.board+"_"+t.subtarget, "y")
	line("TARGET_BOARD", strconv.Quote(t.board))
	line("TARGET_SUBTARGET", strconv.Quote(t.subtarget))
	line("TARGET_ARCH_PACKAGES", strconv.Quote(t.arch))
	line("ARCH", strconv.Quote(t.kernelArch))
	if t.board == "x86" {
		line("TARGET_ROOTFS_EXT4FS", "y")
		line("TARGET_ROOTFS_PARTSIZE", strconv.Itoa(rootPartitionMB))
	}
	line("TARGET_ROOTFS_SQUASHFS", "y")
	line("TARGET_ROOTFS_TARGZ", "y")
	line("IB", "y")
	line("SIGNATURE_CHECK", "y")
	if r.apk {
		line("USE_APK", "y")
	}
	line("VERSIONOPT", "y")
	line("VERSION_DIST", `"OpenWrt"`)
	line("VERSION_NUMBER", strconv.Quote(r.version))
	line("VERSION_CODE", strconv.Quote(r.revision))
	line("VERSION_REPO", strconv.Quote(w.options.BaseURL+"/"+r.path))
	if !r.snapshot() {
		line("VERSION_FILENAMES", "y")
	}
	line("VERSION_CODE_FILENAMES", "n")
	line("SOURCE_DATE_EPOCH", strconv.FormatInt(r.epoch, 10))
	line("LINUX_VERSION", strconv.Quote(r.kernel))
	line("LINUX_VERMAGIC", strconv.Quote(t.vermagic(r)))
	line("SAMPLE_KERNEL", strconv.Quote(path.Join("build_dir/target-"+t.arch+"_musl/linux-"+t.board+"_"+t.subtarget, kernelFile(t))))
	if w.options.Slow > 0 {
		line("SAMPLE_SLOW", strconv.FormatFloat(float64(w.options.Slow.Milliseconds())/1000, 'f', -1, 64))
	}
	return out.Bytes()
}

// targetInfo is .targetinfo, from which `make info` is made.
func (t *target) targetInfo(r *release) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Source-Makefile: target/linux/%s/Makefile\nTarget: %s\nTarget-Name: %s\nTarget-Arch: %s\nTarget-Arch-Packages: %s\nLinux-Version: %s\nLinux-Release: 1\nDefault-Packages: %s\n",
		t.board, t.name, t.name, t.kernelArch, t.arch, r.kernel, strings.Join(t.defaultPackages(r), " "))
	for _, p := range t.profiles {
		meta := 1
		if p.nometa {
			meta = 0
		}
		fmt.Fprintf(&out, "Target-Profile: DEVICE_%s\nTarget-Profile-Name: %s %s\nTarget-Profile-Packages: %s\nTarget-Profile-hasImageMetadata: %d\n",
			p.id, p.vendor, p.model, strings.Join(p.packages, " "), meta)
		if len(p.aliases) > 0 {
			fmt.Fprintf(&out, "Target-Profile-SupportedDevices: %s\n", strings.Join(p.aliases, " "))
		}
		out.WriteString("Target-Profile-Description:\n@@\n\n")
	}
	out.WriteString("@@\n")
	return out.Bytes()
}

// devices says how images are made: the sample's own format.
func (t *target) devices(r *release) []byte {
	var out bytes.Buffer
	for _, p := range t.profiles {
		fmt.Fprintf(&out, "Device: %s\nVendor: %s\nModel: %s\n", p.id, p.vendor, p.model)
		var kinds []string
		for _, k := range p.images {
			kinds = append(kinds, k.kind+"."+k.ext)
		}
		fmt.Fprintf(&out, "Images: %s\n", strings.Join(kinds, " "))
		if p.limit > 0 {
			fmt.Fprintf(&out, "Limit: %d\n", p.limit)
		}
		if p.mktplink {
			out.WriteString("Tool: mktplinkfw\n")
		}
		if p.partition {
			out.WriteString("Partition: 1\n")
		}
		out.WriteString("\n")
	}
	return out.Bytes()
}

package sample

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
)

// noise returns n bytes that do not compress, the same for the same name: it
// stands for kernels and other binaries.
func noise(name string, n int) []byte {
	out := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(out) //nolint:errcheck // never fails
	return out
}

// zeros are shared by all that hold nothing else; nobody writes to them.
var zeros = sync.OnceValue(func() []byte { return make([]byte, 16<<20) })

// content makes the bytes of a package's file and its permission bits.
func content(p *pkg, f packageFile, r *release, t *target) ([]byte, int64) {
	mode := int64(0o644)
	for _, folder := range []string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/"} {
		if strings.HasPrefix(f.path, folder) {
			mode = 0o755
		}
	}
	var text string
	switch f.path {
	case "/etc/openwrt_version":
		text = r.revision + "\n"
	case "/etc/openwrt_release":
		text = fmt.Sprintf("DISTRIB_ID='OpenWrt'\nDISTRIB_RELEASE='%s'\nDISTRIB_REVISION='%s'\nDISTRIB_TARGET='%s'\nDISTRIB_ARCH='%s'\nDISTRIB_DESCRIPTION='OpenWrt %s %s'\nDISTRIB_TAINTS=''\n",
			r.version, r.revision, t.name, t.arch, r.version, r.revision)
	case "/usr/lib/os-release":
		text = fmt.Sprintf("NAME=\"OpenWrt\"\nVERSION=\"%s\"\nID=\"openwrt\"\nBUILD_ID=\"%s\"\nOPENWRT_BOARD=\"%s\"\nOPENWRT_ARCH=\"%s\"\n", r.version, r.revision, t.name, t.arch)
	case "/etc/passwd":
		text = "root:x:0:0:root:/root:/bin/ash\n"
	case "/etc/group":
		text = "root:x:0:\n"
	case "/lib/functions.sh":
		text = "# shell functions of package scripts\ndefault_prerm() { return 0; }\ndefault_postinst() { return 0; }\n"
	case "/etc/opkg/keys/sample":
		_, pub := TrustedKey()
		return pub, mode
	case "/bin/config_generate", "/sbin/sysupgrade", "/etc/rc.common":
		mode = 0o755
		fallthrough
	default:
		text = fmt.Sprintf("# %s of %s %s, a package of attendant's sample distribution\n", f.path, p.base, p.version)
	}
	if f.zeros {
		return zeros()[:f.size], mode
	}
	if extra := f.size - len(text); extra > 0 {
		return append([]byte(text), noise(p.name+p.version+p.arch+f.path, extra)...), mode
	}
	return []byte(text), mode
}

// initContent is the script in /etc/init.d.
func initContent(p *pkg, i initScript) []byte {
	return fmt.Appendf(nil, "#!/bin/sh /etc/rc.common\n# service of %s\nSTART=%s\nstart() { :; }\n", p.base, i.start)
}

// postinstContent is the package's script, or nil.
func postinstContent(p *pkg) []byte {
	switch p.postinst {
	case "default":
		return []byte("#!/bin/sh\n[ \"${IPKG_NO_SCRIPT}\" = \"1\" ] && exit 0\n[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0\n. ${IPKG_INSTROOT}/lib/functions.sh\ndefault_postinst $0 $@\n")
	case "fails":
		return []byte("#!/bin/sh\necho \"postinst says no\" >&2\nexit 3\n")
	}
	return nil
}

// contents are all files of a package: path below the root, mode, bytes.
func contents(p *pkg, r *release, t *target) []member {
	var files []member
	for _, f := range p.files {
		data, mode := content(p, f, r, t)
		files = append(files, member{name: f.path[1:], mode: mode, data: data})
	}
	for _, i := range p.inits {
		files = append(files, member{name: "etc/init.d/" + i.name, mode: 0o755, data: initContent(p, i)})
	}
	return files
}

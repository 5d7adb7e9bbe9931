target=$1 profile=$2 bin=$3 extra=$4 packages=$5 files=$6 size=$7 filesystem=$8

list() {
	case $profile in
	apkform) dash=' ' ;;
	*) dash=' - ' ;;
	esac
	echo "base-files${dash}1637"
	echo "libubox${1:-}${dash}2024.03.29-r1"
	for p in $packages; do
		case $p in -*) ;; *) echo "$p${dash}1.0" ;; esac
	done
}

# The tree is the build's own: what one run leaves, the next one finds.
echo "$target" >>ran
echo "pwd $PWD" >&2

case $profile in
lacks)
	grep -q file:// repositories.conf && {
		echo " * opkg_install_pkg: Failed to download cowsay. Perhaps you need to run 'opkg update'?" >&2
		echo " * opkg_install_cmd: Cannot install package cowsay." >&2
		exit 2
	} ;;
spoilt)
	[ -e ../../../spoilt ] || {
		: >../../../spoilt
		echo " * opkg_install_pkg: Checksum or size mismatch for package cowsay. Either the opkg or the package index are corrupt. Try 'opkg update'." >&2
		exit 2
	} ;;
feeds)
	grep -v '^#' repositories.conf | sed 's/^/feed: /'
	for d in ../../feeds/*; do (cd "$d" && for f in *; do echo "$(basename "$d")/$f: $(head -c 60 "$f" | tr -d '\000')"; done); done
	echo changed >../../feeds/0-openwrt_core/cowsay_1.0_all.ipk
	grep : /proc/net/dev | sed 's/:.*//;s/ //g;s/^/interface: /' ;;
esac

if [ "$target" = manifest ]; then
	case $profile in
	stall) echo waiting >&2; sleep 300 ;;
	stallonce) [ -e ../../../stalled ] || { : >../../../stalled; sleep 300; } ;;
	missing)
		echo "Collected errors:" >&2
		for p in $packages; do echo " * opkg_install_cmd: Cannot install package $p." >&2; done
		exit 2 ;;
	conflict)
		printf 'ERROR: unable to select packages:\n  b-1.0-r1:\n    breaks: a-1.0-r1[!b]\n    satisfies: world[b]\n' >&2
		exit 2 ;;
	offline) echo " * opkg_download: Failed to download http://feed.example/base/Packages.gz, wget returned 4." >&2 ;;
	offline_missing)
		echo "*** Failed to download the package list from http://feed.example/base/Packages.gz" >&2
		echo " * opkg_install_cmd: Cannot install package cowsay." >&2
		exit 2 ;;
	nospace) echo "tar: write error: No space left on device" >&2; exit 2 ;;
	crash) kill -9 $$ ;;
	chatty) i=0; while [ $i -lt 3000 ]; do echo "line $i of noise" >&2; i=$((i + 1)); done ;;
	esac
	list
	exit 0
fi

prefix=openwrt-1.2.3-$extra-fake-generic-$profile
images=
image() { # type content
	name=$prefix-squashfs-$1.bin
	echo "$2" >"$bin/$name"
	sum=$(sha256sum "$bin/$name" | cut -d' ' -f1)
	[ "$profile" != wrongsum ] || sum=$(echo no | sha256sum | cut -d' ' -f1)
	images="$images${images:+,}{\"filesystem\":\"squashfs\",\"name\":\"$name\",\"sha256\":\"$sum\",\"type\":\"$1\"}"
}
json() {
	name=$profile
	[ "$profile" != otherprofile ] || name=another
	cat >"$bin/profiles.json" <<JSON
{"arch_packages":"mips_24kc","default_packages":["base-files"],"linux_kernel":{"release":"1"},"metadata_version":1,"profiles":{"$name":{"device_packages":["kmod-fake"],"image_prefix":"$prefix","images":[$images],"supported_devices":["fake,$profile"],"titles":[{"title":"Fake"}]}},"source_date_epoch":1700000000,"target":"fake/generic","version_code":"r100-0123456789","version_number":"1.2.3"}
JSON
}

[ -d "$bin" ] && [ -z "$(ls -A "$bin")" ] || { echo "BIN_DIR is not fresh" >&2; exit 2; }
case $profile in
toobig)
	echo "    WARNING: Image file $PWD/tmp/x is too big: 10027012 > 8126464" >&8
	echo "Skip JSON creation for non existing file x"
	echo "JSON info file script could not find any JSON files for target"
	exit 0 ;;
toobig_silent)
	echo "JSON info file script could not find any JSON files for target"
	exit 0 ;;
factory_only)
	image factory f
	echo "[mktplinkfw] *** error: images are too big by 2099458 bytes" >&2
	json; exit 0 ;;
partial)
	image sysupgrade s
	image factory f
	rm "$bin/$prefix-squashfs-factory.bin"
	echo "[mktplinkfw] *** error: images are too big by 12 bytes" >&2
	json; exit 0 ;;
noprofiles) image sysupgrade s; exit 0 ;;
linked)
	mkdir "$bin/folder"; ln -s /etc/passwd "$bin/link"; mkfifo "$bin/pipe" ;;
environment) env | sort | sed 's/^/env: /' ;;
fd8) ls -l /proc/self/fd | sed 's/^/fd: /' ;;
slow) i=0; while [ $i -lt 10 ]; do echo "tick $i"; sleep 0.1; i=$((i + 1)); done ;;
repositories) for f in repositories.conf keys/*; do echo "== $f"; cat "$f"; done; grep ROOTFS .config ;;
disk) echo "cp: error writing 'x': No space left on device" >&2; exit 2 ;;
esac
if [ -n "$files" ]; then (cd "$files" && find . -type f -exec ls -l {} \; -exec sha256sum {} \;); fi
echo "size=$size filesystem=$filesystem"
image sysupgrade "$packages"
json
case $profile in
moved) (echo "base-files - 1638"; echo "libubox20240329 - 2024.03.29-r1") >"$bin/$prefix.manifest" ;;
*) list 20240329 >"$bin/$prefix.manifest" ;;
esac
chmod 0400 "$bin/$prefix.manifest"

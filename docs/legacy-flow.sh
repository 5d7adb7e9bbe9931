#!/bin/sh
# The upgrade flows of 2017 and 2018, as the clients of the time go through
# them, against a running server. It prints what it sends and what it gets, and
# ends with an error if anything is not as it was.
#
#   sh docs/legacy-flow.sh http://127.0.0.1:8080
#
# The device and the packages are some that the sample distribution has.
set -eu
server=${1:?the address of a server, as http://127.0.0.1:8080}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '%s\n' "$*"; }
fail() { say "FAILED: $*"; exit 1; }

# ask METHOD PATH [BODY]: prints both, leaves $status, $work/head and $work/body.
ask() {
	say "\$ $1 $2${3:+   $3}"
	status=$(curl -sS -X "$1" ${3:+-H "Content-Type: application/json" --data-raw "$3"} \
		-D "$work/head" -o "$work/body" -w '%{http_code}' "$server$2")
	say "  $status $(grep -i '^x-' "$work/head" | tr -d '\r' | tr '\n' ' ')"
	[ ! -s "$work/body" ] || { printf '  '; cut -c 1-600 "$work/body"; say; }
}

# again METHOD PATH [BODY]: asks as long as the reply is that things are on
# their way, as the clients do.
again() {
	ask "$@"
	while [ "$status" = 201 ] || [ "$status" = 202 ] || [ "$status" = 206 ]; do sleep 1; ask "$@"; done
}

# value NAME: the string member of the last reply.
value() { sed -n "s/.*\"$1\":\"\\{0,1\\}\\([^\",}]*\\).*/\\1/p" "$work/body"; }

device='"distro":"LEDE","target":"ar71xx","subtarget":"generic"'

say "== 2017: check"
again POST /update-request "{$device,\"version\":\"17.01.4\",\"packages\":{\"luci\":\"git-17.290.79498-d3f0685-1\",\"tmux\":\"2.3-1\"}}"
[ "$status" = 200 ] || fail "there is an upgrade from 17.01.4"
version=$(value version)

say "== 2017: request, and the same again until it is there"
request="{$device,\"version\":\"$version\",\"board\":\"archer-c7-v5\",\"model\":\"TP-Link Archer C7 v5\",\"packages\":[\"luci\",\"tmux\"]}"
again POST /image-request "$request"
[ "$status" = 200 ] || fail "the image is built"

say "== 2017: download and checksum"
say "\$ curl -O $(value url)"
curl -sS -o "$work/image" "$(value url)"
sum=$(md5sum "$work/image" | cut -d ' ' -f 1)
say "  $(wc -c < "$work/image") bytes, MD5 $sum"
[ "$sum" = "$(value checksum)" ] || fail "the checksum is $(value checksum)"
[ "$(wc -c < "$work/image")" -eq "$(value filesize)" ] || fail "the size is $(value filesize)"

device='"distro":"OpenWrt","target":"ar71xx","subtarget":"generic"'

say "== 2018: check"
again POST /api/upgrade-check "{$device,\"version\":\"18.06.1\",\"packages\":{\"luci\":\"git-18.228.31946-f64b152-1\",\"wpad-mini\":\"2018-05-21-5e1a0a6b-4\"},\"upgrade_packages\":1}"
[ "$status" = 200 ] || fail "there is an upgrade from 18.06.1"
version=$(value version)
ask POST /api/upgrade-check "{$device,\"version\":\"$version\",\"packages\":{},\"upgrade_packages\":0}"
[ "$status" = 204 ] || fail "$version is up to date"

say "== 2018: request, then its hash until it is there"
ask POST /api/upgrade-request "{$device,\"version\":\"$version\",\"board\":\"archer-c7-v5\",\"packages\":[\"htop\",\"luci\",\"wpad-mini\"]}"
hash=$(value request_hash)
again GET "/api/upgrade-request/$hash"
[ "$status" = 200 ] || fail "the image is built"

say "== 2018: download and checksum"
image=$(value sysupgrade)
say "\$ curl -O $image"
curl -sS -o "$work/${image##*/}" "$image"
say "\$ curl -O ${image%/*}/sha256sums; grep sysupgrade.bin sha256sums | sha256sum -c"
curl -sS -o "$work/sha256sums" "${image%/*}/sha256sums"
(cd "$work" && grep " [ *]${image##*/}\$" sha256sums | sha256sum -c) | sed 's/^/  /'
[ -z "$(cd "$work" && grep " [ *]${image##*/}\$" sha256sums | sha256sum -c --quiet 2>&1)" ] || fail "the sums differ"
ask GET "/api/manifest/$hash"
say "== both flows are as they were"

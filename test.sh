#!/usr/bin/env bash
# Runs every check and test: formatting, vet, staticcheck, the known
# vulnerabilities where their database can be reached, all tests under the race
# detector, a short run of each fuzz target, the builds for every machine that
# attendant runs on, and the demo. On Debian as root it installs what is
# missing; elsewhere it says what is.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# command:Debian package
needs=(make:make gcc:gcc perl:perl-base tar:tar gzip:gzip wget:wget zstd:zstd xz:xz-utils curl:curl
       mksquashfs:squashfs-tools git:git chromium:chromium npm:npm)
missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "Missing: ${missing[*]}. Install them, on Debian: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi
command -v go >/dev/null || { echo "Missing: Go, $(sed -n 's/^go //p' go.mod) or newer (https://go.dev/doc/install)." >&2; exit 1; }

# Checks and tests share one way of compiling, for the race detector, which needs
# cgo. What is installed, and the tools, are compiled plainly.
flags=${GOFLAGS:-}
export GOFLAGS="$flags -race" CGO_ENABLED=1
plain() { GOFLAGS=$flags CGO_ENABLED=0 "$@"; }

step "gofmt"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "not formatted: $unformatted" >&2; exit 1; }

# The builds go on beside the checks.
out=$(mktemp -d)
limit=$((25 * 1000 * 1000))
builds() {
    for target in arm:6 arm64: amd64:; do
        GOOS=linux GOARCH=${target%%:*} GOARM=${target##*:} \
            plain go build -ldflags="-s -w" -o "$out/attendant-${target%%:*}" .
        size=$(stat -c %s "$out/attendant-${target%%:*}")
        echo "linux/${target%%:*}: $size bytes"
        [ "$size" -lt "$limit" ] || { echo "over $limit bytes" >&2; exit 1; }
    done
}
builds > "$out/builds" 2>&1 &
building=$!
trap 'kill "$building" 2>/dev/null || true; rm -rf "$out"' EXIT

step "go vet"
go vet ./...

step "staticcheck"
"$(plain go tool -n staticcheck)" ./...

step "go mod"
go mod verify
go mod tidy -diff

step "builds without cgo: linux/arm v6, linux/arm64, linux/amd64"
wait "$building" || { cat "$out/builds"; exit 1; }
trap 'rm -rf "$out"' EXIT
cat "$out/builds"

step "axe-core, for the browser tests"
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$out/axe" axe-core@4.14.1
export PAGE_TEST_AXE="$out/axe/node_modules/axe-core/axe.min.js"

step "tests, race detector on"
if ! go test -count=1 -vet=off -p 3 -parallel 4 -timeout 14m -v ./... > "$out/tests" 2>&1; then
    grep -vE '^(=== |[[:space:]]*--- PASS|PASS$)' "$out/tests"
    exit 1
fi
grep -E '^(ok|\?)[[:space:]]' "$out/tests"
if grep -E '^[[:space:]]*--- SKIP' "$out/tests"; then
    echo "no test is skipped here" >&2
    exit 1
fi

# Fuzzing that is guided by coverage is compiled for it, which takes minutes
# where nothing is cached: only FUZZTIME=30s ./test.sh, or so, asks for that.
guided=()
[ -z "${FUZZTIME:-}" ] || guided=(-fuzz .)

# fuzz runs one target of a package. When the time is up the fuzzer sometimes
# takes its own deadline for a failure (golang/go issue 56238): without a failing
# input that is none, and the target is run again.
fuzz() {
    local dir=${1/#attendant/.} corpus
    corpus=$(go env GOCACHE)/fuzz/$1
    for try in 1 2 3; do
        if (cd "$dir" && "$out/fuzz.test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzzcachedir "$corpus" \
            -test.fuzztime "$FUZZTIME" -test.fuzzminimizetime 5x) > "$out/fuzz" 2>&1; then
            echo "$2: $(grep execs "$out/fuzz" | tail -n 1)"
            return
        fi
        if grep -q 'Failing input' "$out/fuzz" || ! grep -q 'context deadline exceeded' "$out/fuzz"; then
            break
        fi
    done
    cat "$out/fuzz"
    return 1
}

step "fuzz targets, ${FUZZTIME:=1s} each"
for package in $(go list ./...); do
    targets=$(grep -hos 'func Fuzz[A-Za-z0-9_]*' "${package/#attendant/.}"/*_test.go | sed 's/func //') || continue
    go test -c -vet=off -ldflags="-s -w" "${guided[@]}" -o "$out/fuzz.test" "$package"
    for target in $targets; do
        fuzz "$package" "$target"
    done
done

step "demo"
"$out/attendant-$(go env GOARCH)" demo --once --listen 127.0.0.1:0

step "known vulnerabilities"
if curl -sfm 10 -o /dev/null https://vuln.go.dev/index/db.json; then
    plain go tool govulncheck ./...
else
    echo "the database cannot be reached from here: not checked"
fi

step "all passed"

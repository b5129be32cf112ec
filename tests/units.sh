#!/bin/bash
# Where the program runs: the static file, the image's root file system, a booted systemd, the examples. Under four minutes on two
# cores after `cargo test`. What cannot be had on this machine is skipped, and said.
set -euo pipefail
cd "$(dirname "$0")/.."

can_install() { [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
if can_install; then
    missing=()
    for pair in musl-gcc:musl-tools systemd-nspawn:systemd-container mmdebstrap:mmdebstrap nginx:nginx-light curl:curl; do
        PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    # One list that cannot be had is no reason to stop: what then is missing is skipped below.
    if [ ${#missing[@]} -gt 0 ]; then
        { timeout 120 apt-get update && timeout 300 apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
            echo "*** not installed: ${missing[*]} ***"
    fi
fi

musl=$(uname -m)-unknown-linux-musl
have() { [ -d "$(rustc --print target-libdir --target "$1")" ]; }
have "$musl" || timeout 300 rustup target add "$musl" || :
if have "$musl" && command -v musl-gcc >/dev/null; then
    make -s dist PROFILE=dev
else
    printf '\n*** SKIPPED: the musl target or musl-gcc cannot be had; a static program with glibc takes its place ***\n\n'
    make -s dist PROFILE=dev TARGET="$(uname -m)-unknown-linux-gnu"
fi
tests/image.sh
tests/systemd/run.sh
tests/examples.sh dist/outrigger

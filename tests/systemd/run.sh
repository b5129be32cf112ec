#!/bin/bash
# Boots a real systemd with outrigger's units in it and looks at what happens, from the boot to the shutdown. Needs root, Debian's
# mmdebstrap and systemd-nspawn, and about a minute; where they cannot be had it says so and is skipped.
#
#   tests/systemd/run.sh [BINARY]      the default is dist/outrigger
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "${1:-dist/outrigger}")
here=tests/systemd

skip() {
    printf '\n*** SKIPPED: tests/systemd: %s ***\n\n' "$1"
    exit 0
}
[ "$(id -u)" = 0 ] || skip 'needs root'
if [ "${CI:-}" = true ] && ! { command -v systemd-nspawn && command -v mmdebstrap; } >/dev/null; then
    { timeout 120 apt-get update && timeout 180 apt-get install -y --no-install-recommends systemd-container mmdebstrap; } >/dev/null 2>&1 || :
fi
for tool in systemd-analyze systemd-nspawn mmdebstrap; do
    command -v $tool >/dev/null || skip "$tool is not here"
done

echo '== the units, as they are written'
for unit in systemd/*.service; do
    # 1.5 is the limit; netlink, the network and root's view of files are what is left.
    systemd-analyze security --offline=true --threshold=15 "$unit" | tail -n 1
done
sandbox() { sed -n '/^# What the application reads/,/^TasksMax/p' "systemd/$1"; }
for unit in outrigger@.service outrigger-files@.service; do
    diff <(sandbox outrigger.service) <(sandbox "$unit") || { echo "FAILED: the sandbox of $unit is another one"; exit 1; }
done

# A minimal Debian of the host's own sources, made once.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/outrigger
# shellcheck source=/dev/null
. /etc/os-release
suite=$([ "$ID" = debian ] && echo "$VERSION_CODENAME" || echo bookworm)
base=$cache/systemd-$suite.tar
if [ ! -s "$base" ]; then
    mkdir -p "$cache"
    sources=(/etc/apt/sources.list.d/debian.sources)
    [ -e "${sources[0]}" ] || sources=(/etc/apt/sources.list)
    [ -e "${sources[0]}" ] || sources=()
    rm -f "$base.part"
    if ! timeout 300 mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,procps --format=tar \
        "$suite" "$base.part" "${sources[@]}"; then
        rm -f "$base.part"
        skip 'no Debian packages can be had'
    fi
    mv "$base.part" "$base"
fi

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
tar -xf "$base" -C "$root"

timeout 30 systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --private-network --pipe true </dev/null ||
    skip 'containers cannot be started here'

make -s install DESTDIR="$root" BINARY="$binary"
install -D -t "$root/opt/try" $here/app.pl
install -D -m 0755 -t "$root/opt/try" $here/inside.sh
cp -r $here/etc/. "$root/etc/"
chmod 0600 "$root/etc/outrigger/password"
for name in legacy signalled; do
    # As docs/systemd.md says.
    install -D -m 0644 systemd/application.conf "$root/etc/systemd/system/$name.service.d/outrigger.conf"
    chroot "$root" useradd --system --shell /usr/sbin/nologin $name
done
mkdir -p "$root/var/log/journal"
systemctl --root="$root" --quiet enable registry seed legacy legacy-reload.path signalled try

echo '== the booted system'
log=$root/var/log/seen
# Of its own: network, processes, mounts. `timeout` ends the container, and with it everything in it.
booted=0
timeout -k 10 240 systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network --console=pipe \
    </dev/null >"$root/console" 2>&1 || booted=$?
cat "$log" 2>/dev/null || { cat "$root/console"; echo "FAILED: it did not boot ($booted)"; exit 1; }
journal() { journalctl --directory "$root/var/log/journal" --no-pager "$@"; }
echo '== the journal of the boot and of the shutdown'
units=(-u legacy -u outrigger@legacy -u outrigger-files@legacy)
journal -o short-precise "${units[@]}" | sed -n 1,14p
echo ...
journal -o short-precise "${units[@]}" | tail -n 8
if ! grep -qx 'seen: the rest is seen after the end' "$log"; then
    journal -o short-precise -u 'outrigger*' -u legacy -u signalled -u try | tail -n 60
    exit 1
fi
journal -o cat -u legacy | grep -F 'told to stop' | tail -n 1 | grep -qF 'lists 0' || {
    echo 'FAILED: at the shutdown the application was stopped while it was registered'
    exit 1
}
echo 'seen: the shutdown took it out of the registry before it was stopped'
echo "$(grep -c '^seen' "$log") passed, 0 failed"

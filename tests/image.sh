#!/bin/bash
# Runs what is in the image as a container would: its root file system alone and read-only, a user that is not root, a network of
# its own. Needs root, for chroot and mounts in a namespace of its own; elsewhere it says so and is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    printf '\n*** SKIPPED: tests/image.sh needs root ***\n\n'
    exit 0
fi
if [ "${1:-}" != inside ]; then
    make -s rootfs
    root=$(mktemp -d)
    trap 'rm -rf --one-file-system "$root"' EXIT
    cp -r dist/rootfs/. "$root/" && chmod 0755 "$root"
    timeout -k 5 60 unshare --net --mount --propagation private "$0" inside "$root"
    exit
fi

root=$2
passed=0
seen() { echo "seen: $1" && passed=$((passed + 1)); }
fail() { echo "FAILED: $1" && tail -n 20 "$root"/run/outrigger/*.log; exit 1; }
must() { local what=$1 && shift && { "$@" >/dev/null 2>&1 || fail "$what"; } && seen "$what"; }
until_seen() {
    local what=$1 tries=0 && shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "$what"
        sleep 0.1
    done
    seen "$what"
}
# As the image's user; by itself that is no longer a user who could do more than others.
become() { exec env -i PATH="$PATH" "${env[@]}" chroot --userspec=65532:65532 --groups= "$root" /outrigger "$@"; }
in_image() { (become "$@"); }
asked() { curl -s -m 5 "http://$1" | grep -q "$2"; }
is_static() { ! readelf -l "$root/outrigger" | grep -q INTERP; }
names_no_path() { ! grep -aqF -e "$PWD/" -e "${CARGO_HOME:-$HOME/.cargo}/" "$root/outrigger"; }

ip link set lo up && ip address add 10.9.8.7/24 dev lo
mount --bind "$root" "$root" && mount -o remount,ro,bind "$root"
# What a kubelet makes of an emptyDir under an fsGroup.
for volume in run/outrigger var/lib/outrigger; do
    mount -t tmpfs -o size=4m,mode=2777,gid=65532 volume "$root/$volume"
done

env=(RUST_BACKTRACE=0)
must 'the program needs no library' is_static
must 'it names no path of the machine that made it' names_no_path
must 'it runs where nothing else is' in_image --version
become dev --listen 0.0.0.0:8848 --open >"$root/run/outrigger/registry.log" 2>&1 & registry=$!
agent=$registry
trap 'kill $registry $agent 2>/dev/null || :; wait' EXIT
until_seen 'the registry answers' asked 10.9.8.7:8848/nacos/v1/ns/operator/metrics UP

env=(OUTRIGGER_REGISTRY_SERVERS=http://10.9.8.7:8848 OUTRIGGER_SERVICE=bare OUTRIGGER_PORT=8848
    OUTRIGGER_ADMIN_LISTEN=0.0.0.0:9901 POD_IP=10.9.8.7)
# No CA store, as in an image that was made without one.
mount -t tmpfs -o size=4k store "$root/etc/ssl/certs"
become run >"$root/run/outrigger/agent.log" 2>&1 & agent=$!
until_seen 'without a CA store it registers over http://, under the address of its pod' \
    asked '10.9.8.7:8848/nacos/v1/ns/instance/list?serviceName=bare' '"ip":"10.9.8.7"'
must 'it is not root' grep -q '^Uid:.65532' /proc/$agent/status
must 'it has no capability' grep -q '^CapEff:.0000000000000000' /proc/$agent/status
must 'the probes of a kubelet are answered' curl -sf -m 5 http://10.9.8.7:9901/startupz
must 'what stops the pod takes it out first' in_image drain --timeout=10s
must 'and the registry lists it no more' asked '10.9.8.7:8848/nacos/v1/ns/instance/list?serviceName=bare' '"hosts":\[\]'
kill -TERM $agent
must 'TERM ends it with 0' wait $agent

env=(OUTRIGGER_REGISTRY_SERVERS=https://10.9.8.7:1 OUTRIGGER_REGISTRY_REQUEST_TIMEOUT=1s)
code=0
in_image run >"$root/run/outrigger/agent.log" 2>&1 || code=$?
must 'https:// without a CA store is an error of the settings' test $code = 78
umount "$root/etc/ssl/certs"
become run >"$root/run/outrigger/agent.log" 2>&1 & agent=$!
until_seen 'with the bundle of the image it begins' in_image status
kill -TERM $agent
echo "$passed passed, 0 failed"

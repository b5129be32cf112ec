#!/bin/bash
# Runs every example by its one command; as root each in a network of its own, so that no port is taken. What an example needs and
# cannot be had is skipped, and said.
#
#   tests/examples.sh [BINARY]     without one, each example builds Outrigger first, as it says in its README
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || { OUTRIGGER=$(realpath "$1") && export OUTRIGGER; }
export PATH=$PATH:/usr/sbin:/sbin

alone=()
if [ "$(id -u)" = 0 ] && unshare --net ip link set lo up 2>/dev/null; then
    # shellcheck disable=SC2016
    alone=(unshare --net sh -c 'ip link set lo up && exec "$@"' sh)
fi
if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && ! command -v nginx >/dev/null; then
    # Only the program: nothing is started by the package.
    { timeout 120 apt-get update && timeout 120 apt-get install -y --no-install-recommends nginx-light; } >/dev/null 2>&1 || :
fi
passed=0
for example in quick-start entry-point nginx python; do
    case $example in
        nginx) needs=nginx ;;
        python) needs=python3 ;;
        *) needs=curl ;;
    esac
    if ! command -v $needs >/dev/null; then
        printf '\n*** SKIPPED: examples/%s: %s is not here ***\n\n' $example $needs
        continue
    fi
    printf '\n==== examples/%s\n' $example
    timeout -k 5 120 "${alone[@]}" "examples/$example/run.sh" </dev/null
    passed=$((passed + 1))
done
echo "$passed passed, 0 failed"

#!/bin/sh
# Plays the quick start from beginning to end; stops at the first step that does not happen.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=/tmp/outrigger-quick-start
(cd "$here/../.." && cargo build --release --locked)
bin="$here/../../target/release/outrigger"
rm -rf "$folder" && mkdir "$folder" && cp "$here/alive.sh" "$folder/"

# The descriptor says as whom its probe runs; a variable fills that in, because it is another one on every host.
HOST_USER=$(id -un) && export HOST_USER
# An agent needs no root and refuses it; only that whoever tries this may be root.
export OUTRIGGER_ALLOW_ROOT=true
pids=""
finish() { for pid in $pids; do kill "$pid" 2>/dev/null || :; done; wait; }
trap finish EXIT
step() { printf '\n== %s\n' "$*"; }
# Asks until the answer contains the word, at most ten seconds.
until_seen() {
    tries=0
    until "$@" 2>/dev/null | grep -q "$word"; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { echo "not seen: $word" >&2; exit 1; }
        sleep 0.1
    done
}
list() { curl -s "http://127.0.0.1:8848/nacos/v1/ns/instance/list?serviceName=greeter"; }
publish() { curl -s "http://127.0.0.1:8848/nacos/v1/cs/configs" --data-urlencode "dataId=greeting.txt" -d group=DEFAULT_GROUP --data-urlencode "content=$1"; echo; }

step "a registry, in memory"
"$bin" dev 2>"$folder/registry.log" & pids="$pids $!"
word='"hosts":\[\]' && until_seen list

step "the application"
"$here/app.sh" >"$folder/app.log" & app=$! && pids="$pids $app"

step "the agent"
"$bin" run --config "$here/outrigger.yaml" 2>"$folder/agent.log" & agent=$! && pids="$pids $agent"
word='"port":9000' && until_seen list

step "two configurations, one after the other"
for text in "good morning" "good night"; do
    publish "$text"
    word="app: $text" && until_seen tail -n 1 "$folder/app.log"
    tail -n 1 "$folder/app.log"
done

step "what is true now"
"$bin" status --config "$here/outrigger.yaml"

step "the application stops; the agent takes it out of the registry"
kill "$app"
word='"hosts":\[\]' && until_seen list
"$bin" explain service greeter --config "$here/outrigger.yaml"

step "the agent leaves"
kill "$agent" && wait "$agent"
echo done

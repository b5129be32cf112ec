# What the scripts of the examples share: a folder of their own, a registry, what is asked of it. Each sets $here, its own folder,
# and begins with `begin NAME`.
# shellcheck shell=sh disable=SC2034,SC2154

# begin NAME: /tmp/outrigger-NAME is empty, $bin is the program, whatever starts is ended at the end.
begin() {
    folder=/tmp/outrigger-$1
    bin=${OUTRIGGER:-}
    if [ -z "$bin" ]; then
        (cd "$here/../.." && cargo build --release --locked)
        bin=$here/../../target/release/outrigger
    fi
    rm -rf "$folder" && mkdir "$folder"
    pids=""
    trap finish EXIT
    # Descriptors say as whom a command runs; a variable fills that in, because it is another one on every host.
    HOST_USER=$(id -un) && export HOST_USER
    # An agent needs no root and refuses it; only that whoever tries this may be root.
    export OUTRIGGER_ALLOW_ROOT=true
}
finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || :; done
    wait
}
step() { printf '\n== %s\n' "$*"; }
# until_seen WORD COMMAND...: asks until the answer contains the word, at most ten seconds.
until_seen() {
    word=$1 tries=0
    shift
    until "$@" 2>/dev/null | grep -q "$word"; do
        tries=$((tries + 1))
        if [ "$tries" -ge 100 ]; then
            echo "not seen: $word in the answer of: $*" >&2
            "$@" >&2 || :
            tail -n 5 "$folder"/*.log >&2
            exit 1
        fi
        sleep 0.1
    done
}
registry() {
    "$bin" dev >"$folder/registry.log" 2>&1 & pids="$pids $!"
    until_seen UP curl -s http://127.0.0.1:8848/nacos/v1/ns/operator/metrics
}
agent() {
    "$bin" run --config "$here/outrigger.yaml" 2>"$folder/agent.log" & agent=$! && pids="$pids $agent"
}
leave() {
    kill "$agent" && wait "$agent"
}
list() { curl -s "http://127.0.0.1:8848/nacos/v1/ns/instance/list?serviceName=$1"; }
# One instance as the registry has it. Of a service whose instances are all unhealthy the list shows all as healthy: better a
# doubtful address than none.
instance() { curl -s "http://127.0.0.1:8848/nacos/v1/ns/instance?serviceName=$1&ip=127.0.0.1&port=$2"; }
# publish DATA_ID CONTENT
publish() {
    curl -s http://127.0.0.1:8848/nacos/v1/cs/configs -d group=DEFAULT_GROUP --data-urlencode "dataId=$1" --data-urlencode "content=$2"
    echo
}

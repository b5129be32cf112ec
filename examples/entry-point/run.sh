#!/bin/sh
# Plays the entry point from beginning to end; stops at the first step that does not happen.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/scene.sh
. "$here/../scene.sh"
begin entry-point
log="$folder/app.log"

step "a registry, in memory"
registry

step "the entry point; the application waits for its configuration"
"$bin" exec --config "$here/outrigger.yaml" --env-from greeter.env -- "$here/app.sh" >"$log" 2>"$folder/agent.log" & agent=$! && pids="$pids $agent"
until_seen missing "$bin" status --config "$here/outrigger.yaml"

step "a configuration, then another one: the application is started, and started again"
for text in "good morning" "good night"; do
    publish greeter.env "GREETING='$text'"
    until_seen "app: $text" cat "$log"
    until_seen '"port":9000' list greeter
done
cat "$log"

step "TERM: out of the registry, then the application is stopped"
leave
until_seen '"hosts":\[\]' list greeter
tail -n 1 "$log"
echo "done"

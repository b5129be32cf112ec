#!/bin/sh
# Plays the quick start from beginning to end; stops at the first step that does not happen.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/scene.sh
. "$here/../scene.sh"
begin quick-start
cp "$here/alive.sh" "$folder/"

step "a registry, in memory"
registry

step "the application"
"$here/app.sh" >"$folder/app.log" & app=$! && pids="$pids $app"

step "the agent"
agent
until_seen '"port":9000' list greeter

step "two configurations, one after the other"
for text in "good morning" "good night"; do
    publish greeting.txt "$text"
    until_seen "app: $text" tail -n 1 "$folder/app.log"
    tail -n 1 "$folder/app.log"
done

step "what is true now"
"$bin" status --config "$here/outrigger.yaml"

step "the application stops; the agent takes it out of the registry"
kill "$app"
until_seen '"hosts":\[\]' list greeter
"$bin" explain service greeter --config "$here/outrigger.yaml"

step "the agent leaves"
leave
echo "done"

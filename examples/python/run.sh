#!/bin/sh
# A Python service as a persistent instance, through a death and an end; stops at the first step that does not happen.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/scene.sh
. "$here/../scene.sh"
begin python
page() { curl -s http://127.0.0.1:8089/; }
service() { python3 "$here/app.py" & app=$! && pids="$pids $app"; }

step "a registry, in memory"
registry

step "the service, and the agent beside it"
service
agent
until_seen '"healthy":true' instance stock 8089
list stock | grep -o '"ephemeral":[a-z]*'

step "a configuration: the file is swapped, the service asked to read it"
publish greeting.json '{"greeting": "good morning"}'
until_seen 'good morning' page
page

step "the service dies: it stays listed, as unhealthy"
kill -KILL "$app"
until_seen '"healthy":false' instance stock 8089
"$bin" explain service stock --config "$here/outrigger.yaml"

step "it is back: healthy again, with the same configuration"
service
until_seen '"healthy":true' instance stock 8089
page

step "it is taken out on purpose: persistent instances do not end by themselves"
"$bin" drain --config "$here/outrigger.yaml"
until_seen '"hosts":\[\]' list stock

step "the agent leaves"
leave
echo "done"

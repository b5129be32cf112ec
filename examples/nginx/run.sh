#!/bin/sh
# nginx, whose nginx.conf lives in the registry, from its first start to its last; stops at the first step that does not happen.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin
command -v nginx >/dev/null || { echo "nginx is not here: apt install nginx-light" >&2; exit 69; }
# shellcheck source=examples/scene.sh
. "$here/../scene.sh"
begin nginx
page() { curl -s http://127.0.0.1:8088/; }

step "a registry, with the configuration of nginx in it"
registry
publish nginx.conf "$("$here/conf.sh" good morning)"

step "its file, once, before nginx starts"
"$bin" once --config "$here/outrigger.yaml" 2>/dev/null

step "nginx"
nginx -c "$folder/nginx.conf" -e "$folder/error.log" -g 'daemon off;' & nginx=$! && pids="$pids $nginx"
until_seen 'good morning' page
page

step "the agent"
agent
until_seen '"port":8088' list web

step "a new configuration: checked by nginx -t, put in place, nginx told by HUP"
publish nginx.conf "$("$here/conf.sh" good night)"
until_seen 'good night' page
page

step "one that nginx would not take: rejected, and nginx goes on with the last good one"
publish nginx.conf "$("$here/conf.sh" never seen | sed 's/listen /lisen /')"
until_seen 'rejected' "$bin" status --config "$here/outrigger.yaml"
"$bin" explain config nginx.conf --config "$here/outrigger.yaml"
page

step "nginx ends; the agent takes it out of the registry"
kill -QUIT "$nginx" && wait "$nginx"
until_seen '"hosts":\[\]' list web

step "the agent leaves"
leave
echo "done"

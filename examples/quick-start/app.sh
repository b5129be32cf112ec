#!/bin/sh
# A legacy application: prints its greeting, reads it again on HUP, leaves a pid file.
folder=/tmp/outrigger-quick-start
read_greeting() { greeting=$(cat "$folder/greeting.txt" 2>/dev/null || echo "nothing yet"); }
trap read_greeting HUP
trap 'rm -f "$folder/app.pid"; exit 0' TERM INT

echo $$ >"$folder/app.pid"
read_greeting
while :; do
    echo "app: $greeting"
    sleep 1 &
    wait $!
done

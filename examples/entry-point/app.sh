#!/bin/sh
# An application that takes its configuration from variables, and ends its work when it is told to stop.
trap 'echo "app: stopped"; exit 0' TERM
echo "app: $GREETING"
while :; do
    sleep 0.1
done

#!/bin/sh
# The probe: does the process of the pid file live?
pid=$(cat /tmp/outrigger-quick-start/app.pid) && kill -0 "$pid"

#!/bin/bash
# Runs in the booted system, as root: each line it prints is something that was seen. Ends at the first that was not.
set -uo pipefail

fail() {
    echo "FAILED: $*"
    systemctl --no-pager --lines 0 status legacy 'outrigger*' 'signalled*' 2>&1 | grep -E '●|○|×|Active|Status' | sed -n 1,40p
    exit 1
}
seen() { echo "seen: $*"; }
# until_seen SENTENCE COMMAND...: at most 15 s.
until_seen() {
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || fail "$what"
        sleep 0.1
    done
    seen "$what"
}
must() {
    local what=$1
    shift
    "$@" >/dev/null 2>&1 || fail "$what"
    seen "$what"
}
must_not() {
    local what=$1
    shift
    if "$@" >/dev/null 2>&1; then fail "$what"; fi
    seen "$what"
}
ask() { # METHOD PATH [FORM]
    exec 3<>/dev/tcp/127.0.0.1/8848 || return 1
    printf '%s %s HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s' \
        "$1" "$2" "${#3}" "$3" >&3
    cat <&3
    exec 3>&-
}
listed() { ask GET "/nacos/v1/ns/instance/list?serviceName=$1" '' | grep -q '"instanceId"'; }
unlisted() { ask GET "/nacos/v1/ns/instance/list?serviceName=$1" '' | grep -q '"hosts":\[\]'; }
publish() { ask POST /nacos/v1/cs/configs "dataId=$1&group=DEFAULT_GROUP&content=$2" | grep -q true; }
said() { journalctl -b -o cat -u "$1" | tail -n "${3:-1}" | grep -qF "$2"; }
is() { [ "$(systemctl show -P "$2" "$1")" = "$3" ]; }

# The end number N of an application: the registry listed nothing of it.
is_end() { journalctl -b -o cat -u "$1" | grep -F 'told to stop' | sed -n "$2p" | grep -qF 'lists 0'; }

# What seed.service calls before anything that needs a configuration starts.
if [ "${1:-}" = seed ]; then
    until_seen 'the registry has a configuration for each application' publish legacy.conf first
    publish signalled.conf first
    exit
fi

agent=outrigger@legacy.service
file=/run/outrigger/legacy/legacy.conf
cp /etc/outrigger/legacy.d/legacy.yaml /tmp/good.yaml

until_seen 'after the boot the application is registered' listed legacy
until_seen 'its file was there before it started' said legacy.service 'starts with: first' 5
must 'the agent told systemd that it is ready' is $agent ActiveState active
pid=$(systemctl show -P MainPID $agent)
must 'it is no root' test "$(stat -c %U "/proc/$pid")" = outrigger
must 'it has no capability' grep -q '^CapEff:\s*0000000000000000' "/proc/$pid/status"
must 'it cannot get any' grep -q '^CapBnd:\s*0000000000000000' "/proc/$pid/status"
must 'it can gain no privileges' grep -q '^NoNewPrivs:\s*1' "/proc/$pid/status"
must 'its calls are filtered' grep -q '^Seccomp:\s*2' "/proc/$pid/status"

publish legacy.conf second
until_seen 'a new content is in the file' grep -qx second $file
until_seen 'systemd tells the application' said legacy.service 'read again: second' 5
must 'the application may read it' setpriv --reuid legacy --regid legacy --clear-groups cat $file
must_not 'nobody else may' setpriv --reuid nobody --regid nogroup --clear-groups cat $file
must_not 'the application may not ask the agent to do anything' \
    setpriv --reuid legacy --regid legacy --clear-groups test -w /run/outrigger/legacy/admin.sock

systemctl restart legacy
until_seen 'a restart takes it out of the registry first' is_end legacy.service 1
until_seen 'and begins with the newest content' said legacy.service 'starts with: second' 5
until_seen 'then it is registered again' listed legacy

systemctl kill --signal KILL --kill-whom main legacy
until_seen 'a death takes it out' unlisted legacy
until_seen 'systemd starts it again, and its agent beside it' is $agent ActiveState active
until_seen 'it is registered again' listed legacy

systemctl stop legacy
until_seen 'a stop takes it out of the registry first' is_end legacy.service 2
must 'the agent has ended in order' is $agent Result success
must 'and is not running' is $agent ActiveState inactive
must 'its files stay' test -s $file

sed -i 's/data_id: .*/data_id: nothere.conf/' /etc/outrigger/legacy.d/legacy.yaml
must_not 'without a file that it requires the application does not start' systemctl start legacy
must 'it is not running' is legacy.service ActiveState inactive
cp /tmp/good.yaml /etc/outrigger/legacy.d/legacy.yaml

systemctl stop registry
rm $file
systemctl start legacy
until_seen 'without a registry the application starts with the last good content' said legacy.service 'starts with: second' 5
systemctl start registry
until_seen 'and is registered when the registry is there again' listed legacy

sed -i 's/port:/prot:/' /etc/outrigger/legacy.d/legacy.yaml
must_not 'a reload is refused while a descriptor is broken' systemctl reload $agent
until_seen 'and says where' bash -c "journalctl -b -o cat -u $agent | grep -q 'legacy.yaml:3:5'"
cp /tmp/good.yaml /etc/outrigger/legacy.d/legacy.yaml
must 'a good one is taken' systemctl reload $agent

restarts=$(systemctl show -P NRestarts $agent)
systemctl kill --signal STOP --kill-whom main $agent
until_seen 'an agent that hangs is ended by the watchdog' bash -c "journalctl -b -o cat -u $agent | grep -q 'Watchdog timeout'"
until_seen 'and started again' bash -c "[ \"\$(systemctl show -P NRestarts $agent)\" -gt $restarts ]"
# By itself, not by what its predecessor left there.
until_seen 'and keeps the application registered' bash -c \
    'OUTRIGGER_ADMIN_SOCKET=/run/outrigger/legacy/admin.sock outrigger status | grep -q " registered "'

until_seen 'an agent of the same user as its application has registered it' listed signalled
publish signalled.conf second
until_seen 'it tells it by a signal that its file is new' said signalled.service 'read again: second' 5

systemctl start outrigger
must 'the agent of the host runs beside those of applications' is outrigger.service ActiveState active
must 'root asks it without words' outrigger status
until_seen 'it keeps what has no unit registered' listed plain
must 'it logs in with a password that only root can read' bash -c \
    "test \"\$(stat -c %a /etc/outrigger/password)\" = 600 && outrigger status --json | grep -q '\"connected\"'"
systemctl stop outrigger
must_not 'its end leaves nothing behind' listed plain

echo 'registry: { servers: [7] }' >/etc/outrigger/outrigger.yaml
must_not 'wrong settings are an error' systemctl start outrigger
must 'that systemd does not try again' is outrigger.service ExecMainStatus 78
must 'and shows as failed' is outrigger.service ActiveState failed
rm /etc/outrigger/outrigger.yaml
seen 'the rest is seen after the end'

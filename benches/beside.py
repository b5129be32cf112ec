#!/usr/bin/env python3
"""Holds the program against consul-template: benches/beside.py OUTRIGGER CONSUL_TEMPLATE [DIRECTORY...]

Both keep one value of a store as a file and run one command when it has changed, in turns, in each of the directories (so a tmpfs and
a disk compare). Ours has its own registry as the store, over gRPC; the other a stand-in for Consul's key-value store that is part of
this script, which costs it about a millisecond of each change: the store's own share is printed, to be taken off.
"""

import base64
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

STARTS = 10
CHANGES = 100
BURST = 100
REST = 60


class Store(http.server.ThreadingHTTPServer):
    """One key of Consul, with blocking queries."""

    daemon_threads = True

    def __init__(self):
        self.value, self.index, self.changed = b"0", 1, threading.Condition()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def put(self, text):
        with self.changed:
            self.value, self.index = text.encode(), self.index + 1
            self.changed.notify_all()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        store, known = self.server, int(asked.get("index", ["0"])[0])
        with store.changed:
            store.changed.wait_for(lambda: store.index > known, timeout=60)
            value, index = base64.b64encode(store.value).decode(), store.index
        row = {"Key": "app", "Value": value, "Flags": 0, "LockIndex": 0, "CreateIndex": 1, "ModifyIndex": index}
        body = json.dumps([row]).encode()
        self.send_response(200)
        for name, text in [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Consul-Index", str(index)),
            ("X-Consul-KnownLeader", "true"),
            ("X-Consul-LastContact", "0"),
        ]:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, path, body, form if body else {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def until(what, seen, within=20):
    began = time.perf_counter()
    while not seen():
        if time.perf_counter() - began > within:
            sys.exit(f"not within {within} s: {what}")
        time.sleep(0.0001)
    return (time.perf_counter() - began) * 1000


def start(words, env=None):
    quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen(words, env=env or {"PATH": os.environ["PATH"]}, **quiet)


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


def memory(process):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return [int(fields[name].split()[0]) / 1000 for name in ("VmRSS", "RssAnon")]


def cpu_ms(process):
    # Of the whole process, threads that have ended included.
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def text(path):
    try:
        return path.read_text()
    except OSError:
        return None


class Ours:
    name = "outrigger"

    def __init__(self, binary):
        self.binary = binary
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1] % 20000 + 10000
        self.registry = start([binary, "dev", "--listen", f"127.0.0.1:{self.port}"])
        until("a registry", self.answers)
        self.put("0")

    def answers(self):
        try:
            return ask(self.port, "GET", "/nacos/v1/ns/operator/metrics")[0] == 200
        except OSError:
            return False

    def put(self, value):
        form = urllib.parse.urlencode({"dataId": "app", "group": "DEFAULT_GROUP", "content": value})
        ask(self.port, "POST", "/nacos/v1/cs/configs", form)

    def run(self, at):
        (at / "conf.d").mkdir(exist_ok=True)
        (at / "conf.d" / "a.yaml").write_text(
            f"configs: [ {{ data_id: app, path: {at}/file, reload: {{ exec: [sh, -c, 'echo x >> {at}/runs'], run_as: root }} }} ]\n"
        )
        (at / "outrigger.yaml").write_text(
            f"registry: {{ servers: ['http://127.0.0.1:{self.port}'] }}\n"
            f"state_dir: {at}/state\nallow_root: true\nadmin: {{ socket: {at}/admin.sock }}\n"
        )
        return start([self.binary, "run", "--config", f"{at}/outrigger.yaml"])

    def close(self):
        end(self.registry)


class Theirs:
    name = "consul-template"

    def __init__(self, binary):
        self.binary, self.store = binary, Store()

    def put(self, value):
        self.store.put(value)

    def run(self, at):
        (at / "file.tpl").write_text('{{ key "app" }}')
        (at / "config.hcl").write_text(
            f'consul {{ address = "127.0.0.1:{self.store.server_address[1]}" }}\n'
            f'template {{\n source = "{at}/file.tpl"\n destination = "{at}/file"\n'
            f' command = ["sh", "-c", "echo x >> {at}/runs"]\n}}\n'
        )
        return start([self.binary, "-config", f"{at}/config.hcl"])

    def close(self):
        self.store.shutdown()


def weigh(way, directory):
    figures, starts = {}, []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            at = pathlib.Path(folder)
            way.put("0")
            process = way.run(at)
            starts.append(until("the first file", lambda: text(at / "file") == "0"))
            end(process)
    figures["start to file, ms"] = statistics.median(starts)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        at = pathlib.Path(folder)
        process = way.run(at)
        until("the file", lambda: text(at / "file") == "0")
        times = []
        for n in range(1, CHANGES + 1):
            # A rest, so that each change is one.
            time.sleep(0.6)
            began = time.perf_counter()
            way.put(str(n))
            until("the change", lambda n=n: text(at / "file") == str(n))
            times.append((time.perf_counter() - began) * 1000)
        times.sort()
        figures["change to file, ms, p50"] = statistics.median(times)
        figures["p99"] = times[CHANGES * 99 // 100 - 1]
        time.sleep(2)
        runs = len((text(at / "runs") or "").splitlines())
        for n in range(BURST):
            way.put(f"burst {n}")
        last = f"burst {BURST - 1}"
        until("the last of a burst", lambda: text(at / "file") == last)
        time.sleep(2)
        figures[f"commands for {BURST} changes in a row"] = len(text(at / "runs").splitlines()) - runs
        figures["MB resident"], figures["MB private"] = memory(process)
        before = cpu_ms(process)
        # A minute.
        time.sleep(REST)
        figures["ms of CPU a minute at rest"] = cpu_ms(process) - before
        end(process)
    return figures


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    ours, theirs = sys.argv[1:3]
    store = []
    for way in (Ours(ours), Theirs(theirs)):
        times = []
        for n in range(20):
            began = time.perf_counter()
            way.put(str(n))
            times.append((time.perf_counter() - began) * 1000)
        store.append((way.name, statistics.median(times)))
        way.close()
    for name, took in store:
        print(f"one change told to the store of {name}: {took:.2f} ms")
    for directory in sys.argv[3:] or [tempfile.gettempdir()]:
        rows = []
        for make, binary in ((Ours, ours), (Theirs, theirs)):
            way = make(binary)
            rows.append((way.name, weigh(way, directory)))
            way.close()
        names = list(rows[0][1])
        print(f"\nin {directory}\n| program | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
        for name, row in rows:
            print(f"| {name} | " + " | ".join(f"{row[key]:.3g}" for key in names) + " |")


main()

#!/usr/bin/env python3
"""Weighs finished programs against one another: benches/weigh.py BINARY...

For whoever chooses a build profile or a target. Each round measures every program once, so that a busy machine is busy for all of
them alike; what is printed is the median of the rounds. Everything is on loopback, against the same program as registry.
"""

import http.client
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
STARTS = 5
REST = 5.0
CALLS = 3000
SERVICES = 300


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(binary, *words, env=None):
    return subprocess.Popen(
        [binary, *words], env=env or {}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(15)


def ask(connection, method, path, body=None):
    kind = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    connection.request(method, path, body, kind)
    return connection.getresponse().read()


def until(what, seen):
    began = time.perf_counter()
    while not seen():
        if time.perf_counter() - began > 30:
            sys.exit(f"not seen: {what}")
        time.sleep(0.0001)


def listed(connection, service):
    return b'"healthy":true' in ask(connection, "GET", f"/nacos/v1/ns/instance/list?serviceName={service}")


def memory(process):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return [int(fields[name].split()[0]) / 1000 for name in ("VmRSS", "RssAnon")]


def cpu_ms(process):
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def answers(port):
    try:
        return bool(ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/nacos/v1/ns/operator/metrics"))
    except OSError:
        return False


def weigh(binary):
    port = free_port()
    registry = start(binary, "dev", "--listen", f"127.0.0.1:{port}")
    until("a registry", lambda: answers(port))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    figures = {"MB on disk": os.stat(binary).st_size / 1e6}

    def agent(folder, descriptor):
        at = pathlib.Path(folder)
        (at / "conf.d").mkdir()
        (at / "conf.d" / "a.yaml").write_text(descriptor)
        env = {
            "OUTRIGGER_REGISTRY_SERVERS": f"http://127.0.0.1:{port}",
            "OUTRIGGER_REGISTRY_WRITE_RATE": "1000",
            "OUTRIGGER_STATE_DIR": f"{at}/state",
            "OUTRIGGER_ADMIN_SOCKET": f"{at}/admin.sock",
            "OUTRIGGER_ALLOW_ROOT": "true",
        }
        return start(binary, "run", "--conf-dir", f"{at}/conf.d", env=env)

    times = []
    for i in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            one = agent(folder, f"services: [ {{ name: s{i}, port: 1, probe: none, address: 127.0.0.1 }} ]\n")
            until("the service", lambda: listed(connection, f"s{i}"))
            times.append((time.perf_counter() - began) * 1000)
            end(one)
    figures["ms start to listed"] = statistics.median(times)

    ask(connection, "POST", "/nacos/v1/cs/configs", "dataId=a.txt&group=DEFAULT_GROUP&content=a")
    with tempfile.TemporaryDirectory() as folder:
        descriptor = (
            f"services: [ {{ name: rest, port: {port}, address: 127.0.0.1 }} ]\n"
            f"configs: [ {{ data_id: a.txt, path: {folder}/a.txt }} ]\n"
        )
        one = agent(folder, descriptor)
        until("the file", pathlib.Path(f"{folder}/a.txt").exists)
        until("the service", lambda: listed(connection, "rest"))
        time.sleep(1)
        before = cpu_ms(one)
        time.sleep(REST)
        figures["MB resident"], figures["MB private"] = memory(one)
        figures["ms CPU a minute at rest"] = (cpu_ms(one) - before) * 60 / REST
        end(one)

    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"- {{ name: m{i}, port: 1, probe: none, address: 127.0.0.1 }}\n" for i in range(SERVICES))
        one = agent(folder, "services:\n" + lines)
        until("all services", lambda: listed(connection, f"m{SERVICES - 1}"))
        time.sleep(1)
        before = cpu_ms(one)
        time.sleep(REST)
        figures[f"ms CPU a second, {SERVICES} services"] = (cpu_ms(one) - before) / REST
        end(one)

    before = cpu_ms(registry)
    for _ in range(CALLS):
        ask(connection, "GET", "/nacos/v1/cs/configs?dataId=a.txt&group=DEFAULT_GROUP")
    figures["us CPU of the registry a call"] = (cpu_ms(registry) - before) * 1000 / CALLS
    end(registry)
    return figures


def main():
    binaries = sys.argv[1:] or sys.exit(__doc__)
    rounds = [[weigh(binary) for binary in binaries] for _ in range(ROUNDS)]
    names = rounds[0][0]
    print("| program | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for i, binary in enumerate(binaries):
        medians = [statistics.median(one[i][name] for one in rounds) for name in names]
        print(f"| {pathlib.Path(binary).name} | " + " | ".join(f"{value:.3g}" for value in medians) + " |")


main()

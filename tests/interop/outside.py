"""What stands outside a client library: the registry, an agent beside it, and somebody with plain HTTP who does and sees what he is asked to."""

import http.client
import json
import os
import random
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

# With `--auth` whoever stands outside shows a header, and all others log in. The key outlives the registry, as it does with Nacos, so
# that tokens are good with the one that comes back.
USER, PASSWORD = "story", "opensesame"
SHOWN = {"Interop-Outside": "yes"}
USERS = f"""
@identity Interop-Outside yes
@token-key MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=
{USER}:{PASSWORD} public:rw
"""
# How long a change may take until plain HTTP shows it: a library that lost its registry looks for it every few seconds.
PATIENCE = 30


def free_port():
    """A port for HTTP whose neighbour, 1000 above it, is free for gRPC too."""
    while True:
        port = random.randrange(20000, 31000)
        try:
            for number in (port, port + 1000):
                with socket.socket() as it:
                    it.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue


def until(condition, within=PATIENCE):
    """Waits until `condition` answers None; gives its last complaint if it never does."""
    end = time.monotonic() + within
    while complaint := condition():
        if time.monotonic() > end:
            return f"{complaint}, still after {within} s"
        time.sleep(0.1)
    return None


class Registry:
    """`outrigger dev` on ports of its own."""

    def __init__(self, outrigger, like, log, asks):
        self.command, self.log, self.process = [outrigger, "dev", "--like", like], log, None
        self.environment = os.environ | ({"OUTRIGGER_DEV_USERS": USERS} if asks else {})
        self.start()

    def start(self):
        again = self.process is not None
        for _ in range(1 if again else 5):
            if not again:
                self.address = f"127.0.0.1:{free_port()}"
            self.process = subprocess.Popen([*self.command, "--listen", self.address], stdin=subprocess.DEVNULL,
                                            env=self.environment, stdout=self.log, stderr=subprocess.STDOUT)
            if not until(self._silent, 10) and self.process.poll() is None:
                return
            self.stop()
        raise RuntimeError(f"outrigger dev does not answer on {self.address}")

    def _silent(self):
        if self.process.poll() is not None:
            return None
        try:
            Outside(self).call("GET", "ns/operator/metrics")
        except OSError as e:
            return str(e)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.stop()
        self.start()
        return None


class Given:
    """A server that somebody else started, and who alone knows how it is killed and brought back empty."""

    def __init__(self, address, command):
        self.address, self.command = address, command

    def stop(self):
        pass

    def restart(self):
        if not self.command:
            return "the server is not ours to kill"
        return None if subprocess.run(self.command, shell=True).returncode == 0 else f"`{self.command}` failed"


class Agent:
    """`outrigger run` with one service, whose address nobody else has."""

    def __init__(self, outrigger, server, folder, log, credentials):
        self.instance = f"10.3.0.1:{random.randrange(1024, 65536)}"
        ip, port = self.instance.split(":")
        (folder / "conf.d").mkdir(parents=True)
        (folder / "conf.d/orders.yaml").write_text(
            f"services:\n  - name: orders\n    address: {ip}\n    port: {port}\n    probe: none\n")
        auth = f", auth: {{ username: {USER}, password: {PASSWORD} }}" if credentials else ""
        (folder / "outrigger.yaml").write_text(
            f"registry: {{ servers: [http://{server}]{auth} }}\nstate_dir: {folder}/state\n"
            f"admin: {{ socket: {folder}/admin.sock }}\nallow_root: true\n")
        self.process = subprocess.Popen([outrigger, "run", "--config", folder / "outrigger.yaml"], cwd=folder,
                                        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Outside:
    """Carries out the deeds that programs ask for; each answers None, or why not."""

    GROUP = "INTEROP"

    def __init__(self, registry):
        self.registry = registry
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method, path, **parameters):
        """Everything in the query: of a form body 1.4 reads only what is a configuration."""
        url = f"http://{self.registry.address}/nacos/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with self.opener.open(urllib.request.Request(url, method=method, headers=SHOWN), timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as e:
            e.close()
            return None if e.code == 404 else f"{e.code} {e.reason}"
        except http.client.HTTPException as e:
            raise OSError(str(e)) from e

    def do(self, deed, *words):
        known = {"add", "remove", "expect", "gone", "publish", "content", "restart"}
        try:
            return getattr(self, deed)(*words) if deed in known else f"nobody knows how to {deed}"
        except OSError as e:
            return f"{deed}: {e}"

    def add(self, service, address, method="POST"):
        ip, port = address.split(":")
        said = self.call(method, "ns/instance", serviceName=service, ip=ip, port=port, clusterName="BLUE")
        return None if said == "ok" else f"{method} of {address} was answered {said}"

    def remove(self, service, address):
        return self.add(service, address, "DELETE")

    def hosts(self, service):
        said = self.call("GET", "ns/instance/list", serviceName=service)
        try:
            return {f"{host['ip']}:{host['port']}": host for host in json.loads(said or "{}").get("hosts", [])}
        except ValueError:
            return {f"({said})": {}}

    def expect(self, service, address, *traits):
        def complaint():
            hosts = self.hosts(service)
            if address not in hosts:
                return f"{address} is not among {sorted(hosts)}"
            for trait in traits:
                name, wanted = trait.split("=")
                found = hosts[address].get(name, hosts[address].get("metadata", {}).get(name))
                if str(found).lower() != wanted.lower():
                    return f"{name} of {address} is {found}"
            return None

        return until(complaint)

    def gone(self, service, address):
        return until(lambda: f"{address} is still listed" if address in self.hosts(service) else None)

    def publish(self, data_id, *words):
        said = self.call("POST", "cs/configs", dataId=data_id, group=self.GROUP, content=" ".join(words))
        return None if said == "true" else f"publishing {data_id} was answered {said}"

    def content(self, data_id, *words):
        def complaint():
            found = self.call("GET", "cs/configs", dataId=data_id, group=self.GROUP)
            return None if found == " ".join(words) else f"{data_id} is {found!r}"

        return until(complaint)

    def restart(self):
        return self.registry.restart()

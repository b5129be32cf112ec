"""What a node would do with the rendered pod, done by hand: its volumes, its users, its variables, its probes, its hooks, with the
real program and the embedded registry. No container engine: a read-only root, a mount and a network namespace.

    unshare --mount --net --propagation private node.py HELM_DIRECTORY FOLDER      (as root; `run` sees to all of it)

What only Kubernetes can do (the order of containers, when a hook runs) is not tried here. Nothing is taken away at the end: FOLDER
has the system's own directories mounted in it as long as the namespace lives, and is for whoever made it to remove after that.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from helm import EXAMPLE, ROOT, documents, only, pod_of, program, rendered, run, sidecar_of
from sentences import check, finish, skipped

FOLDER = pathlib.Path(sys.argv[2])
IP, APPLICATION = "10.244.0.7", 8080
REGISTRY = "http://127.0.0.1:8848/nacos/v1"
VALUES = {
    "app": {"image": "registry.example/orders:1"},
    "outrigger": {
        "image": {"repository": "registry.example/outrigger"},
        "registry": {"servers": ["http://127.0.0.1:8848"]},
        "descriptors": {
            "orders": {
                "services": [{"name": "orders", "port": APPLICATION, "probe": {"tcp": {}, "interval": "100ms"}}],
                "configs": [{"data_id": "orders.yaml", "path": "/run/config/orders.yaml", "required": True, "validate": {"format": "yaml"}}],
            }
        },
    },
}


def sh(*words):
    subprocess.run([str(word) for word in words], check=True, timeout=30)


def get(url, data=None):
    """Status and text."""
    body = urllib.parse.urlencode(data).encode() if data else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def eventually(look, good=bool, within=20):
    deadline = time.monotonic() + within
    while not good(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def instances(service):
    status, text = get(f"{REGISTRY}/ns/instance/list?serviceName={service}")
    return [f"{one['ip']}:{one['port']}" for one in json.loads(text)["hosts"]] if status == 200 else []


class ConfigMap:
    """A mounted one: its files are links into a folder that is exchanged as a whole."""

    def __init__(self, folder):
        self.folder, self.version = folder, 0

    def write(self, files):
        self.version += 1
        data = self.folder / f"..{self.version}"
        data.mkdir()
        for name, text in files.items():
            (data / name).write_text(text)
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        (self.folder / "..data_tmp").symlink_to(data.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")


class Container:
    """A root that nobody can write to, the mounts of the manifest, its user without any privilege."""

    def __init__(self, manifest, pod, volumes, binary, root):
        self.root = root
        for name in ("usr", "lib", "lib64", "proc", "dev"):
            there = pathlib.Path("/") / name
            if there.is_symlink():
                (root / name).symlink_to(os.readlink(there))
            elif there.is_dir():
                (root / name).mkdir()
        for mount in manifest["volumeMounts"]:
            (root / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        if binary:
            shutil.copy(binary, root / manifest["command"][0].lstrip("/"))
        sh("mount", "--bind", root, root)
        sh("mount", "-o", "remount,bind,ro", root)
        for name in ("usr", "lib", "lib64", "proc", "dev"):
            if (root / name).is_dir() and not (root / name).is_symlink():
                sh("mount", "--rbind", f"/{name}", root / name)
        for mount in manifest["volumeMounts"]:
            at = root / mount["mountPath"].lstrip("/")
            sh("mount", "--bind", volumes[mount["name"]], at)
            if mount.get("readOnly"):
                sh("mount", "-o", "remount,bind,ro", at)
        secure = pod["securityContext"] | manifest["securityContext"]
        # Group 0 is what a container gets whose user is a number and nothing more.
        self.user = ["setpriv", f"--reuid={secure['runAsUser']}", f"--regid={secure.get('runAsGroup', 0)}", f"--groups={secure['fsGroup']}",
                     "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        fields = {"status.podIP": IP, "metadata.name": "demo", "metadata.namespace": "apps", "spec.nodeName": "node"}
        self.env = {one["name"]: one["value"] if "value" in one else fields[one["valueFrom"]["fieldRef"]["fieldPath"]] for one in manifest.get("env", [])}

    def words(self, command):
        return ["/usr/sbin/chroot", str(self.root), *self.user, *command]

    def exec(self, *command):
        return run(*self.words(command), env=self.env | {"PATH": "/usr/bin:/bin"})

    def start(self, command, log):
        return subprocess.Popen(self.words(command), env=self.env | {"PATH": "/usr/bin:/bin"}, stdout=log, stderr=log)


def volumes_of(pod, descriptors):
    """Every volume, as a kubelet makes it: an emptyDir is everybody's, and of the pod's group."""
    made, config = {}, None
    for volume in pod["volumes"]:
        at = made[volume["name"]] = FOLDER / volume["name"]
        at.mkdir()
        if "emptyDir" in volume:
            size = volume["emptyDir"]["sizeLimit"].removesuffix("i")
            sh("mount", "-t", "tmpfs", "-o", f"size={size},mode=2777,gid={pod['securityContext']['fsGroup']}", "tmpfs", at)
        elif "configMap" in volume:
            config = ConfigMap(at)
            config.write(descriptors)
    return made, config


def story(binary, log, background):
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "address", "add", f"{IP}/32", "dev", "lo")
    values = FOLDER / "values.json"
    values.write_text(json.dumps(VALUES))
    found = documents(rendered([EXAMPLE, "-f", values]))
    pod = pod_of(found)
    manifest, descriptors = sidecar_of(pod), only(found, "ConfigMap")["data"]
    volumes, config = volumes_of(pod, descriptors)
    (FOLDER / "sidecar").mkdir()
    (FOLDER / "app").mkdir()
    sidecar = Container(manifest, pod, volumes, binary, FOLDER / "sidecar")
    app = Container(pod["containers"][0], pod, volumes, None, FOLDER / "app")

    background(subprocess.Popen([binary, "dev"], stdout=log, stderr=log))
    check("the embedded registry is up", eventually(lambda: get(f"{REGISTRY}/console/server/state")[0] == 200))
    agent = background(sidecar.start(manifest["command"], log))
    port = manifest["ports"][0]["containerPort"]
    probe = lambda name: get(f"http://{IP}:{port}{manifest[name]['httpGet']['path']}")[0]
    check("the liveness probe is answered on the pod's address", eventually(lambda: probe("livenessProbe") == 200))
    check("the startup probe holds the application back until its file is there", probe("startupProbe") == 503)
    get(f"{REGISTRY}/cs/configs", {"dataId": "orders.yaml", "group": "DEFAULT_GROUP", "content": "greeting: hello\n"})
    check("then it lets it start", eventually(lambda: probe("startupProbe") == 200))
    file = "/run/config/orders.yaml"
    check("the application reads the file", app.exec("cat", file)[1] == "greeting: hello\n", app.exec("ls", "-ln", file)[1].strip())
    check("and cannot write it", app.exec("sh", "-c", f"echo x > {file}")[0] != 0, app.exec("sh", "-c", f"echo x > {file}")[2])
    check("it does not see the admin socket, the sidecar does", app.exec("ls", "/run/outrigger")[0] != 0 and "admin.sock" in sidecar.exec("ls", "/run/outrigger")[1])
    check("over the network nothing can be changed", get(f"http://{IP}:{port}/drain", {"timeout_ms": 1})[0] == 405)
    check("the sidecar can write nowhere else", sidecar.exec("touch", "/x")[0] != 0, sidecar.exec("touch", "/x")[2])
    with socket.create_server(("", APPLICATION)):
        check("the application is registered with the pod's address", eventually(lambda: instances("orders")) == [f"{IP}:{APPLICATION}"], instances("orders"))
        more = descriptors["orders.yaml"] + f"- name: admin\n  port: {APPLICATION}\n"
        assert more.index("services:") > more.index("configs:")
        config.write({"orders.yaml": more})
        check("an edit of the ConfigMap is taken up by the running sidecar", eventually(lambda: instances("admin")) == [f"{IP}:{APPLICATION}"])
        code, out, said = sidecar.exec(manifest["command"][0], "status")
        check("status answers inside the container", code == 0 and "registered" in out, said)
        code, _, said = sidecar.exec(*manifest["lifecycle"]["preStop"]["exec"]["command"])
        check("preStop takes everything out", code == 0 and not instances("orders") and not instances("admin"), said)
        check("and the sidecar goes on", agent.poll() is None and probe("livenessProbe") == 200)
    agent.send_signal(signal.SIGTERM)
    check("the signal ends it in order", eventually(lambda: agent.poll() is not None) and agent.returncode == 0, f"exit code {agent.returncode}")


def main():
    if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{os.getppid()}/ns/mnt"):
        sys.exit("node.py mounts things: it wants a mount namespace of its own, as `run` gives it")
    if (binary := program()) is None:
        return skipped("no outrigger in target/: the rendered pod was not run")
    os.umask(0o022)
    running = []

    def background(process):
        running.append(process)
        return process

    with open(FOLDER / "log", "w+") as log:
        try:
            story(binary, log, background)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:])
            raise
        finally:
            for process in running:
                process.kill()
                process.wait()
    finish()


main()

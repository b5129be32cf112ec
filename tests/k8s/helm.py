"""Helm, and what it renders; helm is also the one that reads YAML here, so that no library is needed."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
HELM = pathlib.Path(sys.argv[1])
LIBRARY, EXAMPLE, INJECTION = (HELM / name for name in ("outrigger", "outrigger-example", "outrigger-injection"))
SNIPPET = HELM / "snippet.yaml"
NEW, OLD = os.environ["KUBERNETES"], os.environ["OLDEST"]
# Charts with the values that have no default.
SERVICE = [EXAMPLE, "-f", EXAMPLE / "ci/service.yaml"]
DESCRIPTORS = [EXAMPLE, "-f", EXAMPLE / "ci/descriptors.yaml"]
INJECT = [INJECTION, "-f", INJECTION / "ci/values.yaml"]


def run(*command, stdin=None, env=None):
    """Exit code, output, and what was said on the side in one line."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, env=env, timeout=120)
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def template(chart, *more, version=NEW):
    """`helm template`, whatever comes of it."""
    return run("helm", "template", "demo", *chart, "--namespace", "apps", "--kube-version", version, *more)


def rendered(chart, *more):
    """The manifests as text."""
    code, text, said = template(chart, *more)
    if code:
        sys.exit(f"helm template {' '.join(map(str, [*chart, *more]))}: {said}")
    return text


def documents(text):
    """YAML as Python has it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        code, out, said = run("helm", "template", "json", HERE / "json", "--set-file", f"text={file.name}")
    if code:
        sys.exit(f"not YAML: {said}")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def only(found, kind):
    """The manifest of a kind."""
    return next(document for document in found if document.get("kind") == kind)


def pod_of(found):
    """The pod that the Deployment makes."""
    return only(found, "Deployment")["spec"]["template"]["spec"]


def sidecar_of(pod):
    """Our container."""
    return next(container for container in pod["initContainers"] if container["name"] == "outrigger")


def settings_of(container):
    """Its variables; None where Kubernetes fills in the value."""
    return {entry["name"]: entry.get("value") if "valueFrom" not in entry else None for entry in container["env"]}


def program():
    """The newest outrigger that was built here, or None."""
    built = [path for path in (ROOT / "target/release/outrigger", ROOT / "target/debug/outrigger") if path.exists()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def agrees(settings, *files):
    """Exit code of `outrigger check` with a container's variables and the files of its ConfigMaps, and what it said."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        fields = {"POD_IP": "10.1.2.3", "POD_NAME": "demo", "POD_NAMESPACE": "apps", "NODE_NAME": "node"}
        env = {key: value for key, value in settings.items() if value is not None} | fields
        # What is mounted is in the folder here.
        for key in ("OUTRIGGER_REGISTRY_AUTH_PASSWORD_FILE", "OUTRIGGER_REGISTRY_TLS_CA"):
            if key in env:
                file = folder / env[key].lstrip("/")
                file.parent.mkdir(parents=True)
                env[key] = str(file)
                file.write_text("secret")
        if ca := env.get("OUTRIGGER_REGISTRY_TLS_CA"):
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", folder / "key", "-out", ca)
        conf = folder / "conf.d"
        conf.mkdir()
        for data in files:
            for file, text in data.items():
                (conf / file).write_text(text)
        code, out, said = run(program(), "check", "--conf-dir", conf, env=env)
        return code, " ".join(out.split()) + said

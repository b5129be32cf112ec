"""What the charts make: linted, valid by strict schemas, every value has its effect, every mistake its words.

    charts.py HELM_DIRECTORY SCHEMAS        (helm and kubeconform in PATH; `run` sees to all of it)
"""

import json
import pathlib
import re
import sys

from helm import DESCRIPTORS, EXAMPLE, INJECT, INJECTION, LIBRARY, NEW, OLD, ROOT, SERVICE, SNIPPET
from helm import agrees, documents, pod_of, program, rendered, run, settings_of, sidecar_of, template
from sentences import check, finish, skipped

SCHEMAS = pathlib.Path(sys.argv[2])


def leaves(values, path=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key


def lint():
    for chart, values in ((LIBRARY, LIBRARY / "ci/values.yaml"), (EXAMPLE, SERVICE[2]), (EXAMPLE, DESCRIPTORS[2]), (INJECTION, INJECT[2])):
        code, out, said = run("helm", "lint", "--strict", chart, "-f", values, "--kube-version", NEW)
        check(f"helm lint --strict {chart.name} with {values.name}", code == 0, "" if code == 0 else out + said)


def valid(name, text, version):
    location = str(SCHEMAS / "{{ .NormalizedKubernetesVersion }}-standalone{{ .StrictSuffix }}/{{ .ResourceKind }}{{ .KindSuffix }}.json")
    code, out, said = run("kubeconform", "-strict", "-summary", "-kubernetes-version", version, "-schema-location", location, "-", stdin=text)
    return code == 0, (out + said).strip()


def schemas():
    for name, chart in (("the smallest example", SERVICE), ("the whole example", DESCRIPTORS)):
        for version in (OLD, NEW):
            ok, said = valid(name, rendered(chart), version)
            check(f"{name} is valid for {version}", ok and "0 resources" not in said, said)
    ok, said = valid("injection", rendered(INJECT), NEW)
    check(f"the injection is valid for {NEW}", ok, said)
    snippet = SNIPPET.read_text()
    for version in (OLD, NEW):
        ok, said = valid("snippet", snippet, version)
        check(f"the snippet is valid for {version}", ok, said)
    ok, said = valid("typo", rendered(SERVICE).replace("restartPolicy: Always", "restartPolcy: Always"), NEW)
    check("a key that the API does not know is found", not ok and "restartPolcy" in said, said[-160:])
    code, _, said = template(INJECT, version="1.35.0")
    check("the injection refuses a cluster that is too old", code != 0 and "1.36.0" in said, said)


def effects():
    """Every key of values.yaml, what it is set to, and what then is in the manifest that was not there before."""
    library = {
        "image.tag": ("2.0", 'image: "registry.example/outrigger:2.0"'),
        "image.digest": ("sha256:" + 64 * "a", f'image: "registry.example/outrigger@sha256:{64 * "a"}"'),
        "image.pullPolicy": ("Always", "imagePullPolicy: Always"),
        "image.binary": ("/usr/bin/outrigger", 'command: ["/usr/bin/outrigger", drain, "--timeout=10s"]'),
        "registry.namespace": ("team", '{ name: OUTRIGGER_REGISTRY_NAMESPACE, value: "team" }'),
        "registry.auth.username": ("me,outrigger.registry.auth.passwordSecret.name=pw", '{ name: OUTRIGGER_REGISTRY_AUTH_USERNAME, value: "me" }'),
        "registry.auth.passwordSecret.name": ("pw,outrigger.registry.auth.username=me", "secret: { secretName: pw, items: [{ key: password, path: password }] }"),
        "registry.auth.passwordSecret.key": ("pass,outrigger.registry.auth.username=me,outrigger.registry.auth.passwordSecret.name=pw", "items: [{ key: pass, path: password }]"),
        "registry.tls.caConfigMap.name": ("ca", '{ name: OUTRIGGER_REGISTRY_TLS_CA, value: "/etc/outrigger/ca/ca.crt" }'),
        "registry.tls.caConfigMap.key": ("root.pem,outrigger.registry.tls.caConfigMap.name=ca", "configMap: { name: ca, items: [{ key: root.pem, path: ca.crt }] }"),
        "service.name": ("bills", '{ name: OUTRIGGER_SERVICE, value: "bills" }'),
        "service.port": ("81", '{ name: OUTRIGGER_PORT, value: "81" }'),
        "service.group": ("G", '{ name: OUTRIGGER_GROUP, value: "G" }'),
        "service.cluster": ("C", '{ name: OUTRIGGER_CLUSTER, value: "C" }'),
        "service.weight": ("0", '{ name: OUTRIGGER_WEIGHT, value: "0" }'),
        "service.metadata": (".version=one,outrigger.service.metadata.zone=a", '{ name: OUTRIGGER_METADATA, value: "version=one,zone=a" }'),
        "descriptors": (".web.services[0].name=web,outrigger.descriptors.web.services[0].port=80", "web.yaml: | services: - name: web port: 80"),
        "descriptorsConfigMap": ("mine", "- name: outrigger-descriptors configMap: { name: mine }"),
        "files.mountPath": ("/srv/files", '- { name: outrigger-files, mountPath: "/srv/files", readOnly: true }'),
        "files.medium": ("", "emptyDir: { sizeLimit: 16Mi }"),
        "files.sizeLimit": ("3Mi", "emptyDir: { medium: Memory, sizeLimit: 3Mi }"),
        "private.sizeLimit": ("5Mi", "emptyDir: { medium: Memory, sizeLimit: 5Mi }"),
        "admin.address": ("::", '{ name: OUTRIGGER_ADMIN_LISTEN, value: "[::]:9901" }'),
        "admin.port": ("9902", "{ name: http-outrigger, containerPort: 9902 }"),
        "startupSeconds": ("33", "failureThreshold: 33"),
        "drainSeconds": ("7", '"--timeout=7s"'),
        "shutdownSeconds": ("8", '{ name: OUTRIGGER_SHUTDOWN_TIMEOUT, value: "8s" }'),
        "log.level": ("debug", '{ name: OUTRIGGER_LOG_LEVEL, value: "debug" }'),
        "log.format": ("text", '{ name: OUTRIGGER_LOG_FORMAT, value: "text" }'),
        "resources.requests.cpu": ("20m", '"requests":{"cpu":"20m","memory":"16Mi"}'),
        "resources.requests.memory": ("20Mi", '"requests":{"cpu":"10m","memory":"20Mi"}'),
        "resources.limits.memory": ("99Mi", '"limits":{"memory":"99Mi"}'),
        "runAsUser": ("1000650000", "runAsUser: 1000650000"),
        "runAsGroup": ("1000650000", "runAsGroup: 1000650000"),
        "extraEnv": ("[0].name=RUST_LOG,outrigger.extraEnv[0].value=trace", "- name: RUST_LOG value: trace"),
        "extraVolumeMounts": ("[0].name=tmp,outrigger.extraVolumeMounts[0].mountPath=/x", "- mountPath: /x name: tmp"),
    }
    example = {
        "app.command": ("[0]=/bin/app", "command: - /bin/app"),
        "app.args": ("[0]=--fast", "args: - --fast"),
        "app.env": ("[0].name=A,app.env[0].value=b", "env: - name: A value: b"),
        "app.port": ("81", "{ name: app, containerPort: 81 }"),
        "app.resources.requests.cpu": ("1", '"requests":{"cpu":1,"memory":"64Mi"}'),
        "app.resources.requests.memory": ("1Gi", '"requests":{"cpu":"100m","memory":"1Gi"}'),
        "app.resources.limits.memory": ("1Gi", '"limits":{"memory":"1Gi"}'),
        "app.preStopSeconds": ("5", "sleep: { seconds: 5 }"),
        "app.tmp": ("/scratch", '{ name: tmp, mountPath: "/scratch" }'),
        "replicas": ("0", "replicas: 0"),
        "imagePullSecrets": ("[0].name=pull", "imagePullSecrets: - name: pull"),
        "podLabels": (".team=a", "team: a"),
        "podAnnotations": (".note=b", "annotations: note: b"),
        "runAsUser": ("1000650000", "runAsUser: 1000650000"),
        "fsGroup": ("1000650000", "fsGroup: 1000650000"),
        "shareProcessNamespace": ("true", "shareProcessNamespace: true"),
        "terminationGracePeriodSeconds": ("60", "terminationGracePeriodSeconds: 60"),
        "outrigger.descriptors": None,
    }
    plain = rendered(SERVICE)
    for file, prefix, cases in ((LIBRARY, "outrigger.", library), (EXAMPLE, "", example)):
        keys = set(leaves(documents((file / "values.yaml").read_text())[0]))
        check(f"{file.name}: every value is tried below", keys == set(cases), sorted(keys ^ set(cases)) or "")
        for key, case in cases.items():
            if case is None:
                continue
            value, wanted = case
            text = rendered(SERVICE, "--set", f"{prefix}{key}{value if value[:1] in ('.', '[') else '=' + value}")
            there, before = " ".join(text.split()), " ".join(plain.split())
            check(f"{prefix}{key} is heard", wanted in there and wanted not in before, "" if wanted in there else wanted)
    documented = (ROOT / "docs/kubernetes.md").read_text()
    for file in (LIBRARY, EXAMPLE):
        missing = [key for key in leaves(documents((file / "values.yaml").read_text())[0]) if f"`{key}`" not in documented]
        check(f"{file.name}: docs/kubernetes.md knows every value", missing in ([], ["outrigger.descriptors"]), missing if len(missing) > 1 else "")


def refusals():
    """Mistakes, and words that name them."""
    service, inject = list(SERVICE), list(INJECT)
    for chart, sets, words in (
        ([EXAMPLE], [], "missing properties 'app'|missing property 'app'|missing property 'image'"),
        ([EXAMPLE, "--set", "app.image=a:1,outrigger.registry.servers={x}"], [], "'/image': missing property 'repository'"),
        ([EXAMPLE, "--set", "app.image=a:1,outrigger.image.repository=b"], [], "'/registry': missing property 'servers'"),
        (service, ["--set", "outrigger.registry.servers=null"], "'/registry/servers': got null, want array"),
        (service, ["--set-json", "outrigger.registry.servers=[]"], "'/registry/servers': minItems: got 0, want 1"),
        (service, ["--set", "app.image=orders"], "'/app/image': 'orders' does not match pattern"),
        (service, ["--set", "outrigger.image.repository=Registry/X"], "'/image/repository'"),
        (service, ["--set", "outrigger.image.digest=abc"], "'/image/digest'"),
        (service, ["--set", "outrigger.image.pullPolicy=Sometimes"], "'/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
        (service, ["--set", "outrigger.image.repo=x"], "'/image': additional properties 'repo' not allowed"),
        (service, ["--set", "outrigger.imge.tag=x"], "additional properties 'imge' not allowed"),
        (service, ["--set", "outrigger.admin.port=0"], "'/admin/port': minimum: got 0, want 1"),
        (service, ["--set", "outrigger.service.port=http"], "'/service/port': got string, want"),
        (service, ["--set", "outrigger.service.weight=20000"], "'/service/weight': maximum: got 20,000, want 10,000"),
        (service, ["--set", "outrigger.drainSeconds=5s"], "'/drainSeconds': got string, want integer"),
        (service, ["--set", "outrigger.runAsUser=0"], "'/runAsUser': minimum: got 0, want 1"),
        (service, ["--set", "outrigger.files.mountPath=run/config"], "'/files/mountPath'"),
        (service, ["--set", "outrigger.files.mountPath=/run/outrigger/files"], "'/files/mountPath': 'not' failed"),
        (service, ["--set", "outrigger.files.sizeLimit=big"], "'/files/sizeLimit'"),
        (service, ["--set", "outrigger.resources.limits.memory=lots"], "'/resources/limits/memory'"),
        (service, ["--set", "outrigger.log.format=xml"], "'/log/format': value must be one of 'text', 'json'"),
        (service, ["--set", "outrigger.descriptors.Web.services[0].name=x"], "'/descriptors': additional properties 'Web' not allowed"),
        (service, ["--set", "outrigger.descriptors.web=x"], "'/descriptors/web': got string, want object"),
        (service, ["--set", "outrigger.service.metadata.a=1\\,2"], "'/service/metadata/a'"),
        (service, ["--set", "replicas=two"], "'/replicas': got string, want integer"),
        (service, ["--set", "runAsUser=0"], "'/runAsUser': minimum: got 0, want 1"),
        (service, ["--set", "app.prot=80"], "'/app': additional properties 'prot' not allowed"),
        # What a schema cannot see.
        (service, ["--set", "outrigger.service.name="], "outrigger.service.port means nothing without outrigger.service.name|nothing to do"),
        (service, ["--set", "outrigger.service.port=null"], "outrigger.service.port is missing: which port does orders listen on?"),
        ([EXAMPLE, "--set", "app.image=a:1,outrigger.image.repository=b,outrigger.registry.servers={x}"], [], "nothing to do: set outrigger.service.name and port, outrigger.descriptors or"),
        (service, ["--set", "outrigger.registry.auth.username=me"], "outrigger.registry.auth: username and passwordSecret.name belong together"),
        (service, ["--set", "outrigger.extraEnv[0].name=OUTRIGGER_PORT"], "outrigger.extraEnv: OUTRIGGER_PORT is set by another value of this chart already"),
        (list(DESCRIPTORS), ["--set", "outrigger.descriptorsConfigMap=x"], "outrigger.descriptors and outrigger.descriptorsConfigMap exclude each other"),
        (service, ["--set", "terminationGracePeriodSeconds=15"], "terminationGracePeriodSeconds is 15, but preStop and the sidecar's end may take 20"),
        (inject, ["--set", "outrigger.service.name=x,outrigger.service.port=1"], "outrigger.service is of one application"),
        (inject, ["--set", "outrigger.descriptors.web.services[0].name=x"], "outrigger.descriptors is of one application"),
        (inject, ["--set", "inject=x"], "additional properties 'inject' not allowed"),
    ):
        code, _, said = template(chart, *sets)
        ok = code != 0 and any(word in said for word in words.split("|"))
        check(f"refused: {' '.join(map(str, chart[1:] if len(chart) < 3 or chart[1] != '-f' else sets)) or 'no value at all'}", ok, said[-230:])


def promises():
    """What the issue of a sidecar is made of, read from the manifest."""
    pod = pod_of(documents(rendered(DESCRIPTORS)))
    sidecar, app = sidecar_of(pod), pod["containers"][0]
    check("it is a native sidecar, and the first of the init containers", sidecar["restartPolicy"] == "Always" and pod["initContainers"][0] is sidecar)
    check("the application waits for startupz", sidecar["startupProbe"]["httpGet"]["path"] == "/startupz")
    check("readiness of the pod never depends on the sidecar", "readinessProbe" not in sidecar)
    check("preStop drains", sidecar["lifecycle"]["preStop"]["exec"]["command"][1] == "drain")
    closed = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
    check("the sidecar may do nothing", sidecar["securityContext"] == closed)
    mounts = {name: [mount["name"] for mount in container["volumeMounts"]] for name, container in (("sidecar", sidecar), ("app", app))}
    shared = set(mounts["sidecar"]) & set(mounts["app"])
    check("sidecar and application share the files and nothing else", shared == {"outrigger-files"}, "")
    socket = settings_of(sidecar)["OUTRIGGER_ADMIN_SOCKET"]
    holder = [mount["name"] for mount in sidecar["volumeMounts"] if socket.startswith(mount["mountPath"] + "/")]
    check("the admin socket lies where the application has nothing", holder == ["outrigger-private"] and "outrigger-private" not in mounts["app"])
    check("the application cannot write the files", all(mount.get("readOnly") for mount in app["volumeMounts"] if mount["name"] == "outrigger-files"))
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    check("no cluster credential", pod["automountServiceAccountToken"] is False and any(mount["mountPath"] == token for mount in sidecar["volumeMounts"]))
    check("no CPU limit", "cpu" not in sidecar["resources"]["limits"])
    values = {volume["name"] for volume in pod["volumes"]}
    check("every mount has its volume", {mount["name"] for container in (sidecar, app) for mount in container["volumeMounts"]} <= values)


def snippet():
    """The manifest for people without helm is the chart's, by hand: what differs is said here."""
    found = documents(SNIPPET.read_text())
    by_hand, by_chart = pod_of(found), pod_of(documents(rendered(DESCRIPTORS)))

    def bare(container):
        said = json.loads(json.dumps(container))
        said["env"] = sorted(said["env"], key=lambda entry: entry["name"])
        for entry in said["env"]:
            if entry["name"].startswith("OUTRIGGER_REGISTRY"):
                entry["value"] = "…"
        return said | {"image": "…"}

    # The chart's example logs in and has a CA; the snippet shows neither.
    chart = sidecar_of(by_chart)
    chart["volumeMounts"] = [mount for mount in chart["volumeMounts"] if mount["name"] not in ("outrigger-password", "outrigger-ca")]
    chart["env"] = [entry for entry in chart["env"] if not re.match("OUTRIGGER_REGISTRY_(AUTH|TLS|NAMESPACE)", entry["name"])]
    check("the snippet's sidecar is the chart's", bare(sidecar_of(by_hand)) == bare(chart), "" if bare(sidecar_of(by_hand)) == bare(chart) else json.dumps([bare(sidecar_of(by_hand)), bare(chart)]))
    names = {volume["name"]: volume for volume in by_hand["volumes"]}
    same = all(names.get(volume["name"]) == volume for volume in by_chart["volumes"] if volume["name"] in ("outrigger-private", "outrigger-no-token", "outrigger-files"))
    check("the snippet's volumes are the chart's", same)


def opinion():
    """What the agent itself says of the variables and descriptors that were rendered."""
    if program() is None:
        return skipped("no outrigger in target/: what it says of the rendered settings is not known")
    every = ["--set", "outrigger.admin.address=::,outrigger.service.group=G,outrigger.service.cluster=C,outrigger.service.metadata.version=1.4,outrigger.log.level=debug,outrigger.log.format=text", "--set-json", "outrigger.service.weight=0.5"]
    for name, found in (
        ("the smallest example", documents(rendered(SERVICE))),
        ("every value of a service", documents(rendered(SERVICE, *every))),
        ("the whole example", documents(rendered(DESCRIPTORS))),
        ("the snippet", documents(SNIPPET.read_text())),
    ):
        files = [config["data"] for config in found if config.get("kind") == "ConfigMap"]
        settings = settings_of(sidecar_of(pod_of(found)))
        code, said = agrees(settings, *files)
        check(f"outrigger check agrees with {name}", code == 0, said)
        code, said = agrees(settings | {"OUTRIGGER_ADMIN_LISTN": "x"}, *files)
        check(f"and would not with a slip in {name}", code == 78, said)
    version = re.search(r'^version = "(.*?)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    charts = {chart.name: documents((chart / "Chart.yaml").read_text())[0]["appVersion"] for chart in (LIBRARY, INJECTION)}
    check("the charts name the version of this program", set(charts.values()) == {version}, charts)


for part in (lint, schemas, promises, effects, refusals, snippet, opinion):
    part()
finish()

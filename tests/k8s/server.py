"""What a real API server says: the charts and the snippet are taken under Pod Security `restricted`, the injection does what it
promises, and what must be refused is refused, in words.

    server.py HELM_DIRECTORY      (KUBECONFIG of `server up`; helm in PATH; `run` sees to all of it)
"""

import copy
import json
import os
import pathlib
import re
import ssl
import time
import urllib.error
import urllib.request

from helm import DESCRIPTORS, EXAMPLE, INJECT, ROOT, SERVICE, SNIPPET
from helm import agrees, documents, only, pod_of, program, rendered, run, settings_of, sidecar_of
from sentences import check, finish, skipped

CONFIG = pathlib.Path(os.environ["KUBECONFIG"]).read_text()
SERVER, AUTHORITY, TOKEN = (re.search(pattern, CONFIG)[1] for pattern in (r'server: "(.*?)"', r'authority: "(.*?)"', r'token: "(.*?)"'))
TLS = ssl.create_default_context(cafile=AUTHORITY)
WHERE = {
    "Namespace": "/api/v1/namespaces",
    "Pod": "/api/v1/namespaces/{}/pods",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Service": "/api/v1/namespaces/{}/services",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
}
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
FILES, TOKEN_PATH = "/run/config", "/var/run/secrets/kubernetes.io/serviceaccount"


def ask(method, path, body=None):
    """Status, and the answer as the server wrote it."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(SERVER + path, json.dumps(body).encode() if body else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=TLS, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def create(manifest, namespace="plain", dry=True):
    """The manifest as the server would store it, or None; and its words. The whole chain of admission either way."""
    path = WHERE[manifest["kind"]].format(namespace) + "?fieldValidation=Strict" + ("&dryRun=All" if dry else "")
    status, answer = ask("POST", path, manifest)
    return (answer, f"{status} {answer['kind']} {answer['metadata']['name']}") if status < 300 else (None, f"{status} {answer.get('message')}")


def eventually(look, good):
    """A policy counts a moment after it was stored."""
    deadline = time.monotonic() + 20
    while not good(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def pod(name="app", labels=None, annotations=None, **spec):
    """A pod that `restricted` lets in."""
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    whole = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container()],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole | spec}


def container(name="app", **more):
    return {"name": name, "image": "registry.example/app:1", "securityContext": RESTRICTED} | more


def asking(name="app", annotations=None, **spec):
    """A pod that asks and has what the sidecar needs to know."""
    spec = {"containers": [container(ports=[{"containerPort": 8080}])]} | spec
    return pod(name, {"outrigger.io/inject": "true", "app": name}, annotations, **spec)


def sidecars(found):
    return [container for container in found["spec"].get("initContainers", []) + found["spec"]["containers"] if container["name"] == "outrigger"]


def names(found, what):
    return [entry["name"] for entry in found["spec"].get(what, [])]


def mounts(of):
    return [mount["mountPath"] for mount in of.get("volumeMounts", [])]


def namespace(name, labels=None, annotations=None):
    labels = {"pod-security.kubernetes.io/enforce": "restricted"} | (labels or {})
    create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels, "annotations": annotations or {}}}, dry=False)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    eventually(lambda: create(account, name, dry=False)[0], bool)


def as_pod(found):
    """The pod of a Deployment as such: Pod Security judges pods."""
    made = only(found, "Deployment")["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "made"} | made.get("metadata", {}), "spec": made["spec"]}


def charts():
    for name, found in (("the smallest example", documents(rendered(SERVICE))), ("the whole example", documents(rendered(DESCRIPTORS))), ("the snippet", documents(SNIPPET.read_text()))):
        for manifest in found:
            made, said = create(manifest)
            check(f"{name}: {manifest['kind']} is taken", made is not None, said)
        made, said = create(as_pod(found))
        check(f"{name}: its pod is taken under restricted", made is not None, said)
    example = ROOT / "examples/pod/pod.yaml"
    if not example.exists():
        return skipped("there is no examples/pod/pod.yaml")
    for manifest in documents(example.read_text()):
        made, said = create(manifest)
        check(f"examples/pod: {manifest['kind']} is taken", made is not None, said)


def helm_itself():
    code, out, said = run("helm", "install", "orders", *DESCRIPTORS, "--namespace", "plain")
    check("helm install", code == 0 and "orders runs with Outrigger" in out.replace("@sha256:" + 64 * "0", ""), said or out.strip().splitlines()[-1])
    code, _, said = run("helm", "upgrade", "orders", *DESCRIPTORS, "--namespace", "plain", "--set", "replicas=3")
    check("helm upgrade", code == 0 and ask("GET", WHERE["Deployment"].format("plain") + "/orders")[1]["spec"]["replicas"] == 3, said)
    code, _, said = run("helm", "uninstall", "orders", "--namespace", "plain")
    check("helm uninstall leaves nothing", code == 0 and ask("GET", WHERE["Deployment"].format("plain") + "/orders")[0] == 404, said)


def refusals():
    """That `restricted` and the API hold what the charts promise: one change each, and the server's words."""
    right = as_pod(documents(rendered(SERVICE)))

    def changed(change):
        wrong = copy.deepcopy(right)
        change(sidecar_of(wrong["spec"]), wrong["spec"])
        return create(wrong)

    for sentence, change, words in (
        ("a probe with a host", lambda s, _: s["livenessProbe"]["httpGet"].update(host="127.0.0.1"), "probe or lifecycle host"),
        ("a capability", lambda s, _: s["securityContext"]["capabilities"].update(add=["KILL"]), 'must not include "KILL"'),
        ("root", lambda s, _: s["securityContext"].update(runAsUser=0), "must not set runAsUser=0"),
        ("privilege escalation", lambda s, _: s["securityContext"].update(allowPrivilegeEscalation=True), "allowPrivilegeEscalation != false"),
        ("a sidecar without restartPolicy", lambda s, _: s.pop("restartPolicy"), "may not be set for init containers without restartPolicy=Always"),
        ("a mount without its volume", lambda _, p: p.update(volumes=p["volumes"][1:]), "volumeMounts[0].name: Not found"),
        ("a key that the API does not know", lambda s, _: s.update(restartPolcy="Always"), 'unknown field "spec.initContainers[0].restartPolcy"'),
    ):
        made, said = changed(change)
        check(f"refused: {sentence}", made is None and words in said, said)


def no_token():
    """The plugin that mounts a ServiceAccount's token, asked for one."""
    wanting = as_pod(documents(rendered(SERVICE)))
    wanting["spec"]["automountServiceAccountToken"] = True
    made, said = create(wanting)
    check("an application may have the token, the sidecar does not get it", made is not None and tokens(made) == {"app": True, "outrigger": False}, str(made and tokens(made) or said))


def tokens(made):
    """Which containers have the ServiceAccount's token."""
    holds = lambda of: any(mount["name"].startswith("kube-api-access") for mount in of.get("volumeMounts", []))
    return {of["name"]: holds(of) for of in made["spec"]["containers"] + sidecars(made)}


def agreed(sidecar, what, *files):
    if program() is not None:
        code, said = agrees(settings_of(sidecar), *files)
        check(f"outrigger check agrees with what was injected: {what}", code == 0, said)


def injection():
    code, out, said = run("helm", "install", "injection", *INJECT, "--namespace", "plain")
    check("the injection's chart is installed", code == 0, said or "helm: " + " ".join(out.split())[:60])
    # Two policies with two bindings each begin to count one by one.
    for where in ("plain", "asking"):
        idle = pod(labels={"outrigger.io/inject": "true"} if where == "plain" else {})
        eventually(lambda: create(idle, where), lambda seen: "nothing to do" in seen[1])
    made, said = create(asking())
    check("a pod that asks is taken under restricted, with the sidecar", made is not None and len(sidecars(made)) == 1, said)
    if not made:
        return
    ours = sidecars(made)[0]
    by_chart = sidecar_of(create(as_pod(documents(rendered(SERVICE))))[0]["spec"])
    bare = lambda of: {key: value for key, value in of.items() if key not in ("env", "volumeMounts")}
    check("it is the library's sidecar", bare(ours) == bare(by_chart), "" if bare(ours) == bare(by_chart) else json.dumps([bare(ours), bare(by_chart)]))
    wanted = {"OUTRIGGER_SERVICE": "app", "OUTRIGGER_PORT": "8080", "OUTRIGGER_REGISTRY_SERVERS": "https://nacos-0.nacos:8848,https://nacos-1.nacos:8848", "OUTRIGGER_REGISTRY_NAMESPACE": "everybody", "POD_IP": None}
    check("service by label, port by container, registry by the chart", wanted.items() <= settings_of(ours).items(), {key: settings_of(ours).get(key) for key in wanted})
    agreed(ours, "a pod that asks")
    volumes = ["outrigger-private", "outrigger-no-token", "outrigger-files", "outrigger-password", "outrigger-ca"]
    check("volumes, the files' mount, the label", names(made, "volumes") == volumes and mounts(made["spec"]["containers"][0]) == [FILES] and made["metadata"]["labels"]["outrigger.io/injected"] == "true", names(made, "volumes"))

    again, said = create({"apiVersion": "v1", "kind": "Pod", "metadata": {key: made["metadata"][key] for key in ("name", "labels")}, "spec": made["spec"]})
    check("idempotent: an injected pod stays as it is", again is not None and again["spec"] == made["spec"], said)

    full = asking(
        "full",
        {"outrigger.io/servers": "http://own:8848", "outrigger.io/namespace": "own", "outrigger.io/descriptors": "full-outrigger"},
        automountServiceAccountToken=True,
        initContainers=[container("migrate")],
        containers=[container(ports=[{"containerPort": 8080}], volumeMounts=[{"name": "data", "mountPath": "/data"}]), container("helper")],
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    made, said = create(full)
    check("it is the first of the init containers, the others stay", made is not None and names(made, "initContainers") == ["outrigger", "migrate"], said)
    everybody = made["spec"]["initContainers"] + made["spec"]["containers"]
    check("every container has the files once", all(mounts(of).count(FILES) == 1 for of in everybody) and "/data" in mounts(made["spec"]["containers"][0]), [mounts(of) for of in everybody[1:]])
    check("the pod's volumes stay", names(made, "volumes")[0] == "data" and "outrigger-descriptors" in names(made, "volumes"))
    agreed(sidecars(made)[0], "descriptors", {"full.yaml": "services: [{ name: full, port: 8080 }]"})
    settings = settings_of(sidecars(made)[0])
    check("the pod's annotations win; descriptors instead of a service", settings["OUTRIGGER_REGISTRY_SERVERS"] == "http://own:8848" and settings["OUTRIGGER_REGISTRY_NAMESPACE"] == "own" and not settings["OUTRIGGER_SERVICE"] and "/etc/outrigger/conf.d" in mounts(sidecars(made)[0]))
    check("the application has the token, the injected sidecar does not", tokens(made) == {"app": True, "helper": True, "outrigger": False}, tokens(made))
    check("and nothing but ours is at its path", [mount["name"] for mount in sidecars(made)[0]["volumeMounts"] if mount["mountPath"] == TOKEN_PATH] == ["outrigger-no-token"])

    own = asking(containers=[container(ports=[{"containerPort": 8080}], volumeMounts=[{"name": "outrigger-files", "mountPath": FILES}])], volumes=[{"name": "outrigger-files", "emptyDir": {"sizeLimit": "32Mi"}}])
    made, said = create(own)
    check("a volume that the pod brings is kept, not doubled", made is not None and names(made, "volumes").count("outrigger-files") == 1 and made["spec"]["volumes"][0]["emptyDir"] == {"sizeLimit": "32Mi"} and mounts(made["spec"]["containers"][0]) == [FILES], said)
    by_hand = asking(initContainers=[container("outrigger", restartPolicy="Always", image="registry.example/outrigger:mine")])
    made, said = create(by_hand)
    check("a pod with a sidecar of its own is left alone", made is not None and len(sidecars(made)) == 1 and sidecars(made)[0]["image"].endswith(":mine") and not names(made, "volumes"), said)

    told = {"app": "app"}
    port = [container(ports=[{"containerPort": 8080}])]
    for sentence, asked, where, count in (
        ("refused by its annotation, in a namespace that does not ask", pod(labels=told | {"outrigger.io/inject": "true"}, annotations={"outrigger.io/inject": "false"}), "plain", 0),
        ("refused by its annotation, in a namespace that asks", pod(labels=told, annotations={"outrigger.io/inject": "false"}), "asking", 0),
        ("refused by its label, in a namespace that asks", pod(labels=told | {"outrigger.io/inject": "false"}), "asking", 0),
        ("says nothing, in a namespace that does not ask", pod(), "plain", 0),
        ("says nothing, in a namespace that asks", pod(labels=told, containers=port), "asking", 1),
        ("asks, in a namespace that asks", asking(), "asking", 1),
    ):
        made, said = create(asked, where)
        check(f"a pod that {sentence}: {count} sidecar(s)", made is not None and len(sidecars(made)) == count, said)
    made, _ = create(pod(labels=told, containers=port), "asking")
    check("its namespace's annotation counts before the chart", settings_of(sidecars(made)[0])["OUTRIGGER_REGISTRY_SERVERS"] == "http://team:8848")
    made, _ = create(pod(labels=told, containers=port, annotations={"outrigger.io/service": "other", "outrigger.io/port": "9"}), "asking")
    check("service and port by annotation", {"OUTRIGGER_SERVICE": "other", "OUTRIGGER_PORT": "9"}.items() <= settings_of(sidecars(made)[0]).items())
    create(pod("stored", told, containers=port), "asking", dry=False)
    status, stored = ask("GET", WHERE["Pod"].format("asking") + "/stored")
    check("it is stored so", status == 200 and len(sidecars(stored)) == 1)

    for sentence, asked, words in (
        ("a port that is none", asking(annotations={"outrigger.io/port": "http"}), 'annotation outrigger.io/port must be a port number from 1 to 65535, not "http"'),
        ("a port beyond all", asking(annotations={"outrigger.io/port": "65536"}), 'not "65536"'),
        ("an annotation with a slip", asking(annotations={"outrigger.io/prot": "80"}), "unknown annotation outrigger.io/prot; known are outrigger.io/inject, outrigger.io/service"),
        ("descriptors that are no name", asking(annotations={"outrigger.io/descriptors": "Full Outrigger"}), "must be the name of a ConfigMap"),
        ("nothing to do", pod(labels={"outrigger.io/inject": "true"}), "Outrigger has nothing to do in this pod: give it the label"),
        ("a service without a port", asking(containers=[container()]), "Outrigger does not know the port of this pod's service"),
        ("the admin socket in another container", asking(containers=[container(ports=[{"containerPort": 8080}], volumeMounts=[{"name": "outrigger-private", "mountPath": "/run/outrigger"}])], volumes=[{"name": "outrigger-private", "emptyDir": {}}]), "is the sidecar's alone"),
        ("an application that is root, injected or not", asking(containers=[container(ports=[{"containerPort": 8080}], securityContext=RESTRICTED | {"runAsUser": 0})]), "runAsUser=0"),
    ):
        made, said = create(asked)
        check(f"refused: {sentence}", made is None and words in said, said)

    binding = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/outrigger-inject-pods"
    ask("DELETE", binding)
    made, said = eventually(lambda: create(asking()), lambda seen: seen[0] is None)
    check("refused: a pod that asked and got nothing", made is None and "no sidecar was put into it: is the MutatingAdmissionPolicy outrigger-inject installed" in said, said)
    check("and nobody else is hurt", create(pod())[0] is not None)
    code, _, said = run("helm", "uninstall", "injection", "--namespace", "plain")
    made, _ = eventually(lambda: create(asking()), lambda seen: seen[0] is not None)
    check("uninstalled, pods are as they were written", code == 0 and made is not None and not sidecars(made), said)


_, version = ask("GET", "/version")
print(f"kube-apiserver {version['gitVersion']}", flush=True)
namespace("plain")
namespace("asking", {"outrigger.io/inject": "true"}, {"outrigger.io/servers": "http://team:8848"})
for part in (charts, helm_itself, refusals, no_token, injection):
    part()
finish()

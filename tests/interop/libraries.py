"""The client libraries: what they are, how they are had, what they cannot do. Whatever is made goes below the cache, never into the tree."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("OUTRIGGER_INTEROP_CACHE")
             or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outrigger-interop")


class Missing(Exception):
    """This machine cannot have the library."""


class Broken(Exception):
    """The library is there, and our program for it cannot be built."""


def do(*words, or_else=Broken, **more):
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=900, **more)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()] or ["without a word"]
        raise or_else(f"`{words[0]} {words[1]}` ended with {done.returncode}:\n    " + "\n    ".join(said[-12:]))


def once(folder: Path, *reasons):
    """Whether `folder` has yet to be made for these reasons (files and words); what was made for others is removed."""
    key = hashlib.sha256(repr([r.read_bytes() if isinstance(r, Path) else r for r in reasons]).encode()).hexdigest()
    if (folder / "made-for").is_file() and (folder / "made-for").read_text() == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield
    (folder / "made-for").write_text(key)


def java(program, version):
    jars, classes = CACHE / f"java-{version}" / "jars", CACHE / f"java-{version}" / "classes"
    for _ in once(jars, HERE / "java/pom.xml", version):
        do("mvn", "-B", "-q", "-f", HERE / "java/pom.xml", "dependency:copy-dependencies", f"-Dnacos.version={version}",
           f"-DoutputDirectory={jars}", or_else=Missing)
    sources = [HERE / "java/Story.java"] + ([HERE / "java/Story2.java"] if program == "Story2" else [])
    for _ in once(classes, *sources, (jars / "made-for").read_text()):
        do("javac", "-cp", f"{jars}/*", "-d", classes, *sources)
    return ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}:{jars}/*", program]


def spring(version):
    jars, classes, source = CACHE / "spring/jars", CACHE / "spring/classes", HERE / "spring/Story.java"
    for _ in once(jars, HERE / "spring/pom.xml", version):
        do("mvn", "-B", "-q", "-f", HERE / "spring/pom.xml", "dependency:copy-dependencies", f"-Dalibaba.version={version}",
           f"-DoutputDirectory={jars}", or_else=Missing)
    for _ in once(classes, source, (jars / "made-for").read_text()):
        do("javac", "-encoding", "UTF-8", "-parameters", "-cp", f"{jars}/*", "-d", classes, source)
    return ["java", "-Xmx192m", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8",
            "-cp", f"{classes}:{HERE}/spring:{jars}/*", "story.Story"]


def go(folder):
    do("go", "mod", "download", cwd=HERE / folder, or_else=Missing)
    do("go", "build", "-o", CACHE / folder, ".", cwd=HERE / folder)
    return [CACHE / folder]


def python(folder):
    venv = CACHE / folder
    for _ in once(venv, HERE / folder / "requirements.txt"):
        do("python3", "-m", "venv", venv, or_else=Missing)
        do(venv / "bin/pip", "install", "-q", "--disable-pip-version-check", "-r", HERE / folder / "requirements.txt",
           or_else=Missing)
    return [venv / "bin/python", "-B", HERE / folder / "story.py"]


def node():
    modules = CACHE / "node"
    for _ in once(modules, HERE / "node/package.json"):
        shutil.copy(HERE / "node/package.json", modules)
        do("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=modules, or_else=Missing)
    return ["env", f"NODE_PATH={modules}/node_modules", "node", HERE / "node/story.js"]


def rust():
    manifest, target = HERE / "rust/Cargo.toml", CACHE / "rust"
    do("cargo", "fetch", "--locked", "--manifest-path", manifest, or_else=Missing)
    do("cargo", "build", "--locked", "--manifest-path", manifest, "--target-dir", target)
    return [target / "debug/interop"]


GRPC, HTTP = "gRPC", "HTTP v1"


@dataclass(frozen=True)
class Library:
    key: str
    language: str
    name: str
    version: str
    door: str
    needs: tuple
    build: Callable
    # Steps that the library has no call for, and why.
    lacks: dict = field(default_factory=dict)
    # Steps that fail with a generation of servers by the nature of both, and why. It is a failure if all of them work.
    known: dict = field(default_factory=dict)

    @property
    def likes(self):
        return ("2.5", "3.0") if self.door == GRPC else ("1.4", "2.5", "3.0")

    def __str__(self):
        return f"{self.language} {self.name} {self.version}"


NO_BATCH = "one instance a call is all that HTTP v1 has"
NO_CAS = "the library has no call for it"
NO_KILL = "over HTTP only silence tells, after 30 s"
OVER_HTTP = {"batch": NO_BATCH, "cas": NO_CAS, "kill": NO_KILL}
SPRING = {"batch": "an application of Spring is one instance", "cas": "Spring only reads configurations",
          "kept": "what it takes out is always an ephemeral instance: a persistent one stays"}
JAVA, GO, PYTHON = ("java", "javac", "mvn"), ("go",), ("python3",)

LIBRARIES = [
    Library("java2", "Java", "nacos-client", "2.5.1", GRPC, JAVA, lambda: java("Story2", "2.5.1")),
    Library("java3", "Java", "nacos-client", "3.1.1", GRPC, JAVA, lambda: java("Story2", "3.1.1"), known={"2.5": {
        "back": "it listens with the tenant `public`, which 2.5 knows as the empty one: it hears of no configuration that is new"}}),
    Library("spring", "Java", "Spring Cloud Alibaba", "2023.0.3.3", GRPC, JAVA, lambda: spring("2023.0.3.3"), SPRING),
    Library("go2", "Go", "nacos-sdk-go", "2.3.5", GRPC, GO, lambda: go("go2")),
    Library("py3", "Python", "nacos-sdk-python", "3.2.0", GRPC, PYTHON, lambda: python("py3")),
    Library("rust", "Rust", "nacos-sdk", "0.8.3", GRPC, ("cargo",), rust),
    Library("java1", "Java", "nacos-client", "1.4.8", HTTP, JAVA, lambda: java("Story", "1.4.8"), OVER_HTTP),
    Library("go1", "Go", "nacos-sdk-go", "1.1.6", HTTP, GO, lambda: go("go1"), OVER_HTTP,
            {"1.4": dict.fromkeys(["list", "told", "kept", "left", "back"], "it registers by a form body, which 1.4 does not read")}),
    Library("node", "Node.js", "nacos", "2.6.3", HTTP, ("node", "npm"), node, OVER_HTTP),
    Library("py1", "Python", "nacos-sdk-python", "1.0.0", HTTP, PYTHON, lambda: python("py1"), OVER_HTTP),
]

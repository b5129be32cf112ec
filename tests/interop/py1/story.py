"""The story, told with nacos-sdk-python 1: HTTP v1 and threads."""

import os
import sys
import time

from nacos import NacosClient
from nacos.listener import SubscribeListener

RUN = os.environ["RUN"]
WEB, VAULT, APP = f"web-{RUN}", f"vault-{RUN}", f"app-{RUN}"
GROUP = "INTEROP"


class Story:
    # What the listeners were told last.
    content = ""

    def __init__(self):
        self.nacos = NacosClient(os.environ["SERVER"], logDir="log", username=os.environ.get("USER_NAME"),
                                 password=os.environ.get("PASS_WORD"))
        self.hosts = set()

    def list(self):
        assert self.register(WEB, "10.1.0.1", 8080, weight=2.5, metadata={"version": "1.4", "zone": "a b&c"})

        def right():
            return [(it["ip"], it["port"], it["weight"], it["clusterName"], it["metadata"]) for it in self.instances(WEB)] == [
                ("10.1.0.1", 8080, 2.5, "BLUE", {"version": "1.4", "zone": "a b&c"})]

        eventually(right)
        please("expect", WEB, "10.1.0.1:8080", "weight=2.5", "clusterName=BLUE", "version=1.4")

    def agent(self):
        eventually(lambda: os.environ["ORDERS"] in map(address, self.instances("orders")))

    def told(self):
        def tell(event, local):
            change = self.hosts.discard if event == "DELETED" else self.hosts.add
            change(address(local.instance))

        self.nacos.subscribe(SubscribeListener(tell, "hosts"), 1, WEB)
        please("add", WEB, "10.2.0.1:9090")
        eventually(lambda: "10.2.0.1:9090" in self.hosts)
        please("remove", WEB, "10.2.0.1:9090")
        eventually(lambda: "10.2.0.1:9090" not in self.hosts)

    def config(self):
        assert self.nacos.get_config(f"missing-{RUN}", GROUP) is None
        assert self.nacos.publish_config(APP, GROUP, "greeting: 你好")
        please("content", APP, "greeting: 你好")
        assert self.nacos.get_config(APP, GROUP) == "greeting: 你好"

        def tell(change):
            self.content = change["content"]

        self.nacos.add_config_watcher(APP, GROUP, tell)
        for change in ("greeting: bonjour", "greeting: hola"):
            please("publish", APP, change)
            eventually(lambda: self.content == change)

    def gone(self):
        assert self.nacos.remove_config(APP, GROUP)
        eventually(lambda: self.content is None and self.nacos.get_config(APP, GROUP) is None)

    def kept(self):
        assert self.register(VAULT, "10.1.0.4", 8200, ephemeral=False)
        please("expect", VAULT, "10.1.0.4:8200", "ephemeral=false")
        assert self.nacos.remove_naming_instance(VAULT, "10.1.0.4", 8200, "BLUE", ephemeral=False)
        please("gone", VAULT, "10.1.0.4:8200")

    def left(self):
        assert self.nacos.remove_naming_instance(WEB, "10.1.0.1", 8080, "BLUE")
        please("gone", WEB, "10.1.0.1:8080")
        eventually(lambda: not self.instances(WEB))

    def back(self):
        """The registry is killed and comes back empty: what the library says again by itself, and what it still hears."""
        assert self.register(WEB, "10.1.0.1", 8080)
        assert self.nacos.publish_config(APP, GROUP, "greeting: hello")
        eventually(lambda: self.content == "greeting: hello" and "10.1.0.1:8080" in self.hosts)
        please("restart")
        please("expect", WEB, "10.1.0.1:8080")
        please("add", WEB, "10.2.0.2:9090")
        eventually(lambda: "10.2.0.2:9090" in self.hosts)
        please("publish", APP, "greeting: salut")
        eventually(lambda: self.content == "greeting: salut")

    def register(self, service, ip, port, **more):
        return self.nacos.add_naming_instance(service, ip, port, cluster_name="BLUE", heartbeat_interval=5, **more)

    def instances(self, service):
        return self.nacos.list_naming_instance(service)["hosts"]


def address(instance):
    return f"{instance['ip']}:{instance['port']}"


def eventually(condition, within=35):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(0.05)


def please(*deed):
    """Asks the runner, who stands outside with plain HTTP, to do or to see something."""
    print("please", *deed, flush=True)
    answer = sys.stdin.readline().strip()
    assert answer == "yes", answer


def main():
    story, failed = Story(), False
    for step in (story.list, story.agent, story.told, story.config, story.gone, story.kept, story.left, story.back):
        try:
            step()
            print("ok", step.__name__, flush=True)
        except Exception as e:
            failed, at = True, e.__traceback__.tb_next
            print(f"FAIL {step.__name__}: line {at.tb_lineno}: {e!r}; told {story.hosts}, content {story.content!r}", flush=True)
    # Beats are threads that never end.
    os._exit(failed)


# The library starts a process of its own, which reads this file again.
if __name__ == "__main__":
    main()

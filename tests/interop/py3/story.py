"""The story, told with nacos-sdk-python 3: gRPC and asyncio."""

import asyncio
import hashlib
import os
import sys

from v2.nacos import (BatchRegisterInstanceParam, ClientConfigBuilder, ConfigParam, DeregisterInstanceParam, GRPCConfig,
                      ListInstanceParam, NacosConfigService, NacosNamingService, RegisterInstanceParam, SubscribeServiceParam)

RUN = os.environ["RUN"]
WEB, PAIR, VAULT, APP, CAS = f"web-{RUN}", f"pair-{RUN}", f"vault-{RUN}", f"app-{RUN}", f"cas-{RUN}"
GROUP = "INTEROP"


class Story:
    # What the listeners were told last.
    hosts = None
    content = ""

    async def connect(self):
        settings = (ClientConfigBuilder().server_address(os.environ["SERVER"]).log_dir("log").cache_dir("cache")
                    .username(os.environ.get("USER_NAME")).password(os.environ.get("PASS_WORD"))
                    .grpc_config(GRPCConfig(grpc_timeout=5000)).build())
        self.naming = await NacosNamingService.create_naming_service(settings)
        self.config = await NacosConfigService.create_config_service(settings)

    async def list(self):
        await self.register(WEB, "10.1.0.1", 8080, weight=2.5, metadata={"version": "1.4", "zone": "a b&c"})

        async def right():
            found = await self.naming.list_instances(ListInstanceParam(service_name=WEB, subscribe=False, healthy_only=True))
            return [(it.ip, it.port, it.weight, it.clusterName, it.metadata) for it in found] == [
                ("10.1.0.1", 8080, 2.5, "BLUE", {"version": "1.4", "zone": "a b&c"})]

        await eventually(right)
        await please("expect", WEB, "10.1.0.1:8080", "weight=2.5", "clusterName=BLUE", "version=1.4")

    async def agent(self):
        async def seen():
            return os.environ["ORDERS"] in await self.listed("orders")

        await eventually(seen)

    async def told(self):
        async def tell(instances):
            self.hosts = addresses(instances)

        await self.naming.subscribe(SubscribeServiceParam(service_name=WEB, subscribe_callback=tell))
        await please("add", WEB, "10.2.0.1:9090")
        await eventually(lambda: self.hosts == {"10.1.0.1:8080", "10.2.0.1:9090"})
        await please("remove", WEB, "10.2.0.1:9090")
        await eventually(lambda: self.hosts == {"10.1.0.1:8080"})

    async def batch(self):
        one, two = instance(PAIR, "10.1.0.2", 8081), instance(PAIR, "10.1.0.3", 8082)
        assert await self.naming.batch_register_instances(BatchRegisterInstanceParam(service_name=PAIR, instances=[one, two]))
        await please("expect", PAIR, "10.1.0.2:8081")
        await please("expect", PAIR, "10.1.0.3:8082")

        async def both():
            return await self.listed(PAIR) == {"10.1.0.2:8081", "10.1.0.3:8082"}

        await eventually(both)
        assert await self.naming.batch_deregister_instances(BatchRegisterInstanceParam(service_name=PAIR, instances=[one]))
        await please("gone", PAIR, "10.1.0.2:8081")
        await please("expect", PAIR, "10.1.0.3:8082")

    async def configuration(self):
        assert not await self.get(f"missing-{RUN}")
        await self.publish(APP, "greeting: 你好")
        await please("content", APP, "greeting: 你好")
        assert await self.get(APP) == "greeting: 你好"

        async def tell(tenant, group, data_id, content):
            self.content = content

        await self.config.add_listener(APP, GROUP, tell)
        for change in ("greeting: bonjour", "greeting: hola"):
            await please("publish", APP, change)
            await eventually(lambda: self.content == change)

    async def cas(self):
        await self.publish(CAS, "one")
        await please("content", CAS, "one")
        try:
            taken = await self.publish(CAS, "two", md5("something else"))
        except Exception:
            taken = False
        assert not taken, "a wrong casMd5 was taken"
        await please("content", CAS, "one")
        await self.publish(CAS, "two", md5("one"))
        await please("content", CAS, "two")

    async def gone(self):
        assert await self.config.remove_config(ConfigParam(data_id=APP, group=GROUP))

        async def missing():
            return not self.content and not await self.get(APP)

        await eventually(missing)

    async def kept(self):
        await self.register(VAULT, "10.1.0.4", 8200, ephemeral=False)
        await please("expect", VAULT, "10.1.0.4:8200", "ephemeral=false")
        await self.deregister(VAULT, "10.1.0.4", 8200, ephemeral=False)
        await please("gone", VAULT, "10.1.0.4:8200")

    async def left(self):
        await self.deregister(WEB, "10.1.0.1", 8080)
        await please("gone", WEB, "10.1.0.1:8080")

    async def back(self):
        """The registry is killed and comes back empty: what the library says again by itself, and what it still hears."""
        await self.register(WEB, "10.1.0.1", 8080)
        await self.publish(APP, "greeting: hello")
        await eventually(lambda: self.content == "greeting: hello" and "10.1.0.1:8080" in self.hosts)
        await please("restart")
        await please("expect", WEB, "10.1.0.1:8080")
        await please("add", WEB, "10.2.0.2:9090")
        await eventually(lambda: "10.2.0.2:9090" in self.hosts)
        await please("publish", APP, "greeting: salut")
        await eventually(lambda: self.content == "greeting: salut")

    async def register(self, *place, **more):
        assert await self.naming.register_instance(instance(*place, **more))

    async def deregister(self, service, ip, port, ephemeral=True):
        assert await self.naming.deregister_instance(DeregisterInstanceParam(
            service_name=service, ip=ip, port=port, cluster_name="BLUE", ephemeral=ephemeral))

    async def listed(self, service):
        return addresses(await self.naming.list_instances(
            ListInstanceParam(service_name=service, subscribe=False, healthy_only=True)))

    async def get(self, data_id):
        return await self.config.get_config(ConfigParam(data_id=data_id, group=GROUP))

    async def publish(self, data_id, content, cas_md5=""):
        assert await self.config.publish_config(ConfigParam(data_id=data_id, group=GROUP, content=content, cas_md5=cas_md5))
        return True


def instance(service, ip, port, **more):
    return RegisterInstanceParam(service_name=service, ip=ip, port=port, cluster_name="BLUE", **more)


def addresses(instances):
    return {f"{it.ip}:{it.port}" for it in instances}


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


async def eventually(condition, within=35):
    end = asyncio.get_running_loop().time() + within
    while True:
        met = condition()
        if await met if asyncio.iscoroutine(met) else met:
            return
        assert asyncio.get_running_loop().time() < end, f"not within {within} s"
        await asyncio.sleep(0.05)


async def please(*deed):
    """Asks the runner, who stands outside with plain HTTP, to do or to see something."""
    print("please", *deed, flush=True)
    answer = (await asyncio.to_thread(sys.stdin.readline)).strip()
    assert answer == "yes", answer


async def main():
    story = Story()
    await story.connect()
    failed = False
    for name, step in {"list": story.list, "agent": story.agent, "told": story.told, "batch": story.batch,
                       "config": story.configuration, "cas": story.cas, "gone": story.gone, "kept": story.kept,
                       "left": story.left, "back": story.back}.items():
        try:
            await step()
            print("ok", name, flush=True)
        except Exception as e:
            failed = True
            at = next((f.tb_lineno for f in frames(e) if f.tb_frame.f_code is step.__func__.__code__), None)
            print(f"FAIL {name}: line {at}: {e!r}; told {story.hosts}, content {story.content!r}", flush=True)
    await please("kill", WEB, "10.1.0.1:8080")
    sys.exit(failed)


def frames(e):
    at = e.__traceback__
    while at:
        yield at
        at = at.tb_next


asyncio.run(main())

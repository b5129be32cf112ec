//! The registry's gRPC door over real sockets: how libraries of the field come in, what HTTP and gRPC see of each other, faults, bounds.

use crate::rpc::Client;
use crate::support::{LONG, free_port};
use outrigger::{
    machine::Epoch,
    registry::{self, Like, Options, Running},
    tasks::Tasks,
};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, net::SocketAddr, time::Duration};

/// A registry in this runtime.
struct Registry {
    running: Running,
    grpc: SocketAddr,
}

impl Registry {
    async fn like(like: Like) -> Self {
        let options = Options {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            open: false,
            users: None,
            allow_hosts: Vec::new(),
            like,
            push_delay: registry::PUSH_DELAY,
            checks: None,
            data_dir: None,
            faults: true,
        };
        let running = registry::start(options, &Tasks::new(), Epoch::start())
            .await
            .unwrap();
        let grpc = running.grpc().unwrap();
        assert_eq!(grpc.port(), running.address().port() + 1000);
        Self { running, grpc }
    }

    async fn start() -> Self {
        Self::like(Like::V2_5).await
    }

    async fn connect(&self) -> Client {
        Client::connect(self.grpc).await
    }

    /// Over HTTP: what comes back, which is 200.
    async fn http(&self, method: &str, target: &str) -> String {
        let url = format!("http://{}{target}", self.running.address());
        let method = method.parse().unwrap();
        let answer = reqwest::Client::new().request(method, url).send();
        let answer = answer.await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{target}: {text}");
        text
    }

    /// The ports of the hosts of a service, over HTTP.
    async fn ports(&self, service: &str) -> Vec<u64> {
        let list = format!("/nacos/v1/ns/instance/list?serviceName={service}");
        let list: Value = serde_json::from_str(&self.http("GET", &list).await).unwrap();
        let hosts = list["hosts"].as_array().unwrap();
        hosts
            .iter()
            .map(|host| host["port"].as_u64().unwrap())
            .collect()
    }

    async fn until_ports(&self, service: &str, wanted: &[u64]) {
        let wait = async {
            while self.ports(service).await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(LONG, wait).await;
        assert!(waited.is_ok(), "{service} never has {wanted:?}");
    }
}

#[tokio::test]
async fn what_a_connection_publishes_is_listed_and_pushed_and_goes_with_it() {
    for like in [Like::V2_5, Like::V3_0] {
        let registry = Registry::like(like).await;
        let mut reader = registry.connect().await;
        let mut pushes = reader.set_up("naming").await;
        assert!(reader.subscribe("orders").await.is_empty());
        assert!(
            pushes.pushed().await.is_empty(),
            "the first subscription is told"
        );
        let mut writer = registry.connect().await;
        let _stream = writer.set_up("naming").await;
        writer.register("orders", 80).await;
        assert_eq!(pushes.pushed().await, [80]);
        assert_eq!(reader.ports("orders").await, [80]);
        assert_eq!(registry.ports("orders").await, [80]);
        writer.close().await;
        assert!(pushes.pushed().await.is_empty());
        registry.running.stop().await;
    }
}

#[tokio::test]
async fn before_the_setup_only_the_server_check_is_answered() {
    let registry = Registry::start().await;
    let mut client = registry.connect().await;
    let check = client.ok("ServerCheckRequest", json!({})).await;
    let id = check["connectionId"].as_str().unwrap();
    assert_eq!(id.split('_').count(), 3, "{id}");
    for kind in ["HealthCheckRequest", "ServiceQueryRequest"] {
        let (class, answer) = client.call(kind, json!({})).await;
        assert_eq!(class, "ErrorResponse");
        assert_eq!(answer["errorCode"], 301, "{answer}");
    }
    let (_, answer) = client.call("NoSuchRequest", json!({})).await;
    assert_eq!(answer["errorCode"], 302, "{answer}");
    let _stream = client.set_up("naming").await;
    client.ok("HealthCheckRequest", json!({})).await;
    let garbled = client.call_raw("HealthCheckRequest", "no JSON").await;
    assert_eq!(garbled.unwrap().1["errorCode"], 502);
}

#[tokio::test]
async fn every_library_comes_in_in_its_own_order() {
    let registry = Registry::like(Like::V3_0).await;
    // Rust: the stream first, then health checks until they are answered well, and no table of abilities.
    let mut rust = registry.connect().await;
    let (_, early) = rust
        .call("HealthCheckRequest", json!({"requestId": null}))
        .await;
    assert_eq!(early["errorCode"], 301);
    let mut stream = rust.open().await;
    stream.set_up("naming", None).await;
    while rust.call("HealthCheckRequest", json!({})).await.1["resultCode"] != 200 {}
    rust.ok("ServerCheckRequest", json!({})).await;
    rust.register("orders", 1).await;
    // Go: no table either; metadata null and heartbeats 0 in what it registers; acknowledges with whatever class.
    let mut go = registry.connect().await;
    go.ok("ServerCheckRequest", json!({})).await;
    let mut pushes = go.open().await;
    pushes.set_up("naming", None).await;
    while go.call("HealthCheckRequest", json!({})).await.1["resultCode"] != 200 {}
    let mut register = crate::rpc::instance("registerInstance", "orders", 2);
    register["requestId"] = "".into();
    for (key, value) in [
        ("metadata", Value::Null),
        ("instanceHeartBeatInterval", 0.into()),
        ("clusterName", "".into()),
        ("instanceId", Value::Null),
    ] {
        register["instance"][key] = value;
    }
    go.ok("InstanceRequest", register).await;
    assert_eq!(go.subscribe("orders").await, [1, 2]);
    assert_eq!(pushes.pushed().await, [1, 2], "no SetupAck came before it");
    // A second instance takes the place of the first; the list of another connection is no matter.
    go.register("orders", 3).await;
    assert_eq!(pushes.pushed().await, [1, 3]);
    go.deregister("orders", 999).await;
    assert_eq!(pushes.pushed().await, [1]);
    drop(stream);
}

#[tokio::test]
async fn http_and_grpc_see_each_other_and_each_changes_only_its_own() {
    let registry = Registry::start().await;
    let mut client = registry.connect().await;
    let mut pushes = client.set_up("naming").await;
    client.register("mixed", 1).await;
    assert_eq!(client.subscribe("mixed").await, [1]);
    assert_eq!(pushes.pushed().await, [1]);
    let it = "serviceName=mixed&ip=10.0.0.1&port";
    registry
        .http("POST", &format!("/v1/ns/instance?{it}=2"))
        .await;
    assert_eq!(pushes.pushed().await, [1, 2]);
    let gone = registry
        .http("DELETE", &format!("/v1/ns/instance?{it}=1"))
        .await;
    assert_eq!(gone, "ok");
    assert_eq!(
        registry.ports("mixed").await,
        [1, 2],
        "it is the connection's"
    );
    let beat = registry
        .http("PUT", &format!("/v1/ns/instance/beat?{it}=1"))
        .await;
    assert!(beat.contains("20404"), "{beat}");
    registry
        .http("POST", &format!("/v1/ns/instance?{it}=1"))
        .await;
    assert_eq!(
        registry.ports("mixed").await,
        [1, 2],
        "the same twice is one"
    );
    registry
        .http("POST", &format!("/v1/ns/instance?{it}=1&weight=5"))
        .await;
    assert_eq!(
        registry.ports("mixed").await,
        [1, 1, 2],
        "what differs is two"
    );
    client.close().await;
    registry.until_ports("mixed", &[1, 2]).await;
}

#[tokio::test]
async fn a_listener_is_woken_by_whoever_publishes() {
    let registry = Registry::start().await;
    let mut client = registry.connect().await;
    let mut stream = client.set_up("config").await;
    let key = json!({"dataId": "a", "group": "g", "md5": "", "tenant": ""});
    let listen = json!({"listen": true, "configListenContexts": [key]});
    let listened = client.ok("ConfigBatchListenRequest", listen).await;
    assert_eq!(listened["changedConfigs"], json!([]));
    registry
        .http("POST", "/v1/cs/configs?dataId=a&group=g&content=x")
        .await;
    let (kind, told) = stream.next().await;
    assert_eq!(
        (kind.as_str(), &told["dataId"]),
        ("ConfigChangeNotifyRequest", &json!("a"))
    );
    let query = json!({"dataId": "a", "group": "g"});
    let read = client.ok("ConfigQueryRequest", query.clone()).await;
    assert_eq!(
        (&read["content"], &read["contentType"]),
        (&json!("x"), &json!("text"))
    );
    // The other way round: a long poll is answered by a publish over gRPC.
    let md5 = read["md5"].as_str().unwrap();
    let body = format!("Listening-Configs=a%02g%02{md5}%01");
    let poll = reqwest::Client::new()
        .post(format!(
            "http://{}/v1/cs/configs/listener",
            registry.running.address()
        ))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Long-Pulling-Timeout", "30000")
        .body(body)
        .send();
    let publish = async {
        let content = json!({"dataId": "a", "group": "g", "content": "y"});
        client.ok("ConfigPublishRequest", content).await;
    };
    let (polled, ()) = tokio::join!(poll, publish);
    assert_eq!(polled.unwrap().text().await.unwrap(), "a%02g%01\n");
    assert_eq!(stream.next().await.0, "ConfigChangeNotifyRequest");
    client.ok("ConfigRemoveRequest", query.clone()).await;
    assert_eq!(stream.next().await.0, "ConfigChangeNotifyRequest");
    let (_, missing) = client.call("ConfigQueryRequest", query).await;
    assert_eq!(
        (&missing["resultCode"], &missing["errorCode"]),
        (&json!(500), &json!(300))
    );
    let stop = json!({"listen": false, "configListenContexts": [key]});
    client.ok("ConfigBatchListenRequest", stop).await;
    registry
        .http("POST", "/v1/cs/configs?dataId=a&group=g&content=z")
        .await;
    let silence = stream.next_within(Duration::from_millis(200)).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn a_stream_that_is_cancelled_ends_pushes_and_keeps_instances() {
    let registry = Registry::start().await;
    let mut client = registry.connect().await;
    let stream = client.set_up("naming").await;
    client.register("kept", 1).await;
    drop(stream);
    client.ok("HealthCheckRequest", json!({})).await;
    assert_eq!(registry.ports("kept").await, [1]);
    let mut again = client.set_up("naming").await;
    client.subscribe("kept").await;
    assert_eq!(again.pushed().await, [1], "another stream takes its place");
    client.close().await;
    registry.until_ports("kept", &[]).await;
}

#[tokio::test]
async fn a_connection_has_eight_streams_at_most() {
    let registry = Registry::start().await;
    let mut client = registry.connect().await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(client.open().await);
    }
    client.open().await.ended().await;
    assert!(
        open[0].next_within(Duration::ZERO).await.is_err(),
        "the others go on"
    );
    client.ok("ServerCheckRequest", json!({})).await;
}

#[tokio::test]
async fn who_may_not_come_in_is_told_so() {
    let registry = Registry::start().await;
    let stranger = Client::connect(registry.grpc).await;
    let refused = stranger
        .named("evil.example:80")
        .try_call("ServerCheckRequest", &json!({}))
        .await;
    assert_eq!(refused.unwrap_err().0, 7, "permission denied");
    let mut client = registry.connect().await;
    let _stream = client.set_up("config").await;
    let (class, no) = client
        .call(
            "InstanceRequest",
            crate::rpc::instance("registerInstance", "s", 1),
        )
        .await;
    assert_eq!(
        (class.as_str(), &no["resultCode"]),
        ("ErrorResponse", &json!(-401))
    );
    let large = vec![b' '; outrigger::nacos::rpc::MESSAGE_LIMIT + 1];
    let refused = client.call_raw("HealthCheckRequest", large).await;
    assert_eq!(refused.unwrap_err().0, 8, "resource exhausted");
    let nearly = format!(
        "{}{{}}",
        " ".repeat(outrigger::nacos::rpc::MESSAGE_LIMIT - 100)
    );
    let taken = client.call_raw("HealthCheckRequest", nearly).await;
    assert_eq!(taken.unwrap().1["resultCode"], 200);
}

#[tokio::test]
async fn a_stop_ends_streams_and_a_registry_like_1_4_has_no_such_port() {
    let registry = Registry::start().await;
    let mut client = registry.connect().await;
    let mut stream = client.set_up("naming").await;
    let began = std::time::Instant::now();
    tokio::join!(registry.running.stop(), stream.ended());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(Client::try_connect(registry.grpc).await.is_err());
    let options = Options {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        open: false,
        users: None,
        allow_hosts: Vec::new(),
        like: Like::V1_4,
        push_delay: registry::PUSH_DELAY,
        checks: None,
        data_dir: None,
        faults: false,
    };
    let old = registry::start(options, &Tasks::new(), Epoch::start())
        .await
        .unwrap();
    assert_eq!(old.grpc(), None);
}

#[tokio::test]
async fn a_grpc_port_that_is_taken_or_does_not_exist_is_said_with_both_ports() {
    let port = free_port();
    let _taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1000)).unwrap();
    for (port, also) in [(port, port + 1000), (64_536, 64_535)] {
        let options = Options {
            listen: (Ipv4Addr::LOCALHOST, port).into(),
            open: false,
            users: None,
            allow_hosts: Vec::new(),
            like: Like::V2_5,
            push_delay: registry::PUSH_DELAY,
            checks: None,
            data_dir: None,
            faults: false,
        };
        let refused = registry::start(options, &Tasks::new(), Epoch::start()).await;
        let words = refused.unwrap_err().to_string();
        assert!(
            words.contains(&port.to_string()) && words.contains(&also.to_string()),
            "{words}"
        );
        assert!(words.contains("--like 1.4"), "{words}");
    }
}

#[tokio::test]
async fn faults_of_the_connection_happen_as_they_are_asked_for() {
    let registry = Registry::start().await;
    let at = registry.running.address();
    let fault = async |query: &str| {
        registry_post(at, &format!("/outrigger/faults?{query}")).await;
    };
    let mut client = registry.connect().await;
    let mut stream = client.set_up("naming").await;
    client.register("f", 1).await;
    client.subscribe("f").await;
    assert_eq!(stream.pushed().await, [1]);

    fault("connect_reset=10.0.0.9:8848").await;
    let (kind, reset) = stream.next().await;
    assert_eq!(
        (kind.as_str(), &reset["serverIp"]),
        ("ConnectResetRequest", &json!("10.0.0.9"))
    );
    fault("connect_reset").await;
    assert_eq!(stream.next().await.1.get("serverIp"), None);
    assert_eq!(client.ports("f").await, [1], "nothing is closed");

    fault("mute=60s").await;
    client.register("f", 2).await;
    assert!(
        stream
            .next_within(Duration::from_millis(200))
            .await
            .is_err(),
        "silent"
    );
    let mut unheard = registry.connect().await;
    let mut other = unheard.open().await;
    other.set_up("naming", None).await;
    let (_, no) = unheard.call("HealthCheckRequest", json!({})).await;
    assert_eq!(no["errorCode"], 301, "a setup is not heard");
    fault("mute=0s").await;
    other.set_up("naming", None).await;
    while unheard.call("HealthCheckRequest", json!({})).await.1["resultCode"] != 200 {}
    unheard.close().await;
    client.register("f", 3).await;
    assert_eq!(stream.pushed().await, [3]);

    fault("starting=60s").await;
    let (_, no) = client.call("HealthCheckRequest", json!({})).await;
    assert_eq!(no["errorCode"], 300);
    is_turned_away(&registry).await;
    fault("clear").await;
    client.ok("HealthCheckRequest", json!({})).await;

    fault("clients=1").await;
    is_turned_away(&registry).await;
    client.ok("HealthCheckRequest", json!({})).await;

    fault("clear&goaway").await;
    while client
        .try_call("HealthCheckRequest", &json!({}))
        .await
        .is_ok()
    {}
    assert_eq!(registry.ports("f").await, [3], "its stream is open yet");
    drop(stream);
    client.close().await;

    for cuts in ["restart", "amnesia"] {
        let mut client = registry.connect().await;
        let mut stream = client.set_up("naming").await;
        client.register("f", 4).await;
        fault(cuts).await;
        assert_eq!(registry.ports("f").await, Vec::<u64>::new(), "{cuts}");
        stream.ended().await;
        eventually_closed(&client).await;
    }
}

#[tokio::test]
async fn faults_of_requests_strike_by_the_name_of_their_class() {
    let registry = Registry::start().await;
    let at = registry.running.address();
    let mut client = registry.connect().await;
    let _stream = client.set_up("naming").await;
    let fault = async |query: &str| {
        let target = format!("/outrigger/faults?path=InstanceRequest&times=1&{query}");
        registry_post(at, &target).await;
    };
    let register = crate::rpc::instance("registerInstance", "h", 1);
    fault("status=503&body=busy").await;
    client.ok("HealthCheckRequest", json!({})).await;
    let (_, no) = client.call("InstanceRequest", register.clone()).await;
    assert_eq!(
        (&no["errorCode"], &no["message"]),
        (&json!(503), &json!("busy"))
    );
    fault("delay=200ms").await;
    let began = std::time::Instant::now();
    client.ok("InstanceRequest", register.clone()).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    client.deregister("h", 1).await;
    fault("hang").await;
    let hung = client.call_raw("InstanceRequest", register.to_string());
    assert!(
        tokio::time::timeout(Duration::from_millis(200), hung)
            .await
            .is_err()
    );
    fault("drop").await;
    assert!(client.try_call("InstanceRequest", &register).await.is_err());
    assert_eq!(client.ports("h").await, [1], "it was carried out");
    for harm in ["reset", "garbage"] {
        let mut client = registry.connect().await;
        let _stream = client.set_up("naming").await;
        fault(harm).await;
        assert!(
            client.try_call("InstanceRequest", &register).await.is_err(),
            "{harm}"
        );
        eventually_closed(&client).await;
    }
}

/// A new connection cannot be set up: its stream is ended.
async fn is_turned_away(registry: &Registry) {
    let mut client = registry.connect().await;
    let mut stream = client.open().await;
    stream.set_up("naming", Some(json!({}))).await;
    stream.ended().await;
}

async fn registry_post(at: SocketAddr, target: &str) {
    let answer = reqwest::Client::new()
        .post(format!("http://{at}{target}"))
        .send()
        .await
        .unwrap();
    let status = answer.status();
    assert_eq!(status, 200, "{}", answer.text().await.unwrap());
}

/// Waits until no request can be sent.
async fn eventually_closed(client: &Client) {
    let closed = async {
        while client.is_open() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(LONG, closed).await;
    assert!(waited.is_ok(), "it takes requests yet");
}

#[tokio::test]
async fn an_operator_is_shown_connections_and_whom_they_subscribe_to() {
    let registry = Registry::like(Like::V3_0).await;
    let ask = async |target: &str| {
        let answer: Value = serde_json::from_str(&registry.http("GET", target).await).unwrap();
        answer["data"].clone()
    };
    let mut client = registry.connect().await;
    let _stream = client.set_up("naming").await;
    let mut config = registry.connect().await;
    let _other = config.set_up("config").await;
    client.register("s", 7).await;
    client.subscribe("s").await;
    let it = "serviceName=s&ip=10.0.0.1&port=8";
    registry
        .http("POST", &format!("/v3/client/ns/instance?{it}"))
        .await;
    let clients = ask("/v3/admin/ns/client/list").await;
    assert_eq!(clients[0], "10.0.0.1:8#true");
    assert!(clients[1].as_str().unwrap().contains("_127.0.0.1_"));
    assert_eq!(
        clients[2],
        Value::Null,
        "one connection names services, and what it published is its own"
    );
    let subscribers = "/v3/admin/ns/service/subscribers?serviceName=s";
    let page = ask(subscribers).await;
    assert_eq!(
        (&page["totalCount"], &page["pagesAvailable"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(page["pageItems"][0]["ip"], "127.0.0.1");
    let mut second = registry.connect().await;
    let _third = second.set_up("naming").await;
    second.subscribe("s").await;
    assert_eq!(ask(subscribers).await["totalCount"], 1);
    let each = format!("{subscribers}&aggregation=false");
    assert_eq!(ask(&each).await["totalCount"], 2);
    let metrics = ask("/v3/admin/ns/ops/metrics?onlyStatus=false").await;
    let names = [
        "subscribeCount",
        "clientCount",
        "connectionBasedClientCount",
        "instanceCount",
    ];
    assert_eq!(
        names.map(|name| metrics[name].as_u64().unwrap()),
        [2, 3, 2, 2]
    );
}

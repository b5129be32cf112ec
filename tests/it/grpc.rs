//! The registry's gRPC door over real sockets: how libraries of the field come in, what HTTP and gRPC see of each other, faults, bounds.

use crate::rpc::Client;
use crate::support::LONG;
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
            allow_hosts: Vec::new(),
            like,
            push_delay: registry::PUSH_DELAY,
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

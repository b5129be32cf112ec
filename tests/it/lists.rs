//! Lists of instances as both transports watch them, against the embedded registry over real sockets.

use crate::support::LONG;
use outrigger::{
    agent::Parts,
    descriptor::settings::{Registry as Settings, Servers, Speech, Tls},
    machine::Epoch,
    nacos::model::{ListState, Namespace, ServiceKey},
    registry::{self, Like, Options, Running},
    tasks::Tasks,
};
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// A registry, and somebody who watches services there.
struct House {
    registry: Running,
    /// Stops its tasks when it is dropped last.
    _tasks: Tasks,
    services: watch::Sender<BTreeSet<ServiceKey>>,
    told: mpsc::Receiver<(ServiceKey, ListState)>,
}

fn service(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey {
        namespace: Namespace::new(namespace),
        group: "DEFAULT_GROUP".into(),
        name: name.into(),
    }
}

impl House {
    async fn new(like: Like, transport: Speech) -> Self {
        let tasks = Tasks::new();
        let options = Options {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            open: false,
            users: None,
            allow_hosts: Vec::new(),
            like,
            push_delay: registry::PUSH_DELAY,
            checks: None,
            faults: true,
            data_dir: None,
        };
        let registry = registry::start(options, &tasks, Epoch::start())
            .await
            .unwrap();
        let settings = Settings {
            servers: Servers::List(vec![format!("http://{}", registry.address())]),
            namespace: "public".to_owned(),
            context_path: "/nacos".to_owned(),
            auth: None,
            tls: Tls::default(),
            transport,
            config_tag: None,
            grpc_offset: 1000,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(3),
            long_poll: Duration::from_secs(30),
            write_rate: 20,
        };
        let (standings, _) = mpsc::channel(1);
        let parts = Parts::start(&settings, &tasks, Epoch::start(), standings).unwrap();
        let (services, watched) = watch::channel(BTreeSet::new());
        let (tell, told) = mpsc::channel(8);
        parts.transport.watch_services(watched, tell);
        Self {
            registry,
            _tasks: tasks,
            services,
            told,
        }
    }

    fn watch(&self, services: &[ServiceKey]) {
        self.services
            .send_replace(services.iter().cloned().collect());
    }

    async fn ask(&self, method: &str, target: &str) {
        let url = format!("http://{}{target}", self.registry.address());
        let method = method.parse().unwrap();
        let answer = reqwest::Client::new().request(method, url).send();
        assert_eq!(answer.await.unwrap().status(), 200, "{target}");
    }

    /// Registers (`POST`) or removes (`DELETE`) an instance.
    async fn instance(&self, method: &str, service: &ServiceKey, port: u16) {
        let target = format!(
            "/nacos/v1/ns/instance?serviceName={}&namespaceId={}&ip=10.0.0.1&port={port}",
            service.name, service.namespace
        );
        self.ask(method, &target).await;
    }

    /// Waits until what was told last of a service are these ports.
    async fn until(&mut self, service: &ServiceKey, ports: &[i64]) {
        let mut last = None;
        let wait = async {
            while let Some((key, state)) = self.told.recv().await {
                if key != *service {
                    continue;
                }
                let ListState::Listed(list) = state else {
                    last = Some(state);
                    continue;
                };
                if list
                    .hosts
                    .iter()
                    .map(|host| host.port)
                    .eq(ports.iter().copied())
                {
                    return;
                }
                last = Some(ListState::Listed(list));
            }
        };
        let waited = timeout(LONG, wait).await;
        assert!(waited.is_ok(), "{service} never has {ports:?}: {last:?}");
    }
}

async fn a_watched_list_follows_the_registry(like: Like, transport: Speech) {
    let orders = service("public", "orders");
    let mut house = House::new(like, transport).await;
    house.watch(std::slice::from_ref(&orders));
    house.until(&orders, &[]).await;
    house.instance("POST", &orders, 81).await;
    house.until(&orders, &[81]).await;
    house.instance("POST", &orders, 80).await;
    house.until(&orders, &[80, 81]).await;
    house.instance("DELETE", &orders, 81).await;
    house.until(&orders, &[80]).await;
}

#[tokio::test]
async fn over_http_a_watched_list_follows_the_registry() {
    a_watched_list_follows_the_registry(Like::V1_4, Speech::Auto).await;
}

#[tokio::test]
async fn over_grpc_a_watched_list_follows_the_registry() {
    a_watched_list_follows_the_registry(Like::V2_5, Speech::Auto).await;
    a_watched_list_follows_the_registry(Like::V3_0, Speech::Auto).await;
}

#[tokio::test]
async fn after_a_lost_connection_changes_are_told_again() {
    let orders = service("public", "orders");
    let mut house = House::new(Like::V2_5, Speech::Grpc).await;
    house.watch(std::slice::from_ref(&orders));
    house.until(&orders, &[]).await;
    house.instance("POST", &orders, 80).await;
    house.until(&orders, &[80]).await;
    house.ask("POST", "/outrigger/faults?amnesia").await;
    house.until(&orders, &[]).await;
    house.instance("POST", &orders, 81).await;
    house.until(&orders, &[81]).await;
}

#[tokio::test]
async fn services_of_one_name_in_two_namespaces_are_not_mixed_up() {
    let (here, there) = (service("public", "orders"), service("test", "orders"));
    let mut house = House::new(Like::V2_5, Speech::Grpc).await;
    house.watch(&[here.clone(), there.clone()]);
    house.until(&here, &[]).await;
    house.instance("POST", &there, 81).await;
    house.until(&there, &[81]).await;
    house.instance("POST", &here, 80).await;
    house.until(&here, &[80]).await;
    // Its own list is what is told next of the other one, too.
    house.instance("POST", &there, 82).await;
    house.until(&there, &[81, 82]).await;
}

#[tokio::test]
async fn who_watches_no_more_is_not_subscribed() {
    let (orders, bills) = (service("public", "orders"), service("public", "bills"));
    let mut house = House::new(Like::V3_0, Speech::Grpc).await;
    house.watch(&[orders.clone(), bills.clone()]);
    house.instance("POST", &orders, 80).await;
    house.until(&orders, &[80]).await;
    house.watch(std::slice::from_ref(&bills));
    let subscribers = format!(
        "http://{}/nacos/v3/admin/ns/service/subscribers?serviceName=orders",
        house.registry.address()
    );
    let wait = async {
        loop {
            let text = reqwest::get(&subscribers)
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            if text.contains("\"totalCount\":0") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(LONG, wait).await.is_ok(), "still a subscriber");
}

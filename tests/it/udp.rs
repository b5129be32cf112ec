//! Pushes over UDP: to clients of HTTP v1 as they asked for them, in virtual time and over real sockets.

use crate::support::{Registry, free_port, http};
use flate2::read::GzDecoder;
use outrigger::{
    machine::{Machine as _, Moment},
    registry::{
        Desk, Like, Request,
        desk::{Effect, Event, Fault, Ticket},
    },
};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, UNIX_EPOCH},
};

const ALL: [(Like, &str); 3] = [
    (Like::V1_4, "nacos-1.4.8"),
    (Like::V2_5, "nacos-2.5.1"),
    (Like::V3_0, "nacos-3.0.3"),
];
const JAVA: &str = "Nacos-Java-Client:v1.4.8";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 1));

fn recorded(folder: &str, name: &str) -> Value {
    let path = format!(
        "{}/tests/cases/{folder}/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// JSON without what a clock says, and what is computed in a way of its own.
fn timeless(text: &str) -> Value {
    let mut list: Value = serde_json::from_str(text).unwrap();
    let keys = list.as_object_mut().unwrap();
    keys.remove("lastRefTime");
    keys.remove("checksum");
    list
}

fn inflated(bytes: &[u8]) -> Value {
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes.to_vec()).unwrap();
    }
    serde_json::from_str(&text).unwrap()
}

/// The ports of the hosts in a datagram.
fn ports(datagram: &Value) -> Vec<u64> {
    let list: Value = serde_json::from_str(datagram["data"].as_str().unwrap()).unwrap();
    let hosts = list["hosts"].as_array().unwrap().iter();
    hosts.map(|host| host["port"].as_u64().unwrap()).collect()
}

/// A registry, its clock, and what it sent: when, where to, what.
struct Sent {
    desk: Desk,
    now: Moment,
    tickets: u64,
    out: Vec<(u64, SocketAddr, Vec<u8>)>,
}

impl Sent {
    fn like(like: Like) -> Self {
        Self {
            desk: Desk::new(like),
            now: Duration::ZERO,
            tickets: 0,
            out: Vec::new(),
        }
    }

    fn carry_out(&mut self) -> Option<String> {
        let mut said = None;
        while let Some(effect) = self.desk.effect() {
            match effect {
                Effect::Datagram(to, bytes) => {
                    let at = u64::try_from(self.now.as_millis()).unwrap();
                    self.out.push((at, to, bytes.to_vec()));
                }
                Effect::Answer(_, answer) => {
                    said = Some(String::from_utf8(answer.body().to_vec()).unwrap());
                }
                other => panic!("nobody is connected over gRPC: {other:?}"),
            }
        }
        said
    }

    fn ask(&mut self, method: &str, target: &str, agent: &str) -> String {
        self.tickets += 1;
        let request = Request::new(method, target, [("User-Agent", agent)], "").from(PEER);
        let event = Event::Asked {
            ticket: Ticket(self.tickets),
            at: UNIX_EPOCH + self.now,
            request,
        };
        self.desk.handle(self.now, event);
        self.carry_out().unwrap()
    }

    fn register(&mut self, port: u16) {
        let target = format!("/v1/ns/instance?serviceName=udp1&ip=10.8.0.1&port={port}");
        assert_eq!(self.ask("POST", &target, ""), "ok");
    }

    fn subscribe(&mut self) -> String {
        let list = "/v1/ns/instance/list?serviceName=udp1&udpPort=4000&clientIP=192.0.2.9";
        self.ask("GET", list, JAVA)
    }

    /// Lets time pass; what was sent meanwhile.
    fn wait(&mut self, millis: u64) -> Vec<(u64, SocketAddr, Vec<u8>)> {
        let until = self.now + Duration::from_millis(millis);
        while let Some(due) = self.desk.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.desk.wake(self.now);
            self.carry_out();
        }
        self.now = until;
        std::mem::take(&mut self.out)
    }

    fn hear(&mut self, from: SocketAddr, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into().into();
        self.desk.handle(self.now, Event::Datagram { from, bytes });
        self.carry_out();
    }
}

#[test]
fn list_and_datagram_are_the_recorded_ones_in_each_generation() {
    for (like, folder) in ALL {
        let mut registry = Sent::like(like);
        registry.register(1);
        let list = recorded(folder, "list-udp-subscribe");
        let said = registry.subscribe();
        assert_eq!(
            timeless(&said),
            timeless(list["response"]["body"].as_str().unwrap()),
            "{folder}"
        );
        let push = recorded(folder, "udp-push");
        let data = timeless(push["datagram"]["data"].as_str().unwrap());
        if like == Like::V1_4 {
            assert_eq!(registry.wait(1_000), [], "the first push follows a change");
            // What was recorded shows one host.
            registry.register(1);
        } else {
            assert_eq!(registry.wait(1_000).len(), 1, "a greeting");
            registry.register(2);
        }
        let sent = registry.wait(1_000);
        let [(_, to, bytes)] = sent.as_slice() else {
            panic!("{folder}: {sent:?}");
        };
        assert_eq!(*to, SocketAddr::new(PEER, 4_000), "where it asked from");
        let told = inflated(bytes);
        assert_eq!(timeless(told["data"].as_str().unwrap()), data, "{folder}");
        assert_eq!(told["type"], "dom");
        assert!(told["lastRefTime"].is_u64() && told.as_object().unwrap().len() == 3);
    }
}

#[test]
fn over_a_path_that_loses_the_first_datagram_the_same_one_comes_ten_seconds_later_and_none_after_it()
 {
    for (like, _) in ALL {
        for acknowledges in [false, true] {
            let mut registry = Sent::like(like);
            registry.register(1);
            registry.subscribe();
            registry.wait(1_000);
            registry.subscribe();
            registry.register(2);
            let lost = registry.wait(1_000);
            assert_eq!(lost.len(), 1);
            if acknowledges {
                let number = &inflated(&lost[0].2)["lastRefTime"];
                let ack = format!(r#"{{"type":"push-ack","lastRefTime":"{number}","data":""}}"#);
                // Its number from elsewhere is nobody's.
                registry.hear(([10, 1, 1, 1], 4_001).into(), ack.clone());
                registry.hear(([10, 1, 1, 1], 4_000).into(), "no JSON");
                registry.hear(([10, 1, 1, 1], 4_000).into(), ack);
            }
            let mut again = Vec::new();
            for second in 0..25 {
                // The instances beat, and the client looks.
                if second % 5 == 0 {
                    for port in [1, 2] {
                        let beat = format!(
                            "/v1/ns/instance/beat?serviceName=udp1&ip=10.8.0.1&port={port}"
                        );
                        registry.ask("PUT", &beat, "");
                    }
                    registry.subscribe();
                }
                again.extend(registry.wait(1_000));
            }
            if acknowledges {
                assert_eq!(again, [], "{like:?}");
            } else {
                let [(at, _, bytes)] = again.as_slice() else {
                    panic!("{like:?}: {again:?}");
                };
                assert_eq!((at - lost[0].0, bytes), (10_000, &lost[0].2), "{like:?}");
            }
        }
    }
}

#[test]
fn a_subscriber_is_told_as_long_as_measured_and_not_longer() {
    for (like, still, no_more) in [
        (Like::V1_4, 8_000, 16_000),
        (Like::V2_5, 24_000, 32_000),
        (Like::V3_0, 24_000, 32_000),
    ] {
        let mut registry = Sent::like(like);
        registry.register(1);
        registry.subscribe();
        registry.wait(still);
        registry.register(2);
        assert_eq!(registry.wait(100).len(), 1, "{like:?}");
        registry.wait(no_more - still - 100);
        registry.register(3);
        assert_eq!(registry.wait(1_000), [], "{like:?}");
    }
}

#[test]
fn who_is_not_pushed_keeps_a_list_shorter_like_1_4_and_is_sent_nothing() {
    for (like, _) in ALL {
        for (query, agent) in [
            ("&udpPort=0", JAVA),
            ("&udpPort=4000", ""),
            ("&udpPort=4000", "Nacos-Python-Client:v1.0.0"),
            ("&udpPort=4000", "Nacos-Java-Client"),
            ("&udpPort=70000", JAVA),
        ] {
            let mut registry = Sent::like(like);
            let list = format!("/v1/ns/instance/list?serviceName=udp1{query}");
            let said = timeless(&registry.ask("GET", &list, agent));
            let cache = if like == Like::V1_4 { 3_000 } else { 10_000 };
            assert_eq!(said["cacheMillis"], cache, "{query} {agent}");
            registry.register(1);
            assert_eq!(registry.wait(20_000), [], "{query} {agent}");
        }
    }
}

#[test]
fn an_operator_switches_pushes_off_and_on() {
    for (like, path) in [
        (Like::V1_4, "v1/ns/operator"),
        (Like::V2_5, "v1/ns/operator"),
        (Like::V3_0, "v3/admin/ns/ops"),
    ] {
        let mut registry = Sent::like(like);
        registry.register(1);
        registry.subscribe();
        registry.wait(1_000);
        let switch = |registry: &mut Sent, on: bool| {
            let target = format!("/{path}/switches?entry=pushEnabled&value={on}");
            registry.ask("PUT", &target, "");
        };
        switch(&mut registry, false);
        registry.register(2);
        // 1.4 only takes nobody in any more; later ones keep what is to be told.
        let (now, later) = if like == Like::V1_4 { (1, 0) } else { (0, 1) };
        assert_eq!(registry.wait(1_000).len(), now, "{like:?}");
        let cache = timeless(&registry.subscribe())["cacheMillis"].clone();
        assert_eq!(cache, if like == Like::V1_4 { 3_000 } else { 10_000 });
        switch(&mut registry, true);
        assert_eq!(registry.wait(1_000).len(), later, "{like:?}");
    }
}

#[test]
fn a_registry_that_is_mute_or_has_forgotten_its_clients_sends_nothing() {
    for fault in [
        Fault::Mute(Duration::from_secs(5)),
        Fault::Amnesia,
        Fault::Restart,
    ] {
        let mut registry = Sent::like(Like::V2_5);
        registry.register(1);
        registry.subscribe();
        registry.wait(1_000);
        registry
            .desk
            .handle(registry.now, Event::Faulted(fault.clone()));
        registry.register(2);
        assert_eq!(registry.wait(5_000), [], "{fault:?}");
    }
}

/// A client of HTTP v1 with a socket for pushes.
struct Client {
    registry: Registry,
    socket: UdpSocket,
}

impl Client {
    fn of(registry: Registry) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self { registry, socket }
    }

    fn post(&self, query: &str) {
        let target = format!("/nacos/v1/ns/instance?serviceName=s&ip=10.0.0.1&{query}");
        assert_eq!(http(self.registry.port, "POST", &target, "").unwrap(), "ok");
    }

    /// Asks for the list and for pushes, in another's name too.
    fn subscribe(&self) -> Value {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.registry.port)).unwrap();
        let port = self.socket.local_addr().unwrap().port();
        write!(
            stream,
            "GET /nacos/v1/ns/instance/list?serviceName=s&udpPort={port}&clientIP=192.0.2.1 HTTP/1.1\r\n\
             Host: localhost\r\nUser-Agent: Nacos-Go-Client:v1.1.6\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// The next datagram, acknowledged; and whether it was compressed.
    fn hear(&self) -> (Value, bool) {
        let mut buffer = [0; 64 * 1024];
        let (length, from) = self.socket.recv_from(&mut buffer).unwrap();
        let told = inflated(&buffer[..length]);
        let number = &told["lastRefTime"];
        let ack = format!(r#"{{"type":"push-ack","lastRefTime":{number},"data":""}}"#);
        self.socket.send_to(ack.as_bytes(), from).unwrap();
        (told, buffer.starts_with(&[0x1f, 0x8b]))
    }
}

#[test]
fn a_change_reaches_the_socket_of_who_asked_and_a_long_list_is_compressed() {
    let client = Client::of(Registry::start());
    client.post("port=1");
    assert_eq!(client.subscribe()["cacheMillis"], 10_000);
    assert_eq!(ports(&client.hear().0), [1], "the greeting");
    client.post("port=2");
    let (told, compressed) = client.hear();
    assert_eq!((ports(&told), compressed), (vec![1, 2], false));
    client.post("port=3");
    let (told, compressed) = client.hear();
    assert_eq!((ports(&told), compressed), (vec![1, 2, 3], true));
}

#[test]
fn like_1_4_a_change_reaches_the_socket_too() {
    let client = Client::of(Registry::start_with(free_port(), &["--like", "1.4"]));
    assert_eq!(client.subscribe()["cacheMillis"], 10_000);
    client.post("port=1");
    assert_eq!(ports(&client.hear().0), [1]);
    client.post("port=2");
    assert_eq!(ports(&client.hear().0), [1, 2]);
}

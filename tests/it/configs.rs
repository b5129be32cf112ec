//! What operators and several kinds of readers see of configurations: variants, history, searching, who listens. In virtual time, without
//! sockets; what live servers answered word for word is in `config_scenes`.

use outrigger::{
    machine::{Machine as _, Moment},
    nacos::rpc::Payload,
    registry::{
        Answer, Desk, Like, Request,
        desk::{Effect, Event, Link, Stream, Ticket},
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr, time::Duration, time::UNIX_EPOCH};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const CONFIGS: &str = "/nacos/v1/cs/configs";

/// A registry, its clock, and what it answered and pushed.
struct World {
    desk: Desk,
    now: Moment,
    tickets: u64,
    answers: BTreeMap<Ticket, Answer>,
    replies: BTreeMap<Ticket, Payload>,
    pushes: Vec<(Link, Payload)>,
}

fn value(payload: &Payload) -> Value {
    serde_json::from_slice(payload.body()).unwrap()
}

impl World {
    fn like(like: Like) -> Self {
        Self {
            desk: Desk::new(like),
            now: Duration::ZERO,
            tickets: 0,
            answers: BTreeMap::new(),
            replies: BTreeMap::new(),
            pushes: Vec::new(),
        }
    }

    fn happens(&mut self, event: Event) {
        self.desk.handle(self.now, event);
        while let Some(effect) = self.desk.effect() {
            match effect {
                Effect::Answer(ticket, answer) => {
                    self.answers.insert(ticket, answer);
                }
                Effect::Reply(ticket, payload) => {
                    self.replies.insert(ticket, payload);
                }
                Effect::Push(link, _, payload) => self.pushes.push((link, payload)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&mut self, request: Request) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let at = UNIX_EPOCH + self.now;
        self.happens(Event::Asked {
            ticket,
            at,
            request,
        });
        ticket
    }

    /// Asks from an address.
    fn from(&mut self, ip: &str, request: Request) -> Ticket {
        let ip: IpAddr = ip.parse().unwrap();
        self.send(request.from(ip))
    }

    fn answer(&mut self, ticket: Ticket) -> (u16, String) {
        let answer = self.answers.remove(&ticket).expect("it is answered");
        let body = String::from_utf8(answer.body().to_vec()).unwrap();
        (answer.status(), body)
    }

    fn get(&mut self, target: &str) -> (u16, String) {
        let request = Request::new("GET", target, [("", ""); 0], "");
        let ticket = self.from("127.0.0.1", request);
        self.answer(ticket)
    }

    fn json(&mut self, target: &str) -> Value {
        let (status, body) = self.get(target);
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|_| panic!("{target}: {body}"))
    }

    fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let headers = headers.iter().copied();
        let request = Request::new(method, target, headers, body.to_owned());
        let ticket = self.from("127.0.0.1", request);
        self.answer(ticket)
    }

    fn publish(&mut self, body: &str) {
        let answer = self.ask("POST", CONFIGS, &[FORM], body);
        assert_eq!(answer, (200, "true".to_owned()), "{body}");
    }

    fn publish_beta(&mut self, ips: &str, body: &str) {
        let answer = self.ask("POST", CONFIGS, &[FORM, ("betaIps", ips)], body);
        assert_eq!(answer, (200, "true".to_owned()), "{body}");
    }

    fn listen(&mut self, ip: &str, md5: &str, more: &[(&str, &str)]) -> Ticket {
        let headers = [FORM, ("Long-Pulling-Timeout", "30000")];
        let headers = headers.into_iter().chain(more.iter().copied());
        let body = format!("Listening-Configs=a%02g%02{md5}%01");
        let path = format!("{CONFIGS}/listener");
        self.from(ip, Request::new("POST", &path, headers, body))
    }

    /// A gRPC client that says to have an address.
    fn link(&mut self, number: u64, ip: &str, labels: Value) -> Link {
        let link = Link(number);
        let peer = ([127, 0, 0, 1], 4_000).into();
        let at = UNIX_EPOCH + self.now;
        self.happens(Event::Linked { link, peer, at });
        let setup = json!({"clientVersion": "x", "labels": labels}).to_string();
        let mut payload = Payload::raw("ConnectionSetupRequest", setup);
        payload.metadata.as_mut().unwrap().client_ip = ip.to_owned();
        self.happens(Event::Streamed {
            link,
            stream: Stream(number),
            at,
            payload,
        });
        link
    }

    fn call(&mut self, link: Link, kind: &str, body: Value) -> Value {
        self.call_with(link, kind, body, None)
    }

    /// The same with a tag in the header.
    fn call_with(&mut self, link: Link, kind: &str, body: Value, tag: Option<&str>) -> Value {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let mut payload = Payload::raw(kind, body.to_string());
        let tag = tag.map(|tag| ("Vipserver-Tag".to_owned(), tag.to_owned()));
        payload.metadata.as_mut().unwrap().headers.extend(tag);
        let at = UNIX_EPOCH + self.now;
        self.happens(Event::Called {
            link,
            ticket,
            at,
            payload,
        });
        value(&self.replies.remove(&ticket).unwrap())
    }
}

fn md5(text: &str) -> String {
    outrigger::nacos::wire::md5_hex(text.as_bytes())
}

#[test]
fn a_beta_wakes_only_listeners_of_its_addresses_and_its_end_wakes_them_again() {
    for like in [Like::V1_4, Like::V2_5, Like::V3_0] {
        let mut world = World::like(like);
        world.publish("dataId=a&group=g&content=formal");
        let (his, other) = ("10.0.0.1", "10.0.0.2");
        let held = [his, other].map(|ip| world.listen(ip, &md5("formal"), &[]));
        assert!(world.answers.is_empty(), "both are held");
        world.publish_beta("10.0.0.7,10.0.0.1", "dataId=a&group=g&content=beta");
        assert_eq!(world.answer(held[0]).1, "a%02g%01\n");
        assert!(
            world.answers.is_empty(),
            "{like:?}: it is not for the other one"
        );
        let held_again = world.listen(his, &md5("beta"), &[]);
        assert!(world.answers.is_empty(), "he has the beta");
        let stale = world.listen(his, &md5("formal"), &[]);
        assert_eq!(
            world.answer(stale).1,
            "a%02g%01\n",
            "and not the formal content"
        );
        world.publish("dataId=a&group=g&content=formal+again");
        assert_eq!(world.answer(held[1]).1, "a%02g%01\n");
        assert!(world.answers.is_empty(), "he sees no formal content");
        let stop = if like == Like::V3_0 {
            "/v3/admin/cs/config/beta?dataId=a&groupName=g"
        } else {
            "/v1/cs/configs?beta=true&dataId=a&group=g"
        };
        assert_eq!(world.ask("DELETE", stop, &[], "").0, 200);
        assert_eq!(world.answer(held_again).1, "a%02g%01\n");
    }
}

#[test]
fn a_proxy_says_whose_address_counts_and_a_tag_is_carried_in_a_header() {
    let mut world = World::like(Like::V2_5);
    world.publish("dataId=a&group=g&content=formal");
    world.publish_beta("10.0.0.1", "dataId=a&group=g&content=beta");
    world.publish("dataId=a&group=g&content=blue&tag=blue");
    let path = format!("{CONFIGS}?dataId=a&group=g");
    for (headers, wanted) in [
        (&[][..], "formal"),
        (&[("X-Forwarded-For", "10.0.0.1, 10.0.0.9")], "beta"),
        (&[("X-Real-IP", "10.0.0.1")], "beta"),
        (
            &[("X-Forwarded-For", "10.0.0.9"), ("X-Real-IP", "10.0.0.1")],
            "formal",
        ),
        (&[("Vipserver-Tag", "blue")], "blue"),
        (
            &[("Vipserver-Tag", "blue"), ("X-Real-IP", "10.0.0.1")],
            "beta",
        ),
    ] {
        let answer = world.ask("GET", &path, headers, "");
        assert_eq!(answer, (200, wanted.to_owned()), "{headers:?}");
    }
    let request = Request::new("GET", &path, [("", ""); 0], "");
    let ticket = world.from("10.0.0.1", request);
    assert_eq!(world.answer(ticket).1, "beta", "nobody says another one");
    let held = world.listen("10.0.0.5", &md5("blue"), &[("Vipserver-Tag", "blue")]);
    world.publish("dataId=a&group=g&content=other");
    assert!(world.answers.remove(&held).is_none(), "he sees the variant");
    world.publish("dataId=a&group=g&content=bluer&tag=blue");
    assert_eq!(world.answer(held).1, "a%02g%01\n");
}

#[test]
fn over_grpc_a_beta_is_seen_and_told_by_the_address_that_the_client_says() {
    for like in [Like::V2_5, Like::V3_0] {
        let mut world = World::like(like);
        let his = world.link(1, "10.0.0.1", json!({}));
        let other = world.link(2, "10.0.0.2", json!({}));
        let tagged = world.link(3, "10.0.0.3", json!({"app_Vipserver-Tag": "blue"}));
        let it = json!({"dataId": "a", "group": "g", "tenant": ""});
        let publish = |content: &str, additions: Value| json!({"dataId": "a", "group": "g", "tenant": "", "content": content, "additionMap": additions});
        let parts = json!({"type": "yaml", "appName": "shop", "config_tags": "t", "desc": "d", "src_user": "ann", "encryptedDataKey": "k"});
        world.call(other, "ConfigPublishRequest", publish("formal", parts));
        let listen = json!({"listen": true, "configListenContexts": [{"dataId": "a", "group": "g", "tenant": "", "md5": md5("formal")}]});
        for link in [his, other, tagged] {
            let answer = world.call(link, "ConfigBatchListenRequest", listen.clone());
            assert_eq!(answer["changedConfigs"], json!([]));
        }
        let beta = publish("beta", json!({"betaIps": "10.0.0.1"}));
        assert_eq!(
            world.call(other, "ConfigPublishRequest", beta)["resultCode"],
            200
        );
        let told: Vec<Link> = world.pushes.drain(..).map(|push| push.0).collect();
        assert_eq!(told, [his]);
        let blue = publish("blue", json!({"tag": "blue"}));
        assert_eq!(
            world.call(other, "ConfigPublishRequest", blue)["resultCode"],
            200
        );
        let told: Vec<Link> = world.pushes.drain(..).map(|push| push.0).collect();
        assert_eq!(told, [tagged]);
        let seen = |world: &mut World, link| {
            let seen = world.call(link, "ConfigQueryRequest", it.clone());
            ["content", "beta", "tag", "encryptedDataKey", "contentType"]
                .map(|name| seen[name].clone())
        };
        let yaml = json!("yaml");
        assert_eq!(
            seen(&mut world, his),
            [
                json!("beta"),
                json!(true),
                Value::Null,
                Value::Null,
                yaml.clone()
            ]
        );
        assert_eq!(
            seen(&mut world, tagged),
            [
                json!("blue"),
                json!(false),
                json!("blue"),
                Value::Null,
                yaml.clone()
            ]
        );
        assert_eq!(
            seen(&mut world, other),
            [json!("formal"), json!(false), Value::Null, json!("k"), yaml]
        );
        let green = json!({"dataId": "a", "group": "g", "tenant": "", "tag": "green"});
        assert_eq!(
            world.call(other, "ConfigQueryRequest", green)["errorCode"],
            300
        );
        let gone = json!({"dataId": "a", "group": "g", "tenant": "", "tag": "blue"});
        assert_eq!(
            world.call(other, "ConfigRemoveRequest", gone)["resultCode"],
            200
        );
        assert_eq!(seen(&mut world, tagged)[0], "formal");
        assert_eq!(seen(&mut world, his)[0], "beta");
        let whole = if like == Like::V2_5 {
            world.json("/v1/cs/configs?show=all&dataId=a&group=g")
        } else {
            world.json("/v3/admin/cs/config?dataId=a&groupName=g")["data"].clone()
        };
        let parts = [
            "appName",
            "configTags",
            "desc",
            "createUser",
            "createIp",
            "encryptedDataKey",
        ];
        assert_eq!(
            parts.map(|name| whole[name].clone()),
            ["shop", "t", "d", "ann", "10.0.0.2", "k"].map(Value::from)
        );
    }
}

#[test]
fn over_grpc_a_tag_may_be_carried_in_the_header_of_a_listener() {
    let mut world = World::like(Like::V2_5);
    let link = world.link(1, "10.0.0.1", json!({}));
    world.publish("dataId=a&group=g&content=formal");
    world.publish("dataId=a&group=g&content=blue&tag=blue");
    let contexts = json!([{"dataId": "a", "group": "g", "tenant": "", "md5": md5("blue")}]);
    let listen = json!({"listen": true, "configListenContexts": contexts});
    let kind = "ConfigBatchListenRequest";
    let answer = world.call_with(link, kind, listen.clone(), Some("blue"));
    assert_eq!(answer["changedConfigs"], json!([]));
    world.publish("dataId=a&group=g&content=formal+again");
    assert!(world.pushes.is_empty(), "he sees the variant");
    world.publish("dataId=a&group=g&content=bluer&tag=blue");
    assert_eq!(world.pushes.len(), 1);
}

#[test]
fn over_grpc_what_is_too_long_is_refused_with_the_limit() {
    let mut world = World::like(Like::V2_5);
    let link = world.link(1, "10.0.0.1", json!({}));
    for (additions, words) in [
        (
            json!({"config_tags": "a,b,c,d,e,f"}),
            "too much config_tags, over 5",
        ),
        (json!({"desc": "d".repeat(129)}), "too long desc, over 128"),
        (json!({"tag": "t".repeat(17)}), "too long tag, over 16"),
    ] {
        let publish = json!({"dataId": "a", "group": "g", "tenant": "", "content": "x", "additionMap": additions});
        let answer = world.call(link, "ConfigPublishRequest", publish);
        assert_eq!(
            (&answer["resultCode"], &answer["message"]),
            (&json!(500), &json!(words))
        );
    }
}

#[test]
fn a_listener_whose_outer_names_are_null_is_heard() {
    // As the Rust client says it.
    let mut world = World::like(Like::V2_5);
    let link = world.link(1, "10.0.0.1", json!({}));
    world.publish("dataId=a&group=g&content=one");
    let listen = json!({
        "requestId": null, "dataId": null, "group": null, "tenant": null, "listen": true,
        "configListenContexts": [{"dataId": "a", "group": "g", "tenant": "", "md5": ""}],
    });
    let answer = world.call(link, "ConfigBatchListenRequest", listen);
    assert_eq!(answer["changedConfigs"][0]["dataId"], "a", "{answer}");
    world.publish("dataId=a&group=g&content=two");
    assert_eq!(world.pushes.len(), 1);
}

#[test]
fn old_clients_say_it_in_their_own_ways() {
    let mut world = World::like(Like::V2_5);
    // Python 1: the content in the query, and a listener with an empty fourth field.
    let query = format!("{CONFIGS}?dataId=a&group=g&content=a%20b%26c");
    assert_eq!(world.ask("POST", &query, &[], "").1, "true");
    let read = |world: &mut World, headers: &[(&str, &str)]| {
        world.ask(
            "GET",
            &format!("{CONFIGS}?dataId=a&group=g&tenant="),
            headers,
            "",
        )
    };
    assert_eq!(read(&mut world, &[]).1, "a b&c");
    let headers = [
        FORM,
        ("Long-Pulling-Timeout", "30000"),
        ("Long-Pulling-Timeout-No-Hangup", "true"),
    ];
    let body = format!("Listening-Configs=a%02g%02{}%02%01", md5("a b&c"));
    let path = format!("{CONFIGS}/listener");
    assert_eq!(world.ask("POST", &path, &headers, &body).1, "");
    // Go 1: the form is not encoded; and Node: everything is named, also what is empty.
    world.publish("dataId=a&group=g&tenant=&appName=&type=&content=\u{4f60} a=b");
    assert_eq!(read(&mut world, &[]).1, "\u{4f60} a=b");
    // Java 1 says that its GET has JSON, and with what it may be answered.
    let says = [
        ("Content-Type", "application/json"),
        ("Accept-Charset", "GBK"),
        ("exConfigInfo", "true"),
    ];
    assert_eq!(read(&mut world, &says).1, "\u{4f60} a=b");
    // A key of its own is passed through and nothing is decrypted.
    world.publish("dataId=cipher-aes-a&group=g&content=0af1&encryptedDataKey=key");
    let request = Request::new(
        "GET",
        &format!("{CONFIGS}?dataId=cipher-aes-a&group=g"),
        [("", ""); 0],
        "",
    );
    let ticket = world.send(request);
    let answer = world.answers.remove(&ticket).unwrap();
    assert_eq!(answer.header("Encrypted-Data-Key"), Some("key"));
    assert_eq!(answer.header("Content-MD5"), Some(&*md5("0af1")));
    assert_eq!(&answer.body()[..], b"0af1");
}

#[test]
fn an_old_content_is_found_in_the_history_and_published_again() {
    for (like, list, one) in [
        (
            Like::V1_4,
            "/v1/cs/history?search=accurate&dataId=a&group=g",
            "/v1/cs/history?dataId=a&group=g&nid=",
        ),
        (
            Like::V2_5,
            "/v2/cs/history/list?dataId=a&group=g",
            "/v2/cs/history?dataId=a&group=g&nid=",
        ),
        (
            Like::V3_0,
            "/v3/admin/cs/history/list?dataId=a&groupName=g",
            "/v3/admin/cs/history?dataId=a&groupName=g&nid=",
        ),
    ] {
        let mut world = World::like(like);
        let data = |answer: Value| answer.get("data").cloned().unwrap_or(answer);
        for content in ["one", "two", "three"] {
            world.publish(&format!("dataId=a&group=g&content={content}"));
        }
        let page = data(world.json(list));
        let rows = page["pageItems"].as_array().unwrap();
        let ops: Vec<&str> = rows
            .iter()
            .map(|row| row["opType"].as_str().unwrap())
            .collect();
        assert_eq!(ops, ["U         ", "U         ", "I         "], "{like:?}");
        // What the last update overwrote.
        let nid = rows[0]["id"].as_str().unwrap();
        let record = data(world.json(&format!("{one}{nid}")));
        assert_eq!(record["content"], "two", "{like:?}");
        let content = record["content"].as_str().unwrap();
        world.publish(&format!("dataId=a&group=g&content={content}"));
        assert_eq!(world.get(&format!("{CONFIGS}?dataId=a&group=g")).1, "two");
        world.ask("DELETE", &format!("{CONFIGS}?dataId=a&group=g"), &[], "");
        let page = data(world.json(list));
        assert_eq!(
            page["totalCount"], 5,
            "each publish and deletion is one record"
        );
        let nid = page["pageItems"][0]["id"].as_str().unwrap();
        let record = data(world.json(&format!("{one}{nid}")));
        assert_eq!(
            (&record["opType"], &record["content"]),
            (&json!("D         "), &json!("two"))
        );
        let other = one.replace("dataId=a", "dataId=b");
        assert_eq!(
            world.get(&format!("{other}{nid}")).0,
            403,
            "{like:?}: it is not his"
        );
    }
}

#[test]
fn a_record_of_v2_tells_from_what_to_what() {
    let mut world = World::like(Like::V2_5);
    world.publish("dataId=a&group=g&content=one&desc=d");
    world.publish("dataId=a&group=g&content=two");
    world.publish("dataId=a&group=g&content=beta&tag=blue");
    world.publish("dataId=a&group=g&content=three");
    world.ask("DELETE", &format!("{CONFIGS}?dataId=a&group=g"), &[], "");
    let mut told = |nid: u64| {
        let path = format!("/v2/cs/history/detail?dataId=a&group=g&nid={nid}");
        let it = world.json(&path)["data"].clone();
        ["opType", "publishType", "originalContent", "updatedContent"].map(|name| it[name].clone())
    };
    let (formal, gray) = (json!("formal"), json!("gray"));
    assert_eq!(
        told(1),
        [json!("I"), formal.clone(), json!(""), json!("one")]
    );
    assert_eq!(
        told(2),
        [json!("U"), formal.clone(), json!("one"), json!("two")]
    );
    assert_eq!(told(3), [json!("I"), gray, json!(""), json!("beta")]);
    assert_eq!(
        told(4),
        [json!("U"), formal.clone(), json!("two"), json!("three")]
    );
    assert_eq!(told(5), [json!("D"), formal, json!("three"), Value::Null]);
}

#[test]
fn what_was_there_before_is_found_by_the_id_of_the_configuration() {
    let mut world = World::like(Like::V2_5);
    world.publish("dataId=b&group=g&content=x");
    world.publish("dataId=a&group=g&content=one");
    let id = world.json("/v1/cs/configs?show=all&dataId=a&group=g")["id"].clone();
    let previous = format!(
        "/v1/cs/history/previous?dataId=a&group=g&id={}",
        id.as_str().unwrap()
    );
    assert_eq!(world.get(&previous), (200, String::new()), "nothing was");
    world.publish("dataId=a&group=g&content=two");
    assert_eq!(world.json(&previous)["content"], "one");
}

#[test]
fn configurations_are_deleted_by_the_ids_that_a_search_found() {
    for like in [Like::V2_5, Like::V3_0] {
        let mut world = World::like(like);
        for name in ["a", "b", "c"] {
            world.publish(&format!("dataId={name}&group=g&content={name}"));
        }
        let (list, delete) = if like == Like::V3_0 {
            (
                "/v3/admin/cs/config/list?dataId=b",
                "/v3/admin/cs/config/batch?ids=",
            )
        } else {
            (
                "/v1/cs/configs?search=blur&dataId=b&group=&pageNo=1&pageSize=9",
                "/v1/cs/configs?delType=ids&ids=",
            )
        };
        let found = world.json(list);
        let page = found.get("data").unwrap_or(&found);
        let id = page["pageItems"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(
            world.ask("DELETE", &format!("{delete}999,{id}"), &[], "").0,
            200
        );
        for (name, status) in [("a", 200), ("b", 404), ("c", 200)] {
            assert_eq!(
                world.get(&format!("{CONFIGS}?dataId={name}&group=g")).0,
                status,
                "{name}"
            );
        }
    }
}

#[test]
fn who_listens_is_told_with_what_he_has_over_http_and_grpc() {
    for like in [Like::V1_4, Like::V2_5, Like::V3_0] {
        let mut world = World::like(like);
        world.publish("dataId=a&group=g&content=formal");
        world.publish_beta("10.0.0.2", "dataId=a&group=g&content=beta");
        world.listen("10.0.0.1", &md5("formal"), &[]);
        world.listen("10.0.0.2", &md5("beta"), &[]);
        let mut wanted = json!({"10.0.0.1": md5("formal"), "10.0.0.2": md5("beta")});
        if like != Like::V1_4 {
            let link = world.link(1, "10.0.0.3", json!({}));
            let contexts =
                json!([{"dataId": "a", "group": "g", "tenant": "", "md5": md5("formal")}]);
            let listen = json!({"listen": true, "configListenContexts": contexts});
            world.call(link, "ConfigBatchListenRequest", listen);
            wanted["10.0.0.3"] = md5("formal").into();
        }
        let (by_config, by_ip) = if like == Like::V3_0 {
            let by_config = "/v3/admin/cs/config/listener?dataId=a&groupName=g";
            let by_config = world.json(by_config)["data"]["listenersStatus"].clone();
            let by_ip = "/v3/admin/cs/listener?ip=10.0.0.2&all=true";
            (
                by_config,
                world.json(by_ip)["data"]["listenersStatus"].clone(),
            )
        } else {
            let by_config = world.json("/v1/cs/configs/listener?dataId=a&group=g");
            let by_ip = world.json("/v1/cs/listener?ip=10.0.0.2");
            let name = "lisentersGroupkeyStatus";
            (by_config[name].clone(), by_ip[name].clone())
        };
        assert_eq!(by_config, wanted, "{like:?}");
        let key = if like == Like::V3_0 {
            "a+g+public"
        } else {
            "a+g"
        };
        assert_eq!(by_ip, json!({key: md5("beta")}), "{like:?}");
    }
}

#[test]
fn a_variant_is_not_published_over_another_md5_than_it_has() {
    let mut world = World::like(Like::V2_5);
    world.publish("dataId=a&group=g&content=one&tag=t");
    let over = |md5: &str| {
        [FORM, ("casMd5", md5)].map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let mut put = |md5: &str| {
        let headers = over(md5);
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        world.ask(
            "POST",
            CONFIGS,
            &headers,
            "dataId=a&group=g&content=two&tag=t",
        )
    };
    let words = "caused: Cas publish gray config fail, server md5 may have changed.;";
    assert_eq!(put("0"), (500, words.to_owned()));
    assert_eq!(put(&md5("one")), (200, "true".to_owned()));
}

#[test]
fn a_page_of_a_search_may_not_hold_more_than_32_mib() {
    let mut world = World::like(Like::V2_5);
    let content = "x".repeat(9 * 1024 * 1024);
    for name in ["a", "b", "c", "d"] {
        world.publish(&format!("dataId={name}&group=g&content={content}"));
    }
    let search = "/v1/cs/configs?search=blur&dataId=&group=&pageNo=1&pageSize=";
    let (status, body) = world.get(&format!("{search}4"));
    assert_eq!(
        (status, body.as_str()),
        (
            503,
            "caused: this registry keeps at most 33554432 bytes of contents on one page;"
        )
    );
    assert_eq!(world.get(&format!("{search}3")).0, 200);
}

#[test]
fn an_address_that_a_header_says_is_not_kept_when_it_is_none() {
    let mut world = World::like(Like::V2_5);
    let long = "1".repeat(65);
    let headers = [FORM, ("X-Forwarded-For", long.as_str())];
    world.ask("POST", CONFIGS, &headers, "dataId=a&group=g&content=x");
    let whole = world.json("/v1/cs/configs?show=all&dataId=a&group=g");
    assert_eq!(whole["createIp"], "127.0.0.1");
}

//! What the recordings of `/v3/` do not show: the embedded registry like 3.0 without sockets, in virtual time.

use crate::manners::Registry;
use outrigger::registry::{Like, Request, desk::Fault};
use serde_json::{Value, json};
use std::time::Duration;

const IT: &str = "serviceName=s&ip=10.0.0.1&port=80";
const CLIENT: &str = "/v3/client/ns/instance";
const ADMIN: &str = "/v3/admin/ns/instance";
const CONFIG: &str = "/v3/admin/cs/config";
const NONE: &str = "healthChecker=%7B%22type%22:%22NONE%22%7D";

fn registry() -> Registry {
    Registry::like(Like::V3_0)
}

impl Registry {
    /// The `data` of an answer that is a yes.
    fn data(&mut self, method: &str, target: &str) -> Value {
        let answer = self.json(method, target);
        assert_eq!(answer["code"], 0, "{target}: {answer}");
        answer["data"].clone()
    }

    /// Status, code and data of an answer that is a no.
    fn no(&mut self, method: &str, target: &str) -> (u16, i64, Value) {
        let (status, body) = self.ask(method, target);
        let answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{target}: {body}"));
        let code = answer["code"]
            .as_i64()
            .unwrap_or_else(|| panic!("{target}: {body}"));
        assert_ne!(code, 0, "{target}: {body}");
        (status, code, answer["data"].clone())
    }

    /// The hosts of a list, as `ip:port` and what of them is asked for.
    fn shown(&mut self, target: &str, field: &str) -> Vec<(String, Value)> {
        let hosts = self.data("GET", target);
        let hosts = hosts.as_array().unwrap().iter();
        hosts
            .map(|host| {
                let at = format!("{}:{}", host["ip"].as_str().unwrap(), host["port"]);
                (at, host[field].clone())
            })
            .collect()
    }
}

fn shown<const N: usize>(hosts: [(&str, Value); N]) -> Vec<(String, Value)> {
    hosts.map(|(at, value)| (at.to_owned(), value)).into()
}

#[test]
fn nothing_of_v3_is_there_unless_like_3_0() {
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = Registry::like(like);
        for (method, target) in [
            ("GET", "/nacos/v3/admin/core/state".to_owned()),
            (
                "POST",
                "/v3/auth/user/login?username=a&password=b".to_owned(),
            ),
            ("POST", format!("{CLIENT}?{IT}")),
            ("GET", format!("{ADMIN}/list?serviceName=s")),
            (
                "GET",
                "/v3/client/cs/config?dataId=a&groupName=g".to_owned(),
            ),
            ("POST", format!("{CONFIG}?dataId=a&groupName=g&content=c")),
        ] {
            let (status, body) = registry.ask(method, &target);
            assert_eq!(status, 404, "{like:?} {target}: {body}");
        }
        assert_eq!(
            registry.json("GET", "/v1/ns/service/list?pageNo=1&pageSize=1")["count"],
            0
        );
    }
}

#[test]
fn a_known_path_asked_otherwise_is_405_and_an_unknown_one_404() {
    let mut registry = registry();
    for (method, path) in [
        ("PATCH", ADMIN),
        ("GET", CLIENT),
        ("POST", "/v3/admin/ns/ops/switches"),
        ("GET", "/v3/auth/user/login"),
    ] {
        let (status, body) = registry.ask(method, path);
        assert_eq!(status, 405, "{method} {path}");
        assert!(
            body.contains(&format!("Method '{method}' is not supported.")),
            "{body}"
        );
    }
    for path in [
        "/v3/admin/cs/history/detail",
        "/v3/console/core/namespace/list",
    ] {
        assert_eq!(registry.ask("GET", path).0, 404, "{path}");
    }
}

#[test]
fn a_light_beat_keeps_an_instance_alive_and_asks_an_unknown_one_to_register() {
    let mut registry = registry();
    let beat = format!("{CLIENT}?{IT}&heartBeat=true");
    let unknown = (200, 21_003, Value::Null);
    assert_eq!(registry.no("POST", &beat), unknown);
    assert_eq!(registry.data("POST", &format!("{CLIENT}?{IT}")), "ok");
    let list = format!("{CLIENT}/list?serviceName=s");
    registry.wait(10);
    registry.data("POST", &beat);
    registry.wait(14);
    assert_eq!(
        registry.shown(&list, "healthy"),
        shown([("10.0.0.1:80", json!(true))])
    );
    registry.wait(1);
    assert_eq!(
        registry.shown(&list, "healthy"),
        shown([("10.0.0.1:80", json!(false))])
    );
    registry.data("POST", &beat);
    assert_eq!(
        registry.shown(&list, "healthy"),
        shown([("10.0.0.1:80", json!(true))])
    );
    registry.wait(30);
    assert_eq!(registry.shown(&list, "healthy"), []);
    assert_eq!(registry.no("POST", &beat), unknown);
    // A persistent instance does not beat.
    registry.data(
        "POST",
        &format!("{CLIENT}?serviceName=p&ip=10.0.0.1&port=80&ephemeral=false"),
    );
    let beat = format!("{CLIENT}?serviceName=p&ip=10.0.0.1&port=80&heartBeat=true");
    assert_eq!(registry.no("POST", &beat), unknown);
}

#[test]
fn the_client_list_has_the_default_cluster_unless_others_are_named_and_masks_health_without_a_word()
{
    let mut registry = registry();
    for (port, more) in [
        (1, ""),
        (2, "&clusterName=B"),
        (3, "&enabled=false"),
        (4, "&clusterName=C"),
    ] {
        let it = format!("serviceName=s&ip=10.0.0.1&port={port}&healthy=false{more}");
        registry.data("POST", &format!("{CLIENT}?{it}"));
    }
    let list = format!("{CLIENT}/list?serviceName=s");
    assert_eq!(
        registry.shown(&list, "healthy"),
        shown([("10.0.0.1:1", json!(false))])
    );
    let both = format!("{list}&clusterName=DEFAULT,B");
    let ports = registry.shown(&both, "port");
    assert_eq!(
        ports,
        shown([("10.0.0.1:1", json!(1)), ("10.0.0.1:2", json!(2))])
    );
    assert_eq!(
        registry.data(
            "PUT",
            "/v3/admin/ns/service?serviceName=s&protectThreshold=0.5"
        ),
        "ok"
    );
    for healthy_only in ["", "&healthyOnly=true"] {
        let hosts = registry.shown(&format!("{list}{healthy_only}"), "healthy");
        assert_eq!(hosts, shown([("10.0.0.1:1", json!(true))]));
    }
    let truth = registry.shown(&format!("{ADMIN}/list?serviceName=s"), "healthy");
    assert_eq!(
        truth,
        shown([("10.0.0.1:1", json!(false)), ("10.0.0.1:3", json!(false))])
    );
}

#[test]
fn the_administrators_list_is_of_one_cluster_and_knows_what_is_not_there() {
    let mut registry = registry();
    let list = format!("{ADMIN}/list?serviceName=s");
    let no = registry.no("GET", &list);
    assert_eq!(
        no,
        (404, 30_000, json!("service DEFAULT_GROUP@@s is not found!"))
    );
    registry.data("POST", &format!("{ADMIN}?{IT}&healthy=false"));
    registry.data(
        "POST",
        &format!("{ADMIN}?serviceName=s&ip=10.0.0.2&port=80&enabled=false"),
    );
    let hosts = registry.shown(&list, "enabled");
    assert_eq!(
        hosts,
        shown([("10.0.0.1:80", json!(true)), ("10.0.0.2:80", json!(false))])
    );
    let healthy = registry.shown(&format!("{list}&healthyOnly=true"), "healthy");
    assert_eq!(healthy, shown([("10.0.0.2:80", json!(true))]));
    let no = registry.no("GET", &format!("{list}&clusterName=B"));
    assert_eq!(no, (404, 30_000, json!("cluster B is not found!")));
    registry.data("DELETE", &format!("{ADMIN}?{IT}"));
    assert_eq!(registry.shown(&list, "enabled").len(), 1);
}

#[test]
fn what_is_registered_over_v3_has_no_id_until_v1_registers_it() {
    let mut registry = registry();
    let id = |registry: &mut Registry| {
        registry.data("GET", &format!("{ADMIN}?{IT}"))["instanceId"].clone()
    };
    registry.data("POST", &format!("{CLIENT}?{IT}"));
    assert_eq!(id(&mut registry), Value::Null);
    registry.ok("POST", &format!("/v1/ns/instance?{IT}"));
    assert_eq!(id(&mut registry), "10.0.0.1#80#DEFAULT#DEFAULT_GROUP@@s");
}

#[test]
fn a_partial_update_takes_a_weight_of_1_and_enabled_for_what_is_not_said_and_leaves_metadata() {
    let mut registry = registry();
    registry.data("POST", &format!("{ADMIN}?{IT}&metadata=own=1"));
    registry.data(
        "PUT",
        &format!("{ADMIN}?{IT}&weight=5&enabled=false&metadata=set=2"),
    );
    let seen = |registry: &mut Registry| {
        let host = registry.data("GET", &format!("{ADMIN}?{IT}"));
        (
            host["weight"].clone(),
            host["enabled"].clone(),
            host["metadata"].clone(),
        )
    };
    let all = json!({"own": "1", "set": "2"});
    assert_eq!(seen(&mut registry), (json!(5.0), json!(false), all.clone()));
    let partial = format!("{ADMIN}/partial?{IT}");
    registry.data("PUT", &partial);
    assert_eq!(seen(&mut registry), (json!(1.0), json!(true), all));
    registry.data("PUT", &format!("{partial}&weight=3&metadata=set=4"));
    assert_eq!(
        seen(&mut registry),
        (json!(3.0), json!(true), json!({"own": "1", "set": "4"}))
    );
    let no = registry.no(
        "PUT",
        &format!("{ADMIN}/partial?serviceName=s&ip=10.0.0.9&port=80"),
    );
    assert_eq!(no, (404, 20_004, json!("no matched ip found!")));
}

#[test]
fn metadata_of_several_instances_are_added_and_taken_away_again() {
    let mut registry = registry();
    for (port, more) in [(1, ""), (2, "&clusterName=B")] {
        registry.data(
            "POST",
            &format!("{CLIENT}?serviceName=s&ip=10.0.0.1&port={port}&metadata=own=1{more}"),
        );
    }
    let batch = format!("{ADMIN}/metadata/batch?serviceName=s");
    let metadata = |registry: &mut Registry| {
        let all = registry.shown(
            &format!("{CLIENT}/list?serviceName=s&clusterName=DEFAULT,B"),
            "metadata",
        );
        all.into_iter()
            .map(|(_, metadata)| metadata)
            .collect::<Vec<_>>()
    };
    let no = registry.no("PUT", &batch);
    assert_eq!(
        no,
        (
            400,
            10_000,
            json!("Required parameter 'metadata' type String is not present")
        )
    );
    let updated = registry.data("PUT", &format!("{batch}&metadata=a=1,b=2"));
    assert_eq!(
        updated,
        json!({"updated": ["10.0.0.1:1:unknown:DEFAULT:ephemeral", "10.0.0.1:2:unknown:B:ephemeral"]})
    );
    let both = json!({"own": "1", "a": "1", "b": "2"});
    assert_eq!(metadata(&mut registry), [both.clone(), both.clone()]);
    // Of one that is there and one that is not, and the instance's own metadata are not an operator's to take.
    let named = r#"[{"ip":"10.0.0.1","port":2,"clusterName":"B"},{"ip":"10.0.0.9","port":2}]"#;
    let updated = registry.data(
        "DELETE",
        &format!("{batch}&metadata=a=x,own=x&instances={named}"),
    );
    assert_eq!(
        updated,
        json!({"updated": ["10.0.0.1:2:unknown:B:ephemeral"]})
    );
    assert_eq!(
        metadata(&mut registry),
        [both, json!({"own": "1", "b": "2"})]
    );
    assert_eq!(
        registry
            .no("PUT", &format!("{batch}&metadata=a=1&instances=%7B"))
            .1,
        20_002
    );
    let (status, body) = registry.ask(
        "PUT",
        &format!(r#"{batch}&metadata=a=1&instances=[{{"ip":"a b","port":1}}]"#),
    );
    assert_eq!(
        (status, body.contains("Param 'ip' is illegal")),
        (400, true),
        "{body}"
    );
}

#[test]
fn services_are_made_changed_described_and_let_go() {
    let mut registry = registry();
    let service = "/v3/admin/ns/service?serviceName=s";
    let unknown = json!("service DEFAULT_GROUP@@s not found!");
    assert_eq!(registry.no("PUT", service), (400, 21_008, unknown.clone()));
    assert_eq!(registry.no("DELETE", service), (400, 21_008, unknown));
    assert_eq!(
        registry
            .no(
                "POST",
                &format!("{service}&selector=%7B%22type%22:%22nix%22%7D")
            )
            .1,
        21_006
    );
    registry.data(
        "POST",
        &format!("{service}&ephemeral=true&protectThreshold=0.7&metadata=team=a"),
    );
    let cluster = format!("/v3/admin/ns/cluster?serviceName=s&clusterName=B&{NONE}");
    let no = registry.no("PUT", &cluster);
    assert_eq!(
        no,
        (
            400,
            10_000,
            json!("Required parameter 'checkPort' type Integer is not present")
        )
    );
    registry.data(
        "PUT",
        &format!("{cluster}&checkPort=81&useInstancePort4Check=false&metadata=zone=1"),
    );
    registry.data("POST", &format!("{CLIENT}?{IT}"));
    let seen = registry.data("GET", service);
    assert_eq!(
        (&seen["ephemeral"], &seen["protectThreshold"]),
        (&json!(true), &json!(0.7))
    );
    assert_eq!(seen["metadata"], json!({"team": "a"}));
    let clusters = json!({
        "B": {
            "clusterName": "B", "healthChecker": {"type": "NONE"}, "healthyCheckPort": 81,
            "useInstancePortForCheck": false, "metadata": {"zone": "1"}, "hosts": null,
        },
        "DEFAULT": {
            "clusterName": "DEFAULT", "healthChecker": {"type": "TCP"}, "healthyCheckPort": 80,
            "useInstancePortForCheck": true, "metadata": {}, "hosts": null,
        },
    });
    assert_eq!(seen["clusterMap"], clusters);
    registry.data("PUT", service);
    let seen = registry.data("GET", service);
    assert_eq!(
        (&seen["protectThreshold"], &seen["metadata"]),
        (&json!(0.0), &json!({}))
    );
    assert_eq!(registry.no("DELETE", service).1, 21_009);
    registry.data("DELETE", &format!("{CLIENT}?{IT}"));
    registry.data("DELETE", service);
    assert_eq!(registry.no("GET", service).1, 21_008);
}

#[test]
fn services_are_listed_page_by_page_with_how_many_of_their_hosts_are_healthy() {
    let mut registry = registry();
    registry.data(
        "POST",
        "/v3/admin/ns/service?serviceName=empty&groupName=other",
    );
    registry.data(
        "POST",
        "/v3/admin/ns/service?serviceName=a&protectThreshold=0.5&ephemeral=true",
    );
    for (service, port, more) in [
        ("a", 1, ""),
        ("a", 2, "&healthy=false&clusterName=B"),
        ("b", 1, "&enabled=false"),
    ] {
        registry.data(
            "POST",
            &format!("{CLIENT}?serviceName={service}&ip=10.0.0.1&port={port}{more}"),
        );
    }
    let list = "/v3/admin/ns/service/list?";
    let first = registry.data("GET", &format!("{list}pageSize=2"));
    let line = |name: &str, clusters: u8, hosts: u8, few: bool| {
        json!({
            "name": name, "groupName": "DEFAULT_GROUP", "clusterCount": clusters, "ipCount": hosts,
            "healthyInstanceCount": 1, "triggerFlag": few.to_string(),
        })
    };
    let page = json!({
        "totalCount": 3, "pageNumber": 1, "pagesAvailable": 2,
        "pageItems": [line("a", 2, 2, true), line("b", 1, 1, false)],
    });
    assert_eq!(first, page);
    let names = |registry: &mut Registry, query: &str| {
        let page = registry.data("GET", &format!("{list}{query}"));
        let items = page["pageItems"].as_array().unwrap().iter();
        let names = items.map(|item| item["name"].as_str().unwrap().to_owned());
        (
            page["totalCount"].as_u64().unwrap(),
            names.collect::<Vec<_>>(),
        )
    };
    let one = |count: u64, name: &str| (count, vec![name.to_owned()]);
    assert_eq!(names(&mut registry, "pageSize=2&pageNo=2"), one(3, "empty"));
    assert_eq!(names(&mut registry, "pageSize=2&pageNo=3"), (3, Vec::new()));
    assert_eq!(names(&mut registry, "groupNameParam=oth"), one(1, "empty"));
    assert_eq!(names(&mut registry, "serviceNameParam=b"), one(1, "b"));
    assert_eq!(
        names(&mut registry, "ignoreEmptyService=true&pageSize=1"),
        one(2, "a")
    );
    assert_eq!(names(&mut registry, "namespaceId=dev"), (0, Vec::new()));
    let whole = registry.data(
        "GET",
        &format!("{list}serviceNameParam=a&withInstances=true"),
    );
    let hosts = &whole["pageItems"][0]["clusterMap"]["B"]["hosts"];
    assert_eq!(
        (hosts[0]["port"].clone(), hosts[1].clone()),
        (json!(2), Value::Null)
    );
    let no = registry.no("GET", &format!("{list}pageNo=0"));
    let words = "Required parameter 'pageNo' should be positive integer, current is 0";
    assert_eq!(no, (400, 20_002, json!(words)));
    assert_eq!(
        registry
            .ask("GET", &format!("{list}groupNameParam=a%20b"))
            .0,
        400
    );
}

#[test]
fn a_registry_alone_names_itself_and_its_clients() {
    let mut registry = registry();
    let own = registry.data("GET", "/v3/admin/core/cluster/node/self");
    assert_eq!(
        (&own["address"], &own["state"]),
        (&json!("127.0.0.1:8848"), &json!("UP"))
    );
    assert_eq!(own["extendInfo"]["version"], "3.0.3");
    let list = "/v3/admin/core/cluster/node/list";
    for (query, count) in [
        ("", 1),
        ("?state=up", 1),
        ("?state=DOWN", 0),
        ("?address=127.", 1),
        ("?address=10.", 0),
    ] {
        let nodes = registry.data("GET", &format!("{list}{query}"));
        assert_eq!(nodes.as_array().unwrap().len(), count, "{query}");
    }
    let no = registry.no("GET", &format!("{list}?state=ILL"));
    assert_eq!(no, (400, 23_000, json!("Illegal state: ILL")));
    for it in [
        "serviceName=a&ip=10.0.0.1&port=80",
        "serviceName=b&ip=10.0.0.1&port=80",
        "serviceName=c&ip=10.0.0.1&port=80&ephemeral=false",
    ] {
        registry.data("POST", &format!("{CLIENT}?{it}"));
    }
    let clients = registry.data("GET", "/v3/admin/ns/client/list");
    assert_eq!(clients, json!(["10.0.0.1:80#true", "10.0.0.1:80#false"]));
    let distro = registry.data("GET", "/v3/admin/ns/client/distro?ip=10.0.0.1&port=80");
    assert_eq!(distro, json!({"responsibleServer": "127.0.0.1:8848"}));
    assert_eq!(
        registry
            .no("GET", "/v3/admin/ns/client/distro?ip=10.0.0.1")
            .1,
        10_000
    );
    let metrics = registry.data("GET", "/v3/admin/ns/ops/metrics?onlyStatus=false");
    let counts = [
        "serviceCount",
        "instanceCount",
        "clientCount",
        "ephemeralIpPortClientCount",
        "persistentIpPortClientCount",
    ];
    assert_eq!(
        counts.map(|name| metrics[name].as_u64().unwrap()),
        [3, 3, 2, 1, 1]
    );
    let mut older = Registry::like(Like::V2_5);
    let nodes = older.json("GET", "/v1/core/cluster/nodes");
    assert_eq!(
        (&nodes["code"], &nodes["data"][0]["address"]),
        (&json!(200), &json!("127.0.0.1:8848"))
    );
    assert_eq!(registry.ask("GET", "/v1/core/cluster/nodes").0, 410);
}

#[test]
fn configurations_are_the_same_over_v3_and_v1_and_listeners_are_told() {
    let mut registry = registry();
    let listen = Request::new(
        "POST",
        "/v1/cs/configs/listener",
        [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Long-Pulling-Timeout", "30000"),
        ],
        "Listening-Configs=a%02g%02%01",
    );
    assert!(registry.send(listen).is_none(), "it is held");
    assert_eq!(
        registry.data(
            "POST",
            &format!("{CONFIG}?dataId=a&groupName=g&namespaceId=public&content=%20one&type=yaml")
        ),
        true
    );
    let told = registry.desk_answer();
    assert_eq!(told, "a%02g%01\n");
    assert_eq!(
        registry.ask("GET", "/v1/cs/configs?dataId=a&group=g").1,
        " one"
    );
    let client = "/v3/client/cs/config?dataId=a&groupName=g";
    let seen = registry.data("GET", client);
    assert_eq!(
        (&seen["content"], &seen["contentType"]),
        (&json!(" one"), &json!("yaml"))
    );
    registry.wait(5);
    registry.data(
        "POST",
        &format!("{CONFIG}?dataId=a&groupName=g&content=two"),
    );
    let detail = registry.data("GET", &format!("{CONFIG}?dataId=a&groupName=g"));
    assert_eq!(
        ["namespaceId", "content", "createTime", "modifyTime"].map(|name| detail[name].clone()),
        [json!("public"), json!("two"), json!(5_000), json!(5_000)]
    );
    assert_eq!(
        registry.data("DELETE", &format!("{CONFIG}?dataId=a&groupName=g&tag=t")),
        true
    );
    assert_eq!(
        registry.data("GET", client)["content"],
        "two",
        "the variant for a tag is another thing"
    );
    assert_eq!(
        registry.data("DELETE", &format!("{CONFIG}?dataId=a&groupName=g")),
        true
    );
    assert_eq!(registry.no("GET", client), (200, 20_004, Value::Null));
    assert_eq!(
        registry.ask("GET", "/v1/cs/configs?dataId=a&group=g").0,
        404
    );
}

#[test]
fn an_operator_sees_a_configuration_before_its_readers_do() {
    let mut registry = registry();
    let lag = Duration::from_millis(200);
    let fault = Fault::ConfigLag { lag, busy: true };
    registry.fault(fault);
    registry.data(
        "POST",
        &format!("{CONFIG}?dataId=a&groupName=g&content=one"),
    );
    let client = "/v3/client/cs/config?dataId=a&groupName=g";
    assert_eq!(registry.no("GET", client), (200, 20_004, Value::Null));
    let detail = registry.data("GET", &format!("{CONFIG}?dataId=a&groupName=g"));
    assert_eq!(detail["content"], "one");
    registry.wait_ms(200);
    assert_eq!(registry.data("GET", client)["content"], "one");
    registry.data(
        "POST",
        &format!("{CONFIG}?dataId=a&groupName=g&content=two"),
    );
    // One that is being modified is said not to be there, though there is an old content.
    assert_eq!(registry.no("GET", client), (200, 20_004, Value::Null));
    registry.wait_ms(200);
    assert_eq!(registry.data("GET", client)["content"], "two");
}

#[test]
fn configurations_are_listed_by_patterns_types_and_what_they_contain() {
    let mut registry = registry();
    for (data_id, group, content, kind) in [
        ("app.yaml", "g", "port: 1", "yaml"),
        ("app.json", "g", "1", "json"),
        ("web.yaml", "h", "port: 2", "yaml"),
    ] {
        registry.data(
            "POST",
            &format!("{CONFIG}?dataId={data_id}&groupName={group}&content={content}&type={kind}"),
        );
    }
    registry.data(
        "POST",
        &format!("{CONFIG}?dataId=app.yaml&groupName=g&content=x&namespaceId=dev"),
    );
    let mut listed = |query: &str| {
        let page = registry.data("GET", &format!("{CONFIG}/list?{query}"));
        let items = page["pageItems"].as_array().unwrap().iter();
        let names: Vec<String> = items
            .map(|item| item["dataId"].as_str().unwrap().to_owned())
            .collect();
        (
            page["totalCount"].as_u64().unwrap(),
            page["pagesAvailable"].as_u64().unwrap(),
            names.join(" "),
        )
    };
    let found = |count, pages, names: &str| (count, pages, names.to_owned());
    assert_eq!(listed(""), found(3, 1, "app.yaml app.json web.yaml"));
    assert_eq!(listed("pageSize=2&pageNo=2"), found(3, 2, "web.yaml"));
    assert_eq!(listed("pageSize=3&pageNo=2"), found(3, 1, ""));
    assert_eq!(
        listed("search=blur&dataId=app*"),
        found(2, 1, "app.yaml app.json")
    );
    assert_eq!(listed("dataId=app.yaml&groupName=h"), found(0, 0, ""));
    assert_eq!(
        listed("search=blur&groupName=*&type=json,text"),
        found(1, 1, "app.json")
    );
    assert_eq!(
        listed("configDetail=port*"),
        found(2, 1, "app.yaml web.yaml")
    );
    assert_eq!(
        listed("search=accurate&dataId=web.yaml"),
        found(1, 1, "web.yaml")
    );
    assert_eq!(listed("namespaceId=dev"), found(1, 1, "app.yaml"));
    assert_eq!(
        registry.ask("GET", &format!("{CONFIG}/list?dataId=a*")).0,
        400,
        "unless the search is called blur"
    );
    assert_eq!(
        registry.no("GET", &format!("{CONFIG}/list?pageSize=0")).1,
        20_002
    );
}

#[test]
fn a_configuration_that_cannot_be_is_refused_with_its_code() {
    let mut registry = registry();
    let missing = |name: &str| {
        (
            400,
            10_000,
            json!(format!(
                "Required parameter '{name}' type String is not present"
            )),
        )
    };
    assert_eq!(
        registry.no("POST", &format!("{CONFIG}?dataId=a&content=c")),
        missing("groupName")
    );
    assert_eq!(
        registry.no("GET", &format!("{CONFIG}?groupName=g")),
        missing("dataId")
    );
    assert_eq!(
        registry.no(
            "POST",
            &format!("{CONFIG}?dataId=a&groupName=g&content=%20")
        ),
        missing("content")
    );
    for bad in [
        "dataId=a!&groupName=g",
        "dataId=a&groupName=g!",
        "dataId=a&groupName=g&namespaceId=n!",
    ] {
        for path in [CONFIG, "/v3/client/cs/config"] {
            let (status, body) = registry.ask("GET", &format!("{path}?{bad}"));
            assert_eq!((status, body.contains("is illegal")), (400, true), "{body}");
        }
    }
}

#[test]
fn an_instance_that_cannot_be_is_refused_with_its_code() {
    let mut registry = registry();
    for (method, target, code) in [
        ("POST", format!("{CLIENT}?ip=10.0.0.1&port=80"), 10_000),
        (
            "POST",
            format!("{CLIENT}?serviceName=%20&ip=10.0.0.1&port=80"),
            10_000,
        ),
        (
            "POST",
            format!("{CLIENT}?serviceName=s&ip=10.0.0.1"),
            10_000,
        ),
        (
            "POST",
            format!("{CLIENT}?serviceName=s&heartBeat=true&port=80"),
            10_000,
        ),
        ("POST", format!("{ADMIN}?{IT}&weight=10001"), 21_001),
        ("POST", format!("{CLIENT}?{IT}&clusterName=a_b"), 21_004),
        ("PUT", format!("{ADMIN}?{IT}"), 21_004),
    ] {
        let (status, said, data) = registry.no(method, &target);
        assert_eq!((status, said), (400, code), "{target}: {data}");
    }
    assert_eq!(
        registry.data("GET", "/v3/admin/ns/service/list")["totalCount"],
        0
    );
}

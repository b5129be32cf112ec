//! The v2 API of 2.5.1, and what consoles and tools read over v1: the answers a live 2.5.1 and 1.4.8 gave to the same questions, in
//! virtual time.

use crate::manners::Registry;
use outrigger::registry::{Like, Request};
use serde_json::{Value, json};

/// Asks one after the other, and compares status and JSON; `null` for a body that does not matter here.
fn play(registry: &mut Registry, exchanges: &[(&str, &str, u16, Value)]) {
    for (method, target, status, expected) in exchanges {
        let (answered, body) = registry.ask(method, target);
        assert_eq!(answered, *status, "{method} {target}: {body}");
        if expected.is_null() {
            continue;
        }
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| body.into());
        assert_eq!(body, *expected, "{method} {target}");
    }
}

fn ok(data: impl Into<Value>) -> Value {
    json!({"code": 0, "message": "success", "data": data.into()})
}

fn no(code: u32, message: &str, data: &str) -> Value {
    json!({"code": code, "message": message, "data": data})
}

/// Three instances of `cat`, the last one disabled.
fn with_cat(like: Like) -> Registry {
    let mut registry = Registry::like(like);
    for more in [
        "ip=10.0.0.1&clusterName=c1&metadata=a%3Db",
        "ip=10.0.0.2",
        "ip=10.0.0.3&enabled=false",
    ] {
        registry.ok(
            "POST",
            &format!("/v1/ns/instance?serviceName=cat&port=80&{more}"),
        );
    }
    registry
}

#[test]
fn instances_over_v2_are_those_of_v1_with_a_code_in_each_answer() {
    let mut registry = Registry::like(Like::V2_5);
    let missing = |name: &str, kind: &str| {
        let data = format!("Required parameter '{name}' type {kind} is not present");
        no(10_000, "parameter missing", &data)
    };
    play(
        &mut registry,
        &[
            (
                "POST",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.1&port=80&clusterName=c1&weight=2&metadata=%7B%22a%22:%22b%22%7D",
                200,
                ok("ok"),
            ),
            (
                "POST",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.2&port=80&enabled=false",
                200,
                ok("ok"),
            ),
            (
                "POST",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.3&port=80&weight=10001",
                400,
                no(
                    21_001,
                    "weight error",
                    "instance format invalid: The weights range from 0.0 to 10000.0",
                ),
            ),
            (
                "POST",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.3",
                400,
                missing("port", "Integer"),
            ),
            (
                "POST",
                "/v2/ns/instance?serviceName=two&port=80",
                400,
                missing("ip", "String"),
            ),
            (
                "POST",
                "/v2/ns/instance?ip=10.2.0.3&port=80",
                400,
                missing("serviceName", "String"),
            ),
            (
                "POST",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.3&port=80&ephemeral=false",
                400,
                no(
                    30_000,
                    "server error",
                    "errCode: 400, errMsg: Current service DEFAULT_GROUP@@two is ephemeral service, can't register persistent instance. ",
                ),
            ),
            (
                "GET",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.1&port=80&clusterName=c1",
                200,
                ok(
                    json!({"serviceName": "DEFAULT_GROUP@@two", "ip": "10.2.0.1", "port": 80, "clusterName": "c1", "weight": 2.0, "healthy": true, "instanceId": null, "metadata": {"a": "b"}}),
                ),
            ),
            (
                "GET",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.9&port=80&clusterName=c1",
                404,
                no(20_004, "resource not found", "no matched ip found!"),
            ),
            (
                "GET",
                "/v2/ns/instance?serviceName=nosuch&ip=10.2.0.9&port=80&clusterName=c1",
                404,
                no(
                    20_004,
                    "resource not found",
                    "no ips found for cluster c1 in service DEFAULT_GROUP@@nosuch",
                ),
            ),
            (
                "GET",
                "/v2/ns/instance/list",
                400,
                no(
                    10_000,
                    "parameter missing",
                    "Required request parameter 'serviceName' for method parameter type String is not present",
                ),
            ),
            (
                "PUT",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.1&port=80&clusterName=c1&weight=3",
                200,
                ok("ok"),
            ),
            (
                "PUT",
                "/v2/ns/instance?serviceName=nosuch&ip=10.2.0.1&port=80&clusterName=c1&weight=3",
                400,
                no(
                    21_004,
                    "instance error",
                    "service not found, namespace: public, service: Service{namespace='public', group='DEFAULT_GROUP', name='nosuch', ephemeral=true, revision=0}",
                ),
            ),
            (
                "PATCH",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.1&port=80&clusterName=c1&weight=4",
                400,
                no(
                    10_000,
                    "parameter missing",
                    "Required request parameter 'enabled' for method parameter type Boolean is not present",
                ),
            ),
            (
                "PUT",
                "/v2/ns/instance/beat?serviceName=two&ip=10.2.0.1&port=80&clusterName=c1",
                400,
                no(
                    20_002,
                    "parameter validate error",
                    "Param 'serviceName' is illegal, it should be format as 'groupName@@serviceName'",
                ),
            ),
            (
                "PUT",
                "/v2/ns/instance/beat?serviceName=DEFAULT_GROUP@@two&ip=10.2.0.1&port=80&clusterName=c1",
                200,
                json!({"clientBeatInterval": 5_000, "code": 10_200, "lightBeatEnabled": true}),
            ),
            (
                "PUT",
                "/v2/ns/instance/beat?serviceName=DEFAULT_GROUP@@two&ip=10.2.0.7&port=80",
                200,
                json!({"clientBeatInterval": 5_000, "code": 20_404, "lightBeatEnabled": true}),
            ),
            (
                "PUT",
                "/v2/ns/instance/metadata/batch?serviceName=two&metadata=%7B%22x%22:%22y%22%7D",
                200,
                ok(
                    json!({"updated": ["10.2.0.1:80:unknown:c1:ephemeral", "10.2.0.2:80:unknown:DEFAULT:ephemeral"]}),
                ),
            ),
            (
                "PUT",
                "/v2/ns/instance/metadata/batch?serviceName=two",
                400,
                missing("metadata", "String"),
            ),
            (
                "GET",
                "/v2/ns/instance/statuses/DEFAULT_GROUP@@two",
                200,
                json!({"ips": ["10.2.0.1:80_true", "10.2.0.2:80_true"]}),
            ),
            (
                "POST",
                "/v2/ns/instance/list",
                500,
                json!({"code": 500, "message": "caused: Request method &#39;POST&#39; not supported;", "data": null}),
            ),
            ("GET", "/v2/ns/nosuch", 404, Value::Null),
            (
                "POST",
                "/v2/ns/instance?serviceName=two&ip=10.2.0.3&port=80&metadata=justtext",
                500,
                Value::Null,
            ),
            (
                "GET",
                "/v2/ns/catalog/instances?serviceName=two&pageNo=1&pageSize=10&enabledOnly=false",
                200,
                Value::Null,
            ),
        ],
    );
    let list = registry.json("GET", "/v2/ns/instance/list?serviceName=two&clusterName=c1");
    assert_eq!(list["data"]["name"], "DEFAULT_GROUP@@two");
    assert_eq!(list["data"]["clusters"], "c1");
    let hosts = list["data"]["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0]["weight"], 3.0, "what the operator said");
    assert_eq!(
        hosts[0]["metadata"],
        json!({"a": "b", "x": "y"}),
        "PUT without metadata, then a batch"
    );
    assert_eq!(hosts[0]["instanceId"], Value::Null);
    // The batch, like any first word of an operator, made the disabled one `enabled`.
    let old = "/v1/ns/instance/list?serviceName=two";
    let hosts = registry.json("GET", old)["hosts"].clone();
    assert_eq!(hosts.as_array().unwrap().len(), 2);
}

#[test]
fn services_over_v2_are_made_changed_described_and_let_go() {
    let mut registry = Registry::like(Like::V2_5);
    registry.ok(
        "POST",
        "/v1/ns/instance?serviceName=two&ip=10.2.0.1&port=80",
    );
    let shown = |threshold: f64, word: &str| {
        ok(json!({
            "namespace": "public", "serviceName": "svc2", "groupName": "DEFAULT_GROUP", "clusterMap": {}, "metadata": {"k": word},
            "protectThreshold": threshold, "selector": {"type": "none", "contextType": "NONE"}, "ephemeral": false,
        }))
    };
    let absent = "service DEFAULT_GROUP@@nosuch not found!";
    play(
        &mut registry,
        &[
            (
                "POST",
                "/v2/ns/service?serviceName=svc2&protectThreshold=0.4&metadata=%7B%22k%22:%22v%22%7D",
                200,
                ok("ok"),
            ),
            (
                "POST",
                "/v2/ns/service?serviceName=svc2",
                400,
                no(
                    21_007,
                    "service already exist",
                    "specified service DEFAULT_GROUP@@svc2 already exists!",
                ),
            ),
            (
                "POST",
                "/v2/ns/service?serviceName=svc4&selector=%7B%22type%22:%22nix%22%7D",
                400,
                no(21_006, "selector error", "not match any type of selector!"),
            ),
            (
                "POST",
                "/v2/ns/service",
                400,
                no(
                    10_000,
                    "parameter missing",
                    "Required parameter 'serviceName' type String is not present",
                ),
            ),
            (
                "GET",
                "/v2/ns/service?serviceName=svc2",
                200,
                shown(0.4, "v"),
            ),
            (
                "PUT",
                "/v2/ns/service?serviceName=svc2&protectThreshold=0.5&metadata=%7B%22k%22:%22w%22%7D",
                200,
                ok("ok"),
            ),
            (
                "GET",
                "/v2/ns/service?serviceName=svc2",
                200,
                shown(0.5, "w"),
            ),
            (
                "GET",
                "/v2/ns/service?serviceName=nosuch",
                400,
                no(
                    21_008,
                    "service not exist",
                    "service not found, namespace: public, serviceName: DEFAULT_GROUP@@nosuch",
                ),
            ),
            (
                "PUT",
                "/v2/ns/service?serviceName=nosuch&protectThreshold=0.5",
                400,
                no(21_008, "service not exist", absent),
            ),
            (
                "GET",
                "/v2/ns/service/list?pageNo=0&pageSize=600",
                200,
                ok(json!({"count": 2, "services": ["svc2", "two"]})),
            ),
            (
                "DELETE",
                "/v2/ns/service?serviceName=two",
                400,
                no(
                    21_009,
                    "service delete failure",
                    "Service DEFAULT_GROUP@@two is not empty, can't be delete. Please unregister instance first",
                ),
            ),
            (
                "DELETE",
                "/v2/ns/service?serviceName=nosuch",
                400,
                no(21_008, "service not exist", absent),
            ),
            ("DELETE", "/v2/ns/service?serviceName=svc2", 200, ok("ok")),
            (
                "PUT",
                "/v2/ns/health?serviceName=two&ip=10.2.0.1&port=80&healthy=false",
                400,
                no(
                    30_000,
                    "server error",
                    "health check is still working, service: DEFAULT_GROUP@@two, cluster: DEFAULT",
                ),
            ),
            (
                "PUT",
                "/v2/ns/health/instance?serviceName=two&ip=10.2.0.1&port=80",
                400,
                no(
                    10_000,
                    "parameter missing",
                    "Required parameter 'healthy' type Boolean is not present",
                ),
            ),
            (
                "GET",
                "/v2/ns/operator/metrics",
                200,
                ok(json!({"status": "UP"})),
            ),
            (
                "PUT",
                "/v2/ns/ops/switches?entry=pushCacheMillis&value=1",
                500,
                no(
                    30_000,
                    "server error",
                    "min cache time for http or tcp is too small(<10000)",
                ),
            ),
            (
                "PUT",
                "/v2/ns/operator/switches?entry=pushCacheMillis",
                400,
                no(
                    10_000,
                    "parameter missing",
                    "Required parameter 'value' type String is not present",
                ),
            ),
            ("GET", "/v2/console/health/liveness", 200, ok("ok")),
            ("GET", "/v2/core/cluster/node/self/health", 200, ok("UP")),
        ],
    );
}

#[test]
fn v2_is_404_like_1_4_and_gone_like_3_0() {
    let list = "/v2/ns/instance/list?serviceName=s";
    assert_eq!(Registry::like(Like::V1_4).ask("GET", list).0, 404);
    let mut registry = Registry::like(Like::V3_0);
    let (status, body) = registry.ask("GET", list);
    assert_eq!(status, 410);
    assert!(body.contains("/v3/admin/ns/instance/list"), "{body}");
    assert_eq!(registry.ask("GET", "/v2/ns/nosuch").0, 404);
}

#[test]
fn a_client_over_http_and_what_it_publishes_and_subscribes_to_are_shown_like_2_5_and_3_0() {
    for (like, path) in [(Like::V2_5, "/v2/ns"), (Like::V3_0, "/v3/admin/ns")] {
        let mut registry = Registry::like(like);
        registry.ok(
            "POST",
            "/v1/ns/instance?serviceName=two&ip=10.2.0.1&port=80&clusterName=c1",
        );
        let list = "/v1/ns/instance/list?serviceName=two&udpPort=5556&app=x&clusters=c1";
        let java = [("User-Agent", "Nacos-Java-Client:v1.4.8")];
        let ask = Request::new("GET", list, java, "").from([127, 0, 0, 1].into());
        registry.send(ask).unwrap();
        let mut data = |query: &str| {
            let answer = registry.json("GET", &format!("{path}/client{query}"));
            assert_eq!(answer["code"], 0);
            answer["data"].clone()
        };
        assert_eq!(
            data("/list"),
            json!(["10.2.0.1:80#true", "127.0.0.1:5556#true"])
        );
        let publisher = "clientId=10.2.0.1:80%23true";
        let shown = data(&format!("?{publisher}"));
        assert_eq!(
            (&shown["ephemeral"], &shown["clientType"]),
            (&json!(true), &json!("ipPort"))
        );
        let published = data(&format!("/publish/list?{publisher}"));
        let subscribed = data("/subscribe/list?clientId=127.0.0.1:5556%23true");
        let publishers = data("/service/publisher/list?serviceName=two&ip=10.2.0.1&port=80");
        let subscribers = data("/service/subscriber/list?serviceName=two");
        let agent = "Nacos-Java-Client:v1.4.8";
        if like == Like::V2_5 {
            assert_eq!(
                published,
                json!([{"namespace": "public", "group": "DEFAULT_GROUP", "serviceName": "two", "registeredInstance": {"ip": "10.2.0.1", "port": 80, "cluster": "c1"}}])
            );
            assert_eq!(
                subscribed,
                json!([{"namespace": "public", "group": "DEFAULT_GROUP", "serviceName": "two", "subscriberInfo": {"app": "x", "agent": agent, "addr": "127.0.0.1:5556"}}])
            );
            assert_eq!(
                publishers,
                json!([{"ip": "10.2.0.1", "port": 80, "cluster": "c1", "clientId": "10.2.0.1:80#true"}])
            );
            assert_eq!(
                subscribers,
                json!([{"clientId": "127.0.0.1:5556#true", "ip": "127.0.0.1", "port": 5556}])
            );
            assert_eq!(
                data("/service/publisher/list?serviceName=two"),
                json!([]),
                "as there: of one address alone"
            );
            let absent = no(
                20_004,
                "resource not found",
                "clientId [ nosuch ] not exist",
            );
            play(
                &mut registry,
                &[("GET", "/v2/ns/client?clientId=nosuch", 404, absent)],
            );
        } else {
            assert_eq!(published[0]["publisherInfo"]["clusterName"], "c1");
            assert_eq!(subscribed[0]["subscriberInfo"]["address"], "127.0.0.1:5556");
            assert_eq!(publishers[0]["clientId"], "10.2.0.1:80#true");
            assert_eq!(
                subscribers,
                json!([{"clientId": "127.0.0.1:5556#true", "appName": "x", "agent": agent, "address": "127.0.0.1:5556"}])
            );
            let page = registry.json("GET", "/v3/admin/ns/service/subscribers?serviceName=two");
            assert_eq!(page["data"]["pageItems"][0]["port"], 5556);
        }
        let whole = registry.json(
            "GET",
            &if like == Like::V2_5 {
                format!("{path}/operator/metrics?onlyStatus=false")
            } else {
                format!("{path}/ops/metrics?onlyStatus=false")
            },
        );
        assert_eq!(whole["data"]["subscribeCount"], 1);
        assert_eq!(whole["data"]["ephemeralIpPortClientCount"], 2);
    }
}

#[test]
fn subscribers_over_v1_are_found_by_parts_of_names() {
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = with_cat(like);
        let list = "/v1/ns/instance/list?serviceName=cat&udpPort=5555&clientIP=10.9.9.9&app=myapp&clusters=c1";
        let java = [("User-Agent", "Nacos-Java-Client:v1.4.8")];
        let ask = Request::new("GET", list, java, "").from([127, 0, 0, 1].into());
        registry.send(ask).unwrap();
        let mut one = json!({"addrStr": "127.0.0.1:5555", "agent": "Nacos-Java-Client:v1.4.8", "app": "myapp", "ip": "127.0.0.1", "namespaceId": "public", "serviceName": "DEFAULT_GROUP@@cat"});
        if like == Like::V2_5 {
            one["port"] = 5555.into();
            one["cluster"] = "c1".into();
        }
        let found = json!({"subscribers": [one], "count": 1});
        let none = json!({"subscribers": [], "count": 0});
        play(
            &mut registry,
            &[
                (
                    "GET",
                    "/v1/ns/service/subscribers?serviceName=cat",
                    200,
                    found.clone(),
                ),
                (
                    "GET",
                    "/v1/ns/service/subscribers?serviceName=ca&aggregation=false&pageNo=1&pageSize=10",
                    200,
                    found,
                ),
                (
                    "GET",
                    "/v1/ns/service/subscribers?serviceName=dog",
                    200,
                    none.clone(),
                ),
                (
                    "GET",
                    "/v1/ns/service/subscribers?serviceName=cat&namespaceId=other",
                    200,
                    none,
                ),
                ("GET", "/v1/ns/service/subscribers", 400, Value::Null),
            ],
        );
    }
}

#[test]
fn the_catalog_is_what_each_generation_shows_its_console() {
    let line = json!({"name": "cat", "groupName": "DEFAULT_GROUP", "clusterCount": 2, "ipCount": 3, "healthyInstanceCount": 3, "triggerFlag": "false"});
    let host = |ip: &str, enabled: bool, metadata: Value| json!({"valid": true, "metadata": metadata, "port": 80, "ip": ip, "weight": 1.0, "enabled": enabled});
    let (one, two, three) = (
        host("10.0.0.1", true, json!({"a": "b"})),
        host("10.0.0.2", true, json!({})),
        host("10.0.0.3", false, json!({})),
    );
    let old = json!([{"serviceName": "cat", "groupName": "DEFAULT_GROUP", "clusterMap": {"c1": {"hosts": [one]}, "DEFAULT": {"hosts": [two, three]}}, "metadata": {}}]);
    let cluster = |hosts: Value| json!({"clusterName": null, "healthChecker": null, "metadata": null, "hosts": hosts});
    let new = json!([{"namespace": null, "serviceName": "cat", "groupName": "DEFAULT_GROUP", "clusterMap": {"c1": cluster(json!([one])), "DEFAULT": cluster(json!([two, three]))}, "metadata": {}, "protectThreshold": 0.0, "selector": null, "ephemeral": null}]);
    let described = |name: &str| json!({"serviceName": "DEFAULT_GROUP@@cat", "name": name, "healthChecker": {"type": "TCP"}, "defaultPort": 80, "defaultCheckPort": 80, "useIPPort4Check": true, "metadata": {}});
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = with_cat(like);
        let is_old = like == Like::V1_4;
        let words = |words: &str| {
            if is_old {
                json!(format!("caused: {words};"))
            } else {
                json!(words)
            }
        };
        let absent = if is_old { 500 } else { 404 };
        play(
            &mut registry,
            &[
                (
                    "GET",
                    "/v1/ns/catalog/services?hasIpCount=true&withInstances=false&pageNo=1&pageSize=10&serviceNameParam=&groupNameParam=&namespaceId=",
                    200,
                    json!({"count": 1, "serviceList": [line]}),
                ),
                (
                    "GET",
                    "/v1/ns/catalog/services?withInstances=true&pageNo=1&pageSize=10",
                    200,
                    if is_old { old.clone() } else { new.clone() },
                ),
                (
                    "GET",
                    "/v1/ns/catalog/services?withInstances=false",
                    500,
                    Value::Null,
                ),
                (
                    "GET",
                    "/v1/ns/catalog/instances?serviceName=cat&clusterName=nosuch&pageSize=10&pageNo=1",
                    absent,
                    words("cluster nosuch is not found!"),
                ),
                (
                    "GET",
                    "/v1/ns/catalog/instances?serviceName=nosuch&clusterName=DEFAULT&pageSize=10&pageNo=1",
                    absent,
                    words("service DEFAULT_GROUP@@nosuch is not found!"),
                ),
                (
                    "GET",
                    "/v1/ns/catalog/instances?serviceName=cat&pageSize=10&pageNo=1",
                    if is_old { 500 } else { 400 },
                    Value::Null,
                ),
                (
                    "GET",
                    "/v1/ns/catalog/service?serviceName=nosuch",
                    absent,
                    words("service DEFAULT_GROUP@@nosuch is not found!"),
                ),
                (
                    "GET",
                    "/v1/ns/instance/statuses?key=cat",
                    400,
                    words(
                        "Param 'serviceName' is illegal, it should be format as 'groupName@@serviceName'",
                    ),
                ),
            ],
        );
        let mut ips: Vec<String> = registry.json(
            "GET",
            "/v1/ns/instance/statuses?key=public%23%23DEFAULT_GROUP@@cat",
        )["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip.as_str().unwrap().to_owned())
            .collect();
        ips.sort();
        assert_eq!(
            ips,
            ["10.0.0.1:80_true", "10.0.0.2:80_true", "10.0.0.3:80_true"]
        );
        let page = registry.json(
            "GET",
            "/v1/ns/catalog/instances?serviceName=cat&clusterName=DEFAULT&pageSize=1&pageNo=2",
        );
        assert_eq!(
            (&page["count"], page["list"].as_array().unwrap().len()),
            (&json!(2), 1)
        );
        assert_eq!(page["list"][0]["enabled"], false, "disabled ones too");
        let whole = registry.json("GET", "/v1/ns/catalog/service?serviceName=cat");
        if like == Like::V2_5 {
            assert_eq!(
                whole["clusters"],
                json!([described("DEFAULT"), described("c1")])
            );
        }
        assert_eq!(whole["service"]["name"], "cat");
    }
}

#[test]
fn a_batch_changes_metadata_of_whom_each_generation_means() {
    let named =
        "instances=%5B%7B%22ip%22:%2210.0.0.1%22,%22port%22:80,%22clusterName%22:%22c1%22%7D%5D";
    let batch = "/v1/ns/instance/metadata/batch?serviceName=cat";
    let all = [
        "10.0.0.1:80:unknown:c1:ephemeral",
        "10.0.0.2:80:unknown:DEFAULT:ephemeral",
        "10.0.0.3:80:unknown:DEFAULT:ephemeral",
    ];
    for (like, query, updated) in [
        (Like::V1_4, "&metadata=x%3Dy".to_owned(), 0),
        (Like::V1_4, format!("&metadata=x%3Dy&{named}"), 1),
        (
            Like::V1_4,
            format!("&metadata=x%3Dy&consistencyType=ephemeral&{named}"),
            3,
        ),
        (
            Like::V1_4,
            "&metadata=x%3Dy&consistencyType=persist".to_owned(),
            0,
        ),
        (Like::V1_4, "&metadata=x%3Dy&instances=nojson".to_owned(), 0),
        (Like::V2_5, "&metadata=x%3Dy".to_owned(), 3),
        (
            Like::V2_5,
            format!("&metadata=x%3Dy&consistencyType=persist&{named}"),
            1,
        ),
    ] {
        let mut registry = with_cat(like);
        let answer = registry.json("PUT", &format!("{batch}{query}"));
        let mut told: Vec<&str> = answer["updated"]
            .as_array()
            .unwrap()
            .iter()
            .map(|who| who.as_str().unwrap())
            .collect();
        told.sort_unstable();
        assert_eq!(told, all[..updated], "{like:?} {query}");
        let has = |registry: &mut Registry| {
            let list = registry.json("GET", "/v1/ns/instance/list?serviceName=cat&clusters=c1");
            list["hosts"][0]["metadata"].clone()
        };
        let with = if updated > 0 {
            json!({"a": "b", "x": "y"})
        } else {
            json!({"a": "b"})
        };
        assert_eq!(has(&mut registry), with, "{like:?} {query}");
        registry.ok("DELETE", &format!("{batch}{query}"));
        assert_eq!(has(&mut registry), json!({"a": "b"}), "{like:?} {query}");
    }
    let mut registry = with_cat(Like::V2_5);
    play(
        &mut registry,
        &[
            ("PUT", batch, 400, json!("Param 'metadata' is required.")),
            (
                "PUT",
                "/v1/ns/instance/metadata/batch?serviceName=nosuch&metadata=x%3Dy",
                200,
                json!({"updated": []}),
            ),
            (
                "PUT",
                "/v1/ns/instance/metadata/batch?serviceName=cat&metadata=x%3Dy&instances=nojson",
                500,
                Value::Null,
            ),
        ],
    );
}

#[test]
fn a_selector_of_labels_is_kept_and_shown_and_1_4_selects_services_by_metadata() {
    let label = "selector=%7B%22type%22:%22label%22,%22expression%22:%22CONSUMER.label.a%3DPROVIDER.label.a%22%7D";
    let bad = "selector=%7B%22type%22:%22label%22,%22expression%22:%22nonsense%22%7D";
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = with_cat(like);
        registry.ok("POST", &format!("/v1/ns/service?serviceName=sel&{label}"));
        let mut shown = json!({"type": "label", "expression": "CONSUMER.label.a=PROVIDER.label.a", "labels": ["a"]});
        if like == Like::V2_5 {
            shown["contextType"] = "CMDB".into();
        }
        let get = "/v1/ns/service?serviceName=sel";
        assert_eq!(registry.json("GET", get)["selector"], shown);
        registry.ok("PUT", "/v1/ns/service?serviceName=sel&protectThreshold=0.5");
        assert_eq!(registry.json("GET", get)["selector"]["type"], "none");
        let (status, words) =
            registry.ask("POST", &format!("/v1/ns/service?serviceName=sel2&{bad}"));
        assert_eq!(status, 500);
        assert!(words.contains("parse expression failed!"), "{words}");
        let by = "/v1/ns/service/list?pageNo=1&pageSize=10&selector=%7B%22type%22:%22label%22,%22expression%22:%22INSTANCE.metadata.a%3D%27b%27%22%7D";
        let count = if like == Like::V1_4 { 1 } else { 2 };
        assert_eq!(registry.json("GET", by)["count"], count);
    }
    let mut registry = with_cat(Like::V1_4);
    let every = registry.json(
        "GET",
        "/v1/ns/service/list?pageNo=1&pageSize=10&groupName=*",
    );
    assert_eq!(every, json!({"doms": ["DEFAULT_GROUP@@cat"], "count": 1}));
}

#[test]
fn namespaces_are_made_renamed_and_taken_off_the_list_in_each_version_of_the_api() {
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = Registry::like(like);
        let path = "/v1/console/namespaces";
        let mut public = json!({"namespace": "", "namespaceShowName": "public", "quota": 200, "configCount": 0, "type": 0});
        let mut dev = json!({"namespace": "dev", "namespaceShowName": "Dev2", "quota": 200, "configCount": 0, "type": 2});
        let mut whole = dev.clone();
        whole["namespaceDesc"] = "d2".into();
        if like == Like::V2_5 {
            public["namespaceDesc"] = "Default Namespace".into();
            dev = whole.clone();
        }
        let ask = |query: &str| format!("{path}?{query}");
        play(
            &mut registry,
            &[
                (
                    "POST",
                    &ask("customNamespaceId=dev&namespaceName=Dev&namespaceDesc=d"),
                    200,
                    json!(true),
                ),
                (
                    "POST",
                    &ask("customNamespaceId=dev&namespaceName=Dev&namespaceDesc=d"),
                    200,
                    json!(false),
                ),
                ("POST", &ask("namespaceName=Auto"), 500, Value::Null),
                ("POST", &ask("customNamespaceId=x1"), 500, Value::Null),
                (
                    "PUT",
                    &ask("namespace=dev&namespaceShowName=Dev2&namespaceDesc=d2"),
                    200,
                    json!(true),
                ),
                (
                    "PUT",
                    &ask("namespace=nosuch&namespaceShowName=Dev2&namespaceDesc=d2"),
                    200,
                    json!(true),
                ),
                (
                    "GET",
                    path,
                    200,
                    json!({"code": 200, "message": null, "data": [public, dev]}),
                ),
                ("GET", &ask("show=all&namespaceId=dev"), 200, whole),
                ("GET", &ask("show=all&namespaceId=nosuch"), 500, Value::Null),
                (
                    "GET",
                    &ask("checkNamespaceIdExist=true&customNamespaceId=dev"),
                    200,
                    json!(true),
                ),
                ("DELETE", &ask("namespaceId=dev"), 200, json!(true)),
                ("DELETE", &ask("namespaceId=nosuch"), 200, json!(true)),
                (
                    "GET",
                    path,
                    200,
                    json!({"code": 200, "message": null, "data": [public]}),
                ),
            ],
        );
        // Whoever names none is given an id.
        let (_, made) = registry.ask("POST", &ask("customNamespaceId=&namespaceName=Auto"));
        assert_eq!(made, "true");
        let id = registry.json("GET", path)["data"][1]["namespace"].clone();
        assert_eq!(id.as_str().unwrap().len(), 36);
    }
    for (like, path) in [
        (Like::V2_5, "/v2/console/namespace"),
        (Like::V3_0, "/v3/admin/core/namespace"),
    ] {
        let mut registry = Registry::like(like);
        let ask = |query: &str| format!("{path}?{query}");
        let shown = json!({"namespace": "n2", "namespaceShowName": "N2b", "namespaceDesc": "e", "quota": 200, "configCount": 0, "type": 2});
        play(
            &mut registry,
            &[
                (
                    "POST",
                    &ask("namespaceId=n2&namespaceName=N2&namespaceDesc=d"),
                    200,
                    ok(true),
                ),
                (
                    "POST",
                    &ask("namespaceId=n2&namespaceName=N2"),
                    400,
                    no(
                        22_000,
                        "illegal namespace",
                        "the namespaceId is existed, namespaceId: n2",
                    ),
                ),
                (
                    "POST",
                    &ask("namespaceId=n3"),
                    400,
                    no(
                        10_000,
                        "parameter missing",
                        "required parameter 'namespaceName' is missing",
                    ),
                ),
                (
                    "POST",
                    &ask("namespaceName=Auto"),
                    400,
                    no(
                        10_000,
                        "parameter missing",
                        "required parameter 'namespaceId' is missing",
                    ),
                ),
                (
                    "PUT",
                    &ask("namespaceId=n2&namespaceName=N2b&namespaceDesc=e"),
                    200,
                    ok(true),
                ),
                ("GET", &ask("namespaceId=n2"), 200, ok(shown)),
                (
                    "GET",
                    &ask("namespaceId=nosuch"),
                    404,
                    no(
                        22_001,
                        "namespace not exist",
                        "namespaceId [ nosuch ] not exist",
                    ),
                ),
                ("DELETE", &ask("namespaceId=n2"), 200, ok(true)),
            ],
        );
        assert_eq!(
            registry.json("GET", &format!("{path}/list"))["data"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn what_is_in_a_namespace_is_apart_and_stays_when_it_is_taken_off_the_list() {
    let mut registry = Registry::like(Like::V2_5);
    registry.ok(
        "POST",
        "/v1/console/namespaces?customNamespaceId=dev&namespaceName=Dev",
    );
    registry.ok(
        "POST",
        "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1&namespaceId=dev",
    );
    registry.ok(
        "POST",
        "/v1/cs/configs?dataId=d&group=g&content=c&tenant=dev",
    );
    registry.ok("DELETE", "/v1/console/namespaces?namespaceId=dev");
    for (namespace, hosts) in [("dev", 1), ("public", 0), ("other", 0)] {
        let list = format!("/v1/ns/instance/list?serviceName=s&namespaceId={namespace}");
        let there = registry.json("GET", &list)["hosts"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(there, hosts, "{namespace}");
    }
    assert_eq!(
        registry
            .ask("GET", "/v1/cs/configs?dataId=d&group=g&tenant=dev")
            .0,
        200
    );
    assert_eq!(
        registry.ask("GET", "/v1/cs/configs?dataId=d&group=g").0,
        404
    );
}

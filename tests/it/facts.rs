//! What live servers do that breaks naive clients: for each such fact, what they answered, and that we live with it.

use crate::support::{Agent, App, LONG, Proxy, Registry, free_port, http, stays, until};
use outrigger::nacos::{
    Error,
    beats::Say,
    calls::{self, Answer},
    model::{ConfigKey, Instance, InstanceKey, Namespace, ServiceKey},
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

fn case(server: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(server)
        .join(format!("{name}.json"));
    serde_json::from_str(
        &fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    )
    .unwrap()
}

/// A recorded answer as our client sees it.
fn answered(server: &str, name: &str) -> Answer {
    let case = case(server, name);
    let headers = &case["response"]["headers"];
    Answer {
        server: "http://nacos:8848".into(),
        status: u16::try_from(case["response"]["status"].as_u64().unwrap()).unwrap(),
        sealed: headers["content-md5"].as_str().map(Into::into),
        body: case["response"]["body"]
            .as_str()
            .unwrap_or_default()
            .as_bytes()
            .to_vec(),
        ..Answer::default()
    }
}

fn instance(ephemeral: bool) -> Instance {
    Instance {
        key: InstanceKey {
            service: ServiceKey {
                namespace: Namespace::public(),
                group: "DEFAULT_GROUP".into(),
                name: "orders".into(),
            },
            ip: [10, 0, 0, 1].into(),
            port: 8080,
        },
        cluster: "DEFAULT".into(),
        weight: 1.0,
        healthy: true,
        enabled: true,
        ephemeral,
        metadata: BTreeMap::from([("version".to_owned(), "1".to_owned())]),
    }
}

fn config(namespace: &str) -> ConfigKey {
    ConfigKey {
        namespace: Namespace::new(namespace),
        group: "DEFAULT_GROUP".into(),
        data_id: "orders.yaml".into(),
    }
}

#[test]
fn no_parameter_of_naming_travels_in_a_body_which_1_4_loses() {
    let lost = answered("nacos-1.4.8", "register-form-body");
    assert_eq!(lost.status, 400);
    assert!(String::from_utf8_lossy(&lost.body).contains("Param 'serviceName' is required."));
    let instance = instance(false);
    for call in [
        calls::register(&instance),
        calls::deregister(&instance),
        calls::beat(&instance, false, Duration::from_secs(5)),
        calls::create_service(&instance.key.service),
        calls::no_checker(&instance.key.service, "DEFAULT"),
        calls::health_by_hand(&instance),
    ] {
        assert!(call.form.is_empty(), "{}", call.what);
        assert!(
            call.query.iter().any(|(name, _)| *name == "serviceName"),
            "{}",
            call.what
        );
    }
}

#[test]
fn health_is_read_from_the_detail_because_lists_mask_it() {
    // 2.5.1 lists the only instance, which is unhealthy, as healthy; the detail tells.
    let masked = answered("nacos-2.5.1", "list-protected").list().unwrap();
    assert!(masked.protected && masked.hosts.iter().all(|host| host.healthy));
    let told = answered("nacos-2.5.1", "get-instance-persistent-unhealthy").detail();
    assert!(!told.unwrap().unwrap().healthy);
    assert_eq!(calls::detail(&instance(false)).path, "/v1/ns/instance");
}

#[test]
fn a_409_and_a_404_of_a_configuration_mean_ask_again_and_not_deleted() {
    let busy = Answer {
        server: "http://nacos:8848".into(),
        status: 409,
        body: b"requested file is being modified, please try later.".to_vec(),
        ..Answer::default()
    };
    assert!(matches!(busy.content(), Err(Error::Busy { .. })));
    for server in ["nacos-1.4.8", "nacos-2.5.1", "nacos-3.0.3"] {
        let missing = answered(server, "config-get-missing");
        assert_eq!(missing.content(), Ok(None), "{server}");
    }
}

#[test]
fn public_is_sent_as_no_tenant_and_as_the_namespace_public() {
    assert_eq!(
        answered("nacos-2.5.1", "config-get-tenant-public").status,
        404
    );
    for public in ["", "public"] {
        let call = calls::config_get(&config(public));
        assert!(!call.query.iter().any(|(name, _)| *name == "tenant"));
        let call = calls::config_listen(&[(config(public), "0".into())], Duration::from_secs(30));
        assert_eq!(call.form[0].1, "orders.yaml\u{2}DEFAULT_GROUP\u{2}0\u{1}");
    }
    let call = calls::config_get(&config("dev"));
    assert!(call.query.contains(&("tenant", "dev".to_owned())));
    let namespace = |call: calls::Call| {
        call.query
            .into_iter()
            .find(|(name, _)| *name == "namespaceId")
    };
    assert_eq!(
        namespace(calls::register(&instance(true))).unwrap().1,
        "public"
    );
}

#[test]
fn a_full_beat_names_its_service_inside_because_without_it_nothing_is_kept_alive() {
    for server in ["nacos-2.5.1", "nacos-3.0.3"] {
        let trap = case(server, "beat-full-no-service-in-beat");
        assert_eq!(
            trap["response"]["status"], 200,
            "{server} says that all is well"
        );
    }
    let call = calls::beat(&instance(true), false, Duration::from_secs(5));
    let beat = call.query.iter().find(|(name, _)| *name == "beat").unwrap();
    let beat: Value = serde_json::from_str(&beat.1).unwrap();
    assert_eq!(beat["serviceName"], "DEFAULT_GROUP@@orders");
}

#[test]
fn a_failed_login_is_a_no_whatever_its_status_and_no_failure_of_the_server() {
    let mut statuses = Vec::new();
    for server in ["nacos-1.4.8", "nacos-2.5.1", "nacos-3.0.3"] {
        for name in ["auth-login-bad-password", "auth-login-unknown-user"] {
            let answer = answered(server, name);
            statuses.push(answer.status);
            let call = calls::login("svc", "secret");
            let server: std::sync::Arc<str> = "http://nacos:8848".into();
            let judged = outrigger::nacos::route::judge(&call, &server, &Ok(answer.clone()));
            assert_eq!(
                judged,
                outrigger::nacos::route::Judged::Answered,
                "{server} {name}"
            );
            assert!(
                matches!(answer.token(), Err(Error::Denied { .. })),
                "{server} {name}"
            );
        }
    }
    assert!(
        statuses.contains(&403) && statuses.contains(&500),
        "{statuses:?}"
    );
}

#[test]
fn health_set_by_hand_is_refused_from_2_0_on_and_registering_again_does_it_there() {
    let refused = answered("nacos-2.5.1", "health-put-none-checker");
    assert_eq!(refused.set_by_hand(), Ok(false));
    let again = answered("nacos-2.5.1", "persistent-reregister-unhealthy");
    assert!(Say::Register(instance(false)).read(again).is_ok());
}

/// A registry that fails as `faults` say, and an agent with one service and one file that reaches it through a proxy.
fn before_faults(flags: &[&str], faults: &str) -> (Registry, Proxy, App, Agent) {
    let flags = [&["--faults"], flags].concat();
    let registry = Registry::start_with(free_port(), &flags);
    if !faults.is_empty() {
        let path = format!("/outrigger/faults?{faults}");
        http(registry.port, "POST", &path, "").unwrap();
    }
    let (proxy, app) = (Proxy::to(registry.port), App::start());
    let agent = Agent::prepare(&[format!("http://127.0.0.1:{}", proxy.port)], "");
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "services:\n  - {{ name: orders, port: {} }}\nconfigs:\n  - {{ data_id: orders.yaml, path: {} }}\n",
            app.port,
            agent.path("orders.yaml").display()
        ),
    );
    (registry, proxy, app, agent)
}

#[test]
fn reads_that_lag_behind_writes_make_nobody_register_twice() {
    let (registry, proxy, app, mut agent) = before_faults(&[], "lag=600ms");
    // The first read of a service is fresh; the ones that matter are not.
    http(
        registry.port,
        "GET",
        "/nacos/v1/ns/instance/list?serviceName=orders",
        "",
    )
    .unwrap();
    agent.start();
    agent.until_state("services", "orders", "registered");
    until("it was read back", LONG, || {
        match proxy.count(&["GET", "/v1/ns/instance?"]) {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    });
    assert_eq!(proxy.count(&["POST", "/v1/ns/instance?"]), 1);
    drop(app);
    until("it is gone", LONG, || match registry.hosts("orders") {
        Ok(hosts) if hosts.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    stays(
        "and is not put back",
        Duration::from_secs(1),
        || match proxy.count(&["POST", "/v1/ns/instance?"]) {
            1 => Ok(()),
            count => Err(format!("{count} registrations")),
        },
    );
}

#[test]
fn a_registration_whose_answer_was_lost_leads_to_one_instance_that_leaves_in_the_end() {
    let (registry, proxy, _app, mut agent) =
        before_faults(&[], "drop&path=/nacos/v1/ns/instance&times=1");
    agent.start();
    agent.until_state("services", "orders", "registered");
    registry.until_listed("orders", 1, LONG);
    assert!(
        proxy.count(&["POST", "/v1/ns/instance?"]) >= 2,
        "it was said again"
    );
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.ended(LONG).code(), Some(0));
    assert_eq!(registry.hosts("orders").unwrap(), Vec::<Value>::new());
}

#[test]
fn a_configuration_that_is_not_readable_yet_or_busy_becomes_the_file_all_the_same() {
    for faults in ["config_lag=200ms", "config_lag=200ms&config_busy"] {
        let (registry, _proxy, _app, mut agent) = before_faults(&[], faults);
        agent.start();
        for content in ["greeting: hello\n", "greeting: again\n"] {
            registry.publish("orders.yaml", content);
            until("the file is there", LONG, || {
                match agent.read("orders.yaml") {
                    text if text == content => Ok(()),
                    text => Err(text),
                }
            });
        }
    }
}

#[test]
fn every_generation_lists_the_instance_and_lets_it_leave() {
    for generation in ["1.4", "2.5", "3.0"] {
        let (registry, _proxy, _app, mut agent) = before_faults(&["--like", generation], "");
        agent.start();
        registry.until_listed("orders", 1, LONG);
        registry.publish("orders.yaml", "greeting: hello\n");
        agent.until_state("configs", "orders.yaml", "applied");
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(agent.ended(LONG).code(), Some(0), "{generation}");
        assert_eq!(registry.hosts("orders").unwrap(), Vec::<Value>::new());
    }
}

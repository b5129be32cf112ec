//! The client reads what real servers answered: `tests/cases/` holds exchanges recorded with live ones, 1.4.8, 2.5.1 and 3.0.3.
//!
//! Both our sides share the wire module and could agree on a mistake; here only the reading side speaks, and the other one is
//! what Nacos said.

use outrigger::nacos::{
    Error, answer,
    wire::{self, BeatAnswer, Detail, ListAnswer, Listening, Login},
};
use serde_json::Value;
use std::{fs, path::Path};

const SERVERS: &[&str] = &["nacos-1.4.8", "nacos-2.5.1", "nacos-3.0.3"];

struct Recorded {
    name: String,
    status: u16,
    body: String,
    request: Value,
}

impl Recorded {
    fn read(&self) -> Result<(), Error> {
        answer::read("http://nacos:8848", self.status, self.body.as_bytes())
    }
}

/// The exchanges of a server whose name begins so; there must be some.
fn recorded(server: &str, begins: &str) -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(server);
    let mut found: Vec<Recorded> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|text| serde_json::from_str::<Value>(&text).unwrap())
        .filter(|case| case["name"].as_str().unwrap().starts_with(begins))
        .filter(|case| case["response"]["status"].is_u64())
        .map(|case| Recorded {
            name: format!("{server}/{}", case["name"].as_str().unwrap()),
            status: u16::try_from(case["response"]["status"].as_u64().unwrap()).unwrap(),
            body: case["response"]["body"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            request: case["request"].clone(),
        })
        // 3.x has paths that it answers with 410: it does not speak this protocol there.
        .filter(|case| case.status != 410)
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!found.is_empty(), "{server} has no {begins}");
    found
}

#[test]
fn a_registration_that_is_wrong_is_refused_for_good_and_never_tried_in_vain() {
    for server in SERVERS {
        for case in recorded(server, "register-bad-") {
            match case.read() {
                Ok(()) => assert_eq!(case.body.trim(), "ok", "{}", case.name),
                Err(Error::Refused { message, .. }) => {
                    let text = message.raw();
                    assert!(
                        !text.is_empty() && !text.contains("caused") && !text.ends_with(';'),
                        "{}: {text}",
                        case.name
                    );
                }
                Err(other) => panic!("{}: {other:?}", case.name),
            }
        }
    }
}

#[test]
fn the_wrong_kind_of_service_is_refused_for_good_with_words_that_say_so() {
    for server in SERVERS {
        let cases = [
            "register-ephemeral-into-persistent",
            "beat-full-into-persistent",
        ];
        for case in cases.iter().flat_map(|name| recorded(server, name)) {
            match case.read() {
                // 1.4.8 mixes kinds.
                Ok(()) => assert!(server.contains("1.4"), "{}", case.name),
                Err(Error::Refused { message, .. }) => assert!(
                    message.raw().contains("persistent service"),
                    "{}: {message}",
                    case.name
                ),
                Err(other) => panic!("{}: {other:?}", case.name),
            }
        }
    }
}

#[test]
fn every_denial_is_a_denial_and_every_login_that_failed_failed() {
    for server in SERVERS {
        for case in recorded(server, "auth-") {
            if case.name.contains("auth-login") && case.status == 200 {
                let login: Login = serde_json::from_str(&case.body).unwrap();
                assert!(!login.access_token.is_empty() && login.token_ttl > 0);
            } else if matches!(case.status, 401 | 403) {
                let read = case.read();
                assert!(
                    matches!(read, Err(Error::Denied { .. })),
                    "{}: {read:?}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn beats_are_read_also_where_a_version_leaves_a_field_out() {
    for server in SERVERS {
        let mut forgotten = 0;
        for case in recorded(server, "beat-") {
            match case.read() {
                Ok(()) if case.body.trim() != "ok" => {
                    let answer: BeatAnswer = serde_json::from_str(&case.body).unwrap();
                    assert!(
                        matches!(answer.code, wire::BEAT_OK | wire::BEAT_NOT_FOUND),
                        "{}",
                        case.name
                    );
                    forgotten += usize::from(answer.code == wire::BEAT_NOT_FOUND);
                }
                // The registration that a sequence of beats begins with.
                Ok(()) => {}
                Err(Error::Refused { .. } | Error::Busy { .. }) => {}
                Err(other) => panic!("{}: {other:?}", case.name),
            }
        }
        assert!(forgotten > 0, "{server}: a 20404 was recorded");
    }
}

#[test]
fn every_list_is_read_and_says_of_every_host_what_its_server_said() {
    for server in SERVERS {
        for case in recorded(server, "list").iter().filter(|case| {
            case.status == 200
                && case.request["target"]
                    .as_str()
                    .unwrap()
                    .contains("/instance/list")
        }) {
            let raw: Value = serde_json::from_str(&case.body).unwrap();
            let answer: ListAnswer = serde_json::from_str(&case.body).unwrap();
            let list = outrigger::nacos::model::ServiceList::from(answer);
            let hosts = raw["hosts"].as_array().unwrap();
            assert_eq!(list.hosts.len(), hosts.len(), "{}", case.name);
            for (ours, theirs) in list.hosts.iter().zip(hosts) {
                assert_eq!(ours.ip.raw(), theirs["ip"], "{}", case.name);
                assert_eq!(ours.port, theirs["port"], "{}", case.name);
                assert_eq!(ours.healthy, theirs["healthy"], "{}", case.name);
                assert_eq!(ours.enabled, theirs["enabled"], "{}", case.name);
                assert_eq!(ours.weight, theirs["weight"], "{}", case.name);
            }
            assert_eq!(
                list.protected,
                raw["reachProtectionThreshold"] == true,
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn an_instance_that_is_not_there_is_told_from_a_server_in_trouble() {
    for server in ["nacos-1.4.8", "nacos-2.5.1"] {
        for case in recorded(server, "get-instance") {
            if case.status == 200 {
                let detail: Detail = serde_json::from_str(&case.body).unwrap();
                assert!(detail.port > 0, "{}", case.name);
            } else {
                assert!(
                    answer::is_no_instance(case.body.as_bytes()),
                    "{}: {}",
                    case.name,
                    case.body
                );
            }
        }
    }
}

#[test]
fn what_a_listener_answers_is_read() {
    for server in SERVERS {
        let mut changed = 0;
        for case in recorded(server, "listener-")
            .iter()
            .filter(|case| case.status == 200)
        {
            let text = percent_encoding::percent_decode_str(case.body.trim())
                .decode_utf8()
                .unwrap();
            let entries = Listening::read_changed(&text).unwrap_or_else(|| panic!("{}", case.name));
            changed += entries.len();
        }
        assert!(changed > 3, "{server}: {changed}");
    }
}

#[test]
fn a_cluster_with_a_dead_node_is_busy_and_nothing_else() {
    for server in ["nacos-2.5.1-cluster", "nacos-3.0.3-cluster"] {
        for begins in [
            "beat-",
            "register-",
            "publish-",
            "service-create-",
            "config-delete-",
        ] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/cases")
                .join(server);
            let has = fs::read_dir(folder).unwrap().any(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(begins)
            });
            if !has {
                continue;
            }
            for case in recorded(server, begins) {
                let read = case.read();
                assert!(
                    matches!(read, Ok(()) | Err(Error::Busy { .. })),
                    "{}: {read:?}",
                    case.name
                );
            }
        }
    }
}

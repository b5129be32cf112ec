//! A registry with a data directory: whatever it answered is there after it was killed, and what it could not keep was never said.

use crate::rpc::Client;
use crate::support::{LONG, Process, Registry, form, free_port, http, outrigger, said, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

fn start(port: u16, directory: &Path, more: &[&str]) -> Registry {
    let directory = directory.to_str().unwrap();
    let flags = [&["--data-dir", directory], more].concat();
    Registry::start_with(port, &flags)
}

/// Starts one that has to end at once: its exit code and its words.
fn refused(directory: &Path) -> (Option<i32>, String) {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = outrigger();
    command.args(["dev", "--listen", &listen, "--data-dir"]);
    let output = command.arg(directory).output().unwrap();
    (output.status.code(), said(&output))
}

/// What somebody wants kept: a configuration with a number, or a persistent instance with a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Config(usize, u32),
    Instance(usize, u32),
}

/// What was answered last, and what was asked for since and not answered.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    answered: Option<u32>,
    asked: Option<Option<u32>>,
}

type Book = BTreeMap<Name, Known>;

/// Writers over HTTP; one more speaks gRPC.
const WRITERS: usize = 4;
/// Things of each kind that one of them cares for.
const THINGS: u32 = 4;

/// Writes one after the other until nobody answers.
fn write(port: u16, writer: usize, book: &mut Book, answered: &AtomicUsize) {
    loop {
        let thing = fastrand::u32(0..THINGS);
        let value = (fastrand::u8(0..4) > 0).then(|| fastrand::u32(1..9_999));
        let (name, method, target) = if fastrand::bool() {
            let target = format!("/nacos/v1/cs/configs?dataId=c{writer}-{thing}&group=g&content=");
            (Name::Config(writer, thing), "POST", target)
        } else {
            let target = format!(
                "/nacos/v1/ns/instance?serviceName=s{writer}&ip=10.0.0.1&port={}&ephemeral=false&weight=",
                thing + 1
            );
            (Name::Instance(writer, thing), "POST", target)
        };
        let method = if value.is_some() { method } else { "DELETE" };
        let target = format!("{target}{}", value.unwrap_or(1));
        let known = book.entry(name).or_default();
        known.asked = Some(value);
        if http(port, method, &target, "").is_err() {
            return;
        }
        answered.fetch_add(1, Ordering::Relaxed);
        *known = Known {
            answered: value,
            asked: None,
        };
    }
}

/// The same over gRPC.
async fn call(port: u16, book: &mut Book, answered: &AtomicUsize, begun: &Barrier) -> Option<()> {
    let writer = WRITERS;
    let at = (Ipv4Addr::LOCALHOST, port + 1000).into();
    let mut client = Client::connect(at).await;
    let _stream = client.set_up("naming").await;
    begun.wait();
    loop {
        let thing = fastrand::u32(0..THINGS);
        let value = (fastrand::u8(0..4) > 0).then(|| fastrand::u32(1..9_999));
        let (name, kind, body) = if fastrand::bool() {
            let kind = if value.is_some() {
                "ConfigPublishRequest"
            } else {
                "ConfigRemoveRequest"
            };
            let content = value.map(|value| value.to_string());
            let body = json!({"dataId": format!("c{writer}-{thing}"), "group": "g", "tenant": "", "content": content});
            (Name::Config(writer, thing), kind, body)
        } else {
            let kind = if value.is_some() {
                "registerInstance"
            } else {
                "deregisterInstance"
            };
            let body = json!({
                "namespace": "public", "groupName": "DEFAULT_GROUP", "serviceName": format!("s{writer}"), "type": kind,
                "instance": {"ip": "10.0.0.1", "port": thing + 1, "ephemeral": false, "weight": value.unwrap_or(1)},
            });
            (
                Name::Instance(writer, thing),
                "PersistentInstanceRequest",
                body,
            )
        };
        let known = book.entry(name).or_default();
        known.asked = Some(value);
        let (_, answer) = client.call_raw(kind, body.to_string()).await.ok()?;
        assert_eq!(answer["resultCode"], 200, "{kind}: {answer}");
        answered.fetch_add(1, Ordering::Relaxed);
        *known = Known {
            answered: value,
            asked: None,
        };
    }
}

/// What the registry has of what a writer cares for.
fn read(registry: &Registry, writer: usize) -> BTreeMap<Name, u32> {
    let hosts = registry.hosts(&format!("s{writer}")).unwrap();
    let hosts = hosts.iter().map(|host| {
        let port = u32::try_from(host["port"].as_u64().unwrap()).unwrap();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole and small"
        )]
        let weight = host["weight"].as_f64().unwrap() as u32;
        (Name::Instance(writer, port - 1), weight)
    });
    let mut read: BTreeMap<Name, u32> = hosts.collect();
    for thing in 0..THINGS {
        let target = format!("/nacos/v1/cs/configs?dataId=c{writer}-{thing}&group=g");
        match http(registry.port, "GET", &target, "") {
            Ok(content) => _ = read.insert(Name::Config(writer, thing), content.parse().unwrap()),
            Err(error) => assert!(error.contains(" 404 "), "{error}"),
        }
    }
    read
}

/// So many rounds, or `OUTRIGGER_KILLS`.
const KILLS: usize = 25;

#[test]
fn whatever_was_answered_is_there_after_a_kill_at_any_moment() {
    let kills = std::env::var("OUTRIGGER_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data");
    let port = free_port();
    let mut books = vec![Book::new(); WRITERS + 1];
    let (mut unsure, mut lost) = (0, 0);
    let answered = AtomicUsize::new(0);
    for round in 0..=kills {
        let registry = start(port, &directory, &["--no-checks"]);
        for (writer, book) in books.iter_mut().enumerate() {
            let read = read(&registry, writer);
            for (name, known) in book {
                let there = read.get(name).copied();
                match known.asked.take() {
                    // It may have been carried out, or not.
                    Some(asked) if there == asked => {
                        known.answered = asked;
                        unsure += 1;
                    }
                    Some(_) => lost += 1,
                    None => {}
                }
                assert_eq!(there, known.answered, "round {round}: {name:?}");
            }
        }
        let begun = Barrier::new(2);
        thread::scope(|scope| {
            let (rpc, https) = books.split_last_mut().unwrap();
            for (writer, book) in https.iter_mut().enumerate() {
                let answered = &answered;
                scope.spawn(move || write(port, writer, book, answered));
            }
            let (calls, begun) = (&answered, &begun);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                runtime.block_on(call(port, rpc, calls, begun))
            });
            begun.wait();
            thread::sleep(Duration::from_millis(fastrand::u64(20..250)));
            registry.process.signal(Signal::SIGKILL);
            drop(registry);
        });
    }
    let answered = answered.into_inner();
    eprintln!(
        "{kills} kills, {answered} answers, all there; of what was not answered {unsure} were carried out and {lost} not"
    );
    assert!(answered > 10 * kills, "{answered}");
}

/// A registry that may write files of so many bytes: for more it is told that it cannot.
fn with_little_room(port: u16, directory: &Path, log: &Path) -> Process {
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_outrigger"))
        .args([
            "dev",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--data-dir",
        ])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(log).unwrap());
    Process::start(&mut command)
}

fn limit(process: &Process, bytes: Option<u64>) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(i32::try_from(process.0.id()).unwrap());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

#[test]
fn what_finds_no_room_is_refused_and_all_else_goes_on_until_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let (directory, log) = (folder.path().join("data"), folder.path().join("log"));
    let port = free_port();
    let registry = Registry {
        port,
        process: with_little_room(port, &directory, &log),
    };
    until("the registry answers", LONG, || {
        http(port, "GET", "/nacos/v1/ns/operator/metrics", "").map(drop)
    });
    registry.publish("small", "1");
    let publish = |data_id: &str, content: &str| {
        let body = format!(
            "dataId={data_id}&group=DEFAULT_GROUP&content={}",
            form(content)
        );
        http(port, "POST", "/nacos/v1/cs/configs", &body)
    };
    let get = |data_id: &str| {
        let target = format!("/nacos/v1/cs/configs?dataId={data_id}&group=DEFAULT_GROUP");
        http(port, "GET", &target, "")
    };
    let length = fs::metadata(directory.join("registry.redb")).unwrap().len();
    limit(&registry.process, Some(length));
    let large = "x".repeat(1_000_000);
    let error = publish("large", &large).unwrap_err();
    assert!(
        error.contains(" 503 ") && error.contains("nothing was changed"),
        "{error}"
    );
    assert!(!error.contains("registry.redb"), "{error}");
    // Nobody ever sees it, and all that needs no room goes on.
    assert!(get("large").unwrap_err().contains(" 404 "));
    assert_eq!(get("small").unwrap(), "1");
    let ephemeral = "/nacos/v1/ns/instance?serviceName=orders&ip=10.0.0.1&port=80";
    assert_eq!(http(port, "POST", ephemeral, "").unwrap(), "ok");
    assert_eq!(registry.hosts("orders").unwrap().len(), 1);
    // What is small finds room, once it was tried.
    until("something small is kept", LONG, || {
        publish("small", "2").map(drop)
    });
    assert!(publish("large", &large).is_err());
    assert_eq!(get("small").unwrap(), "2");
    limit(&registry.process, None);
    until("all is kept", LONG, || publish("large", &large).map(drop));
    let said = fs::read_to_string(&log).unwrap();
    let lines = said
        .lines()
        .filter(|line| line.contains("cannot keep what is changed"));
    assert_eq!(lines.count(), 1, "{said}");
    registry.process.signal(Signal::SIGKILL);
    drop(registry);
    let registry = start(port, &directory, &[]);
    assert_eq!(
        (
            get("small").unwrap().as_str(),
            get("large").unwrap() == large
        ),
        ("2", true)
    );
    assert_eq!(
        registry.hosts("orders").unwrap(),
        Vec::<Value>::new(),
        "ephemeral"
    );
}

#[test]
fn what_cannot_be_used_is_refused_with_words_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data");
    let file = directory.join("registry.redb");
    let registry = start(free_port(), &directory, &[]);
    let (code, words) = refused(&directory);
    assert_eq!(code, Some(78));
    assert!(words.contains("another registry uses it"), "{words}");
    registry.process.signal(Signal::SIGTERM);
    drop(registry);
    let whole = fs::read(&file).unwrap();
    let mut torn = whole.clone();
    torn.truncate(whole.len() / 2);
    for damaged in [torn, b"something else".to_vec()] {
        fs::write(&file, &damaged).unwrap();
        let (code, words) = refused(&directory);
        assert_eq!(code, Some(78));
        assert!(
            words.contains("is damaged, and was left as it is"),
            "{words}"
        );
        assert!(!words.contains("a bug of ours"), "{words}");
        assert!(fs::read(&file).unwrap() == damaged);
    }
    fs::write(&file, whole).unwrap();
    drop(start(free_port(), &directory, &[]));
    let (code, words) = refused(&file);
    assert_eq!(code, Some(78));
    assert!(words.contains("cannot make"), "{words}");
}

/// Everything of which there are rows, in a store that the first version of the format has.
fn first_format() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/store/format-1.redb")
}

/// What a registry says of all that is in that store.
fn told(port: u16) -> String {
    let mut told = String::new();
    for target in [
        "/v1/ns/instance/list?serviceName=orders",
        "/v1/ns/instance?serviceName=orders&ip=10.0.0.1&port=80",
        "/v1/ns/service?serviceName=orders",
        "/v1/ns/instance/list?serviceName=bills&groupName=g&namespaceId=n",
        "/v1/cs/configs?dataId=a&group=g&show=all",
        "/v1/cs/configs?dataId=a&group=g&tag=blue",
        "/v1/cs/configs?dataId=b&group=g&tenant=n",
        "/v1/console/namespaces",
        "/v1/ns/operator/switches",
        "/v1/cs/history?search=accurate&dataId=a&group=g&pageNo=1&pageSize=10",
    ] {
        let answer = http(port, "GET", &format!("/nacos{target}"), "");
        let answer = answer.unwrap_or_else(|error| error);
        let shown = match serde_json::from_str::<Value>(&answer) {
            Ok(mut json) => {
                // When this process saw it last.
                if let Some(time) = json.get_mut("lastRefTime") {
                    *time = Value::Null;
                }
                format!("{json:#}")
            }
            Err(_) => answer,
        };
        told += &format!("{target}\n{shown}\n\n");
    }
    told
}

#[test]
fn a_store_of_the_first_format_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data");
    fs::create_dir(&directory).unwrap();
    fs::copy(first_format(), directory.join("registry.redb")).unwrap();
    let registry = start(free_port(), &directory, &["--no-checks"]);
    insta::assert_snapshot!("store_of_format_1", told(registry.port));
}

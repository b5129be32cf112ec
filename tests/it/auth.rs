//! A registry that asks who somebody is: what the originals answered, the program with its file of users, the agent with a password.

use crate::support::{
    Agent, App, LONG, Process, Registry, free_port, http, outrigger, said, stays, until,
};
use nix::sys::signal::Signal;
use outrigger::{
    machine::{Machine as _, Moment},
    nacos::rpc::Payload,
    registry::{
        Desk, Key, Like, Request, Users,
        desk::{Effect, Event, Link, Stream, Ticket},
    },
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// `secret` with a cost of 4, and of 10.
const CHEAP: &str = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
const DEAR: &str = "$2y$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u";

/// As the recorded servers had them: tokens of 20 s, `nacos` may all, `weak` nothing that was asked for.
fn recorded_users(password: &str) -> Users {
    let text = format!(
        "@token-ttl 20s\n@identity labIdKey labIdValue\nnacos:{password} admin\nweak:x elsewhere:rw\n"
    );
    Users::parse(Path::new("users"), &text).unwrap()
}

fn key(letter: char) -> Key {
    // The base64 of 32 bytes.
    Key::read(&format!("{}A=", letter.to_string().repeat(42))).unwrap()
}

/// A registry that asks, in virtual time; whoever looks at passwords takes no time for it.
struct Asking {
    desk: Desk,
    now: Moment,
    next: u64,
}

impl Asking {
    fn like(like: Like, password: &str, signed: char) -> Self {
        let desk = Desk::new(like).asking(recorded_users(password), key(signed));
        Self {
            desk,
            now: Duration::ZERO,
            next: 0,
        }
    }

    fn until_answered(&mut self, event: impl FnOnce(Ticket) -> Event) -> Effect {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.desk.handle(self.now, event(ticket));
        loop {
            match self.desk.effect() {
                Some(Effect::Check(ticket, check)) => {
                    let right = check.is_right();
                    self.desk.handle(self.now, Event::Checked { ticket, right });
                }
                Some(answer @ (Effect::Answer(..) | Effect::Reply(..))) => return answer,
                Some(_) => {}
                None => {
                    self.now = self.desk.deadline().expect("it is answered");
                    self.desk.wake(self.now);
                }
            }
        }
    }

    fn ask(&mut self, request: Request) -> (u16, Option<String>, Option<String>, String) {
        let at = UNIX_EPOCH + self.now;
        let Effect::Answer(_, answer) = self.until_answered(|ticket| Event::Asked {
            ticket,
            at,
            request,
        }) else {
            panic!("over HTTP");
        };
        let header = |name| answer.header(name).map(str::to_owned);
        let body = String::from_utf8(answer.body().to_vec()).unwrap();
        (
            answer.status(),
            header("Content-Type"),
            header("Authorization"),
            body,
        )
    }

    fn token(&mut self, user: &str, password: &str) -> String {
        let target = format!("/nacos/v1/auth/login?username={user}&password={password}");
        let (status, _, header, body) = self.ask(Request::new("POST", &target, [("", ""); 0], ""));
        assert_eq!(status, 200, "{body}");
        header.unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }
}

/// Recorded exchanges that are answered otherwise here: what their names begin with, after `auth-`, and why.
const OTHERWISE: &[(&str, &str)] = &[
    ("admin-bootstrap", "users are in the file alone"),
    (
        "login-unknown-user",
        "2.5.1 and 3.0.3 tell that there is no such user",
    ),
];

#[test]
fn it_lets_in_and_refuses_as_the_originals_did() {
    let mut wrong = Vec::new();
    let mut played = 0;
    for (like, folder, password) in [
        (Like::V1_4, "nacos-1.4.8", "nacos"),
        (Like::V2_5, "nacos-2.5.1", "labPassw0rd"),
        (Like::V3_0, "nacos-3.0.3", "labPassw0rd"),
    ] {
        let mut stranger = Asking::like(like, password, 'b');
        let forged = stranger.token("nacos", password);
        let mut it = Asking::like(like, password, 'a');
        let expired = it.token("nacos", password);
        it.now += Duration::from_secs(30);
        let register = format!(
            "/v1/ns/instance?serviceName=asvc&ip=10.4.0.1&port=80&username=nacos&password={password}"
        );
        assert_eq!(
            it.ask(Request::new("POST", &register, [("", ""); 0], "")).0,
            200
        );
        let publish = format!(
            "/v1/cs/configs?dataId=x&group=DEFAULT_GROUP&content=v&username=nacos&password={password}"
        );
        assert_eq!(
            it.ask(Request::new("POST", &publish, [("", ""); 0], "")).0,
            200
        );
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/cases")
            .join(folder);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let Some(about) = name.strip_prefix("auth-") else {
                continue;
            };
            if like != Like::V1_4
                && OTHERWISE
                    .iter()
                    .any(|(begins, _)| about.starts_with(begins))
            {
                continue;
            }
            let case: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            let token = match about {
                about if about.contains("expired") => expired.clone(),
                about if about.contains("forged") => forged.clone(),
                about if about.contains("no-permission") => it.token("weak", "x"),
                _ => it.token("nacos", password),
            };
            let put = |text: &Value| {
                text.as_str()
                    .unwrap_or_default()
                    .replace("LAB.TOKEN.redacted", &token)
            };
            let headers: Vec<(String, String)> = case["request"]["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), put(value)))
                .collect();
            let asked = &case["request"];
            let request = Request::new(
                asked["method"].as_str().unwrap(),
                &put(&asked["target"]),
                headers,
                put(&asked["body"]),
            );
            let told = &case["response"];
            let (status, kind, bearer, body) = it.ask(request);
            played += 1;
            let mut differs = |what: &str, recorded: String, answered: String| {
                if recorded != answered {
                    wrong.push(format!(
                        "{like:?} {name}: {what}\n  recorded {recorded}\n  answered {answered}"
                    ));
                }
            };
            // What 2.5.1 had not yet written is there at once.
            if told["status"] != 409 {
                differs("status", told["status"].to_string(), status.to_string());
            }
            if status != 200 || about.starts_with("login") {
                differs(
                    "type",
                    format!("{:?}", told["headers"]["content-type"].as_str()),
                    format!("{:?}", kind.as_deref()),
                );
                differs(
                    "body",
                    essence(told["body"].as_str().unwrap()),
                    essence(&body),
                );
                differs(
                    "token",
                    told["headers"]["authorization"].is_string().to_string(),
                    bearer.is_some().to_string(),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(played > 100, "{played}");
}

/// A body without its time and its token.
fn essence(body: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        return body.to_owned();
    };
    for key in ["timestamp", "accessToken"] {
        if let Some(field) = value.get_mut(key) {
            *field = Value::Null;
        }
    }
    value.to_string()
}

#[test]
fn over_grpc_it_lets_in_and_refuses_as_the_originals_did() {
    for (like, folder) in [(Like::V2_5, "nacos-2.5.1"), (Like::V3_0, "nacos-3.0.3")] {
        let mut it = Asking::like(like, "labPassw0rd", 'a');
        let expired = it.token("nacos", "labPassw0rd");
        it.now += Duration::from_secs(30);
        let (link, stream) = (Link(1_000), Stream(1_000));
        it.desk.handle(
            it.now,
            Event::Linked {
                link,
                peer: ([127, 0, 0, 1], 1).into(),
                at: UNIX_EPOCH,
            },
        );
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/cases")
            .join(folder)
            .join("grpc-auth.json");
        let case: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let messages = case["messages"].as_array().unwrap();
        let mut played = 0;
        for (at, message) in messages.iter().enumerate() {
            let mut payload = Payload::raw(
                message["type"].as_str().unwrap(),
                message["body"].to_string(),
            );
            if message["dir"] == "C->S stream" {
                it.desk.handle(
                    it.now,
                    Event::Streamed {
                        link,
                        stream,
                        at: UNIX_EPOCH + it.now,
                        payload,
                    },
                );
                continue;
            }
            if message["dir"] != "C->S unary" {
                continue;
            }
            let told = messages[at..]
                .iter()
                .find(|it| it["dir"] == "S->C unary")
                .unwrap();
            let words = told["body"]["message"].as_str().unwrap_or_default();
            let token = if words.contains("expired") {
                expired.clone()
            } else if words.contains("authorization") {
                it.token("weak", "x")
            } else {
                it.token("nacos", "labPassw0rd")
            };
            let headers = message["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| {
                    (
                        name.clone(),
                        value
                            .as_str()
                            .unwrap()
                            .replace("LAB.TOKEN.redacted", &token),
                    )
                });
            payload.metadata.as_mut().unwrap().headers.extend(headers);
            let at = UNIX_EPOCH + it.now;
            let Effect::Reply(_, reply) = it.until_answered(|ticket| Event::Called {
                link,
                ticket,
                at,
                payload,
            }) else {
                panic!("over gRPC");
            };
            let body: Value = serde_json::from_slice(reply.body()).unwrap();
            // There is no such configuration here, which is known only to who may ask.
            let asked = message["type"] == "ConfigQueryRequest" && words.is_empty();
            assert_eq!(reply.kind(), told["type"], "{message}");
            for key in ["resultCode", "errorCode", "message", "success"] {
                if !asked {
                    assert_eq!(body[key], told["body"][key], "{message}: {body}");
                }
            }
            assert_ne!((asked, &body["errorCode"]), (true, &Value::from(403)));
            played += 1;
        }
        assert!(played > 10, "{played}");
    }
}

/// A folder with a file of users, and the registry that reads it.
struct Asked {
    folder: tempfile::TempDir,
    port: u16,
}

impl Asked {
    fn with(users: &str) -> Self {
        let it = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
        };
        it.write(users);
        it
    }

    fn file(&self) -> String {
        self.folder.path().join("users").display().to_string()
    }

    fn write(&self, users: &str) {
        let aside = self.folder.path().join("aside");
        fs::write(&aside, users).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(aside, self.file()).unwrap();
    }

    fn start(&self, flags: &[&str]) -> Registry {
        let file = self.file();
        let mut all = vec!["--auth", &file];
        all.extend(flags);
        Registry::start_with(self.port, &all)
    }

    /// Host, port and health of what is listed, for `reader` with the password `x`.
    fn listed(&self, service: &str) -> Result<usize, String> {
        let path =
            format!("/nacos/v1/ns/instance/list?serviceName={service}&username=reader&password=x");
        let list: Value =
            serde_json::from_str(&http(self.port, "GET", &path, "")?).map_err(|e| e.to_string())?;
        let hosts = list["hosts"].as_array().ok_or("no hosts")?;
        Ok(hosts.iter().filter(|host| host["healthy"] == true).count())
    }
}

fn login(port: u16, user: &str, password: &str) -> Result<String, String> {
    let body = http(
        port,
        "POST",
        "/nacos/v1/auth/login",
        &format!("username={user}&password={password}"),
    )?;
    let body: Value = serde_json::from_str(&body).map_err(|e| e.to_string())?;
    Ok(body["accessToken"].as_str().unwrap().to_owned())
}

#[test]
fn a_world_readable_or_wrong_users_file_is_refused_with_the_next_step() {
    let it = Asked::with("ann:canary admin\nbob:canary what\n");
    let run = || {
        let output = outrigger()
            .args(["dev", "--listen", "127.0.0.1:0", "--auth", &it.file()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", said(&output));
        let told = said(&output);
        assert!(!told.contains("canary"), "{told}");
        told
    };
    let told = run();
    assert!(
        told.contains(":2:12: bob: this word says nothing"),
        "{told}"
    );
    fs::set_permissions(it.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let told = run();
    assert!(
        told.contains("others may read or change it (mode 0644); chmod 600"),
        "{told}"
    );
    fs::remove_file(it.file()).unwrap();
    assert!(run().contains("cannot be read"));
    let both = outrigger()
        .arg("dev")
        .env("OUTRIGGER_DEV_AUTH", "a")
        .env("OUTRIGGER_DEV_USERS", "b")
        .output()
        .unwrap();
    assert_eq!(both.status.code(), Some(78));
}

#[test]
fn beyond_loopback_it_listens_with_auth_and_else_says_what_to_say() {
    let it = Asked::with("ann:x admin\n");
    let listen = format!("0.0.0.0:{}", it.port);
    let refused = outrigger()
        .args(["dev", "--listen", &listen])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(
        said(&refused).contains("say who may (--auth FILE), or that everybody may (--open)"),
        "{}",
        said(&refused)
    );
    let mut command = outrigger();
    command
        .args(["dev", "--listen", &listen])
        .env("OUTRIGGER_DEV_USERS", "ann:x admin")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _running = Process::start(&mut command);
    until("it asks", LONG, || {
        match http(
            it.port,
            "GET",
            "/nacos/v1/ns/service/list?pageNo=1&pageSize=1",
            "",
        ) {
            Err(told) if told.contains(" 403 ") && told.contains("user not found!") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    login(it.port, "ann", "x").unwrap();
}

#[test]
fn users_are_read_again_when_the_file_changes_and_on_hup_and_stay_when_it_is_wrong() {
    let it = Asked::with("ann:one admin\n");
    let registry = it.start(&["--faults"]);
    let token = login(it.port, "ann", "one").unwrap();
    it.write("ann:two admin\n");
    until("the new password is right", LONG, || {
        login(it.port, "ann", "two")
    });
    assert!(login(it.port, "ann", "one").is_err());
    it.write("ann:three\n");
    registry.process.signal(Signal::SIGHUP);
    stays(
        "a wrong file changes nothing",
        Duration::from_millis(500),
        || login(it.port, "ann", "two").map(drop),
    );
    it.write("bob:x *:r\n");
    registry.process.signal(Signal::SIGHUP);
    until("ann is nobody", LONG, || {
        match http(
            it.port,
            "GET",
            &format!("/v1/ns/service/list?pageNo=1&pageSize=1&accessToken={token}"),
            "",
        ) {
            Err(told) if told.contains("authorization failed!") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // What is no call of Nacos is the administrators'.
    let bob = login(it.port, "bob", "x").unwrap();
    for shown in ["", &format!("accessToken={bob}")] {
        let faults = http(
            it.port,
            "POST",
            &format!("/outrigger/faults?delay=1s&{shown}"),
            "",
        );
        assert!(faults.unwrap_err().contains(" 403 "), "{shown}");
    }
    it.write("ann:x admin\n");
    let ann = until("ann is back", LONG, || login(it.port, "ann", "x"));
    http(
        it.port,
        "POST",
        &format!("/outrigger/faults?clear&accessToken={ann}"),
        "",
    )
    .unwrap();
}

#[test]
fn tokens_outlive_a_restart_when_the_file_has_their_key() {
    let it = Asked::with("reader:x *:r\n@token-key MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n");
    let list = |token: &str| {
        http(
            it.port,
            "GET",
            &format!("/v1/ns/service/list?pageNo=1&pageSize=1&accessToken={token}"),
            "",
        )
    };
    let registry = it.start(&[]);
    let token = login(it.port, "reader", "x").unwrap();
    list(&token).unwrap();
    drop(registry);
    let registry = it.start(&[]);
    list(&token).unwrap();
    drop(registry);
    it.write("reader:x *:r\n");
    let _registry = it.start(&[]);
    assert!(list(&token).unwrap_err().contains("Invalid signature"));
}

#[test]
fn many_logins_with_an_expensive_hash_hold_up_nobody_else() {
    let it = Asked::with(&format!("ann:{DEAR} admin\nreader:x *:r\n"));
    let _registry = it.start(&[]);
    let port = it.port;
    let attack: Vec<_> = (0..100)
        .map(|i| thread::spawn(move || login(port, "ann", &format!("guess-{i}")).unwrap_err()))
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        http(port, "GET", "/nacos/v1/console/server/state", "").unwrap();
        slowest = slowest.max(began.elapsed());
    }
    let told: Vec<String> = attack.into_iter().map(|it| it.join().unwrap()).collect();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(
        told.iter().all(|told| told.contains(" 403 ")
            || told.contains(" 503 ")
            || told.contains("temporarily")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|told| told.contains("this registry keeps at most")),
        "{told:?}"
    );
}

/// Plays an agent with a password against a registry that asks, for several lives of a token.
fn agent_stays_listed(transport: &str, like: &str) {
    let it = Asked::with(&format!(
        "svc:{CHEAP} public:rw\nreader:x *:r\n@token-ttl 3s\n"
    ));
    let _registry = it.start(&["--like", like]);
    let app = App::start();
    let mut agent = Agent::prepare(
        &[format!("http://127.0.0.1:{}", it.port)],
        &format!(
            "  transport: {transport}\n  auth: {{ username: svc, password_file: PASSWORD_FILE }}\n"
        ),
    );
    let settings = agent.read("outrigger.yaml");
    let settings = settings.replace(
        "PASSWORD_FILE",
        &agent.path("password").display().to_string(),
    );
    agent.write("outrigger.yaml", &settings);
    agent.write("password", "wrong\n");
    agent.write(
        "conf.d/orders.yaml",
        &format!("services:\n  - name: orders\n    port: {}\n    heartbeat: {{ interval: 500ms, timeout: 1500ms, delete_after: 3s }}\n    probe: {{ tcp: {{}}, interval: 100ms }}\n", app.port),
    );
    agent.start();
    stays(
        "nobody with a wrong password is listed",
        Duration::from_millis(700),
        || match it.listed("orders") {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    agent.write("password", "secret\n");
    until("it is listed with the right one", LONG, || {
        match it.listed("orders") {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}; {:?}", agent.admin("GET", "/status"))),
        }
    });
    stays(
        "it is listed while tokens end and are renewed",
        Duration::from_secs(10),
        || match it.listed("orders") {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    let path = "/nacos/v1/cs/configs?dataId=none&group=DEFAULT_GROUP&username=svc&password=secret";
    assert!(
        http(it.port, "GET", path, "")
            .unwrap_err()
            .contains("config data not exist")
    );
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    assert_eq!(
        it.listed("orders"),
        Ok(0),
        "with a token that is still good it left"
    );
    let log = agent.read("agent.log");
    assert!(!log.contains("secret") && !log.contains("eyJ"), "{log}");
}

#[test]
fn an_agent_with_a_password_stays_listed_over_http_while_its_tokens_end() {
    agent_stays_listed("http", "1.4");
}

#[test]
fn an_agent_with_a_password_stays_listed_over_grpc_while_its_tokens_end() {
    agent_stays_listed("grpc", "2.5");
}

#[test]
fn an_agent_with_a_password_finds_the_transport_of_3_0_by_itself() {
    agent_stays_listed("auto", "3.0");
}

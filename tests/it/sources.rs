//! Configurations that are no file as they are: several through a template, encrypted ones, those of namespaces, betas and tags.

use crate::support::{Agent, LONG, Registry, form, http, run_as, stays, until};
use outrigger::nacos::wire;
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

const TRANSPORTS: [&str; 2] = ["http", "grpc"];

/// A registry, and an agent before it that speaks this.
fn house(transport: &str) -> (Registry, Agent) {
    let registry = Registry::start();
    let agent = before(&registry, transport, "");
    (registry, agent)
}

fn before(registry: &Registry, transport: &str, more: &str) -> Agent {
    let server = format!("http://127.0.0.1:{}", registry.port);
    Agent::prepare(&[server], &format!("  transport: {transport}\n{more}"))
}

/// Publishes with further words and headers; `\r\n` before the empty line is the caller's.
fn publish(registry: &Registry, words: &str, content: &str, header: &str) {
    use std::io::{Read as _, Write as _};
    let body = format!("group=DEFAULT_GROUP&{words}&content={}", form(content));
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let request = format!(
        "POST /nacos/v1/cs/configs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains(" 200 ") && answer.ends_with("true"),
        "{answer}"
    );
}

fn until_file(agent: &Agent, name: &str, content: &str) {
    until(&format!("{name} is {content:?}"), LONG, || {
        let text = agent.read(name);
        (text == content).then_some(()).ok_or(text)
    });
}

/// Waits until the first configuration is in this state with a reason that has these words; answers it.
fn until_reason(agent: &Agent, state: &str, words: &str) -> Value {
    until(&format!("{state}: {words}"), LONG, || {
        let status = agent.status()?;
        let one = &status["configs"][0];
        let reason = one["reason"].as_str().unwrap_or_default();
        (one["state"] == state && reason.contains(words))
            .then(|| one.clone())
            .ok_or_else(|| one.to_string())
    })
}

#[test]
fn several_configurations_are_one_file_that_follows_each_of_them() {
    for transport in TRANSPORTS {
        let (registry, mut agent) = house(transport);
        let (at, reloads) = (agent.path("app.env"), agent.path("reloads"));
        agent.write(
            "conf.d/app.j2",
            "URL={{ db.url | quote(\"shell\") }}\nPOOL={{ db.pool.size }}\nBETA={{ flags.beta }}\nOTHER={{ other[\"a.b\"] }}\n",
        );
        agent.write(
            "conf.d/app.yaml",
            &format!(
                "configs:\n  - path: {}\n    template: app.j2\n    sources:\n      db: {{ data_id: db.yaml, group: DB, namespace: dev }}\n      flags: flags.json\n      other: settings\n    reload: {{ exec: [sh, -c, \"echo x >> {}\"], {} }}\n",
                at.display(),
                reloads.display(),
                run_as(),
            ),
        );
        let db = |content: &str| {
            let words = format!(
                "dataId=db.yaml&group=DB&tenant=dev&content={}",
                form(content)
            );
            http(registry.port, "POST", "/nacos/v1/cs/configs", &words).unwrap();
        };
        registry.publish("flags.json", r#"{"beta": true}"#);
        // The name says nothing, the registry does.
        publish(&registry, "dataId=settings&type=properties", "a.b = c", "");
        agent.start();
        let missing = until_reason(&agent, "missing", "db (dev/DB/db.yaml)");
        assert_eq!(missing["data_id"], "db.yaml + flags.json + settings");
        assert_eq!(missing["sources"][0]["namespace"], "dev");
        assert!(!at.exists());
        db("url: jdbc:x?a=b&c\npool: { size: 20 }\n");
        let whole = |pool: &str| format!("URL='jdbc:x?a=b&c'\nPOOL={pool}\nBETA=true\nOTHER=c\n");
        until_file(&agent, "app.env", &whole("20"));
        until_file(&agent, "reloads", "x\n");
        db("url: [\n");
        until_reason(
            &agent,
            "rejected",
            "db (dev/DB/db.yaml): not valid yaml: line ",
        );
        assert_eq!(agent.read("app.env"), whole("20"));
        db("url: jdbc:x?a=b&c\npool: { size: 30 }\n");
        until_file(&agent, "app.env", &whole("30"));
        until_file(&agent, "reloads", "x\nx\n");
        // The template is another one: no configuration has changed.
        agent.write("conf.d/app.j2", "{{ db.pool.size }} {{ raw(\"flags\") }}\n");
        until_file(&agent, "app.env", "30 {\"beta\": true}\n");
        for name in ["db.yaml", "flags.json"] {
            let said = agent
                .command(&["explain", "config", name])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(
                said.contains("app.env") && said.contains("dev/DB/db.yaml"),
                "{name}: {said}"
            );
        }
    }
}

#[test]
fn without_the_registry_several_configurations_are_rendered_from_what_was_kept() {
    for transport in TRANSPORTS {
        let (registry, mut agent) = house(transport);
        let at = agent.path("made");
        agent.write("conf.d/a.j2", "{{ a.x }}-{{ b.x }}\n");
        agent.write(
            "conf.d/a.yaml",
            &format!(
                "configs: [{{ path: {}, template: a.j2, sources: {{ a: a.yaml, b: b.yaml }} }}]\n",
                at.display()
            ),
        );
        registry.publish("a.yaml", "x: 1\n");
        registry.publish("b.yaml", "x: 2\n");
        agent.start();
        until_file(&agent, "made", "1-2\n");
        agent.until_state("configs", "a.yaml + b.yaml", "applied");
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        agent.ended(LONG);
        drop(registry);
        fs::remove_file(&at).unwrap();
        agent.write("conf.d/a.j2", "{{ b.x }}+{{ a.x }}\n");
        agent.start();
        until_file(&agent, "made", "2+1\n");
        until_reason(&agent, "applied", "snapshot");
    }
}

#[test]
fn one_name_in_two_namespaces_is_two_files() {
    for transport in TRANSPORTS {
        let (registry, mut agent) = house(transport);
        let entry = |name: &str, namespace: &str| {
            let at = agent.path(name);
            format!(
                "  - {{ data_id: a, path: {}, namespace: {namespace} }}\n",
                at.display()
            )
        };
        let all = format!("configs:\n{}{}", entry("dev", "dev"), entry("prod", "prod"));
        agent.write("conf.d/a.yaml", &all);
        let publish = |tenant: &str, content: &str| {
            let words = format!("dataId=a&group=DEFAULT_GROUP&tenant={tenant}&content={content}");
            http(registry.port, "POST", "/nacos/v1/cs/configs", &words).unwrap();
        };
        publish("dev", "one");
        publish("prod", "two");
        agent.start();
        until_file(&agent, "dev", "one");
        until_file(&agent, "prod", "two");
        publish("dev", "three");
        until_file(&agent, "dev", "three");
        assert_eq!(agent.read("prod"), "two");
    }
}

#[test]
fn a_beta_reaches_the_agents_with_its_addresses_and_a_tag_those_that_carry_it() {
    for transport in TRANSPORTS {
        let (registry, mut plain) = house(transport);
        let mut tagged = before(&registry, transport, "  config_tag: blue\n");
        for agent in [&plain, &tagged] {
            let at = agent.path("file");
            let entry = format!("configs: [{{ data_id: a, path: {} }}]\n", at.display());
            agent.write("conf.d/a.yaml", &entry);
        }
        registry.publish("a", "formal");
        publish(&registry, "dataId=a&tag=blue", "tagged", "");
        plain.start();
        tagged.start();
        until_file(&plain, "file", "formal");
        until_file(&tagged, "file", "tagged");
        // While they listen.
        publish(&registry, "dataId=a&tag=blue", "tagged again", "");
        until_file(&tagged, "file", "tagged again");
        publish(
            &registry,
            "dataId=a",
            "beta of others",
            "betaIps: 10.9.8.7\r\n",
        );
        let is = |agent: &Agent, content: &str| {
            let text = agent.read("file");
            (text == content).then_some(()).ok_or(text)
        };
        stays("the file", Duration::from_secs(1), || is(&plain, "formal"));
        publish(&registry, "dataId=a", "beta", "betaIps: 127.0.0.1\r\n");
        until_file(&plain, "file", "beta");
        // A beta is nearer than a tag.
        until_file(&tagged, "file", "beta");
        let stop = "/nacos/v1/cs/configs?beta=true&dataId=a&group=DEFAULT_GROUP&tenant=";
        http(registry.port, "DELETE", stop, "").unwrap();
        until_file(&plain, "file", "formal");
        until_file(&tagged, "file", "tagged again");
    }
}

/// The descriptor of an encrypted configuration; what is secret of it is `hunter2`.
fn sealed(agent: &Agent, script: &str, more: &str) -> String {
    agent.write("unseal", script);
    format!(
        "configs:\n  - data_id: cipher-rot-app.yaml\n    path: {}\n    decrypt: {{ exec: [sh, {}], {}{more} }}\n",
        agent.path("clear").display(),
        agent.path("unseal").display(),
        run_as(),
    )
}

const UNSEAL: &str = "test \"$OUTRIGGER_DATA_KEY\" = sealed-key-0123 || exit 9\nbase64 -d\n";

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn publish_sealed(registry: &Registry, text: &str) {
    let text = base64(text);
    publish(
        registry,
        "dataId=cipher-rot-app.yaml&encryptedDataKey=sealed-key-0123",
        &text,
        "",
    );
}

/// That no file below the agent's folder has these words but the target.
fn is_nowhere_else(agent: &Agent, words: &str) {
    let mut folders = vec![agent.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() && path != agent.path("clear") {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                assert!(!text.contains(words), "{}: {text}", path.display());
            }
        }
    }
}

#[test]
fn an_encrypted_configuration_is_clear_in_its_file_and_nowhere_else() {
    for transport in TRANSPORTS {
        let (registry, mut agent) = house(transport);
        let descriptor = sealed(&agent, UNSEAL, "");
        agent.write("conf.d/a.yaml", &descriptor);
        publish_sealed(&registry, "password: hunter2\n");
        agent.start();
        until_file(&agent, "clear", "password: hunter2\n");
        let mode = fs::metadata(agent.path("clear"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        agent.until_state("configs", "cipher-rot-app.yaml", "applied");
        publish_sealed(&registry, "password: hunter22\n");
        until_file(&agent, "clear", "password: hunter22\n");
        // What `status` has is the registry's; with it the snapshot is kept.
        let sealed = wire::md5_hex(base64("password: hunter22\n").as_bytes());
        until("the MD5 is that of what is encrypted", LONG, || {
            let md5 = agent.status()?["configs"][0]["md5"].to_string();
            md5.contains(&sealed).then_some(()).ok_or(md5)
        });
        assert!(!agent.status().unwrap().to_string().contains("hunter2"));
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        agent.ended(LONG);
        is_nowhere_else(&agent, "hunter2");
        // Without the registry it is decrypted again from what was kept.
        drop(registry);
        fs::remove_file(agent.path("clear")).unwrap();
        agent.start();
        until_file(&agent, "clear", "password: hunter22\n");
        is_nowhere_else(&agent, "hunter2");
    }
}

#[test]
fn a_decrypt_command_that_fails_hangs_or_says_too_much_keeps_the_last_good_file() {
    let (registry, mut agent) = house("http");
    let descriptor = sealed(&agent, UNSEAL, ", timeout: 500ms");
    agent.write(
        "conf.d/a.yaml",
        &format!("{descriptor}    max_size: 1000\n"),
    );
    publish_sealed(&registry, "password: hunter2\n");
    agent.start();
    until_file(&agent, "clear", "password: hunter2\n");
    for (script, words) in [
        (
            "echo hunter2; echo the key service is away >&2; exit 3\n",
            "exit status 3: the key service is away",
        ),
        ("echo hunter2; sleep 100\n", "no end within 500ms"),
        ("yes hunter2\n", "more than 1000 bytes come out"),
        (
            "echo $OUTRIGGER_DATA_KEY >&2; exit 1\n",
            "exit status 1: [data key]",
        ),
    ] {
        agent.write("unseal", script);
        publish_sealed(&registry, &format!("{words}\n"));
        let one = until_reason(&agent, "rejected", words);
        assert!(!one.to_string().contains("hunter2"), "{one}");
        assert_eq!(agent.read("clear"), "password: hunter2\n");
    }
    // It is tried again by itself.
    agent.write("unseal", UNSEAL);
    until_file(&agent, "clear", "exit status 1: [data key]\n");
    agent.until_state("configs", "cipher-rot-app.yaml", "applied");
    let log = agent.read("agent.log");
    assert!(
        !log.contains("hunter2") && !log.contains("sealed-key-0123"),
        "{log}"
    );
}

#[test]
fn an_encrypted_configuration_that_nobody_decrypts_is_an_error_unless_it_is_wanted_so() {
    let (registry, mut agent) = house("http");
    let at = agent.path("file");
    let entry = |more: &str| {
        format!(
            "configs: [{{ data_id: cipher-a, path: {}{more} }}]\n",
            at.display()
        )
    };
    agent.write("conf.d/a.yaml", &entry(""));
    let said = agent.command(&["check"]).output().unwrap();
    assert!(!said.status.success());
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.contains("decrypt: none"), "{said}");
    agent.write("conf.d/a.yaml", &entry(", decrypt: none"));
    registry.publish("cipher-a", "sealed");
    agent.start();
    until_file(&agent, "file", "sealed");
}

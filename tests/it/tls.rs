//! TLS towards the registry, over HTTP and over gRPC: who is believed, who is shown what, and files that are exchanged.

use crate::bad::{Bad, ok};
use crate::guard::{refused, until_unreachable};
use crate::support::{Agent, LONG, Registry, stays, until};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde_json::Value;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{io::copy_bidirectional, net::TcpStream, runtime, sync::watch};
use tokio_rustls::TlsAcceptor;

/// A certificate and its key, in PEM.
#[derive(Clone)]
struct Pair {
    cert: String,
    key: String,
}

impl Pair {
    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }
}

/// A certificate authority.
struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        }
    }

    fn sign(&self, name: &str) -> Pair {
        self.sign_with(CertificateParams::new([name.to_owned()]).unwrap())
    }

    fn sign_with(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// What came through a door.
#[derive(Clone, Debug, PartialEq)]
struct Guest {
    /// The protocol both agreed upon.
    speaks: String,
    /// The client's certificate.
    shows: Option<CertificateDer<'static>>,
}

/// TLS in front of a registry's two ports: shakes hands and passes on what is inside.
struct Door {
    port: u16,
    /// From that port to the one of gRPC.
    offset: u16,
    own: watch::Sender<Arc<ServerConfig>>,
    guests: Arc<Mutex<Vec<Guest>>>,
}

impl Door {
    /// A door with a certificate; whoever comes must show one of `clients`, if there is such an authority.
    fn to(registry: &Registry, own: &Pair, clients: Option<&Authority>) -> Self {
        let mut ears = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        ears.sort_by_key(|ear| ear.local_addr().unwrap().port());
        let [http, grpc] = ears.each_ref().map(|ear| ear.local_addr().unwrap().port());
        let door = Self {
            port: http,
            offset: grpc - http,
            own: watch::Sender::new(config(own, clients)),
            guests: Arc::default(),
        };
        let ports = [registry.port, registry.port + 1000];
        for ((ear, port), speaks) in ears.into_iter().zip(ports).zip(["http/1.1", "h2"]) {
            let (own, guests) = (door.own.subscribe(), Arc::clone(&door.guests));
            std::thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime
                    .unwrap()
                    .block_on(open(ear, port, speaks, own, guests));
            });
        }
        door
    }

    /// Another certificate, or other clients; whoever is inside is thrown out.
    fn change(&self, own: &Pair, clients: Option<&Authority>) {
        self.guests.lock().unwrap().clear();
        self.own.send_replace(config(own, clients));
    }

    fn guests(&self) -> Vec<Guest> {
        self.guests.lock().unwrap().clone()
    }

    /// An agent that keeps one service at the registry behind this door; `@` in `more` is its folder.
    fn agent(&self, transport: &str, more: &str, files: &[(&str, &str)]) -> Agent {
        let agent = asking(
            &format!("https://127.0.0.1:{}", self.port),
            &format!(
                "  transport: {transport}\n  grpc_offset: {}\n{more}",
                self.offset
            ),
            files,
        );
        agent.write(
            "conf.d/a.yaml",
            "services: [{ name: orders, port: 1, probe: none, address: 127.0.0.1, heartbeat: { interval: 200ms } }]\n",
        );
        agent
    }
}

fn config(own: &Pair, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let ca = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
            roots.add(ca).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(vec![own.der()], key).unwrap())
}

async fn open(
    ear: TcpListener,
    port: u16,
    speaks: &'static str,
    own: watch::Receiver<Arc<ServerConfig>>,
    guests: Arc<Mutex<Vec<Guest>>>,
) {
    ear.set_nonblocking(true).unwrap();
    let ear = tokio::net::TcpListener::from_std(ear).unwrap();
    loop {
        let (stream, _) = ear.accept().await.unwrap();
        let (mut own, guests) = (own.clone(), Arc::clone(&guests));
        tokio::spawn(async move {
            let mut config = ServerConfig::clone(&own.borrow_and_update());
            config.alpn_protocols = vec![speaks.into()];
            let shaken = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
            // Whom it does not take has been told.
            let Ok(mut stream) = shaken else { return };
            let session = stream.get_ref().1;
            let shows = session.peer_certificates();
            guests.lock().unwrap().push(Guest {
                speaks: String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into(),
                shows: shows.map(|shown| shown[0].clone().into_owned()),
            });
            let mut inside = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut stream, &mut inside) => {}
                _ = own.changed() => {}
            }
        });
    }
}

/// An agent, not started, that asks a server; `@` in `more` is its folder, in which are `files`.
fn asking(url: &str, more: &str, files: &[(&str, &str)]) -> Agent {
    let more = format!("  connect_timeout: 2s\n  request_timeout: 500ms\n{more}");
    let agent = Agent::prepare(&[url.to_owned()], &more);
    let at = agent.folder.path().display().to_string();
    let settings = agent.read("outrigger.yaml").replace('@', &at);
    agent.write("outrigger.yaml", &settings);
    for (name, text) in files {
        agent.write(name, text);
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(agent.path(name), mode).unwrap();
    }
    agent
}

fn until_connected(agent: &Agent, transport: &str) -> Value {
    until(&format!("it is connected over {transport}"), LONG, || {
        let registry = agent.status()?["registry"].clone();
        match registry["state"] == "connected" && registry["transport"] == transport {
            true => Ok(registry),
            false => Err(registry.to_string()),
        }
    })
}

/// What a transport speaks inside TLS.
const SPEAKS: [(&str, &str); 2] = [("grpc", "h2"), ("http", "http/1.1")];
const BOTH: &str = "  tls: { ca: @/ca.pem, cert: @/cert.pem, key: @/key.pem }\n";

#[test]
fn a_registry_behind_tls_is_spoken_to_over_grpc_and_over_http_with_one_ca() {
    let (registry, ours) = (Registry::start(), Authority::new("ours"));
    let door = Door::to(&registry, &ours.sign("127.0.0.1"), None);
    for (transport, speaks) in [SPEAKS[0], SPEAKS[1], ("auto", "h2")] {
        door.guests.lock().unwrap().clear();
        let mut agent = door.agent(
            transport,
            "  tls: { ca: @/ca.pem }\n",
            &[("ca.pem", &ours.pem)],
        );
        agent.start();
        agent.until_state("services", "orders", "registered");
        registry.until_listed("orders", 1, LONG);
        let guest = Guest {
            speaks: speaks.to_owned(),
            shows: None,
        };
        assert!(door.guests().contains(&guest), "{:?}", door.guests());
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        agent.ended(LONG);
    }
}

#[test]
fn what_is_wrong_with_a_servers_certificate_is_said_with_what_to_do() {
    let (registry, ours, theirs) = (
        Registry::start(),
        Authority::new("ours"),
        Authority::new("theirs"),
    );
    let mut expired = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2001, 1, 2);
    let all = [
        (
            theirs.sign("127.0.0.1"),
            "signed by nobody in registry.tls.ca; add its CA there",
        ),
        (
            ours.sign("other.example"),
            "is for other.example, not for 127.0.0.1; ask it by a name it has, or write that into registry.tls.server_name",
        ),
        (ours.sign_with(expired), "has expired"),
    ];
    for (own, words) in all {
        let door = Door::to(&registry, &own, None);
        for (transport, _) in SPEAKS {
            let mut agent = door.agent(
                transport,
                "  auth: { username: svc, password: canary }\n  tls: { ca: @/ca.pem }\n",
                &[("ca.pem", &ours.pem)],
            );
            agent.start();
            until_unreachable(&agent, &[words]);
        }
        assert_eq!(door.guests(), [], "nobody went in");
    }
}

#[test]
fn status_says_where_each_setting_of_tls_comes_from() {
    let ours = Authority::new("ours");
    let own = ours.sign("agent");
    let files = [
        ("ca.pem", &*ours.pem),
        ("cert.pem", &*own.cert),
        ("key.pem", &*own.key),
    ];
    let mut agent = asking("https://127.0.0.1:1", BOTH, &files)
        .env("OUTRIGGER_REGISTRY_TLS_SERVER_NAME", "Nacos.example");
    agent.start();
    let status = until("it answers", LONG, || agent.status());
    let at = agent.folder.path().display();
    // The line of `BOTH` in the settings.
    let file = format!("{at}/outrigger.yaml:5");
    for (key, value, origin) in [
        ("ca", format!("{at}/ca.pem"), &*file),
        ("cert", format!("{at}/cert.pem"), &*file),
        ("key", format!("{at}/key.pem"), &*file),
        (
            "server_name",
            "nacos.example".to_owned(),
            "variable OUTRIGGER_REGISTRY_TLS_SERVER_NAME",
        ),
    ] {
        let key = format!("registry.tls.{key}");
        let settings = status["settings"].as_array().unwrap();
        let found = settings.iter().find(|one| one["key"] == *key).unwrap();
        assert_eq!(found["value"], *value, "{found}");
        assert_eq!(found["origin"], *origin, "{found}");
    }
}

#[test]
fn server_name_takes_the_place_of_the_host_and_of_nothing_else() {
    let (registry, ours, theirs) = (
        Registry::start(),
        Authority::new("ours"),
        Authority::new("theirs"),
    );
    let named = "  tls: { ca: @/ca.pem, server_name: nacos.example }\n";
    let files = [("ca.pem", &*ours.pem)];
    let door = Door::to(&registry, &ours.sign("nacos.example"), None);
    let host = Door::to(&registry, &ours.sign("127.0.0.1"), None);
    let stranger = Door::to(&registry, &theirs.sign("nacos.example"), None);
    for (transport, _) in SPEAKS {
        let mut agent = door.agent(transport, named, &files);
        agent.start();
        until_connected(&agent, transport);
        let mut agent = host.agent(transport, named, &files);
        agent.start();
        until_unreachable(&agent, &["is for 127.0.0.1, not for nacos.example"]);
        let mut agent = stranger.agent(transport, named, &files);
        agent.start();
        until_unreachable(&agent, &["signed by nobody in registry.tls.ca"]);
    }
    assert_eq!((host.guests(), stranger.guests()), (vec![], vec![]));
}

#[test]
fn a_server_that_demands_a_client_certificate_gets_the_one_of_the_settings() {
    let (registry, ours, theirs) = (
        Registry::start(),
        Authority::new("ours"),
        Authority::new("theirs"),
    );
    let door = Door::to(&registry, &ours.sign("127.0.0.1"), Some(&ours));
    for (transport, speaks) in SPEAKS {
        let mut without = door.agent(
            transport,
            "  tls: { ca: @/ca.pem }\n",
            &[("ca.pem", &ours.pem)],
        );
        without.start();
        let words =
            "demands a client certificate; name one in registry.tls.cert and registry.tls.key";
        until_unreachable(&without, &[words]);
        let with = |pair: &Pair| {
            let files = [
                ("ca.pem", &*ours.pem),
                ("cert.pem", &*pair.cert),
                ("key.pem", &*pair.key),
            ];
            let mut agent = door.agent(transport, BOTH, &files);
            agent.start();
            agent
        };
        until_unreachable(
            &with(&theirs.sign("agent")),
            &["the server refuses the client certificate"],
        );
        let own = ours.sign("agent");
        let agent = with(&own);
        agent.until_state("services", "orders", "registered");
        let guest = Guest {
            speaks: speaks.to_owned(),
            shows: Some(own.der()),
        };
        assert!(door.guests().contains(&guest), "{:?}", door.guests());
    }
}

#[test]
fn files_that_are_exchanged_are_used_for_the_next_connection() {
    let registry = Registry::start();
    for (transport, speaks) in SPEAKS {
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        let door = Door::to(&registry, &old.sign("127.0.0.1"), Some(&old));
        let (first, second) = (old.sign("agent"), new.sign("agent"));
        let files = [
            ("ca.pem", &*old.pem),
            ("cert.pem", &*first.cert),
            ("key.pem", &*first.key),
        ];
        let mut agent = door.agent(transport, BOTH, &files);
        agent.start();
        agent.until_state("services", "orders", "registered");
        for (name, text) in [
            ("ca.pem", &new.pem),
            ("cert.pem", &second.cert),
            ("key.pem", &second.key),
        ] {
            agent.write(name, text);
        }
        door.change(&new.sign("127.0.0.1"), Some(&new));
        let guest = Guest {
            speaks: speaks.to_owned(),
            shows: Some(second.der()),
        };
        until("it comes with the new certificate", LONG, || {
            match door.guests() {
                guests if guests.contains(&guest) => Ok(()),
                guests => Err(format!("{guests:?}\n{}", agent.read("agent.log"))),
            }
        });
        until_connected(&agent, transport);
    }
}

#[test]
fn files_that_cannot_be_used_are_said_once_and_what_was_read_before_serves_on() {
    let (registry, ours) = (Registry::start(), Authority::new("ours"));
    let door = Door::to(&registry, &ours.sign("127.0.0.1"), Some(&ours));
    let (first, second) = (ours.sign("agent"), ours.sign("agent"));
    let files = [
        ("ca.pem", &*ours.pem),
        ("cert.pem", &*first.cert),
        ("key.pem", &*first.key),
    ];
    let mut agent = door.agent("http", BOTH, &files);
    agent.start();
    agent.until_state("services", "orders", "registered");
    // The certificate has come, its key has not.
    agent.write("cert.pem", &second.cert);
    let warnings = || {
        let log = agent.read("agent.log");
        let is_one = |line: &&str| line.contains("what was read before serves on");
        log.lines().filter(is_one).count()
    };
    until("it is said", LONG, || match warnings() {
        0 => Err(agent.read("agent.log")),
        _ => Ok(()),
    });
    let log = agent.read("agent.log");
    assert!(log.contains("name the key it was made with"), "{log}");
    door.change(&ours.sign("127.0.0.1"), Some(&ours));
    let comes_with = |pair: &Pair| {
        until("it comes in", LONG, || match door.guests() {
            guests if guests.iter().any(|g| g.shows == Some(pair.der())) => Ok(()),
            guests => Err(format!("{guests:?}\n{}", agent.read("agent.log"))),
        });
    };
    comes_with(&first);
    // Longer than the files are left alone between two looks.
    stays(
        "it is said once",
        Duration::from_millis(2500),
        || match warnings() {
            1 => Ok(()),
            _ => Err(agent.read("agent.log")),
        },
    );
    agent.write("key.pem", &second.key);
    comes_with(&second);
    until_connected(&agent, "http");
}

#[test]
fn a_client_certificate_that_cannot_be_used_stops_the_start() {
    let ours = Authority::new("ours");
    let (one, other) = (ours.sign("agent"), ours.sign("agent"));
    let all = [
        (
            "",
            &*one.key,
            "registry.tls.cert: @/cert.pem: holds no certificate in PEM",
        ),
        (
            &*one.cert,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "registry.tls.key: @/key.pem: holds no private key in PEM; an encrypted one must be decrypted first",
        ),
        (
            &*one.cert,
            &*other.key,
            "registry.tls.cert: @/cert.pem: cannot be used with the key in @/key.pem; name the key it was made with",
        ),
    ];
    for (cert, key, words) in all {
        let files = [("ca.pem", &*ours.pem), ("cert.pem", cert), ("key.pem", key)];
        let agent = asking("https://127.0.0.1:1", BOTH, &files);
        let (code, complaint) = refused(&agent, &["run"]);
        assert_eq!(code, Some(78), "{complaint}");
        let at = agent.folder.path().display().to_string();
        assert!(complaint.contains(&words.replace('@', &at)), "{complaint}");
    }
}

#[test]
fn a_key_that_everybody_can_read_is_warned_of_once() {
    let (registry, ours) = (Registry::start(), Authority::new("ours"));
    let door = Door::to(&registry, &ours.sign("127.0.0.1"), Some(&ours));
    let own = ours.sign("agent");
    for (mode, warnings) in [(0o644, 1), (0o640, 0)] {
        let files = [
            ("ca.pem", &*ours.pem),
            ("cert.pem", &*own.cert),
            ("key.pem", &*own.key),
        ];
        let mut agent = door.agent("grpc", BOTH, &files);
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(agent.path("key.pem"), mode).unwrap();
        agent.start();
        until_connected(&agent, "grpc");
        let log = agent.read("agent.log");
        let told = log.matches("everybody on this host can read it").count();
        assert_eq!(told, warnings, "{log}");
    }
}

#[test]
fn a_port_without_tls_is_named_as_such_and_never_spoken_to_in_clear() {
    let (registry, ours) = (Registry::start(), Authority::new("ours"));
    for (transport, _) in SPEAKS {
        let more = format!("  transport: {transport}\n  tls: {{ ca: @/ca.pem }}\n");
        let url = format!("https://127.0.0.1:{}", registry.port);
        let mut agent = asking(&url, &more, &[("ca.pem", &ours.pem)]);
        agent.start();
        until_unreachable(&agent, &["TLS on this port", "TLS spoken on this port"]);
    }
}

#[test]
fn https_never_falls_back_to_http() {
    let plain = Bad::start(|_| ok("{}"));
    let ours = Authority::new("ours");
    for (transport, _) in SPEAKS {
        let port: u16 = plain.url().rsplit(':').next().unwrap().parse().unwrap();
        // Both interfaces are there.
        let more = format!(
            "  transport: {transport}\n  grpc_offset: 1\n  auth: {{ username: svc, password: canary }}\n  tls: {{ ca: @/ca.pem }}\n"
        );
        let port = if transport == "grpc" { port - 1 } else { port };
        let url = format!("https://127.0.0.1:{port}");
        let mut agent = asking(&url, &more, &[("ca.pem", &ours.pem)]);
        agent.start();
        until_unreachable(&agent, &["127.0.0.1", "TLS"]);
    }
    let heard = plain.asked.lock().unwrap().join("\n");
    assert!(
        !heard.contains("HTTP/1.1") && !heard.contains("canary"),
        "{heard}"
    );
}

#[test]
fn a_bundle_takes_the_place_of_the_systems_store_and_no_keys_are_written_down() {
    let (registry, ours, theirs) = (
        Registry::start(),
        Authority::new("ours"),
        Authority::new("theirs"),
    );
    let alone = {
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        Pair {
            cert: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    };
    let mine = Door::to(&registry, &ours.sign("127.0.0.1"), None);
    let other = Door::to(&registry, &theirs.sign("127.0.0.1"), None);
    let itself = Door::to(&registry, &alone, None);
    let with_ca = "  tls: { ca: @/ca.pem }\n";
    for (transport, _) in SPEAKS {
        let come = |door: &Door, more: &str, system: &str| {
            let files = [("ca.pem", &*ours.pem), ("system.pem", system)];
            let agent = door.agent(transport, more, &files);
            let at = |name: &str| agent.path(name).display().to_string();
            let (store, keys) = (at("system.pem"), at("keys"));
            let mut agent = agent
                .env("SSL_CERT_FILE", &store)
                .env("SSLKEYLOGFILE", &keys);
            agent.start();
            agent
        };
        for (more, system) in [(with_ca, &theirs.pem), ("", &ours.pem)] {
            let agent = come(&mine, more, system);
            until_connected(&agent, transport);
            assert!(!agent.path("keys").exists());
        }
        let refused = come(&other, with_ca, &theirs.pem);
        until_unreachable(&refused, &["signed by nobody in registry.tls.ca"]);
        let words = "signed by nobody in the system's CA store; name its CA in registry.tls.ca";
        until_unreachable(&come(&mine, "", &theirs.pem), &[words]);
        until_unreachable(&come(&itself, with_ca, &ours.pem), &["certificate"]);
    }
    assert_eq!((other.guests(), itself.guests()), (vec![], vec![]));
}

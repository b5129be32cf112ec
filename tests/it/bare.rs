//! What a system that has nothing but the program must not lack: a CA store, above all.

use crate::support::{Agent, Registry, said};

/// An agent of `servers` on a system without any certificate.
fn without_a_store(servers: &[String]) -> Agent {
    Agent::prepare(servers, "")
        .env("SSL_CERT_FILE", "/nowhere/bundle.pem")
        .env("SSL_CERT_DIR", "/nowhere")
}

fn one_service(agent: &Agent) {
    agent.write(
        "conf.d/bare.yaml",
        "services: [ { name: bare, port: 9, probe: none, address: 127.0.0.1 } ]\n",
    );
}

#[test]
fn http_needs_no_ca_store() {
    let registry = Registry::start();
    let mut agent = without_a_store(&[format!("http://127.0.0.1:{}", registry.port)]);
    one_service(&agent);
    agent.start();
    agent.until_state("services", "bare", "registered");
}

#[test]
fn an_address_server_over_http_needs_no_ca_store() {
    let mut agent = without_a_store(&["http://127.0.0.1:1".to_owned()]);
    let settings = agent.read("outrigger.yaml").replace(
        "servers: [\"http://127.0.0.1:1\"]",
        "endpoint: \"http://127.0.0.1:1/nacos/serverlist\"",
    );
    agent.write("outrigger.yaml", &settings);
    one_service(&agent);
    agent.start();
    // Nobody answers there; that it asks at all is what is meant.
    agent.until_state("services", "bare", "unreachable");
}

#[cfg(feature = "tls")]
#[test]
fn https_without_a_ca_store_says_what_is_missing() {
    let agent = without_a_store(&["https://127.0.0.1:1".to_owned()]);
    let output = agent.command(&["run"]).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("registry.tls.ca"), "{said}");
}

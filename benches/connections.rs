//! The embedded registry under many gRPC connections: what one costs it, and how many pushes a second it sends.
//! `cargo bench --bench connections` (two open files for each connection: raise `ulimit -n`).
//!
//! Clients are in this process, on the same cores, so a rate is that of both together. Nothing here passes or fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    reason = "a benchmark that cannot go on stops, and says so; it measures real time"
)]

#[path = "process.rs"]
mod process;
#[path = "../tests/it/rpc.rs"]
mod rpc;

/// What the client of the tests takes from there.
mod support {
    pub(crate) const LONG: std::time::Duration = std::time::Duration::from_secs(60);
}

use process::{cpu, http, memory, registry};
use rpc::Client;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};
use tokio::sync::mpsc;

fn door(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port + 1000).into()
}

/// A service with `subscribers`, each on a connection of its own, changes `changes` times; a change is made when all have heard of
/// the one before.
async fn pushes(subscribers: usize, changes: u16) {
    let (process, port) = registry();
    let (heard, mut told) = mpsc::channel(subscribers);
    for _ in 0..subscribers {
        let mut client = Client::connect(door(port)).await;
        let mut stream = client.set_up("naming").await;
        client.subscribe("figures").await;
        let heard = heard.clone();
        tokio::spawn(async move {
            let _alive = client;
            // The end of the stream is the end of the registry.
            while let Ok(Some(_)) = stream.next_within(support::LONG).await {
                if heard.send(()).await.is_err() {
                    break;
                }
            }
        });
    }
    let (before, began) = (cpu(&process), Instant::now());
    for change in 0..changes {
        let path = format!(
            "/nacos/v1/ns/instance?serviceName=figures&ip=10.0.0.1&port=80&weight={}",
            change % 2 + 1
        );
        http(port, "POST", &path, "").unwrap();
        for _ in 0..subscribers {
            told.recv().await.unwrap();
        }
    }
    let (took, used) = (began.elapsed(), cpu(&process) - before);
    let count = subscribers as f64 * f64::from(changes);
    println!(
        "pushes to {subscribers} subscribers      {:.0} a second, acknowledged; {:.1} ms until all know of a change, {:.0} us of its CPU each",
        count / took.as_secs_f64(),
        took.as_secs_f64() * 1000.0 / f64::from(changes),
        used.as_secs_f64() * 1e6 / count
    );
}

/// So many clients with one instance and one subscription each.
async fn held(count: usize) {
    let (process, port) = registry();
    let (_, empty) = memory(&process);
    let (before, began) = (cpu(&process), Instant::now());
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = Client::connect(door(port)).await;
        let stream = client.set_up("naming").await;
        client
            .register(
                &format!("held-{}", number % 1000),
                u16::try_from(number).unwrap(),
            )
            .await;
        clients.push((client, stream));
    }
    let (took, used) = (began.elapsed(), cpu(&process) - before);
    let (resident, private) = memory(&process);
    println!(
        "{count} connections held, an instance each   came in {:.1} s ({:.0} us of its CPU each), {resident} kB resident, {:.1} kB private each",
        took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        (private - empty) as f64 / count as f64
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        pushes(1000, 50).await;
        held(9_900).await;
    });
}

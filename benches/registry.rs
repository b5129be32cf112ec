//! The embedded registry beside another one, under the same load in the same run: what a request costs, what is held, what it weighs.
//!
//! `cargo bench --bench registry -- PROGRAM ARGUMENT...` starts the other one so; `{port}`, `{grpc}` and `{dir}` in its words are
//! replaced. Without one, ours stands alone. Where `dev` takes `--data-dir`, publishing is measured with it too. Servers have one core
//! to themselves (`taskset`), the load another. Both run through all of it, and have turns: each figure is the median of the rounds,
//! and a ratio is the median of the rounds' ratios, with the least and the greatest of them. `ROUNDS`, `REQUESTS`, `OURS` (another
//! build to measure) and `ONLY` (of starts, requests, polls and instances) are read from the environment. Nothing here passes or fails.

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

use md5::{Digest as _, Md5};
use process::{Process, cpu, free_port, http, memory, ms, quantile, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// What the one beside ours is called.
const OTHER: &str = "the other";

/// How a server is started.
#[derive(Clone)]
struct Start {
    name: &'static str,
    words: Vec<String>,
    core: Option<usize>,
}

/// A server that answers.
struct Server {
    name: &'static str,
    process: Process,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Start {
    fn spawn(&self) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let fill = |word: &String| {
            word.replace("{port}", &port.to_string())
                .replace("{grpc}", &(port + 1000).to_string())
                .replace("{dir}", &folder.path().display().to_string())
        };
        let mut words: Vec<String> = Vec::new();
        if let Some(core) = self.core {
            words.extend(["taskset".to_owned(), "-c".to_owned(), core.to_string()]);
        }
        words.extend(self.words.iter().map(fill));
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Server {
            name: self.name,
            process: Process(child),
            port,
            _folder: folder,
        }
    }

    fn ready(&self) -> Server {
        let server = self.spawn();
        until(|| server.takes_one());
        server
    }
}

impl Server {
    /// Whether it takes a registration now.
    fn takes_one(&self) -> bool {
        let path = "/nacos/v1/ns/instance?serviceName=first&ip=10.0.0.1&port=80";
        http(self.port, "POST", path, "").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }
}

/// A request on a connection that stays open.
fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads one answer to its end; it must be a 200.
async fn answered(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    let mut wanted = None;
    loop {
        assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "closed");
        if wanted.is_none()
            && let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            assert!(
                text.starts_with("http/1.1 200"),
                "{}",
                String::from_utf8_lossy(buffer)
            );
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            // Who says no length ends with an empty chunk.
            wanted = Some(length.map(|length| head + 4 + length.trim().parse::<usize>().unwrap()));
        }
        match wanted {
            Some(Some(length)) if buffer.len() >= length => return,
            Some(None) if buffer.ends_with(b"0\r\n\r\n") => return,
            _ => {}
        }
    }
}

/// Answers a second, and microseconds of the server's CPU for one.
type Cost = (f64, f64);

/// Sends so many requests over `connections`, each of which has one under way.
async fn load(
    server: &Server,
    connections: u32,
    count: u32,
    make: &(dyn Fn(u32) -> Vec<u8> + Sync),
) -> Cost {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        streams.push(stream);
    }
    let each = count / connections;
    // Made before, so that the generator has little to do.
    let work: Vec<(TcpStream, Vec<Vec<u8>>)> = streams
        .into_iter()
        .enumerate()
        .map(|(nth, stream)| {
            let first = u32::try_from(nth).unwrap() * each;
            (stream, (first..first + each).map(make).collect())
        })
        .collect();
    let (before, began) = (cpu(&server.process), Instant::now());
    let mut all = JoinSet::new();
    for (mut stream, requests) in work {
        all.spawn(async move {
            let mut buffer = Vec::with_capacity(256 * 1024);
            for request in requests {
                stream.write_all(&request).await.unwrap();
                answered(&mut stream, &mut buffer).await;
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    let (took, used) = (began.elapsed(), cpu(&server.process) - before);
    let count = f64::from(each * connections);
    (count / took.as_secs_f64(), used.as_secs_f64() * 1e6 / count)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One kind of request to each server in turn, round after round.
async fn turns(
    what: &str,
    servers: &[&Server],
    (rounds, count): (usize, u32),
    make: &(dyn Fn(u32) -> Vec<u8> + Sync),
) {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); servers.len()];
    for server in servers {
        load(server, 16, count / 4, make).await;
    }
    for _ in 0..rounds {
        for (server, costs) in servers.iter().zip(&mut costs) {
            costs.push(load(server, 16, count, make).await);
        }
    }
    let mut line = format!("{what:<24}");
    for (server, costs) in servers.iter().zip(&costs) {
        let rate = median(&mut costs.iter().map(|cost| cost.0).collect::<Vec<_>>());
        let spent = median(&mut costs.iter().map(|cost| cost.1).collect::<Vec<_>>());
        line += &format!("  {} {rate:>7.0}/s {spent:>6.1} us", server.name);
    }
    if let [ours @ .., others] = &costs[..]
        && servers.last().is_some_and(|server| server.name == OTHER)
    {
        for (server, ours) in servers.iter().zip(ours) {
            let ratio = |of: fn(&Cost, &Cost) -> f64| {
                let mut all: Vec<f64> = ours.iter().zip(others).map(|(a, b)| of(a, b)).collect();
                let middle = median(&mut all);
                format!("{middle:.2} ({:.2} to {:.2})", all[0], all[all.len() - 1])
            };
            line += &format!(
                "\n    {}: rate x {}, CPU of the other / its own {}",
                server.name,
                ratio(|a, b| a.0 / b.0),
                ratio(|a, b| b.1 / a.1)
            );
        }
    }
    println!("{line}");
}

fn publish(data_id: &str, content: &str) -> Vec<u8> {
    let form = format!("dataId={data_id}&group=DEFAULT_GROUP&content={content}");
    request("POST /nacos/v1/cs/configs", "", &form)
}

const CONTENT: &str = "greeting%3A+hello%0A";

async fn requests(servers: &[&Server], disk: Option<&Server>, (rounds, count): (usize, u32)) {
    let instance = |n: u32| {
        let n = n % 1000;
        format!(
            "serviceName=figures-{}&ip=10.0.{}.{}&port=80",
            n % 10,
            n / 250,
            n % 250
        )
    };
    turns("register", servers, (rounds, count), &|n| {
        request(
            &format!("POST /nacos/v1/ns/instance?{}", instance(n)),
            "",
            "",
        )
    })
    .await;
    turns("light beat", servers, (rounds, count), &|n| {
        request(
            &format!("PUT /nacos/v1/ns/instance/beat?{}", instance(n)),
            "",
            "",
        )
    })
    .await;
    for server in servers {
        for n in 0..100 {
            // Nobody beats for them: they are listed for as long as this takes.
            let path = format!(
                "/nacos/v1/ns/instance?serviceName=hundred&ip=10.1.0.{n}&port=80&ephemeral=false"
            );
            http(server.port, "POST", &path, "").unwrap();
        }
        let list = http(
            server.port,
            "GET",
            "/nacos/v1/ns/instance/list?serviceName=hundred",
            "",
        );
        let hosts = list.unwrap().matches("\"ip\":").count();
        assert_eq!(hosts, 100, "{}", server.name);
    }
    turns("list of 100", servers, (rounds, count / 4), &|_| {
        request("GET /nacos/v1/ns/instance/list?serviceName=hundred", "", "")
    })
    .await;
    for server in servers {
        let form = format!(
            "dataId=read.yaml&group=DEFAULT_GROUP&content={}",
            CONTENT.repeat(64)
        );
        http(server.port, "POST", "/nacos/v1/cs/configs", &form).unwrap();
    }
    turns("config get, 1 KiB", servers, (rounds, count), &|_| {
        request(
            "GET /nacos/v1/cs/configs?dataId=read.yaml&group=DEFAULT_GROUP",
            "",
            "",
        )
    })
    .await;
    let write = |n: u32| {
        let content = format!("{n}%3A+{}", CONTENT.repeat(64));
        publish(&format!("write-{}.yaml", n % 100), &content)
    };
    let few = (rounds, count / 4);
    turns("config publish, 1 KiB", servers, few, &write).await;
    if let Some(disk) = disk {
        let with: Vec<&Server> = [disk].into_iter().chain(servers.get(1).copied()).collect();
        turns("  kept on disk", &with, few, &write).await;
    }
}

/// Holds so many long polls, and says what one costs.
async fn polls(start: &Start, count: usize) {
    let server = start.ready();
    http(
        server.port,
        "POST",
        "/nacos/v1/cs/configs",
        "dataId=held.yaml&group=DEFAULT_GROUP&content=held",
    )
    .unwrap();
    let md5: String = Md5::digest(b"held")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (_, empty) = memory(&server.process);
    let (before, began) = (cpu(&server.process), Instant::now());
    let body = format!("Listening-Configs=held.yaml%02DEFAULT_GROUP%02{md5}%01");
    let ask = request(
        "POST /nacos/v1/cs/configs/listener",
        "User-Agent: Nacos-Java-Client:v2.5.1\r\nLong-Pulling-Timeout: 120000\r\n",
        &body,
    );
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))
            .await
            .unwrap();
        stream.write_all(&ask).await.unwrap();
        held.push(stream);
    }
    // The last one is held when a request that came after it is answered.
    until(|| server.takes_one());
    sleep(Duration::from_millis(500));
    let answered = held
        .iter()
        .filter(|stream| stream.try_read(&mut [0; 1]).is_ok())
        .count();
    let (took, used) = (began.elapsed(), cpu(&server.process) - before);
    let (resident, private) = memory(&server.process);
    println!(
        "{:<10} {} long polls held ({answered} answered at once): came in {}, {:.1} us of its CPU each; {resident} kB resident, {:.1} kB private each",
        server.name,
        count - answered,
        ms(took),
        used.as_secs_f64() * 1e6 / count as f64,
        (private.saturating_sub(empty)) as f64 / (count - answered).max(1) as f64
    );
    let (before, began) = (cpu(&server.process), Instant::now());
    http(
        server.port,
        "POST",
        "/nacos/v1/cs/configs",
        "dataId=held.yaml&group=DEFAULT_GROUP&content=changed",
    )
    .unwrap();
    for stream in &mut held {
        // Whoever was answered before has nothing to wait for.
        if tokio::time::timeout(Duration::from_secs(20), stream.readable())
            .await
            .is_err()
        {
            println!("{:<10} does not tell all of them", server.name);
            break;
        }
    }
    println!(
        "{:<10} all told of a change in {}, {:.1} us of its CPU each",
        server.name,
        ms(began.elapsed()),
        (cpu(&server.process) - before).as_secs_f64() * 1e6 / count as f64
    );
}

/// Registers so many instances of a hundred services, and says what one costs.
async fn instances(start: &Start, count: u32) {
    let server = start.ready();
    let (_, empty) = memory(&server.process);
    let make = |n: u32| {
        let line = format!(
            "POST /nacos/v1/ns/instance?serviceName=many-{}&ip=10.{}.{}.{}&port=80",
            n % 100,
            n / 62_500,
            n / 250 % 250,
            n % 250
        );
        request(&line, "", "")
    };
    let (rate, spent) = load(&server, 16, count, &make).await;
    if rate < f64::from(count) / 15.0 {
        println!(
            "{:<10} too slow today: the first ones are given up before the last ones come",
            server.name
        );
    }
    let (resident, private) = memory(&server.process);
    let (before, began) = (cpu(&server.process), Instant::now());
    sleep(Duration::from_secs(5));
    let used = (cpu(&server.process) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "{:<10} {count} instances: {rate:.0} registrations a second, {spent:.1} us each; {resident} kB resident, {:.2} kB private each; watching them costs {:.2} ms of CPU a second",
        server.name,
        (private.saturating_sub(empty)) as f64 / f64::from(count),
        used * 1000.0
    );
}

fn starts(start: &Start) {
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let began = Instant::now();
            let server = start.spawn();
            until(|| server.takes_one());
            began.elapsed()
        })
        .collect();
    let server = start.ready();
    sleep(Duration::from_secs(2));
    let (resident, private) = memory(&server.process);
    let (before, began) = (cpu(&server.process), Instant::now());
    sleep(Duration::from_secs(5));
    let used = (cpu(&server.process) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "{:<10} start to the first accepted registration p50 {} p90 {} of 20; at rest {resident} kB resident, {private} kB private, {:.2} ms of CPU a second",
        start.name,
        ms(quantile(&mut times, 0.5)),
        ms(quantile(&mut times, 0.9)),
        used * 1000.0
    );
}

/// The load runs on the last core, servers on the first; `None` where there is only one, or no `taskset`.
fn cores() -> Option<usize> {
    let all = sched_getaffinity(None).unwrap();
    let mut free = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    let first = free.next()?;
    let last = free.next_back()?;
    Command::new("taskset").arg("-V").output().ok()?;
    let mut mine = CpuSet::new();
    mine.set(last);
    sched_setaffinity(None, &mine).unwrap();
    Some(first)
}

fn number(name: &str, otherwise: u32) -> u32 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

fn main() {
    let peer: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, most).unwrap();
    let files = usize::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let core = cores();
    if core.is_none() {
        println!("one core, or no taskset: servers and load share what there is");
    }
    // Another build of it can be measured too.
    let ours = std::env::var("OURS");
    let ours = ours.as_deref().unwrap_or(env!("CARGO_BIN_EXE_outrigger"));
    let mut ways = vec![Start {
        name: "ours",
        words: [ours, "dev", "--listen", "127.0.0.1:{port}"]
            .map(str::to_owned)
            .to_vec(),
        core,
    }];
    if !peer.is_empty() {
        ways.push(Start {
            name: OTHER,
            words: peer,
            core,
        });
    }
    let rounds = usize::try_from(number("ROUNDS", 7)).unwrap();
    let count = number("REQUESTS", 40_000);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|one| one == part);
    for way in ways.iter().filter(|_| wanted("starts")) {
        starts(way);
    }
    if wanted("requests") {
        let servers: Vec<Server> = ways.iter().map(Start::ready).collect();
        let help = Command::new(ours).args(["dev", "--help"]).output().unwrap();
        let keeps = String::from_utf8_lossy(&help.stdout).contains("--data-dir");
        let disk = keeps.then(|| {
            let mut way = ways[0].clone();
            way.name = "on disk";
            way.words
                .extend(["--data-dir", "{dir}/data"].map(str::to_owned));
            way.ready()
        });
        let all: Vec<&Server> = servers.iter().collect();
        runtime.block_on(requests(&all, disk.as_ref(), (rounds, count)));
        for server in &servers {
            let (resident, private) = memory(&server.process);
            println!(
                "{:<10} after all this: {resident} kB resident, {private} kB private",
                server.name
            );
        }
    }
    let polled = files.saturating_sub(600).min(20_000);
    for way in ways.iter().filter(|_| wanted("polls")) {
        runtime.block_on(polls(way, polled));
    }
    for way in ways.iter().filter(|_| wanted("instances")) {
        runtime.block_on(instances(way, 99_000));
    }
}

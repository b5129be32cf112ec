//! What integration tests share: waiting for a condition instead of sleeping, the program as processes, a proxy that listens in.

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Long enough for a busy machine; a test that passes never waits for it.
pub(crate) const LONG: Duration = Duration::from_secs(15);

/// Asks `condition` again and again until it answers `Ok`, at most `within`; panics with `what` and the last answer otherwise.
pub(crate) fn until<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) => assert!(
                began.elapsed() < within,
                "not within {within:?}: {what}; last seen: {last}"
            ),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks `condition` again and again for all of `period`; panics with what it says as soon as it does not hold.
pub(crate) fn stays(
    what: &str,
    period: Duration,
    mut condition: impl FnMut() -> Result<(), String>,
) {
    let began = Instant::now();
    while began.elapsed() < period {
        if let Err(seen) = condition() {
            panic!("no longer: {what}; seen: {seen}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// [`until`] for conditions that have nothing to say while they are not met.
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    until(what, within, || condition().ok_or_else(String::new))
}

/// A port of 127.0.0.1 that nobody listens on now, nor on the one for gRPC above it; none that was given out before. They are
/// below those that the system gives to connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const MANY: u32 = 18_000;
    let begin = std::process::id().wrapping_mul(1_231);
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for _ in 0..MANY {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        let port = FIRST + begin.wrapping_add(step) % MANY;
        let port = u16::try_from(port).unwrap();
        if free(port) && free(port + 1000) {
            return port;
        }
    }
    panic!("no port is free");
}

/// The program under test with a clean environment.
pub(crate) fn outrigger() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

/// The words a privileged agent wants for every command; to any other agent they say what is so anyway.
pub(crate) fn run_as() -> String {
    format!("run_as: \"{}\"", nix::unistd::geteuid())
}

/// What a finished program printed on both ends, for messages.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A child that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        eventually("the process ends", within, || self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The embedded registry as a process of its own.
pub(crate) struct Registry {
    pub(crate) port: u16,
    pub(crate) process: Process,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_on(free_port())
    }

    pub(crate) fn start_on(port: u16) -> Self {
        Self::start_with(port, &[])
    }

    pub(crate) fn start_with(port: u16, flags: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let mut command = outrigger();
        command
            .args(["dev", "--listen", &listen])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Self {
            port,
            process: Process::start(&mut command),
        };
        until("the registry answers", LONG, || {
            http(port, "GET", "/nacos/v1/ns/operator/metrics", "").map(drop)
        });
        registry
    }

    /// The hosts of a service, as any client would get them.
    pub(crate) fn hosts(&self, service: &str) -> Result<Vec<Value>, String> {
        let path = format!("/nacos/v1/ns/instance/list?serviceName={service}");
        let list: Value =
            serde_json::from_str(&http(self.port, "GET", &path, "")?).map_err(|e| e.to_string())?;
        Ok(list["hosts"].as_array().cloned().unwrap_or_default())
    }

    pub(crate) fn until_listed(&self, service: &str, count: usize, within: Duration) -> Vec<Value> {
        until(
            &format!("{service} has {count} healthy hosts"),
            within,
            || match self.hosts(service) {
                Ok(hosts)
                    if hosts.len() == count && hosts.iter().all(|host| host["healthy"] == true) =>
                {
                    Ok(hosts)
                }
                other => Err(format!("{other:?}")),
            },
        )
    }

    pub(crate) fn publish(&self, data_id: &str, content: &str) {
        let body = format!(
            "dataId={data_id}&group=DEFAULT_GROUP&content={}",
            form(content)
        );
        assert_eq!(
            http(self.port, "POST", "/nacos/v1/cs/configs", &body)
                .unwrap()
                .trim(),
            "true"
        );
    }
}

/// A value of a form.
pub(crate) fn form(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// One HTTP request on a connection of its own; the body of a 200, else the status line and the body.
pub(crate) fn http(port: u16, method: &str, path: &str, body: &str) -> Result<String, String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    exchange(stream, method, path, body)
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String, String> {
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/x-www-form-urlencoded\r\n"
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream
        .write_all(request.as_bytes())
        .map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 200 ") {
        Ok(body.to_owned())
    } else {
        Err(format!("{status}: {body}"))
    }
}

/// An application that only accepts connections on its port and closes them.
pub(crate) struct App {
    pub(crate) port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl App {
    pub(crate) fn start() -> Self {
        Self::start_on(free_port())
    }

    pub(crate) fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let hear = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                drop(connection);
                if hear.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        Self {
            port,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then sees that it must end.
        let _woken = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// An agent as a process, in a folder of its own.
pub(crate) struct Agent {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) process: Option<Process>,
    env: Vec<(String, String)>,
}

impl Agent {
    /// A folder with settings that ask `servers`; nothing runs yet. `more` is appended to the settings.
    /// An agent before these servers, which speaks HTTP v1 unless `more` says otherwise: most that are no registry of ours do.
    pub(crate) fn prepare(servers: &[String], more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        let agent = Self {
            folder,
            process: None,
            env: if more.contains("transport:") {
                Vec::new()
            } else {
                vec![("OUTRIGGER_REGISTRY_TRANSPORT".to_owned(), "http".to_owned())]
            },
        };
        let at = agent.folder.path().display();
        let servers = servers
            .iter()
            .map(|s| format!("\"{s}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let registry = if more.starts_with("  ") { more } else { "" };
        let rest = if more.starts_with("  ") { "" } else { more };
        agent.write(
            "outrigger.yaml",
            &format!("registry:\n  servers: [{servers}]\n{registry}state_dir: {at}/state\nallow_root: true\nadmin: {{ socket: {at}/admin.sock }}\n{rest}"),
        );
        agent
    }

    pub(crate) fn of(registry: &Registry) -> Self {
        Self::prepare(
            &[format!("http://127.0.0.1:{}", registry.port)],
            "  transport: auto\n",
        )
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file below the folder by rename, as an editor does.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        let aside = path.with_extension("aside");
        fs::File::create(&aside)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        fs::rename(aside, path).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The program with this agent's settings.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = outrigger();
        command
            .args(words)
            .arg("--config")
            .arg(self.path("outrigger.yaml"))
            .envs(self.env.iter().cloned());
        command
    }

    pub(crate) fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .unwrap();
        let mut command = self.command(&["run"]);
        command.stdout(Stdio::null()).stderr(log);
        self.process = Some(Process::start(&mut command));
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        self.process.as_mut().unwrap().ended(within)
    }

    /// The answer of the admin socket.
    pub(crate) fn admin(&self, method: &str, path: &str) -> Result<String, String> {
        admin(&self.path("admin.sock"), method, path)
    }

    pub(crate) fn status(&self) -> Result<Value, String> {
        serde_json::from_str(&self.admin("GET", "/status")?).map_err(|e| e.to_string())
    }

    /// Waits until the first entry of `kind` (`services`, `configs`) with this name or data id is in `state`; answers it.
    pub(crate) fn until_state(&self, kind: &str, name: &str, state: &str) -> Value {
        until(&format!("{kind} {name} is {state}"), LONG, || {
            let status = self.status()?;
            status[kind]
                .as_array()
                .and_then(|all| {
                    all.iter()
                        .find(|one| one["name"] == name || one["data_id"] == name)
                })
                .filter(|one| one["state"] == state)
                .cloned()
                .ok_or_else(|| status.to_string())
        })
    }
}

pub(crate) fn admin(socket: &Path, method: &str, path: &str) -> Result<String, String> {
    let stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(LONG)).unwrap();
    exchange(stream, method, path, "")
}

/// Passes connections on to a port and keeps what clients said, so that a test can read requests nobody was meant to see.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            heard: Arc::default(),
        };
        let heard = Arc::clone(&proxy.heard);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
                    continue;
                };
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let heard = Arc::clone(&heard);
                thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut piece) {
                        heard.lock().unwrap().extend_from_slice(&piece[..count]);
                        if to.write_all(&piece[..count]).is_err() {
                            break;
                        }
                    }
                    let _closed = to.shutdown(std::net::Shutdown::Both);
                });
                thread::spawn(move || {
                    let (mut from, mut to) = (server, client);
                    let _end = std::io::copy(&mut from, &mut to);
                    let _closed = to.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        proxy
    }

    /// All that clients said so far.
    pub(crate) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    /// The request lines so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.heard()
            .lines()
            .filter(|line| line.ends_with(" HTTP/1.1"))
            .map(|line| {
                // A body without a line end runs into the next request line.
                let begins = ["GET /", "POST /", "PUT /", "DELETE /"]
                    .iter()
                    .filter_map(|method| line.rfind(method))
                    .max();
                line[begins.unwrap_or(0)..].to_owned()
            })
            .collect()
    }

    /// How many requests so far contain all of `words`.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        self.requests()
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }
}

//! `outrigger demo`: the whole story with real processes, told as it happens and believed only when observed.
//!
//! Three children of this one binary: the embedded registry, the agent, and a legacy application that knows nothing of either.
//! This process plays the operator: it talks to the registry as `curl` would, to the application as its callers would, and
//! kills what must be killed. Every line is printed after the fact was seen from outside, with the time it took; a step that is
//! not seen within its limit ends the tour with what was expected, and with a non-zero exit code.

pub mod app;
mod observe;

use crate::nacos::rpc::PORT_OFFSET;
use observe::{Instance, http};
use std::{
    fmt::Write as _,
    fs, io,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// No step may take longer.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(2);
/// How often a pair of free ports is looked for.
const PAIRS: usize = 64;
/// How wide the middle column is, so that the times stand below one another.
const TEXT_WIDTH: usize = 66;

/// How the tour is taken.
#[derive(Clone, Debug)]
pub struct Tour {
    /// This binary.
    pub program: PathBuf,
    /// Where a folder for the tour may be made.
    pub temp: PathBuf,
    /// Stay up at the end instead of leaving.
    pub stay: bool,
    /// Whether the output may be coloured.
    pub colour: bool,
}

/// Why the tour ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the tour itself needs failed.
    #[error("cannot {0}")]
    Setup(String, #[source] io::Error),
    /// A step was not observed.
    #[error("not seen within {} s: {step}\n  last seen: {last}\n  what the agent said is in {log}", LIMIT.as_secs())]
    NotSeen {
        /// What should have happened.
        step: String,
        /// What was seen last.
        last: String,
        /// The log of the agent; the folder is kept for a look.
        log: String,
    },
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Takes the tour.
///
/// # Errors
/// The first step that could not be made or was not observed.
pub fn demo(tour: &Tour) -> Result<(), Error> {
    let mut stage = Stage::set(tour)?;
    let outcome = stage.play(tour);
    if outcome.is_ok() || matches!(outcome, Err(Error::Interrupted)) {
        stage.clear();
    }
    outcome
}

/// A child that does not outlive the tour.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // It may be gone already: then there is nothing to kill and nothing to wait for.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Stage {
    program: PathBuf,
    folder: PathBuf,
    registry_port: u16,
    app_port: u16,
    began: Instant,
    colour: bool,
    interrupted: Arc<AtomicBool>,
    registry: Option<Running>,
    app: Option<Running>,
    agent: Option<Running>,
}

impl Stage {
    #[expect(
        clippy::disallowed_methods,
        reason = "the tour is a person's view of real time, not a machine's"
    )]
    fn set(tour: &Tour) -> Result<Self, Error> {
        let folder = tour
            .temp
            .join(format!("outrigger-demo-{}", std::process::id()));
        fs::create_dir_all(folder.join("conf.d"))
            .map_err(|e| Error::Setup(format!("make {}", folder.display()), e))?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .map_err(|e| Error::Setup("hear of Ctrl-C".into(), e))?;
        }
        Ok(Self {
            program: tour.program.clone(),
            folder,
            registry_port: free_pair()?,
            app_port: free_port()?,
            began: Instant::now(),
            colour: tour.colour,
            interrupted,
            registry: None,
            app: None,
            agent: None,
        })
    }

    fn play(&mut self, tour: &Tour) -> Result<(), Error> {
        self.start_registry()?;
        self.start_app()?;
        self.register()?;
        self.configure()?;
        self.reject()?;
        self.crash_app()?;
        self.lose_registry()?;
        if tour.stay {
            self.stay()?;
        }
        self.leave()
    }

    fn start_registry(&mut self) -> Result<(), Error> {
        let listen = format!("127.0.0.1:{}", self.registry_port);
        self.registry = Some(self.spawn("registry", &["dev", "--listen", &listen])?);
        let took = self.until("the registry answers", |stage| match stage.instances() {
            Ok(instances) if instances.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.say(
            "registry",
            &format!("listens on {listen}, empty"),
            Some(took),
        );
        Ok(())
    }

    fn start_app(&mut self) -> Result<(), Error> {
        if !self.config_file().exists() {
            self.write(&self.config_file(), "greeting: none yet\n")?;
        }
        let port = self.app_port.to_string();
        let (file, pid_file) = (self.config_file(), self.pid_file());
        let (file, pid_file) = (file.to_string_lossy(), pid_file.to_string_lossy());
        let words = [
            "demo-app",
            "--port",
            &port,
            "--file",
            &file,
            "--pid-file",
            &pid_file,
        ];
        self.app = Some(self.spawn("app", &words)?);
        let took = self.until("the application answers", |stage| {
            stage.greeting().map(drop)
        })?;
        self.say(
            "app",
            &format!("a process that knows nothing of all this, on port {port}"),
            Some(took),
        );
        Ok(())
    }

    fn register(&mut self) -> Result<(), Error> {
        self.write(&self.folder.join("outrigger.yaml"), &self.settings())?;
        let descriptor = self.folder.join("conf.d/orders.yaml");
        self.write(&descriptor, &self.descriptor())?;
        let config = self.folder.join("outrigger.yaml");
        self.agent = Some(self.spawn("agent", &["run", "--config", &config.to_string_lossy()])?);
        self.say(
            "agent",
            "starts with one descriptor, conf.d/orders.yaml",
            None,
        );
        let took = self.until_listed(1)?;
        let port = self.app_port;
        self.say(
            "agent",
            &format!("probe passed twice, registered: orders 127.0.0.1:{port}"),
            Some(took),
        );
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error> {
        for greeting in ["hello", "bonjour"] {
            let took = self.publish(&format!("greeting: {greeting}\n"))?;
            self.say(
                "operator",
                &format!("publishes orders.yaml with \"greeting: {greeting}\""),
                Some(took),
            );
            let took = self.until_greeting(greeting)?;
            self.say(
                "app",
                &format!("answers \"{greeting}\": file swapped, HUP sent, file read again"),
                Some(took),
            );
        }
        Ok(())
    }

    fn reject(&mut self) -> Result<(), Error> {
        let took = self.publish("greeting: [never closed\n")?;
        self.say(
            "operator",
            "publishes orders.yaml that is no YAML",
            Some(took),
        );
        let took = self.until("status says rejected", |stage| {
            stage.config_state("rejected")
        })?;
        let greeting = self.greeting().unwrap_or_default();
        self.say(
            "agent",
            &format!("rejected it; file untouched, the app still answers \"{greeting}\""),
            Some(took),
        );
        self.publish("greeting: good day\n")?;
        let took = self.until_greeting("good day")?;
        self.say(
            "app",
            "answers \"good day\" after the operator mended it",
            Some(took),
        );
        Ok(())
    }

    fn crash_app(&mut self) -> Result<(), Error> {
        self.app = None;
        self.say("app", "killed (kill -9)", None);
        let took = self.until_listed(0)?;
        self.say(
            "agent",
            "probe failed three times, taken out of the registry",
            Some(took),
        );
        self.start_app()?;
        let took = self.until_listed(1)?;
        self.say(
            "agent",
            "probe passed twice, back in the registry",
            Some(took),
        );
        Ok(())
    }

    fn lose_registry(&mut self) -> Result<(), Error> {
        self.registry = None;
        self.say("operator", "the registry is killed (kill -9)", None);
        let took = self.until("status says unreachable", |stage| {
            stage.service_state("unreachable")
        })?;
        self.say(
            "agent",
            "noticed; the application and its file are untouched",
            Some(took),
        );
        self.start_registry()?;
        let took = self.until_listed(1)?;
        self.say("agent", "told the new registry who we are", Some(took));
        Ok(())
    }

    fn stay(&mut self) -> Result<(), Error> {
        let mut text = String::new();
        // Writing to a String cannot fail.
        _ = writeln!(
            text,
            "\nEverything stays up until Ctrl-C. Try, in another terminal:\n"
        );
        _ = writeln!(text, "  curl '{}'", self.list_url());
        _ = writeln!(text, "  curl http://127.0.0.1:{}/", self.app_port);
        let config = self.folder.join("outrigger.yaml");
        _ = writeln!(
            text,
            "  {} status --config {}\n",
            self.program.display(),
            config.display()
        );
        print(&text);
        while !self.interrupted.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
        // The one Ctrl-C that ends the stay must not end the orderly leaving after it.
        self.interrupted.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(());
        };
        observe::terminate(agent.0.id())
            .map_err(|e| Error::Setup("send TERM to the agent".into(), e))?;
        self.say("operator", "stops the agent (TERM)", None);
        let took = self.until_listed(0)?;
        self.say("agent", "left the registry", Some(took));
        let took = self.until("the agent exits with 0", |_| match agent.0.try_wait() {
            Ok(Some(status)) if status.success() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.say("agent", "exited with 0", Some(took));
        let total = self.began.elapsed();
        print(&format!(
            "\nThat was the whole job, in {:.1} s. Next: README.md, \"Beside your own application\".\n",
            total.as_secs_f64()
        ));
        Ok(())
    }

    // -- what is seen from outside

    fn list_url(&self) -> String {
        format!(
            "http://127.0.0.1:{}/nacos/v1/ns/instance/list?serviceName=orders",
            self.registry_port
        )
    }

    fn instances(&self) -> Result<Vec<Instance>, String> {
        let path = "/nacos/v1/ns/instance/list?serviceName=orders";
        observe::instances(&http(self.registry_port, "GET", path, "")?)
    }

    fn greeting(&self) -> Result<String, String> {
        let text = http(self.app_port, "GET", "/", "")?;
        text.trim()
            .strip_prefix("greeting: ")
            .map(str::to_owned)
            .ok_or(text)
    }

    fn service_state(&self, wanted: &str) -> Result<(), String> {
        observe::state(&self.folder.join("admin.sock"), "services", wanted)
    }

    fn config_state(&self, wanted: &str) -> Result<(), String> {
        observe::state(&self.folder.join("admin.sock"), "configs", wanted)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the tour is a person's view of real time, not a machine's"
    )]
    fn publish(&self, content: &str) -> Result<Duration, Error> {
        let began = Instant::now();
        let body = format!(
            "dataId=orders.yaml&group=DEFAULT_GROUP&type=yaml&content={}",
            observe::form(content)
        );
        match http(self.registry_port, "POST", "/nacos/v1/cs/configs", &body) {
            Ok(answer) if answer.trim() == "true" => Ok(began.elapsed()),
            Ok(answer) | Err(answer) => {
                Err(self.not_seen("the registry takes the configuration", answer))
            }
        }
    }

    fn until_listed(&mut self, count: usize) -> Result<Duration, Error> {
        let what = if count == 0 {
            "the service is not listed"
        } else {
            "the service is listed and healthy"
        };
        self.until(what, |stage| match stage.instances() {
            Ok(instances)
                if instances.iter().filter(|i| i.healthy).count() == count
                    && instances.len() == count =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        })
    }

    fn until_greeting(&mut self, wanted: &str) -> Result<Duration, Error> {
        self.until(
            &format!("the application answers \"{wanted}\""),
            |stage| match stage.greeting() {
                Ok(greeting) if greeting == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
    }

    /// Looks until `seen` or until the limit; answers how long it took.
    #[expect(
        clippy::disallowed_methods,
        reason = "the tour is a person's view of real time, not a machine's"
    )]
    fn until(
        &mut self,
        step: &str,
        mut seen: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<Duration, Error> {
        let began = Instant::now();
        loop {
            let last = match seen(self) {
                Ok(()) => return Ok(began.elapsed()),
                Err(last) => last,
            };
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if began.elapsed() > LIMIT {
                return Err(self.not_seen(step, last));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn not_seen(&self, step: &str, last: String) -> Error {
        Error::NotSeen {
            step: step.to_owned(),
            last: crate::foreign::Foreign::new(last).to_string(),
            log: self.folder.join("agent.log").display().to_string(),
        }
    }

    // -- what is set up

    fn config_file(&self) -> PathBuf {
        self.folder.join("orders.yaml")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("orders.pid")
    }

    fn settings(&self) -> String {
        let folder = self.folder.display();
        format!(
            "registry:\n  servers: [\"http://127.0.0.1:{}\"]\nstate_dir: {folder}/state\nallow_root: true\nadmin:\n  socket: {folder}/admin.sock\n",
            self.registry_port
        )
    }

    fn descriptor(&self) -> String {
        format!(
            "services:\n  - name: orders\n    port: {}\n    heartbeat: {{ interval: 1s, timeout: 3s, delete_after: 6s }}\n    \
             probe: {{ tcp: {{}}, interval: 200ms }}\nconfigs:\n  - data_id: orders.yaml\n    path: {}\n    \
             validate: {{ format: yaml }}\n    reload: {{ signal: HUP, pid_file: {} }}\n",
            self.app_port,
            self.config_file().display(),
            self.pid_file().display(),
        )
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        fs::File::create(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|e| Error::Setup(format!("write {}", path.display()), e))
    }

    fn spawn(&self, name: &str, words: &[&str]) -> Result<Running, Error> {
        let log = self.folder.join(format!("{name}.log"));
        let setup = |e| {
            Error::Setup(
                format!("start {} {}", self.program.display(), words.join(" ")),
                e,
            )
        };
        let out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(setup)?;
        let err = out.try_clone().map_err(setup)?;
        let mut command = Command::new(&self.program);
        // A clean environment: the tour shows the product, not what this shell happens to export.
        command
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err);
        // Ctrl-C is for the tour, which ends the others in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().map(Running).map_err(setup)
    }

    fn clear(&mut self) {
        (self.agent, self.app, self.registry) = (None, None, None);
        // Left behind is only a folder under the temporary directory; nothing can be done about it at this point.
        _ = fs::remove_dir_all(&self.folder);
    }

    // -- what is told

    fn say(&self, who: &str, what: &str, took: Option<Duration>) {
        let (dim, bold, plain) = if self.colour {
            ("\x1b[2m", colour_of(who), "\x1b[0m")
        } else {
            ("", "", "")
        };
        let took = took
            .map(|took| format!("{dim}in {}{plain}", told(took)))
            .unwrap_or_default();
        let at = self.began.elapsed().as_secs_f64();
        let line =
            format!("{dim}{at:5.1} s{plain}  {bold}{who:<9}{plain}  {what:<TEXT_WIDTH$}  {took}");
        print(&format!("{}\n", line.trim_end()));
    }
}

fn colour_of(who: &str) -> &'static str {
    match who {
        "agent" => "\x1b[1;32m",
        "registry" => "\x1b[1;34m",
        "app" => "\x1b[1;35m",
        _ => "\x1b[1;33m",
    }
}

fn told(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis().max(1))
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

/// A port nobody listens on now. Somebody may take it before we do; then the step that needs it says so.
fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| Error::Setup("find a free port on 127.0.0.1".into(), e))
}

/// The same for a registry, which listens for gRPC as well, 1000 above.
fn free_pair() -> Result<u16, Error> {
    let mut port = free_port()?;
    for _ in 0..PAIRS {
        let above = port.checked_add(PORT_OFFSET);
        if above.is_some_and(|above| TcpListener::bind((Ipv4Addr::LOCALHOST, above)).is_ok()) {
            break;
        }
        port = free_port()?;
    }
    Ok(port)
}

fn print(text: &str) {
    // A reader that went away (`| head`) is no reason to leave processes behind: the tour goes on to its end.
    _ = io::stdout().lock().write_all(text.as_bytes());
    _ = io::stdout().lock().flush();
}

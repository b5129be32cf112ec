//! A server that plays a bad registry, request by request, in a thread of the test.

use crate::support::Agent;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What a bad server does with one request.
pub(crate) enum Play {
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// A 200 whose body never ends.
    Endless,
    /// Nothing, until the other side or the test ends it.
    Silence,
}

/// Any answer as HTTP.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Play {
    let length = body.len();
    Play::Raw(
        format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            .into_bytes(),
    )
}

pub(crate) fn ok(body: &str) -> Play {
    answer(200, "", body)
}

/// The value of a parameter of a request line, as it stands there.
pub(crate) fn parameter<'a>(line: &'a str, name: &str) -> &'a str {
    let query = line.split(['?', ' ']).nth(2).unwrap_or_default();
    let found = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_default()
}

/// What a registry would answer, with just enough memory for one agent: plays override it call by call.
pub(crate) fn properly(line: &str) -> Play {
    let is = |start: &str| line.starts_with(start);
    if is("PUT /nacos/v1/ns/instance/beat") {
        ok(r#"{"clientBeatInterval":200,"code":10200,"lightBeatEnabled":true}"#)
    } else if is("POST /nacos/v1/ns/instance") || is("DELETE /nacos/v1/ns/instance") {
        ok("ok")
    } else if is("GET /nacos/v1/ns/instance?") {
        let (ip, port) = (parameter(line, "ip"), parameter(line, "port"));
        ok(&format!(
            r#"{{"service":"DEFAULT_GROUP@@orders","ip":"{ip}","port":{port},"clusterName":"DEFAULT","weight":1.0,"healthy":true,"metadata":{{}}}}"#
        ))
    } else if is("GET /nacos/v1/cs/configs") {
        configuration("greeting: bad\n")
    } else if is("POST /nacos/v1/auth/login") {
        ok(r#"{"accessToken":"token","tokenTtl":18000,"globalAdmin":false}"#)
    } else if is("GET /nacos/v1/console/server/state") {
        ok(r#"{"version":"2.5.1"}"#)
    } else if is("GET /nacos/v3/") {
        answer(404, "", "No endpoint")
    } else {
        Play::Silence
    }
}

pub(crate) fn configuration(content: &str) -> Play {
    answer(
        200,
        "Content-MD5: 0123456789abcdef0123456789abcdef\r\n",
        content,
    )
}

/// A server that plays a bad registry until it is dropped; then its port is free.
pub(crate) struct Bad {
    pub(crate) port: u16,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Bad {
    /// `play` is given the request line.
    pub(crate) fn start(play: impl Fn(&str) -> Play + Send + Sync + 'static) -> Self {
        Self::start_hearing(move |line, _| play(line))
    }

    /// `play` is given the request line and the body.
    pub(crate) fn start_hearing(play: impl Fn(&str, &str) -> Play + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut bad = Self {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
            stop: Arc::default(),
            open: Arc::default(),
            thread: None,
        };
        let play = Arc::new(play);
        let (asked, stop, open) = (
            Arc::clone(&bad.asked),
            Arc::clone(&bad.stop),
            Arc::clone(&bad.open),
        );
        bad.thread = Some(thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let (play, asked) = (Arc::clone(&play), Arc::clone(&asked));
                // Whatever goes wrong with a connection is the other side's leaving.
                thread::spawn(move || _ = serve(stream, &*play, &asked));
            }
        }));
        bad
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many requests so far began with `start`.
    pub(crate) fn count(&self, start: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with(start))
            .count()
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then sees that it must end.
        let _woken = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.thread.take().unwrap().join().unwrap();
        for stream in self.open.lock().unwrap().drain(..) {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(
    stream: TcpStream,
    play: &dyn Fn(&str, &str) -> Play,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    asked.lock().unwrap().push(line.trim().to_owned());
    match play(line.trim(), &String::from_utf8_lossy(&body)) {
        Play::Raw(bytes) => stream.write_all(&bytes)?,
        Play::Endless => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-MD5: 0\r\n\r\n",
            )?;
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk)?;
            }
        }
        Play::Silence => {
            reader.read_exact(&mut [0])?;
        }
    }
    // What was sent arrives before the end.
    stream.shutdown(Shutdown::Write)
}

/// An agent with one service and one configuration, run against `bad`.
pub(crate) fn agent(bad: &Bad, registry: &str) -> Agent {
    let mut agent = Agent::prepare(&[bad.url()], &format!("  {registry}\n"));
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "services:\n  - name: orders\n    port: 8080\n    heartbeat: {{ interval: 200ms, timeout: 5s, delete_after: 10s }}\n    probe: none\n\
             configs:\n  - data_id: orders.yaml\n    path: {}\n",
            agent.path("orders.yaml").display()
        ),
    );
    agent.start();
    agent
}

//! How the tour sees: plain HTTP as `curl` would speak it, to the registry, the application and the agent's admin socket.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the tour wants to know of a listed instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) healthy: bool,
}

/// One request on a connection of its own to a port of this host; the body of a 200, else what went wrong in words.
pub(super) fn http(port: u16, method: &str, path: &str, form: &str) -> Result<String, String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(|e| e.to_string())?;
    ask(stream, method, path, form)
}

fn ask(stream: impl Read + Write, method: &str, path: &str, form: &str) -> Result<String, String> {
    let (status, body) =
        super::super::ask::exchange(stream, method, path, form).map_err(|e| e.to_string())?;
    if status.starts_with("HTTP/1.1 200") {
        Ok(body)
    } else {
        Err(format!("{status}: {body}"))
    }
}

/// The instances of the answer to a list call.
pub(super) fn instances(text: &str) -> Result<Vec<Instance>, String> {
    let list: crate::nacos::wire::ListAnswer =
        serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))?;
    Ok(list
        .hosts
        .iter()
        .map(|host| Instance {
            healthy: host.healthy,
        })
        .collect())
}

/// Whether the only entry of `kind` (`services`, `configs`) in the agent's status is in the state `wanted`.
pub(super) fn state(socket: &Path, kind: &str, wanted: &str) -> Result<(), String> {
    let stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(|e| e.to_string())?;
    let text = ask(stream, "GET", "/status", "")?;
    let status: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    match status
        .get(kind)
        .and_then(|entries| entries.get(0)?.get("state")?.as_str())
    {
        Some(state) if state == wanted => Ok(()),
        _ => Err(text),
    }
}

/// `text` as a value of a form.
pub(super) fn form(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Asks the process `pid`, a child of ours, to end.
pub(super) fn terminate(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(io::Error::from)
}

//! Questions to a running agent over its socket, and plain HTTP as the tour speaks it too.

use super::{End, complain, fail, print, refuse_settings};
use crate::descriptor::{self, Flags, Surroundings};
use crate::foreign;
use crate::foreign::Foreign;
use serde_json::Value;
use std::{
    borrow::Cow,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest answer that is read.
const LIMIT: u64 = 16 * 1024 * 1024;
/// For an answer that is there already.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody listens.
    #[error("no agent answers on {path} (is it running, and may you use its socket?)")]
    NoAgent {
        /// Socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or what came was no HTTP.
    #[error("the agent broke off its answer")]
    Broken(#[source] io::Error),
    /// Another status than 200.
    #[error("{}", .0)]
    Refused(Foreign),
}

/// One request on a connection of its own; status line and body.
pub(super) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    form: &str,
) -> io::Result<(String, String)> {
    let kind = if form.is_empty() {
        ""
    } else {
        "Content-Type: application/x-www-form-urlencoded\r\n"
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(form.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))?;
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// Asks the agent on `socket`; the body of a 200.
pub(super) fn agent(
    socket: &Path,
    method: &str,
    path: &str,
    patience: Duration,
) -> Result<String, Error> {
    let stream = UnixStream::connect(socket).map_err(|source| Error::NoAgent {
        path: socket.to_owned(),
        source,
    })?;
    stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .map_err(Error::Broken)?;
    let (status, body) = exchange(stream, method, path, "").map_err(Error::Broken)?;
    if status.split(' ').nth(1) == Some("200") {
        Ok(body)
    } else {
        Err(Error::Refused(Foreign::new(body.trim().to_owned())))
    }
}

/// The socket of the agent these settings are for.
pub(super) fn socket(flags: &Flags, around: &Surroundings) -> Result<PathBuf, End> {
    descriptor::read_settings(flags, around)
        .map(|settings| settings.admin.socket)
        .map_err(|problems| refuse_settings(&problems, around))
}

/// The agent's status.
pub(super) fn status(socket: &Path) -> Result<crate::agent::status::Status, End> {
    let body = agent(socket, "GET", "/status", PATIENCE).map_err(|e| fail(End::Unavailable, &e))?;
    read(&body).map_err(|error| {
        complain("outrigger: the agent is of another version than this command\n");
        fail(End::Unavailable, &error)
    })
}

/// The candidates for an automatic address.
pub(super) fn addresses(socket: &Path) -> Result<Vec<crate::agent::locate::Considered>, End> {
    // Names of the registry are looked up for this, which takes its time where that fails.
    let patience = Duration::from_secs(30);
    let body =
        agent(socket, "GET", "/addresses", patience).map_err(|e| fail(End::Unavailable, &e))?;
    read(&body).map_err(|error| fail(End::Unavailable, &error))
}

/// Reads an answer with every text in it made harmless: what is printed of it moves no cursor, whoever answered.
fn read<T: serde::de::DeserializeOwned>(body: &str) -> serde_json::Result<T> {
    let mut answer: Value = serde_json::from_str(body)?;
    clean(&mut answer);
    serde_json::from_value(answer)
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(harmless) = foreign::harmless(text) {
                *text = harmless;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(entries) => entries.values_mut().for_each(clean),
        _ => {}
    }
}

/// `outrigger drain`.
pub(super) fn drain(flags: &Flags, around: &Surroundings, within: Duration) -> End {
    let socket = match socket(flags, around) {
        Ok(socket) => socket,
        Err(end) => return end,
    };
    let path = format!("/drain?timeout_ms={}", within.as_millis());
    match agent(&socket, "POST", &path, within + PATIENCE) {
        Ok(_) => {
            print("drained: nothing of this agent is in the registry any more; it keeps running\n");
            End::Done
        }
        Err(error) => fail(End::Unavailable, &error),
    }
}

/// `outrigger retry`.
pub(super) fn retry(flags: &Flags, around: &Surroundings, path: &Path) -> End {
    let socket = match socket(flags, around) {
        Ok(socket) => socket,
        Err(end) => return end,
    };
    let path = path.to_string_lossy();
    let name = percent_encoding::utf8_percent_encode(&path, percent_encoding::NON_ALPHANUMERIC);
    match agent(&socket, "POST", &format!("/retry?path={name}"), PATIENCE) {
        Ok(_) => {
            print("it is tried again; see outrigger status\n");
            End::Done
        }
        Err(error @ Error::Refused(_)) => fail(End::Usage, &error),
        Err(error) => fail(End::Unavailable, &error),
    }
}

/// `outrigger release`.
pub(super) fn release(flags: &Flags, around: &Surroundings, service: &str) -> End {
    let socket = match socket(flags, around) {
        Ok(socket) => socket,
        Err(end) => return end,
    };
    let name = percent_encoding::utf8_percent_encode(service, percent_encoding::NON_ALPHANUMERIC);
    match agent(
        &socket,
        "POST",
        &format!("/release?service={name}"),
        PATIENCE,
    ) {
        Ok(_) => {
            print("released: the file gets what the registry lists now\n");
            End::Done
        }
        Err(error @ Error::Refused(_)) => fail(End::Usage, &error),
        Err(error) => fail(End::Unavailable, &error),
    }
}

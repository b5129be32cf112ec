//! Hears over UDP that a list has changed, as Nacos tells a client of HTTP v1 that asked for it with a port.
//!
//! A datagram may come from anybody, and may name any instances it likes. So it is a hint and nothing more: of all that is in it
//! only the service's name is looked at, and what is told is what the server answers when it is asked then. It is acknowledged, or
//! the server would send it once more after 10 s. Where nothing gets through, lists are asked for as often as without.

use super::lists::Event;
use crate::tasks::Tasks;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tokio::{net::UdpSocket, sync::mpsc, time::sleep};

/// Longest datagram; bytes.
const LONGEST: usize = 64 * 1024;
/// Longest that one may unpack to: a list that fits no datagram is not pushed. Bytes.
const UNPACKED: u64 = 1024 * 1024;
/// After each datagram: whoever sends more of them fills the kernel's queue, and nothing else.
const REST: Duration = Duration::from_millis(10);

/// Hears on a port of its own until the tasks stop; tells the lists what it hears. The port.
///
/// # Errors
/// When there is no socket to be had.
pub(super) fn listen(tasks: &Tasks, lists: mpsc::Sender<Event>) -> io::Result<u16> {
    // One that takes both families; where there is only one, that one.
    let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let socket = UdpSocket::from_std(socket)?;
    tasks.spawn("hints", async move {
        // An error belongs to one datagram (such as an acknowledgement that nobody took): the socket is as good as before.
        while socket.readable().await.is_ok() {
            if let Some(hint) = take(&socket) {
                _ = lists.send(hint).await;
            }
            sleep(REST).await;
        }
    });
    Ok(port)
}

/// Takes one datagram and acknowledges it. Room for it is made now: most of the time there is none.
fn take(socket: &UdpSocket) -> Option<Event> {
    let mut room = vec![0; LONGEST];
    let (length, from) = socket.try_recv_from(&mut room).ok()?;
    let (hint, acknowledgement) = read(room.get(..length)?)?;
    if let Err(error) = socket.try_send_to(acknowledgement.as_bytes(), from) {
        tracing::debug!(%error, "could not acknowledge a push");
    }
    Some(hint)
}

#[derive(Deserialize)]
struct Datagram<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
    /// A number; some servers are content with a text.
    #[serde(rename = "lastRefTime")]
    last_ref_time: Value,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// The hint in a datagram, and what acknowledges it; `None` for anything but a push of a list.
fn read(bytes: &[u8]) -> Option<(Event, String)> {
    let mut unpacked = Vec::new();
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacking = GzDecoder::new(bytes).take(UNPACKED);
        unpacking.read_to_end(&mut unpacked).ok()?;
        &unpacked
    } else {
        bytes
    };
    let datagram: Datagram<'_> = serde_json::from_slice(bytes).ok()?;
    let is_number = match &datagram.last_ref_time {
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::String(digits) => {
            (1..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    };
    // Other kinds ask for what we know, or are not Nacos'.
    if !matches!(&*datagram.kind, "dom" | "service") || !is_number {
        return None;
    }
    let data: Data<'_> = serde_json::from_str(&datagram.data).ok()?;
    // 1.4 leaves the group away for some clients.
    let (group, name) = match data.name.split_once("@@") {
        Some((group, name)) => (Some(group.into()), name.into()),
        None => (None, data.name.as_ref().into()),
    };
    let acknowledgement =
        json!({ "type": "push-ack", "lastRefTime": datagram.last_ref_time, "data": "" });
    Some((Event::Hinted { group, name }, acknowledgement.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;
    use tokio::time::timeout;

    fn push(name: &str) -> Vec<u8> {
        let data = json!({ "name": name, "hosts": [{ "ip": "6.6.6.6", "port": 1 }] }).to_string();
        json!({ "type": "dom", "data": data, "lastRefTime": 2_382_395_714_426_i64 })
            .to_string()
            .into_bytes()
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn hint(group: Option<&str>, name: &str) -> Event {
        Event::Hinted {
            group: group.map(Into::into),
            name: name.into(),
        }
    }

    #[test]
    fn a_push_is_read_in_every_form_and_nothing_but_its_name_counts() {
        let acknowledgement = r#"{"data":"","lastRefTime":2382395714426,"type":"push-ack"}"#;
        let is = |bytes: &[u8], event| {
            assert_eq!(read(bytes), Some((event, acknowledgement.to_owned())));
        };
        is(&push("G@@orders"), hint(Some("G"), "orders"));
        is(&push("orders"), hint(None, "orders"));
        is(&packed(&push("G@@orders")), hint(Some("G"), "orders"));
    }

    #[test]
    fn whatever_is_no_push_is_neither_told_nor_acknowledged() {
        let bomb = packed(&vec![b' '; 64 * 1024 * 1024]);
        assert!(bomb.len() <= LONGEST);
        let data = |kind: &str, number: Value| {
            json!({ "type": kind, "data": "{\"name\":\"a\"}", "lastRefTime": number }).to_string()
        };
        for bytes in [
            Vec::new(),
            b"\x1f\x8b".to_vec(),
            bomb,
            b"{}".to_vec(),
            b"null".to_vec(),
            data("dump", 1.into()).into_bytes(),
            data("dom", Value::Null).into_bytes(),
            data("dom", json!({ "a": [1] })).into_bytes(),
            data("dom", "1; DROP".into()).into_bytes(),
            data("dom", 1.5.into()).into_bytes(),
        ] {
            assert_eq!(read(&bytes), None, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[tokio::test]
    async fn a_datagram_is_told_and_acknowledged_to_whoever_sent_it() {
        let tasks = Tasks::new();
        let (sender, mut lists) = mpsc::channel(1);
        let port = listen(&tasks, sender).unwrap();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ours = (Ipv4Addr::LOCALHOST, port);
        server.send_to(b"garbage", ours).await.unwrap();
        server.send_to(&push("G@@orders"), ours).await.unwrap();
        let soon = Duration::from_secs(10);
        let heard = timeout(soon, lists.recv()).await.unwrap();
        assert_eq!(heard, Some(hint(Some("G"), "orders")));
        let mut answer = [0; 100];
        let (length, from) = timeout(soon, server.recv_from(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(from.port(), port);
        assert!(answer[..length].ends_with(br#""type":"push-ack"}"#));
    }
}

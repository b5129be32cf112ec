//! The registry's UDP socket: pushes to clients of HTTP v1, and their acknowledgements.
//!
//! It is bound to the address of the HTTP socket, at any port, as the original's: clients answer to where a datagram came from.

use crate::registry::keeper::Keeper;
use hyper::body::Bytes;
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{net::UdpSocket, time};

/// Bytes of what is received at most; the rest of a longer datagram is lost, and with it what it means.
const RECEIVED: usize = 2_048;
/// After an error of the system: not at once again.
const AGAIN: Duration = Duration::from_millis(100);

/// A socket at an address of this host.
pub(super) async fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(ip, 0)).await
}

/// Sends and receives, for ever.
pub(super) async fn serve(socket: UdpSocket, keeper: &Keeper) {
    let mut out = keeper.datagrams();
    let six = socket.local_addr().is_ok_and(|local| local.is_ipv6());
    let mut buffer = [0; RECEIVED];
    loop {
        tokio::select! {
            sent = out.recv() => {
                // The keeper has the other end as long as it lives.
                let Some((to, bytes)) = sent else { return };
                // A full buffer and a port that is closed are a loss like any on the way.
                if let Err(error) = socket.try_send_to(&bytes, reached(six, to)) {
                    tracing::debug!(%error, %to, "a datagram is not sent");
                }
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    keeper.datagram(from, Bytes::copy_from_slice(bytes));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a datagram");
                    time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// An address as a socket of IPv6, if it is one, writes it.
fn reached(six: bool, to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(four) if six => {
            let mapped: Ipv6Addr = four.to_ipv6_mapped();
            SocketAddr::new(mapped.into(), to.port())
        }
        _ => to,
    }
}

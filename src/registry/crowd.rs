//! How many connections there may be, and what is said to who finds no place.
//!
//! A connection is an open file, and the system sets a limit to those: both doors take their places out of one number, so that the
//! registry never runs out of files for anything else. Who comes when all are taken is told which limit that is, and let go; only
//! so many are told at one time, further ones wait in the system's queue.

use crate::registry::call::Answer;
use crate::registry::like::Like;
use crate::registry::refusal::Half;
use crate::registry::refusal::Refusal;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

/// Files kept back at most: for checks that are under way, for what else is no client's connection, and for who is told that there
/// is no place.
const KEPT: usize = 512;
/// So many are told so at one time.
const SEATS: usize = 64;
/// How long who is told so may take to read it and to go.
const TOLD: Duration = Duration::from_secs(2);
/// After an error of accept (out of descriptors): not at once again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Of so many open files how many may be connections.
pub(super) fn of_files(files: usize) -> usize {
    (files - (files / 4).min(KEPT)).min(Semaphore::MAX_PERMITS)
}

/// The places of one door.
#[derive(Debug)]
pub(super) struct Places {
    /// Everybody's.
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    most: usize,
    seats: Arc<Semaphore>,
    words: Vec<u8>,
}

/// A place, and what it was taken out of.
#[derive(Debug)]
pub(super) struct Place {
    _of: [OwnedSemaphorePermit; 2],
}

/// Who came.
#[derive(Debug)]
pub(super) enum Came {
    /// Somebody who has a place.
    In(Place, TcpStream, SocketAddr),
    /// Somebody for whom there is none.
    Out(Refused),
}

/// Who has to be told that there is no place.
#[derive(Debug)]
pub(super) struct Refused {
    stream: TcpStream,
    words: Vec<u8>,
    _seat: OwnedSemaphorePermit,
}

impl Places {
    /// At most `most` of `all`; who finds none is told `words`, which are given how many there are.
    pub(super) fn new(
        all: &Arc<Semaphore>,
        most: usize,
        words: impl FnOnce(usize) -> Vec<u8>,
    ) -> Self {
        // Both doors are made before the first one lets somebody in.
        let most = most.min(all.available_permits());
        Self {
            all: Arc::clone(all),
            own: Arc::new(Semaphore::new(most)),
            most,
            seats: Arc::new(Semaphore::new(SEATS)),
            words: words(most),
        }
    }

    fn take(&self) -> Option<Place> {
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _of: [own, of_all] })
    }

    /// A place that is free now or becomes free.
    async fn wait(&self) -> Option<Place> {
        // The semaphores are never closed.
        let own = Arc::clone(&self.own).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _of: [own, of_all] })
    }

    /// Waits until all places are free.
    pub(super) async fn emptied(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        _ = self.own.acquire_many(all).await;
    }

    /// The next connection; errors of the system are waited out. `None` never comes.
    pub(super) async fn accept(&self, listener: &TcpListener) -> Option<Came> {
        let (stream, peer) = loop {
            match listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(ACCEPT_AGAIN).await;
                }
            }
        };
        if let Some(place) = self.take() {
            return Some(Came::In(place, stream, peer));
        }
        tokio::select! {
            biased;
            place = self.wait() => Some(Came::In(place?, stream, peer)),
            seat = Arc::clone(&self.seats).acquire_owned() => Some(Came::Out(Refused {
                stream,
                words: self.words.clone(),
                _seat: seat.ok()?,
            })),
        }
    }
}

impl Refused {
    /// Tells it.
    pub(super) async fn tell(mut self) {
        let told = async {
            self.stream.write_all(&self.words).await?;
            self.stream.shutdown().await?;
            // What was asked is read too: else the system takes back, with a reset, what it was told.
            let mut asked = [0; 1024];
            while self.stream.read(&mut asked).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        match time::timeout(TOLD, told).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "nobody hears that there is no place"),
            Err(_) => tracing::debug!("who was told that there is no place stays, and is cut"),
        }
    }
}

/// What the door for HTTP says.
pub(super) fn over_http(like: Like, most: usize) -> Vec<u8> {
    let refusal = Refusal::Full("connections", most);
    let answer = Answer::refused(&refusal, like, Half::Naming, "", SystemTime::UNIX_EPOCH);
    let body = answer.body();
    let head = format!(
        "HTTP/1.1 {} Service Unavailable\r\ncontent-type: text/plain;charset=UTF-8\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        answer.status(),
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What the door for gRPC says, in frames of HTTP/2: settings, which come first, and the end with its reason.
pub(super) fn over_grpc(most: usize) -> Vec<u8> {
    /// Length, type, flags and stream of empty settings; the length of the frame after them is a byte, with two before it.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    /// Its type, no flags, no stream; no stream was looked at; `ENHANCE_YOUR_CALM`.
    const GOAWAY: &[u8] = &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    let (_, words) = Refusal::Full("gRPC connections", most).over_grpc();
    // The last stream and the code, then words, which are a sentence.
    let length = u8::try_from(8 + words.len()).unwrap_or_default();
    [SETTINGS, &[length], GOAWAY, words.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_back_and_never_all_of_few() {
        for (files, connections) in [(20_000, 19_488), (1_024, 768), (64, 48), (0, 0)] {
            assert_eq!(of_files(files), connections);
        }
    }

    #[tokio::test]
    async fn both_doors_take_out_of_one_number() {
        let all = Arc::new(Semaphore::new(3));
        let (one, other) = (
            Places::new(&all, 10, |_| Vec::new()),
            Places::new(&all, 2, |_| Vec::new()),
        );
        assert_eq!((one.most, other.most), (3, 2));
        let (first, _second) = (other.take().unwrap(), other.take().unwrap());
        assert!(other.take().is_none(), "its own are taken");
        let third = one.take();
        assert!(third.is_some() && one.take().is_none(), "all are taken");
        drop(first);
        assert!(one.take().is_some());
        drop(third);
    }
}

//! Who waits for the end of a publication or withdrawal that a machine was asked for.

use super::Error;
use super::beats::Ticket;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};

/// The tickets of one machine, and who holds them.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    given: AtomicU64,
    waiting: Mutex<BTreeMap<Ticket, oneshot::Sender<Result<(), Error>>>>,
}

impl Tickets {
    /// Tells `machine` the event made with a new ticket; ends with what the machine answers to it.
    pub(super) async fn ask<E>(
        &self,
        machine: &mpsc::Sender<E>,
        event: impl FnOnce(Ticket) -> E,
    ) -> Result<(), Error> {
        let ticket = self.given.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(ticket, tell);
        let sent = machine.send(event(ticket)).await;
        sent.map_err(|_| Error::Stopped)?;
        told.await.unwrap_or(Err(Error::Stopped))
    }

    /// Hands the machine's answer to who waits for it.
    pub(super) fn answer(&self, ticket: Ticket, outcome: Result<(), Error>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = waiting.remove(&ticket) {
            // Whoever asked may have gone.
            _ = tell.send(outcome);
        }
    }
}

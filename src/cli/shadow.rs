//! `run --shadow` and `once --shadow`: the agent beside the tool it is to replace, which says what it would do and does nothing.

use super::run::prepare;
use super::{End, complain, fail, print, runtime};
use crate::agent::Parts;
use crate::agent::catalog::{self, Known};
use crate::agent::shadow::{self, Compared, Verdict};
use crate::agent::supervisor;
use crate::descriptor::{Flags, Surroundings};
use crate::foreign;
use crate::machine::Epoch;
use crate::os::ourselves::Inherited;
use crate::os::signals::{Listener, Request};
use crate::tasks::Tasks;
use crate::telemetry::Journal;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// What the tasks may take to end.
const FINISH: Duration = Duration::from_secs(1);

/// Compares: until it is told to leave, or once within a time.
pub(super) fn shadow(
    flags: &Flags,
    around: Surroundings,
    inherited: Inherited,
    once: Option<Duration>,
) -> End {
    let prepared = match prepare(flags, around, inherited) {
        Ok(prepared) => prepared,
        Err(end) => return end,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(End::Bug, &error),
    };
    let end = runtime.block_on(compare(prepared, once));
    runtime.shutdown_background();
    end
}

async fn compare((start, journal): (supervisor::Start, Journal), once: Option<Duration>) -> End {
    let mut signals = match Listener::start() {
        Ok(signals) => signals,
        Err(error) => return fail(End::Bug, &error),
    };
    let (tasks, epoch) = (Tasks::new(), Epoch::start());
    tasks.spawn("journal", journal.clone().run());
    // Nothing is published, so nothing stands.
    let (standings, _nobody) = mpsc::channel(1);
    let parts = match Parts::start(&start.settings.registry, &tasks, epoch, standings) {
        Ok(parts) => parts,
        Err(error) => return fail(End::Settings, &error),
    };
    let (settings, around) = (Arc::new(start.settings), Arc::new(start.around));
    let (known, look) = catalog::start(&parts, &settings, &around, start.fixed);
    let (shown, mut compared) = watch::channel(None);
    tasks.spawn("shadow", shadow::run(parts, known.clone(), shown));
    match once {
        Some(within) => {
            let is_over = |all: &Option<Vec<Compared>>| {
                all.as_ref()
                    .is_some_and(|all| all.iter().all(|one| one.verdict != Verdict::Waiting))
            };
            // Who is late is told as what he is: waiting.
            _ = timeout(within, compared.wait_for(is_over)).await;
        }
        None => {
            while signals.next().await == Request::Reload {
                let (done, _nobody) = tokio::sync::oneshot::channel();
                _ = look.send(done).await;
            }
        }
    }
    let all = compared.borrow().clone();
    let known = known.borrow().clone();
    let end = summary(known.as_deref(), all.as_deref());
    if let Err(unfinished) = tasks.finish(FINISH).await {
        tracing::debug!(%unfinished, "leaving all the same");
    }
    journal.close();
    end
}

/// A line for each service and file; the code says whether anything would change.
fn summary(known: Option<&Known>, all: Option<&[Compared]>) -> End {
    let (Some(known), Some(all)) = (known, all) else {
        complain("outrigger: no descriptor was read in time\n");
        return End::Unavailable;
    };
    for problem in &known.problems {
        complain(&problem.render(false));
    }
    let services = known
        .descriptors
        .iter()
        .flat_map(|(_, descriptor)| &descriptor.services);
    for service in services {
        let line = format!(
            "would register  {}, port {}, group {}, namespace {}",
            service.name, service.port, service.group, service.namespace
        );
        print(&format!("{}\n", foreign::harmless(&line)));
    }
    let mut end = if known.problems.is_empty() {
        End::Done
    } else {
        End::Descriptor
    };
    for one in all {
        let line = format!(
            "{}  from {}: {}",
            one.path.display(),
            one.source,
            one.verdict.words()
        );
        print(&format!("{}\n", foreign::harmless(&line)));
        end = match (&one.verdict, end) {
            (Verdict::Same, end) => end,
            (Verdict::Waiting | Verdict::Unreachable(_), End::Done | End::Differs) => {
                End::Unavailable
            }
            (_, End::Done) => End::Differs,
            (_, end) => end,
        };
    }
    end
}

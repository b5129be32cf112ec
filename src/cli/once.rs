//! `outrigger once`: every configuration and list fetched, validated and written, then the exit code says how it went.

use super::check::{Read, read_all};
use super::{End, complain, fail, print, refuse_settings, runtime};
use crate::agent::Parts;
use crate::agent::supervisor;
use crate::agent::targets::Targets;
use crate::agent::view::{TargetState, TargetView};
use crate::descriptor::spec::{Kept, OnAbsent};
use crate::descriptor::{self, Flags, Surroundings};
use crate::foreign;
use crate::machine::Epoch;
use crate::os::ourselves::Inherited;
use crate::os::state::StateDir;
use crate::report;
use crate::report::Problem;
use crate::tasks::Tasks;
use crate::telemetry;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

/// What the tasks may take to end.
const FINISH: Duration = Duration::from_secs(1);

type Wanted = Vec<(PathBuf, Vec<Kept>)>;

/// Runs it.
pub(super) fn once(
    flags: &Flags,
    around: Surroundings,
    inherited: Inherited,
    within: Duration,
) -> End {
    let settings = match descriptor::read_settings(flags, &around) {
        Ok(settings) => settings,
        Err(problems) => return refuse_settings(&problems, &around),
    };
    inherited.close();
    let filter = around.env.get("RUST_LOG").unwrap_or(&settings.log.level);
    let journal = match telemetry::start(filter, settings.log.json) {
        Ok(journal) => journal,
        Err(error) => return fail(End::Settings, &error),
    };
    let mut wanted: Wanted = match read(&settings, &around) {
        Ok(wanted) => wanted,
        Err(problems) => {
            complain(&report::render_all(
                &problems,
                problems.len(),
                problems.len(),
                false,
            ));
            return End::Descriptor;
        }
    };
    for kept in wanted.iter_mut().flat_map(|(_, kept)| kept) {
        // Nobody runs yet who could be told, or asked.
        kept.target_mut().reload = None;
        kept.target_mut().verify = None;
    }
    // Beside a running agent it would write files whose reload nobody hears of.
    let _taken = match StateDir::take(&settings.state_dir) {
        Ok(taken) => taken,
        Err(error) => return fail(End::Settings, &supervisor::StartError::from(error)),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(End::Bug, &error),
    };
    let end = runtime.block_on(write_all(&settings, wanted, within));
    journal.close();
    runtime.shutdown_background();
    end
}

/// Every file of every descriptor; here one broken file is an error, because nobody comes back to look.
fn read(
    settings: &descriptor::settings::Settings,
    around: &Surroundings,
) -> Result<Wanted, Vec<Problem>> {
    let Read { good, problems, .. } = read_all(settings, around, Vec::new());
    if problems.is_empty() {
        Ok(good
            .into_iter()
            .map(|(path, descriptor)| (path, descriptor.kept()))
            .collect())
    } else {
        Err(problems)
    }
}

async fn write_all(
    settings: &descriptor::settings::Settings,
    wanted: Wanted,
    within: Duration,
) -> End {
    let deadline = Instant::now() + within;
    let (tasks, epoch) = (Tasks::new(), Epoch::start());
    let (standings, _nobody) = mpsc::channel(1);
    let parts = match Parts::start(&settings.registry, &tasks, epoch, standings) {
        Ok(parts) => parts,
        Err(error) => return fail(End::Settings, &error),
    };
    // What a missing configuration means is written in its descriptor.
    let fails: BTreeMap<PathBuf, bool> = wanted
        .iter()
        .flat_map(|(_, kept)| kept)
        .map(|kept| {
            let target = kept.target();
            let fails = target.required || target.on_absent == OnAbsent::Fail;
            (target.path.clone(), fails)
        })
        .collect();
    let targets = Targets::start(&parts, settings.state_dir.clone());
    let views = targets.views();
    targets.set(wanted);
    let outcome = timeout_at(deadline, settled(views.clone(), fails.len())).await;
    let all = views.borrow().clone();
    let mut end = End::Done;
    for view in all.iter() {
        let good = match view.state {
            TargetState::Applied => true,
            TargetState::Missing => fails.get(&view.path) == Some(&false),
            _ => false,
        };
        let reason = view
            .reason
            .as_deref()
            .map(|r| format!(": {r}"))
            .unwrap_or_default();
        let line = format!(
            "{:<9} {}  from {}{reason}",
            view.state.word(),
            view.path.display(),
            view.source
        );
        let line = format!("{}\n", foreign::harmless(&line));
        if good {
            print(&line);
        } else {
            complain(&line);
            end = End::Unavailable;
        }
    }
    if outcome.is_err() && end != End::Done {
        complain(&format!("outrigger: given up after {within:?}\n"));
    }
    if let Err(unfinished) = tasks.finish(FINISH).await {
        tracing::debug!(%unfinished, "leaving all the same");
    }
    end
}

/// Until every target has a verdict.
async fn settled(mut views: watch::Receiver<Arc<Vec<TargetView>>>, count: usize) {
    let verdict = |view: &TargetView| {
        matches!(
            view.state,
            TargetState::Applied | TargetState::Missing | TargetState::Rejected
        )
    };
    // The channel closes when the tasks end, and then there is nothing to wait for.
    _ = views
        .wait_for(|views| views.len() == count && views.iter().all(verdict))
        .await;
}

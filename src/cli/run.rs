//! `outrigger run` and `outrigger dev`: the processes that stay.

use super::args::{Dev, Generation};
use super::users;
use super::{End, complain, fail, print, refuse_settings, runtime};
use crate::agent::supervisor;
use crate::descriptor::{self, Flags, Surroundings};
use crate::foreign;
use crate::machine::Epoch;
use crate::os::children;
use crate::os::ourselves;
use crate::os::ourselves::Inherited;
use crate::os::signals::{Listener, Request};
use crate::os::state;
use crate::registry;
use crate::report;
use crate::tasks::Tasks;
use crate::telemetry;
use crate::telemetry::Journal;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::Notify;

/// What the tasks of a registry may take to end.
const FINISH: Duration = Duration::from_secs(3);

/// Everything an agent does can be done by the application's own user; what root does by mistake cannot be undone.
const NOT_AS_ROOT: &str = "\
outrigger: runs as root, which nothing it does needs
  help: run it as the application's user; to signal processes of others it needs CAP_KILL and no more.
        If it must be root: allow_root: true in the settings, or OUTRIGGER_ALLOW_ROOT=true
";

/// `outrigger run`.
pub(super) fn run(flags: &Flags, around: Surroundings, inherited: Inherited) -> End {
    let prepared = match prepare(flags, around, inherited) {
        Ok(prepared) => prepared,
        Err(end) => return end,
    };
    if let Err(end) = not_as_root(&prepared.0) {
        return end;
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(End::Bug, &error),
    };
    let end = runtime.block_on(agent(prepared));
    // Nothing that is left may hold up the exit: what had to be confirmed was, or was given up.
    runtime.shutdown_background();
    end
}

/// Whether the agent may be who it is.
pub(super) fn not_as_root(start: &supervisor::Start) -> Result<(), End> {
    if start.around.uid == 0 && !start.settings.allow_root {
        complain(NOT_AS_ROOT);
        return Err(End::Settings);
    }
    Ok(())
}

/// Reads everything an agent starts with, and starts to log as the settings say.
pub(super) fn prepare(
    flags: &Flags,
    around: Surroundings,
    inherited: Inherited,
) -> Result<(supervisor::Start, Journal), End> {
    let settings = descriptor::read_settings(flags, &around)
        .map_err(|problems| refuse_settings(&problems, &around))?;
    inherited.close();
    // RUST_LOG is one of the ways to write it; which one wins is decided there, so that `status` shows what is in force.
    let filter = &settings.log.level;
    let journal = match telemetry::start(filter, settings.log.json) {
        Ok(journal) => journal,
        Err(error) => {
            complain(&format!("outrigger: log.level: {filter} is not a filter\n"));
            return Err(fail(End::Settings, &error));
        }
    };
    if settings.registry.has_plaintext() {
        tracing::warn!(
            "the registry's password crosses the network unencrypted; use https:// for it"
        );
    }
    let fixed = match descriptor::from_environment(&settings, &around) {
        Ok(fixed) => fixed.map(|fixed| (PathBuf::from("OUTRIGGER_SERVICE"), fixed)),
        Err(problems) => {
            complain(&report::render_all(&problems, 1, 1, false));
            return Err(End::Descriptor);
        }
    };
    let start = supervisor::Start {
        settings,
        around,
        flags: flags.clone(),
        fixed,
    };
    Ok((start, journal))
}

async fn agent((start, journal): (supervisor::Start, Journal)) -> End {
    if let Err(error) = children::adopt() {
        tracing::debug!(%error, "what commands leave behind is not found");
    }
    let tasks = Tasks::new();
    tasks.spawn("journal", journal.clone().run());
    let ended = supervisor::run(start, tasks, Epoch::start()).await;
    journal.close();
    match ended {
        Ok(supervisor::End::Clean) => End::Done,
        Ok(supervisor::End::Late | supervisor::End::AtOnce) => End::Unavailable,
        Err(error) => fail(End::Settings, &error),
    }
}

/// `outrigger dev`.
pub(super) fn dev(dev: Dev, around: Surroundings, inherited: Inherited) -> End {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(End::Bug, &error),
    };
    let end = runtime.block_on(registry_and_agent(dev, around, inherited));
    runtime.shutdown_background();
    end
}

async fn registry_and_agent(dev: Dev, mut around: Surroundings, inherited: Inherited) -> End {
    let tasks = Tasks::new();
    let mut signals = match Listener::start() {
        Ok(signals) => signals,
        Err(error) => return fail(End::Bug, &error),
    };
    // Where nothing is kept nothing can go wrong that it could say; the agent beside it begins its own.
    let mut journal = None;
    if dev.data_dir.is_some() && dev.files.conf_dir.is_none() {
        match telemetry::start("warn", false) {
            Ok(started) => {
                tasks.spawn("journal", started.clone().run());
                journal = Some(started);
            }
            Err(error) => return fail(End::Bug, &error),
        }
    }
    let kept = dev.data_dir.as_ref().map_or_else(
        || "in memory".to_owned(),
        |directory| {
            format!(
                "kept in {}",
                foreign::harmless(&directory.to_string_lossy())
            )
        },
    );
    let source = match users::source(dev.auth, &mut around) {
        Ok(source) => source,
        Err(told) => {
            complain(&told);
            return End::Settings;
        }
    };
    let users = match source.as_ref().map(users::Source::read).transpose() {
        Ok(users) => users,
        Err(told) => {
            complain(&told);
            return End::Settings;
        }
    };
    let options = registry::Options {
        listen: dev.listen,
        open: dev.open,
        users,
        allow_hosts: dev.allow_host,
        like: match dev.like {
            Generation::V1_4 => registry::Like::V1_4,
            Generation::V2_5 => registry::Like::V2_5,
            Generation::V3_0 => registry::Like::V3_0,
        },
        push_delay: dev.push_delay,
        checks: (!dev.no_checks).then(registry::CheckRules::default),
        faults: dev.faults,
        data_dir: match dev.data_dir.map(std::path::absolute).transpose() {
            Ok(data_dir) => data_dir,
            Err(error) => return fail(End::Usage, &error),
        },
    };
    // An agent beside it has commands, which would have the limit too.
    if dev.files.conf_dir.is_none()
        && let Err(error) = ourselves::raise_open_files(registry::FILES)
    {
        tracing::debug!(%error, "the limit to open files stays as it is");
    }
    let running = match registry::start(options, &tasks, Epoch::start()).await {
        Ok(running) => running,
        Err(error @ registry::StartError::NotLoopback(_)) => return fail(End::Usage, &error),
        Err(error @ registry::StartError::Store(_)) => return fail(End::Settings, &error),
        Err(error) => return fail(End::Unavailable, &error),
    };
    let at = running.address();
    // Every address is no place to go to.
    let mut page = at;
    if at.ip().is_unspecified() {
        page.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    print(&format!(
        "a Nacos registry for this machine, {kept}: http://{at}/nacos\n\
         look at it in a browser:  http://{page}/\n\
         try  curl 'http://{at}/nacos/v1/ns/instance/list?serviceName=NAME'\n"
    ));
    if let Some(grpc) = running.grpc() {
        print(&format!(
            "gRPC for clients of 2.x and 3.x: {grpc} (they find it by themselves)\n"
        ));
    }
    if dev.faults {
        print(&format!(
            "faults on request:  curl -X POST 'http://{at}/outrigger/faults?delay=2s&times=3'\n"
        ));
    }
    let reread = Notify::new();
    let alone = dev.files.conf_dir.is_none();
    let told = async {
        loop {
            match signals.next().await {
                Request::Reload => reread.notify_one(),
                Request::Leave if alone => return,
                // The agent hears it too, and leaves before the registry does.
                Request::Leave => {}
            }
        }
    };
    let life = async {
        let Some(conf_dir) = dev.files.conf_dir else {
            return std::future::pending().await;
        };
        let flags = Flags {
            config: dev.files.config,
            conf_dir: Some(conf_dir),
        };
        match beside(&mut around, at) {
            Ok(()) => match prepare(&flags, around, inherited) {
                Ok(prepared) => agent(prepared).await,
                Err(end) => end,
            },
            Err(error) => fail(End::Settings, &error),
        }
    };
    let end = tokio::select! {
        biased;
        end = life => end,
        () = told => End::Done,
        () = users::keep(source, &running, &reread) => End::Bug,
    };
    running.stop().await;
    if let Err(unfinished) = tasks.finish(FINISH).await {
        tracing::warn!(%unfinished, "leaving all the same");
    }
    if let Some(journal) = journal {
        journal.close();
    }
    end
}

/// An agent in the same process asks this registry, and without settings of its own keeps to a folder anybody can make.
fn beside(around: &mut Surroundings, at: SocketAddr) -> Result<(), supervisor::StartError> {
    let folder = around
        .env
        .get("XDG_RUNTIME_DIR")
        .or(around.env.get("TMPDIR"))
        .map_or("/tmp", String::as_str);
    // The user is in the name because the folder above may be everybody's.
    let folder = format!("{folder}/outrigger-dev-{}-{}", around.uid, at.port());
    state::own_folder(Path::new(&folder))?;
    let env = &mut around.env;
    env.remove("OUTRIGGER_REGISTRY_ENDPOINT");
    env.insert("OUTRIGGER_REGISTRY_SERVERS".into(), format!("http://{at}"));
    env.entry("OUTRIGGER_STATE_DIR".into())
        .or_insert_with(|| format!("{folder}/state"));
    env.entry("OUTRIGGER_ADMIN_SOCKET".into())
        .or_insert_with(|| format!("{folder}/admin.sock"));
    Ok(())
}

//! Edits of `conf.d` as editors, deployments and Kubernetes make them, told by the watch long before any rescan.

use crate::support::{Agent, LONG, Process, Proxy, Registry, http, stays, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// A rescan that no test waits for: what happens sooner, the watch has told.
const NEVER: &str = "catalog: { rescan: 1h }\n";

/// A service that is listed without being asked, and that no caller is sent to.
fn service(name: &str, port: u16) -> String {
    format!("services:\n  - name: {name}\n    port: {port}\n    weight: 0\n    probe: none\n")
}

fn weighing(name: &str, port: u16, weight: u16) -> String {
    service(name, port).replace("weight: 0", &format!("weight: {weight}"))
}

fn agent(port: u16, more: &str) -> Agent {
    Agent::prepare(&[format!("http://127.0.0.1:{port}")], more)
}

/// Writes in place, as `cp` and `echo` do.
fn write(path: &Path, text: &str) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn until_weighs(registry: &Registry, service: &str, weight: f64) {
    let what = format!("{service} is listed with weight {weight}");
    until(&what, LONG, || match registry.hosts(service) {
        Ok(hosts) if hosts.len() == 1 && hosts[0]["weight"] == weight => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// The first problem of the status whose message or place contains `word`.
fn until_problem(agent: &Agent, word: &str) -> Value {
    until(&format!("a problem says {word}"), LONG, || {
        let status = agent.status()?;
        status["problems"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one.to_string().contains(word)))
            .cloned()
            .ok_or_else(|| status["problems"].to_string())
    })
}

fn until_no_problem(agent: &Agent) {
    until("no problem is left", LONG, || {
        let status = agent.status()?;
        match status["problems"].as_array() {
            Some(none) if none.is_empty() => Ok(()),
            _ => Err(status["problems"].to_string()),
        }
    });
}

#[test]
fn a_descriptor_that_is_made_changed_and_removed_is_followed_without_a_rescan() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    agent.start();
    until("ready", LONG, || agent.admin("GET", "/readyz").map(drop));
    let path = agent.path("conf.d/orders.yaml");
    write(&path, &service("orders", 8080));
    registry.until_listed("orders", 1, LONG);
    write(&path, &weighing("orders", 8080, 3));
    until_weighs(&registry, "orders", 3.0);
    fs::remove_file(&path).unwrap();
    registry.until_listed("orders", 0, LONG);
}

#[test]
fn the_rename_dances_of_editors_are_edits_and_never_a_removal() {
    let registry = Registry::start();
    let proxy = Proxy::to(registry.port);
    let mut agent = agent(proxy.port, NEVER);
    agent.write("conf.d/orders.yaml", &service("orders", 8080));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    let (path, backup, swap) = (
        agent.path("conf.d/orders.yaml"),
        agent.path("conf.d/orders.yaml~"),
        agent.path("conf.d/.orders.yaml.swp"),
    );
    // Write aside, rename over.
    write(&agent.path("conf.d/4913"), "");
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    fs::remove_file(agent.path("conf.d/4913")).unwrap();
    until_weighs(&registry, "orders", 1.0);
    // Move the old one to a backup, write the new one, remove the backup: vim's `backupcopy=no`.
    write(&swap, "not a descriptor");
    fs::rename(&path, &backup).unwrap();
    write(&path, &weighing("orders", 8080, 2));
    fs::remove_file(&backup).unwrap();
    fs::remove_file(&swap).unwrap();
    until_weighs(&registry, "orders", 2.0);
    assert_eq!(
        proxy.count(&["DELETE", "orders"]),
        0,
        "{:#?}",
        proxy.requests()
    );
    assert_eq!(agent.status().unwrap()["problems"], serde_json::json!([]));
}

#[test]
fn a_swapped_config_map_is_one_edit() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    let conf_d = agent.path("conf.d");
    let revision = |name: &str, weight: u16| {
        fs::create_dir(conf_d.join(name)).unwrap();
        for service in ["orders", "billing"] {
            write(
                &conf_d.join(name).join(format!("{service}.yaml")),
                &weighing(service, 8080, weight),
            );
        }
        symlink(name, conf_d.join("..data_tmp")).unwrap();
        fs::rename(conf_d.join("..data_tmp"), conf_d.join("..data")).unwrap();
    };
    revision("..2026_01_01", 1);
    for service in ["orders", "billing"] {
        let name = format!("{service}.yaml");
        symlink(format!("..data/{name}"), conf_d.join(&name)).unwrap();
    }
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    until_weighs(&registry, "billing", 1.0);
    for (name, weight, old) in [
        ("..2026_01_02", 2, "..2026_01_01"),
        ("..2026_01_03", 3, "..2026_01_02"),
    ] {
        revision(name, weight);
        fs::remove_dir_all(conf_d.join(old)).unwrap();
        until_weighs(&registry, "orders", f64::from(weight));
        until_weighs(&registry, "billing", f64::from(weight));
    }
    assert_eq!(agent.status().unwrap()["problems"], serde_json::json!([]));
}

#[test]
fn a_burst_of_500_files_is_listed_and_an_edit_of_one_says_nothing_of_the_others() {
    const COUNT: u16 = 500;
    let registry = Registry::start();
    let proxy = Proxy::to(registry.port);
    let mut agent = agent(proxy.port, "  write_rate: 10000\n");
    let settings = agent.read("outrigger.yaml");
    agent.write("outrigger.yaml", &format!("{settings}{NEVER}"));
    agent.start();
    until("ready", LONG, || agent.admin("GET", "/readyz").map(drop));
    let at = |number: u16| agent.path(&format!("conf.d/{number:03}.yaml"));
    let name = |number: u16| format!("burst-{number:03}");
    for number in 0..COUNT {
        write(&at(number), &service(&name(number), 10_000 + number));
    }
    let registered = || {
        let status = agent.status()?;
        let services = status["services"].as_array().unwrap();
        let well = services.iter().filter(|one| one["state"] == "registered");
        match well.count() {
            500 => Ok(()),
            count => Err(format!("{count} of {}", services.len())),
        }
    };
    until("all are registered", 2 * LONG, registered);
    for number in 0..COUNT {
        let hosts = registry.hosts(&name(number)).unwrap();
        assert_eq!(hosts.len(), 1, "{}", name(number));
    }
    // A beat is a request to .../instance/beat; a registration goes to .../instance itself.
    let registrations = |service: &str| proxy.count(&["POST /nacos/v1/ns/instance?", service]);
    assert_eq!(registrations("burst-"), usize::from(COUNT));
    write(&at(250), &weighing(&name(250), 10_250, 5));
    until_weighs(&registry, &name(250), 5.0);
    until("all are registered", LONG, registered);
    assert_eq!(registrations("burst-"), usize::from(COUNT) + 1);
    assert_eq!(proxy.count(&["DELETE /nacos/v1/ns/instance?"]), 0);
}

#[test]
fn conf_d_that_is_made_only_later_is_watched_from_then_on() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    fs::remove_dir(agent.path("conf.d")).unwrap();
    agent.start();
    until("ready", LONG, || agent.admin("GET", "/readyz").map(drop));
    fs::create_dir(agent.path("conf.d")).unwrap();
    write(&agent.path("conf.d/orders.yaml"), &service("orders", 8080));
    registry.until_listed("orders", 1, LONG);
    write(
        &agent.path("conf.d/orders.yaml"),
        &weighing("orders", 8080, 4),
    );
    until_weighs(&registry, "orders", 4.0);
}

#[test]
fn another_directory_in_the_place_of_conf_d_is_watched_too() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    let conf_d = agent.path("conf.d");
    for weight in [2, 4] {
        let (next, old) = (agent.path("next"), agent.path("old"));
        fs::create_dir(&next).unwrap();
        write(&next.join("orders.yaml"), &weighing("orders", 8080, weight));
        fs::rename(&conf_d, &old).unwrap();
        fs::rename(&next, &conf_d).unwrap();
        until_weighs(&registry, "orders", f64::from(weight));
        // The look is over; only a watch of the new directory tells of this.
        write(
            &conf_d.join("orders.yaml"),
            &weighing("orders", 8080, weight + 1),
        );
        until_weighs(&registry, "orders", f64::from(weight + 1));
        fs::remove_dir_all(&old).unwrap();
    }
    // Removed and made again at once: the new one may have the old one's number.
    fs::remove_dir_all(&conf_d).unwrap();
    fs::create_dir(&conf_d).unwrap();
    write(&conf_d.join("orders.yaml"), &weighing("orders", 8080, 6));
    until_weighs(&registry, "orders", 6.0);
    write(&conf_d.join("orders.yaml"), &weighing("orders", 8080, 7));
    until_weighs(&registry, "orders", 7.0);
}

#[test]
fn the_rescan_finds_what_no_watch_tells_and_then_watches_it() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, "");
    // A link far above conf.d decides what it is: neither conf.d nor its parent changes when the link is swapped.
    let (first, second) = (agent.path("first"), agent.path("second"));
    for (folder, weight) in [(&first, 1), (&second, 2)] {
        fs::create_dir_all(folder.join("app/conf.d")).unwrap();
        write(
            &folder.join("app/conf.d/orders.yaml"),
            &weighing("orders", 8080, weight),
        );
    }
    symlink(&first, agent.path("current")).unwrap();
    let settings = agent.read("outrigger.yaml");
    let conf_dir = agent.path("current/app/conf.d");
    agent.write(
        "outrigger.yaml",
        &format!(
            "{settings}catalog: {{ rescan: 1s, conf_dir: {} }}\n",
            conf_dir.display()
        ),
    );
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    symlink(&second, agent.path("current.new")).unwrap();
    fs::rename(agent.path("current.new"), agent.path("current")).unwrap();
    until_weighs(&registry, "orders", 2.0);
    write(&conf_dir.join("orders.yaml"), &weighing("orders", 8080, 3));
    until_weighs(&registry, "orders", 3.0);
}

#[test]
fn hup_and_reload_look_at_once() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, "");
    let settings = agent.read("outrigger.yaml");
    let link = agent.path("current");
    for weight in 1..=3 {
        let folder = agent.path(&weight.to_string());
        fs::create_dir_all(folder.join("app/conf.d")).unwrap();
        write(
            &folder.join("app/conf.d/orders.yaml"),
            &weighing("orders", 8080, weight),
        );
    }
    let folder = agent.folder.path().to_owned();
    let point_to = |weight: u16| {
        let aside = folder.join("aside");
        symlink(folder.join(weight.to_string()), &aside).unwrap();
        fs::rename(aside, &link).unwrap();
    };
    agent.write(
        "outrigger.yaml",
        &format!(
            "{settings}catalog: {{ rescan: 1h, conf_dir: {}/app/conf.d }}\n",
            link.display()
        ),
    );
    point_to(1);
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    point_to(2);
    agent.signal(Signal::SIGHUP);
    until_weighs(&registry, "orders", 2.0);
    point_to(3);
    agent.admin("POST", "/reload").unwrap();
    until_weighs(&registry, "orders", 3.0);
}

#[test]
fn of_two_files_that_want_the_same_the_earlier_runs_and_the_later_is_refused_with_its_place() {
    let registry = Registry::start();
    registry.publish("one", "from one\n");
    registry.publish("two", "from two\n");
    let mut agent = agent(registry.port, NEVER);
    let target = agent.path("target");
    let file = |data_id: &str| {
        format!(
            "configs:\n  - data_id: {data_id}\n    path: {}\n",
            target.display()
        )
    };
    agent.write("conf.d/a.yaml", &weighing("orders", 8080, 1));
    agent.write("conf.d/b.yaml", &weighing("orders", 8080, 2));
    agent.write("conf.d/c.yaml", &file("one"));
    agent.write("conf.d/d.yaml", &file("two"));
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    agent.until_state("configs", "one", "applied");
    assert_eq!(agent.read("target"), "from one\n");
    let same_service = until_problem(&agent, "b.yaml");
    assert!(
        same_service["at"].as_str().unwrap().contains("b.yaml:2:"),
        "{same_service}"
    );
    assert!(
        same_service["message"]
            .as_str()
            .unwrap()
            .contains("a.yaml:2:"),
        "{same_service}"
    );
    let same_path = until_problem(&agent, "d.yaml");
    assert!(
        same_path["at"].as_str().unwrap().contains("d.yaml:"),
        "{same_path}"
    );
    assert_eq!(same_path["key"], "configs[0].path");
    let status = agent.status().unwrap();
    assert_eq!(status["services"].as_array().unwrap().len(), 1);
    assert_eq!(status["configs"].as_array().unwrap().len(), 1);

    // The earlier ones make way.
    fs::remove_file(agent.path("conf.d/a.yaml")).unwrap();
    fs::remove_file(agent.path("conf.d/c.yaml")).unwrap();
    until_weighs(&registry, "orders", 2.0);
    agent.until_state("configs", "two", "applied");
    assert_eq!(agent.read("target"), "from two\n");
    until_no_problem(&agent);
}

#[test]
fn a_broken_edit_is_named_and_what_ran_before_runs_on_untouched() {
    let registry = Registry::start();
    let proxy = Proxy::to(registry.port);
    let mut agent = agent(proxy.port, NEVER);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    agent.write("conf.d/billing.yaml", &weighing("billing", 8081, 1));
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    until_weighs(&registry, "billing", 1.0);
    write(&agent.path("conf.d/orders.yaml"), "services: [\n");
    until_problem(&agent, "orders.yaml");
    // A file of its own goes on while the other one is broken.
    agent.write("conf.d/billing.yaml", &weighing("billing", 8081, 2));
    until_weighs(&registry, "billing", 2.0);
    until_weighs(&registry, "orders", 1.0);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    until_no_problem(&agent);
    assert_eq!(proxy.count(&["POST /nacos/v1/ns/instance?", "orders"]), 1);
    assert_eq!(proxy.count(&["DELETE", "orders"]), 0);
}

#[test]
fn a_service_that_comes_back_while_it_is_being_taken_out_ends_up_listed() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    for weight in 2..12 {
        fs::remove_file(agent.path("conf.d/orders.yaml")).unwrap();
        // Looked at for certain; whether the removal at the registry has ended is left open.
        agent.admin("POST", "/reload").unwrap();
        agent.write("conf.d/orders.yaml", &weighing("orders", 8080, weight));
        until_weighs(&registry, "orders", f64::from(weight));
    }
    agent.until_state("services", "orders", "registered");
}

#[test]
fn a_flood_of_edits_starves_nothing_and_the_last_one_wins() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    // A neighbour that never leaves the directory quiet.
    let script = "n=0; while :; do n=$((n+1)); echo $n > noise.txt; sleep 0.01; done";
    let mut noise = Command::new("sh");
    noise
        .args(["-c", script])
        .current_dir(agent.path("conf.d"))
        .stdout(Stdio::null());
    let _noise = crate::support::Process::start(&mut noise);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 9));
    until_weighs(&registry, "orders", 9.0);
    let began = std::time::SystemTime::now();
    agent.admin("GET", "/livez").unwrap();
    http(
        registry.port,
        "GET",
        "/nacos/v1/ns/service/list?pageNo=1&pageSize=10",
        "",
    )
    .unwrap();
    assert!(began.elapsed().unwrap() < Duration::from_secs(2));
}

#[test]
fn a_conf_d_named_from_the_folder_we_are_in_is_watched_too() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    agent.write("conf.d/orders.yaml", &weighing("orders", 8080, 1));
    let mut command = agent.command(&["run", "--conf-dir", "conf.d"]);
    command
        .current_dir(agent.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    agent.process = Some(Process::start(&mut command));
    for weight in 1..4 {
        agent.write("conf.d/orders.yaml", &weighing("orders", 8080, weight));
        until_weighs(&registry, "orders", f64::from(weight));
    }
}

#[test]
fn an_address_that_is_written_out_now_and_was_found_before_is_still_one_instance() {
    let registry = Registry::start();
    let mut agent = agent(registry.port, NEVER);
    let found = weighing("orders", 8080, 1);
    agent.write("conf.d/orders.yaml", &found);
    agent.start();
    until_weighs(&registry, "orders", 1.0);
    for weight in 2..6 {
        let text = weighing("orders", 8080, weight);
        let address = ["", "    address: 127.0.0.1\n"][usize::from(weight % 2 == 0)];
        agent.write("conf.d/orders.yaml", &format!("{text}{address}"));
        until_weighs(&registry, "orders", f64::from(weight));
        agent.until_state("services", "orders", "registered");
        let services = agent.status().unwrap()["services"].clone();
        assert_eq!(services.as_array().map(Vec::len), Some(1), "{services}");
        stays(
            "listed, whatever the old entry took out",
            Duration::from_millis(300),
            || match registry.hosts("orders") {
                Ok(hosts) if hosts.len() == 1 => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
    }
}

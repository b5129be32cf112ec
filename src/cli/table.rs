//! `outrigger status`: what is true now, in columns that do not wrap.

use super::text::{Paint, WIDTH, ago, columns, fit, now, pad, wrap};
use super::{End, ask, colour, fail, print};
use crate::agent::status::Status;
use crate::descriptor::{Flags, Surroundings};
use crate::foreign;
use crate::foreign::Foreign;
use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime},
};

/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(1);

/// Shows it, once or until somebody presses Ctrl-C.
pub(super) fn status(flags: &Flags, around: &Surroundings, json: bool, watch: bool) -> End {
    let socket = match ask::socket(flags, around) {
        Ok(socket) => socket,
        Err(end) => return end,
    };
    let paint = Paint(colour(&io::stdout(), around));
    let mut shown = String::new();
    loop {
        let text = if json {
            match ask::agent(&socket, "GET", "/status", Duration::from_secs(5)) {
                Ok(body) => foreign::harmless_json(&body).into_owned(),
                Err(error) => return fail(End::Unavailable, &error),
            }
        } else {
            match ask::status(&socket) {
                Ok(status) => table(&status, now(), paint),
                Err(end) => return end,
            }
        };
        if text != shown {
            if watch && io::stdout().is_terminal() {
                // Home, then clear what is below: no flicker, and the scroll-back stays as it was.
                print(&format!("\x1b[H\x1b[J{text}"));
            } else {
                print(&text);
            }
            shown = text;
        }
        if !watch {
            return End::Done;
        }
        std::thread::sleep(LOOK);
    }
}

/// The whole screen.
fn table(status: &Status, now: SystemTime, paint: Paint) -> String {
    let registry = &status.registry;
    let server = registry.server.as_deref().unwrap_or("(none yet)");
    let version = registry
        .version
        .as_ref()
        .map(|version| format!(", Nacos {}", Foreign::new(version.as_str())))
        .unwrap_or_default();
    let mut out = format!(
        "{}   {server} ({}{version})   {} for {}\n",
        paint.bold("registry"),
        registry.transport,
        paint.state(&registry.state),
        ago(&registry.since, now),
    );
    if registry.plaintext {
        out += &format!(
            "           {}\n",
            paint.with(
                "33",
                "plaintext: the password crosses the network unencrypted; use https://"
            )
        );
    }
    if let Some(reason) = &registry.reason {
        for line in wrap(reason, WIDTH - 11) {
            out += &format!("           {}\n", paint.dim(&line));
        }
    }
    if !status.services.is_empty() {
        let rows = status
            .services
            .iter()
            .map(|service| {
                let name = match service.group.as_str() {
                    "DEFAULT_GROUP" => service.name.clone(),
                    group => format!("{group}@@{}", service.name),
                };
                let instance = service.instance.clone();
                Row {
                    cells: vec![
                        fit(&name, 28, false),
                        fit(
                            &instance.unwrap_or_else(|| format!("?:{}", service.port)),
                            23,
                            true,
                        ),
                        service.state.clone(),
                        ago(&service.since, now),
                        fit(&service.probe, 20, false),
                    ],
                    why: service.reason.clone(),
                }
            })
            .collect::<Vec<_>>();
        let heads = ["SERVICE", "INSTANCE", "STATE", "SINCE", "PROBE", "WHY"];
        out += &format!("\n{}", lay_out(&heads, &rows, paint));
    }
    let configs = status.configs.iter().map(|config| {
        let from = match config.group.as_str() {
            "DEFAULT_GROUP" => config.data_id.clone(),
            group => format!("{group}/{}", config.data_id),
        };
        file(
            &config.path,
            &from,
            &config.state,
            &config.since,
            &config.reason,
            now,
        )
    });
    let lists = status.subscriptions.iter().map(|list| {
        let from = match list.group.as_str() {
            "DEFAULT_GROUP" => list.service.clone(),
            group => format!("{group}@@{}", list.service),
        };
        file(
            &list.path,
            &from,
            &list.state,
            &list.since,
            &list.reason,
            now,
        )
    });
    let rows: Vec<Row> = configs.chain(lists).collect();
    if !rows.is_empty() {
        let heads = ["FILE", "FROM", "STATE", "SINCE", "WHY"];
        out += &format!("\n{}", lay_out(&heads, &rows, paint));
    }
    if status.services.is_empty() && rows.is_empty() {
        out += "\nnothing to keep: no descriptor describes a service, a configuration or a subscription\n";
    }
    if !status.problems.is_empty() {
        out += &format!("\n{}\n", paint.bold("PROBLEMS"));
        for problem in &status.problems {
            let key = match problem.key.as_str() {
                "" => String::new(),
                key => format!("{key}: "),
            };
            let text = format!("{}: {key}{}", problem.at, problem.message);
            for line in wrap(&text, WIDTH) {
                out += &format!("{}\n", paint.with("31", &line));
            }
            if let Some(help) = &problem.help {
                for line in wrap(&format!("help: {help}"), WIDTH - 2) {
                    out += &format!("  {line}\n");
                }
            }
        }
    }
    out
}

fn file(
    path: &str,
    from: &str,
    state: &str,
    since: &str,
    reason: &Option<String>,
    now: SystemTime,
) -> Row {
    Row {
        cells: vec![
            fit(path, 46, true),
            fit(from, 28, false),
            state.to_owned(),
            ago(since, now),
        ],
        why: reason.clone(),
    }
}

struct Row {
    /// All but the last column.
    cells: Vec<String>,
    why: Option<String>,
}

/// Columns as wide as they need; what does not fit behind them goes below, indented, so that a reason is never cut.
fn lay_out(heads: &[&str], rows: &[Row], paint: Paint) -> String {
    let widths: Vec<usize> = heads
        .iter()
        .take(heads.len() - 1)
        .enumerate()
        .map(|(at, head)| {
            let cells = rows.iter().filter_map(|row| row.cells.get(at));
            cells
                .map(|cell| columns(cell))
                .chain([head.len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let indent: usize = widths.iter().map(|width| width + 2).sum();
    let mut head = String::new();
    for (at, word) in heads.iter().enumerate() {
        head += &pad(word, widths.get(at).map_or(0, |width| width + 2));
    }
    let mut out = format!("{}\n", paint.bold(head.trim_end()));
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.cells.iter().enumerate() {
            let width = widths.get(at).map_or(0, |width| width + 2);
            let shown = if at == 2 {
                paint.state(cell)
            } else {
                cell.clone()
            };
            // The codes of a colour take no column.
            line += &shown;
            line += &" ".repeat(width.saturating_sub(columns(cell)));
        }
        match &row.why {
            Some(why) if indent + columns(why) <= WIDTH => {
                line += why;
                out += &format!("{}\n", line.trim_end());
            }
            Some(why) => {
                out += &format!("{}\n", line.trim_end());
                for part in wrap(why, WIDTH - 4) {
                    out += &format!("    {}\n", paint.dim(&part));
                }
            }
            None => out += &format!("{}\n", line.trim_end()),
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dates;
    use std::time::UNIX_EPOCH;

    pub(in crate::cli) fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_332_000)
    }

    pub(in crate::cli) fn sample() -> Status {
        let since = |seconds| dates::rfc3339(now() - Duration::from_secs(seconds));
        serde_json::from_value(serde_json::json!({
            "registry": { "state": "connected", "server": "http://nacos-1:8848", "transport": "http", "transport_reason": "Nacos 1.4.8 has no gRPC", "version": "2.5.1", "plaintext": false, "reason": null, "since": since(273_600) },
            "services": [
                { "name": "orders", "group": "DEFAULT_GROUP", "namespace": "public", "port": 8080, "instance": "10.0.3.7:8080", "state": "registered", "reason": null,
                  "since": since(7200), "probe": "tcp ok, 0.2 ms", "ephemeral": true, "address_origin": "route to nacos-1:8848", "history": [ { "at": since(7200), "what": "registered" } ] },
                { "name": "billing", "group": "PAYMENTS", "namespace": "public", "port": 9090, "instance": "10.0.3.7:9090", "state": "unhealthy", "reason": "nothing listens on 127.0.0.1:9090",
                  "since": since(40), "probe": "tcp refused x 3", "ephemeral": true, "address_origin": "route to nacos-1:8848", "history": [] },
            ],
            "configs": [
                { "data_id": "orders.yaml", "group": "PAYMENTS", "namespace": "public", "path": "/run/orders/orders.yaml", "required": true, "state": "rejected",
                  "reason": "not valid yaml: line 2, column 11: a flow sequence is not closed", "since": since(720), "applied_once": true, "md5": null, "history": [] },
            ],
            "subscriptions": [
                { "service": "payments", "group": "DEFAULT_GROUP", "namespace": "public", "path": "/etc/nginx/upstreams/payments.conf", "required": false, "state": "held",
                  "reason": "the registry lists 1 instance, the file has 7; the guard allows a loss of 60 % of 7", "since": since(9), "applied_once": true,
                  "listed": 2, "passed": 1, "kept": 7, "left_out": ["10.0.3.9:8080 is unhealthy"],
                  "held": { "since": since(9), "reason": "the registry lists 1 instance, the file has 7; the guard allows a loss of 60 % of 7", "until": since(0) }, "history": [] },
            ],
            "problems": [ { "at": "conf.d/web.yaml:3:5", "key": "services[0].prot", "message": "unknown key", "help": "did you mean `port`?" } ],
            "settings": [],
            "version": "0.1.0",
        }))
        .unwrap()
    }

    #[test]
    fn the_screen() {
        insta::assert_snapshot!(table(&sample(), now(), Paint(false)), @r#"
registry   http://nacos-1:8848 (http, Nacos 2.5.1)   connected for 3 d

SERVICE            INSTANCE       STATE       SINCE  PROBE            WHY
orders             10.0.3.7:8080  registered  2 h    tcp ok, 0.2 ms
PAYMENTS@@billing  10.0.3.7:9090  unhealthy   40 s   tcp refused x 3
    nothing listens on 127.0.0.1:9090

FILE                                FROM                  STATE     SINCE   WHY
/run/orders/orders.yaml             PAYMENTS/orders.yaml  rejected  12 min
    not valid yaml: line 2, column 11: a flow sequence is not closed
/etc/nginx/upstreams/payments.conf  payments              held      9 s
    the registry lists 1 instance, the file has 7; the guard allows a loss of 60 % of 7

PROBLEMS
conf.d/web.yaml:3:5: services[0].prot: unknown key
  help: did you mean `port`?
"#);
    }

    #[test]
    fn no_line_wraps_whatever_the_names() {
        let mut status = sample();
        for service in &mut status.services {
            service.name = "n".repeat(400);
            service.reason = Some("why ".repeat(100));
        }
        for config in &mut status.configs {
            config.path = format!("/srv/{}", "深".repeat(100));
        }
        let text = table(&status, now(), Paint(false));
        for line in text.lines() {
            assert!(columns(line) <= WIDTH, "{line}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}

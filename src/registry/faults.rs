//! Faults on request: what `POST /outrigger/faults` switches on, so that one can see a client suffer.
//!
//! Two sorts. What the registry itself does wrong (late reads, forgetting) goes to the desk as [`desk::Fault`](Fault). What happens
//! to requests at the door is kept here as rules, each perhaps for some paths, some times, some time: of those that fit a request
//! the one that was set first strikes, alone. Over gRPC a request has the name of its class for a path. Nothing is kept beyond the
//! process, and a word that is not known is refused.

use crate::machine::Moment;
use crate::registry::desk::Fault;
use crate::registry::forms::Params;
use crate::registry::links::CLIENTS;
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

/// Rules at most.
const RULES: usize = 100;
/// The longest time that can be asked for.
const LONGEST: Duration = Duration::from_secs(3_600);
/// All words that are known.
const WORDS: &str = "lag, config_lag, config_busy, amnesia, restart, starting, mute, clients, connect_reset, goaway, delay, status, body, hang, reset, garbage, drop, big, path, times, for, clear";

/// What happens to a request at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It is looked at this much later.
    Delay(Duration),
    /// It is not looked at, and answered so.
    Status(u16, String),
    /// It is never answered.
    Hang,
    /// Its connection is reset.
    Reset,
    /// It is answered with what is no HTTP.
    Garbage,
    /// It is carried out, and the connection closed without an answer.
    Drop,
    /// It is answered without end.
    Big,
}

impl Harm {
    fn shown(&self) -> String {
        match self {
            Self::Delay(time) => format!("delay={}ms", time.as_millis()),
            Self::Status(status, _) => format!("status={status}"),
            Self::Hang => "hang".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::Garbage => "garbage".to_owned(),
            Self::Drop => "drop".to_owned(),
            Self::Big => "big".to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    harm: Harm,
    /// Beginning of the path, with or without the context path.
    path: String,
    /// How often it strikes yet; `None` for ever.
    left: Option<u32>,
    until: Option<Moment>,
}

/// The faults that are switched on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    lag: Duration,
    config_lag: Duration,
    /// Until when.
    starting: Moment,
    /// Until when.
    mute: Moment,
    clients: Option<usize>,
}

impl Faults {
    /// Does what the parameters say; what the desk is to be told, in this order, or why nothing was done.
    pub(crate) fn order(&mut self, now: Moment, params: &Params) -> Result<Vec<Fault>, String> {
        let words: Vec<&str> = params.names().collect();
        if let Some(unknown) = words
            .iter()
            .find(|word| !WORDS.split(", ").any(|known| known == **word))
        {
            return Err(format!("'{unknown}' is not known; known are {WORDS}"));
        }
        if words.is_empty() {
            return Err(format!("say what is to fail: {WORDS}"));
        }
        let rule = rule(now, params)?;
        let lag = time(params, "lag")?;
        let config_lag = time(params, "config_lag")?;
        let busy = flag(params, "config_busy")?;
        if busy && config_lag.is_none() {
            return Err("'config_busy' says how 'config_lag' looks, which is not there".to_owned());
        }
        let (amnesia, restart) = (flag(params, "amnesia")?, flag(params, "restart")?);
        let (starting, mute) = (time(params, "starting")?, time(params, "mute")?);
        let clients = params.raw("clients").map(|text| {
            let number = text.parse::<usize>().ok().filter(|n| *n <= CLIENTS);
            number.ok_or_else(|| format!("'clients' is a number, {CLIENTS} at most"))
        });
        let clients = clients.transpose()?;
        let reset = reset(params)?;
        let goaway = flag(params, "goaway")?;
        let clear = flag(params, "clear")?;
        if rule.is_some() && self.rules.len() >= RULES && !clear {
            return Err(format!("there are {RULES} faults already; clear them"));
        }
        // From here on all is well, so a refused order has changed nothing.
        let mut told = Vec::new();
        if clear {
            *self = Self::default();
            told.push(Fault::Lag(Duration::ZERO));
            told.push(Fault::ConfigLag {
                lag: Duration::ZERO,
                busy: false,
            });
            told.push(Fault::Starting(Duration::ZERO));
            told.push(Fault::Mute(Duration::ZERO));
            told.push(Fault::Clients(CLIENTS));
        }
        if let Some(time) = starting {
            self.starting = now.saturating_add(time);
            told.push(Fault::Starting(time));
        }
        if let Some(time) = mute {
            self.mute = now.saturating_add(time);
            told.push(Fault::Mute(time));
        }
        if let Some(most) = clients {
            self.clients = Some(most);
            told.push(Fault::Clients(most));
        }
        told.extend(reset.map(|to| Fault::Reset { to }));
        if goaway {
            told.push(Fault::GoAway);
        }
        if let Some(lag) = lag {
            self.lag = lag;
            told.push(Fault::Lag(lag));
        }
        if let Some(lag) = config_lag {
            self.config_lag = lag;
            told.push(Fault::ConfigLag { lag, busy });
        }
        if restart {
            told.push(Fault::Restart);
        }
        if amnesia {
            told.push(Fault::Amnesia);
        }
        self.rules.extend(rule);
        Ok(told)
    }

    /// What happens to a request, which is counted.
    pub(crate) fn strike(&mut self, now: Moment, path: &str, route: &str) -> Option<Harm> {
        self.rules
            .retain(|rule| rule.until.is_none_or(|until| now < until));
        let fits = |rule: &Rule| path.starts_with(&rule.path) || route.starts_with(&rule.path);
        let at = self.rules.iter().position(fits)?;
        let rule = self.rules.get_mut(at)?;
        let harm = rule.harm.clone();
        if let Some(left) = &mut rule.left {
            *left -= 1;
            if *left == 0 {
                self.rules.remove(at);
            }
        }
        Some(harm)
    }

    /// What is on.
    pub(crate) fn shown(&self, now: Moment) -> Value {
        let rules: Vec<Value> = self
            .rules
            .iter()
            .filter(|rule| rule.until.is_none_or(|until| now < until))
            .map(|rule| {
                let left = |until: Moment| until.saturating_sub(now).as_millis().to_string();
                json!({
                    "fault": rule.harm.shown(),
                    "path": rule.path,
                    "times": rule.left,
                    "for": rule.until.map(|until| left(until) + "ms"),
                })
            })
            .collect();
        let left = |until: Moment| format!("{}ms", until.saturating_sub(now).as_millis());
        json!({
            "lag": format!("{}ms", self.lag.as_millis()),
            "config_lag": format!("{}ms", self.config_lag.as_millis()),
            "starting": left(self.starting),
            "mute": left(self.mute),
            "clients": self.clients.unwrap_or(CLIENTS),
            "faults": rules,
        })
    }
}

/// The one fault at the door that an order may have, and its limits.
fn rule(now: Moment, params: &Params) -> Result<Option<Rule>, String> {
    let mut harms = Vec::new();
    if let Some(delay) = time(params, "delay")? {
        harms.push(Harm::Delay(delay));
    }
    if let Some(status) = params.raw("status") {
        let status = status.parse().ok().filter(|n| (200..600).contains(n));
        let status = status.ok_or("'status' goes from 200 to 599")?;
        let body = params.raw("body").unwrap_or_default();
        harms.push(Harm::Status(status, body.to_owned()));
    } else if params.raw("body").is_some() {
        return Err("'body' belongs to 'status', which is not there".to_owned());
    }
    for (word, harm) in [
        ("hang", Harm::Hang),
        ("reset", Harm::Reset),
        ("garbage", Harm::Garbage),
        ("drop", Harm::Drop),
        ("big", Harm::Big),
    ] {
        if flag(params, word)? {
            harms.push(harm);
        }
    }
    let times = params.raw("times").map(|times| {
        let times = times.parse::<u32>().ok().filter(|times| *times > 0);
        times.ok_or("'times' is a number, 1 or more")
    });
    let limits = ["path", "times", "for"];
    let mut harms = harms.into_iter();
    match (harms.next(), harms.next()) {
        (None, _) => match limits.iter().find(|word| params.raw(word).is_some()) {
            Some(word) => Err(format!(
                "'{word}' limits one of delay, status, hang, reset, garbage, drop, big, and there is none"
            )),
            None => Ok(None),
        },
        (Some(_), Some(_)) => {
            Err("one of delay, status, hang, reset, garbage, drop, big at a time".to_owned())
        }
        (Some(harm), None) => Ok(Some(Rule {
            harm,
            path: params.raw("path").unwrap_or_default().to_owned(),
            left: times.transpose()?,
            until: time(params, "for")?.map(|time| now.saturating_add(time)),
        })),
    }
}

/// `connect_reset`, alone or with where to go.
fn reset(params: &Params) -> Result<Option<Option<SocketAddr>>, String> {
    match params.raw("connect_reset") {
        None => Ok(None),
        Some("" | "true") => Ok(Some(None)),
        Some(to) => (to.parse().map(|to| Some(Some(to)))).map_err(|_| {
            format!("'connect_reset' takes an address such as 127.0.0.1:8848, and was given '{to}'")
        }),
    }
}

/// A word that is there or not.
fn flag(params: &Params, word: &str) -> Result<bool, String> {
    match params.raw(word) {
        None => Ok(false),
        Some("" | "true") => Ok(true),
        Some(other) => Err(format!("'{word}' takes no value, and was given '{other}'")),
    }
}

/// `500ms`, `10s`, `2m`; `0s` switches off.
fn time(params: &Params, word: &str) -> Result<Option<Duration>, String> {
    let Some(text) = params.raw(word) else {
        return Ok(None);
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match text.get(digits.len()..) {
        Some("ms") => 1,
        Some("s") => 1_000,
        Some("m") => 60_000,
        _ => 0,
    };
    let number = digits.parse::<u64>().ok().filter(|_| millis > 0);
    number
        .and_then(|number| number.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|time| *time <= LONGEST)
        .map(Some)
        .ok_or_else(|| format!("'{word}' is a time of an hour at most, such as 500ms, 10s or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(faults: &mut Faults, query: &str) -> Result<Vec<Fault>, String> {
        let mut params = Params::default();
        params.add(query);
        faults.order(Duration::ZERO, &params)
    }

    #[test]
    fn a_fault_strikes_where_and_as_often_and_as_long_as_it_was_asked_to() {
        let mut faults = Faults::default();
        order(&mut faults, "hang&path=/v1/ns&times=2").unwrap();
        order(&mut faults, "status=503&body=busy&for=10s").unwrap();
        let second = Duration::from_secs(1);
        let mut strike = |at: u32, path: &str| {
            let route = path.strip_prefix("/nacos").unwrap_or(path);
            faults.strike(second * at, path, route)
        };
        let busy = Some(Harm::Status(503, "busy".into()));
        assert_eq!(strike(0, "/nacos/v1/cs/configs"), busy);
        assert_eq!(strike(1, "/nacos/v1/ns/instance"), Some(Harm::Hang));
        assert_eq!(strike(1, "/v1/ns/instance"), Some(Harm::Hang));
        assert_eq!(strike(1, "/v1/ns/instance"), busy);
        assert_eq!(strike(9, "/"), busy);
        assert_eq!(strike(10, "/"), None);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_words_and_changes_nothing() {
        let mut faults = Faults::default();
        for (query, words) in [
            ("", "say what"),
            ("dealy=2s", "'dealy' is not known"),
            ("delay=2", "'delay' is a time"),
            ("delay=2h", "'delay' is a time"),
            ("delay=1s&lag=x", "'lag' is a time"),
            ("hang=no", "'hang' takes no value"),
            ("status=42", "'status' goes from"),
            ("body=x", "'body' belongs to"),
            ("times=3", "'times' limits"),
            ("hang&times=0", "'times' is a number"),
            ("hang&reset", "one of"),
            ("config_busy", "'config_busy' says how"),
            ("clients=many", "'clients' is a number"),
            ("connect_reset=there", "'connect_reset' takes an address"),
            ("mute=1", "'mute' is a time"),
        ] {
            let refused = order(&mut faults, query).unwrap_err();
            assert!(refused.starts_with(words), "{query}: {refused}");
        }
        assert!(faults.rules.is_empty() && faults.lag.is_zero());
    }

    #[test]
    fn what_is_wrong_with_grpc_goes_to_the_desk() {
        let mut faults = Faults::default();
        let query = "starting=1s&mute=2s&clients=3&connect_reset=10.0.0.1:8848&goaway";
        assert_eq!(
            order(&mut faults, query).unwrap(),
            [
                Fault::Starting(Duration::from_secs(1)),
                Fault::Mute(Duration::from_secs(2)),
                Fault::Clients(3),
                Fault::Reset {
                    to: Some(([10, 0, 0, 1], 8848).into())
                },
                Fault::GoAway,
            ]
        );
        let told = order(&mut faults, "connect_reset").unwrap();
        assert_eq!(told, [Fault::Reset { to: None }]);
    }

    #[test]
    fn clear_comes_first_and_ends_all() {
        let mut faults = Faults::default();
        order(&mut faults, "hang").unwrap();
        order(&mut faults, "lag=600ms").unwrap();
        let told = order(&mut faults, "clear&delay=1s").unwrap();
        assert_eq!(told.first(), Some(&Fault::Lag(Duration::ZERO)));
        assert_eq!(faults.rules.len(), 1);
        assert!(faults.lag.is_zero());
    }
}

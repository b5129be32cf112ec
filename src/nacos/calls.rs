//! The calls of HTTP v1 as values: what is sent, and how what comes back is read. No socket, no waiting.
//!
//! Here stand the parameters of every call, so that whoever sends them (the HTTP shell, or a simulator) cannot differ. Naming
//! parameters go into the query: 1.4.8 loses the form of a `POST` below `/v1/ns`. Nothing secret is ever in a query.

use super::model::{
    self, ConfigKey, Content, Instance, InstanceKey, Listed, ServiceKey, ServiceList, preserved,
};
use super::{Error, answer, wire};
use crate::foreign::Foreign;
use reqwest::{Method, StatusCode};
use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

/// Header in which a client says its tag; over gRPC the label `app_` with this behind it.
pub(super) const TAG: &str = "Vipserver-Tag";
/// Longest answer to a naming call; bytes.
const NAMING_LIMIT: usize = 16 * 1024 * 1024;
/// Longest configuration: Nacos' own limit, there in characters.
const CONFIG_LIMIT: usize = 10 * 1024 * 1024;
/// Longest answer to a login or to the question for the state, and longest refusal of anything.
const SMALL_LIMIT: usize = 64 * 1024;

/// One call. Its `Debug` shows no value: one of them is a password.
#[derive(Clone)]
pub struct Call {
    /// Word for figures and logs.
    pub what: &'static str,
    /// Method.
    pub method: Method,
    /// Below the context path.
    pub path: &'static str,
    /// Parameters of the query, before encoding.
    pub query: Vec<(&'static str, String)>,
    /// Fields of the form body, before encoding; none means no body.
    pub form: Vec<(&'static str, String)>,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// How long the server is asked to take on purpose.
    pub hold: Duration,
    /// A longer answer is given up; bytes. See [`Call::limit`].
    pub limit: usize,
    /// Whether it carries the token.
    pub signed: bool,
}

/// An answer of any status. Its `Debug` shows no byte of the body, which may be a token or a configuration.
#[derive(Clone, Default)]
pub struct Answer {
    /// Who answered: a base URL.
    pub server: Arc<str>,
    /// HTTP status.
    pub status: u16,
    /// Its header `Content-MD5`.
    pub sealed: Option<Arc<str>>,
    /// Its header `Config-Type`.
    pub kind: Option<Arc<str>>,
    /// Its header `Encrypted-Data-Key`.
    pub data_key: Option<Arc<str>>,
    /// `Last-Modified`, in seconds since 1970.
    pub modified: Option<u64>,
    /// Body.
    pub body: Vec<u8>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.what, self.method, self.path)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, status, length) = (&self.server, self.status, self.body.len());
        write!(f, "{server} answered {status} ({length} bytes)")
    }
}

impl Call {
    fn new(what: &'static str, method: Method, path: &'static str) -> Self {
        Self {
            what,
            method,
            path,
            query: Vec::new(),
            form: Vec::new(),
            headers: Vec::new(),
            hold: Duration::ZERO,
            limit: NAMING_LIMIT,
            signed: true,
        }
    }

    /// The call of who gets the content that is published for this tag.
    #[must_use]
    pub fn tagged(mut self, tag: Option<&str>) -> Self {
        self.headers.extend(tag.map(|tag| (TAG, tag.to_owned())));
        self
    }

    fn with_query(self, query: Vec<(&'static str, String)>) -> Self {
        Self { query, ..self }
    }

    /// Whether an answer is one of Nacos' to this call, in status and form. That there is no such thing is one.
    ///
    /// # Errors
    /// What the answer says, as [`answer::read`] reads it, or [`Error::Garbage`].
    pub fn check(&self, answer: &Answer) -> Result<(), Error> {
        if answer.says_absent() {
            return Ok(());
        }
        answer::read(&answer.server, answer.status, &answer.body)?;
        match self.what {
            "register" | "deregister" => answer.done(),
            "beat" => answer.beat().map(|_| ()),
            "config_get" => answer.is_sealed(),
            _ => Ok(()),
        }
    }

    /// Longest body of an answer with this status; bytes.
    #[must_use]
    pub fn limit(&self, status: u16) -> usize {
        if status == StatusCode::OK.as_u16() {
            self.limit
        } else {
            self.limit.min(SMALL_LIMIT)
        }
    }

    /// A status that says nothing about the server it came from: 409 is about one configuration, and the 500 of a login
    /// about one user (`User x not found`).
    pub(super) fn spares(&self, status: u16) -> bool {
        status == if self.what == "login" { 500 } else { 409 }
    }
}

/// The parameters every call about an instance has.
fn identity(key: &InstanceKey, cluster: &str) -> Vec<(&'static str, String)> {
    let mut query = of_service(&key.service);
    query.extend([
        ("clusterName", cluster.to_owned()),
        ("cluster", cluster.to_owned()),
        ("ip", key.ip.to_string()),
        ("port", key.port.to_string()),
    ]);
    query
}

fn of_service(key: &ServiceKey) -> Vec<(&'static str, String)> {
    vec![
        ("serviceName", key.grouped()),
        ("groupName", key.group.to_string()),
        ("namespaceId", key.namespace.naming_id().to_owned()),
    ]
}

/// Lists an instance, with all it is.
#[must_use]
pub fn register(instance: &Instance) -> Call {
    let mut query = identity(&instance.key, &instance.cluster);
    query.extend([
        ("weight", instance.weight.to_string()),
        ("healthy", instance.healthy.to_string()),
        ("enabled", instance.enabled.to_string()),
        ("enable", instance.enabled.to_string()),
        ("ephemeral", instance.ephemeral.to_string()),
        ("metadata", json_object(&instance.metadata)),
    ]);
    Call::new("register", Method::POST, "/v1/ns/instance").with_query(query)
}

/// Takes an instance out.
#[must_use]
pub fn deregister(instance: &Instance) -> Call {
    let mut query = identity(&instance.key, &instance.cluster);
    query.push(("ephemeral", instance.ephemeral.to_string()));
    Call::new("deregister", Method::DELETE, "/v1/ns/instance").with_query(query)
}

/// A beat; a light one needs no more than key and cluster. `period` is the interval a full one names.
#[must_use]
pub fn beat(instance: &Instance, light: bool, period: Duration) -> Call {
    let key = &instance.key;
    let mut query = identity(key, &instance.cluster);
    if !light {
        let beat = wire::Beat {
            ip: key.ip.to_string(),
            port: key.port.into(),
            // Without it 2.x and 3.x answer 10200 and let the instance die.
            service_name: key.service.grouped(),
            cluster: instance.cluster.to_string(),
            weight: instance.weight,
            metadata: instance
                .metadata
                .iter()
                .map(|(key, value)| (key.clone(), wire::Loose(Some(value.clone()))))
                .collect(),
            scheduled: false,
            period: i64::try_from(period.as_millis()).unwrap_or(i64::MAX),
            stopped: false,
            ephemeral: instance.ephemeral,
        };
        // Texts, numbers and flags only: this cannot fail, and a light beat would do no harm.
        if let Ok(json) = serde_json::to_string(&beat) {
            query.push(("beat", json));
        }
    }
    Call::new("beat", Method::PUT, "/v1/ns/instance/beat").with_query(query)
}

/// The instance as the server has it, its health never masked.
#[must_use]
pub fn detail(instance: &Instance) -> Call {
    let query = identity(&instance.key, &instance.cluster);
    Call::new("detail", Method::GET, "/v1/ns/instance").with_query(query)
}

/// The instances of a service; `clusters` empty means all. The health in it may be masked.
#[must_use]
pub fn list(service: &ServiceKey, clusters: &[String], healthy_only: bool) -> Call {
    let mut query = of_service(service);
    query.extend([
        ("clusters", clusters.join(",")),
        ("healthyOnly", healthy_only.to_string()),
    ]);
    Call::new("list", Method::GET, "/v1/ns/instance/list").with_query(query)
}

/// As whom a list is asked for: servers push only to clients whose names they know, and this one's may carry ours.
const PUSHED_TO: &str = "Nacos-Go-Client:v1.0.0-outrigger";

/// [`list`] of all instances; for some seconds from then on a change of them is told by UDP to this address and port.
#[must_use]
pub fn list_and_hear(service: &ServiceKey, (ip, port): (IpAddr, u16)) -> Call {
    let mut call = list(service, &[], false);
    let heard_at = [("clientIP", ip.to_string()), ("udpPort", port.to_string())];
    call.query.extend(heard_at);
    call.headers.push(("User-Agent", PUSHED_TO.to_owned()));
    call
}

/// Makes the service, which makes it one of persistent instances on 2.x; [`Answer::made`] reads what comes back.
#[must_use]
pub fn create_service(service: &ServiceKey) -> Call {
    let query = of_service(service);
    Call::new("service", Method::POST, "/v1/ns/service").with_query(query)
}

/// The parameters that name a service to v3, where name and group stand apart.
fn of_service_v3(key: &ServiceKey) -> Vec<(&'static str, String)> {
    vec![
        ("serviceName", key.name.to_string()),
        ("groupName", key.group.to_string()),
        ("namespaceId", key.namespace.naming_id().to_owned()),
    ]
}

/// [`create_service`] as 3.x takes it, from administrators; [`Answer::made`] reads this answer too.
#[must_use]
pub fn create_service_v3(service: &ServiceKey) -> Call {
    let mut query = of_service_v3(service);
    query.push(("ephemeral", "false".to_owned()));
    Call::new("service", Method::POST, "/v3/admin/ns/service").with_query(query)
}

/// [`no_checker`] as 3.x takes it, from administrators; [`Answer::checked_no_more`] reads this answer too.
#[must_use]
pub fn no_checker_v3(service: &ServiceKey, cluster: &str) -> Call {
    let mut query = of_service_v3(service);
    query.extend(without_checker(cluster));
    Call::new("checker", Method::PUT, "/v3/admin/ns/cluster").with_query(query)
}

/// The enabled instances of one cluster of a service, as 3.x tells clients. The health in it may be masked, and nothing tells.
#[must_use]
pub fn list_v3(service: &ServiceKey, cluster: &str) -> Call {
    let mut query = of_service_v3(service);
    query.push(("clusterName", cluster.to_owned()));
    Call::new("list", Method::GET, "/v3/client/ns/instance/list").with_query(query)
}

fn without_checker(cluster: &str) -> [(&'static str, String); 4] {
    [
        ("clusterName", cluster.to_owned()),
        ("checkPort", "80".to_owned()),
        ("useInstancePort4Check", "true".to_owned()),
        ("healthChecker", r#"{"type":"NONE"}"#.to_owned()),
    ]
}

/// Tells the server not to check the persistent instances of this cluster by itself: their health is what they are told to be.
/// The cluster's settings are kept with the service, so the service must be there.
#[must_use]
pub fn no_checker(service: &ServiceKey, cluster: &str) -> Call {
    let mut query = of_service(service);
    query.extend(without_checker(cluster));
    Call::new("checker", Method::PUT, "/v1/ns/cluster").with_query(query)
}

/// Sets the health of a persistent instance by hand, which only 1.4 can; [`Answer::set_by_hand`] reads what comes back.
#[must_use]
pub fn health_by_hand(instance: &Instance) -> Call {
    let mut query = identity(&instance.key, &instance.cluster);
    query.push(("healthy", instance.healthy.to_string()));
    Call::new("health", Method::PUT, "/v1/ns/health/instance").with_query(query)
}

/// The content of a configuration.
#[must_use]
pub fn config_get(key: &ConfigKey) -> Call {
    let mut query = vec![
        ("dataId", key.data_id.to_string()),
        ("group", key.group.to_string()),
    ];
    if !key.namespace.tenant().is_empty() {
        query.push(("tenant", key.namespace.tenant().to_owned()));
    }
    Call {
        limit: CONFIG_LIMIT,
        ..Call::new("config_get", Method::GET, "/v1/cs/configs").with_query(query)
    }
}

/// Asks which configurations have another MD5 than these; answered at once, or at the end of the hold.
#[must_use]
pub fn config_listen(keys: &[(ConfigKey, Arc<str>)], hold: Duration) -> Call {
    let mut asked = String::new();
    for (key, md5) in keys {
        listening(key, md5).write_asked(&mut asked);
    }
    Call {
        form: vec![("Listening-Configs", asked)],
        headers: vec![("Long-Pulling-Timeout", hold.as_millis().to_string())],
        hold,
        ..Call::new("config_listen", Method::POST, "/v1/cs/configs/listener")
    }
}

/// Logs in; the password goes into the body.
#[must_use]
pub fn login(username: &str, password: &str) -> Call {
    Call {
        form: vec![
            ("username", username.to_owned()),
            ("password", password.to_owned()),
        ],
        limit: SMALL_LIMIT,
        signed: false,
        ..Call::new("login", Method::POST, "/v1/auth/login")
    }
}

/// Asks a server what it is; open even where everything else needs a token.
#[must_use]
pub fn state() -> Call {
    Call {
        limit: SMALL_LIMIT,
        signed: false,
        ..Call::new("state", Method::GET, "/v1/console/server/state")
    }
}

/// [`state`] as 3.x answers it: 404 or 410 from every other server.
#[must_use]
pub fn state_v3() -> Call {
    Call {
        path: "/v3/admin/core/state",
        ..state()
    }
}

fn listening(key: &ConfigKey, md5: &str) -> wire::Listening {
    wire::Listening {
        data_id: key.data_id.to_string(),
        group: key.group.to_string(),
        md5: md5.to_owned(),
        tenant: key.namespace.tenant().to_owned(),
    }
}

fn json_object(map: &BTreeMap<String, String>) -> String {
    let object: serde_json::Map<_, _> = map
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    serde_json::Value::Object(object).to_string()
}

impl Answer {
    /// The answer, if its status is 200.
    ///
    /// # Errors
    /// As [`answer::read`].
    pub fn ok(self) -> Result<Self, Error> {
        answer::read(&self.server, self.status, &self.body).map(|()| self)
    }

    fn garbage(&self, what: impl Into<String>) -> Error {
        Error::Garbage {
            server: self.server.to_string(),
            what: what.into(),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|e| self.garbage(Foreign::new(e.to_string()).to_string()))
    }

    /// For the content of a configuration: 1.4.8, 2.5.1 and 3.0.3 all send `Content-MD5` with it, and the page of a proxy must
    /// not become somebody's file. Its value is not compared: for an encrypted configuration it is that of another text.
    fn is_sealed(&self) -> Result<(), Error> {
        match self.sealed {
            Some(_) => Ok(()),
            None => Err(self.garbage("a configuration without Content-MD5")),
        }
    }

    /// Whether it says that there is no such configuration or instance.
    #[must_use]
    pub fn says_absent(&self) -> bool {
        self.status != 200
            && (self.status == StatusCode::NOT_FOUND.as_u16()
                && self.text().raw().contains("config data not exist")
                || answer::is_no_instance(&self.body))
    }

    fn text(&self) -> Foreign {
        Foreign::new(String::from_utf8_lossy(&self.body).trim().to_owned())
    }

    /// For calls that are answered `ok`.
    ///
    /// # Errors
    /// [`Error::Garbage`] when it says something else.
    pub fn done(&self) -> Result<(), Error> {
        let enveloped = |envelope: wire::Envelope| envelope.code == 0;
        if self.text().raw() == "ok" || self.envelope().is_some_and(enveloped) {
            Ok(())
        } else {
            Err(self.garbage(format!("expected \"ok\", got \"{}\"", self.text())))
        }
    }

    /// A beat's answer.
    ///
    /// # Errors
    /// [`Error::Garbage`] when it is none, or its code is none we know.
    pub fn beat(&self) -> Result<wire::BeatAnswer, Error> {
        let answer: wire::BeatAnswer = self.json()?;
        match answer.code {
            wire::BEAT_OK | wire::BEAT_NOT_FOUND => Ok(answer),
            code => Err(self.garbage(format!("a beat's answer with code {code}"))),
        }
    }

    /// The answer to [`create_service`]: whether the service is there now.
    ///
    /// # Errors
    /// What the server says, unless it is that the service exists already.
    pub fn made(self) -> Result<(), Error> {
        // 1.4.8: `specified service already exists, serviceName : …`; 2.5.1: `specified service … already exists!`
        // 3.0.3: code 21007 in an envelope.
        let envelope = self.envelope();
        if answer::words(&self.body).raw().contains("already exists")
            || envelope
                .as_ref()
                .is_some_and(|envelope| envelope.code == 21_007)
        {
            return Ok(());
        }
        self.ok()?.done()
    }

    /// What 3.x wraps its answers in.
    fn envelope(&self) -> Option<wire::Envelope> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The answer to [`list_v3`].
    ///
    /// # Errors
    /// What the server says, or [`Error::Garbage`].
    pub fn list_v3(self) -> Result<Vec<Listed>, Error> {
        let answer = self.ok()?;
        let envelope: wire::Envelope = answer.json()?;
        // Status 200 is no success here.
        if envelope.code != 0 {
            return Err(answer.garbage(format!("code {} to a list", envelope.code)));
        }
        let hosts: Vec<wire::Host> = serde_json::from_value(envelope.data)
            .map_err(|e| answer.garbage(Foreign::new(e.to_string()).to_string()))?;
        Ok(hosts.into_iter().map(Listed::from).collect())
    }

    /// The answer to [`no_checker`].
    ///
    /// # Errors
    /// What the server says; that it does not know the service is passing trouble, because another node of a cluster, or the
    /// expiry of an empty service, may be half a second apart.
    pub fn checked_no_more(self) -> Result<(), Error> {
        if self.status != 200 && answer::is_no_instance(&self.body) {
            return Err(self.busy());
        }
        self.ok()?.done()
    }

    /// The answer to [`health_by_hand`]: false from a server where registering again is what changes the health (2.x, 3.x).
    ///
    /// # Errors
    /// What the server says; that it still checks the cluster itself is passing trouble.
    pub fn set_by_hand(self) -> Result<bool, Error> {
        let words = answer::words(&self.body);
        if self.status == 410 || words.raw().contains("can't register ephemeral instance") {
            return Ok(false);
        }
        if words.raw().contains("health check is still working") {
            return Err(self.busy());
        }
        self.ok()?.done().map(|()| true)
    }

    fn busy(&self) -> Error {
        Error::Busy {
            server: self.server.to_string(),
            status: self.status,
            message: answer::words(&self.body),
        }
    }

    /// The answer to [`detail`]; `None` when there is no such instance.
    ///
    /// # Errors
    /// What the server says, or [`Error::Garbage`].
    pub fn detail(self) -> Result<Option<Listed>, Error> {
        if self.says_absent() {
            return Ok(None);
        }
        let detail: wire::Detail = self.ok()?.json()?;
        Ok(Some(Listed {
            ip: detail.ip,
            port: detail.port,
            cluster: detail.cluster_name,
            weight: detail.weight,
            healthy: detail.healthy,
            // The detail does not say; nobody judges by it.
            enabled: true,
            ephemeral: None,
            metadata: detail
                .metadata
                .into_iter()
                .filter(|(name, _)| !name.raw().starts_with(preserved::PREFIX))
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        }))
    }

    /// The answer to [`list`].
    ///
    /// # Errors
    /// What the server says, or [`Error::Garbage`].
    pub fn list(self) -> Result<ServiceList, Error> {
        let list: wire::ListAnswer = self.ok()?.json()?;
        Ok(list.into())
    }

    /// The answer to [`config_get`]; `None` when there is no such configuration.
    ///
    /// # Errors
    /// What the server says, or [`Error::Garbage`].
    pub fn content(self) -> Result<Option<Content>, Error> {
        if self.says_absent() {
            return Ok(None);
        }
        let answer = self.ok()?;
        answer.is_sealed()?;
        Ok(Some(Content {
            modified: answer.modified,
            kind: answer.kind,
            data_key: answer.data_key,
            ..Content::of(answer.body)
        }))
    }

    /// The answer to [`config_listen`]: those of `keys` that changed.
    ///
    /// # Errors
    /// What the server says, or [`Error::Garbage`].
    pub fn changed(self, keys: &[(ConfigKey, Arc<str>)]) -> Result<Vec<ConfigKey>, Error> {
        let answer = self.ok()?;
        let text = percent_encoding::percent_decode(answer.body.trim_ascii())
            .decode_utf8()
            .map_err(|_| answer.garbage("a listener's answer that is not UTF-8"))?;
        let changed = wire::Listening::read_changed(&text)
            .ok_or_else(|| answer.garbage("a listener's answer of another form"))?;
        Ok(keys
            .iter()
            .filter(|(key, _)| {
                let ours = listening(key, "");
                changed.iter().any(|changed| {
                    changed.data_id == ours.data_id
                        && changed.group == ours.group
                        && (changed.tenant == ours.tenant
                            // 3.x names the public tenant where 1.4 and 2.x leave it out.
                            || changed.tenant == model::PUBLIC && ours.tenant.is_empty())
                })
            })
            .map(|(key, _)| key.clone())
            .collect())
    }

    /// The answer to [`login`]: the token's text and how long it lives.
    ///
    /// # Errors
    /// [`Error::Denied`] in the server's words for any answer but a token: versions differ in status and text, and every one
    /// of them means no.
    pub fn token(self) -> Result<wire::Login, Error> {
        let no = |message: Foreign| Error::Denied {
            server: self.server.to_string(),
            message,
        };
        if self.status != 200 {
            let words = answer::words(&self.body);
            return Err(no(Foreign::new(format!("{} {}", self.status, words.raw()))));
        }
        let login: wire::Login = self.json()?;
        let usable = !login.access_token.is_empty()
            && login.access_token.bytes().all(|b| b.is_ascii_graphic());
        if usable {
            Ok(login)
        } else {
            Err(no("no usable token".into()))
        }
    }

    /// The answer to [`state`]: the version it names.
    #[must_use]
    pub fn version(self) -> Option<Foreign> {
        let state: serde_json::Value = self.ok().ok()?.json().ok()?;
        // 3.x wraps it.
        let state = state.get("data").unwrap_or(&state);
        Some(Foreign::new(state.get("version")?.as_str()?.to_owned()))
    }
}

/// The major number of a version: 1 of `1.4.8`.
#[must_use]
pub fn major(version: &Foreign) -> Option<u32> {
    version.raw().split('.').next()?.trim().parse().ok()
}

/// The first three numbers of a version.
#[must_use]
pub fn numbers(version: &Foreign) -> Option<(u32, u32, u32)> {
    let mut numbers = version
        .raw()
        .split(['.', '-'])
        .map(|part| part.trim().parse().ok());
    let major = numbers.next()??;
    let mut further = || numbers.next().flatten().unwrap_or(0);
    Some((major, further(), further()))
}

/// Whether an instance of another kind is listed: on 2.x and 3.x a service has instances of one kind only.
#[must_use]
pub fn is_of_another_kind(list: &ServiceList, ephemeral: bool) -> bool {
    list.hosts
        .iter()
        .any(|host| host.ephemeral.is_some_and(|kind| kind != ephemeral))
}

/// What a list says of `instance`, where a server has no detail (3.x answers it to administrators only). A masked health is no
/// verdict: then it is what we say.
#[must_use]
pub fn among(list: ServiceList, instance: &Instance) -> Option<Listed> {
    let (ip, port) = (instance.key.ip.to_string(), i64::from(instance.key.port));
    let mut found = list
        .hosts
        .into_iter()
        .find(|host| host.ip.raw() == ip && host.port == port)?;
    if list.protected {
        found.healthy = instance.healthy;
    }
    Some(found)
}

/// [`among`] a masked list, its health as `healthy` tells it: the list of the healthy ones alone, which is never masked.
#[must_use]
pub fn unmasked(list: ServiceList, healthy: ServiceList, instance: &Instance) -> Option<Listed> {
    let mut found = among(list, instance)?;
    found.healthy = among(healthy, instance).is_some();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            server: "http://nacos:8848".into(),
            status,
            body: body.as_bytes().to_vec(),
            ..Answer::default()
        }
    }

    #[test]
    fn what_a_server_has_decrypted_goes_on_to_be_known_by_the_md5_of_what_is_encrypted() {
        let key = |data_id: &str| model::ConfigKey {
            namespace: model::Namespace::public(),
            group: "G".into(),
            data_id: data_id.into(),
        };
        let sealed = wire::md5_hex(b"sealed");
        let clear = || Content {
            data_key: Some("key".into()),
            ..Content::of(b"clear".to_vec())
        };
        let opened = clear().sealed(&key("cipher-aes-a"), &sealed.to_ascii_uppercase());
        assert!(opened.is_opened && *opened.md5 == *sealed);
        let own = wire::md5_hex(b"clear");
        for (content, data_id, said) in [
            (clear(), "a", &*sealed),
            (clear(), "cipher-aes-a", "no md5"),
            (clear(), "cipher-aes-a", &*own),
            (Content::of(b"clear".to_vec()), "cipher-aes-a", &*sealed),
        ] {
            let taken = content.sealed(&key(data_id), said);
            assert!(!taken.is_opened && *taken.md5 == *own, "{data_id} {said}");
        }
    }

    #[test]
    fn what_prepares_a_persistent_service_is_read_as_each_version_says_it() {
        for (status, body) in [
            (200, "ok"),
            (400, "specified service DEFAULT_GROUP@@made already exists!"),
            (
                400,
                "caused: specified service already exists, serviceName : DEFAULT_GROUP@@made;",
            ),
        ] {
            assert_eq!(answer(status, body).made(), Ok(()), "{status} {body}");
        }
        assert!(answer(500, "caused: no leader;").made().is_err());
        for (status, body) in [
            (400, "service not found:G@@S"),
            (500, "caused: service not found:G@@S;"),
        ] {
            let read = answer(status, body).checked_no_more();
            assert!(matches!(read, Err(Error::Busy { .. })), "{body}: {read:?}");
        }
    }

    #[test]
    fn a_health_that_cannot_be_set_by_hand_is_told_from_one_that_is_still_checked() {
        assert_eq!(answer(200, "ok").set_by_hand(), Ok(true));
        let text = "errCode: 400, errMsg: Current service G@@S is persistent service, can't register ephemeral instance. ";
        assert_eq!(answer(400, text).set_by_hand(), Ok(false));
        let checked = "health check is still working, service: G@@S, cluster: DEFAULT";
        assert!(matches!(
            answer(400, checked).set_by_hand(),
            Err(Error::Busy { .. })
        ));
    }

    #[test]
    fn versions_are_told_by_their_first_number() {
        assert_eq!(major(&"1.4.8".into()), Some(1));
        assert_eq!(major(&"3.0.3-SNAPSHOT".into()), Some(3));
        assert_eq!(major(&"unknown".into()), None);
    }
}

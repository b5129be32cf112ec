//! Every "no" of the registry: which status and which text Nacos 2.5.1 answers to it.
//!
//! The original has four shapes. A controller's refusal is a bare text under `/v1/ns` and `caused: …;` under `/v1/cs`; the
//! parameter check ends its text with CRLF and names no content type under `/v1/ns`; filters answer the servlet's JSON page.
//! The variants below the line are our own: limits that the original does not have, and the guard of the door.

use std::{borrow::Cow, fmt::Write as _};

/// The content type of plain answers.
pub(super) const TEXT: &str = "text/plain;charset=UTF-8";
/// The content type of JSON under `/v1/ns` and `/v1/console`.
pub(super) const JSON: &str = "application/json";
/// The content type of everything under `/v1/cs`, even where the body is text.
pub(super) const CONFIG: &str = "application/json;charset=UTF-8";

/// Which half of the API is asked: the shapes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// `/v1/ns` and what is not `/v1/cs`.
    Naming,
    /// `/v1/cs`.
    Config,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A naming parameter is missing.
    Required(&'static str),
    /// A configuration or login parameter is missing.
    RequiredParameter(&'static str),
    /// A parameter that a service call demands is not there at all.
    Missing(&'static str),
    /// A number is none.
    NotANumber(String),
    /// `serviceName` is blank.
    NameFormat,
    /// `@@name`.
    NameWithoutGroup,
    /// `group@@`.
    GroupWithoutName,
    /// Weight outside 0..=10000.
    Weight,
    /// Cluster with other characters than the service takes.
    ClusterName(String),
    /// `preserved.heart.beat.interval` is not below the time-outs.
    BeatInterval,
    /// Metadata neither JSON nor `k=v,k=v`.
    Metadata(String),
    /// The `beat` parameter is not JSON of a beat.
    BeatJson(String),
    /// The parameter check: too long.
    TooLong(&'static str, usize),
    /// The parameter check: characters.
    Characters(&'static str),
    /// The parameter check: port.
    PortRange,
    /// The service has instances of the other kind; `persistent` is what the service is.
    Kind { service: String, persistent: bool },
    /// GET instance: the service has none.
    NoInstances { cluster: String, service: String },
    /// GET or PATCH instance: not this one.
    NoMatch,
    /// POST service.
    ServiceExists(String),
    /// DELETE and PUT service.
    ServiceUnknown(String),
    /// GET service.
    ServiceNotFound { namespace: String, service: String },
    /// PUT instance into an unknown service.
    UpdateOfUnknownService {
        namespace: String,
        group: String,
        name: String,
        ephemeral: bool,
    },
    /// PUT cluster of an unknown service.
    ClusterOfUnknownService(String),
    /// DELETE service.
    ServiceNotEmpty(String),
    /// A selector that is not `none`.
    Selector,
    /// PUT health while the checker is not NONE, or the service unknown.
    StillChecking { service: String, cluster: String },
    /// A data id or group of nothing but blanks.
    InvalidName(&'static str, String),
    /// Content of nothing but blanks.
    BlankContent(String),
    /// Content over so many characters.
    ContentTooLong(usize),
    /// `casMd5` is not what is stored.
    Cas,
    /// GET config.
    NoConfig,
    /// The listener was asked without `Listening-Configs`.
    NothingListened,
    /// `Listening-Configs` cannot be read.
    BadListening,
    /// Unknown path or method under `/v1/ns`.
    NoSuchApi(String),
    /// Unknown path elsewhere.
    NoPath,
    /// Known path elsewhere, other method.
    Method(String),
    /// The same of configurations.
    ConfigMethod(String),
    // ---- our own ----
    /// Nothing more of this kind is kept; what, and how many there may be.
    Full(&'static str, usize),
    /// A body over so many bytes.
    BodyTooLarge(usize),
    /// The desk kept no answer for it, which is a bug of ours.
    Unanswered,
    /// The body ended early or did not come in time.
    BodyUnreadable,
    /// The `Host` is none of ours: a web page that rebinds its name must not reach the registry.
    Host,
    /// The `Origin` is none of ours: a web page elsewhere must not write here.
    Origin,
    /// A part of the original that is not kept here; what.
    NotOffered(&'static str),
}

/// How a body is dressed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dress {
    /// A controller's words: bare under `/v1/ns`, `caused: …;` under `/v1/cs`.
    Words(String),
    /// `caused: …;` everywhere, escaped for a page: the console's handler of what no other handles.
    Caused(String),
    /// The parameter check's: CRLF at the end.
    Checked(String),
    /// With a line feed, as `println` leaves it.
    Line(&'static str),
    /// The servlet's JSON page.
    Page(String),
}

/// A refusal as it crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// HTTP status.
    pub(crate) status: u16,
    /// `None` where the original sends none.
    pub(crate) content_type: Option<&'static str>,
    /// The text, or the `message` of the JSON page.
    pub(crate) body: Body,
}

/// What a refusal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// As it is.
    Text(String),
    /// The `message` of the servlet's page; the caller adds time and path.
    Page(String),
}

impl Refusal {
    /// What 2.5.1 would answer in `half`.
    pub(crate) fn refused(&self, half: Half) -> Refused {
        let (status, dress) = self.said();
        let (body, content_type) = match dress {
            Dress::Words(text) if half == Half::Naming => (Body::Text(text), Some(TEXT)),
            Dress::Words(text) => (Body::Text(format!("caused: {text};")), Some(TEXT)),
            Dress::Caused(text) => (
                Body::Text(format!("caused: {};", escape(&text))),
                Some(TEXT),
            ),
            Dress::Checked(text) => (
                Body::Text(format!("{text}\r\n")),
                (half == Half::Config).then_some(CONFIG),
            ),
            Dress::Line(text) => (Body::Text(format!("{text}\n")), Some(CONFIG)),
            Dress::Page(message) => (
                Body::Page(message),
                Some(if half == Half::Config { CONFIG } else { JSON }),
            ),
        };
        Refused {
            status,
            content_type,
            body,
        }
    }

    fn said(&self) -> (u16, Dress) {
        use Dress::{Caused, Checked, Line, Page, Words};
        match self {
            Self::Required(name) => (400, Words(format!("Param '{name}' is required."))),
            Self::RequiredParameter(name) => (
                500,
                Caused(format!(
                    "Required request parameter '{name}' for method parameter type String is not present"
                )),
            ),
            Self::Missing(name) => (400, Words(format!("Parameter '{name}' is missing"))),
            Self::NotANumber(text) => (400, Words(format!("For input string: \"{text}\""))),
            Self::NameFormat => (400, Words(NAME_FORMAT.to_owned())),
            Self::NameWithoutGroup => (
                400,
                Page(
                    "Service name filter error,caused: Param 'serviceName' is illegal, groupName can't be empty;"
                        .to_owned(),
                ),
            ),
            Self::GroupWithoutName => (
                400,
                Page(format!("Service name filter error,caused: {NAME_FORMAT};")),
            ),
            Self::Weight => (
                400,
                Words("instance format invalid: The weights range from 0.0 to 10000.0".to_owned()),
            ),
            Self::ClusterName(name) => (
                400,
                Words(format!(
                    "Instance 'clusterName' should be characters with only 0-9a-zA-Z-. (current: {name})"
                )),
            ),
            Self::BeatInterval => (
                400,
                Words(
                    "Instance 'heart beat interval' must less than 'heart beat timeout' and 'ip delete timeout'."
                        .to_owned(),
                ),
            ),
            Self::Metadata(text) => (
                500,
                Page(format!(
                    "Server failed, caused: ErrCode:400, ErrMsg:metadata format incorrect:{text};caused: metadata format incorrect:{text};"
                )),
            ),
            Self::BeatJson(why) => (
                500,
                Page(format!(
                    "Server failed, caused: errCode: 101, errMsg: Nacos deserialize for class [com.alibaba.nacos.naming.healthcheck.RsInfo] failed, cause error[{why}].  ;caused: {why};"
                )),
            ),
            Self::TooLong(name, most) => (
                400,
                Checked(format!(
                    "Param '{name}' is illegal, the param length should not exceed {most}."
                )),
            ),
            Self::Characters(name) => (
                400,
                Checked(format!(
                    "Param '{name}' is illegal, illegal characters should not appear in the param."
                )),
            ),
            Self::PortRange => (
                400,
                Checked(
                    "Param 'port' is illegal, the value should be between 0 and 65535.".to_owned(),
                ),
            ),
            Self::Kind {
                service,
                persistent,
            } => {
                let (is, wanted) = if *persistent {
                    ("persistent", "ephemeral")
                } else {
                    ("ephemeral", "persistent")
                };
                (
                    400,
                    Words(format!(
                        "errCode: 400, errMsg: Current service {service} is {is} service, can't register {wanted} instance. "
                    )),
                )
            }
            Self::NoInstances { cluster, service } => (
                404,
                Words(format!(
                    "no ips found for cluster {cluster} in service {service}"
                )),
            ),
            Self::NoMatch => (404, Words("no matched ip found!".to_owned())),
            Self::ServiceExists(service) => (
                400,
                Words(format!("specified service {service} already exists!")),
            ),
            Self::ServiceUnknown(service) => (400, Words(format!("service {service} not found!"))),
            Self::ServiceNotFound { namespace, service } => (
                400,
                Words(format!(
                    "service not found, namespace: {namespace}, serviceName: {service}"
                )),
            ),
            Self::UpdateOfUnknownService {
                namespace,
                group,
                name,
                ephemeral,
            } => (
                400,
                Words(format!(
                    "service not found, namespace: {namespace}, service: Service{{namespace='{namespace}', group='{group}', name='{name}', ephemeral={ephemeral}, revision=0}}"
                )),
            ),
            Self::ClusterOfUnknownService(service) => {
                (400, Words(format!("service not found:{service}")))
            }
            Self::ServiceNotEmpty(service) => (
                400,
                Words(format!(
                    "Service {service} is not empty, can't be delete. Please unregister instance first"
                )),
            ),
            Self::Selector => (400, Words("not match any type of selector!".to_owned())),
            Self::StillChecking { service, cluster } => (
                400,
                Words(format!(
                    "health check is still working, service: {service}, cluster: {cluster}"
                )),
            ),
            Self::InvalidName(name, value) => (400, Words(format!("invalid {name} : {value}"))),
            Self::BlankContent(content) => (400, Words(format!("content is blank : {content}"))),
            Self::ContentTooLong(most) => (400, Words(format!("invalid content, over {most}"))),
            Self::Cas => (
                500,
                Words("Cas publish fail, server md5 may have changed.".to_owned()),
            ),
            Self::NoConfig => (404, Line("config data not exist")),
            Self::NothingListened => (400, Words("invalid probeModify".to_owned())),
            Self::BadListening => (500, Page("invalid probeModify".to_owned())),
            Self::NoSuchApi(what) => (501, Page(format!("no such api:{what}"))),
            Self::NoPath => (404, Page("No message available".to_owned())),
            Self::Method(method) => (405, Page(format!("Request method '{method}' not supported"))),
            Self::ConfigMethod(method) => {
                (500, Caused(format!("Request method '{method}' not supported")))
            }
            Self::Full(what, most) => (
                503,
                Words(format!("this registry keeps at most {most} {what}")),
            ),
            Self::BodyTooLarge(most) => (413, Words(format!("the body is over {most} bytes"))),
            Self::BodyUnreadable => (408, Words("the body did not arrive whole".to_owned())),
            Self::Unanswered => (500, Words("this registry has lost the answer".to_owned())),
            Self::Host => (
                403,
                Words("this registry does not answer to that Host".to_owned()),
            ),
            Self::Origin => (
                403,
                Words("this registry does not answer to that Origin".to_owned()),
            ),
            Self::NotOffered(what) => (501, Page(format!("this registry does not keep {what}"))),
        }
    }
}

const NAME_FORMAT: &str =
    "Param 'serviceName' is illegal, it should be format as 'groupName@@serviceName'";

/// `HtmlUtils.htmlEscape`, which 2.4 and later apply to what a request may have put into an exception's text.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => {
                // Writing to a String cannot fail.
                _ = out.write_char(other);
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_halves_dress_the_same_words_differently() {
        let naming = Refusal::Required("ip").refused(Half::Naming);
        assert_eq!(naming.body, Body::Text("Param 'ip' is required.".into()));
        let config = Refusal::NothingListened.refused(Half::Config);
        assert_eq!(
            config.body,
            Body::Text("caused: invalid probeModify;".into())
        );
        assert_eq!((config.status, config.content_type), (400, Some(TEXT)));
    }

    #[test]
    fn the_parameter_check_ends_with_crlf_and_names_a_type_only_for_configurations() {
        let refusal = Refusal::Characters("dataId");
        let config = refusal.refused(Half::Config);
        assert_eq!(config.content_type, Some(CONFIG));
        assert!(matches!(config.body, Body::Text(text) if text.ends_with("param.\r\n")));
        assert_eq!(refusal.refused(Half::Naming).content_type, None);
    }

    #[test]
    fn quotes_of_a_missing_parameter_are_escaped() {
        let refused = Refusal::RequiredParameter("dataId").refused(Half::Config);
        assert_eq!(
            refused.body,
            Body::Text(
                "caused: Required request parameter &#39;dataId&#39; for method parameter type String is not present;"
                    .into()
            )
        );
    }
}

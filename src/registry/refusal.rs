//! Every "no" of the registry: which status and which text each generation of Nacos answers to it.
//!
//! 2.5.1 has four shapes. A controller's refusal is a bare text under `/v1/ns` and `caused: …;` under `/v1/cs`; the parameter
//! check ends its text with CRLF and names no content type under `/v1/ns`; filters answer the servlet's JSON page. 1.4.8 writes
//! `caused: …;` everywhere, and 500 where its own exception was thrown, whatever status that names. 3.0.3 keeps to 2.5.1 but for
//! what [`Refusal::in_3_0`] lists, and dresses what controllers say under `/v3/` as JSON with a code. The variants below the line are our
//! own: limits that the original does not have, and the guard of the door.

use crate::registry::like::Like;
use crate::registry::token::Bad;
use std::{borrow::Cow, fmt::Write as _};

/// Why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// It shows nothing, or a password that is wrong.
    Nobody,
    /// Its token opens nothing.
    Token(Bad),
    /// He is known, and may not.
    Forbidden,
}

impl Denial {
    /// Of a user who may not, or of a password that is nobody's.
    pub(crate) fn of(user: Option<String>) -> Self {
        user.map_or(Self::Nobody, |_| Self::Forbidden)
    }

    /// What each generation says.
    pub(crate) fn words(self, like: Like) -> &'static str {
        match (like, self) {
            (Like::V1_4, Self::Nobody) => "unknown user!",
            (Like::V2_5, Self::Nobody) => "user not found!",
            (Like::V3_0, Self::Nobody) => {
                "Code: 401, Message: User not found! Please check user exist or password is right!."
            }
            (Like::V1_4, Self::Token(Bad::Malformed | Bad::Signature))
            | (Like::V2_5, Self::Token(Bad::Malformed)) => "token invalid!",
            (Like::V3_0, Self::Token(Bad::Malformed)) => "Code: 401, Message: token invalid!.",
            (Like::V2_5, Self::Token(Bad::Signature)) => "Invalid signature",
            (Like::V3_0, Self::Token(Bad::Signature)) => "Code: 401, Message: Invalid signature.",
            (Like::V1_4 | Like::V2_5, Self::Token(Bad::Expired)) => "token expired!",
            (Like::V3_0, Self::Token(Bad::Expired)) => "Code: 401, Message: token expired!.",
            (Like::V1_4 | Like::V2_5, Self::Forbidden) => "authorization failed!",
            (Like::V3_0, Self::Forbidden) => "Code: 403, Message: authorization failed!.",
        }
    }
}

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
    /// `/v2/`, of which 2.5.1 alone has something here.
    V2,
    /// `/v3/`, of which 3.0.3 alone has something.
    V3,
    /// `/v3/client/cs`, the one corner of it that refuses in plain words.
    OpenConfig,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A naming parameter is missing.
    Required(&'static str),
    /// A configuration or login parameter is missing.
    RequiredParameter(&'static str),
    /// The same of v2 and v3, where the original reads it without a form.
    Unsaid(&'static str),
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
    /// 1.4 alone: `group@@name` with other characters.
    ServiceName(String),
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
    /// 1.4 alone, GET instance: there is no such service.
    NoService(String),
    /// 1.4 alone, PATCH instance.
    NothingToPatch,
    /// 1.4 alone, PUT instance of a Java client: how the original prints it.
    NothingToUpdate(String),
    /// POST service.
    ServiceExists(String),
    /// PUT service.
    ServiceUnknown(String),
    /// DELETE service.
    DeleteOfUnknownService(String),
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
    ClusterOfUnknownService { group: String, name: String },
    /// DELETE service.
    ServiceNotEmpty(String),
    /// A selector that is not `none`.
    Selector,
    /// 3.0 alone, a light beat under `/v3/`: the instance is unknown.
    NoInstance,
    /// 3.0 alone, the administrator's list: there is no such service or cluster; the words.
    NotThere(String),
    /// 3.0 alone: a number of pages or of a page that is below 1.
    NotPositive(&'static str, i64),
    /// 3.0 alone: a state that no node has.
    NodeState(String),
    /// 3.0 alone: which instances are meant cannot be read.
    Instances(String),
    /// A health checker that cannot be used; why.
    Checker(String),
    /// A selector of labels that cannot be read.
    SelectorExpression,
    /// v2: the name has to have its group.
    IllegalName,
    /// v2 and v3: there is no such client.
    NoClient(String),
    /// A form of a namespace lacks this.
    Lacks(&'static str),
    /// A namespace cannot be made so; the words.
    Namespace(String),
    /// There is no such namespace.
    NoNamespace(String),
    /// A switch that cannot be set so; the words.
    Switch(String),
    /// What the original fails at and has no handler for; the words of its exception.
    Unhandled(String),
    /// A path that an operator has limited: with which status.
    Limited(u16),
    /// An operator has said that the registry is in a status that does not admit this.
    Status(&'static str),
    /// PUT health while the checker is not NONE, or the service unknown.
    StillChecking { service: String, cluster: String },
    /// 1.4 alone, PUT health of an unknown service or cluster: the words of its null pointer.
    Null(&'static str),
    /// A data id or group of nothing but blanks.
    InvalidName(&'static str, String),
    /// 1.4 alone: a tenant with other characters.
    InvalidTenant,
    /// Content of nothing but blanks.
    BlankContent(String),
    /// Content over so many characters.
    ContentTooLong(usize),
    /// `casMd5` is not what is stored.
    Cas,
    /// The same of a variant.
    GrayCas,
    /// So many variants of a configuration there are at most.
    TooManyVariants(usize),
    /// A part of a publish has more in it than it may; the words.
    Part(String),
    /// The tag of a variant is none; the words.
    Tag(String),
    /// A page that cannot be; of a search, what was searched for.
    Pages(Option<(String, String)>),
    /// A parameter is not what its type says: its name, the text, the type.
    NotConverted(&'static str, String, &'static str),
    /// A record is another configuration's.
    OtherConfig,
    /// 3.0 alone: there is no such record.
    NoRecord,
    /// 3.0 alone: there is no beta.
    NoBeta,
    /// 3.0 alone: there is no beta to stop.
    NoBetaToStop,
    /// GET config.
    NoConfig,
    /// GET config just after a publish.
    BeingModified,
    /// The listener was asked without `Listening-Configs`.
    NothingListened,
    /// `Listening-Configs` cannot be read.
    BadListening,
    /// Unknown path or method under `/v1/ns`.
    NoSuchApi(String),
    /// Unknown path elsewhere: method and path.
    NoPath(String),
    /// Known path elsewhere, other method.
    Method(String),
    /// The same of configurations.
    ConfigMethod(String),
    /// 3.0 alone: a call that it no longer takes, with the page's message.
    Gone(String),
    /// The caller may not make this call, or is nobody.
    Denied(Denial),
    /// A login with a wrong password, or of nobody: the two are told alike.
    LoginFailed,
    // ---- our own ----
    /// Nothing more of this kind is kept; what, and how many there may be.
    Full(&'static str, usize),
    /// It cannot be kept for the time after a restart, so nothing was changed; why.
    NotKept(String),
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
    Escaped(String),
    /// The whole `caused: …;` as it is.
    Caused(String),
    /// Bare everywhere.
    Bare(&'static str),
    /// A filter's: as it is, with no content type.
    Untyped(String),
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
    /// What `like` would answer in `half`.
    pub(crate) fn refused(&self, like: Like, half: Half) -> Refused {
        let (status, dress) = self.said(like, half);
        if half == Half::V2
            && let Some(refused) = self.in_v2()
        {
            return refused;
        }
        if matches!(half, Half::V2 | Half::V3 | Half::OpenConfig) {
            // The filter that checks parameters fails there before anything is written.
            if matches!(self, Self::Metadata(_)) {
                return Refused {
                    status: 200,
                    content_type: None,
                    body: Body::Text(String::new()),
                };
            }
        }
        if matches!(half, Half::V2 | Half::V3 | Half::OpenConfig)
            && !matches!(dress, Dress::Page(_) | Dress::Checked(_))
        {
            return self.coded(half, status, dress);
        }
        let config = half == Half::Config;
        // 3.0.3 answers all of configurations with the one type.
        let text = if config && like == Like::V3_0 {
            CONFIG
        } else {
            TEXT
        };
        let (body, content_type) = match dress {
            Dress::Words(words) if config => (format!("caused: {words};"), Some(text)),
            Dress::Words(words) => (words, Some(text)),
            Dress::Escaped(words) => (format!("caused: {};", escape(&words)), Some(text)),
            Dress::Caused(words) => (words, Some(text)),
            Dress::Bare(words) => (words.to_owned(), Some(text)),
            Dress::Untyped(words) => (words, None),
            Dress::Checked(words) => (format!("{words}\r\n"), config.then_some(CONFIG)),
            Dress::Line(words) => (format!("{words}\n"), Some(CONFIG)),
            Dress::Page(message) => {
                return Refused {
                    status,
                    content_type: Some(if config { CONFIG } else { JSON }),
                    body: Body::Page(message),
                };
            }
        };
        Refused {
            status,
            content_type,
            body: Body::Text(body),
        }
    }

    /// Where v2 has a shape of its own.
    fn in_v2(&self) -> Option<Refused> {
        Some(match self {
            Self::Metadata(text) => Refused {
                status: 500,
                content_type: Some(JSON),
                body: Body::Page(format!(
                    "ErrCode:400, ErrMsg:metadata format incorrect:{text}"
                )),
            },
            Self::Method(method) => {
                let words = escape("Request method '").into_owned();
                let message = format!("caused: {words}{method}&#39; not supported;");
                let body = serde_json::json!({"code": 500, "message": message, "data": null});
                Refused {
                    status: 500,
                    content_type: Some(JSON),
                    body: Body::Text(body.to_string()),
                }
            }
            _ => return None,
        })
    }

    /// Under `/v2/` and `/v3/`, where an answer has a code, and there a status of 200 is no yes.
    fn coded(&self, half: Half, status: u16, dress: Dress) -> Refused {
        if let (Self::ConfigMethod(_), Dress::Escaped(words)) = (self, &dress) {
            let message = format!("caused: {};", escape(words));
            let body = serde_json::json!({"code": 500, "message": message, "data": null});
            return Refused {
                status,
                content_type: Some(JSON),
                body: Body::Text(body.to_string()),
            };
        }
        if let Some((status, message, data)) = self.bare_message() {
            let body = serde_json::json!({"code": 30_000, "message": message, "data": data});
            return Refused {
                status,
                content_type: Some(JSON),
                body: Body::Text(body.to_string()),
            };
        }
        let (status, code, message) = match self {
            Self::Required(_)
            | Self::Unsaid(_)
            | Self::Missing(_)
            | Self::NameFormat
            | Self::Lacks(_)
            | Self::RequiredParameter(_) => (400, 10_000, "parameter missing"),
            Self::Namespace(_) => (400, 22_000, "illegal namespace"),
            Self::NoNamespace(_) => (404, 22_001, "namespace not exist"),
            Self::NoClient(_) => (404, 20_004, "resource not found"),
            Self::NotANumber(_) | Self::IllegalName if half == Half::V2 => {
                (400, 20_002, "parameter validate error")
            }
            Self::NotPositive(..)
            | Self::Instances(_)
            | Self::ContentTooLong(_)
            | Self::TooManyVariants(_)
            | Self::Part(_)
            | Self::Tag(_)
            | Self::Pages(_)
            | Self::NoRecord => (400, 20_002, "parameter validate error"),
            Self::OtherConfig => (403, 10_001, "access denied"),
            Self::NoBeta => (404, 20_004, "resource not found"),
            Self::NoConfig if half == Half::OpenConfig => (200, 20_004, "resource not found"),
            Self::NoConfig | Self::NoMatch | Self::NoInstances { .. } => {
                (404, 20_004, "resource not found")
            }
            Self::Cas | Self::GrayCas => (500, 20_005, "resource conflict"),
            Self::Weight => (400, 21_001, "weight error"),
            Self::NoInstance => (200, 21_003, "instance not found"),
            Self::BeatInterval | Self::ClusterName(_) | Self::UpdateOfUnknownService { .. } => {
                (400, 21_004, "instance error")
            }
            Self::Selector | Self::SelectorExpression => (400, 21_006, "selector error"),
            Self::ServiceExists(_) => (400, 21_007, "service already exist"),
            Self::ServiceNotFound { .. }
            | Self::ServiceUnknown(_)
            | Self::DeleteOfUnknownService(_) => (400, 21_008, "service not exist"),
            Self::ServiceNotEmpty(_) => (400, 21_009, "service delete failure"),
            Self::NodeState(_) => (400, 23_000, "illegal state"),
            Self::Switch(_) => (500, 30_000, "server error"),
            _ => (status, 30_000, "server error"),
        };
        let data = match (self, dress) {
            (Self::NoInstance, _) => None,
            (Self::NoConfig, _) if half == Half::OpenConfig => None,
            (Self::Unsaid(name), _) => Some(missing(name)),
            (Self::NoConfig, _) if half == Half::V2 => Some("config data not exist".to_owned()),
            (Self::NoConfig, _) => {
                Some("Config not exist, please publish Config first.".to_owned())
            }
            (Self::Cas, _) => Some(CAS.to_owned()),
            (Self::NameFormat, _) => Some(absent("serviceName")),
            (Self::Required(name) | Self::Missing(name), _) => Some(absent(name)),
            (Self::ClusterOfUnknownService { group, name }, _) => Some(format!(
                "service not found groupName: {group},serviceName: {name}"
            )),
            (
                _,
                Dress::Words(words)
                | Dress::Escaped(words)
                | Dress::Caused(words)
                | Dress::Untyped(words)
                | Dress::Checked(words)
                | Dress::Page(words),
            ) => Some(words),
            (_, Dress::Bare(words) | Dress::Line(words)) => Some(words.to_owned()),
        };
        if let (Half::OpenConfig, Some(words)) = (half, &data) {
            return Refused {
                status,
                content_type: Some(TEXT),
                body: Body::Text(format!("caused: {words};")),
            };
        }
        let body = serde_json::json!({"code": code, "message": message, "data": data});
        Refused {
            status,
            content_type: Some(JSON),
            body: Body::Text(body.to_string()),
        }
    }

    /// What is said in place of the words for a code, where the original finds none: status, message and data.
    fn bare_message(&self) -> Option<(u16, String, serde_json::Value)> {
        match self {
            Self::NotConverted(name, text, kind) => {
                let message = format!(
                    "Method parameter '{name}': Failed to convert value of type 'java.lang.String' to required type '{kind}'; For input string: \"{text}\""
                );
                Some((500, message, serde_json::Value::Null))
            }
            Self::NoBetaToStop => Some((200, NO_BETA.to_owned(), false.into())),
            _ => None,
        }
    }

    /// What is said over gRPC, where 2.5.1 and 3.0.3 have the same words: status and text.
    pub(crate) fn over_grpc(&self) -> (i64, String) {
        let (status, dress) = self.in_2_5();
        let words = match dress {
            Dress::Words(words)
            | Dress::Escaped(words)
            | Dress::Caused(words)
            | Dress::Untyped(words)
            | Dress::Checked(words)
            | Dress::Page(words) => words,
            Dress::Bare(words) | Dress::Line(words) => words.to_owned(),
        };
        (status.into(), words)
    }

    fn said(&self, like: Like, half: Half) -> (u16, Dress) {
        match (self, like, half) {
            (Self::Denied(denial), ..) => {
                return (403, Dress::Page(denial.words(like).to_owned()));
            }
            (Self::LoginFailed, Like::V1_4 | Like::V2_5, _) => {
                return (403, Dress::Bare(Denial::Nobody.words(like)));
            }
            (Self::LoginFailed, Like::V3_0, Half::V3) => {
                return (500, Dress::Page(NO_MESSAGE.to_owned()));
            }
            (Self::LoginFailed, Like::V3_0, _) => {
                return (500, Dress::Page(COMPATIBILITY.to_owned()));
            }
            _ => {}
        }
        match like {
            Like::V1_4 => self.in_1_4(),
            Like::V2_5 => self.in_2_5(),
            Like::V3_0 => self.in_3_0(half).unwrap_or_else(|| self.in_2_5()),
        }
    }

    /// Where 1.4.8 has other words or another status than 2.5.1; everything is dressed in `caused: …;`.
    fn in_1_4(&self) -> (u16, Dress) {
        use Dress::{Bare, Caused, Checked, Escaped, Line, Page, Untyped, Words};
        let (status, words) = match self {
            Self::Missing(name) | Self::RequiredParameter(name) => (500, missing(name)),
            Self::NameWithoutGroup => (400, NO_GROUP.to_owned()),
            Self::GroupWithoutName => (400, NAME_FORMAT.to_owned()),
            Self::ClusterName(name) => (
                400,
                format!("cluster name can only have these characters: 0-9a-zA-Z-, current: {name}"),
            ),
            Self::Metadata(text) => (500, format!("metadata format incorrect:{text}")),
            Self::BeatJson(why) => (
                500,
                format!("errCode: 101, errMsg: {NO_BEAT} failed.  ;caused: {why}"),
            ),
            Self::ServiceExists(service) => (
                400,
                format!("specified service already exists, serviceName : {service}"),
            ),
            Self::DeleteOfUnknownService(service) => (
                400,
                format!("specified service not exist, serviceName : {service}"),
            ),
            Self::ServiceNotFound { service, .. } => {
                (500, format!("service {service} is not found!"))
            }
            Self::UpdateOfUnknownService {
                namespace,
                group,
                name,
                ..
            } => (
                500,
                format!("service not found, namespace: {namespace}, service: {group}@@{name}"),
            ),
            Self::StillChecking { service, .. } => (
                400,
                format!("health check is still working, service: {service}"),
            ),
            Self::BadListening => (400, "invalid probeModify".to_owned()),
            Self::SelectorExpression => (500, "parse expression failed!".to_owned()),
            Self::NoNamespace(_) => (500, NO_TENANT.to_owned()),
            Self::Method(method) => (500, format!("Request method '{method}' not supported")),
            Self::OtherConfig => return (403, Bare("Please check dataId and group.")),
            _ => {
                let (status, dress) = self.in_2_5();
                let status = match self {
                    // Its own exception, whose status nobody reads.
                    Self::Weight
                    | Self::NoInstances { .. }
                    | Self::NoMatch
                    | Self::ServiceUnknown(_)
                    | Self::ClusterOfUnknownService { .. }
                    | Self::Selector
                    | Self::NotThere(_)
                    | Self::InvalidName(..)
                    | Self::BlankContent(_)
                    | Self::ContentTooLong(_)
                    | Self::NotConverted(..)
                    | Self::Pages(Some(_))
                    | Self::Part(_) => 500,
                    _ => status,
                };
                match dress {
                    Words(words) | Checked(words) | Escaped(words) | Caused(words) => {
                        (status, words)
                    }
                    Bare(_) | Line(_) | Page(_) | Untyped(_) => return (status, dress),
                }
            }
        };
        (status, Caused(format!("caused: {words};")))
    }

    /// Where 3.0.3 has other words, status or dress than 2.5.1.
    fn in_3_0(&self, half: Half) -> Option<(u16, Dress)> {
        use Dress::{Bare, Page};
        let said = match self {
            Self::RequiredParameter(name) if half == Half::Config => (
                400,
                Page(format!("Required parameter '{name}' is not present.")),
            ),
            Self::RequiredParameter(_) => (
                500,
                Page(if half == Half::V3 {
                    NO_MESSAGE.to_owned()
                } else {
                    COMPATIBILITY.to_owned()
                }),
            ),
            Self::Cas | Self::GrayCas => (500, Bare("false")),
            Self::Part(_) | Self::TooManyVariants(_) if half == Half::Config => {
                (400, Bare("false"))
            }
            Self::NoClient(id) => (404, Dress::Words(format!("Client id {id} not exist."))),
            Self::Instances(why) => (
                400,
                Dress::Words(format!("Param 'instances' is illegal: {why}")),
            ),
            Self::BadListening => (400, Page("caused: invalid probeModify;".to_owned())),
            Self::NoPath(what) => (404, Page(format!("No endpoint {what}."))),
            // Not listened to: the words of its framework.
            Self::Method(method) | Self::ConfigMethod(method) => {
                (405, Page(format!("Method '{method}' is not supported.")))
            }
            _ => return None,
        };
        Some(said)
    }

    /// What 2.5.1 says, and to what is of 1.4 alone what 1.4.8 says.
    fn in_2_5(&self) -> (u16, Dress) {
        use Dress::{Checked, Escaped, Line, Page, Untyped, Words};
        match self {
            Self::Required(name) => (400, Words(format!("Param '{name}' is required."))),
            Self::RequiredParameter(name) => (
                500,
                Escaped(missing(name)),
            ),
            Self::Unsaid(name) => (400, Words(missing(name))),
            Self::Missing(name) => (400, Words(format!("Parameter '{name}' is missing"))),
            Self::NotANumber(text) => (400, Words(format!("For input string: \"{text}\""))),
            Self::NameFormat => (400, Words(NAME_FORMAT.to_owned())),
            Self::NameWithoutGroup => (
                400,
                Page(format!("Service name filter error,caused: {NO_GROUP};")),
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
            Self::ServiceName(name) => (
                400,
                Words(format!(
                    "dom name can only have these characters: 0-9a-zA-Z-._:, current: {name}"
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
                    "Server failed, caused: errCode: 101, errMsg: {NO_BEAT} failed, cause error[{why}].  ;caused: {why};"
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
            Self::NoService(service) => (500, Words(format!("no service {service} found!"))),
            Self::NothingToPatch => (400, Words("instance not found".to_owned())),
            Self::NothingToUpdate(instance) => {
                (500, Words(format!("instance not exist: {instance}")))
            }
            Self::ServiceExists(service) => (
                400,
                Words(format!("specified service {service} already exists!")),
            ),
            Self::ServiceUnknown(service) | Self::DeleteOfUnknownService(service) => (400, Words(format!("service {service} not found!"))),
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
            Self::ClusterOfUnknownService { group, name } => {
                (400, Words(format!("service not found:{group}@@{name}")))
            }
            Self::ServiceNotEmpty(service) => (
                400,
                Words(format!(
                    "Service {service} is not empty, can't be delete. Please unregister instance first"
                )),
            ),
            Self::SelectorExpression => (
                500,
                Words("Selector parses failed: parse expression failed!".to_owned()),
            ),
            Self::IllegalName => (400, Words(NAME_FORMAT.to_owned())),
            Self::NoClient(id) => (404, Words(format!("clientId [ {id} ] not exist"))),
            Self::Lacks(name) => (400, Words(format!("required parameter '{name}' is missing"))),
            Self::Namespace(words) => (400, Words(words.clone())),
            Self::NoNamespace(id) => (500, Escaped(format!("namespaceId [ {id} ] not exist"))),
            Self::Selector => (400, Words("not match any type of selector!".to_owned())),
            Self::NoInstance => (404, Words("instance not found".to_owned())),
            Self::NotThere(words) => (404, Words(words.clone())),
            Self::NotPositive(name, number) => (
                400,
                Words(format!(
                    "Required parameter '{name}' should be positive integer, current is {number}"
                )),
            ),
            Self::Switch(words) => (400, Words(words.clone())),
            Self::Unhandled(words) => (500, Escaped(words.clone())),
            Self::Limited(status) => (*status, Untyped(String::new())),
            Self::Status(status) => (
                503,
                Untyped(format!("server is {status}now, please try again later!")),
            ),
            Self::NodeState(state) => (400, Words(format!("Illegal state: {state}"))),
            Self::Checker(why) => (400, Words(format!("Param 'healthChecker' is illegal: {why}"))),
            Self::Instances(why) => (
                500,
                Page(format!(
                    "Server failed, caused: errCode: 101, errMsg: Nacos deserialize for the instances failed, cause error[{why}].  ;caused: {why};"
                )),
            ),
            Self::StillChecking { service, cluster } => (
                400,
                Words(format!(
                    "health check is still working, service: {service}, cluster: {cluster}"
                )),
            ),
            Self::Null(words) => (500, Words((*words).to_owned())),
            Self::InvalidTenant => (400, Words("invalid tenant".to_owned())),
            Self::InvalidName(name, value) => (400, Words(format!("invalid {name} : {value}"))),
            Self::BlankContent(content) => (400, Words(format!("content is blank : {content}"))),
            Self::ContentTooLong(most) => (400, Words(format!("invalid content, over {most}"))),
            Self::Cas => (500, Words(CAS.to_owned())),
            Self::GrayCas => (
                500,
                Words("Cas publish gray config fail, server md5 may have changed.".to_owned()),
            ),
            Self::TooManyVariants(most) => (
                400,
                Words(format!("gray config version is over max count :{most}")),
            ),
            Self::Part(words) | Self::Tag(words) => (400, Words(words.clone())),
            Self::Pages(None) => (400, Words(PAGES.to_owned())),
            Self::Pages(Some((data_id, group))) => (
                400,
                Words(format!(
                    "serialize page error, dataId={data_id}, group={group};caused: {PAGES}"
                )),
            ),
            Self::NotConverted(_, text, kind) => (
                400,
                Words(format!(
                    "Failed to convert value of type 'java.lang.String' to required type '{kind}'; nested exception is java.lang.NumberFormatException: For input string: \"{text}\";caused: For input string: \"{text}\""
                )),
            ),
            Self::OtherConfig => (
                403,
                Dress::Bare("Please check dataId, group or namespaceId."),
            ),
            Self::NoRecord => (400, Words("Source must not be null".to_owned())),
            Self::NoBeta => (404, Words("Config is not in beta.".to_owned())),
            Self::NoBetaToStop => (200, Words(NO_BETA.to_owned())),
            Self::NoConfig => (404, Line("config data not exist")),
            Self::BeingModified => (
                409,
                Line("requested file is being modified, please try later."),
            ),
            Self::NothingListened => (400, Words("invalid probeModify".to_owned())),
            Self::BadListening => (500, Page("invalid probeModify".to_owned())),
            Self::Denied(denial) => (403, Page(denial.words(Like::V2_5).to_owned())),
            Self::LoginFailed => (403, Words(Denial::Nobody.words(Like::V2_5).to_owned())),
            Self::NoSuchApi(what) => (501, Page(format!("no such api:{what}"))),
            Self::NoPath(_) => (404, Page(NO_MESSAGE.to_owned())),
            Self::Gone(message) => (410, Page(message.clone())),
            Self::Method(method) => (405, Page(format!("Request method '{method}' not supported"))),
            Self::ConfigMethod(method) => {
                (500, Escaped(format!("Request method '{method}' not supported")))
            }
            Self::Full(what, most) => (
                503,
                Words(format!("this registry keeps at most {most} {what}")),
            ),
            Self::NotKept(why) => (
                503,
                Words(format!(
                    "nothing was changed: this registry cannot write to its data directory: {why}"
                )),
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

const NO_BETA: &str = "remove beta data error";
const PAGES: &str = "pageNo and pageSize must be greater than zero";
const NO_MESSAGE: &str = "No message available";
const COMPATIBILITY: &str = "Handle API Compatibility failed, please see log for detail.";
const CAS: &str = "Cas publish fail, server md5 may have changed.";
const NAME_FORMAT: &str =
    "Param 'serviceName' is illegal, it should be format as 'groupName@@serviceName'";
const NO_TENANT: &str = "Cannot invoke \"com.alibaba.nacos.config.server.model.TenantInfo.getTenantName()\" because \"tenantInfo\" is null";
const NO_GROUP: &str = "Param 'serviceName' is illegal, groupName can't be empty";
const NO_BEAT: &str = "Nacos deserialize for class [com.alibaba.nacos.naming.healthcheck.RsInfo]";

fn missing(name: &str) -> String {
    let kind = match name {
        "pageNo" | "pageSize" => "int",
        "nid" | "id" => "Long",
        "ids" => "List",
        "enabled" => "Boolean",
        _ => "String",
    };
    format!("Required request parameter '{name}' for method parameter type {kind} is not present")
}

/// The same under `/v3/`, which names types as its forms have them.
fn absent(name: &str) -> String {
    let kind = match name {
        "healthy" | "useInstancePort4Check" => "Boolean",
        "port" | "checkPort" => "Integer",
        _ => "String",
    };
    format!("Required parameter '{name}' type {kind} is not present")
}

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
        let naming = Refusal::Required("ip").refused(Like::V2_5, Half::Naming);
        assert_eq!(naming.body, Body::Text("Param 'ip' is required.".into()));
        let config = Refusal::NothingListened.refused(Like::V2_5, Half::Config);
        assert_eq!(
            config.body,
            Body::Text("caused: invalid probeModify;".into())
        );
        assert_eq!((config.status, config.content_type), (400, Some(TEXT)));
    }

    #[test]
    fn the_parameter_check_ends_with_crlf_and_names_a_type_only_for_configurations() {
        let refusal = Refusal::Characters("dataId");
        let config = refusal.refused(Like::V2_5, Half::Config);
        assert_eq!(config.content_type, Some(CONFIG));
        assert!(matches!(config.body, Body::Text(text) if text.ends_with("param.\r\n")));
        assert_eq!(refusal.refused(Like::V2_5, Half::Naming).content_type, None);
    }

    #[test]
    fn quotes_of_a_missing_parameter_are_escaped() {
        let refused = Refusal::RequiredParameter("dataId").refused(Like::V2_5, Half::Config);
        assert_eq!(
            refused.body,
            Body::Text(
                "caused: Required request parameter &#39;dataId&#39; for method parameter type String is not present;"
                    .into()
            )
        );
    }
}

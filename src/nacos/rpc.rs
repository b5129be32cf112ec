//! What crosses a gRPC connection (2.0 and later), as both of our sides read and write it: two protobuf messages around JSON.
//!
//! A [`Payload`] names the Java class of its body in `metadata.type`; the body is that class as JSON. Requests go over the
//! unary method [`UNARY`]; what a server pushes, and the answers to it, over the one stream [`STREAM`] of a connection. Reading
//! is lenient (null and absent are the default, unknown keys are ignored), writing is exact.

use super::model::{self, Listed};
use super::wire::{Host, null_is_default as nullable};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt, time::Duration};

/// Path of the method for requests (`nacos_grpc_service.proto` has no package).
pub const UNARY: &str = "/Request/request";
/// Path of the method whose stream makes a connection a client, and carries pushes and their answers.
pub const STREAM: &str = "/BiRequestStream/requestBiStream";
/// The gRPC port of a server is its HTTP port and so much.
pub const PORT_OFFSET: u16 = 1000;
/// Bytes of a message at most, for servers and for the clients of the field.
pub const MESSAGE_LIMIT: usize = 10 * 1024 * 1024;

/// A message; see the head of this file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Payload {
    /// What it is.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<Metadata>,
    /// JSON.
    #[prost(message, optional, tag = "3")]
    pub body: Option<Any>,
}

/// What a [`Payload`] is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Metadata {
    /// Simple name of the Java class of the body.
    #[prost(string, tag = "3")]
    pub kind: String,
    /// Headers of a request: `accessToken`, `Vipserver-Tag`, …; the keys are case-sensitive.
    #[prost(btree_map = "string, string", tag = "7")]
    pub headers: BTreeMap<String, String>,
    /// What the client says its address is; that of the setup decides who gets a beta content.
    #[prost(string, tag = "8")]
    pub client_ip: String,
}

/// Without the values of headers: one of them is a token.
impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.headers.keys().collect();
        write!(f, "Metadata({} {names:?})", self.kind)
    }
}

/// `google.protobuf.Any`; nobody reads the type.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    /// Left empty, as Java does.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// UTF-8 JSON.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// A body: a class of `com.alibaba.nacos.api` by its simple name.
pub trait Message: Serialize + DeserializeOwned {
    /// The simple name.
    const KIND: &'static str;
}

/// A class that answers a request.
pub trait Reply: Message {
    /// An answer with nothing in it but its outcome.
    fn of(outcome: Outcome) -> Self;
}

/// A request, and the class that answers it when nothing goes wrong.
pub trait Request: Message {
    /// The answer.
    type Answer: Reply;
}

impl Payload {
    /// A payload with `message` as its body.
    #[must_use]
    pub fn new<M: Message>(message: &M) -> Self {
        Self::raw(M::KIND, json(message))
    }

    /// A payload with a body of the class `kind`.
    #[must_use]
    pub fn raw(kind: &str, body: impl Into<Bytes>) -> Self {
        Self {
            metadata: Some(Metadata {
                kind: kind.to_owned(),
                ..Metadata::default()
            }),
            body: Some(Any {
                type_url: String::new(),
                value: body.into(),
            }),
        }
    }

    /// The class of its body; empty when it names none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.kind)
    }

    /// Its body; empty when it has none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], |body| &body.value)
    }

    /// The address that the client says it has; empty when it says none.
    #[must_use]
    pub fn client_ip(&self) -> &str {
        let metadata = self.metadata.as_ref();
        metadata.map_or("", |metadata| &metadata.client_ip)
    }

    /// A header of a request.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = &self.metadata.as_ref()?.headers;
        headers.get(name).map(String::as_str)
    }

    /// The body as a message, whatever its class is called: some clients answer pushes with another one's class.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn read<M: DeserializeOwned>(&self) -> Result<M, serde_json::Error> {
        serde_json::from_slice(self.body())
    }
}

/// The JSON of a message; none of ours can fail to be written.
fn json<M: Serialize>(message: &M) -> Vec<u8> {
    serde_json::to_vec(message).unwrap_or_default()
}

/// `resultCode` of an answer that is no error.
pub const OK: i64 = 200;
/// `resultCode` of most that are.
pub const FAILED: i64 = 500;

/// `errorCode` of an answer, beside 0.
pub mod code {
    /// The server is starting.
    pub const STARTING: i64 = 300;
    /// There is no such configuration (of `ConfigQueryRequest` alone).
    pub const NO_CONFIG: i64 = 300;
    /// The connection has not been set up, or is no client any more.
    pub const UNREGISTERED: i64 = 301;
    /// The server knows no such request.
    pub const NO_HANDLER: i64 = 302;
    /// A parameter is wrong.
    pub const INVALID: i64 = 400;
    /// The configuration is being changed, ask again (of `ConfigQueryRequest` alone).
    pub const CONFIG_BUSY: i64 = 400;
    /// No token, a wrong or an expired one, or no permission.
    pub const DENIED: i64 = 403;
    /// Something went wrong in the server.
    pub const FAILED: i64 = 500;
    /// The request could not be read.
    pub const GARBLED: i64 = 502;
    /// Too many requests.
    pub const OVER: i64 = 503;
    /// The connection is no client of naming: it was not set up with `module=naming`, or its client is gone.
    pub const DISCONNECTED: i64 = -401;
}

/// What every answer begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// [`OK`], [`FAILED`], or an error code.
    #[serde(default = "ok")]
    pub result_code: i64,
    /// 0, or one of [`code`].
    #[serde(default)]
    pub error_code: i64,
    /// Words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of the push that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whether `resultCode` is 200; never read.
    #[serde(default, skip_deserializing)]
    pub success: bool,
}

const fn ok() -> i64 {
    OK
}

impl Outcome {
    /// All is well.
    #[must_use]
    pub const fn ok() -> Self {
        Self {
            result_code: OK,
            error_code: 0,
            message: None,
            request_id: None,
            success: true,
        }
    }

    /// An error with `resultCode` 500.
    #[must_use]
    pub fn failed(code: i64, message: impl Into<String>) -> Self {
        Self {
            result_code: FAILED,
            error_code: code,
            message: Some(message.into()),
            request_id: None,
            success: false,
        }
    }

    /// An error that was thrown where nobody caught it: its code is the `resultCode` too.
    #[must_use]
    pub fn thrown(code: i64, message: Option<String>) -> Self {
        Self {
            result_code: code,
            error_code: code,
            message,
            request_id: None,
            success: false,
        }
    }

    /// The same, as the answer to the push of this id.
    #[must_use]
    pub fn to(self, request_id: &str) -> Self {
        Self {
            request_id: Some(request_id.to_owned()),
            ..self
        }
    }

    /// Whether all is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.result_code == OK
    }
}

/// Declares messages: their keys as Nacos spells them, each with its default when absent or null.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_doc])* #[serde(default, deserialize_with = "nullable")] pub $field: $kind,)*
        }

        impl Message for $name {
            const KIND: &'static str = stringify!($name);
        }
    )*};
}

/// Declares answers: an [`Outcome`] and what else they carry.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Whether it went well.
            #[serde(flatten)]
            pub outcome: Outcome,
            $($(#[$field_doc])* #[serde(default, deserialize_with = "nullable")] pub $field: $kind,)*
        }

        impl $name {
            /// An answer with nothing in it but its outcome.
            #[must_use]
            pub fn with(outcome: Outcome) -> Self {
                Self { outcome, $($field: Default::default(),)* }
            }
        }

        impl Message for $name {
            const KIND: &'static str = stringify!($name);
        }

        impl Reply for $name {
            fn of(outcome: Outcome) -> Self {
                Self::with(outcome)
            }
        }
    )*};
}

macro_rules! requests {
    ($($request:ty => $answer:ty,)*) => {$(
        impl Request for $request {
            type Answer = $answer;
        }
    )*};
}

/// What a server or a client can do beyond the first protocol, by name.
pub type Abilities = BTreeMap<String, bool>;

/// The server takes `PersistentInstanceRequest` (2.3.0).
pub const PERSISTENT_BY_GRPC: &str = "supportPersistentInstanceByGrpc";

// -- the connection

messages! {
    /// Whether the server is there; answered before the connection is set up.
    ServerCheckRequest {
        /// `internal`.
        module: String,
    }
    /// The first message on the stream: from then on the connection is a client.
    ConnectionSetupRequest {
        /// `Nacos-Java-Client:v3.0.3`, and the like.
        client_version: String,
        /// Namespace.
        tenant: String,
        /// `source=sdk` and `module=naming` or `config`; naming is refused to a connection without.
        labels: BTreeMap<String, String>,
        /// What the client can do; a server that was given a table, an empty one too, answers with its own ([`SetupAckRequest`]).
        ability_table: Option<Abilities>,
        /// `internal`.
        module: String,
    }
    /// What the server can do.
    SetupAckRequest {
        /// Empty.
        headers: BTreeMap<String, String>,
        /// By name.
        ability_table: Abilities,
        /// `internal`.
        module: String,
    }
    /// Whether the connection is a client: 301 when it is not.
    HealthCheckRequest {
        /// `internal`.
        module: String,
    }
    /// The server asks whether a silent client is there; 5 s later it is gone.
    ClientDetectionRequest {
        /// Empty.
        headers: BTreeMap<String, String>,
        /// To be repeated by the answer.
        request_id: String,
        /// `internal`.
        module: String,
    }
    /// The server wants the client elsewhere; it does not close the connection itself.
    ConnectResetRequest {
        /// Empty.
        headers: BTreeMap<String, String>,
        /// To be repeated by the answer.
        request_id: String,
        /// Where to, when the server says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        server_ip: Option<String>,
        /// The HTTP port there.
        #[serde(skip_serializing_if = "Option::is_none")]
        server_port: Option<String>,
        /// Whom it means.
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_id: Option<String>,
        /// `internal`.
        module: String,
    }
}

answers! {
    /// See [`ServerCheckRequest`].
    ServerCheckResponse {
        /// `<ms>_<ip>_<port>` of the client.
        connection_id: String,
        /// Whether a [`SetupAckRequest`] follows a setup with a table (2.3.0).
        support_ability_negotiation: bool,
    }
    /// See [`HealthCheckRequest`].
    HealthCheckResponse {}
    /// See [`ClientDetectionRequest`].
    ClientDetectionResponse {}
    /// See [`ConnectResetRequest`].
    ConnectResetResponse {}
    /// See [`SetupAckRequest`]; nobody waits for it.
    SetupAckResponse {}
    /// Whatever went wrong before a handler was found, and most of what is thrown in one.
    ErrorResponse {}
}

// -- naming

/// `type` of an [`InstanceRequest`].
pub const REGISTER: &str = "registerInstance";
/// `type` of an [`InstanceRequest`].
pub const DEREGISTER: &str = "deregisterInstance";
/// `type` of a [`BatchInstanceRequest`].
pub const BATCH_REGISTER: &str = "batchRegisterInstance";

messages! {
    /// Puts one ephemeral instance in place of all that this connection has of the service, or takes all of them out.
    InstanceRequest {
        /// Namespace; null is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Without group.
        service_name: String,
        /// Group.
        group_name: String,
        /// [`REGISTER`] or [`DEREGISTER`].
        r#type: String,
        /// The instance.
        instance: Option<Host>,
        /// `naming`.
        module: String,
    }
    /// The same for a persistent instance, which is nobody's (2.3.0).
    PersistentInstanceRequest {
        /// Namespace; null is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Without group.
        service_name: String,
        /// Group.
        group_name: String,
        /// [`REGISTER`] or [`DEREGISTER`].
        r#type: String,
        /// The instance.
        instance: Option<Host>,
        /// `naming`.
        module: String,
    }
    /// Puts these ephemeral instances in place of all that this connection has of the service (2.1.1).
    BatchInstanceRequest {
        /// Namespace; null is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Without group.
        service_name: String,
        /// Group.
        group_name: String,
        /// [`BATCH_REGISTER`].
        r#type: String,
        /// The instances.
        instances: Vec<Host>,
        /// `naming`.
        module: String,
    }
    /// The instances of a service.
    ServiceQueryRequest {
        /// Namespace; null is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Without group.
        service_name: String,
        /// Group.
        group_name: String,
        /// Clusters, separated by commas; empty for all.
        cluster: String,
        /// Leaves the unhealthy out, and masks nothing.
        healthy_only: bool,
        /// 0.
        udp_port: i64,
        /// `naming`.
        module: String,
    }
    /// The instances of a service, now and after each change.
    SubscribeServiceRequest {
        /// Namespace; null is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Without group.
        service_name: String,
        /// Group.
        group_name: String,
        /// Or no longer.
        subscribe: bool,
        /// Clusters, separated by commas; empty for all.
        clusters: String,
        /// `naming`.
        module: String,
    }
    /// The names of services.
    ServiceListRequest {
        /// Namespace; null is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Empty.
        service_name: String,
        /// Group.
        group_name: String,
        /// From 1.
        page_no: i64,
        /// Names on a page.
        page_size: i64,
        /// Of labels; null.
        selector: Option<String>,
        /// `naming`.
        module: String,
    }
    /// The instances of a subscribed service have changed.
    NotifySubscriberRequest {
        /// Empty.
        headers: BTreeMap<String, String>,
        /// To be repeated by the answer.
        request_id: String,
        /// All of it.
        service_info: Option<ServiceInfo>,
        /// `naming`.
        module: String,
    }
}

answers! {
    /// See [`InstanceRequest`] and [`PersistentInstanceRequest`].
    InstanceResponse {
        /// As asked; absent from a no.
        #[serde(skip_serializing_if = "Option::is_none")]
        r#type: Option<String>,
    }
    /// See [`BatchInstanceRequest`].
    BatchInstanceResponse {
        /// As asked; absent from a no.
        #[serde(skip_serializing_if = "Option::is_none")]
        r#type: Option<String>,
    }
    /// See [`ServiceQueryRequest`].
    QueryServiceResponse {
        /// Absent from a no.
        #[serde(skip_serializing_if = "Option::is_none")]
        service_info: Option<ServiceInfo>,
    }
    /// See [`SubscribeServiceRequest`].
    SubscribeServiceResponse {
        /// Absent from a no.
        #[serde(skip_serializing_if = "Option::is_none")]
        service_info: Option<ServiceInfo>,
    }
    /// See [`ServiceListRequest`].
    ServiceListResponse {
        /// All, not only this page.
        count: i64,
        /// Names without their group.
        service_names: Vec<String>,
    }
    /// See [`NotifySubscriberRequest`].
    NotifySubscriberResponse {}
}

/// A list of instances. Unlike over HTTP v1, the service is named without its group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInfo {
    /// Service, without group.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    /// Group.
    #[serde(default, deserialize_with = "nullable")]
    pub group_name: String,
    /// As asked.
    #[serde(default, deserialize_with = "nullable")]
    pub clusters: String,
    /// Milliseconds for which the list may be kept.
    #[serde(default)]
    pub cache_millis: i64,
    /// The hosts.
    #[serde(default, deserialize_with = "nullable")]
    pub hosts: Vec<Host>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub last_ref_time: i64,
    /// Empty.
    #[serde(default, deserialize_with = "nullable")]
    pub checksum: String,
    /// Always false; 3.x writes `allIps`.
    #[serde(default, rename = "allIPs", skip_serializing_if = "Option::is_none")]
    pub all_ips_of_2: Option<bool>,
    /// Always false; 2.x writes `allIPs`.
    #[serde(default, rename = "allIps", skip_serializing_if = "Option::is_none")]
    pub all_ips_of_3: Option<bool>,
    /// Whether the health of the hosts is masked.
    #[serde(default)]
    pub reach_protection_threshold: bool,
    /// Always true.
    #[serde(default)]
    pub valid: bool,
}

impl From<ServiceInfo> for model::ServiceList {
    fn from(info: ServiceInfo) -> Self {
        Self {
            hosts: info.hosts.into_iter().map(Listed::from).collect(),
            protected: info.reach_protection_threshold,
            cache: Duration::from_millis(u64::try_from(info.cache_millis).unwrap_or(0)),
        }
    }
}

impl From<&model::Instance> for Host {
    fn from(instance: &model::Instance) -> Self {
        Self {
            instance_id: None,
            ip: instance.key.ip.to_string().into(),
            port: i64::from(instance.key.port),
            weight: instance.weight,
            healthy: instance.healthy,
            enabled: instance.enabled,
            ephemeral: Some(instance.ephemeral),
            cluster_name: (&*instance.cluster).into(),
            service_name: None,
            metadata: (instance.metadata.iter())
                .map(|(key, value)| (key.as_str().into(), Some(value.as_str().into())))
                .collect(),
            instance_heart_beat_interval: None,
            instance_heart_beat_time_out: None,
            ip_delete_timeout: None,
            instance_id_generator: None,
        }
    }
}

// -- configuration

/// Header of a [`ConfigQueryRequest`]: whether a push led to it, `true` or `false`.
pub const NOTIFY: &str = "notify";

messages! {
    /// The content of a configuration.
    ConfigQueryRequest {
        /// Data id.
        data_id: String,
        /// Group.
        group: String,
        /// Tenant; empty for public.
        tenant: String,
        /// The variant of this tag.
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// `config`.
        module: String,
    }
    /// Stores a content.
    ConfigPublishRequest {
        /// Data id.
        data_id: String,
        /// Group.
        group: String,
        /// Tenant; empty for public.
        tenant: String,
        /// Content.
        content: String,
        /// Only over the content of this MD5; over nothing always.
        #[serde(skip_serializing_if = "Option::is_none")]
        cas_md5: Option<String>,
        /// `type`, `tag`, `betaIps`, `appName`, `encryptedDataKey`, `src_user`, `config_tags`, `desc`, `use`, `effect`, `schema`.
        addition_map: BTreeMap<String, Option<String>>,
        /// `config`.
        module: String,
    }
    /// Removes a configuration.
    ConfigRemoveRequest {
        /// Data id.
        data_id: String,
        /// Group.
        group: String,
        /// Tenant; empty for public.
        tenant: String,
        /// The variant of this tag alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// `config`.
        module: String,
    }
    /// Tells of each change of these from now on, and which of them are already other than the client has them.
    ConfigBatchListenRequest {
        /// Or no longer.
        listen: bool,
        /// The configurations.
        config_listen_contexts: Vec<ListenContext>,
        /// `config`.
        module: String,
    }
    /// A configuration that is listened to has changed.
    ConfigChangeNotifyRequest {
        /// Empty.
        headers: BTreeMap<String, String>,
        /// To be repeated by the answer.
        request_id: String,
        /// Data id.
        data_id: String,
        /// Group.
        group: String,
        /// Tenant; absent for public on 2.5.1, and on 3.0.3 when the listener said none.
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        /// `config`.
        module: String,
    }
}

/// A configuration in a [`ConfigBatchListenRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenContext {
    /// Group.
    #[serde(default, deserialize_with = "nullable")]
    pub group: String,
    /// MD5 of what the client has; empty when it has nothing.
    #[serde(default, deserialize_with = "nullable")]
    pub md5: String,
    /// Data id.
    #[serde(default, deserialize_with = "nullable")]
    pub data_id: String,
    /// Tenant; empty for public.
    #[serde(default, deserialize_with = "nullable")]
    pub tenant: String,
}

/// A configuration that is not as the client has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedConfig {
    /// Group.
    #[serde(default, deserialize_with = "nullable")]
    pub group: String,
    /// Data id.
    #[serde(default, deserialize_with = "nullable")]
    pub data_id: String,
    /// Tenant; empty or absent for public.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub tenant: Option<String>,
}

answers! {
    /// See [`ConfigQueryRequest`].
    ConfigQueryResponse {
        /// Content; absent from a no.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// Empty, or the key of an encrypted content.
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_data_key: Option<String>,
        /// The type: `yaml`, `text`, …
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
        /// MD5 of the content.
        #[serde(skip_serializing_if = "Option::is_none")]
        md5: Option<String>,
        /// Milliseconds since 1970; 0 when there is none.
        last_modified: i64,
        /// Whether it is the content of a tag's variant.
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// Whether it is the beta content.
        beta: bool,
    }
    /// See [`ConfigPublishRequest`].
    ConfigPublishResponse {}
    /// See [`ConfigRemoveRequest`].
    ConfigRemoveResponse {}
    /// See [`ConfigBatchListenRequest`].
    ConfigChangeBatchListenResponse {
        /// Those that are other than the client has them.
        changed_configs: Vec<ChangedConfig>,
    }
    /// See [`ConfigChangeNotifyRequest`].
    ConfigChangeNotifyResponse {}
}

requests! {
    ServerCheckRequest => ServerCheckResponse,
    HealthCheckRequest => HealthCheckResponse,
    ClientDetectionRequest => ClientDetectionResponse,
    ConnectResetRequest => ConnectResetResponse,
    SetupAckRequest => SetupAckResponse,
    InstanceRequest => InstanceResponse,
    PersistentInstanceRequest => InstanceResponse,
    BatchInstanceRequest => BatchInstanceResponse,
    ServiceQueryRequest => QueryServiceResponse,
    SubscribeServiceRequest => SubscribeServiceResponse,
    ServiceListRequest => ServiceListResponse,
    NotifySubscriberRequest => NotifySubscriberResponse,
    ConfigQueryRequest => ConfigQueryResponse,
    ConfigPublishRequest => ConfigPublishResponse,
    ConfigRemoveRequest => ConfigRemoveResponse,
    ConfigBatchListenRequest => ConfigChangeBatchListenResponse,
    ConfigChangeNotifyRequest => ConfigChangeNotifyResponse,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_payload_is_the_bytes_that_the_proto_says() {
        let mut payload = Payload::raw("A", "{}");
        if let Some(metadata) = &mut payload.metadata {
            metadata.client_ip = "1".into();
            metadata.headers.insert("k".into(), "v".into());
        }
        // Metadata is field 2: type 3, headers 7, clientIp 8; body is field 3: its value 2.
        let bytes = b"\x12\x0e\x1a\x01A\x3a\x06\x0a\x01k\x12\x01v\x42\x011\x1a\x04\x12\x02{}";
        assert_eq!(payload.encode_to_vec(), bytes);
        assert_eq!(Payload::decode(bytes.as_slice()).unwrap(), payload);
    }

    #[test]
    fn null_and_absent_are_nothing() {
        let payload = Payload::raw(
            "InstanceRequest",
            r#"{"namespace":null,"serviceName":null,"requestId":null,"instance":{"ip":"10.0.0.1","port":1,"metadata":null,"clusterName":null}}"#,
        );
        let request: InstanceRequest = payload.read().unwrap();
        assert_eq!(request.namespace, None);
        assert_eq!(request.service_name, "");
        assert_eq!(request.instance.unwrap().metadata.len(), 0);
        let setup = |body: &str| {
            Payload::raw("ConnectionSetupRequest", body.to_owned())
                .read::<ConnectionSetupRequest>()
                .unwrap()
                .ability_table
        };
        assert_eq!(setup(r#"{"abilityTable":{}}"#), Some(Abilities::new()));
        assert_eq!(setup(r#"{"abilityTable":null}"#), None);
        assert_eq!(setup("{}"), None);
    }

    #[test]
    fn an_answer_is_written_as_servers_write_it() {
        let answer = InstanceResponse {
            outcome: Outcome::ok(),
            r#type: Some(REGISTER.into()),
        };
        assert_eq!(
            String::from_utf8(json(&answer)).unwrap(),
            r#"{"resultCode":200,"errorCode":0,"success":true,"type":"registerInstance"}"#
        );
        let no = ErrorResponse::with(Outcome::failed(code::UNREGISTERED, "no"));
        assert_eq!(
            String::from_utf8(json(&no)).unwrap(),
            r#"{"resultCode":500,"errorCode":301,"message":"no","success":false}"#
        );
    }
}

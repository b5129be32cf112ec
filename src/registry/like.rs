//! Whose manners the registry has: the generations of Nacos, and everything in which they behave differently, as one table.
//!
//! What a refusal says in each generation is in `refusal`, what a list looks like in `listing`; both ask for the generation
//! alone. All else asks the table for a manner, by its name: no call knows a version.

/// A generation of Nacos, by the release that was listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Like {
    /// 1.4.8.
    V1_4,
    /// 2.5.1.
    #[default]
    V2_5,
    /// 3.0.3.
    V3_0,
}

/// What is shown of the health of a service that has too few healthy instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masks {
    /// Every service is masked, before unhealthy and disabled hosts are left out, and nothing tells.
    Every,
    /// Only a service with settings of its own is, after they were left out, and a flag tells.
    Configured,
}

/// What `casMd5` does when it is not the stored MD5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cas {
    /// Nothing: the content is overwritten.
    Ignored,
    /// The publish is refused.
    Refused,
}

/// Calls of configuration for which the tenant `public` is the empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicIsEmpty {
    pub(crate) publish: bool,
    pub(crate) get: bool,
    pub(crate) delete: bool,
    pub(crate) listen: bool,
}

/// How a generation behaves.
#[derive(Debug, PartialEq)]
pub(crate) struct Manners {
    /// Of the release that was listened to.
    pub(crate) version: &'static str,
    /// It has a second port, for gRPC.
    pub(crate) grpc: bool,
    /// Forms of POST under `/v1/ns` are read.
    pub(crate) naming_post_forms: bool,
    /// Parameters are checked before any controller.
    pub(crate) parameter_check: bool,
    /// Kinds and clusters have places of their own: a service may hold instances of both kinds, and an address in several clusters.
    pub(crate) places_apart: bool,
    /// Registering a known instance again says its health anew.
    pub(crate) health_by_registration: bool,
    /// `PUT health/instance` changes the health of an instance.
    pub(crate) health_by_hand: bool,
    /// What an operator sets lies over all later registrations.
    pub(crate) operator_overrules: bool,
    /// A weight above 0 and below this one is lifted to it.
    pub(crate) least_weight: f64,
    /// Metadata keep a null value.
    pub(crate) null_metadata: bool,
    /// A full beat keeps alive the service that its JSON names, not the one that the parameter names.
    pub(crate) beat_names_service: bool,
    /// A service with instances can be deleted, and its instances with it.
    pub(crate) delete_with_instances: bool,
    /// The masking of health.
    pub(crate) masks: Masks,
    /// Milliseconds for which a list may be kept.
    pub(crate) cache: i64,
    /// The comparison on publishing.
    pub(crate) cas: Cas,
    /// The public tenant.
    pub(crate) public_is_empty: PublicIsEmpty,
    /// A content is sent with the `Content-Type` of its type.
    pub(crate) typed_content: bool,
    /// The key of an encrypted content is kept, and sent with it as `Encrypted-Data-Key`.
    pub(crate) encrypted_data_key: bool,
    /// A publish says who publishes.
    pub(crate) publisher_said: bool,
    /// Variants of one configuration at most; 1.4.8 knows no bound.
    pub(crate) variants: usize,
}

const V1_4: Manners = Manners {
    version: "1.4.8",
    grpc: false,
    naming_post_forms: false,
    parameter_check: false,
    places_apart: true,
    health_by_registration: false,
    health_by_hand: true,
    operator_overrules: false,
    least_weight: 0.01,
    null_metadata: false,
    beat_names_service: false,
    delete_with_instances: true,
    masks: Masks::Every,
    cache: 3_000,
    cas: Cas::Ignored,
    public_is_empty: PublicIsEmpty {
        publish: true,
        get: true,
        delete: false,
        listen: false,
    },
    typed_content: true,
    encrypted_data_key: false,
    publisher_said: false,
    variants: 100,
};

const V2_5: Manners = Manners {
    version: "2.5.1",
    grpc: true,
    naming_post_forms: true,
    parameter_check: true,
    places_apart: false,
    health_by_registration: true,
    health_by_hand: false,
    operator_overrules: true,
    least_weight: 0.0,
    null_metadata: true,
    beat_names_service: true,
    delete_with_instances: false,
    masks: Masks::Configured,
    cache: 10_000,
    cas: Cas::Refused,
    public_is_empty: PublicIsEmpty {
        publish: true,
        get: false,
        delete: false,
        listen: false,
    },
    typed_content: false,
    encrypted_data_key: true,
    publisher_said: true,
    variants: 10,
};

const V3_0: Manners = Manners {
    version: "3.0.3",
    public_is_empty: PublicIsEmpty {
        publish: true,
        get: true,
        delete: true,
        listen: true,
    },
    ..V2_5
};

impl Like {
    /// The table's column.
    pub(crate) fn manners(self) -> &'static Manners {
        match self {
            Self::V1_4 => &V1_4,
            Self::V2_5 => &V2_5,
            Self::V3_0 => &V3_0,
        }
    }
}

/// What 3.0.3 answers 410 to: method, route (with the parameter that makes it another call), what it recommends instead, and of which switch the call is.
const GONE: &[(&str, &str, &str, &str)] = &[
    (
        "GET",
        "/v1/ns/instance",
        "GET /v3/admin/ns/instance",
        "admin",
    ),
    (
        "PUT",
        "/v1/ns/instance",
        "PUT /v3/admin/ns/instance",
        "admin",
    ),
    (
        "PATCH",
        "/v1/ns/instance",
        "PUT /v3/admin/ns/instance/partial",
        "admin",
    ),
    (
        "POST",
        "/v1/ns/service",
        "POST /v3/admin/ns/service",
        "admin",
    ),
    ("GET", "/v1/ns/service", "GET /v3/admin/ns/service", "admin"),
    ("PUT", "/v1/ns/service", "PUT /v3/admin/ns/service", "admin"),
    (
        "DELETE",
        "/v1/ns/service",
        "DELETE /v3/admin/ns/service",
        "admin",
    ),
    (
        "GET",
        "/v1/ns/service/subscribers",
        "GET /v3/admin/ns/service/subscribers",
        "admin",
    ),
    (
        "PUT",
        "/v1/ns/cluster",
        "PUT /v3/console/ns/service/cluster",
        "console",
    ),
    // Recommended without the `/ns` that the path has.
    (
        "PUT",
        "/v1/ns/health",
        "PUT /v3/admin/health/instance",
        "admin",
    ),
    (
        "PUT",
        "/v1/ns/health/instance",
        "PUT /v3/admin/health/instance",
        "admin",
    ),
    (
        "GET",
        "/v1/ns/health/checkers",
        "GET /v3/admin/health/checkers",
        "admin",
    ),
    (
        "GET",
        "/v1/ns/operator/switches",
        "GET /v3/admin/ns/ops/switches",
        "admin",
    ),
    (
        "GET",
        "/v1/cs/configs/listener",
        "GET /v3/console/cs/config/listener",
        "console",
    ),
    (
        "GET",
        "/v1/cs/history",
        "GET /v3/console/cs/history/list",
        "console",
    ),
    (
        "GET",
        "/v1/cs/configs?search=accurate",
        "GET /v3/console/cs/config/list",
        "console",
    ),
    (
        "GET",
        "/v1/cs/configs?search=blur",
        "GET /v3/console/cs/config/list",
        "console",
    ),
    (
        "GET",
        "/v1/cs/configs?show=all",
        "GET /v3/console/cs/config",
        "console",
    ),
    (
        "GET",
        "/v1/cs/configs?beta=true",
        "GET /v3/console/cs/config/beta",
        "console",
    ),
    (
        "DELETE",
        "/v1/cs/configs?beta=true",
        "DELETE /v3/console/cs/config/beta",
        "console",
    ),
    (
        "DELETE",
        "/v1/cs/configs?delType=ids",
        "GET /v3/console/cs/config/batchDelete",
        "console",
    ),
    (
        "GET",
        "/v1/cs/configs/catalog",
        "GET /v3/admin/cs/config",
        "admin",
    ),
    (
        "GET",
        "/v1/cs/history/previous",
        "GET /v3/console/cs/history/previous",
        "console",
    ),
    (
        "GET",
        "/v1/cs/history/configs",
        "GET /v3/console/cs/history/configs",
        "console",
    ),
    (
        "GET",
        "/v1/cs/listener",
        "GET /v3/console/cs/config/listener/ip",
        "console",
    ),
    ("GET", "/v2/cs/config", "GET /v3/admin/cs/config", "admin"),
    ("POST", "/v2/cs/config", "POST /v3/admin/cs/config", "admin"),
    (
        "DELETE",
        "/v2/cs/config",
        "DELETE /v3/admin/cs/config",
        "admin",
    ),
    (
        "GET",
        "/v2/cs/config/searchDetail",
        "GET /v3/admin/cs/config/list",
        "admin",
    ),
    ("GET", "/v2/cs/history", "GET /v3/admin/cs/history", "admin"),
    (
        "GET",
        "/v2/cs/history/list",
        "GET /v3/admin/cs/history/list",
        "admin",
    ),
    (
        "GET",
        "/v2/cs/history/previous",
        "GET /v3/admin/cs/history/previous",
        "admin",
    ),
    (
        "GET",
        "/v2/cs/history/configs",
        "GET /v3/admin/cs/history/configs",
        "admin",
    ),
    (
        "GET",
        "/v1/console/server/state",
        "GET /v3/console/server/state",
        "console",
    ),
    (
        "GET",
        "/v1/console/health/liveness",
        "GET /v3/console/health/liveness",
        "console",
    ),
    (
        "GET",
        "/v1/console/health/readiness",
        "GET /v3/console/health/readiness",
        "console",
    ),
    (
        "GET",
        "/v1/console/namespaces",
        "GET /v3/console/core/namespace/list",
        "console",
    ),
    (
        "GET",
        "/v1/core/cluster/nodes",
        "GET /v3/admin/core/cluster/node/list",
        "console",
    ),
];

/// A call that a generation no longer takes: the `message` of the page that says so.
pub(crate) fn gone(like: Like, method: &str, route: &str) -> Option<String> {
    if like != Like::V3_0 {
        return None;
    }
    let (_, _, instead, switch) = GONE
        .iter()
        .find(|(gone, path, ..)| *gone == method && *path == route)?;
    let (verb, path) = instead.split_once(' ')?;
    Some(gone_message(verb, path, switch))
}

fn gone_message(verb: &str, path: &str, switch: &str) -> String {
    let message = format!(
        "Current API will be deprecated, please use API(s) `{verb} ${{contextPath:nacos}}{path}` instead, or set `nacos.core.api.compatibility.{switch}.enabled=true` in application.properties."
    );
    serde_json::json!({"code": 40_000, "message": message}).to_string()
}

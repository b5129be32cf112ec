//! What 3.0.3 no longer takes of v1 and v2, and what it recommends instead.

use crate::registry::like::Like;

/// Method, route (with the parameter that makes it another call), what is recommended instead if anything is, and of which switch the call is.
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
    (
        "PUT",
        "/v1/ns/instance/metadata/batch",
        "PUT /v3/admin/ns/instance/metadata/batch",
        "admin",
    ),
    (
        "DELETE",
        "/v1/ns/instance/metadata/batch",
        "DELETE /v3/admin/ns/instance/metadata/batch",
        "admin",
    ),
    ("GET", "/v1/ns/instance/statuses", "", "admin"),
    ("GET", "/v1/ns/service/names", "", "admin"),
    (
        "GET",
        "/v1/ns/service/selector/types",
        "GET /v3/admin/ns/service/selector/types",
        "admin",
    ),
    (
        "GET",
        "/v1/ns/catalog/services",
        "GET /v3/console/ns/service/list",
        "console",
    ),
    (
        "GET",
        "/v1/ns/catalog/instances",
        "GET /v3/console/ns/instance/list",
        "console",
    ),
    (
        "GET",
        "/v1/ns/catalog/service",
        "GET /v3/console/ns/service",
        "console",
    ),
    (
        "PUT",
        "/v1/ns/operator/switches",
        "PUT /v3/admin/ns/ops/switches",
        "admin",
    ),
    ("GET", "/v1/ns/operator/push/state", "", "admin"),
    (
        "GET",
        "/v1/ns/operator/distro/client",
        "GET /v3/admin/ns/client/distro",
        "admin",
    ),
    (
        "PUT",
        "/v1/ns/operator/log",
        "PUT /v3/admin/ns/ops/log",
        "admin",
    ),
    ("GET", "/v1/ns/health/server", "", "admin"),
    (
        "POST",
        "/v1/console/namespaces",
        "POST /v3/console/core/namespace",
        "console",
    ),
    (
        "PUT",
        "/v1/console/namespaces",
        "PUT /v3/console/core/namespace",
        "console",
    ),
    (
        "DELETE",
        "/v1/console/namespaces",
        "DELETE /v3/console/core/namespace",
        "console",
    ),
    (
        "POST",
        "/v2/ns/instance",
        "POST /v3/admin/ns/instance",
        "admin",
    ),
    (
        "DELETE",
        "/v2/ns/instance",
        "DELETE /v3/admin/ns/instance",
        "admin",
    ),
    (
        "PUT",
        "/v2/ns/instance",
        "PUT /v3/admin/ns/instance",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/instance",
        "GET /v3/admin/ns/instance",
        "admin",
    ),
    (
        "PATCH",
        "/v2/ns/instance",
        "PUT /v3/admin/ns/instance/partial",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/instance/list",
        "GET /v3/admin/ns/instance/list",
        "admin",
    ),
    ("PUT", "/v2/ns/instance/beat", "", "admin"),
    (
        "PUT",
        "/v2/ns/instance/metadata/batch",
        "PUT /v3/admin/ns/instance/metadata/batch",
        "admin",
    ),
    (
        "DELETE",
        "/v2/ns/instance/metadata/batch",
        "DELETE /v3/admin/ns/instance/metadata/batch",
        "admin",
    ),
    (
        "POST",
        "/v2/ns/service",
        "POST /v3/admin/ns/service",
        "admin",
    ),
    (
        "DELETE",
        "/v2/ns/service",
        "DELETE /v3/admin/ns/service",
        "admin",
    ),
    ("PUT", "/v2/ns/service", "PUT /v3/admin/ns/service", "admin"),
    ("GET", "/v2/ns/service", "GET /v3/admin/ns/service", "admin"),
    (
        "GET",
        "/v2/ns/service/list",
        "GET /v3/admin/ns/service/list",
        "admin",
    ),
    ("PUT", "/v2/ns/health", "PUT /v3/admin/ns/health", "admin"),
    (
        "PUT",
        "/v2/ns/health/instance",
        "PUT /v3/admin/ns/health",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/operator/switches",
        "GET /v3/admin/ns/ops/switches",
        "admin",
    ),
    (
        "PUT",
        "/v2/ns/operator/switches",
        "PUT /v3/admin/ns/ops/switches",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/operator/metrics",
        "GET /v3/admin/ns/ops/metrics",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/client/list",
        "GET /v3/admin/ns/client/list",
        "admin",
    ),
    ("GET", "/v2/ns/client", "GET /v3/admin/ns/client", "admin"),
    (
        "GET",
        "/v2/ns/client/publish/list",
        "GET /v3/admin/ns/client/publish/list",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/client/subscribe/list",
        "GET /v3/admin/ns/client/subscribe/list",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/client/service/publisher/list",
        "GET /v3/admin/ns/client/service/publisher/list",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/client/service/subscriber/list",
        "GET /v3/admin/ns/client/service/subscriber/list",
        "admin",
    ),
    (
        "GET",
        "/v2/ns/catalog/instances",
        "GET /v3/console/ns/instance/list",
        "console",
    ),
    (
        "GET",
        "/v2/console/namespace",
        "GET /v3/console/core/namespace",
        "console",
    ),
    (
        "POST",
        "/v2/console/namespace",
        "POST /v3/console/core/namespace",
        "console",
    ),
    (
        "PUT",
        "/v2/console/namespace",
        "PUT /v3/console/core/namespace",
        "console",
    ),
    (
        "DELETE",
        "/v2/console/namespace",
        "DELETE /v3/console/core/namespace",
        "console",
    ),
    (
        "GET",
        "/v2/console/namespace/list",
        "GET /v3/console/core/namespace/list",
        "console",
    ),
    (
        "GET",
        "/v2/console/health/liveness",
        "GET /v3/console/health/liveness",
        "console",
    ),
    (
        "GET",
        "/v2/console/health/readiness",
        "GET /v3/console/health/readiness",
        "console",
    ),
    (
        "GET",
        "/v2/core/cluster/node/self",
        "GET /v3/admin/core/cluster/node/self",
        "admin",
    ),
    (
        "GET",
        "/v2/core/cluster/node/list",
        "GET /v3/admin/core/cluster/node/list",
        "admin",
    ),
    (
        "GET",
        "/v2/core/cluster/node/self/health",
        "GET /v3/admin/core/cluster/node/self/health",
        "admin",
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
    ("GET", "/v1/cs/health", "", "admin"),
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
];

/// A call that a generation no longer takes: the `message` of the page that says so.
pub(crate) fn gone(like: Like, method: &str, route: &str) -> Option<String> {
    if like != Like::V3_0 {
        return None;
    }
    // Two names for one thing.
    let route = route.replacen("/ns/ops/", "/ns/operator/", 1);
    let (_, _, instead, switch) = GONE
        .iter()
        .find(|(gone, path, ..)| *gone == method && *path == route)?;
    Some(message(instead, switch, !route.starts_with("/v2/core")))
}

/// The original writes its variable like one of a shell, but for the paths where it forgot to.
fn message(instead: &str, switch: &str, dollar: bool) -> String {
    let dollar = if dollar { "$" } else { "" };
    let setting = format!(
        "set `nacos.core.api.compatibility.{switch}.enabled=true` in application.properties."
    );
    let message = match instead.split_once(' ') {
        Some((verb, path)) => format!(
            "Current API will be deprecated, please use API(s) `{verb} {dollar}{{contextPath:nacos}}{path}` instead, or {setting}"
        ),
        None => {
            format!("Current API will be deprecated, If wanted continue to use, please {setting}")
        }
    };
    serde_json::json!({"code": 40_000, "message": message}).to_string()
}

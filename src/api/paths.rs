//! The paths of the control API, for the server, the client and the command line.
//!
//! What varies is a parameter in braces, as the router takes them; [`with`] fills these in.

/// The page for people.
pub const PAGE: &str = "/";
/// Whether the process answers.
pub const HEALTH: &str = "/health";
/// Whether it has its names.
pub const READY: &str = "/ready";
/// Metrics, as OpenMetrics text.
pub const METRICS: &str = "/metrics";
/// This API, described.
pub const OPENAPI: &str = "/v1/openapi.json";

/// All registrations; a POST adds some.
pub const NAMES: &str = "/v1/names";
/// Those of one name.
pub const NAME: &str = "/v1/names/{name}";
/// One address of one name.
pub const NAME_ADDRESS: &str = "/v1/names/{name}/addresses/{address}";
/// Those of one address.
pub const ADDRESS: &str = "/v1/addresses/{address}";
/// The instances that there are.
pub const INSTANCES: &str = "/v1/instances";
/// The registrations of one.
pub const INSTANCE: &str = "/v1/instances/{instance}";
/// How one says that it is.
pub const INSTANCE_HEALTH: &str = "/v1/instances/{instance}/health";
/// Several changes at once.
pub const BATCH: &str = "/v1/batch";

/// What has been said of addresses, instances, nodes and policies.
pub const DIRECTIVES: &str = "/v1/statements";
/// An address, an instance or a node that is drained.
pub const DRAIN: &str = "/v1/drains/{what}/{of}";
/// This node.
pub const DRAIN_SELF: &str = "/v1/drains/self";
/// The policy of a name or of a domain.
pub const POLICY: &str = "/v1/policies/{scope}";
/// Why a name has the answers that it has.
pub const EXPLAIN: &str = "/v1/explain/{name}";

/// What the caches hold.
pub const CACHE: &str = "/v1/cache";
/// What they hold of one name.
pub const CACHED: &str = "/v1/cache/{name}";

/// The nodes of the cluster.
pub const MEMBERS: &str = "/v1/members";
/// How this node is.
pub const STATUS: &str = "/v1/status";
/// Changes, as they come.
pub const WATCH: &str = "/v1/watch";

/// `path` with `values`, escaped as they have to be, in the place of its parameters.
///
/// # Panics
/// If there are not as many values as parameters: a fault of the caller, which a path of this file cannot hide.
#[must_use]
pub fn with(path: &str, values: &[&str]) -> String {
    let mut parts = path.split('{');
    let mut full = parts.next().unwrap_or_default().to_owned();
    let mut values = values.iter();
    for part in parts {
        let (_, rest) = part.split_once('}').expect("a parameter ends");
        full.push_str(values.next().expect("a value for each parameter"));
        full.push_str(rest);
    }
    assert!(values.next().is_none(), "{path} has fewer parameters");
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_filled_in_in_their_order() {
        assert_eq!(with(NAMES, &[]), "/v1/names");
        assert_eq!(with(NAME_ADDRESS, &["web", "10.0.0.1"]), "/v1/names/web/addresses/10.0.0.1");
        assert_eq!(with(INSTANCE_HEALTH, &["i1"]), "/v1/instances/i1/health");
    }

    #[test]
    #[should_panic(expected = "a value for each parameter")]
    fn a_parameter_without_a_value_is_a_fault() {
        let _ = with(DRAIN, &["node"]);
    }
}

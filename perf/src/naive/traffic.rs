//! What rules say of protocol and ports.

use serde_json::Value;

use super::{Cluster, Query, text};

/// The number of a protocol's name; TCP where there is none.
pub(super) fn protocol(name: &Value) -> u8 {
    match text(name) {
        "UDP" => 17,
        "SCTP" => 132,
        _ => 6,
    }
}

/// Whether a port, a name or a range up to `end` is the one of the query. What is missing is any.
pub(super) fn port(
    cluster: &Cluster,
    wanted: &Value,
    end: &Value,
    number: u8,
    query: &Query,
) -> bool {
    if number != query.protocol {
        return false;
    }
    match wanted {
        Value::Null => true,
        Value::String(name) => named(cluster, name, Some(number), query),
        first => {
            let first = first.as_u64().unwrap_or(u64::MAX);
            let last = end.as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(query.port))
        }
    }
}

/// Whether the destination is a Pod that calls this protocol and port by this name.
pub(super) fn named(cluster: &Cluster, name: &str, number: Option<u8>, query: &Query) -> bool {
    cluster.pod_at(query.destination).is_some_and(|pod| {
        pod.ports.iter().any(|(declared, protocol, port)| {
            declared == name
                && number.is_none_or(|number| number == *protocol)
                && (*protocol, *port) == (query.protocol, query.port)
        })
    })
}

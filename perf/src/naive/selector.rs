//! Label selectors, as Kubernetes documents them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{list, text};

/// Whether a selector matches; one that is there and empty matches everything.
pub(super) fn matches(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector["matchLabels"].as_object().is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| labels.get(key).is_some_and(|label| value == label))
    });
    equal && list(&selector["matchExpressions"]).iter().all(|wanted| expression(wanted, labels))
}

fn expression(wanted: &Value, labels: &BTreeMap<String, String>) -> bool {
    let label = labels.get(text(&wanted["key"]));
    let named = || label.is_some_and(|label| list(&wanted["values"]).iter().any(|v| v == label));
    match text(&wanted["operator"]) {
        "In" => named(),
        "NotIn" => !named(),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}

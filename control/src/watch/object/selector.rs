//! Names and label selectors, held to Kubernetes' own rules for them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::{Wrong, each};
use crate::model::{LabelSelector, NamespaceScope, Operator, PodSelector, Requirement};

/// Where an object is that does not say.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// The name of an object.
pub(super) fn name_of(metadata: &meta::ObjectMeta) -> Result<String, Wrong> {
    match metadata.name.as_deref() {
        Some(name) if is_name(name) => Ok(name.to_owned()),
        Some(name) => {
            let reason = format!("`{name}` is not a name that Kubernetes takes");
            Err(Wrong::new("metadata.name", reason))
        }
        None => Err(Wrong::new("metadata.name", "is missing")),
    }
}

/// The namespace of an object; that of `kubectl` if it names none.
pub(super) fn namespace_of(metadata: &meta::ObjectMeta) -> Result<String, Wrong> {
    match metadata.namespace.as_deref() {
        None | Some("") => Ok(DEFAULT_NAMESPACE.to_owned()),
        Some(name) if is_name(name) => Ok(name.to_owned()),
        Some(name) => {
            let reason = format!("`{name}` is not a name that Kubernetes takes");
            Err(Wrong::new("metadata.namespace", reason))
        }
    }
}

/// RFC 1123 subdomains, as Kubernetes wants them.
pub(super) fn is_name(name: &str) -> bool {
    let edge =
        |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

/// A selector whose absence means everything.
pub(super) fn or_all(selector: Option<&meta::LabelSelector>) -> Result<LabelSelector, Wrong> {
    selector.map_or_else(|| Ok(LabelSelector::default()), labels)
}

/// A selector of Pods of some namespaces.
pub(super) fn pods(
    namespaces: NamespaceScope,
    selector: Option<&meta::LabelSelector>,
) -> Result<PodSelector, Wrong> {
    let pods = or_all(selector).map_err(|wrong| wrong.within("podSelector"))?;
    Ok(PodSelector { namespaces, pods })
}

/// A selector as it is written.
pub(super) fn labels(selector: &meta::LabelSelector) -> Result<LabelSelector, Wrong> {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let checked = check_key(key).and_then(|()| check_value(value));
        checked.map_err(|reason| Wrong::new("matchLabels", reason))?;
        requirements
            .push(Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) });
    }
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    requirements.extend(each("matchExpressions", expressions, requirement)?);
    Ok(LabelSelector { requirements })
}

fn requirement(expression: &meta::LabelSelectorRequirement) -> Result<Requirement, Wrong> {
    check_key(&expression.key).map_err(|reason| Wrong::new("key", reason))?;
    let values = expression.values.clone().unwrap_or_default();
    for value in &values {
        check_value(value).map_err(|reason| Wrong::new("values", reason))?;
    }
    let with_values = |values: Vec<String>| match values.is_empty() {
        true => Err(Wrong::new("values", format!("`{}` needs some", expression.operator))),
        false => Ok(values),
    };
    let without = || match values.is_empty() {
        true => Ok(()),
        false => Err(Wrong::new("values", format!("`{}` takes none", expression.operator))),
    };
    let operator = match expression.operator.as_str() {
        "In" => Operator::In(with_values(values)?),
        "NotIn" => Operator::NotIn(with_values(values)?),
        "Exists" => without().map(|()| Operator::Exists)?,
        "DoesNotExist" => without().map(|()| Operator::DoesNotExist)?,
        other => {
            let reason = format!("`{other}` is none of In, NotIn, Exists, DoesNotExist");
            return Err(Wrong::new("operator", reason));
        }
    };
    Ok(Requirement { key: expression.key.clone(), operator })
}

const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and \
    must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const LENGTH_MAX: usize = 63;

/// Whether this can be the key of a label; otherwise why not, as Kubernetes says it.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let mut reasons = Vec::new();
    if prefix.is_some_and(|prefix| !is_name(prefix)) {
        reasons.push("prefix part must be a DNS subdomain".to_owned());
    }
    if name.is_empty() {
        reasons.push("name part must be non-empty".to_owned());
    }
    if name.len() > LENGTH_MAX {
        reasons.push(format!("name part must be no more than {LENGTH_MAX} characters"));
    }
    if name.is_empty() || !is_label_text(name) {
        reasons.push(NAME_RULE.to_owned());
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(format!("Invalid label key: {key}: {}", reasons.join("; "))),
    }
}

/// Whether this can be the value of a label; otherwise why not, as Kubernetes says it.
pub(crate) fn check_value(value: &str) -> Result<(), String> {
    let mut reasons = Vec::new();
    if value.len() > LENGTH_MAX {
        reasons.push(format!("must be no more than {LENGTH_MAX} characters"));
    }
    if !is_label_text(value) {
        reasons.push(VALUE_RULE.to_owned());
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(format!("Invalid label value: {value}: {}", reasons.join("; "))),
    }
}

fn is_label_text(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_of_labels_are_held_to_kubernetes_rules() {
        for key in ["app", "a", "app.kubernetes.io/name", "MyName", "my_name-1"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        for key in ["", "foo=", "&key", "-a", "a-", "/a", "A.B/c", "a/b/c", &"a".repeat(64)] {
            assert!(check_key(key).is_err(), "{key}");
        }
        for value in ["", "bar", "1.2", "A_b-c"] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for value in ["bar=", " ", "-", &"a".repeat(64)] {
            assert!(check_value(value).is_err(), "{value}");
        }
    }
}

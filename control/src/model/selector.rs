//! Label selectors, as Kubernetes has them.

use std::collections::BTreeMap;

/// What labels are held against. One without requirements matches everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LabelSelector {
    /// All of them must hold.
    pub requirements: Vec<Requirement>,
}

/// One condition on labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Of which label.
    pub key: String,
    /// What of it.
    pub operator: Operator,
}

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// There, with one of these values.
    In(Vec<String>),
    /// Not there, or with none of these values.
    NotIn(Vec<String>),
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether all requirements hold.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_held_against_labels_as_kubernetes_does() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let matches = |key: &str, operator| {
            let requirements = vec![Requirement { key: key.to_owned(), operator }];
            LabelSelector { requirements }.matches(&labels)
        };
        let values = |value: &str| vec![value.to_owned()];
        assert!(LabelSelector::default().matches(&labels));
        assert!(matches("app", Operator::In(values("web"))));
        assert!(!matches("app", Operator::In(values("db"))));
        assert!(!matches("tier", Operator::In(values("web"))));
        assert!(matches("app", Operator::NotIn(values("db"))));
        assert!(matches("tier", Operator::NotIn(values("db"))));
        assert!(!matches("app", Operator::NotIn(values("web"))));
        assert!(matches("app", Operator::Exists) && !matches("tier", Operator::Exists));
        assert!(matches("tier", Operator::DoesNotExist));
    }
}

//! The Pods, namespaces and Nodes of the cluster, indexed for selectors.
//!
//! Pods on their node's own network are left out: they are no subjects of policies and no peers;
//! they are reached as their Node is. Pods are told apart by their place in the order of names, so
//! that sets of them are sorted lists of small numbers.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::model::{Cluster, LabelSelector, Operator, Pod};

/// The label by which every namespace can be selected; Kubernetes sets it, manifests may not.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels of an object.
type Labels = BTreeMap<String, String>;

/// A Pod's place among those of the population.
pub(super) type PodIndex = u32;

/// Everybody whom a selector can select.
pub(super) struct Population<'a> {
    pub(super) cluster: &'a Cluster,
    node: &'a str,
    pods: Vec<&'a Pod>,
    by_namespace: HashMap<&'a str, Vec<PodIndex>>,
    by_label: HashMap<(&'a str, &'a str), Vec<PodIndex>>,
    by_namespace_and_label: HashMap<(&'a str, &'a str, &'a str), Vec<PodIndex>>,
    namespaces: BTreeMap<&'a str, Cow<'a, Labels>>,
    matching: RefCell<HashMap<LabelSelector, Rc<BTreeSet<&'a str>>>>,
}

impl<'a> Population<'a> {
    /// That of a cluster with these Pods, as `node` sees it.
    pub(super) fn new(cluster: &'a Cluster, pods: &'a [Cow<'a, Pod>], node: &'a str) -> Self {
        let pods = pods.iter().map(AsRef::<Pod>::as_ref).filter(|pod| !pod.host_network);
        let pods: Vec<&Pod> = pods.collect();
        let mut namespaces = BTreeMap::new();
        for namespace in cluster.namespaces.values() {
            namespaces.insert(namespace.name.as_str(), named(&namespace.name, &namespace.labels));
        }
        let mut population = Self {
            cluster,
            node,
            pods: Vec::new(),
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
            by_namespace_and_label: HashMap::new(),
            namespaces,
            matching: RefCell::default(),
        };
        for (index, pod) in (0..).zip(&pods) {
            let namespace = pod.name.namespace.as_str();
            population.by_namespace.entry(namespace).or_default().push(index);
            population
                .namespaces
                .entry(namespace)
                .or_insert_with(|| Cow::Owned(name_label(namespace)));
            for (key, value) in &pod.labels {
                let (key, value) = (key.as_str(), value.as_str());
                population.by_label.entry((key, value)).or_default().push(index);
                population
                    .by_namespace_and_label
                    .entry((namespace, key, value))
                    .or_default()
                    .push(index);
            }
        }
        population.pods = pods;
        population
    }

    /// The Pod at a place.
    pub(super) fn pod(&self, index: PodIndex) -> &'a Pod {
        self.pods[index as usize]
    }

    /// All Pods, in order.
    pub(super) fn pods(&self) -> impl Iterator<Item = (PodIndex, &'a Pod)> + '_ {
        (0..).zip(self.pods.iter().copied())
    }

    /// Whether a Pod runs on this node.
    pub(super) fn is_local(&self, pod: &Pod) -> bool {
        pod.node.as_deref() == Some(self.node)
    }

    /// The labels of a namespace; `None` where there is no such namespace.
    pub(super) fn labels_of(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(AsRef::as_ref)
    }

    /// The Pods of one namespace, by their labels.
    pub(super) fn in_namespace(&self, namespace: &str, selector: &LabelSelector) -> Vec<PodIndex> {
        let candidates = match narrowest(selector, |key, value| {
            self.by_namespace_and_label.get(&(namespace, key, value))
        }) {
            Some(candidates) => candidates,
            None => self.by_namespace.get(namespace).cloned().unwrap_or_default(),
        };
        self.keep_matching(candidates, selector)
    }

    /// The Pods of all namespaces that one selector matches, by their labels.
    pub(super) fn in_matching(
        &self,
        namespaces: &LabelSelector,
        selector: &LabelSelector,
    ) -> Vec<PodIndex> {
        let matching = self.namespaces_matching(namespaces);
        match narrowest(selector, |key, value| self.by_label.get(&(key, value))) {
            Some(mut candidates) => {
                candidates
                    .retain(|index| matching.contains(self.pod(*index).name.namespace.as_str()));
                self.keep_matching(candidates, selector)
            }
            None => {
                let of = |namespace| self.by_namespace.get(namespace).into_iter().flatten();
                let mut candidates: Vec<PodIndex> =
                    matching.iter().flat_map(|namespace| of(*namespace)).copied().collect();
                candidates.sort_unstable();
                self.keep_matching(candidates, selector)
            }
        }
    }

    fn keep_matching(&self, mut pods: Vec<PodIndex>, selector: &LabelSelector) -> Vec<PodIndex> {
        if !selector.requirements.is_empty() {
            pods.retain(|index| selector.matches(&self.pod(*index).labels));
        }
        pods
    }

    fn namespaces_matching(&self, selector: &LabelSelector) -> Rc<BTreeSet<&'a str>> {
        if let Some(known) = self.matching.borrow().get(selector) {
            return known.clone();
        }
        let matching: BTreeSet<&'a str> = self
            .namespaces
            .iter()
            .filter(|(_, labels)| selector.matches(labels))
            .map(|(name, _)| *name)
            .collect();
        let matching = Rc::new(matching);
        self.matching.borrow_mut().insert(selector.clone(), matching.clone());
        matching
    }
}

/// The shortest list of Pods that one requirement leaves; `None` where none narrows the choice.
fn narrowest<'i>(
    selector: &'i LabelSelector,
    list: impl Fn(&'i str, &'i str) -> Option<&'i Vec<PodIndex>>,
) -> Option<Vec<PodIndex>> {
    let lists = selector.requirements.iter().filter_map(|requirement| {
        let Operator::In(values) = &requirement.operator else {
            return None;
        };
        let mut pods: Vec<PodIndex> = values
            .iter()
            .filter_map(|value| list(&requirement.key, value))
            .flatten()
            .copied()
            .collect();
        pods.sort_unstable();
        pods.dedup();
        Some(pods)
    });
    lists.min_by_key(Vec::len)
}

fn name_label(name: &str) -> Labels {
    BTreeMap::from([(NAME_LABEL.to_owned(), name.to_owned())])
}

fn named<'a>(name: &str, labels: &'a Labels) -> Cow<'a, Labels> {
    if labels.contains_key(NAME_LABEL) {
        return Cow::Borrowed(labels);
    }
    let mut labels = labels.clone();
    labels.extend(name_label(name));
    Cow::Owned(labels)
}

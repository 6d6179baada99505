//! Manifests as people write them, and as they get them wrong.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

const TWO_NODES: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node1}
spec:
  podCIDR: 10.10.1.0/24
  podCIDRs: [10.10.1.0/24, 'fd00:10:1::/64']
status:
  addresses:
  - {type: Hostname, address: node1}
  - {type: InternalIP, address: 192.0.2.1}
---
# nothing but a comment
---
apiVersion: v1
kind: Node
metadata: {name: node2}
spec: {podCIDR: 10.10.2.0/24}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

pub(super) const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec: {nodeName: node1, containers: [{name: web, image: web}]}
";

pub(super) fn folder() -> (tempfile::TempDir, Folder) {
    let directory = tempfile::tempdir().unwrap();
    let folder = started(&directory);
    (directory, folder)
}

/// As an agent that starts has it.
pub(super) fn started(directory: &tempfile::TempDir) -> Folder {
    Folder::new(directory.path(), &directory.path().join("last-good")).unwrap()
}

#[test]
fn nodes_namespaces_and_pods_are_read_from_yaml_and_json() {
    let (directory, mut folder) = folder();
    fs::write(directory.path().join("nodes.yaml"), TWO_NODES).unwrap();
    fs::write(directory.path().join("pod.yml"), POD).unwrap();
    fs::write(
        directory.path().join("more.json"),
        r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}]}"#,
    )
    .unwrap();
    fs::write(directory.path().join("README.md"), "not: a manifest").unwrap();
    let (cluster, errors) = folder.scan().unwrap();
    assert_eq!(errors, []);
    let node = &cluster.nodes["node1"];
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.internal_addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(cluster.nodes["node2"].pod_cidrs[0].to_string(), "10.10.2.0/24");
    assert!(cluster.namespaces.contains_key("shop"));
    let pod = cluster.pods.values().next().unwrap();
    assert_eq!(
        (pod.name.to_string().as_str(), pod.labels["app"].as_str()),
        ("default/web-0", "web")
    );
    assert_eq!(folder.ignored.iter().collect::<Vec<_>>(), ["apps/v1/Deployment"]);
}

#[test]
fn a_broken_edit_keeps_the_last_good_version_and_says_what_is_wrong() {
    let (directory, mut folder) = folder();
    let file = directory.path().join("nodes.yaml");
    fs::write(&file, TWO_NODES).unwrap();
    let (good, _) = folder.scan().unwrap();
    fs::write(&file, TWO_NODES.replace("10.10.2.0/24", "10.10.2.0")).unwrap();
    let (kept, errors) = folder.scan().unwrap();
    assert_eq!(kept, good);
    let ManifestError::Document { document, field, reason, .. } = &errors[0] else {
        panic!("{errors:?}");
    };
    assert_eq!((*document, field.as_str()), (3, "spec.podCIDR"));
    assert!(reason.contains("10.10.2.0"), "{reason}");
    fs::write(&file, TWO_NODES.replace("10.10.2.0/24", "10.10.9.0/24")).unwrap();
    let (mended, errors) = folder.scan().unwrap();
    assert_eq!(errors, []);
    assert_eq!(mended.nodes["node2"].pod_cidrs[0].to_string(), "10.10.9.0/24");
    fs::remove_file(&file).unwrap();
    assert!(folder.scan().unwrap().0.nodes.is_empty());
}

#[test]
fn each_mistake_names_its_field() {
    let mistakes = [
        ("kind: Node\nmetadata: {name: n}", "apiVersion"),
        ("apiVersion: v1\nkind: Node\nmetadata: {}", "metadata.name"),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: Node_1}", "metadata.name"),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDR: 7}", "spec.podCIDR"),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDRs: [10.0.0.1/24]}",
            "spec.podCIDRs[0]",
        ),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n\
             spec: {podCIDRs: [10.0.0.0/24, 10.1.0.0/24]}",
            "spec.podCIDRs[1]",
        ),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n\
             status: {addresses: [{type: InternalIP, address: here}]}",
            "status.addresses[0].address",
        ),
    ];
    for (text, expected) in mistakes {
        let (directory, mut folder) = folder();
        fs::write(directory.path().join("a.yaml"), text).unwrap();
        let (_, errors) = folder.scan().unwrap();
        let [ManifestError::Document { field, .. }] = errors.as_slice() else {
            panic!("{text}: {errors:?}");
        };
        assert_eq!(field, expected, "{text}");
    }
}

#[test]
fn a_file_that_is_not_yaml_is_refused_as_a_whole() {
    let (directory, mut folder) = folder();
    let file = directory.path().join("a.yaml");
    fs::write(&file, POD).unwrap();
    folder.scan().unwrap();
    for text in ["apiVersion: v1\nkind: [", "a: 1\na: 2", &format!("{POD}---\n: {{")] {
        fs::write(&file, text).unwrap();
        let (cluster, errors) = folder.scan().unwrap();
        assert!(matches!(errors.as_slice(), [ManifestError::File { .. }]), "{text}: {errors:?}");
        assert_eq!(cluster.pods.len(), 1);
    }
}

#[test]
fn an_object_that_is_wrong_from_the_start_keeps_nothing_else_out() {
    let (directory, mut folder) = folder();
    let wrong = POLICY_IN_TIER.replace("tier: gold", "teir: gold");
    fs::write(directory.path().join("a.yaml"), format!("{wrong}---\n{POD}")).unwrap();
    let (cluster, errors) = folder.scan().unwrap();
    assert_eq!((cluster.pods.len(), cluster.policies.len()), (1, 0));
    assert_eq!(
        errors[0].to_string().split_once("a.yaml`").unwrap().1,
        ", document 1, ClusterNetworkPolicy no-entry, field `spec.teir`: is not a field that this \
         version knows"
    );
}

#[test]
fn the_first_of_two_definitions_counts_whichever_was_written_last() {
    let (directory, mut folder) = folder();
    fs::write(directory.path().join("b.yaml"), POD.replace("node1", "node2")).unwrap();
    folder.scan().unwrap();
    fs::write(directory.path().join("a.yaml"), POD).unwrap();
    let (cluster, _) = folder.scan().unwrap();
    assert_eq!(cluster.pods.values().next().unwrap().node.as_deref(), Some("node1"));
}

#[tokio::test]
async fn a_changed_file_takes_effect_live() {
    let directory = tempfile::tempdir().unwrap();
    let mut observe = follow(directory.path(), &directory.path().join("last-good")).unwrap();
    assert!(observe.borrow().nodes.is_empty());
    fs::write(directory.path().join("nodes.yaml"), TWO_NODES).unwrap();
    let seen = tokio::time::timeout(
        Duration::from_secs(4),
        observe.wait_for(|cluster| cluster.nodes.len() == 2),
    );
    assert!(seen.await.is_ok(), "inotify told nobody");
}

#[tokio::test]
async fn a_look_at_the_folder_is_no_reason_to_look_again() {
    let (directory, mut folder) = folder();
    let file = directory.path().join("nodes.yaml");
    fs::write(&file, TWO_NODES).unwrap();
    let (_watcher, mut noticed) = watcher(&folder.path);
    folder.scan().unwrap();
    folder.scan().unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), noticed.recv());
    assert!(quiet.await.is_err(), "reading was noticed as a change");
    fs::write(&file, POD).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(4), noticed.recv());
    assert!(told.await.is_ok(), "writing was not noticed");
}

pub(super) const TIER: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: Tier
metadata: {name: gold}
spec: {priority: 10, description: before all others}
";

pub(super) const POLICY_IN_TIER: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: no-entry}
spec:
  tier: gold
  priority: 5
  appliedTo: [{podSelector: {matchLabels: {app: web}}}]
  ingress: [{action: Drop, enableLogging: false}]
";

pub(super) fn refused(errors: &[ManifestError]) -> Vec<(&str, &str)> {
    errors
        .iter()
        .map(|error| match error {
            ManifestError::Object { object, reason, .. } => (object.as_str(), reason.as_str()),
            other => panic!("{other}"),
        })
        .collect()
}

#[test]
fn a_policy_may_be_written_before_its_tier() {
    let (directory, mut folder) = folder();
    fs::write(directory.path().join("a.yaml"), POLICY_IN_TIER).unwrap();
    fs::write(directory.path().join("b.yaml"), TIER).unwrap();
    let (cluster, errors) = folder.scan().unwrap();
    assert_eq!(errors, []);
    assert_eq!((cluster.policies.len(), cluster.tiers["gold"]), (1, 10));
}

#[test]
fn a_policy_in_a_tier_that_is_not_there_is_refused_and_the_rest_is_taken() {
    let (directory, mut folder) = folder();
    fs::write(directory.path().join("a.yaml"), POLICY_IN_TIER).unwrap();
    fs::write(directory.path().join("b.yaml"), POD).unwrap();
    let (cluster, errors) = folder.scan().unwrap();
    assert_eq!(refused(&errors), [("ClusterNetworkPolicy no-entry", "tier gold does not exist")]);
    assert_eq!((cluster.policies.len(), cluster.pods.len()), (0, 1));
}

#[test]
fn a_change_that_is_refused_leaves_the_policy_as_it_was() {
    let (directory, mut folder) = folder();
    let file = directory.path().join("a.yaml");
    fs::write(&file, format!("{TIER}---\n{POLICY_IN_TIER}")).unwrap();
    let (before, _) = folder.scan().unwrap();
    let moved = POLICY_IN_TIER.replace("tier: gold", "tier: silver");
    fs::write(&file, format!("{TIER}---\n{moved}---\n{POD}")).unwrap();
    let (after, errors) = folder.scan().unwrap();
    assert_eq!(refused(&errors).len(), 1);
    assert_eq!((&after.policies, after.pods.len()), (&before.policies, 1));
}

#[test]
fn a_tier_stays_for_as_long_as_a_policy_stands_in_it() {
    let (directory, mut folder) = folder();
    let (tier, policy) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    fs::write(&tier, TIER).unwrap();
    fs::write(&policy, POLICY_IN_TIER).unwrap();
    let (before, _) = folder.scan().unwrap();
    fs::remove_file(&tier).unwrap();
    let (after, errors) = folder.scan().unwrap();
    assert_eq!(refused(&errors)[0].0, "Tier gold");
    assert_eq!(after, before);
    fs::remove_file(&policy).unwrap();
    let (empty, errors) = folder.scan().unwrap();
    assert_eq!((empty.tiers.len(), errors.len()), (0, 0));
}

#[test]
fn groups_are_nested_one_level_deep_and_no_deeper() {
    let group = |name: &str, member: &str| {
        format!(
            "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterGroup\nmetadata: {{name: {name}}}\n\
             spec: {{{member}}}\n---\n"
        )
    };
    let (directory, mut folder) = folder();
    let text = group("inner", "podSelector: {}")
        + &group("middle", "childGroups: [inner]")
        + &group("outer", "childGroups: [middle]")
        + &group("self", "childGroups: [self]");
    fs::write(directory.path().join("a.yaml"), text).unwrap();
    let (cluster, errors) = folder.scan().unwrap();
    assert_eq!(cluster.groups.len(), 2);
    assert_eq!(
        refused(&errors),
        [
            (
                "ClusterGroup outer",
                "cannot set ClusterGroup middle as childGroup, who has 1 childGroups itself"
            ),
            ("ClusterGroup self", "cannot set ClusterGroup self as its own childGroup"),
        ]
    );
}

#[test]
fn what_has_not_changed_is_not_put_together_again() {
    let (directory, mut folder) = folder();
    fs::write(directory.path().join("a.yaml"), POD).unwrap();
    let (first, _) = folder.scan().unwrap();
    let (second, _) = folder.scan().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

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

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec: {nodeName: node1, containers: [{name: web, image: web}]}
";

fn folder() -> (tempfile::TempDir, Folder) {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::new(directory.path());
    (directory, folder)
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
        ("apiVersion: v1\nkind: [", "."),
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
    let mut observe = follow(directory.path()).unwrap();
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

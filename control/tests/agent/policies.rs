//! Policies and Services come into force with the Pods that they are for.

use std::time::Duration;

use crate::node::datapath::Objects;
use crate::node::{NODES, Netns, Node, addresses, eventually};
use seine_datapath_api::v1;
use seine_datapath_api::v1::object_id::Kind;

const ISOLATED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
";

fn pod(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: \
         {labels}}}\nspec: {{nodeName: node1, containers: [{{name: c, image: i}}]}}\n"
    )
}

fn named(objects: &Objects, kind: Kind) -> Vec<&str> {
    let of_kind = objects.keys().filter(|key| key.0 == kind as i32);
    of_kind.map(|key| key.1.as_str()).collect()
}

/// Whether the address is isolated by the policy.
fn is_isolated(objects: &Objects, address: &str) -> bool {
    objects.values().any(|object| match &object.kind {
        Some(v1::object::Kind::Rule(rule)) => {
            rule.action() == v1::rule::Action::Isolate
                && rule.applied_to_groups.iter().any(|name| has(objects, name, address))
        }
        _ => false,
    })
}

fn has(objects: &Objects, group: &str, address: &str) -> bool {
    match &objects[&(Kind::Group as i32, group.to_owned())].kind {
        Some(v1::object::Kind::Group(group)) => group.members.iter().any(|one| one == address),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_has_its_policies_at_every_moment_of_its_life() {
    let node = Node::prepare(&format!("{NODES}---\n{ISOLATED}---\n{}", pod("c1", "{app: web}")));
    node.ready().await;
    let netns = Netns::new("pod");
    let added = node.add("c1", &netns).await.unwrap();
    let own: Vec<String> = addresses(&added).iter().map(ToString::to_string).collect();
    assert_eq!(own.len(), 2);
    node.write_manifest("more.yaml", &ISOLATED.replace("Ingress", "Egress").replace("closed", "e"));
    eventually("it is isolated both ways", async || {
        named(&node.datapath.objects(), Kind::Rule).len() == 2
    })
    .await;
    assert_eq!(node.del("c1").await.error, None);
    let mut seen = 0;
    for moment in node.datapath.history() {
        if named(&moment, Kind::Endpoint).contains(&"default/c1/eth0") {
            seen += 1;
            assert!(own.iter().all(|address| is_isolated(&moment, address)), "{moment:?}");
        } else {
            assert!(!own.iter().any(|address| is_isolated(&moment, address)), "{moment:?}");
        }
    }
    assert!(seen > 0);
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_that_the_cluster_does_not_know_waits_while_there_are_policies() {
    let node = Node::prepare(&format!("{NODES}---\n{ISOLATED}"));
    node.ready().await;
    let netns = Netns::new("pod");
    let error = node.add("c1", &netns).await.unwrap_err();
    assert_eq!(error.code, 11, "{error:?}");
    assert!(error.message.contains("does not know the Pod default/c1"), "{error:?}");
    node.assert_nothing_left();

    let (added, ()) = tokio::join!(node.add("c1", &netns), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.write_manifest("c1.yaml", &pod("c1", "{app: web}"));
    });
    let address = addresses(&added.unwrap())[0].to_string();
    let moments = node.datapath.history();
    let with_pod = moments.iter().filter(|m| !named(m, Kind::Endpoint).is_empty());
    assert!(with_pod.clone().count() > 0);
    assert!(with_pod.into_iter().all(|moment| is_isolated(moment, &address)));
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn an_address_takes_nothing_of_its_last_pod_to_the_next() {
    let nodes = NODES.replace("10.10.1.0/24, 'fd00:10:1::/64'", "10.10.1.0/30");
    let status = "status: {podIP: 10.10.1.2, podIPs: [{ip: 10.10.1.2}]}\n";
    let web = format!("{}{status}", pod("c1", "{app: web}"));
    let node = Node::prepare(&format!("{nodes}---\n{ISOLATED}---\n{web}---\n{}", pod("c2", "{}")));
    node.ready().await;
    let netns = Netns::new("pod");
    let first = node.add("c1", &netns).await.unwrap();
    assert!(is_isolated(&node.datapath.objects(), "10.10.1.2"));
    assert_eq!(node.del("c1").await.error, None);
    // The cluster still says that it is the address of c1.
    let second = node.add("c2", &netns).await.unwrap();
    assert_eq!(addresses(&first), addresses(&second));
    let before = node.datapath.transactions().0;
    node.write_manifest("more.yaml", &pod("c3", "{app: web}").replace("node1", "node2"));
    node.write_manifest("service.yaml", SERVICE);
    eventually("the change is compiled", async || node.datapath.transactions().0 > before).await;
    for moment in node.datapath.history() {
        let is_second = named(&moment, Kind::Endpoint).contains(&"default/c2/eth0");
        assert!(!is_second || !is_isolated(&moment, "10.10.1.2"), "{moment:?}");
    }
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

fn endpoints(objects: &Objects, name: &str) -> Vec<String> {
    match objects.get(&(Kind::Service as i32, name.to_owned())).and_then(|o| o.kind.as_ref()) {
        Some(v1::object::Kind::Service(service)) => {
            service.endpoints.iter().map(|end| format!("{}:{}", end.address, end.port)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn without_endpoint_slices_an_attached_pod_joins_its_service_and_leaves_it() {
    let node = Node::prepare(&format!("{NODES}---\n{SERVICE}---\n{}", pod("c1", "{app: web}")));
    node.ready().await;
    assert_eq!(endpoints(&node.datapath.objects(), "default/web:"), [""; 0]);
    let netns = Netns::new("pod");
    node.add("c1", &netns).await.unwrap();
    eventually("the Pod is an endpoint", async || {
        let endpoints = endpoints(&node.datapath.objects(), "default/web:");
        endpoints == ["10.10.1.2:8080", "fd00:10:1::2:8080"]
    })
    .await;
    assert_eq!(node.del("c1").await.error, None);
    eventually("it is none any more", async || {
        endpoints(&node.datapath.objects(), "default/web:").is_empty()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn what_the_datapath_refuses_is_left_out_and_all_else_is_in_force() {
    let mut node = Node::prepare(&format!("{NODES}---\n{}", pod("c1", "{app: web}")));
    node.ready().await;
    node.datapath.refuse("default/web:");
    node.write_manifest("policy.yaml", &format!("{ISOLATED}---\n{SERVICE}"));
    let isolates = |objects: &Objects| !named(objects, Kind::Rule).is_empty();
    eventually("the policy is in force", async || isolates(&node.datapath.objects())).await;
    assert_eq!(named(&node.datapath.objects(), Kind::Service), [""; 0]);
    node.add("c1", &Netns::new("pod")).await.unwrap();

    node.datapath.kill();
    node.datapath.resume();
    node.datapath.refuse("default/web:");
    eventually("the agent is ready again", async || isolates(&node.datapath.objects())).await;
    assert!(is_isolated(&node.datapath.objects(), "10.10.1.2"));
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_restarted_datapath_and_a_restarted_agent_have_pods_only_with_their_policies() {
    let mut node =
        Node::prepare(&format!("{NODES}---\n{ISOLATED}---\n{}", pod("c1", "{app: web}")));
    node.ready().await;
    let netns = Netns::new("pod");
    node.add("c1", &netns).await.unwrap();
    for restart in ["datapath", "agent"] {
        let before = node.datapath.history().len();
        if restart == "datapath" {
            node.datapath.kill();
            node.datapath.resume();
        } else {
            node.stop_agent();
            node.start_agent();
        }
        eventually("all is in force again", async || {
            let history = node.datapath.history().len();
            history > if restart == "agent" { before } else { 0 }
        })
        .await;
        node.ready().await;
        for moment in node.datapath.history() {
            let there = named(&moment, Kind::Endpoint).contains(&"default/c1/eth0");
            assert_eq!(there, is_isolated(&moment, "10.10.1.2"), "after a restart of {restart}");
        }
    }
}

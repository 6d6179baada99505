//! Pods that ask to send beyond their own addresses.

use seine_control::model::Permission;

use super::node::{self, NODES, Netns, Node};

const ASKS: &str = "{port.seine.io/allowed-addresses: '10.99.0.5, 10.99.1.0/24', \
                    port.seine.io/trusted-router: 'true', port.seine.io/vlans: '100, 150-152'}";

fn permission() -> Permission {
    Permission {
        namespace: "default".into(),
        allowed_addresses: vec!["10.99.0.0/16".parse().unwrap()],
        macs: Vec::new(),
        trusted_router: true,
        vlans: vec!["100-199".parse().unwrap()],
    }
}

async fn restart(node: &mut Node, permissions: Vec<Permission>) {
    node.stop_agent();
    node.configuration.sender_permits = permissions;
    node.start_agent();
    node.ready().await;
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_gets_what_an_operator_permits_for_as_long_as_that_stands() {
    let mut node = Node::prepare(&format!("{NODES}---\n{}", node::pod("c1", ASKS)));
    node.ready().await;
    let netns = Netns::new("pod");
    let error = node.add("c1", &netns).await.unwrap_err();
    assert_eq!(error.code, 107, "{error:?}");
    assert!(error.message.contains("no operator permits it"), "{error:?}");
    node.assert_nothing_left();

    restart(&mut node, vec![permission()]).await;
    node.add("c1", &netns).await.unwrap();
    let endpoint = node.datapath.endpoint("default/c1/eth0");
    let ranges: Vec<&str> = endpoint.allowed_addresses.iter().map(|it| it.range.as_str()).collect();
    assert_eq!(ranges, ["10.99.0.5/32", "10.99.1.0/24"]);
    assert!(endpoint.trusted_router);
    let vlans: Vec<_> = endpoint.vlans.iter().map(|it| (it.first, it.last)).collect();
    assert_eq!(vlans, [(100, 100), (150, 152)]);
    assert_eq!((endpoint.network_id, endpoint.interface_index), (0, 0));

    restart(&mut node, vec![permission()]).await;
    assert!(node.datapath.endpoint("default/c1/eth0").trusted_router, "it outlives the agent");
    let no_router = Permission { trusted_router: false, ..permission() };
    restart(&mut node, vec![no_router]).await;
    let endpoint = node.datapath.endpoint("default/c1/eth0");
    assert_eq!((endpoint.allowed_addresses.len(), endpoint.trusted_router), (0, false));
    assert_eq!(endpoint.addresses.len(), 2, "its own it keeps");
}

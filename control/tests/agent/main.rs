//! The agent on a node made of real namespaces, with a datapath that only keeps books.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

mod lent_sockets;
mod node;
mod permits;
mod policies;
mod vhost_user;

use std::collections::BTreeSet;
use std::time::Instant;

use node::{Fault, Netns, Node, add_with, addresses, eventually};

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn an_added_pod_has_its_link_addresses_and_routes_and_the_datapath_knows_it() {
    let node = Node::start().await;
    let pod = Netns::new("pod");
    let added = node.add("c1", &pod).await.unwrap();

    let eth0 = pod.link("eth0").unwrap();
    assert!(eth0.up);
    assert_eq!(eth0.mtu, 1450);
    assert_eq!(eth0.mac.unwrap().to_string(), added.interfaces[1].mac);
    assert_eq!(added.interfaces[1].sandbox, pod.path().display().to_string());
    assert!(pod.link("lo").unwrap().up);
    let present = pod.addresses("eth0");
    assert!(present.contains(&"10.10.1.2/24".into()), "{present:?}");
    assert!(present.contains(&"fd00:10:1::2/64".into()), "{present:?}");
    let shown = pod.ip(&["-6", "addr", "show", "dev", "eth0"]);
    let own = shown.lines().find(|line| line.contains("fd00:10:1::2")).unwrap();
    assert!(!own.contains("tentative"), "{shown}");
    let routes = pod.routes();
    for (destination, gateway) in [("0.0.0.0/0", "10.10.1.1"), ("::/0", "fd00:10:1::1")] {
        let found = routes.iter().find(|r| r.destination.to_string() == destination).unwrap();
        assert_eq!(found.gateway.unwrap().to_string(), gateway);
        assert_eq!(found.interface, eth0.index);
    }

    let port = &added.interfaces[0].name;
    let host = node.ports.link(port).unwrap();
    assert!(host.up);
    assert_eq!(node.ports.addresses(port), Vec::<String>::new());
    let shown = node.ports.ip(&["-d", "link", "show", "dev", port]);
    assert!(shown.contains("numtxqueues 2 numrxqueues 2"), "{shown}");

    assert_eq!(&node.datapath.ports(), std::slice::from_ref(port));
    let endpoint = node.datapath.endpoint("default/c1/eth0");
    assert_eq!(&endpoint.port, port);
    assert_eq!(endpoint.mac, eth0.mac.unwrap().bytes());
    assert_eq!(endpoint.addresses, ["10.10.1.2", "fd00:10:1::2"]);
    assert_eq!(endpoint.mtu, 1450);

    assert_eq!(node.del("c1").await.error, None);
    node.assert_nothing_left();
    assert!(pod.link("eth0").is_none());
    assert_eq!(node.del("c1").await.error, None, "a second DEL is a success");
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn an_add_that_fails_at_any_step_leaves_nothing() {
    let node = Node::start().await;
    let pod = Netns::new("pod");
    for fault in [Fault::OpenPort, Fault::Endpoint] {
        node.datapath.fail(Some(fault));
        let error = node.add("c1", &pod).await.unwrap_err();
        assert_eq!(error.code, 105, "{fault:?}: {error:?}");
        node.assert_nothing_left();
        assert!(pod.link("eth0").is_none(), "{fault:?}");
    }
    node.datapath.fail(None);

    let mut gone = node::request("c2", &pod);
    gone.netns = "/run/netns/seine-nowhere".into();
    let mut own = node::request("c3", &pod);
    own.netns = node.netns.path().display().to_string();
    for wrong in [gone, own] {
        let reply = node.client().await.add(wrong).await.unwrap().into_inner();
        let Some(seine_cni::v1::add_reply::Answer::Error(error)) = reply.answer else {
            panic!("{reply:?}");
        };
        assert_eq!(error.code, 8, "{error:?}");
        node.assert_nothing_left();
    }

    node.add("c1", &pod).await.unwrap();
    assert_eq!(node.host_ends().len(), 1);
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn an_interface_that_is_there_is_refused_and_stays_as_it_is() {
    let node = Node::start().await;
    let pod = Netns::new("pod");
    let first = node.add("c1", &pod).await.unwrap();
    for container in ["c1", "c2"] {
        let error = node.add(container, &pod).await.unwrap_err();
        assert_eq!(error.code, 101, "{error:?}");
    }
    assert_eq!(node.host_ends(), [first.interfaces[0].name.clone()]);
    assert_eq!(node.recorded().len(), 1);
    assert_eq!(node.datapath.endpoints(), ["default/c1/eth0"]);
    assert_eq!(node.check("c1", &pod, &first).await, None);
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_check_finds_what_somebody_has_changed() {
    let node = Node::start().await;
    let pod = Netns::new("pod");
    let added = node.add("c1", &pod).await.unwrap();
    assert_eq!(node.check("c1", &pod, &added).await, None);
    pod.ip(&["route", "add", "198.51.100.0/24", "via", "10.10.1.1"]);
    assert_eq!(node.check("c1", &pod, &added).await, None, "more routes do not matter");

    pod.ip(&["route", "del", "default"]);
    let error = node.check("c1", &pod, &added).await.unwrap();
    assert!(error.message.contains("no route to 0.0.0.0/0"), "{error:?}");
    pod.ip(&["route", "add", "default", "via", "10.10.1.1"]);
    pod.ip(&["addr", "del", "fd00:10:1::2/64", "dev", "eth0"]);
    let error = node.check("c1", &pod, &added).await.unwrap();
    assert!(error.message.contains("no address fd00:10:1::2"), "{error:?}");
    pod.ip(&["link", "del", "eth0"]);
    let error = node.check("c1", &pod, &added).await.unwrap();
    assert!(error.message.contains("eth0 is gone"), "{error:?}");
    assert_eq!(node.check("c9", &pod, &added).await.unwrap().code, 106);
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn twenty_pods_at_once_get_twenty_addresses_in_few_transactions() {
    let node = Node::start().await;
    let pods: Vec<Netns> = (0..20).map(|_| Netns::new("pod")).collect();
    let client = node.client().await;
    let (before, _) = node.datapath.transactions();
    let start = Instant::now();
    let names: Vec<String> = (0..pods.len()).map(|index| format!("c{index}")).collect();
    let adds = names.iter().zip(&pods).map(|(name, pod)| add_with(client.clone(), name, pod));
    let added = futures::future::join_all(adds).await;
    println!("20 parallel ADDs: {:?}", start.elapsed());
    let mut unique = BTreeSet::new();
    for attachment in added {
        let attachment = attachment.unwrap();
        assert!(addresses(&attachment).into_iter().all(|address| unique.insert(address)));
    }
    assert_eq!(unique.len(), 40);
    assert_eq!(node.datapath.endpoints().len(), 20);
    let (after, _) = node.datapath.transactions();
    assert!(after - before <= 20, "{} transactions", after - before);
    let dels = names.iter().map(|name| node.del(name));
    for reply in futures::future::join_all(dels).await {
        assert_eq!(reply.error, None);
    }
    node.assert_nothing_left();
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_restarted_agent_keeps_its_pods_and_frees_those_that_went_meanwhile() {
    let mut node = Node::start().await;
    let (stays, goes) = (Netns::new("pod"), Netns::new("pod"));
    let kept = node.add("stays", &stays).await.unwrap();
    node.add("goes", &goes).await.unwrap();
    node.stop_agent();
    assert_eq!(node.datapath.endpoints().len(), 2, "the datapath goes on without an agent");
    goes.ip(&["link", "del", "eth0"]);
    node.datapath.open_stray("v00000000000000");
    node.start_agent();
    node.ready().await;
    assert_eq!(node.datapath.endpoints(), ["default/stays/eth0"]);
    assert_eq!(node.datapath.ports(), [kept.interfaces[0].name.clone()]);
    eventually("the gone Pod's lease is freed", async || node.recorded().len() == 1).await;
    assert_eq!(node.check("stays", &stays, &kept).await, None);
    let pod = Netns::new("pod");
    let next = node.add("next", &pod).await.unwrap();
    assert_eq!(next.ips[0].address, "10.10.1.4/24", "freed addresses rest");
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_restarted_datapath_gets_its_ports_and_endpoints_back() {
    let mut node = Node::start().await;
    let pod = Netns::new("pod");
    let added = node.add("c1", &pod).await.unwrap();
    node.datapath.kill();
    eventually("its end is noticed", async || node.status_code().await == 51).await;
    let waiting = Netns::new("pod");
    assert_eq!(node.add("c2", &waiting).await.unwrap_err().code, 11);
    node.datapath.resume();
    node.ready().await;
    assert_eq!(node.datapath.endpoints(), ["default/c1/eth0"]);
    assert_eq!(node.datapath.ports(), [added.interfaces[0].name.clone()]);
    assert_eq!(node.datapath.peers(), ["node2"]);
    assert_eq!(node.check("c1", &pod, &added).await, None);
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_deleted_while_the_datapath_is_away_frees_its_address_when_it_is_back() {
    let mut node = Node::start().await;
    let pod = Netns::new("pod");
    node.add("c1", &pod).await.unwrap();
    node.datapath.kill();
    eventually("its end is noticed", async || node.status_code().await == 51).await;
    assert_eq!(node.del("c1").await.error, None);
    assert!(pod.link("eth0").is_none());
    assert_eq!(node.recorded().len(), 1, "the datapath may still know the endpoint");
    assert_eq!(node.del("c1").await.error, None);
    node.datapath.resume();
    node.ready().await;
    eventually("the lease is freed", async || node.recorded().is_empty()).await;
    node.assert_nothing_left();
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_whose_namespace_is_gone_is_deleted_all_the_same() {
    let node = Node::start().await;
    let pod = Netns::new("pod");
    node.add("c1", &pod).await.unwrap();
    drop(pod);
    assert_eq!(node.del("c1").await.error, None);
    node.assert_nothing_left();
    assert_eq!(node.del("never-added").await.error, None);
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn the_nodes_own_network_follows_the_manifests_live() {
    let node = Node::prepare("# no node yet\n");
    eventually("it serves", async || node.configuration.cni_socket.exists()).await;
    eventually("it waits for its Node", async || node.status_code().await == 50).await;
    let pod = Netns::new("pod");
    assert_eq!(node.add("c1", &pod).await.unwrap_err().code, 11);
    assert_eq!(node.del("c1").await.error, None, "a DEL does not wait for a Node");

    node.write_manifest("nodes.yaml", node::NODES);
    node.ready().await;
    eventually("the peer is routed", async || peer_routes(&node).len() == 2).await;
    let routes = peer_routes(&node);
    assert_eq!(routes[0], ("10.10.2.0/24".into(), "10.10.2.1".into(), "10.10.1.1".into()));
    assert_eq!(routes[1].0, "fd00:10:2::/64");
    let gateway = node.netns.link("seine-gw0").unwrap();
    assert_eq!((gateway.up, gateway.mtu), (true, 1450));
    let present = node.netns.addresses("seine-gw0");
    assert!(present.contains(&"10.10.1.1/24".into()), "{present:?}");
    assert!(present.contains(&"fd00:10:1::1/64".into()), "{present:?}");
    eventually("masquerade is on", async || nft(&node).contains("masquerade")).await;
    assert!(nft(&node).contains("oifname != { \"seine-gw0\", \"seine-host0\" }"));
    let own = node.netns.ip(&["route", "get", "10.10.1.7"]);
    assert!(own.contains("dev seine-host0") && own.contains("src 10.10.1.1"), "{own}");
    let forwarding = node
        .netns
        .open()
        .run_blocking(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap())
        .unwrap();
    assert_eq!(forwarding.trim(), "1");

    let third = node::NODES.split("---").nth(1).unwrap();
    let third = third.replace("node2", "node3").replace(":2::", ":3::").replace(".2.0", ".3.0");
    let third = third.replace("192.0.2.2", "192.0.2.3");
    node.write_manifest("node3.yaml", &third);
    eventually("the new peer is known", async || node.datapath.peers() == ["node2", "node3"]).await;
    eventually("the new peer is routed", async || peer_routes(&node).len() == 4).await;
    std::fs::remove_file(node.configuration.manifests.join("node3.yaml")).unwrap();
    eventually("it is not known any more", async || node.datapath.peers() == ["node2"]).await;
    eventually("nor routed", async || peer_routes(&node).len() == 2).await;
    node.add("c1", &pod).await.unwrap();
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn what_policies_decide_is_written_down_as_antrea_does() {
    let node = Node::start().await;
    let file = node.configuration.audit_logging.file.clone();
    let text = async || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the line is written", async || text().await.ends_with('\n')).await;
    let line = format!("2023/07/04 12:45:21.804416 {}\n", node::datapath::AUDIT_TEXT);
    assert_eq!(text().await, line);
}

fn peer_routes(node: &Node) -> Vec<(String, String, String)> {
    let routes = node.netns.routes().into_iter().filter(|route| route.protocol == 83);
    let shown =
        |address: Option<std::net::IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    routes
        .map(|route| (route.destination.to_string(), shown(route.gateway), shown(route.source)))
        .collect()
}

fn nft(node: &Node) -> String {
    let list = || std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let output = node.netns.open().run_blocking(list).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_full_range_refuses_the_next_pod_until_one_is_deleted() {
    let small = node::NODES.replace("10.10.1.0/24, 'fd00:10:1::/64'", "10.10.1.0/30");
    let node = Node::prepare(&small);
    node.ready().await;
    let (first, second) = (Netns::new("pod"), Netns::new("pod"));
    node.add("c1", &first).await.unwrap();
    assert_eq!(node.status_code().await, 50);
    let error = node.add("c2", &second).await.unwrap_err();
    assert_eq!(error.code, 100, "{error:?}");
    assert!(second.link("eth0").is_none());
    assert_eq!(node.del("c1").await.error, None);
    let added = node.add("c2", &second).await.unwrap();
    assert_eq!(added.ips.len(), 1);
    assert_eq!(added.ips[0].address, "10.10.1.2/30");
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn the_same_pod_may_have_two_interfaces_and_an_older_sandbox() {
    let node = Node::start().await;
    let (old, new) = (Netns::new("pod"), Netns::new("pod"));
    node.add("c1", &old).await.unwrap();
    let mut second = node::request("c1", &old);
    second.interface = "net1".into();
    let mut replacement = node::request("c2", &new);
    replacement.pod_name = "c1".into();
    for request in [second, replacement] {
        let reply = node.client().await.add(request).await.unwrap().into_inner();
        let Some(seine_cni::v1::add_reply::Answer::Attachment(_)) = reply.answer else {
            panic!("{reply:?}");
        };
    }
    assert_eq!(node.datapath.endpoints().len(), 3);
    assert_eq!(node.del("c1").await.error, None);
    let left = node.datapath.endpoints();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&"default/c1/net1".into()), "{left:?}");
    assert!(new.link("eth0").is_some());
}

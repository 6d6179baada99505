//! Pods that ask for AF_XDP sockets on their interface.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use seine_cni::v1::AttachRequest;

use super::node::{self, Fault, Netns, eventually};
use super::vhost_user::{UID, add, check, request, start};

const LENT: &str = "{port.seine.io/kind: af-xdp, port.seine.io/queues: '2', \
                    port.seine.io/mtu: '1400'}";

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_that_asks_has_an_interface_and_is_told_where_its_sockets_are() {
    let node = start(LENT).await;
    let netns = Netns::new("pod");
    let added = add(&node, request("c1", &netns)).await.unwrap();
    let [host, own] = added.interfaces.as_slice() else { panic!("{added:?}") };
    let pods = &node.configuration.vhost_user.socket_dir;
    let socket = pods.join(UID).join("eth0/xdp.sock");
    assert_eq!(own.socket_path, socket.display().to_string());
    assert_eq!((own.name.as_str(), own.mtu, host.socket_path.as_str()), ("eth0", 1400, ""));
    assert_eq!((added.ips[0].address.as_str(), added.ips[0].interface), ("10.10.1.2/24", 1));
    assert_eq!(added.routes.len(), 2, "its kernel has a network as any Pod's: {added:?}");
    assert!(netns.link("eth0").unwrap().up && node.host_ends() == [host.name.clone()]);

    let endpoint = node.datapath.endpoint("default/c1/eth0");
    let loan = node.datapath.loan(&endpoint.port).unwrap();
    assert_eq!((loan.interface.as_str(), loan.socket), ("eth0", own.socket_path.clone()));
    assert_eq!(loan.namespace, netns.path().display().to_string());
    assert_eq!((loan.socket_user, loan.socket_group), (0, 0));
    let facts = std::fs::symlink_metadata(socket.parent().unwrap()).unwrap();
    assert_eq!((facts.uid(), facts.mode() & 0o777), (0, 0o700));
    let told = std::fs::read_to_string(pods.join(UID).join("eth0.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["kind"], &told["queues"]), (&"af-xdp".into(), &2.into()));
    assert_eq!(told["socketPath"], own.socket_path.as_str());
    assert_eq!(told.get("mode"), None);

    assert_eq!(check(&node, request("c1", &netns), &added).await, None);
    node.datapath.forget_loan(&endpoint.port);
    let error = check(&node, request("c1", &netns), &added).await.unwrap();
    assert!(error.code == 106 && error.message.contains("lends no sockets"), "{error:?}");
    std::fs::remove_file(&socket).unwrap();
    let error = check(&node, request("c1", &netns), &added).await.unwrap();
    assert!(error.code == 106 && error.message.contains("xdp.sock is gone"), "{error:?}");
    assert_eq!(add(&node, request("c1", &netns)).await.unwrap_err().code, 101);

    assert_eq!(node.del("c1").await.error, None);
    node.assert_nothing_left();
    assert_eq!(node.del("c1").await.error, None, "a second DEL is a success");
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn what_is_lent_is_for_the_user_that_the_operator_names() {
    let mut node = start("{port.seine.io/kind: af-xdp}").await;
    node.stop_agent();
    (node.configuration.vhost_user.user, node.configuration.vhost_user.group) = (1234, 2345);
    node.start_agent();
    node.ready().await;
    let netns = Netns::new("pod");
    let added = add(&node, request("c1", &netns)).await.unwrap();
    let loan = node.datapath.loan(&node.datapath.endpoint("default/c1/eth0").port).unwrap();
    assert_eq!((loan.socket_user, loan.socket_group), (1234, 2345));
    let folder = Path::new(&added.interfaces[1].socket_path).parent().unwrap();
    let facts = std::fs::symlink_metadata(folder).unwrap();
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o777), (0, 2345, 0o710));
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_loan_that_cannot_be_is_an_error_that_names_why_and_leaves_nothing() {
    for (annotations, says) in [
        ("{port.seine.io/kind: af-xdp, port.seine.io/queues: '1'}", "a queue of its own: 2"),
        ("{port.seine.io/kind: af-xdp, port.seine.io/mode: client}", "kind vhost-user has it"),
        ("{port.seine.io/kind: af-xdp, port.seine.io/mtu: '9000'}", "1280 to 1500"),
    ] {
        let node = start(annotations).await;
        let netns = Netns::new("pod");
        let error = add(&node, request("c1", &netns)).await.unwrap_err();
        assert!(error.code == 107 && error.message.contains(says), "{error:?}");
        node.assert_nothing_left();
    }
    let node = start(LENT).await;
    let netns = Netns::new("pod");
    let unsuitable = AttachRequest { pod_uid: "..".into(), ..request("c1", &netns) };
    assert_eq!(add(&node, unsuitable).await.unwrap_err().code, 107);
    for fault in [Fault::OpenPort, Fault::LendSockets, Fault::Endpoint] {
        node.datapath.fail(Some(fault));
        assert_eq!(add(&node, request("c1", &netns)).await.unwrap_err().code, 105, "{fault:?}");
        node.assert_nothing_left();
        assert!(netns.link("eth0").is_none());
    }
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn sockets_are_lent_anew_after_both_restarts_and_go_with_their_pods() {
    let mut node = start(LENT).await;
    let (stays, goes) = (Netns::new("pod"), Netns::new("pod"));
    let kept = add(&node, request("c1", &stays)).await.unwrap();
    // A runtime that tells no UID.
    let gone = add(&node, node::request("c2", &goes)).await.unwrap();
    assert!(gone.interfaces[1].socket_path.contains("/pods/v"), "{gone:?}");
    let port = node.datapath.endpoint("default/c1/eth0").port;
    let lent = node.datapath.loan(&port).map(|loan| loan.socket);

    node.datapath.kill();
    eventually("its end is noticed", async || node.status_code().await == 51).await;
    std::fs::remove_file(&kept.interfaces[1].socket_path).unwrap();
    node.datapath.resume();
    node.ready().await;
    assert_eq!(node.datapath.lent(), 2);
    assert_eq!(node.datapath.loan(&port).map(|loan| loan.socket), lent);
    assert_eq!(check(&node, request("c1", &stays), &kept).await, None);

    node.stop_agent();
    drop(goes);
    // A namespace without a name ends when the kernel gets to it.
    eventually("the gone Pod's link is gone", async || node.host_ends().len() == 1).await;
    node.start_agent();
    node.ready().await;
    assert_eq!(node.datapath.endpoints(), ["default/c1/eth0"]);
    eventually("the gone Pod's lease is freed", async || node.recorded().len() == 1).await;
    assert!(!Path::new(&gone.interfaces[1].socket_path).parent().unwrap().exists());
    // The agent cannot know who has forgotten what; the datapath leaves what it has alone.
    assert_eq!(node.datapath.lent(), 3);
    assert_eq!(check(&node, request("c1", &stays), &kept).await, None);
}

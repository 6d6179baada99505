//! Pods that ask for a socket in place of an interface.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use seine_cni::v1::add_reply::Answer;
use seine_cni::v1::{AttachRequest, Attachment, CheckRequest, Error};
use seine_datapath_api::v1;

use super::node::{self, NODES, Netns, Node, eventually};

pub const UID: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

pub async fn start(annotations: &str) -> Node {
    let pods = ["c1", "c2"].map(|name| format!("---\n{}", node::pod(name, annotations))).concat();
    let node = Node::prepare(&format!("{NODES}{pods}"));
    node.ready().await;
    node
}

pub fn request(container: &str, netns: &Netns) -> AttachRequest {
    AttachRequest { pod_uid: UID.into(), ..node::request(container, netns) }
}

pub async fn add(node: &Node, request: AttachRequest) -> Result<Attachment, Error> {
    let reply = node.client().await.add(request).await.unwrap().into_inner();
    match reply.answer.unwrap() {
        Answer::Attachment(attachment) => Ok(attachment),
        Answer::Error(error) => Err(error),
    }
}

pub async fn check(node: &Node, request: AttachRequest, added: &Attachment) -> Option<Error> {
    let request = CheckRequest { attachment: Some(request), expected: Some(added.clone()) };
    node.client().await.check(request).await.unwrap().into_inner().error
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}

const GUEST: &str = "{port.seine.io/kind: vhost-user, port.seine.io/queues: '2', \
                     port.seine.io/mtu: '1400'}";

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_that_asks_gets_a_socket_and_no_interface() {
    let node = start(GUEST).await;
    let netns = Netns::new("pod");
    let added = add(&node, request("c1", &netns)).await.unwrap();
    let [own] = added.interfaces.as_slice() else { panic!("{added:?}") };
    let pods = &node.configuration.vhost_user.socket_dir;
    let socket = pods.join(UID).join("eth0/vhost.sock");
    assert_eq!(own.socket_path, socket.display().to_string());
    assert_eq!((own.name.as_str(), own.mtu), ("eth0", 1400));
    assert_eq!(own.sandbox, netns.path().display().to_string());
    assert_eq!((added.ips[0].address.as_str(), added.ips[0].interface), ("10.10.1.2/24", 0));
    assert_eq!(added.ips[0].gateway, "10.10.1.1");
    assert_eq!(added.routes, []);
    assert!(netns.link("eth0").is_none() && netns.link("lo").unwrap().up);
    assert_eq!(node.host_ends(), [""; 0]);

    let endpoint = node.datapath.endpoint("default/c1/eth0");
    assert_eq!(own.mac, "02:04:0a:0a:01:02");
    assert_eq!(endpoint.mac, [2, 4, 10, 10, 1, 2]);
    assert_eq!((endpoint.addresses.len(), endpoint.mtu), (2, 1400));
    let guest = node.datapath.guest(&endpoint.port).unwrap();
    assert_eq!(guest.mode(), v1::vhost_user::Mode::Server);
    assert_eq!((guest.queues, guest.mtu, guest.socket), (2, 1400, own.socket_path.clone()));
    assert_eq!(mode_of(socket.parent().unwrap()), 0o700);
    let told = std::fs::read_to_string(pods.join(UID).join("eth0.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["mac"], own.mac.as_str());
    assert_eq!(told["addresses"][0], "10.10.1.2/24");
    assert_eq!(told["gateways"][1], "fd00:10:1::1");

    assert_eq!(check(&node, request("c1", &netns), &added).await, None);
    let mut wrong = added.clone();
    wrong.ips[0].address = "10.10.1.9/24".into();
    let error = check(&node, request("c1", &netns), &wrong).await.unwrap();
    assert!(error.message.contains("no address 10.10.1.9/24"), "{error:?}");
    assert_eq!(add(&node, request("c1", &netns)).await.unwrap_err().code, 101);
    std::fs::remove_file(&socket).unwrap();
    let error = check(&node, request("c1", &netns), &added).await.unwrap();
    assert!(error.code == 106 && error.message.contains("vhost.sock is gone"), "{error:?}");

    assert_eq!(node.del("c1").await.error, None);
    node.assert_nothing_left();
    assert_eq!(node.del("c1").await.error, None, "a second DEL is a success");
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_front_end_that_listens_has_a_folder_of_its_own() {
    let guest = "{port.seine.io/kind: vhost-user, port.seine.io/mode: client}";
    let mut node = start(guest).await;
    node.stop_agent();
    (node.configuration.vhost_user.user, node.configuration.vhost_user.group) = (1234, 2345);
    node.start_agent();
    node.ready().await;
    let netns = Netns::new("pod");
    let added = add(&node, request("c1", &netns)).await.unwrap();
    let socket = PathBuf::from(&added.interfaces[0].socket_path);
    let facts = std::fs::symlink_metadata(socket.parent().unwrap()).unwrap();
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o777), (1234, 2345, 0o700));
    assert_eq!(check(&node, request("c1", &netns), &added).await, None, "it may come later");
    // Whatever the Pod leaves there goes with it.
    std::fs::write(socket.with_extension("old"), "").unwrap();
    assert_eq!(node.del("c1").await.error, None);
    node.assert_nothing_left();
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_wish_that_cannot_be_is_an_error_that_names_it() {
    for (annotations, says) in [
        ("{port.seine.io/kind: sr-iov}", "`port.seine.io/kind` is `sr-iov`"),
        ("{port.seine.io/kind: vhost-user, port.seine.io/queues: '17'}", "1 to 16"),
        ("{port.seine.io/kind: vhost-user, port.seine.io/mtu: '9000'}", "1280 to 1500"),
    ] {
        let node = start(annotations).await;
        let netns = Netns::new("pod");
        let error = add(&node, request("c1", &netns)).await.unwrap_err();
        assert!(error.code == 107 && error.message.contains(says), "{error:?}");
        node.assert_nothing_left();
        let unsuitable = AttachRequest { pod_uid: "..".into(), ..request("c1", &netns) };
        assert_eq!(add(&node, unsuitable).await.unwrap_err().code, 107);
    }
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_failed_add_leaves_no_folder_and_a_next_sandbox_waits_for_the_last() {
    let node = start(GUEST).await;
    let netns = Netns::new("pod");
    for fault in [node::Fault::OpenPort, node::Fault::Endpoint] {
        node.datapath.fail(Some(fault));
        assert_eq!(add(&node, request("c1", &netns)).await.unwrap_err().code, 105, "{fault:?}");
        node.assert_nothing_left();
    }
    node.datapath.fail(None);
    add(&node, request("c1", &netns)).await.unwrap();
    let next = Netns::new("pod");
    let mut again = request("c2", &next);
    again.pod_name = "c1".into();
    assert_eq!(add(&node, again.clone()).await.unwrap_err().code, 102);
    assert_eq!(node.del("c1").await.error, None);
    add(&node, again).await.unwrap();
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn sockets_outlive_both_restarts_and_go_with_their_pods() {
    let mut node = start(GUEST).await;
    let (stays, goes) = (Netns::new("pod"), Netns::new("pod"));
    let kept = add(&node, request("c1", &stays)).await.unwrap();
    let mut other = node::request("c2", &goes);
    // A runtime that tells no UID.
    other.pod_uid = String::new();
    let gone = add(&node, other).await.unwrap();
    assert!(gone.interfaces[0].socket_path.contains("/pods/v"), "{gone:?}");
    let opened = node.datapath.guest(&node.datapath.endpoint("default/c1/eth0").port);

    node.datapath.kill();
    eventually("its end is noticed", async || node.status_code().await == 51).await;
    std::fs::remove_file(&kept.interfaces[0].socket_path).unwrap();
    node.datapath.resume();
    node.ready().await;
    assert_eq!(node.datapath.ports().len(), 2);
    let port = node.datapath.endpoint("default/c1/eth0").port;
    assert_eq!(node.datapath.guest(&port), opened);
    assert_eq!(check(&node, request("c1", &stays), &kept).await, None);

    node.stop_agent();
    drop(goes);
    node.start_agent();
    node.ready().await;
    assert_eq!(node.datapath.endpoints(), ["default/c1/eth0"]);
    eventually("the gone Pod's lease is freed", async || node.recorded().len() == 1).await;
    assert!(!Path::new(&gone.interfaces[0].socket_path).parent().unwrap().exists());
    assert_eq!(check(&node, request("c1", &stays), &kept).await, None);
}

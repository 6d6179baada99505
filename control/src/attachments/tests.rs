//! What the record promises across restarts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::model::SocketMode;

fn describe(container: &str) -> impl FnOnce(Vec<IpNet>) -> Attachment {
    let container_id = container.to_owned();
    move |addresses| Attachment {
        netns: "/run/netns/x".into(),
        pod: None,
        endpoint: format!("_/{container_id}/eth0"),
        port: format!("v{container_id}"),
        mac: Mac::of_pod(addresses[0].addr()),
        key: AttachmentKey { container_id, interface: "eth0".into() },
        addresses,
        mtu: 1450,
        device: Device::default(),
        network: "seine".into(),
        network_id: 0,
        interface_index: 0,
        permit: SenderPermit::default(),
        detaching: false,
    }
}

fn ranges(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn leases_survive_a_restart_and_are_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let both = ranges(&["10.0.0.0/24", "fd00::/64"]);
    let first = {
        let attachments = Attachments::open(folder.path()).unwrap();
        attachments.set_ranges(&both).unwrap();
        let first = attachments.reserve(describe("a")).unwrap();
        attachments.persist().await.unwrap();
        first
    };
    let attachments = Attachments::open(folder.path()).unwrap();
    attachments.set_ranges(&both).unwrap();
    assert_eq!(attachments.find(&first.key), Some(first.clone()));
    let second = attachments.reserve(describe("b")).unwrap();
    assert!(second.addresses.iter().all(|address| !first.addresses.contains(address)));
    assert_eq!(second.addresses.len(), 2);
}

#[tokio::test]
async fn the_rotation_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let attachments = Attachments::open(folder.path()).unwrap();
        attachments.set_ranges(&ranges(&["10.0.0.0/24"])).unwrap();
        let gone = attachments.reserve(describe("a")).unwrap();
        attachments.remove(&gone.key);
        attachments.persist().await.unwrap();
    }
    let attachments = Attachments::open(folder.path()).unwrap();
    attachments.set_ranges(&ranges(&["10.0.0.0/24"])).unwrap();
    let next = attachments.reserve(describe("b")).unwrap();
    assert_eq!(next.addresses[0].to_string(), "10.0.0.3/24");
}

#[test]
fn a_second_agent_and_a_damaged_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    assert!(matches!(Attachments::open(folder.path()), Err(RecordError::Held(_))));
    drop(attachments);
    std::fs::write(folder.path().join("attachments.json"), b"{\"version\": 1").unwrap();
    assert!(matches!(Attachments::open(folder.path()), Err(RecordError::Damaged { .. })));
    std::fs::write(
        folder.path().join("attachments.json"),
        br#"{"version": 3, "ports_namespace": null, "next_addresses": [], "attachments": []}"#,
    )
    .unwrap();
    assert!(matches!(Attachments::open(folder.path()), Err(RecordError::Damaged { .. })));
}

#[test]
fn ranges_that_would_orphan_a_pod_are_refused_and_the_former_stay() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    assert!(matches!(attachments.reserve(describe("a")), Err(RecordError::NoRange)));
    attachments.set_ranges(&ranges(&["10.0.0.0/24"])).unwrap();
    attachments.reserve(describe("a")).unwrap();
    let other = ranges(&["10.9.0.0/24"]);
    assert!(matches!(attachments.set_ranges(&other), Err(RecordError::Conflict { .. })));
    assert!(
        attachments.reserve(describe("b")).unwrap().addresses[0].to_string().starts_with("10.0.0.")
    );
}

#[test]
fn an_exhausted_family_gives_back_what_the_other_had_leased() {
    let folder = tempfile::tempdir().unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    attachments.set_ranges(&ranges(&["10.0.0.0/24", "fd00::/126"])).unwrap();
    attachments.reserve(describe("a")).unwrap();
    attachments.reserve(describe("b")).unwrap();
    let error = attachments.reserve(describe("c")).unwrap_err();
    assert!(matches!(error, RecordError::Lease(LeaseError::Exhausted(_))), "{error}");
    assert_eq!(attachments.exhausted_range(), Some("fd00::/126".parse().unwrap()));
    let state = attachments.state();
    let leased = state.attachments.values().map(|a| a.addresses.len()).sum::<usize>();
    assert_eq!(leased, 4);
    let mut pool = state.pools[0].clone();
    assert!(!pool.release("10.0.0.4".parse().unwrap()), "10.0.0.4 was given back");
}

#[test]
fn a_record_of_version_1_is_read_and_its_pods_have_interfaces() {
    let folder = tempfile::tempdir().unwrap();
    let record = r#"{"version": 1, "ports_namespace": "/run/netns/p", "next_addresses": [],
        "attachments": [{"container_id": "a", "interface": "eth0", "netns": "/run/netns/x",
        "pod": {"namespace": "default", "name": "web"}, "endpoint": "default/web/eth0",
        "port": "v1", "mac": "02:04:0a:00:00:02", "addresses": ["10.0.0.2/24"], "mtu": 1450,
        "detaching": false}]}"#;
    std::fs::write(folder.path().join("attachments.json"), record).unwrap();
    let attachments = Attachments::open(folder.path()).unwrap();
    let [old] = attachments.list().try_into().unwrap();
    assert_eq!((old.device, old.network_id, old.interface_index), (Device::Veth, 0, 0));
    assert_eq!(attachments.next_index("a"), 1);
    assert_eq!(attachments.next_index("b"), 0);
}

#[tokio::test]
async fn a_driver_in_user_space_is_recorded_with_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let guest = VhostUser {
        socket: "/run/seine/pods/x/eth0/vhost.sock".into(),
        mode: SocketMode::Client,
        queues: 2,
        user: 107,
        group: 108,
    };
    {
        let attachments = Attachments::open(folder.path()).unwrap();
        attachments.set_ranges(&ranges(&["10.0.0.0/24"])).unwrap();
        let device = Device::VhostUser(guest.clone());
        let describe =
            |addresses| Attachment { device, interface_index: 3, ..describe("a")(addresses) };
        attachments.reserve(describe).unwrap();
        attachments.persist().await.unwrap();
    }
    let attachments = Attachments::open(folder.path()).unwrap();
    let [read] = attachments.list().try_into().unwrap();
    assert_eq!((read.vhost_user(), read.interface_index), (Some(&guest), 3));
}

#[tokio::test]
async fn lent_sockets_are_recorded_with_where_they_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let socket = "/run/seine/pods/x/eth0/xdp.sock".into();
    let lent = LentSockets { socket, queues: 2, user: 107, group: 108 };
    {
        let attachments = Attachments::open(folder.path()).unwrap();
        attachments.set_ranges(&ranges(&["10.0.0.0/24"])).unwrap();
        let device = Device::AfXdp(lent.clone());
        let describe = |addresses| Attachment { device, ..describe("a")(addresses) };
        attachments.reserve(describe).unwrap();
        attachments.persist().await.unwrap();
    }
    let attachments = Attachments::open(folder.path()).unwrap();
    let [read] = attachments.list().try_into().unwrap();
    assert_eq!((read.lent_sockets(), read.has_link()), (Some(&lent), true));
}

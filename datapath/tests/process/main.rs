//! The process over memory ports: workers, writer and service together, as an agent sees them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod claims;
mod guest;
mod listing;
mod node;

use std::sync::atomic::Ordering;
use std::time::Duration;

use node::{GATEWAY_MAC, Node, WORKERS, datagram, endpoint, node_object, part, peer};
use seine_datapath::port::memory::MemoryOptions;
use seine_datapath_api::v1;
use seine_datapath_api::v1::transaction_part::Mode;
use seine_pipeline::packet::Checksum;
use tonic::Code;

/// A node with two Pods that may talk.
async fn node_with_two_pods() -> (Node, u64) {
    let mut node = Node::start().await;
    let session = node.hello().await;
    node.open(session, "pod2").await;
    node.open(session, "pod3").await;
    let objects = vec![node_object(), endpoint(2), endpoint(3)];
    node.apply(vec![part(session, 1, Mode::Full, objects)]).await.unwrap();
    (node, session)
}

#[tokio::test]
async fn pods_reach_each_other_on_both_workers_and_every_packet_is_counted() {
    let (mut node, _) = node_with_two_pods().await;
    let packet = datagram(2, 3, b"hello");
    for number in 0..300 {
        node.inject("pod2", number % WORKERS, &packet, Checksum::Complete);
    }
    let arrived = node.collect("pod3", 300).await;
    assert_eq!(arrived.len(), 300);
    assert!(arrived.iter().all(|(bytes, _)| *bytes == packet), "between Pods nothing changes");

    node.received(300).await;
    let ports = node.ports().await;
    let counters = |name: &str| ports[name].counters.unwrap();
    let bytes = 300 * packet.len() as u64;
    assert_eq!((counters("pod2").receive_packets, counters("pod2").receive_bytes), (300, bytes));
    assert_eq!((counters("pod3").transmit_packets, counters("pod3").transmit_bytes), (300, bytes));
    assert_eq!((counters("pod3").receive_packets, counters("pod2").transmit_packets), (0, 0));
    assert_eq!(counters("seine-gw0"), v1::PortCounters::default());
    assert_eq!(node.drops().await, Vec::<String>::new());
    let workers = node.workers().await;
    assert_eq!([workers[0].packets, workers[1].packets], [150, 150]);
    assert!(workers.iter().all(|worker| worker.revision == 1 && worker.busy_cycles > 0));
}

#[tokio::test]
async fn nothing_is_forwarded_before_a_node_is_installed() {
    let mut node = Node::start().await;
    let session = node.hello().await;
    node.open(session, "pod2").await;
    node.open(session, "pod3").await;
    node.inject("pod2", 0, &datagram(2, 3, b"x"), Checksum::Complete);
    node.received(1).await;
    assert!(node.collect("pod3", 0).await.is_empty());
    let drops = node.drops().await;
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert!(drops[0].starts_with("pod2 ") && drops[0].ends_with(" 1"), "{drops:?}");
}

#[tokio::test]
async fn a_spoofed_packet_is_counted_at_its_port_and_reaches_nobody() {
    let (mut node, _) = node_with_two_pods().await;
    node.inject("pod2", 1, &datagram(9, 3, b"x"), Checksum::Complete);
    node.received(1).await;
    assert_eq!(node.drops().await, ["pod2 SpoofedSource 1"]);
    assert_eq!(node.ports().await["pod2"].counters.unwrap().drops, 1);
    assert!(node.collect("pod3", 0).await.is_empty());
}

#[tokio::test]
async fn a_partial_checksum_is_completed_for_a_port_that_does_not_take_it() {
    let options =
        MemoryOptions { queues: WORKERS, partial_checksum: false, ..MemoryOptions::default() };
    let mut node = Node::start_with(options).await;
    let session = node.hello().await;
    node.open(session, "pod2").await;
    node.open(session, "pod3").await;
    let objects = vec![node_object(), endpoint(2), endpoint(3)];
    node.apply(vec![part(session, 1, Mode::Full, objects)]).await.unwrap();

    let finished = datagram(2, 3, b"check");
    let mut partial = finished.clone();
    // As Linux leaves it: the sum of the pseudo-header (addresses, protocol, length), not inverted.
    let pseudo = [&partial[26..34], &[0, 17, 0, 13]].concat();
    let sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
    partial[40..42].copy_from_slice(&folded.to_be_bytes());
    node.inject("pod2", 0, &partial, Checksum::Partial { start: 34, offset: 6 });
    assert_eq!(node.collect("pod3", 1).await, [(finished, Checksum::Complete)]);
}

#[tokio::test]
async fn what_an_egress_ring_has_no_room_for_is_counted_at_its_sender() {
    let options = MemoryOptions { queues: WORKERS, ring_frames: 64, ..MemoryOptions::default() };
    let mut node = Node::start_with(options).await;
    let session = node.hello().await;
    node.open(session, "pod2").await;
    node.open(session, "pod3").await;
    let objects = vec![node_object(), endpoint(2), endpoint(3)];
    node.apply(vec![part(session, 1, Mode::Full, objects)]).await.unwrap();
    for round in 1..=3 {
        for _ in 0..40 {
            node.inject("pod2", 0, &datagram(2, 3, b"x"), Checksum::Complete);
        }
        node.received(round * 40).await;
    }
    // Nobody took them from the wire, which holds 64.
    assert_eq!(node.drops().await, ["pod2 EgressFull 56"]);
    assert_eq!(node.ports().await["pod3"].counters.unwrap().transmit_packets, 64);
    assert_eq!(node.collect("pod3", 64).await.len(), 64);
}

#[tokio::test]
async fn the_last_session_wins() {
    let mut node = Node::start().await;
    let first = node.hello().await;
    let second = node.hello().await;
    assert!(second > first && first > 0);
    let refused = node.apply(vec![part(first, 1, Mode::Delta, vec![])]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("session {first} is over")), "{refused}");
    let request = v1::OpenPortRequest {
        session: first,
        name: "pod2".into(),
        interface: "pod2".into(),
        vhost_user: None,
    };
    assert_eq!(node.client.open_port(request).await.unwrap_err().code(), Code::FailedPrecondition);
    let request = v1::ClosePortRequest { session: 0, name: "pod2".into() };
    assert_eq!(node.client.close_port(request).await.unwrap_err().code(), Code::FailedPrecondition);
    node.apply(vec![part(second, 1, Mode::Delta, vec![node_object()])]).await.unwrap();
    // Reading needs none.
    let status = node.client.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.session, status.revision, status.client), (second, 1, "test".to_owned()));
}

#[tokio::test]
async fn another_version_of_the_words_is_refused() {
    let mut node = Node::start().await;
    let request = v1::HelloRequest { client: "old".into(), version: 2 };
    let refused = node.client.hello(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn revisions_rise_within_a_session_and_may_begin_anew_in_the_next() {
    let (mut node, session) = node_with_two_pods().await;
    let again = node.apply(vec![part(session, 1, Mode::Delta, vec![])]).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    let next = node.apply(vec![part(session, 5, Mode::Delta, vec![peer("node2", 2)])]).await;
    assert_eq!((next.as_ref().unwrap().revision, next.unwrap().added), (5, 1));
    assert!(node.workers().await.iter().all(|worker| worker.revision == 5));
    let session = node.hello().await;
    node.apply(vec![part(session, 1, Mode::Delta, vec![])]).await.unwrap();
    assert!(node.workers().await.iter().all(|worker| worker.revision == 1));
}

#[tokio::test]
async fn a_broken_off_transaction_changes_nothing() {
    let (mut node, session) = node_with_two_pods().await;
    let mut first = part(session, 2, Mode::Full, vec![]);
    first.last = false;
    let refused = node.apply(vec![first]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    node.inject("pod2", 0, &datagram(2, 3, b"still"), Checksum::Complete);
    assert_eq!(node.collect("pod3", 1).await.len(), 1);
    assert!(node.workers().await.iter().all(|worker| worker.revision == 1));
}

#[tokio::test]
async fn a_transaction_with_one_bad_object_changes_nothing_and_names_it() {
    let (mut node, session) = node_with_two_pods().await;
    let mut bad = endpoint(5);
    let Some(v1::object::Kind::Endpoint(inner)) = &mut bad.kind else { unreachable!() };
    inner.addresses = vec!["10.99.0.1".into()];
    let objects = vec![peer("node2", 2), bad];
    let refused = node.apply(vec![part(session, 2, Mode::Delta, objects)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("default/pod5/eth0"), "{refused}");
    // The peer of the refused transaction is still new.
    let reply = node.apply(vec![part(session, 2, Mode::Delta, vec![peer("node2", 2)])]).await;
    assert_eq!(reply.unwrap().added, 1);
}

#[tokio::test]
async fn an_object_named_twice_is_refused() {
    let (mut node, session) = node_with_two_pods().await;
    let objects = vec![peer("node2", 2), peer("node2", 3)];
    let refused = node.apply(vec![part(session, 2, Mode::Delta, objects)]).await.unwrap_err();
    assert!(refused.message().contains("named twice"), "{refused}");
}

#[tokio::test]
async fn a_full_transaction_keeps_what_is_equal_and_prunes_the_rest_but_no_port() {
    let (mut node, session) = node_with_two_pods().await;
    let objects = vec![peer("node2", 2), peer("node4", 4)];
    node.apply(vec![part(session, 2, Mode::Delta, objects)]).await.unwrap();
    let mut parts = vec![
        part(session, 3, Mode::Full, vec![node_object(), endpoint(2)]),
        part(session, 3, Mode::Full, vec![peer("node2", 9), peer("node5", 5)]),
    ];
    parts[0].last = false;
    let reply = node.apply(parts).await.unwrap();
    // Kept: node, pod2. Changed: node2. Added: node5. Pruned: pod3, node4.
    assert_eq!((reply.kept, reply.changed, reply.added, reply.deleted), (2, 1, 1, 2));
    let ports = node.ports().await;
    assert_eq!(ports.len(), 4);
    assert_eq!(ports["pod2"].endpoint, "default/pod2/eth0");
    assert_eq!(ports["pod2"].endpoint_addresses, ["10.10.1.2"]);
    assert_eq!(ports["pod3"].endpoint, "");
    assert_eq!(ports["seine-gw0"].endpoint_addresses, ["10.10.1.1"]);
    node.inject("pod2", 0, &datagram(2, 3, b"x"), Checksum::Complete);
    node.received(1).await;
    assert_eq!(node.drops().await, ["pod2 UnknownDestination 1"]);
}

#[tokio::test]
async fn next_hops_are_wanted_for_peers_and_used_again_after_them() {
    let (mut node, session) = node_with_two_pods().await;
    let wanted = node.datapath.lock().await.wanted();
    let addresses =
        || wanted.borrow().iter().map(|(id, to)| format!("{id} {to}")).collect::<Vec<_>>();
    let objects = vec![peer("node2", 2), peer("node3", 3)];
    node.apply(vec![part(session, 2, Mode::Delta, objects)]).await.unwrap();
    assert_eq!(addresses(), ["0 192.0.2.2", "1 192.0.2.3"]);
    let mut gone = part(session, 3, Mode::Delta, vec![]);
    gone.deletes
        .push(v1::ObjectId { kind: v1::object_id::Kind::Peer.into(), name: "node2".into() });
    assert_eq!(node.apply(vec![gone]).await.unwrap().deleted, 1);
    assert_eq!(addresses(), ["1 192.0.2.3"]);
    node.apply(vec![part(session, 4, Mode::Delta, vec![peer("node7", 7)])]).await.unwrap();
    assert_eq!(addresses(), ["0 192.0.2.7", "1 192.0.2.3"]);
}

#[tokio::test]
async fn a_port_opened_again_is_the_same_and_a_closed_one_gives_its_frames_back() {
    let mut node = Node::start().await;
    let session = node.hello().await;
    let port = node.open(session, "pod2").await;
    assert_eq!((port.id, port.generation, port.queues), (2, 1, WORKERS as u32));
    assert_eq!(node.open(session, "pod2").await.generation, 1, "a success that changes nothing");
    node.inject("pod2", 0, &datagram(2, 3, b"x"), Checksum::Complete);
    node.received(1).await;

    let request = v1::ClosePortRequest { session, name: "pod2".into() };
    let reply = node.client.close_port(request.clone()).await.unwrap().into_inner();
    assert!(reply.closed);
    assert_eq!(*node.closed.lock().unwrap(), ["pod2"]);
    let reply = node.client.close_port(request).await.unwrap().into_inner();
    assert!(!reply.closed, "closing what is not open is a success");
    assert!(node.drops().await[0].starts_with("(closed) "), "its drops stay counted");
    node.unplug("pod2");

    let port = node.open(session, "pod2").await;
    assert_eq!((port.id, port.generation), (2, 2));
}

#[tokio::test]
async fn a_port_whose_opening_a_stuck_worker_cut_short_is_opened_again_in_whole() {
    let (mut node, session) = node_with_two_pods().await;
    node.shut.store(true, Ordering::Relaxed);
    let (name, interface) = ("pod4".into(), "pod4".into());
    let request = v1::OpenPortRequest { session, name, interface, vhost_user: None };
    node.client.open_port(request).await.expect_err("no worker answers");
    node.shut.store(false, Ordering::Relaxed);
    assert_eq!(node.open(session, "pod4").await.fault, "");
    node.apply(vec![part(session, 2, Mode::Delta, vec![endpoint(4)])]).await.unwrap();
    for queue in 0..WORKERS {
        node.inject("pod4", queue, &datagram(4, 2, b"hello"), Checksum::Complete);
    }
    assert_eq!(node.collect("pod2", WORKERS).await.len(), WORKERS);
}

#[tokio::test]
async fn every_frame_comes_back_when_everything_is_closed() {
    let (mut node, session) = node_with_two_pods().await;
    for _ in 0..100 {
        node.inject("pod2", 0, &datagram(2, 3, b"x"), Checksum::Complete);
        node.inject("pod3", 1, &datagram(3, 9, b"x"), Checksum::Complete);
    }
    node.received(200).await;
    for name in ["pod2", "pod3"] {
        let request = v1::ClosePortRequest { session, name: name.into() };
        node.client.close_port(request).await.unwrap();
        node.unplug(name);
    }
    // The rest is in the workers' own caches.
    let cached: u32 = node.workers().await.iter().map(|worker| worker.frames_cached).sum();
    assert_eq!(node.region.free_frames() + cached as usize, node.region.frames());
}

#[tokio::test]
async fn ports_are_refused_by_name() {
    let mut node = Node::start().await;
    let session = node.hello().await;
    node.open(session, "pod2").await;
    for (name, interface, code) in [
        ("absent1", "absent1", Code::NotFound),
        ("pod2", "other", Code::FailedPrecondition),
        ("other", "pod2", Code::FailedPrecondition),
        ("seine-gw0", "seine-gw0", Code::FailedPrecondition),
        ("a name", "x", Code::InvalidArgument),
        ("sixteen-bytes-xx", "x", Code::InvalidArgument),
        ("..", "x", Code::InvalidArgument),
    ] {
        let (name, interface) = (name.to_owned(), interface.to_owned());
        let request =
            v1::OpenPortRequest { session, name: name.clone(), interface, vhost_user: None };
        let refused = node.client.open_port(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
    let request = v1::ClosePortRequest { session, name: "eth0".into() };
    assert_eq!(node.client.close_port(request).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(node.ports().await.len(), 3);
}

#[tokio::test]
async fn a_trace_explains_a_packet_and_moves_no_counter() {
    let (mut node, _) = node_with_two_pods().await;
    let request = v1::TraceRequest {
        ingress: "default/pod2/eth0".into(),
        source: "10.10.1.2".into(),
        destination: "10.10.1.3".into(),
        protocol: v1::trace_request::Protocol::Udp.into(),
        destination_port: 53,
        ..v1::TraceRequest::default()
    };
    let reply = node.client.trace(request.clone()).await.unwrap().into_inner();
    assert_eq!((reply.verdict.as_str(), reply.egress.as_str()), ("Output", "pod3"));
    assert_eq!(reply.revision, 1);
    assert!(reply.steps.iter().all(|step| !step.stage.is_empty()), "{:?}", reply.steps);
    assert!(!reply.packet.is_empty());
    let spoofed = v1::TraceRequest { source: "10.10.1.9".into(), ..request.clone() };
    let reply = node.client.trace(spoofed).await.unwrap().into_inner();
    assert_eq!((reply.verdict.as_str(), reply.reason.as_str()), ("Drop", "SpoofedSource"));
    assert!(!reply.meaning.is_empty());
    let nowhere = v1::TraceRequest { ingress: "nobody".into(), ..request };
    let refused = node.client.trace(nowhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(node.drops().await, Vec::<String>::new());
    assert_eq!(node.ports().await["pod3"].counters.unwrap(), v1::PortCounters::default());
}

#[tokio::test]
async fn tables_are_listed_and_each_of_them_can_be_shown() {
    let (mut node, _) = node_with_two_pods().await;
    let request = v1::ListTablesRequest {};
    let tables = node.client.list_tables(request).await.unwrap().into_inner().tables;
    assert!(tables.iter().any(|table| table.name == "SpoofGuard" && table.entries > 0));
    for table in tables {
        let request = v1::ShowTableRequest { name: table.name.clone() };
        let shown = node.client.show_table(request).await.unwrap().into_inner();
        assert_eq!(shown.rows.len() as u64, table.entries, "{}", table.name);
        assert!(shown.rows.iter().all(|row| row.cells.len() == shown.columns.len()));
    }
    let request = v1::ShowTableRequest { name: "Nobody".into() };
    assert_eq!(node.client.show_table(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn idle_workers_rest_and_wake_for_one_packet() {
    let (mut node, session) = node_with_two_pods().await;
    for number in 4..34 {
        node.open(session, &format!("pod{number}")).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let rests = |workers: &[v1::Worker]| workers.iter().map(|worker| worker.rests).sum::<u64>();
    let polls =
        |workers: &[v1::Worker]| workers.iter().map(|worker| worker.empty_polls).sum::<u64>();
    let before = node.workers().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = node.workers().await;
    assert_eq!(rests(&after), rests(&before), "nothing wakes them");
    assert_eq!(polls(&after), polls(&before), "and they look at nothing");
    node.inject("pod2", 1, &datagram(2, 3, b"x"), Checksum::Complete);
    assert_eq!(node.collect("pod3", 1).await.len(), 1);
}

#[tokio::test]
async fn hello_says_what_the_agent_needs_to_know() {
    let mut node = Node::start().await;
    let request = v1::HelloRequest { client: "test".into(), version: 1 };
    let reply = node.client.hello(request).await.unwrap().into_inner();
    assert_eq!(reply.gateway.unwrap().mac, GATEWAY_MAC);
    assert_eq!(reply.uplink.unwrap().interface, "eth0");
    assert_eq!((reply.workers, reply.revision), (WORKERS as u32, 0));
    assert_eq!(reply.frame_bytes_max, 2048 - 256);
    assert_eq!(reply.ports_namespace, "/run/netns/memory");
}

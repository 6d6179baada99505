//! A packet that nobody traces costs no allocation, and a change costs what it touches.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::packet::{Checksum, Packet};
use seine_pipeline::run::run;
use seine_pipeline::state::{
    Action, Change, Group, Object, Peer, Rule, RuleDirection, RuleTable, Traffic,
};
use seine_pipeline::testbed::{HEADROOM, Node, ping, tcp, udp, who_has};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

mod service;

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches a thread-local
// number only, whose initialiser is const and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_packet_allocates_whatever_becomes_of_it() {
    for v6 in [false, true] {
        let mut node = if v6 { Node::over_ipv6(["a", "b"]) } else { Node::with_pods(["a", "b"]) };
        let (web, nobody) = match v6 {
            false => ("10.96.0.10", "10.96.0.11"),
            true => ("fd00:96::10", "fd00:96::11"),
        };
        let words = ["web", "tcp", "80", "at", web, "affinity", "9", "to", "a:80", "remote:80"];
        let services = [&words[..], &["nobody", "udp", "53", "at", nobody, "to"]];
        node.apply(&services.map(|words| service::change(&node, words)));
        let probes = [
            ("a", udp().from("a").to(nobody)),
            ("a", tcp().from("a").to(web).port(80)),
            ("a", tcp().from("a").to(web).port(80).source_port(40001)),
            ("b", tcp().from("b").to(web).port(80)),
            ("b", tcp().from("b").to(web).port(81)),
            ("gateway", tcp().from("gateway").source("outside").to(web).port(80)),
            ("a", udp().from("a").to("b")),
            ("a", tcp().from("a").to("remote")),
            ("a", tcp().from("a").to("outside")),
            ("a", tcp().from("a").to("remote").ttl(1)),
            ("a", udp().from("a").to("remote").payload_bytes(1600)),
            ("a", udp().from("a").source("b").to("remote")),
            ("a", who_has().from("a").to("gateway")),
            ("gateway", ping().from("gateway").to("b")),
            ("uplink", udp().from("tunnel").to("b")),
            ("uplink", udp().from("tunnel").to("b").ttl(1)),
        ];
        for (number, (ingress, probe)) in probes.into_iter().enumerate() {
            let frame = node.frame(&probe.in_v6(v6));
            let mut buffer = vec![0; HEADROOM];
            buffer.extend(frame);
            let (end, port) = (buffer.len(), node.state.port_by_name(ingress).unwrap());
            let before = ALLOCATIONS.get();
            let mut packet =
                Packet::new(&mut buffer, HEADROOM, end, port, Checksum::Complete).unwrap();
            let mut context = node.context();
            let outcome = run(&mut packet, &mut context);
            assert_eq!(ALLOCATIONS.get(), before, "probe {number}: {outcome:?}");
        }
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the allocator counts");
}

#[test]
fn a_change_among_thousands_copies_kilobytes() {
    let peer = |index: usize| {
        let (high, low) = (100 + index / 256, index % 256);
        Change::Upsert(Object::Peer(Peer {
            name: format!("peer{index}"),
            pod_cidrs: vec![format!("10.{high}.{low}.0/24").parse().unwrap()],
            gateway_addresses: vec![format!("10.{high}.{low}.1").parse().unwrap()],
            tunnel_address: format!("192.168.{high}.{low}").parse().unwrap(),
            adjacency: AdjacencyId::new(index).unwrap(),
        }))
    };
    let few = Node::with_pods(["a", "b"]).state;
    let peers: Vec<_> = (0..8000).map(peer).collect();
    let before = BYTES.get();
    let thousands = few.apply(&peers).unwrap();
    let whole = BYTES.get() - before;
    let change = [peer(8100)];
    let copied = |state: &seine_pipeline::state::State| {
        let before = BYTES.get();
        state.apply(&change).unwrap();
        BYTES.get() - before
    };
    let (few, thousands) = (copied(&few), copied(&thousands));
    let said = format!("{few} bytes among few, {thousands} among thousands that took {whole}");
    assert!(few < 4 << 10 && thousands < 32 << 10 && 100 * thousands < whole, "{said}");
}

#[test]
fn no_packet_that_rules_judge_allocates() {
    let mut node = Node::with_pods(["a", "b"]);
    node.apply(&policy());
    let probes = [
        udp().from("a").to("b"),
        tcp().from("a").to("b"),
        tcp().v6().from("a").to("b"),
        ping().from("a").to("b"),
    ];
    for (number, probe) in probes.into_iter().enumerate() {
        let frame = node.frame(&probe);
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(frame);
        let (end, port) = (buffer.len(), node.state.port_by_name("a").unwrap());
        let before = ALLOCATIONS.get();
        let mut packet = Packet::new(&mut buffer, HEADROOM, end, port, Checksum::Complete).unwrap();
        let mut context = node.context();
        let outcome = run(&mut packet, &mut context);
        assert_eq!(ALLOCATIONS.get(), before, "probe {number}: {outcome:?}");
    }
}

/// Allows, denies and rejects, and tells it all.
fn policy() -> Vec<Change> {
    let members = ["10.10.1.2/32", "10.10.1.3/32", "fd00:10:1::/64"];
    let members = members.map(|member| member.parse().unwrap()).to_vec();
    let group = Group { name: "all".to_owned(), members, fqdns: Vec::new() };
    let rule = |(protocol, action): (u8, Action)| {
        Change::Upsert(Object::Rule(Rule {
            name: format!("{protocol}"),
            policy: "AntreaClusterNetworkPolicy:p".to_owned(),
            rule_name: String::new(),
            direction: RuleDirection::Ingress,
            table: RuleTable::AntreaPolicy,
            rank: 1,
            action,
            applied_to_groups: vec!["all".to_owned()],
            applied_to_services: Vec::new(),
            peer_groups: vec!["all".to_owned()],
            peer_services: Vec::new(),
            traffic: vec![Traffic {
                protocol,
                ports: None,
                source_ports: None,
                icmp_type: None,
                icmp_code: None,
            }],
            log: true,
            log_label: String::new(),
            priority: String::new(),
        }))
    };
    let rules = [(17, Action::Allow), (6, Action::Reject), (1, Action::Drop)].map(rule);
    rules.into_iter().chain([Change::Upsert(Object::Group(group))]).collect()
}

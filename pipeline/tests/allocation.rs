//! A packet that nobody traces costs no allocation, and a change costs what it touches.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::composed::{self, Plain, Sampler, Survey};
use seine_pipeline::learned::WorkerMemory;
use seine_pipeline::packet::{Checksum, Packet};
use seine_pipeline::run::run;
use seine_pipeline::state::{
    Action, Change, Group, Object, Peer, Rule, RuleDirection, RuleTable, Traffic,
};
use seine_pipeline::testbed::{
    Buffer, HEADROOM, Node, Probe, UPLINK, answered, flags, ping, tcp, udp, who_has,
};
use seine_pipeline::verdict::Outcome;

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
    assert!(few < 6 << 10 && thousands < 32 << 10 && 100 * thousands < whole, "{said}");
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

#[test]
fn no_packet_of_a_connection_under_way_allocates_sampled_or_not() {
    let datagram: fn() -> Probe = || udp().port(80);
    let segment: fn() -> Probe = || tcp().port(80).flags(flags::ACK);
    for every in [1, 2, 1024] {
        for (v6, web) in [(false, "10.96.0.10"), (true, "fd00:96::10")] {
            for (probe, to) in [
                (datagram, "b"),
                (datagram, "remote"),
                (datagram, "gateway"),
                (segment, "b"),
                (segment, web),
            ] {
                let mut node = Node::with_pods(["a", "b"]);
                let words = ["web", "tcp", "80", "at", web, "to", "b:80"];
                let service = service::change(&node, &words);
                node.apply(&[service]);
                // Datagrams are let through by a rule that tells.
                node.apply(&[&policy()[..1], &policy()[3..]].concat());
                converse(&mut node, probe().from("a").to(to).in_v6(v6), every);
            }
            let mut node = if v6 { Node::over_ipv6(["b"]) } else { Node::with_pods(["b"]) };
            converse(&mut node, datagram().from("tunnel").to("b").in_v6(v6), every);
        }
    }
}

/// Opens a connection, and goes on with it, both directions in turn; fails if a packet allocates.
fn converse(node: &mut Node, probe: Probe, every: u32) {
    let mut worker = WorkerMemory::new();
    worker.composed.sampler = Sampler::new(every);
    let frame = node.frame(&probe);
    let from = node.state.port_by_name("a").or(node.state.port_by_name(UPLINK)).unwrap();
    let mut packet = (from, frame.clone());
    let mut survey = Survey::default();
    for number in 0..8 {
        let (ingress, frame) = &packet;
        let mut buffer = Buffer::of(frame, Checksum::Complete);
        let before = ALLOCATIONS.get();
        let mut context = node.context();
        context.worker = &mut worker;
        let batch = [(&buffer, *ingress)];
        let connections = &context.learned.connections;
        survey.take(batch.into_iter(), context.state, connections, &Plain);
        let outcome = composed::decide(&survey, 0, &mut buffer, *ingress, &mut context, &Plain);
        assert_eq!(ALLOCATIONS.get(), before, "packet {number}: {outcome:?}");
        let Outcome::Output(egress) = outcome else { panic!("packet {number}: {outcome:?}") };
        packet = (egress, answered(composed::PacketBuffer::bytes(&buffer)));
    }
    let (composed, rest) = (&worker.composed, 8 - worker.composed.hits);
    assert_eq!((composed.hits, composed.walks), (5, rest));
    let sampled = composed.hits / u64::from(every);
    assert_eq!((composed.sampler.samples, composed.sampler.judged), (sampled, sampled));
    assert_eq!(composed.sampler.mismatches, 0);
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

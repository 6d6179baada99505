//! Which packets are timed by themselves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::cell::Cell;

use super::*;
use crate::learned::WorkerMemory;
use crate::testbed::{Buffer, Node, UPLINK, answered, learned, udp};

/// A processor on which only reading the clock takes time.
#[derive(Default)]
struct Ticking(Cell<u64>);

impl Machine for Ticking {
    fn prefetch<T>(&self, _: &T) {}

    fn cycles(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// A packet, and the port it comes in or leaves by.
type Sent = (PortId, Vec<u8>);

/// How often the clock was read, what was timed, and the packet as it left.
fn decide_on(
    node: &Node,
    worker: &mut WorkerMemory,
    (learned, machine): (&crate::learned::Learned, &Ticking),
    (ingress, frame): &Sent,
) -> (u64, Vec<Toll>, Option<Sent>) {
    let mut buffer = Buffer::of(frame, Checksum::Complete);
    let mut survey = Survey::default();
    survey.take([(&buffer, *ingress)].into_iter(), &node.state, &learned.connections, machine);
    let before = machine.0.get();
    let mut context = Context {
        state: &node.state,
        adjacencies: &node.adjacencies,
        now_ms: node.now_ms,
        learned,
        worker,
        dry: false,
        trace: None,
    };
    let outcome = decide(&survey, 0, &mut buffer, *ingress, &mut context, machine);
    let left = match outcome {
        Outcome::Output(egress) => Some((egress, buffer.bytes().to_vec())),
        Outcome::Replicate(vlan) => panic!("nobody is in VLAN {vlan}"),
        Outcome::Drop(_) => None,
    };
    (machine.0.get() - before, worker.composed.tolls.drain(..).collect(), left)
}

#[test]
fn what_takes_the_stages_is_timed_and_what_does_not_reads_no_clock() {
    for (from, to) in [("a", "b"), ("a", "remote"), ("tunnel", "a")] {
        let node = Node::with_pods(["a", "b"]);
        let (learned, mut worker, machine) = (learned(), WorkerMemory::new(), Ticking::default());
        // Not the one walk in so many that is timed stage by stage, too.
        let spoofed = node.frame(&udp().from("b").source("a").to("a"));
        let spoofer = node.state.port_by_name("b").unwrap();
        let shared = (&learned, &machine);
        decide_on(&node, &mut worker, shared, &(spoofer, spoofed.clone()));
        let denied = decide_on(&node, &mut worker, shared, &(spoofer, spoofed));
        assert_eq!(denied, (2, vec![Toll { ingress: spoofer, cycles: 1 }], None), "{from}");

        let ingress = if from == "tunnel" { UPLINK } else { from };
        let ingress = node.state.port_by_name(ingress).unwrap();
        let asked = (ingress, node.frame(&udp().from(from).to(to)));
        let (_, tolls, left) = decide_on(&node, &mut worker, shared, &asked);
        assert_eq!(tolls, [Toll { ingress, cycles: 1 }], "the first packet from {from}");
        let (egress, left) = left.unwrap();
        decide_on(&node, &mut worker, shared, &(egress, answered(&left)));
        decide_on(&node, &mut worker, shared, &asked);
        let (ticks, tolls, _) = decide_on(&node, &mut worker, shared, &asked);
        assert_eq!((ticks, tolls), (0, vec![]), "under way from {from} to {to}");
    }
}

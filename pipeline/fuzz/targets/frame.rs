//! Any bytes by any port of a node with Pods and a peer: nothing panics, every packet has an
//! outcome, what leaves can be read again and comes from whom it may, and a trace changes nothing.
//!
//! Input: a byte that chooses the port (3 bits), the underlay's family (bit 3) and whether the port
//! speaks of a partial checksum (bit 4); if so, two bytes for its start and offset; the frame.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use seine_pipeline::packet::{Checksum, Packet};
use seine_pipeline::run::run;
use seine_pipeline::testbed::{Fate, GATEWAY, HEADROOM, HOST, Node, UPLINK, assert_sound};
use seine_pipeline::verdict::Outcome;

const PORTS: [&str; 5] = ["a", "b", GATEWAY, UPLINK, HOST];

/// More than any timeout.
const FORGOTTEN_MS: u64 = 100_000_000;

thread_local! {
    /// One to trace and its twin, over either family. They remember connections, so what one has
    /// seen the other has to see, too.
    static NODES: RefCell<[[Node; 2]; 2]> = RefCell::new([
        [Node::with_pods(["a", "b"]), Node::with_pods(["a", "b"])],
        [Node::over_ipv6(["a", "b"]), Node::over_ipv6(["a", "b"])],
    ]);
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let ingress = PORTS[usize::from(choice & 7) % PORTS.len()];
    let (checksum, frame) = match rest {
        [start, offset, frame @ ..] if choice & 16 != 0 => {
            let (start, offset) = (u16::from(*start), u16::from(*offset));
            (Checksum::Partial { start, offset }, frame)
        }
        frame => (Checksum::Complete, frame),
    };
    NODES.with_borrow_mut(|nodes| {
        let [node, twin] = &mut nodes[usize::from(choice >> 3 & 1)];
        // The second time it belongs to a connection, if the first was let through.
        for _ in 0..2 {
            let fate = node.send_frame(ingress, frame, checksum);
            assert_sound(node, ingress, &fate);
            assert_eq!(without_trace(twin, ingress, frame, checksum), fate);
            assert_eq!(node.connections(), twin.connections());
        }
        // Nothing is left of it for the next input, so that a crash can be seen again.
        node.wait_ms(FORGOTTEN_MS);
        twin.wait_ms(FORGOTTEN_MS);
        assert!(node.connections().is_empty());
    });
});

fn without_trace(node: &mut Node, ingress: &str, frame: &[u8], checksum: Checksum) -> Fate {
    let mut buffer = vec![0; HEADROOM];
    buffer.extend(frame);
    let (end, port) = (buffer.len(), node.state.port_by_name(ingress).unwrap());
    let mut packet = Packet::new(&mut buffer, HEADROOM, end, port, checksum).unwrap();
    let mut context = node.context();
    match run(&mut packet, &mut context) {
        Outcome::Output(egress) => {
            Fate::Left(node.state.port(egress).unwrap().name.clone(), packet.bytes().to_vec())
        }
        Outcome::Replicate(vlan) => panic!("nobody is in VLAN {vlan}"),
        Outcome::Drop(reason) => Fate::Dropped(reason),
    }
}

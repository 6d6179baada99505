//! The fuzzer's committed corpus, replayed: real packets and transactions, and whatever once
//! crashed. `BLESS=1 cargo test -p seine-pipeline --test corpus` writes the seeds anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};

use seine_pipeline::packet::Checksum;
use seine_pipeline::testbed::{
    GATEWAY, HOST, Node, Probe, UPLINK, assert_consistent, assert_sound, ping, tcp, udp, who_has,
};

const PORTS: [&str; 5] = ["a", "b", GATEWAY, UPLINK, HOST];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder(target)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Named frames, as the target `frame` reads them.
fn frames() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (family, over_v6) in [("v4", false), ("v6", true)] {
        let node = if over_v6 { Node::over_ipv6(["a", "b"]) } else { Node::with_pods(["a", "b"]) };
        let probes: [(&str, usize, Probe); 11] = [
            ("udp-pod-to-pod", 0, udp().from("a").to("b")),
            ("tcp-pod-to-remote", 0, tcp().from("a").to("remote")),
            ("udp-pod-to-remote-too-big", 0, udp().from("a").to("remote").payload_bytes(1500)),
            ("tcp-pod-to-remote-no-hops", 0, tcp().from("a").to("remote").ttl(1)),
            ("ping-pod-to-gateway", 1, ping().from("b").to("gateway")),
            ("tcp-pod-to-outside", 1, tcp().from("b").to("outside")),
            ("who-has-pod", 0, who_has().from("a").to("b")),
            ("who-has-peer-gateway", 2, who_has().from("gateway").to("remote-gateway")),
            ("udp-gateway-to-pod", 2, udp().from("gateway").source("outside").to("a")),
            ("tcp-tunnel-to-pod", 3, tcp().from("tunnel").to("a")),
            ("ping-tunnel-to-gateway", 3, ping().from("tunnel").to("gateway")),
        ];
        for (name, port, probe) in probes {
            let frame = node.frame(&probe.in_v6(over_v6));
            let choice = port as u8 | u8::from(over_v6) << 3;
            seeds.push((format!("{name}-{family}"), [&[choice], frame.as_slice()].concat()));
        }
    }
    let frame = Node::with_pods(["a", "b"]).frame(&tcp().from("gateway").to("a"));
    seeds.push(("tcp-partial-checksum".to_owned(), [&[18, 34, 16], frame.as_slice()].concat()));
    seeds
}

/// Named transactions, as `testbed::transactions` reads them.
fn transactions() -> Vec<(&'static str, Vec<u8>)> {
    let node = [0, 0, 0x08, 0x08, 0, 0];
    let peer = [1, 1, 0x1a, 0x1a, 1, 1];
    let ports = [[4, 0, 0, 0, 1, 0], [4, 1, 0, 1, 2, 0], [4, 4, 2, 6, 3, 0], [4, 5, 3, 7, 4, 0]];
    let endpoints = [[2, 0, 0, 5, 0x08, 2], [2, 1, 1, 6, 0x08, 3]];
    let end = [0xff].as_slice();
    let all = [node.as_slice(), &peer, &ports.concat(), &endpoints.concat()].concat();
    let close = [0x84, 0, 0, 0, 0, 0];
    let trade = [[2, 0, 0, 6, 0x08, 3], [2, 1, 1, 5, 0x08, 2]].concat();
    vec![
        ("whole-node", all.clone()),
        ("one-by-one", all.chunks(6).flat_map(|change| [change, end].concat()).collect()),
        ("port-closes-and-opens", [&all, end, &close, end, &ports[0]].concat()),
        ("endpoints-trade-addresses", [&all, end, &trade].concat()),
        ("node-leaves", [&all, end, &[0x80, 0, 0, 0, 0, 0]].concat()),
    ]
}

#[test]
fn every_frame_of_the_corpus_is_decided_soundly() {
    if std::env::var_os("BLESS").is_some() {
        for (name, bytes) in frames() {
            std::fs::write(folder("frame").join(name), bytes).unwrap();
        }
    }
    let inputs = inputs("frame");
    for (name, bytes) in frames() {
        assert!(inputs.contains(&(folder("frame").join(name), bytes)), "BLESS=1 writes the seeds");
    }
    let mut forwarded = 0;
    for (path, input) in &inputs {
        let Some((choice, rest)) = input.split_first() else { continue };
        let (checksum, frame) = match rest {
            [start, offset, frame @ ..] if choice & 16 != 0 => {
                let (start, offset) = (u16::from(*start), u16::from(*offset));
                (Checksum::Partial { start, offset }, frame)
            }
            frame => (Checksum::Complete, frame),
        };
        let over_v6 = choice & 8 != 0;
        let mut node =
            if over_v6 { Node::over_ipv6(["a", "b"]) } else { Node::with_pods(["a", "b"]) };
        let ingress = PORTS[usize::from(choice & 7) % PORTS.len()];
        println!("{}", path.display());
        let fate = node.send_frame(ingress, frame, checksum);
        assert_sound(&node, ingress, &fate);
        forwarded += usize::from(matches!(fate, seine_pipeline::testbed::Fate::Left(..)));
    }
    assert!(forwarded >= frames().len(), "every seed is a packet that goes somewhere");
}

#[test]
fn every_transaction_of_the_corpus_is_consistent() {
    if std::env::var_os("BLESS").is_some() {
        for (name, bytes) in transactions() {
            std::fs::write(folder("transaction").join(name), bytes).unwrap();
        }
    }
    let inputs = inputs("transaction");
    for (name, bytes) in transactions() {
        let path = folder("transaction").join(name);
        assert!(inputs.contains(&(path, bytes.clone())), "BLESS=1 writes the seeds");
        let parts = seine_pipeline::testbed::transactions(&bytes)
            .iter()
            .filter(|it| !it.is_empty())
            .count();
        assert!(
            assert_consistent(&bytes) >= parts,
            "{name} is made of transactions that are accepted"
        );
    }
    for (path, input) in inputs {
        println!("{}", path.display());
        assert_consistent(&input);
    }
}

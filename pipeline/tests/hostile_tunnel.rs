//! What strangers, peers and Pods try with Geneve.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use seine_pipeline::testbed::{Node, Probe, tcp, udp};

/// Sends each probe by itself and asserts the one counter that moves.
#[track_caller]
fn expect<const N: usize>(cases: [(Probe, &str); N]) {
    for (probe, counter) in cases {
        let mut node = Node::with_pods(["a", "b"]);
        node.send(probe);
        assert_eq!(node.changes(), [format!("{counter} +1")], "{:#?}", node.trace.steps);
    }
}

/// The folded ones' complement sum.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Changes a byte of the outer headers; the IPv4 header is summed again.
fn outer(at: usize, value: u8) -> Probe {
    udp().from("tunnel").to("a").edit(move |frame| {
        frame[at] = value;
        frame[24..26].fill(0);
        let sum = sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    })
}

/// Options in front of the inner frame: each is class, type, length in words.
fn options(words: &'static [u8]) -> Probe {
    udp().from("tunnel").to("a").edit(move |frame| {
        let inner = frame.split_off(50);
        frame[42] = (words.len() / 4) as u8;
        frame.extend(words);
        frame.extend(inner);
        let udp_len = (frame.len() - 34) as u16;
        frame[38..40].copy_from_slice(&udp_len.to_be_bytes());
        let total = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[24..26].fill(0);
        let sum = sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    })
}

#[test]
fn only_whole_geneve_packets_of_peers_get_in() {
    expect([
        (outer(0, 6), "drops.uplink.NotTunnel"),
        (outer(12, 9), "drops.uplink.NotTunnel"),
        (outer(13, 6), "drops.uplink.NotTunnel"),
        (outer(23, 47), "drops.uplink.NotTunnel"),
        (outer(33, 9), "drops.uplink.NotTunnel"),
        (outer(37, 0), "drops.uplink.NotTunnel"),
        (outer(29, 9), "drops.uplink.UnknownTunnelPeer"),
        (outer(20, 0x20), "drops.uplink.FragmentedTunnel"),
        (outer(21, 1), "drops.uplink.FragmentedTunnel"),
        (outer(41, 1), "drops.uplink.BadTunnelChecksum"),
        (outer(42, 0x40), "drops.uplink.BadTunnelHeader"),
        (outer(43, 0x80), "drops.uplink.BadTunnelHeader"),
        (outer(43, 0x40), "drops.uplink.BadTunnelHeader"),
        (outer(44, 8), "drops.uplink.BadTunnelHeader"),
        (outer(46, 1), "drops.uplink.BadTunnelHeader"),
        (outer(48, 1), "drops.uplink.BadTunnelHeader"),
        (outer(39, 8), "drops.uplink.BadTunnelHeader"),
        (outer(39, 16), "drops.uplink.Malformed"),
        (outer(15, 3), "drops.uplink.TunnelCongestion"),
    ]);
}

#[test]
fn pod_cannot_pass_for_its_node_by_geneve_of_its_own() {
    let geneve = |frame: &mut Vec<u8>| frame[36..38].copy_from_slice(&6081u16.to_be_bytes());
    let first_fragment = move |frame: &mut Vec<u8>| {
        geneve(frame);
        frame[20] = 0x20;
        frame[24..26].fill(0);
        let sum = sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    };
    expect([
        (udp().from("a").to("192.168.0.2").edit(geneve), "drops.a.ForgedTunnel"),
        (udp().from("a").to("192.168.0.1").edit(geneve), "drops.a.ForgedTunnel"),
        (udp().from("a").to("192.168.0.2").edit(first_fragment), "drops.a.ForgedTunnel"),
        (udp().from("a").to("192.168.0.2"), "outputs.gateway"),
        (tcp().from("a").to("192.168.0.2").edit(geneve), "outputs.gateway"),
        (udp().from("a").to("outside").edit(geneve), "outputs.gateway"),
        (udp().from("a").to("remote").edit(geneve), "outputs.uplink"),
    ]);
    let mut node = Node::over_ipv6(["a"]);
    let port = 6081u16.to_be_bytes();
    let probe = udp().from("a").to("2001:db8:100::2").v6();
    node.send(probe.edit(move |frame| frame[56..58].copy_from_slice(&port)));
    node.assert_changed(["drops.a.ForgedTunnel +1"]);
}

#[test]
fn options_are_skipped_unless_they_are_critical_or_broken() {
    expect([
        (options(&[1, 2, 3, 0]), "outputs.a"),
        (options(&[1, 2, 3, 1, 9, 9, 9, 9, 1, 2, 4, 0]), "outputs.a"),
        (options(&[1, 2, 0x83, 0]), "drops.uplink.BadTunnelHeader"),
        (options(&[1, 2, 3, 1]), "drops.uplink.BadTunnelHeader"),
    ]);
}

#[test]
fn a_peer_speaks_for_its_own_pods_only_and_to_ours() {
    let inner = |at: usize, value: u8| move |frame: &mut Vec<u8>| frame[50 + at] = value;
    // The peer that tunnels is found by the inner source, so a lie has to be put in afterwards.
    let lie = |frame: &mut Vec<u8>| {
        frame[78..80].copy_from_slice(&[10, 10]);
        frame[74..76].fill(0);
        let sum = sum(&frame[64..84]);
        frame[74..76].copy_from_slice(&(!sum).to_be_bytes());
    };
    expect([
        (udp().from("tunnel").to("a").edit(lie), "drops.uplink.SpoofedTunnelSource"),
        (udp().from("tunnel").to("outside"), "drops.uplink.TunnelTransit"),
        (udp().from("tunnel").to("remote-gateway"), "drops.uplink.TunnelTransit"),
        (udp().from("tunnel").to("10.10.1.99"), "drops.uplink.UnknownDestination"),
        (udp().from("tunnel").to("a").destination_mac("a"), "drops.uplink.UnknownDestinationMac"),
        (udp().from("tunnel").to("a").destination_mac("gateway"), "outputs.a"),
        (udp().from("tunnel").to("a").edit(inner(12, 9)), "drops.uplink.UnknownTunnelPayload"),
        (udp().from("tunnel").to("a").edit(inner(12, 0x88)), "drops.uplink.UnknownTunnelPayload"),
        (udp().from("tunnel").to("a").edit(inner(14, 0x65)), "drops.uplink.Malformed"),
        (udp().from("tunnel").to("a").edit(inner(24, 9)), "drops.uplink.BadHeaderChecksum"),
    ]);
}

#[test]
fn a_broken_outer_checksum_is_found_over_ipv6() {
    let mut node = Node::over_ipv6(["a"]);
    node.send(udp().from("tunnel").to("a").edit(|frame| *frame.last_mut().unwrap() ^= 1));
    node.assert_changed(["drops.uplink.BadTunnelChecksum +1"]);
    node.send(udp().from("tunnel").to("a").edit(|frame| frame[60..62].fill(0)));
    node.assert_changed(["outputs.a +1"]);
}

//! What the uplink's port promises: it takes what is claimed, and leaves the rest to the node.

use std::net::IpAddr;

use seine_datapath::frame::FrameCache;
use seine_datapath::port::af_xdp::{AfXdpPort, Claim};
use seine_pipeline::address::PortKind;
use seine_pipeline::packet::Checksum;

use crate::af_xdp::{PATIENCE, SILENCE, delivered, mac, memory, open, receive, socket};
use crate::device::{Pod, RawWire, run};
use crate::suite::sum;
use crate::{Sample, Wire};

/// A UDP packet to 10.99.0.1 (the uplink's own address) or fd99::1, with a good checksum.
fn udp(target: [u8; 6], version: u8, port: u16, options: bool) -> Sample {
    let payload = b"tunnelled";
    let length = 8 + payload.len() as u16;
    let mut bytes = target.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 9]);
    let (addresses, network) = if version == 4 {
        let words = if options { 6 } else { 5 };
        bytes.extend([0x08, 0, 0x40 | words, 0]);
        bytes.extend((u16::from(words) * 4 + length).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1]);
        bytes.extend(if options { &[1, 1, 1, 0][..] } else { &[] });
        let header = !sum(&bytes[14..], 0);
        bytes[24..26].copy_from_slice(&header.to_be_bytes());
        (26..34, bytes.len())
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([17, 64]);
        for last in [2, 1] {
            bytes.extend([0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        (22..54, bytes.len())
    };
    bytes.extend([0x30, 0]);
    bytes.extend(port.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let pseudo = u32::from(sum(&bytes[addresses], u32::from(length) + 17));
    let whole = !sum(&bytes[network..], pseudo);
    bytes[network + 6..network + 8].copy_from_slice(&whole.to_be_bytes());
    Sample { bytes, checksum: Checksum::Complete }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn the_uplink_takes_what_is_claimed_and_leaves_the_rest_to_the_node() {
    let pod = Pod::new(1, 1450);
    let (host, node) = (&pod.ports.name, &pod.ports.namespace);
    for setting in ["all", "host"] {
        let path = format!("/proc/sys/net/ipv6/conf/{setting}/disable_ipv6");
        node.run(|| std::fs::write(path, "0")).unwrap().unwrap();
    }
    run(&format!("ip -n {host} address add 10.99.0.1/24 dev host"));
    run(&format!("ip -n {host} -6 address add fd99::1/64 dev host nodad"));
    let (region, memory) = memory(&pod);
    let mut frames = FrameCache::new(region);
    let mut port = open(&memory, &pod, PortKind::Uplink).unwrap();
    assert!(!port.facts.partial_checksum, "on a wire checksums are finished");
    let queue = port.queues[0].as_mut();
    let target = mac(node, "host");
    let mut far = RawWire::open(&pod.pod.namespace, "eth0");
    let (v4, v6) = (socket(node, "10.99.0.1:6081"), socket(node, "[fd99::1]:6081"));
    let other = socket(node, "10.99.0.1:22");

    let claim = |address: IpAddr| Claim { address, protocol: 17, port: 6081 };
    let claims = [claim([10, 99, 0, 1].into()), claim("fd99::1".parse().unwrap())];
    port.attachment.set_claims(&claims).unwrap();
    for sample in
        [udp(target, 4, 6081, false), udp(target, 4, 6081, true), udp(target, 6, 6081, false)]
    {
        assert!(far.send(&sample));
        assert_eq!(receive(queue, &mut frames, PATIENCE), [sample]);
    }
    assert_eq!((delivered(&v4), delivered(&v6)), (None, None));

    assert!(far.send(&udp(target, 4, 22, false)));
    assert!(delivered(&other).is_some(), "another port is the node's");
    // A fragment that is not the first has no port: its kernel's, which cannot use it alone.
    let mut fragment = udp(target, 4, 6081, false);
    fragment.bytes[21] = 1;
    assert!(far.send(&fragment));
    assert_eq!(receive(queue, &mut frames, SILENCE), []);

    port.attachment.set_claims(&claims[1..]).unwrap();
    assert!(far.send(&udp(target, 4, 6081, false)));
    assert!(delivered(&v4).is_some(), "a claim that was given up is the node's again");
    port.attachment.set_claims(&claims).unwrap();
    let AfXdpPort { queues, attachment, .. } = port;
    queues.into_iter().for_each(|queue| queue.close(&mut frames));
    assert!(far.send(&udp(target, 4, 6081, false)));
    assert_eq!(delivered(&v4), None, "without a socket a claim drops");
    assert!(far.send(&udp(target, 4, 22, false)));
    assert!(delivered(&other).is_some(), "and the node's traffic passes");
    attachment.detach().unwrap();
    drop(frames);
    assert_eq!(region.free_frames(), region.frames());
}

//! What a queue does when the kernel, or the Pod behind it, does not play along.

use std::process::Command;

use super::*;
use crate::netns::Namespace;

/// A queue on one end of a veth pair, in a namespace of its own.
fn veth_queue(name: &str, region: &'static Region) -> AfXdpQueue {
    let namespace = Namespace::isolated(name).expect("namespace");
    for line in ["link add near type veth peer far", "link set near up", "link set far up"] {
        let ip = format!("-n {name} {line}");
        let status = Command::new("ip").args(ip.split(' ')).status().expect("ip");
        assert!(status.success(), "{ip}");
    }
    let memory = FrameMemory::register(region, &namespace).expect("registration");
    assert!(memory.metadata());
    let index = || nix::net::if_::if_nametoindex("near").expect("index");
    let open = || Socket::open(&memory, "near", index(), 0, 1024).expect("socket");
    let socket = namespace.run(open).expect("enter");
    AfXdpQueue::new(socket, &memory, ("near", 0), PortKind::Pod, 1500)
}

/// No kick, so that every frame stays with the kernel: a Pod that never takes a packet.
#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_receiver_that_takes_nothing_cannot_hold_the_last_frames() {
    let name = format!("seine-hoard-{}", std::process::id());
    let region = Region::map(4096, 2048).expect("memory");
    let mut queue = veth_queue(&name, region);
    let mut frames = FrameCache::new(region);
    let mut spare: Vec<Frame> = std::iter::from_fn(|| frames.allocate()).collect();
    let batch = |spare: &mut Vec<Frame>| -> Batch {
        let mut some: Batch = spare.drain(..64).collect();
        some.iter_mut().for_each(|frame| assert!(frame.fill(&[0; 60])));
        some
    };
    for expected in [0, 0, 64] {
        let mut some = batch(&mut spare);
        queue.transmit(&mut frames, &mut some);
        assert_eq!(some.len(), expected, "left of a batch");
        some.drain(..).for_each(|frame| frames.free(frame));
    }
    // Enough are free again.
    spare.drain(..2048).for_each(|frame| frames.free(frame));
    frames.drain();
    let mut some = batch(&mut spare);
    queue.transmit(&mut frames, &mut some);
    assert!(some.is_empty());

    spare.drain(..).for_each(|frame| frames.free(frame));
    Box::new(queue).close(&mut frames);
    frames.drain();
    assert_eq!(region.free_frames(), 4096);
    Namespace::remove(&name).expect("remove");
}

/// The kernel answers EINVAL to bad metadata, leaves the descriptor in the ring and completes
/// its frame on each kick. `post` never writes such a descriptor, so it is forged here.
#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_descriptor_that_the_kernel_refuses_stops_the_queue_and_no_frame_is_doubled() {
    let name = format!("seine-refused-{}", std::process::id());
    let region = Region::map(512, 2048).expect("memory");
    let mut frames = FrameCache::new(region);
    let mut queue = veth_queue(&name, region);
    queue.fill(&mut frames);

    let mut frame = frames.allocate().expect("frame");
    assert!(frame.fill(&[0; 60]));
    // Beyond the end of the packet.
    let forged = [METADATA_CHECKSUM, u64::MAX].map(u64::to_ne_bytes).concat();
    frame.buffer_mut()[HEADROOM - METADATA_BYTES..HEADROOM - 8].copy_from_slice(&forged);
    let addr = frame.offset() + HEADROOM as u64;
    queue.sending.insert(frame.release());
    let options = XDP_TX_METADATA;
    queue.socket.transmit.push(libc::xdp_desc { addr, len: 60, options });
    queue.socket.transmit.publish();
    for _ in 0..4 {
        queue.flush(&mut frames);
    }
    assert!(matches!(queue.fault(), Some(QueueFault::Desynchronised { queue: 0, .. })));

    Box::new(queue).close(&mut frames);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(frame) = frames.allocate() {
        assert!(seen.insert(frame.release()), "a frame came back twice");
    }
    assert_eq!(seen.len(), 512);
    Namespace::remove(&name).expect("remove");
}

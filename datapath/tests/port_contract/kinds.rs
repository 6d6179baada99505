//! The kinds of port, and the suite run over each.

use seine_datapath::frame::{FrameCache, Region};
use seine_datapath::port::af_xdp::{self, AfXdpOptions, FrameMemory};
use seine_datapath::port::memory::{self, MemoryOptions, MemoryWire};
use seine_pipeline::address::PortKind;

use crate::device::{Pod, RawWire};
use crate::{Bench, Kind, Sample, Wire};

/// Runs tests of the suite over a kind, under an attribute.
macro_rules! contract {
    ($attribute:tt $module:ident, $kind:expr; $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                #$attribute
                fn $test() {
                    crate::suite::$test(&$kind);
                }
            )+
        }
    };
}

contract!([cfg(all())] memory_port, super::Memory { partial: true };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    transmit_leaves_what_does_not_fit,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] memory_port_without_partial_checksum, super::Memory { partial: false };
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([ignore = "needs CAP_NET_ADMIN"] af_xdp_port, super::AfXdp;
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    transmit_leaves_what_does_not_fit,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

/// A memory port.
struct Memory {
    partial: bool,
}

impl Kind for Memory {
    fn open(&self, offered: &[Sample]) -> Bench {
        let region = Region::map(8192, 2048).unwrap();
        let options = MemoryOptions {
            ring_frames: 512,
            partial_checksum: self.partial,
            frame_bytes_max: 1464,
            ..MemoryOptions::default()
        };
        let (mut queues, mut wires) = memory::open(region, options).unwrap();
        let (queue, mut wire) = (queues.remove(0), wires.remove(0));
        assert!(offered.iter().all(|sample| wire.send(sample)));
        Bench {
            region,
            frames: FrameCache::new(region),
            queue,
            wire: Box::new(wire),
            surroundings: Box::new(()),
        }
    }

    fn transmit_ring(&self) -> Option<usize> {
        Some(512)
    }

    fn oversize(&self) -> usize {
        1465
    }
}

impl Wire for MemoryWire {
    fn send(&mut self, sample: &Sample) -> bool {
        self.inject(&sample.bytes, sample.checksum)
    }

    fn collect(&mut self) -> Option<Sample> {
        let (bytes, checksum) = MemoryWire::collect(self)?;
        Some(Sample { bytes, checksum })
    }
}

/// The host end of a veth, its Pod's end a raw socket.
struct AfXdp;

impl Kind for AfXdp {
    fn open(&self, offered: &[Sample]) -> Bench {
        let pod = Pod::new(1, 1450);
        let region = Region::map(8192, 2048).unwrap();
        let memory = FrameMemory::register(region, &pod.ports.namespace).unwrap();
        let options = AfXdpOptions {
            interface: "host",
            namespace: &pod.ports.namespace,
            queues: 1,
            pins: &pod.pins,
            kind: PortKind::Pod,
        };
        let mut port = af_xdp::open(&memory, options).unwrap_or_else(|error| panic!("{error}"));
        let mut wire = RawWire::open(&pod.pod.namespace, "eth0");
        assert!(offered.iter().all(|sample| wire.send(sample)));
        Bench {
            region,
            frames: FrameCache::new(region),
            queue: port.queues.remove(0),
            wire: Box::new(wire),
            surroundings: Box::new((port.attachment, memory, pod)),
        }
    }

    fn transmit_ring(&self) -> Option<usize> {
        Some(1024)
    }

    fn oversize(&self) -> usize {
        1469
    }
}

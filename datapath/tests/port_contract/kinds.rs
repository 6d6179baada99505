//! The kinds of port, and the suite run over each.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use seine_datapath::frame::{FrameCache, Region};
use seine_datapath::port::af_xdp::{self, AfXdpOptions, FrameMemory};
use seine_datapath::port::memory::{self, MemoryOptions, MemoryWire};
use seine_datapath::port::pcap;
use seine_datapath::port::tap::{self, TapOptions};
use seine_datapath::port::vhost_user::Mode;
use seine_pipeline::address::PortKind;
use seine_pipeline::packet::Checksum;

use crate::device::{Pod, RawWire, Room, run};
use crate::guest::{SPLIT, Shape};
use crate::{Bench, Kind, Sample, Wire};

/// Runs tests of the suite over a kind, under an attribute.
macro_rules! contract {
    ($attribute:tt $module:ident, $kind:expr; $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                #$attribute
                fn $test() {
                    use super::*;
                    crate::suite::$test(&$kind);
                }
            )+
        }
    };
}

contract!([cfg(all())] memory_port, Memory { partial: true };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    a_queue_goes_on_in_another_thread,
    transmit_leaves_what_does_not_fit,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] memory_port_without_partial_checksum, Memory { partial: false };
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([ignore = "needs CAP_NET_ADMIN"] af_xdp_port, AfXdp;
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    a_queue_goes_on_in_another_thread,
    transmit_leaves_what_does_not_fit,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([ignore = "needs CAP_NET_ADMIN"] tap_port, Tap { io_uring: true };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    a_queue_goes_on_in_another_thread,
    transmit_leaves_what_does_not_fit,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([ignore = "needs CAP_NET_ADMIN"] tap_port_without_io_uring, Tap { io_uring: false };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    a_queue_goes_on_in_another_thread,
    transmit_leaves_what_does_not_fit,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] pcap_port, Pcap;
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    transmit_leaves_what_does_not_fit,
    an_empty_frame_is_refused_and_counted,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] vhost_user_split, SPLIT;
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    a_queue_goes_on_in_another_thread,
    transmit_leaves_what_does_not_fit,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] vhost_user_client_with_event_index,
    Shape { mode: Mode::Client, event_index: true, apart: true, ..SPLIT };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] vhost_user_split_merged_and_indirect,
    Shape { indirect: true, apart: true, receive_bytes: 200, ..SPLIT };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] vhost_user_packed, Shape { packed: true, ..SPLIT };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_batch_is_filled_and_no_further,
    a_queue_goes_on_in_another_thread,
    transmit_leaves_what_does_not_fit,
    a_frame_too_long_for_the_device_is_refused_and_counted,
    an_empty_frame_is_refused_and_counted,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
    a_partial_checksum_passes_both_ways_or_is_refused,
);

contract!([cfg(all())] vhost_user_packed_merged_in_chains,
    Shape { packed: true, event_index: true, apart: true, receive_bytes: 200, ..SPLIT };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    a_queue_at_rest_wakes,
    no_frame_is_lost_or_doubled,
);

contract!([cfg(all())] vhost_user_packed_indirect,
    Shape { packed: true, indirect: true, apart: true, ..SPLIT };
    packets_are_received_unchanged_and_in_order,
    packets_are_transmitted_unchanged_and_in_order,
    transmit_leaves_what_does_not_fit,
    no_frame_is_lost_or_doubled,
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
        Some(2048)
    }

    fn oversize(&self) -> usize {
        1469
    }
}

/// A tap, its kernel side a raw socket on the interface.
struct Tap {
    io_uring: bool,
}

impl Kind for Tap {
    fn open(&self, offered: &[Sample]) -> Bench {
        let room = Room::new("tap");
        let region = Region::map(8192, 2048).unwrap();
        let options = TapOptions {
            interface: "gateway",
            namespace: &room.namespace,
            queues: 1,
            io_uring: self.io_uring,
            mac: None,
        };
        let mut port = tap::open(region, options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(port.io_uring, self.io_uring, "this kernel has io_uring");
        run(&format!("ip -n {} link set gateway up", room.name));
        let mut wire = RawWire::open(&room.namespace, "gateway");
        assert!(offered.iter().all(|sample| wire.send(sample)));
        Bench {
            region,
            frames: FrameCache::new(region),
            queue: port.queues.remove(0),
            wire: Box::new(wire),
            surroundings: Box::new(room),
        }
    }

    fn transmit_ring(&self) -> Option<usize> {
        self.io_uring.then_some(128)
    }

    fn oversize(&self) -> usize {
        unreachable!("a tap takes whatever a frame holds")
    }
}

/// A capture to receive from, one to transmit to.
struct Pcap;

impl Kind for Pcap {
    fn open(&self, offered: &[Sample]) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) =
            (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
        let mut writer = PcapWriter::new(File::create(&source).unwrap()).unwrap();
        for sample in offered {
            let len = sample.bytes.len() as u32;
            let packet = PcapPacket::new(Duration::ZERO, len, &sample.bytes);
            writer.write_packet(&packet).unwrap();
        }
        let region = Region::map(8192, 2048).unwrap();
        Bench {
            region,
            frames: FrameCache::new(region),
            queue: pcap::open(Some(&source), Some(&target)).unwrap(),
            wire: Box::new(Capture { path: target, reader: None }),
            surroundings: Box::new(directory),
        }
    }

    fn transmit_ring(&self) -> Option<usize> {
        None
    }

    fn live(&self) -> bool {
        false
    }

    fn oversize(&self) -> usize {
        unreachable!("a capture takes whatever a frame holds")
    }
}

/// The capture that grows.
struct Capture {
    path: PathBuf,
    reader: Option<PcapReader<File>>,
}

impl Wire for Capture {
    fn send(&mut self, _sample: &Sample) -> bool {
        false
    }

    fn collect(&mut self) -> Option<Sample> {
        if self.reader.is_none() {
            // Empty until the first flush.
            self.reader = PcapReader::new(File::open(&self.path).unwrap()).ok();
        }
        let packet = self.reader.as_mut()?.next_packet()?.unwrap();
        Some(Sample { bytes: packet.data.into_owned(), checksum: Checksum::Complete })
    }
}

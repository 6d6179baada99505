//! DPDK's own driver as the guest: `dpdk-testpmd` with net_virtio_user, which sends back what it
//! gets. Neither side knows the other's code.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use seine_datapath::frame::Frame;

use super::*;
use crate::device::unique;

/// A running testpmd, ended with the test.
struct Testpmd(Child);

impl Testpmd {
    /// Starts one with a device on `socket`, and what else is to be said about the device.
    fn start(socket: &Path, device: &str, application: &[&str]) -> Testpmd {
        let device = format!("net_virtio_user0,path={},{device}", socket.display());
        let prefix = format!("--file-prefix={}", unique("testpmd"));
        // Without huge pages, which not every machine has to spare: its memory is then a memfd.
        let environment = ["--no-pci", "--no-huge", "-m", "256", "--no-telemetry", "-l", "0,1"];
        let child = Command::new("dpdk-testpmd")
            .args(environment)
            .args([prefix.as_str(), "--vdev", &device, "--"])
            .args(["--forward-mode=macswap", "--auto-start", "--total-num-mbufs=4096"])
            .args(application)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dpdk-testpmd, of Debian's package dpdk-dev");
        Testpmd(child)
    }

    /// Ends it at once, as a crash does.
    fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if let Some(stdin) = &mut self.0.stdin {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends packets through every queue until so many came back; says how many did.
fn echo(port: &mut VhostUserPort, frames: &mut FrameCache, count: usize) -> usize {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut came, mut number) = (0, 0);
    while came < count && Instant::now() < deadline {
        for queue in &mut port.queues {
            let sample = partial_udp([2, 0, 0, 0, 0, 9], &[number; 600]);
            let mut out = batch(frames, &[sample.clone(), Sample::numbered(number.into(), 800)]);
            number = number.wrapping_add(1);
            queue.transmit(frames, &mut out);
            queue.flush(frames);
            out.drain(..).for_each(|frame| frames.free(frame));
            let mut back = Batch::new();
            queue.receive(frames, &mut back);
            came += back.iter().filter(|frame| is_echo(frame)).count();
            back.drain(..).for_each(|frame| frames.free(frame));
            assert_eq!(queue.fault(), None);
            assert_eq!(queue.stats().malformed, 0);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    came
}

/// Whether it is one of ours with its MAC addresses swapped.
fn is_echo(frame: &Frame) -> bool {
    let bytes = frame.bytes();
    match bytes[12..14] {
        [0x88, 0xb5] => {
            let number = u32::from_be_bytes(bytes[14..18].try_into().unwrap());
            let sent = Sample::numbered(number, 800);
            bytes[..6] == sent.bytes[6..12] && bytes[12..] == sent.bytes[12..]
        }
        [8, 0] => {
            let sent = partial_udp([2, 0, 0, 0, 0, 9], &[bytes[42]; 600]);
            bytes[..6] == sent.bytes[6..12] && bytes.len() == sent.bytes.len()
        }
        _ => false,
    }
}

#[test]
#[ignore = "needs dpdk-testpmd"]
fn testpmd_echoes_over_every_kind_of_ring_and_comes_back_after_a_crash() {
    let offloads = ["--tx-offloads=0xc", "--rx-offloads=0xc"];
    let plain: [&str; 0] = [];
    for (device, application) in [
        ("queue_size=256", &plain[..]),
        ("queue_size=1024,mrg_rxbuf=0", &plain),
        ("queue_size=1024", &offloads),
        ("queue_size=256,packed_vq=1", &plain),
        ("queue_size=512,packed_vq=1,mrg_rxbuf=0,in_order=0", &offloads),
        ("queues=2,queue_size=256", &["--rxq=2", "--txq=2"]),
    ] {
        let place = Place::new();
        let workers = if device.starts_with("queues=2") { 2 } else { 1 };
        let mut port = place.open(Mode::Server, workers, false);
        let mut frames = FrameCache::new(place.region);
        for round in 0..2 {
            let guest = Testpmd::start(&place.socket(), device, application);
            let came = echo(&mut port, &mut frames, 2000);
            assert!(came >= 2000, "round {round} of `{device}`: {came} came back");
            guest.kill();
        }
        close(&place, port, frames);
    }
}

#[test]
#[ignore = "needs dpdk-testpmd"]
fn testpmd_listens_and_is_found_again_when_the_port_comes_back() {
    let place = Place::new();
    let guest = Testpmd::start(&place.socket(), "queue_size=256,server=1", &[]);
    for round in 0..3 {
        let mut port = place.open(Mode::Client, 1, false);
        let mut frames = FrameCache::new(place.region);
        let came = echo(&mut port, &mut frames, 2000);
        assert!(came >= 2000, "round {round}: {came} came back");
        close(&place, port, frames);
    }
    drop(guest);
}

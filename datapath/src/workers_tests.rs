//! Workers with threads of their own: what they answer, how they end, where they run.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::counters::PortCounters;
use crate::crash;
use crate::placement::usable_cores;
use crate::port::memory::{self, MemoryOptions};
use crate::slot::Slot;
use crate::worker::tests::{datagram_by, objects, tripping_packet};
use crossbeam::queue::ArrayQueue;
use seine_pipeline::address::PortId;
use seine_pipeline::packet::Checksum;
use std::os::unix::process::ExitStatusExt;
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, Ordering};

const CRASH_FOLDER: &str = "SEINE_TEST_CRASH_FOLDER";

fn start_one(crash_folder: PathBuf, region: &'static Region) -> Workers {
    let poll = Poll::Adaptive { spin: Duration::from_micros(20) };
    let learned = Arc::new(Learned::new(7));
    let placement = Placement::one_each([None]);
    let plan = WorkersPlan { placement, poll, crash_folder, learned, sample_every: 1 };
    let state = State::new(7).apply(&objects()).unwrap();
    start(&plan, region, &Arc::default(), state).unwrap().1
}

/// Not a test of its own: what the next one runs as a process.
#[test]
fn process_that_panics() {
    let Ok(folder) = std::env::var(CRASH_FOLDER) else { return };
    crash::install_hook();
    let region = Region::map(256, 2048).unwrap();
    let workers = start_one(folder.into(), region);
    let (mut queues, mut wires) = memory::open(region, MemoryOptions::default()).unwrap();
    let slot = Slot::new(PortId::new(2).unwrap(), queues.remove(0), Arc::default());
    assert!(wires[0].inject(&tripping_packet(), Checksum::Complete));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(workers[0].ask(|done| Command::Add(slot, done))).unwrap();
    std::thread::sleep(Duration::from_secs(10));
}

#[test]
fn a_worker_that_panics_saves_its_frame_and_ends_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let output = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "workers::tests::process_that_panics", "--nocapture"])
        .env(CRASH_FOLDER, folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let [capture, text] = files.try_into().unwrap();
    let report = std::fs::read_to_string(text).unwrap();
    assert!(report.starts_with("worker 0: panicked at "), "{report}");
    assert!(report.contains("tripped\ningress port 2\n"), "{report}");
    let mut reader = pcap_file::pcap::PcapReader::new(std::fs::File::open(capture).unwrap());
    let packet = reader.as_mut().unwrap().next_packet().unwrap().unwrap();
    assert_eq!(*packet.data, tripping_packet());
}

#[test]
fn a_slot_for_a_port_that_has_one_comes_back() {
    let region = Region::map(256, 2048).unwrap();
    let workers = start_one(PathBuf::new(), region);
    let options = MemoryOptions { queues: 2, ..MemoryOptions::default() };
    let (queues, _wires) = memory::open(region, options).unwrap();
    let counters: Arc<PortCounters> = Arc::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let answers: Vec<bool> = queues
        .into_iter()
        .map(|queue| {
            let slot = Slot::new(PortId::new(2).unwrap(), queue, counters.clone());
            let answer = runtime.block_on(workers[0].ask(|done| Command::Add(slot, done)));
            answer.unwrap().is_none()
        })
        .collect();
    assert_eq!(answers, [true, false]);
}

const WORKERS: usize = 2;

/// Two Pods, each with a queue for each worker, and numbers that go from one to the other.
struct Stream {
    wires: Vec<Vec<memory::MemoryWire>>,
    sent: [u32; WORKERS],
    arrived: [u32; WORKERS],
}

impl Stream {
    /// Sends and receives, never more at once than the rings hold, and pauses now and then, so that
    /// workers go to sleep.
    fn flow(&mut self, ended: &AtomicBool) {
        let mut last = std::time::Instant::now();
        while !ended.load(Ordering::Relaxed) || self.arrived != self.sent {
            for queue in 0..WORKERS {
                let under_way = self.sent[queue] - self.arrived[queue];
                if under_way < 100 && !ended.load(Ordering::Relaxed) {
                    let number = self.sent[queue].to_be_bytes();
                    let packet = datagram_by((2, 4000 + queue as u16), (3, 53), &number);
                    assert!(self.wires[0][queue].inject(&packet, Checksum::Complete));
                    self.sent[queue] += 1;
                    if self.sent[queue].is_multiple_of(1000) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                while let Some((packet, _)) = self.wires[1][queue].collect() {
                    let number: [u8; 4] = packet[packet.len() - 4..].try_into().unwrap();
                    assert_eq!(u32::from_be_bytes(number), self.arrived[queue], "out of order");
                    self.arrived[queue] += 1;
                    last = std::time::Instant::now();
                }
            }
            let stuck = self.arrived != self.sent && last.elapsed() > Duration::from_secs(20);
            assert!(!stuck, "sent {:?}, arrived {:?}", self.sent, self.arrived);
        }
    }
}

#[test]
fn workers_go_from_two_threads_to_one_and_back_while_every_packet_arrives_in_order() {
    let region = Region::map(4096, 2048).unwrap();
    let learned = Arc::new(Learned::new(7));
    let [apart, together] = [vec![None, None], vec![None]].map(|it| Placement::in_turn(it, 2));
    let sleepy = Poll::Adaptive { spin: Duration::from_micros(20) };
    let (placement, crash_folder) = (apart.clone(), PathBuf::new());
    let plan = WorkersPlan {
        placement,
        poll: sleepy,
        crash_folder,
        learned: learned.clone(),
        sample_every: 1,
    };
    let state = State::new(7).apply(&objects()).unwrap();
    let (_writer, mut workers) = start(&plan, region, &Arc::default(), state).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut wires = Vec::new();
    for port in 2..4 {
        let options = MemoryOptions { queues: WORKERS, ..MemoryOptions::default() };
        let (queues, far) = memory::open(region, options).unwrap();
        for (worker, queue) in workers.iter().zip(queues) {
            let slot = Slot::new(PortId::new(port).unwrap(), queue, Arc::default());
            assert!(
                runtime.block_on(worker.ask(|done| Command::Add(slot, done))).unwrap().is_none()
            );
        }
        wires.push(far);
    }
    let mut stream = Stream { wires, sent: [0; WORKERS], arrived: [0; WORKERS] };
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flowing = scope.spawn(|| stream.flow(&ended));
        for round in 0..40 {
            let placement = if round % 2 == 0 { &together } else { &apart };
            let poll = if round % 4 == 0 { Poll::Spin } else { sleepy };
            runtime.block_on(workers.place(placement, poll)).unwrap();
            assert_eq!(workers.shifts.len(), placement.cores().len());
            assert!(workers.iter().all(|worker| worker.poll == poll));
            std::thread::sleep(Duration::from_millis(5));
        }
        ended.store(true, Ordering::Relaxed);
        flowing.join().unwrap();
    });
    assert_eq!(learned.connections.occupancy().used, WORKERS as u64);
    assert!(stream.sent.iter().all(|&sent| sent > 100), "{:?}", stream.sent);
}

#[test]
fn a_core_that_is_not_there_is_refused_and_the_workers_stay() {
    let region = Region::map(256, 2048).unwrap();
    let mut workers = start_one(PathBuf::new(), region);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let nowhere = Placement::one_each([Some(1000)]);
    let refused = runtime.block_on(workers.place(&nowhere, Poll::Spin)).unwrap_err();
    assert_eq!(refused.to_string(), "no thread of this process may run on core 1000");
    assert_eq!((workers[0].core, workers.shifts.len()), (None, 1));
    assert_ne!(workers[0].poll, Poll::Spin);
    runtime.block_on(workers[0].ask(Command::Sample)).unwrap();
    let somewhere = Placement::one_each(usable_cores().first().map(|&core| Some(core)));
    runtime.block_on(workers.place(&somewhere, Poll::Spin)).unwrap();
    assert_eq!((workers[0].core, workers.shifts.len()), (Some(usable_cores()[0]), 1));
    runtime.block_on(workers[0].ask(Command::Sample)).unwrap();
}

#[test]
fn an_answer_that_comes_when_time_is_up_is_taken_or_stays_with_who_answers() {
    const ANSWERS: usize = 50_000;
    let asked = ArrayQueue::<oneshot::Sender<usize>>::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (taken, kept) = std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let mut kept = 0;
            for number in 0..ANSWERS {
                let done = loop {
                    match asked.pop() {
                        Some(done) => break done,
                        None => std::hint::spin_loop(),
                    }
                };
                (0..number % 256).for_each(|_| std::hint::spin_loop());
                kept += usize::from(done.send(number).is_err());
            }
            kept
        });
        let taken = runtime.block_on(async {
            let mut taken = 0;
            for _ in 0..ANSWERS {
                let (done, answer) = oneshot::channel();
                let mut done = Some(done);
                while let Some(again) = done.take().and_then(|done| asked.push(done).err()) {
                    done = Some(again);
                }
                taken += usize::from(answer_within(Duration::ZERO, answer).await.is_some());
            }
            taken
        });
        (taken, answering.join().unwrap())
    });
    assert_eq!(taken + kept, ANSWERS);
}

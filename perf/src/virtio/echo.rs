//! A back end for tests, written on its own: it takes what a front end transmits and gives it back,
//! by the rules of VIRTIO 1.2, 2.7, and sees whether the front end keeps them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{BackendReqHandler, Error, Result, VhostUserBackendReqHandlerMut};

use super::front_end::{FrontEnd, FrontEndOptions, HEADER_BYTES, Listener};
use super::handshake::feature;
use super::memory::SharedMemory;

#[derive(Default)]
struct Ring {
    size: u16,
    /// Offsets of descriptors, available ring and used ring.
    places: [usize; 3],
    enabled: bool,
    seen: u16,
}

#[derive(Default)]
struct Echo {
    features: u64,
    guest: u64,
    user: u64,
    memory: Option<SharedMemory>,
    rings: [Ring; 2],
    kick: Option<File>,
}

impl Echo {
    /// Moves what it can from the second ring into the first. Says how many frames.
    fn turn(&mut self, polls: bool) -> usize {
        let mut moved = 0;
        while let Some((from, sent)) = self.next(1) {
            let Some((to, room)) = self.next(0) else { break };
            let memory = self.memory.as_mut().unwrap();
            let mut bytes = vec![0; sent.1];
            memory.read(sent.0, &mut bytes);
            assert!(bytes.len() <= room.1, "no room for {} bytes", bytes.len());
            memory.write(room.0, &bytes);
            self.give_back(0, to, bytes.len(), polls);
            self.give_back(1, from, 0, polls);
            moved += 1;
        }
        moved
    }

    /// The next available descriptor of a ring, and the place and length of its buffer.
    fn next(&mut self, ring: usize) -> Option<(u16, (usize, usize))> {
        let memory = self.memory.as_ref().unwrap();
        let Ring { size, places: [descriptors, available, _], seen, .. } = self.rings[ring];
        let relaxed = Ordering::Relaxed;
        if memory.word_16(available + 2).load(Ordering::Acquire) == seen {
            return None;
        }
        assert_eq!(memory.word_16(available).load(relaxed), 1, "it polls and says so");
        let id = memory.word_16(available + 4 + 2 * usize::from(seen % size)).load(relaxed);
        assert!(id < size);
        let at = descriptors + 16 * usize::from(id);
        let address = memory.word_64(at).load(relaxed);
        let length = memory.word_32(at + 8).load(relaxed);
        let flags = memory.word_16(at + 12).load(relaxed);
        assert_eq!(flags, if ring == 0 { 2 } else { 0 }, "what the device may write, and no chain");
        Some((id, ((address - self.guest) as usize, length as usize)))
    }

    fn give_back(&mut self, ring: usize, id: u16, bytes: usize, polls: bool) {
        let memory = self.memory.as_ref().unwrap();
        let Ring { size, places: [_, _, used], seen, .. } = &mut self.rings[ring];
        let at = *used + 4 + 8 * usize::from(*seen % *size);
        memory.word_32(at).store(id.into(), Ordering::Relaxed);
        memory.word_32(at + 4).store(bytes as u32, Ordering::Relaxed);
        memory.word_16(*used).store(polls.into(), Ordering::Relaxed);
        *seen = seen.wrapping_add(1);
        memory.word_16(*used + 2).store(*seen, Ordering::Release);
    }
}

impl VhostUserBackendReqHandlerMut for Echo {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }
    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }
    fn reset_device(&mut self) -> Result<()> {
        Ok(())
    }
    fn get_features(&mut self) -> Result<u64> {
        Ok(feature::VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }
    fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = features;
        Ok(())
    }
    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        mut files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        assert_eq!((regions.len(), files.len()), (1, 1));
        let region = regions[0];
        (self.guest, self.user) = (region.guest_phys_addr, region.user_addr);
        let file = files.pop().unwrap().into();
        self.memory = Some(SharedMemory::adopt(file, region.memory_size as usize).unwrap());
        Ok(None)
    }
    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.rings[index as usize].size = num as u16;
        Ok(())
    }
    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        let places = [descriptor, available, used].map(|it| (it - self.user) as usize);
        self.rings[index as usize].places = places;
        Ok(())
    }
    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.rings[index as usize].seen = base as u16;
        Ok(())
    }
    fn get_vring_base(&mut self, _: u32) -> Result<VhostUserVringState> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        if index == 1 {
            self.kick = fd;
        }
        Ok(())
    }
    fn set_vring_call(&mut self, _: u8, _: Option<File>) -> Result<()> {
        Ok(())
    }
    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> Result<()> {
        Ok(())
    }
    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ)
    }
    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(2)
    }
    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.rings[index as usize].enabled = enable;
        Ok(())
    }
    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn set_gpu_socket(&mut self, _: vhost::vhost_user::GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(1)
    }
    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("not asked here"))
    }
    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("not asked here"))
    }
}

/// A back end in a thread of its own; ends the connection when it is dropped.
struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Running {
    fn start(path: PathBuf, listens: bool, polls: bool) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let listener = listens.then(|| std::os::unix::net::UnixListener::bind(&path).unwrap());
        let thread = std::thread::spawn(move || {
            let stream = match listener {
                Some(listener) => listener.accept().unwrap().0,
                None => UnixStream::connect(&path).unwrap(),
            };
            let echo = Arc::new(Mutex::new(Echo::default()));
            let mut handler = BackendReqHandler::from_stream(stream, echo.clone());
            while !echo.lock().unwrap().rings.iter().all(|ring| ring.enabled) {
                handler.handle_request().unwrap();
            }
            let mut kicks = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut echo = echo.lock().unwrap();
                if echo.turn(polls) > 0 {
                    continue;
                }
                std::thread::yield_now();
                let mut count = [0; 8];
                let kick = echo.kick.as_mut().unwrap();
                if std::io::Read::read(kick, &mut count).is_ok() {
                    kicks += u64::from_ne_bytes(count);
                }
            }
            kicks
        });
        Running { stop, thread: Some(thread) }
    }

    /// Ends it and says how often it was kicked.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn socket(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("seine-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn in_client_mode(path: &Path, polls: bool, options: FrontEndOptions) -> (FrontEnd, Running) {
    let listener = Listener::bind(path).unwrap();
    let running = Running::start(path.to_owned(), false, polls);
    (listener.accept(&options, Duration::from_secs(20)).unwrap(), running)
}

/// Sends frames of many lengths, some with a header of their own; each must come back unchanged.
fn everything_comes_back(front_end: &mut FrontEnd, frames: usize) {
    let frame = |number: usize| {
        let mut header = [0; HEADER_BYTES];
        header[3] = if number.is_multiple_of(3) { number as u8 } else { 0 };
        let length = 60 + number * 7 % 1000;
        (header, (0..length).map(|at| (at * 31 + number) as u8).collect::<Vec<u8>>())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut sent, mut came) = (0, 0);
    while came < frames {
        assert!(Instant::now() < deadline, "{came} of {sent} came back");
        while sent < frames && front_end.reclaim() > 0 {
            let (header, bytes) = frame(sent);
            let (front, back) = bytes.split_at(20);
            assert!(front_end.transmit_with(header, 0, &[front, back]));
            sent += 1;
        }
        front_end.flush();
        let count = front_end.receive(usize::MAX, |received| {
            let (header, bytes) = frame(came);
            let mut buffer = [0; 2048];
            assert_eq!(received.copy_to(&mut buffer), bytes);
            assert_eq!((received.header(), received.len()), (header, bytes.len()));
            came += 1;
        });
        if count == 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_back_end_in_client_mode_gets_every_frame_and_none_is_changed() {
    let path = socket("client");
    let options = FrontEndOptions { ring_size: 64, ..FrontEndOptions::default() };
    let (mut front_end, running) = in_client_mode(&path, true, options);
    everything_comes_back(&mut front_end, 70_000);
    assert!(!front_end.is_closed());
    running.end();
    assert!(front_end.is_closed());
}

#[test]
fn a_back_end_in_server_mode_that_asks_for_it_is_kicked() {
    let path = socket("server");
    let running = Running::start(path.clone(), true, false);
    let mut front_end = FrontEnd::connect(&path, &FrontEndOptions::default()).unwrap();
    everything_comes_back(&mut front_end, 1000);
    assert!(front_end.kicks() > 0);
    assert!(running.end() > 0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_full_ring_and_a_frame_too_long_are_refused() {
    let path = socket("full");
    let options = FrontEndOptions { ring_size: 4, frame_bytes_max: 100, features: 0 };
    let (mut front_end, running) = in_client_mode(&path, true, options);
    assert!(!front_end.transmit(&[&[0; 101]]));
    // Nothing is flushed, so the back end takes none of them.
    assert_eq!((0..9).filter(|_| front_end.transmit(&[&[0; 100]])).count(), 4);
    assert_eq!(front_end.reclaim(), 0);
    running.end();
}

#[test]
fn what_a_back_end_lacks_is_named() {
    let path = socket("lacks");
    let options = FrontEndOptions { features: feature::HOST_TSO4, ..FrontEndOptions::default() };
    let listener = Listener::bind(&path).unwrap();
    let client = {
        let path = path.clone();
        std::thread::spawn(move || {
            let stream = UnixStream::connect(path).unwrap();
            let echo = Arc::new(Mutex::new(Echo::default()));
            let mut handler = BackendReqHandler::from_stream(stream, echo);
            while handler.handle_request().is_ok() {}
        })
    };
    let refused = listener.accept(&options, Duration::from_secs(20)).err().unwrap();
    assert!(refused.to_string().contains("0x800 of what is needed lacks"), "{refused}");
    client.join().unwrap();
}

#[test]
fn a_front_end_that_nobody_connects_to_says_where_it_waited() {
    let listener = Listener::bind(&socket("nobody")).unwrap();
    let refused = listener.accept(&FrontEndOptions::default(), Duration::ZERO).err().unwrap();
    assert!(refused.to_string().contains("nobody.sock"), "{refused}");
}

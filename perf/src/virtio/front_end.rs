//! One virtio network device as its driver sees it: frames go out, frames come in, by polling.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vhost::vhost_user::Frontend;

use super::handshake::{self, GUEST_ADDRESS, HandshakeError, RingEvents, feature};
use super::memory::{Pages, SharedMemory};
use super::ring::Ring;
use super::split::{Direction, Layout};

/// Bytes of the header before each frame (VIRTIO 1.2, 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// The header ends and the frame begins on a cache line.
const FRAME_AT: usize = 64;
const HEADER_AT: usize = FRAME_AT - HEADER_BYTES;
const LINE_BYTES: usize = 64;

/// What a front end is to be.
#[derive(Clone, Copy, Debug)]
pub struct FrontEndOptions {
    /// Buffers in each ring, a power of two.
    pub ring_size: u16,
    /// Bytes of the longest frame, its Ethernet header included.
    pub frame_bytes_max: usize,
    /// Features to insist on beside [`feature::VERSION_1`](super::feature::VERSION_1).
    pub features: u64,
}

impl Default for FrontEndOptions {
    fn default() -> FrontEndOptions {
        FrontEndOptions { ring_size: 256, frame_bytes_max: 1514, features: 0 }
    }
}

/// A socket that a back end in client mode connects to.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at a path where nothing is yet.
    pub fn bind(path: &Path) -> Result<Listener, HandshakeError> {
        let refused = |source| HandshakeError::Socket { path: path.to_owned(), source };
        let socket = UnixListener::bind(path).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        Ok(Listener { socket, path: path.to_owned() })
    }

    /// Waits for a back end and starts a device with it.
    pub fn accept(
        &self,
        options: &FrontEndOptions,
        limit: Duration,
    ) -> Result<FrontEnd, HandshakeError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => return FrontEnd::start(stream, &self.path, options),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(source) => {
                    return Err(HandshakeError::Socket { path: self.path.clone(), source });
                }
            }
            if Instant::now() >= deadline {
                let (path, seconds) = (self.path.clone(), limit.as_secs());
                return Err(HandshakeError::Nobody { path, seconds });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may be gone with its folder already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A device with one pair of queues, in memory of its own.
pub struct FrontEnd {
    memory: SharedMemory,
    receive: Ring,
    transmit: Ring,
    events: [RingEvents; 2],
    stream: UnixStream,
    /// Ends the device when it is dropped.
    _back_end: Frontend,
    /// What stands in the header of each transmit buffer.
    headers: Vec<[u8; HEADER_BYTES]>,
    receive_bytes: u32,
    kicks: u64,
}

impl FrontEnd {
    /// Starts a device with a back end that listens.
    pub fn connect(path: &Path, options: &FrontEndOptions) -> Result<FrontEnd, HandshakeError> {
        let refused = |source| HandshakeError::Socket { path: path.to_owned(), source };
        FrontEnd::start(UnixStream::connect(path).map_err(refused)?, path, options)
    }

    fn start(
        stream: UnixStream,
        path: &Path,
        options: &FrontEndOptions,
    ) -> Result<FrontEnd, HandshakeError> {
        let refused = |source| HandshakeError::Socket { path: path.to_owned(), source };
        stream.set_nonblocking(false).map_err(refused)?;
        let own = stream.try_clone().map_err(refused)?;
        let stride = (FRAME_AT + options.frame_bytes_max).next_multiple_of(2 * LINE_BYTES);
        let (receive, end) = Layout::at(0, options.ring_size, stride);
        let (transmit, end) = Layout::at(end, options.ring_size, stride);
        let memory = SharedMemory::new(end)
            .map_err(|source| HandshakeError::Memory { bytes: end, source })?;
        let buffer = HEADER_AT..FRAME_AT + options.frame_bytes_max;
        let receive_bytes = buffer.len() as u32;
        let packed = options.features & feature::RING_PACKED != 0;
        let ring = |layout, direction| {
            Ring::new(packed, &memory, (layout, GUEST_ADDRESS), buffer.clone(), direction)
        };
        let mut receive = ring(receive, Direction::Receive);
        let transmit = ring(transmit, Direction::Transmit);
        while let Some(id) = receive.take() {
            receive.offer(&memory, id, receive_bytes);
        }
        receive.publish(&memory);
        let events = [RingEvents::new()?, RingEvents::new()?];
        let mut back_end = handshake::negotiate(stream, path, options.features, events.len())?;
        let rings = [(receive.layout(), &events[0]), (transmit.layout(), &events[1])];
        handshake::start(&mut back_end, &memory, &rings, packed)?;
        Ok(FrontEnd {
            headers: vec![[0; HEADER_BYTES]; options.ring_size.into()],
            memory,
            receive,
            transmit,
            events,
            stream: own,
            _back_end: back_end,
            receive_bytes,
            kicks: 0,
        })
    }

    /// What its memory is made of.
    pub fn pages(&self) -> Pages {
        self.memory.pages()
    }

    /// How often the back end asked to be kicked; one that polls never does.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Whether the back end has closed the connection: a system call, not for every round.
    pub fn is_closed(&self) -> bool {
        handshake::is_closed(&self.stream)
    }

    /// Takes back what the back end is done with. Says how many frames can be transmitted now.
    #[inline]
    pub fn reclaim(&mut self) -> usize {
        while self.transmit.used(&self.memory).is_some() {}
        self.transmit.free().into()
    }

    /// Stages a frame made of these parts, without offload facts; the back end sees it after
    /// [`FrontEnd::flush`]. False when the ring is full.
    #[inline]
    pub fn transmit(&mut self, parts: &[&[u8]]) -> bool {
        self.transmit_with([0; HEADER_BYTES], 0, parts)
    }

    /// The same with a header of its own, and of so many bytes at least: what the parts leave is
    /// as the buffer has it, zeros where nothing was ever written. A frame that is longer than the
    /// buffers is refused.
    #[inline]
    pub fn transmit_with(
        &mut self,
        header: [u8; HEADER_BYTES],
        frame_bytes: usize,
        parts: &[&[u8]],
    ) -> bool {
        let given = parts.iter().map(|part| part.len()).sum::<usize>();
        let bytes = HEADER_BYTES + given.max(frame_bytes);
        if bytes > self.receive_bytes as usize {
            return false;
        }
        let Some(id) = self.transmit.take() else { return false };
        let mut at = self.transmit.bytes_of(id);
        let known = &mut self.headers[usize::from(id)];
        if *known != header {
            *known = header;
            self.memory.write(at, &header);
        }
        at += HEADER_BYTES;
        for part in parts {
            self.memory.write(at, part);
            at += part.len();
        }
        self.transmit.offer(&self.memory, id, bytes as u32);
        true
    }

    /// Lets the back end see what was staged, and kicks it if it asks for that.
    #[inline]
    pub fn flush(&mut self) {
        if self.transmit.publish(&self.memory) {
            self.kick(1);
        }
    }

    /// Passes on at most so many frames that came in, then gives their buffers back. Says how many
    /// there were.
    #[inline]
    pub fn receive(&mut self, limit: usize, mut frame: impl FnMut(Received<'_>)) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(used) = self.receive.used(&self.memory)
        {
            assert!(
                (HEADER_BYTES..=self.receive_bytes as usize).contains(&used.bytes),
                "the back end says it wrote {} bytes into a buffer of {}",
                used.bytes,
                self.receive_bytes
            );
            let at = self.receive.bytes_of(used.id);
            frame(Received { memory: &self.memory, at, bytes: used.bytes - HEADER_BYTES });
            // The one that just came back, or one before it.
            if let Some(id) = self.receive.take() {
                self.receive.offer(&self.memory, id, self.receive_bytes);
            }
            count += 1;
        }
        if count > 0 && self.receive.publish(&self.memory) {
            self.kick(0);
        }
        count
    }

    #[cold]
    fn kick(&mut self, ring: usize) {
        self.kicks += 1;
        // It fails only when the counter is full, and then the back end has a kick already.
        let _ = self.events[ring].kick.write(1);
    }
}

/// A frame that came in; its bytes stay in shared memory until they are asked for.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    memory: &'a SharedMemory,
    at: usize,
    bytes: usize,
}

impl Received<'_> {
    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Its header.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        self.memory.read(self.at, &mut header);
        header
    }

    /// So many of its first bytes; fewer if it is shorter.
    #[inline]
    pub fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        let bytes = self.bytes.min(buffer.len());
        let buffer = &mut buffer[..bytes];
        self.memory.read(self.at + HEADER_BYTES, buffer);
        buffer
    }
}

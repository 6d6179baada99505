//! One packet in so many that was decided about without the stages takes them, too, in a copy: what
//! is composed has to be what they decide.
//!
//! Compared are the port it leaves by, its bytes, and what is known of its checksum. Whether policy
//! would still let it through is not: a connection that it let through stays.

use super::{ComposedMemory, PacketBuffer};
use crate::address::PortId;
use crate::packet::{Checksum, Packet};
use crate::run::{Context, run};
use crate::verdict::Outcome;

/// Room in front of a copy, for headers that the stages put on.
const HEADROOM: usize = 128;
/// Bytes of the longest packet that is sampled.
const BYTES_MAX: usize = 4096;
/// Bytes of a packet that evidence shows.
const SHOWN: usize = 128;

/// Copies one hit in so many.
#[derive(Debug)]
pub struct Sampler {
    every: u32,
    left: u32,
    copy: Box<[u8]>,
    len: usize,
    checksum: Checksum,
    /// Packets that took the stages, too.
    pub samples: u64,
    /// Those of them that the stages decided otherwise about.
    pub mismatches: u64,
    evidence: Option<String>,
}

impl Sampler {
    /// One that copies each `every`-th hit; none when that is 0.
    pub fn new(every: u32) -> Sampler {
        Sampler {
            every,
            left: every,
            copy: vec![0; HEADROOM + BYTES_MAX].into(),
            len: 0,
            checksum: Checksum::Complete,
            samples: 0,
            mismatches: 0,
            evidence: None,
        }
    }

    /// What the first packet was, and became, that was decided otherwise about since this was last
    /// asked.
    pub fn take_evidence(&mut self) -> Option<String> {
        self.evidence.take()
    }

    /// Takes a copy of a packet if it is its turn; says whether it did.
    #[inline]
    pub(super) fn begin(&mut self, bytes: &[u8], checksum: Checksum) -> bool {
        if self.left > 1 {
            self.left -= 1;
            return false;
        }
        self.every > 0 && self.keep(bytes, checksum)
    }

    #[cold]
    fn keep(&mut self, bytes: &[u8], checksum: Checksum) -> bool {
        let room = self.copy.get_mut(HEADROOM..).and_then(|room| room.get_mut(..bytes.len()));
        let Some(room) = room else { return false };
        room.copy_from_slice(bytes);
        (self.len, self.checksum) = (bytes.len(), checksum);
        true
    }
}

/// Lets the copy of a packet take the stages, and compares.
#[cold]
pub(super) fn compare(
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    outcome: Outcome,
    context: &mut Context<'_>,
) {
    let sampler = &mut context.worker.composed.sampler;
    sampler.left = sampler.every;
    sampler.samples += 1;
    let (len, checksum) = (sampler.len, sampler.checksum);
    let mut copy = std::mem::take(&mut sampler.copy);
    let came: [u8; SHOWN] = std::array::from_fn(|at| copy.get(HEADROOM + at).copied().unwrap_or(0));
    if let Some(mut packet) = Packet::new(&mut copy, HEADROOM, HEADROOM + len, ingress, checksum) {
        let mut dry = Context {
            state: context.state,
            adjacencies: context.adjacencies,
            now_ms: context.now_ms,
            learned: context.learned,
            worker: context.worker,
            dry: true,
            trace: None,
        };
        let walked = run(&mut packet, &mut dry);
        let bytes_count = matches!(outcome, Outcome::Output(_));
        let same = walked == outcome
            && (!bytes_count
                || packet.bytes() == frame.bytes() && packet.checksum == frame.checksum());
        if !same {
            let shown = |bytes: &[u8]| hex(bytes.get(..SHOWN).unwrap_or(bytes));
            let evidence = format!(
                "port {ingress}, came {}, composed {outcome:?} {}, by the stages {walked:?} {}",
                shown(came.get(..len).unwrap_or(&came)),
                shown(frame.bytes()),
                shown(packet.bytes()),
            );
            let ComposedMemory { sampler, .. } = &mut context.worker.composed;
            sampler.mismatches += 1;
            sampler.evidence.get_or_insert(evidence);
        }
    }
    context.worker.composed.sampler.copy = copy;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

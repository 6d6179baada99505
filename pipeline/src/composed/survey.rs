//! The first look at a whole batch, before anything is done with it, so that no packet waits for
//! memory: all keys are hashed and their buckets asked for, then all records.

use super::glance::Glance;
use super::outer::Outer;
use super::{Machine, PacketBuffer};
use crate::address::{PortId, PortKind};
use crate::connection::{Candidate, ConnectionTable};
use crate::limits::BATCH_MAX;
use crate::packet::Checksum;
use crate::state::State;

/// What is known of the packets of a batch before anything is done with them.
pub struct Survey {
    /// Written in place: what is known of a packet fills two cache lines.
    seen: [Seen; BATCH_MAX],
    len: usize,
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Whether anything is.
    known: bool,
    pub glance: Glance,
    /// The tunnel's headers, if it came by one.
    pub outer: Option<Outer>,
    hash: u64,
    /// The record that may be its connection's.
    pub candidate: Option<Candidate>,
}

impl Seen {
    #[cfg(test)]
    pub fn new((glance, outer): (Glance, Option<Outer>), candidate: Option<Candidate>) -> Seen {
        Seen { known: true, glance, outer, hash: 0, candidate }
    }
}

impl Default for Survey {
    fn default() -> Survey {
        let (glance, outer, candidate) = (Glance::default(), None, None);
        let nothing = Seen { known: false, glance, outer, hash: 0, candidate };
        Survey { seen: [nothing; BATCH_MAX], len: 0 }
    }
}

impl Survey {
    /// Looks at all packets of a batch, each with the port it came in by.
    #[inline]
    pub fn take<'f, F: PacketBuffer + 'f>(
        &mut self,
        batch: impl Iterator<Item = (&'f F, PortId)> + Clone,
        state: &State,
        connections: &ConnectionTable,
        machine: &impl Machine,
    ) {
        for (frame, _) in batch.clone() {
            if let Some(first) = frame.bytes().first() {
                machine.prefetch_to_write(first);
            }
        }
        self.len = 0;
        for ((frame, ingress), seen) in batch.zip(&mut self.seen) {
            self.len += 1;
            (seen.known, seen.candidate) = (false, None);
            if let Some((glance, outer)) = look(frame, ingress, state) {
                (seen.known, seen.glance, seen.outer) = (true, glance, outer);
                seen.hash = connections.hash_of(&seen.glance.words);
                if let Some(line) = connections.bucket_of(seen.hash) {
                    machine.prefetch(line);
                }
            }
        }
        for seen in self.seen.iter_mut().take(self.len).filter(|seen| seen.known) {
            seen.candidate = connections.candidate(seen.hash, machine);
            if let Some(candidate) = seen.candidate {
                connections.ask_for(candidate, machine);
            }
        }
    }

    /// What is known of the packet at this place; `None` when it has to take the stages.
    #[inline]
    pub(super) fn seen(&self, at: usize) -> Option<&Seen> {
        self.seen.get(at).filter(|seen| at < self.len && seen.known)
    }
}

#[inline(always)]
pub(super) fn look(
    frame: &impl PacketBuffer,
    ingress: PortId,
    state: &State,
) -> Option<(Glance, Option<Outer>)> {
    let hop = state.hops().get(ingress)?;
    let from_pod = match hop.kind? {
        PortKind::Pod => true,
        PortKind::Gateway => false,
        PortKind::Uplink if frame.checksum() == Checksum::Complete => {
            let (outer, inner) = Outer::of(frame.bytes(), state)?;
            return Some((Glance::of(inner, hop.ingress, false)?, Some(outer)));
        }
        // What the node itself sends has rights of its own.
        PortKind::Uplink | PortKind::Host => return None,
    };
    Some((Glance::of(frame.bytes(), hop.ingress, from_pod)?, None))
}

//! The first look at a whole batch, before anything is done with it, so that no packet waits for
//! memory: a packet is asked for, some packets later it is looked at and its bucket asked for, and
//! as many later its record.

use super::glance::Glance;
use super::outer::Outer;
use super::{Machine, PacketBuffer};
use crate::address::{PortId, PortKind};
use crate::connection::{Candidate, ConnectionTable};
use crate::limits::BATCH_MAX;
use crate::packet::Checksum;
use crate::state::State;

/// How many packets later what was asked for is looked at: long enough for it to come from another
/// core, and few enough that the processor can have all of it under way.
const APART: usize = 24;

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
    #[cfg(all(test, not(loom)))]
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
        let ask_for = |frame: &F| {
            if let Some(first) = frame.bytes().first() {
                machine.prefetch_to_write(first);
            }
        };
        let mut ahead = batch.clone();
        ahead.by_ref().take(APART).for_each(|(frame, _)| ask_for(frame));
        self.len = 0;
        for (frame, ingress) in batch {
            if let Some((frame, _)) = ahead.next() {
                ask_for(frame);
            }
            let Some(seen) = self.seen.get_mut(self.len) else { break };
            (seen.known, seen.candidate) = (false, None);
            if let Some((glance, outer)) = look(frame, ingress, state) {
                (seen.known, seen.glance, seen.outer) = (true, glance, outer);
                seen.hash = connections.hash_of(&seen.glance.words);
                if let Some(line) = connections.bucket_of(seen.hash) {
                    machine.prefetch(line);
                }
            }
            self.len += 1;
            if let Some(behind) = self.len.checked_sub(APART) {
                self.find(behind, connections, machine);
            }
        }
        for behind in (self.len + 1).saturating_sub(APART)..self.len {
            self.find(behind, connections, machine);
        }
    }

    /// Finds the record that may be that of a packet's connection, and asks for it.
    #[inline(always)]
    fn find(&mut self, at: usize, connections: &ConnectionTable, machine: &impl Machine) {
        let Some(seen) = self.seen.get_mut(at).filter(|seen| seen.known) else { return };
        seen.candidate = connections.candidate(seen.hash, machine);
        if let Some(candidate) = seen.candidate {
            connections.ask_for(candidate, machine);
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
    let kind = hop.kind?;
    let (bytes, outer) = match kind {
        PortKind::Pod | PortKind::Gateway => (frame.bytes(), None),
        PortKind::Uplink if frame.checksum() == Checksum::Complete => {
            let (outer, inner) = Outer::of(frame.bytes(), state)?;
            (inner, Some(outer))
        }
        // What the node itself sends has rights of its own.
        PortKind::Uplink | PortKind::Host => return None,
    };
    Some((Glance::of(bytes, hop.ingress, kind == PortKind::Pod)?, outer))
}

//! Walks one packet through the stages.
//!
//! The one loop of the pipeline: tables decide, this follows their verdicts, forward only, and
//! writes the trace if there is one.

use std::fmt;

use crate::TABLES;
use crate::adjacency::AdjacencyTable;
use crate::connection::FlowKey;
use crate::learned::{Learned, WorkerMemory};
use crate::packet::Packet;
use crate::stage::TableId;
use crate::state::State;
use crate::trace::Trace;
use crate::verdict::{DropReason, Outcome, Verdict};

/// What a packet is judged by.
pub struct Context<'a> {
    /// Every table, at one revision.
    pub state: &'a State,
    /// Next hops on the underlay.
    pub adjacencies: &'a AdjacencyTable,
    /// Milliseconds of a clock that never goes back; it counts while the machine sleeps, too.
    pub now_ms: u64,
    /// What workers learn from packets, and share.
    pub learned: &'a Learned,
    /// What this worker keeps to itself.
    pub worker: &'a mut WorkerMemory,
    /// The packet is only described: nothing is learnt from it, and nothing counted.
    pub dry: bool,
    /// Filled in when somebody wants to know why.
    pub trace: Option<&'a mut Trace>,
}

impl Context<'_> {
    /// Whether a connection is known by this key.
    pub(crate) fn knows(&self, key: &FlowKey) -> bool {
        self.learned.connections.find(key).is_some()
    }

    /// Says what the running table has matched, if somebody wants to know.
    #[inline(always)]
    pub fn note(&mut self, matched: fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            trace.note(matched);
        }
    }
}

/// Decides about one packet and rewrites it accordingly.
pub fn run(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Outcome {
    walk(packet, context, None)
}

/// As [`run`], from that table on.
pub(crate) fn walk(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
    target: Option<TableId>,
) -> Outcome {
    walk_observed(packet, context, target, |_| {})
}

/// As [`walk`], and tells after each table of which stage it was.
pub(crate) fn walk_observed(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
    target: Option<TableId>,
    mut on_stage: impl FnMut(usize),
) -> Outcome {
    let from = |table: TableId| TABLES.get(table as usize..).unwrap_or_default().iter();
    let mut tables = target.map_or(TABLES.iter(), from);
    while let Some((stage, table)) = tables.next() {
        let verdict = table.apply(packet, context);
        on_stage(*stage);
        if let Some(trace) = &mut context.trace {
            trace.close(table.id(), verdict);
        }
        match verdict {
            Verdict::Next => {}
            Verdict::Goto(next) if next > table.id() => tables = from(next),
            Verdict::Goto(_) => break,
            Verdict::Output(port) => return Outcome::Output(port),
            Verdict::Replicate(vlan) => return Outcome::Replicate(vlan),
            Verdict::Answer => return Outcome::Output(packet.ingress),
            Verdict::Drop(reason) => return Outcome::Drop(reason),
        }
    }
    Outcome::Drop(DropReason::NoEgressPort)
}

//! What the stages cost: one walk in so many is timed, stage by stage.
//!
//! Reading the clock costs as much as a small table does, so not every walk is.

use super::Machine;
use crate::STAGES;
use crate::packet::Packet;
use crate::run::{Context, walk, walk_observed};
use crate::stage::TableId;
use crate::verdict::Outcome;

/// One walk in so many is timed.
const TIMED_EVERY: u32 = 256;

/// How many stages there are.
pub const STAGES_COUNT: usize = STAGES.len();

/// What timed walks took in one stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageCost {
    /// Packets that were timed.
    pub packets: u64,
    /// Cycles of all of them together.
    pub cycles: u64,
}

/// What the stages cost one worker.
#[derive(Debug, Default)]
pub struct StageClock {
    left: u32,
    /// In the order of [`STAGES`].
    pub costs: [StageCost; STAGES_COUNT],
    /// Walks that were timed.
    pub walks: u64,
}

/// Lets a packet walk the stages from a table on, and times it when it is its turn.
pub(super) fn walk_timed(
    packet: &mut Packet<'_>,
    context: &mut Context<'_>,
    target: Option<TableId>,
    machine: &impl Machine,
) -> Outcome {
    let clock = &mut context.worker.composed.stages;
    if clock.left > 0 {
        clock.left -= 1;
        return walk(packet, context, target);
    }
    let mut costs = [StageCost::default(); STAGES_COUNT];
    let mut last = machine.cycles();
    let outcome = walk_observed(packet, context, target, |stage| {
        let now = machine.cycles();
        if let Some(cost) = costs.get_mut(stage) {
            cost.packets = 1;
            cost.cycles += now.wrapping_sub(last);
        }
        last = now;
    });
    let clock = &mut context.worker.composed.stages;
    clock.left = TIMED_EVERY - 1;
    clock.walks += 1;
    for (sum, cost) in clock.costs.iter_mut().zip(costs) {
        sum.packets += cost.packets;
        sum.cycles += cost.cycles;
    }
    outcome
}

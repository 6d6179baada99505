//! How many errors and resets the node builds for each port.
//!
//! An answer is never larger than its question, but whoever asks may not be who he says: behind
//! the gateway nobody vouches for a source. "Too big" has a budget beside the others', for without
//! it connections stand still: what is refused to one must not keep path MTU discovery from
//! another.

use crate::connection::{Account, Budget, Rate};
use crate::limits::{ERRORS_BURST, ERRORS_PER_S};
use crate::packet::Packet;
use crate::run::Context;
use crate::stage::ingress_of;
use crate::verdict::DropReason;

const RATE: Rate = Rate { per_s: ERRORS_PER_S, burst: ERRORS_BURST };

/// What of these one worker may still build.
#[derive(Debug)]
pub(crate) struct ErrorBudget {
    too_big: Budget,
    others: Budget,
}

impl ErrorBudget {
    /// That of a worker that has built none.
    pub(crate) fn new() -> ErrorBudget {
        ErrorBudget { too_big: Budget::new(), others: Budget::new() }
    }
}

/// Takes the answer to this packet from the budget of the port that it came in by, unless it is
/// only described.
pub(super) fn charge(
    packet: &Packet<'_>,
    context: &mut Context<'_>,
    is_too_big: bool,
) -> Result<(), DropReason> {
    if context.dry {
        return Ok(());
    }
    let ingress = ingress_of(packet, context.state).ok_or(DropReason::UnknownPort)?;
    let account = Account::of(ingress, packet.facts.from_node);
    let errors = &mut context.worker.errors;
    let budget = if is_too_big { &mut errors.too_big } else { &mut errors.others };
    let taken = budget.take(RATE, account, context.now_ms);
    taken.then_some(()).ok_or(DropReason::ErrorBudget)
}

//! Whether two switches did the same with a packet, and if not, whether they had to.

use seine_pipeline::address::Mac;
use seine_pipeline::verdict::DropReason;
use seine_pipeline::wire::ethernet;

use super::node::{Ours, Theirs};
use crate::cases::segment::Segment;

/// What comparing a packet comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Both let it through, in the same shape but for these features.
    Forwarded(Vec<&'static str>),
    /// Both dropped it.
    Dropped,
    /// Seine refused it; so would Antrea's agent.
    Refused,
    /// They differ, as they must for this feature.
    Skipped(&'static str),
    /// They differ.
    Mismatch,
}

/// Compares what became of a packet that came in by `port`.
pub fn compare(port: &str, ours: &Ours, theirs: &Theirs) -> Finding {
    match (ours, theirs) {
        (Ours::Dropped(_), Theirs::Dropped) => Finding::Dropped,
        (Ours::Left(left, frame, _), Theirs::Agent) if left == port && is_refusal(frame) => {
            Finding::Refused
        }
        // Antrea holds rules for senders against what a Pod sends to itself, and rules for
        // receivers too if it comes by a NodePort, whose mark comes before that of hairpins.
        (Ours::Left(left, _, _), Theirs::Agent | Theirs::Dropped) if left == port => {
            Finding::Skipped("a Pod that reaches itself through a Service, which Antrea judges")
        }
        (Ours::Left(left, _, _), Theirs::Left(other, _)) if left != other => Finding::Mismatch,
        (Ours::Left(left, frame, _), Theirs::Left(_, other)) => {
            match alike(frame, other, left == "gateway") {
                Some(features) => Finding::Forwarded(features),
                None => Finding::Mismatch,
            }
        }
        (Ours::Dropped(reason), _) => stricter(*reason).map_or(Finding::Mismatch, Finding::Skipped),
        _ => Finding::Mismatch,
    }
}

/// Drops of ours that Antrea's flows have no part in.
fn stricter(reason: DropReason) -> Option<&'static str> {
    match reason {
        DropReason::NoService => Some("a Service's address at a port without a Service"),
        _ => None,
    }
}

fn is_refusal(frame: &[u8]) -> bool {
    Segment::parse(frame).is_ok_and(|segment| segment.message.is_refusal())
}

/// What may differ of two frames that leave by the same port, if nothing else does.
fn alike(ours: &[u8], theirs: &[u8], to_gateway: bool) -> Option<Vec<&'static str>> {
    let mut features = Vec::new();
    let mut ours = ours.to_vec();
    if ours != theirs && to_gateway {
        let source = 6..12;
        if ours.get(source.clone())? == Mac::VIRTUAL.0
            && theirs.get(source.clone())? != Mac::VIRTUAL.0
        {
            // Antrea leaves the sender's there; the node's kernel does not look at it.
            ours.get_mut(source.clone())?.copy_from_slice(theirs.get(source)?);
            features.push("source MAC towards the gateway");
        }
        let (hops, sum) = match ours.get(12..14)? {
            [0x08, 0x00] => (ethernet::LEN + 8, Some(ethernet::LEN + 10)),
            _ => (ethernet::LEN + 7, None),
        };
        if ours.get(hops)?.checked_sub(1)? == *theirs.get(hops)? && Segment::parse(theirs).is_ok() {
            // Antrea counts a hop to the gateway even if the packet is addressed to its MAC.
            *ours.get_mut(hops)? = *theirs.get(hops)?;
            if let Some(sum) = sum {
                ours.get_mut(sum..sum + 2)?.copy_from_slice(theirs.get(sum..sum + 2)?);
            }
            features.push("TTL towards the gateway");
        }
    }
    (ours == theirs).then_some(features)
}

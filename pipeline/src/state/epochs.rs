//! Epochs: by which a cached decision finds out that what it was decided by has changed.
//!
//! A decision is about a packet from one address to another. Each address belongs to one of
//! [`BUCKETS`] buckets with two counters. Whoever caches a decision keeps the sum of those of both
//! addresses, and decides anew when it is another one. Counters only grow, so a sum comes back only
//! after 2^32 changes. A revision would do as well, but would end every decision at every change:
//! so a Pod that comes or goes costs those that share its bucket, and nobody else.
//!
//! *Forwarding* is all that the stages ask State for a packet of a connection under way, from the
//! address that it comes in with (behind the tunnel's headers) to the one that it leaves for:
//!
//! - `PipelineRootClassifier`, `Classifier`, `SpoofGuard`: of a Pod its port and what is attached
//!   there. It may send from its own addresses only, so the source is one of them. Of all else
//!   the Node, the gateway's and host's port, the uplink and the Peers: global.
//! - `ConntrackZone`: which port owns the destination (`is_current`). That a Service loses an
//!   endpoint concerns only connections that nobody has answered, which are not cached.
//! - `L3Forwarding`, `L3DecTTL`: who owns the destination, with which MAC address and MTU; else the
//!   Node, its Peers and the gateway: global.
//! - `L2ForwardingCalc`, `Output`: the port of that MAC address, which is the destination's owner,
//!   the gateway or the uplink. The next hop is no part of State. A hairpin goes back to the
//!   source's port.
//!
//! Addresses that Endpoints may have beside their own are not listed: whatever concerns an Endpoint
//! with a permit counts for all addresses, of either kind.
//!
//! *Policy* is what rules say of the pair: those of the Endpoints that have the addresses, and the
//! groups of the addresses. The sums are symmetric, so that both directions have the same one.
//! A range that enters a group counts for whoever has rules that mean the group, not for all that
//! is within. Rules for NodePorts may concern any two: global.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ExistingConnections, State};
use crate::connection::address_words;

/// Counters of either kind. More of them are shared by fewer addresses, and cost more to copy.
const BUCKETS: usize = 1024;

/// Odd, and far from any small multiple of a power of two.
const POLICY_FACTOR: u32 = 0x85eb_ca6b;

type Counters = [u32; BUCKETS];

/// How often what decides about addresses has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Epochs {
    forwarding: Counts,
    policy: Counts,
    /// Whether rules that change judge connections under way.
    reevaluates: bool,
}

impl Epochs {
    pub(super) fn new() -> Epochs {
        let none = Counts { global: 0, buckets: Arc::new([0; BUCKETS]) };
        Epochs { forwarding: none.clone(), policy: none, reevaluates: false }
    }

    /// Of what forwards a packet from one address to another; each as [`low`](Self::low) has it.
    #[inline]
    pub fn forwarding(&self, source_low: u64, destination_low: u64) -> u32 {
        self.forwarding.sum(source_low, destination_low)
    }

    /// Of the rules about connections between two addresses, in either order.
    #[inline]
    pub fn policy(&self, source_low: u64, destination_low: u64) -> u32 {
        self.policy.sum(source_low, destination_low)
    }

    /// Of all that decides about a packet of a connection under way: forwards it, and judges it if
    /// rules do so.
    #[inline]
    pub(crate) fn under_way(&self, source_low: u64, destination_low: u64) -> u32 {
        let forwarding = self.forwarding(source_low, destination_low);
        if !self.reevaluates {
            return forwarding;
        }
        // So that no few changes of the one kind are taken for others of the other.
        let policy = self.policy(source_low, destination_low).wrapping_mul(POLICY_FACTOR);
        forwarding.wrapping_add(policy)
    }

    /// The half of an address by which it has its bucket, as keys of connections hold it.
    pub fn low(address: IpAddr) -> u64 {
        let [_, low] = address_words(address);
        low
    }

    /// What the Node says of connections under way.
    pub(super) fn exist_as(&mut self, existing: Option<ExistingConnections>) {
        self.reevaluates = existing == Some(ExistingConnections::Reevaluate);
    }

    pub(super) fn forwarding_changed(&mut self, touched: &Touched) {
        self.forwarding.advance(touched);
    }

    pub(super) fn policy_changed(&mut self, touched: &Touched) {
        self.policy.advance(touched);
    }
}

impl State {
    /// How many transactions have led to this State.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// How often what decides about addresses has changed.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// By which rules a connection between two addresses is judged, as it remembers that.
    pub(crate) fn policy_epoch(&self, source: IpAddr, destination: IpAddr) -> PolicyEpoch {
        let sum = self.epochs.policy(Epochs::low(source), Epochs::low(destination));
        PolicyEpoch::new(sum)
    }

    /// Whether rules that change judge connections under way.
    pub fn reevaluates(&self) -> bool {
        self.epochs.reevaluates
    }
}

/// By which rules a connection was judged: what fits its record of a sum of policy epochs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PolicyEpoch(u32);

impl PolicyEpoch {
    /// Bits that a record keeps.
    pub const BITS: u32 = 24;
    const MASK: u32 = (1 << PolicyEpoch::BITS) - 1;

    /// What is kept of a sum.
    pub const fn new(sum: u32) -> PolicyEpoch {
        PolicyEpoch(sum & PolicyEpoch::MASK)
    }

    /// As a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether rules have changed from the other to this one, and not the other way round: a worker
    /// that has not taken the newest State yet does not know better than one that has. Holds for
    /// half of all epochs, so a connection would have to be silent for 8 million changes of its
    /// rules to miss one.
    pub(crate) const fn is_newer_than(self, other: PolicyEpoch) -> bool {
        let ahead = self.0.wrapping_sub(other.0) & PolicyEpoch::MASK;
        ahead != 0 && ahead <= PolicyEpoch::MASK / 2
    }
}

/// The addresses that a transaction is about.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) addresses: Vec<IpAddr>,
    /// Whatever the address.
    pub(super) all: bool,
}

/// The counters of one kind; a copy shares them until it changes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Counts {
    global: u32,
    buckets: Arc<Counters>,
}

impl Counts {
    #[inline]
    fn sum(&self, one_low: u64, other_low: u64) -> u32 {
        let count = |low| self.buckets.get(bucket(low)).copied().unwrap_or_default();
        self.global.wrapping_add(count(one_low)).wrapping_add(count(other_low))
    }

    fn advance(&mut self, touched: &Touched) {
        if touched.all {
            self.global = self.global.wrapping_add(1);
        }
        if touched.addresses.is_empty() {
            return;
        }
        let buckets = Arc::make_mut(&mut self.buckets);
        let mut places: Vec<usize> =
            touched.addresses.iter().map(|it| bucket(Epochs::low(*it))).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            if let Some(count) = buckets.get_mut(place) {
                *count = count.wrapping_add(1);
            }
        }
    }
}

/// Below [`BUCKETS`]: the highest bits of the product are those that all bits of the address move.
#[inline]
fn bucket(low: u64) -> usize {
    (low.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BUCKETS.ilog2())) as usize
}

#[cfg(test)]
mod tests;

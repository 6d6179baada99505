//! How many connections each account may begin: its quota of records and its budget of first
//! packets.
//!
//! A first packet costs a hundred times what a later one does. Without a budget one Pod that sends
//! nothing else takes the whole worker from all others; without a quota it takes all records.

use super::{Ingress, NewConnection};
use crate::limits::{ConnectionLimits, PORTS_MAX};

/// The node's own legs stand for many: a peer's Pods, or all the world behind the node.
const NODE_LEG_FACTOR: u32 = 4;

/// Who has a quota of connections and a budget of first packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Account {
    /// Whoever sends by a Pod's port, whatever its generation; all the world behind the gateway;
    /// all peers.
    Ingress(Ingress),
    /// The node itself: its probes must not fail because the world comes in by the same leg.
    Node,
}

impl Account {
    /// How many there are.
    pub(super) const COUNT: usize = PORTS_MAX + 3;

    /// That of a packet that came in so.
    pub fn of(ingress: Ingress, from_node: bool) -> Account {
        if from_node { Account::Node } else { Account::Ingress(ingress) }
    }

    /// Its place among all.
    pub(super) fn index(self) -> usize {
        match self {
            Account::Ingress(Ingress::Pod(port, _)) => port.index(),
            Account::Ingress(Ingress::Gateway) => PORTS_MAX,
            Account::Ingress(Ingress::Tunnel) => PORTS_MAX + 1,
            Account::Node => PORTS_MAX + 2,
        }
    }

    /// How many times as much as a Pod it has.
    fn factor(self) -> u32 {
        match self {
            Account::Ingress(Ingress::Pod(..)) => 1,
            Account::Ingress(Ingress::Gateway | Ingress::Tunnel) | Account::Node => NODE_LEG_FACTOR,
        }
    }
}

impl NewConnection {
    /// Whom it is charged to.
    pub(super) fn account(&self) -> Account {
        Account::of(self.original.ingress, self.decision.from_node)
    }
}

/// Records that an account may have in use.
pub(super) fn quota(limits: &ConnectionLimits, account: Account) -> u64 {
    u64::from(limits.per_port.saturating_mul(account.factor()))
}

/// How many first packets a port may send.
pub(super) fn first_packets(limits: &ConnectionLimits) -> Rate {
    Rate { per_s: limits.first_packets_per_s, burst: limits.first_packets_burst }
}

/// What one account has left.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    /// In thousandths, so that a rate that is no multiple of 1000 loses nothing.
    left: u64,
    filled_ms: u64,
}

/// One of what there is a budget of.
const TOKEN: u64 = 1000;

/// How many of something a Pod's port may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Again and again.
    pub(crate) per_s: u32,
    /// At once, after a pause.
    pub(crate) burst: u32,
}

/// One worker's budgets of one thing, as first packets, for all accounts.
#[derive(Debug)]
pub(crate) struct Budget {
    accounts: Box<[Tokens]>,
}

impl Budget {
    /// All full.
    pub(crate) fn new() -> Budget {
        // More than any burst: cut down when they are first asked.
        let full = Tokens { left: u64::MAX, filled_ms: 0 };
        Budget { accounts: vec![full; Account::COUNT].into() }
    }

    /// Takes one from what the account has left. `false` when it has none.
    pub(crate) fn take(&mut self, rate: Rate, account: Account, now_ms: u64) -> bool {
        let factor = account.factor();
        let burst = TOKEN * u64::from(rate.burst.saturating_mul(factor));
        let rate = u64::from(rate.per_s.saturating_mul(factor));
        let Some(tokens) = self.accounts.get_mut(account.index()) else { return false };
        // So many a second are so many thousandths a millisecond.
        let earned = now_ms.saturating_sub(tokens.filled_ms).saturating_mul(rate);
        tokens.left = tokens.left.saturating_add(earned).min(burst);
        tokens.filled_ms = tokens.filled_ms.max(now_ms);
        let taken = tokens.left.checked_sub(TOKEN);
        tokens.left = taken.unwrap_or(tokens.left);
        taken.is_some()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::address::PortId;

    #[test]
    fn a_port_that_floods_gets_its_rate_and_its_neighbour_loses_nothing() {
        let rate = Rate { per_s: 300, burst: 50 };
        let pod = |port| Ingress::Pod(PortId::new(port).unwrap(), 0);
        let [flooding, quiet] = [2, 3].map(|port| Account::of(pod(port), false));
        let mut budget = Budget::new();
        let mut let_through = 0;
        for now_ms in 5_000..15_000 {
            for _ in 0..10 {
                let_through += u64::from(budget.take(rate, flooding, now_ms));
            }
            if now_ms % 100 == 0 {
                assert!(budget.take(rate, quiet, now_ms));
            }
        }
        assert_eq!(let_through, 50 + 9_999 * 300 / 1000);
        assert!(!budget.take(rate, flooding, 14_000), "an earlier clock earns nothing");
        assert!(budget.take(rate, flooding, u64::MAX), "a leap fills it up, and no more");
        let burst = (0..100).filter(|_| budget.take(rate, flooding, u64::MAX)).count();
        assert_eq!(burst, 49);
    }

    #[test]
    fn the_nodes_legs_have_four_times_as_much() {
        let limits = ConnectionLimits { first_packets_burst: 10, ..ConnectionLimits::default() };
        let rate = first_packets(&limits);
        let mut budget = Budget::new();
        let burst =
            (0..100).filter(|_| budget.take(rate, Account::of(Ingress::Tunnel, false), 1)).count();
        assert_eq!(burst, 40);
        let gateway = |from_node| Account::of(Ingress::Gateway, from_node);
        assert_eq!(quota(&limits, gateway(false)), 4 * u64::from(limits.per_port));
        let burst = (0..100).filter(|_| budget.take(rate, gateway(false), 1)).count();
        assert_eq!((burst, budget.take(rate, gateway(true), 1)), (40, true));
    }
}

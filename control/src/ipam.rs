//! Addresses for Pods, from the ranges of this node.
//!
//! Pure: which addresses are leased is restored from the attachments on disk
//! ([`crate::attachments`]), which are the only record of a lease; so a lease without an attachment
//! cannot exist. The next address is looked for behind the last one given out, so a freed address
//! rests until the range has gone round once: what still remembers its former owner has time to
//! forget.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The addresses of one range: who has which, and which is next.
///
/// Never given out: the network address (for IPv6 the subnet router's), the first host, which is
/// the gateway's, and the broadcast address of IPv4.
#[derive(Debug, Clone)]
pub struct Pool {
    range: IpNet,
    first: u128,
    last: u128,
    next: u128,
    leased: BTreeSet<u128>,
}

/// Why a range cannot serve Pods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// No address is left after the network's, the gateway's and the broadcast address.
    #[error("the Pod range {0} has no address for a Pod; use a shorter prefix")]
    TooSmall(IpNet),
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Every address is leased.
    #[error("no address is left in the Pod range {0}")]
    Exhausted(IpNet),
    /// An address that cannot be leased: not in the range, or reserved.
    #[error("{address} cannot belong to a Pod of the range {range}")]
    Foreign {
        /// The address.
        address: IpAddr,
        /// The range.
        range: IpNet,
    },
    /// Two attachments claim one address.
    #[error("{0} is leased already")]
    Taken(IpAddr),
}

/// The first host of a range: by convention the address of `seine-gw0` in it.
pub fn gateway_of(range: IpNet) -> IpAddr {
    address(range, number(range.network()) + 1)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(range: IpNet, number: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Pool {
    /// All of `range` is free.
    pub fn new(range: IpNet) -> Result<Self, RangeError> {
        let range = range.trunc();
        // /31 and /32, /127 and /128: nothing is left beside network and gateway.
        if range.max_prefix_len() - range.prefix_len() < 2 {
            return Err(RangeError::TooSmall(range));
        }
        let first = number(range.network()) + 2;
        let last = match range {
            IpNet::V4(net) => number(net.broadcast().into()) - 1,
            IpNet::V6(net) => number(net.broadcast().into()),
        };
        Ok(Self { range, first, last, next: first, leased: BTreeSet::new() })
    }

    /// The range it serves.
    pub fn range(&self) -> IpNet {
        self.range
    }

    /// The address that the search starts at.
    pub fn next(&self) -> IpAddr {
        address(self.range, self.next)
    }

    /// Lets the search start at `address`; what is not in the range is ignored.
    pub fn resume_at(&mut self, address: IpAddr) {
        if self.range.contains(&address) && (self.first..=self.last).contains(&number(address)) {
            self.next = number(address);
        }
    }

    /// Leases the next free address.
    pub fn allocate(&mut self) -> Result<IpAddr, LeaseError> {
        let free = self
            .free_in(self.next, self.last)
            .or_else(|| self.free_in(self.first, self.next.saturating_sub(1)))
            .ok_or(LeaseError::Exhausted(self.range))?;
        self.leased.insert(free);
        self.next = if free == self.last { self.first } else { free + 1 };
        Ok(address(self.range, free))
    }

    /// The lowest free number from `from` to `to`, both included.
    fn free_in(&self, from: u128, to: u128) -> Option<u128> {
        if from > to {
            return None;
        }
        let mut candidate = from;
        for &taken in self.leased.range(from..=to) {
            if taken > candidate {
                break;
            }
            candidate = taken.checked_add(1)?;
        }
        (candidate <= to).then_some(candidate)
    }

    /// Leases that very address: it is on record.
    pub fn restore(&mut self, address: IpAddr) -> Result<(), LeaseError> {
        let wanted = number(address);
        if !self.range.contains(&address) || !(self.first..=self.last).contains(&wanted) {
            return Err(LeaseError::Foreign { address, range: self.range });
        }
        if self.leased.insert(wanted) { Ok(()) } else { Err(LeaseError::Taken(address)) }
    }

    /// Frees an address. Returns whether it was leased.
    pub fn release(&mut self, address: IpAddr) -> bool {
        self.range.contains(&address) && self.leased.remove(&number(address))
    }

    /// Whether no address is left.
    pub fn is_exhausted(&self) -> bool {
        self.leased.len() as u128 > self.last - self.first
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(range: &str) -> Pool {
        Pool::new(range.parse().unwrap()).unwrap()
    }

    #[test]
    fn network_gateway_and_broadcast_addresses_are_never_given_out() {
        let mut pool = pool("10.0.0.0/29");
        let given: Vec<String> = (0..5).map(|_| pool.allocate().unwrap().to_string()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(pool.is_exhausted());
        assert!(matches!(pool.allocate(), Err(LeaseError::Exhausted(_))));
    }

    #[test]
    fn a_freed_address_rests_until_the_range_has_gone_round() {
        let mut pool = pool("10.0.0.0/29");
        let first = pool.allocate().unwrap();
        assert!(pool.release(first));
        assert!(!pool.release(first));
        let others: Vec<IpAddr> = (0..4).map(|_| pool.allocate().unwrap()).collect();
        assert!(!others.contains(&first));
        assert_eq!(pool.allocate().unwrap(), first);
    }

    #[test]
    fn an_ipv6_range_starts_behind_its_gateway() {
        let mut pool = pool("fd00:10:1::/64");
        assert_eq!(gateway_of(pool.range()).to_string(), "fd00:10:1::1");
        assert_eq!(pool.allocate().unwrap().to_string(), "fd00:10:1::2");
    }

    #[test]
    fn a_range_without_room_and_a_foreign_address_are_refused() {
        assert!(Pool::new("10.0.0.0/31".parse().unwrap()).is_err());
        assert!(Pool::new("fd00::/127".parse().unwrap()).is_err());
        let mut pool = pool("10.0.0.0/29");
        for foreign in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.1.2", "fd00::2"] {
            assert!(pool.restore(foreign.parse().unwrap()).is_err(), "{foreign}");
        }
        pool.restore("10.0.0.2".parse().unwrap()).unwrap();
        assert!(matches!(pool.restore("10.0.0.2".parse().unwrap()), Err(LeaseError::Taken(_))));
    }

    #[test]
    fn the_search_resumes_where_it_was_after_a_restart() {
        let mut before = pool("10.0.0.0/24");
        before.allocate().unwrap();
        before.allocate().unwrap();
        let mut after = pool("10.0.0.0/24");
        after.resume_at(before.next());
        assert_eq!(after.allocate().unwrap().to_string(), "10.0.0.4");
    }

    proptest! {
        /// Against a set of everything leased: no address twice, none that is reserved, and
        /// exhausted exactly when the set is full.
        #[test]
        fn leases_agree_with_a_naive_set(
            prefix in 25u8..=30,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400),
        ) {
            let range: IpNet = format!("10.1.2.0/{prefix}").parse().unwrap();
            let hosts: Vec<IpAddr> = range.hosts().skip(1).collect();
            let mut pool = Pool::new(range).unwrap();
            let mut naive: HashSet<IpAddr> = HashSet::new();
            for (allocate, index) in steps {
                if allocate {
                    match pool.allocate() {
                        Ok(given) => {
                            prop_assert!(hosts.contains(&given));
                            prop_assert!(naive.insert(given), "{} twice", given);
                        }
                        Err(_) => prop_assert_eq!(naive.len(), hosts.len()),
                    }
                } else {
                    let host = *index.get(&hosts);
                    prop_assert_eq!(pool.release(host), naive.remove(&host));
                }
                prop_assert_eq!(pool.is_exhausted(), naive.len() == hosts.len());
            }
        }
    }
}

//! Whom an allowed address leads to: what others begin towards it goes to the Endpoint that may
//! send from it.
//!
//! Several may be permitted one address, so that it can move between them: then it is the last's
//! that told its neighbours so, and until one did the first's by name. Of ranges the narrowest
//! counts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::permit::Permission;
use super::{Endpoint, State};
use crate::address::{Mac, PortId};
use crate::announcement::AnnouncementTable;
use crate::table::Longest;

/// One who may send from the addresses of a range.
#[derive(Clone, Copy, Debug)]
struct Claim {
    port: PortId,
    generation: u32,
    mac: Mac,
}

/// All ranges that Endpoints of open ports may send from.
#[derive(Clone, Debug)]
pub(crate) struct Holders {
    ranges: Longest<Arc<[Claim]>>,
    /// The same, to be shown.
    listed: Arc<[(IpNet, Arc<[Claim]>)]>,
    /// Whether any Endpoint may send from an address that is not its own.
    pub(super) permits: bool,
}

/// Who has an allowed address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'s> {
    pub(crate) endpoint: &'s Endpoint,
    pub(crate) port: PortId,
    /// The MAC address that it has the address at.
    pub(crate) mac: Mac,
    /// Another may have it the next moment.
    pub(crate) contested: bool,
}

impl Holders {
    pub(super) fn none() -> Holders {
        Holders { ranges: Longest::new(), listed: Arc::default(), permits: false }
    }

    pub(super) fn of(state: &State) -> Holders {
        let mut ranges: BTreeMap<IpNet, Vec<(&str, Claim)>> = BTreeMap::new();
        let mut holders = Holders::none();
        for (endpoint, port) in state.bound() {
            holders.permits |= !endpoint.permit.is_empty();
            for allowed in &endpoint.permit.allowed_addresses {
                let mac = allowed.mac.unwrap_or(endpoint.mac);
                let claim = Claim { port: port.id, generation: port.generation, mac };
                ranges.entry(allowed.range).or_default().push((&endpoint.name, claim));
            }
        }
        let listed = ranges.into_iter().map(|(range, mut claims)| {
            claims.sort_by_key(|(name, _)| *name);
            // One that lists a range twice, by two MAC addresses, has it by the first.
            claims.dedup_by_key(|(name, _)| *name);
            (range, claims.into_iter().map(|(_, claim)| claim).collect())
        });
        holders.listed = listed.collect();
        for (range, claims) in holders.listed.iter() {
            holders.ranges.insert(*range, claims.clone());
        }
        holders
    }
}

impl State {
    /// An address of its own of the Endpoint behind a port, if the port may send from this one.
    pub(crate) fn own_address_beside(&self, port: PortId, address: IpAddr) -> Option<IpAddr> {
        if !self.holders.permits {
            return None;
        }
        let endpoint = self.sender(port)?;
        let allowed = self.may_hold(endpoint, address);
        allowed.then(|| endpoint.address_like(address)).flatten()
    }

    /// Whether an address belongs to an Endpoint that may send from others.
    pub(super) fn has_more_addresses(&self, address: IpAddr) -> bool {
        let owner = self.owners.get(&address);
        self.holders.permits && owner.is_some_and(|owner| !owner.endpoint.permit.is_empty())
    }

    /// Who has an allowed address, if it is nobody's own.
    pub(crate) fn holder(
        &self,
        address: IpAddr,
        announcements: &AnnouncementTable,
    ) -> Option<Holder<'_>> {
        if !self.holders.permits {
            return None;
        }
        let claims = self.holders.ranges.get(address)?;
        let (first, contested) = (claims.first()?, claims.len() > 1);
        let told = if contested { announcements.get(address) } else { None };
        let told = told.and_then(|told| claims.iter().find(|it| (it.port, it.generation) == told));
        let Claim { port, mac, .. } = told.unwrap_or(first);
        let endpoint = self.sender(*port)?;
        match self.permission(endpoint, address, *mac)? {
            Permission::Allowed(_) => Some(Holder { endpoint, port: *port, mac: *mac, contested }),
            Permission::Router => None,
        }
    }

    /// Remembers that the Endpoint of this port has told its neighbours that it has an address, if
    /// another could have it as well.
    pub(crate) fn announce(
        &self,
        announcements: &AnnouncementTable,
        port: PortId,
        address: IpAddr,
        now_ms: u64,
    ) {
        let claims = self.holders.ranges.get(address);
        let claims = claims.filter(|claims| claims.len() > 1).into_iter().flat_map(|it| it.iter());
        if let Some(claim) = claims.clone().find(|claim| claim.port == port) {
            announcements.put(address, (claim.port, claim.generation), now_ms);
        }
    }

    /// Ranges that lead to Endpoints, each with the first that may have it, and whether others may.
    pub(crate) fn held(&self) -> impl Iterator<Item = (IpNet, &Endpoint, PortId, bool)> {
        self.holders.listed.iter().filter_map(|(range, claims)| {
            let port = claims.first()?.port;
            Some((*range, self.sender(port)?, port, claims.len() > 1))
        })
    }
}

impl Endpoint {
    /// Its address of that family; any where it has none.
    pub(crate) fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let own = || self.addresses.iter().copied();
        own().find(|it| it.is_ipv4() == like.is_ipv4()).or_else(|| own().next())
    }
}

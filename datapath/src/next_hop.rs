//! Next hops: which MAC address a peer's tunnelled packets go to, kept as the kernel has it.
//!
//! The node's kernel keeps routes and resolves neighbours for its own traffic; Seine asks it and
//! listens to its changes instead of speaking ARP on the underlay itself. For each peer: the route
//! gives the next hop, the neighbour table its address. `NTF_USE` makes the kernel resolve one, and
//! again each time it goes stale, so an address that is in use stays fresh.
//!
//! A peer whose route does not leave by the uplink is unresolved, and its packets are dropped as
//! `NoNextHop`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::sys::SocketAddr;
use seine_pipeline::address::Mac;
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::datapath::Wanted;
use crate::underlay::{Neighbour, NextHopError, Underlay};

/// First wait before an unresolved next hop is tried again; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before an unresolved next hop is tried again.
const RETRY_LAST: Duration = Duration::from_secs(30);
/// Changes of routes come in bursts: they are answered once, this much later.
const REROUTE_DELAY: Duration = Duration::from_millis(50);
type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Follows the kernel's routes and neighbours for the peers that are wanted.
pub struct NextHops {
    underlay: Underlay,
    messages: Messages,
    adjacencies: Arc<AdjacencyTable>,
    wanted: watch::Receiver<Wanted>,
    peers: BTreeMap<usize, Hop>,
    reroute_at: Option<Instant>,
}

/// One peer's next hop.
struct Hop {
    /// The peer's own address on the underlay.
    peer: IpAddr,
    /// The gateway towards it, or itself.
    neighbour: Option<IpAddr>,
    resolved: bool,
    retry_at: Option<Instant>,
    wait: Duration,
}

impl NextHops {
    /// Listens in the network namespace of the calling thread. `uplink` is the interface's index.
    pub fn listen(
        uplink: u32,
        adjacencies: Arc<AdjacencyTable>,
        wanted: watch::Receiver<Wanted>,
    ) -> Result<NextHops, NextHopError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Link,
        ])?;
        tokio::spawn(connection);
        let peers = BTreeMap::new();
        let underlay = Underlay { handle, uplink };
        Ok(NextHops { underlay, messages, adjacencies, wanted, peers, reroute_at: None })
    }

    /// Follows until nobody wants any.
    pub async fn follow(mut self) {
        self.wanted.mark_changed();
        loop {
            let due = self.next_due();
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.adopt().await;
                }
                message = self.messages.next() => match message {
                    Some((message, _)) => self.hear(message).await,
                    None => {
                        tracing::error!("the kernel's news of neighbours has ended");
                        return;
                    }
                },
                () = sleep_until(due), if due.is_some() => self.retry().await,
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let retries = self.peers.values().filter_map(|hop| hop.retry_at);
        retries.chain(self.reroute_at).min()
    }

    /// Takes the set of peers that is wanted now.
    async fn adopt(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let stale: Vec<usize> = self
            .peers
            .iter()
            .filter(|(index, hop)| wanted.get(index) != Some(&hop.peer))
            .map(|(&index, _)| index)
            .collect();
        for index in stale {
            self.peers.remove(&index);
            self.set(index, None);
        }
        for (index, peer) in wanted {
            if let Entry::Vacant(vacant) = self.peers.entry(index) {
                vacant.insert(Hop {
                    peer,
                    neighbour: None,
                    resolved: false,
                    retry_at: None,
                    wait: RETRY_FIRST,
                });
                self.resolve(index).await;
            }
        }
    }

    async fn retry(&mut self) {
        let now = Instant::now();
        if self.reroute_at.is_some_and(|at| at <= now) {
            self.reroute_at = None;
            for index in self.peers.keys().copied().collect::<Vec<usize>>() {
                self.resolve(index).await;
            }
            return;
        }
        let due = |hop: &Hop| hop.retry_at.is_some_and(|at| at <= now);
        let indexes: Vec<usize> =
            self.peers.iter().filter(|(_, hop)| due(hop)).map(|(&index, _)| index).collect();
        for index in indexes {
            self.resolve(index).await;
        }
    }

    /// Asks the kernel for a peer's route and neighbour, and makes it resolve the neighbour.
    async fn resolve(&mut self, index: usize) {
        let Some(peer) = self.peers.get(&index).map(|hop| hop.peer) else { return };
        let found = self.look_up(peer).await;
        let (neighbour, mac) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                tracing::warn!(%peer, "no route to this peer by the uplink");
                return self.unresolved(index, None);
            }
            Err(error) => {
                tracing::warn!(%peer, %error, "next hop not resolved");
                return self.unresolved(index, None);
            }
        };
        if let Some(mac) = mac {
            return self.resolved(index, neighbour, mac);
        }
        self.unresolved(index, Some(neighbour));
        if let Err(error) = self.underlay.use_neighbour(neighbour).await {
            tracing::warn!(%peer, %error, "next hop not resolved");
        }
    }

    async fn look_up(&self, peer: IpAddr) -> Result<Option<(IpAddr, Option<Mac>)>, NextHopError> {
        let Some(neighbour) = self.underlay.route(peer).await? else { return Ok(None) };
        let message = self.underlay.neighbour(neighbour).await?;
        let mac = message.and_then(|message| Neighbour::of(&message)).and_then(Neighbour::mac);
        Ok(Some((neighbour, mac)))
    }

    fn resolved(&mut self, index: usize, neighbour: IpAddr, mac: Mac) {
        self.set(index, Some(mac));
        let Some(hop) = self.peers.get_mut(&index) else { return };
        if !hop.resolved {
            tracing::info!(peer = %hop.peer, %neighbour, %mac, "next hop resolved");
        }
        hop.neighbour = Some(neighbour);
        hop.resolved = true;
        hop.retry_at = None;
        hop.wait = RETRY_FIRST;
    }

    fn unresolved(&mut self, index: usize, neighbour: Option<IpAddr>) {
        self.set(index, None);
        let Some(hop) = self.peers.get_mut(&index) else { return };
        hop.neighbour = neighbour;
        hop.resolved = false;
        hop.retry_at = Some(Instant::now() + hop.wait);
        hop.wait = (hop.wait * 2).min(RETRY_LAST);
    }

    /// Nothing is set for a peer that is not wanted any more: its index may have a new owner.
    fn set(&self, index: usize, mac: Option<Mac>) {
        let wanted = self.wanted.borrow();
        let ours = self.peers.get(&index).map(|hop| hop.peer);
        if mac.is_some() && wanted.get(&index) != ours.as_ref() {
            return;
        }
        if let Some(id) = AdjacencyId::new(index) {
            self.adjacencies.set(id, mac);
        }
    }

    async fn hear(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                if let Some(neighbour) = Neighbour::of(&message)
                    && message.header.ifindex == self.underlay.uplink
                {
                    self.hear_neighbour(neighbour).await;
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                if let Some(neighbour) = Neighbour::of(&message)
                    && message.header.ifindex == self.underlay.uplink
                {
                    self.hear_neighbour(neighbour.deleted()).await;
                }
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(_)
                | RouteNetlinkMessage::DelRoute(_)
                | RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_),
            )
            // News were lost: look at everything again.
            | NetlinkPayload::Overrun(_) => {
                self.reroute_at.get_or_insert(Instant::now() + REROUTE_DELAY);
            }
            _ => {}
        }
    }

    async fn hear_neighbour(&mut self, neighbour: Neighbour) {
        let mut using = false;
        let of_it = |hop: &Hop| hop.neighbour == Some(neighbour.address);
        let indexes: Vec<usize> =
            self.peers.iter().filter(|(_, hop)| of_it(hop)).map(|(&index, _)| index).collect();
        for index in indexes {
            using = true;
            match neighbour.mac() {
                Some(mac) => self.resolved(index, neighbour.address, mac),
                None if neighbour.gone() => self.unresolved(index, Some(neighbour.address)),
                // Being resolved: the old address, if any, is as good as any.
                None => {}
            }
        }
        if using
            && neighbour.state == NeighbourState::Stale
            && let Err(error) = self.underlay.use_neighbour(neighbour.address).await
        {
            tracing::warn!(address = %neighbour.address, %error, "next hop not kept fresh");
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

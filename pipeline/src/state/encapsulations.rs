//! What packets under way ask of tunnels over IPv4, by next hop: headers ready to be put on, and
//! what those of a packet that comes in have to be.
//!
//! Derived from the Node, its Peers and the uplink whenever one of them changes.

use std::net::IpAddr;
use std::sync::Arc;

use super::{EncapMode, Peer, State, mac_word};
use crate::adjacency::AdjacencyId;
use crate::limits::ADJACENCIES_MAX;
use crate::packet::Tunnel;
use crate::tunnel::Prefix;

/// What the headers in front of a packet that comes in by a tunnel have to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Inward {
    /// The uplink's MAC address, in the lower 48 bits.
    pub(crate) mac: u64,
    /// This node's address on the underlay.
    pub(crate) local: u32,
    /// The tunnel's UDP port.
    pub(crate) port: u16,
    /// The tunnel's own header, as this node writes it.
    pub(crate) header: u64,
}

/// Entries of a chunk: a change copies one of them, and the list of all.
const CHUNK_ENTRIES: usize = 128;
const CHUNKS: usize = ADJACENCIES_MAX.div_ceil(CHUNK_ENTRIES);

type Chunk = Arc<[Option<Arc<Prefix>>]>;

/// All tunnels of a State whose underlay is IPv4.
#[derive(Clone, Debug)]
pub(crate) struct Encapsulations {
    inward: Option<Inward>,
    /// Of [`CHUNK_ENTRIES`] each, or empty.
    chunks: Arc<[Chunk; CHUNKS]>,
}

impl Encapsulations {
    pub(super) fn none() -> Encapsulations {
        Encapsulations { inward: None, chunks: Arc::new(std::array::from_fn(|_| Arc::default())) }
    }

    pub(super) fn of(state: &State) -> Encapsulations {
        let mut all = Encapsulations::none();
        let (Some(node), Some(uplink)) = (state.node(), state.uplink()) else { return all };
        let IpAddr::V4(local) = node.tunnel_address else { return all };
        if node.encap_mode == EncapMode::NoEncap {
            return all;
        }
        all.inward = Some(Inward {
            mac: mac_word(uplink.mac),
            local: local.to_bits(),
            port: node.tunnel_type.port(),
            header: node.tunnel_type.header(),
        });
        state.known_peers().for_each(|peer| all.replace(None, Some(peer), state));
        all
    }

    /// A Peer that is another now, or gone. Of two behind one next hop the last one counts: whoever
    /// asks has to look whose headers it gets.
    pub(super) fn replace(&mut self, old: Option<&Peer>, new: Option<&Peer>, state: &State) {
        let (Some(node), Some(uplink), true) =
            (state.node(), state.uplink(), self.inward.is_some())
        else {
            return;
        };
        let prefix_of = |peer: &Peer| {
            let (local, remote) = (node.tunnel_address, peer.tunnel_address);
            let tunnel =
                Tunnel { local, remote, adjacency: peer.adjacency, kind: node.tunnel_type };
            Prefix::of(tunnel, uplink.mac).map(Arc::new)
        };
        if let Some(old) = old
            && self.prefix(old.adjacency).is_some_and(|prefix| prefix.is_to(old.tunnel_address))
        {
            self.put(old.adjacency, None);
        }
        if let Some(new) = new {
            self.put(new.adjacency, prefix_of(new));
        }
    }

    fn put(&mut self, id: AdjacencyId, prefix: Option<Arc<Prefix>>) {
        let (chunk, place) = (id.index() / CHUNK_ENTRIES, id.index() % CHUNK_ENTRIES);
        let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(chunk) else { return };
        if chunk.is_empty() {
            *chunk = (0..CHUNK_ENTRIES).map(|_| None).collect();
        }
        if let Some(entry) = Arc::make_mut(chunk).get_mut(place) {
            *entry = prefix;
        }
    }

    /// What has to be in front of a packet that comes in.
    #[inline]
    pub(crate) fn inward(&self) -> Option<&Inward> {
        self.inward.as_ref()
    }

    /// The headers towards the peer behind this next hop.
    #[inline]
    pub(crate) fn prefix(&self, id: AdjacencyId) -> Option<&Prefix> {
        let (chunk, place) = (id.index() / CHUNK_ENTRIES, id.index() % CHUNK_ENTRIES);
        self.chunks.get(chunk)?.get(place)?.as_deref()
    }
}

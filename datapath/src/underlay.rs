//! What the node's kernel knows of the underlay: routes and neighbours, asked one by one.

use std::net::IpAddr;
use std::time::Duration;

use futures::{Stream, StreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use seine_pipeline::address::Mac;

/// How long an answer of the kernel may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Why next hops cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NextHopError {
    /// No netlink socket.
    #[error("cannot listen to the kernel's routes and neighbours: {0}")]
    Listen(#[from] std::io::Error),
    /// The kernel did not answer, or refused.
    #[error("the kernel refused to say or do something about next hop {address}: {reason}")]
    Kernel {
        /// The address.
        address: IpAddr,
        /// What it said.
        reason: String,
    },
}

/// Asks and tells the kernel, about one interface.
pub struct Underlay {
    /// The netlink connection.
    pub handle: Handle,
    /// Index of the uplink.
    pub uplink: u32,
}

impl Underlay {
    /// The next hop towards an address, if it is by the uplink.
    pub async fn route(&self, address: IpAddr) -> Result<Option<IpAddr>, NextHopError> {
        let mut question = RouteMessage::default();
        let (family, bits) = family(address);
        question.header.address_family = family;
        question.header.destination_prefix_length = bits;
        question.attributes.push(RouteAttribute::Destination(address.into()));
        let mut answers = std::pin::pin!(self.handle.route().get(question).execute());
        let answer = match tokio::time::timeout(ANSWER_LIMIT, answers.next()).await {
            Ok(Some(Ok(answer))) => answer,
            // "Network is unreachable" is an answer, too.
            Ok(Some(Err(rtnetlink::Error::NetlinkError(_)))) => return Ok(None),
            Ok(Some(Err(error))) => return Err(kernel(address, error.to_string())),
            Ok(None) => return Ok(None),
            Err(_) => return Err(kernel(address, "no answer".to_owned())),
        };
        let mut by_uplink = false;
        let mut gateway = None;
        for attribute in answer.attributes {
            match attribute {
                RouteAttribute::Oif(index) => by_uplink = index == self.uplink,
                RouteAttribute::Gateway(RouteAddress::Inet(hop))
                | RouteAttribute::Via(RouteVia::Inet(hop)) => gateway = Some(hop.into()),
                RouteAttribute::Gateway(RouteAddress::Inet6(hop))
                | RouteAttribute::Via(RouteVia::Inet6(hop)) => gateway = Some(hop.into()),
                _ => {}
            }
        }
        Ok(by_uplink.then_some(gateway.unwrap_or(address)))
    }

    /// What the kernel knows of a neighbour.
    pub async fn neighbour(
        &self,
        address: IpAddr,
    ) -> Result<Option<NeighbourMessage>, NextHopError> {
        let mut message =
            NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(self.question(address)));
        message.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let answers =
            handle.request(message).map_err(|error| kernel(address, error.to_string()))?;
        match first(answers, address).await? {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour))) => {
                Ok(Some(neighbour))
            }
            // The kernel knows none.
            _ => Ok(None),
        }
    }

    /// Makes the kernel resolve a neighbour, as if it had sent to it.
    pub async fn use_neighbour(&self, address: IpAddr) -> Result<(), NextHopError> {
        let mut neighbour = self.question(address);
        neighbour.header.state = NeighbourState::None;
        neighbour.header.flags = NeighbourFlags::Use;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(neighbour));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut handle = self.handle.clone();
        let answers =
            handle.request(message).map_err(|error| kernel(address, error.to_string()))?;
        match first(answers, address).await? {
            Some(NetlinkPayload::Error(error)) if error.code.is_some() => {
                Err(kernel(address, error.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn question(&self, address: IpAddr) -> NeighbourMessage {
        let mut question = NeighbourMessage::default();
        question.header.family = family(address).0;
        question.header.ifindex = self.uplink;
        question.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        question
    }
}

/// What matters of a neighbour message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Whose.
    pub address: IpAddr,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
    link_layer_address: Option<Mac>,
}

impl Neighbour {
    /// `None` for a message without address.
    pub fn of(message: &NeighbourMessage) -> Option<Neighbour> {
        let mut address = None;
        let mut link_layer_address = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => {
                    address = Some(IpAddr::V4(*it));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(it)) => {
                    address = Some(IpAddr::V6(*it));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    link_layer_address = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                }
                _ => {}
            }
        }
        Some(Neighbour { address: address?, state: message.header.state, link_layer_address })
    }

    /// The neighbour of a message that says it was deleted.
    pub fn deleted(self) -> Neighbour {
        Neighbour { state: NeighbourState::None, ..self }
    }

    /// The MAC address, if the kernel would use it.
    pub fn mac(self) -> Option<Mac> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Noarp
            | NeighbourState::Permanent => self.link_layer_address,
            _ => None,
        }
    }

    /// Whether the kernel has given it up.
    pub fn gone(self) -> bool {
        matches!(self.state, NeighbourState::Failed | NeighbourState::None)
    }
}

async fn first(
    answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
    address: IpAddr,
) -> Result<Option<NetlinkPayload<RouteNetlinkMessage>>, NextHopError> {
    let mut answers = std::pin::pin!(answers);
    match tokio::time::timeout(ANSWER_LIMIT, answers.next()).await {
        Ok(answer) => Ok(answer.map(|message| message.payload)),
        Err(_) => Err(kernel(address, "no answer".to_owned())),
    }
}

fn kernel(address: IpAddr, reason: String) -> NextHopError {
    NextHopError::Kernel { address, reason }
}

fn family(address: IpAddr) -> (AddressFamily, u8) {
    match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

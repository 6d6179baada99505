//! Neighbours that are told to the kernel instead of asked for.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::{Netlink, NetlinkError, family};
use crate::model::Mac;

/// An address on a link and who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticNeighbor {
    /// The link, by index.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub mac: Mac,
}

impl Netlink {
    /// The static neighbours of both families.
    pub fn static_neighbors(&mut self) -> Result<Vec<StaticNeighbor>, NetlinkError> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answers = self.exchange("list neighbours", message, NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => neighbor_of(&message),
                _ => None,
            })
            .collect())
    }

    /// Adds a static neighbour, or replaces what the kernel knows of the address.
    pub fn replace_neighbor(&mut self, neighbor: StaticNeighbor) -> Result<(), NetlinkError> {
        let mut message = neighbor_message(neighbor);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbor.mac.bytes().into()));
        let request = format!("add the neighbour {}", neighbor.address);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(&request, RouteNetlinkMessage::NewNeighbour(message), flags).map(|_| ())
    }

    /// Deletes a neighbour. One that is not there is a success.
    pub fn delete_neighbor(&mut self, neighbor: StaticNeighbor) -> Result<(), NetlinkError> {
        let request = format!("delete the neighbour {}", neighbor.address);
        let message = RouteNetlinkMessage::DelNeighbour(neighbor_message(neighbor));
        match self.exchange(&request, message, NLM_F_ACK) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

fn neighbor_message(neighbor: StaticNeighbor) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbor.address);
    message.header.ifindex = neighbor.interface;
    message.header.state = NeighbourState::Permanent;
    let address = match neighbor.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

fn neighbor_of(message: &NeighbourMessage) -> Option<StaticNeighbor> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut found, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                found = Some(IpAddr::V4(*address));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                found = Some(IpAddr::V6(*address));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = Mac::try_from(bytes.as_slice()).ok();
            }
            _ => {}
        }
    }
    Some(StaticNeighbor { interface: message.header.ifindex, address: found?, mac: mac? })
}

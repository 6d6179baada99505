//! ARP responder: the node answers for every address it knows.
//!
//! Antrea: stage Validation's pipeline ARP, table `ARPResponder`.
//! Reads: the ARP request, ingress port.  Writes: turns the request into its answer.
//! Hit: answer, out of the ingress port.  Miss: drop `UnknownNeighbor`, `NeighborNoAnswer`.
//!
//! Antrea answers for peers' gateways only and floods the rest; here nothing is flooded, so no Pod
//! can listen for its neighbours' requests or answer in their place.

use std::net::IpAddr;

use super::validation::{answerer, answers};
use crate::adjacency::AdjacencyTable;
use crate::packet::Packet;
use crate::run::Context;
use crate::stage::{Table, TableId, settle};
use crate::state::State;
use crate::verdict::{DropReason, Verdict};
use crate::wire::arp::{self, Operation};
use crate::wire::ethernet;

/// Answers ARP requests.
pub struct ArpResponder;

impl ArpResponder {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let request = arp::Repr::parse(packet.payload()).ok_or(DropReason::Malformed)?;
        if request.operation == Operation::Reply || request.sender == request.target {
            context.note(format_args!("{} tells where it is", request.sender));
            return Err(DropReason::NeighborNoAnswer);
        }
        context.note(format_args!("{} asks for {}", request.sender, request.target));
        let owner = answerer(packet, context, IpAddr::V4(request.target))?;
        let mac = owner.mac();
        context.note(format_args!("{owner} has {} at {mac}", request.target));
        packet.renew(ethernet::LEN + arp::LEN).map_err(|_| DropReason::NoHeadroom)?;
        let header = ethernet::Repr {
            destination: request.sender_mac,
            source: mac,
            ether_type: ethernet::ARP,
        };
        let reply = arp::Repr {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: request.target,
            target_mac: request.sender_mac,
            target: request.sender,
        };
        header.emit(packet.bytes_mut()).ok_or(DropReason::Malformed)?;
        reply.emit(packet.payload_mut()).ok_or(DropReason::Malformed)?;
        Ok(Verdict::Answer)
    }
}

impl Table for ArpResponder {
    fn id(&self) -> TableId {
        TableId::ArpResponder
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["address", "MAC", "owner"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        answers(state, true)
    }

    fn entries(&self, state: &State) -> usize {
        state.neighbors(true).count()
    }
}

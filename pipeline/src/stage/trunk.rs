//! Trunk: tagged frames, each within its VLAN.
//!
//! Antrea has no such table: its Pods' secondary interfaces have one VLAN each, on a bridge apart.
//! Reads: the tag, both MAC addresses, who tells its MAC address by ARP or neighbour discovery; the
//! ingress port.  Writes: the mark of a partial checksum.
//! Hit: out by the member of the VLAN that has the destination MAC address, or by all of them.
//! Miss: drop `ForeignVlan`, `SpoofedSource`, `UnknownDestinationMac`, `FloodBudget` and others.
//!
//! A VLAN is a segment of its own, beside the Pod network: nothing passes from the one to the
//! other, here or in any table, and policies of the Pod network do not look into it. Which
//! addresses are used in it is up to its members; their MAC addresses are not.

use crate::adjacency::AdjacencyTable;
use crate::connection::{Account, Ingress, Rate};
use crate::limits::{FLOODS_BURST, FLOODS_PER_S};
use crate::packet::{Checksum, Packet};
use crate::run::Context;
use crate::stage::{Table, TableId, row, settle};
use crate::state::{Endpoint, State, VlanRange};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ip::Ip;
use crate::wire::neighbor::{self, Neighbor};
use crate::wire::vlan::{self, Tag};
use crate::wire::{arp, ethernet};

const RATE: Rate = Rate { per_s: FLOODS_PER_S, burst: FLOODS_BURST };

/// Forwards tagged frames, within their VLAN.
pub struct VlanTrunk;

impl VlanTrunk {
    fn decide(packet: &mut Packet<'_>, context: &mut Context<'_>) -> Result<Verdict, DropReason> {
        let state = context.state;
        let sender = state.sender(packet.ingress).ok_or(DropReason::UnknownPort)?;
        let tag = Tag::parse(packet.payload()).ok_or(DropReason::Malformed)?;
        if matches!(tag.ether_type, ethernet::VLAN | ethernet::SERVICE_VLAN) {
            return Err(DropReason::TaggedFrame);
        }
        let Some(vlan) = tag.vlan.filter(|vlan| sender.is_in(*vlan)) else {
            context.note(format_args!("{} has no such VLAN", sender.name));
            return Err(DropReason::ForeignVlan);
        };
        if let Err(reason) = speaks_for_itself(packet, tag, sender) {
            context.note(format_args!("{} speaks for itself only", sender.name));
            return Err(reason);
        }
        check_partial_checksum(packet)?;
        let destination = packet.ethernet()?.destination();
        if destination.is_group() {
            charge(packet, context)?;
            context.note(format_args!("for all in VLAN {vlan}"));
            let mut members = state.vlan_members(vlan);
            return match members.any(|port| port != packet.ingress) {
                true => Ok(Verdict::Replicate(vlan)),
                false => Err(DropReason::Multicast),
            };
        }
        let Some((endpoint, port)) = state.vlan_station(vlan, destination) else {
            context.note(format_args!("nobody in VLAN {vlan} has {destination}"));
            return Err(DropReason::UnknownDestinationMac);
        };
        context.note(format_args!("in VLAN {vlan} {} has {destination}", endpoint.name));
        if port == packet.ingress {
            return Err(DropReason::Hairpin);
        }
        if packet.len() > vlan::TAGGED_LEN + usize::from(endpoint.mtu) {
            return Err(DropReason::PacketTooBig);
        }
        Ok(Verdict::Output(port))
    }
}

/// Whether frame, and what it tells of its sender's MAC address, come from one of the sender's own.
/// What IP there is may leave its checksum to be finished, as outside of VLANs.
fn speaks_for_itself(
    packet: &mut Packet<'_>,
    tag: Tag,
    sender: &Endpoint,
) -> Result<(), DropReason> {
    let source = packet.ethernet()?.source();
    if !sender.has_mac(source) {
        return Err(DropReason::SpoofedSource);
    }
    let tagged = packet.bytes().get(vlan::TAGGED_LEN..).unwrap_or_default();
    if tag.ether_type == ethernet::ARP {
        let message = arp::Repr::parse(tagged).ok_or(DropReason::Malformed)?;
        let own = message.sender_mac == source;
        return own.then_some(()).ok_or(DropReason::SpoofedArp);
    }
    let Some(Ok(ip)) = Ip::parse(tag.ether_type, tagged) else { return Ok(()) };
    if let Some(neighbor::SOLICITATION | neighbor::ADVERTISEMENT) = ip.icmp_type(tagged) {
        let message = tagged.get(ip.upper..ip.len).and_then(Neighbor::parse);
        let message = message.ok_or(DropReason::Malformed)?;
        if message.link_layer.is_some_and(|told| told != source) {
            return Err(DropReason::SpoofedNeighbor);
        }
    }
    if packet.checksum == Checksum::Complete && packet.following == 0 {
        packet.recognise_partial_checksum_of(ip, vlan::TAGGED_LEN);
    }
    Ok(())
}

/// A checksum that is to be finished lies behind the tag: what the frame was judged by stays.
fn check_partial_checksum(packet: &Packet<'_>) -> Result<(), DropReason> {
    let Checksum::Partial { start, offset } = packet.checksum else { return Ok(()) };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let placed = start >= vlan::TAGGED_LEN && start + offset + 2 <= packet.len();
    placed.then_some(()).ok_or(DropReason::BadChecksumOffset)
}

/// Takes the copies of this frame from the budget of its port, unless it is only described.
fn charge(packet: &Packet<'_>, context: &mut Context<'_>) -> Result<(), DropReason> {
    if context.dry {
        return Ok(());
    }
    let port = context.state.port(packet.ingress).ok_or(DropReason::UnknownPort)?;
    let account = Account::of(Ingress::Pod(port.id, port.generation), false);
    let taken = context.worker.floods.take(RATE, account, context.now_ms);
    taken.then_some(()).ok_or(DropReason::FloodBudget)
}

impl Table for VlanTrunk {
    fn id(&self) -> TableId {
        TableId::VlanTrunk
    }

    fn apply(&self, packet: &mut Packet<'_>, context: &mut Context<'_>) -> Verdict {
        settle(Self::decide(packet, context))
    }

    fn columns(&self) -> &'static [&'static str] {
        &["VLANs", "MAC", "port", "owner"]
    }

    fn rows(&self, state: &State, _: &AdjacencyTable) -> Vec<Vec<String>> {
        let rows = state.trunks().flat_map(|(endpoint, port)| {
            let port = state.port(port).map_or("", |port| port.name.as_str());
            let permitted = endpoint.permit.allowed_addresses.iter().filter_map(|it| it.mac);
            let macs = std::iter::once(endpoint.mac).chain(permitted);
            let ranges = endpoint.permit.vlans.iter();
            macs.flat_map(move |mac| {
                let row_of = move |it: &VlanRange| row([it, &mac, &port, &endpoint.name]);
                ranges.clone().map(row_of)
            })
        });
        rows.collect()
    }

    fn entries(&self, state: &State) -> usize {
        let macs = |endpoint: &Endpoint| {
            1 + endpoint.permit.allowed_addresses.iter().filter(|it| it.mac.is_some()).count()
        };
        state.trunks().map(|(endpoint, _)| macs(endpoint) * endpoint.permit.vlans.len()).sum()
    }
}

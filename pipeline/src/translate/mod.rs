//! Translation: other addresses and ports in a packet's headers, and every checksum right again.
//!
//! Checksums are changed by the difference, never summed anew: one that was wrong before stays
//! wrong, so that the receiver still finds out. A partial one holds the sum of the pseudo-header,
//! in which addresses count and ports do not.
//!
//! [`destination`] and [`source`] are for a connection's first packet; [`both`] for the rest; and
//! [`quoted`] for an error message about one, which quotes a packet that was translated the other
//! way.

use std::net::IpAddr;

use crate::connection::Tuple;
use crate::packet::{Checksum, Packet};
use crate::verdict::DropReason;
use crate::wire::checksum::{self, Difference};
use crate::wire::field;
use crate::wire::ip::Ip;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{Fragment, Ipv6};
use crate::wire::{bytes_at, crc32c, ethernet, icmp, put, sctp, tcp, u16_at, udp};

/// Bytes of an upper-layer header within which all lies that a translation changes.
const UPPER_CHANGED: usize = 20;

/// Sends the packet to this address and port instead; the port of what has none is not used.
pub(crate) fn destination(
    packet: &mut Packet<'_>,
    address: IpAddr,
    port: u16,
) -> Result<(), DropReason> {
    let from = packet.facts.tuple.ok_or(DropReason::Malformed)?;
    let port = if from.has_ports() { port } else { from.destination_port };
    both(packet, Tuple { destination: address, destination_port: port, ..from })
}

/// Sends the packet from this address and port instead; of an ICMP query the port is the
/// identifier; that of what has none is not used.
pub(crate) fn source(
    packet: &mut Packet<'_>,
    address: IpAddr,
    port: u16,
) -> Result<(), DropReason> {
    let from = packet.facts.tuple.ok_or(DropReason::Malformed)?;
    let asks = matches!(from.query(), Some((_, false)));
    let port = if from.has_ports() || asks { port } else { from.source_port };
    both(packet, Tuple { source: address, source_port: port, ..from })
}

/// Makes the packet one from and to these addresses and ports.
pub(crate) fn both(packet: &mut Packet<'_>, to: Tuple) -> Result<(), DropReason> {
    let (ip, from) = (packet.ip()?, packet.facts.tuple.ok_or(DropReason::Malformed)?);
    if from == to {
        return Ok(());
    }
    let partial = is_partial(packet, &ip);
    rewrite(packet.payload_mut(), &ip, &from, &to, partial)?;
    packet.facts.ip = Some(Ip { source: to.source, destination: to.destination, ..ip });
    packet.facts.tuple = Some(to);
    Ok(())
}

/// Makes it the packet that came in again, for an answer that the node builds itself: its sender
/// knows nothing of translations.
pub(crate) fn restore(packet: &mut Packet<'_>) -> Result<(), DropReason> {
    packet.facts.original.map_or(Ok(()), |original| both(packet, original))
}

/// What an ICMP error quotes: the packet's own headers, and how far behind the error's they stand.
#[derive(Clone, Copy)]
pub(crate) struct Quoted {
    /// Bytes from the error's IP header to the quoted one.
    at: usize,
    ip: Ip,
    /// From whom to whom the quoted packet was.
    pub(crate) tuple: Tuple,
}

impl Quoted {
    /// What an error quotes; `None` when that is not enough to tell whose packet it was.
    pub(crate) fn of(packet: &Packet<'_>, ip: &Ip) -> Option<Quoted> {
        let at = ip.upper + icmp::LEN;
        let bytes = packet.payload().get(at..)?;
        let quoted = Ip::parse_quoted(ip.is_v6(), bytes)?;
        let tuple = Tuple::of(&quoted, bytes)?;
        (quoted.fragment != Fragment::Later).then_some(Quoted { at, ip: quoted, tuple })
    }
}

/// Makes an ICMP error from and to these addresses, and what it quotes a packet from and to those.
pub(crate) fn quoted(
    packet: &mut Packet<'_>,
    quoted: &Quoted,
    inner: Tuple,
    outer: Tuple,
) -> Result<(), DropReason> {
    let ip = packet.ip()?;
    let partial = is_partial(packet, &ip);
    let Some(bytes) = packet.payload_mut().get_mut(quoted.at..) else { return Ok(()) };
    let end = bytes.len().min(quoted.ip.upper + UPPER_CHANGED);
    let before = checksum::sum(bytes.get(..end).unwrap_or_default());
    rewrite(bytes, &quoted.ip, &quoted.tuple, &inner, false)?;
    let after = checksum::sum(bytes.get(..end).unwrap_or_default());
    if !partial {
        let field = Field { at: ip.upper + icmp::CHECKSUM_OFFSET, partial: false, optional: false };
        field.change(packet.payload_mut(), Difference::default().replace(before, after));
    }
    both(packet, outer)
}

/// Whether the packet's own upper-layer checksum is still to be finished.
fn is_partial(packet: &Packet<'_>, ip: &Ip) -> bool {
    match packet.checksum {
        Checksum::Complete => false,
        Checksum::Partial { start, .. } => usize::from(start) == ethernet::LEN + ip.upper,
    }
}

/// An Internet checksum in an upper-layer header.
struct Field {
    at: usize,
    /// It holds the pseudo-header's sum only.
    partial: bool,
    /// Zero means that there is none.
    optional: bool,
}

impl Field {
    /// Changes it by a difference; one that is not there, or not whole, is let be.
    fn change(&self, bytes: &mut [u8], difference: Difference) {
        field::read(field::Field::UpperChecksum);
        let Some(old) = u16_at(bytes, self.at) else { return };
        let new = match (self.partial, self.optional) {
            (true, _) => difference.sum(old),
            (false, true) if old == 0 => 0,
            (false, true) => checksum::for_udp(difference.checksum(old)),
            (false, false) => difference.checksum(old),
        };
        let _ = put(bytes, self.at, &new.to_be_bytes());
    }
}

/// Rewrites the headers at the front of `bytes`, from the IP header on.
fn rewrite(
    bytes: &mut [u8],
    ip: &Ip,
    from: &Tuple,
    to: &Tuple,
    partial: bool,
) -> Result<(), DropReason> {
    let ports = (from.source_port, from.destination_port) != (to.source_port, to.destination_port);
    if ports && ip.protocol == sctp::PROTOCOL && ip.fragment == Fragment::First {
        return Err(DropReason::UntranslatableFragment);
    }
    set_addresses(bytes, ip, to).ok_or(DropReason::Malformed)?;
    if ip.fragment == Fragment::Later {
        return Ok(());
    }
    let addresses = Difference::default()
        .replace_address(ip.source, to.source)
        .replace_address(ip.destination, to.destination);
    let upper = ip.upper;
    let (changed, pseudo_header, offset) = match ip.protocol {
        tcp::PROTOCOL => (set_ports(bytes, upper, to), true, tcp::CHECKSUM_OFFSET),
        udp::PROTOCOL => (set_ports(bytes, upper, to), true, udp::CHECKSUM_OFFSET),
        icmp::PROTOCOL_V4 if !ip.is_v6() => {
            (Some(set_identifier(bytes, ip, from, to)), false, icmp::CHECKSUM_OFFSET)
        }
        icmp::PROTOCOL_V6 if ip.is_v6() => {
            (Some(set_identifier(bytes, ip, from, to)), true, icmp::CHECKSUM_OFFSET)
        }
        sctp::PROTOCOL if ports => {
            return set_sctp_ports(bytes, ip, to).ok_or(DropReason::Malformed);
        }
        _ => return Ok(()),
    };
    let changed = changed.ok_or(DropReason::Malformed)?;
    let mut difference = if partial { Difference::default() } else { changed };
    if pseudo_header {
        difference = difference.and(addresses);
    }
    let field = Field { at: upper + offset, partial, optional: ip.protocol == udp::PROTOCOL };
    field.change(bytes, difference);
    Ok(())
}

fn set_addresses(bytes: &mut [u8], ip: &Ip, to: &Tuple) -> Option<()> {
    match (to.source, to.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) if !ip.is_v6() => {
            let mut view = Ipv4::parse_mut(bytes)?;
            view.set_source(source);
            view.set_destination(destination);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) if ip.is_v6() => {
            let mut view = Ipv6::parse_mut(bytes)?;
            view.set_source(source);
            view.set_destination(destination);
        }
        // Nothing turns one family into the other.
        _ => return None,
    }
    Some(())
}

/// Sets both ports; gives the difference that makes.
fn set_ports(bytes: &mut [u8], upper: usize, to: &Tuple) -> Option<Difference> {
    let old: [u8; 4] = bytes_at(bytes, upper)?;
    let new = ports(to);
    put(bytes, upper, &new)?;
    Some(Difference::default().replace(checksum::sum(&old), checksum::sum(&new)))
}

/// Sets the identifier of an ICMP query or its answer; gives the difference that makes.
fn set_identifier(bytes: &mut [u8], ip: &Ip, from: &Tuple, to: &Tuple) -> Difference {
    // The port of who has asked is the identifier, and the other one the type, which stays.
    let answers = ip.icmp_type(bytes).is_some_and(|kind| icmp::is_answer(ip.is_v6(), kind));
    let identifier = |tuple: &Tuple| match answers {
        true => tuple.destination_port,
        false => tuple.source_port,
    };
    let (old, new) = (identifier(from), identifier(to));
    if old != new {
        let _ = put(bytes, ip.upper + icmp::IDENTIFIER_OFFSET, &new.to_be_bytes());
    }
    Difference::default().replace(old.into(), new.into())
}

fn set_sctp_ports(bytes: &mut [u8], ip: &Ip, to: &Tuple) -> Option<()> {
    let old: [u8; 4] = bytes_at(bytes, ip.upper)?;
    let new = ports(to);
    put(bytes, ip.upper, &new)?;
    // A quoted packet may be cut before its checksum.
    let Some(sum) = bytes_at::<4>(bytes, ip.upper + sctp::CHECKSUM_OFFSET) else { return Some(()) };
    let change = (u32::from_be_bytes(old) ^ u32::from_be_bytes(new)).to_be_bytes();
    let behind = ip.len.checked_sub(ip.upper + change.len())?;
    let sum = u32::from_le_bytes(sum) ^ crc32c::difference(&change, behind);
    put(bytes, ip.upper + sctp::CHECKSUM_OFFSET, &sum.to_le_bytes())
}

/// Both ports as headers have them.
fn ports(tuple: &Tuple) -> [u8; 4] {
    (u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port)).to_be_bytes()
}

#[cfg(test)]
mod tests;

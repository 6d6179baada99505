//! One packet: bytes in a buffer with headroom, what the port said about them, and what the stages
//! learnt on the way.

mod facts;

pub use facts::{Denied, Facts, PacketSource, Tracking, Tunnel};

use crate::address::{Mac, PortId};
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::field::{Field, read};
use crate::wire::ip::Ip;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{Fragment, Ipv6};
use crate::wire::{Defect, checksum, icmp, put, sctp, tcp, u16_at, udp};

/// What stands in a TCP or UDP checksum field, as the ingress port knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// The whole sum, or nothing to sum: the receiver may verify it.
    #[default]
    Complete,
    /// Only the pseudo-header's sum, as virtio and Linux leave it for the device: somebody still
    /// has to sum from `start` to the end of the packet and store the result at `start + offset`.
    Partial {
        /// Bytes from the start of the packet to the TCP or UDP header.
        start: u16,
        /// Bytes from there to the checksum field.
        offset: u16,
    },
}

/// Where a packet lies in its buffer, and what whoever moves it has to know of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// From the outermost header to the end of the payload.
    pub range: std::ops::Range<usize>,
    /// What the L4 checksum field holds.
    pub checksum: Checksum,
    /// Payload bytes of the segments behind it.
    pub following: usize,
}

/// The headroom cannot hold the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoHeadroom;

/// A packet on its way through the pipeline.
///
/// Invariant: `start <= end <= buffer.len()`.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    /// The port it came in by.
    pub ingress: PortId,
    /// What the L4 checksum field holds.
    pub checksum: Checksum,
    /// Payload bytes of the segments behind this one, which are not seen here: they go where it
    /// goes, with headers like its own. None are left behind what is written anew.
    pub following: usize,
    /// What the stages learnt.
    pub facts: Facts,
}

impl<'a> Packet<'a> {
    /// The packet at `start..end` of `buffer`. `None` when that range is not within the buffer.
    pub fn new(
        buffer: &'a mut [u8],
        start: usize,
        end: usize,
        ingress: PortId,
        checksum: Checksum,
    ) -> Option<Packet<'a>> {
        (start <= end && end <= buffer.len()).then_some(Packet {
            buffer,
            start,
            end,
            ingress,
            checksum,
            following: 0,
            facts: Facts::default(),
        })
    }

    /// Where the packet lies in its buffer now.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// As that, and what else is to be known of it there.
    pub fn place(&self) -> Place {
        let Packet { start, end, checksum, following, .. } = *self;
        Place { range: start..end, checksum, following }
    }

    /// Bytes, Ethernet header included.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// From the outermost header to the end of the payload.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// As [`bytes`](Self::bytes), to rewrite.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// What follows the Ethernet header.
    pub fn payload(&self) -> &[u8] {
        self.bytes().get(ethernet::LEN..).unwrap_or_default()
    }

    /// As [`payload`](Self::payload), to rewrite.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.bytes_mut().get_mut(ethernet::LEN..).unwrap_or_default()
    }

    /// Makes room for `count` bytes of headers in front; they hold whatever was there.
    pub fn push_front(&mut self, count: usize) -> Result<(), NoHeadroom> {
        self.start = self.start.checked_sub(count).ok_or(NoHeadroom)?;
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            // A frame is at most 64 KiB, and so is where its L4 header lies.
            *start = start.saturating_add(count as u16);
        }
        Ok(())
    }

    /// Takes `count` bytes off the front; no more than there are. A partial checksum whose header
    /// goes with them is no longer one.
    pub fn pop_front(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if let Checksum::Partial { start, offset } = self.checksum {
            let start = usize::from(start).checked_sub(count);
            self.checksum = start.map_or(Checksum::Complete, |start| {
                // Smaller than the 16-bit number it came from.
                Checksum::Partial { start: start as u16, offset }
            });
        }
    }

    /// Sets the length. Grows into the tailroom as far as there is any; `false` when that is not
    /// enough, and nothing changes.
    pub fn resize(&mut self, len: usize) -> bool {
        let end = self.start + len;
        if end > self.buffer.len() {
            return false;
        }
        self.end = end;
        true
    }

    /// Sets the length for a packet that is written anew: by cutting the tail, or else by growing
    /// into the headroom.
    pub fn renew(&mut self, len: usize) -> Result<(), NoHeadroom> {
        (self.checksum, self.following) = (Checksum::Complete, 0);
        match len.checked_sub(self.len()) {
            None | Some(0) => self.end = self.start + len,
            Some(missing) => self.push_front(missing)?,
        }
        Ok(())
    }

    /// Finishes a partial checksum in software: for a port that does not take it, and for what
    /// goes into a tunnel.
    pub fn complete_checksum(&mut self) {
        let Checksum::Partial { start, offset } = std::mem::take(&mut self.checksum) else {
            return;
        };
        let segment = self.bytes_mut().get_mut(usize::from(start)..).unwrap_or_default();
        // The field holds the pseudo-header's sum, so it is part of the sum.
        let sum = checksum::checksum(segment);
        // Only UDP's zero means "none", and only UDP has its checksum at this offset; elsewhere
        // the other form of zero is one that no summing yields (RFC 1624 section 3).
        let udp = usize::from(offset) == udp::CHECKSUM_OFFSET;
        let sum = if udp { checksum::for_udp(sum) } else { sum };
        // A fact that lies outside the packet never gets past `PipelineRootClassifier`.
        let _ = put(segment, usize::from(offset), &sum.to_be_bytes());
    }
}

/// What the stages ask and do.
impl Packet<'_> {
    /// The Ethernet header.
    pub(crate) fn ethernet(&self) -> Result<Ethernet<&[u8; ethernet::LEN]>, DropReason> {
        Ethernet::parse(self.bytes()).ok_or(DropReason::Malformed)
    }

    /// The IP headers; an IP table without them is a packet that went astray.
    pub(crate) fn ip(&self) -> Result<Ip, DropReason> {
        self.facts.ip.ok_or(DropReason::Malformed)
    }

    /// Bytes of the IP packet, and of the segments behind it: what it is counted with.
    pub(crate) fn counted_bytes(&self) -> Result<u64, DropReason> {
        Ok((self.ip()?.len + self.following) as u64)
    }

    /// Reads the IP headers and cuts off what the link padded. `false` when it is not IP.
    pub(crate) fn parse_ip(&mut self) -> Result<bool, DropReason> {
        let ether_type = self.ethernet()?.ether_type();
        let Some(parsed) = Ip::parse(ether_type, self.payload()) else { return Ok(false) };
        let ip = parsed.map_err(|defect| match defect {
            Defect::Malformed => DropReason::Malformed,
            Defect::Checksum => DropReason::BadHeaderChecksum,
            Defect::ExtensionHeaders => DropReason::TooManyExtensionHeaders,
        })?;
        self.resize(ethernet::LEN + ip.len);
        self.facts.ip = Some(ip);
        Ok(true)
    }

    /// Holds what the port said about a partial checksum against the packet. It is finished after
    /// everything is decided, so it may be the upper layer's own or lie within its payload, where a
    /// tunnel's inner one does; anywhere else it would rewrite what was decided by.
    pub(crate) fn check_partial_checksum(&self) -> Result<(), DropReason> {
        let Checksum::Partial { start, offset } = self.checksum else { return Ok(()) };
        let ip = self.ip()?;
        let (start, offset) = (usize::from(start), usize::from(offset));
        let upper = ethernet::LEN + ip.upper;
        let (own_offset, header_len) = match ip.protocol {
            tcp::PROTOCOL => (tcp::CHECKSUM_OFFSET, tcp::LEN),
            udp::PROTOCOL => (udp::CHECKSUM_OFFSET, udp::LEN),
            _ => (icmp::CHECKSUM_OFFSET, icmp::LEN),
        };
        let placed = start == upper && offset == own_offset || start >= upper + header_len;
        let whole = start + offset + 2 <= self.len() && ip.fragment == Fragment::Whole;
        (placed && whole).then_some(()).ok_or(DropReason::BadChecksumOffset)
    }

    /// Takes a TCP or UDP checksum that is only the pseudo-header's sum for a partial one: AF_XDP
    /// loses the flag with which a Pod's kernel says so. A valid checksum that happens to look
    /// like it comes out of the summing as it was.
    pub(crate) fn recognise_partial_checksum(&mut self) -> Result<(), DropReason> {
        let ip = self.ip()?;
        self.recognise_partial_checksum_of(ip, ethernet::LEN);
        Ok(())
    }

    /// As that, of the IP packet that begins after so many bytes.
    pub(crate) fn recognise_partial_checksum_of(&mut self, ip: Ip, front: usize) {
        if ip.protocol == sctp::PROTOCOL && ip.fragment == Fragment::Whole {
            // A Pod's kernel leaves zero for the device, and no port takes SCTP's.
            let message = front + ip.upper..front + ip.len;
            sctp::fill_in(self.bytes_mut().get_mut(message).unwrap_or_default());
            return;
        }
        let offset = match ip.protocol {
            tcp::PROTOCOL => tcp::CHECKSUM_OFFSET,
            udp::PROTOCOL => udp::CHECKSUM_OFFSET,
            _ => return,
        };
        if ip.fragment != Fragment::Whole {
            return;
        }
        let length = ip.len - ip.upper;
        let sum = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, length);
        read(Field::UpperChecksum);
        let upper = front + ip.upper;
        if u16_at(self.bytes(), upper + offset) == Some(checksum::fold(sum)) {
            let start = u16::try_from(upper);
            if let (Ok(start), Ok(offset)) = (start, u16::try_from(offset)) {
                self.checksum = Checksum::Partial { start, offset };
            }
        }
    }

    /// Rewrites both MAC addresses: the packet is routed here.
    pub(crate) fn route(&mut self, source: Mac, destination: Mac) -> Result<(), DropReason> {
        let mut ethernet = Ethernet::parse_mut(self.bytes_mut()).ok_or(DropReason::Malformed)?;
        ethernet.set_addresses(source, destination);
        self.facts.routed = true;
        Ok(())
    }

    /// Sets TTL or hop limit.
    pub(crate) fn set_ttl(&mut self, ttl: u8) {
        let v6 = self.facts.ip.is_some_and(|ip| ip.is_v6());
        let payload = self.payload_mut();
        if v6 && let Some(mut view) = Ipv6::parse_mut(payload) {
            view.set_hop_limit(ttl);
        } else if !v6 && let Some(mut view) = Ipv4::parse_mut(payload) {
            view.set_ttl(ttl);
        }
    }

    /// Sets DSCP and ECN.
    pub(crate) fn set_traffic_class(&mut self, class: u8) {
        let v6 = self.facts.ip.is_some_and(|ip| ip.is_v6());
        let payload = self.payload_mut();
        if v6 && let Some(mut view) = Ipv6::parse_mut(payload) {
            view.set_traffic_class(class);
        } else if !v6 && let Some(mut view) = Ipv4::parse_mut(payload) {
            view.set_traffic_class(class);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// What finishing stores when all that is summed makes up zero.
    fn finished(offset: usize) -> [u8; 2] {
        let mut buffer = [0; 32];
        buffer[..2].copy_from_slice(&[0xff, 0xff]);
        let checksum = Checksum::Partial { start: 0, offset: offset as u16 };
        let port = PortId::new(0).unwrap();
        let mut packet = Packet::new(&mut buffer, 0, 32, port, checksum).unwrap();
        packet.complete_checksum();
        [packet.bytes()[offset], packet.bytes()[offset + 1]]
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_zero_by_all_but_udp() {
        assert_eq!(finished(tcp::CHECKSUM_OFFSET), [0, 0]);
        assert_eq!(finished(udp::CHECKSUM_OFFSET), [0xff, 0xff]);
    }
}

//! VLAN tags (IEEE 802.1Q).

use super::{ethernet, u16_at};
use crate::address::Vlan;

/// Bytes of a tag: what stands between the EtherType that announces it and what it tags.
pub const LEN: usize = 4;
/// Bytes of an Ethernet header with one tag.
pub const TAGGED_LEN: usize = ethernet::LEN + LEN;
/// The bits of the tag that number the VLAN; priority is above them.
const NUMBER: u16 = 0x0fff;

/// A tag in whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Which VLAN; nothing for a number that stands for none.
    pub vlan: Option<Vlan>,
    /// What follows.
    pub ether_type: u16,
}

impl Tag {
    /// Reads what follows an Ethernet header that announces a tag.
    pub fn parse(bytes: &[u8]) -> Option<Tag> {
        let [control, ether_type] = [u16_at(bytes, 0)?, u16_at(bytes, 2)?];
        Some(Tag { vlan: Vlan::new(control & NUMBER), ether_type })
    }
}

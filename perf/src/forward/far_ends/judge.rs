//! Whether what came out is what went in: where it should be, and what it should be.

use super::end::Arrived;
use super::{RunError, Wiring};
use crate::forward::objects::FIRST_POD;
use crate::forward::packets::{Traffic, Wrong, is_at_home};

/// Bytes of the longest packet that is judged.
pub(super) const PACKET_MAX: usize = 1514;

/// Whether a frame is where it should be and, if it is looked at in whole, what it should be.
pub(super) fn is_right(
    traffic: &Traffic,
    wiring: Wiring,
    index: usize,
    frame: &dyn Arrived,
    in_whole: bool,
) -> bool {
    match wiring {
        Wiring::Switched if in_whole => judge(traffic, index, frame).is_ok(),
        Wiring::Switched => {
            let mut start = [0; 64];
            is_at_home(frame.copy_to(&mut start), index + FIRST_POD)
        }
        Wiring::Paired => {
            // It says by its sender's address where it went in.
            let mut start = [0; 12];
            let sender = frame.copy_to(&mut start).get(10..12);
            let port = sender.map(|it| usize::from(u16::from_be_bytes([it[0], it[1]])));
            port == Some((index ^ 1) + FIRST_POD)
        }
    }
}

fn judge(traffic: &Traffic, index: usize, frame: &dyn Arrived) -> Result<(), Wrong> {
    let mut packet = [0; PACKET_MAX];
    traffic.judge(index + FIRST_POD, frame.copy_to(&mut packet), frame.said())
}

pub(super) fn what_is_wrong(traffic: &Traffic, index: usize, frame: &dyn Arrived) -> RunError {
    match judge(traffic, index, frame) {
        Err(wrong) => RunError::Wrong(wrong),
        // As such it is right, but nothing leads here.
        Ok(()) => RunError::Stray(index),
    }
}

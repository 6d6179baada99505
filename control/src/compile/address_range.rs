//! Ranges of addresses with holes become ranges without: the datapath knows no exceptions.

use ipnet::IpNet;

use crate::model::IpBlock;

/// The ranges that are left of a block without its exceptions, in order. They cover the same
/// addresses and none twice.
pub(super) fn without_exceptions(block: &IpBlock) -> Vec<IpNet> {
    let mut left = vec![block.cidr.trunc()];
    for hole in &block.except {
        let hole = hole.trunc();
        left = left.into_iter().flat_map(|range| subtract(range, hole)).collect();
    }
    left
}

/// What is left of `range` without `hole`: the halves on the way down to the hole.
fn subtract(range: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&range) {
        return Vec::new();
    }
    if !range.contains(&hole) {
        return vec![range];
    }
    let mut left = Vec::new();
    let mut around = range;
    while around != hole {
        let Ok(halves) = around.subnets(around.prefix_len() + 1) else {
            break;
        };
        for half in halves {
            if half.contains(&hole) {
                around = half;
            } else {
                left.push(half);
            }
        }
    }
    left.sort();
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn ranges(cidr: &str, except: &[&str]) -> Vec<String> {
        let except = except.iter().map(|hole| hole.parse().unwrap()).collect();
        let block = IpBlock { cidr: cidr.parse().unwrap(), except };
        without_exceptions(&block).iter().map(IpNet::to_string).collect()
    }

    #[test]
    fn a_hole_leaves_the_halves_around_it() {
        assert_eq!(ranges("10.0.0.0/30", &["10.0.0.2/32"]), ["10.0.0.0/31", "10.0.0.3/32"]);
        assert_eq!(ranges("10.0.0.0/8", &[]), ["10.0.0.0/8"]);
        assert_eq!(ranges("10.0.0.0/24", &["10.0.0.0/16"]), [""; 0]);
        assert_eq!(ranges("10.0.0.0/24", &["fd00::/16"]), ["10.0.0.0/24"]);
        assert_eq!(ranges("fd00::/126", &["fd00::/127"]), ["fd00::2/127"]);
    }

    proptest! {
        #[test]
        fn an_address_is_left_exactly_if_it_is_in_the_block_and_in_no_hole(
            holes in proptest::collection::vec((0u8..=255, 22u8..=32), 0..5),
            probes in proptest::collection::vec((8u8..12, 0u8..=255), 40),
        ) {
            let except: Vec<IpNet> = holes
                .iter()
                .map(|(low, length)| {
                    IpNet::new(Ipv4Addr::new(10, 0, 9, *low).into(), *length).unwrap()
                })
                .collect();
            let block = IpBlock { cidr: "10.0.8.0/22".parse().unwrap(), except };
            let left = without_exceptions(&block);
            for (third, fourth) in probes {
                let address: IpAddr = Ipv4Addr::new(10, 0, third, fourth).into();
                let wanted = !block.except.iter().any(|hole| hole.contains(&address));
                let found = left.iter().filter(|range| range.contains(&address)).count();
                prop_assert_eq!(found, usize::from(wanted));
            }
        }
    }
}

//! A tagged frame reaches members of its VLAN, and nobody else by any means.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use seine_pipeline::address::{Mac, Vlan};
use seine_pipeline::limits::{FLOODS_BURST, FLOODS_PER_S, TRUNKS_MAX};
use seine_pipeline::packet::Checksum;
use seine_pipeline::state::{AllowedAddress, Change, Endpoint, Object, VlanRange};
use seine_pipeline::testbed::{Fate, GATEWAY, GATEWAY_MAC, Node, UPLINK, endpoint, port, udp};
use seine_pipeline::verdict::DropReason;

const PODS: [&str; 4] = ["a", "b", "c", "d"];
/// An address that some Pods are permitted.
const SHARED: Mac = Mac([0, 0, 0x5e, 0, 1, 10]);
const FLOW_BYTES: usize = 64;

fn range(first: u16, last: u16) -> VlanRange {
    VlanRange { first: Vlan::new(first).unwrap(), last: Vlan::new(last).unwrap() }
}

/// A Pod with these VLANs, and perhaps the shared address.
fn trunk(number: usize, vlans: &[(u16, u16)], shares: bool) -> Endpoint {
    let mut own = endpoint(number, PODS[number]);
    own.permit.vlans = vlans.iter().map(|(first, last)| range(*first, *last)).collect();
    if shares {
        let range = "10.99.0.5/32".parse().unwrap();
        own.permit.allowed_addresses = vec![AllowedAddress { range, mac: Some(SHARED) }];
    }
    own
}

fn node(trunks: &[(Vec<(u16, u16)>, bool)]) -> Node {
    let mut node = Node::with_pods(PODS);
    let endpoints = trunks.iter().enumerate().map(|(number, (vlans, shares))| {
        Change::Upsert(Object::Endpoint(trunk(number, vlans, *shares)))
    });
    node.apply(&endpoints.collect::<Vec<_>>());
    node
}

fn frame(from: Mac, to: Mac, tags: &[u16], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    for tag in tags {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// MAC addresses: of Pods, the shared one, the gateway's, all, a group's, nobody's.
fn mac(index: usize) -> Mac {
    let others = [SHARED, GATEWAY_MAC, Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1]), Mac([2; 6])];
    match index {
        0..4 => endpoint(index, PODS[index]).mac,
        other => others[other - 4],
    }
}

/// Who gets it, thought through from the beginning; and whether it is copied.
fn expected(
    trunks: &[(Vec<(u16, u16)>, bool)],
    (by, from, to): (usize, Mac, Mac),
    vlan: u16,
) -> Option<(Vec<usize>, bool)> {
    let is_in = |pod: usize| {
        (1..=4094).contains(&vlan)
            && trunks[pod].0.iter().any(|(first, last)| (*first..=*last).contains(&vlan))
    };
    let own = |pod: usize| mac(pod);
    let has = |pod: usize, mac: Mac| own(pod) == mac || trunks[pod].1 && mac == SHARED;
    if !is_in(by) || !has(by, from) {
        return None;
    }
    let members: Vec<usize> = (0..PODS.len()).filter(|pod| is_in(*pod)).collect();
    if to.is_group() {
        let others: Vec<usize> = members.into_iter().filter(|pod| *pod != by).collect();
        return (!others.is_empty()).then_some((others, true));
    }
    let target = members.into_iter().find(|pod| has(*pod, to))?;
    (target != by).then_some((vec![target], false))
}

prop_compose! {
    fn vlans()(ranges in prop::collection::vec((0..6_u16, 0..3_u16), 0..3)) -> Vec<(u16, u16)> {
        ranges.into_iter().map(|(first, more)| (first + 1, first + 1 + more)).collect()
    }
}

proptest! {
    #[test]
    fn a_tagged_frame_reaches_whom_its_vlan_names(
        trunks in prop::collection::vec((vlans(), any::<bool>()), PODS.len()),
        frames in prop::collection::vec((0..4_usize, 0..9_usize, 0..9_usize, 0..9_u16), 1..20),
        priority in 0..16_u16,
        payload in prop::collection::vec(any::<u8>(), 0..FLOW_BYTES),
    ) {
        let mut node = node(&trunks);
        for (by, from, to, vlan) in frames {
            let (from, to) = (mac(from), mac(to));
            // A type of its own, so that nothing of the payload is told to be anybody's.
            let sent = frame(from, to, &[priority << 12 | vlan], 0x88b5, &payload);
            let fate = node.send_frame(PODS[by], &sent, Checksum::Complete);
            let names = |pods: &[usize]| pods.iter().map(|pod| PODS[*pod].to_owned()).collect();
            match expected(&trunks, (by, from, to), vlan) {
                None => prop_assert!(matches!(fate, Fate::Dropped(_)), "{fate:?}"),
                Some((pods, true)) => prop_assert_eq!(fate, Fate::Copied(names(&pods), sent)),
                Some((pods, false)) => {
                    prop_assert_eq!(fate, Fate::Left(PODS[pods[0]].to_owned(), sent));
                }
            }
        }
        node.assert_twins();
    }

    #[test]
    fn whatever_is_tagged_leaves_by_trunks_only_and_as_it_came(
        tags in prop::collection::vec(any::<u16>(), 1..3),
        ether_type in prop_oneof![Just(0x800_u16), Just(0x806), Just(0x86dd), any::<u16>()],
        to in 0..9_usize,
        payload in prop::collection::vec(any::<u8>(), 0..FLOW_BYTES),
        ingress in prop_oneof![Just("a"), Just("b"), Just("d"), Just(GATEWAY), Just(UPLINK)],
    ) {
        let mut node = node(&[
            (vec![(1, 4094)], false), (vec![(1, 2000)], false), (vec![(5, 5)], true),
            (Vec::new(), false),
        ]);
        let from = if ingress.len() == 1 { node.mac(ingress) } else { GATEWAY_MAC };
        let sent = frame(from, mac(to), &tags, ether_type, &payload);
        match node.send_frame(ingress, &sent, Checksum::Complete) {
            Fate::Dropped(_) => {}
            Fate::Left(by, left) => {
                prop_assert!(["a", "b", "c"].contains(&by.as_str()) && by != ingress);
                prop_assert_eq!(left, sent);
            }
            Fate::Copied(by, left) => {
                prop_assert!(by.iter().all(|by| by != "d" && by != ingress));
                prop_assert_eq!(left, sent);
            }
        }
    }
}

#[test]
fn what_is_for_all_is_copied_a_bounded_number_of_times() {
    let mut node = node(&[(vec![(5, 5)], false), (vec![(5, 5)], false)]);
    let sent = frame(mac(0), Mac::BROADCAST, &[5], 0x88b5, &[0; 46]);
    let copied = |node: &mut Node| {
        let fate = node.send_frame("a", &sent, Checksum::Complete);
        fate != Fate::Dropped(DropReason::FloodBudget)
    };
    let at_once = (0..FLOODS_BURST * 2).filter(|_| copied(&mut node)).count();
    assert_eq!(at_once, FLOODS_BURST as usize);
    node.wait_ms(100);
    let later = (0..FLOODS_BURST).filter(|_| copied(&mut node)).count();
    assert_eq!(later, FLOODS_PER_S as usize / 10);
    let other = frame(mac(1), Mac::BROADCAST, &[5], 0x88b5, &[0; 46]);
    let fate = node.send_frame("b", &other, Checksum::Complete);
    assert_eq!(fate, Fate::Copied(vec!["a".to_owned()], other), "another has its own budget");
}

#[test]
fn a_frame_in_a_vlan_has_to_fit_whom_it_is_for() {
    let mut node = node(&[(vec![(5, 5)], false), (vec![(5, 5)], false)]);
    for (bytes, fits) in [(1450, true), (1451, false)] {
        let sent = frame(mac(0), mac(1), &[5], 0x88b5, &vec![0; bytes]);
        let fate = node.send_frame("a", &sent, Checksum::Complete);
        assert_eq!(fate == Fate::Dropped(DropReason::PacketTooBig), !fits);
    }
}

#[test]
fn a_checksum_that_is_to_be_finished_lies_behind_the_tag() {
    let mut node = node(&[(vec![(5, 5)], false), (vec![(5, 5)], false)]);
    let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let mut plain = node.frame(&udp().from("a").to("b"));
    let whole = plain[40..42].to_vec();
    let pseudo: u32 = plain[26..34]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .chain([17, u32::from(u16::from_be_bytes([plain[38], plain[39]]))])
        .sum();
    let folded = ((pseudo & 0xffff) + (pseudo >> 16)) as u16;
    plain[40..42].copy_from_slice(&folded.to_be_bytes());
    // As a Pod's kernel leaves it, without saying so.
    node.send_frame("a", &tagged(&plain), Checksum::Complete).left_by("b");
    assert_eq!(node.checksum, Checksum::Partial { start: 38, offset: 6 });
    plain[40..42].copy_from_slice(&whole);
    node.send_frame("a", &tagged(&plain), Checksum::Complete).left_by("b");
    assert_eq!(node.checksum, Checksum::Complete);
    // In the headers by which it was judged, or behind its end.
    for (start, offset) in [(0, 6), (14, 0), (17, 6), (38, 60), (u16::MAX, u16::MAX)] {
        let fate = node.send_frame("a", &tagged(&plain), Checksum::Partial { start, offset });
        assert_eq!(fate, Fate::Dropped(DropReason::BadChecksumOffset));
    }
}

#[test]
fn a_node_has_so_many_trunks_and_no_more() {
    let names: Vec<String> = (0..=TRUNKS_MAX).map(|number| format!("p{number}")).collect();
    let mut node = Node::with_pods([]);
    let change = |number: usize| {
        let mut own = endpoint(number, &names[number]);
        own.permit.vlans = vec![range(7, 7)];
        let kind = seine_pipeline::address::PortKind::Pod;
        let port = port(number + 2, &names[number], kind, Mac([2, 0, 0, 1, 1, number as u8]));
        [Change::Upsert(Object::Port(port)), Change::Upsert(Object::Endpoint(own))]
    };
    for number in 0..TRUNKS_MAX {
        node.apply(&change(number));
    }
    let refusal = node.state.apply(&change(TRUNKS_MAX)).unwrap_err();
    assert_eq!((refusal.field, refusal.name.as_str()), ("vlans", "default/p32/eth0"));
    let sent = frame(endpoint(0, "p0").mac, Mac::BROADCAST, &[7], 0x88b5, &[0; 46]);
    let Fate::Copied(to, _) = node.send_frame("p0", &sent, Checksum::Complete) else { panic!() };
    assert_eq!(to.len(), TRUNKS_MAX - 1);
}

//! Every kind of row can be measured, and every packet of it comes out as it must. Figures of a
//! debug build say nothing, so none is looked at.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use seine_perf::forward::profile::{Kind, Order, Ports, Profile, Rings, Sum, Tunnel, Ways};
use seine_perf::forward::row;
use seine_perf::record::Forward;

fn profile() -> Profile {
    Profile {
        ports: Ports::Memory,
        rings: Rings::Split,
        pods: 8,
        connections: 300,
        order: Order::Uniform,
        size: 64,
        policies_per_side: 3,
        services: 0,
        tunnel: Tunnel::None,
        ways: Ways::Both,
        checksum: Sum::Complete,
        tso: false,
        kind: Kind::Established,
        workers: 1,
        in_line: true,
        in_flight: 256,
        huge_pages: false,
        churn: false,
        load_pct: None,
        seconds: 0.02,
    }
}

fn measured(profile: Profile) -> Forward {
    profile.check().unwrap();
    let forward = row::measure(&profile).unwrap_or_else(|error| panic!("{error}"));
    assert!(forward.cycles_per_packet > 0.0 && forward.mpps > 0.0);
    forward
}

#[test]
fn pods_talk_to_pods() {
    measured(profile());
    measured(Profile { order: Order::Zipf, size: 1500, checksum: Sum::Zero, ..profile() });
}

#[test]
fn pods_talk_through_services() {
    for services in [1, 40] {
        measured(Profile { services, ..profile() });
        measured(Profile { services, checksum: Sum::Partial, ..profile() });
    }
}

#[test]
fn pods_talk_across_nodes() {
    measured(Profile { tunnel: Tunnel::GeneveOut, ways: Ways::One, ..profile() });
    measured(Profile { tunnel: Tunnel::GeneveIn, ways: Ways::One, size: 200, ..profile() });
    measured(Profile { tunnel: Tunnel::GeneveIn, ..profile() });
}

#[test]
fn new_connections_push_older_ones_out() {
    for services in [0, 40] {
        let new = Profile {
            kind: Kind::New,
            ways: Ways::One,
            checksum: Sum::Zero,
            connections: 1000,
            in_flight: 64,
            services,
            ..profile()
        };
        let forward = measured(new);
        let began = forward.new_connections_per_s.unwrap();
        // Each took the place of another, but for those that were under way at either end.
        assert!(forward.ended_per_s > 0.5 * began, "{} of {began}", forward.ended_per_s);
    }
}

#[test]
fn policies_and_pods_change_meanwhile() {
    measured(Profile { churn: true, seconds: 0.1, ..profile() });
}

#[test]
fn guests_talk_to_guests() {
    let ports = Ports::VhostUser;
    for rings in [Rings::Split, Rings::Packed] {
        let profile = Profile { ports, rings, in_line: false, ..profile() };
        measured(profile.clone());
        measured(Profile { size: 1500, ways: Ways::Echo, services: 40, ..profile });
    }
}

#[test]
fn guests_talk_in_segments() {
    for rings in [Rings::Split, Rings::Packed] {
        for ways in [Ways::Both, Ways::Echo] {
            let profile = Profile::segmented();
            measured(Profile { rings, ways, connections: 100, seconds: 0.1, ..profile });
        }
    }
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn pods_talk_through_their_veths() {
    let profile = Profile { ports: Ports::AfXdp, in_line: false, ..profile() };
    measured(Profile { ways: Ways::Echo, size: 1500, ..profile });
}

#[test]
fn what_a_packet_of_a_guest_takes_is_known_at_a_pace() {
    let ports = Ports::VhostUser;
    let profile = Profile { ports, checksum: Sum::Zero, in_line: false, ..profile() };
    let [middle, late] = measured(Profile { load_pct: Some(20), ..profile }).delay_us.unwrap();
    assert!(0.0 < middle && middle <= late);
}

#[test]
fn guests_begin_connections() {
    for services in [0, 40] {
        let forward = measured(Profile {
            ports: Ports::VhostUser,
            in_line: false,
            kind: Kind::New,
            ways: Ways::One,
            checksum: Sum::Zero,
            connections: 1000,
            in_flight: 64,
            services,
            ..profile()
        });
        assert!(forward.new_connections_per_s > Some(0.0) && forward.ended_per_s > 0.0);
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_reason() {
    let refused = |profile: Profile| profile.check().unwrap_err();
    assert!(refused(Profile { size: 60, ..profile() }).contains("--size 60"));
    assert!(refused(Profile { connections: 0, ..profile() }).contains("--connections 0"));
    let both = Profile { services: 1, tunnel: Tunnel::GeneveIn, ..profile() };
    assert!(refused(both).contains("cannot be had together"));
}

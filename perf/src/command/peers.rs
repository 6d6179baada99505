//! Seine beside Open vSwitch with DPDK and testpmd: the same traffic through each over vhost-user,
//! in turns; and Seine between memory ports, which is its cost without rings.

use seine_e2e::failure::{Failure, Outcome};

use super::forward::apart;
use crate::forward::profile::{Kind, Order, Ports, Profile, Rings, Sum, Tunnel, Ways};
use crate::forward::suite;
use crate::output::Output;
use crate::peers::room::Room;
use crate::peers::{rows, session};
use crate::record::{Forward, Peer, PeerSystem, Record};

/// What to measure. Options that take a list make rows of every combination.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Connections that send.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000,100000")]
    pub connections: Vec<u32>,
    /// In which order they send.
    #[arg(long, value_enum, default_value = "uniform")]
    pub order: Order,
    /// Bytes of a frame without its check sequence.
    #[arg(long, value_delimiter = ',', default_value = "64")]
    pub size: Vec<usize>,
    /// Policies for every Pod and direction; each connection is let through by one of each.
    #[arg(long, default_value = "10")]
    pub policies_per_side: usize,
    /// Services that all connections go through; 0: straight to the Pod.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub services: Vec<usize>,
    /// What stands in the UDP checksum.
    #[arg(long, value_enum, default_value = "zero")]
    pub checksum: Sum,
    /// Pods of the node, each with a port.
    #[arg(long, default_value = "64")]
    pub pods: usize,
    /// How long each run counts.
    #[arg(long, default_value = "2")]
    pub seconds: f64,
    /// Runs of each row; in each round every system has its turn.
    #[arg(long, default_value = "3")]
    pub rounds: usize,
    /// One round in about three minutes: 1 to 100,000 connections at 64 bytes, and with 10,000
    /// also 1500 bytes, 100 Services and new connections, for a second each.
    #[arg(long)]
    pub quick: bool,
    /// Each packet begins a connection, over vhost-user alone.
    #[arg(long)]
    pub new: bool,
    /// TCP of 64 KiB in segments instead, between 8 Pods whose guests leave them to their device;
    /// Open vSwitch with `userspace-tso-enable`. Of other options only --seconds, --rounds and
    /// --no-huge count; about a minute.
    #[arg(long, conflicts_with_all = ["quick", "new"])]
    pub tso: bool,
    /// Pages of 4 KiB for the peers, although there may be huge ones.
    #[arg(long)]
    pub no_huge: bool,
}

impl Arguments {
    fn profiles(&self) -> Outcome<Vec<Profile>> {
        let kind = if self.new { Kind::New } else { Kind::Established };
        let mut profiles = Vec::new();
        for &services in &self.services {
            for &size in &self.size {
                for &connections in &self.connections {
                    let profile = Profile {
                        ports: Ports::VhostUser,
                        rings: Rings::Split,
                        pods: self.pods,
                        connections,
                        order: self.order,
                        size,
                        policies_per_side: self.policies_per_side,
                        services,
                        tunnel: Tunnel::None,
                        ways: if self.new { Ways::One } else { Ways::Both },
                        checksum: self.checksum,
                        tso: false,
                        kind,
                        workers: 1,
                        in_line: false,
                        in_flight: Profile::plain(kind).in_flight,
                        huge_pages: true,
                        churn: false,
                        load_pct: None,
                        seconds: self.seconds,
                    };
                    profile.check().map_err(Failure::Unmet)?;
                    profiles.push(profile);
                }
            }
        }
        Ok(profiles)
    }

    /// What is to be measured.
    fn all_profiles(&self) -> Outcome<Vec<Profile>> {
        if self.tso {
            return Ok(suite::segmented(self.seconds));
        }
        if !self.quick {
            return self.profiles();
        }
        let base = Arguments { seconds: 1.0, ..self.clone() };
        let one = Arguments { connections: vec![10_000], ..base.clone() };
        let more = [
            Arguments { size: vec![1500], ..one.clone() },
            Arguments { services: vec![100], ..one.clone() },
            Arguments { new: true, ..one.clone() },
            Arguments { new: true, services: vec![100], ..one },
        ];
        let mut profiles = base.profiles()?;
        for arguments in more {
            profiles.extend(arguments.profiles()?);
        }
        Ok(profiles)
    }
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let profiles = arguments.all_profiles()?;
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let mut turns = vec![Turn::Testpmd, Turn::OpenVSwitch, Turn::Seine];
    // It would have to be given other memory, and says nothing of segments.
    turns.retain(|turn| !(arguments.tso && matches!(turn, Turn::Testpmd)));
    output.expect_steps(rounds * turns.len());
    for round in 0..rounds {
        let mut turns = turns.clone();
        let first = round % turns.len();
        turns.rotate_left(first);
        for turn in turns {
            output.step(&format!("round {}: {}", round + 1, turn.name()));
            take(turn, round, &profiles, !arguments.no_huge, output)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Turn {
    Testpmd,
    OpenVSwitch,
    Seine,
}

impl Turn {
    fn name(self) -> &'static str {
        match self {
            Turn::Testpmd => "testpmd between vhost-user ports",
            Turn::OpenVSwitch => "Open vSwitch with DPDK",
            Turn::Seine => "Seine",
        }
    }
}

/// All rows of one system. Each has a room of its own, so that what it needs is free again when
/// the next one begins.
fn take(
    turn: Turn,
    round: usize,
    profiles: &[Profile],
    huge: bool,
    output: &mut Output,
) -> Outcome {
    if let Turn::Seine = turn {
        for profile in profiles {
            let memory = Profile { ports: Ports::Memory, ..profile.clone() };
            // What rings cost of a new connection is of no interest, nor of what is copied.
            let established = profile.kind == Kind::Established && !profile.tso;
            for profile in [Some(profile), established.then_some(&memory)].into_iter().flatten() {
                output.add(Record::Peer(Box::new(ours(Forward { round, ..apart(profile)? }))))?;
            }
        }
        return Ok(());
    }
    let room = Room::open(output, huge)?;
    let mut taken = |peer: Peer| output.add(Record::Peer(Box::new(Peer { round, ..peer })));
    match turn {
        Turn::Testpmd => session::beside(|| rows::testpmd(&room, profiles, &mut taken)),
        Turn::OpenVSwitch => {
            let dump = session::beside(|| rows::open_vswitch(&room, profiles, &mut taken))?;
            output.keep_beside("flows", &dump)
        }
        Turn::Seine => Ok(()),
    }
}

/// A row of ours, as rows of peers are.
fn ours(forward: Forward) -> Peer {
    Peer {
        round: forward.round,
        system: PeerSystem::Seine,
        caches: String::new(),
        unavailable: None,
        ports: forward.ports,
        size: forward.size,
        connections: forward.connections,
        order: forward.order,
        policies_per_side: forward.policies_per_side,
        services: forward.services,
        tunnel: forward.tunnel,
        workers: forward.workers,
        mpps: forward.mpps,
        cycles_per_packet: forward.cycles_per_packet,
        generator_bound: forward.generator_bound,
        new_connections_per_s: forward.new_connections_per_s,
        bytes_per_connection: Some(forward.bytes_per_connection),
        steal_pct: forward.steal_pct,
        away_pct: forward.away_pct,
        busy_pct: forward.busy_pct,
        generator_cycles_per_packet: forward.generator_cycles_per_packet,
        lost_pct: forward.lost_pct,
        passes_per_packet: None,
        ct_actions_first: None,
        ct_actions_later: None,
        emc_hit_pct: None,
        smc_hit_pct: None,
        upcalls: None,
        flows: None,
        packets_per_batch: Some(forward.packets_per_batch),
        delay_us: forward.delay_us,
        tsc_ghz: forward.tsc_ghz,
        pages: forward.pages,
        profile: forward.profile,
    }
}

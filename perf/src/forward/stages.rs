//! What each part of the way costs: tables of the pipeline one by one, and the steps that the
//! worker takes for a packet under way. Cycles of the time stamp counter, over batches whose
//! packets lie in the nearest cache: what memory adds is in `forward` and not here.

use std::hint::black_box;
use std::net::IpAddr;

use arrayvec::ArrayVec;
use seine_datapath::frame::{Frame, FrameCache, HEADROOM, Region};
use seine_datapath::machine::cycles;
use seine_datapath::processor::Processor;
use seine_pipeline::STAGES;
use seine_pipeline::address::PortId;
use seine_pipeline::adjacency::{AdjacencyId, AdjacencyTable};
use seine_pipeline::composed::{Survey, decide};
use seine_pipeline::connection::{ConnectionTable, FlowKey, Ingress, Tuple};
use seine_pipeline::learned::{Learned, WorkerMemory};
use seine_pipeline::limits::{BATCH_MAX, ConnectionLimits};
use seine_pipeline::packet::Packet;
use seine_pipeline::run::{Context, run};
use seine_pipeline::stage::TableId;
use seine_pipeline::state::State;
use seine_pipeline::table::KeyedHash;
use seine_pipeline::verdict::{Outcome, Verdict};
use seine_pipeline::wire::checksum::{self, Difference};
use seine_pipeline::wire::ip::Ip;
use seine_pipeline::wire::{ethernet, ipv4};

use super::objects::{NEXT_HOP_MAC, installed};
use super::order;
use super::packets::{Traffic, renew};
use super::profile::{Kind, Profile};
use super::row::RowError;
use super::switch::SwitchError;

/// Batches that are looked at of each.
const BATCHES: usize = 2000;
const SEED: u64 = 0x5e1e;

/// What one part costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// "ConntrackState/ConntrackZone", "find one of 100000".
    pub what: String,
    /// Cycles for each packet that meets it.
    pub cycles: f64,
    /// Share of packets that do, in percent.
    pub share_pct: f64,
}

/// A node whose packets are decided about here, without worker and ports.
struct Bench {
    profile: Profile,
    state: State,
    adjacencies: AdjacencyTable,
    learned: Learned,
    memory: WorkerMemory,
    traffic: Traffic,
    frames: Vec<Frame>,
    ports: Vec<PortId>,
    now_ms: u64,
    lap: u32,
}

impl Bench {
    fn open(profile: &Profile) -> Result<Bench, RowError> {
        let state = State::new(SEED).apply(&installed(profile)).map_err(SwitchError::from)?;
        let limits = ConnectionLimits {
            connections: 1 << 20,
            per_port: 1 << 20,
            first_packets_per_s: u32::MAX,
            first_packets_burst: u32::MAX,
        };
        let adjacencies = AdjacencyTable::new();
        if let Some(peer) = AdjacencyId::new(0) {
            adjacencies.set(peer, Some(NEXT_HOP_MAC));
        }
        let region = Region::map(2 * BATCH_MAX, 2048).map_err(SwitchError::from)?;
        let mut cache = FrameCache::new(region);
        let mut bench = Bench {
            profile: profile.clone(),
            state,
            adjacencies,
            learned: Learned::with_connections(ConnectionTable::new(limits, SEED), SEED),
            memory: WorkerMemory::new(),
            traffic: Traffic::new(profile),
            frames: (0..BATCH_MAX).filter_map(|_| cache.allocate()).collect(),
            ports: Vec::new(),
            now_ms: 1_000_000,
            lap: 0,
        };
        if profile.kind == Kind::Established {
            for _ in 0..2 {
                bench.warm_up();
            }
        }
        Ok(bench)
    }

    /// Every connection is sent and answered once.
    fn warm_up(&mut self) {
        for reply in [0, 1] {
            let numbers: Vec<u32> =
                (0..self.traffic.connections()).map(|it| 2 * it + reply).collect();
            for batch in numbers.chunks(BATCH_MAX) {
                self.fill(batch);
                for at in 0..batch.len() {
                    let (mut frame, port) = (self.frames.swap_remove(at), self.ports[at]);
                    let outcome = self.walk(&mut frame, port);
                    if let Some(Outcome::Output(egress)) = outcome {
                        self.traffic.learn(egress.index(), frame.bytes());
                    }
                    self.frames.push(frame);
                    let last = self.frames.len() - 1;
                    self.frames.swap(at, last);
                }
            }
        }
    }

    fn walk(&mut self, frame: &mut Frame, port: PortId) -> Option<Outcome> {
        let mut packet = frame.packet(port)?;
        let outcome = run(&mut packet, &mut self.context());
        let range = packet.range();
        frame.set_range(range.start, range.len());
        Some(outcome)
    }

    fn context(&mut self) -> Context<'_> {
        Context {
            state: &self.state,
            adjacencies: &self.adjacencies,
            now_ms: self.now_ms,
            learned: &self.learned,
            worker: &mut self.memory,
            dry: false,
            trace: None,
        }
    }

    /// Puts the packets of these numbers into the frames.
    fn fill(&mut self, numbers: &[u32]) {
        self.ports.clear();
        for (frame, number) in self.frames.iter_mut().zip(numbers) {
            let lines = self.traffic.lines(*number);
            let ingress = Traffic::ingress(lines);
            let inner = Traffic::inner_at(ingress);
            let len = inner + self.profile.size;
            let room = &mut frame.buffer_mut()[HEADROOM..];
            for (place, line) in room.as_chunks_mut().0.iter_mut().zip(lines) {
                *place = line.0;
            }
            if self.profile.kind == Kind::New {
                renew(&mut room[inner..len], self.lap, self.traffic.stride() as u32);
            }
            frame.set_range(HEADROOM, len);
            frame.checksum = self.traffic.checksum();
            self.ports.extend(PortId::new(ingress));
        }
    }

    /// Calls `look` for each of so many batches.
    fn batches(&mut self, mut look: impl FnMut(&mut Bench)) {
        let connections = self.traffic.connections();
        let drawn = match self.profile.kind {
            Kind::New => order::once(connections, 1),
            Kind::Established => order::draw(&self.profile, connections, 1),
        };
        let mut batches = drawn.chunks_exact(BATCH_MAX);
        for _ in 0..BATCHES {
            let batch = match batches.next() {
                Some(batch) => batch,
                None => {
                    self.lap += 1;
                    batches = drawn.chunks_exact(BATCH_MAX);
                    let Some(batch) = batches.next() else { return };
                    batch
                }
            };
            self.fill(batch);
            look(self);
        }
    }
}

/// What each table of the pipeline costs with packets of this profile that take the stages.
pub fn tables(profile: &Profile) -> Result<Vec<Cost>, RowError> {
    let mut bench = Bench::open(profile)?;
    let tables: Vec<_> =
        STAGES.iter().flat_map(|stage| stage.tables.iter().map(move |it| (stage, it))).collect();
    let mut sums = vec![(0, 0); tables.len()];
    bench.batches(|bench| {
        let mut frames = std::mem::take(&mut bench.frames);
        let packets = frames.iter_mut().zip(&bench.ports);
        let mut packets: ArrayVec<(Packet<'_>, Option<TableId>, bool), BATCH_MAX> =
            packets.filter_map(|(frame, port)| Some((frame.packet(*port)?, None, false))).collect();
        let mut context = bench.context();
        for ((_, table), (spent, met)) in tables.iter().zip(&mut sums) {
            let began = cycles();
            for (packet, target, done) in &mut packets {
                if *done || target.is_some_and(|target| target != table.id()) {
                    continue;
                }
                *met += 1;
                match table.apply(packet, &mut context) {
                    Verdict::Next => *target = None,
                    Verdict::Goto(table) => *target = Some(table),
                    Verdict::Output(_)
                    | Verdict::Answer
                    | Verdict::Replicate(_)
                    | Verdict::Drop(_) => *done = true,
                }
            }
            *spent += cycles().wrapping_sub(began);
        }
        drop(packets);
        bench.frames = frames;
    });
    let all = (BATCHES * BATCH_MAX) as f64;
    let costs = tables.iter().zip(&sums).map(|((stage, table), (spent, met))| Cost {
        what: format!("{}/{}", stage.name, table.id().name()),
        cycles: *spent as f64 / f64::from((*met).max(1)),
        share_pct: 100.0 * f64::from(*met) / all,
    });
    Ok(costs.filter(|cost| cost.share_pct > 0.0).collect())
}

/// What the worker's two steps cost: to survey a batch, and to decide about its packets.
pub fn steps(profile: &Profile) -> Result<Vec<Cost>, RowError> {
    let mut bench = Bench::open(profile)?;
    let (mut survey, mut surveying, mut deciding) = (Survey::default(), 0, 0);
    bench.batches(|bench| {
        let mut frames = std::mem::take(&mut bench.frames);
        let ports = std::mem::take(&mut bench.ports);
        let began = cycles();
        let packets = frames.iter().zip(ports.iter().copied());
        survey.take(packets, &bench.state, &bench.learned.connections, &Processor::detect());
        let surveyed = cycles();
        let mut context = bench.context();
        for (at, (frame, port)) in frames.iter_mut().zip(&ports).enumerate() {
            black_box(decide(&survey, at, frame, *port, &mut context, &Processor::detect()));
        }
        surveying += surveyed.wrapping_sub(began);
        deciding += cycles().wrapping_sub(surveyed);
        (bench.frames, bench.ports) = (frames, ports);
    });
    let cost = |what: &str, spent: u64| Cost {
        what: what.to_owned(),
        cycles: spent as f64 / (BATCHES * BATCH_MAX) as f64,
        share_pct: 100.0,
    };
    Ok(vec![
        cost("survey: glance, hash, prefetch", surveying),
        cost("decide: check, rewrite, count", deciding),
    ])
}

/// What small things cost, each in a loop over many packets.
pub fn questions(profile: &Profile) -> Result<Vec<Cost>, RowError> {
    let mut costs = Vec::new();
    let mut ask = |what: &str, question: &mut dyn FnMut(usize)| {
        let rounds = BATCHES * BATCH_MAX;
        for warm in 0..rounds / 8 {
            question(warm);
        }
        let began = cycles();
        for round in 0..rounds {
            question(round);
        }
        let cycles = cycles().wrapping_sub(began) as f64 / rounds as f64;
        costs.push(Cost { what: what.to_owned(), cycles, share_pct: 100.0 });
    };
    let traffic = Traffic::new(&Profile { connections: BATCH_MAX as u32, ..profile.clone() });
    let packet = |round: usize| &traffic.lines(2 * (round % BATCH_MAX) as u32)[0].0;
    ask("parse IPv4 and UDP", &mut |round| {
        let bytes = &black_box(packet(round))[ethernet::LEN..];
        if let Some(Ok(ip)) = Ip::parse(ethernet::IPV4, bytes) {
            black_box(Tuple::of(&ip, bytes));
        }
    });
    let hash = KeyedHash::new(SEED);
    ask("hash a key of 6 words", &mut |round| {
        let word = round as u64;
        black_box(hash.hash(black_box(&[word, 1, word, 3, word, 5])));
    });
    ask("sum an IPv4 header", &mut |round| {
        black_box(checksum::sum(&black_box(packet(round))[14..14 + ipv4::LEN]));
    });
    let payload = vec![0x5a; 1480];
    ask("sum 1480 bytes of payload", &mut |_| {
        black_box(checksum::sum(black_box(&payload)));
    });
    ask("correct a checksum for another address", &mut |round| {
        let [old, new] = [round as u32, 7].map(|it| IpAddr::from(it.to_be_bytes()));
        let difference = Difference::default().replace_address(black_box(old), new);
        black_box(difference.checksum(black_box(0x1234)));
    });
    ask("rewrite both addresses and the TTL", &mut |round| {
        let mut bytes = *black_box(packet(round));
        if let Some(mut ip) = ipv4::Ipv4::parse_mut(&mut bytes[ethernet::LEN..]) {
            ip.set_source([10, 0, 0, 1].into());
            ip.set_destination([10, 0, 0, 2].into());
            ip.set_ttl(63);
        }
        black_box(bytes);
    });
    for connections in [1000, 10_000, 100_000, 1_000_000] {
        let profile = Profile { connections, kind: Kind::Established, ..profile.clone() };
        let bench = Bench::open(&profile)?;
        let keys: Vec<FlowKey> =
            (0..BATCHES * BATCH_MAX).filter_map(|it| key_of(&bench, it)).collect();
        ask(&format!("find one of {connections}"), &mut |round| {
            black_box(bench.learned.connections.find(&keys[round % keys.len()]));
        });
    }
    Ok(costs)
}

/// The key of a random connection's first packet.
fn key_of(bench: &Bench, draw: usize) -> Option<FlowKey> {
    let number = order::Random::new(draw as u64).below(bench.traffic.connections() as usize);
    let lines = bench.traffic.lines(2 * number as u32);
    let port = PortId::new(Traffic::ingress(lines))?;
    let bytes = &lines.first()?.0[ethernet::LEN..];
    let ip = Ip::parse(ethernet::IPV4, bytes)?.ok()?;
    Some(FlowKey { network: 0, ingress: Ingress::Pod(port, 1), tuple: Tuple::of(&ip, bytes)? })
}

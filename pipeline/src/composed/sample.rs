//! One packet in so many that was decided about without the stages takes them, too, in a copy: what
//! is composed has to be what they decide.
//!
//! Compared are the port it leaves by, its bytes, and what is known of its checksum; and where
//! rules have not changed since they judged its connection, they judge it once more, as it was
//! opened: a connection under way that they would not open now is as wrong as a wrong byte.
//!
//! Other workers go on meanwhile. Where a connection or its next hop is not after both ways what it
//! was before, the packet is no proof of anything, and only counted.

use super::glance::Glance;
use super::judge::judge_again;
use super::shortcut::Shortcut;
use super::survey::Seen;
use super::{ComposedMemory, PacketBuffer, Plain};
use crate::address::{Mac, PortId, PortKind};
use crate::connection::{Candidate, Testimony};
use crate::packet::{Checksum, Packet};
use crate::run::{Context, run};
use crate::verdict::Outcome;
use crate::wire::{ethernet, geneve, ipv6, udp};

/// Room in front of a copy, for headers that the stages put on.
const HEADROOM: usize = 128;
/// Bytes of the longest packet that is sampled.
const BYTES_MAX: usize = 4096;
/// Bytes of a packet that evidence shows.
const SHOWN: usize = 128;
/// Hits until another packet is copied, when one took the stages that had promised to be a hit.
const PUT_OFF: u32 = 16;

/// Where a packet begins that came through a tunnel over IPv6.
const TUNNEL_HEADERS_V6: usize = ethernet::LEN + ipv6::LEN + udp::LEN + geneve::LEN;

/// Copies one hit in so many.
#[derive(Debug)]
pub struct Sampler {
    every: u32,
    /// From this hit on one is due.
    due_at: u64,
    copy: Box<[u8]>,
    copied: Option<Copied>,
    /// Packets that took the stages, too, and were decided about by the same connection.
    pub samples: u64,
    /// Those of them whose connection rules judged once more.
    pub judged: u64,
    /// Samples that the stages, or rules, decided otherwise about.
    pub mismatches: u64,
    /// Packets that took the stages, too, while another worker changed what they are decided by.
    pub outdated: u64,
    evidence: Option<String>,
}

/// A packet as it came, and by what it will be decided about.
#[derive(Debug)]
struct Copied {
    len: usize,
    checksum: Checksum,
    candidate: Candidate,
    before: Witness,
}

/// What a packet is decided by, and other workers may change.
#[derive(PartialEq, Eq, Debug)]
struct Witness {
    connection: Testimony,
    /// Of the next hops that either direction goes by.
    next_hops: [Option<Mac>; 2],
}

impl Sampler {
    /// One that copies each `every`-th hit; none when that is 0.
    pub fn new(every: u32) -> Sampler {
        Sampler {
            every,
            due_at: u64::from(every).checked_sub(1).unwrap_or(u64::MAX),
            copy: vec![0; HEADROOM + BYTES_MAX].into(),
            copied: None,
            samples: 0,
            judged: 0,
            mismatches: 0,
            outdated: 0,
            evidence: None,
        }
    }

    /// What the first packet was, and became, that was decided otherwise about since this was last
    /// asked.
    pub fn take_evidence(&mut self) -> Option<String> {
        self.evidence.take()
    }

    /// Whether the next hit after so many is to be copied.
    #[inline]
    pub(super) fn is_due(&self, hits: u64) -> bool {
        hits >= self.due_at
    }

    /// The packet that was copied took the stages.
    #[cold]
    pub(super) fn put_off(&mut self, hits: u64) {
        self.due_at = hits + u64::from(self.every.min(PUT_OFF));
    }
}

/// Takes a copy of a packet that will be a hit, as far as can be told; says whether it did.
#[cold]
pub(super) fn begin(
    frame: &impl PacketBuffer,
    ingress: PortId,
    seen: Option<&Seen>,
    context: &mut Context<'_>,
) -> bool {
    let expected = expected(frame.bytes(), ingress, seen, context);
    let sampler = &mut context.worker.composed.sampler;
    let bytes = frame.bytes();
    let room = sampler.copy.get_mut(HEADROOM..).and_then(|room| room.get_mut(..bytes.len()));
    let (Some((candidate, before)), Some(room)) = (expected, room) else { return false };
    room.copy_from_slice(bytes);
    let checksum = frame.checksum();
    sampler.copied = Some(Copied { len: bytes.len(), checksum, candidate, before });
    true
}

/// What will decide about a packet without the stages; `None` when nothing will.
fn expected(
    bytes: &[u8],
    ingress: PortId,
    seen: Option<&Seen>,
    context: &Context<'_>,
) -> Option<(Candidate, Witness)> {
    let (state, connections) = (context.state, &context.learned.connections);
    let (words, candidate) = match seen {
        Some(Seen { glance, candidate, .. }) => (glance.words, (*candidate)?),
        None => {
            // A survey looks behind a tunnel's headers over IPv4 only.
            let hop = state.hops().get(ingress)?;
            let inside = bytes.get(TUNNEL_HEADERS_V6..);
            let inside = inside.filter(|_| hop.kind == Some(PortKind::Uplink))?;
            let words = Glance::of(inside, hop.ingress, false)?.words;
            (words, connections.candidate(connections.hash_of(&words), &Plain)?)
        }
    };
    let hit =
        connections.hit(candidate, &words, &Plain).filter(|hit| hit.progress.stays(hit.direction));
    Shortcut::from_word(hit?.shortcut())?;
    Some((candidate, witness(candidate, context)?))
}

fn witness(candidate: Candidate, context: &Context<'_>) -> Option<Witness> {
    let connection = context.learned.connections.testimony(candidate)?;
    let next_hops = connection.shortcuts().map(|word| {
        let adjacency = Shortcut::from_word(word).and_then(|shortcut| shortcut.adjacency);
        adjacency.and_then(|adjacency| context.adjacencies.mac(adjacency))
    });
    Some(Witness { connection, next_hops })
}

/// Lets the copy of a packet take the stages, and compares.
#[cold]
pub(super) fn compare(
    frame: &mut impl PacketBuffer,
    ingress: PortId,
    outcome: Outcome,
    context: &mut Context<'_>,
) {
    let ComposedMemory { sampler, hits, .. } = &mut context.worker.composed;
    sampler.due_at = *hits + u64::from(sampler.every.saturating_sub(1));
    let Some(copied) = sampler.copied.take() else { return };
    let (len, checksum) = (copied.len, copied.checksum);
    let mut copy = std::mem::take(&mut sampler.copy);
    let came: [u8; SHOWN] = std::array::from_fn(|at| copy.get(HEADROOM + at).copied().unwrap_or(0));
    if let Some(mut packet) = Packet::new(&mut copy, HEADROOM, HEADROOM + len, ingress, checksum) {
        let mut dry = Context {
            state: context.state,
            adjacencies: context.adjacencies,
            now_ms: context.now_ms,
            learned: context.learned,
            worker: context.worker,
            dry: true,
            trace: None,
        };
        let walked = run(&mut packet, &mut dry);
        let leaves = matches!(outcome, Outcome::Output(_));
        let same = walked == outcome
            && (!leaves || packet.bytes() == frame.bytes() && packet.checksum == frame.checksum());
        let shown = |bytes: &[u8]| hex(bytes.get(..SHOWN).unwrap_or(bytes));
        let mut evidence = None;
        if !same {
            evidence = Some(format!(
                "rewrite: port {ingress}, came {}, composed {outcome:?} {}, by the stages \
                 {walked:?} {}",
                shown(came.get(..len).unwrap_or(&came)),
                shown(frame.bytes()),
                shown(packet.bytes()),
            ));
        }
        let judgement = if same && leaves { judge_again(&mut packet, &mut dry) } else { None };
        if let Some(Err(denied)) = judgement {
            let rule = context.state.rule(denied.rule).map_or("", |rule| rule.name.as_str());
            evidence = Some(format!(
                "policy: port {ingress}, came {}, composed {outcome:?}, denied by rule {rule}",
                shown(came.get(..len).unwrap_or(&came)),
            ));
        }
        let unchanged = witness(copied.candidate, context).as_ref() == Some(&copied.before);
        let ComposedMemory { sampler, .. } = &mut context.worker.composed;
        sampler.count(evidence, judgement.is_some(), unchanged);
    }
    context.worker.composed.sampler.copy = copy;
}

impl Sampler {
    /// Counts a packet that went both ways.
    fn count(&mut self, evidence: Option<String>, judged: bool, unchanged: bool) {
        if evidence.is_some() && !unchanged {
            self.outdated += 1;
            return;
        }
        self.samples += 1;
        self.judged += u64::from(judged);
        if let Some(evidence) = evidence {
            self.mismatches += 1;
            self.evidence.get_or_insert(evidence);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

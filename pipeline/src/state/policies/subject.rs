//! Whom rules apply to, each with the rules that do: by peer, and for each peer by rank.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::group::{GroupId, GroupSets};
use crate::connection::RuleId;
use crate::state::{Action, Rule, RuleDirection, RuleTable, Traffic};
use crate::table::{Exact, Flow, Ranked};

/// A rule in force.
#[derive(Clone, Debug)]
pub(crate) struct InstalledRule {
    /// Stands for it in connections, counters and audit records.
    pub(crate) id: RuleId,
    pub(crate) rule: Rule,
    /// Groups that it applies to, each once.
    pub(super) applied: Box<[GroupId]>,
    /// Groups of its far end, each once.
    pub(super) peers: Box<[GroupId]>,
}

impl InstalledRule {
    /// Under what its subjects have it.
    pub(super) fn peer_keys(&self) -> impl Iterator<Item = PeerKey> {
        let groups = self.peers.iter().copied().map(PeerKey::Group);
        let services = self.rule.peer_services.iter();
        let services = services.map(|name| PeerKey::Service(name.as_str().into()));
        let anybody = self.peers.is_empty() && self.rule.peer_services.is_empty();
        groups.chain(services).chain(anybody.then_some(PeerKey::Anybody))
    }

    /// Entries that it makes under each key.
    fn entries(self: &Arc<Self>) -> impl Iterator<Item = (Option<Traffic>, RankedRule)> {
        let all = self.rule.traffic.is_empty().then_some(None);
        let some = self.rule.traffic.iter().copied().map(Some);
        all.into_iter().chain(some).map(|traffic| (traffic, RankedRule::of(self)))
    }
}

/// What a packet has to be to meet a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum PeerKey {
    /// Anything.
    Anybody,
    /// To or from a member of this group.
    Group(GroupId),
    /// To this Service.
    Service(Arc<str>),
}

/// A rule, ordered by when it decides. What becomes of a packet is here, so that the rule itself
/// need not be looked up in memory.
#[derive(Clone, Debug)]
pub(crate) struct RankedRule {
    rank: u64,
    rule: Arc<InstalledRule>,
    /// Stands for it in connections, counters and audit records.
    pub(crate) id: RuleId,
    /// What becomes of a match.
    pub(crate) action: Action,
    /// Whether each decision is told by an audit record.
    pub(crate) log: bool,
}

impl RankedRule {
    fn of(installed: &Arc<InstalledRule>) -> RankedRule {
        let InstalledRule { id, rule, .. } = installed.as_ref();
        let (rank, action, log) = (rule.rank, rule.action, rule.log);
        RankedRule { rank, rule: installed.clone(), id: *id, action, log }
    }

    /// The rule as it was installed.
    pub(crate) fn rule(&self) -> &Rule {
        &self.rule.rule
    }
}

impl Ord for RankedRule {
    fn cmp(&self, other: &Self) -> Ordering {
        let names = || self.rule.rule.name.cmp(&other.rule.rule.name);
        self.rank.cmp(&other.rank).then_with(names)
    }
}

impl PartialOrd for RankedRule {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for RankedRule {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for RankedRule {}

/// One kind of traffic of a rule.
type RuleEntry = (Option<Traffic>, RankedRule);

/// The rules that somebody has for one peer. A single one, as most are, lies where it is found.
#[derive(Clone, Debug)]
enum Rules {
    One(RuleEntry),
    Many(Arc<Ranked<RankedRule>>),
}

impl Rules {
    fn of(mut entries: Vec<RuleEntry>) -> Option<Rules> {
        match entries.len() {
            0 | 1 => entries.pop().map(Rules::One),
            _ => Some(Rules::Many(Arc::new(Ranked::new(entries)))),
        }
    }

    fn entries(&self) -> &[RuleEntry] {
        match self {
            Rules::One(entry) => std::slice::from_ref(entry),
            Rules::Many(ranked) => ranked.rules(),
        }
    }

    fn first(&self, flow: &Flow) -> Option<&RankedRule> {
        match self {
            Rules::One((None, rule)) => Some(rule),
            Rules::One((Some(traffic), rule)) => traffic.matches(flow).then_some(rule),
            Rules::Many(ranked) => ranked.first(flow),
        }
    }
}

/// The rules of one table of one direction that apply to somebody: one cache line, and what is
/// behind it.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Section {
    groups: Exact<GroupId, Rules>,
    anybody: Option<Box<Rules>>,
    services: Option<Box<Exact<Arc<str>, Rules>>>,
}

const _: () = assert!(size_of::<Section>() == 64, "a section is one cache line");

impl Section {
    fn new(seed: u64) -> Section {
        Section { groups: Exact::new(seed), anybody: None, services: None }
    }

    /// Entries of all lists together.
    fn len(&self) -> usize {
        let groups = self.groups.iter().map(|(_, rules)| rules);
        let services = self.services.iter().flat_map(|it| it.iter()).map(|(_, rules)| rules);
        let all = groups.chain(services).chain(self.anybody.as_deref());
        all.map(|rules| rules.entries().len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.anybody.is_none() && self.groups.is_empty() && self.services.is_none()
    }

    fn get(&self, key: &PeerKey) -> Option<&Rules> {
        match key {
            PeerKey::Anybody => self.anybody.as_deref(),
            PeerKey::Group(group) => self.groups.get(group),
            PeerKey::Service(name) => self.services.as_ref()?.get(name),
        }
    }

    fn set(&mut self, key: &PeerKey, rules: Option<Rules>, seed: u64) {
        match (key, rules) {
            (PeerKey::Anybody, rules) => self.anybody = rules.map(Box::new),
            (PeerKey::Group(group), Some(rules)) => drop(self.groups.insert(*group, rules)),
            (PeerKey::Group(group), None) => drop(self.groups.remove(group)),
            (PeerKey::Service(name), Some(rules)) => {
                let services = self.services.get_or_insert_with(|| Box::new(Exact::new(seed)));
                services.insert(name.clone(), rules);
            }
            (PeerKey::Service(name), None) => {
                if let Some(services) = &mut self.services {
                    services.remove(name);
                }
                self.services.take_if(|services| services.is_empty());
            }
        }
    }

    /// Makes edits of what stands under one key; gives the entries there were and are.
    fn edit(&mut self, key: &PeerKey, edits: &[Edit], seed: u64) -> (usize, usize) {
        let gone = edits.iter().filter(|edit| !edit.add).map(|edit| edit.rule.rule.name.as_str());
        let gone: BTreeSet<&str> = gone.collect();
        let known = self.get(key).map(Rules::entries).unwrap_or_default();
        let before = known.len();
        let kept = known.iter().filter(|(_, it)| !gone.contains(it.rule.rule.name.as_str()));
        let mut rules: Vec<_> = kept.cloned().collect();
        rules.extend(edits.iter().filter(|edit| edit.add).flat_map(|edit| edit.rule.entries()));
        let after = rules.len();
        self.set(key, Rules::of(rules), seed);
        (before, after)
    }

    fn first<'a>(&'a self, packet: &Opening<'_>) -> Option<&'a RankedRule> {
        let mut best: Option<&'a RankedRule> = None;
        let mut consider = |rules: Option<&'a Rules>| {
            if let Some(found) = rules.and_then(|rules| rules.first(&packet.flow))
                && best.is_none_or(|best| found < best)
            {
                best = Some(found);
            }
        };
        consider(self.anybody.as_deref());
        // The smaller side is walked, the other asked.
        if packet.far.has_at_most(self.groups.len()) {
            packet.far.for_each(|group| consider(self.groups.get(&group)));
        } else {
            let met = self.groups.iter().filter(|(group, _)| packet.far.contains(**group));
            met.for_each(|(_, rules)| consider(Some(rules)));
        }
        if let (Some(services), Some(name)) = (&self.services, packet.service) {
            consider(services.get(name));
        }
        best
    }
}

/// An Endpoint of this node, or the NodePort traffic of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// A bit for each section with rules: the line that every packet looks at first.
    judged: u8,
    seed: u64,
    /// None for a Service.
    pub(super) addresses: Arc<[IpAddr]>,
    /// In which it is, of those that are known.
    pub(super) groups: Arc<[GroupId]>,
    /// For egress, then for ingress, one for each table.
    sections: [Section; 6],
}

/// A packet that opens a connection, as one of its ends sees it.
pub(crate) struct Opening<'a> {
    /// In which the other end is.
    pub(crate) far: GroupSets<'a>,
    /// The Service by which it is sent.
    pub(crate) service: Option<&'a str>,
    /// Protocol and ports.
    pub(crate) flow: Flow,
}

impl Subject {
    pub(super) fn new(addresses: Arc<[IpAddr]>, seed: u64) -> Subject {
        let sections = std::array::from_fn(|_| Section::new(seed));
        Subject { judged: 0, seed, addresses, groups: Arc::default(), sections }
    }

    /// Whether any rule of this table applies to it.
    pub(crate) fn is_judged(&self, direction: RuleDirection, table: RuleTable) -> bool {
        self.judged & 1 << place(direction, table) != 0
    }

    /// Whether any rule of this table has a Service as its peer.
    pub(crate) fn asks_services(&self, direction: RuleDirection, table: RuleTable) -> bool {
        let section = self.sections.get(place(direction, table));
        section.is_some_and(|section| section.services.is_some())
    }

    /// Whether it has rules about members of a group.
    pub(super) fn means(&self, group: GroupId) -> bool {
        self.sections.iter().any(|section| section.groups.get(&group).is_some())
    }

    /// Whether any rule for what it sends is about a group.
    pub(super) fn sends_by(&self, group: GroupId) -> bool {
        let key = PeerKey::Group(group);
        self.egress().any(|section| section.get(&key).is_some())
    }

    /// Whether any rule for what it sends is about some group.
    pub(super) fn sends_by_groups(&self) -> bool {
        self.egress().any(|section| !section.groups.is_empty())
    }

    fn egress(&self) -> impl Iterator<Item = &Section> {
        let tables = [RuleTable::AntreaPolicy, RuleTable::NetworkPolicy, RuleTable::Default];
        let places = tables.map(|table| place(RuleDirection::Egress, table));
        places.into_iter().filter_map(|place| self.sections.get(place))
    }

    /// Entries of all its tables together.
    pub(super) fn entries(&self) -> usize {
        self.sections.iter().map(Section::len).sum()
    }

    pub(super) fn has_no_rules(&self) -> bool {
        self.judged == 0
    }

    fn first(
        &self,
        direction: RuleDirection,
        table: RuleTable,
        packet: &Opening<'_>,
    ) -> Option<&RankedRule> {
        self.sections.get(place(direction, table))?.first(packet)
    }

    /// Makes edits, all of them its own and those under one key together. Gives the entries there
    /// were and are where something has changed.
    pub(super) fn edit(&mut self, edits: &[Edit]) -> (usize, usize) {
        let (mut before, mut after) = (0, 0);
        for edits in edits.chunk_by(|one, other| one.key() == other.key()) {
            let Some(edit) = edits.first() else { continue };
            let (place, key) = edit.key();
            let Some(section) = self.sections.get_mut(place) else { continue };
            let (were, are) = section.edit(key, edits, self.seed);
            self.judged &= !(1 << place);
            self.judged |= u8::from(!section.is_empty()) << place;
            before += were;
            after += are;
        }
        (before, after)
    }
}

/// The rule of this table that decides about a packet, of all that apply to these.
pub(crate) fn first_of<'a>(
    subjects: [Option<&'a Subject>; 2],
    direction: RuleDirection,
    table: RuleTable,
    packet: &Opening<'_>,
) -> Option<&'a RankedRule> {
    match subjects.map(|subject| subject?.first(direction, table, packet)) {
        [Some(one), Some(other)] => Some(one.min(other)),
        [one, other] => one.or(other),
    }
}

fn place(direction: RuleDirection, table: RuleTable) -> usize {
    3 * direction as usize + table as usize
}

/// A rule begins or ceases to apply to somebody.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) subject: SubjectKey,
    pub(super) peer: PeerKey,
    pub(super) rule: Arc<InstalledRule>,
    pub(super) add: bool,
}

impl Edit {
    /// Where in its subject's tables it is made.
    pub(super) fn key(&self) -> (usize, &PeerKey) {
        (place(self.rule.rule.direction, self.rule.rule.table), &self.peer)
    }
}

/// Names a subject.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum SubjectKey {
    /// By the Endpoint's name.
    Endpoint(Arc<str>),
    /// By the Service's name.
    Service(Arc<str>),
}

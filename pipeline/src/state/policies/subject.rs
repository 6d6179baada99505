//! Whom rules apply to, each with the rules that do: by peer, and for each peer by rank.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::group::{GroupId, GroupSets};
use crate::connection::RuleId;
use crate::state::{Rule, RuleDirection, RuleTable, Traffic};
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

/// A rule, ordered by when it decides.
#[derive(Clone, Debug)]
pub(super) struct RankedRule {
    rank: u64,
    pub(super) rule: Arc<InstalledRule>,
}

impl RankedRule {
    fn of(rule: &Arc<InstalledRule>) -> RankedRule {
        RankedRule { rank: rule.rule.rank, rule: rule.clone() }
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

type Rules = Arc<Ranked<RankedRule>>;

/// The rules of one table of one direction that apply to somebody.
#[derive(Clone, Debug)]
struct Section {
    anybody: Option<Rules>,
    groups: Exact<GroupId, Rules>,
    services: Exact<Arc<str>, Rules>,
}

impl Section {
    fn new(seed: u64) -> Section {
        Section { anybody: None, groups: Exact::new(seed), services: Exact::new(seed) }
    }

    /// Entries of all lists together.
    fn len(&self) -> usize {
        let groups = self.groups.iter().map(|(_, rules)| rules);
        let services = self.services.iter().map(|(_, rules)| rules);
        let all = groups.chain(services).chain(&self.anybody);
        all.map(|rules| rules.rules().len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.anybody.is_none() && self.groups.is_empty() && self.services.is_empty()
    }

    fn get(&self, key: &PeerKey) -> Option<&Rules> {
        match key {
            PeerKey::Anybody => self.anybody.as_ref(),
            PeerKey::Group(group) => self.groups.get(group),
            PeerKey::Service(name) => self.services.get(name),
        }
    }

    fn set(&mut self, key: &PeerKey, rules: Option<Rules>) {
        match (key, rules) {
            (PeerKey::Anybody, rules) => self.anybody = rules,
            (PeerKey::Group(group), Some(rules)) => drop(self.groups.insert(*group, rules)),
            (PeerKey::Group(group), None) => drop(self.groups.remove(group)),
            (PeerKey::Service(name), Some(rules)) => {
                drop(self.services.insert(name.clone(), rules));
            }
            (PeerKey::Service(name), None) => drop(self.services.remove(name)),
        }
    }

    /// Makes edits of what stands under one key; gives the entries there were and are.
    fn edit(&mut self, key: &PeerKey, edits: &[Edit]) -> (usize, usize) {
        let gone = edits.iter().filter(|edit| !edit.add).map(|edit| edit.rule.rule.name.as_str());
        let gone: BTreeSet<&str> = gone.collect();
        let known = self.get(key).map(|rules| rules.rules()).unwrap_or_default();
        let before = known.len();
        let kept = known.iter().filter(|(_, it)| !gone.contains(it.rule.rule.name.as_str()));
        let mut rules: Vec<_> = kept.cloned().collect();
        rules.extend(edits.iter().filter(|edit| edit.add).flat_map(|edit| edit.rule.entries()));
        let after = rules.len();
        self.set(key, (after > 0).then(|| Arc::new(Ranked::new(rules))));
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
        consider(self.anybody.as_ref());
        // The smaller side is walked, the other asked.
        if packet.far.len() <= self.groups.len() {
            packet.far.iter().for_each(|group| consider(self.groups.get(&group)));
        } else {
            let met = self.groups.iter().filter(|(group, _)| packet.far.contains(**group));
            met.for_each(|(_, rules)| consider(Some(rules)));
        }
        consider(packet.service.and_then(|name| self.services.get(name)));
        best
    }
}

/// An Endpoint of this node, or the NodePort traffic of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
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
        Subject { addresses, groups: Arc::default(), sections }
    }

    /// Whether any rule of this table applies to it.
    pub(crate) fn is_judged(&self, direction: RuleDirection, table: RuleTable) -> bool {
        self.sections.get(place(direction, table)).is_some_and(|section| !section.is_empty())
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
        self.sections.iter().all(Section::is_empty)
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
            let (were, are) = section.edit(key, edits);
            before += were;
            after += are;
        }
        (before, after)
    }
}

/// The rule of this table that decides about a packet, of all that apply to these.
pub(crate) fn first_of<'a>(
    subjects: impl Iterator<Item = &'a Subject>,
    direction: RuleDirection,
    table: RuleTable,
    packet: &Opening<'_>,
) -> Option<&'a InstalledRule> {
    let first = subjects.filter_map(|subject| subject.first(direction, table, packet)).min();
    first.map(|ranked| ranked.rule.as_ref())
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

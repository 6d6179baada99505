//! Which groups an address is in, and what is known of each group.
//!
//! Rules and addresses meet in numbers that stand for groups, so a group can gain an address
//! without any rule being looked at.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use crate::connection::RuleId;
use crate::fqdn;
use crate::state::Group;
use crate::table::{Covering, Exact};

/// Stands for a name that rules or group objects use. Given anew only after all other numbers were.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct GroupId(pub(crate) u32);

/// A group that is installed, or that rules refer to.
#[derive(Clone, Debug)]
pub(super) struct KnownGroup {
    pub(super) name: Arc<str>,
    /// Whether it is installed. One that is not has no members.
    pub(super) defined: bool,
    /// Rules that name it, once for each time they do.
    pub(super) references: usize,
    pub(super) members: Exact<IpNet, ()>,
    pub(super) fqdns: Arc<[String]>,
    /// Rules that apply to it.
    pub(super) rules: Exact<RuleId, ()>,
    /// Endpoints of this node that are in it.
    pub(super) endpoints: Exact<Arc<str>, ()>,
}

impl KnownGroup {
    pub(super) fn new(name: Arc<str>, seed: u64) -> KnownGroup {
        KnownGroup {
            name,
            defined: false,
            references: 0,
            members: Exact::new(seed),
            fqdns: Arc::default(),
            rules: Exact::new(seed),
            endpoints: Exact::new(seed),
        }
    }

    /// The group as it was installed.
    pub(super) fn object(&self) -> Option<Group> {
        let mut members: Vec<IpNet> = self.members.iter().map(|(member, ())| *member).collect();
        members.sort_unstable();
        let name = self.name.as_ref().to_owned();
        self.defined.then(|| Group { name, members, fqdns: self.fqdns.to_vec() })
    }
}

/// Groups in the order of their numbers. The few that most addresses are in lie where the address
/// is found.
#[derive(Clone, Debug)]
enum GroupSet {
    Few(ArrayVec<GroupId, FEW>),
    Many(Arc<[GroupId]>),
}

/// As many as take no more room than what points to more.
const FEW: usize = 4;

impl GroupSet {
    fn of(groups: impl Iterator<Item = GroupId>) -> GroupSet {
        let mut few = ArrayVec::new();
        let mut groups = groups.fuse();
        while let Some(group) = groups.next() {
            if let Err(more) = few.try_push(group) {
                let all = few.into_iter().chain([more.element()]).chain(groups);
                return GroupSet::Many(all.collect());
            }
        }
        GroupSet::Few(few)
    }

    fn as_slice(&self) -> &[GroupId] {
        match self {
            GroupSet::Few(groups) => groups,
            GroupSet::Many(groups) => groups,
        }
    }
}

/// The groups of every address.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    addresses: Exact<IpAddr, GroupSet>,
    ranges: Covering<GroupSet>,
}

impl Membership {
    pub(super) fn new(seed: u64) -> Membership {
        Membership { addresses: Exact::new(seed), ranges: Covering::new(seed) }
    }

    pub(super) fn add(&mut self, member: IpNet, group: GroupId) {
        let known = self.set(member);
        let Err(place) = known.binary_search(&group) else { return };
        let (before, behind) = known.split_at(place);
        let set = GroupSet::of(before.iter().chain([&group]).chain(behind).copied());
        match address(member) {
            Some(address) => drop(self.addresses.insert(address, set)),
            None => drop(self.ranges.insert(member, set)),
        }
    }

    pub(super) fn remove(&mut self, member: IpNet, group: GroupId) {
        let set = GroupSet::of(self.set(member).iter().copied().filter(|it| *it != group));
        let is_empty = set.as_slice().is_empty();
        match address(member) {
            Some(address) if is_empty => drop(self.addresses.remove(&address)),
            Some(address) => drop(self.addresses.insert(address, set)),
            None if is_empty => drop(self.ranges.remove(member)),
            None => drop(self.ranges.insert(member, set)),
        }
    }

    fn set(&self, member: IpNet) -> &[GroupId] {
        let set = match address(member) {
            Some(address) => self.addresses.get(&address),
            None => self.ranges.get(member),
        };
        set.map(GroupSet::as_slice).unwrap_or_default()
    }

    pub(super) fn sets(&self, address: IpAddr) -> GroupSets<'_> {
        let own = self.addresses.get(&address).map(GroupSet::as_slice).unwrap_or_default();
        GroupSets { own, ranges: &self.ranges, address, by_name: ArrayVec::new(), also: &[] }
    }
}

/// The address, where a range holds no other.
fn address(member: IpNet) -> Option<IpAddr> {
    (member.prefix_len() == member.max_prefix_len()).then(|| member.addr())
}

/// The groups of one address.
#[derive(Debug)]
pub(crate) struct GroupSets<'a> {
    own: &'a [GroupId],
    /// Looked through whenever it is asked: an address may be in more ranges than would fit here.
    ranges: &'a Covering<GroupSet>,
    address: IpAddr,
    by_name: ArrayVec<GroupId, { fqdn::GROUPS }>,
    /// Of another address of the same Pod.
    also: &'a [GroupId],
}

impl<'a> GroupSets<'a> {
    /// Whether there are no more than so many; one that is in several sets counts so often.
    pub(super) fn has_at_most(&self, most: usize) -> bool {
        let few = self.own.len() + self.by_name.len() + self.also.len();
        let in_ranges = || self.in_ranges().map(<[GroupId]>::len).sum::<usize>();
        few <= most && (self.ranges.is_empty() || few + in_ranges() <= most)
    }

    pub(super) fn contains(&self, group: GroupId) -> bool {
        let has = |set: &[GroupId]| set.binary_search(&group).is_ok();
        has(self.own)
            || has(&self.by_name)
            || has(self.also)
            || !self.ranges.is_empty() && self.in_ranges().any(has)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> {
        let own = self.own.iter().chain(&self.by_name).chain(self.also);
        own.chain(self.in_ranges().flatten()).copied()
    }

    /// As [`groups`](Self::groups), without asking for ranges where there are none.
    pub(super) fn for_each(&self, mut each: impl FnMut(GroupId)) {
        self.own.iter().chain(&self.by_name).chain(self.also).for_each(|group| each(*group));
        if !self.ranges.is_empty() {
            self.in_ranges().flatten().for_each(|group| each(*group));
        }
    }

    /// With those in which the address is for its names, in order.
    pub(crate) fn add_names(&mut self, by_name: ArrayVec<GroupId, { fqdn::GROUPS }>) {
        self.by_name = by_name;
    }

    /// With those of another address, but for the ranges that this is in.
    pub(crate) fn add(&mut self, other: GroupSets<'a>) {
        self.also = other.own;
    }

    fn in_ranges(&self) -> impl Iterator<Item = &[GroupId]> {
        self.ranges.holding(self.address).map(GroupSet::as_slice)
    }
}

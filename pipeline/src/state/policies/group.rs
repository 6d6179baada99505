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
use crate::table::{Exact, Longest};

/// Sets that one address can have: of its own, and of each range that holds it.
const SETS_MAX: usize = 1 + 129;

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

/// Groups in the order of their numbers.
type GroupSet = Arc<[GroupId]>;

/// The groups of every address.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    addresses: Exact<IpAddr, GroupSet>,
    ranges: Longest<GroupSet>,
}

impl Membership {
    pub(super) fn new(seed: u64) -> Membership {
        Membership { addresses: Exact::new(seed), ranges: Longest::new() }
    }

    pub(super) fn add(&mut self, member: IpNet, group: GroupId) {
        let known = self.set(member);
        let Err(place) = known.binary_search(&group) else { return };
        let (before, behind) = known.split_at(place);
        let set: GroupSet = before.iter().chain([&group]).chain(behind).copied().collect();
        match address(member) {
            Some(address) => drop(self.addresses.insert(address, set)),
            None => drop(self.ranges.insert(member, set)),
        }
    }

    pub(super) fn remove(&mut self, member: IpNet, group: GroupId) {
        let set: GroupSet = self.set(member).iter().copied().filter(|it| *it != group).collect();
        match address(member) {
            Some(address) if set.is_empty() => drop(self.addresses.remove(&address)),
            Some(address) => drop(self.addresses.insert(address, set)),
            None if set.is_empty() => drop(self.ranges.remove(member)),
            None => drop(self.ranges.insert(member, set)),
        }
    }

    fn set(&self, member: IpNet) -> &[GroupId] {
        let set = match address(member) {
            Some(address) => self.addresses.get(&address),
            None => self.ranges.get_exactly(member),
        };
        set.map(AsRef::as_ref).unwrap_or_default()
    }

    pub(super) fn sets(&self, address: IpAddr) -> GroupSets<'_> {
        let own = self.addresses.get(&address).into_iter();
        let all = own.chain(self.ranges.covering(address));
        let sets = all.map(AsRef::as_ref).take(SETS_MAX).collect();
        GroupSets { sets, by_name: ArrayVec::new() }
    }
}

/// The address, where a range holds no other.
fn address(member: IpNet) -> Option<IpAddr> {
    (member.prefix_len() == member.max_prefix_len()).then(|| member.addr())
}

/// The groups of one address.
#[derive(Debug)]
pub(crate) struct GroupSets<'a> {
    sets: ArrayVec<&'a [GroupId], SETS_MAX>,
    by_name: ArrayVec<GroupId, { fqdn::GROUPS }>,
}

impl GroupSets<'_> {
    /// How many there are; one that is in several sets counts so often.
    pub(super) fn len(&self) -> usize {
        self.all().map(<[GroupId]>::len).sum()
    }

    pub(super) fn contains(&self, group: GroupId) -> bool {
        self.all().any(|set| set.binary_search(&group).is_ok())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = GroupId> {
        self.all().flat_map(|set| set.iter().copied())
    }

    /// With those in which the address is for its names, in order.
    pub(crate) fn with_names(self, by_name: ArrayVec<GroupId, { fqdn::GROUPS }>) -> Self {
        GroupSets { by_name, ..self }
    }

    fn all(&self) -> impl Iterator<Item = &[GroupId]> {
        self.sets.iter().copied().chain([self.by_name.as_slice()])
    }
}

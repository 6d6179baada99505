//! What has grown change by change against a plain reading of the objects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::state::{
    Action, Change, Endpoint, Epochs, GroupDelta, Kind, Object, ObjectId, PortRange, State, Traffic,
};
use crate::table::Flow;
use crate::testbed::{self, endpoint, ip, net};

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const PEERS: [&str; 7] =
    ["10.10.1.2", "10.10.1.3", "10.10.1.4", "10.10.2.7", "203.0.113.9", "fd00:10:1::2", "2001::9"];

fn member() -> impl Strategy<Value = IpNet> {
    let ranges = ["10.10.1.0/24", "10.10.1.2/31", "10.10.0.0/16", "0.0.0.0/0", "fd00::/16", "::/0"];
    let hosts = PEERS.iter().map(|host| IpNet::from(ip(host)));
    let all: Vec<IpNet> = ranges.iter().map(|range| net(range)).chain(hosts).collect();
    prop::sample::select(all)
}

fn members() -> impl Strategy<Value = Vec<IpNet>> {
    prop::collection::btree_set(member(), 0..4).prop_map(|set| set.into_iter().collect())
}

fn group_name() -> impl Strategy<Value = String> {
    (0..6).prop_map(|number| format!("group{number}"))
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(group_name(), 0..3)
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let ports = prop::option::of(
        (0u16..4, 0u16..3)
            .prop_map(|(first, more)| PortRange { first: 80 + first, last: 80 + first + more }),
    );
    (prop::sample::select(vec![6, 17]), ports).prop_map(|(protocol, ports)| Traffic {
        protocol,
        ports,
        source_ports: None,
        icmp_type: None,
        icmp_code: None,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let services = prop::collection::vec((0..2).prop_map(|it| format!("service{it}")), 0..2);
    let ends = (names(), names(), services);
    let kind = (any::<bool>(), 0usize..3, 0u64..4);
    (0..12, kind, ends, prop::collection::vec(traffic(), 0..4)).prop_map(
        |(number, (egress, table, rank), (mut applied, peers, services), traffic)| {
            if applied.is_empty() {
                applied.push("group0".to_owned());
            }
            Rule {
                name: format!("rule{number}"),
                policy: "AntreaClusterNetworkPolicy:test".to_owned(),
                rule_name: String::new(),
                direction: [RuleDirection::Ingress, RuleDirection::Egress][usize::from(egress)],
                table: TABLES[table],
                rank,
                action: Action::Allow,
                applied_to_groups: applied,
                applied_to_services: if egress { Vec::new() } else { services.clone() },
                peer_groups: peers,
                peer_services: if egress { services } else { Vec::new() },
                traffic,
                log: false,
                log_label: String::new(),
                priority: String::new(),
            }
        },
    )
}

const TABLES: [RuleTable; 3] =
    [RuleTable::AntreaPolicy, RuleTable::NetworkPolicy, RuleTable::Default];

fn change() -> impl Strategy<Value = Change> {
    let delete = |kind, name| Change::Delete(ObjectId { kind, name });
    let pod = || (0..PODS.len()).prop_map(|index| (index, PODS[index]));
    prop_oneof![
        4 => (group_name(), members()).prop_map(|(name, members)| {
            Change::Upsert(Object::Group(Group { name, members, fqdns: Vec::new() }))
        }),
        6 => rule().prop_map(|rule| Change::Upsert(Object::Rule(rule))),
        4 => (group_name(), members(), members()).prop_map(|(name, added, removed)| {
            Change::Members(GroupDelta { name, added, removed })
        }),
        1 => group_name().prop_map(move |name| delete(Kind::Group, name)),
        2 => (0..12).prop_map(move |it| delete(Kind::Rule, format!("rule{it}"))),
        1 => pod().prop_map(move |(_, pod)| delete(Kind::Endpoint, format!("default/{pod}/eth0"))),
        1 => (pod(), 0u16..3).prop_map(|((index, pod), shift)| {
            let mut endpoint = endpoint(index, pod);
            if shift > 0 {
                endpoint.addresses = vec![ip(&format!("10.10.1.{}", 2 + shift))];
            }
            Change::Upsert(Object::Endpoint(endpoint))
        }),
    ]
}

fn objects(state: &State) -> Vec<Object> {
    state.object_ids().iter().map(|id| state.object(id).unwrap()).collect()
}

/// The objects read as their documentation says, one after the other.
struct Plain {
    groups: Vec<Group>,
    rules: Vec<Rule>,
    endpoints: Vec<Endpoint>,
}

impl Plain {
    fn of(state: &State) -> Plain {
        let mut plain = Plain { groups: Vec::new(), rules: Vec::new(), endpoints: Vec::new() };
        for object in objects(state) {
            match object {
                Object::Group(group) => plain.groups.push(group),
                Object::Rule(rule) => plain.rules.push(rule),
                Object::Endpoint(endpoint) => plain.endpoints.push(endpoint),
                _ => {}
            }
        }
        plain
    }

    fn is_in(&self, names: &[String], address: IpAddr) -> bool {
        let named = self.groups.iter().filter(|group| names.contains(&group.name));
        named.flat_map(|group| &group.members).any(|member| member.contains(&address))
    }

    fn means(&self, rule: &Rule, far: IpAddr, service: Option<&str>, flow: &Flow) -> bool {
        let peers = rule.peer_groups.is_empty() && rule.peer_services.is_empty()
            || self.is_in(&rule.peer_groups, far)
            || service.is_some_and(|name| rule.peer_services.iter().any(|it| it == name));
        let traffic = rule.traffic.iter().any(|traffic| {
            let port = flow.destination_port;
            let ports = traffic.ports.map_or(0..=65535, |it| it.first..=it.last);
            traffic.protocol == flow.protocol && ports.contains(&port)
        });
        peers && (traffic || rule.traffic.is_empty())
    }

    fn first<'a>(rules: impl Iterator<Item = &'a Rule>) -> Option<&'a str> {
        rules.map(|rule| (rule.rank, rule.name.as_str())).min().map(|(_, name)| name)
    }
}

fn assert_equal(state: &State) {
    let (plain, policies) = (Plain::of(state), state.policies());
    let all = [RuleDirection::Egress, RuleDirection::Ingress].into_iter();
    for (direction, table) in all.flat_map(|it| TABLES.map(|table| (it, table))) {
        let mine = plain.rules.iter().filter(|it| (it.direction, it.table) == (direction, table));
        for (far, service, port) in cases() {
            let flow = Flow { protocol: 6, source_port: 9, destination_port: port, icmp: None };
            let meant = || mine.clone().filter(|rule| plain.means(rule, far, service, &flow));
            let opening = Opening { far: policies.groups_of(far), service, flow };
            let first = |subject: Option<&Subject>| {
                let found = first_of([subject, None], direction, table, &opening);
                found.map(|ranked| ranked.rule().name.clone())
            };
            for endpoint in &plain.endpoints {
                let applies = |rule: &&Rule| {
                    endpoint.addresses.iter().any(|it| plain.is_in(&rule.applied_to_groups, *it))
                };
                let subject = policies.of_endpoint(&endpoint.name).map(Arc::as_ref);
                if let Some(port) = state.port_by_name(&endpoint.port) {
                    let by_port = state.subject(port).map(std::ptr::from_ref);
                    assert_eq!(by_port, subject.map(std::ptr::from_ref), "{}", endpoint.name);
                }
                assert_eq!(
                    first(subject).as_deref(),
                    Plain::first(meant().filter(applies)),
                    "{} {direction:?} {table:?} {far} {service:?} {port}",
                    endpoint.name
                );
            }
            let applies = |rule: &&Rule| rule.applied_to_services.iter().any(|it| it == "service0");
            let expected = Plain::first(meant().filter(applies));
            assert_eq!(first(policies.of_service("service0")).as_deref(), expected);
        }
    }
}

fn cases() -> impl Iterator<Item = (IpAddr, Option<&'static str>, u16)> {
    let services = [None, Some("service0"), Some("service1")];
    let ends = PEERS.iter().flat_map(move |far| services.map(|service| (ip(far), service)));
    ends.flat_map(|(far, service)| [79, 81, 83].map(|port| (far, service, port)))
}

/// Which rules decide about what somebody sends to or gets from somebody else; none of this node's
/// stands for a Service that rules apply to.
fn judgements(state: &State) -> Vec<([IpAddr; 2], Vec<Option<Rule>>)> {
    let policies = state.policies();
    let own = PEERS.map(|own| Some(ip(own))).into_iter().chain([None]);
    let pairs = own.flat_map(|own| PEERS.map(|far| (own, ip(far))));
    let judged = pairs.map(|(own, far)| {
        let home = own.and_then(|own| policies.homes.get(&own));
        let subject = match own {
            Some(_) => home.and_then(|name| policies.of_endpoint(name)).map(Arc::as_ref),
            None => policies.of_service("service0"),
        };
        let all = [RuleDirection::Egress, RuleDirection::Ingress].into_iter();
        let tables = all.flat_map(|it| TABLES.map(|table| (it, table)));
        let rules = tables.flat_map(|(direction, table)| {
            let cases = cases().filter(move |case| case.0 == far);
            cases.map(move |(far, service, destination_port)| {
                let flow = Flow { protocol: 6, source_port: 9, destination_port, icmp: None };
                let opening = Opening { far: policies.groups_of(far), service, flow };
                let found = first_of([subject, None], direction, table, &opening);
                found.map(|installed| installed.rule().clone())
            })
        });
        ([own.unwrap_or(ip("192.0.2.1")), far], rules.collect())
    });
    judged.collect()
}

/// What must not depend on the way there.
fn measure(policies: &Policies) -> (usize, usize, usize, usize, usize) {
    let Policies { groups, members, entries, endpoints, services, .. } = policies;
    (groups.len(), *members, *entries, endpoints.len(), services.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn rules_decide_as_a_plain_reading_of_the_objects_does_whatever_changed_before(
        transactions in prop::collection::vec(prop::collection::vec(change(), 1..12), 1..8),
    ) {
        let mut state = testbed::Node::with_pods(PODS).state;
        for changes in &transactions {
            let before = (objects(&state), measure(state.policies()));
            match state.apply(changes) {
                Ok(next) => {
                    // What the workers still have is not touched.
                    prop_assert_eq!(&before, &(objects(&state), measure(state.policies())));
                    state = next;
                }
                // A group that is not there, an address that two Endpoints want: try the rest.
                Err(_) => for change in changes {
                    state = state.apply(std::slice::from_ref(change)).unwrap_or(state);
                },
            }
        }
        assert_equal(&state);
        let upserts: Vec<_> = objects(&state).into_iter().map(Change::Upsert).collect();
        let rebuilt = State::new(9).apply(&upserts).unwrap();
        assert_equal(&rebuilt);
        prop_assert_eq!(measure(state.policies()), measure(rebuilt.policies()));
        for installed in state.policies().installed() {
            let found = state.policies().installed_rule(installed.id).unwrap();
            prop_assert_eq!(&found.rule, &installed.rule);
        }
        let deletes = state.object_ids().into_iter().filter(|id| {
            matches!(id.kind, Kind::Group | Kind::Rule | Kind::Endpoint)
        });
        let deletes: Vec<_> = deletes.map(Change::Delete).collect();
        let empty = state.apply(&deletes).unwrap();
        prop_assert_eq!(measure(empty.policies()), (0, 0, 0, 0, 0));
        prop_assert!(empty.policies().homes.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn who_is_judged_by_other_rules_than_before_has_another_epoch(
        first in prop::collection::vec(change(), 10..40),
        then in prop::collection::vec(change(), 1..12),
    ) {
        let mut state = testbed::Node::with_pods(PODS).state;
        for change in first {
            state = state.apply(&[change]).unwrap_or(state);
        }
        // One by one, so that none hides behind another.
        for change in then {
            let Ok(next) = state.apply(std::slice::from_ref(&change)) else { continue };
            for ((ends, before), (_, after)) in judgements(&state).iter().zip(judgements(&next)) {
                let [one, other] = ends.map(Epochs::low);
                let epoch = |state: &State| state.epochs().policy(one, other);
                let same = epoch(&state) == epoch(&next);
                prop_assert!(!same || *before == after, "{ends:?}: {change:?}");
            }
            state = next;
        }
    }
}

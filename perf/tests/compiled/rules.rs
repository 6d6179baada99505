//! What rules and groups mean, read from the words of datapath.proto alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use seine_control::compile::Objects;
use seine_datapath_api::v1::{self, object::Kind, rule};
use seine_perf::naive::{Action, Decision, Direction, Query};

/// The groups and rules of a node.
pub struct Rules {
    groups: BTreeMap<String, Vec<IpNet>>,
    rules: Vec<v1::Rule>,
}

impl Rules {
    pub fn of(objects: &Objects) -> Rules {
        let mut rules = Rules { groups: BTreeMap::new(), rules: Vec::new() };
        for object in objects.values() {
            match object.kind.as_ref() {
                Some(Kind::Group(group)) => {
                    let members = group.members.iter().map(|member| {
                        member.parse().unwrap_or_else(|_| {
                            IpNet::from(member.parse::<IpAddr>().expect("an address or range"))
                        })
                    });
                    rules.groups.insert(group.name.clone(), members.collect());
                }
                Some(Kind::Rule(rule)) => rules.rules.push(rule.clone()),
                _ => {}
            }
        }
        rules.rules.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        rules
    }

    /// What they say of a connection; `reached` are the Services it came by.
    pub fn decide(&self, direction: Direction, query: &Query) -> Decision {
        for table in [rule::Table::AntreaPolicy, rule::Table::NetworkPolicy, rule::Table::Default] {
            let matching = self
                .rules
                .iter()
                .filter(|rule| rule.table() == table && self.matches(rule, direction, query));
            let mut deciding: Vec<&v1::Rule> = matching.collect();
            if table != rule::Table::NetworkPolicy {
                deciding.truncate(1);
            }
            let Some(first) = deciding.first() else { continue };
            let action = match first.action() {
                rule::Action::Allow => Action::Allow,
                rule::Action::Drop => Action::Drop,
                rule::Action::Reject => Action::Reject,
                rule::Action::Isolate => Action::Isolate,
                rule::Action::Pass => continue,
                rule::Action::Unspecified => panic!("{}: no action", first.name),
            };
            return Decision {
                action,
                policies: deciding.iter().map(|rule| rule.policy.clone()).collect(),
            };
        }
        Decision { action: Action::None, policies: Vec::new() }
    }

    fn matches(&self, rule: &v1::Rule, direction: Direction, query: &Query) -> bool {
        let (wanted, own, far) = match direction {
            Direction::Egress => (rule::Direction::Egress, query.source, query.destination),
            Direction::Ingress => (rule::Direction::Ingress, query.destination, query.source),
        };
        let anybody = rule.peer_groups.is_empty() && rule.peer_services.is_empty();
        rule.direction() == wanted
            && rule.applied_to_groups.iter().any(|group| self.contains(group, own))
            && (anybody
                || rule.peer_groups.iter().any(|group| self.contains(group, far))
                || query.service.as_ref().is_some_and(|service| {
                    rule.peer_services.iter().any(|port| port.split(':').next() == Some(service))
                }))
            && (rule.traffic.is_empty()
                || rule.traffic.iter().any(|traffic| is_traffic(traffic, query)))
    }

    fn contains(&self, group: &str, address: IpAddr) -> bool {
        let members = self.groups.get(group).unwrap_or_else(|| panic!("no group {group}"));
        members.iter().any(|range| range.contains(&address))
    }
}

fn is_traffic(traffic: &v1::Traffic, query: &Query) -> bool {
    let within = |range: &Option<v1::PortRange>, port: u16| {
        range.is_none_or(|range| (range.first..=range.last).contains(&port.into()))
    };
    traffic.protocol == u32::from(query.protocol)
        && within(&traffic.ports, query.port)
        && within(&traffic.source_ports, query.source_port)
        && traffic.icmp_type.is_none_or(|kind| kind == u32::from(query.icmp.0))
        && traffic.icmp_code.is_none_or(|code| code == u32::from(query.icmp.1))
}

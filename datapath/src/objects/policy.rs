//! Groups, rules and Services, typed.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use seine_datapath_api::v1;
use seine_pipeline::state::{
    Action, Group, GroupDelta, Kind, PortRange, Refusal, Rule, RuleDirection, RuleTable, Service,
    ServiceEndpoint, Traffic,
};

use super::{ObjectError, Subject};

pub(super) fn group(group: v1::Group) -> Result<Group, Refusal> {
    let subject = Subject::new(Kind::Group, &group.name)?;
    let mut members = ranges(&subject, "members", &group.members)?;
    members.sort_unstable();
    members.dedup();
    Ok(Group { members, fqdns: group.fqdns, name: group.name })
}

/// Types a change of members.
pub fn group_delta(delta: v1::GroupDelta) -> Result<GroupDelta, ObjectError> {
    let subject = Subject::new(Kind::Group, &delta.name)?;
    Ok(GroupDelta {
        added: ranges(&subject, "added", &delta.added)?,
        removed: ranges(&subject, "removed", &delta.removed)?,
        name: delta.name,
    })
}

/// Ranges, where an address alone stands for a range of its whole length.
fn ranges(
    subject: &Subject<'_>,
    field: &'static str,
    texts: &[String],
) -> Result<Vec<IpNet>, Refusal> {
    let range = |text: &String| match IpAddr::from_str(text) {
        Ok(address) => Ok(address.into()),
        Err(_) => subject.parse::<IpNet>(field, text).map(|range| range.trunc()),
    };
    texts.iter().map(range).collect()
}

pub(super) fn rule(rule: v1::Rule) -> Result<Rule, Refusal> {
    let subject = Subject::new(Kind::Rule, &rule.name)?;
    let direction = match rule.direction() {
        v1::rule::Direction::Unspecified => {
            return Err(subject.refuse("direction", "is not given".to_owned()));
        }
        v1::rule::Direction::Egress => RuleDirection::Egress,
        v1::rule::Direction::Ingress => RuleDirection::Ingress,
    };
    let table = match rule.table() {
        v1::rule::Table::Unspecified => {
            return Err(subject.refuse("table", "is not given".to_owned()));
        }
        v1::rule::Table::AntreaPolicy => RuleTable::AntreaPolicy,
        v1::rule::Table::NetworkPolicy => RuleTable::NetworkPolicy,
        v1::rule::Table::Default => RuleTable::Default,
    };
    let action = match rule.action() {
        v1::rule::Action::Unspecified => {
            return Err(subject.refuse("action", "is not given".to_owned()));
        }
        v1::rule::Action::Allow => Action::Allow,
        v1::rule::Action::Drop => Action::Drop,
        v1::rule::Action::Reject => Action::Reject,
        v1::rule::Action::Pass => Action::Pass,
        v1::rule::Action::Isolate => Action::Isolate,
    };
    let traffic = rule.traffic.iter().map(|traffic| self::traffic(&subject, traffic));
    Ok(Rule {
        direction,
        table,
        action,
        traffic: traffic.collect::<Result<_, _>>()?,
        name: rule.name,
        policy: rule.policy,
        rule_name: rule.rule_name,
        rank: rule.rank,
        applied_to_groups: rule.applied_to_groups,
        applied_to_services: rule.applied_to_services,
        peer_groups: rule.peer_groups,
        peer_services: rule.peer_services,
        log: rule.log,
        log_label: rule.log_label,
        priority: rule.priority,
    })
}

fn traffic(subject: &Subject<'_>, traffic: &v1::Traffic) -> Result<Traffic, Refusal> {
    let range = |field, range: Option<v1::PortRange>| {
        let Some(v1::PortRange { first, last }) = range else { return Ok(None) };
        let (first, last) = (subject.port(field, first)?, subject.port(field, last)?);
        if first > last {
            return Err(subject.refuse(field, format!("{first} is above {last}")));
        }
        Ok(Some(PortRange { first, last }))
    };
    let byte = |field, number: Option<u32>| match number {
        None => Ok(None),
        Some(number) => subject.protocol(field, number).map(Some),
    };
    Ok(Traffic {
        protocol: subject.protocol("traffic.protocol", traffic.protocol)?,
        ports: range("traffic.ports", traffic.ports)?,
        source_ports: range("traffic.source_ports", traffic.source_ports)?,
        icmp_type: byte("traffic.icmp_type", traffic.icmp_type)?,
        icmp_code: byte("traffic.icmp_code", traffic.icmp_code)?,
    })
}

pub(super) fn service(service: v1::Service) -> Result<Service, Refusal> {
    let subject = Subject::new(Kind::Service, &service.name)?;
    let endpoint = |endpoint: &v1::ServiceEndpoint| {
        Ok(ServiceEndpoint {
            address: subject.parse("endpoints.address", &endpoint.address)?,
            port: subject.port("endpoints.port", endpoint.port)?,
            cluster: endpoint.cluster,
            local: endpoint.local,
        })
    };
    Ok(Service {
        protocol: subject.protocol("protocol", service.protocol)?,
        cluster_addresses: subject.each("cluster_addresses", &service.cluster_addresses)?,
        external_addresses: subject.each("external_addresses", &service.external_addresses)?,
        port: subject.port("port", service.port)?,
        node_port: subject.port("node_port", service.node_port)?,
        affinity_seconds: service.affinity_seconds,
        internal_local: service.internal_local,
        external_local: service.external_local,
        restricted_addresses: subject
            .each("restricted_addresses", &service.restricted_addresses)?,
        source_ranges: subject.each("source_ranges", &service.source_ranges)?,
        endpoints: service.endpoints.iter().map(endpoint).collect::<Result<_, Refusal>>()?,
        name: service.name,
    })
}

//! Protocols and ports of a rule, as the datapath has them.

use std::collections::BTreeMap;

use seine_datapath_api::v1;

use super::source::NamedPort;
use crate::model::{Port, Protocol, Traffic};

/// What a rule says of traffic.
pub(super) struct Wanted {
    /// What means the same for every receiver; `None` where there is nothing of the kind. An empty
    /// list: anything.
    pub(super) everywhere: Option<Vec<v1::Traffic>>,
    /// What depends on what the receiver calls its ports, with the sender's ports.
    pub(super) named: BTreeMap<NamedPort, Vec<Option<v1::PortRange>>>,
}

/// Sorts out what a rule says of traffic.
pub(super) fn wanted(traffic: Option<&[Traffic]>) -> Wanted {
    let Some(traffic) = traffic else {
        return Wanted { everywhere: Some(Vec::new()), named: BTreeMap::new() };
    };
    let mut everywhere = Vec::new();
    let mut named: BTreeMap<NamedPort, Vec<_>> = BTreeMap::new();
    let mut is_anything = false;
    for one in traffic {
        let source_ports = one.source_ports.map(|(first, last)| range(first, last));
        let ports = match &one.port {
            Some(Port::Named(name)) => {
                let port = NamedPort { name: name.clone(), protocol: one.protocol };
                let source_ports_of = named.entry(port).or_default();
                if !source_ports_of.contains(&source_ports) {
                    source_ports_of.push(source_ports);
                }
                continue;
            }
            Some(Port::Range(first, last)) => Some(range(*first, *last)),
            None => None,
        };
        let has_ports = ports.is_some() || source_ports.is_some();
        // Ports are those of protocols that have some.
        let protocols: &[Protocol] = match &one.protocol {
            Some(protocol) => std::slice::from_ref(protocol),
            None if has_ports => &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
            None => &[],
        };
        is_anything |= protocols.is_empty();
        everywhere.extend(protocols.iter().map(|protocol| v1::Traffic {
            protocol: protocol.number().into(),
            ports,
            source_ports,
            icmp_type: one.icmp_type.map(u32::from),
            icmp_code: one.icmp_code.map(u32::from),
        }));
    }
    if is_anything {
        return Wanted { everywhere: Some(Vec::new()), named: BTreeMap::new() };
    }
    let everywhere = (!everywhere.is_empty()).then_some(everywhere);
    Wanted { everywhere, named }
}

fn range(first: u16, last: u16) -> v1::PortRange {
    v1::PortRange { first: first.into(), last: last.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_without_protocol_and_port_means_anything() {
        let anything = wanted(Some(&[Traffic::of(Protocol::Tcp), Traffic::default()]));
        assert_eq!(anything.everywhere, Some(Vec::new()));
    }

    #[test]
    fn ports_without_protocol_are_those_of_every_protocol_that_has_ports() {
        let port = Some(Port::Range(80, 90));
        let wanted = wanted(Some(&[Traffic { port, ..Traffic::default() }]));
        let protocols: Vec<u32> =
            wanted.everywhere.iter().flatten().map(|traffic| traffic.protocol).collect();
        assert_eq!(protocols, [6, 17, 132]);
    }

    #[test]
    fn a_rule_of_named_ports_alone_says_nothing_of_other_traffic() {
        let port = Some(Port::Named("http".to_owned()));
        let one = Traffic { port, ..Traffic::of(Protocol::Tcp) };
        let wanted = wanted(Some(&[one.clone(), one]));
        assert_eq!(wanted.everywhere, None);
        assert_eq!(wanted.named.len(), 1);
    }
}

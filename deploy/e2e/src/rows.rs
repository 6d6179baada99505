//! The rows of the demo: a fixed list. One that is missing from a report is a failure.

use std::fmt;

use crate::measure::Netperf;
use crate::pod::Family;

/// Between whom a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Two Pods of one node.
    SameNode,
    /// Pods of two nodes, over Geneve.
    Across,
    /// From the node's own stack to its Pod.
    NodeToPod,
    /// From a Pod to its node's address.
    PodToNode,
    /// From a Pod to a host that knows no Pod range.
    PodToOutside,
}

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// ping
    Ping,
    /// iperf3, TCP
    Iperf3,
    /// netperf
    Netperf(Netperf),
    /// ping, then a TCP connection whose server tells which address it saw.
    PingAndConnect,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Between whom.
    pub way: Way,
    /// Inner addresses.
    pub family: Family,
    /// What.
    pub measure: Measure,
}

const MEASURES: [Measure; 6] = [
    Measure::Ping,
    Measure::Iperf3,
    Measure::Netperf(Netperf::TcpStream),
    Measure::Netperf(Netperf::TcpRr),
    Measure::Netperf(Netperf::TcpCrr),
    Measure::Netperf(Netperf::UdpStream),
];

/// Every row, in order.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for way in [Way::SameNode, Way::Across] {
        for family in Family::BOTH {
            rows.extend(MEASURES.map(|measure| Row { way, family, measure }));
        }
    }
    for way in [Way::NodeToPod, Way::PodToNode, Way::PodToOutside] {
        rows.extend(Family::BOTH.map(|family| Row {
            way,
            family,
            measure: Measure::PingAndConnect,
        }));
    }
    rows
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Way::SameNode => "same node",
            Way::Across => "across",
            Way::NodeToPod => "node to pod",
            Way::PodToNode => "pod to node",
            Way::PodToOutside => "pod to outside",
        })
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Measure::Ping => "ping",
            Measure::Iperf3 => "iperf3",
            Measure::Netperf(test) => test.name(),
            Measure::PingAndConnect => "ping+connect",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_what_was_asked_for() {
        let rows = rows();
        let between = |way| rows.iter().filter(|row| row.way == way).count();
        assert_eq!(between(Way::SameNode), 12);
        assert_eq!(between(Way::Across), 12);
        let gateway = [Way::NodeToPod, Way::PodToNode, Way::PodToOutside];
        assert_eq!(gateway.map(between), [2, 2, 2]);
        let distinct = rows.iter().enumerate().all(|(i, row)| !rows[..i].contains(row));
        assert!(distinct && rows.len() == 30);
    }
}

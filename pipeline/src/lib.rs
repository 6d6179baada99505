//! Decides: a packet and the installed [`State`](state::State) give an
//! [`Outcome`](verdict::Outcome).
//!
//! Nothing here does I/O, reads a clock, starts a thread or is `unsafe`: the same packets, objects
//! and clock give the same output, on a node as on a laptop. The datapath owns the memory that a
//! [`Packet`](packet::Packet) looks into and moves it between ports; this crate reads and rewrites
//! it.
//!
//! A packet walks the [`STAGES`] in order; each holds tables named as Antrea names them.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::unreachable
    )
)]

pub mod address;
pub mod adjacency;
pub mod affinity;
pub mod announcement;
mod answer;
pub mod audit;
pub mod composed;
pub mod connection;
pub mod describe;
pub mod fqdn;
pub mod learned;
pub mod limits;
pub mod packet;
mod reject;
pub mod run;
pub mod stage;
pub mod state;
mod sync;
pub mod table;
pub mod tally;
pub mod testbed;
pub mod trace;
mod translate;
mod tunnel;
pub mod verdict;
pub mod wire;

use stage::arp_responder::ArpResponder;
use stage::classifier::{Classifier, PipelineRootClassifier};
use stage::conntrack_commit::ConntrackCommit;
use stage::conntrack_state::{ConntrackState, ConntrackZone};
use stage::egress_security::{
    ANTREA_POLICY_EGRESS_RULE, EGRESS_DEFAULT_RULE, EGRESS_METRIC, EGRESS_RULE,
};
use stage::ingress_security::{
    ANTREA_POLICY_INGRESS_RULE, INGRESS_DEFAULT_RULE, INGRESS_METRIC, INGRESS_RULE,
    IngressSecurityClassifier,
};
use stage::output::Output;
use stage::post_routing::{Snat, SnatMark};
use stage::pre_routing::{EndpointDnat, NodePortMark, ServiceLb, SessionAffinity};
use stage::routing::{L3DecTtl, L3Forwarding};
use stage::switching::L2ForwardingCalc;
use stage::trunk::VlanTrunk;
use stage::validation::{ArpSpoofGuard, Ipv6, SpoofGuard};
use stage::{Stage, Table, TableId};

/// The whole pipeline, in the order in which a packet meets it.
pub const STAGES: &[Stage] = &[
    stage("Classifier", &[&PipelineRootClassifier, &Classifier]),
    stage("Validation", &[&ArpSpoofGuard, &SpoofGuard, &Ipv6]),
    stage("Trunk", &[&VlanTrunk]),
    stage("ArpResponder", &[&ArpResponder]),
    stage("ConntrackState", &[&ConntrackZone, &ConntrackState]),
    stage("PreRouting", &[&NodePortMark, &SessionAffinity, &ServiceLb, &EndpointDnat]),
    stage(
        "EgressSecurity",
        &[&ANTREA_POLICY_EGRESS_RULE, &EGRESS_RULE, &EGRESS_DEFAULT_RULE, &EGRESS_METRIC],
    ),
    stage("Routing", &[&L3Forwarding, &L3DecTtl]),
    stage("PostRouting", &[&SnatMark, &Snat]),
    stage("Switching", &[&L2ForwardingCalc]),
    stage(
        "IngressSecurity",
        &[
            &IngressSecurityClassifier,
            &ANTREA_POLICY_INGRESS_RULE,
            &INGRESS_RULE,
            &INGRESS_DEFAULT_RULE,
            &INGRESS_METRIC,
        ],
    ),
    stage("Conntrack", &[&ConntrackCommit]),
    stage("Output", &[&Output]),
];

/// Every table, with the place of its stage: each where its [`TableId`] says, so that a packet that
/// goes on somewhere else passes by what is between.
pub(crate) static TABLES: [(usize, &dyn Table); TableId::COUNT] = tables();

#[allow(clippy::indexing_slicing, reason = "done when this is compiled, or not at all")]
const fn tables() -> [(usize, &'static dyn Table); TableId::COUNT] {
    let mut tables: [(usize, &dyn Table); TableId::COUNT] = [(0, &Output); TableId::COUNT];
    let (mut count, mut number, mut stages) = (0, 0, STAGES);
    while let [stage, more @ ..] = stages {
        let mut of_stage = stage.tables;
        while let [table, others @ ..] = of_stage {
            tables[count] = (number, *table);
            (count, of_stage) = (count + 1, others);
        }
        (number, stages) = (number + 1, more);
    }
    tables
}

const fn stage(name: &'static str, tables: &'static [&'static dyn Table]) -> Stage {
    Stage { name, tables }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_where_its_number_says() {
        let in_order: Vec<_> = STAGES.iter().flat_map(|it| it.tables).map(|it| it.id()).collect();
        let numbered: Vec<_> = TABLES.iter().map(|(_, table)| table.id()).collect();
        assert_eq!(in_order, numbered);
        assert!(numbered.iter().enumerate().all(|(place, id)| *id as usize == place));
    }
}

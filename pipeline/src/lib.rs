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
use stage::validation::{ArpSpoofGuard, Ipv6, SpoofGuard};
use stage::{Stage, Table};

/// The whole pipeline, in the order in which a packet meets it.
pub const STAGES: &[Stage] = &[
    stage("Classifier", &[&PipelineRootClassifier, &Classifier]),
    stage("Validation", &[&ArpSpoofGuard, &SpoofGuard, &Ipv6]),
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

const fn stage(name: &'static str, tables: &'static [&'static dyn Table]) -> Stage {
    Stage { name, tables }
}

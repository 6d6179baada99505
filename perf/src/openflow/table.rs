//! Antrea's tables, in the order in which it hands out their numbers.

/// A table of the pipelines Root, ARP and IP, as far as its feature is one that Seine has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are Antrea's")]
#[repr(u8)]
pub enum Table {
    PipelineRootClassifier,
    ArpSpoofGuard,
    ArpResponder,
    Classifier,
    SpoofGuard,
    Ipv6,
    UnSnat,
    ConntrackZone,
    ConntrackState,
    PreRoutingClassifier,
    NodePortMark,
    SessionAffinity,
    ServiceLb,
    EndpointDnat,
    AntreaPolicyEgressRule,
    EgressRule,
    EgressDefaultRule,
    EgressMetric,
    L3Forwarding,
    EgressMark,
    L3DecTtl,
    SnatMark,
    Snat,
    L2ForwardingCalc,
    IngressSecurityClassifier,
    AntreaPolicyIngressRule,
    IngressRule,
    IngressDefaultRule,
    IngressMetric,
    ConntrackCommit,
    Output,
}

use Table::*;

impl Table {
    /// All of them, each at the place of its number.
    pub const ALL: &'static [Table] = &[
        PipelineRootClassifier,
        ArpSpoofGuard,
        ArpResponder,
        Classifier,
        SpoofGuard,
        Ipv6,
        UnSnat,
        ConntrackZone,
        ConntrackState,
        PreRoutingClassifier,
        NodePortMark,
        SessionAffinity,
        ServiceLb,
        EndpointDnat,
        AntreaPolicyEgressRule,
        EgressRule,
        EgressDefaultRule,
        EgressMetric,
        L3Forwarding,
        EgressMark,
        L3DecTtl,
        SnatMark,
        Snat,
        L2ForwardingCalc,
        IngressSecurityClassifier,
        AntreaPolicyIngressRule,
        IngressRule,
        IngressDefaultRule,
        IngressMetric,
        ConntrackCommit,
        Output,
    ];

    /// Its number.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// As Antrea writes it.
    pub const fn name(self) -> &'static str {
        match self {
            PipelineRootClassifier => "PipelineRootClassifier",
            ArpSpoofGuard => "ARPSpoofGuard",
            ArpResponder => "ARPResponder",
            Classifier => "Classifier",
            SpoofGuard => "SpoofGuard",
            Ipv6 => "IPv6",
            UnSnat => "UnSNAT",
            ConntrackZone => "ConntrackZone",
            ConntrackState => "ConntrackState",
            PreRoutingClassifier => "PreRoutingClassifier",
            NodePortMark => "NodePortMark",
            SessionAffinity => "SessionAffinity",
            ServiceLb => "ServiceLB",
            EndpointDnat => "EndpointDNAT",
            AntreaPolicyEgressRule => "AntreaPolicyEgressRule",
            EgressRule => "EgressRule",
            EgressDefaultRule => "EgressDefaultRule",
            EgressMetric => "EgressMetric",
            L3Forwarding => "L3Forwarding",
            EgressMark => "EgressMark",
            L3DecTtl => "L3DecTTL",
            SnatMark => "SNATMark",
            Snat => "SNAT",
            L2ForwardingCalc => "L2ForwardingCalc",
            IngressSecurityClassifier => "IngressSecurityClassifier",
            AntreaPolicyIngressRule => "AntreaPolicyIngressRule",
            IngressRule => "IngressRule",
            IngressDefaultRule => "IngressDefaultRule",
            IngressMetric => "IngressMetric",
            ConntrackCommit => "ConntrackCommit",
            Output => "Output",
        }
    }

    /// Where a packet goes that no flow matches; nowhere from the rest: there it ends.
    pub(super) const fn miss(self) -> Option<Table> {
        Some(match self {
            Ipv6 => UnSnat,
            UnSnat => ConntrackZone,
            ConntrackZone => ConntrackState,
            ConntrackState => PreRoutingClassifier,
            PreRoutingClassifier => EndpointDnat,
            ServiceLb => EndpointDnat,
            EndpointDnat => AntreaPolicyEgressRule,
            AntreaPolicyEgressRule => EgressRule,
            EgressRule => EgressDefaultRule,
            EgressDefaultRule => EgressMetric,
            EgressMetric => L3Forwarding,
            L3DecTtl => SnatMark,
            SnatMark => Snat,
            Snat => L2ForwardingCalc,
            L2ForwardingCalc => IngressSecurityClassifier,
            IngressSecurityClassifier => AntreaPolicyIngressRule,
            AntreaPolicyIngressRule => IngressRule,
            IngressRule => IngressDefaultRule,
            IngressDefaultRule => IngressMetric,
            IngressMetric => ConntrackCommit,
            ConntrackCommit => Output,
            _ => return None,
        })
    }
}

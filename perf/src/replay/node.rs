//! One node twice: Seine's in memory, and Open vSwitch's with the flows for the same objects.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use seine_pipeline::address::{Mac, PortKind};
use seine_pipeline::state::Object;
use seine_pipeline::verdict::{DropReason, Outcome};

use super::peer::{decapsulate, encapsulate};
use super::report::Summary;
use super::switch::Switch;
use super::{ReplayError, talk::Sent};
use crate::cases::segment::Segment;
use crate::cases::world::machine::Machine;
use crate::openflow::{self, AGENT};

/// The gateway, the node's own port, the tunnel, the agent; then Pods.
pub const PORTS: &[u32] =
    &[1, 2, 3, AGENT_PORT, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25];
const FIXED: [(&str, u32); 4] = [("gateway", 1), ("host", 2), ("uplink", 3), (AGENT, AGENT_PORT)];
const AGENT_PORT: u32 = 4;
const FIRST_POD: u32 = 10;

/// What Seine did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    /// It dropped it.
    Dropped(DropReason),
    /// This left by that port; of the tunnel, what is in it and to whom it goes.
    Left(String, Vec<u8>, Option<IpAddr>),
}

/// What Open vSwitch did with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Theirs {
    /// Nothing left.
    Dropped,
    /// It would be handed to Antrea's agent.
    Agent,
    /// This left by that port.
    Left(String, Vec<u8>),
    /// More than one packet left.
    Many(Vec<(u32, Vec<u8>)>),
}

impl fmt::Display for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ours::Dropped(reason) => write!(f, "drops it: {}", reason.name()),
            Ours::Left(port, frame, _) => write!(f, "sends by {port} {}", Shown(frame)),
        }
    }
}

impl fmt::Display for Theirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Theirs::Dropped => f.write_str("drops it"),
            Theirs::Agent => f.write_str("hands it to the agent"),
            Theirs::Left(port, frame) => write!(f, "sends by {port} {}", Shown(frame)),
            Theirs::Many(all) => all
                .iter()
                .try_for_each(|(port, frame)| write!(f, "sends by port {port} {}; ", Shown(frame))),
        }
    }
}

/// A frame, as bytes and as what a host reads in it.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        match Segment::parse(self.0) {
            Ok(segment) => write!(f, " {segment:?}"),
            Err(error) => write!(f, " ({error})"),
        }
    }
}

/// Both nodes.
pub struct Both<'a> {
    machine: &'a mut Machine,
    switch: &'a mut Switch,
    numbers: BTreeMap<String, u32>,
    /// The MAC address of the node on the underlay.
    uplink: Mac,
    now_ms: u64,
}

impl<'a> Both<'a> {
    /// Tells Open vSwitch what Seine's node knows.
    pub fn begin(
        seed: u64,
        machine: &'a mut Machine,
        switch: &'a mut Switch,
        summary: &mut Summary,
    ) -> Result<Both<'a>, ReplayError> {
        let failed = |reason: String| ReplayError::State { seed, reason };
        let objects = machine.objects();
        let mut numbers: BTreeMap<String, u32> =
            FIXED.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        let ports = objects.iter().filter_map(|object| match object {
            Object::Port(port) if !numbers.contains_key(&port.name) => Some(port.name.clone()),
            _ => None,
        });
        let uplink = objects.iter().find_map(|object| match object {
            Object::Port(port) if port.kind == PortKind::Uplink => Some(port.mac),
            _ => None,
        });
        let uplink = uplink.unwrap_or_default();
        let pods: Vec<_> = ports.zip(FIRST_POD..).collect();
        numbers.extend(pods);
        let set = openflow::flows(&objects, &numbers).map_err(|error| failed(error.to_string()))?;
        for (feature, count) in &set.left_out {
            *summary.left_out.entry((*feature).to_owned()).or_default() += count;
        }
        switch.load(&set)?;
        Ok(Both { machine, switch, numbers, uplink, now_ms: 1000 })
    }

    /// Gives both the same packet.
    pub fn send(&mut self, sent: &Sent) -> Result<(Ours, Theirs), ReplayError> {
        self.now_ms += 1;
        let unknown = || ReplayError::Switch {
            what: format!("send by {}", sent.port),
            told: "there is no such port".to_owned(),
        };
        let id = self.machine.port(&sent.port).ok_or_else(unknown)?;
        let frame = match sent.tunnel {
            Some(ends) => encapsulate(&sent.frame, ends, self.uplink),
            None => sent.frame.clone(),
        };
        let (outcome, bytes) = self.machine.receive(id, &frame, self.now_ms, None);
        let ours = match outcome {
            Outcome::Drop(reason) => Ours::Dropped(reason),
            // Nothing that is replayed is in a VLAN.
            Outcome::Replicate(_) => Ours::Dropped(DropReason::TaggedFrame),
            Outcome::Output(port) => {
                let name = self.machine.port_name(port).unwrap_or_default().to_owned();
                match decapsulate(&bytes).filter(|_| name == "uplink") {
                    Some((remote, inner)) => Ours::Left(name, inner, Some(remote)),
                    None => Ours::Left(name, bytes, None),
                }
            }
        };
        let number = self.numbers.get(&sent.port).copied().ok_or_else(unknown)?;
        let mut left = self.switch.send(number, &sent.frame)?;
        let theirs = match (left.pop(), left.is_empty()) {
            (None, _) => Theirs::Dropped,
            (Some((AGENT_PORT, _)), true) => Theirs::Agent,
            (Some((number, frame)), true) => {
                let name = self.numbers.iter().find(|(_, it)| **it == number);
                Theirs::Left(name.map(|(name, _)| name.clone()).unwrap_or_default(), frame)
            }
            (Some(last), false) => {
                left.push(last);
                Theirs::Many(left)
            }
        };
        Ok((ours, theirs))
    }

    /// How Open vSwitch explains what it would do with a packet now.
    pub fn trace(&self, sent: &Sent) -> Result<String, ReplayError> {
        let number = self.numbers.get(&sent.port).copied().unwrap_or_default();
        self.switch.trace(number, &sent.frame)
    }

    /// What Open vSwitch's control answers.
    #[cfg(test)]
    pub fn asked(&self, words: &[&str]) -> Result<String, ReplayError> {
        self.switch.appctl(words)
    }
}

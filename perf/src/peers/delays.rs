//! How long packets are under way through Open vSwitch, as a plain switch and with Antrea's flows.

use seine_e2e::failure::Outcome;

use super::room::Room;
use super::rows::{flow_set, options};
use super::vswitch::OpenVSwitch;
use crate::forward::far_ends::{Generator, Wiring};
use crate::forward::levels::levels;
use crate::forward::packets::Traffic;
use crate::forward::profile::Profile;
use crate::forward::session::teach;
use crate::record::{Latency, PeerSystem};

/// Both, with caches as they are installed. What it forwards at most with Antrea's flows is what
/// the other is loaded with as well.
pub fn open_vswitch(room: &Room, profile: &Profile) -> Outcome<Vec<Latency>> {
    let (mut switch, front_ends) =
        OpenVSwitch::start(room, profile.pods, &options(std::slice::from_ref(profile)))?;
    let mut generator = Generator::new(front_ends, Wiring::Switched);
    let mut records: Vec<Latency> = Vec::new();
    for system in [PeerSystem::OvsAntrea, PeerSystem::OvsL2] {
        match system {
            PeerSystem::OvsAntrea => switch.switch_by_flows(&flow_set(profile)?)?,
            _ => switch.switch_by_address(profile.pods)?,
        }
        switch.forget_connections()?;
        let mut traffic = Traffic::new(profile);
        teach(&mut generator, &mut traffic, profile)?;
        let common_mpps = records.first().map(|most| most.mpps);
        let generator = &mut generator;
        records.extend(levels(system, generator, &traffic, profile, &mut switch, common_mpps)?);
    }
    Ok(records)
}

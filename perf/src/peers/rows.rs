//! The rows of each peer: what is installed, which settings are tried, what is counted beside.

use std::time::Duration;

use seine_e2e::failure::{Failure, Outcome};
use seine_pipeline::state::{Action, Change, Object};

use super::room::Room;
use super::session::{blank, peer};
use super::testpmd::{PORTS_MAX, Testpmd};
use super::vswitch::{CACHES, Caches, OpenVSwitch};
use crate::forward::far_ends::{Generator, Play, Wiring};
use crate::forward::guests::front_end_options;
use crate::forward::objects::installed;
use crate::forward::packets::Traffic;
use crate::forward::profile::{Kind, Profile};
use crate::forward::session::{failed, teach, window};
use crate::openflow;
use crate::openflow::walk::{Ends, Walk, met};
use crate::record::{Peer, PeerSystem};
use crate::virtio::{FrontEnd, FrontEndOptions, Pages};

/// Attempts to see one packet alone, and the time between them.
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// What rows are given to.
pub type Taken<'a> = &'a mut (dyn FnMut(Peer) -> Outcome + Send);

/// Rows of Open vSwitch: as a plain switch, then with Antrea's flows and all settings of its
/// caches. Gives the dump of the flows.
pub fn open_vswitch(room: &Room, profiles: &[Profile], taken: Taken<'_>) -> Outcome<String> {
    let Some(first) = profiles.first() else { return Ok(String::new()) };
    let (switch, front_ends) = OpenVSwitch::start(room, first.pods, &options(profiles))?;
    let pages = pages(&front_ends);
    let mut session = Session { switch, generator: Generator::new(front_ends, Wiring::Switched) };
    session.switch.switch_by_address(first.pods)?;
    let switched = |it: &&Profile| it.services == 0 && it.kind == Kind::Established;
    for profile in profiles.iter().filter(switched) {
        let blank = blank(PeerSystem::OvsL2, profile, pages);
        let blank = Peer { policies_per_side: 0, flows: Some(1), ..blank };
        session.switch.forget_connections()?;
        let mut traffic = Traffic::new(profile);
        teach(&mut session.generator, &mut traffic, profile)?;
        session.measure(&mut traffic, profile, &CACHES[..1], &blank, taken)?;
    }
    let mut installed_for = None;
    for profile in profiles {
        let key = (profile.policies_per_side, profile.services);
        if installed_for != Some(key) {
            session.switch.switch_by_flows(&flow_set(profile)?)?;
            installed_for = Some(key);
        }
        session.switch.forget_connections()?;
        let mut traffic = Traffic::new(profile);
        traffic.open_connections(true);
        let first = session.ct_actions(&mut traffic, profile, "first", walk(profile).first())?;
        teach(&mut session.generator, &mut traffic, profile)?;
        let later = match profile.kind {
            Kind::Established => {
                Some(session.ct_actions(&mut traffic, profile, "later", walk(profile).later())?)
            }
            Kind::New => None,
        };
        let blank = Peer {
            flows: Some(session.switch.flow_count()?),
            ct_actions_first: Some(first),
            ct_actions_later: later,
            ..blank(PeerSystem::OvsAntrea, profile, pages)
        };
        let settings = match profile.kind {
            // Most of what large packets cost is copied.
            Kind::Established if profile.tso => &CACHES[..1],
            Kind::Established => &CACHES[..],
            // No cache answers a packet that is the first of its kind.
            Kind::New => &CACHES[..1],
        };
        session.measure(&mut traffic, profile, settings, &blank, taken)?;
    }
    session.switch.dump()
}

/// The rows of testpmd: one for each size of frames, as it looks at nothing else.
pub fn testpmd(room: &Room, profiles: &[Profile], taken: Taken<'_>) -> Outcome {
    let Some(first) = profiles.first() else { return Ok(()) };
    let pods = first.pods.min(PORTS_MAX) & !1;
    let (mut testpmd, front_ends) = Testpmd::start(room, pods, &options(profiles))?;
    let pages = pages(&front_ends);
    let mut generator = Generator::new(front_ends, Wiring::Paired);
    let mut sizes = Vec::new();
    for profile in profiles {
        if sizes.contains(&profile.size) || profile.kind == Kind::New {
            continue;
        }
        sizes.push(profile.size);
        let profile = Profile { pods, services: 0, ..profile.clone() };
        let traffic = Traffic::new(&profile);
        let window = window(&mut generator, &traffic, &profile, None, &mut testpmd)?;
        let blank = blank(PeerSystem::TestpmdIo, &profile, pages);
        taken(peer(&window, Peer { policies_per_side: 0, ..blank }))?;
    }
    Ok(())
}

struct Session {
    switch: OpenVSwitch,
    generator: Generator<FrontEnd>,
}

impl Session {
    /// A row for each setting of the caches.
    fn measure(
        &mut self,
        traffic: &mut Traffic,
        profile: &Profile,
        settings: &[Caches],
        blank: &Peer,
        taken: Taken<'_>,
    ) -> Outcome {
        for caches in settings {
            let blank = Peer { caches: caches.name.to_owned(), ..blank.clone() };
            if let Err(reason) = self.switch.set_caches(*caches)? {
                taken(Peer { unavailable: Some(reason), ..blank })?;
                continue;
            }
            let window = window(&mut self.generator, traffic, profile, None, &mut self.switch)?;
            taken(peer(&window, blank))?;
        }
        // The next connections begin with what is installed.
        self.switch.set_caches(CACHES[0])?.map_err(Failure::Unmet)
    }

    /// Sends one packet of the first connection, and counts the actions of connection tracking
    /// that it meets; they must be as many as Antrea's pipeline has.
    fn ct_actions(
        &mut self,
        traffic: &mut Traffic,
        profile: &Profile,
        which: &str,
        expected: usize,
    ) -> Outcome<usize> {
        let (mut lost, mut counted, mut dump) = (0, 0, String::new());
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                // On a busy machine packets of the row before may still be looked up.
                std::thread::sleep(PAUSE);
                if which == "first" {
                    self.switch.forget_connections()?;
                }
            }
            self.switch.forget_look_ups()?;
            let mut play = Play::of(profile, &mut *traffic, &[0], 1);
            lost = self.generator.teach(&mut play, 1).map_err(failed)?;
            dump = self.switch.look_ups()?;
            counted = met(&dump);
            if lost == 0 && counted == expected {
                return Ok(counted);
            }
        }
        let out = if lost == 0 { "came out" } else { "did not come out" };
        Err(Failure::Unmet(format!(
            "the {which} packet of a connection {out} and met {counted} ct actions, where Antrea's \
             pipeline has {expected}; it was looked up so:\n{dump}"
        )))
    }
}

pub(super) fn options(profiles: &[Profile]) -> FrontEndOptions {
    let sizes = profiles.iter().map(|profile| profile.size);
    let frame_bytes_max = sizes.max().unwrap_or_default();
    let plain = Profile::plain(Kind::Established);
    front_end_options(profiles.first().unwrap_or(&plain), frame_bytes_max)
}

pub(super) fn pages(front_ends: &[FrontEnd]) -> &'static str {
    let huge = front_ends.iter().all(|it| it.pages() == Pages::Huge);
    if huge { "2 MiB" } else { "4 KiB" }
}

/// Antrea's flows for everything that is installed in a profile.
pub(super) fn flow_set(profile: &Profile) -> Outcome<openflow::FlowSet> {
    let object = |change| match change {
        Change::Upsert(object) => Some(object),
        _ => None,
    };
    let objects: Vec<Object> = installed(profile).into_iter().filter_map(object).collect();
    let set = openflow::flows(&objects, &OpenVSwitch::port_numbers(profile.pods))
        .map_err(|error| Failure::Unmet(error.to_string()))?;
    if set.left_out.is_empty() {
        return Ok(set);
    }
    let left_out = set.left_out.iter().map(|(what, count)| format!("{count} {what}"));
    let left_out = left_out.collect::<Vec<_>>().join(", ");
    Err(Failure::Unmet(format!("the flows leave out: {left_out}")))
}

/// How the packets of a profile walk, by what Antrea's pipeline is known to do.
fn walk(profile: &Profile) -> Walk {
    let rule = Some(Action::Allow);
    Walk { ends: Ends::Local, service: profile.services > 0, egress: rule, ingress: rule }
}

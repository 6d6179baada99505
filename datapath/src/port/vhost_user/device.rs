//! What a front end says, and what becomes of it: the device's half of the vhost-user protocol.
//!
//! Runs on the port's control thread. A ring is taken from its worker before anything about it
//! changes, and given back when it is whole again; so a worker never sees half a change.

use std::fs::File;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::events::{self, Doorbell};
use super::fault::GuestFault;
use super::features;
use super::inflight::{self, Track};
use super::lane::Lane;
use super::memory::{GuestMemory, REGIONS_MAX, RegionPlace};
use super::ring::{Direction, RING_SIZE_MAX, Ring, RingAddresses, RingSetup};
use super::shared::Shared;

/// One ring, as far as the front end has described it.
#[derive(Default)]
struct Vring {
    size: u16,
    addresses: Option<RingAddresses>,
    base: u32,
    kick: Option<File>,
    call: Option<Doorbell>,
    /// Whether a kick descriptor was given, or its absence said: that starts a ring.
    started: bool,
    enabled: bool,
}

/// The device of one port.
pub(super) struct Device {
    shared: Arc<Shared>,
    features: u64,
    memory: Arc<GuestMemory>,
    /// Where rings stand, kept by the front end over our death.
    inflight: Option<GuestMemory>,
    vrings: Vec<Vring>,
}

impl Device {
    /// A device with so many pairs of rings.
    pub fn new(shared: Arc<Shared>, pairs: usize) -> Device {
        let vrings = std::iter::repeat_with(Vring::default).take(2 * pairs).collect();
        Device { shared, features: 0, memory: Arc::default(), inflight: None, vrings }
    }

    /// Forgets everything about the front end.
    pub fn disconnect(&mut self) {
        for index in 0..self.vrings.len() {
            self.stop(index);
            self.vrings[index] = Vring::default();
        }
        self.features = 0;
        self.memory = Arc::default();
        self.inflight = None;
    }

    fn track(&self, index: usize) -> Option<Track> {
        self.inflight.as_ref().and_then(|region| Track::of(region, index))
    }

    /// Takes a ring from its worker, if it has it.
    fn stop(&mut self, index: usize) {
        let Some(lane) = self.shared.exchange(index, None) else { return };
        let Lane { ring, kick, call, .. } = *lane;
        let vring = &mut self.vrings[index];
        vring.base = ring.base();
        if let Some(kick) = &kick {
            self.shared.wake_of(index).remove(kick);
        }
        (vring.kick, vring.call) = (kick, call);
    }

    /// Gives a ring to its worker, if it is described whole.
    fn start(&mut self, index: usize) -> Result<()> {
        let (shared, track) = (self.shared.clone(), self.track(index));
        let vring = &mut self.vrings[index];
        let Some(addresses) = vring.addresses else { return Ok(()) };
        let ready = vring.started && vring.enabled && vring.size > 0 && !self.memory.is_empty();
        if !ready || shared.is_broken() {
            return Ok(());
        }
        let direction = match index % 2 {
            0 => Direction::ToGuest,
            _ => Direction::FromGuest,
        };
        let setup = RingSetup {
            addresses,
            size: vring.size,
            base: vring.base,
            direction,
            event_index: self.features & features::EVENT_INDEX != 0,
        };
        let packed = self.features & features::RING_PACKED != 0;
        let ring = Ring::new(&self.memory, packed, setup, track)
            .map_err(|fault| refuse(&shared, fault))?;
        let agreement = features::agreement(self.features, shared.packet_bytes_max);
        shared.set_takes(agreement.takes);
        let mut lane = Lane::new(ring, self.memory.clone(), agreement, shared.polled);
        (lane.kick, lane.call) = (vring.kick.take(), vring.call.take());
        if direction == Direction::FromGuest
            && !shared.polled
            && let Some(kick) = &lane.kick
        {
            let watched = shared.wake_of(index).add(kick);
            watched.map_err(Error::ReqHandlerError)?;
        }
        if let Some(call) = &mut lane.call {
            // What was put back before the ring stopped may not have been told.
            call.ring();
        }
        shared.exchange(index, Some(Box::new(lane)));
        // The guest may have made buffers available before anybody asked it to kick.
        shared.wake_of(index).alert();
        Ok(())
    }

    /// Changes what is known of a ring, which stands still meanwhile.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Vring)) -> Result<()> {
        if index >= self.vrings.len() {
            return Err(Error::InvalidParam);
        }
        self.stop(index);
        change(&mut self.vrings[index]);
        self.start(index)
    }

    /// Changes what concerns all rings, which stand still meanwhile.
    fn change_all(&mut self, change: impl FnOnce(&mut Device)) -> Result<()> {
        for index in 0..self.vrings.len() {
            self.stop(index);
        }
        change(self);
        (0..self.vrings.len()).try_for_each(|index| self.start(index))
    }

    fn fail(&self, fault: GuestFault) -> Error {
        refuse(&self.shared, fault)
    }
}

/// The port is down, and the front end is told as much as the protocol lets one say.
fn refuse(shared: &Shared, fault: GuestFault) -> Error {
    shared.fail(fault);
    Error::ReqHandlerError(std::io::Error::other(fault))
}

/// What is not offered and was asked for all the same.
fn not_offered<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.disconnect();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.disconnect();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(features::OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !features::OFFERED != 0 {
            return Err(Error::FeatureMismatch);
        }
        self.change_all(|device| {
            device.features = features;
            if features & features::PROTOCOL == 0 {
                // Nobody will say so: rings are enabled from the start.
                device.vrings.iter_mut().for_each(|vring| vring.enabled = true);
            }
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut memory = GuestMemory::default();
        for (region, file) in regions.iter().zip(&files) {
            let place = RegionPlace {
                guest: region.guest_phys_addr,
                user: region.user_addr,
                bytes: region.memory_size,
                offset: region.mmap_offset,
            };
            memory = memory.with(place, file).map_err(|fault| self.fail(fault))?;
        }
        self.change_all(|device| device.memory = Arc::new(memory)).map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let packed = self.features & features::RING_PACKED != 0;
        if num == 0 || num > RING_SIZE_MAX || !(packed || num.is_power_of_two()) {
            return Err(Error::InvalidParam);
        }
        self.change(index as usize, |vring| vring.size = num as u16)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return not_offered("logging of dirty pages is not offered");
        }
        let addresses = RingAddresses { descriptors: descriptor, driver: available, device: used };
        self.change(index as usize, |vring| vring.addresses = Some(addresses))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.change(index as usize, |vring| vring.base = base)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let at = index as usize;
        // It stops the ring until a kick descriptor is given again.
        self.change(at, |vring| {
            (vring.started, vring.kick, vring.call) = (false, None, None);
        })?;
        if let Some(track) = self.track(at) {
            track.forget();
        }
        Ok(VhostUserVringState::new(index, self.vrings[at].base))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        match &file {
            Some(file) => events::check(file).map_err(|fault| self.fail(fault))?,
            None if self.shared.polled => {}
            None => return not_offered("a ring without kicks wants workers that poll"),
        }
        self.change(index.into(), |vring| (vring.kick, vring.started) = (file, true))
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let call = file.map(Doorbell::new).transpose().map_err(|fault| self.fail(fault))?;
        self.change(index.into(), |vring| vring.call = call)
    }

    fn set_vring_err(&mut self, _index: u8, _file: Option<File>) -> Result<()> {
        // A guest that breaks the rules is told by the end of the connection.
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(features::protocol())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        match features & !(features::protocol() | VhostUserProtocolFeatures::REPLY_ACK).bits() {
            0 => Ok(()),
            _ => Err(Error::FeatureMismatch),
        }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64 / 2)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(index as usize, |vring| vring.enabled = enable)
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        not_offered("the configuration space is the front end's")
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        not_offered("the configuration space is the front end's")
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered("this is no GPU")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered("there are no shared objects")
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let VhostUserInflight { num_queues: rings, queue_size: size, .. } = *wanted;
        let file = inflight::create(rings).map_err(Error::ReqHandlerError)?;
        Ok((VhostUserInflight::new(inflight::bytes(rings), 0, rings, size), file))
    }

    fn set_inflight_fd(&mut self, place: &VhostUserInflight, file: File) -> Result<()> {
        let (offset, bytes) = (place.mmap_offset, place.mmap_size);
        let region = inflight::map(&file, offset, bytes).map_err(|fault| self.fail(fault))?;
        self.change_all(|device| device.inflight = Some(region))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let place = RegionPlace {
            guest: region.guest_phys_addr,
            user: region.user_addr,
            bytes: region.memory_size,
            offset: region.mmap_offset,
        };
        let memory = self.memory.with(place, &file).map_err(|fault| self.fail(fault))?;
        self.change_all(|device| device.memory = Arc::new(memory)).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (guest, user) = (region.guest_phys_addr, region.user_addr);
        let memory = self.memory.without(guest, user, region.memory_size);
        let memory = memory.ok_or(Error::InvalidParam)?;
        self.change_all(|device| device.memory = Arc::new(memory))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered("transfer of device state is not offered")
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered("transfer of device state is not offered")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered("there is no memory of the device's own")
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        not_offered("logging of dirty pages is not offered")
    }
}

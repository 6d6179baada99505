//! The record of what is attached, on disk, and with it the leases of addresses.
//!
//! An attachment is recorded when its address is chosen, before the datapath hears of it, and
//! forgotten only when the datapath has forgotten it. So after a crash at any moment the record
//! holds at least what exists: an address is never given to a second Pod while a first one may
//! still use it. What is left of an ADD that never ended is found at start, because its link is
//! missing, or is removed by the DEL that every runtime sends after a failed ADD.
//!
//! The whole record is one small file (110 Pods: about 50 KB), replaced atomically. One thread
//! writes it; a write that is under way lets further changes collect, so fifty parallel ADDs cost
//! a few writes, not fifty.

mod device;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::ipam::{LeaseError, Pool, RangeError};
use crate::model::{Mac, PodName, SenderPermit};
pub use device::{Device, LentSockets, VhostUser};
use file::Writer;

/// Names an attachment: one interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub interface: String,
}

impl std::fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of container {}", self.interface, self.container_id)
    }
}

/// One interface of one container, with all that was made for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which interface of which container.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// CNI_NETNS, as the runtime gave it.
    pub netns: PathBuf,
    /// The Pod, when the runtime named it.
    pub pod: Option<PodName>,
    /// The name of the endpoint in the datapath.
    pub endpoint: String,
    /// The port's name, and the host end's.
    pub port: String,
    /// What the port is on. Before version 2 of the record there was one kind.
    #[serde(default)]
    pub device: Device,
    /// The name of the network that the runtime attached it to; empty before version 2.
    #[serde(default)]
    pub network: String,
    /// Networks of one cluster may use the same addresses. This version has network 0.
    #[serde(default)]
    pub network_id: u16,
    /// Which of its Pod's interfaces it is: 0 for the first.
    #[serde(default)]
    pub interface_index: u32,
    /// What it may send beyond its own addresses.
    #[serde(default)]
    pub permit: SenderPermit,
    /// Of the Pod's end.
    pub mac: Mac,
    /// Addresses of the Pod with the prefix of their range.
    pub addresses: Vec<IpNet>,
    /// Bytes, of the Pod's interface.
    pub mtu: u32,
    /// Deleted by the runtime while the datapath was away: the address stays leased until the
    /// datapath has confirmed that the endpoint is gone.
    pub detaching: bool,
}

impl Attachment {
    /// Its driver in user space, if it has one.
    pub fn vhost_user(&self) -> Option<&VhostUser> {
        match &self.device {
            Device::Veth | Device::AfXdp(_) => None,
            Device::VhostUser(guest) => Some(guest),
        }
    }

    /// The sockets that it is lent, if it is.
    pub fn lent_sockets(&self) -> Option<&LentSockets> {
        match &self.device {
            Device::Veth | Device::VhostUser(_) => None,
            Device::AfXdp(lent) => Some(lent),
        }
    }

    /// Whether it has an interface of the kernel.
    pub fn has_link(&self) -> bool {
        self.vhost_user().is_none()
    }

    /// The unix socket in its folder, if it has one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.device {
            Device::Veth => None,
            Device::AfXdp(lent) => Some(&lent.socket),
            Device::VhostUser(guest) => Some(&guest.socket),
        }
    }
}

/// Why the record could not be read, changed or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read or written.
    #[error("cannot {action} `{path}`: {reason}")]
    File {
        /// "read", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not ours, damaged, or of a later version.
    #[error(
        "`{path}` is not a record of attachments that this version reads: {reason}; move it away \
         only if no Pod of this node is running"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another agent holds the folder.
    #[error("another seine-agent uses the state folder `{0}`; stop it first")]
    Held(PathBuf),
    /// Two recorded attachments claim one address, or one lies outside the node's ranges.
    #[error("recorded attachment {key}: {source}")]
    Conflict {
        /// Whose.
        key: AttachmentKey,
        /// Why.
        source: LeaseError,
    },
    /// A range cannot serve Pods.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// No address.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// This node has no Pod range yet.
    #[error("this node has no Pod range yet")]
    NoRange,
}

/// What the file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    /// Where the host ends were last seen; known before the datapath has said so.
    ports_namespace: Option<PathBuf>,
    /// Where each range's search for a free address goes on.
    next_addresses: Vec<IpAddr>,
    attachments: Vec<Attachment>,
}

struct State {
    attachments: BTreeMap<AttachmentKey, Attachment>,
    pools: Vec<Pool>,
    next_addresses: Vec<IpAddr>,
    ports_namespace: Option<PathBuf>,
}

impl State {
    fn contents(&self) -> Contents {
        let next_addresses = if self.pools.is_empty() {
            self.next_addresses.clone()
        } else {
            self.pools.iter().map(Pool::next).collect()
        };
        Contents {
            version: file::VERSION,
            ports_namespace: self.ports_namespace.clone(),
            next_addresses,
            attachments: self.attachments.values().cloned().collect(),
        }
    }
}

/// All attachments of this node.
pub struct Attachments {
    state: Arc<Mutex<State>>,
    writer: Writer,
    permits_changed: Notify,
}

impl Attachments {
    /// Reads the record in `folder`, which is made if it is missing, and holds the folder.
    pub fn open(folder: &Path) -> Result<Self, RecordError> {
        let (held, path) = file::hold(folder)?;
        let contents = file::read(&path)?;
        let state = Arc::new(Mutex::new(State {
            attachments: contents.attachments.into_iter().map(|a| (a.key.clone(), a)).collect(),
            pools: Vec::new(),
            next_addresses: contents.next_addresses,
            ports_namespace: contents.ports_namespace,
        }));
        let snapshot = {
            let state = state.clone();
            move || lock(&state).contents()
        };
        let (writer, permits_changed) = (Writer::start(path, held, snapshot), Notify::new());
        Ok(Self { state, writer, permits_changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Serves addresses from `ranges` from now on. Refused when a recorded attachment has an
    /// address that these ranges cannot give: then the former ranges stay.
    pub fn set_ranges(&self, ranges: &[IpNet]) -> Result<(), RecordError> {
        let mut state = self.state();
        if state.pools.iter().map(Pool::range).eq(ranges.iter().map(IpNet::trunc)) {
            return Ok(());
        }
        let mut pools = ranges.iter().map(|r| Pool::new(*r)).collect::<Result<Vec<_>, _>>()?;
        for attachment in state.attachments.values() {
            for address in &attachment.addresses {
                let address = address.addr();
                let conflict =
                    |source| RecordError::Conflict { key: attachment.key.clone(), source };
                let Some(pool) = pools.iter_mut().find(|pool| pool.range().contains(&address))
                else {
                    let range = *ranges.first().ok_or(RecordError::NoRange)?;
                    return Err(conflict(LeaseError::Foreign { address, range }));
                };
                pool.restore(address).map_err(conflict)?;
            }
        }
        for pool in &mut pools {
            let resumed = state.contents().next_addresses;
            resumed.into_iter().for_each(|address| pool.resume_at(address));
        }
        state.pools = pools;
        Ok(())
    }

    /// Leases one address of each family and records the attachment that `describe` makes of
    /// them. In memory only: [`Attachments::persist`] makes it durable.
    pub fn reserve(
        &self,
        describe: impl FnOnce(Vec<IpNet>) -> Attachment,
    ) -> Result<Attachment, RecordError> {
        let mut state = self.state();
        if state.pools.is_empty() {
            return Err(RecordError::NoRange);
        }
        let mut leased: Vec<IpNet> = Vec::with_capacity(state.pools.len());
        for index in 0..state.pools.len() {
            let pool = &mut state.pools[index];
            match pool.allocate() {
                Ok(address) => leased.push(
                    IpNet::new(address, pool.range().prefix_len()).unwrap_or_else(|_| pool.range()),
                ),
                Err(error) => {
                    for address in leased {
                        release(&mut state.pools, address.addr());
                    }
                    return Err(error.into());
                }
            }
        }
        let attachment = describe(leased);
        state.attachments.insert(attachment.key.clone(), attachment.clone());
        self.notify(&attachment.permit);
        Ok(attachment)
    }

    /// Forgets an attachment and frees its addresses, in memory.
    pub fn remove(&self, key: &AttachmentKey) {
        let mut state = self.state();
        if let Some(attachment) = state.attachments.remove(key) {
            for address in &attachment.addresses {
                release(&mut state.pools, address.addr());
            }
            self.notify(&attachment.permit);
        }
    }

    /// Takes away what an attachment may send beyond its own addresses.
    pub fn revoke(&self, key: &AttachmentKey) {
        if let Some(attachment) = self.state().attachments.get_mut(key) {
            self.notify(&std::mem::take(&mut attachment.permit));
        }
    }

    fn notify(&self, permit: &SenderPermit) {
        if !permit.allowed_addresses.is_empty() {
            self.permits_changed.notify_one();
        }
    }

    /// Waits until other addresses than before are allowed to Pods.
    pub async fn permits_changed(&self) {
        self.permits_changed.notified().await;
    }

    /// The addresses and ranges that Pods of this node may send from beside their own.
    pub fn allowed_addresses(&self) -> BTreeSet<IpNet> {
        let state = self.state();
        let permits = state.attachments.values().map(|it| &it.permit);
        permits.flat_map(|permit| &permit.allowed_addresses).map(|it| it.range).collect()
    }

    /// Marks an attachment as deleted by the runtime but perhaps still known to the datapath.
    pub fn mark_detaching(&self, key: &AttachmentKey) {
        if let Some(attachment) = self.state().attachments.get_mut(key) {
            attachment.detaching = true;
        }
    }

    /// The lowest index that no interface of the container has.
    pub fn next_index(&self, container_id: &str) -> u32 {
        let state = self.state();
        let own = |index| {
            let mut all = state.attachments.values();
            all.any(|it| it.key.container_id == container_id && it.interface_index == index)
        };
        (0..).find(|index| !own(*index)).unwrap_or_default()
    }

    /// The attachment of that name.
    pub fn find(&self, key: &AttachmentKey) -> Option<Attachment> {
        self.state().attachments.get(key).cloned()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Attachment> {
        self.state().attachments.values().cloned().collect()
    }

    /// Whether some attachment satisfies `wanted`.
    pub fn any(&self, wanted: impl FnMut(&Attachment) -> bool) -> bool {
        self.state().attachments.values().any(wanted)
    }

    /// The range that has no address left, if one has not.
    pub fn exhausted_range(&self) -> Option<IpNet> {
        self.state().pools.iter().find(|pool| pool.is_exhausted()).map(Pool::range)
    }

    /// Where the host ends of links are, as far as is known.
    pub fn ports_namespace(&self) -> Option<PathBuf> {
        self.state().ports_namespace.clone()
    }

    /// Remembers where the host ends are.
    pub fn set_ports_namespace(&self, path: &Path) {
        self.state().ports_namespace = Some(path.to_owned());
    }

    /// Waits until everything changed so far is on disk.
    pub async fn persist(&self) -> Result<(), RecordError> {
        self.writer.flush().await
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic elsewhere cannot leave the maps half-changed in a way that matters more than
    // losing every later ADD.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn release(pools: &mut [Pool], address: IpAddr) {
    for pool in pools {
        pool.release(address);
    }
}

#[cfg(test)]
mod tests;

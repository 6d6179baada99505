//! The folders in which Pods meet their drivers in user space: vhost-user, or sockets lent to them.
//!
//! ```text
//! /run/seine/pods/                    socketDir: root's, to be passed through by all
//!   <UID of the Pod>/                 root's; what the Pod mounts
//!     eth0.json                       what the port is: addresses, gateways, MAC, MTU
//!     eth0/vhost.sock                 reached by the configured user and group only
//!     eth0/xdp.sock                   the same, where AF_XDP sockets are lent
//! ```
//! Where the datapath listens, the inner folder stays root's: nobody can put another file in the
//! socket's place. Where the Pod's front end listens it is the front end's, and what the datapath
//! connects to there is never a link.
//!
//! A folder of this kind is gone after a restart of the machine, as a link is.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AttachError, PodAddress};
use crate::attachments::{Attachment, Device};
use crate::configuration::VhostUserSettings;
use crate::model::SocketMode;

/// `sun_path` has 108 bytes; the datapath makes a socket under a name that is 4 longer, and counts
/// a zero.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// The name of the socket of a vhost-user port, and of one at which sockets are lent.
pub(super) const VHOST_USER: &str = "vhost.sock";
pub(super) const LENT: &str = "xdp.sock";
/// A Pod's UID as Kubernetes makes them has 36.
const UID_BYTES_MAX: usize = 64;

/// What a Pod's program reads to know its port: a file beside its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    /// As the annotation has it. Before there was a second one none was named.
    #[serde(default)]
    kind: String,
    /// The datapath's name for the port.
    port: String,
    socket_path: PathBuf,
    /// Of a vhost-user port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<SocketMode>,
    queues: u32,
    mac: String,
    mtu: u32,
    addresses: Vec<String>,
    gateways: Vec<String>,
}

/// A folder of an attachment, as it shall be.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    socket: &'a Path,
    kind: &'static str,
    mode: Option<SocketMode>,
    queues: u32,
    user: u32,
    group: u32,
}

impl<'a> Wanted<'a> {
    /// None for a Pod that has nobody to meet.
    fn by(attachment: &'a Attachment) -> Option<Self> {
        match &attachment.device {
            Device::Veth => None,
            Device::AfXdp(lent) => Some(Self {
                socket: &lent.socket,
                kind: "af-xdp",
                mode: None,
                queues: lent.queues,
                user: lent.user,
                group: lent.group,
            }),
            Device::VhostUser(guest) => Some(Self {
                socket: &guest.socket,
                kind: "vhost-user",
                mode: Some(guest.mode),
                queues: guest.queues,
                user: guest.user,
                group: guest.group,
            }),
        }
    }

    /// Whose the inner folder is, and what others may do there. Where the datapath listens, its
    /// socket says who may use it.
    fn rights(&self) -> (u32, u32) {
        match self.mode {
            Some(SocketMode::Client) => (self.user, 0o700),
            _ if self.group != 0 => (0, 0o710),
            _ if self.user != 0 => (0, 0o711),
            _ => (0, 0o700),
        }
    }
}

/// Where a socket of a Pod's interface is; `pod` is its UID, or the name of its port.
pub(super) fn socket(
    settings: &VhostUserSettings,
    pod: &str,
    interface: &str,
    socket: &str,
) -> Result<PathBuf, AttachError> {
    // It becomes a part of a path.
    let is_plain = (1..=UID_BYTES_MAX).contains(&pod.len())
        && pod.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_plain {
        return Err(AttachError::PodUid(pod.to_owned()));
    }
    let path = settings.socket_dir.join(pod).join(interface).join(socket);
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(AttachError::SocketPath { path, bytes, max: SOCKET_PATH_BYTES_MAX });
    }
    Ok(path)
}

/// Makes everything but a socket that the datapath listens at; nothing for a Pod that needs none.
pub(super) fn make(attachment: &Attachment, addresses: &[PodAddress]) -> Result<(), AttachError> {
    let Some(wanted) = Wanted::by(attachment) else { return Ok(()) };
    let places = Places::of(wanted.socket)?;
    let within = |path: &Path| DirBuilder::new().recursive(true).mode(0o711).create(path);
    within(places.base).map_err(failed("make", places.base))?;
    check_ours(places.base)?;
    within(places.pod).map_err(failed("make", places.pod))?;
    check_ours(places.pod)?;
    // What is there is of no attachment: a crash has left it.
    remove_folder(places.interface)?;
    DirBuilder::new()
        .mode(0o700)
        .create(places.interface)
        .map_err(failed("make", places.interface))?;
    let (owner, mode) = wanted.rights();
    chown(places.interface, Some(owner), Some(wanted.group))
        .and_then(|()| fs::set_permissions(places.interface, Permissions::from_mode(mode)))
        .map_err(failed("give away", places.interface))?;
    let description = Description {
        kind: wanted.kind.to_owned(),
        port: attachment.port.clone(),
        socket_path: wanted.socket.to_owned(),
        mode: wanted.mode,
        queues: wanted.queues,
        mac: attachment.mac.to_string(),
        mtu: attachment.mtu,
        addresses: addresses.iter().map(|it| it.address.to_string()).collect(),
        gateways: addresses.iter().map(|it| it.gateway.to_string()).collect(),
    };
    let text = serde_json::to_vec_pretty(&description).unwrap_or_default();
    let path = places.description();
    fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
        .map_err(failed("write", &path))
}

/// Removes all of it. What is not there is a success.
pub(super) fn remove(socket: &Path) -> Result<(), AttachError> {
    let places = Places::of(socket)?;
    remove_folder(places.interface)?;
    let path = places.description();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &path)(error));
        }
        _ => {}
    }
    // The Pod's other interfaces may still need it.
    let _ = fs::remove_dir(places.pod);
    Ok(())
}

/// Whether the folder of a port is there.
pub(super) fn exists(socket: &Path) -> bool {
    let folder = socket.parent();
    folder.and_then(|it| fs::symlink_metadata(it).ok()).is_some_and(|facts| facts.is_dir())
}

/// What a CHECK finds missing.
pub(super) fn compare(attachment: &Attachment) -> Result<(), AttachError> {
    let Some(wanted) = Wanted::by(attachment) else { return Ok(()) };
    let socket = wanted.socket.display();
    if !exists(wanted.socket) {
        return Err(AttachError::Differs(format!("the folder of {socket} is gone")));
    }
    // A front end that listens may come later.
    let listens = || fs::symlink_metadata(wanted.socket).map(|it| it.file_type().is_socket());
    if wanted.mode != Some(SocketMode::Client) && !listens().unwrap_or(false) {
        return Err(AttachError::Differs(format!("the socket {socket} is gone")));
    }
    Ok(())
}

/// Removes what no attachment has: left by a crash between its making and its record. Nothing is
/// touched but what our own descriptions name.
pub(super) fn sweep(base: &Path, wanted: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, AttachError> {
    let mut swept = Vec::new();
    let pods = match fs::read_dir(base) {
        Ok(pods) => pods,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        Err(error) => return Err(failed("read", base)(error)),
    };
    let files = pods.flatten().filter_map(|pod| fs::read_dir(pod.path()).ok()).flatten().flatten();
    for file in files.map(|entry| entry.path()) {
        if file.extension().is_none_or(|it| it != "json") || check_ours(&file).is_err() {
            continue;
        }
        let Ok(text) = fs::read(&file) else { continue };
        let Ok(description) = serde_json::from_slice::<Description>(&text) else { continue };
        let folder = file.with_extension("");
        let socket = [VHOST_USER, LENT].map(|name| folder.join(name));
        let Some(socket) = socket.into_iter().find(|it| *it == description.socket_path) else {
            continue;
        };
        if wanted.contains(&socket) {
            continue;
        }
        remove(&socket)?;
        swept.push(socket);
    }
    Ok(swept)
}

struct Places<'a> {
    base: &'a Path,
    pod: &'a Path,
    interface: &'a Path,
}

impl<'a> Places<'a> {
    fn of(socket: &'a Path) -> Result<Self, AttachError> {
        let mut above = socket.ancestors().skip(1);
        match (above.next(), above.next(), above.next()) {
            (Some(interface), Some(pod), Some(base)) => Ok(Self { base, pod, interface }),
            _ => Err(AttachError::Differs(format!("{} is no socket", socket.display()))),
        }
    }

    fn description(&self) -> PathBuf {
        let mut path = self.interface.as_os_str().to_owned();
        path.push(".json");
        path.into()
    }
}

/// Refuses what somebody else could have made, or could change under our hands.
fn check_ours(path: &Path) -> Result<(), AttachError> {
    let facts = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let ours = nix::unistd::geteuid().as_raw();
    if facts.is_symlink() || facts.uid() != ours || facts.mode() & 0o022 != 0 {
        return Err(AttachError::NotOurs(path.to_owned()));
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), AttachError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> AttachError + 'a {
    move |source| AttachError::Folder { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::attachments::{AttachmentKey, LentSockets, VhostUser};
    use crate::model::{Mac, SenderPermit};

    const POD: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

    fn settings(folder: &Path) -> VhostUserSettings {
        // Not the folder itself: it belongs to others as well.
        VhostUserSettings { socket_dir: folder.join("pods"), ..VhostUserSettings::default() }
    }

    fn attachment(socket: PathBuf, mode: SocketMode) -> Attachment {
        // Root's folders can be made by root only; elsewhere the test's own user stands for it.
        let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Attachment {
            key: AttachmentKey { container_id: "c".into(), interface: "eth0".into() },
            netns: "/run/netns/x".into(),
            pod: None,
            endpoint: "_/c/eth0".into(),
            port: "v00000000000001".into(),
            mac: Mac::of_pod("10.10.1.2".parse().unwrap()),
            addresses: vec!["10.10.1.2/24".parse().unwrap()],
            mtu: 1450,
            device: Device::VhostUser(VhostUser { socket, mode, queues: 2, user, group }),
            network: "seine".into(),
            network_id: 0,
            interface_index: 0,
            permit: SenderPermit::default(),
            detaching: false,
        }
    }

    #[test]
    fn a_socket_path_that_no_socket_can_have_is_refused_with_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        settings.socket_dir = "/run/seine/pods".into();
        let path = socket(&settings, POD, "fifteen-letters", VHOST_USER).unwrap();
        assert_eq!(
            path.to_str().unwrap(),
            format!("/run/seine/pods/{POD}/fifteen-letters/vhost.sock")
        );
        settings.socket_dir = format!("/{}", "x".repeat(70)).into();
        let error = socket(&settings, POD, "eth0", VHOST_USER).unwrap_err().to_string();
        assert!(error.contains("124 bytes") && error.contains("100"), "{error}");
        for wrong in ["", "..", "a/b", "a.b", &"x".repeat(65)] {
            let error = socket(&settings, wrong, "eth0", LENT).unwrap_err();
            assert!(matches!(error, AttachError::PodUid(_)), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_folder_is_closed_to_others_and_goes_with_all_that_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let path = socket(&settings, POD, "eth0", VHOST_USER).unwrap();
        let client = attachment(path.clone(), SocketMode::Client);
        make(&client, &[]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&settings.socket_dir), 0o711);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        compare(&client).unwrap();
        let served = attachment(path.clone(), SocketMode::Server);
        assert!(compare(&served).unwrap_err().to_string().contains("vhost.sock is gone"));
        let _listener = UnixListener::bind(&path).unwrap();
        compare(&served).unwrap();
        // Once more, over what a crash has left.
        make(&client, &[]).unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
        assert!(!exists(&path) && !settings.socket_dir.join(POD).exists());
        remove(&path).unwrap();
    }

    #[test]
    fn who_may_use_what_is_lent_may_pass_to_it_and_nobody_may_put_a_file_there() {
        let settings = settings(Path::new("/run/seine"));
        let socket = socket(&settings, POD, "eth0", LENT).unwrap();
        for ((user, group), mode) in [((0, 0), 0o700), ((1, 0), 0o711), ((1, 2), 0o710)] {
            let lent = LentSockets { socket: socket.clone(), queues: 2, user, group };
            let device = Device::AfXdp(lent);
            let own = Attachment { device, ..attachment(socket.clone(), SocketMode::Server) };
            assert_eq!(Wanted::by(&own).unwrap().rights(), (0, mode), "{user}:{group}");
        }
        let plain = Attachment { device: Device::Veth, ..attachment(socket, SocketMode::Server) };
        assert!(Wanted::by(&plain).is_none());
    }

    #[test]
    fn a_sweep_takes_what_no_attachment_has_and_nothing_that_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let paths = [("eth0", VHOST_USER), ("net1", LENT)]
            .map(|(interface, name)| socket(&settings, POD, interface, name).unwrap());
        for path in &paths {
            make(&attachment(path.clone(), SocketMode::Client), &[]).unwrap();
        }
        let foreign = settings.socket_dir.join("foreign");
        fs::create_dir_all(foreign.join("data")).unwrap();
        fs::write(foreign.join("data.json"), "{}").unwrap();
        let wanted = BTreeSet::from([paths[0].clone()]);
        assert_eq!(sweep(&settings.socket_dir, &wanted).unwrap(), [paths[1].clone()]);
        assert!(paths[0].parent().unwrap().exists() && foreign.join("data").exists());
        assert_eq!(sweep(&settings.socket_dir, &BTreeSet::new()).unwrap(), [paths[0].clone()]);
        assert!(!settings.socket_dir.join(POD).exists());
        assert!(sweep(&folder.path().join("absent"), &wanted).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_others_can_write_to_or_have_made_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let path = socket(&settings, POD, "eth0", VHOST_USER).unwrap();
        fs::create_dir(&settings.socket_dir).unwrap();
        let open = Permissions::from_mode(0o777);
        fs::set_permissions(&settings.socket_dir, open).unwrap();
        let error = make(&attachment(path, SocketMode::Client), &[]).unwrap_err();
        assert!(matches!(error, AttachError::NotOurs(_)), "{error}");
    }
}

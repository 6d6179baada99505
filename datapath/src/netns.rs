//! Network namespaces: made, opened and entered, with the settings that keep Pods apart.
//!
//! The host ends of Pod links live in a namespace of Seine's own ([`Namespace::isolated`]), so
//! that the kernel never forwards what the datapath did not: were a Pod port's XDP program gone,
//! its packets would still meet a namespace without addresses or forwarding. New namespaces
//! inherit forwarding from the first one on some systems, so each setting is read back.
//!
//! A namespace is a property of a thread: [`run_in`] starts one that enters the namespace, runs
//! the closure and ends. The caller's thread never changes namespace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// Where `ip netns` looks for named namespaces.
pub const DIRECTORY: &str = "/run/netns";

/// What an isolated namespace holds to: path below `/proc/sys/net`, value. Interfaces made later
/// take the `default` ones.
const ISOLATION: [(&str, &str); 7] = [
    ("ipv4/ip_forward", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv6/conf/default/forwarding", "0"),
    // A new interface would give itself a link-local address, and answer on it.
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    // Answer no ARP request, whatever the address.
    ("ipv4/conf/all/arp_ignore", "8"),
    ("ipv4/conf/default/arp_ignore", "8"),
];

/// Why a namespace could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A name that would leave the directory, or none.
    #[error("`{0}` is not a name for a network namespace: letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// No such namespace.
    #[error("no network namespace `{}`", .0.display())]
    Missing(PathBuf),
    /// The process may not.
    #[error("{action} network namespace `{name}` takes the right CAP_SYS_ADMIN")]
    NoRight {
        /// What was tried.
        action: &'static str,
        /// The namespace.
        name: String,
    },
    /// Anything else that the kernel refused.
    #[error("{action} network namespace `{name}` failed: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The namespace.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A setting that keeps Pods apart does not hold.
    #[error("`net/{setting}` of network namespace `{name}` is {found:?}, not {wanted}: {advice}")]
    Setting {
        /// The namespace.
        name: String,
        /// Path below `/proc/sys/net`.
        setting: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
        /// What to do.
        advice: &'static str,
    },
}

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Opens the named namespace, or makes it as `ip netns add` would; then shuts it off from
    /// all that the kernel itself could forward or answer, and checks that it is.
    pub fn isolated(name: &str) -> Result<Namespace, NamespaceError> {
        let namespace = match Namespace::named(name) {
            Err(NamespaceError::Missing(_)) => Namespace::create(name)?,
            other => other?,
        };
        namespace.run(|| isolate(name))??;
        Ok(namespace)
    }

    /// Makes a namespace that `ip netns` can see. It must not exist.
    pub fn create(name: &str) -> Result<Namespace, NamespaceError> {
        let path = path_of(name)?;
        let failed = |action| move |source| NamespaceError::new(action, name, source);
        share_directory().map_err(failed("preparing the directory for"))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(failed("creating"))?;
        let made = std::thread::scope(|scope| {
            let maker = scope.spawn(|| -> io::Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let own = "/proc/thread-self/ns/net";
                Ok(mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
            });
            maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        if let Err(source) = made {
            // Best effort: the error to report is the one above.
            let _ = fs::remove_file(&path);
            return Err(NamespaceError::new("creating", name, source));
        }
        Namespace::named(name)
    }

    /// Opens a namespace by its name.
    pub fn named(name: &str) -> Result<Namespace, NamespaceError> {
        Namespace::at(&path_of(name)?)
    }

    /// Opens a namespace by its path: `/run/netns/...` or `/proc/PID/ns/net`.
    pub fn at(path: &Path) -> Result<Namespace, NamespaceError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Namespace { name, file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(NamespaceError::Missing(path.to_owned()))
            }
            Err(source) => Err(NamespaceError::new("opening", &name, source)),
        }
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Namespace, NamespaceError> {
        Namespace::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// Takes the name away, as `ip netns delete` does. The namespace itself ends when nothing
    /// lives in it any more. Removing one that is not there is a success.
    pub fn remove(name: &str) -> Result<(), NamespaceError> {
        let path = path_of(name)?;
        if !path.exists() {
            return Ok(());
        }
        // A file left behind by a crash before the mount is not a mount point.
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(error) => return Err(NamespaceError::new("removing", name, error.into())),
        }
        fs::remove_file(&path).map_err(|source| NamespaceError::new("removing", name, source))
    }

    /// Runs a closure in the namespace: see [`run_in`].
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        run_in(self.file.as_fd(), closure)
            .map_err(|source| NamespaceError::new("entering", &self.name, source))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NamespaceError {
    fn new(action: &'static str, name: &str, source: io::Error) -> NamespaceError {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => NamespaceError::NoRight { action, name },
            _ => NamespaceError::Kernel { action, name, source },
        }
    }
}

/// Runs a closure on a thread of its own that has entered the namespace, and waits for it. Sockets
/// that it opens belong to that namespace for good. A panic passes on to the caller.
pub fn run_in<T: Send>(
    namespace: BorrowedFd<'_>,
    closure: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let visitor = scope.spawn(move || -> io::Result<T> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(closure())
        });
        visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sets what [`ISOLATION`] says in the calling thread's namespace and reads it back. `lo` is left
/// down: nothing of the kernel's may talk there.
fn isolate(name: &str) -> Result<(), NamespaceError> {
    for (setting, wanted) in ISOLATION {
        let path = Path::new("/proc/sys/net").join(setting);
        // Without IPv6 in the kernel there is nothing to shut.
        if setting.starts_with("ipv6/") && !Path::new("/proc/sys/net/ipv6").exists() {
            continue;
        }
        let written = fs::write(&path, wanted);
        let found = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        if found != wanted {
            let advice = match written {
                Err(_) => "it cannot be written; run with a writable /proc/sys",
                Ok(()) => "it did not take the value; find who sets it back",
            };
            let name = name.to_owned();
            return Err(NamespaceError::Setting { name, setting, wanted, found, advice });
        }
    }
    Ok(())
}

fn path_of(name: &str) -> Result<PathBuf, NamespaceError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(legal) {
        return Err(NamespaceError::Name(name.to_owned()));
    }
    Ok(Path::new(DIRECTORY).join(name))
}

/// Makes the directory a shared mount, as `ip netns` does: a namespace removed here must vanish
/// from other mount namespaces too, or it could never end.
fn share_directory() -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIRECTORY, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Err(nix::Error::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(purpose: &str) -> String {
        format!("seine-{purpose}-{}", std::process::id())
    }

    struct Removed(String);

    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = Namespace::remove(&self.0);
        }
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for name in ["", "..", "a/b", ".hidden", "a b"] {
            assert!(matches!(Namespace::named(name), Err(NamespaceError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named_in_the_error() {
        let error = Namespace::named("seine-nobody").expect_err("there is none");
        assert_eq!(error.to_string(), "no network namespace `/run/netns/seine-nobody`");
    }

    #[test]
    #[ignore = "needs CAP_NET_ADMIN"]
    fn an_isolated_namespace_forwards_and_answers_nothing() {
        let name = unique("isolated");
        let _removed = Removed(name.clone());
        // Twice: the second finds it and checks it again.
        for _ in 0..2 {
            let namespace = Namespace::isolated(&name).expect("isolated");
            for (setting, wanted) in ISOLATION {
                let read = || fs::read_to_string(Path::new("/proc/sys/net").join(setting));
                let found = namespace.run(read).expect("enter").expect("read");
                assert_eq!(found.trim(), wanted, "{setting}");
            }
            let flags = || fs::read_to_string("/proc/thread-self/net/dev").expect("read");
            let devices = namespace.run(flags).expect("enter");
            assert_eq!(devices.lines().count(), 3, "only lo: {devices}");
        }
        Namespace::remove(&name).expect("remove");
        assert!(matches!(Namespace::named(&name), Err(NamespaceError::Missing(_))));
        Namespace::remove(&name).expect("removing twice is a success");
    }

    #[test]
    #[ignore = "needs CAP_NET_ADMIN"]
    fn the_callers_thread_stays_in_its_namespace() {
        let name = unique("visit");
        let _removed = Removed(name.clone());
        let link = || fs::read_link("/proc/thread-self/ns/net").expect("read");
        let home = link();
        let namespace = Namespace::create(&name).expect("create");
        let away = namespace.run(link).expect("enter");
        assert_ne!(home, away);
        assert_eq!(home, link());
    }
}

//! Network namespaces: opened by path, and work done inside one.
//!
//! A namespace belongs to a thread. [`Namespace::run`] starts a thread that enters the namespace,
//! does the work and ends, so no other thread of the agent ever stands in the wrong one. A socket
//! opened inside stays in the namespace it was opened in and can be used from anywhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug, Clone)]
pub struct Namespace {
    file: Arc<File>,
    path: PathBuf,
    /// Device and inode: the same pair is the same namespace.
    identity: (u64, u64),
}

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Nothing is at the path.
    #[error("there is no network namespace at `{0}`")]
    Missing(PathBuf),
    /// The path cannot be opened.
    #[error("cannot open the network namespace `{path}`")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is there, but it is not a namespace.
    #[error("`{0}` is not a network namespace")]
    NotANamespace(PathBuf),
    /// The kernel did not let a thread in.
    #[error("cannot enter the network namespace `{path}`")]
    Enter {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread that did the work inside ended without an answer.
    #[error("work inside the network namespace `{0}` ended without an answer")]
    Lost(PathBuf),
}

impl Namespace {
    /// Opens the namespace at `path`.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NamespaceError::Missing(path.to_owned()),
            _ => NamespaceError::Open { path: path.to_owned(), source },
        })?;
        let is_namespace = nix::sys::statfs::fstatfs(&file)
            .is_ok_and(|facts| facts.filesystem_type() == nix::sys::statfs::NSFS_MAGIC);
        if !is_namespace {
            return Err(NamespaceError::NotANamespace(path.to_owned()));
        }
        let facts = file
            .metadata()
            .map_err(|source| NamespaceError::Open { path: path.to_owned(), source })?;
        Ok(Self {
            identity: (facts.dev(), facts.ino()),
            file: Arc::new(file),
            path: path.to_owned(),
        })
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same namespace, by whatever paths.
    pub fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Its descriptor, for requests that name a namespace.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Moves the calling thread into it. Only for threads that end afterwards.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|error| {
            if error == nix::errno::Errno::EINVAL {
                NamespaceError::NotANamespace(self.path.clone())
            } else {
                NamespaceError::Enter { path: self.path.clone(), source: error.into() }
            }
        })
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    pub fn run_blocking<T: Send>(
        &self,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|_| Err(NamespaceError::Lost(self.path.clone())))
        })
    }

    /// As [`Namespace::run_blocking`], without blocking the caller's thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NamespaceError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let inside = self.clone();
        std::thread::Builder::new()
            .name("namespace".into())
            .spawn(move || {
                let result = inside.enter().map(|()| work());
                // Nobody waits any more when the caller was cancelled; the work is done all the
                // same.
                let _ = answer.send(result);
            })
            .map_err(|source| NamespaceError::Enter { path: self.path.clone(), source })?;
        answered.await.unwrap_or_else(|_| Err(NamespaceError::Lost(self.path.clone())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_missing_path_and_a_plain_file_are_told_apart() {
        assert!(matches!(
            Namespace::open(Path::new("/nonexistent/netns")),
            Err(NamespaceError::Missing(_))
        ));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Namespace::open(file.path()), Err(NamespaceError::NotANamespace(_))));
    }

    #[test]
    fn one_namespace_by_two_paths_is_one_namespace() {
        let by_thread = Namespace::current().unwrap();
        let by_process = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
        assert!(by_thread.is(&by_process));
    }
}

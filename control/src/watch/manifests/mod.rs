//! A folder of ordinary Kubernetes manifests, in place of an API server.
//!
//! Files ending in .yaml, .yml or .json count; folders below and hidden files do not. A file that
//! cannot be read at all keeps its last good version in force: half of an edit must not take Nodes
//! away. Of one that can be read, an object that is wrong stays as it was, and the others are
//! taken. A file that is gone takes its objects with it. Changes are noticed through inotify, and
//! by looking again every few seconds, for filesystems that do not tell.
//!
//! What is in force is kept on disk as well, so that all of this is true of an agent that starts.

mod assemble;
mod last_good;
mod parse;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::model::{Cluster, Object, ObjectKey};
use last_good::LastGood;
pub use parse::ManifestError;

/// Editors and `kubectl` write a file in several steps; what follows within this is one change.
const SETTLE: Duration = Duration::from_millis(50);
/// How soon a change is seen where inotify does not tell.
const RESCAN: Duration = Duration::from_secs(5);
/// Enough for the manifests of a thousand Pods in one file; a larger one is a mistake.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// More files than this in one folder are a mistake as well.
const FILES_MAX: usize = 10_000;

/// What tells one version of a file from another without reading it.
type Stamp = (SystemTime, u64, u64);

struct Source {
    stamp: Stamp,
    /// Of the last version that could be read.
    objects: Vec<Object>,
    /// The same, as JSON.
    written: Vec<Arc<str>>,
    /// Objects in it that cannot be taken as they are written: they stay as they were.
    refused: Vec<ObjectKey>,
}

impl Source {
    fn new(stamp: Stamp) -> Self {
        Self { stamp, objects: Vec::new(), written: Vec::new(), refused: Vec::new() }
    }
}

/// A folder and what was last read from it.
pub struct Folder {
    path: PathBuf,
    sources: BTreeMap<PathBuf, Source>,
    /// Kinds that were reported as ignored.
    ignored: BTreeSet<String>,
    /// What is in force.
    cluster: Arc<Cluster>,
    last_good: LastGood,
    /// Why it cannot be told what was in force before the first scan.
    faults: Vec<String>,
}

impl Folder {
    /// A folder that was not read yet, and the one that remembers what of it was in force.
    pub fn new(path: &Path, last_good: &Path) -> io::Result<Self> {
        let (last_good, remembered) = LastGood::read(last_good)?;
        let mut sources = BTreeMap::new();
        for (name, objects) in remembered.objects {
            // Of a version that no file has.
            let stamp = (SystemTime::UNIX_EPOCH, u64::MAX, u64::MAX);
            let written = last_good.lines(&name);
            let source = Source { objects, written, ..Source::new(stamp) };
            sources.insert(path.join(name), source);
        }
        let (cluster, _) = assemble::assemble(&sources, &Cluster::default());
        Ok(Self {
            path: path.to_owned(),
            sources,
            ignored: BTreeSet::new(),
            cluster: Arc::new(cluster),
            last_good,
            faults: remembered.faults,
        })
    }

    /// Reads what has changed since the last time. Returns the cluster, and the errors of files
    /// and objects that cannot be taken as they are now; their last good versions are in the
    /// cluster.
    pub fn scan(&mut self) -> io::Result<(Arc<Cluster>, Vec<ManifestError>)> {
        let mut errors = Vec::new();
        let found = manifest_files(&self.path)?;
        let count = self.sources.len();
        self.sources.retain(|path, _| found.contains_key(path));
        let mut has_changed = self.sources.len() != count;
        for (path, stamp) in found {
            if self.sources.get(&path).is_some_and(|source| source.stamp == stamp) {
                continue;
            }
            let read = parse::read(&path, FILE_BYTES_MAX);
            let source = self.sources.entry(path).or_insert_with(|| Source::new(stamp));
            source.stamp = stamp;
            has_changed = true;
            match read {
                Ok(contents) => {
                    source.objects = contents.parsed.objects;
                    source.written = contents.parsed.written;
                    source.refused = contents.refused;
                    errors.extend(contents.errors);
                    for kind in contents.parsed.ignored {
                        if self.ignored.insert(kind.clone()) {
                            info!(kind, "manifests of this kind are ignored");
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if has_changed {
            // Of two objects of one name the one in the first file counts, and within a file the
            // first: what is in force does not depend on when a file was written.
            let (cluster, refused) = assemble::assemble(&self.sources, &self.cluster);
            errors.extend(refused);
            self.refuse_to_guess(&errors)?;
            self.cluster = Arc::new(cluster);
            if let Err(error) = self.last_good.remember(&self.sources, &self.cluster) {
                let reason = error.to_string();
                errors.push(ManifestError::NotRemembered { reason });
            }
        }
        Ok((Arc::clone(&self.cluster), errors))
    }
}

impl Folder {
    /// Where something is wrong, and it cannot be told what was in force of it, nothing is taken: a
    /// policy may be among it.
    fn refuse_to_guess(&mut self, errors: &[ManifestError]) -> io::Result<()> {
        let (Some(fault), Some(error)) = (self.faults.first(), errors.first()) else {
            // All that is there is right, so nothing needs to be remembered.
            self.faults.clear();
            return Ok(());
        };
        let reason = format!("{error}; and what was in force of it cannot be told: {fault}");
        Err(io::Error::other(reason))
    }
}

fn manifest_files(folder: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    use std::os::unix::fs::MetadataExt;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_manifest = path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"].iter().any(|known| extension == *known)
        });
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if !is_manifest || is_hidden {
            continue;
        }
        // A file that vanishes between the listing and here is gone, not an error.
        let Ok(facts) = fs::metadata(&path) else {
            continue;
        };
        if facts.is_file() {
            let changed = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.insert(path, (changed, facts.len(), facts.ino()));
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} manifests")));
        }
    }
    Ok(files)
}

/// Reads the folder now and follows it for as long as the process lives.
///
/// `last_good` is a folder for what is in force of it, of the agent's own.
pub fn follow(folder: &Path, last_good: &Path) -> io::Result<watch::Receiver<Arc<Cluster>>> {
    let mut folder = Folder::new(folder, last_good)?;
    // Watched before it is read, so that no change falls between the two.
    let (watcher, noticed) = watcher(&folder.path);
    let (cluster, errors) = folder.scan()?;
    report(&errors);
    info!(
        folder = %folder.path.display(), nodes = cluster.nodes.len(),
        namespaces = cluster.namespaces.len(), pods = cluster.pods.len(),
        services = cluster.services.len(), policies = cluster.policies.len(), "read the manifests"
    );
    let publish = watch::Sender::new(cluster);
    let observe = publish.subscribe();
    tokio::spawn(keep_following(folder, watcher, noticed, publish));
    Ok(observe)
}

/// Something that notices changes, where that is possible, and where it tells of them.
fn watcher(path: &Path) -> (Option<RecommendedWatcher>, mpsc::Receiver<()>) {
    // One waiting notice is as good as many.
    let (notice, noticed) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own look at the folder opens it: that is no reason to look again.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = notice.try_send(());
        }
    })
    .and_then(|mut watcher| {
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => (Some(watcher), noticed),
        Err(error) => {
            let seconds = RESCAN.as_secs();
            warn!("cannot watch `{}` ({error}); looking every {seconds} s", path.display());
            (None, noticed)
        }
    }
}

/// Waits until it is time to look again. Returns whether notices still come.
async fn wait(noticed: &mut mpsc::Receiver<()>, is_watched: bool) -> bool {
    if !is_watched {
        tokio::time::sleep(RESCAN).await;
        return false;
    }
    match tokio::time::timeout(RESCAN, noticed.recv()).await {
        Ok(Some(())) => {
            tokio::time::sleep(SETTLE).await;
            while noticed.try_recv().is_ok() {}
            true
        }
        Ok(None) => false,
        Err(_) => true,
    }
}

async fn keep_following(
    mut folder: Folder,
    watcher: Option<RecommendedWatcher>,
    mut noticed: mpsc::Receiver<()>,
    publish: watch::Sender<Arc<Cluster>>,
) {
    let mut is_watched = watcher.is_some();
    let mut unreadable = false;
    loop {
        is_watched = wait(&mut noticed, is_watched).await;
        if publish.is_closed() {
            return;
        }
        // Thousands of manifests take a while to read: nobody else waits for that.
        let scan = tokio::task::spawn_blocking(move || {
            let outcome = folder.scan();
            (folder, outcome)
        });
        let outcome = match scan.await {
            Ok((back, outcome)) => {
                folder = back;
                outcome
            }
            Err(error) => {
                error!("reading the manifests failed: {error}; they are followed no longer");
                return;
            }
        };
        match outcome {
            Ok((cluster, errors)) => {
                unreadable = false;
                report(&errors);
                publish.send_if_modified(|current| {
                    let changed = !Arc::ptr_eq(current, &cluster) && **current != *cluster;
                    if changed {
                        *current = cluster;
                    }
                    changed
                });
            }
            Err(error) if !unreadable => {
                unreadable = true;
                error!(
                    "cannot read the manifests in `{}`: {error}; what was read last stays in force",
                    folder.path.display()
                );
            }
            Err(_) => {}
        }
    }
}

fn report(errors: &[ManifestError]) {
    for error in errors {
        match error {
            ManifestError::File { .. } => {
                error!("{error}; the last good version of this file stays in force");
            }
            ManifestError::NotRemembered { .. } => error!("{error}"),
            _ => error!("{error}; this object stays as it was, and all others are in force"),
        }
    }
}

#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;

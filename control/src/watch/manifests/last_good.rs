//! What the manifests say that is in force, on disk: for an agent that starts when one is wrong.
//!
//! One file for each manifest and of its name, with the objects of it that are in force, one a line
//! as JSON: of an object that is wrong by now, its last good version. Written before the objects
//! are used. A file for what is in force though its manifest is gone has a name that no manifest
//! can have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Source;
use crate::durable;
use crate::model::{Cluster, Object, ObjectKey};
use crate::watch::object;

/// Objects whose manifest is gone, but that others need.
const KEPT: &str = ".kept";
/// Behind the name of a file that was not finished.
const UNFINISHED: &str = ".new";

/// The objects of one manifest, as JSON.
type Lines = Vec<Arc<str>>;

/// The objects in force and the files that hold them.
pub(super) struct LastGood {
    folder: PathBuf,
    /// As they were written.
    in_force: BTreeMap<ObjectKey, Arc<str>>,
    files: BTreeMap<OsString, Lines>,
}

/// What was in force when the last agent ended.
#[derive(Default)]
pub(super) struct Remembered {
    /// The objects of each manifest, by the name of its file.
    pub objects: BTreeMap<OsString, Vec<Object>>,
    /// Why some of it cannot be told.
    pub faults: Vec<String>,
}

impl LastGood {
    /// Reads what was in force. The folder is made if need be.
    pub(super) fn read(folder: &Path) -> io::Result<(LastGood, Remembered)> {
        fs::create_dir_all(folder)?;
        let mut known = LastGood {
            folder: folder.to_owned(),
            in_force: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        let mut remembered = Remembered::default();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().map(OsStr::to_owned) else { continue };
            if name.as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                continue;
            }
            match read(&path) {
                Ok((objects, lines)) => {
                    let keys = objects.iter().map(Object::key);
                    known.in_force.extend(keys.zip(lines.iter().cloned()));
                    known.files.insert(name.clone(), lines);
                    remembered.objects.insert(name, objects);
                }
                Err(reason) => {
                    remembered.faults.push(format!("`{}`: {reason}", path.display()));
                    known.files.insert(name, Lines::new());
                }
            }
        }
        Ok((known, remembered))
    }

    /// The objects of one manifest that were in force, as JSON.
    pub(super) fn lines(&self, name: &OsStr) -> Lines {
        self.files.get(name).cloned().unwrap_or_default()
    }

    /// Remembers what is in force by now. Where that fails it is tried again the next time.
    pub(super) fn remember(
        &mut self,
        sources: &BTreeMap<PathBuf, Source>,
        cluster: &Cluster,
    ) -> io::Result<()> {
        let mut in_force: BTreeMap<ObjectKey, Arc<str>> = BTreeMap::new();
        let mut files: BTreeMap<OsString, Lines> = BTreeMap::new();
        let mut put = |file: &OsStr, key: ObjectKey, line: &Arc<str>| {
            files.entry(file.to_owned()).or_default().push(line.clone());
            in_force.insert(key, line.clone());
        };
        let mut seen = BTreeSet::new();
        for (path, source) in sources {
            for (written, line) in source.objects.iter().zip(&source.written) {
                let key = written.key();
                let Some(object) = cluster.get(&key).filter(|_| seen.insert(key.clone())) else {
                    continue;
                };
                let new = (*written == object).then_some(line);
                if let Some(line) = new.or_else(|| self.in_force.get(&key)) {
                    put(file_name(path), key, line);
                }
            }
        }
        for (path, source) in sources {
            for key in &source.refused {
                if cluster.contains(key)
                    && seen.insert(key.clone())
                    && let Some(line) = self.in_force.get(key)
                {
                    put(file_name(path), key.clone(), line);
                }
            }
        }
        for (key, line) in &self.in_force {
            if !seen.contains(key) && cluster.contains(key) {
                put(OsStr::new(KEPT), key.clone(), line);
            }
        }
        self.in_force = in_force;
        self.write(files)
    }

    fn write(&mut self, files: BTreeMap<OsString, Lines>) -> io::Result<()> {
        // What is new first: no moment at which an object that moves is in neither file.
        for (name, lines) in &files {
            if self.files.get(name) != Some(lines) {
                durable::replace(&self.folder.join(name), lines.join("\n").as_bytes())?;
                self.files.insert(name.clone(), lines.clone());
            }
        }
        let gone: Vec<OsString> =
            self.files.keys().filter(|name| !files.contains_key(*name)).cloned().collect();
        for name in gone {
            fs::remove_file(self.folder.join(&name))?;
            self.files.remove(&name);
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// The objects of one file, each with its line.
fn read(path: &Path) -> Result<(Vec<Object>, Lines), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let (mut objects, mut lines) = (Vec::new(), Lines::new());
    for line in text.lines() {
        let value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let parsed = object::parse(value).map_err(|wrong| wrong.to_string())?;
        lines.extend(parsed.objects.iter().map(|_| line.into()));
        objects.extend(parsed.objects);
    }
    Ok((objects, lines))
}

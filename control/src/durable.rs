//! Files that are whole after a crash: as they were, or as they were to be.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces what a file holds. Beside it there is one with ".new" behind its name meanwhile.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    file.write_all(contents)?;
    file.sync_data()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()
}

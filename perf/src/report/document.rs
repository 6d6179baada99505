//! Keeps the figures in a document equal to the records beside it.
//!
//! A block begins with `<!-- figures: NAME -->` and ends with `<!-- end of figures -->`; what
//! stands between is made of the records in `NAME.jsonl`.

use std::path::{Path, PathBuf};

use seine_e2e::failure::{Failure, Outcome};

use super::tables;
use crate::record;

const END: &str = "<!-- end of figures -->";

/// The document with the blocks of these files made anew. A file without a block is an error.
pub fn updated(document: &str, files: &[PathBuf]) -> Outcome<String> {
    let mut text = document.to_owned();
    for file in files {
        let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let figures = tables(&record::read(&[file])?);
        text = with_block(&text, name, &figures).ok_or_else(|| {
            Failure::Unmet(format!("the document has no block `{}`", begin(name).trim()))
        })?;
    }
    Ok(text)
}

/// Rewrites a document in place.
pub fn update(path: &Path, files: &[PathBuf]) -> Outcome {
    let document = std::fs::read_to_string(path).map_err(Failure::io("read", path))?;
    std::fs::write(path, updated(&document, files)?).map_err(Failure::io("write", path))
}

fn begin(name: &str) -> String {
    format!("<!-- figures: {name} -->\n")
}

fn with_block(document: &str, name: &str, figures: &str) -> Option<String> {
    let (before, rest) = document.split_once(&begin(name))?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{}\n{}\n\n{END}{after}", begin(name), figures.trim_end()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn only_the_named_block_changes_and_twice_is_as_good_as_once() {
        let text = "a\n<!-- figures: x -->\nold\n<!-- end of figures -->\nb\n\
                    <!-- figures: y -->\nkept\n<!-- end of figures -->\n";
        let once = with_block(text, "x", "new\n").unwrap();
        assert!(once.contains("new") && once.contains("kept") && !once.contains("old"), "{once}");
        assert_eq!(with_block(&once, "x", "new\n").unwrap(), once);
        assert_eq!(with_block(text, "z", "new"), None);
    }
}

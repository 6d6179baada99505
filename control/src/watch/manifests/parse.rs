//! One file of manifests: its documents become objects of the model, or one of them an error.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::watch::object::{self, Parsed, Wrong};

/// Why a file was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read at all.
    #[error("manifest `{}`: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A document in it is wrong.
    #[error("manifest `{}`, document {document}, field `{field}`: {reason}", .file.display())]
    Document {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        document: usize,
        /// "spec.podCIDRs[0]"; "." for the document as a whole.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object in it does not go with the others.
    #[error("manifest `{}`, {object}, field `{field}`: {reason}", .file.display())]
    Object {
        /// The file.
        file: PathBuf,
        /// Kind, namespace and name.
        object: String,
        /// "spec.tier"; "." for the object as a whole.
        field: String,
        /// Why it does not.
        reason: String,
    },
}

/// Reads a whole file; one wrong document is an error of the file.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Parsed, ManifestError> {
    let refused = |reason: String| ManifestError::File { file: path.to_owned(), reason };
    let size = fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if size > bytes_max {
        return Err(refused(format!("{size} bytes are more than {bytes_max}")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let mut parsed = Parsed::default();
    // JSON is YAML, so one reader serves both.
    for (index, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        let located = |wrong: Wrong| ManifestError::Document {
            file: path.to_owned(),
            document: index + 1,
            field: wrong.field,
            reason: wrong.reason,
        };
        let one = document_of(document).and_then(object::parse).map_err(located)?;
        parsed.objects.extend(one.objects);
        parsed.ignored.extend(one.ignored);
    }
    Ok(parsed)
}

/// One document, as JSON. By way of YAML's own type, which refuses a field that is given twice.
fn document_of(document: serde_yaml_ng::Deserializer<'_>) -> Result<serde_json::Value, Wrong> {
    serde_yaml_ng::Value::deserialize(document)
        .map_err(|error| error.to_string())
        .and_then(|value| serde_json::to_value(value).map_err(|error| error.to_string()))
        .map_err(|reason| Wrong::new(".", reason))
}

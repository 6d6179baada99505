//! One file of manifests: its documents become objects of the model, or errors.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::ObjectKey;
use crate::watch::object::{self, Parsed, Refused};

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
    /// An object in it is wrong.
    #[error("manifest `{}`, document {document}{object}, field `{field}`: {reason}", .file.display())]
    Document {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        document: usize,
        /// ", Pod shop/web": which one, where that can be told.
        object: String,
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
    /// All is in force, but an agent that starts will not know it.
    #[error(
        "what is in force cannot be written down ({reason}): what becomes wrong before it can be \
         is not in force after a restart of the agent"
    )]
    NotRemembered {
        /// What the system said.
        reason: String,
    },
}

/// What a file holds.
#[derive(Default)]
pub(super) struct Contents {
    pub parsed: Parsed,
    /// Why some of it was not taken.
    pub errors: Vec<ManifestError>,
    /// The names of those objects, where they can be told.
    pub refused: Vec<ObjectKey>,
}

/// Reads a whole file. A wrong object is left out; a document that is not even YAML is an error of
/// the file, since nobody knows where it ends and what else was meant by it.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Contents, ManifestError> {
    let refused = |reason: String| ManifestError::File { file: path.to_owned(), reason };
    let size = fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if size > bytes_max {
        return Err(refused(format!("{size} bytes are more than {bytes_max}")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let mut contents = Contents::default();
    // JSON is YAML, so one reader serves both.
    for (index, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        let value = document_of(document)
            .map_err(|reason| refused(format!("document {} is not YAML: {reason}", index + 1)))?;
        let (one, wrong) = object::parse_each(value);
        contents.parsed.objects.extend(one.objects);
        contents.parsed.written.extend(one.written);
        contents.parsed.ignored.extend(one.ignored);
        for Refused { key, wrong } in wrong {
            contents.refused.extend(key.clone());
            contents.errors.push(ManifestError::Document {
                file: path.to_owned(),
                document: index + 1,
                object: key.map(|key| format!(", {key}")).unwrap_or_default(),
                field: wrong.field,
                reason: wrong.reason,
            });
        }
    }
    Ok(contents)
}

/// One document, as JSON. By way of YAML's own type, which refuses a field that is given twice.
fn document_of(document: serde_yaml_ng::Deserializer<'_>) -> Result<serde_json::Value, String> {
    serde_yaml_ng::Value::deserialize(document)
        .map_err(|error| error.to_string())
        .and_then(|value| serde_json::to_value(value).map_err(|error| error.to_string()))
}

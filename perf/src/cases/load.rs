//! Reads a file of cases and refuses one that does not hold together.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::expectation::{Expected, Matrix, Source, Target};
use super::file::{Case, CaseFile, Cluster, Pod};

/// What a file must call itself.
const FORMAT: &str = "conf-case/1";

/// Why a file of cases cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or not to be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what the format says.
    #[error("{path}: {source}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_path_to_error::Error<serde_json::Error>,
    },
    /// It is of another format.
    #[error("{path} is of format `{format}`; this plays `conf-case/1`")]
    Format {
        /// Which.
        path: PathBuf,
        /// What it says.
        format: String,
    },
    /// A name leads nowhere.
    #[error("{path}: case `{case}`: {reason}")]
    Reference {
        /// Which.
        path: PathBuf,
        /// In which case.
        case: String,
        /// What is missing.
        reason: String,
    },
}

impl CaseFile {
    /// Reads a file, and refuses one that does not hold together.
    pub fn read(path: &Path) -> Result<CaseFile, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        CaseFile::parse(path, &text)
    }

    /// The file with one of its cases alone.
    pub fn with_one(&self, position: usize) -> CaseFile {
        let case = self.cases.get(position).into_iter().cloned().collect::<Vec<_>>();
        let steps = case.iter().flat_map(|case| &case.steps);
        let clusters = steps.filter_map(|step| self.clusters.get_key_value(&step.cluster));
        CaseFile {
            format: self.format.clone(),
            suite: self.suite.clone(),
            clusters: clusters.map(|(name, cluster)| (name.clone(), cluster.clone())).collect(),
            cases: case,
        }
    }

    fn parse(path: &Path, text: &str) -> Result<CaseFile, FileError> {
        let format: Option<String> = serde_json::from_str::<Value>(text)
            .ok()
            .and_then(|file| file["format"].as_str().map(str::to_owned));
        if let Some(format) = format.filter(|format| format != FORMAT) {
            return Err(FileError::Format { path: path.to_owned(), format });
        }
        let json = &mut serde_json::Deserializer::from_str(text);
        let file: CaseFile = serde_path_to_error::deserialize(json)
            .map_err(|source| FileError::Parse { path: path.to_owned(), source })?;
        for case in &file.cases {
            file.check(case).map_err(|reason| FileError::Reference {
                path: path.to_owned(),
                case: case.id.clone(),
                reason,
            })?;
        }
        Ok(file)
    }

    /// Whether all that a case names is there.
    fn check(&self, case: &Case) -> Result<(), String> {
        if case.steps.is_empty() && case.admission.is_none() {
            return Err("it has neither steps nor an admission".to_owned());
        }
        for step in &case.steps {
            let cluster = self
                .clusters
                .get(&step.cluster)
                .ok_or_else(|| format!("no cluster is called `{}`", step.cluster))?;
            let known = |pod: &str| cluster.pod(pod).map(|_| ());
            for matrix in &step.matrices {
                matrix.pods.iter().try_for_each(|pod| known(pod))?;
                let rows =
                    [Some(&matrix.combined), matrix.ingress.as_ref(), matrix.egress.as_ref()];
                rows.into_iter().flatten().try_for_each(|rows| matrix.check(rows))?;
            }
            for probe in &step.probes {
                if let Source::Pod { pod } = &probe.from {
                    known(pod)?;
                }
                match &probe.to {
                    Target::Pod { pod } | Target::Service { backend: pod, .. } => known(pod)?,
                    Target::Group { receivers, .. } => {
                        receivers.iter().try_for_each(|pod| known(pod))?;
                    }
                    _ => {}
                }
            }
            for decision in &step.decisions {
                known(&decision.from)?;
                known(&decision.to)?;
            }
            if let Some(audit) = step.audit.iter().find(|audit| audit.probe >= step.probes.len()) {
                return Err(format!("there is no probe {} to be written down", audit.probe));
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// A Pod by `namespace/name`.
    pub fn pod(&self, name: &str) -> Result<&Pod, String> {
        let wanted = name.split_once('/');
        self.pods
            .iter()
            .find(|pod| wanted == Some((&pod.namespace, &pod.name)))
            .ok_or_else(|| format!("no Pod is called `{name}`"))
    }
}

impl Matrix {
    fn check(&self, rows: &[String]) -> Result<(), String> {
        let wide = |row: &String| row.len() == self.pods.len();
        if rows.len() != self.pods.len() || !rows.iter().all(wide) {
            return Err(format!("a matrix of {} Pods is not square", self.pods.len()));
        }
        match rows.iter().flat_map(|row| row.chars()).find(|cell| !"ADR-".contains(*cell)) {
            Some(cell) => Err(format!("a matrix says `{cell}`; it may say A, D, R and -")),
            None => Ok(()),
        }
    }

    /// What is expected between two of its Pods, where anything is.
    pub fn expected(rows: &[String], from: usize, to: usize) -> Option<Expected> {
        match rows.get(from)?.as_bytes().get(to)? {
            b'A' => Some(Expected::Allow),
            b'D' => Some(Expected::Drop),
            b'R' => Some(Expected::Reject),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn refusal(text: &str) -> String {
        CaseFile::parse(Path::new("x.json"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_says_what_is_not_known_is_refused_and_says_where() {
        let case = |case: &str| {
            format!(r#"{{"format":"conf-case/1","suite":"s","clusters":{{}},"cases":[{case}]}}"#)
        };
        assert_eq!(
            refusal(r#"{"format":"conf-case/2"}"#),
            "x.json is of format `conf-case/2`; this plays `conf-case/1`"
        );
        let found = refusal(&case(r#"{"id":"a","steps":[],"hope":1}"#));
        assert!(found.contains("cases[0]") && found.contains("`hope`"), "{found}");
        let found = refusal(&case(r#"{"id":"a","steps":[{"cluster":"c1"}]}"#));
        assert_eq!(found, "x.json: case `a`: no cluster is called `c1`");
        let found = refusal(&case(r#"{"id":"a"}"#));
        assert_eq!(found, "x.json: case `a`: it has neither steps nor an admission");
    }

    #[test]
    fn a_matrix_that_is_not_square_is_refused() {
        let file = r#"{"format":"conf-case/1","suite":"s","clusters":{"c1":{"pods":[
            {"namespace":"x","name":"a","ip":"10.0.0.1"}]}},"cases":[{"id":"a","steps":[
            {"cluster":"c1","matrices":[
            {"protocol":"TCP","port":80,"pods":["x/a"],"combined":["AA"]}]}]}]}"#;
        assert_eq!(refusal(file), "x.json: case `a`: a matrix of 1 Pods is not square");
    }
}

//! Plays cases: every step from an empty node, and the steps one after the other with only the
//! difference applied.

use std::collections::BTreeMap;

use seine_control::compile::Objects;

use super::file::{Case, CaseFile, Cluster, Step};
use super::report::{Fault, Summary};
use super::stage::Stage;
use super::{admission, desired, expect};

/// What nobody can play yet, beside what a file says of itself for the reader.
const MISSING: &[&str] = &["multicast"];

/// How a case is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every step from an empty node.
    Anew,
    /// Only the difference to the step before.
    Onward,
}

/// Plays every case of a file both ways.
pub fn play(file: &CaseFile, family: &str, faults: &mut Vec<Fault>) -> Summary {
    let mut summary = Summary::default();
    for case in &file.cases {
        summary.cases += 1;
        let missing = case.features.iter().find(|feature| MISSING.contains(&feature.as_str()));
        if let Some(feature) = missing {
            summary.skipped += 1;
            *summary.skipped_features.entry(feature.clone()).or_default() += 1;
            continue;
        }
        let before = faults.len();
        if let Some(asked) = &case.admission {
            let mut found = Vec::new();
            summary.assertions += admission::look(asked, &mut found);
            let step = format!("admission, {family}");
            faults.extend(found.into_iter().map(|fault| Fault {
                case: case.id.clone(),
                step: step.clone(),
                ..fault
            }));
        }
        for way in [Way::Anew, Way::Onward] {
            summary.assertions += Player { file, case, family, way }.play(faults);
        }
        if faults.len() == before {
            summary.passed += 1;
        } else {
            summary.failed += 1;
        }
    }
    summary
}

struct Player<'a> {
    file: &'a CaseFile,
    case: &'a Case,
    family: &'a str,
    way: Way,
}

impl Player<'_> {
    fn play(&self, faults: &mut Vec<Fault>) -> usize {
        let mut assertions = 0;
        let mut stage: Option<Stage> = None;
        for (index, step) in self.case.steps.iter().enumerate() {
            // The file was checked when it was read.
            let Some(cluster) = self.file.clusters.get(&step.cluster) else { continue };
            let begun = match stage.take().filter(|_| self.way == Way::Onward) {
                Some(stage) => Ok(stage),
                None => Stage::new(cluster),
            };
            let set = begun.and_then(|mut stage| {
                stage.set(cluster, step)?;
                Ok(stage)
            });
            let mut found = Vec::new();
            match set {
                Ok(mut set) => {
                    assertions += expect::look(&mut set, cluster, step, &mut found);
                    stage = Some(set);
                }
                Err(error) => {
                    assertions += 1;
                    found.push(Fault::of_step(error.to_string()));
                }
            }
            for fault in found {
                let step = format!("step {index} {}, {} {:?}", step.name, self.family, self.way);
                faults.push(Fault { case: self.case.id.clone(), step, ..fault });
            }
        }
        assertions
    }
}

/// What every node is sent for a step.
pub fn desired_objects(
    cluster: &Cluster,
    step: &Step,
) -> Result<BTreeMap<String, Objects>, desired::DesiredError> {
    let model = desired::model(cluster, &step.objects)?;
    let nodes = cluster.nodes.iter();
    nodes
        .map(|node| Ok((node.name.clone(), desired::objects(cluster, &model, &node.name)?)))
        .collect()
}

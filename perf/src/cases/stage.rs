//! The worlds that a step is looked at in: the cluster as it is, and the same with the policies of
//! one direction alone, which is what a matrix's own rows for them are about.

use std::collections::BTreeMap;

use seine_control::compile::{Objects, difference};
use seine_datapath_api::v1::{self, object::Kind, rule};

use super::desired::DesiredError;
use super::file::{Cluster, Step};
use super::play::desired_objects;
use super::world::World;
use super::world::machine::{InstallError, Transaction};

/// Why a step cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// `control` does not take its objects.
    #[error(transparent)]
    Desired(Box<DesiredError>),
    /// A node does not take what it is sent.
    #[error("node `{node}`: {source}")]
    Install {
        /// Which.
        node: String,
        /// Why.
        source: InstallError,
    },
    /// The nodes cannot be made.
    #[error(transparent)]
    World(#[from] InstallError),
}

/// A world and what its nodes were sent.
struct View {
    /// Rules of which direction are left out.
    without: Option<rule::Direction>,
    world: World,
    sent: BTreeMap<String, Objects>,
}

/// The worlds of one case.
pub struct Stage {
    views: [View; 3],
    source_port: u16,
}

/// Which policies are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// All.
    All,
    /// Those of senders.
    Egress,
    /// Those of receivers.
    Ingress,
}

impl Stage {
    /// The nodes of a cluster, without objects.
    pub fn new(cluster: &Cluster) -> Result<Stage, StageError> {
        let view = |without| {
            Ok::<View, StageError>(View {
                without,
                world: World::new(cluster)?,
                sent: BTreeMap::new(),
            })
        };
        Ok(Stage {
            views: [
                view(None)?,
                view(Some(rule::Direction::Ingress))?,
                view(Some(rule::Direction::Egress))?,
            ],
            source_port: 40000,
        })
    }

    /// Makes a step's state of what there is, by the difference.
    pub fn set(&mut self, cluster: &Cluster, step: &Step) -> Result<(), StageError> {
        let desired =
            desired_objects(cluster, step).map_err(|error| StageError::Desired(Box::new(error)))?;
        for view in &mut self.views {
            view.set(cluster, &desired)?;
        }
        Ok(())
    }

    /// The world with these policies.
    pub fn world(&mut self, policies: Policies) -> &mut World {
        let [all, egress, ingress] = &mut self.views;
        match policies {
            Policies::All => &mut all.world,
            Policies::Egress => &mut egress.world,
            Policies::Ingress => &mut ingress.world,
        }
    }

    /// What a rule does, and of which policy it is: looked up in what the nodes were sent.
    pub fn rule(&self, name: &str) -> Option<&v1::Rule> {
        let [all, ..] = &self.views;
        let key = (v1::object_id::Kind::Rule, name.to_owned());
        let found = all.sent.values().find_map(|objects| objects.get(&key))?;
        match &found.kind {
            Some(Kind::Rule(rule)) => Some(rule),
            _ => None,
        }
    }

    /// A port that no connection of the last while came from.
    pub fn source_port(&mut self) -> u16 {
        self.source_port = if self.source_port >= 60000 { 40000 } else { self.source_port + 1 };
        self.source_port
    }
}

impl View {
    fn set(
        &mut self,
        cluster: &Cluster,
        desired: &BTreeMap<String, Objects>,
    ) -> Result<(), StageError> {
        self.world.attach(cluster)?;
        for (node, objects) in desired {
            let mut wanted = objects.clone();
            if let Some(direction) = self.without {
                wanted.retain(|_, object| !is_rule_of(object, direction));
            }
            let sent = self.sent.entry(node.clone()).or_default();
            let changes = difference(sent, &wanted).into_changes();
            let deletes = changes
                .deletes
                .into_iter()
                .map(|(kind, name)| v1::ObjectId { kind: kind.into(), name });
            let transaction = Transaction {
                upserts: changes.upserts,
                deletes: deletes.collect(),
                group_deltas: changes.group_deltas,
            };
            self.world
                .install(node, transaction)
                .map_err(|source| StageError::Install { node: node.clone(), source })?;
            *sent = wanted;
        }
        Ok(())
    }
}

fn is_rule_of(object: &v1::Object, direction: rule::Direction) -> bool {
    matches!(&object.kind, Some(Kind::Rule(rule)) if rule.direction() == direction)
}

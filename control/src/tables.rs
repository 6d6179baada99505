//! Policies and Services of this node, in force together with the Pods attached to it.
//!
//! Everything is compiled anew when the cluster changes. A Pod that comes or goes is not worth
//! that: the groups it belongs to are known already, since a Pod counts from the moment it is
//! scheduled here, so only its addresses join or leave them, in the same transaction as its
//! endpoint. There is no moment at which a Pod is reachable without its policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use seine_datapath_api::v1::object_id::Kind;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::attach::AttachError;
use crate::attachments::Attachment;
use crate::compile::{Attached, Compiled, Difference, endpoint, tables_with};
use crate::datapath_session::{Session, SessionError};
use crate::model::{Cluster, Pod, PodName};

/// How long an ADD waits for the cluster to know its Pod. A runtime starts a Pod because the
/// cluster told it to, so this bridges two ways that news take, no more.
const POD_KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// What is compiled here.
const KINDS: [Kind; 3] = [Kind::Group, Kind::Rule, Kind::Service];

/// What is in force, or on its way.
pub struct Tables {
    node: String,
    session: Arc<Session>,
    cluster: watch::Receiver<Arc<Cluster>>,
    /// One compilation at a time, each of what the cluster is by then.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Rises with everything that was compiled.
    compiled: watch::Sender<u64>,
    /// Somebody needs it compiled again though the cluster is the same.
    outdated: Notify,
}

#[derive(Default)]
struct State {
    cluster: Arc<Cluster>,
    attached: Attached,
    memberships: BTreeMap<PodName, Vec<Arc<str>>>,
    follow_pods: bool,
    refused: BTreeSet<String>,
}

impl Tables {
    /// Nothing is compiled yet.
    pub fn new(node: &str, session: Arc<Session>, cluster: watch::Receiver<Arc<Cluster>>) -> Self {
        Self {
            node: node.to_owned(),
            session,
            cluster,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            compiled: watch::Sender::new(0),
            outdated: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was attached before the agent started, before anything is compiled.
    pub fn restore(&self, attachment: &Attachment) {
        self.state().own(attachment);
    }

    /// Waits until it has to be compiled again though the cluster is the same.
    pub async fn outdated(&self) {
        self.outdated.notified().await;
    }

    /// Compiles what the cluster wants of this node, with these Pod ranges, and brings it into
    /// force. Without a session it comes into force with the next one, which is told by the error.
    /// True if anything changed.
    pub async fn compile(&self, ranges: &[IpNet]) -> Result<bool, SessionError> {
        let _turn = self.turn.lock().await;
        let cluster = self.cluster.borrow().clone();
        let attached = {
            let mut state = self.state();
            state.attached.ranges = ranges.to_vec();
            state.remember(&cluster);
            state.attached.clone()
        };
        let compiled = {
            let (cluster, attached, node) = (cluster.clone(), attached.clone(), self.node.clone());
            let compiled =
                tokio::task::spawn_blocking(move || tables_with(&cluster, &node, &attached));
            compiled.await.map_err(|error| SessionError::Away(error.to_string()))?
        };
        let submitted = {
            // Until it is submitted nobody is attached, or they would be forgotten by it.
            let mut state = self.state();
            let Compiled { objects, refused, memberships, follow_pods } = compiled;
            let difference = self.session.replace(&KINDS, objects);
            (state.cluster, state.memberships) = (cluster, memberships);
            state.follow_pods = follow_pods;
            state.report(refused);
            let (meanwhile, is_complete) = state.since(&attached);
            if !is_complete {
                self.outdated.notify_one();
            }
            let difference = difference.then(meanwhile);
            match difference.is_empty() {
                true => None,
                false => Some(self.session.submit(difference)),
            }
        };
        self.compiled.send_modify(|count| *count += 1);
        match submitted {
            None => Ok(false),
            Some(submitted) => submitted?.in_force().await.map(|()| true),
        }
    }

    /// What the cluster says of a Pod, as soon as it says anything; none after a while.
    pub async fn pod(&self, name: &PodName) -> Option<Pod> {
        let mut cluster = self.cluster.clone();
        let known = cluster.wait_for(|cluster| cluster.pods.contains_key(name));
        let known = tokio::time::timeout(POD_KNOWN_WITHIN, known).await.ok()?.ok()?;
        known.pods.get(name).cloned()
    }

    /// Brings an attachment into force: its endpoint together with what applies to it.
    pub async fn attach(&self, attachment: &Attachment) -> Result<(), AttachError> {
        let known = tokio::time::timeout(POD_KNOWN_WITHIN, self.wait_for(attachment)).await;
        if known.is_err()
            && let Some(pod) = &attachment.pod
        {
            return Err(AttachError::NotReady(format!(
                "the cluster does not know the Pod {pod}, and some policy may apply to it"
            )));
        }
        let submitted = {
            let mut state = self.state();
            state.own(attachment);
            let mut difference = Difference::new();
            difference.put(endpoint(attachment));
            for group in state.groups_of(attachment) {
                difference.change_members(&group, addresses(attachment), []);
            }
            self.outdate(&state, attachment);
            self.session.submit(difference)?
        };
        Ok(submitted.in_force().await?)
    }

    /// Takes an attachment and its addresses out of everything.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), SessionError> {
        let submitted = {
            let mut state = self.state();
            let mut difference = Difference::new();
            difference.delete((Kind::Endpoint, attachment.endpoint.clone()));
            for group in state.groups_of(attachment) {
                difference.change_members(&group, [], addresses(attachment));
            }
            state.disown(attachment);
            self.outdate(&state, attachment);
            self.session.submit(difference)?
        };
        submitted.in_force().await
    }

    /// Asks for another compilation where an attachment matters for more than its groups.
    fn outdate(&self, state: &State, attachment: &Attachment) {
        let is_unknown =
            attachment.pod.as_ref().is_some_and(|pod| !state.memberships.contains_key(pod));
        if state.follow_pods || is_unknown {
            self.outdated.notify_one();
        }
    }

    /// Waits until the groups of an attachment's Pod are known.
    async fn wait_for(&self, attachment: &Attachment) {
        let mut compiled = self.compiled.subscribe();
        loop {
            compiled.borrow_and_update();
            {
                let mut state = self.state();
                if state.is_ready_for(attachment) {
                    return;
                }
                // The cluster may not have heard yet that it runs here.
                state.expect(attachment);
            }
            self.outdated.notify_one();
            if compiled.changed().await.is_err() {
                return;
            }
        }
    }
}

fn addresses(attachment: &Attachment) -> impl Iterator<Item = String> {
    attachment.addresses.iter().map(|address| address.addr().to_string())
}

impl State {
    /// Whether all that applies to an attachment is compiled.
    fn is_ready_for(&self, attachment: &Attachment) -> bool {
        let Some(pod) = &attachment.pod else {
            // No Pod of the cluster, so no selector selects it.
            return true;
        };
        let is_known = self.cluster.pods.contains_key(pod) && self.memberships.contains_key(pod);
        is_known || self.cluster.policies.is_empty()
    }

    fn groups_of(&self, attachment: &Attachment) -> Vec<Arc<str>> {
        let groups = attachment.pod.as_ref().and_then(|pod| self.memberships.get(pod));
        groups.cloned().unwrap_or_default()
    }

    fn own(&mut self, attachment: &Attachment) {
        for address in &attachment.addresses {
            self.attached.owners.insert(address.addr(), attachment.pod.clone());
        }
        self.expect(attachment);
    }

    fn expect(&mut self, attachment: &Attachment) {
        if let Some(name) = &attachment.pod {
            let known = || self.cluster.pods.get(name).cloned();
            let pods = &mut self.attached.pods;
            pods.entry(name.clone())
                .or_insert_with(|| known().unwrap_or_else(|| Attached::stranger(name)));
        }
    }

    fn disown(&mut self, attachment: &Attachment) {
        for address in &attachment.addresses {
            self.attached.owners.remove(&address.addr());
        }
        if let Some(name) = &attachment.pod
            && !self.attached.owners.values().any(|owner| owner.as_ref() == Some(name))
        {
            self.attached.pods.remove(name);
        }
    }

    /// A Pod that the cluster forgets before it is gone from here keeps what applied to it.
    fn remember(&mut self, cluster: &Cluster) {
        for (name, remembered) in &mut self.attached.pods {
            if let Some(pod) = cluster.pods.get(name) {
                *remembered = Pod { addresses: Vec::new(), ..pod.clone() };
            }
        }
    }

    /// What has to change for those who came and went since `compiled_for`; and whether every Pod
    /// that is here was compiled.
    fn since(&self, compiled_for: &Attached) -> (Difference, bool) {
        let mut difference = Difference::new();
        let mut change = |address: &IpAddr, owner: &Option<PodName>, is_added: bool| {
            let groups = owner.as_ref().and_then(|pod| self.memberships.get(pod));
            for group in groups.into_iter().flatten() {
                let member = Some(address.to_string());
                let (added, removed) = if is_added { (member, None) } else { (None, member) };
                difference.change_members(group, added, removed);
            }
        };
        let (before, now) = (&compiled_for.owners, &self.attached.owners);
        for (address, owner) in before.iter().filter(|(address, _)| !now.contains_key(*address)) {
            change(address, owner, false);
        }
        for (address, owner) in now {
            match before.get(address) {
                Some(before) if before == owner => {}
                before => {
                    if let Some(before) = before {
                        change(address, before, false);
                    }
                    change(address, owner, true);
                }
            }
        }
        let is_complete = now.values().flatten().all(|pod| self.memberships.contains_key(pod));
        (difference, is_complete)
    }

    fn report(&mut self, refused: Vec<String>) {
        let refused: BTreeSet<String> = refused.into_iter().collect();
        for reason in refused.difference(&self.refused) {
            warn!("left out: {reason}");
        }
        self.refused = refused;
    }
}

//! One address joins a group of ten thousand, again and again, while workers are loaded: from the
//! message to its acknowledgement by every worker. And before, how long a whole transaction takes.

use std::path::Path;
use std::time::Instant;

use seine_datapath_api::v1::datapath_client::DatapathClient;
use seine_datapath_api::v1::transaction_part::Mode;
use seine_datapath_api::v1::{self, object::Kind};
use seine_e2e::failure::{Failure, Outcome};
use tonic::transport::Channel;

use super::datapath::{LOADED, Running, WRITER_CORE, pin, runtime};
use super::install::Amount;
use super::record::{Install, Join};
use super::scenario::{ADDRESSES_OF_A_GROUP, MTU, PODS, endpoint, local, member, name};
use crate::noise::Meter;

/// Objects of one message: well below the 4 MiB that it may have.
const OBJECTS_OF_A_PART: usize = 2000;
/// The one Pod that rules about large groups apply to.
const JUDGED: usize = 1;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Workers that are loaded.
    pub workers: usize,
    /// Large groups.
    pub groups: usize,
    /// Addresses that join, one after the other.
    pub joins: usize,
}

/// What was measured with one datapath.
#[derive(Debug)]
pub struct Measured {
    /// Of everything, in one transaction.
    pub install: Option<Install>,
    /// Of addresses, one by one.
    pub join: Join,
}

/// Installs objects, if there are any, and lets addresses join.
pub fn measure(
    plan: Plan,
    amount: Amount,
    objects: Vec<v1::Object>,
    folder: &Path,
) -> Outcome<Measured> {
    let running = Running::start(plan.workers, folder)?;
    // The caller shares the writer's core, as an agent would that is bound to housekeeping cores.
    let caller = move || {
        pin(WRITER_CORE);
        runtime()?.block_on(async {
            let client = seine_datapath_api::connect(&running.socket).await;
            let client = client.map_err(|error| Failure::Unmet(error.to_string()))?;
            let mut session = Session { client, session: 0, revision: 0 };
            let measured = session.measure(plan, amount, objects).await;
            drop(session);
            measured
        })
    };
    let called = std::thread::spawn(caller).join();
    called.map_err(|_| Failure::Unmet("the caller broke off".to_owned()))?
}

struct Session {
    client: DatapathClient<Channel>,
    session: u64,
    revision: u64,
}

fn refused(status: tonic::Status) -> Failure {
    Failure::Unmet(format!("the datapath refuses: {}", status.message()))
}

impl Session {
    async fn measure(
        &mut self,
        plan: Plan,
        amount: Amount,
        objects: Vec<v1::Object>,
    ) -> Outcome<Measured> {
        let request = v1::HelloRequest { client: "seine-perf".into(), version: 1 };
        self.session = self.client.hello(request).await.map_err(refused)?.into_inner().session;
        for pod in [LOADED, JUDGED] {
            let (session, name) = (self.session, name(pod));
            let interface = name.clone();
            let request = v1::OpenPortRequest { session, name, interface, vhost_user: None };
            self.client.open_port(request).await.map_err(refused)?;
        }
        let mut all = node();
        let has_more = !objects.is_empty();
        all.extend(objects);
        let count = all.len();
        let (meter, began) = (Meter::start()?, Instant::now());
        self.apply(Mode::Full, all, Vec::new()).await?;
        let wall_ms = began.elapsed().as_secs_f64() * 1e3;
        let Amount { policies, services } = amount;
        let install = Install {
            step: format!("transaction to acknowledgement, {} loaded", workers(plan.workers)),
            policies,
            services,
            objects: count,
            wall_ms,
            cpu_ms: None,
            noise: meter.stop()?,
        };
        self.apply(Mode::Delta, groups(plan.groups), Vec::new()).await?;
        let join = self.join(plan, amount).await?;
        Ok(Measured { install: has_more.then_some(install), join })
    }

    async fn join(&mut self, plan: Plan, amount: Amount) -> Outcome<Join> {
        let forwarded = self.packets().await?;
        let (meter, began) = (Meter::start()?, Instant::now());
        let (mut acknowledged_us, mut round_trip_us) = (Vec::new(), Vec::new());
        for index in 0..plan.joins {
            let delta = v1::GroupDelta {
                name: group_name(0),
                added: vec![member(0, ADDRESSES_OF_A_GROUP + index).to_string()],
                removed: Vec::new(),
            };
            let sent = Instant::now();
            let reply = self.apply(Mode::Delta, Vec::new(), vec![delta]).await?;
            round_trip_us.push(sent.elapsed().as_micros() as u64);
            acknowledged_us.push(reply.microseconds);
        }
        let packets = self.packets().await? - forwarded;
        Ok(Join {
            workers: plan.workers,
            addresses: plan.groups * ADDRESSES_OF_A_GROUP,
            policies: amount.policies,
            services: amount.services,
            acknowledged_us,
            round_trip_us,
            packets_per_s: packets as f64 / began.elapsed().as_secs_f64(),
            noise: meter.stop()?,
        })
    }

    /// Packets that the workers have had.
    async fn packets(&mut self) -> Outcome<u64> {
        let reply = self.client.list_workers(v1::ListWorkersRequest {}).await.map_err(refused)?;
        Ok(reply.into_inner().workers.iter().map(|worker| worker.packets).sum())
    }

    async fn apply(
        &mut self,
        mode: Mode,
        upserts: Vec<v1::Object>,
        group_deltas: Vec<v1::GroupDelta>,
    ) -> Outcome<v1::TransactionReply> {
        self.revision += 1;
        let empty = v1::TransactionPart {
            session: self.session,
            revision: self.revision,
            mode: mode.into(),
            ..v1::TransactionPart::default()
        };
        let mut upserts = upserts.into_iter().peekable();
        let mut parts = Vec::new();
        while upserts.peek().is_some() {
            let upserts = upserts.by_ref().take(OBJECTS_OF_A_PART).collect();
            parts.push(v1::TransactionPart { upserts, ..empty.clone() });
        }
        parts.push(v1::TransactionPart { group_deltas, last: true, ..empty });
        let reply = self.client.apply(tokio_stream::iter(parts)).await;
        Ok(reply.map_err(refused)?.into_inner())
    }
}

/// "1 worker".
pub fn workers(count: usize) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn group_name(group: usize) -> String {
    format!("large{group}")
}

fn object(kind: Kind) -> v1::Object {
    v1::Object { kind: Some(kind) }
}

/// The node and its Pods, as `scenario` has them.
fn node() -> Vec<v1::Object> {
    let node = v1::Node {
        name: "node1".to_owned(),
        pod_cidrs: vec!["10.0.0.0/16".to_owned()],
        gateway_addresses: vec!["10.0.0.1".to_owned()],
        tunnel_address: "192.0.2.1".to_owned(),
        tunnel_mtu: MTU.into(),
        ..v1::Node::default()
    };
    let pods = (0..PODS).map(|pod| {
        let endpoint = endpoint(pod);
        object(Kind::Endpoint(v1::Endpoint {
            name: endpoint.name,
            port: endpoint.port,
            mac: endpoint.mac.0.to_vec(),
            addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
            mtu: MTU.into(),
            ..v1::Endpoint::default()
        }))
    });
    [object(Kind::Node(node))].into_iter().chain(pods).collect()
}

/// Large groups, each with a rule about it.
fn groups(count: usize) -> Vec<v1::Object> {
    let judged = v1::Group {
        name: "judged".to_owned(),
        members: vec![local(JUDGED).to_string()],
        fqdns: Vec::new(),
    };
    let mut objects = vec![object(Kind::Group(judged))];
    for group in 0..count {
        let members = (0..ADDRESSES_OF_A_GROUP).map(|index| member(group, index).to_string());
        let name = group_name(group);
        objects.push(object(Kind::Rule(v1::Rule {
            name: format!("knp/default/{name}/ingress/0"),
            policy: format!("K8sNetworkPolicy:default/{name}"),
            direction: v1::rule::Direction::Ingress.into(),
            table: v1::rule::Table::NetworkPolicy.into(),
            action: v1::rule::Action::Allow.into(),
            applied_to_groups: vec!["judged".to_owned()],
            peer_groups: vec![name.clone()],
            ..v1::Rule::default()
        })));
        let members = members.collect();
        objects.push(object(Kind::Group(v1::Group { name, members, fqdns: Vec::new() })));
    }
    objects
}

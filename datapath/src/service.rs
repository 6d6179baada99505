//! The gRPC service: `datapath.proto` over a [`Datapath`].
//!
//! A change runs in a task of its own, so that a caller who hangs up half-way cannot leave it
//! half-done. Parts of a transaction are collected before the lock is taken: a slow caller delays
//! nobody else.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use seine_datapath_api::v1::datapath_server::Datapath as Service;
use seine_datapath_api::{VERSION, v1};
use seine_pipeline::STAGES;
use seine_pipeline::address::PortKind;
use seine_pipeline::stage::Stage;
use seine_pipeline::verdict::DropReason;
use tokio::sync::Mutex;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::answers;
use crate::counters::{Counter, WorkerCounters};
use crate::datapath::{Datapath, PortError};
use crate::machine::{boot_time_ms, cycles};
use crate::port::af_xdp::LoanOptions;
use crate::ports::POD_PORTS_MAX;
use crate::reload::{self, Reloader};
use crate::writer::ChangeError;
use crate::{listing, parts};

/// Bytes of what a caller may call itself.
const CLIENT_BYTES_MAX: usize = 256;

/// What this server calls itself.
pub const SERVER: &str = concat!("seine-datapath ", env!("CARGO_PKG_VERSION"));

/// Serves a datapath.
#[derive(Clone)]
pub struct DatapathService {
    datapath: Arc<Mutex<Datapath>>,
    reloader: Option<Arc<Mutex<Reloader>>>,
}

impl DatapathService {
    /// A service over `datapath`.
    pub fn new(datapath: Arc<Mutex<Datapath>>) -> DatapathService {
        DatapathService { datapath, reloader: None }
    }

    /// Has a configuration that can be read again.
    pub fn reloading(self, reloader: Arc<Mutex<Reloader>>) -> DatapathService {
        DatapathService { reloader: Some(reloader), ..self }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for DatapathService {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        let v1::HelloRequest { mut client, version } = request.into_inner();
        if version != VERSION {
            return Err(Status::failed_precondition(format!(
                "{SERVER} speaks version {VERSION} of these words, not {version}"
            )));
        }
        if client.len() > CLIENT_BYTES_MAX {
            client.truncate(client.floor_char_boundary(CLIENT_BYTES_MAX));
        }
        let mut datapath = self.datapath.lock().await;
        tracing::info!(client, "session opened");
        let session = datapath.writer.hello(client, session_floor());
        let device = |kind| {
            datapath.ports.of_kind(kind).map(|port| v1::Device {
                interface: port.interface.clone(),
                mac: port.mac.0.to_vec(),
                mtu: port.mtu.into(),
            })
        };
        Ok(Response::new(v1::HelloReply {
            session,
            server: SERVER.to_owned(),
            revision: datapath.writer.current().revision,
            ports_namespace: datapath.devices().ports_namespace(),
            gateway: device(PortKind::Gateway),
            uplink: device(PortKind::Uplink),
            host: device(PortKind::Host),
            workers: datapath.workers.len() as u32,
            ports_max: POD_PORTS_MAX as u32,
            frame_bytes_max: datapath.packet_bytes_max() as u32,
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        let datapath = self.datapath.lock().await;
        let session = datapath.writer.session();
        let in_force = datapath.writer.in_force_since();
        let occupancy = datapath.learned.connections.occupancy();
        let names = &datapath.learned.fqdns;
        let existing_connections = match datapath.writer.current().state.reevaluates() {
            false => v1::node::ExistingConnections::Keep,
            true => v1::node::ExistingConnections::Reevaluate,
        };
        Ok(Response::new(v1::StatusReply {
            server: SERVER.to_owned(),
            version: VERSION,
            uptime_seconds: datapath.started().elapsed().as_secs(),
            session: session.number,
            client: session.client.clone(),
            revision: datapath.writer.current().revision,
            revision_seconds: in_force.map_or(0, |since| since.elapsed().as_secs()),
            ports_max: POD_PORTS_MAX as u32,
            connections: occupancy.used,
            connections_max: occupancy.capacity,
            connections_expired: occupancy.expired,
            connections_evicted: occupancy.evicted,
            audit_lost: listing::lost(&datapath),
            name_addresses: names.len(boot_time_ms()) as u64,
            name_addresses_max: names.capacity() as u64,
            name_addresses_displaced: names.displaced(),
            existing_connections: existing_connections.into(),
            connections_revoked: occupancy.revoked,
        }))
    }

    async fn apply(
        &self,
        request: Request<Streaming<v1::TransactionPart>>,
    ) -> Answer<v1::TransactionReply> {
        let transaction = parts::collect(request.into_inner()).await?;
        let received = Instant::now();
        let revision = transaction.revision;
        let datapath = self.datapath.clone();
        let summary = whole(async move { datapath.lock().await.apply(transaction).await }).await?;
        Ok(Response::new(v1::TransactionReply {
            revision,
            added: summary.added,
            changed: summary.changed,
            kept: summary.kept,
            deleted: summary.deleted,
            microseconds: received.elapsed().as_micros() as u64,
        }))
    }

    async fn open_port(&self, request: Request<v1::OpenPortRequest>) -> Answer<v1::Port> {
        let v1::OpenPortRequest { session, name, interface, vhost_user } = request.into_inner();
        let device = answers::pod_device(interface, vhost_user)?;
        let datapath = self.datapath.clone();
        whole(async move {
            let mut datapath = datapath.lock().await;
            datapath.open_pod(session, &name, &device).await?;
            let port = datapath.ports.find(&name).map(|port| answers::port(&datapath, port));
            port.ok_or(PortError::Name(name))
        })
        .await
        .map(Response::new)
    }

    async fn close_port(
        &self,
        request: Request<v1::ClosePortRequest>,
    ) -> Answer<v1::ClosePortReply> {
        let v1::ClosePortRequest { session, name } = request.into_inner();
        let datapath = self.datapath.clone();
        let closed =
            whole(async move { datapath.lock().await.close_pod(session, &name).await }).await?;
        Ok(Response::new(v1::ClosePortReply { closed }))
    }

    async fn lend_sockets(
        &self,
        request: Request<v1::LendSocketsRequest>,
    ) -> Answer<v1::LendSocketsReply> {
        let request = request.into_inner();
        let loan = LoanOptions {
            namespace: request.namespace.into(),
            interface: request.interface,
            socket: request.socket.into(),
            owner: (request.socket_user, request.socket_group),
        };
        self.datapath
            .lock()
            .await
            .lend(request.session, &request.name, &loan)
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::LendSocketsReply {}))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsReply> {
        let datapath = self.datapath.lock().await;
        datapath.sample().await.map_err(|error| status(&error.into()))?;
        let ports = datapath.ports.iter().map(|port| answers::port(&datapath, port)).collect();
        Ok(Response::new(v1::ListPortsReply { ports }))
    }

    async fn list_drops(&self, _: Request<v1::ListDropsRequest>) -> Answer<v1::ListDropsReply> {
        let datapath = self.datapath.lock().await;
        datapath.sample().await.map_err(|error| status(&error.into()))?;
        let closed = ("(closed)", datapath.ports.closed().clone());
        let open = datapath.ports.iter().map(|port| (port.name.as_str(), port.totals()));
        let mut drops = Vec::new();
        for (port, totals) in open.chain([closed]) {
            for (reason, &packets) in DropReason::ALL.iter().zip(&totals.drops) {
                if packets > 0 {
                    drops.push(v1::Drop {
                        port: port.to_owned(),
                        reason: reason.name().to_owned(),
                        meaning: reason.meaning().to_owned(),
                        packets,
                    });
                }
            }
        }
        Ok(Response::new(v1::ListDropsReply { drops }))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Answer<v1::ListWorkersReply> {
        let datapath = self.datapath.lock().await;
        let now = cycles();
        let workers = datapath.workers.iter().map(|worker| v1::Worker {
            index: worker.index as u32,
            core: worker.core.unwrap_or_default() as u32,
            poll: worker.poll.name().to_owned(),
            packets: worker.counters.packets.read(),
            batches: worker.counters.batches.read(),
            empty_polls: worker.counters.empty_polls.read(),
            rests: worker.counters.rests.read(),
            busy_cycles: worker.counters.busy_cycles.read(),
            total_cycles: now.saturating_sub(worker.counters.started_at_cycles.read()),
            revision: datapath.writer.revision_of(worker.index),
            frames_cached: worker.counters.frames_cached.read() as u32,
            composed_hits: worker.counters.composed_hits.read(),
            samples: worker.counters.samples.read(),
            mismatches: worker.counters.mismatches.read(),
            judged: worker.counters.judged.read(),
            outdated: worker.counters.outdated.read(),
            timed_walks: worker.counters.timed_walks.read(),
            stages: stage_costs(&worker.counters),
            own_cycles: worker.counters.own_cycles.read(),
            queues: answers::worker_queues(&datapath, worker.index),
        });
        Ok(Response::new(v1::ListWorkersReply { workers: workers.collect() }))
    }

    async fn reload(&self, _: Request<v1::ReloadRequest>) -> Answer<v1::ReloadReply> {
        let Some(reloader) = self.reloader.clone() else {
            return Err(Status::failed_precondition("this datapath was started without a file"));
        };
        let reload = reload::reload(reloader, self.datapath.clone());
        let reloaded = match tokio::spawn(reload).await {
            Ok(result) => result.map_err(|error| error.status())?,
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        Ok(Response::new(reloaded.into()))
    }

    async fn list_tables(&self, _: Request<v1::ListTablesRequest>) -> Answer<v1::ListTablesReply> {
        let datapath = self.datapath.lock().await;
        let tables = datapath.writer.current().state.tables().into_iter().map(|table| v1::Table {
            stage: table.stage.to_owned(),
            name: table.name.to_owned(),
            entries: table.entries as u64,
        });
        Ok(Response::new(v1::ListTablesReply { tables: tables.collect() }))
    }

    async fn show_table(
        &self,
        request: Request<v1::ShowTableRequest>,
    ) -> Answer<v1::ShowTableReply> {
        let name = request.into_inner().name;
        let datapath = self.datapath.lock().await;
        let current = datapath.writer.current();
        let table = current.state.show(&name, &datapath.adjacencies).ok_or_else(|| {
            Status::not_found(format!("no table `{name}`; `seinectl table list` names them"))
        })?;
        let rows = table.rows.into_iter().map(|cells| v1::show_table_reply::Row { cells });
        Ok(Response::new(v1::ShowTableReply {
            stage: table.stage.to_owned(),
            name: table.name.to_owned(),
            columns: table.columns.iter().map(|&column| column.to_owned()).collect(),
            rows: rows.collect(),
        }))
    }

    type ListRulesStream = Parts<v1::ListRulesReply>;
    async fn list_rules(&self, _: Request<v1::ListRulesRequest>) -> Answer<Self::ListRulesStream> {
        let datapath = self.datapath.lock().await;
        Ok(Response::new(in_parts(listing::rules(&datapath))))
    }

    type ListConnectionsStream = Parts<v1::ListConnectionsReply>;
    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Answer<Self::ListConnectionsStream> {
        let datapath = self.datapath.lock().await;
        listing::connections(&datapath, request.get_ref()).map(in_parts).map(Response::new)
    }

    type FollowAuditStream = ReceiverStream<Result<v1::AuditPart, Status>>;
    async fn follow_audit(
        &self,
        request: Request<v1::FollowAuditRequest>,
    ) -> Answer<Self::FollowAuditStream> {
        let session = request.into_inner().session;
        let stale = self.datapath.lock().await.writer.check_session(session);
        stale.map_err(|error| status(&error.into()))?;
        Ok(Response::new(listing::follow_audit(self.datapath.clone(), session)))
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Answer<v1::TraceReply> {
        let datapath = self.datapath.lock().await;
        answers::trace(&datapath, request.into_inner()).map(Response::new)
    }
}

/// A long answer.
type Parts<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

fn in_parts<T>(parts: Vec<T>) -> Parts<T> {
    tokio_stream::iter(parts.into_iter().map(Ok).collect::<Vec<_>>())
}

/// Runs a change to its end, whether or not the caller still waits for it.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, PortError>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(change).await {
        Ok(result) => result.map_err(|error| status(&error)),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

/// Numbers of sessions rise over restarts of the datapath, too: they start from the boot clock.
fn session_floor() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(1, |now| now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000)
}

fn status(error: &PortError) -> Status {
    let message = with_sources(error);
    match error {
        PortError::Change(change) => match change {
            ChangeError::StaleSession { .. } | ChangeError::StaleRevision { .. } => {
                Status::failed_precondition(message)
            }
            ChangeError::Refused(_) => Status::invalid_argument(message),
            ChangeError::NextHopsExhausted(_) => Status::resource_exhausted(message),
            ChangeError::NotPassed(_) => Status::deadline_exceeded(message),
        },
        PortError::Device(error) => answers::device_status(error, message),
        PortError::Worker(_) => Status::unavailable(message),
        PortError::Name(_) | PortError::Socket(_) => Status::invalid_argument(message),
        PortError::Taken { .. }
        | PortError::NodePort(_)
        | PortError::NoLink(_)
        | PortError::Queues { .. } => Status::failed_precondition(message),
        PortError::TooMany => Status::resource_exhausted(message),
    }
}

/// The message of an error and of what caused it, in one line.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_message = cause.to_string();
        if !message.contains(&cause_message) {
            message += &format!(": {cause_message}");
        }
        source = cause.source();
    }
    message
}

/// What the stages took of timed walks.
fn stage_costs(counters: &WorkerCounters) -> Vec<v1::StageCost> {
    let costs = STAGES.iter().zip(&counters.stages);
    let cost = |(stage, (packets, cycles)): (&Stage, &(Counter, Counter))| v1::StageCost {
        stage: stage.name.to_owned(),
        packets: packets.read(),
        cycles: cycles.read(),
    };
    costs.map(cost).collect()
}

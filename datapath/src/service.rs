//! The gRPC service: `datapath.proto` over a [`Datapath`].
//!
//! A change runs in a task of its own, so that a caller who hangs up half-way cannot leave it
//! half-done. Parts of a transaction are collected before the lock is taken: a slow caller delays
//! nobody else.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use seine_datapath_api::v1::datapath_server::Datapath as Service;
use seine_datapath_api::{VERSION, v1};
use seine_pipeline::address::PortKind;
use seine_pipeline::verdict::DropReason;
use tokio::sync::Mutex;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::answers;
use crate::datapath::{Datapath, PortError};
use crate::machine::cycles;
use crate::objects::{self, ObjectError};
use crate::ports::POD_PORTS_MAX;
use crate::worker::Poll;
use crate::writer::{ChangeError, Mode, TRANSACTION_OBJECTS_MAX, Transaction};

/// How long a caller may take between two parts of a transaction.
const PART_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of what a caller may call itself.
const CLIENT_BYTES_MAX: usize = 256;

/// What this server calls itself.
pub const SERVER: &str = concat!("seine-datapath ", env!("CARGO_PKG_VERSION"));

/// Serves a datapath.
#[derive(Clone)]
pub struct DatapathService {
    datapath: Arc<Mutex<Datapath>>,
}

impl DatapathService {
    /// A service over `datapath`.
    pub fn new(datapath: Arc<Mutex<Datapath>>) -> DatapathService {
        DatapathService { datapath }
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
        Ok(Response::new(v1::StatusReply {
            server: SERVER.to_owned(),
            version: VERSION,
            uptime_seconds: datapath.started().elapsed().as_secs(),
            session: session.number,
            client: session.client.clone(),
            revision: datapath.writer.current().revision,
            revision_seconds: in_force.map_or(0, |since| since.elapsed().as_secs()),
            ports_max: POD_PORTS_MAX as u32,
        }))
    }

    async fn apply(
        &self,
        request: Request<Streaming<v1::TransactionPart>>,
    ) -> Answer<v1::TransactionReply> {
        let transaction = collect(request.into_inner()).await?;
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
        let v1::OpenPortRequest { session, name, interface } = request.into_inner();
        let datapath = self.datapath.clone();
        whole(async move {
            let mut datapath = datapath.lock().await;
            datapath.open_pod(session, &name, &interface).await?;
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
            poll: match worker.poll {
                Poll::Adaptive { .. } => "adaptive".to_owned(),
                Poll::Spin => "spin".to_owned(),
            },
            packets: worker.counters.packets.read(),
            batches: worker.counters.batches.read(),
            empty_polls: worker.counters.empty_polls.read(),
            rests: worker.counters.rests.read(),
            busy_cycles: worker.counters.busy_cycles.read(),
            total_cycles: now.saturating_sub(worker.counters.started_at_cycles.read()),
            revision: datapath.writer.revision_of(worker.index),
            frames_cached: worker.counters.frames_cached.read() as u32,
        });
        Ok(Response::new(v1::ListWorkersReply { workers: workers.collect() }))
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

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Answer<v1::TraceReply> {
        let datapath = self.datapath.lock().await;
        answers::trace(&datapath, request.into_inner()).map(Response::new)
    }
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

/// Collects the parts of a transaction into one.
async fn collect(mut parts: Streaming<v1::TransactionPart>) -> Result<Transaction, Status> {
    let mut transaction: Option<Transaction> = None;
    loop {
        let part = tokio::time::timeout(PART_LIMIT, parts.next())
            .await
            .map_err(|_| {
                let limit = PART_LIMIT.as_secs();
                Status::deadline_exceeded(format!("no part of the transaction for {limit} s"))
            })?
            .ok_or_else(|| {
                Status::invalid_argument("the transaction ended without a part marked `last`")
            })??;
        let last = part.last;
        let whole = match transaction.take() {
            None => begin(&part)?,
            Some(whole) => whole,
        };
        let whole = extend(whole, part)?;
        if last {
            return Ok(whole);
        }
        transaction = Some(whole);
    }
}

fn begin(part: &v1::TransactionPart) -> Result<Transaction, Status> {
    Ok(Transaction {
        session: part.session,
        revision: part.revision,
        mode: mode(part)?,
        upserts: Vec::new(),
        deletes: Vec::new(),
        members: Vec::new(),
    })
}

fn mode(part: &v1::TransactionPart) -> Result<Mode, Status> {
    match part.mode() {
        v1::transaction_part::Mode::Delta => Ok(Mode::Delta),
        v1::transaction_part::Mode::Full => Ok(Mode::Full),
        v1::transaction_part::Mode::Unspecified => {
            Err(Status::invalid_argument("mode: must be MODE_DELTA or MODE_FULL"))
        }
    }
}

fn extend(mut whole: Transaction, part: v1::TransactionPart) -> Result<Transaction, Status> {
    let same = (part.session, part.revision, mode(&part)?);
    if same != (whole.session, whole.revision, whole.mode) {
        return Err(Status::invalid_argument(
            "session, revision and mode must be the same in every part of a transaction",
        ));
    }
    if whole.mode == Mode::Full && !part.deletes.is_empty() {
        return Err(Status::invalid_argument("deletes: a full transaction prunes by itself"));
    }
    if whole.mode == Mode::Full && !part.group_deltas.is_empty() {
        return Err(Status::invalid_argument(
            "group_deltas: a full transaction names groups whole",
        ));
    }
    let objects = part.upserts.len() + part.deletes.len() + part.group_deltas.len();
    if whole.upserts.len() + whole.deletes.len() + whole.members.len() + objects
        > TRANSACTION_OBJECTS_MAX
    {
        return Err(Status::resource_exhausted(format!(
            "a transaction may name {TRANSACTION_OBJECTS_MAX} objects"
        )));
    }
    let refused = |error: ObjectError| Status::invalid_argument(error.to_string());
    for object in part.upserts {
        whole.upserts.push(objects::object(object).map_err(refused)?);
    }
    for id in part.deletes {
        whole.deletes.push(objects::object_id(id).map_err(refused)?);
    }
    for delta in part.group_deltas {
        whole.members.push(objects::group_delta(delta).map_err(refused)?);
    }
    Ok(whole)
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
        PortError::Name(_) => Status::invalid_argument(message),
        PortError::Taken { .. } | PortError::NodePort(_) | PortError::Queues { .. } => {
            Status::failed_precondition(message)
        }
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

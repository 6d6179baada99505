//! The operator's command, `seinectl`: questions to the datapath, answers as text or JSON.
//!
//! `arguments` is the command line, `report` the answers as data (and so the JSON), `render` the
//! answers as text. Only reading calls are made: opening a session would take it from the agent.

pub mod arguments;
mod columns;
pub mod cycles;
pub mod decided;
mod failure;
pub mod load;
mod packet;
mod quantity;
mod render;
pub mod report;
mod trace;
mod watch;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use seine_datapath_api::v1;
use seine_datapath_api::v1::datapath_client::DatapathClient;
use serde::Serialize;
use tonic::transport::Channel;

pub use failure::Failure;
pub use render::Render;

use arguments::{
    Arguments, ConnectionFilter, ConnectionVerb, DropVerb, Format, Noun, PodVerb, PolicyVerb,
    PortVerb, RuleVerb, StageVerb, TableVerb, TraceArguments, WorkerArguments, WorkerVerb,
};
use cycles::{PodList, QueueList};
use decided::{ConnectionCount, ConnectionList, PolicyList, RuleList};
use load::{Reloaded, StageList, WorkerList, WorkerReport};
use report::{
    DropList, PortList, PortReport, StatusReport, TableList, TableReport, TableRows, TraceReport,
};
use watch::Rates;

/// A local question takes milliseconds; the datapath is stuck if it takes this long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long `pod top` looks when it is not told.
const MEASURED_SECONDS: u64 = 1;
/// Moves the cursor home and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Does what `arguments` say and prints the answer to `out`.
pub async fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Failure> {
    let client = seine_datapath_api::connect(&arguments.socket).await?;
    let mut asker = Asker { client };
    let mut printer = Printer { out, format: arguments.output };
    match &arguments.noun {
        Noun::Status => printer.once(&asker.status().await?),
        Noun::Table(TableVerb::List) => printer.once(&asker.tables().await?),
        Noun::Table(TableVerb::Show { name }) => printer.once(&asker.table(name).await?),
        Noun::Connection(ConnectionVerb::List { filter, limit }) => {
            printer.once(&asker.connections(filter, *limit).await?)
        }
        Noun::Connection(ConnectionVerb::Count(filter)) => {
            let connections = asker.connections(filter, 0).await?.found;
            printer.once(&ConnectionCount { connections })
        }
        Noun::Policy(PolicyVerb::List) => printer.once(&PolicyList::new(&asker.rules(None).await?)),
        Noun::Rule(RuleVerb::Stats { policy }) => {
            printer.once(&asker.rules(policy.as_deref()).await?)
        }
        Noun::Trace(trace) => printer.once(&asker.trace(trace).await?),
        Noun::Port(PortVerb::List(watch)) => {
            printer
                .repeat(watch.watch, &mut asker, async |asker| {
                    Ok(PortList { ports: asker.ports().await? })
                })
                .await
        }
        Noun::Pod(PodVerb::Top(watch)) => {
            printer
                .measure(watch.watch, &mut asker, async |asker| {
                    Ok(PodList::new(&asker.raw_workers("pod top").await?))
                })
                .await
        }
        Noun::Stage(StageVerb::List) => printer.once(&asker.stages().await?),
        Noun::Worker(WorkerVerb::List(WorkerArguments { queues: true, watch })) => {
            printer
                .repeat(watch.watch, &mut asker, async |asker| {
                    Ok(QueueList::new(&asker.raw_workers("worker list").await?))
                })
                .await
        }
        Noun::Worker(WorkerVerb::List(WorkerArguments { queues: false, watch })) => {
            printer
                .repeat(watch.watch, &mut asker, async |asker| {
                    Ok(WorkerList { workers: asker.workers().await? })
                })
                .await
        }
        Noun::Worker(WorkerVerb::Reload) => printer.once(&asker.reload().await?),
        Noun::Drop(DropVerb::List(drops)) => {
            let port = drops.port.as_deref();
            printer
                .repeat(drops.watch.watch, &mut asker, async |asker| asker.drops(port).await)
                .await
        }
    }
}

struct Printer<'a, W> {
    out: &'a mut W,
    format: Format,
}

impl<W: Write> Printer<'_, W> {
    fn once(&mut self, report: &(impl Render + Serialize)) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.out.write_all(report.text().as_bytes())?,
            Format::Json => {
                let json = serde_json::to_string_pretty(report).map_err(std::io::Error::from)?;
                writeln!(self.out, "{json}")?;
            }
        }
        Ok(self.out.flush()?)
    }

    /// Once, or with an interval until something fails or the operator ends it.
    async fn repeat<R: Render + Rates + Serialize>(
        &mut self,
        seconds: Option<u64>,
        asker: &mut Asker,
        ask: impl AsyncFn(&mut Asker) -> Result<R, Failure>,
    ) -> Result<(), Failure> {
        let earlier = ask(asker).await?;
        let Some(seconds) = seconds else {
            return self.once(&earlier);
        };
        self.round(&earlier)?;
        let mut earlier = (earlier, Instant::now());
        loop {
            earlier = later(earlier, seconds, asker, &ask).await?;
            self.round(&earlier.0)?;
        }
    }

    /// As [`repeat`](Self::repeat), for what has nothing to say but rates.
    async fn measure<R: Render + Rates + Serialize>(
        &mut self,
        seconds: Option<u64>,
        asker: &mut Asker,
        ask: impl AsyncFn(&mut Asker) -> Result<R, Failure>,
    ) -> Result<(), Failure> {
        let mut earlier = (ask(asker).await?, Instant::now());
        loop {
            earlier = later(earlier, seconds.unwrap_or(MEASURED_SECONDS), asker, &ask).await?;
            if seconds.is_none() {
                return self.once(&earlier.0);
            }
            self.round(&earlier.0)?;
        }
    }

    fn round(&mut self, report: &(impl Render + Serialize)) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let json = serde_json::to_string(report).map_err(std::io::Error::from)?;
                writeln!(self.out, "{json}")?;
            }
            Format::Text if std::io::stdout().is_terminal() => {
                write!(self.out, "{CLEAR}{}", report.text())?;
            }
            Format::Text => writeln!(self.out, "{}", report.text())?,
        }
        Ok(self.out.flush()?)
    }
}

/// Asks again after a while; what came of it has rates, and when it was asked is said.
async fn later<R: Rates>(
    (earlier, asked): (R, Instant),
    seconds: u64,
    asker: &mut Asker,
    ask: impl AsyncFn(&mut Asker) -> Result<R, Failure>,
) -> Result<(R, Instant), Failure> {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let mut report = ask(asker).await?;
    let now = Instant::now();
    report.rates_since(&earlier, now - asked);
    Ok((report, now))
}

struct Asker {
    client: DatapathClient<Channel>,
}

impl Asker {
    async fn status(&mut self) -> Result<StatusReport, Failure> {
        let status = answer("status", self.client.status(v1::StatusRequest {})).await?;
        let ports = self.ports().await?;
        Ok(StatusReport::new(status, &ports, self.workers().await?))
    }

    async fn ports(&mut self) -> Result<Vec<PortReport>, Failure> {
        let reply = answer("port list", self.client.list_ports(v1::ListPortsRequest {})).await?;
        let mut ports: Vec<PortReport> = reply.ports.into_iter().map(PortReport::from).collect();
        ports.sort_by_key(|port| port.id);
        Ok(ports)
    }

    async fn workers(&mut self) -> Result<Vec<WorkerReport>, Failure> {
        let workers = self.raw_workers("worker list").await?;
        Ok(workers.into_iter().map(WorkerReport::from).collect())
    }

    /// As the datapath says it, in the order of their indexes.
    async fn raw_workers(&mut self, command: &'static str) -> Result<Vec<v1::Worker>, Failure> {
        let request = v1::ListWorkersRequest {};
        let mut workers = answer(command, self.client.list_workers(request)).await?.workers;
        workers.sort_by_key(|worker| worker.index);
        Ok(workers)
    }

    async fn reload(&mut self) -> Result<Reloaded, Failure> {
        let reply = answer("worker reload", self.client.reload(v1::ReloadRequest {})).await?;
        Ok(Reloaded::from(reply))
    }

    async fn stages(&mut self) -> Result<StageList, Failure> {
        Ok(StageList::new(&self.raw_workers("stage list").await?))
    }

    async fn drops(&mut self, port: Option<&str>) -> Result<DropList, Failure> {
        let reply = answer("drop list", self.client.list_drops(v1::ListDropsRequest {})).await?;
        let wanted = |drop: &v1::Drop| port.is_none_or(|port| drop.port == port);
        let mut drops: Vec<report::DropReport> =
            reply.drops.into_iter().filter(wanted).map(Into::into).collect();
        drops.sort_by(|a, b| (b.packets, &a.reason, &a.port).cmp(&(a.packets, &b.reason, &b.port)));
        Ok(DropList { drops })
    }

    async fn tables(&mut self) -> Result<TableList, Failure> {
        let reply = answer("table list", self.client.list_tables(v1::ListTablesRequest {})).await?;
        let table = |v1::Table { stage, name, entries }| TableReport { stage, name, entries };
        Ok(TableList { tables: reply.tables.into_iter().map(table).collect() })
    }

    async fn table(&mut self, name: &str) -> Result<TableRows, Failure> {
        let request = v1::ShowTableRequest { name: name.into() };
        Ok(answer("table show", self.client.show_table(request)).await?.into())
    }

    async fn rules(&mut self, policy: Option<&str>) -> Result<RuleList, Failure> {
        let command = "rule stats";
        let mut parts = answer(command, self.client.list_rules(v1::ListRulesRequest {})).await?;
        let mut rules = Vec::new();
        while let Some(part) = next(command, &mut parts).await? {
            rules.extend(part.rules);
        }
        rules.retain(|rule| policy.is_none_or(|policy| rule.policy == policy));
        Ok(RuleList::new(rules))
    }

    async fn connections(
        &mut self,
        filter: &ConnectionFilter,
        limit: u32,
    ) -> Result<ConnectionList, Failure> {
        let command = "connection list";
        let addresses = match &filter.pod {
            None => Vec::new(),
            Some(pod) => trace::addresses_of(pod, &self.ports().await?)?,
        };
        let request = v1::ListConnectionsRequest {
            addresses,
            service: filter.service.clone().unwrap_or_default(),
            rule: filter.rule.clone().unwrap_or_default(),
            limit,
        };
        let mut parts = answer(command, self.client.list_connections(request)).await?;
        let mut list = ConnectionList { connections: Vec::new(), found: 0 };
        while let Some(part) = next(command, &mut parts).await? {
            list.found = list.found.max(part.found);
            list.connections.extend(part.connections.into_iter().map(Into::into));
        }
        Ok(list)
    }

    async fn trace(&mut self, arguments: &TraceArguments) -> Result<TraceReport, Failure> {
        let ports = self.ports().await?;
        let request = trace::request(arguments, &ports)?;
        let reply = answer("trace", self.client.trace(request.clone())).await?;
        Ok(trace::report(&request, arguments.what, reply, &ports))
    }
}

/// The next part of a long answer.
async fn next<T>(
    command: &'static str,
    parts: &mut tonic::Streaming<T>,
) -> Result<Option<T>, Failure> {
    match tokio::time::timeout(TIMEOUT, parts.message()).await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(status)) => Err(Failure::Refused { command, status: Box::new(status) }),
        Err(_) => Err(Failure::Timeout { command, seconds: TIMEOUT.as_secs() }),
    }
}

async fn answer<T>(
    command: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::Refused { command, status: Box::new(status) }),
        Err(_) => Err(Failure::Timeout { command, seconds: TIMEOUT.as_secs() }),
    }
}

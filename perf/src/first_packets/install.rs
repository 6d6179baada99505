//! How long it takes until policies and Services are in force on a node that had nothing.
//!
//! The steps are timed apart: the agent's compile step; the next State from typed objects; and, by
//! [`super::join`], a whole transaction to a datapath whose workers are loaded.

use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use seine_control::compile;
use seine_datapath::objects::{self, Desired};
use seine_datapath_api::v1;
use seine_e2e::failure::{Failure, Outcome};
use seine_pipeline::state::{Change, State};

use super::cluster::{NODE, cluster};
use super::record::Install;
use super::scenario;
use crate::noise::Meter;

/// How often each step is done.
const ROUNDS: usize = 3;

/// What is installed.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Policies.
    pub policies: usize,
    /// Services.
    pub services: usize,
}

/// CPU time of this process.
fn cpu() -> Duration {
    // It fails only for clocks that the kernel does not know.
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    Duration::from(time.unwrap_or(TimeSpec::new(0, 0)))
}

/// Times one step.
fn timed<T>(
    step: &str,
    amount: Amount,
    work: impl FnOnce() -> Outcome<T>,
) -> Outcome<(T, Install)> {
    let meter = Meter::start()?;
    let (began, used) = (Instant::now(), cpu());
    let result = work()?;
    let (wall, used) = (began.elapsed(), cpu().saturating_sub(used));
    let Amount { policies, services } = amount;
    let record = Install {
        step: step.to_owned(),
        policies,
        services,
        objects: 0,
        wall_ms: wall.as_secs_f64() * 1e3,
        cpu_ms: Some(used.as_secs_f64() * 1e3),
        noise: meter.stop()?,
    };
    Ok((result, record))
}

/// The objects of a node with so much, and how long it took to compile and to apply them.
pub fn measure(
    amount: Amount,
    mut add: impl FnMut(Install) -> Outcome,
) -> Outcome<Vec<v1::Object>> {
    let cluster = cluster(amount.policies, amount.services);
    let mut objects = Vec::new();
    for _ in 0..ROUNDS {
        let work = || Ok(compile::tables(&cluster, NODE));
        let (compiled, record) = timed("compile", amount, work)?;
        if let Some(refused) = compiled.refused.first() {
            return Err(Failure::Unmet(format!("the compile step refuses: {refused}")));
        }
        objects = compiled.objects;
        add(Install { objects: objects.len(), ..record })?;
    }
    let mut changes = scenario::pods_alone();
    for object in &objects {
        let typed = objects::object(object.clone());
        if let Desired::Object(object) = typed.map_err(|it| Failure::Unmet(it.to_string()))? {
            changes.push(Change::Upsert(object));
        }
    }
    for _ in 0..ROUNDS {
        let work = || {
            let state = State::new(1).apply(&changes);
            state.map_err(|refusal| Failure::Unmet(refusal.to_string()))
        };
        let (_, record) = timed("State::apply", amount, work)?;
        add(Install { objects: objects.len(), ..record })?;
    }
    Ok(objects)
}

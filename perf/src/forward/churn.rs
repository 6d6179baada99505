//! What changes while packets pass: policies and Pods come and go, as in a busy cluster.

use std::time::Duration;

use seine_datapath::publish::PublicationWriter;
use seine_pipeline::state::{Change, Object, ObjectId, Refusal, RuleDirection, State};

use super::objects::{UDP, endpoint, idle_service, policy};
use super::profile::Profile;

/// Services that are installed and not used.
const SERVICES: usize = 10_000;
/// Policies and Pods that change, one after the other, each as a transaction of its own: of three
/// changes two are of policies.
const CHANGES_PER_S: u64 = 150;
/// How many of a kind take turns.
const TURNS: u64 = 50;

/// Changes that are due as time goes by; none where none were asked for.
#[derive(Default)]
pub struct Churn(Option<Running>);

struct Running {
    writer: PublicationWriter,
    state: State,
    first_policy: usize,
    first_pod: usize,
    changing: bool,
    done: u64,
}

impl Churn {
    /// Installs what is there from the beginning.
    pub fn new(profile: &Profile, mut writer: PublicationWriter) -> Result<Churn, Refusal> {
        let mut state = writer.current().state.clone();
        if profile.churn {
            let idle = (0..SERVICES).map(|it| idle_service(it, profile.pods));
            let changes: Vec<_> = idle.map(|it| Change::Upsert(Object::Service(it))).collect();
            state = state.apply(&changes)?;
            writer.publish(1, state.clone());
        }
        Ok(Churn(Some(Running {
            writer,
            state,
            first_policy: profile.policies_per_side,
            first_pod: profile.pods,
            changing: profile.churn,
            done: 0,
        })))
    }

    /// Makes the changes that are due after so long.
    pub fn step(&mut self, elapsed: Duration) -> Result<(), Refusal> {
        let Some(running) = self.0.as_mut().filter(|it| it.changing) else { return Ok(()) };
        let due = elapsed.as_millis() as u64 * CHANGES_PER_S / 1000;
        if running.done < due {
            running.change()?;
        }
        Ok(())
    }
}

impl Running {
    fn change(&mut self) -> Result<(), Refusal> {
        let turn = self.done / 3;
        let number = (turn % TURNS) as usize;
        let object = match self.done % 3 {
            0 => Object::Rule(policy(self.first_policy + number, RuleDirection::Egress, UDP)),
            1 => Object::Rule(policy(self.first_policy + number, RuleDirection::Ingress, UDP)),
            _ => Object::Endpoint(endpoint(self.first_pod + number)),
        };
        let ObjectId { kind, name } = object.id();
        let change = if (turn / TURNS).is_multiple_of(2) {
            Change::Upsert(object)
        } else {
            Change::Delete(ObjectId { kind, name })
        };
        self.state = self.state.apply(&[change])?;
        self.done += 1;
        self.writer.publish(1 + self.done, self.state.clone());
        Ok(())
    }
}

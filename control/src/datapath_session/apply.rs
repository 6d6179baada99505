//! How what is desired comes into force: as transactions, without what the datapath refuses of it.

use std::time::Duration;

use seine_datapath_api::v1;
use tracing::error;

use super::calls::{CALL_TIMEOUT, timed_within};
use super::transaction::parts;
use super::{Change, Connected, Session, SessionError, lost};
use crate::compile::{Changes, Difference, ObjectKey};

/// Objects for which a call may take a second longer: a node's first synchronisation names hundreds
/// of thousands.
const OBJECTS_A_SECOND: usize = 10_000;
/// Objects of one transaction that are left out one by one before it is given up.
const REFUSALS_MAX: u32 = 1000;

impl Session {
    /// Makes what is desired the whole of what is in force.
    pub(super) async fn apply_all(
        &self,
        connected: &mut Connected,
    ) -> Result<v1::TransactionReply, SessionError> {
        let mode = v1::transaction_part::Mode::Full;
        let mut refusals = 0;
        loop {
            let upserts = self.desired().objects().values().cloned().collect();
            let changes = Changes { upserts, ..Changes::default() };
            let error = match self.apply(connected, mode, changes).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            refusals += 1;
            if !self.leave_out(&error, &mut Difference::new(), refusals) {
                return Err(error);
            }
        }
    }

    /// Takes what the datapath has refused out of what is desired and out of the difference it was
    /// in. False if the error is of another kind.
    fn leave_out(&self, error: &SessionError, difference: &mut Difference, refusals: u32) -> bool {
        let Some(key) = refused_object(error).filter(|_| refusals <= REFUSALS_MAX) else {
            return false;
        };
        let Some(rules) = self.desired().refuse(&key, difference) else {
            return false;
        };
        match rules {
            0 => error!("{error}; it is left out, or a rule that denies all stands in for it"),
            _ => error!(
                "{error}; it is left out, and so are {rules} rules that name it; those \
                         that deny now deny everything to whom they apply"
            ),
        }
        true
    }

    /// Applies changes as one transaction; if that is refused, one by one, so that a bad change
    /// fails alone. An error means that the session is lost.
    pub(super) async fn apply_batch(
        &self,
        connected: &mut Connected,
        batch: Vec<Change>,
    ) -> Result<(), SessionError> {
        let mode = v1::transaction_part::Mode::Delta;
        if batch.len() > 1 {
            let merged = batch
                .iter()
                .fold(Difference::new(), |merged, change| merged.then(change.difference.clone()));
            match self.apply(connected, mode, merged.into_changes()).await {
                Ok(_) => {
                    for change in batch {
                        let _ = change.acknowledge.send(Ok(()));
                    }
                    return Ok(());
                }
                Err(error @ SessionError::Refused { .. }) if !lost(&error) => {}
                Err(error) => {
                    for change in batch {
                        let _ = change.acknowledge.send(Err(error.clone()));
                    }
                    return Err(error);
                }
            }
        }
        for change in batch {
            let result = self.apply_one(connected, change.difference).await;
            let ended = result.as_ref().err().filter(|error| lost(error)).cloned();
            let _ = change.acknowledge.send(result);
            if let Some(error) = ended {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Applies one change, without what of it the datapath refuses.
    async fn apply_one(
        &self,
        connected: &mut Connected,
        mut difference: Difference,
    ) -> Result<(), SessionError> {
        let mode = v1::transaction_part::Mode::Delta;
        let mut refusals = 0;
        loop {
            let changes = difference.clone().into_changes();
            let Err(error) = self.apply(connected, mode, changes).await else {
                return Ok(());
            };
            refusals += 1;
            if !self.leave_out(&error, &mut difference, refusals) {
                return Err(error);
            }
        }
    }

    async fn apply(
        &self,
        connected: &mut Connected,
        mode: v1::transaction_part::Mode,
        changes: Changes,
    ) -> Result<v1::TransactionReply, SessionError> {
        connected.revision += 1;
        let session = connected.connection.session;
        let objects = changes.upserts.len() + changes.deletes.len();
        let limit = CALL_TIMEOUT + Duration::from_secs((objects / OBJECTS_A_SECOND) as u64);
        let parts = parts(session, connected.revision, mode, changes);
        let mut client = connected.connection.client.clone();
        let call = client.apply(tokio_stream::iter(parts));
        let reply = timed_within(limit, "apply a transaction", call).await?;
        connected.revision = connected.revision.max(reply.revision);
        Ok(reply)
    }
}

/// The group, rule or Service that the datapath has named as the reason of a refusal:
/// "rule `acnp/a/ingress/0` is refused: ...".
fn refused_object(error: &SessionError) -> Option<ObjectKey> {
    use v1::object_id::Kind;
    let SessionError::Refused { message, code: tonic::Code::InvalidArgument, .. } = error else {
        return None;
    };
    let (named, _) = message.split_once("` is refused")?;
    let (kind, name) = named.split_once(" `")?;
    let kind = match kind.rsplit(' ').next()? {
        "group" => Kind::Group,
        "rule" => Kind::Rule,
        "service" => Kind::Service,
        _ => return None,
    };
    Some((kind, name.to_owned()))
}

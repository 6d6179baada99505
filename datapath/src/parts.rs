//! A transaction comes in parts, so that no message exceeds 4 MiB.

use std::time::Duration;

use seine_datapath_api::v1;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use crate::objects::{self, ObjectError};
use crate::writer::{Mode, TRANSACTION_OBJECTS_MAX, Transaction};

/// How long a caller may take between two parts of a transaction.
const PART_LIMIT: Duration = Duration::from_secs(10);

/// Collects the parts of a transaction into one.
pub async fn collect(mut parts: Streaming<v1::TransactionPart>) -> Result<Transaction, Status> {
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

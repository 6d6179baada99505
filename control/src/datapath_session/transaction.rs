//! Transactions in parts that stay well under the 4 MiB a message may have.

use prost::Message;
use seine_datapath_api::v1;

use crate::compile::Changes;

/// A quarter of the limit, so that the last object of a part never reaches it.
const PART_BYTES_MAX: usize = 1 << 20;

/// Splits a transaction. There is always a last part, even for a transaction of nothing.
pub(super) fn parts(
    session: u64,
    revision: u64,
    mode: v1::transaction_part::Mode,
    changes: Changes,
) -> Vec<v1::TransactionPart> {
    let empty = v1::TransactionPart {
        session,
        revision,
        mode: mode.into(),
        upserts: Vec::new(),
        deletes: Vec::new(),
        last: false,
        group_deltas: Vec::new(),
    };
    let mut parts = Vec::new();
    let mut part = empty.clone();
    let mut bytes = 0;
    for key in changes.deletes {
        let id = v1::ObjectId { kind: key.0.into(), name: key.1 };
        bytes += id.encoded_len();
        part.deletes.push(id);
        if bytes > PART_BYTES_MAX {
            parts.push(std::mem::replace(&mut part, empty.clone()));
            bytes = 0;
        }
    }
    for object in changes.upserts {
        bytes += object.encoded_len();
        part.upserts.push(object);
        if bytes > PART_BYTES_MAX {
            parts.push(std::mem::replace(&mut part, empty.clone()));
            bytes = 0;
        }
    }
    for delta in changes.group_deltas {
        bytes += delta.encoded_len();
        part.group_deltas.push(delta);
        if bytes > PART_BYTES_MAX {
            parts.push(std::mem::replace(&mut part, empty.clone()));
            bytes = 0;
        }
    }
    part.last = true;
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_transaction_is_split_and_only_its_end_is_marked() {
        let object = |index: usize| v1::Object {
            kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
                name: format!("default/{index}/{}", "x".repeat(1000)),
                ..v1::Endpoint::default()
            })),
        };
        let upserts: Vec<_> = (0..3000).map(object).collect();
        let mode = v1::transaction_part::Mode::Full;
        let parts = parts(1, 2, mode, Changes { upserts, ..Changes::default() });
        assert_eq!(parts.len(), 3);
        assert_eq!(parts.iter().map(|part| part.upserts.len()).sum::<usize>(), 3000);
        assert!(parts.iter().all(|part| part.encoded_len() < 4 << 20));
        assert_eq!(parts.iter().map(|part| part.last).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_transaction_of_nothing_still_ends() {
        let mode = v1::transaction_part::Mode::Full;
        let parts = parts(1, 2, mode, Changes::default());
        assert!(matches!(parts.as_slice(), [part] if part.last));
    }
}

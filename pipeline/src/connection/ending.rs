//! How connections end: by time, by hand, or to make room.
//!
//! Whoever ends a connection's life takes its keys out of the buckets and then frees its record, in
//! this order: a record that is filled again has nothing left of its predecessor in them.

use super::Ended;
use super::bucket::Place;
use super::record::Record;
use super::table::{ConnectionTable, ConnectionWorker};
use super::wheel::{self, REVISIT_MS_MAX, Wheel};
use super::words::needs_both;
use crate::sync::Ordering;

/// Where the keys of a connection are, each with its hash.
pub(super) type Places = [(u64, Place); 2];

impl ConnectionTable {
    /// Looks at up to `limit` connections whose time may be up, ends those whose is, and reports
    /// them and those that had to give way; says how many it looked at. Each worker has to call
    /// this regularly, for what it inserted is looked at by nobody else.
    pub fn expire(
        &self,
        worker: &mut ConnectionWorker,
        now_ms: u64,
        limit: usize,
        mut on_end: impl FnMut(&Ended),
    ) -> usize {
        worker.report_evicted(|ended| on_end(&ended));
        worker.wheel.turn_to(now_ms);
        for looked_at in 0..limit {
            let link = |index| self.record(index).map(|record| record.wheel);
            let Some(record) = worker.wheel.pop(now_ms, link).and_then(|it| self.record(it)) else {
                return looked_at;
            };
            if let Some(ended) = self.look_after(&record, now_ms, &mut worker.wheel) {
                self.expired.fetch_add(1, Ordering::Relaxed);
                on_end(&ended);
            }
        }
        limit
    }

    /// Ends a connection, if it is still the one with this sequence number.
    pub(super) fn end(&self, record: &Record<'_>, number: u64) -> Option<Ended> {
        let (ended, places) = self.end_life(record, number)?;
        self.clear_away(&places);
        self.used.fetch_sub(1, Ordering::Relaxed);
        Some(ended)
    }

    /// As [`end`](Self::end), but that it is still to be [cleared away](Self::clear_away).
    pub(super) fn end_life(&self, record: &Record<'_>, number: u64) -> Option<(Ended, Places)> {
        if !record.end(number) {
            return None;
        }
        let remains = record.remains(number);
        if let Some(charged) = self.accounts.get(record.account()) {
            charged.fetch_sub(1, Ordering::Relaxed);
        }
        let [(original, _), (reply, _)] = remains.keys();
        let both = needs_both(original, reply);
        let places = remains.keys().map(|(words, direction)| {
            let hash = self.hash.hash(words);
            (hash, Place::new(hash, direction, both, record.index))
        });
        let (counts, opened_ms) = (record.counts(), record.opened_ms());
        let decision = remains.decision();
        Some((Ended { id: remains.id, decision, counts, opened_ms, remains }, places))
    }

    /// Takes a connection that has ended out of its buckets, and frees its record.
    pub(super) fn clear_away(&self, places: &Places) {
        for (hash, place) in places {
            self.buckets().withdraw(*hash, *place);
        }
        let [(_, place), _] = places;
        if let Some(record) = place.index().and_then(|index| self.record(index)) {
            self.free.give(record.index, record.opened);
        }
    }

    /// Looks whether the time of a popped record is up: ends it, links it anew, or lets it go.
    fn look_after(&self, record: &Record<'_>, now_ms: u64, wheel: &mut Wheel) -> Option<Ended> {
        loop {
            if let Some(number) = record.living() {
                let left_ms = record.timeout_ms().saturating_sub(record.idle_ms(now_ms));
                if left_ms > 0 {
                    wheel.push(record, now_ms + left_ms.min(REVISIT_MS_MAX));
                    return None;
                }
                wheel::give_link(record);
                let ended = self.end(record, number);
                if ended.is_some() {
                    return ended;
                }
            } else {
                wheel::give_link(record);
            }
            // Who has brought it to life since relies on our link, or has taken its own.
            if record.living().is_none() || !wheel::take_link(record) {
                return None;
            }
        }
    }
}

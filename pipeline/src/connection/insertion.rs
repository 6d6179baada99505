//! How a connection gets into the table, and which one gives way for it.
//!
//! An insertion takes a free record, fills it, publishes both keys and brings it to life. Two
//! workers that insert the same key at the same moment each look, after publishing their own, for
//! the other's: at least one sees the other, and gives up before anybody can find it. So a key
//! never leads to two living connections; seldom both give up, and the packet is one that is lost.
//!
//! Where there is no room, a connection gives way that nobody has answered: of those in the
//! candidate buckets, or else of a few records from a place on that the hash chooses, the one that
//! was silent for longest. Over its quota, a port gives up only its own.

use super::bucket::Place;
use super::record::{Filling, Record};
use super::table::{ConnectionTable, ConnectionWorker, Key};
use super::wheel::{self, REVISIT_MS_MAX};
use super::{ConnectionId, Direction, NewConnection, NotInserted};
use crate::sync::{Ordering, fence, pause};

/// How often a worker looks whether another one gives up the same key. The one that holds the
/// higher record does so first.
const LOOKS: u32 = 1024;
const LOOKS_OF_THE_HIGHER: u32 = 64;

/// Records that are looked at for one to evict, beside those of the candidate buckets.
const EVICTION_LOOKS: u32 = 32;

impl ConnectionTable {
    /// Inserts what the port's quota has been charged for.
    pub(super) fn insert_charged(
        &self,
        new: &NewConnection,
        keys: &[Key; 2],
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<ConnectionId, NotInserted> {
        let link = |index| self.record(index).map(|record| record.opened);
        let index = self.free.take(link).or_else(|| {
            self.evict(keys, None, now_ms, worker).then(|| self.free.take(link)).flatten()
        });
        let record = index.and_then(|index| self.record(index)).ok_or(NotInserted::Full)?;
        record.fill(&Filling {
            original: &keys[0].words,
            reply: &keys[1].words,
            decision: &new.decision,
            progress: new.progress,
            account: new.account().index(),
            now_ms,
        });
        let published = self.publish(&record, keys, now_ms, worker);
        if let Err(reason) = published {
            self.free.give(record.index, record.opened);
            return Err(reason);
        }
        self.used.fetch_add(1, Ordering::Relaxed);
        let id = record.live();
        if wheel::take_link(&record) {
            worker.wheel.push(&record, now_ms + record.timeout_ms().min(REVISIT_MS_MAX));
        }
        Ok(id)
    }

    /// Publishes both keys of a record, or none.
    fn publish(
        &self,
        record: &Record<'_>,
        keys: &[Key; 2],
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<(), NotInserted> {
        let [original, reply] = keys;
        let places = [(original, Direction::Original), (reply, Direction::Reply)]
            .map(|(key, direction)| (key, Place::new(key.hash, direction, record.index)));
        let mut published = Ok(());
        let mut count = 0;
        for (key, place) in &places {
            published = self.publish_one(key, *place, keys, now_ms, worker);
            count += usize::from(published != Err(NotInserted::Full));
            if published.is_err() {
                break;
            }
        }
        if published.is_err() {
            for (key, place) in places.iter().take(count) {
                self.buckets().withdraw(key.hash, *place);
            }
        }
        published
    }

    fn publish_one(
        &self,
        key: &Key,
        place: Place,
        keys: &[Key; 2],
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<(), NotInserted> {
        let buckets = self.buckets();
        if !buckets.publish(key.hash, place) {
            let evicted = self.evict_near(keys, None, now_ms, worker);
            if !evicted || !buckets.publish(key.hash, place) {
                return Err(NotInserted::Full);
            }
        }
        if self.is_alone(key, place) { Ok(()) } else { Err(NotInserted::Exists) }
    }

    /// Whether no other record has this key that is published here. Waits a little for others to
    /// come to an end: who takes a key out, and who has to give up because of us.
    fn is_alone(&self, key: &Key, own: Place) -> bool {
        for look in 0..LOOKS {
            // Between our publishing and our looking; the other has the same, so one of us sees
            // the other.
            fence(Ordering::SeqCst);
            let rival =
                self.buckets().matches(key.hash).filter(|place| *place != own).find(|place| {
                    let record = place.index().and_then(|index| self.record(index));
                    record.is_some_and(|record| record.has_key(place.direction(), &key.words))
                });
            let Some(index) = rival.map(Place::index) else { return true };
            let living = index.and_then(|it| self.record(it)).and_then(|it| it.living());
            let higher = index <= own.index() && look >= LOOKS_OF_THE_HIGHER;
            if living.is_some() || higher {
                return false;
            }
            pause();
        }
        false
    }

    /// Ends one unanswered connection, if there is one in sight.
    pub(super) fn evict(
        &self,
        keys: &[Key; 2],
        account: Option<usize>,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> bool {
        if self.evict_near(keys, account, now_ms, worker) {
            return true;
        }
        let touched = self.free.touched();
        let first = keys[0].hash as u32;
        let far = (0..EVICTION_LOOKS.min(touched)).map(|n| first.wrapping_add(n) % touched);
        self.evict_one_of(far, account, now_ms, worker)
    }

    /// As [`evict`](Self::evict), among those in the keys' buckets.
    fn evict_near(
        &self,
        keys: &[Key; 2],
        account: Option<usize>,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> bool {
        let places = keys.iter().flat_map(|key| self.buckets().places(key.hash));
        self.evict_one_of(places.filter_map(Place::index), account, now_ms, worker)
    }

    /// Ends the connection that was silent for longest among those of these that may give way, of
    /// this account if one is given.
    fn evict_one_of(
        &self,
        records: impl Iterator<Item = u32>,
        account: Option<usize>,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> bool {
        // Not reported yet, and there is no room for more: nobody has asked about them.
        if worker.evicted.len() == worker.evicted.capacity() {
            return false;
        }
        let candidates = records.filter_map(|index| {
            let record = self.record(index)?;
            let number = record.living()?;
            let charged = account.is_none_or(|account| record.account() == account);
            (charged && record.progress().may_give_way()).then_some((record, number))
        });
        let chosen = candidates.max_by_key(|(record, _)| record.idle_ms(now_ms));
        let Some(ended) = chosen.and_then(|(record, number)| self.end(&record, number)) else {
            return false;
        };
        self.evicted.fetch_add(1, Ordering::Relaxed);
        worker.evicted.push(ended);
        true
    }
}

//! How a connection gets into the table, and which one gives way for it.
//!
//! An insertion takes a free record, fills it, publishes both keys and brings it to life. Two
//! workers that insert the same key at the same moment each look, after publishing their own, for
//! the other's: at least one sees the other, and gives up before anybody can find it. So a key
//! never leads to two living connections; seldom both give up, and the packet is one that is lost.
//!
//! Where there is no room, connections give way that nobody has answered. A hand goes round over
//! all records, a stretch at a time, and ends what it finds there of those; so it comes to each as
//! late as it can, and to a table full of them it comes for one in thirty-two insertions. One that
//! still sends is passed over while there are others. Over its quota, a port gives up only its own.

use arrayvec::ArrayVec;

use super::bucket::Place;
use super::ending::Places;
use super::record::{Filling, Record};
use super::table::{ConnectionTable, ConnectionWorker, Key};
use super::wheel::{self, REVISIT_MS_MAX};
use super::words::needs_both;
use super::{ConnectionId, Direction, NewConnection, NotInserted};
use crate::sync::{Ordering, fence, pause};

/// How often a worker looks whether another one gives up the same key. The one that holds the
/// higher record does so first.
const LOOKS: u32 = 1024;
const LOOKS_OF_THE_HIGHER: u32 = 64;

/// Records that are looked at for one to evict.
const EVICTION_LOOKS: u32 = 64;

/// Records of which those that may give way are ended at once.
const STRETCH_MAX: u32 = 32;
/// A stretch is no more of a table than one in so many: in a small one each gives way alone.
const STRETCH_SHARE: u32 = 4096;

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
        let index = self
            .free
            .take(link)
            .or_else(|| self.make_room(now_ms, worker).then(|| self.free.take(link)).flatten());
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
        let both = needs_both(&original.words, &reply.words);
        let places = [(original, Direction::Original), (reply, Direction::Reply)]
            .map(|(key, direction)| (key, Place::new(key.hash, direction, both, record.index)));
        let mut published = Ok(());
        let mut count = 0;
        for (key, place) in &places {
            published = self.publish_one(key, *place, now_ms, worker);
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
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<(), NotInserted> {
        let buckets = self.buckets();
        if !buckets.publish(key.hash, place) {
            // A place in the other key's buckets is of no use to this one.
            let evicted = self.evict_near(std::slice::from_ref(key), None, now_ms, worker);
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
            let rival = self.buckets().find_map(key.hash, |place| {
                let record = self.record(place.index().filter(|_| place != own)?)?;
                record.has_key(place.direction(), &key.words).then_some(place)
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

    /// Ends connections that nobody has answered, a stretch of records or a few at a time. Says
    /// whether there were any.
    fn make_room(&self, now_ms: u64, worker: &mut ConnectionWorker) -> bool {
        let touched = self.free.touched();
        let stretch = (touched / STRETCH_SHARE).clamp(1, STRETCH_MAX);
        for _ in 0..EVICTION_LOOKS.div_ceil(stretch) {
            // One hand for all workers, so that none comes to what another one has just filled.
            let first = self.hand.fetch_add(u64::from(stretch), Ordering::Relaxed);
            // What comes after this stretch is the next one, and should be there by then.
            let behind = self.stretch(first + u64::from(stretch), stretch);
            let lines = behind.filter_map(|index| self.record_lines(index)).flatten();
            lines.flat_map(|line| line.0.first()).for_each(self.fetch);
            let records = self.stretch(first, stretch);
            if self.sweep(records, now_ms, worker) {
                return true;
            }
        }
        false
    }

    /// So many records from a place on that the hand has come to.
    fn stretch(&self, first: u64, count: u32) -> impl Iterator<Item = u32> {
        let touched = u64::from(self.free.touched()).max(1);
        (first..first + u64::from(count)).map(move |place| (place % touched) as u32)
    }

    /// Ends those of these connections that may give way. One that still sends does so only where
    /// no other may.
    fn sweep(
        &self,
        records: impl Iterator<Item = u32>,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> bool {
        let mut chosen: ArrayVec<(u32, u64), { STRETCH_MAX as usize }> = ArrayVec::new();
        let mut busy = None;
        for index in records {
            let Some(record) = self.record(index) else { continue };
            let Some(number) = record.living() else { continue };
            if !record.progress().may_give_way() {
                continue;
            }
            if record.is_busy(now_ms) {
                busy = Some((index, number));
            } else if chosen.try_push((index, number)).is_err() {
                break;
            }
        }
        if chosen.is_empty() {
            chosen.extend(busy);
        }
        self.evict(&chosen, worker)
    }

    /// Ends one unanswered connection of an account, if there is one in sight: of those in the
    /// keys' buckets, or else of a few records from a place on that the hash chooses, the one that
    /// was silent for longest.
    pub(super) fn evict_own(
        &self,
        keys: &[Key; 2],
        account: usize,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> bool {
        if self.evict_near(keys, Some(account), now_ms, worker) {
            return true;
        }
        let touched = self.free.touched();
        let first = keys[0].hash as u32;
        let far = (0..EVICTION_LOOKS.min(touched)).map(|n| first.wrapping_add(n) % touched);
        self.evict_one_of(far, Some(account), now_ms, worker)
    }

    /// Ends one unanswered connection among those in the keys' buckets.
    fn evict_near(
        &self,
        keys: &[Key],
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
        let mut chosen = None;
        let mut longest_ms = 0;
        for index in records {
            let Some(record) = self.record(index) else { continue };
            let Some(number) = record.living() else { continue };
            let charged = account.is_none_or(|account| record.account() == account);
            if !charged || !record.progress().may_give_way() {
                continue;
            }
            let idle_ms = record.idle_ms(now_ms);
            if chosen.is_none() || idle_ms > longest_ms {
                (chosen, longest_ms) = (Some((index, number)), idle_ms);
            }
        }
        self.evict(chosen.as_slice(), worker)
    }

    /// Ends connections, each if its record still has this sequence number. Says whether any was
    /// ended.
    fn evict(&self, chosen: &[(u32, u64)], worker: &mut ConnectionWorker) -> bool {
        // Those that are not reported yet leave no more room: nobody has asked about them.
        let room = worker.evicted.capacity() - worker.evicted.len();
        let mut left: ArrayVec<Places, { STRETCH_MAX as usize }> = ArrayVec::new();
        for (index, number) in chosen.iter().take(room) {
            let Some(record) = self.record(*index) else { continue };
            let Some((ended, places)) = self.end_life(&record, *number) else { continue };
            worker.evicted.push(ended);
            places.iter().for_each(|(hash, _)| self.fetch_buckets(*hash));
            left.push(places);
        }
        left.iter().for_each(|places| self.clear_away(places));
        let count = left.len() as u64;
        self.used.fetch_sub(count, Ordering::Relaxed);
        self.evicted.fetch_add(count, Ordering::Relaxed);
        count > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::super::table_tests::{limits, new};
    use super::super::{ConnectionTable, ConnectionWorker, Direction, Progress};
    use super::*;

    #[test]
    fn the_oldest_give_way_a_stretch_at_a_time_but_for_those_that_still_send() {
        let table = ConnectionTable::new(limits(4 * STRETCH_SHARE), 5);
        let mut worker = ConnectionWorker::new();
        let syn = |client| new(client, 1, Progress::SynSent);
        let ids: Vec<_> = (0..4 * STRETCH_SHARE)
            .map(|client| table.insert(&syn(client), 1, &mut worker).unwrap())
            .collect();
        let now_ms = 60_000;
        for _ in 0..2 {
            assert!(table.note(ids[2], Direction::Original, 100, now_ms));
        }
        table.insert(&syn(100_000), now_ms, &mut worker).unwrap();
        let gone = ids.iter().map(|id| table.get(*id).is_none());
        let gone: Vec<_> = gone.enumerate().filter_map(|(at, gone)| gone.then_some(at)).collect();
        assert_eq!(gone, [0, 1, 3]);
        // The two that are free now come before anybody else has to give way.
        for client in 100_001..100_003 {
            table.insert(&syn(client), now_ms, &mut worker).unwrap();
        }
        assert_eq!(table.occupancy().evicted, 3);
        table.insert(&syn(100_003), now_ms, &mut worker).unwrap();
        assert!(table.get(ids[2]).is_some() && table.get(ids[4]).is_none());
    }
}

//! The short way to a connection: the record that a key's hash points to, read no further than a
//! packet of a connection under way needs.
//!
//! A batch asks for all its buckets first, then for all its records, and only then looks: by then
//! what it asked for has arrived. What was decided about a direction is one word of the record: a
//! [shortcut](crate::composed) above its stamp. The word is believed only while the stamp is what
//! the State says now; the turn of the record is mixed into it, so that a word that another worker
//! stores too late means nothing to the record's next connection.

use super::bucket::Place;
use super::memory::Line;
use super::record::{
    ORIGINAL_DECIDED, PROGRESS, RECORD_LINES, REPLY_DECIDED, Record, SEQUENCE, count, turn,
};
use super::table::ConnectionTable;
use super::translation::Translation;
use super::words::{KeyWords, is_v4};
use super::{ConnectionId, Direction, Progress};
use crate::composed::Machine;
use crate::sync::{AtomicU64, Ordering, fence};

/// Keeps the stamps of two turns of a record apart, however the State changes: an odd number, so
/// that no other turn of 32 bits gives the same.
const TURN_FACTOR: u32 = 0x9e37_79b1;

/// A record that may be that of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    index: u32,
    direction: Direction,
    /// Whether the other direction's key is needed, too.
    both: bool,
}

/// A connection as a packet of it was found, all of one moment.
#[derive(Clone, Copy)]
pub(crate) struct Hit<'a> {
    lines: &'a [Line; RECORD_LINES],
    number: u64,
    /// In which direction.
    pub(crate) direction: Direction,
    /// How far it has come.
    pub(crate) progress: Progress,
    /// What was decided about this direction, above its stamp.
    decided: u64,
}

/// What a record says beside its keys and counts: equal when nobody has changed it meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Testimony {
    words: [u64; 6],
}

impl Testimony {
    /// What was decided about the original and about the reply direction.
    pub(crate) fn shortcuts(&self) -> [u32; 2] {
        let [.., original, reply] = self.words;
        [original, reply].map(|decided| (decided >> 32) as u32)
    }
}

impl ConnectionTable {
    /// The keyed hash of a key.
    #[inline]
    pub(crate) fn hash_of(&self, words: &KeyWords) -> u64 {
        self.hash.hash(words)
    }

    /// The line that most keys of this hash are found in.
    #[inline]
    pub(crate) fn bucket_of(&self, hash: u64) -> Option<&Line> {
        self.buckets().primary(hash)
    }

    /// The record that has the fingerprint of this hash.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: u64, machine: &impl Machine) -> Option<Candidate> {
        let place = match self.buckets().primary_match(hash, machine) {
            Some(place) => place,
            None => self.elsewhere(hash)?,
        };
        let (direction, both) = (place.direction(), place.needs_both());
        Some(Candidate { index: place.index()?, direction, both })
    }

    /// A record that is not in the line where most are.
    #[cold]
    fn elsewhere(&self, hash: u64) -> Option<Place> {
        self.buckets().find_map(hash, Some)
    }

    /// Asks for the lines of a candidate.
    #[inline(always)]
    pub(crate) fn ask_for(&self, candidate: Candidate, machine: &impl Machine) {
        let Some(lines) = self.record_lines(candidate.index) else { return };
        let [_, _, state] = lines;
        machine.prefetch(state);
        // Not the line that another worker writes, unless it is read.
        machine.prefetch_to_write(way(lines, candidate.direction));
        if candidate.both {
            machine.prefetch(way(lines, candidate.direction.reversed()));
        }
    }

    /// The candidate's connection, if it lives and this is its key.
    #[inline(always)]
    pub(crate) fn hit(
        &self,
        candidate: Candidate,
        words: &KeyWords,
        machine: &impl Machine,
    ) -> Option<Hit<'_>> {
        Hit::of(self.record_lines(candidate.index)?, candidate.direction, words, machine)
    }

    /// All by which a candidate's packets are decided about, but for its keys, which are the same
    /// while the sequence number is.
    pub(crate) fn testimony(&self, candidate: Candidate) -> Option<Testimony> {
        // Whatever was read before is not newer than what follows.
        fence(Ordering::Acquire);
        let [_, _, state] = self.record_lines(candidate.index)?;
        let [sequence, progress, rules, marks, _, original, reply, _] = &state.0;
        let words = [sequence, progress, rules, marks, original, reply];
        let words = words.map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        Some(Testimony { words })
    }

    /// Remembers what was decided about a direction of a connection, as far as it still lives.
    pub(crate) fn decide(&self, id: ConnectionId, direction: Direction, shortcut: u32, epoch: u32) {
        if let Some(lines) = self.record_lines(id.index) {
            decide(lines, id, direction, shortcut, epoch);
        }
    }
}

/// Remembers in a record what was decided, if it is still that of the connection.
pub(super) fn decide(
    lines: &[Line; RECORD_LINES],
    id: ConnectionId,
    direction: Direction,
    shortcut: u32,
    epoch: u32,
) {
    let record = Record::of(id.index, lines);
    if record.living().is_some_and(|number| record.id(number) == id) {
        let word = u64::from(shortcut) << 32 | u64::from(stamp(epoch, id.turn));
        decided(lines, direction).store(word, Ordering::Relaxed);
    }
}

impl<'a> Hit<'a> {
    /// The connection of a record, if it lives and this is the key of that direction.
    #[inline(always)]
    pub(super) fn of(
        lines: &'a [Line; RECORD_LINES],
        direction: Direction,
        words: &KeyWords,
        machine: &impl Machine,
    ) -> Option<Hit<'a>> {
        let [_, _, state] = lines;
        let number = state.0[SEQUENCE].load(Ordering::Acquire);
        let same_key = machine.has_key(way(lines, direction), words, is_v4(words));
        let progress = Progress::from_word(state.0[PROGRESS].load(Ordering::Relaxed));
        let decided = decided(lines, direction).load(Ordering::Relaxed);
        // As in `Record::read`.
        fence(Ordering::Acquire);
        let same = state.0[SEQUENCE].load(Ordering::Relaxed) == number;
        if !same_key || !same || number.is_multiple_of(2) {
            return None;
        }
        Some(Hit { lines, number, direction, progress, decided })
    }

    /// What was decided about this direction: not yet checked against its stamp.
    #[inline]
    pub(crate) fn shortcut(&self) -> u32 {
        (self.decided >> 32) as u32
    }

    /// Whether what was decided is of this epoch.
    #[inline]
    pub(crate) fn is_of(&self, epoch: u32) -> bool {
        self.decided as u32 == stamp(epoch, turn(self.number))
    }

    /// What a packet over IPv4 leaves with; `None` when the connection is over meanwhile.
    #[inline]
    pub(crate) fn translation(&self) -> Option<Translation> {
        let [addresses, _, ports, ..] = &way(self.lines, self.direction).0;
        let words = [addresses, ports].map(|word| word.load(Ordering::Relaxed));
        self.is_still().then(|| Translation::from_words(words))
    }

    /// The key of the other direction, over IPv6; `None` when the connection is over meanwhile.
    #[inline]
    pub(crate) fn other_key(&self) -> Option<KeyWords> {
        let [a, b, c, d, e, f, ..] = &way(self.lines, self.direction.reversed()).0;
        let words = [a, b, c, d, e, f].map(|word| word.load(Ordering::Relaxed));
        self.is_still().then_some(words)
    }

    /// Whether what was read before is of this connection.
    #[inline]
    fn is_still(&self) -> bool {
        fence(Ordering::Acquire);
        let [_, _, state] = self.lines;
        state.0[SEQUENCE].load(Ordering::Relaxed) == self.number
    }

    /// Counts the packet.
    #[inline]
    pub(crate) fn note(&self, bytes: u64, now_ms: u64) {
        let [.., seen, sum] = &way(self.lines, self.direction).0;
        count(seen, sum, bytes, now_ms);
    }
}

/// The line of a direction.
#[inline]
fn way(lines: &[Line; RECORD_LINES], direction: Direction) -> &Line {
    let [original, reply, _] = lines;
    match direction {
        Direction::Original => original,
        Direction::Reply => reply,
    }
}

/// The word of what was decided about a direction.
#[inline]
fn decided(lines: &[Line; RECORD_LINES], direction: Direction) -> &AtomicU64 {
    let [_, _, state] = lines;
    match direction {
        Direction::Original => &state.0[ORIGINAL_DECIDED],
        Direction::Reply => &state.0[REPLY_DECIDED],
    }
}

#[inline]
fn stamp(epoch: u32, turn: u32) -> u32 {
    epoch.wrapping_add(turn.wrapping_mul(TURN_FACTOR))
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::table_tests::{limits, new};
    use super::super::{ConnectionWorker, FlowKey, Progress};
    use super::*;
    use crate::composed::Plain;

    fn hit<'a>(table: &'a ConnectionTable, key: &FlowKey) -> Hit<'a> {
        let words = key.words();
        let candidate = table.candidate(table.hash_of(&words), &Plain).unwrap();
        table.hit(candidate, &words, &Plain).unwrap()
    }

    #[test]
    fn what_was_decided_is_found_by_its_direction_and_while_its_epoch_lasts() {
        let table = ConnectionTable::new(limits(4), 5);
        let mut worker = ConnectionWorker::new();
        let new = new(1, 1, Progress::Established);
        let id = table.insert(&new, 1000, &mut worker).unwrap();
        assert_eq!(hit(&table, &new.original).shortcut(), 0, "nothing is decided yet");
        table.decide(id, Direction::Reply, 0xabcd, 7);
        let found = hit(&table, &new.reply);
        assert_eq!((found.direction, found.shortcut()), (Direction::Reply, 0xabcd));
        assert!(found.is_of(7) && !found.is_of(8));
        let translation = Translation::of(&new.reply.words(), &new.original.words());
        assert_eq!(found.translation(), Some(translation), "over IPv4");
        assert_eq!(hit(&table, &new.original).shortcut(), 0);
    }

    #[test]
    fn what_is_stored_too_late_means_nothing_to_the_next_connection() {
        let table = ConnectionTable::new(limits(1), 5);
        let mut worker = ConnectionWorker::new();
        let (first, next) = (new(1, 1, Progress::Established), new(2, 1, Progress::Established));
        let id = table.insert(&first, 1000, &mut worker).unwrap();
        table.decide(id, Direction::Original, 0xabcd, 7);
        let late = hit(&table, &first.original).decided;
        table.remove(id).unwrap();
        let successor = table.insert(&next, 1000, &mut worker).unwrap();
        assert_eq!(id.index, successor.index);
        // Another worker has looked whether the first lives, and stores what it has decided now.
        let lines = table.record_lines(id.index).unwrap();
        decided(lines, Direction::Original).store(late, Ordering::Relaxed);
        let found = hit(&table, &next.original);
        assert!(found.shortcut() == 0xabcd && !found.is_of(7));
    }
}

//! A record: one connection in three cache lines, and the sequence number that guards them.
//!
//! Line 1 and 2, original and reply direction: six words of key, the two that are zero over IPv4
//! being the [`Translation`]; packets (40 bits) over when the
//! last one was seen (24 bits, in quarters of a second); bytes. Only the worker that sees the
//! direction writes the last two. Line 3: sequence number; turn over progress; rules; Service over
//! marks; wheel link; the composed decision about the original and about the reply direction; when
//! it was opened over whose quota it is on, or the free list's link.
//!
//! An odd sequence number is that of a living connection, an even one of a free record or of one
//! that is being filled: zeroed memory is free. Half the number is the record's turn, and part of
//! the [`ConnectionId`], so that an id of a connection that is gone never means its successor.

use super::memory::Line;
use super::translation::Translation;
use super::words::{KeyWords, is_v4, protocol};
use super::{Connection, ConnectionId, Counts, Decision, Direction, FlowKey, Progress};
use crate::sync::{AtomicU64, Ordering, fence};

/// Lines of a record.
pub(super) const RECORD_LINES: usize = 3;

/// Places of words in the third line.
pub(super) const SEQUENCE: usize = 0;
pub(super) const PROGRESS: usize = 1;
pub(super) const ORIGINAL_DECIDED: usize = 5;
pub(super) const REPLY_DECIDED: usize = 6;

/// When a direction was last seen is kept in this unit.
pub(super) const SEEN_UNIT_MS: u64 = 250;
const SEEN_BITS: u32 = 24;
const SEEN_MASK: u64 = (1 << SEEN_BITS) - 1;
/// Seen later than now by up to this much, 17 minutes: another worker looked at the clock later.
const SEEN_AHEAD: u64 = 1 << 12;

/// The words of one direction.
pub(super) struct Way<'a> {
    pub key: [&'a AtomicU64; 6],
    pub seen: &'a AtomicU64,
    pub bytes: &'a AtomicU64,
}

impl Way<'_> {
    fn of(line: &Line) -> Way<'_> {
        let [a, b, c, d, e, f, seen, bytes] = &line.0;
        Way { key: [a, b, c, d, e, f], seen, bytes }
    }

    pub(super) fn key(&self) -> KeyWords {
        let [a, b, c, d, fifth, port] = self.key.map(|word| word.load(Ordering::Relaxed));
        let key = [0, b, 0, d, fifth, port];
        if is_v4(&key) { key } else { [a, b, c, d, fifth, port] }
    }

    fn is(&self, words: &KeyWords) -> bool {
        self.key() == *words
    }

    fn counts(&self) -> Counts {
        Counts {
            packets: self.seen.load(Ordering::Relaxed) >> SEEN_BITS,
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn begin(&self, words: &KeyWords, other: &KeyWords, now_ms: u64) {
        let mut words = *words;
        if is_v4(&words) {
            let [addresses, ports] = Translation::of(&words, other).words();
            let [_, b, _, d, fifth, port] = words;
            words = [addresses, b, ports, d, fifth, port];
        }
        for (word, value) in self.key.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        self.seen.store((now_ms / SEEN_UNIT_MS) & SEEN_MASK, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    pub(super) fn count(&self, bytes: u64, now_ms: u64) {
        count(self.seen, self.bytes, bytes, now_ms);
    }

    fn idle_ms(&self, now_ms: u64) -> u64 {
        let seen = self.seen.load(Ordering::Relaxed);
        let idle = (now_ms / SEEN_UNIT_MS).wrapping_sub(seen) & SEEN_MASK;
        let ahead = idle > SEEN_MASK - SEEN_AHEAD;
        if ahead { 0 } else { idle * SEEN_UNIT_MS }
    }
}

/// One more packet of a direction. No other worker writes these two words, so nothing is lost
/// between the load and the store.
#[inline]
pub(super) fn count(seen: &AtomicU64, sum: &AtomicU64, bytes: u64, now_ms: u64) {
    let packets = (seen.load(Ordering::Relaxed) >> SEEN_BITS) + 1;
    let now = (now_ms / SEEN_UNIT_MS) & SEEN_MASK;
    seen.store(packets << SEEN_BITS | now, Ordering::Relaxed);
    sum.store(sum.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
}

/// Three lines of the table's memory.
pub(super) struct Record<'a> {
    pub index: u32,
    pub original: Way<'a>,
    pub reply: Way<'a>,
    pub sequence: &'a AtomicU64,
    pub progress: &'a AtomicU64,
    rules: &'a AtomicU64,
    marks: &'a AtomicU64,
    pub wheel: &'a AtomicU64,
    /// What was decided about either direction, above its stamp: see [`probe`](super::probe).
    decided: [&'a AtomicU64; 2],
    /// When it was opened (48 bits) over its account; the next free one's place while it is free.
    pub opened: &'a AtomicU64,
}

/// What a living record said, all of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Snapshot {
    pub id: ConnectionId,
    original: KeyWords,
    reply: KeyWords,
    progress: Progress,
    decision: [u64; 2],
}

impl Snapshot {
    pub(super) fn keys(&self) -> [(&KeyWords, Direction); 2] {
        [(&self.original, Direction::Original), (&self.reply, Direction::Reply)]
    }

    pub(super) fn decision(&self) -> Decision {
        Decision::from_words(self.decision)
    }

    pub(super) fn connection(&self) -> Option<Connection> {
        Some(Connection {
            original: FlowKey::from_words(&self.original)?,
            reply: FlowKey::from_words(&self.reply)?,
            decision: self.decision(),
            progress: self.progress,
        })
    }
}

/// What a record is filled with.
pub(super) struct Filling<'a> {
    pub original: &'a KeyWords,
    pub reply: &'a KeyWords,
    pub decision: &'a Decision,
    pub progress: Progress,
    pub account: usize,
    pub now_ms: u64,
}

impl<'a> Record<'a> {
    pub(super) fn of(index: u32, lines: &'a [Line; RECORD_LINES]) -> Record<'a> {
        let [original, reply, state] = lines;
        let [sequence, progress, rules, marks, wheel, original_way, reply_way, opened] = &state.0;
        Record {
            index,
            original: Way::of(original),
            reply: Way::of(reply),
            sequence,
            progress,
            rules,
            marks,
            wheel,
            decided: [original_way, reply_way],
            opened,
        }
    }

    pub(super) fn way(&self, direction: Direction) -> &Way<'a> {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// Its sequence number, if it is that of a living connection.
    pub(super) fn living(&self) -> Option<u64> {
        let number = self.sequence.load(Ordering::Acquire);
        (!number.is_multiple_of(2)).then_some(number)
    }

    /// How far it has come.
    pub(super) fn progress(&self) -> Progress {
        Progress::from_word(self.progress.load(Ordering::Relaxed))
    }

    /// For how long it may be silent as it is now.
    pub(super) fn timeout_ms(&self) -> u64 {
        let [.., fifth, _] = self.original.key();
        u64::from(self.progress().timeout_s(protocol(fifth))) * 1000
    }

    pub(super) fn id(&self, number: u64) -> ConnectionId {
        ConnectionId { index: self.index, turn: turn(number) }
    }

    /// Reads it, if it is living and stays so the while; with `found_by`, only if that is its key.
    pub(super) fn read(&self, found_by: Option<(Direction, &KeyWords)>) -> Option<Snapshot> {
        let number = self.living()?;
        if let Some((direction, words)) = found_by
            && !self.way(direction).is(words)
        {
            return None;
        }
        let snapshot = Snapshot {
            id: self.id(number),
            original: self.original.key(),
            reply: self.reply.key(),
            progress: Progress::from_word(self.progress.load(Ordering::Relaxed)),
            decision: [self.rules, self.marks].map(|word| word.load(Ordering::Relaxed)),
        };
        // Who has read one word of its successor reads here that the number has moved on.
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == number).then_some(snapshot)
    }

    /// Whether this direction's key is this, living or not.
    pub(super) fn has_key(&self, direction: Direction, words: &KeyWords) -> bool {
        self.way(direction).is(words)
    }

    pub(super) fn counts(&self) -> [Counts; 2] {
        [self.original.counts(), self.reply.counts()]
    }

    pub(super) fn idle_ms(&self, now_ms: u64) -> u64 {
        self.original.idle_ms(now_ms).min(self.reply.idle_ms(now_ms))
    }

    /// Whether it still sends: more than one packet, the last a moment ago.
    pub(super) fn is_busy(&self, now_ms: u64) -> bool {
        self.original.counts().packets > 1 && self.idle_ms(now_ms) < SEEN_UNIT_MS
    }

    pub(super) fn opened_ms(&self) -> u64 {
        self.opened.load(Ordering::Relaxed) >> 16
    }

    pub(super) fn account(&self) -> usize {
        self.opened.load(Ordering::Relaxed) as u16 as usize
    }

    /// Writes everything into a record that its caller took off the free list.
    pub(super) fn fill(&self, filling: &Filling<'_>) {
        // With the reader's fence: see `read`.
        fence(Ordering::Release);
        let next_turn = turn(self.sequence.load(Ordering::Relaxed) + 1);
        self.original.begin(filling.original, filling.reply, filling.now_ms);
        self.reply.begin(filling.reply, filling.original, filling.now_ms);
        self.progress.store(filling.progress.word(next_turn), Ordering::Relaxed);
        let [rules, marks] = filling.decision.words();
        self.rules.store(rules, Ordering::Relaxed);
        self.marks.store(marks, Ordering::Relaxed);
        for word in self.decided {
            word.store(0, Ordering::Relaxed);
        }
        let opened = filling.now_ms << 16 | filling.account as u64;
        self.opened.store(opened, Ordering::Relaxed);
    }

    /// Exchanges the rules, and the rest of a decision, where it is still what is known; says
    /// whether it was that of the rules.
    pub(super) fn decide(&self, known: &Decision, now: &Decision) -> bool {
        let ([rules, marks], [new_rules, new_marks]) = (known.words(), now.words());
        let exchange = |word: &AtomicU64, old, new| {
            word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let exchanged = rules != new_rules && exchange(self.rules, rules, new_rules);
        exchange(self.marks, marks, new_marks);
        exchanged
    }

    /// Brings a filled record to life.
    pub(super) fn live(&self) -> ConnectionId {
        let number = self.sequence.load(Ordering::Relaxed) + 1;
        self.sequence.store(number, Ordering::Release);
        self.id(number)
    }

    /// Ends its life, unless somebody else did: whoever is told `true` has to free it.
    pub(super) fn end(&self, number: u64) -> bool {
        let ended =
            self.sequence.compare_exchange(number, number + 1, Ordering::AcqRel, Ordering::Relaxed);
        ended.is_ok()
    }

    /// Reads what nobody changes any more, after [`end`](Self::end) said `true`.
    pub(super) fn remains(&self, number: u64) -> Snapshot {
        Snapshot {
            id: self.id(number),
            original: self.original.key(),
            reply: self.reply.key(),
            progress: Progress::from_word(self.progress.load(Ordering::Relaxed)),
            decision: [self.rules, self.marks].map(|word| word.load(Ordering::Relaxed)),
        }
    }
}

/// The turn of a sequence number.
pub(super) fn turn(number: u64) -> u32 {
    (number >> 1) as u32
}

impl Progress {
    /// With the turn, so that a change that comes too late meets no successor.
    pub(super) fn word(self, turn: u32) -> u64 {
        u64::from(turn) << 32 | u64::from(self as u8)
    }

    #[inline]
    pub(super) fn from_word(word: u64) -> Progress {
        let number = usize::from(word as u8);
        // Only numbers of `ALL` are ever stored.
        Progress::ALL.get(number).copied().unwrap_or(Progress::Closed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::super::words::tests::keys;
    use super::*;
    use crate::composed::{Machine, Plain};

    #[test]
    fn a_record_is_192_bytes() {
        assert_eq!(RECORD_LINES * size_of::<Line>(), 192);
    }

    proptest! {
        #[test]
        fn a_key_is_given_back_as_it_was(key in keys(), other in keys()) {
            let (line, key, other) = (Line::default(), key.words(), other.words());
            let way = Way::of(&line);
            way.begin(&key, &other, 1);
            prop_assert_eq!(way.key(), key);
            prop_assert!(way.is(&key) && Plain.has_key(&line, &key, is_v4(&key)));
            prop_assert!(key == other || !Plain.has_key(&line, &other, is_v4(&other)));
        }
    }

    #[test]
    fn the_numbers_of_progress_are_its_places() {
        for (place, progress) in Progress::ALL.iter().enumerate() {
            assert_eq!(*progress as usize, place);
            assert_eq!(Progress::from_word(progress.word(u32::MAX)), *progress);
        }
    }

    #[test]
    fn idleness_survives_the_turn_of_its_counter_and_a_clock_that_is_behind() {
        let line = Line::default();
        let way = Way::of(&line);
        for start_ms in [0, 1, SEEN_MASK * SEEN_UNIT_MS - 1000, u64::MAX / 2] {
            way.begin(&[0; 6], &[0; 6], start_ms);
            for (later_ms, at_least_ms) in [(0, 0), (10_000, 10_000), (432_000_000, 432_000_000)] {
                let idle = way.idle_ms(start_ms + later_ms);
                assert!(idle <= at_least_ms + SEEN_UNIT_MS && idle + SEEN_UNIT_MS >= at_least_ms);
            }
            assert_eq!(way.idle_ms(start_ms.saturating_sub(60_000)), 0);
        }
    }
}

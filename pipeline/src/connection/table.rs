//! The connection table: one for all workers, read without a lock, of fixed size.
//!
//! Memory: the buckets, two records to a line, and behind them the records, three lines each: 224
//! bytes a connection. A find hashes the key, looks at one bucket (seldom two), and believes a
//! record only if its sequence number says that it was one connection's from beginning to end.
//!
//! How connections get in is in [`insertion`](super::insertion), how they end in
//! [`ending`](super::ending).

use super::bucket::Buckets;
use super::budget::{Budget, first_packets, quota};
use super::free::FreeList;
use super::memory::{ConnectionMemory, LINE_WORDS, Line};
use super::record::{RECORD_LINES, Record, Snapshot};
use super::wheel::Wheel;
use super::words::KeyWords;
use super::{
    Account, Connection, ConnectionId, Direction, Ended, FlowKey, Found, Listed, NewConnection,
    NotInserted, Occupancy, Progress,
};
use crate::limits::{BATCH_MAX, CONNECTIONS_MAX, ConnectionLimits};
use crate::packet::{Packet, Tracking};
use crate::sync::{AtomicU64, Ordering};
use crate::table::KeyedHash;

/// Places that a connection has in the buckets: with two keys they are half full at most.
const PLACES: usize = 4;

/// What one worker needs to insert and expire: its timer wheel and its budgets.
#[derive(Debug)]
pub struct ConnectionWorker {
    pub(super) wheel: Wheel,
    budget: Budget,
    /// Connections that had to give way, until somebody asks.
    pub(super) evicted: Vec<Ended>,
}

impl ConnectionWorker {
    /// That of a worker that has inserted nothing yet.
    pub fn new() -> ConnectionWorker {
        ConnectionWorker {
            wheel: Wheel::new(),
            budget: Budget::new(),
            evicted: Vec::with_capacity(BATCH_MAX),
        }
    }

    /// Reports the connections that had to give way since somebody asked. An insertion makes a few
    /// at most; whoever makes many should ask after each, for there is room for a batch of them.
    pub fn report_evicted(&mut self, on_end: impl FnMut(Ended)) {
        self.evicted.drain(..).for_each(on_end);
    }
}

impl Default for ConnectionWorker {
    fn default() -> Self {
        Self::new()
    }
}

/// The connections of all workers.
#[derive(Debug)]
pub struct ConnectionTable {
    limits: ConnectionLimits,
    pub(super) hash: KeyedHash,
    memory: ConnectionMemory,
    /// Has the processor bring the line of a word.
    pub(super) fetch: fn(&AtomicU64),
    buckets: usize,
    pub(super) free: FreeList,
    /// Where records are looked at next for some to give way.
    pub(super) hand: AtomicU64,
    pub(super) used: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) revoked: AtomicU64,
    pub(super) accounts: Box<[AtomicU64]>,
}

/// A key as it is looked for: its words and their hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(super) words: KeyWords,
    pub(super) hash: u64,
}

impl ConnectionTable {
    /// An empty table in memory of its own; the seed keys its hash, and should be secret.
    pub fn new(limits: ConnectionLimits, seed: u64) -> ConnectionTable {
        let memory = ConnectionMemory::owned(Self::lines(&limits));
        Self::in_memory(limits, seed, memory)
    }

    /// An empty table in such memory, which must be all zero. It holds fewer connections than the
    /// limits say if the memory has fewer lines than [`lines`](Self::lines) asks for.
    pub fn in_memory(
        limits: ConnectionLimits,
        seed: u64,
        memory: ConnectionMemory,
    ) -> ConnectionTable {
        let mut capacity = capacity(&limits);
        while buckets(capacity) + capacity * RECORD_LINES > memory.len() {
            capacity = capacity.saturating_sub(1 + capacity / 64);
        }
        let counters = || (0..Account::COUNT).map(|_| AtomicU64::new(0)).collect();
        ConnectionTable {
            limits,
            hash: KeyedHash::new(seed),
            memory,
            fetch: |_| {},
            buckets: buckets(capacity),
            free: FreeList::new(capacity as u32),
            hand: AtomicU64::new(0),
            used: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            accounts: counters(),
        }
    }

    /// Lets it ask the processor for lines that it will soon read and write.
    pub fn fetching(self, fetch: fn(&AtomicU64)) -> ConnectionTable {
        ConnectionTable { fetch, ..self }
    }

    /// The lines of memory that a table with these limits needs.
    pub fn lines(limits: &ConnectionLimits) -> usize {
        let capacity = capacity(limits);
        buckets(capacity) + capacity * RECORD_LINES
    }

    /// The connection that a packet with this key belongs to.
    pub fn find(&self, key: &FlowKey) -> Option<Found> {
        self.find_by(&self.key(key))
    }

    /// As [`find`](Self::find).
    pub(crate) fn find_by(&self, key: &Key) -> Option<Found> {
        let (direction, snapshot) = self.look(key)?;
        Some(Found { id: snapshot.id, direction, connection: snapshot.connection()? })
    }

    /// The connection with this id, while it lives.
    pub fn get(&self, id: ConnectionId) -> Option<Connection> {
        let snapshot = self.record(id.index)?.read(None)?;
        (snapshot.id == id).then_some(snapshot)?.connection()
    }

    /// Whether this account may send one more first packet: to be asked before any work is done on
    /// it, whatever may become of it.
    pub fn admit(
        &self,
        account: Account,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<(), NotInserted> {
        let admitted = worker.budget.take(first_packets(&self.limits), account, now_ms);
        admitted.then_some(()).ok_or(NotInserted::Budget)
    }

    /// Has the processor bring where a connection with this key will be found.
    pub(crate) fn fetch(&self, key: &Key) {
        self.fetch_buckets(key.hash);
    }

    /// Adds a connection. Its first packet is not counted yet: see [`note`](Self::note).
    pub fn insert(
        &self,
        new: &NewConnection,
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<ConnectionId, NotInserted> {
        self.insert_by(new, &[self.key(&new.original), self.key(&new.reply)], now_ms, worker)
    }

    /// As [`insert`](Self::insert), with its keys in that order.
    pub(crate) fn insert_by(
        &self,
        new: &NewConnection,
        keys: &[Key; 2],
        now_ms: u64,
        worker: &mut ConnectionWorker,
    ) -> Result<ConnectionId, NotInserted> {
        let (account, quota) = (new.account().index(), quota(&self.limits, new.account()));
        let charged = self.accounts.get(account).ok_or(NotInserted::Quota)?;
        let over = charged.fetch_add(1, Ordering::Relaxed) >= quota;
        let inserted = if over && !self.evict_own(keys, account, now_ms, worker) {
            Err(NotInserted::Quota)
        } else {
            self.insert_charged(new, keys, now_ms, worker)
        };
        if inserted.is_err() {
            charged.fetch_sub(1, Ordering::Relaxed);
        }
        inserted
    }

    /// Counts a packet of this connection and remembers when it was seen. `false` when the
    /// connection is over.
    pub fn note(&self, id: ConnectionId, direction: Direction, bytes: u64, now_ms: u64) -> bool {
        let Some(record) = self.living(id) else { return false };
        record.way(direction).count(bytes, now_ms);
        true
    }

    /// Lets a connection progress. `false` when it is over, or no more where the caller took it
    /// to be.
    pub fn advance(&self, id: ConnectionId, from: Progress, to: Progress) -> bool {
        let Some(record) = self.record(id.index) else { return false };
        let known = record.progress.load(Ordering::Relaxed);
        if !from.is_in(known, id.turn) {
            return false;
        }
        let to = to.word(id.turn);
        record.progress.compare_exchange(known, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ends a connection; `None` when it was over.
    pub fn remove(&self, id: ConnectionId) -> Option<Ended> {
        let record = self.living(id)?;
        let number = record.living()?;
        if record.id(number) == id { self.end(&record, number) } else { None }
    }

    /// Ends all connections that `over` picks, and reports each; says how many.
    pub fn flush(
        &self,
        over: impl Fn(&Connection) -> bool,
        mut on_end: impl FnMut(&Ended),
    ) -> usize {
        let picked = self.iter(0).filter(|listed| over(&listed.connection));
        let ended = picked.filter_map(|listed| self.remove(listed.id));
        ended.map(|ended| on_end(&ended)).count()
    }

    /// How full it is.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            used: self.used.load(Ordering::Relaxed),
            capacity: self.free.capacity(),
            expired: self.expired.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            revoked: self.revoked.load(Ordering::Relaxed),
        }
    }

    /// How many connections in it are charged to this account.
    pub fn used_by(&self, account: Account) -> u64 {
        let charged = self.accounts.get(account.index());
        charged.map_or(0, |charged| charged.load(Ordering::Relaxed))
    }

    /// All connections, each as it is when its turn comes, in no order.
    pub fn iter(&self, now_ms: u64) -> impl Iterator<Item = Listed> {
        (0..self.free.touched()).filter_map(move |index| self.listed(index, now_ms))
    }

    /// The connection that a packet met on its way through the stages, whatever came of it, and the
    /// direction it has there.
    pub fn met_by(&self, packet: &Packet<'_>, now_ms: u64) -> Option<(Listed, Direction)> {
        let (id, direction) = match packet.facts.tracking {
            Tracking::Known { id, direction, .. } => (id, direction),
            Tracking::New | Tracking::Untracked => {
                let found = self.find_by(&packet.facts.key?)?;
                (found.id, found.direction)
            }
        };
        let listed = self.listed(id.index, now_ms)?;
        (listed.id == id).then_some((listed, direction))
    }

    fn listed(&self, index: u32, now_ms: u64) -> Option<Listed> {
        let record = self.record(index)?;
        let snapshot = record.read(None)?;
        let (counts, opened_ms) = (record.counts(), record.opened_ms());
        let idle_ms = record.idle_ms(now_ms);
        // All of one connection, if it still lives.
        self.living(snapshot.id)?;
        let age_ms = now_ms.saturating_sub(opened_ms);
        let connection = snapshot.connection()?;
        Some(Listed { id: snapshot.id, connection, counts, age_ms, idle_ms })
    }
}

/// How it is done.
impl ConnectionTable {
    /// A key as it is looked for.
    pub(crate) fn key(&self, key: &FlowKey) -> Key {
        let words = key.words();
        Key { words, hash: self.hash.hash(&words) }
    }

    pub(super) fn buckets(&self) -> Buckets<'_> {
        Buckets(self.memory.get(..self.buckets).unwrap_or_default())
    }

    pub(super) fn record(&self, index: u32) -> Option<Record<'_>> {
        Some(Record::of(index, self.record_lines(index)?))
    }

    pub(super) fn record_lines(&self, index: u32) -> Option<&[Line; RECORD_LINES]> {
        let lines: &[Line] = self.memory.get(self.buckets + index as usize * RECORD_LINES..)?;
        lines.first_chunk()
    }

    /// The record of a connection that lives.
    pub(super) fn living(&self, id: ConnectionId) -> Option<Record<'_>> {
        let record = self.record(id.index)?;
        (record.id(record.living()?) == id).then_some(record)
    }

    pub(super) fn look(&self, key: &Key) -> Option<(Direction, Snapshot)> {
        self.buckets().find_map(key.hash, |place| {
            let direction = place.direction();
            let snapshot = self.record(place.index()?)?.read(Some((direction, &key.words)))?;
            Some((direction, snapshot))
        })
    }

    /// Has the processor bring both buckets of a key.
    pub(super) fn fetch_buckets(&self, hash: u64) {
        for bucket in self.buckets().candidates(hash) {
            bucket.first().into_iter().for_each(self.fetch);
        }
    }
}

fn capacity(limits: &ConnectionLimits) -> usize {
    limits.connections.clamp(1, CONNECTIONS_MAX) as usize
}

fn buckets(capacity: usize) -> usize {
    (capacity * PLACES).div_ceil(LINE_WORDS)
}

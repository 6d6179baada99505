//! One at a time per key, all keys side by side.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Locks that exist only while somebody holds or awaits them.
pub(super) struct Turns<K>(Mutex<HashMap<K, Arc<Turn<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Waits for this key's turn; it lasts until the answer is dropped.
    pub(super) async fn take(&self, key: &K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that only this map knows are nobody's any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(key.clone()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_waits_and_another_does_not() {
        let turns = Turns::default();
        let first = turns.take(&1).await;
        let _other = turns.take(&2).await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), turns.take(&1));
        assert!(again.await.is_err());
        drop(first);
        let _now = turns.take(&1).await;
    }
}
